"""The nouns: frozen records of notes, papers, claims, snippets, results and problems. No reading, no writing."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

SLUG = r"^[a-z][a-z0-9_]{0,79}$"
Slug = Annotated[str, StringConstraints(pattern=SLUG)]
Tag = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=40)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
MetricName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=80)]
Cover = Annotated[str, StringConstraints(pattern=r"^([a-z][a-z0-9_]*/)?[a-z0-9][a-z0-9_-]*$", max_length=160)]
"""A figure's name, or slug/name for another note's."""
Kind = Literal["paper", "digest", "essay", "project"]
Verdict = Literal["reproduced", "contradicted", "reported only", "untested"]
Outcome = Literal[
    "raised", "timed out", "out of memory", "too much output", "too many processes", "killed", "exited", "could not start",
]  # fmt: skip
ReadStatus = Literal["", "to read", "reading", "read"]
RelationKind = Literal["extends", "alternative-to", "uses", "explains", "contradicts", "compares-with"]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


class Problem(Record):
    """Something wrong with a file: where, what, and how to mend it."""

    file: str
    line: int
    column: int = 1
    what: str
    fix: str = ""
    code: str
    """Which rule of `generator.codes` it breaks."""

    def __init__(
        self, file: str, line: int | tuple[int, int], what: str, fix: str = "", *, code: str, column: int = 1
    ) -> None:
        line, column = line if isinstance(line, tuple) else (line, column)
        # What an author wrote is quoted, and may be a megabyte, or orders to a terminal.
        file, what, fix = ("".join(c if c.isprintable() else "�" for c in one[:500]) for one in (file, what, fix))
        super().__init__(file=file, line=line, column=column, what=what, fix=fix, code=code)  # type: ignore[call-arg]

    def __str__(self) -> str:
        mend = f"; {self.fix}" if self.fix else ""
        return f"{self.file}:{self.line}:{self.column}: {self.what}{mend} [{self.code}]"

    @property
    def place(self) -> tuple[str, int, int]:
        """Return where it is, for sorting."""
        return self.file, self.line, self.column


class Expect(Record):
    """What a claim predicts of its metric: one of near+within, below, above, between or equals."""

    near: float | None = None
    within: float | None = Field(default=None, ge=0)
    below: float | MetricName | None = None
    above: float | MetricName | None = None
    between: tuple[float, float] | None = None
    equals: bool | int | float | str | None = None

    @model_validator(mode="after")
    def one_prediction(self) -> Expect:
        given = [name for name in ("near", "below", "above", "between", "equals") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of near (with within), below, above, between, equals")
        if (self.near is None) != (self.within is None):
            raise ValueError("near and within go together, as in {near: 1.0, within: 0.1}")
        if self.between and self.between[0] > self.between[1]:
            raise ValueError("between takes the lower bound first")
        return self


class Claim(Record):
    """A statement of the paper, and how this build tests it."""

    says: Text
    where: Text | None = None
    metric: MetricName | None = None
    expect: Expect | None = None
    reported: bool = False
    verdict: Verdict | None = None
    because: Text | None = None

    @model_validator(mode="after")
    def testable_or_reported(self) -> Claim:
        if self.reported and (self.metric or self.expect):
            raise ValueError("a reported claim is not tested here: drop metric and expect, or drop reported")
        if (self.metric is None) != (self.expect is None):
            raise ValueError("metric and expect go together: name what is measured and what the claim predicts of it")
        if self.verdict == "contradicted" and not self.because:
            raise ValueError("a contradicted claim needs because: with the setting and what was seen instead")
        return self


class Relation(Record):
    """A typed link from one note to another."""

    kind: RelationKind
    slug: Slug


class Update(Record):
    """A change to a note that its readers should know of."""

    date: datetime.date
    says: Text
    correction: bool = False
    """Whether what stood there before was wrong."""


class FrontMatter(Record):
    """What stands between the two lines of three dashes."""

    title: Text
    papers: tuple[str, ...] = Field(default=(), max_length=500)
    kind: Kind
    author: Text
    added: datetime.date
    tags: tuple[Tag, ...] = Field(default=(), max_length=50)
    summary: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    cover: Cover | None = None
    relations: tuple[Relation, ...] = Field(default=(), max_length=200)
    claims: tuple[Claim, ...] = Field(default=(), max_length=500)
    updates: tuple[Update, ...] = Field(default=(), max_length=500)
    """What was changed since, oldest first."""

    @property
    def changed(self) -> datetime.date:
        """Return the day of the last change."""
        return max([self.added, *(update.date for update in self.updates)])

    @model_validator(mode="before")
    @classmethod
    def read_relations(cls, raw: Any) -> Any:
        """Accept the short form `relations: [{extends: elu}]`."""
        if isinstance(raw, dict) and isinstance(raw.get("relations"), list):
            short = raw["relations"]
            long = [
                {"kind": next(iter(one)), "slug": next(iter(one.values()))}
                if isinstance(one, dict) and len(one) == 1
                else one
                for one in short
            ]
            return {**raw, "relations": long}
        return raw


class Note(Record):
    """One note: its front matter, its body, and the lines they came from."""

    slug: Slug
    file: str
    front: FrontMatter
    body: str
    body_line: int = 1
    places: Mapping[str, tuple[int, int]] = Field(default_factory=dict)
    """The line and column of each front-matter entry."""


class Paper(Record):
    """One entry of library.bib."""

    key: str
    line: int
    kind: str
    title: str
    authors: tuple[str, ...]
    year: int | None = None
    venue: str = ""
    arxiv: str = ""
    doi: str = ""
    url: str = ""
    readstatus: ReadStatus = ""  # empty for a paper that is on no reading list
    bibtex: str

    @property
    def link(self) -> str:
        """Return the best address of the paper: DOI, else arXiv, else its url."""
        if self.doi:
            return f"https://doi.org/{self.doi}"
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.url

    @property
    def short_authors(self) -> str:
        """Return 'Clevert et al.', 'Glorot and Bengio', or the one surname."""
        surnames = [author.split()[-1] if "{" not in author else author.strip("{}") for author in self.authors]
        if len(surnames) > 2:
            return f"{surnames[0]} et al."
        return " and ".join(surnames)


class Snippet(Record):
    """The files of one method."""

    slug: Slug
    folder: Path
    files: tuple[str, ...]

    @property
    def runs(self) -> bool:
        """Return whether there is an experiment to run."""
        return "experiment.py" in self.files


class Failure(Record):
    """A run that ended badly: how, the error, and the last lines it printed."""

    slug: str
    outcome: Outcome
    error: str
    tail: str = ""
    seconds: float = 0.0
    peak_memory: int = 0


class Result(Record):
    """What one successful run recorded, and where its files lie."""

    slug: str
    key: str
    folder: Path
    data: Mapping[str, Any]

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self.data["metrics"]

    @property
    def tables(self) -> Mapping[str, Any]:
        return self.data["tables"]

    @property
    def figures(self) -> Mapping[str, Any]:
        return self.data["figures"]

    @property
    def kernels(self) -> Mapping[str, Any]:
        return self.data.get("kernels", {})

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.data["provenance"]


class Judgement(Record):
    """A claim with its computed verdict, the number behind it, and the setting."""

    claim: Claim
    verdict: Verdict
    id: str = ""
    """The claim's name within its note; its anchor is `claim-` and this."""
    measured: str = ""
    predicted: str = ""
    setting: str = ""
    seeds: str = ""


class About(Record):
    """What mkdocs.yml says of the site as a whole."""

    name: str = "papernotes"
    description: str = ""
    url: str = ""
    """Where the site will stand, with a slash at its end; empty while nobody knows."""
    directory_urls: bool = True
    source_links: bool = False
    """Whether links name the files that pages are made from, for an engine that turns them into addresses itself."""
    discussion: str = ""
    """Address of a note's discussion, with {slug} and {title} in it; empty where there is none."""


class Asset(Record):
    """One file of the site that is no page: copied from `source`, or with `text` as its content."""

    path: str
    source: Path | None = None
    text: str = ""


class Library(Record):
    """Everything the loader found, and everything that was wrong with it."""

    root: Path
    notes: tuple[Note, ...] = ()
    papers: Mapping[str, Paper] = Field(default_factory=dict)
    snippets: Mapping[str, Snippet] = Field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    files: tuple[Asset, ...] = ()  # the pictures and data that lie beside the notes
    broken: Mapping[str, tuple[Problem, ...]] = Field(default_factory=dict)
    """Notes that could not be read, by slug: their pages show what is wrong."""

    @cached_property
    def by_slug(self) -> dict[str, Note]:
        return {note.slug: note for note in self.notes}


class Page(Record):
    """One page of the site as plain Markdown."""

    path: str
    markdown: str
    source: str = ""
    """The file of the project it was made from, for its edit link."""
    head: str = ""  # lines for the page's <head>, where an engine lets them in
