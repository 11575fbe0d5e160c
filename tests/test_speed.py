"""What a page says of recorded speed: what was recorded, with its machine and date, or that nothing was."""

import json

from generator.lab.meaning import kernel_fingerprint
from generator.lab.recorded import FORMAT
from generator.load import load
from generator.speed import problems, speeds, state

KERNEL = "def double(x):\n    return x + x\n"


def snippet(toy, fingerprint=None, **changes):
    toy.write("snippets/toy/kernel.py", KERNEL)
    row = {
        "shape": [1024], "dtype": "float32", "direction": "forward", "date": "2026-01-02", "torch": "2.11", "triton": "3.6",
        "ms": {"kernel": [0.5, 0.4, 0.6], "eager": [1.0, 0.9, 1.1], "compile": [0.5, 0.5, 0.5]},
        "noise": 0.01, "bytes": 8192, "operations": 1024, "copy_share": 0.9,
    }  # fmt: skip
    folder = toy.root / "snippets/toy"
    document = {
        "format": FORMAT, "gpu": "A GPU", "driver": "1", "cuda": "13", "torch": "2.11", "triton": "3.6", "date": "2026-01-02",
        "copy_bandwidth": 1e12, "peaks": {"bfloat16": 1e14},
        "kernels": {"double": {"fingerprint": fingerprint or kernel_fingerprint(folder), "rows": [row]}},
    } | changes  # fmt: skip
    toy.write("snippets/toy/recorded/a-gpu.json", json.dumps(document))
    return load(toy.root).snippets["toy"]


def test_without_a_record_nothing_is_invented(toy):
    found = speeds(load(toy.root).snippets["toy"], "double")
    assert found == []
    assert state(found) == "not yet measured"


def test_a_record_is_shown_with_its_machine_and_date(toy):
    (found,) = speeds(snippet(toy), "double")
    assert (found.gpu, found.date, found.current) == ("A GPU", "2026-01-02", True)
    assert found.rows[0].over_eager == 2.0
    assert state([found]) == "measured on A GPU"


def test_a_record_of_an_earlier_kernel_is_marked(toy):
    (found,) = speeds(snippet(toy, fingerprint="another"), "double")
    assert not found.current
    assert state([found]) == "older than the kernel"


def test_a_comment_makes_no_record_old_but_a_change_does(toy):
    one = snippet(toy)
    toy.write("snippets/toy/kernel.py", KERNEL + "# a comment\n")
    assert speeds(one, "double")[0].current
    toy.write("snippets/toy/kernel.py", KERNEL.replace("x + x", "2 * x"))
    assert not speeds(one, "double")[0].current


def test_another_kernels_record_is_not_shown(toy):
    assert speeds(snippet(toy), "triple") == []


def test_a_damaged_record_is_a_problem_with_its_mend(toy):
    (problem,) = problems(snippet(toy, copy_bandwidth=-1))
    assert str(problem).startswith("snippets/toy/recorded/a-gpu.json:1:1: not a recorded speed")
    assert problem.fix == "delete it and measure again"


def test_the_page_shows_the_numbers_their_machine_and_that_they_are_old(toy):
    from generator.partials import partial
    from generator.roofline import roofline
    from generator.speed import measured, words

    kernel = {
        "oracle": "", "backward": False, "device": "Triton's interpreter", "parity": [], "compiled": [],
        "example_shape": [7], "bytes_moved": 56, "operations": 7,
    }  # fmt: skip
    (speed,) = speeds(snippet(toy, fingerprint="another"), "double")
    plot = roofline(measured("double", speed), speed.roof)
    found = [{"speed": speed, "plot": plot, **words(speed.gpu, speed)}]
    more = {"kernel": kernel, "name": "double", "code": "", "link": "", "slug": "toy"}
    text = partial("kernel", found=found, **more)
    for shown in (
        "A GPU",
        "2026-01-02",
        "older than the kernel",
        "0.5 (0.4 to 0.6)",
        "90 %",
        "copy 1000 GB/s",
        "Roofline of A GPU",
    ):
        assert shown in text
    assert "not yet measured" in partial("kernel", found=[], **more)


def test_a_row_that_does_no_operations_has_no_place_under_a_roof(toy):
    from generator.speed import declared, measured

    (speed,) = speeds(snippet(toy), "double")
    (dot,) = measured("double", speed, "toy/#kernel-double")
    assert (dot.intensity, dot.rate, dot.href) == (1024 / 8192, 1024 / 0.5e-3, "toy/#kernel-double")
    assert "1024, float32, forward: 0.5 ms" in dot.said
    assert declared("copy", {"bytes_moved": 8, "operations": 0}).intensity is None
