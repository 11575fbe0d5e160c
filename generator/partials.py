"""Values come in; the HTML and Markdown of the generator's own templates go out."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from generator import claims, markup
from generator.annotations import excerpt
from generator.schema import Page, Problem
from generator.site import Site


@cache
def templates() -> Environment:
    """Return the environment of the generator's own templates: HTML escapes, and a missing name is an error."""
    environment = Environment(
        loader=PackageLoader("generator"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": claims.number,
        "percent": _percent,
        "md": lambda text: Markup(markup.escape(text)),
        "fence": lambda code: Markup(markup.fence(code, "text")),
        "block": lambda html: Markup(markup.block(html)),
        "tail": lambda text: "\n".join(line if line.strip() else " \u200b" for line in text.strip().splitlines()[-30:]),
    }
    return environment


def _percent(share: float | str) -> str:
    if isinstance(share, str):
        return share
    return "0 %" if share == 0 else "< 0.01 %" if share < 1e-4 else f"{100 * share:.2g} %"


def partial(name: str, /, **values: Any) -> str:
    """Return a partial template, filled in, as one HTML block."""
    return markup.block(templates().get_template(f"partials/{name}.html").render(**values))


def show_problems(problems: Iterable[Problem], path: str, site: Site) -> str:
    """Return what is wrong for a page to say, each problem with its lines and a link to its rule; nothing if there is none."""
    said = [(problem, excerpt(problem, site.library.root)) for problem in sorted(problems, key=lambda one: one.place)]
    return partial("problems", problems=said, rules=site.link(path, "problems.md")) if said else ""


def page(path: str, template: str, site: Site, **values: Any) -> Page:
    """Return a page of the site from its template, which can write addresses with `link`."""

    def link(target: str) -> str:
        return site.link(path, target)

    return Page(path=path, markdown=templates().get_template(template).render(link=link, **values))
