"""Notes and what leads from one to another come in; the coordinates of their graph go out, for a template to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from generator.schema import Note

MOST = 300
"""Notes in the graph; of more, those with most links."""
LETTER, LINE = 6.4, 15.0
"""Width of a letter and height of a line of a title, about, set in 12 units."""
LONGEST = 30
"""Letters of a title in the graph; a longer one is cut, and whole where it is pointed at."""
WIDTH, ROOM = 900.0, 40
"""The drawing's width, and how many notes fit there with their titles; for more it grows."""
MARGIN, GAP = 90.0, 40.0
BEST = 60
"""The most notes that are placed by the better, slower layout."""


@dataclass(frozen=True)
class Link:
    """A line from one note to another; `kind` is the relation, or empty for a mention."""

    source: str
    target: str
    kind: str = ""


@dataclass(frozen=True)
class Dot:
    slug: str
    title: str
    label: str
    """The title as it is set, cut where it is long; empty where there is no room for it."""
    x: float
    y: float
    radius: float
    label_x: float
    label_y: float
    anchor: str


@dataclass(frozen=True)
class Line:
    x1: float
    y1: float
    x2: float
    y2: float
    kind: str


@dataclass(frozen=True)
class Graph:
    width: float
    height: float
    dots: list[Dot]
    lines: list[Line]
    left_out: int
    """Notes that were too many."""


def links(notes: Sequence[Note], mentions: Mapping[str, Sequence[str]]) -> list[Link]:
    """Return each pair of notes once: by their first relation, else by who mentions the other first."""
    known = {note.slug for note in notes}
    found: dict[frozenset[str], Link] = {}
    for note in notes:
        for one in note.front.relations:
            if one.slug in known and one.slug != note.slug:
                found.setdefault(frozenset((note.slug, one.slug)), Link(note.slug, one.slug, one.kind))
    for note in notes:
        for slug in mentions.get(note.slug, ()):
            if slug in known and slug != note.slug:
                found.setdefault(frozenset((note.slug, slug)), Link(note.slug, slug))
    return list(found.values())


def graph(notes: Sequence[Note], found: Sequence[Link]) -> Graph:
    """Place the notes so that linked ones lie near, the same at every build, and write as many titles as there is room for."""
    net = nx.Graph()
    net.add_nodes_from(sorted(note.slug for note in notes))
    net.add_edges_from(sorted((one.source, one.target) for one in found))
    shown = sorted(net, key=lambda slug: (-net.degree[slug], slug))[:MOST]
    net = net.subgraph(shown).copy() if len(shown) < len(net) else net
    width = round(WIDTH * max(1.0, math.sqrt(len(net) / ROOM)))
    places, height = _placed(net, width)
    titles = {note.slug: note.front.title for note in notes}
    dots = _labelled(places, titles, net, width)
    lines = [
        Line(*places[one.source], *places[one.target], one.kind)
        for one in found
        if one.source in places and one.target in places
    ]
    return Graph(width, height, dots, lines, len(notes) - len(dots))


def _placed(net: nx.Graph, width: float) -> tuple[dict[str, tuple[float, float]], float]:
    """Return where each note lies: the parts that hang together in rows, the largest first, and single notes last."""
    parts = sorted((sorted(part) for part in nx.connected_components(net)), key=lambda part: (-len(part), part))
    places: dict[str, tuple[float, float]] = {}
    left, top, row = 0.0, 0.0, 0.0
    for part in parts:
        w, h = _size(len(part), width)
        if left and left + w > width:
            left, top, row = 0.0, top + row + GAP, 0.0
        for slug, (x, y) in _layout(net.subgraph(part), w - 2 * MARGIN, h - GAP).items():
            places[slug] = (round(left + MARGIN + x, 1), round(top + GAP / 2 + y, 1))
        left, row = left + w, max(row, h)
    return places, round(top + row, 1)


def _size(notes: int, width: float) -> tuple[float, float]:
    """Return the room that so many notes take."""
    if notes == 1:
        return 300.0, 50.0
    share = min(1.0, 0.4 + notes / 20)
    return share * width, min(90.0 + 16 * notes, 0.8 * width)


def _layout(net: nx.Graph, width: float, height: float) -> dict[str, tuple[float, float]]:
    """Return the places of notes that hang together, filling a box of the given size."""
    ordered = nx.Graph()
    ordered.add_nodes_from(sorted(net))
    ordered.add_edges_from(sorted(net.edges))
    if len(ordered) == 1:
        return dict.fromkeys(ordered, (0.0, height / 2))
    if len(ordered) <= BEST:
        raw = nx.kamada_kawai_layout(ordered, pos=nx.circular_layout(ordered))
    else:
        raw = nx.spring_layout(ordered, seed=0, k=2.2 / math.sqrt(len(ordered)), iterations=120)
    crowded = len(ordered) > BEST  # then a few far ones would press the rest together: half the place is by rank
    columns = []
    for axis, room in ((0, width), (1, height)):
        values = [float(place[axis]) for place in raw.values()]
        low, span = min(values), max(values) - min(values)
        even = {value: n / max(1, len(values) - 1) for n, value in enumerate(sorted(values))} if crowded else {}
        columns.append(
            [
                ((value - low) / span + even.get(value, (value - low) / span)) / 2 * room if span > 1e-9 else room / 2
                for value in values
            ]
        )
    return dict(zip(raw, zip(*columns, strict=True), strict=True))


def _labelled(
    places: Mapping[str, tuple[float, float]], titles: Mapping[str, str], net: nx.Graph, width: float
) -> list[Dot]:
    """Write each title on a side where it meets no other title, no dot and the fewest lines; the most linked choose first."""
    lines = [(*places[a], *places[b]) for a, b in net.edges]
    radii = {slug: round(4 + 1.2 * math.sqrt(net.degree[slug]), 1) for slug in places}
    taken = [(x - radii[s], y - radii[s], x + radii[s], y + radii[s]) for s, (x, y) in places.items()]
    dots = []
    for slug in sorted(places, key=lambda one: (-net.degree[one], one)):
        (x, y), radius = places[slug], radii[slug]
        label = shortened(titles[slug], LONGEST)
        length, own = LETTER * len(label), (x - radius, y - radius, x + radius, y + radius)
        sides = (
            (x + radius + 5, y + 4, "start", (x + radius + 4, y - 8, x + radius + 6 + length, y + 7)),
            (x - radius - 5, y + 4, "end", (x - radius - 6 - length, y - 8, x - radius - 4, y + 7)),
            (x, y + radius + 13, "middle", (x - length / 2, y + radius + 2, x + length / 2, y + radius + 2 + LINE)),
            (x, y - radius - 5, "middle", (x - length / 2, y - radius - 3 - LINE, x + length / 2, y - radius - 3)),
        )
        free = [
            side for side in sides
            if side[3][0] >= 0 and side[3][2] <= width and not any(_meet(side[3], box) for box in taken if box != own)
        ]  # fmt: skip
        side = min(free, key=lambda one: sum(_crosses(line, one[3]) for line in lines), default=None)
        if side:
            taken.append(side[3])
        lx, ly, anchor, _ = side or sides[0 if x + radius + 6 + length <= width else 1]
        dots.append(Dot(slug, titles[slug], label if side else "", x, y, radius, round(lx, 1), round(ly, 1), anchor))
    return dots


def _crosses(line: tuple[float, float, float, float], box: tuple[float, float, float, float]) -> bool:
    """Return whether a line passes through a box: whether what both slabs leave of it is not empty (Liang and Barsky)."""
    x1, y1, x2, y2 = line
    first, last = 0.0, 1.0
    for at, way, low, high in ((x1, x2 - x1, box[0], box[2]), (y1, y2 - y1, box[1], box[3])):
        if way == 0:
            if not low < at < high:
                return False
            continue
        enters, leaves = sorted(((low - at) / way, (high - at) / way))
        first, last = max(first, enters), min(last, leaves)
        if first >= last:
            return False
    return True


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def shortened(title: str, longest: int) -> str:
    """Return a title cut at a word, with an ellipsis, where it is longer."""
    if len(title) <= longest:
        return title
    before = title.partition(":")[0]
    if len(before) <= longest and before != title:
        return before
    cut = title[: longest - 1]
    return (cut[: cut.rfind(" ")] if " " in cut[longest // 2 :] else cut).rstrip(" ,;:–-") + "…"


@dataclass(frozen=True)
class Neighbor:
    title: str
    label: str
    kind: str
    """The relation, in words; empty for a mention."""
    href: str
    y: float


@dataclass(frozen=True)
class Near:
    """One note at the left, a row for each note beside it: as wide as a phone, so that it is never shrunk."""

    rows: list[Neighbor]
    height: float
    y: float
    width: float = 400.0
    x: float = 12.0
    bend: float = 56.0
    dots: float = 80.0


ROWS = 12
"""Notes around one; relations come first."""
ROW = 26.0
NEAR_LETTERS = 44


def near(relations: Sequence[tuple[str, Note]], mentions: Sequence[Note], hrefs: Mapping[str, str]) -> Near | None:
    """Return the notes around one: those it is related to, then those it mentions or that mention it."""
    kinds = {other.slug: (kind, other) for kind, other in reversed(relations)}
    others = {other.slug: ("", other) for other in mentions}
    around = [kinds[slug] for slug in dict.fromkeys(other.slug for _, other in relations)]
    around += [one for slug, one in others.items() if slug not in kinds]
    if not around:
        return None
    rows = [
        Neighbor(
            other.front.title,
            shortened(other.front.title, NEAR_LETTERS - (int(0.88 * len(kind)) + 2 if kind else 0)),
            kind,
            hrefs[other.slug],
            ROW * (n + 0.5),
        )
        for n, (kind, other) in enumerate(around[:ROWS])
    ]
    height = ROW * len(rows)
    return Near(rows, height, height / 2)
