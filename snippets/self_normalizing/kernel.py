"""SELU and alpha dropout in Triton, forward and backward; the dropout's mask is drawn again in the backward, never stored.

Below 0 SELU's slope is f(x) + λα, so fp32 and fp64 save the output alone; a rounded fp16 or bf16 output cannot carry
that sum near saturation, so there the input is kept.
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
LAMBDA = tl.constexpr(method.LAMBDA)
LAMBDA_ALPHA = tl.constexpr(-method.SATURATION)


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
def _selu(x, WORK: tl.constexpr):
    TERMS: tl.constexpr = 15 if tl.float64 == WORK else 8  # the term left out is below half a unit in the last place
    return tl.where(x > 0, LAMBDA * x, LAMBDA_ALPHA * _expm1(tl.where(x > 0, 0.0, x), TERMS))


@triton.jit
def _selu_forward(x_ptr, y_ptr, n, WORK: tl.constexpr, BLOCK: tl.constexpr):
    """One program reads BLOCK elements of x and writes the same elements of y."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:  # a full block needs no mask: its loads stay wide
        x = tl.load(x_ptr + at).to(WORK)
        tl.store(y_ptr + at, _selu(x, WORK).to(y_ptr.dtype.element_ty))
    else:
        x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(WORK)
        tl.store(y_ptr + at, _selu(x, WORK).to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _slope(kept, FROM_OUTPUT: tl.constexpr):
    # f' = λ above 0, f(x) + λα = λα·exp(x) elsewhere; NaN takes that branch and stays NaN, as in torch on a CPU.
    below = kept + LAMBDA_ALPHA if FROM_OUTPUT else LAMBDA_ALPHA * tl.exp(tl.where(kept > 0, 0.0, kept))
    return tl.where(kept > 0, LAMBDA, below)


@triton.jit
def _selu_backward(grad_ptr, kept_ptr, out_ptr, n, FROM_OUTPUT: tl.constexpr, WORK: tl.constexpr, BLOCK: tl.constexpr):
    """One program reads BLOCK elements of dL/dy and of y (or x) and writes the same elements of dL/dx."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        slope = _slope(tl.load(kept_ptr + at).to(WORK), FROM_OUTPUT)
        tl.store(out_ptr + at, (tl.load(grad_ptr + at).to(WORK) * slope).to(out_ptr.dtype.element_ty))
    else:
        slope = _slope(tl.load(kept_ptr + at, mask=at < n, other=0.0).to(WORK), FROM_OUTPUT)
        grad = tl.load(grad_ptr + at, mask=at < n, other=0.0).to(WORK)
        tl.store(out_ptr + at, (grad * slope).to(out_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _keep(seed, start, threshold, BLOCK: tl.constexpr):
    """The mask of elements start … start + BLOCK: one Philox counter serves four neighbors."""
    counter = start // 4 + tl.arange(0, BLOCK // 4)
    low, high = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, low, high, low * 0, low * 0)
    word = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (BLOCK,))
    # read as signed, a word is lower by 2³¹; so is the threshold, which thereby fits an int32 argument
    return (word ^ 0x80000000).to(tl.int32, bitcast=True) >= threshold


@triton.jit
def _alpha_dropout(
    x_ptr, y_ptr, seed, threshold, a: tl.float64, b: tl.float64, dropped: tl.float64, n,
    WORK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads BLOCK elements of x, draws their mask, and writes a·x + b where kept, else `dropped`."""
    a, b, dropped = tl.full((), a, WORK), tl.full((), b, WORK), tl.full((), dropped, WORK)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    keep = _keep(seed, start, threshold, BLOCK)
    if start + BLOCK <= n:
        y = tl.where(keep, a * tl.load(x_ptr + at).to(WORK) + b, dropped)
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty))
    else:
        x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(WORK)
        tl.store(y_ptr + at, tl.where(keep, a * x + b, dropped).to(y_ptr.dtype.element_ty), mask=at < n)


def _work(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


@_op("papernotes::selu", mutates_args=())
def _selu_op(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    x = x if x.stride() == y.stride() else torch.empty_like(y).copy_(x)
    if n := x.numel():
        _wrap(_selu_forward)[(triton.cdiv(n, BLOCK),)](x, y, n, WORK=_work(x), BLOCK=BLOCK)
    return y


@_op("papernotes::selu_backward", mutates_args=())
def _selu_backward_op(grad: Tensor, kept: Tensor, from_output: bool) -> Tensor:
    out = torch.empty_like(kept)
    kept, grad = (t if t.stride() == out.stride() else torch.empty_like(out).copy_(t) for t in (kept, grad))
    if n := kept.numel():
        _wrap(_selu_backward)[(triton.cdiv(n, BLOCK),)](
            grad, kept, out, n, FROM_OUTPUT=from_output, WORK=_work(kept), BLOCK=BLOCK
        )
    return out


def _drop(x: Tensor, p: float, seed: int, a: float, b: float, dropped: float) -> Tensor:
    # row-major whatever the input's layout: an element's place decides its mask
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if n := x.numel():
        _wrap(_alpha_dropout)[(triton.cdiv(n, BLOCK),)](
            x.contiguous(), y, seed, method.drop_threshold(p) - 2**31, a, b, dropped, n, WORK=_work(x), BLOCK=BLOCK
        )
    return y


@_op("papernotes::alpha_dropout", mutates_args=())
def _alpha_dropout_op(x: Tensor, p: float, seed: int) -> Tensor:
    a, b = method.affine_pair(p)
    return _drop(x, p, seed, a, b, a * method.SATURATION + b)


@_op("papernotes::alpha_dropout_backward", mutates_args=())
def _alpha_dropout_backward_op(grad: Tensor, p: float, seed: int) -> Tensor:
    return _drop(grad, p, seed, method.affine_pair(p)[0], 0.0, 0.0)


@_selu_op.register_fake
def _(x):
    return torch.empty_like(x)


@_selu_backward_op.register_fake
def _(grad, kept, from_output):
    return torch.empty_like(kept)


@_alpha_dropout_op.register_fake
@_alpha_dropout_backward_op.register_fake
def _(x, p, seed):
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _keep_for_selu(ctx, inputs, output):
    (x,) = inputs
    ctx.from_output = x.dtype in (torch.float32, torch.float64)
    ctx.save_for_backward(output if ctx.from_output else x)


def _keep_for_dropout(ctx, inputs, output):
    _, ctx.p, ctx.seed = inputs


def _selu_back(ctx, grad):
    return _selu_backward_op(grad, *ctx.saved_tensors, ctx.from_output)


def _alpha_dropout_back(ctx, grad):
    return _alpha_dropout_backward_op(grad, ctx.p, ctx.seed), None, None


_selu_op.register_autograd(_selu_back, setup_context=_keep_for_selu)
_alpha_dropout_op.register_autograd(_alpha_dropout_back, setup_context=_keep_for_dropout)


def selu(x: Tensor) -> Tensor:
    """Return SELU(x) as `method.selu` does; on a CPU without Triton's interpreter, by `method.selu`.

    Saves its output for the backward; in fp16 and bf16 its input. Raises ValueError unless x is floating point.
    """
    if not (x.is_cuda or INTERPRETED):
        return method.selu(x)
    method._check(x)
    return _selu_op(x)


def alpha_dropout(x: Tensor, p: float, seed: int) -> Tensor:
    """Drop as `method.alpha_dropout` does, with the same mask; on a CPU without Triton's interpreter, by that function.

    Saves nothing for the backward but p and the seed. Raises ValueError unless 0 ≤ p ≤ 1 and the seed fits int64.
    """
    if not (x.is_cuda or INTERPRETED) or p in (0, 1):
        return method.alpha_dropout(x, p, seed)
    method._check(x)
    method.check_dropout(p, seed)
    return _alpha_dropout_op(x, p, seed)
