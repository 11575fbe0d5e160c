"""A block of code comes in; inside it fresh memory holds NaN, and a kernel that leaves its tensors raises."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

PAD = 2048
"""Elements of NaN on either side of an input: more than a block, so that whoever runs past the end meets them."""
_EMPTY = ("empty", "empty_like", "empty_strided", "empty_permuted")
_SET = ("zeros", "zeros_like", "full", "full_like", "ones", "ones_like")


@contextlib.contextmanager
def poisoned() -> Iterator[list[str]]:
    """Fill what torch leaves uninitialised with NaN (the largest integer); yield the allocations made, as they come.

    The functions are patched by name: a dispatch mode is switched off inside a custom op, which is where kernels
    allocate, and torch's own deterministic fill changes which algorithm an op takes.
    """
    made: list[str] = []
    with contextlib.ExitStack() as stack:
        for owner, names in (
            (torch, _EMPTY + _SET),
            (Tensor, ("new_empty", "new_empty_strided", "new_zeros", "new_full")),
        ):
            for name in names:
                patched = _poisoning(name, getattr(owner, name), made)
                stack.enter_context(mock.patch.object(owner, name, patched))
        yield made


def _poisoning(name: str, allocate: Callable[..., Tensor], made: list[str]) -> Callable[..., Tensor]:
    def allocating(*arguments: Any, **named: Any) -> Tensor:
        fresh = allocate(*arguments, **named)
        if "empty" in name and type(fresh) is Tensor and not fresh.is_meta:
            with torch.no_grad():
                fresh.fill_(_poison(fresh.dtype))
        made.append(name)
        return fresh

    return allocating


def _poison(dtype: torch.dtype) -> float | int | bool:
    if dtype.is_floating_point or dtype.is_complex:
        return math.nan
    return True if dtype == torch.bool else torch.iinfo(dtype).max


def padded(values: Tensor, strides: tuple[int, ...], misaligned: int = 0) -> Tensor:
    """Return the values with these strides, inside a larger buffer of NaN: between, before and behind them."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True))
    extent = extent if values.numel() else 0
    buffer = torch.full((extent + 2 * PAD,), _poison(values.dtype), dtype=values.dtype, device=values.device)
    view = buffer.as_strided(values.shape, strides, PAD + misaligned)
    where = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)
    view[where] = values[where]
    return view


class OutOfBounds(Exception):  # noqa: N818 — what it is, not that it is an error
    """A kernel touched memory that belongs to none of the tensors it was given."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Check every address that an interpreted kernel reads or writes: NaN in a lane that is dropped later shows nowhere.

    Only what the interpreter runs is checked; on a GPU this does nothing.
    """
    try:
        from triton.runtime.interpreter import GridExecutor, InterpreterBuilder
    except ImportError:
        yield
        return
    extents: list[tuple[str, int, int]] = []
    launch = GridExecutor.__call__

    def launching(executor: Any, *arguments: Any, **named: Any) -> Any:
        given = {**dict(zip(executor.arg_names, arguments, strict=False)), **named}
        extents[:] = [(name, *_extent(one)) for name, one in given.items() if isinstance(one, Tensor)]
        return launch(executor, *arguments, **named)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(GridExecutor, "__call__", launching))
        # which argument holds the addresses, and which the mask
        for name, verb, pointers, mask in (
            ("create_masked_load", "reads", 0, 1),
            ("create_masked_store", "writes", 0, 2),
            ("create_atomic_rmw", "adds", 1, 3),
        ):
            checking = _checking(getattr(InterpreterBuilder, name), verb, pointers, mask, extents)
            stack.enter_context(mock.patch.object(InterpreterBuilder, name, checking))
        yield


def _checking(
    create: Callable[..., Any], verb: str, pointers: int, mask: int, extents: list[tuple[str, int, int]]
) -> Callable[..., Any]:
    def checked(builder: Any, *arguments: Any) -> Any:
        handle = arguments[pointers]
        size = max(1, handle.get_element_ty().primitive_bitwidth // 8)
        active = handle.data[arguments[mask].data.astype(bool)].astype("int64")
        if active.size:
            _require_inside(active, size, verb, extents)
        return create(builder, *arguments)

    return checked


def _require_inside(active: Any, size: int, verb: str, extents: list[tuple[str, int, int]]) -> None:
    low, high = active.min(), active.max() + size
    if any(begin <= low and high <= end for _, begin, end in extents):
        return
    outside = active == active
    for _, begin, end in extents:
        outside &= (active < begin) | (active + size > end)
    if outside.any():
        first = int(active[outside][0])
        name, begin, end = min(extents, key=lambda one: max(one[1] - first, first + size - one[2]))
        where = f"past the end of {name}" if first >= begin else f"before the start of {name}"
        away = first - end if first >= begin else begin - first
        raise OutOfBounds(f"{verb} {where}: {int(outside.sum())} of {outside.size} lanes, the first {away} bytes away")


def _extent(tensor: Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (1 + last) * tensor.element_size() * bool(tensor.numel())
