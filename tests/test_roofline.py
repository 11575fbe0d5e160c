"""Kernels and ceilings come in; where everything of a roofline plot stands is checked, drawn or not."""

import itertools

import pytest

from generator.partials import partial
from generator.roofline import LEFT, LETTER, RIGHT, Kernel, Roof, roofline, strip

ROOF = Roof(4e12, {"bfloat16": 8e14, "float32": 5e13})


def boxes(plot):
    """Return where each name stands: left, top, right, bottom."""
    found = []
    for dot in plot.dots:
        if dot.label:
            x, y, anchor = dot.label
            length = LETTER * len(dot.kernel.name)
            left = {"start": x, "end": x - length, "middle": x - length / 2}[anchor]
            found.append((left, y - 10, left + length, y + 3))
    return found


def apart(plot):
    return not any(
        a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a, b in itertools.combinations(boxes(plot), 2)
    )


def test_a_kernel_at_the_roof_is_drawn_on_it():
    slope, level = Kernel("elu", 1.0, 4e12), Kernel("gemm", 1000.0, 8e14)
    plot = roofline([slope, level], ROOF)
    (x0, y0), (x1, y1), (x2, y2) = plot.roof
    elu, gemm = plot.dots
    on_the_slope = y0 + (y1 - y0) * (elu.x - x0) / (x1 - x0)
    assert elu.y == pytest.approx(on_the_slope, abs=0.2)
    assert gemm.y == y1 == y2
    assert x0 == LEFT and x2 == RIGHT


def test_half_the_bandwidth_is_drawn_below_the_roof():
    full, half = roofline([Kernel("a", 1.0, 4e12), Kernel("b", 1.0, 2e12)], ROOF).dots
    assert half.x == full.x
    assert half.y > full.y  # downwards is less


def test_each_dtypes_peak_begins_where_the_slope_meets_it():
    plot = roofline([Kernel("elu", 1.0, 4e12)], ROOF)
    found = {name: (x, y) for x, y, name in plot.ceilings}
    (x0, y0), (x1, y1), _ = plot.roof
    assert found["bfloat16"] == (x1, y1)
    x, y = found["float32"]
    assert y == pytest.approx(y0 + (y1 - y0) * (x - x0) / (x1 - x0), abs=0.2)


def test_a_crowd_of_kernels_is_named_without_one_name_over_another():
    crowd = [Kernel(f"kernel_{n}", 1.0 + 0.01 * n, 3e12 + 1e10 * n) for n in range(30)]
    plot = roofline(crowd, ROOF)
    assert len(plot.dots) == 30
    assert 0 < len(boxes(plot)) < 30  # what has no room keeps its dot
    assert apart(plot)


def test_of_several_sizes_of_a_kernel_the_best_is_named():
    plot = roofline([Kernel("elu", 1.0, 1e12), Kernel("elu", 1.0, 3e12), Kernel("elu", 1.0, 2e12)], ROOF)
    assert [bool(dot.label) for dot in plot.dots] == [False, True, False]


def test_without_measurements_there_is_no_roofline():
    assert roofline([Kernel("elu", 1.0), Kernel("copy", None, 1e9)], ROOF) is None
    assert strip([Kernel("copy", None)]) is None


def test_the_strip_orders_by_operations_a_byte_and_names_all_apart():
    many = [Kernel(f"kernel_{n}", 10 ** (n / 13 - 1)) for n in range(40)]
    plot = strip(many)
    assert [dot.kernel.name for dot in plot.dots] == [one.name for one in many]
    assert sorted(dot.x for dot in plot.dots) == [dot.x for dot in plot.dots]
    assert len(boxes(plot)) == 40
    assert apart(plot)
    assert all(left >= 0 and right <= 420 for left, _, right, _ in boxes(plot))


@pytest.mark.parametrize("plot", [strip([Kernel("one", 3.0)]), roofline([Kernel("one", 3.0, 1e12)], Roof(1e12, {}))])
def test_one_kernel_alone_can_be_drawn(plot):
    (dot,) = plot.dots
    assert LEFT <= dot.x <= RIGHT
    assert len(plot.xticks) >= 2
    text = partial("roofline", plot=plot, alt="what it shows", caption="A <caption>.")
    assert 'aria-label="what it shows"' in text and "A &lt;caption&gt;." in text and ">one</text>" in text


def test_a_dot_leads_to_its_kernel():
    plot = strip([Kernel("elu", 1.0, said="elu: 1 operation a byte", href="../elu/#kernel-elu")])
    text = partial("roofline", plot=plot, alt="a", caption="c")
    assert '<a href="../elu/#kernel-elu">' in text and "<title>elu: 1 operation a byte</title>" in text
