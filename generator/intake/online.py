"""An arXiv number or a DOI comes in; what arXiv or Crossref says of the paper goes out, or within seconds why not.

The clients are the extra `online`; nothing else here asks a network, and nothing asks it unless the user names a paper.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from generator.identifiers import doi_of
from generator.intake import csl
from generator.intake.reference import Reference, name_of, settled

SECONDS = 6.0
"""How long an answer is waited for."""
Answer = TypeVar("Answer")


class OfflineError(Exception):
    """Nothing was learned, and why."""


def looked_up(reference: Reference) -> Reference:
    """Return a reference with what the catalogue that knows its number says; raise OfflineError where none answers."""
    if reference.arxiv:
        return settled(reference.completed(_within(lambda: _arxiv(reference.arxiv), "arXiv")))
    return settled(reference.completed(_within(lambda: _crossref(reference.doi), "Crossref")))


def _arxiv(number: str) -> Reference:
    import arxiv

    found = list(arxiv.Client(page_size=1, num_retries=0).results(arxiv.Search(id_list=[number])))
    if not found:
        raise OfflineError(f"arXiv has no paper {number}")
    paper = found[0]
    return Reference(
        title=paper.title,
        authors=tuple(name_of(author.name) for author in paper.authors),
        year=paper.published.year,
        doi=doi_of(paper.doi or ""),
    )


def _crossref(doi: str) -> Reference:
    import habanero

    answer = habanero.Crossref(timeout=SECONDS, ua_string="papernotes").works(ids=doi)
    return csl.reference(answer["message"])


def _within(ask: Callable[[], Answer], who: str) -> Answer:
    """Return an answer that comes in time; looking up a name may hang for longer than any client's own limit."""
    said: queue.Queue[Answer | BaseException] = queue.Queue()

    def listen() -> None:
        try:
            said.put(ask())
        except BaseException as error:  # whatever a client raises, the draft goes on without it
            said.put(error)

    threading.Thread(target=listen, daemon=True).start()
    try:
        answer = said.get(timeout=SECONDS)
    except queue.Empty:
        raise OfflineError(f"{who} did not answer within {SECONDS:.0f} seconds") from None
    if isinstance(answer, ModuleNotFoundError):
        raise OfflineError(f"the client of {who} is not installed; pip install 'papernotes[online]'") from None
    if isinstance(answer, OfflineError):
        raise answer
    if isinstance(answer, BaseException):
        raise OfflineError(f"{who} cannot be asked ({_reason(answer)})") from None
    return answer


def _reason(error: BaseException) -> str:
    if status := getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None):
        return f"it answered {status}"
    return "no network" if "onnect" in type(error).__name__ + str(error) else type(error).__name__
