"""What people and programs might hand in, as strategies of Hypothesis: texts that are nearly right, and documents that were."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
import targets
from conftest import FRONT

words = st.sampled_from(targets.TOKENS) | st.text(max_size=8)
texts = st.lists(words, max_size=30).map("".join)
long = st.tuples(st.sampled_from(targets.TOKENS), st.integers(1, 2000)).map(lambda one: (one[0] * one[1])[:20_000])
bodies = texts | long | st.tuples(texts, long, texts).map("".join)

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.text(max_size=20) | words
_values = st.recursive(
    _scalars, lambda some: st.lists(some, max_size=4) | st.dictionaries(words, some, max_size=4), max_leaves=8
)
_claims = st.fixed_dictionaries(
    {},
    optional={
        "says": words, "where": words, "metric": words | st.just("two"), "reported": st.booleans() | words, "verdict": words, "because": words,
        "expect": st.dictionaries(st.sampled_from(["near", "within", "below", "above", "between", "equals"]), _scalars, max_size=3),
    },
)  # fmt: skip
_keys = [*FRONT, "tags", "cover", "relations", "claims", "updates"]
_entries = st.dictionaries(st.sampled_from(_keys) | words, _values | st.lists(_claims, max_size=3), max_size=6)


def _dumped(entries: dict[str, Any]) -> str:
    return yaml.safe_dump({**FRONT, **entries}, allow_unicode=True)


fronts = _entries.map(_dumped) | texts | long
"""Front matter: entries of the right names and any value, or any text."""
notes = st.tuples(fronts, bodies).map("---\n{0[0]}\n---\n{0[1]}".format) | bodies

_fields = st.tuples(
    st.sampled_from(["title", "author", "year", "date", "doi", "eprint", "url", "journal", "crossref", "month"])
    | words,
    st.sampled_from(["{%s}", '"%s"', "%s", "{{%s}}", '{%s} # "a"']),
    words,
).map(lambda one: f"  {one[0]} = {one[1].replace('%s', one[2])},\n")
_entry = st.tuples(
    st.sampled_from(["article", "book", "string", "comment", "misc"]) | words,
    words,
    st.lists(_fields, max_size=6).map("".join),
)
bibliographies = st.lists(_entry.map("@{0[0]}{{{0[1]},\n{0[2]}}}\n".format) | words, max_size=6).map("".join) | long
"""BibTeX: entries with fields of the right names, and whatever stands between them."""
formulae = st.lists(
    st.sampled_from([one for one in targets.TOKENS if one.startswith("\\") or len(one) < 3]) | st.text(max_size=3),
    max_size=60,
).map(" ".join)
choices = st.lists(st.integers(0, 255), max_size=36).map(bytes)
"""By which a sound document is changed (`targets.changed`): where, and into what."""


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return a file with some of its bytes changed, or cut short."""
    place = st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255))

    def broken(some: list[tuple[int, int]], end: int) -> bytes:
        data = bytearray(whole)
        for at, value in some:
            data[at] = value
        return bytes(data[:end])

    return st.builds(broken, st.lists(place, max_size=8), st.just(len(whole)) | st.integers(0, len(whole)))
