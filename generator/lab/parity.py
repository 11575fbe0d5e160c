"""A declared kernel comes in; how it agrees with its twin in float64 goes out, and where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from generator.lab.guards import poisoned
from generator.lab.kernels import TOLERANCE, Kernel


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


@dataclass(frozen=True)
class Comparison:
    """One tensor of the kernel's beside the twin's in float64, and the error of each element."""

    direction: str
    name: str
    got: Tensor
    want: Tensor
    absolute: Tensor
    share: Tensor
    """The error over what the tolerance allows; above 1 it is wrong."""

    @property
    def worst(self) -> tuple[float, float]:
        """Return the largest absolute error, and the largest as a share of what is allowed."""
        return (self.absolute.max().item(), self.share.max().item()) if self.share.numel() else (0.0, 0.0)


def parity(kernel: Kernel, device: torch.device, seed: int = 0) -> list[Parity]:
    """Compare the kernel with its twin on float64 copies of the same inputs, forward and backward."""
    found = []
    for dtype in kernel.dtypes:
        worst: dict[str, list[tuple[float, float]]] = {}
        for shape in kernel.shapes:
            for one in compare(kernel, kernel.inputs(shape, dtype, device, seed), seed):
                worst.setdefault(one.direction, []).append(one.worst)
        found += [
            Parity(
                dtype=str(dtype).removeprefix("torch."),
                direction=direction,
                shapes=len(kernel.shapes),
                worst_absolute=max(absolute for absolute, _ in errors),
                worst_share=max(share for _, share in errors),
            )
            for direction, errors in worst.items()
        ]
    return found


def compare(kernel: Kernel, arguments: Mapping[str, Any], seed: int = 0, lay: Any = None) -> Iterator[Comparison]:
    """Yield each output, then each gradient, beside the twin's; `lay` places the gradient that comes from downstream."""
    scale = max(1, kernel.reduction(arguments)) ** 0.5
    mine, theirs = leaves(kernel, arguments), leaves(kernel, arguments, torch.float64)
    want = tensors(kernel.twin(**theirs))
    with poisoned():
        got = tensors(kernel.op(**mine))
    for number, (g, w) in enumerate(zip(got, want, strict=True)):
        yield _beside("forward", f"output {number}", g, w, scale, kernel.exact)
    if not kernel.differentiable:
        return
    carrying = [(g, w) for g, w in zip(got, want, strict=True) if g.is_floating_point()]
    downstream = [lay(d) if lay else d for d in downstream_of([g for g, _ in carrying], seed + 1)]
    their_gradients = torch.autograd.grad(
        [w for _, w in carrying], [theirs[name] for name in kernel.differentiable], [d.double() for d in downstream]
    )
    with poisoned():
        my_gradients = torch.autograd.grad(
            [g for g, _ in carrying], [mine[name] for name in kernel.differentiable], downstream
        )
    for name, g, w in zip(kernel.differentiable, my_gradients, their_gradients, strict=True):
        yield _beside("backward", f"the gradient of {name}", g, w, scale, exact=False)


def leaves(kernel: Kernel, arguments: Mapping[str, Any], dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Return the arguments with a gradient asked of the differentiable ones; floating ones as `dtype`, where given."""
    copies = {}
    for name, value in arguments.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            copies[name] = value.detach().to(dtype or value.dtype).requires_grad_(name in kernel.differentiable)
        else:
            copies[name] = value
    return copies


def tensors(result: Any) -> list[Tensor]:
    """Return the tensors among what an op returned."""
    return [result] if isinstance(result, Tensor) else [one for one in result if isinstance(one, Tensor)]


def downstream_of(outputs: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return a random gradient for each output, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in outputs]
    return [d.to(one.dtype).to(one.device) for d, one in zip(drawn, outputs, strict=True)]


def _beside(direction: str, name: str, got: Tensor, want: Tensor, scale: float, exact: bool) -> Comparison:
    """Measure the error of every element: none where both are NaN, infinite where one is."""
    if got.shape != want.shape:
        raise AssertionError(f"{direction}: {name} has shape {tuple(got.shape)}, the twin's {tuple(want.shape)}")
    g, w = got.detach().double(), want.detach().double()
    error = (g - w).abs()
    # an answer too large for the dtype is its infinity
    error[(g == w) | (g.isnan() & w.isnan()) | (g.isinf() & (g == w.to(got.dtype).double()))] = 0.0
    error = error.nan_to_num(nan=torch.inf)
    rtol, atol = (0.0, 0.0) if exact else TOLERANCE.get(got.dtype, (0.0, 0.0))
    allowed = rtol * w.abs().nan_to_num() + atol * scale
    share = torch.where(error == 0, error, error / allowed.clamp_min(torch.finfo(torch.float64).tiny))
    return Comparison(direction, name, got.detach(), w, error, share.nan_to_num(nan=torch.inf))


def explain(one: Comparison, kernel: Kernel, arguments: Mapping[str, Any], about: str) -> str:
    """Say what is wrong with a comparison that fails: where the worst element is, its value, the twin's, its inputs."""
    flat = int(one.share.flatten().argmax())
    at = tuple(int(n) for n in torch.unravel_index(torch.tensor(flat), one.share.shape))
    got, want = one.got[at].item(), one.want[at].item()
    fault = "off by more than the tolerance"
    if got != got:
        fault = "NaN where the twin has none: an element never written, or read from outside its input"
    elif want != want or abs(want) == float("inf"):
        fault = "NaN or infinity lost"
    lines = [
        f"{kernel.name}: {one.direction}, {one.name}: {fault}",
        f"  {about}",
        f"  {int((one.share > 1).sum())} of {one.share.numel()} elements; the worst at {at}",
        f"  is {got!r}, should be {want!r}: {one.share[at].item():.3g} times what is allowed",
    ]
    for name, value in arguments.items():
        if isinstance(value, Tensor) and value.shape == one.share.shape:
            lines.append(f"  {name} there: {value[at].item()!r}")
        elif not isinstance(value, Tensor):
            lines.append(f"  {name}: {value!r}")
    return "\n".join(lines)


def agree(kernel: Kernel, arguments: Mapping[str, Any], seed: int, about: str, lay: Any = None) -> None:
    """Raise AssertionError where the kernel and its twin disagree, or where the kernel changes what it was given."""
    before = {name: _bytes(value) for name, value in arguments.items() if isinstance(value, Tensor)}
    for one in compare(kernel, arguments, seed, lay):
        # first: a kernel that changes its input has spoilt the twin's view of it, too
        if changed := [name for name in before if not torch.equal(_bytes(arguments[name]), before[name])]:
            raise AssertionError(f"{kernel.name}: {one.direction}: changes its input {', '.join(changed)}\n  {about}")
        if one.worst[1] > 1.0:
            raise AssertionError(explain(one, kernel, arguments, about))


def _bytes(tensor: Tensor) -> Tensor:
    """Return a copy of everything in the tensor's storage, bit by bit: NaN equals NaN there."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage()).clone()
