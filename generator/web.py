"""All notes and their bodies come in; what surrounds each note goes out: relations, backlinks, what reads alike."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from generator.expand import Body
from generator.schema import Note
from generator.site import Site

INVERSE = {
    "extends": "is extended by",
    "alternative-to": "alternative to",
    "uses": "is used by",
    "explains": "is explained by",
    "contradicts": "is contradicted by",
    "compares-with": "is compared with in",
}
"""What a relation is called from its other end."""
ALIKE = 4
"""How many notes that read alike are shown."""
TERMS = 60
"""How many of a note's most telling words take part: what makes the cost grow with the notes and not their square."""
COMMON = 0.5
"""A word in more than this share of the notes tells nothing."""


@dataclass(frozen=True)
class Backlink:
    """A note that leads here, and the sentence it does so in, as Markdown."""

    note: Note
    sentence: str


@dataclass
class Surroundings:
    """What stands about one note."""

    relations: list[tuple[str, Note]] = field(default_factory=list)
    """(how, the other note): its own relations first, then those that others declare."""
    mentions: list[Note] = field(default_factory=list)
    """The notes that it links to."""
    backlinks: list[Backlink] = field(default_factory=list)
    alike: list[Note] = field(default_factory=list)
    newer: Note | None = None
    older: Note | None = None


def surroundings(site: Site, bodies: Mapping[str, Body], order: Sequence[Note]) -> dict[str, Surroundings]:
    """Return what surrounds each note; `order` is the one in which previous and next are meant."""
    found = {note.slug: Surroundings() for note in order}
    known = site.library.by_slug
    for note in order:
        for one in note.front.relations:
            if one.slug in found:
                found[note.slug].relations.append((one.kind.replace("-", " "), known[one.slug]))
    for note in order:
        for one in note.front.relations:
            if one.slug in found and not any(other.slug == note.slug for _, other in found[one.slug].relations):
                found[one.slug].relations.append((INVERSE[one.kind], note))
        seen = set()
        for slug, sentence in bodies[note.slug].mentions if note.slug in bodies else ():
            if slug in found and slug not in seen:  # one sentence a note: the first says why
                seen.add(slug)
                found[note.slug].mentions.append(known[slug])
                found[slug].backlinks.append(Backlink(note, sentence))
    for slug, others in alike(order).items():
        near = {other.slug for _, other in found[slug].relations}
        found[slug].alike = [known[other] for other in others if other not in near][:ALIKE]
    for newer, older in pairwise(order):
        found[newer.slug].older, found[older.slug].newer = older, newer
    return found


def alike(notes: Iterable[Note]) -> dict[str, list[str]]:
    """Return, for each note, the slugs of those nearest in TF-IDF cosine, nearest first."""
    counted = {note.slug: _words(note) for note in notes}
    documents = Counter(word for words in counted.values() for word in words)
    vectors = {slug: _weighed(words, documents, len(counted)) for slug, words in counted.items()}
    holders: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for slug, vector in vectors.items():
        for word, weight in vector.items():
            holders[word].append((slug, weight))
    found = {}
    for slug, vector in vectors.items():
        near: dict[str, float] = defaultdict(float)
        for word, weight in vector.items():
            for other, theirs in holders[word]:
                if other != slug:
                    near[other] += weight * theirs
        found[slug] = [other for other, _ in sorted(near.items(), key=lambda item: (-item[1], item[0]))[: 4 * ALIKE]]
    return found


def _words(note: Note) -> Counter[str]:
    """Return the words of a note, its title, summary and tags counting as often as they weigh."""
    front = note.front
    text = f"{note.body} {' '.join([front.title, front.summary, *front.tags] * 5)}"
    text = re.sub(r"\{\{[^{}\n]*\}\}|\$[^$]*\$|\[@[^\[\]]*\]", " ", text)
    return Counter(word for word in re.findall(r"[a-z][a-z0-9]{2,}", text.lower()))


def _weighed(words: Counter[str], documents: Counter[str], notes: int) -> dict[str, float]:
    """Return the note's most telling words with their TF-IDF weights, of length 1."""
    most = max(COMMON * notes, 2)
    weights = {
        word: (1 + math.log(count)) * math.log(notes / documents[word])
        for word, count in words.items()
        if 2 <= documents[word] <= most
    }
    best = sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:TERMS]
    length = math.sqrt(sum(weight * weight for _, weight in best)) or 1.0
    return {word: weight / length for word, weight in best}
