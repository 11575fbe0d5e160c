"""What an import did comes in, one thing at a time; an account goes out of what came in, and of what did not and why."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Item:
    """One thing of a foreign file: a paper by its key, a note by its slug, a link, a field."""

    name: str
    why: str = ""
    """Why it was there already, how it was changed, or what was wrong with it."""
    fix: str = ""
    file: str = ""
    """The foreign file it stands in, as it is shown."""
    line: int = 0
    """Its line in that file, from 1; 0 where it has none."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        said = f"{self.name}: {self.why}" if self.name and self.why else self.name or self.why
        return place + said + (f"; {self.fix}" if self.fix else "")


@dataclass
class Report:
    """What became of everything in a foreign file or folder; nothing in it is passed over in silence."""

    added: list[Item] = field(default_factory=list)
    there: list[Item] = field(default_factory=list)
    """Already in the project, so not added a second time."""
    changed: list[Item] = field(default_factory=list)
    """Came in, but not as it was written."""
    lost: list[Item] = field(default_factory=list)
    """Parts that have no place here: what they belong to came in without them."""
    unread: list[Item] = field(default_factory=list)
    """Could not be read, and did not come in; the command then leaves with status 1."""
