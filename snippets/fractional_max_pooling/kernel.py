"""Fractional max-pooling in Triton, forward and backward: each output keeps, in one byte, which pixel of its region won.

The backward is a gather: a pixel lies in at most two regions a direction and asks those, so that nothing is added by
atomics and a GPU repeats its bits.
"""

import os
from collections.abc import Sequence
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import method

increments = method.increments  # drawing the regions is no work for a GPU

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# On a GPU the compiler sees inside the op; the interpreter is opaque to it.
_op = torch.library.custom_op if INTERPRETED else torch.library.triton_op
_wrap = (lambda kernel: kernel) if INTERPRETED else torch.library.wrap_triton
BLOCK = 1024


@triton.jit
def _place(height, width, BLOCK: tl.constexpr):
    """Return where the elements of a program lie, and of each the plane, row and column; a plane has fewer than 2³¹."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    area = tl.cast(height, tl.int64) * width
    plane = start // area
    # divided in 32 bits: GPUs have no 64-bit division
    within = (start - plane * area).to(tl.int32) + tl.arange(0, BLOCK)
    later, within = within // area.to(tl.int32), within % area.to(tl.int32)
    row, column = (within // width).to(tl.int64), (within % width).to(tl.int64)
    return start + tl.arange(0, BLOCK), plane + later.to(tl.int64), row, column


@triton.jit
def _forward(
    x_ptr, row_ptr, column_ptr, y_ptr, tap_ptr, n, height, width, out_height, out_width,
    TAPS: tl.constexpr, WORK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads the regions of BLOCK outputs and writes their maxima, and which of TAPS × TAPS pixels it was."""
    at, plane, i, j = _place(out_height, out_width, BLOCK)
    real = at < n
    top = tl.load(row_ptr + i, mask=real, other=0)
    left = tl.load(column_ptr + j, mask=real, other=0)
    # overlapping regions reach one pixel further, where there is one
    bottom = tl.minimum(tl.load(row_ptr + i + 1, mask=real, other=0) + (TAPS - 2), height)
    right = tl.minimum(tl.load(column_ptr + j + 1, mask=real, other=0) + (TAPS - 2), width)
    corner = x_ptr + (plane * height + top) * width + left
    best = tl.load(corner, mask=real, other=0.0).to(WORK)
    which = tl.zeros((BLOCK,), tl.int8)
    for down in tl.static_range(TAPS):
        for across in tl.static_range(TAPS):
            if down + across > 0:
                inside = real & (top + down < bottom) & (left + across < right)
                tap = tl.load(corner + down * tl.cast(width, tl.int64) + across, mask=inside, other=float("-inf")).to(
                    WORK
                )
                take = inside & ((tap > best) | (tap != tap))
                best = tl.where(take, tap, best)
                which = tl.where(take, down * TAPS + across, which).to(tl.int8)
    tl.store(y_ptr + at, best.to(y_ptr.dtype.element_ty), mask=real)
    tl.store(tap_ptr + at, which, mask=real)


@triton.jit
def _backward(
    grad_ptr, tap_ptr, row_ptr, column_ptr, home_row_ptr, home_column_ptr, out_ptr,
    n, height, width, out_height, out_width,
    TAPS: tl.constexpr, WORK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads what the regions over BLOCK pixels chose and were given, and writes dL/dx of the pixels."""
    at, plane, row, column = _place(height, width, BLOCK)
    real = at < n
    i = tl.load(home_row_ptr + row, mask=real, other=0)
    j = tl.load(home_column_ptr + column, mask=real, other=0)
    total = tl.zeros((BLOCK,), WORK)
    for up in tl.static_range(TAPS - 1):  # the region a pixel is at home in, and the one above that overlaps it
        for back in tl.static_range(TAPS - 1):
            over = real & (i >= up) & (j >= back) & (i - up < out_height) & (j - back < out_width)
            down = row - tl.load(row_ptr + i - up, mask=over, other=0)
            across = column - tl.load(column_ptr + j - back, mask=over, other=0)
            here = (plane * out_height + i - up) * out_width + j - back
            which = tl.load(tap_ptr + here, mask=over, other=-1)
            # a pixel beyond the region of a neighbor has no tap there: its number would be another's
            won = over & (down < TAPS) & (across < TAPS) & (which == down * TAPS + across)
            total += tl.load(grad_ptr + here, mask=won, other=0.0).to(WORK)
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=real)


def _work(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


@_op("papernotes::fractional_max_pool", mutates_args=())
def _pool_op(x: Tensor, rows: Tensor, columns: Tensor, overlapping: bool) -> tuple[Tensor, Tensor]:
    height, width = x.shape[-2:]
    shape = (*x.shape[:-2], rows.shape[0] - 1, columns.shape[0] - 1)
    y = torch.empty(shape, dtype=x.dtype, device=x.device)
    taps = torch.empty(shape, dtype=torch.int8, device=x.device)
    if n := y.numel():
        _wrap(_forward)[(triton.cdiv(n, BLOCK),)](
            x.contiguous(), rows, columns, y, taps, n, height, width, *shape[-2:],
            TAPS=3 if overlapping else 2, WORK=_work(x), BLOCK=BLOCK, num_warps=8,
        )  # fmt: skip
    return y, taps


@_op("papernotes::fractional_max_pool_backward", mutates_args=())
def _pool_backward_op(
    grad: Tensor, taps: Tensor, rows: Tensor, columns: Tensor, height: int, width: int, overlapping: bool
) -> Tensor:
    out = torch.empty((*grad.shape[:-2], height, width), dtype=grad.dtype, device=grad.device)
    if n := out.numel():
        # the region that a row or column starts in; past the last region it is their number
        home_row, home_column = (
            torch.bucketize(
                torch.arange(size, device=grad.device, dtype=torch.int32), starts, right=True, out_int32=True
            )
            - 1
            for size, starts in ((height, rows), (width, columns))
        )
        _wrap(_backward)[(triton.cdiv(n, BLOCK),)](
            grad.contiguous(), taps, rows, columns, home_row, home_column, out, n, height, width, *grad.shape[-2:],
            TAPS=3 if overlapping else 2, WORK=_work(grad), BLOCK=BLOCK, num_warps=8,
        )  # fmt: skip
    return out


@_pool_op.register_fake
def _(x, rows, columns, overlapping):
    shape = (*x.shape[:-2], rows.shape[0] - 1, columns.shape[0] - 1)
    return torch.empty(shape, dtype=x.dtype, device=x.device), torch.empty(shape, dtype=torch.int8, device=x.device)


@_pool_backward_op.register_fake
def _(grad, taps, rows, columns, height, width, overlapping):
    return torch.empty((*grad.shape[:-2], height, width), dtype=grad.dtype, device=grad.device)


def _keep(ctx, inputs, output):
    x, rows, columns, ctx.overlapping = inputs
    ctx.size = x.shape[-2:]
    ctx.save_for_backward(output[1], rows, columns)
    ctx.mark_non_differentiable(output[1])


def _back(ctx, grad, _):
    return _pool_backward_op(grad, *ctx.saved_tensors, *ctx.size, ctx.overlapping), None, None, None


_pool_op.register_autograd(_back, setup_context=_keep)


def fractional_max_pool(
    x: Tensor, rows: Sequence[int] | Tensor, columns: Sequence[int] | Tensor, overlapping: bool = True
) -> Tensor:
    """Return `method.fractional_max_pool`; by it on a CPU without Triton's interpreter, for integers, and beyond 2³¹ pixels.

    Raises ValueError as `method.fractional_max_pool` does.
    """
    if not ((x.is_cuda or INTERPRETED) and x.is_floating_point() and x.shape[-2:].numel() < 2**31 - BLOCK):
        return method.fractional_max_pool(x, rows, columns, overlapping)
    starts = [
        torch.tensor([0, *accumulate(method.check(steps, x, dim, name))], dtype=torch.int32, device=x.device)
        for steps, dim, name in ((rows, -2, "rows"), (columns, -1, "columns"))
    ]
    return _pool_op(x, *starts, bool(overlapping))[0]
