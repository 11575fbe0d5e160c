"""The graph of notes: who is tied to whom, and a drawing that is the same each time and legible."""

import datetime
import random
from itertools import combinations

import pytest

from generator import graph
from generator.graph import Link
from generator.schema import FrontMatter, Note, Relation


def note(slug, title="A title of some length", **relations):
    ties = tuple(Relation(kind=kind.replace("_", "-"), slug=other) for kind, other in relations.items())
    front = FrontMatter(
        title=title, kind="essay", author="a", added=datetime.date(2026, 1, 1), summary="s", relations=ties
    )
    return Note(slug=slug, file="", body="", front=front)


def many(n):
    rng = random.Random(n)
    notes = [
        note(
            f"n{i}", f"Title {i} " + "of a paper " * rng.randrange(4), **({"uses": f"n{rng.randrange(i)}"} if i else {})
        )
        for i in range(n)
    ]
    return notes, {one.slug: [f"n{rng.randrange(n)}"] for one in notes}


def boxes(plot):
    for dot in plot.dots:
        if dot.label:
            length = graph.LETTER * len(dot.label)
            left = {"start": dot.label_x, "end": dot.label_x - length, "middle": dot.label_x - length / 2}[dot.anchor]
            yield dot, (left, dot.label_y - 9, left + length, dot.label_y + 3)


def test_two_notes_are_tied_once_and_by_the_relation_before_the_mention():
    notes = [note("a", extends="b"), note("b", alternative_to="a"), note("c"), note("d", uses="gone")]
    found = graph.links(notes, {"a": ["b", "c"], "c": ["a", "nowhere"], "d": ["d"]})
    assert found == [Link("a", "b", "extends"), Link("a", "c")]


@pytest.mark.parametrize("n", [0, 1, 2, 30, 300])
def test_no_title_covers_another_or_leaves_the_drawing(n):
    notes, mentions = many(n)
    plot = graph.graph(notes, graph.links(notes, mentions))
    assert len(plot.dots) == n and plot.left_out == 0
    assert all(0 <= dot.x <= plot.width and 0 <= dot.y <= plot.height for dot in plot.dots)
    placed = list(boxes(plot))
    assert all(box[0] >= 0 and box[2] <= plot.width for _, box in placed)
    assert not [
        (a.title, b.title) for (a, p), (b, q) in combinations(placed, 2)
        if p[0] < q[2] and q[0] < p[2] and p[1] < q[3] and q[1] < p[3]
    ]  # fmt: skip
    assert len(placed) >= (n if n <= 30 else 0.9 * n)


def test_it_is_drawn_alike_whatever_the_order_of_the_notes():
    notes, mentions = many(40)
    found = graph.links(notes, mentions)
    first = graph.graph(notes, found)
    again = graph.graph(notes[::-1], found[::-1])
    assert sorted(first.dots, key=lambda dot: dot.slug) == sorted(again.dots, key=lambda dot: dot.slug)


def test_of_too_many_notes_the_least_tied_are_left_out_and_counted():
    notes, mentions = many(graph.MOST)
    plot = graph.graph([*notes, note("alone")], graph.links(notes, mentions))
    assert plot.left_out == 1
    assert "alone" not in {dot.slug for dot in plot.dots}


def test_a_long_title_is_cut_at_a_word_or_at_its_colon():
    assert graph.shortened("Short", 10) == "Short"
    assert graph.shortened("kallisto: Near-Optimal Quantification", 20) == "kallisto"
    assert graph.shortened("Deep networks for everyone", 20) == "Deep networks for…"
    assert graph.shortened("Antidisestablishmentarianism", 10) == "Antidises…"


@pytest.mark.parametrize(
    ("line", "crosses"),
    [
        ((0, 15, 30, 15), True), ((0, 0, 30, 30), True), ((12, 12, 13, 13), True), ((0, 20, 21, 0), True),
        ((15, 0, 15, 30), True), ((5, 0, 5, 20), False), ((0, 22, 9, 8), False), ((15, 0, 15, 9), False),
    ],
)  # fmt: skip
def test_a_line_crosses_a_box_or_does_not(line, crosses):
    assert graph._crosses(line, (10, 10, 20, 20)) is crosses


def test_around_a_note_relations_come_first_and_each_other_once():
    a, b, c = (note(slug, title=slug.upper()) for slug in "abc")
    near = graph.near([("extends", a), ("uses", a)], [b, a, c], {"a": "../a/", "b": "../b/", "c": "../c/"})
    assert [(row.title, row.kind, row.href) for row in near.rows] == [
        ("A", "extends", "../a/"), ("B", "", "../b/"), ("C", "", "../c/"),
    ]  # fmt: skip
    assert graph.near([], [], {}) is None
