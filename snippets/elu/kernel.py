"""ELU in Triton, forward and backward; the backward needs the output alone wherever the output can tell the slope.

Below 0 the slope is f(x) + α, so fp32 and fp64 save no input. A rounded fp16 or bf16 output cannot carry that sum near
saturation, nor can any where α is large, and with α < 0 its sign no longer tells the branch: there the input is kept.
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
LARGEST_ALPHA = 16.0
"""Up to here f(x) + α in fp32 is within torch's 1e-5 of the slope; its rounding error grows with α."""


@triton.jit
def _expm1(x, TERMS: tl.constexpr):
    """exp(x) − 1 for x ≤ 0: a Taylor sum where exp would cancel against 1, exp elsewhere."""
    # 1 + x/2 (1 + x/3 (1 + … x/TERMS)): no logarithm, so a hardware log's absolute error near 1 cannot enter.
    near = tl.where(x > -0.5, x, 0.0)
    series = 1.0 + near * (1.0 / TERMS)
    for k in tl.static_range(TERMS - 1, 1, -1):
        series = 1.0 + near * series * (1.0 / k)
    return tl.where(x > -0.5, near * series, tl.exp(x) - 1.0)


@triton.jit
def _elu(x, alpha, WORK: tl.constexpr):
    TERMS: tl.constexpr = 15 if tl.float64 == WORK else 8  # the term left out is below half a unit in the last place
    return tl.where(x > 0, x, alpha * _expm1(tl.where(x > 0, 0.0, x), TERMS))


@triton.jit
def _elu_forward(x_ptr, y_ptr, alpha: tl.float64, n, WORK: tl.constexpr, BLOCK: tl.constexpr):
    """One program reads BLOCK elements of x and writes the same elements of y, which may be x itself."""
    alpha = tl.full((), alpha, WORK)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:  # a full block needs no mask: its loads stay wide
        x = tl.load(x_ptr + at).to(WORK)
        tl.store(y_ptr + at, _elu(x, alpha, WORK).to(y_ptr.dtype.element_ty))
    else:
        x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(WORK)
        tl.store(y_ptr + at, _elu(x, alpha, WORK).to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _slope(kept, alpha, FROM_OUTPUT: tl.constexpr):
    # f' = 1 above 0, f(x) + α = α·exp(x) elsewhere; NaN takes that branch and stays NaN, as in torch on a CPU.
    below = kept + alpha if FROM_OUTPUT else alpha * tl.exp(tl.where(kept > 0, 0.0, kept))
    return tl.where(kept > 0, 1.0, below)


@triton.jit
def _elu_backward(
    grad_ptr,
    kept_ptr,
    out_ptr,
    alpha: tl.float64,
    n,
    FROM_OUTPUT: tl.constexpr,
    WORK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program reads BLOCK elements of dL/dy and of y (or x) and writes the same elements of dL/dx."""
    alpha = tl.full((), alpha, WORK)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        slope = _slope(tl.load(kept_ptr + at).to(WORK), alpha, FROM_OUTPUT)
        tl.store(out_ptr + at, (tl.load(grad_ptr + at).to(WORK) * slope).to(out_ptr.dtype.element_ty))
    else:
        slope = _slope(tl.load(kept_ptr + at, mask=at < n, other=0.0).to(WORK), alpha, FROM_OUTPUT)
        grad = tl.load(grad_ptr + at, mask=at < n, other=0.0).to(WORK)
        tl.store(out_ptr + at, (grad * slope).to(out_ptr.dtype.element_ty), mask=at < n)


def _work(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _output_tells_slope(x: Tensor, alpha: float) -> bool:
    return x.dtype in (torch.float32, torch.float64) and 0 <= alpha <= LARGEST_ALPHA


def _launch_forward(x: Tensor, y: Tensor, alpha: float) -> None:
    if n := x.numel():
        _wrap(_elu_forward)[(triton.cdiv(n, BLOCK),)](x, y, alpha, n, WORK=_work(x), BLOCK=BLOCK)


@_op("papernotes::elu", mutates_args=())
def _elu_op(x: Tensor, alpha: float) -> Tensor:
    y = torch.empty_like(x)
    _launch_forward(x if x.stride() == y.stride() else torch.empty_like(y).copy_(x), y, alpha)
    return y


@_op("papernotes::elu_", mutates_args={"x"})
def _elu_in_place_op(x: Tensor, alpha: float) -> None:
    y = torch.empty_like(x, device="meta")  # dense strides: those of x, unless x has gaps or overlaps
    if x.stride() == y.stride():
        _launch_forward(x, x, alpha)
    else:
        dense = torch.empty_like(x).copy_(x)
        _launch_forward(dense, dense, alpha)
        x.copy_(dense)


@_op("papernotes::elu_backward", mutates_args=())
def _elu_backward_op(grad: Tensor, kept: Tensor, alpha: float, from_output: bool) -> Tensor:
    out = torch.empty_like(kept)
    kept, grad = (t if t.stride() == out.stride() else torch.empty_like(out).copy_(t) for t in (kept, grad))
    if n := kept.numel():
        _wrap(_elu_backward)[(triton.cdiv(n, BLOCK),)](
            grad, kept, out, alpha, n, FROM_OUTPUT=from_output, WORK=_work(kept), BLOCK=BLOCK
        )
    return out


@_elu_op.register_fake
def _(x, alpha):
    return torch.empty_like(x)


@_elu_in_place_op.register_fake
def _(x, alpha):
    return None


@_elu_backward_op.register_fake
def _(grad, kept, alpha, from_output):
    return torch.empty_like(kept)


def _keep(ctx, inputs, output):
    x, ctx.alpha = inputs
    ctx.from_output = _output_tells_slope(x, ctx.alpha)
    ctx.save_for_backward(output if ctx.from_output else x)


def _back(ctx, grad):
    return _elu_backward_op(grad, *ctx.saved_tensors, ctx.alpha, ctx.from_output), None


_elu_op.register_autograd(_back, setup_context=_keep)


class _InPlace(torch.autograd.Function):
    """ELU over its own input; a custom op cannot carry a gradient through what it mutates."""

    @staticmethod
    def forward(ctx, x, alpha):
        ctx.alpha, ctx.from_output = alpha, _output_tells_slope(x, alpha)
        before = None if ctx.from_output else x.clone()
        ctx.mark_dirty(x)
        _elu_in_place_op(x, alpha)
        ctx.save_for_backward(x if ctx.from_output else before)
        return x

    backward = staticmethod(_back)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Return ELU(x) as `method.elu` does; on a CPU without Triton's interpreter, by `method.elu`.

    Saves its output for the backward; in fp16 and bf16, and for α outside [0, LARGEST_ALPHA], its input.
    Raises ValueError unless x is floating point.
    """
    if not (x.is_cuda or INTERPRETED):
        return method.elu(x, alpha)
    method._check(x)
    return _elu_op(x, alpha)


def elu_(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Overwrite x with ELU(x) and return it; on a CPU without Triton's interpreter, by `method.elu_`.

    Needs no further memory, except where `elu` would save its input: there a gradient costs a copy of it. Raises ValueError unless x is floating point, RuntimeError for a leaf that needs a gradient.
    """
    if not (x.is_cuda or INTERPRETED):
        return method.elu_(x, alpha)
    method._check(x)
    if torch.is_grad_enabled() and x.requires_grad:
        return _InPlace.apply(x, alpha)
    _elu_in_place_op(x, alpha)
    return x
