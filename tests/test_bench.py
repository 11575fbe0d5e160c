"""What is recorded of a kernel's speed, and what is refused; the timer, the clock and the device are played here."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from generator.lab import recorded, timing
from generator.lab.bench import bench
from generator.lab.kernels import Kernel
from generator.lab.machine import Ceilings, Machine, ceilings
from generator.lab.meaning import kernel_fingerprint
from generator.lab.sheet import open_sheet

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
MACHINE = Machine(CPU, "NVIDIA Toy 9000", "580.1", "13.0", "2.11.0", "3.6.0", "2026-11-21")
SEEN = Ceilings(copy_bandwidth=4e12, peaks={"bfloat16": 8e14, "tf32": 4e14, "float32": 5e13})
BYTES = 2 * 64 * 4


def double(x):
    return 2 * x


def inputs(shape, dtype, device, seed):
    return {"x": torch.randn(shape, generator=torch.Generator(device).manual_seed(seed)).to(dtype)}


KERNEL = Kernel(
    name="double",
    op=double,
    twin=double,
    inputs=inputs,
    bytes_moved=lambda a: 2 * a["x"].numel() * a["x"].element_size(),
    operations=lambda a: a["x"].numel(),
    bench_shapes=((64,), (8, 8)),
    dtypes=(torch.float32,),
    differentiable=("x",),
    backward_bytes=lambda a: 2 * a["x"].numel() * a["x"].element_size(),
)


class Timer:
    """Call what is timed, and answer with medians from a list, round and round."""

    def __init__(self, *medians):
        self.medians = itertools.cycle(medians or (1.0,))
        self.calls = 0

    def __call__(self, call):
        self.calls += 1
        call()
        median = next(self.medians)
        return median, 0.9 * median, 1.1 * median


class Bench:
    """A snippet's folder with one kernel, and a run over it."""

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "recorded" / "nvidia-toy-9000.json"
        self.write("kernel.py", "def double(x):\n    return 2 * x\n")
        self.write("method.py", "def double(x):\n    return x + x\n")

    def write(self, name, text):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def run(self, kernel=KERNEL, timer=None, machine=MACHINE, out=None, seen=lambda: SEEN, **how):
        """Return how often the timer was called, and whether nothing was refused."""
        timer = timer or Timer()
        sheet = open_sheet("toy", self.folder, (kernel,), machine.gpu, out)
        timed = partial(timing.measure, timer=timer, seed=1, compiler=lambda function: function)
        sound = bench([sheet], machine, timed=timed, seen=seen, **how)
        return timer.calls, sound

    def rows(self):
        (one,), problems = recorded.load(self.folder)
        assert not problems
        return one.rows


@pytest.fixture
def toy(tmp_path):
    return Bench(tmp_path / "toy")


def test_every_shape_dtype_and_direction_is_recorded_once(toy):
    assert toy.run(replace(KERNEL, dtypes=(torch.float32, torch.float16)))[1]
    sizes = [(row.shape, row.dtype, row.direction) for row in toy.rows()]
    wanted = itertools.product([(64,), (8, 8)], ["float32", "float16"], ["forward", "backward"])
    assert sizes == list(wanted)


def test_a_file_says_where_when_and_on_what_it_was_measured(toy):
    toy.run()
    document = json.loads(toy.file.read_text())
    said = {"gpu", "driver", "cuda", "torch", "triton", "date"}
    assert {name: document[name] for name in said} == {name: getattr(MACHINE, name) for name in said}
    assert document["format"] == 1
    assert document["copy_bandwidth"] == 4e12 and document["peaks"] == SEEN.peaks
    kernel = document["kernels"]["double"]
    assert kernel["fingerprint"] == kernel_fingerprint(toy.folder)
    assert set(kernel["rows"][0]) == {
        "shape", "dtype", "direction", "ms", "absent", "noise", "bytes", "operations", "input_sets", "seed",
        "copy_share", "copy_bandwidth", "driver", "cuda", "torch", "triton", "date",
    }  # fmt: skip
    assert toy.file.parent.joinpath(toy.file.name).stat().st_mode & 0o777 == 0o644
    assert [path.name for path in toy.file.parent.iterdir()] == ["nvidia-toy-9000.json"]


def test_share_and_speedups_follow_from_the_times(toy):
    # kernel, eager, compile, kernel again; then the same backwards: so three rounds of them.
    toy.run(replace(KERNEL, bench_shapes=((64,),)), Timer(2.0, 6.0, 3.0, 2.0, 2.0, 3.0, 6.0, 2.0, 2.0, 6.0, 3.0, 2.0))
    forward, backward = toy.rows()
    assert forward.quantiles["kernel"] == pytest.approx((2.0, 1.8, 2.2))
    assert (forward.ms, forward.over_eager, forward.over_compile) == (2.0, 3.0, 1.5)
    assert forward.bytes == BYTES and forward.copy_share == pytest.approx(BYTES / 2e-3 / 4e12)
    assert (forward.operations, backward.operations) == (64, None)


def test_eager_is_what_the_declaration_names_else_the_twin(toy):
    called = []

    def library(x):
        called.append("library")
        return x + x

    toy.run(replace(KERNEL, eager=library))
    assert called


@pytest.mark.parametrize("wrong", [lambda x: 2 * x + 1e-3, lambda x: 2 * x.detach() + 0 * x, lambda x: x * torch.nan])
def test_a_wrong_kernel_is_never_recorded_nor_timed(toy, capsys, wrong):
    assert toy.run(replace(KERNEL, op=wrong)) == (0, False)
    assert not toy.file.exists()
    assert "toy: double float32 64: not recorded: wrong before timing" in capsys.readouterr().out


def test_a_kernel_that_goes_wrong_while_it_is_timed_is_not_recorded(toy, capsys):
    timer = Timer()
    turns = lambda x: 2 * x + (timer.calls > 0)  # noqa: E731
    assert not toy.run(replace(KERNEL, op=turns, bench_shapes=((64,),)), timer)[1]
    assert timer.calls and not toy.file.exists()
    assert "wrong after timing" in capsys.readouterr().out


def test_a_kernel_that_raises_does_not_cost_the_next_its_turn(toy, capsys):
    def fails(x):
        if x.dim() == 1:
            raise RuntimeError("out of registers")
        return 2 * x

    assert not toy.run(replace(KERNEL, op=fails))[1]
    assert "RuntimeError: out of registers" in capsys.readouterr().out
    assert {row.shape for row in toy.rows()} == {(8, 8)}


def test_noise_above_the_bound_is_refused(toy, capsys):
    apart = 1 + 2 * timing.NOISE
    # The kernel's two timings are the first and the last of a round, and rounds alternate.
    calls, sound = toy.run(timer=Timer(1, 1, 1, apart, apart, 1, 1, 1))
    assert not sound and not toy.file.exists()
    assert "6.0% apart (bound 3%)" in capsys.readouterr().out
    assert calls == 4 * timing.ATTEMPTS * timing.ROUNDS * 4  # it was tried again before it was refused


def test_noise_within_the_bound_is_recorded_with_the_row(toy):
    apart = 1 + timing.NOISE / 2
    assert toy.run(timer=Timer(1, 1, 1, apart, apart, 1, 1, 1))[1]
    assert [row.noise for row in toy.rows()] == pytest.approx([timing.NOISE / 2] * len(toy.rows()))


def test_one_noisy_direction_does_not_cost_the_other(toy):
    quiet, apart = [1] * 12, 1 + 2 * timing.NOISE
    noisy = [1, 1, 1, apart, apart, 1, 1, 1, 1, 1, 1, apart]
    toy.run(replace(KERNEL, bench_shapes=((64,),)), Timer(*quiet, *noisy, *noisy))
    assert [row.direction for row in toy.rows()] == ["forward"]


def test_what_torch_cannot_run_is_said_in_the_row(toy):
    def missing(x):
        raise NotImplementedError("no such operator\nsecond line")

    toy.run(replace(KERNEL, eager=missing))
    row = json.loads(toy.file.read_text())["kernels"]["double"]["rows"][0]
    assert row["absent"]["eager"] == "NotImplementedError: no such operator"
    assert set(row["ms"]) == {"kernel"} and toy.rows()[0].over_eager is None


def test_a_second_run_measures_nothing_not_even_the_ceilings(toy, capsys):
    toy.run()
    before = toy.file.read_bytes()
    assert toy.run(seen=lambda: pytest.fail("measured")) == (0, True)
    assert toy.file.read_bytes() == before
    assert "nothing to measure" in capsys.readouterr().out


def test_force_measures_again(toy):
    calls, _ = toy.run()
    assert toy.run(force=True)[0] == calls
    assert len(toy.rows()) == 4


@pytest.mark.parametrize(("name", "version"), [("torch", "2.13.0"), ("triton", "3.7.1")])
def test_another_torch_or_triton_is_measured_again_and_each_row_says_its_own(toy, name, version):
    toy.run()
    assert toy.run(replace(KERNEL, bench_shapes=((64,),)), machine=replace(MACHINE, **{name: version}))[0]
    assert sorted({getattr(row, name) for row in toy.rows()}) == sorted({version, getattr(MACHINE, name)})


@pytest.mark.parametrize("name", ["kernel.py", "method.py"])
def test_a_changed_kernel_is_measured_again_a_changed_comment_is_not(toy, name):
    toy.run()
    text = (toy.folder / name).read_text()
    toy.write(name, f'"""A docstring."""\n# a comment\n\n{text.replace("return", "return  ")}')
    assert toy.run()[0] == 0
    toy.write(name, text.replace("return", "return 0 +"))
    assert toy.run()[0] > 0


def test_rows_of_an_older_kernel_do_not_stay_beside_new_ones(toy):
    toy.run()
    toy.write("kernel.py", "def double(x):\n    return x * 2\n")
    toy.run(replace(KERNEL, bench_shapes=((64,),)))
    assert {row.shape for row in toy.rows()} == {(64,)}


def test_a_recording_is_current_until_the_kernel_changes(toy):
    toy.run()
    ((one,), _) = recorded.load(toy.folder)
    assert recorded.is_current(one, toy.folder) and recorded.is_current(one, toy.folder, "double")
    assert not recorded.is_current(one, toy.folder, "triple")
    toy.write("kernel.py", "def double(x):\n    return x * 2\n")
    assert not recorded.is_current(one, toy.folder)


def test_a_budget_stops_cleanly_and_the_next_run_goes_on(toy, capsys):
    now = itertools.count(step=10)  # every look at the clock takes ten seconds
    calls, sound = toy.run(seconds=35, clock=lambda: next(now))
    said = capsys.readouterr().out
    assert sound and "1 of 2 left:\n  toy: double float32 8×8\n" in said and "goes on from here" in said
    assert {row.shape for row in toy.rows()} == {(64,)}
    assert toy.run()[0] == calls
    assert {row.shape for row in toy.rows()} == {(64,), (8, 8)}


def test_a_run_cut_short_leaves_the_last_whole_file(toy, monkeypatch):
    toy.run(replace(KERNEL, bench_shapes=((64,),)))
    before = toy.file.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        toy.run()
    assert toy.file.read_bytes() == before
    assert list(toy.file.parent.iterdir()) == [toy.file]


def test_another_folder_takes_the_files_and_what_is_recorded_still_counts(toy, tmp_path):
    toy.run(replace(KERNEL, bench_shapes=((64,),)))
    before = toy.file.read_bytes()
    toy.run(out=tmp_path / "out")
    there = json.loads((tmp_path / "out/toy/recorded/nvidia-toy-9000.json").read_text())
    assert len(there["kernels"]["double"]["rows"]) == 4
    assert toy.file.read_bytes() == before


GOOD = {**{name: "x" for name in recorded.PROVENANCE}, "format": 1, "gpu": "NVIDIA Toy 9000", "copy_bandwidth": 1.0,
        "peaks": {}, "kernels": {}}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ('{"format": 1', "Expecting"),
        ("\x00\x01", "Expecting value"),
        ("[1, 2]", "not of format 1"),
        ('{"format": 99}', "not of format 1"),
        ('{"format": 1}', "it has no 'gpu'"),
        (json.dumps(GOOD | {"gpu": "NVIDIA H200"}), "measured on 'NVIDIA H200'"),
        (json.dumps(GOOD | {"copy_bandwidth": float("nan")}), "copy_bandwidth is nan"),
        (json.dumps(GOOD | {"torch": 2}), "torch is 2, not text"),
        (json.dumps(GOOD | {"kernels": {"double": {"fingerprint": "f", "rows": [{"ms": {}}]}}}), "no time of"),
        (json.dumps(GOOD | {"kernels": [1]}), "no attribute"),
    ],
)
def test_a_damaged_or_foreign_file_is_a_message(toy, text, why):
    toy.write("kernel.py", "")
    toy.file.parent.mkdir()
    toy.file.write_text(text)
    found, (problem,) = recorded.load(toy.folder)
    assert not found
    assert str(toy.file) in problem and why in problem and "delete it and measure again" in problem
    with pytest.raises(recorded.RecordedError):
        toy.run()
    assert toy.file.read_text() == text  # never overwritten unseen


def test_a_folder_without_recordings_is_no_problem(toy):
    assert recorded.load(toy.folder) == ([], [])


def test_inputs_that_fit_in_the_cache_are_rotated(toy, monkeypatch):
    monkeypatch.setattr(timing, "cache_bytes", lambda device: 160)
    seen = []

    def op(x):
        seen.append(x.data_ptr())
        return 2 * x

    rows, _ = timing.measure(
        replace(KERNEL, op=op), (64,), torch.float32, ("forward",), CPU, Timer(), 1, lambda function: function
    )
    assert rows[0]["input_sets"] == 3
    assert len({*seen[1:4]}) == 3


def test_a_compiled_backward_can_be_timed_many_times(toy):
    from generator.lab.timing import measure

    compiler = partial(torch.compile, backend="aot_eager")
    kernel = replace(KERNEL, twin=lambda x: torch.sin(x).exp(), op=lambda x: torch.sin(x).exp())
    rows, refusals = measure(kernel, (64,), torch.float32, ("forward", "backward"), CPU, Timer(), 1, compiler)
    assert not refusals
    assert [set(row["ms"]) for row in rows] == [{"kernel", "eager", "compile"}] * 2


def test_a_real_kernel_passes_through_the_whole_line(toy):
    from snippets.elu.experiment import KERNELS

    elu = replace(KERNELS[0], bench_shapes=((1024,),), dtypes=(torch.float32, torch.bfloat16))
    assert toy.run(elu)[1]
    assert {row.dtype for row in toy.rows()} == {"float32", "bfloat16"}


def test_ceilings_count_bytes_read_and_written_and_two_operations_a_product():
    seen = ceilings(CPU, Timer(2.0), copy_bytes=4096, side=16)
    assert seen.copy_bandwidth == 2 * 4096 / 2e-3
    assert seen.peaks == {name: 2 * 16**3 / 2e-3 for name in ("bfloat16", "tf32", "float32")}
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_fingerprint_is_the_same_on_every_python(toy):
    toy.write("kernel.py", "X: int = 1\ndef f(a, *, b=None, **c) -> None:\n    return f'{a!r:>{b}} {c}'\n")
    toy.write("method.py", "async def g(x):\n    'doc'\n    return {**x, 1: (2.5, ...)}\n")
    assert kernel_fingerprint(toy.folder) == "7cec394631a87bc0ba47227c89625f17"


def test_reading_needs_the_standard_library_alone():
    code = "import sys, generator.lab.recorded; sys.exit(bool({'torch', 'numpy', 'yaml'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_line_and_records_nothing(tmp_path):
    command = [sys.executable, "-m", "generator.lab.bench", "elu", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "papernotes bench: no GPU here: nothing was measured and nothing recorded\n"
    assert not list(tmp_path.iterdir())
