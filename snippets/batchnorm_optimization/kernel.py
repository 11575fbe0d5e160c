"""Batch normalization in Triton, forward and backward: x is read once for the statistics and once to be normalized.

Memory is seen as [row, column], where a group of columns is one channel's plane (NCHW: a row is an image), or all
channels side by side (channels-last, or small odd planes). Many programs share a channel, each a slab of rows. They
follow Welford per lane, on x less one of the channel's values; Chan's formula joins lanes, then slabs, in fp64.
The mean is kept as a rounded value and the remainder `low`: where it dwarfs the deviation, rounding it would show in y.
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
TILE = 2048
FULL_MACHINE, LEAST_STEPS = 2048, 8
"""As many programs fill a large GPU; a slab is not cut below so many steps of two tiles."""
PARTS = 512
WARPS = 8
LARGEST_SHIFT = tl.constexpr(1e30)


@triton.jit
def _slab(
    slab, chunk, rows, group, pieces, share, inner, PER_COLUMN: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Return a program's first and last row, its columns, which of them exist, and their channel."""
    piece = chunk % pieces
    within = piece * COLUMNS + tl.arange(0, COLUMNS)
    real = within < group
    if PER_COLUMN:
        column = within
        channel = tl.minimum(within, group - 1) // inner
    else:
        channel = chunk // pieces
        column = channel * group + within
    return slab * share, tl.minimum(slab * share + share, rows), column, real[None, :], channel


@triton.jit
def _shift(x_ptr, channel, rows, width, inner, WORK: tl.constexpr):
    """Return a value of the channel to subtract: the smaller of its first and last, so that one outlier does no harm."""
    first = x_ptr + channel * inner
    a = tl.load(first).to(WORK)
    b = tl.load(first + (tl.full((), 1, tl.int64) * rows - 1) * width + (inner - 1)).to(WORK)
    shift = tl.where(tl.abs(b) < tl.abs(a), b, a)
    return tl.where(tl.abs(shift) < LARGEST_SHIFT, shift, 0.0)  # no NaN, no infinity: x − shift must keep its sign


@triton.jit
def _of_channel(ptr, channel, WORK: tl.constexpr, PER_COLUMN: tl.constexpr):
    """Read one number a channel: a row of them, or a single one."""
    value = tl.load(ptr + channel).to(WORK)
    return value[None, :] if PER_COLUMN else value


@triton.jit
def _read(ptr, real, WHOLE: tl.constexpr, WORK: tl.constexpr):
    # columns that all exist need no mask: the loads stay wide
    x = tl.load(ptr) if WHOLE else tl.load(ptr, mask=real, other=0.0)
    return x.to(WORK)


@triton.jit
def _down(tile, ROWS: tl.constexpr, WORK: tl.constexpr):
    """Return the sum over a tile's rows, of tall tiles in fp64: Triton's interpreter adds one row after the other."""
    if ROWS > 32:
        tile = tile.to(tl.float64)
    return tl.sum(tile, 0, keep_dims=True).to(WORK)


@triton.jit
def _statistics(
    x_ptr, count_ptr, mean_ptr, square_ptr, rows, width, group, pieces, chunks, share, inner, parts,
    PER_COLUMN: tl.constexpr, WHOLE: tl.constexpr, WORK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program reads `share` rows of its columns and writes their count, mean and sum of squared deviations."""
    slab, chunk = tl.program_id(0).to(tl.int64) // chunks, tl.program_id(0).to(tl.int64) % chunks
    first, last, column, real, channel = _slab(
        slab, chunk, rows, group, pieces, share, inner, PER_COLUMN, COLUMNS
    )  # fmt: skip
    shift = _shift(x_ptr, channel, rows, width, inner, WORK)
    if PER_COLUMN:
        shift = shift[None, :]
    row = tl.arange(0, ROWS)[:, None]
    at = x_ptr + (first + row) * width + column[None, :]
    step = tl.full((), ROWS, tl.int64) * width
    mean = tl.zeros((ROWS, COLUMNS), WORK)
    square = tl.zeros((ROWS, COLUMNS), WORK)
    total = tl.zeros((ROWS, COLUMNS), WORK)  # a plain sum: Welford's mean forgets the sign of an infinity
    seen = tl.zeros((), WORK)
    steps = (last - first) // (2 * ROWS)
    for _ in range(0, steps):
        a = _read(at, real, WHOLE, WORK) - shift
        b = _read(at + step, real, WHOLE, WORK) - shift
        away = a - mean
        mean += away * (1.0 / (seen + 1.0))
        square += away * (a - mean)
        away = b - mean
        mean += away * (1.0 / (seen + 2.0))
        square += away * (b - mean)
        total += a + b
        seen += 2.0
        at += 2 * step
    count = tl.zeros((ROWS, COLUMNS), WORK) + seen
    if first + 2 * steps * ROWS < last:
        for nth in tl.static_range(2):
            inside = (first + (2 * steps + nth) * ROWS + row < last) & real
            a = tl.where(inside, tl.load(at, mask=inside, other=0.0).to(WORK) - shift, 0.0)
            away = a - mean
            moved = mean + away / (count + 1.0)
            square = tl.where(inside, square + away * (a - moved), square)
            mean = tl.where(inside, moved, mean)
            total += a
            count += tl.where(inside, 1.0, 0.0)
            at += step
    held = real & (count > 0)
    count = tl.where(held, count, 0.0)
    if PER_COLUMN:
        n = tl.maximum(_down(count, ROWS, WORK), 1.0)
        m = _down(tl.where(held, mean * count, 0.0), ROWS, WORK) / n
        m = tl.where(m == m, m, _down(tl.where(held, total, 0.0), ROWS, WORK) / n)
        away = mean - m
        s = _down(tl.where(held, square + count * away * away, 0.0), ROWS, WORK)
        here = channel[None, :] * parts + slab * inner + (column % inner)[None, :]
        tl.store(count_ptr + here, n, mask=real)
        tl.store(mean_ptr + here, m, mask=real)
        tl.store(square_ptr + here, s, mask=real)
    else:
        n = tl.sum(count)
        m = tl.sum(tl.where(held, mean * count, 0.0)) / n
        m = tl.where(m == m, m, tl.sum(tl.where(held, total, 0.0)) / n)
        away = mean - m
        s = tl.sum(tl.where(held, square + count * away * away, 0.0))
        here = channel * parts + slab * pieces + chunk % pieces
        tl.store(count_ptr + here, n)
        tl.store(mean_ptr + here, m)
        tl.store(square_ptr + here, s)


@triton.jit
def _part(ptr, channel, start, parts, filled, PARTS: tl.constexpr):
    """Read PARTS of a channel's numbers in fp64; those never written count as 0."""
    at = start + tl.arange(0, PARTS)  # `parts` is `filled` rounded up to a multiple of 16, so that loads stay wide
    value = tl.load(ptr + channel * parts + at, mask=at < parts, other=0.0)
    return tl.where(at < filled, value.to(tl.float64), 0.0)


@triton.jit
def _combine(
    x_ptr, count_ptr, part_mean_ptr, square_ptr, mean_ptr, variance_ptr, low_ptr, rstd_ptr, eps: tl.float64,
    rows, width, inner, parts, filled, WORK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """One program reads all parts of one channel and writes its mean, what rounding took from it, σ² and 1/√(σ² + ε)."""
    channel = tl.program_id(0).to(tl.int64)
    count = tl.zeros((PARTS,), tl.float64)
    total = tl.zeros((PARTS,), tl.float64)
    for start in range(0, filled, PARTS):
        n = _part(count_ptr, channel, start, parts, filled, PARTS)
        m = _part(part_mean_ptr, channel, start, parts, filled, PARTS)
        count += n
        total += n * m
    every = tl.sum(count)
    mean = tl.sum(total) / every
    square = tl.zeros((PARTS,), tl.float64)
    for start in range(0, filled, PARTS):
        n = _part(count_ptr, channel, start, parts, filled, PARTS)
        away = _part(part_mean_ptr, channel, start, parts, filled, PARTS) - mean
        square += _part(square_ptr, channel, start, parts, filled, PARTS) + tl.where(n > 0, n * away * away, 0.0)
    variance = tl.sum(square) / every
    shift = _shift(x_ptr, channel, rows, width, inner, WORK).to(tl.float64)
    rounded = (shift + mean).to(WORK)
    tl.store(mean_ptr + channel, rounded)
    tl.store(variance_ptr + channel, variance.to(WORK))
    tl.store(low_ptr + channel, ((shift - rounded.to(tl.float64)) + mean).to(WORK))
    tl.store(rstd_ptr + channel, (1.0 / tl.sqrt(variance + eps)).to(WORK))


@triton.jit
def _normalize(
    x_ptr, y_ptr, mean_ptr, low_ptr, rstd_ptr, weight_ptr, bias_ptr, rows, width, group, pieces, chunks, share, inner,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr,
    PER_COLUMN: tl.constexpr, WHOLE: tl.constexpr, WORK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program reads `share` rows of its columns of x and writes the same elements of y."""
    # Last slab first: what the statistics read last may still lie in the cache.
    program = tl.num_programs(0).to(tl.int64) - 1 - tl.program_id(0)
    slab, chunk = program // chunks, program % chunks
    first, last, column, real, channel = _slab(
        slab, chunk, rows, group, pieces, share, inner, PER_COLUMN, COLUMNS
    )  # fmt: skip
    mean = _of_channel(mean_ptr, channel, WORK, PER_COLUMN)
    low = _of_channel(low_ptr, channel, WORK, PER_COLUMN)
    scale = _of_channel(rstd_ptr, channel, WORK, PER_COLUMN)
    bias = tl.zeros_like(scale)
    if WEIGHT:
        scale *= _of_channel(weight_ptr, channel, WORK, PER_COLUMN)
    if BIAS:
        bias += _of_channel(bias_ptr, channel, WORK, PER_COLUMN)
    row = tl.arange(0, ROWS)[:, None]
    offset = (first + row) * width + column[None, :]
    step = tl.full((), ROWS, tl.int64) * width
    steps = (last - first) // (2 * ROWS)
    for _ in range(0, steps):
        a = _read(x_ptr + offset, real, WHOLE, WORK)
        b = _read(x_ptr + offset + step, real, WHOLE, WORK)
        a = (((a - mean) - low) * scale + bias).to(y_ptr.dtype.element_ty)
        b = (((b - mean) - low) * scale + bias).to(y_ptr.dtype.element_ty)
        if WHOLE:
            tl.store(y_ptr + offset, a)
            tl.store(y_ptr + offset + step, b)
        else:
            tl.store(y_ptr + offset, a, mask=real)
            tl.store(y_ptr + offset + step, b, mask=real)
        offset += 2 * step
    if first + 2 * steps * ROWS < last:
        for nth in tl.static_range(2):
            inside = (first + (2 * steps + nth) * ROWS + row < last) & real
            a = tl.load(x_ptr + offset, mask=inside, other=0.0).to(WORK)
            a = ((a - mean) - low) * scale + bias
            tl.store(y_ptr + offset, a.to(y_ptr.dtype.element_ty), mask=inside)
            offset += step


@triton.jit
def _reduce(
    grad_ptr, x_ptr, mean_ptr, low_ptr, plain_ptr, along_ptr, rows, width, group, pieces, chunks, share, inner, parts,
    PER_COLUMN: tl.constexpr, WHOLE: tl.constexpr, WORK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program reads `share` rows of its columns of dL/dy and x and writes their Σ dL/dy and Σ dL/dy·(x − μ)."""
    slab, chunk = tl.program_id(0).to(tl.int64) // chunks, tl.program_id(0).to(tl.int64) % chunks
    first, last, column, real, channel = _slab(
        slab, chunk, rows, group, pieces, share, inner, PER_COLUMN, COLUMNS
    )  # fmt: skip
    mean = _of_channel(mean_ptr, channel, WORK, PER_COLUMN)
    low = _of_channel(low_ptr, channel, WORK, PER_COLUMN)
    row = tl.arange(0, ROWS)[:, None]
    offset = (first + row) * width + column[None, :]
    step = tl.full((), ROWS, tl.int64) * width
    plain = tl.zeros((ROWS, COLUMNS), WORK)
    along = tl.zeros((ROWS, COLUMNS), WORK)
    steps = (last - first) // (2 * ROWS)
    for _ in range(0, steps):
        f = _read(grad_ptr + offset, real, WHOLE, WORK)
        g = _read(grad_ptr + offset + step, real, WHOLE, WORK)
        a = _read(x_ptr + offset, real, WHOLE, WORK)
        b = _read(x_ptr + offset + step, real, WHOLE, WORK)
        plain += f + g
        along += f * ((a - mean) - low)
        along += g * ((b - mean) - low)
        offset += 2 * step
    if first + 2 * steps * ROWS < last:
        for nth in tl.static_range(2):
            inside = (first + (2 * steps + nth) * ROWS + row < last) & real
            f = tl.load(grad_ptr + offset, mask=inside, other=0.0).to(WORK)
            a = tl.load(x_ptr + offset, mask=inside, other=0.0).to(WORK)
            plain += f
            along += tl.where(inside, f * ((a - mean) - low), 0.0)
            offset += step
    if PER_COLUMN:
        here = channel[None, :] * parts + slab * inner + (column % inner)[None, :]
        tl.store(plain_ptr + here, _down(plain, ROWS, WORK), mask=real)
        tl.store(along_ptr + here, _down(along, ROWS, WORK), mask=real)
    else:
        here = channel * parts + slab * pieces + chunk % pieces
        tl.store(plain_ptr + here, tl.sum(plain))
        tl.store(along_ptr + here, tl.sum(along))


@triton.jit
def _coefficients(
    plain_ptr, along_ptr, rstd_ptr, weight_ptr, grad_mean_ptr, grad_variance_ptr, grad_weight_ptr, grad_bias_ptr,
    a_ptr, b_ptr, c_ptr, d_ptr, e_ptr, count, parts, filled,
    WEIGHT: tl.constexpr, WORK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """One program reads all parts of one channel and writes dL/dγ, dL/dβ and the numbers that `_apply` needs.

    dL/dx = A·(dL/dy − B − C·(x − μ)) + D·(x − μ) + E, where D and E carry dL/dσ² and dL/dμ.
    """
    channel = tl.program_id(0).to(tl.int64)
    plain = tl.zeros((PARTS,), tl.float64)
    along = tl.zeros((PARTS,), tl.float64)
    for start in range(0, filled, PARTS):
        plain += _part(plain_ptr, channel, start, parts, filled, PARTS)
        along += _part(along_ptr, channel, start, parts, filled, PARTS)
    rstd = tl.load(rstd_ptr + channel).to(tl.float64)
    grad_bias = tl.sum(plain)
    grad_weight = tl.sum(along) * rstd
    scale = rstd
    if WEIGHT:
        scale *= tl.load(weight_ptr + channel).to(tl.float64)
    n = tl.cast(count, tl.float64)
    tl.store(grad_weight_ptr + channel, grad_weight.to(WORK))
    tl.store(grad_bias_ptr + channel, grad_bias.to(WORK))
    tl.store(a_ptr + channel, scale.to(WORK))
    tl.store(b_ptr + channel, (grad_bias / n).to(WORK))
    tl.store(c_ptr + channel, (grad_weight * rstd / n).to(WORK))
    tl.store(d_ptr + channel, (2.0 * tl.load(grad_variance_ptr + channel).to(tl.float64) / n).to(WORK))
    tl.store(e_ptr + channel, (tl.load(grad_mean_ptr + channel).to(tl.float64) / n).to(WORK))


@triton.jit
def _apply(
    grad_ptr, x_ptr, out_ptr, mean_ptr, low_ptr, a_ptr, b_ptr, c_ptr, d_ptr, e_ptr,
    rows, width, group, pieces, chunks, share, inner,
    PER_COLUMN: tl.constexpr, WHOLE: tl.constexpr, WORK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program reads `share` rows of its columns of dL/dy and x and writes the same elements of dL/dx."""
    program = tl.num_programs(0).to(tl.int64) - 1 - tl.program_id(0)
    slab, chunk = program // chunks, program % chunks
    first, last, column, real, channel = _slab(
        slab, chunk, rows, group, pieces, share, inner, PER_COLUMN, COLUMNS
    )  # fmt: skip
    mean = _of_channel(mean_ptr, channel, WORK, PER_COLUMN)
    low = _of_channel(low_ptr, channel, WORK, PER_COLUMN)
    a = _of_channel(a_ptr, channel, WORK, PER_COLUMN)
    b = _of_channel(b_ptr, channel, WORK, PER_COLUMN)
    c = _of_channel(c_ptr, channel, WORK, PER_COLUMN)
    d = _of_channel(d_ptr, channel, WORK, PER_COLUMN)
    e = _of_channel(e_ptr, channel, WORK, PER_COLUMN)
    row = tl.arange(0, ROWS)[:, None]
    offset = (first + row) * width + column[None, :]
    step = tl.full((), ROWS, tl.int64) * width
    full = first + (last - first) // ROWS * ROWS
    for _ in range(first, full, ROWS):
        g = _read(grad_ptr + offset, real, WHOLE, WORK)
        centered = (_read(x_ptr + offset, real, WHOLE, WORK) - mean) - low
        g = a * ((g - b) - c * centered) + (d * centered + e)
        if WHOLE:
            tl.store(out_ptr + offset, g.to(out_ptr.dtype.element_ty))
        else:
            tl.store(out_ptr + offset, g.to(out_ptr.dtype.element_ty), mask=real)
        offset += step
    if full < last:
        inside = (full + row < last) & real
        g = tl.load(grad_ptr + offset, mask=inside, other=0.0).to(WORK)
        centered = (tl.load(x_ptr + offset, mask=inside, other=0.0).to(WORK) - mean) - low
        g = a * ((g - b) - c * centered) + (d * centered + e)
        tl.store(out_ptr + offset, g.to(out_ptr.dtype.element_ty), mask=inside)


def _work(x: Tensor) -> tuple[torch.dtype, tl.dtype]:
    return (torch.float64, tl.float64) if x.dtype == torch.float64 else (torch.float32, tl.float32)


def _channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def _like(x: Tensor) -> Tensor:
    """Return an empty tensor in the layout of the result: channels-last for such an x, else contiguous."""
    return torch.empty_like(x) if _channels_last(x) else torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _laid(x: Tensor, like: Tensor) -> Tensor:
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


def _plan(x: Tensor) -> tuple[int, int, dict[str, int], dict[str, int]]:
    """Return how many programs share x, how many parts a channel has, and the kernels' sizes: given, and fixed."""
    channels, inner = int(x.shape[1]), int(x.shape[2:].numel())
    rows = int(x.shape[0])
    if _channels_last(x):
        rows, inner = rows * inner, 1
    # A plane that no wide load divides is read across channels, if there are rows enough to sum over.
    per_column = inner == 1 or (inner % 16 != 0 and rows >= 64)
    group = channels * inner if per_column else inner
    most = 256 if per_column else max(512, TILE // triton.next_power_of_2(rows))
    columns = min(most, triton.next_power_of_2(group))
    tall = min(TILE // columns, triton.next_power_of_2(rows))
    pieces = triton.cdiv(group, columns)
    chunks = pieces if per_column else pieces * channels
    steps = triton.cdiv(rows, 2 * tall)
    share = triton.cdiv(steps, max(1, min(triton.cdiv(FULL_MACHINE, chunks), steps // LEAST_STEPS))) * 2 * tall
    slabs = triton.cdiv(rows, share)
    sizes = {
        "rows": rows, "width": channels * inner, "group": group, "pieces": pieces, "chunks": chunks,
        "share": share, "inner": inner,
    }  # fmt: skip
    fixed = {"PER_COLUMN": per_column, "WHOLE": group % columns == 0, "ROWS": tall, "COLUMNS": columns}
    return slabs * chunks, slabs * (inner if per_column else pieces), sizes, fixed


def _numbers(many: int, count: int, x: Tensor) -> list[Tensor]:
    """Return several empty rows of numbers, one or more a channel."""
    return [torch.empty(count, dtype=_work(x)[0], device=x.device) for _ in range(many)]


def _or(given: Tensor | None, unused: Tensor) -> Tensor:
    """Return a tensor for a pointer that is never followed where nothing is given."""
    return unused if given is None else given.contiguous()


@_op("papernotes::batch_norm", mutates_args=())
def _batch_norm_op(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return y, μ, σ², and for the backward what rounding took from μ, and 1/√(σ² + ε)."""
    y, channels, WORK = _like(x), x.shape[1], _work(x)[1]
    mean, variance, low, rstd = _numbers(4, channels, x)
    if not x.numel():
        nan = float("nan")
        return y, mean.fill_(nan), variance.fill_(nan), low.fill_(nan), rstd.fill_(nan)
    x = _laid(x, y)
    programs, filled, sizes, fixed = _plan(x)
    parts = triton.cdiv(filled, 16) * 16
    count, part_mean, square = _numbers(3, channels * parts, x)
    _wrap(_statistics)[(programs,)](
        x, count, part_mean, square, **sizes, parts=parts, WORK=WORK, **fixed, num_warps=WARPS
    )
    _wrap(_combine)[(channels,)](
        x, count, part_mean, square, mean, variance, low, rstd, eps,
        sizes["rows"], sizes["width"], sizes["inner"], parts, filled, WORK=WORK, PARTS=PARTS,
    )  # fmt: skip
    _wrap(_normalize)[(programs,)](
        x, y, mean, low, rstd, _or(weight, mean), _or(bias, mean), **sizes,
        WEIGHT=weight is not None, BIAS=bias is not None, WORK=WORK, **fixed, num_warps=WARPS,
    )  # fmt: skip
    return y, mean, variance, low, rstd


@_op("papernotes::batch_norm_backward", mutates_args=())
def _batch_norm_backward_op(
    grad: Tensor, grad_mean: Tensor, grad_variance: Tensor,
    x: Tensor, weight: Tensor | None, mean: Tensor, low: Tensor, rstd: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return dL/dx, dL/dγ and dL/dβ, the last two in the dtype of the sums."""
    out, channels, WORK = _like(x), x.shape[1], _work(x)[1]
    grad_weight, grad_bias = _numbers(2, channels, x)
    if not x.numel():
        return out, grad_weight.zero_(), grad_bias.zero_()
    x, grad = _laid(x, out), _laid(grad, out)
    programs, filled, sizes, fixed = _plan(x)
    parts = triton.cdiv(filled, 16) * 16
    plain, along = _numbers(2, channels * parts, x)
    numbers = _numbers(5, channels, x)
    _wrap(_reduce)[(programs,)](
        grad, x, mean, low, plain, along, **sizes, parts=parts, WORK=WORK, **fixed, num_warps=WARPS
    )
    _wrap(_coefficients)[(channels,)](
        plain, along, rstd, _or(weight, rstd), grad_mean.contiguous(), grad_variance.contiguous(),
        grad_weight, grad_bias, *numbers, x.numel() // channels, parts, filled,
        WEIGHT=weight is not None, WORK=WORK, PARTS=PARTS,
    )  # fmt: skip
    _wrap(_apply)[(programs,)](grad, x, out, mean, low, *numbers, **sizes, WORK=WORK, **fixed, num_warps=WARPS)
    return out, grad_weight, grad_bias


@_batch_norm_op.register_fake
def _(x, weight, bias, eps):
    return _like(x), *_numbers(4, x.shape[1], x)


@_batch_norm_backward_op.register_fake
def _(grad, grad_mean, grad_variance, x, weight, mean, low, rstd, eps):
    return _like(x), *_numbers(2, x.shape[1], x)


def _keep(ctx, inputs, output):
    x, weight, bias, ctx.eps = inputs
    _, mean, _, low, rstd = output
    ctx.mark_non_differentiable(low, rstd)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, mean, low, rstd)


def _back(ctx, grad, grad_mean, grad_variance, *_):
    weight = ctx.saved_tensors[1]
    out, grad_weight, grad_bias = _batch_norm_backward_op(grad, grad_mean, grad_variance, *ctx.saved_tensors, ctx.eps)
    grad_weight = None if weight is None else grad_weight.to(weight.dtype)
    return out, grad_weight, None if ctx.bias_dtype is None else grad_bias.to(ctx.bias_dtype), None


def _keep_for_second(ctx, inputs, output):
    grad, grad_mean, grad_variance, x, weight, *_, ctx.eps = inputs
    ctx.save_for_backward(grad, grad_mean, grad_variance, x, weight)


def _second(ctx, *grads):
    # Rarely asked for: the twin is differentiated twice. μ and the rest are functions of x, and are so here as well.
    with torch.enable_grad():
        leaves = [None if one is None else one.detach().requires_grad_() for one in ctx.saved_tensors]
        grad, grad_mean, grad_variance, x, weight = leaves
        given = [x] if weight is None else [x, weight]
        outputs = method.batch_norm(x, weight, None, ctx.eps)
        first = torch.autograd.grad(outputs, given, (grad, grad_mean, grad_variance), create_graph=True)
        over = [0, *range(2, x.dim())]
        value = (first[0] * grads[0]).sum() + (grad.to(grads[2].dtype).sum(over) * grads[2]).sum()
        if weight is not None:
            value = value + (first[1] * grads[1]).sum()
        asked = [one for one in leaves if one is not None]
        found = iter(torch.autograd.grad(value, asked, allow_unused=True))
    return *(None if one is None else next(found) for one in leaves), None, None, None, None


_batch_norm_op.register_autograd(_back, setup_context=_keep)
_batch_norm_backward_op.register_autograd(_second, setup_context=_keep_for_second)


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, μ and the biased σ² as `method.batch_norm` does; on a CPU without Triton's interpreter, by it.

    Contiguous and channels-last inputs are read as they lie, others are copied first. Saves x, γ, μ and two numbers a
    channel for the backward. Raises ValueError as `method.batch_norm` does.
    """
    if not (x.is_cuda or INTERPRETED):
        return method.batch_norm(x, weight, bias, eps)
    method.check(x, weight, bias, eps)
    return _batch_norm_op(x, weight, bias, eps)[:3]
