"""library.bib comes in; papers by key go out, with a problem for every entry that cannot be used."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from pathlib import Path

import bibtexparser
from bibtexparser import model

from generator import regular
from generator.identifiers import arxiv_in, doi_of
from generator.latex import is_group, people, plain, verbatim
from generator.safe import leads_where_it_may
from generator.schema import Paper, Problem, ReadStatus
from generator.spelling import nearest

logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)  # its warnings become problems here
_KEY = re.compile(r"[a-z0-9][a-z0-9_:.-]*", re.IGNORECASE)
READSTATUS: dict[str, ReadStatus] = {
    "": "", "to read": "to read", "reading": "reading", "skimmed": "reading", "read": "read",
}  # fmt: skip
"""What JabRef's field may say of a paper, `skimmed` being its word for one that was begun."""
_VENUE = ("journal", "booktitle", "howpublished", "institution", "school", "publisher")


def load_papers(path: Path, root: Path) -> tuple[dict[str, Paper], list[Problem]]:
    """Read every entry of a BibTeX file; a missing file is an empty bibliography."""
    file = path.relative_to(root).as_posix()
    if not path.exists():
        return {}, []
    if path.is_symlink():
        return {}, [Problem(file, 1, "a symbolic link", "copy the file into notes/", code="leaves-project")]
    try:
        text = regular.text(path)
    except UnicodeDecodeError:
        return {}, [Problem(file, 1, "not UTF-8", "save the file as UTF-8", code="not-utf8")]
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        return {}, [Problem(file, 1, what, "check the file and its permissions", code="unreadable")]
    papers, problems = read_papers(text, file)
    return dict(papers), list(problems)


@lru_cache(maxsize=4)  # a served site is loaded at every edit
def read_papers(text: str, file: str) -> tuple[dict[str, Paper], list[Problem]]:
    """Return the papers of a bibliography's text by key, and what is wrong with its entries."""
    library = bibtexparser.parse_string(text)
    papers: dict[str, Paper] = {}
    problems: list[Problem] = []
    for block in library.blocks:
        line = (block.start_line or 0) + 1
        if isinstance(block, model.Entry):
            found = _paper(block, file)
            if isinstance(found, Problem):
                problems.append(found)
                continue
            url = next((str(one.value) for name, one in block.fields_dict.items() if name.lower() == "url"), "")
            if not leads_where_it_may(verbatim(url).removeprefix("ftp:")):
                what = f"entry '{found.key}': its url cannot be linked to"
                problems.append(Problem(file, line, what, "give one that begins with https:", code="link-not-allowed"))
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


def _paper(entry: model.Entry, file: str) -> Paper | Problem:
    line = (entry.start_line or 0) + 1
    fields = {key.lower(): field.value for key, field in entry.fields_dict.items()}

    def text(*names: str) -> str:
        return plain(next((str(fields[name]) for name in names if fields.get(name)), ""))

    if not _KEY.fullmatch(entry.key):
        what = f"key '{entry.key}' has characters an address cannot hold"
        return Problem(file, line, what, "use letters, digits, '-', '_'", code="entry-key")
    authors = tuple(filter(None, map(_first_last, people(str(fields.get("author", ""))))))
    given = {"title": text("title"), "author": authors, "year": text("year", "date")}
    if missing := [name for name, value in given.items() if not value]:
        what = f"entry '{entry.key}' has no {' and no '.join(missing)}"
        return Problem(file, line, what, "add it", code="incomplete-entry")
    year = re.search(r"\d{4}", text("year", "date"))
    if not year:
        what = f"entry '{entry.key}': year '{text('year', 'date')}' is no year"
        return Problem(file, line, what, "write four digits", code="entry-year")
    status = text("readstatus").lower()
    if status not in READSTATUS:
        what = f"entry '{entry.key}': unknown readstatus '{status}'"
        return Problem(file, line, what, nearest(status, filter(None, READSTATUS)), code="readstatus")
    url = verbatim(str(fields.get("url", "")))
    is_arxiv = text("archiveprefix", "eprinttype").lower() == "arxiv" or "arxiv" in text("journal").lower()
    arxiv = arxiv_in(text("eprint") or (text("journal") if is_arxiv else ""))
    return Paper(
        key=entry.key,
        line=line,
        kind=entry.entry_type.lower(),
        title=text("title"),
        authors=authors,
        year=int(year[0]),
        venue=text(*_VENUE) or ("arXiv" if arxiv else ""),
        arxiv=arxiv,
        doi=doi_of(str(fields.get("doi", ""))),
        url=url if re.match(r"(https?|ftp)://", url) else "",  # never a script's address
        readstatus=READSTATUS[status],
        bibtex=(entry.raw or "").strip(),
    )


@lru_cache(maxsize=1 << 16)  # who wrote one paper wrote others
def _first_last(author: str) -> str:
    """Return a name with the given names first; a braced name (a group) stays whole."""
    if is_group(author.strip()):
        return plain(author)
    parts = [part for part in (plain(part) for part in author.split(",")) if part]
    return " ".join([*parts[1:][-1:], parts[0], *parts[1:-1]]) if parts else ""
