"""Weight normalization in Triton, forward and backward, along any dim of v as it lies in memory: no transposed copy.

v is seen as [outer, channel, inner]. Channels that fit registers are read once, by one kernel. Longer ones are cut into
chunks: one kernel leaves each chunk's sum, a second adds them up and reads the chunk again. Where a sum of squares
leaves the safe range of its dtype, it is taken again of v times a power of two. The backward keeps norm and power.
"""

import math
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
SHORT, TILE, FIT = 2048, 4096, 16384
"""Elements of a program: of several short channels, of a long one's step, and at most in one piece (fp64: half; unaligned: a quarter)."""
LINE = 32
"""Neighboring channels that a program reads where a channel's own entries lie apart."""
PROGRAMS, MOST_SUMS = 2048, 4096
"""Chunks are cut until there are about this many programs; one program adds up at most this many sums of chunks."""


@triton.jit
def _place(
    o, c, i, outer, channels, inner,
    ALONE: tl.constexpr, OUTER: tl.constexpr, CHANNEL: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Return the offsets [OUTER, CHANNEL, INNER] of the tile at (o, c, i), which are real, and whether all are."""
    whole = (o + OUTER <= outer) & (c + CHANNEL <= channels) & (i + INNER <= inner)
    o = (o + tl.arange(0, OUTER))[:, None, None]
    c = (c + tl.arange(0, CHANNEL))[None, :, None]
    i = (i + tl.arange(0, INNER))[None, None, :]
    # of one single row the compiler is to see that its blocks are aligned, whatever its length
    at = i if ALONE else (o * channels + c) * inner + i
    return at, (o < outer) & (c < channels) & (i < inner), whole


@triton.jit
def _read(ptr, at, real, whole, WORK: tl.constexpr):
    if whole:  # noqa: SIM108 (without a mask loads stay wide)
        x = tl.load(ptr + at).to(WORK)
    else:
        x = tl.load(ptr + at, mask=real, other=0.0).to(WORK)
    return x


@triton.jit
def _write(ptr, at, value, real, whole):
    if whole:
        tl.store(ptr + at, value.to(ptr.dtype.element_ty))
    else:
        tl.store(ptr + at, value.to(ptr.dtype.element_ty), mask=real)


@triton.jit
def _each(x):
    return x[None, :, None]


@triton.jit
def _sum(x):
    return tl.sum(tl.sum(x, axis=2), axis=0)


@triton.jit
def _largest(x):
    return tl.max(tl.max(tl.abs(x), axis=2), axis=0)


@triton.jit
def _root(x, WORK: tl.constexpr):
    return tl.sqrt(x) if tl.float64 == WORK else tl.sqrt_rn(x)


@triton.jit
def _inverse(x, WORK: tl.constexpr):
    return 1.0 / x if tl.float64 == WORK else tl.div_rn(tl.full(x.shape, 1.0, WORK), x)


@triton.jit
def _doubtful(square, WORK: tl.constexpr):
    """Tell whether any sum of squares may have overflowed or lost its small terms; a NaN is doubtful, too."""
    LOW: tl.constexpr = 2.0**-700 if tl.float64 == WORK else 2.0**-60
    HIGH: tl.constexpr = 2.0**900 if tl.float64 == WORK else 2.0**100  # as many such chunks as there are still add up
    return tl.min(((square >= LOW) & (square <= HIGH)).to(tl.int32), axis=0) == 0


@triton.jit
def _power(largest, WORK: tl.constexpr):
    """Return the power of two that brings `largest` into [1, 2), or as near to it as a normal number can."""
    # its exponent's bits, mirrored; those of 0, infinity and NaN are the extreme ones
    if tl.float64 == WORK:
        bits = tl.minimum(tl.maximum(2046 - (largest.to(tl.int64, bitcast=True) >> 52), 1), 2045)
        power = (bits << 52).to(tl.float64, bitcast=True)
    else:
        bits = tl.minimum(tl.maximum(254 - (largest.to(tl.int32, bitcast=True) >> 23), 1), 253)
        power = (bits << 23).to(tl.float32, bitcast=True)
    return power


@triton.jit
def _forward(
    v_ptr, g_ptr, w_ptr, kept_ptr, outer, channels, inner,
    SCALED: tl.constexpr, WORK: tl.constexpr, OUTER: tl.constexpr, CHANNEL: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """One program reads CHANNEL whole channels of v and writes them to w, with their norms and powers of two."""
    zero, c = tl.zeros((), tl.int64), tl.program_id(0).to(tl.int64) * CHANNEL
    channel = c + tl.arange(0, CHANNEL)
    known = channel < channels
    at, real, whole = _place(zero, c, zero, outer, channels, inner, False, OUTER, CHANNEL, INNER)
    x = _read(v_ptr, at, real, whole, WORK)
    square, power = _sum(x * x), tl.full((CHANNEL,), 1.0, WORK)
    if SCALED:  # noqa: SIM102 (this one is decided when compiling)
        if _doubtful(tl.where(known, square, 1.0), WORK):
            power = _power(_largest(x), WORK)
            x *= _each(power)
            square = _sum(x * x)
    norm = _root(square, WORK)
    tl.store(kept_ptr + channel, norm, mask=known)
    tl.store(kept_ptr + channels + channel, power, mask=known)
    g = tl.load(g_ptr + channel, mask=known, other=0.0).to(WORK)
    inverse = _inverse(tl.where(known, norm, 1.0), WORK)
    _write(w_ptr, at, x * _each(inverse) * _each(g), real, whole)


@triton.jit
def _backward(
    grad_ptr, v_ptr, g_ptr, kept_ptr, dv_ptr, dg_ptr, outer, channels, inner,
    WORK: tl.constexpr, OUTER: tl.constexpr, CHANNEL: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """One program reads CHANNEL whole channels of dL/dw and v and writes those of dL/dv and dL/dg."""
    zero, c = tl.zeros((), tl.int64), tl.program_id(0).to(tl.int64) * CHANNEL
    channel = c + tl.arange(0, CHANNEL)
    known = channel < channels
    at, real, whole = _place(zero, c, zero, outer, channels, inner, False, OUTER, CHANNEL, INNER)
    power = tl.load(kept_ptr + channels + channel, mask=known, other=1.0)
    inverse = _inverse(tl.load(kept_ptr + channel, mask=known, other=1.0), WORK)
    a = tl.load(g_ptr + channel, mask=known, other=0.0).to(WORK) * inverse
    grad = _read(grad_ptr, at, real, whole, WORK)
    unit = _read(v_ptr, at, real, whole, WORK) * _each(power) * _each(inverse)
    dg = _sum(grad * unit)
    tl.store(dg_ptr + channel, dg.to(dg_ptr.dtype.element_ty), mask=known)
    _write(dv_ptr, at, (_each(a) * grad - _each(a * dg) * unit) * _each(power), real, whole)


@triton.jit
def _chunk(outer, inner, STEPS: tl.constexpr, OUTER: tl.constexpr, INNER: tl.constexpr):
    """Return a program's first tile, the one after its last, and how many tiles lie side by side."""
    across = tl.full((), tl.cdiv(inner, INNER), tl.int64)
    first = tl.program_id(1).to(tl.int64) * STEPS
    return first, tl.minimum(first + STEPS, tl.cdiv(outer, OUTER) * across), across


@triton.jit
def _chunk_squares(
    v_ptr, squares_ptr, powers_ptr, outer, channels, inner, ALONE: tl.constexpr, SCALED: tl.constexpr,
    STEPS: tl.constexpr, WORK: tl.constexpr, OUTER: tl.constexpr, CHANNEL: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """One program reads a chunk of CHANNEL channels of v and writes its sums of squares [channel, chunk], and powers."""
    c = tl.zeros((), tl.int64) if ALONE else tl.program_id(0).to(tl.int64) * CHANNEL
    channel = c + tl.arange(0, CHANNEL)
    known = channel < channels
    first, last, across = _chunk(outer, inner, STEPS, OUTER, INNER)
    total = tl.zeros((OUTER, CHANNEL, INNER), WORK)
    for t in range(first, last):
        o, i = t // across * OUTER, t % across * INNER
        at, real, whole = _place(o, c, i, outer, channels, inner, ALONE, OUTER, CHANNEL, INNER)
        x = _read(v_ptr, at, real, whole, WORK)
        total += x * x
    square, power = _sum(total), tl.full((CHANNEL,), 1.0, WORK)
    if SCALED:  # noqa: SIM102 (this one is decided when compiling)
        if _doubtful(tl.where(known, square, 1.0), WORK):
            largest = tl.zeros((OUTER, CHANNEL, INNER), WORK)
            for t in range(first, last):
                o, i = t // across * OUTER, t % across * INNER
                at, real, whole = _place(o, c, i, outer, channels, inner, ALONE, OUTER, CHANNEL, INNER)
                largest = tl.maximum(largest, tl.abs(_read(v_ptr, at, real, whole, WORK)))
            power = _power(_largest(largest), WORK)
            total = tl.zeros((OUTER, CHANNEL, INNER), WORK)
            for t in range(first, last):
                o, i = t // across * OUTER, t % across * INNER
                at, real, whole = _place(o, c, i, outer, channels, inner, ALONE, OUTER, CHANNEL, INNER)
                x = _read(v_ptr, at, real, whole, WORK) * _each(power)
                total += x * x
            square = _sum(total)
    here = channel * tl.num_programs(1) + tl.program_id(1)
    tl.store(squares_ptr + here, square, mask=known)
    tl.store(powers_ptr + here, power, mask=known)


@triton.jit
def _scale(
    v_ptr, g_ptr, squares_ptr, powers_ptr, w_ptr, kept_ptr, outer, channels, inner, chunks, ALONE: tl.constexpr,
    CHUNKS: tl.constexpr, STEPS: tl.constexpr,
    WORK: tl.constexpr, OUTER: tl.constexpr, CHANNEL: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """One program adds up the squares of all chunks, reads its own chunk of v again and writes that of w."""
    c = tl.zeros((), tl.int64) if ALONE else tl.program_id(0).to(tl.int64) * CHANNEL
    channel = c + tl.arange(0, CHANNEL)
    known = channel < channels
    every = tl.arange(0, CHUNKS)[None, :]
    there, given = channel[:, None] * chunks + every, known[:, None] & (every < chunks)
    powers = tl.load(powers_ptr + there, mask=given, other=float("inf"))
    power = tl.min(powers, axis=1)  # that of the largest entry; a chunk of smaller ones counts for less
    ratio = tl.where(powers == power[:, None], 1.0, power[:, None] / powers)
    norm = _root(tl.sum(tl.load(squares_ptr + there, mask=given, other=0.0) * ratio * ratio, axis=1), WORK)
    if tl.program_id(1) == 0:
        tl.store(kept_ptr + channel, norm, mask=known)
        tl.store(kept_ptr + channels + channel, power, mask=known)
    inverse = _inverse(tl.where(known, norm, 1.0), WORK)
    g = tl.load(g_ptr + channel, mask=known, other=0.0).to(WORK)
    first, last, across = _chunk(outer, inner, STEPS, OUTER, INNER)
    for t in range(first, last):
        o, i = t // across * OUTER, t % across * INNER
        at, real, whole = _place(o, c, i, outer, channels, inner, ALONE, OUTER, CHANNEL, INNER)
        x = _read(v_ptr, at, real, whole, WORK) * _each(power)
        _write(w_ptr, at, x * _each(inverse) * _each(g), real, whole)


@triton.jit
def _chunk_products(
    grad_ptr, v_ptr, kept_ptr, products_ptr, outer, channels, inner, ALONE: tl.constexpr,
    STEPS: tl.constexpr, WORK: tl.constexpr, OUTER: tl.constexpr, CHANNEL: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """One program reads a chunk of CHANNEL channels of dL/dw and v and writes its share of dL/dg [channel, chunk]."""
    c = tl.zeros((), tl.int64) if ALONE else tl.program_id(0).to(tl.int64) * CHANNEL
    channel = c + tl.arange(0, CHANNEL)
    known = channel < channels
    power = tl.load(kept_ptr + channels + channel, mask=known, other=1.0)
    inverse = _inverse(tl.load(kept_ptr + channel, mask=known, other=1.0), WORK)
    first, last, across = _chunk(outer, inner, STEPS, OUTER, INNER)
    total = tl.zeros((OUTER, CHANNEL, INNER), WORK)
    for t in range(first, last):
        o, i = t // across * OUTER, t % across * INNER
        at, real, whole = _place(o, c, i, outer, channels, inner, ALONE, OUTER, CHANNEL, INNER)
        unit = _read(v_ptr, at, real, whole, WORK) * _each(power) * _each(inverse)
        total += _read(grad_ptr, at, real, whole, WORK) * unit
    tl.store(products_ptr + channel * tl.num_programs(1) + tl.program_id(1), _sum(total), mask=known)


@triton.jit
def _gradients(
    grad_ptr, v_ptr, g_ptr, kept_ptr, products_ptr, dv_ptr, dg_ptr, outer, channels, inner, chunks,
    ALONE: tl.constexpr, CHUNKS: tl.constexpr, STEPS: tl.constexpr,
    WORK: tl.constexpr, OUTER: tl.constexpr, CHANNEL: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """One program adds up dL/dg, reads its chunk of dL/dw and v again and writes that of dL/dv; the first, dL/dg."""
    c = tl.zeros((), tl.int64) if ALONE else tl.program_id(0).to(tl.int64) * CHANNEL
    channel = c + tl.arange(0, CHANNEL)
    known = channel < channels
    power = tl.load(kept_ptr + channels + channel, mask=known, other=1.0)
    inverse = _inverse(tl.load(kept_ptr + channel, mask=known, other=1.0), WORK)
    a = tl.load(g_ptr + channel, mask=known, other=0.0).to(WORK) * inverse
    every = tl.arange(0, CHUNKS)[None, :]
    there, given = channel[:, None] * chunks + every, known[:, None] & (every < chunks)
    dg = tl.sum(tl.load(products_ptr + there, mask=given, other=0.0), axis=1)
    if tl.program_id(1) == 0:
        tl.store(dg_ptr + channel, dg.to(dg_ptr.dtype.element_ty), mask=known)
    first, last, across = _chunk(outer, inner, STEPS, OUTER, INNER)
    for t in range(first, last):
        o, i = t // across * OUTER, t % across * INNER
        at, real, whole = _place(o, c, i, outer, channels, inner, ALONE, OUTER, CHANNEL, INNER)
        unit = _read(v_ptr, at, real, whole, WORK) * _each(power) * _each(inverse)
        grad = _read(grad_ptr, at, real, whole, WORK)
        _write(dv_ptr, at, (_each(a) * grad - _each(a * dg) * unit) * _each(power), real, whole)


def _work(x: Tensor) -> tuple[torch.dtype, tl.dtype]:
    return (torch.float64, tl.float64) if x.dtype == torch.float64 else (torch.float32, tl.float32)


def _sizes(dense: Tensor, dim: int) -> tuple[int, int, int]:
    """Return (outer, channels, inner) of a dense tensor in the order its dimensions have in memory; dim −1 is all."""
    if dim < 0:
        return 1, 1, dense.numel()
    order = sorted(range(dense.dim()), key=lambda d: -dense.stride(d))
    sizes, place = [dense.shape[d] for d in order], order.index(dim)
    return math.prod(sizes[:place]), sizes[place], math.prod(sizes[place + 1 :])


def _tiles(outer: int, channels: int, inner: int, double: bool) -> tuple[dict[str, int], int, int]:
    """Return a program's tile, and for channels too long for one: the number of chunks, and a chunk's tiles (else 0, 0)."""
    o, c, i = (triton.next_power_of_2(int(size)) for size in (outer, channels, inner))
    neighbors = 1 if outer == 1 else min(c, max(1, LINE // i))
    # what cannot be read wide needs an address for every element: fewer of them a thread
    wide = (inner if inner > 1 else channels) % 16 == 0
    fit = (FIT // 2 if double else FIT) if wide else FIT // 4
    if o * i * neighbors <= fit:
        c = max(neighbors, min(c, SHORT // (o * i)))
        warps = min(16, max(4, o * c * i // (512 if wide else 256)))
        return {"OUTER": o, "CHANNEL": c, "INNER": i, "num_warps": warps}, 0, 0
    c, i = neighbors, min(i, TILE)
    o = min(o, max(1, TILE // (c * i)))
    tiles = triton.cdiv(outer, o) * triton.cdiv(inner, i)
    wanted = min(max(1, PROGRAMS // triton.cdiv(channels, c)), MOST_SUMS // c, tiles)
    steps = triton.cdiv(tiles, wanted)
    return {"OUTER": o, "CHANNEL": c, "INNER": i, "num_warps": 8}, triton.cdiv(tiles, steps), steps


@_op("papernotes::weight_norm", mutates_args=())
def _weight_norm_op(v: Tensor, g: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    w = torch.empty_like(v)
    v = v if v.stride() == w.stride() else torch.empty_like(w).copy_(v)
    sizes = _sizes(w, dim)
    channels = sizes[1]
    work, WORK = _work(v)
    kept = torch.empty((2, channels), dtype=work, device=v.device)
    if not v.numel():
        return w, kept.fill_(1)
    tile, chunks, steps = _tiles(*sizes, v.dtype == torch.float64)
    blocks, g = triton.cdiv(channels, tile["CHANNEL"]), g.contiguous()
    scaled = v.dtype != torch.float16  # whose squares fp32 holds, every one
    if not chunks:
        _wrap(_forward)[(blocks,)](v, g, w, kept, *sizes, SCALED=scaled, WORK=WORK, **tile)
        return w, kept
    squares, powers = (torch.empty((channels, chunks), dtype=work, device=v.device) for _ in range(2))
    how = {"ALONE": channels == 1, "STEPS": steps, "WORK": WORK, **tile}
    _wrap(_chunk_squares)[(blocks, chunks)](v, squares, powers, *sizes, SCALED=scaled, **how)
    how["CHUNKS"] = triton.next_power_of_2(chunks)
    _wrap(_scale)[(blocks, chunks)](v, g, squares, powers, w, kept, *sizes, chunks, **how)
    return w, kept


@_op("papernotes::weight_norm_backward", mutates_args=())
def _weight_norm_backward_op(grad: Tensor, v: Tensor, g: Tensor, kept: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    dv, dg = torch.empty_like(v), torch.empty(g.shape, dtype=g.dtype, device=g.device)
    grad, v = (t if t.stride() == dv.stride() else torch.empty_like(dv).copy_(t) for t in (grad, v))
    sizes = _sizes(dv, dim)
    channels = sizes[1]
    if not v.numel():
        return dv, dg.fill_(0)
    work, WORK = _work(v)
    tile, chunks, steps = _tiles(*sizes, v.dtype == torch.float64)
    blocks, g = triton.cdiv(channels, tile["CHANNEL"]), g.contiguous()
    if not chunks:
        _wrap(_backward)[(blocks,)](grad, v, g, kept, dv, dg, *sizes, WORK=WORK, **tile)
        return dv, dg
    products = torch.empty((channels, chunks), dtype=work, device=v.device)
    how = {"ALONE": channels == 1, "STEPS": steps, "WORK": WORK, **tile}
    _wrap(_chunk_products)[(blocks, chunks)](grad, v, kept, products, *sizes, **how)
    how["CHUNKS"] = triton.next_power_of_2(chunks)
    _wrap(_gradients)[(blocks, chunks)](grad, v, g, kept, products, dv, dg, *sizes, chunks, **how)
    return dv, dg


@_weight_norm_op.register_fake
def _(v, g, dim):
    channels = 1 if dim < 0 else v.shape[dim]
    return torch.empty_like(v), torch.empty((2, channels), dtype=_work(v)[0], device=v.device)


@_weight_norm_backward_op.register_fake
def _(grad, v, g, kept, dim):
    return torch.empty_like(v), torch.empty(g.shape, dtype=g.dtype, device=g.device)


def _keep(ctx, inputs, output):
    v, g, ctx.dim = inputs
    ctx.save_for_backward(v, g, output[1])


def _back(ctx, grad, _):
    return *_weight_norm_backward_op(grad, *ctx.saved_tensors, ctx.dim), None


def _keep_for_second(ctx, inputs, output):
    grad, v, g, _, ctx.dim = inputs
    ctx.save_for_backward(grad, v, g)


def _second(ctx, to_dv, to_dg):
    # A gradient of the gradient is rare enough for torch: the twin's, through all it came from.
    with torch.enable_grad():
        grad, v, g = (one.detach().requires_grad_() for one in ctx.saved_tensors)
        w = method.weight_norm(v, g, None if ctx.dim < 0 else ctx.dim)
        first = torch.autograd.grad(w, (v, g), grad, create_graph=True)
    return *torch.autograd.grad(first, (grad, v, g), (to_dv, to_dg)), None, None


_weight_norm_op.register_autograd(_back, setup_context=_keep)
_weight_norm_backward_op.register_autograd(_second, setup_context=_keep_for_second)


def weight_norm(v: Tensor, g: Tensor, dim: int | None = 0) -> Tensor:
    """Return w = g·v/‖v‖ as `method.weight_norm` does; on a CPU without Triton's interpreter, by `method.weight_norm`.

    w has the memory layout of v. Raises ValueError as `method.weight_norm` does.
    """
    if not (v.is_cuda or INTERPRETED):
        return method.weight_norm(v, g, dim)
    method._check(v, g, dim)
    return _weight_norm_op(v, g.reshape(-1), -1 if dim is None or dim == -1 else dim % v.dim())[0]
