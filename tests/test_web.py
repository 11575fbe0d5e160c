"""What surrounds a note: relations both ways, the sentences that lead to it, what reads alike, previous and next."""

import random

from generator.expand import expand
from generator.load import load
from generator.site import Site, newest_first
from generator.web import alike, surroundings


def around(project):
    library = load(project.root)
    assert not library.problems
    site = Site(library)
    bodies = {note.slug: expand(note, site) for note in library.notes}
    return surroundings(site, bodies, newest_first(library.notes))


def test_a_relation_is_shown_from_both_ends(project):
    project.note("one", relations="[{extends: two}, {compares-with: three}]")
    project.note("two", relations="[{explains: one}]")
    project.note("three")
    found = around(project)
    assert [(how, other.slug) for how, other in found["one"].relations] == [
        ("extends", "two"),
        ("compares with", "three"),
    ]
    assert [(how, other.slug) for how, other in found["two"].relations] == [("explains", "one")]  # its own word for it
    assert [(how, other.slug) for how, other in found["three"].relations] == [("is compared with in", "one")]


def test_a_backlink_carries_the_sentence_it_stands_in(project):
    project.note(
        "one", body="First things. Here [[two]] is *used* with $x^2$, see [@doe2020toy]. More.\n\n- A [[two|list]].\n"
    )
    project.note("two")
    (link,) = around(project)["two"].backlinks
    assert link.note.slug == "one"
    assert link.sentence.startswith("Here [A toy](two.md){ .pn-note } is *used* with <span")
    assert link.sentence.endswith("see (Doe et al., 2020).")
    assert "#ref-" not in link.sentence  # the other page has its own references


def test_a_sentence_that_follows_bold_type_brings_no_half_of_it_along(project):
    project.note("one", body="- **It fails.** As in [[two]], **often**.\n- **No link here.** None.\n")
    project.note("two")
    assert [link.sentence for link in around(project)["two"].backlinks] == [
        "As in [A toy](two.md){ .pn-note }, **often**."
    ]


def test_of_a_table_the_row_leads_to_a_note_and_a_heading_only_where_nothing_else_does(project):
    project.note(
        "one",
        body="## [[three]]\n\n| a | b |\n|---|---|\n| left | *no* [[two]] |\n| last | [[three]] |\n\n## [[two]]\n",
    )
    project.note("two", body="## On [[one]]\n")
    project.note("three")
    found = around(project)
    assert [link.sentence for link in found["two"].backlinks] == ["left · *no* [A toy](two.md){ .pn-note }"]
    assert [link.sentence for link in found["three"].backlinks] == ["last · [A toy](three.md){ .pn-note }"]
    assert [link.sentence for link in found["one"].backlinks] == ["On [A toy](one.md){ .pn-note }"]


def test_a_link_in_a_list_or_at_the_very_end_has_its_sentence_too(project):
    project.note("one", body="Prose.\n\n- As in [[two]], e.g. this. Not this.\n- Other.")
    project.note("three", body="It ends with [[two]]")
    project.note("two")
    assert sorted(one.sentence for one in around(project)["two"].backlinks) == [
        "As in [A toy](two.md){ .pn-note }, e.g. this.", "It ends with [A toy](two.md){ .pn-note }",
    ]  # fmt: skip


def test_a_link_to_itself_is_no_backlink(project):
    project.note("one", body="See [[one]].")
    assert around(project)["one"].backlinks == []


def test_previous_and_next_follow_the_days_the_notes_were_added(project):
    for day, slug in enumerate(("one", "two", "three"), start=1):
        project.note(slug, added=f"2026-01-0{day}")
    found = around(project)
    assert (found["two"].older.slug, found["two"].newer.slug) == ("one", "three")
    assert found["three"].newer is None and found["one"].older is None


def test_notes_about_the_same_things_read_alike(project):
    topics = {"dropout": "mask rate keep units noise", "pooling": "region stride maximum window grid"}
    rng = random.Random(0)
    for topic, words in topics.items():
        for n in range(6):
            body = " ".join(rng.choices(words.split(), k=60)) + " common words that every note has"
            project.note(f"{topic}_{n}", body=body, title=f"Note {n}")
    found = alike(load(project.root).notes)
    for slug, others in found.items():
        assert all(other.startswith(slug[:-2]) for other in others[:5])


def test_what_is_related_already_is_not_named_again_as_alike(project):
    for n, slug in enumerate(("one", "two", "three")):
        project.note(
            slug, body="mask rate keep units noise " * 5 + f"word{n}", relations="[{extends: two}]" if n == 0 else ""
        )
    for n in range(5):
        project.note(f"other_{n}", body=f"quite different {n} things here")
    assert "two" not in [note.slug for note in around(project)["one"].alike]
