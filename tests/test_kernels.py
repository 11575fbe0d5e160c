"""Every declared kernel against its twin: parity, autograd, registration, compilation; a new kernel adds nothing here."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from generator.lab.cases import Case, arguments_of, cases, prove
from generator.lab.guards import poisoned
from generator.lab.kernels import Kernel
from generator.lab.parity import compare, downstream_of, leaves, tensors

ROOT = Path(__file__).resolve().parent.parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TARGETS = {"cuda:80", "cuda:90", "cuda:100", "hip:gfx942"}
FULL = "cuda:90"
"""The one target that every dtype is compiled for; the others get float32, or what a kernel declares first."""


CHOSEN = os.environ.get("PAPERNOTES_SLUGS", "").split()
"""The snippets whose kernels are tested; all of them if none is named."""


def declared() -> dict[str, tuple[str, Kernel]]:
    """Return every kernel by name, with the slug that declares it."""
    found = {}
    for path in sorted(ROOT.glob("snippets/*/experiment.py")):
        if CHOSEN and path.parent.name not in CHOSEN:
            continue
        if "KERNELS" in path.read_text(encoding="utf-8"):
            experiment = importlib.import_module(f"snippets.{path.parent.name}.experiment")
            found |= {kernel.name: (path.parent.name, kernel) for kernel in experiment.KERNELS}
    return found


KERNELS = declared()
every_kernel = pytest.mark.parametrize("kernel", [kernel for _, kernel in KERNELS.values()], ids=list(KERNELS))
differentiable = pytest.mark.parametrize(
    "kernel", [kernel for _, kernel in KERNELS.values() if kernel.differentiable], ids=lambda kernel: kernel.name
)


def typical(kernel: Kernel, largest: int = 3000) -> tuple[int, ...]:
    """Return the largest declared shape whose inputs are small: some blocks, and quick."""

    def elements(shape):
        drawn = kernel.inputs(shape, torch.float32, torch.device("cpu"), 0)
        return max(one.numel() for one in drawn.values() if isinstance(one, torch.Tensor))

    sized = sorted((elements(shape), shape) for shape in kernel.shapes)
    return max((one for one in sized if one[0] <= largest), default=sized[0])[1]


@pytest.mark.parametrize(
    ("kernel", "case"),
    [
        pytest.param(kernel, case, id=f"{name}-{case}")
        for name, (_, kernel) in KERNELS.items()
        for case in cases(kernel)
    ],
)
def test_a_kernel_agrees_with_its_twin(kernel, case):
    prove(kernel, case, DEVICE)


@every_kernel
def test_the_poison_reaches_what_a_kernel_allocates(kernel):
    arguments = arguments_of(kernel, Case(typical(kernel), kernel.dtypes[0]), DEVICE)
    with poisoned() as made:
        kernel.op(**arguments)
    assert made


@every_kernel
def test_an_output_has_the_dtype_of_the_twins(kernel):
    for dtype in kernel.dtypes:
        arguments = kernel.inputs(kernel.shapes[0], dtype, DEVICE, 0)
        got, want = tensors(kernel.op(**arguments)), tensors(kernel.twin(**arguments))
        assert [one.dtype for one in got] == [one.dtype for one in want]


@differentiable
def test_the_gradient_is_that_of_finite_differences(kernel):
    slack = 0.0 if kernel.repeatable or DEVICE.type == "cpu" else 1e-9
    for largest, fast in ((64, False), (1500, True)):  # every entry of a small Jacobian, one projection of a large one
        arguments = leaves(kernel, kernel.inputs(typical(kernel, largest), torch.float64, DEVICE, 0))
        values = [arguments[name] for name in kernel.differentiable]

        def run(*values, arguments=arguments):
            return tuple(tensors(kernel.op(**{**arguments, **dict(zip(kernel.differentiable, values, strict=True))})))

        assert torch.autograd.gradcheck(run, values, fast_mode=fast, nondet_tol=slack)


class Recorded(TorchDispatchMode):
    """Notes every call of an op of ours, with copies of its arguments."""

    def __init__(self, leaves):
        super().__init__()
        self.calls, self.leaves = {}, {one.data_ptr() for one in leaves}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "papernotes":
            self.calls[func] = tuple(self.copy(one) for one in args), kwargs or {}
        return func(*args, **(kwargs or {}))

    def copy(self, one):
        if not isinstance(one, torch.Tensor):
            return one
        return one.detach().clone().requires_grad_(one.data_ptr() in self.leaves)


@every_kernel
def test_its_registered_ops_pass_opcheck(kernel):
    shape = typical(kernel, 1500)
    arguments = leaves(kernel, kernel.inputs(shape, torch.float32, DEVICE, 0))
    inputs = [arguments[name] for name in kernel.differentiable]
    with Recorded(inputs) as recorded:
        outputs = tensors(kernel.op(**arguments))
        if inputs:
            torch.autograd.grad(outputs, inputs, downstream_of(outputs, 1))
    assert recorded.calls, "no op in the papernotes:: namespace ran"
    assert len(recorded.calls) > 1 or not inputs, "the backward is no op of its own"
    for op, (values, named) in recorded.calls.items():
        torch.library.opcheck(op, values, named)


@every_kernel
def test_it_composes_with_torch_compile(kernel):
    # On a CPU the op is opaque to any compiler: what can break is the tracing, and aot_eager does that and no more.
    torch.compiler.reset()
    compiled = torch.compile(kernel.op, fullgraph=True, backend="inductor" if DEVICE.type == "cuda" else "aot_eager")
    seen = []
    for run in (kernel.op, compiled):
        arguments = leaves(kernel, kernel.inputs(typical(kernel), torch.float32, DEVICE, 0))
        outputs = tensors(run(**arguments))
        inputs = [arguments[name] for name in kernel.differentiable]
        seen.append([*outputs, *(torch.autograd.grad(outputs, inputs, downstream_of(outputs, 1)) if inputs else ())])
    torch.testing.assert_close(seen[0], seen[1], equal_nan=True)


@every_kernel
def test_it_gives_the_same_result_twice(kernel):
    if DEVICE.type == "cuda" and not kernel.repeatable:
        pytest.skip("its sums are atomic: on a GPU their order is free")
    for dtype in kernel.dtypes:
        arguments = kernel.inputs(typical(kernel), dtype, DEVICE, 3)
        once, again = ([one.got for one in compare(kernel, arguments)] for _ in range(2))
        for a, b in zip(once, again, strict=True):
            assert torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


FALLBACK = """
import importlib, sys, torch
from torch.utils._python_dispatch import TorchDispatchMode

class Ours(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.namespace != "papernotes", f"{func} ran"
        return func(*args, **(kwargs or {}))

for slug in sys.argv[1:]:
    for kernel in importlib.import_module(f"snippets.{slug}.experiment").KERNELS:
        arguments = kernel.inputs(kernel.shapes[-1], torch.float32, torch.device("cpu"), 0)
        with Ours():
            got = kernel.op(**arguments)
        torch.testing.assert_close(got, kernel.twin(**arguments), rtol=0, atol=0, equal_nan=True)
        print(kernel.name)
"""


def without_the_interpreter(*command: str, **more: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | more
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


SLUGS = sorted({slug for slug, _ in KERNELS.values()})


def test_a_cpu_without_the_interpreter_falls_back_to_the_twin():
    said = without_the_interpreter("-c", FALLBACK, *SLUGS)
    assert sorted(said.split()) == sorted(KERNELS)


@pytest.fixture(scope="session")
def compiled():
    """Return what the compiler made of every kernel, as the build stored it; without a build, compile."""
    try:
        if CHOSEN:  # a stranger's, whose tests see no store
            raise ImportError
        from generator.build import build
    except ImportError:  # also a machine with a GPU and without the site's packages
        said = without_the_interpreter("-m", "generator.lab.compile", *SLUGS)
        return [json.loads(line) for line in said.splitlines()[:-1]]
    runs = build(ROOT).runs
    assert not runs.failures
    return [row for slug in SLUGS for kernel in runs.results[slug].kernels.values() for row in kernel["compiled"]]


@pytest.fixture(scope="session")
def audited(tmp_path_factory):
    """Read every kernel's intermediate code, in a process without the interpreter."""
    cache = str(tmp_path_factory.mktemp("triton"))
    said = without_the_interpreter("-m", "generator.lab.audit", *SLUGS, TRITON_CACHE_DIR=cache)
    return [json.loads(line) for line in said.splitlines()]


@every_kernel
def test_it_compiles_for_every_target_without_spills(kernel, compiled):
    rows = [row for row in compiled if row["kernel"] == kernel.name]
    assert {row["target"] for row in rows} == TARGETS
    for target in TARGETS:
        usual = torch.float32 if torch.float32 in kernel.dtypes else kernel.dtypes[0]
        dtypes = kernel.dtypes if target == FULL else [usual]
        names = {str(dtype).removeprefix("torch.") for dtype in dtypes}
        assert {row["dtype"] for row in rows if row["target"] == target} == names
    assert not [row for row in rows if row["spills"]]


@every_kernel
def test_full_blocks_are_read_by_wide_loads(kernel, compiled):
    if not kernel.vectorised:
        pytest.skip("it gathers")
    assert not [row for row in compiled if row["kernel"] == kernel.name and row["widest_load"] < 8]


@every_kernel
def test_it_computes_no_index_and_no_number_too_narrowly(kernel, audited):
    rows = [row for row in audited if row["kernel"] == kernel.name]
    assert rows
    assert not [fault for row in rows for fault in row["faults"]]
