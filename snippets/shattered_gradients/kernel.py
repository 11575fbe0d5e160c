"""The co-activation matrix in Triton: masks live in registers, counts are integers, only [batch, batch] is written."""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import method

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# On a GPU the compiler sees inside the op; the interpreter is opaque to it.
_op = torch.library.custom_op if INTERPRETED else torch.library.triton_op
_wrap = (lambda kernel: kernel) if INTERPRETED else torch.library.wrap_triton
TILE, STEP = 64, 32
FULL_MACHINE, LEAST_STEPS = 512, 8
"""Fewer tiles than fill a large GPU share out the units as well, each program with some steps to do."""
MOST_UNITS = 2**31 - 1


@triton.jit
def _active(x):
    # float32 first: the interpreter misreads a bf16 comparison. NaN > 0 is false, and 0 stands for 'outside'.
    return (x.to(tl.float32) if x.dtype.primitive_bitwidth < 32 else x) > 0


@triton.jit
def _share_of(both, units, DOUBLE: tl.constexpr):
    # The one rounding of the result: both numbers are exact as floats, and either division rounds correctly.
    if DOUBLE:
        c = both.to(tl.float64) / tl.cast(units, tl.float64)
    else:
        c = tl.div_rn(both.to(tl.float32), tl.cast(units, tl.float32))
    return c


@triton.jit
def _co_activation(
    x_ptr, out_ptr, batch, units, row_stride, share,
    SHARED: tl.constexpr, DOUBLE: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program reads TILE + TILE rows over `share` units and writes one tile of C and its mirror image.

    Where programs share the units of a tile, they add the bare counts to an integer `out_ptr` instead.
    """
    i, j = tl.program_id(0), tl.program_id(1)
    if i <= j:  # C is symmetric: the tiles below the diagonal are written by those above
        rows = i.to(tl.int64) * TILE + tl.arange(0, TILE)
        columns = j.to(tl.int64) * TILE + tl.arange(0, TILE)
        # Rows beyond the batch repeat the last one, so that no load needs a row mask; their counts are not stored.
        left = x_ptr + tl.minimum(rows, batch - 1)[:, None] * row_stride
        right = x_ptr + tl.minimum(columns, batch - 1)[None, :] * row_stride
        first = tl.program_id(2).to(tl.int64) * share
        last = tl.minimum(first + share, units)
        full = first + (last - first) // STEP * STEP
        step = tl.arange(0, STEP)
        both = tl.zeros((TILE, TILE), dtype=tl.int32)
        for start in range(first, full, STEP):
            at = start + step
            a, b = _active(tl.load(left + at[None, :])), _active(tl.load(right + at[:, None]))
            both = tl.dot(a.to(tl.int8), b.to(tl.int8), both, out_dtype=tl.int32)
        if full < last:
            at = full + step
            inside = at < last
            a = _active(tl.load(left + at[None, :], mask=inside[None, :], other=0.0))
            b = _active(tl.load(right + at[:, None], mask=inside[:, None], other=0.0))
            both = tl.dot(a.to(tl.int8), b.to(tl.int8), both, out_dtype=tl.int32)
        kept = (rows < batch)[:, None] & (columns < batch)[None, :]
        here = out_ptr + rows[:, None] * batch + columns[None, :]
        mirror = out_ptr + rows[:, None] + columns[None, :] * batch
        if SHARED:  # integer sums do not depend on their order: the same bits every time
            tl.atomic_add(here, both, mask=kept, sem="relaxed")
            if i < j:
                tl.atomic_add(mirror, both, mask=kept, sem="relaxed")
        else:
            c = _share_of(both, units, DOUBLE).to(out_ptr.dtype.element_ty)
            tl.store(here, c, mask=kept)
            if i < j:
                tl.store(mirror, c, mask=kept)


def _shares(batch: int, units: int) -> tuple[int, int]:
    """Return into how many shares the units are cut, and the units in each."""
    tiles = triton.cdiv(batch, TILE)
    steps = triton.cdiv(units, STEP)
    wanted = min(FULL_MACHINE * 2 // (tiles * (tiles + 1)), steps // LEAST_STEPS)
    share = triton.cdiv(steps, max(1, wanted)) * STEP
    return triton.cdiv(units, share), share


@_op("papernotes::co_activation", mutates_args=())
def _co_activation_op(x: Tensor) -> Tensor:
    batch, units = x.shape
    out = x.new_empty((batch, batch), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    if not batch or not units:
        return out.fill_(float("nan"))
    x = x if x.stride(1) == 1 else x.contiguous()  # wide loads run along the units
    shares, share = _shares(batch, units)
    into = out if shares == 1 else torch.zeros_like(out, dtype=torch.int32)
    double = x.dtype == torch.float64 or units > method.EXACT_UNITS
    grid = (triton.cdiv(batch, TILE), triton.cdiv(batch, TILE), shares)
    sizes = {"SHARED": shares > 1, "DOUBLE": double, "TILE": TILE, "STEP": STEP}
    _wrap(_co_activation)[grid](x, into, batch, units, x.stride(0), share, **sizes)
    return out if shares == 1 else out.copy_(into.double() / units)


@_co_activation_op.register_fake
def _(x):
    return x.new_empty((x.shape[0], x.shape[0]), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def co_activation(x: Tensor) -> Tensor:
    """Return C as `method.co_activation` does; on a CPU without Triton's interpreter, by `method.co_activation`.

    Counts are int32, exact up to 2³¹ − 1 units; raise ValueError beyond, and unless x is a floating matrix.
    """
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"x must be a floating [batch, unit] matrix, not {x.dtype} of shape {tuple(x.shape)}")
    if x.shape[1] > MOST_UNITS:
        raise ValueError(f"x has {x.shape[1]} units, and int32 counts hold {MOST_UNITS}; add up the counts of slices")
    if not (x.is_cuda or INTERPRETED):
        return method.co_activation(x)
    return _co_activation_op(x.detach())  # piecewise constant in x: there is no gradient to carry
