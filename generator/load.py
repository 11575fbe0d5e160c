"""Files come in; records go out, and for what is wrong with a file, problems with its line and how to mend it."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from generator import frontmatter, regular
from generator.bibliography import load_papers
from generator.find import find_snippets
from generator.frontmatter import FrontError
from generator.pictures import links, pictures
from generator.places import Places, dotted, place_of
from generator.schema import (
    SLUG,
    About,
    Claim,
    Expect,
    FrontMatter,
    Library,
    Note,
    Problem,
    RelationKind,
)
from generator.spelling import nearest

HOME = "index.md"
RESERVED = {
    "index", "notes", "tags", "papers", "authors", "venues", "timeline", "claims", "problems", "kernels", "methods", "graph", "runs",
    "reading", "api", "assets", "cards", "data", "files", "search",
}  # fmt: skip
NOTE_LIMIT = 2_000_000
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
SAID_LIMIT = 100
"""Problems of one front matter that are said."""
FRONT_LIMIT = 50_000
"""Characters of front matter: what bounds the time it takes to read, whatever it holds."""
_LONG_NUMBER = re.compile(r"[-+.]?\d[\w:.+-]{99,}")


def load(root: Path) -> Library:
    """Read the whole project; what cannot be read becomes problems, never an exception."""
    papers, problems = load_papers(root / "notes" / "library.bib", root)
    notes: list[Note] = []
    broken: dict[str, tuple[Problem, ...]] = {}
    seen: dict[str, str] = {}
    for path in sorted((root / "notes").rglob("*.md")):
        if path.name == HOME and path.parent == root / "notes":
            continue
        found = _load_note(path, root)
        if isinstance(found, Note) and (first := seen.get(found.slug)):
            what = f"duplicate slug '{found.slug}', also {first}"
            found = [Problem(found.file, 1, what, "rename one of them", code="duplicate-slug")]
            problems.extend(found)
            continue
        seen[path.stem] = path.relative_to(root).as_posix()
        if isinstance(found, Note):
            notes.append(found)
        else:
            problems.extend(found)
            if path.stem.isprintable():  # else no page can have the name
                broken[path.stem] = tuple(found)
    files, found = pictures(root)
    problems += [*found, *links(root / "snippets", root)]
    return Library(
        root=root,
        notes=tuple(notes),
        papers=papers,
        snippets=find_snippets(root),
        files=tuple(files),
        problems=tuple(dict.fromkeys(problems)),
        broken=broken,
    )


def load_about(root: Path) -> About:
    """Return what mkdocs.yml says of the site; for an engine that does not read it itself."""

    class Loader(yaml.BaseLoader):
        """Reads every value as text, and around what only MkDocs understands, such as !ENV: no value can be a wrong one."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: "")
    try:
        said = yaml.load(regular.text(root / "mkdocs.yml"), Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return About()
    said = said if isinstance(said, dict) else {}
    said = {key: value for key, value in said.items() if value not in ("null", "~", "")}
    url = str(said.get("site_url") or "")
    return About(
        name=str(said.get("site_name") or "papernotes"),
        description=str(said.get("site_description") or ""),
        url=url if not url or url.endswith("/") else f"{url}/",
        directory_urls=str(said.get("use_directory_urls")).lower() not in ("false", "no", "off"),
        discussion=str(_options(said.get("plugins")).get("discussion") or ""),
    )


def _options(plugins: Any) -> dict[str, Any]:
    """Return what mkdocs.yml sets of this plugin."""
    for one in plugins if isinstance(plugins, list) else [plugins]:
        if isinstance(one, dict) and isinstance(one.get("papernotes"), dict):
            return one["papernotes"]
    return {}


def _load_note(path: Path, root: Path) -> Note | list[Problem]:
    file = path.relative_to(root).as_posix()

    def wrong(line: int, what: str, fix: str, code: str) -> list[Problem]:
        return [Problem(file, line, what, fix, code=code)]

    if path.is_symlink():
        return wrong(1, "a symbolic link", "copy the file into notes/", "leaves-project")
    try:
        if path.stat().st_size > NOTE_LIMIT:
            fix = "split the note, or record tables in its experiment"
            return wrong(1, f"larger than {NOTE_LIMIT // 1_000_000} MB", fix, "too-large")
        text = regular.text(path)
    except UnicodeDecodeError as error:
        return wrong(regular.line_of(error), "not UTF-8", "save the file as UTF-8", "not-utf8")
    except OSError as error:
        return wrong(1, f"cannot be read: {error.strerror}", "check the file and its permissions", "unreadable")
    if not re.fullmatch(SLUG, path.stem):
        return wrong(1, f"'{path.stem}' is no slug", "name the file with lower-case letters, digits and '_'", "slug")
    if path.stem in RESERVED:
        return wrong(1, f"'{path.stem}' is an address the site uses itself", "rename the note", "reserved-slug")

    if path.stem in DEVICES:
        what = f"'{path.stem}' is the name of a device on Windows, where no file can have it"
        return wrong(1, what, "rename the note", "reserved-name")
    return read_note(text, path.stem, file)


@lru_cache(maxsize=4096)  # a served site is loaded at every edit of one note
def read_note(text: str, slug: str, file: str) -> Note | list[Problem]:
    """Read the text of a note; return what is wrong with it where it is none."""

    def wrong(at: int | tuple[int, int], what: str, fix: str, code: str) -> list[Problem]:
        return [Problem(file, at, what, fix, code=code)]

    try:
        head, body, body_line = frontmatter.split(text)
        if len(head) > FRONT_LIMIT:
            what = f"front matter of more than {FRONT_LIMIT // 1000} kB"
            return wrong(1, what, "move what is not about the note as a whole into its body", "too-large")
        node = frontmatter.compose(head.removesuffix("\n"))
        for one in frontmatter.scalars(node):
            if one.style is None and _LONG_NUMBER.fullmatch(one.value):
                what = "front matter: a number of more than 100 characters"
                return wrong(frontmatter.place(one.start_mark), what, "put it in quotes, if it is none", "value")
        raw = _values(node)
    except FrontError as error:
        return wrong(error.at, error.what, error.fix, error.code)
    places, duplicates = frontmatter.index(node)
    problems = [
        Problem(file, at, f"'{key}' is given twice", "keep one of them", code="duplicate-key") for key, at in duplicates
    ]
    try:
        front = FrontMatter.model_validate(raw)
        note = Note(slug=slug, file=file, front=front, body=body, body_line=body_line, places=places)
    except ValidationError as error:
        return problems + [_explain(one, file, places) for one in error.errors()[:SAID_LIMIT]]
    return problems or note


def _values(node: yaml.MappingNode) -> Any:
    try:
        return yaml.SafeLoader("").construct_document(node)
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:
        raise frontmatter.unread(error, "mend the value") from None


_MODELS: dict[str, type[BaseModel]] = {"claims": Claim, "expect": Expect}
_NO = {"tuple_type": "list", "string_type": "text", "date_type": "date", "date_from_datetime_parsing": "date"}
"""What a value of each kind of error is not."""
_FIXES = {
    "missing": "add it",
    "date_type": "write it as 2026-11-21",
    "date_from_datetime_parsing": "write it as 2026-11-21",
    "string_type": "put the value in quotes",
    "tuple_type": "write a list, as in [one, two]",
    "bool_parsing": "write true or false",
}


def _explain(error: Any, file: str, places: Places) -> Problem:
    """Turn one validation error into a problem that names the place, the fault and the mend."""
    kind = error["type"]
    path = tuple(part for part in error["loc"] if not str(part).startswith(("constrained-", "function-")))
    while path and dotted(path) not in places and kind != "missing":
        path = path[:-1]
    name = str(path[-1]) if path else "front matter"
    where = f"'{dotted(path)}'" if path else "front matter"
    message = str(error["msg"]).removeprefix("Value error, ")
    said = f" is no {_NO[kind]}" if kind in _NO else f": {message[0].lower()}{message[1:]}"
    what, fix, code = where + said, _FIXES.get(kind, ""), "value"
    if kind == "extra_forbidden":
        model = _MODELS.get(next((str(part) for part in reversed(path[:-1]) if str(part) in _MODELS), ""), FrontMatter)
        what, fix, code = f"unknown key '{name}'", nearest(name, model.model_fields), "unknown-key"
    elif kind == "missing":
        what, code = f"{where} is missing", "missing-key"
    elif kind == "literal_error" and path[:1] == ("relations",):
        what, fix = f"unknown relation '{error['input']}'", nearest(str(error["input"]), get_args(RelationKind))
    elif kind == "literal_error":
        choices = error["ctx"]["expected"].replace("'", "")
        what, fix = f"{where} is '{error['input']}'", f"use one of {choices}"
    elif kind == "string_pattern_mismatch":
        what = f"{where} is '{error['input']}'"
        fix = "use lower-case letters and digits (tags: hyphens; slugs and metrics: '_')"
    elif kind == "value_error":
        head, _, fix = message.partition(": ")
        what = f"{where}: {head}"
    return Problem(file, place_of(path, places), what, fix, code=code)
