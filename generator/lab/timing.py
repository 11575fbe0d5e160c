"""A declared kernel at one size comes in; its time, and that of eager and compiled torch, goes out, or why it does not."""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from generator.lab.kernels import Kernel
from generator.lab.machine import Quantiles, Timer, cache_bytes
from generator.lab.parity import parity

NOISE = 0.03
"""How far, as a share, two timings of one kernel may lie apart: the goals are told apart by 5 %, and this is under it."""
ATTEMPTS = 2
ROUNDS = 3
CACHES = 4
"""Inputs smaller than this many last-level caches are drawn several times over and rotated, so that none stays cached."""
SETS = 8


class Refused(Exception):  # noqa: N818 — a verdict, not a fault of this program
    """A kernel whose time must not be recorded; the message says why."""


def measure(
    kernel: Kernel,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    directions: Sequence[str],
    device: torch.device,
    timer: Timer,
    seed: int,
    compiler: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each direction, and why there is none where there is none.

    Raises Refused where the kernel is wrong, before the timing or after it.
    """
    torch.compiler.reset()  # a compiled function gives up after a few sizes and dtypes: each case starts afresh
    compiler = compiler or _compiled
    rows, refusals = [], []
    with _reusable_graphs():
        _require_parity(kernel, shape, dtype, device, seed + 1, "before timing")
        sets = _sets(kernel, shape, dtype, device, seed)
        for direction in directions:
            try:
                rows.append(_row(kernel, shape, dtype, direction, sets, timer, seed, compiler))
            except Refused as why:
                refusals.append(f"{direction}: {why}")
        _require_parity(kernel, shape, dtype, device, seed + 2, "after timing")
    return rows, refusals


def _require_parity(
    kernel: Kernel, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int, when: str
) -> None:
    """Raise Refused unless the kernel agrees with its twin in float64 at the very size that is timed."""
    for one in parity(replace(kernel, shapes=(shape,), dtypes=(dtype,)), device, seed):
        if not one.holds:
            raise Refused(
                f"wrong {when}: {one.direction} is off by {one.worst_absolute:.3g}, "
                f"{one.worst_share:.3g} times the tolerance"
            )


def _row(
    kernel: Kernel,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    direction: str,
    sets: Sequence[dict[str, Any]],
    timer: Timer,
    seed: int,
    compiler: Callable[..., Callable[..., Any]],
) -> dict[str, Any]:
    eager = kernel.eager or kernel.twin
    calls = {"kernel": _ready(kernel, kernel.op, sets, direction, seed)}
    absent = {}
    for provider, make in (("eager", lambda: eager), ("compile", lambda: compiler(eager))):
        try:
            calls[provider] = _ready(kernel, make(), sets, direction, seed)
        except Exception as error:  # what torch cannot do here is a fact for the row, not the kernel's fault
            absent[provider] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    quantiles, noise = _quiet(calls, timer)
    forward = direction == "forward"
    count = kernel.bytes_moved if forward else kernel.backward_bytes
    return {
        "shape": list(shape),
        "dtype": str(dtype).removeprefix("torch."),
        "direction": direction,
        "ms": {provider: list(values) for provider, values in quantiles.items()},
        "absent": absent,
        "noise": noise,
        "bytes": int(count(sets[0])) if count else None,
        "operations": int(kernel.operations(sets[0])) if forward else None,
        "input_sets": len(sets),
        "seed": seed,
    }


def _quiet(calls: Mapping[str, Callable[[], Any]], timer: Timer) -> tuple[dict[str, Quantiles], float]:
    """Time the providers, the kernel twice; raise Refused where its two times lie too far apart, again and again."""
    for _ in range(ATTEMPTS):
        taken = _interleaved({**calls, "again": calls["kernel"]}, timer)
        again = taken.pop("again")[0]
        once = taken["kernel"][0]
        noise = abs(again - once) / min(again, once)
        if noise <= NOISE:
            return taken, noise
    raise Refused(f"noise: the same kernel took {once:.4g} and {again:.4g} ms, {noise:.1%} apart (bound {NOISE:.0%})")


def _interleaved(calls: Mapping[str, Callable[[], Any]], timer: Timer) -> dict[str, Quantiles]:
    """Return each provider's quantiles in ms, the medians over rounds that alternate in order against drift."""
    taken: dict[str, list[Quantiles]] = {name: [] for name in calls}
    for n in range(ROUNDS):
        for name in reversed(list(calls)) if n % 2 else calls:
            taken[name].append(timer(calls[name]))
    return {
        name: tuple(statistics.median(values) for values in zip(*many, strict=True))  # type: ignore[misc]
        for name, many in taken.items()
    }


def _ready(
    kernel: Kernel, function: Callable[..., Any], sets: Sequence[dict[str, Any]], direction: str, seed: int
) -> Callable[[], Any]:
    """Return a call that takes the next set of inputs each time; every set was called once, so all is compiled."""
    if direction == "forward":
        calls = [_forward(function, arguments) for arguments in sets]
    else:
        calls = [_backward(kernel, function, arguments, seed) for arguments in sets]
    for call in calls:
        call()
    turn = itertools.cycle(calls)
    return lambda: next(turn)()


def _forward(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Callable[[], Any]:
    return lambda: function(**arguments)


def _backward(
    kernel: Kernel, function: Callable[..., Any], arguments: Mapping[str, Any], seed: int
) -> Callable[[], Any]:
    leaves = {name: arguments[name].detach().requires_grad_() for name in kernel.differentiable}
    result = function(**{**arguments, **leaves})
    outputs = [one for one in _tensors(result if isinstance(result, tuple | list) else [result]) if one.requires_grad]
    generator = torch.Generator(outputs[0].device).manual_seed(seed)
    downstream = [torch.randn(y.shape, dtype=y.dtype, device=y.device, generator=generator) for y in outputs]
    return lambda: torch.autograd.grad(outputs, list(leaves.values()), downstream, retain_graph=True)


def _sets(
    kernel: Kernel, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int
) -> list[dict[str, Any]]:
    """Draw the inputs, as often as it takes for them to outgrow the cache."""
    first = kernel.inputs(shape, dtype, device, seed)
    size = sum(one.numel() * one.element_size() for one in _tensors(first.values()))
    count = min(SETS, max(1, -(-CACHES * cache_bytes(device) // max(size, 1))))
    return [first, *(kernel.inputs(shape, dtype, device, seed + 1000 + n) for n in range(1, count))]


def _tensors(values: Any) -> list[Tensor]:
    return [one for one in values if isinstance(one, Tensor)]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)


@contextlib.contextmanager
def _reusable_graphs() -> Iterator[None]:
    """Let a compiled backward run many times over: otherwise it frees what the forward kept for it."""
    import torch._functorch.config as functorch

    with functorch.patch(donated_buffer=False):
        yield
