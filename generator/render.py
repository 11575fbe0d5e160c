"""A note, its body and what surrounds it come in; its page, as Markdown, goes out."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from markupsafe import Markup

from generator import markup
from generator.expand import Body
from generator.graph import Near, near
from generator.partials import partial, show_problems, templates
from generator.schema import Note, Page, Paper, Problem
from generator.site import Site, count_verdicts
from generator.web import Surroundings


def render(note: Note, body: Body, around: Surroundings, site: Site, problems: Iterable[Problem] = ()) -> Page:
    """Return a note's page; what is wrong with the note is said at its top, or in the place of an embed."""
    papers = site.papers(note)
    result = site.results.get(note.slug)
    judged = site.judged(note)
    text = (
        templates()
        .get_template("note.md")
        .render(
            note=note,
            front=note.front,
            papers=papers,
            body=Markup(body.markdown),
            judged=judged,
            counts=count_verdicts(judged),
            show_claims=bool(judged) and not body.showed_claims,
            claims_block=Markup(partial("claims", judged=judged)),
            result=result,
            failure=site.failures.get(note.slug),
            rerunning=site.rerunning.get(note.slug),
            problems=Markup(show_problems(problems, f"{note.slug}.md", site)),
            around=around,
            near=_near(note, around, site),
            share=_share(note, site),
            discussion=_discussion(note, site),
            references=_references(papers, body, site),
            link=lambda target: site.link(f"{note.slug}.md", target),
            bibtex=Markup("".join(markup.fence(paper.bibtex, "bibtex") for paper in papers)),
        )
    )
    return Page(path=f"{note.slug}.md", markdown=text, source=note.file)


def _near(note: Note, around: Surroundings, site: Site) -> Near | None:
    mentions = [*around.mentions, *(one.note for one in around.backlinks)]
    beside = [*(other for _, other in around.relations), *mentions]
    here = f"{note.slug}.md"
    hrefs = {one.slug: site.link(here, f"{one.slug}.md") for one in beside}
    return near(around.relations, mentions, hrefs)


def _share(note: Note, site: Site) -> dict[str, str]:
    """Return where a reader can pass the note on, by address alone: nobody is asked before the link is followed."""
    if not site.about.url:
        return {}
    url = site.about.url + site.address(note)
    text, address = quote(note.front.title, safe=""), quote(url, safe="")
    return {
        "e-mail": f"mailto:?subject={text}&body={address}",
        "Mastodon": f"https://share.joinmastodon.org/#text={text}%20{address}",
        "Bluesky": f"https://bsky.app/intent/compose?text={text}%20{address}",
    }


def _discussion(note: Note, site: Site) -> str:
    said = site.about.discussion
    return said.replace("{slug}", note.slug).replace("{title}", quote(note.front.title, safe=""))


def _references(own: list[Paper], body: Body, site: Site) -> list[Paper]:
    """Return the papers of the reference list: the note's own first, then those cited, in order."""
    papers = site.library.papers
    return list({paper.key: paper for paper in [*own, *(papers[key] for key in body.keys)]}.values())
