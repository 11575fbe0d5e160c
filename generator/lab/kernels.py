"""One declaration a kernel comes in; parity against its twin in float64 goes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

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
    bench_shapes: Sequence[tuple[int, ...]] = ((64 * 1024 * 1024,),)
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


@dataclass(frozen=True)
class Parity:
    """The worst error over all shapes for one dtype and direction, as a share of what the tolerance allows."""

    dtype: str
    direction: str
    shapes: int
    worst_absolute: float
    worst_share: float

    @property
    def holds(self) -> bool:
        """Return whether every element lay within torch's tolerance for the dtype."""
        return self.worst_share <= 1.0


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


def parity(kernel: Kernel, device: torch.device, seed: int = 0) -> list[Parity]:
    """Compare the kernel with its twin on float64 copies of the same inputs, forward and backward."""
    found = []
    for dtype in kernel.dtypes:
        runs = [_compare(kernel, shape, dtype, device, seed) for shape in kernel.shapes]
        for direction in ("forward", "backward") if kernel.differentiable else ("forward",):
            worst = [run[direction] for run in runs]
            found.append(
                Parity(
                    dtype=str(dtype).removeprefix("torch."),
                    direction=direction,
                    shapes=len(kernel.shapes),
                    worst_absolute=max(absolute for absolute, _ in worst),
                    worst_share=max(share for _, share in worst),
                )
            )
    return found


def _compare(
    kernel: Kernel, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int
) -> dict[str, tuple[float, float]]:
    arguments = kernel.inputs(shape, dtype, device, seed)
    mine, theirs = _with_gradients(kernel, arguments, dtype), _with_gradients(kernel, arguments, torch.float64)
    got, want = _outputs(kernel.op(**mine)), _outputs(kernel.twin(**theirs))
    scale = max(1, kernel.reduction(arguments))
    errors = {"forward": _worst(got, want, scale, kernel.exact)}
    if kernel.differentiable:
        pairs = [(g, w) for g, w in zip(got, want, strict=True) if g.is_floating_point()]
        generator = torch.Generator().manual_seed(seed + 1)
        downstream = [torch.randn(w.shape, generator=generator, dtype=torch.float64).to(dtype) for _, w in pairs]
        mine_gradients = torch.autograd.grad(
            [g for g, _ in pairs], [mine[name] for name in kernel.differentiable], [d.to(device) for d in downstream]
        )
        their_gradients = torch.autograd.grad(
            [w for _, w in pairs],
            [theirs[name] for name in kernel.differentiable],
            [d.to(device, torch.float64) for d in downstream],
        )
        errors["backward"] = _worst(mine_gradients, their_gradients, scale, exact=False)
    return errors


def _with_gradients(kernel: Kernel, arguments: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    copies = {}
    for name, value in arguments.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            copies[name] = value.detach().to(dtype).requires_grad_(name in kernel.differentiable)
        else:
            copies[name] = value
    return copies


def _outputs(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [one for one in result if isinstance(one, Tensor)]


def _worst(got: Sequence[Tensor], want: Sequence[Tensor], scale: int, exact: bool) -> tuple[float, float]:
    """Return the largest absolute error, and the largest as a share of what is allowed."""
    absolute, share = 0.0, 0.0
    for g, w in zip(got, want, strict=True):
        if g.shape != w.shape:
            raise AssertionError(f"shape {tuple(g.shape)} where the twin gives {tuple(w.shape)}")
        if not g.numel():
            continue
        w = w.double()
        error = (g.double() - w).abs()
        error[(g.double() == w) | (g.isnan() & w.isnan())] = 0.0
        rtol, atol = (0.0, 0.0) if exact else TOLERANCE.get(g.dtype, (0.0, 0.0))
        allowed = rtol * w.abs() + atol * scale**0.5
        over = torch.where(error == 0, error, error / allowed.clamp_min(torch.finfo(torch.float64).tiny))
        absolute = max(absolute, error.nan_to_num(nan=torch.inf).max().item())
        share = max(share, over.nan_to_num(nan=torch.inf).max().item())
    return absolute, share
