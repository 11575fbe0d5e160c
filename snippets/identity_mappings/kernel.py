"""BN + ReLU pre-activation in Triton, forward and backward: three passes over x forward, two over x and dL/dy backward.

Nothing of x's size is kept but x itself, which the shortcut holds anyway: the backward computes y again from x and
four numbers a channel, by the same operations in the same order, so that its ReLU opens exactly where the forward's
did. That y is the one before rounding: an fp16 output that underflows to 0 still passes its gradient.
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
TILE, WIDE = 2048, 64
"""Elements of a tile, and channels of one where channels lie side by side."""
TURNS, PROGRAMS = 32, 4096
"""Tiles of one program, at most; programs that fill a large GPU a few times over."""


# A tile is A × B elements. SLABS: B neighboring places of one channel in A samples (the channel is the program's lane).
# Otherwise channels lie side by side: A rows of B channels (the lane is the block of channels), and planes = 1.


@triton.jit
def _start(lanes, turns, units, channels, SLABS: tl.constexpr, VEC: tl.constexpr, B: tl.constexpr):
    """Return a program's lane and part, its first tile's row and block, blocks a row, and two sizes as int64."""
    program = tl.program_id(0).to(tl.int64)
    lane, part = program % lanes, program // lanes  # neighbors in memory run at the same time
    inner = tl.cast(units, tl.int64) * VEC  # a multiple of VEC in sight of the compiler: loads stay wide, masks too
    if SLABS:
        blocks = (inner + B - 1) // B
        row = part * turns // blocks
        block = part * turns % blocks
    else:
        blocks = tl.full((), 1, tl.int64)
        row = part * turns
        block = tl.full((), 0, tl.int64)
    return lane, part, row, block, blocks, inner, tl.cast(channels, tl.int64)


@triton.jit
def _tile(lane, row, block, batch, planes, inner, SLABS: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """Return where the elements of a tile lie, which are real, and how many real ones each channel has."""
    outer = row * A + tl.arange(0, A)
    if SLABS:
        plane = lane
        first = block * B
        real = tl.minimum(A, batch - row * A) * tl.minimum(B, inner - first)
    else:
        plane = tl.full((), 0, tl.int64)
        first = lane * B
        real = tl.minimum(A, batch - row * A)
    column = first + tl.arange(0, B)
    at = ((outer * planes + plane) * inner)[:, None] + column[None, :]
    return at, (outer < batch)[:, None] & (column < inner)[None, :], real


@triton.jit
def _next(row, block, blocks):
    block += 1
    return row + (block == blocks), tl.where(block == blocks, 0, block)


@triton.jit
def _channel(lane, SLABS: tl.constexpr, B: tl.constexpr):
    """Return the channels of a program, shaped to broadcast over its tiles."""
    return lane + tl.zeros((1, 1), tl.int64) if SLABS else (lane * B + tl.arange(0, B))[None, :]


@triton.jit
def _total(values, SLABS: tl.constexpr):
    """Sum a tile over all that belongs to one channel."""
    sums = tl.sum(values, 0, keep_dims=True)
    if SLABS:
        sums = tl.sum(sums, 1, keep_dims=True)
    return sums


@triton.jit
def _scaled(values, factor, pivot):
    # (values − pivot)·factor; the factor is a power of two, so neither product rounds and none can overflow
    return values * factor - pivot * factor


@triton.jit
def _collect(
    x_ptr, part_ptr, lanes, parts, turns, tiles, batch, planes, units, channels,
    SLABS: tl.constexpr, VEC: tl.constexpr, WORK: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """One program reads up to `turns` tiles of its channels and writes count, mean and squared deviations of each.

    Sums are taken about the mean of the first tile, so that they cancel at most by a factor of `turns`.
    """
    lane, part, row, block, blocks, inner, channels = _start(lanes, turns, units, channels, SLABS, VEC, B)
    at, inside, seen = _tile(lane, row, block, batch, planes, inner, SLABS, A, B)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(WORK)
    pivot = _total(x * (1.0 / seen.to(WORK)), SLABS)
    largest = tl.max(tl.abs(x), 0, keep_dims=True)  # of each channel: a neighbor's must not shrink it
    if SLABS:
        largest = tl.max(largest, 1, keep_dims=True)
    # beyond HUGE, squares are taken of numbers made smaller by an exact factor: fp32 overflows at 2¹²⁸, fp64 at 2¹⁰²⁴
    HUGE: tl.constexpr = 2.0**300 if tl.float64 == WORK else 2.0**40
    SHRINK: tl.constexpr = 2.0**-600 if tl.float64 == WORK else 2.0**-75
    factor = tl.where(largest > HUGE, SHRINK, 1.0).to(WORK)
    z = tl.where(inside, _scaled(x, factor, pivot), 0.0)
    first, second = z, z * z
    for _ in range(part * turns + 1, tl.minimum((part + 1) * turns, tiles)):
        row, block = _next(row, block, blocks)
        at, inside, real = _tile(lane, row, block, batch, planes, inner, SLABS, A, B)
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(WORK)
        z = tl.where(inside, _scaled(x, factor, pivot), 0.0)
        seen += real
        first += z
        second += z * z
    n, factor = seen.to(tl.float64), factor.to(tl.float64)
    sums = _total(first, SLABS).to(tl.float64)
    squares = _total(second, SLABS).to(tl.float64) - sums * sums / n
    channel = _channel(lane, SLABS, B)
    here, kept, size = part_ptr + part * channels + channel, channel < channels, parts * channels
    tl.store(here, n + tl.zeros_like(sums), mask=kept)
    tl.store(here + size, pivot.to(tl.float64) + sums / n / factor, mask=kept)
    tl.store(here + 2 * size, tl.where(squares < 0, 0.0, squares) / factor / factor, mask=kept)


@triton.jit
def _combine(
    part_ptr, stats_ptr, parts, channels, eps: tl.float64,
    WORK: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One program reads all parts of CHANNELS channels and writes their mean, what its rounding left, and 1/σ."""
    channel = tl.program_id(0).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)
    channels = tl.cast(channels, tl.int64)
    kept, size = channel < channels, parts * channels
    n = tl.zeros((CHANNELS,), tl.float64)
    mean = tl.zeros((CHANNELS,), tl.float64)
    squares = tl.zeros((CHANNELS,), tl.float64)
    for start in range(0, parts, PARTS):
        part = tl.cast(start, tl.int64) + tl.arange(0, PARTS)
        real = (part < parts)[:, None] & kept[None, :]
        here = part_ptr + part[:, None] * channels + channel[None, :]
        k = tl.load(here, mask=real, other=0.0)
        m = tl.load(here + size, mask=real, other=0.0)
        q = tl.load(here + 2 * size, mask=real, other=0.0)
        many = tl.maximum(tl.sum(k, 0), 1.0)
        middle = tl.sum(k * m, 0) / many
        away = m - middle[None, :]
        shift = middle - mean
        share = many / (n + many)
        squares += tl.sum(q + k * away * away, 0) + shift * (n * share) * shift  # Chan et al.; at n = 0 no ∞·0
        mean += shift * share
        n += many
    near = mean.to(WORK)
    here = stats_ptr + channel
    tl.store(here, near, mask=kept)
    tl.store(here + channels, (mean - near.to(tl.float64)).to(WORK), mask=kept)
    tl.store(here + 2 * channels, (1.0 / tl.sqrt(squares / n + eps)).to(WORK), mask=kept)


@triton.jit
def _constants(stats_ptr, weight_ptr, bias_ptr, channel, channels, WORK: tl.constexpr):
    """Return what y is computed from besides x: the mean in two pieces, 1/σ, weight/σ and bias."""
    kept, here = channel < channels, stats_ptr + channel
    mean = tl.load(here, mask=kept, other=0.0)
    rest = tl.load(here + channels, mask=kept, other=0.0)
    inverse = tl.load(here + 2 * channels, mask=kept, other=0.0)
    weight = tl.load(weight_ptr + channel, mask=kept, other=0.0).to(WORK)
    bias = tl.load(bias_ptr + channel, mask=kept, other=0.0).to(WORK)
    return mean, rest, inverse, weight * inverse, bias


@triton.jit
def _affine(centered, scale, bias):
    # One fused operation, asked for by name: left to the compiler, forward and backward might round differently.
    return tl.fma(centered, tl.broadcast_to(scale, centered.shape), tl.broadcast_to(bias, centered.shape))


@triton.jit
def _apply(
    x_ptr, stats_ptr, weight_ptr, bias_ptr, y_ptr, lanes, turns, tiles, batch, planes, units, channels,
    SLABS: tl.constexpr, VEC: tl.constexpr, WORK: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """One program reads up to `turns` tiles of x and writes the same tiles of y."""
    lane, part, row, block, blocks, inner, channels = _start(lanes, turns, units, channels, SLABS, VEC, B)
    channel = _channel(lane, SLABS, B)
    mean, rest, _inverse, scale, bias = _constants(stats_ptr, weight_ptr, bias_ptr, channel, channels, WORK)
    for _ in range(part * turns, tl.minimum((part + 1) * turns, tiles)):
        at, inside, _real = _tile(lane, row, block, batch, planes, inner, SLABS, A, B)
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(WORK)
        y = _affine(x - mean - rest, scale, bias)
        y = tl.where(y <= 0, 0.0, y)  # NaN is not ≤ 0 and stays, as in torch
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)
        row, block = _next(row, block, blocks)


@triton.jit
def _collect_gradients(
    grad_ptr, x_ptr, stats_ptr, weight_ptr, bias_ptr, part_ptr,
    lanes, parts, turns, tiles, batch, planes, units, channels,
    SLABS: tl.constexpr, VEC: tl.constexpr, WORK: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """One program reads up to `turns` tiles of dL/dy and x and writes Σ dL/dBN and Σ dL/dBN·x̂ of its channels."""
    lane, part, row, block, blocks, inner, channels = _start(lanes, turns, units, channels, SLABS, VEC, B)
    channel = _channel(lane, SLABS, B)
    mean, rest, inverse, scale, bias = _constants(stats_ptr, weight_ptr, bias_ptr, channel, channels, WORK)
    first = tl.zeros((A, B), WORK)
    second = tl.zeros((A, B), WORK)
    for _ in range(part * turns, tl.minimum((part + 1) * turns, tiles)):
        at, inside, _real = _tile(lane, row, block, batch, planes, inner, SLABS, A, B)
        centered = tl.load(x_ptr + at, mask=inside, other=0.0).to(WORK) - mean - rest
        grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(WORK)
        grad = tl.where(_affine(centered, scale, bias) <= 0, 0.0, grad)
        first += grad
        second += tl.where(inside, grad * (centered * inverse), 0.0)
        row, block = _next(row, block, blocks)
    here, kept, size = part_ptr + part * channels + channel, channel < channels, parts * channels
    # in a channel without deviation 1/σ is large and all of dL/dy but its mean cancels: few values, summed exactly
    tl.store(here, _total(first.to(tl.float64), SLABS), mask=kept)
    tl.store(here + size, _total(second, SLABS).to(tl.float64), mask=kept)


@triton.jit
def _combine_gradients(
    part_ptr, means_ptr, weight_grad_ptr, bias_grad_ptr, parts, channels, count,
    WORK: tl.constexpr, PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One program reads all parts of CHANNELS channels and writes dL/dweight, dL/dbias, and their means (one in two pieces)."""
    channel = tl.program_id(0).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)
    channels = tl.cast(channels, tl.int64)
    kept, size = channel < channels, parts * channels
    first = tl.zeros((CHANNELS,), tl.float64)
    second = tl.zeros((CHANNELS,), tl.float64)
    for start in range(0, parts, PARTS):
        part = tl.cast(start, tl.int64) + tl.arange(0, PARTS)
        real = (part < parts)[:, None] & kept[None, :]
        here = part_ptr + part[:, None] * channels + channel[None, :]
        first += tl.sum(tl.load(here, mask=real, other=0.0), 0)
        second += tl.sum(tl.load(here + size, mask=real, other=0.0), 0)
    n = tl.cast(count, tl.float64)
    tl.store(bias_grad_ptr + channel, first.to(WORK).to(bias_grad_ptr.dtype.element_ty), mask=kept)
    tl.store(weight_grad_ptr + channel, second.to(WORK).to(weight_grad_ptr.dtype.element_ty), mask=kept)
    level = (first / n).to(WORK)
    rest = first / n - level.to(tl.float64)
    here = means_ptr + channel
    tl.store(here, level, mask=kept)
    tl.store(here + channels, tl.where(rest == rest, rest, 0.0).to(WORK), mask=kept)  # ∞ − ∞ leaves no rest
    tl.store(here + 2 * channels, (second / n).to(WORK), mask=kept)


@triton.jit
def _apply_gradients(
    grad_ptr, x_ptr, stats_ptr, weight_ptr, bias_ptr, means_ptr, out_ptr,
    lanes, turns, tiles, batch, planes, units, channels,
    SLABS: tl.constexpr, VEC: tl.constexpr, WORK: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """One program reads up to `turns` tiles of dL/dy and x and writes the same tiles of dL/dx."""
    lane, part, row, block, blocks, inner, channels = _start(lanes, turns, units, channels, SLABS, VEC, B)
    channel = _channel(lane, SLABS, B)
    mean, rest, inverse, scale, bias = _constants(stats_ptr, weight_ptr, bias_ptr, channel, channels, WORK)
    kept = channel < channels
    level = tl.load(means_ptr + channel, mask=kept, other=0.0)
    finer = tl.load(means_ptr + channels + channel, mask=kept, other=0.0)
    slope = tl.load(means_ptr + 2 * channels + channel, mask=kept, other=0.0)
    for _ in range(part * turns, tl.minimum((part + 1) * turns, tiles)):
        at, inside, _real = _tile(lane, row, block, batch, planes, inner, SLABS, A, B)
        centered = tl.load(x_ptr + at, mask=inside, other=0.0).to(WORK) - mean - rest
        grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(WORK)
        grad = tl.where(_affine(centered, scale, bias) <= 0, 0.0, grad)
        out = scale * (grad - level - finer - centered * inverse * slope)
        tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)
        row, block = _next(row, block, blocks)


def _channels_last(x: Tensor) -> bool:
    return x.dim() > 2 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def _empty(x: Tensor) -> Tensor:
    """Return a tensor for y: channels-last where x is, else row-major."""
    return torch.empty_like(x) if _channels_last(x) else torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _laid(x: Tensor, like: Tensor) -> Tensor:
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


def _plan(x: Tensor) -> tuple[int, int, dict[str, int]]:
    """Return how many lanes and parts share the tiles of x, and what every pass is told of them."""
    batch, channels = int(x.shape[0]), int(x.shape[1])
    inner = int(x.numel()) // (batch * channels)
    slabs = inner > 1 and not _channels_last(x)
    planes = channels if slabs else 1
    batch, inner = (batch, inner) if slabs else (batch * inner, channels)
    b = min(triton.next_power_of_2(inner), TILE if slabs else WIDE)
    a = min(triton.next_power_of_2(batch), TILE // b)
    blocks = triton.cdiv(inner, b)
    lanes, tiles = (channels, triton.cdiv(batch, a) * blocks) if slabs else (blocks, triton.cdiv(batch, a))
    turns = max(1, min(TURNS, lanes * tiles // PROGRAMS))
    vec = math.gcd(inner, 16)
    sizes = {"lanes": lanes, "turns": turns, "tiles": tiles, "batch": batch, "planes": planes, "units": inner // vec}
    work = tl.float64 if x.dtype == torch.float64 else tl.float32
    shape = {"channels": channels, "SLABS": slabs, "VEC": vec, "WORK": work, "A": a, "B": b}
    return lanes, triton.cdiv(tiles, turns), sizes | shape


def _combining(parts: int, channels: int) -> tuple[tuple[int], dict[str, int]]:
    """Return grid and tile of the combining kernels."""
    rows = min(triton.next_power_of_2(parts), 32)
    wide = min(triton.next_power_of_2(channels), 16)
    return (triton.cdiv(channels, wide),), {"PARTS": rows, "CHANNELS": wide}


def _work(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@_op("papernotes::preactivation", mutates_args=())
def _preactivation_op(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    y = _empty(x)
    channels = int(x.shape[1])
    stats = torch.empty((3, channels), dtype=_work(x), device=x.device)
    if not x.numel():
        return y, stats.zero_()
    x, weight, bias = _laid(x, y), weight.contiguous(), bias.contiguous()
    lanes, parts, plan = _plan(x)
    partial = torch.empty((3, parts, channels), dtype=torch.float64, device=x.device)
    _wrap(_collect)[(lanes * parts,)](x, partial, parts=parts, **plan)
    grid, tile = _combining(parts, channels)
    _wrap(_combine)[grid](partial, stats, parts, channels, eps, WORK=plan["WORK"], **tile)
    _wrap(_apply)[(lanes * parts,)](x, stats, weight, bias, y, **plan)
    return y, stats


@_op("papernotes::preactivation_backward", mutates_args=())
def _preactivation_backward_op(
    grad: Tensor, x: Tensor, stats: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    out = _empty(x)
    channels = int(x.shape[1])
    weight_grad, bias_grad = (torch.empty((channels,), dtype=p.dtype, device=p.device) for p in (weight, bias))
    if not x.numel():
        return out, weight_grad.zero_(), bias_grad.zero_()
    grad, x, weight, bias = _laid(grad, out), _laid(x, out), weight.contiguous(), bias.contiguous()
    lanes, parts, plan = _plan(x)
    partial = torch.empty((2, parts, channels), dtype=torch.float64, device=x.device)
    means = torch.empty((3, channels), dtype=_work(x), device=x.device)
    _wrap(_collect_gradients)[(lanes * parts,)](grad, x, stats, weight, bias, partial, parts=parts, **plan)
    grid, tile = _combining(parts, channels)
    count = int(x.numel()) // channels
    _wrap(_combine_gradients)[grid](
        partial, means, weight_grad, bias_grad, parts, channels, count, WORK=plan["WORK"], **tile
    )
    _wrap(_apply_gradients)[(lanes * parts,)](grad, x, stats, weight, bias, means, out, **plan)
    return out, weight_grad, bias_grad


@_preactivation_op.register_fake
def _(x, weight, bias, eps):
    return _empty(x), torch.empty((3, x.shape[1]), dtype=_work(x), device=x.device)


@_preactivation_backward_op.register_fake
def _(grad, x, stats, weight, bias, eps):
    return _empty(x), *(torch.empty((x.shape[1],), dtype=p.dtype, device=p.device) for p in (weight, bias))


def _keep(ctx, inputs, output):
    x, weight, bias, ctx.eps = inputs
    ctx.save_for_backward(x, output[1], weight, bias)


def _back(ctx, grad, _):
    return *_preactivation_backward_op(grad, *ctx.saved_tensors, ctx.eps), None


def _keep_again(ctx, inputs, output):
    grad, x, _, weight, bias, ctx.eps = inputs
    ctx.save_for_backward(grad, x, weight, bias)


def _back_again(ctx, *grads):
    """Differentiate the backward itself, by the twin: rare enough to need no kernel."""
    grad, x, weight, bias = leaves = [one.detach().requires_grad_() for one in ctx.saved_tensors]
    with torch.enable_grad():
        y = method.preactivation(x, weight, bias, ctx.eps)
        first = torch.autograd.grad(y, (x, weight, bias), grad, create_graph=True)
        of_grad, of_x, of_weight, of_bias = torch.autograd.grad(first, leaves, grads, allow_unused=True)
    return of_grad, of_x, None, of_weight, of_bias, None


_preactivation_op.register_autograd(_back, setup_context=_keep)
_preactivation_backward_op.register_autograd(_back_again, setup_context=_keep_again)


def preactivation(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Return relu(BN(x)) as `method.preactivation` does; on a CPU without Triton's interpreter, by it.

    Statistics and arithmetic are fp32, fp64 for fp64; partial results are put together in fp64. Keeps x and three
    numbers a channel for the backward. Raises ValueError as `method.preactivation`.
    """
    if not (x.is_cuda or INTERPRETED):
        return method.preactivation(x, weight, bias, eps)
    method.check(x, weight, bias, eps)
    return _preactivation_op(x, weight, bias, eps)[0]
