"""What a kernel is declared with, from which its parity, compilation and benchmark are derived."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

# torch's own defaults (torch.testing.assert_close): relative, absolute.
TOLERANCE = {
    torch.float16: (1e-3, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float32: (1.3e-6, 1e-5),
    torch.float64: (1e-7, 1e-7),
}

ELEMENTWISE_SHAPES = ((), (0, 3), (1,), (7,), (1023,), (1024,), (1025,), (31, 67), (2, 3, 5, 7), (4099,))
"""Shapes every elementwise kernel must get right: empty, one, primes, powers of two and one off, several blocks."""


@dataclass(frozen=True)
class Kernel:
    """A Triton kernel, declared once in `experiment.py` as a member of `KERNELS`.

    `inputs(shape, dtype, device, seed)` returns the keyword arguments of `op` and `twin` alike, drawn afresh from the
    seed. `differentiable` names the arguments that carry a gradient; without any, there is no backward.
    `bytes_moved` and `operations` take those arguments and count the forward's least work: every input read once, every
    output written once. `reduction(arguments)` is the longest sum behind one output, by which atol is scaled.
    `exact` marks ops whose results are integers or copies: they must agree to the last bit.
    """

    name: str
    op: Callable[..., Any]
    twin: Callable[..., Any]
    inputs: Callable[[tuple[int, ...], torch.dtype, torch.device, int], dict[str, Any]]
    bytes_moved: Callable[[Mapping[str, Any]], int]
    operations: Callable[[Mapping[str, Any]], int]
    shapes: Sequence[tuple[int, ...]] = ELEMENTWISE_SHAPES
    bench_shapes: Sequence[tuple[int, ...]] = ((128 * 1024 * 1024,),)
    compile_shape: tuple[int, ...] = ()
    """The shape whose launches are compiled ahead of time; default: the largest of `shapes` in multiples of 16."""
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float16, torch.bfloat16)
    differentiable: Sequence[str] = ()
    backward_bytes: Callable[[Mapping[str, Any]], int] | None = None
    reduction: Callable[[Mapping[str, Any]], int] = field(default=lambda arguments: 1)
    exact: bool = False
    oracle: str = ""
    """What the parity is measured against, in words, for the page."""
    eager: Callable[..., Any] | None = None
    """What torch has for the same, timed as eager and compiled; without it, the twin."""
    special: Sequence[str] | None = None
    """Floating inputs that may hold any value: 0, NaN, infinity; by default all of them."""
    layouts: bool = True
    """Whether inputs may be transposed, sliced, expanded or channels-last."""
    vectorised: bool = True
    """Whether full blocks are read by wide loads; a gather's are as wide as its elements."""
    repeatable: bool = True
    """Whether a GPU gives the same bits each time; atomic sums of floats do not."""


def describe(kernel: Kernel) -> dict[str, Any]:
    """Return what the page says of a kernel before anything is measured: oracle, dtypes, and its least work."""
    shape = kernel.bench_shapes[0]
    example = kernel.inputs(kernel.shapes[-1], kernel.dtypes[0], torch.device("cpu"), 0)
    return {
        "oracle": kernel.oracle,
        "backward": bool(kernel.differentiable),
        "exact": kernel.exact,
        "bench_shape": list(shape),
        "example_shape": list(kernel.shapes[-1]),
        "bytes_moved": int(kernel.bytes_moved(example)),
        "operations": int(kernel.operations(example)),
    }
