"""Why a file is left as it is: its line, what is in the way, and how to mend it."""

from __future__ import annotations


class Refused(ValueError):  # noqa: N818  (said of a file that is sound in itself, too)
    """A file that is left alone."""

    def __init__(self, line: int, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.line, self.what, self.fix = line, what, fix
