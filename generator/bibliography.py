"""library.bib comes in; papers by key go out, with a problem for every entry that cannot be used."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from pathlib import Path

import bibtexparser
from bibtexparser import middlewares, model

from generator.schema import Paper, Problem

logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)  # its warnings become problems here
_KEY = re.compile(r"[a-z0-9][a-z0-9_:.-]*", re.IGNORECASE)
_VENUE = ("journal", "booktitle", "howpublished", "institution", "school", "publisher")


def load_papers(path: Path, root: Path) -> tuple[dict[str, Paper], list[Problem]]:
    """Read every entry of a BibTeX file; a missing file is an empty bibliography."""
    file = path.relative_to(root).as_posix()
    if not path.exists():
        return {}, []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return {}, [Problem(file, 1, "not UTF-8", "save the file as UTF-8", code="not-utf8")]
    papers, problems = _read(text, file)
    return dict(papers), list(problems)


@lru_cache(maxsize=4)  # a served site is loaded at every edit
def _read(text: str, file: str) -> tuple[dict[str, Paper], list[Problem]]:
    # The middleware decodes LaTeX accents in place: a second, untouched parse keeps each entry as it was written.
    raw = {block.start_line: block.raw for block in bibtexparser.parse_string(text).blocks}
    library = bibtexparser.parse_string(
        text, append_middleware=[middlewares.LatexDecodingMiddleware(), middlewares.SeparateCoAuthors()]
    )
    papers: dict[str, Paper] = {}
    problems: list[Problem] = []
    for block in library.blocks:
        line = (block.start_line or 0) + 1
        if isinstance(block, model.Entry):
            found = _paper(block, raw.get(block.start_line) or "", file)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                papers[found.key] = found
        elif isinstance(block, model.DuplicateBlockKeyBlock):
            what = f"duplicate key '{block.key}'"
            problems.append(Problem(file, line, what, "keep one of the two entries", code="duplicate-entry"))
        elif isinstance(block, model.DuplicateFieldKeyBlock):
            fields = ", ".join(sorted(block.duplicate_keys))
            problems.append(Problem(file, line, f"field given twice: {fields}", "keep one", code="duplicate-field"))
        elif isinstance(block, model.ParsingFailedBlock):
            fix = "check braces, quotes and commas of this entry"
            problems.append(Problem(file, line, "entry cannot be read", fix, code="bibtex"))
    return papers, problems


def _paper(entry: model.Entry, raw: str, file: str) -> Paper | Problem:
    line = (entry.start_line or 0) + 1
    fields = {key.lower(): field.value for key, field in entry.fields_dict.items()}

    def text(*names: str) -> str:
        value = next((fields[name] for name in names if fields.get(name)), "")
        return re.sub(r"\s+", " ", re.sub(r"[{}]", "", str(value))).strip()

    if not _KEY.fullmatch(entry.key):
        what = f"key '{entry.key}' has characters an address cannot hold"
        return Problem(file, line, what, "use letters, digits, '-', '_'", code="entry-key")
    missing = [name for name in ("title", "author", "year") if not text(name) and not (name == "year" and text("date"))]
    if missing:
        what = f"entry '{entry.key}' has no {' and no '.join(missing)}"
        return Problem(file, line, what, "add it", code="incomplete-entry")
    year = re.search(r"\d{4}", text("year", "date"))
    if not year:
        what = f"entry '{entry.key}': year '{text('year', 'date')}' is no year"
        return Problem(file, line, what, "write four digits", code="entry-year")
    authors = fields["author"] if isinstance(fields["author"], list) else [fields["author"]]
    is_arxiv = text("archiveprefix", "eprinttype").lower() == "arxiv" or "arxiv" in text("journal").lower()
    arxiv = re.search(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}", text("eprint") or (text("journal") if is_arxiv else ""))
    return Paper(
        key=entry.key,
        line=line,
        kind=entry.entry_type.lower(),
        title=text("title"),
        authors=tuple(_first_last(author) for author in authors),
        year=int(year[0]),
        venue=text(*_VENUE) or ("arXiv" if arxiv else ""),
        arxiv=arxiv[0] if arxiv else "",
        doi=text("doi").removeprefix("https://doi.org/"),
        url=text("url"),
        bibtex=raw.strip(),
    )


def _first_last(author: str) -> str:
    """Return a name with the given names first; a braced name (a group) stays whole."""
    author = re.sub(r"\s+", " ", author).strip()
    if author.startswith("{"):
        return author.strip("{}")
    parts = [part.strip() for part in re.sub(r"[{}]", "", author).split(",")]
    return " ".join(reversed(parts)) if len(parts) == 2 else " ".join(parts)
