"""Local response normalization in Triton, forward and backward; the backward reads x and dL/dy and nothing was saved but x.

Memory is [outer, channel, inner], whether channels come second (inner is the image) or last (inner is 1). What a window
shares with its neighbors is read again from cache, so memory sees each element once.
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
CHANNELS = 32
"""Channels of a program, some at a time: the next ones find their neighbors in cache."""
LINE = 2048
"""Bytes a program reads of one channel: 16 bytes for each of 128 threads."""
UNROLLED = 9
"""Up to this window a backward program holds the channels it needs in registers; wider ones read them again."""


@triton.jit
def _powers(d, beta, THREE_QUARTERS: tl.constexpr, WORK: tl.constexpr):
    """d^−β and 1/d: two roots for the paper's β; elsewhere by logarithms in fp64, as fp32 loses digits where d is large."""
    if THREE_QUARTERS:
        root = tl.rsqrt(d)
        p, inverse = root * tl.sqrt(root), root * root
    else:
        p = tl.exp2(-tl.full((), beta, tl.float64) * tl.log2(d.to(tl.float64))).to(WORK)
        inverse = 1.0 / d
    return p, inverse


@triton.jit
def _start(outer, channels, inner, CHANNELS: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr):
    """Return a program's first channel, its places' offsets and which are inside, and whether all are."""
    program = tl.program_id(0).to(tl.int64)
    channel_blocks, spans = tl.cdiv(channels, CHANNELS), tl.cdiv(inner, SPAN)
    first = program % channel_blocks * CHANNELS  # channel blocks that share neighbors run side by side
    span, block = program // channel_blocks % spans, program // channel_blocks // spans
    place = tl.arange(0, ROWS * SPAN)
    row, at = block * ROWS + place // SPAN, span * SPAN + place % SPAN
    full = ((block + 1) * ROWS <= outer) & ((span + 1) * SPAN <= inner)
    return first, row * channels * inner + at, (row < outer) & (at < inner), full


@triton.jit
def _read(ptr, offset, c, channels, inner, inside, FULL: tl.constexpr, WORK: tl.constexpr):
    """Read a tile of channels c at the given places, 0 outside; the mask of a full block does not vary along a row."""
    real = ((c >= 0) & (c < channels))[:, None]
    mask = real if FULL else real & inside[None, :]
    return tl.load(ptr + offset[None, :] + (c * inner)[:, None], mask=mask, other=0.0).to(WORK)


@triton.jit
def _scale(x_ptr, offset, c, channels, inner, inside, k, alpha,
           LOW: tl.constexpr, HIGH: tl.constexpr, UNROLL: tl.constexpr, FULL: tl.constexpr, WORK: tl.constexpr):  # fmt: skip
    """k + α Σ x² over the channels from c − LOW to c + HIGH."""
    x = _read(x_ptr, offset, c - LOW, channels, inner, inside, FULL, WORK)
    total = x * x
    if UNROLL:
        for d in tl.static_range(1 - LOW, HIGH + 1):
            x = _read(x_ptr, offset, c + d, channels, inner, inside, FULL, WORK)
            total += x * x
    else:
        for d in range(1 - LOW, HIGH + 1):
            x = _read(x_ptr, offset, c + d, channels, inner, inside, FULL, WORK)
            total += x * x
    return tl.full((), k, WORK) + tl.full((), alpha, WORK) * total


@triton.jit
def _normalize(x_ptr, y_ptr, offset, first, channels, inner, inside, k, alpha, beta,
               LOW: tl.constexpr, HIGH: tl.constexpr, UNROLL: tl.constexpr, THREE_QUARTERS: tl.constexpr,
               FULL: tl.constexpr, WORK: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    c = first + tl.arange(0, CHANNELS)
    d = _scale(x_ptr, offset, c, channels, inner, inside, k, alpha, LOW, HIGH, UNROLL, FULL, WORK)
    p, _ = _powers(d, beta, THREE_QUARTERS, WORK)
    y = _read(x_ptr, offset, c, channels, inner, inside, FULL, WORK) * p
    mask = (c < channels)[:, None] if FULL else (c < channels)[:, None] & inside[None, :]
    tl.store(y_ptr + offset[None, :] + (c * inner)[:, None], y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _forward(x_ptr, y_ptr, outer, channels, inner, k: tl.float64, alpha: tl.float64, beta: tl.float64,
             LOW: tl.constexpr, HIGH: tl.constexpr, UNROLL: tl.constexpr, THREE_QUARTERS: tl.constexpr, WORK: tl.constexpr,
             CHANNELS: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr):  # fmt: skip
    """One program reads CHANNELS channels of x, and those their windows reach, at ROWS × SPAN places; it writes them of y."""
    first, offset, inside, full = _start(outer, channels, inner, CHANNELS, ROWS, SPAN)
    last = tl.minimum(first + CHANNELS, channels)
    if full:
        for chunk in range(first, last, CHUNK):
            _normalize(x_ptr, y_ptr, offset, chunk, channels, inner, inside, k, alpha, beta,
                       LOW, HIGH, UNROLL, THREE_QUARTERS, True, WORK, CHUNK)  # fmt: skip
    else:
        for chunk in range(first, last, CHUNK):
            _normalize(x_ptr, y_ptr, offset, chunk, channels, inner, inside, k, alpha, beta,
                       LOW, HIGH, UNROLL, THREE_QUARTERS, False, WORK, CHUNK)  # fmt: skip


@triton.jit
def _read_one(ptr, offset, c, channels, inner, inside, FULL: tl.constexpr, WORK: tl.constexpr):
    real = (c >= 0) & (c < channels)
    mask = real if FULL else real & inside
    return tl.load(ptr + offset + c * inner, mask=mask, other=0.0).to(WORK)


@triton.jit
def _gradient_in_registers(grad_ptr, x_ptr, out_ptr, offset, first, channels, inner, inside, k, alpha, beta,
                           LOW: tl.constexpr, HIGH: tl.constexpr, THREE_QUARTERS: tl.constexpr, FULL: tl.constexpr,
                           WORK: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    REACH: tl.constexpr = LOW + HIGH
    k, alpha, twice = tl.full((), k, WORK), tl.full((), alpha, WORK), tl.full((), 2 * alpha * beta, WORK)
    # Every load comes before the first store, which might alias: all are under way at once.
    x, grad = (), ()
    for r in tl.static_range(CHANNELS + 2 * REACH):
        x += (_read_one(x_ptr, offset, first - REACH + r, channels, inner, inside, FULL, WORK),)
    for r in tl.static_range(CHANNELS + REACH):
        grad += (_read_one(grad_ptr, offset, first - HIGH + r, channels, inner, inside, FULL, WORK),)
    direct, through = (), ()  # of channel i: dL/dy · d^−β, and dL/dy · x · d^(−β−1)
    for r in tl.static_range(CHANNELS + REACH):
        i = first - HIGH + r
        total = x[r] * x[r]
        for s in tl.static_range(1, REACH + 1):
            total += x[r + s] * x[r + s]
        d = k + alpha * total
        p, inverse = _powers(d, beta, THREE_QUARTERS, WORK)
        direct += (grad[r] * p,)
        # beyond the ends there is no unit to inhibit, and 0 · d^−β may be NaN there
        through += (tl.where((i >= 0) & (i < channels), grad[r] * p * x[r + LOW] * inverse, 0.0),)
    for r in tl.static_range(CHANNELS):
        total = through[r]
        for s in tl.static_range(1, REACH + 1):
            total += through[r + s]
        out = direct[r + HIGH] - x[r + REACH] * (twice * total)
        mask = first + r < channels if FULL else (first + r < channels) & inside
        tl.store(out_ptr + offset + (first + r) * inner, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _gradient_from_memory(grad_ptr, x_ptr, out_ptr, offset, first, channels, inner, inside, k, alpha, beta,
                          LOW: tl.constexpr, HIGH: tl.constexpr, THREE_QUARTERS: tl.constexpr, WORK: tl.constexpr,
                          CHANNELS: tl.constexpr):  # fmt: skip
    c = first + tl.arange(0, CHANNELS)
    total = tl.zeros((CHANNELS, offset.shape[0]), dtype=WORK)
    for e in range(-HIGH, LOW + 1):
        d = _scale(x_ptr, offset, c + e, channels, inner, inside, k, alpha, LOW, HIGH, False, False, WORK)
        x = _read(x_ptr, offset, c + e, channels, inner, inside, False, WORK)
        grad = _read(grad_ptr, offset, c + e, channels, inner, inside, False, WORK)
        real = ((c + e >= 0) & (c + e < channels))[:, None]
        p, inverse = _powers(d, beta, THREE_QUARTERS, WORK)
        total += tl.where(real, grad * p * x * inverse, 0.0)
    d = _scale(x_ptr, offset, c, channels, inner, inside, k, alpha, LOW, HIGH, False, False, WORK)
    x = _read(x_ptr, offset, c, channels, inner, inside, False, WORK)
    grad = _read(grad_ptr, offset, c, channels, inner, inside, False, WORK)
    twice = tl.full((), 2 * alpha * beta, WORK)
    p, _ = _powers(d, beta, THREE_QUARTERS, WORK)
    out = grad * p - twice * x * total
    mask = (c < channels)[:, None] & inside[None, :]
    tl.store(out_ptr + offset[None, :] + (c * inner)[:, None], out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _backward(grad_ptr, x_ptr, out_ptr, outer, channels, inner, k: tl.float64, alpha: tl.float64, beta: tl.float64,
              LOW: tl.constexpr, HIGH: tl.constexpr, UNROLL: tl.constexpr, THREE_QUARTERS: tl.constexpr,
              WORK: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr):  # fmt: skip
    """One program reads CHANNELS channels of dL/dy and x, and those in reach, at ROWS × SPAN places; it writes dL/dx."""
    first, offset, inside, full = _start(outer, channels, inner, CHANNELS, ROWS, SPAN)
    last = tl.minimum(first + CHANNELS, channels)
    if not UNROLL:
        for chunk in range(first, last, CHUNK):
            _gradient_from_memory(grad_ptr, x_ptr, out_ptr, offset, chunk, channels, inner, inside, k, alpha, beta,
                                  LOW, HIGH, THREE_QUARTERS, WORK, CHUNK)  # fmt: skip
    elif full:
        for chunk in range(first, last, CHUNK):
            _gradient_in_registers(grad_ptr, x_ptr, out_ptr, offset, chunk, channels, inner, inside, k, alpha, beta,
                                   LOW, HIGH, THREE_QUARTERS, True, WORK, CHUNK)  # fmt: skip
    else:
        for chunk in range(first, last, CHUNK):
            _gradient_in_registers(grad_ptr, x_ptr, out_ptr, offset, chunk, channels, inner, inside, k, alpha, beta,
                                   LOW, HIGH, THREE_QUARTERS, False, WORK, CHUNK)  # fmt: skip


def _dense(x: Tensor) -> bool:
    """Return whether memory holds [outer, channel, inner] without gaps, channels second or last."""
    return x.is_contiguous() or x.movedim(1, -1).is_contiguous()


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x) if _dense(x) else torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _launch(function, chunk: int, tensors: list[Tensor], size: int, alpha: float, beta: float, k: float) -> None:
    out = tensors[-1]
    channels = out.shape[1]
    inner = out.numel() // (out.shape[0] * channels) if out.is_contiguous() else 1
    outer = out.numel() // (channels * inner)
    places = LINE // out.element_size()
    span = min(places, triton.next_power_of_2(inner))
    rows = min(places // span, triton.next_power_of_2(outer))
    low, high = method.reach(size, channels)
    programs = triton.cdiv(channels, CHANNELS) * triton.cdiv(inner, span) * triton.cdiv(outer, rows)
    _wrap(function)[(programs,)](
        *tensors, outer, channels, inner, k, alpha, beta,
        LOW=low, HIGH=high, UNROLL=low + high < UNROLLED, THREE_QUARTERS=beta == 0.75,
        WORK=tl.float64 if out.dtype == torch.float64 else tl.float32, CHANNELS=CHANNELS, CHUNK=chunk, ROWS=rows, SPAN=span,
    )  # fmt: skip


@_op("papernotes::local_response_norm", mutates_args=())
def _lrn_op(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    y = _like(x)
    if x.numel():
        _launch(_forward, 4, [x if x.stride() == y.stride() else torch.empty_like(y).copy_(x), y], size, alpha, beta, k)
    return y


@_op("papernotes::local_response_norm_backward", mutates_args=())
def _lrn_backward_op(grad: Tensor, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    out = _like(x)
    if x.numel():
        grad, x = (t if t.stride() == out.stride() else torch.empty_like(out).copy_(t) for t in (grad, x))
        chunk = 4 if x.element_size() == 2 else 2  # as many as registers hold
        _launch(_backward, chunk, [grad, x, out], size, alpha, beta, k)
    return out


@_lrn_op.register_fake
def _(x, size, alpha, beta, k):
    return _like(x)


@_lrn_backward_op.register_fake
def _(grad, x, size, alpha, beta, k):
    return _like(x)


def _keep(ctx, inputs, output):
    x, *ctx.constants = inputs
    ctx.save_for_backward(x)


def _back(ctx, grad):
    return _lrn_backward_op(grad, *ctx.saved_tensors, *ctx.constants), None, None, None, None


def _keep_both(ctx, inputs, output):
    grad, x, *ctx.constants = inputs
    ctx.save_for_backward(grad, x)


def _back_twice(ctx, grad_of_grad):
    """Differentiate the gradient itself by the twin: rarely asked for, and then right rather than fast."""
    with torch.enable_grad():
        grad, x = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        (first,) = torch.autograd.grad(method.local_response_norm(x, *ctx.constants), x, grad, create_graph=True)
    return *torch.autograd.grad(first, (grad, x), grad_of_grad), None, None, None, None


_lrn_op.register_autograd(_back, setup_context=_keep)
_lrn_backward_op.register_autograd(_back_twice, setup_context=_keep_both)


def local_response_norm(x: Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> Tensor:
    """Normalize as `method.local_response_norm` does; by it on a CPU without Triton's interpreter.

    So are constants under which k + α Σ x² may be negative, and β = 0. Saves x alone for the backward.
    Raises ValueError as the method does.
    """
    method._check(x, size)
    if not (x.is_cuda or INTERPRETED) or min(alpha, k) < 0 or beta == 0:
        return method.local_response_norm(x, size, alpha, beta, k)
    return _lrn_op(x, int(size), float(alpha), float(beta), float(k))
