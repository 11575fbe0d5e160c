"""Softsign in Triton, forward and backward, and a fill of uniform weights whose random numbers never touch memory."""

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
def _softsign_forward(x_ptr, y_ptr, n, WORK: tl.constexpr, BLOCK: tl.constexpr):
    """One program reads BLOCK elements of x and writes the same elements of y = x / (1 + |x|)."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:  # a full block needs no mask: its loads stay wide
        x = tl.load(x_ptr + at).to(WORK)
        tl.store(y_ptr + at, (x / (1.0 + tl.abs(x))).to(y_ptr.dtype.element_ty))
    else:
        x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(WORK)
        tl.store(y_ptr + at, (x / (1.0 + tl.abs(x))).to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _through(grad, x):
    size = tl.abs(x)
    root = tl.where(size == float("inf"), float("nan"), 1.0 / (1.0 + size))  # ∞/∞ forward, so NaN back, as in torch
    return grad * root * root  # one factor at a time: root² underflows where a large gradient would not let it


@triton.jit
def _softsign_backward(grad_ptr, x_ptr, out_ptr, n, WORK: tl.constexpr, BLOCK: tl.constexpr):
    """One program reads BLOCK elements of dL/dy and of x and writes dL/dx = dL/dy / (1 + |x|)²."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        out = _through(tl.load(grad_ptr + at).to(WORK), tl.load(x_ptr + at).to(WORK))
        tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty))
    else:
        x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(WORK)
        out = _through(tl.load(grad_ptr + at, mask=at < n, other=0.0).to(WORK), x)
        tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _words(seed, start, STREAM: tl.constexpr, BLOCK: tl.constexpr):
    """The random words of elements start … start + BLOCK: one Philox counter serves four neighbors."""
    counter = start // 4 + tl.arange(0, BLOCK // 4)
    low, high = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    first, second, third, fourth = tl.philox(seed, low, high, low * 0 + STREAM, low * 0)
    return tl.interleave(tl.interleave(first, third), tl.interleave(second, fourth))


@triton.jit
def _round_bfloat16(x):
    # to nearest, ties to even: the interpreter's cast cuts off, so it must find nothing left to cut
    bits = x.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)


@triton.jit
def _uniform(w_ptr, seed: tl.int64, step: tl.float64, limit: tl.float64, n, WORK: tl.constexpr, BLOCK: tl.constexpr):
    """One program draws and writes BLOCK elements: odd multiples of `step`, cut off at ± `limit`; it reads nothing."""
    step, limit = tl.full((), step, WORK), tl.full((), limit, WORK)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    bits = _words(seed, start, 0, BLOCK) >> 8
    if tl.float64 == WORK:  # 24 bits and 29 more fill a float64
        bits = (bits.to(tl.int64) << 29) | (_words(seed, start, 1, BLOCK) >> 3).to(tl.int64)
        odd = 2 * bits + (1 - (1 << 53))
    else:
        odd = 2 * bits.to(tl.int32) + (1 - (1 << 24))
    # exact up to the product, which is rounded once: the same bits on every machine
    drawn = tl.minimum(tl.maximum(odd.to(WORK) * step, -limit), limit)
    if w_ptr.dtype.element_ty == tl.bfloat16:
        drawn = _round_bfloat16(drawn)
    drawn = drawn.to(w_ptr.dtype.element_ty)
    if start + BLOCK <= n:
        tl.store(w_ptr + at, drawn)
    else:
        tl.store(w_ptr + at, drawn, mask=at < n)


def _work(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _block(x: Tensor) -> int:
    return BLOCK // 4 if x.dtype == torch.float64 else BLOCK  # more than two double divisions a thread spill


@_op("papernotes::softsign", mutates_args=())
def _softsign_op(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    x = x if x.stride() == y.stride() else torch.empty_like(y).copy_(x)
    if n := x.numel():
        block = _block(x)
        _wrap(_softsign_forward)[(triton.cdiv(n, block),)](x, y, n, WORK=_work(x), BLOCK=block)
    return y


@_op("papernotes::softsign_backward", mutates_args=())
def _softsign_backward_op(grad: Tensor, x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    grad, x = (t if t.stride() == out.stride() else torch.empty_like(out).copy_(t) for t in (grad, x))
    if n := x.numel():
        block = _block(x)
        _wrap(_softsign_backward)[(triton.cdiv(n, block),)](grad, x, out, n, WORK=_work(x), BLOCK=block)
    return out


def _draw(dense: Tensor, bound: float, seed: int) -> None:
    wide, digits = (torch.float64, 53) if dense.dtype == torch.float64 else (torch.float32, 24)
    step, limit = method.round_down(bound, wide) * 2.0**-digits, method.round_down(bound, dense.dtype)
    if n := dense.numel():
        _wrap(_uniform)[(triton.cdiv(n, BLOCK),)](dense, seed, step, limit, n, WORK=_work(dense), BLOCK=BLOCK)


@_op("papernotes::uniform_", mutates_args={"weight"})
def _uniform_in_place_op(weight: Tensor, bound: float, seed: int) -> None:
    # row-major whatever the layout: an element's place decides its number
    dense = weight if weight.is_contiguous() else torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    _draw(dense, bound, seed)
    if dense is not weight:
        weight.copy_(dense)


@_op("papernotes::uniform_like", mutates_args=())
def _uniform_like_op(weight: Tensor, bound: float, seed: int, dtype: torch.dtype) -> Tensor:
    fresh = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    _draw(fresh, bound, seed)
    return fresh


@_softsign_op.register_fake
def _(x):
    return torch.empty_like(x)


@_softsign_backward_op.register_fake
def _(grad, x):
    return torch.empty_like(x)


@_uniform_in_place_op.register_fake
def _(weight, bound, seed):
    return None


@_uniform_like_op.register_fake
def _(weight, bound, seed, dtype):
    return torch.empty(weight.shape, dtype=dtype, device=weight.device)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _back(ctx, grad):
    return _softsign_backward_op(grad, *ctx.saved_tensors)


def _back_again(ctx, again):
    grad, x = ctx.saved_tensors
    bend = -2 * x.sign() / (1 + x.abs()) ** 3
    return _softsign_backward_op(again, x), again * grad * bend


_softsign_op.register_autograd(_back, setup_context=_keep)
_softsign_backward_op.register_autograd(_back_again, setup_context=_keep)


def softsign(x: Tensor) -> Tensor:
    """Return softsign(x) as `method.softsign` does; on a CPU without Triton's interpreter, by `method.softsign`.

    Saves its input: near ±1 the rounded output has lost the slope. Raises ValueError unless x is floating point.
    """
    if not (x.is_cuda or INTERPRETED):
        return method.softsign(x)
    method._check_floating(x)
    return _softsign_op(x)


def standard_uniform_(weight: Tensor, seed: int) -> Tensor:
    """Fill weight as `method.standard_uniform_` does, bit for bit; on a CPU without Triton's interpreter, by it.

    Raises ValueError unless weight is a floating-point matrix whose elements lie apart and the seed fits int64.
    """
    if not (weight.is_cuda or INTERPRETED):
        return method.standard_uniform_(weight, seed)
    method.check_fill(weight, seed)
    return _fill_(weight, method.standard_bound(weight), seed)


def normalized_uniform_(weight: Tensor, seed: int) -> Tensor:
    """Fill weight as `method.normalized_uniform_` does, bit for bit; on a CPU without Triton's interpreter, by it.

    A weight that is not contiguous costs a temporary of its size. Raises ValueError unless weight is a floating-point
    matrix whose elements lie apart and the seed fits int64.
    """
    if not (weight.is_cuda or INTERPRETED):
        return method.normalized_uniform_(weight, seed)
    method.check_fill(weight, seed)
    return _fill_(weight, method.normalized_bound(weight), seed)


def normalized_uniform_like(weight: Tensor, seed: int, dtype: torch.dtype) -> Tensor:
    """Return a new matrix as `method.normalized_uniform_like` does, bit for bit; on a CPU without the interpreter, by it.

    Raises ValueError as `normalized_uniform_` does.
    """
    if not (weight.is_cuda or INTERPRETED):
        return method.normalized_uniform_like(weight, seed, dtype)
    method.check_fill(weight, seed, like=True)
    return _uniform_like_op(weight, method.normalized_bound(weight), seed, dtype)


def _fill_(weight: Tensor, bound: float, seed: int) -> Tensor:
    with torch.no_grad():
        _uniform_in_place_op(weight, bound, seed)
    return weight
