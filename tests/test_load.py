"""What the loader makes of the notes people write, good and bad."""

import datetime

import pytest

from generator.load import load


def problems(project):
    return [str(problem) for problem in load(project.root).problems]


def test_a_note_becomes_a_record_with_its_lines(toy):
    library = load(toy.root)
    assert not library.problems
    (note,) = library.notes
    assert (note.slug, note.front.title, note.front.added) == ("toy", "A toy", datetime.date(2026, 11, 21))
    assert note.front.claims[0].expect.near == 2
    lines = (toy.root / "notes/toy.md").read_text().splitlines()
    assert "says: two is two" in lines[note.places["claims.0"][0] - 1]
    assert lines[note.body_line - 1].startswith("Measured")


def test_a_note_may_cover_several_papers_and_several_notes_one_paper(project):
    project.write("notes/library.bib", (project.root / "notes/library.bib").read_text().replace("doe2020toy", "b") + "")
    project.note("one", papers="[b, b]")
    project.note("two", papers="[b]")
    project.note("three", papers="", kind="essay")
    assert not problems(project)
    assert [len(note.front.papers) for note in load(project.root).notes] == [2, 0, 1]


BAD = [
    # (front matter in place of `tags`, the line it is on, what is said, how to mend it)
    ("tittle: x", "8:1: unknown key 'tittle'", "did you mean 'title'?"),
    ("tags: [Not A Tag]", "8:8: 'tags.0' is 'Not A Tag'", "lower-case"),
    ("tags: activation", "8:1: 'tags' is no list", "write a list"),
    ("relations: [{extend: elu}]", "8:13: unknown relation 'extend'", "did you mean 'extends'?"),
    ("claims:\n  - says: x\n    metrik: y", "10:5: unknown key 'metrik'", "did you mean 'metric'?"),
    ("claims:\n  - says: x\n    metric: y", "9:5: 'claims.0': metric and expect go together", "name what is measured"),
    ("claims:\n  - says: x\n    metric: y\n    expect: {nea: 1}", "11:14: unknown key 'nea'", "did you mean 'near'?"),
    ("claims:\n  - says: x\n    metric: y\n    expect: {near: 1}", "near and within go together", ""),
    ("claims:\n  - says: x\n    metric: y\n    expect: {below: 1, above: 0}", "exactly one", ""),
    ("claims:\n  - says: x\n    reported: true\n    metric: y\n    expect: {below: 1}", "a reported claim", "drop"),
    ("claims:\n  - says: x\n    metric: y\n    expect: {below: 1}\n    verdict: contradicted", "needs because", ""),
    ("claims:\n  - where: nowhere", "'claims.0.says' is missing", "add it"),
    ("kind: book", "'kind' is given twice", "keep one"),
    ("tags: [a", "front matter:", "quote"),
    ("tags: &a [x]\nrelations: *a", "9:12: front matter: YAML aliases", "write the value out"),
    ("tags: !!python/object:os.system [x]", "front matter:", ""),
    ("title2: [", "front matter:", ""),
]


@pytest.mark.parametrize(("front", "what", "fix"), BAD, ids=[case[0].splitlines()[-1].strip() for case in BAD])
def test_bad_front_matter_is_named_by_file_and_line(project, front, what, fix):
    project.note(more=front)
    said = problems(project)
    assert any(one.startswith("notes/toy.md:") and what in one and fix in one for one in said), said
    assert "toy" in load(project.root).broken


@pytest.mark.parametrize(
    ("front", "what"),
    [
        ({"title": "2016"}, "'title' is no text; put the value in quotes"),
        ({"added": "yesterday"}, "'added'"),
        ({"kind": "book"}, "'kind' is 'book'; use one of paper, digest, essay or project"),
        ({"summary": ""}, "'summary' is missing; add it"),
    ],
)
def test_a_wrong_value_is_named_with_its_mend(project, front, what):
    project.note(**front)
    assert any(what in one for one in problems(project)), problems(project)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"no front matter", "1: no front matter"),
        (b"---\ntitle: x\nnever closed", "1: no front matter"),
        (b"---\n- a list\n---\n", "front matter is not a mapping"),
        (b"---\n---\n", "front matter is not a mapping"),
        (b"", "1: no front matter"),
        (b"---\ntitle: x\n\xff\n---\n", "3:1: not UTF-8"),
        (b"---\ntitle: \x00\n---\n", "front matter:"),
        (b"---\n" + b"[" * 5000 + b"\n---\n", "front matter:"),
    ],
)
def test_a_file_that_is_no_note_is_a_problem_not_a_crash(project, content, what):
    project.write("notes/toy.md", content)
    assert any(what in one for one in problems(project)), problems(project)


def test_windows_line_ends_and_a_byte_order_mark_do_no_harm(toy):
    path = toy.root / "notes/toy.md"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert not problems(toy)


def test_two_files_with_one_slug_are_a_problem(project):
    project.note("toy")
    project.write("notes/more/toy.md", (project.root / "notes/toy.md").read_bytes())
    assert any("duplicate slug 'toy'" in one for one in problems(project))


def test_a_slug_the_site_uses_itself_is_refused(project):
    project.note("claims")
    assert any("'claims' is an address the site uses itself" in one for one in problems(project))


def test_a_slug_must_be_usable_as_a_module_name(project):
    project.note("My-Note")
    assert any("'My-Note' is no slug" in one for one in problems(project))


def test_every_problem_is_collected_not_the_first_alone(project):
    project.note("one", more="tittle: x\ntagz: y")
    project.write("notes/two.md", "nothing")
    assert len(problems(project)) == 3


def test_a_link_out_of_the_project_is_refused(project, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.md"
    outside.write_text("secret")
    (project.root / "notes/leak.md").symlink_to(outside)
    assert any("a symbolic link" in one and "[leaves-project]" in one for one in problems(project))
