"""A name and the known names come in; advice on how to mend it goes out."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """Return 'did you mean …?' for the closest known name, or the list of what is known."""
    names = sorted(known)
    if close := get_close_matches(name, names, n=1, cutoff=0.5):
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}" if names else "there are none yet"
