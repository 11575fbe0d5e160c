"""The scaled residual in Triton, forward and backward: scale, sum and ReLU in one pass over memory.

The forward reads both inputs and writes the output; the backward reads its gradient and that output, which the next
block keeps alive anyway, so neither x nor the branch is saved. The ReLU's mask is thus that of the rounded output.
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


@triton.jit
def _relu_of_sum(x, branch, scale, dtype: tl.constexpr):
    # NaN < 0 is false, so NaN stays. Rounding before or after the ReLU gives the same value, and 0 where it underflows.
    total = x + scale * branch
    return tl.where(total < 0, 0.0, total).to(dtype)


@triton.jit
def _residual_forward(x_ptr, branch_ptr, y_ptr, scale: tl.float64, n, WORK: tl.constexpr, BLOCK: tl.constexpr):
    """One program reads BLOCK elements of x and of the branch and writes the same elements of y."""
    scale = tl.full((), scale, WORK)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:  # a full block needs no mask: its loads stay wide
        x, branch = tl.load(x_ptr + at).to(WORK), tl.load(branch_ptr + at).to(WORK)
        tl.store(y_ptr + at, _relu_of_sum(x, branch, scale, y_ptr.dtype.element_ty))
    else:
        inside = at < n
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(WORK)
        branch = tl.load(branch_ptr + at, mask=inside, other=0.0).to(WORK)
        tl.store(y_ptr + at, _relu_of_sum(x, branch, scale, y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _residual_backward(
    grad_ptr, y_ptr, dx_ptr, dbranch_ptr, scale: tl.float64, n, WORK: tl.constexpr, BLOCK: tl.constexpr
):
    """One program reads BLOCK elements of dL/dy and of y and writes the same elements of dL/dx and dL/dbranch."""
    scale = tl.full((), scale, WORK)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    dtype = dx_ptr.dtype.element_ty
    if start + BLOCK <= n:
        y, grad = tl.load(y_ptr + at).to(WORK), tl.load(grad_ptr + at).to(WORK)
        passed = tl.where(y <= 0, 0.0, grad)  # a NaN output passes its gradient on, as torch's ReLU does
        tl.store(dx_ptr + at, passed.to(dtype))
        tl.store(dbranch_ptr + at, (scale * passed).to(dtype))
    else:
        inside = at < n
        y = tl.load(y_ptr + at, mask=inside, other=0.0).to(WORK)
        grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(WORK)
        passed = tl.where(y <= 0, 0.0, grad)
        tl.store(dx_ptr + at, passed.to(dtype), mask=inside)
        tl.store(dbranch_ptr + at, (scale * passed).to(dtype), mask=inside)


def _work(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _laid_as(like: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Return the tensors in the dense layout of `like`, copied only where theirs differs."""
    return [t if t.stride() == like.stride() else torch.empty_like(like).copy_(t) for t in tensors]


@_op("papernotes::scaled_residual", mutates_args=())
def _residual_op(x: Tensor, branch: Tensor, scale: float) -> Tensor:
    y = torch.empty_like(x)
    if n := x.numel():
        x, branch = _laid_as(y, x, branch)
        _wrap(_residual_forward)[(triton.cdiv(n, BLOCK),)](x, branch, y, scale, n, WORK=_work(x), BLOCK=BLOCK)
    return y


@_op("papernotes::scaled_residual_backward", mutates_args=())
def _residual_backward_op(grad: Tensor, y: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    dx, dbranch = torch.empty_like(y), torch.empty_like(y)
    if n := y.numel():
        grad, y = _laid_as(dx, grad, y)
        _wrap(_residual_backward)[(triton.cdiv(n, BLOCK),)](grad, y, dx, dbranch, scale, n, WORK=_work(y), BLOCK=BLOCK)
    return dx, dbranch


@_residual_op.register_fake
def _(x, branch, scale):
    return torch.empty_like(x)


@_residual_backward_op.register_fake
def _(grad, y, scale):
    return torch.empty_like(y), torch.empty_like(y)


def _keep(ctx, inputs, output):
    ctx.scale = inputs[2]
    ctx.save_for_backward(output)


def _back(ctx, grad):
    return *_residual_backward_op(grad, *ctx.saved_tensors, ctx.scale), None


_residual_op.register_autograd(_back, setup_context=_keep)


def scaled_residual(x: Tensor, branch: Tensor, scale: float) -> Tensor:
    """Return relu(x + scale·branch) as `method.scaled_residual` does; on a CPU without Triton's interpreter, by it.

    Saves its output alone for the backward. Raises ValueError as `method.scaled_residual` does.
    """
    if not (x.is_cuda or INTERPRETED):
        return method.scaled_residual(x, branch, scale)
    method.check_residual(x, branch, scale)
    return _residual_op(x, branch, float(scale))
