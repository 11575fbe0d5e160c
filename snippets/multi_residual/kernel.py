"""relu(x + Σ fᵢ) in Triton, forward and backward: x and the k branches are read once, whatever k is.

The backward needs the output alone, in every dtype. Floats of one type are whole multiples of its smallest subnormal,
and so is any sum of them, rounded or not: a sum above 0 cannot become 0 when it is stored. All branches share one
gradient, that of x, so theirs is a view of it and costs no write.
"""

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
BLOCK = 1024
UNROLL = 4
"""Branches whose loads are issued together, so that one's latency hides behind the others'."""


@triton.jit
def _residual_sum(
    x_ptr, f_ptr, y_ptr, n, step, rounds,
    TAIL: tl.constexpr, UNROLL: tl.constexpr, WORK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads BLOCK elements of x and the same elements of every branch, and writes those of y.

    Branch i lies `step` elements after branch i − 1; there are rounds · UNROLL + TAIL of them.
    """
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    f_ptr += start
    stride = tl.full((), step, tl.int64)  # k branches may reach beyond 2³¹ elements
    within = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), WORK)
    if start + BLOCK <= n:  # a full block needs no mask: its loads stay wide
        x = tl.load(x_ptr + at).to(WORK)
        for _ in range(rounds):
            for i in tl.static_range(UNROLL):
                total += tl.load(f_ptr + i * stride + within).to(WORK)
            f_ptr += UNROLL * stride
        for i in tl.static_range(TAIL):
            total += tl.load(f_ptr + i * stride + within).to(WORK)
        total += x
        # asked this way round, NaN is kept
        tl.store(y_ptr + at, tl.where(total <= 0, 0.0, total).to(y_ptr.dtype.element_ty))
    else:
        inside = at < n
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(WORK)
        for _ in range(rounds):
            for i in tl.static_range(UNROLL):
                total += tl.load(f_ptr + i * stride + within, mask=inside, other=0.0).to(WORK)
            f_ptr += UNROLL * stride
        for i in tl.static_range(TAIL):
            total += tl.load(f_ptr + i * stride + within, mask=inside, other=0.0).to(WORK)
        total += x
        tl.store(y_ptr + at, tl.where(total <= 0, 0.0, total).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _residual_sum_backward(grad_ptr, y_ptr, out_ptr, n, WORK: tl.constexpr, BLOCK: tl.constexpr):
    """One program reads BLOCK elements of dL/dy and of y, and writes the same elements of dL/dx."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        y = tl.load(y_ptr + at).to(WORK)
        grad = tl.load(grad_ptr + at).to(WORK)
        tl.store(out_ptr + at, tl.where(y <= 0, 0.0, grad).to(out_ptr.dtype.element_ty))
    else:
        y = tl.load(y_ptr + at, mask=at < n, other=0.0).to(WORK)
        grad = tl.load(grad_ptr + at, mask=at < n, other=0.0).to(WORK)
        tl.store(out_ptr + at, tl.where(y <= 0, 0.0, grad).to(out_ptr.dtype.element_ty), mask=at < n)


def _work(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _laid_out_as(like: Tensor, t: Tensor) -> Tensor:
    return t if t.stride() == like.stride() else torch.empty_like(like).copy_(t)


def _slabs(y: Tensor, branches: Tensor) -> Tensor:
    """Return the branches so that each lies in memory as y does; how far apart they lie is free."""
    if branches.shape[0] == 0 or branches.stride()[1:] == y.stride():
        return branches
    return y.new_empty_strided(branches.shape, (y.numel(), *y.stride())).copy_(branches)


@_op("papernotes::residual_sum", mutates_args=())
def _residual_sum_op(x: Tensor, branches: Tensor) -> Tensor:
    y = torch.empty_like(x)
    if n := x.numel():
        x, f = _laid_out_as(y, x), _slabs(y, branches)
        k = int(f.shape[0])
        _wrap(_residual_sum)[(triton.cdiv(n, BLOCK),)](
            x, f, y, n, f.stride(0), k // UNROLL, TAIL=k % UNROLL, UNROLL=UNROLL, WORK=_work(x), BLOCK=BLOCK
        )
    return y


@_op("papernotes::residual_sum_backward", mutates_args=())
def _residual_sum_backward_op(grad: Tensor, y: Tensor) -> Tensor:
    out = torch.empty_like(y)
    if n := y.numel():
        y, grad = _laid_out_as(out, y), _laid_out_as(out, grad)
        _wrap(_residual_sum_backward)[(triton.cdiv(n, BLOCK),)](grad, y, out, n, WORK=_work(y), BLOCK=BLOCK)
    return out


@_residual_sum_op.register_fake
def _(x, branches):
    return torch.empty_like(x)


@_residual_sum_backward_op.register_fake
def _(grad, y):
    return torch.empty_like(y)


def _keep(ctx, inputs, output):
    ctx.k = inputs[1].shape[0]
    ctx.save_for_backward(output)


def _back(ctx, grad):
    along_x = _residual_sum_backward_op(grad, *ctx.saved_tensors)
    # as torch's own sum does: one gradient in memory, seen k times
    return along_x, along_x.expand(ctx.k, *along_x.shape)


def _keep_output(ctx, inputs, output):
    ctx.save_for_backward(inputs[1])


def _back_twice(ctx, grad):
    # the backward is linear in dL/dy, and flat in y wherever it has a slope
    return _residual_sum_backward_op(grad, *ctx.saved_tensors), None


_residual_sum_op.register_autograd(_back, setup_context=_keep)
_residual_sum_backward_op.register_autograd(_back_twice, setup_context=_keep_output)


def residual_sum(x: Tensor, branches: Tensor) -> Tensor:
    """Return relu(x + Σ branches) as `method.residual_sum` does; on a CPU without Triton's interpreter, by it.

    Saves its output alone for the backward, whose gradient for `branches` is a view of that for x. Raises ValueError
    for what `method.residual_sum` refuses.
    """
    method._check(x, branches)
    if not (x.is_cuda or INTERPRETED):
        return method.residual_sum(x, branches)
    return _residual_sum_op(x, branches)
