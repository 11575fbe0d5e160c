"""A page's Markdown comes in; its HTML goes out, or what kept Python-Markdown from making any: a page costs itself alone.

Python-Markdown reads nested lists and quotations by recursion, and much else in time that grows with the square of a page
or faster. What a page may take is counted in processor time, so that a busy machine refuses nothing.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from markdown import Extension, Markdown

from generator.partials import partial

SECONDS = 10.0
"""Processor time that one page may take; the longest of this project's own takes a twentieth of it."""


class TooLongError(BaseException):
    """A page is not done in its time; no exception that a library would take for one of its own."""


class Bounded(Extension):
    """Bounds what one page takes, and calls `tell` with what is wrong with a page that was given up."""

    def __init__(self, tell: Callable[[str], None], seconds: float = SECONDS) -> None:
        super().__init__()
        self.tell, self.seconds = tell, seconds

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  (Python-Markdown's name)
        convert = md.convert

        def bounded(source: str) -> str:
            try:
                with _within(self.seconds):
                    return convert(source)
            except RecursionError:
                what = "the page nests lists, quotations or brackets too deeply to be read; take some out"
            except TooLongError:
                what = (
                    f"the page takes Markdown more than {self.seconds:g} s; look for long runs of one sign, or split it"
                )
            self.tell(what)
            md.reset()
            return convert(partial("given_up", what=what))

        md.convert = bounded  # type: ignore[method-assign]


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise TooLongError in what runs longer; where signals do not reach, in another thread, nothing is bounded."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
