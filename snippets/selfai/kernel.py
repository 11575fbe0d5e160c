"""Sharpness, mean and contrast of images in Triton, from one read of every pixel.

A strip of an image is walked from top to bottom with three rows in registers, so a pixel is loaded once as itself and never
again as a neighbor above or below; its neighbors to the left and right lie in the same registers, but for every fourth. Each column of a strip
keeps count, sum and squared deviations (Youngs and Cramer's update, on values less the column's first); Chan's formula joins columns, then
strips, in fp64. No atomics: the same bits every time.
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
GROUPS = 128
"""Groups of four columns that one program walks, over one strip or, of narrow images, over several."""
FULL_MACHINE = 2048
SHARES = (64, 32, 16, 8)
"""Rows a strip has, at most: as many as leave enough programs to fill a large GPU."""
PARTS = 128
SMALL = 2.0**-90
"""What pixels are multiplied by where their squares overflowed fp32, when they are read a second time."""


@triton.jit
def _row(x_ptr, at, width, column, WHOLE: tl.constexpr, WORK: tl.constexpr):
    """Read one row's columns of every strip, [strip, group, 4]; columns beyond the last are 0 and counted nowhere."""
    here = x_ptr + at[:, None, None] + column[None, :, :]
    x = tl.load(here) if WHOLE else tl.load(here, mask=(column < width)[None, :, :], other=0.0)
    return x.to(WORK)


@triton.jit
def _across(x, x_ptr, at, width, group, scale, STRIPS: tl.constexpr, GROUPS: tl.constexpr, WORK: tl.constexpr):
    """Return (left − x) + (right − x); only a group's outer neighbors are read, from the cache."""
    # clamped to the row: what lies beyond it is no neighbor of an inner pixel, and may be no memory of ours
    left = tl.minimum(tl.maximum(group * 4 - 1, 0), width - 1)
    right = tl.minimum(group * 4 + 4, width - 1)
    before = tl.load(x_ptr + at[:, None] + left[None, :]).to(WORK) * scale
    after = tl.load(x_ptr + at[:, None] + right[None, :]).to(WORK) * scale
    even, odd = tl.split(tl.reshape(x, (STRIPS, GROUPS, 2, 2)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    d0 = x1 - x0
    d1 = x2 - x1
    d2 = x3 - x2
    even = tl.join(d0 + (before - x0), d2 - d1)
    odd = tl.join(d1 - d0, (after - x3) - d2)
    return tl.reshape(tl.join(even, odd), (STRIPS, GROUPS, 4))


@triton.jit
def _add(y, total, square, n, weight):
    """Return Σy and Σ(y − mean)² with one more y, the n-th; weight is 1/(n(n − 1)), or 0 for the first."""
    total += y
    away = n * y - total
    return total, square + away * (away * weight)


@triton.jit
def _walk(
    x_ptr, image, first, rows, more, top, bottom, scale, height, width, column, group,
    WHOLE: tl.constexpr, STRIPS: tl.constexpr, GROUPS: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    """Walk a strip's inner rows and return, by column, what was subtracted from pixels and Laplacians, their Σ and Σ(y − mean)².

    Every strip has `rows` rows, those with `more` one further; `top` and `bottom` add the image's first and last row,
    whose pixels count and whose Laplacian does not exist.
    """
    at = image + first * width
    above = _row(x_ptr, at - width, width, column, WHOLE, WORK) * scale
    x = _row(x_ptr, at, width, column, WHOLE, WORK) * scale
    below = _row(x_ptr, at + width, width, column, WHOLE, WORK) * scale
    end = image + (height - 1) * width
    ahead = _row(x_ptr, tl.minimum(at + 2 * width, end), width, column, WHOLE, WORK) * scale
    shift = tl.where(tl.abs(x) < float("inf"), x, 0.0)  # x − shift must keep an infinity's sign
    down = below - x
    flat = (down - (x - above)) + _across(x, x_ptr, at, width, group, scale, STRIPS, GROUPS, WORK)
    flat_shift = tl.where(tl.abs(flat) < float("inf"), flat, 0.0)
    total = x - shift
    flat_total = flat - flat_shift
    square = total - total  # 0, and NaN where the first is no number
    flat_square = flat_total - flat_total
    n = tl.full((), 1.0, WORK)
    for _ in range(1, rows):
        at += width
        x = below
        up = down
        below = ahead  # asked for one row earlier than needed, so that memory answers while this row is computed
        ahead = _row(x_ptr, tl.minimum(at + 2 * width, end), width, column, WHOLE, WORK) * scale
        down = below - x
        flat = (down - up) + _across(x, x_ptr, at, width, group, scale, STRIPS, GROUPS, WORK)
        n += 1.0
        weight = 1.0 / (n * (n - 1.0))
        total, square = _add(x - shift, total, square, n, weight)
        flat_total, flat_square = _add(flat - flat_shift, flat_total, flat_square, n, weight)
    # the row after these: an inner one of strips that have more, otherwise the next strip's or the image's last
    count = tl.zeros_like(first).to(WORK) + n
    at += width
    x = below
    below = ahead
    flat = ((below - x) - down) + _across(x, x_ptr, at, width, group, scale, STRIPS, GROUPS, WORK)
    m = (count + 1.0)[:, None, None]
    taken = more[:, None, None]
    a, b = _add(flat - flat_shift, flat_total, flat_square, m, 1.0 / (m * (m - 1.0)))
    flat_total, flat_square = tl.where(taken, a, flat_total), tl.where(taken, b, flat_square)
    taken = (more | bottom)[:, None, None]
    a, b = _add(x - shift, total, square, m, 1.0 / (m * (m - 1.0)))
    total, square = tl.where(taken, a, total), tl.where(taken, b, square)
    count += tl.where(more | bottom, 1.0, 0.0)
    m = (count + 1.0)[:, None, None]
    taken = (more & bottom)[:, None, None]
    a, b = _add(below - shift, total, square, m, 1.0 / (m * (m - 1.0)))
    total, square = tl.where(taken, a, total), tl.where(taken, b, square)
    count += tl.where(more & bottom, 1.0, 0.0)
    m = (count + 1.0)[:, None, None]
    taken = top[:, None, None]
    a, b = _add(above - shift, total, square, m, 1.0 / (m * (m - 1.0)))
    total, square = tl.where(taken, a, total), tl.where(taken, b, square)
    return shift, total, square, flat_shift, flat_total, flat_square


@triton.jit
def _report(at, units, written, shift, total, square, count, real, back):
    """Write each strip's count, mean and squared deviations, joined from its columns in fp64 (Chan's formula)."""
    columns = tl.sum(tl.sum(tl.where(real, 1.0, 0.0).to(tl.float64), 2), 1)
    n = count.to(tl.float64)
    mean = (shift.to(tl.float64) + total.to(tl.float64) / n[:, None, None]) * back
    middle = tl.sum(tl.sum(tl.where(real, mean, 0.0), 2), 1) / tl.where(columns > 0, columns, 1.0)
    away = mean - middle[:, None, None]
    deviations = square.to(tl.float64) * back * back + n[:, None, None] * away * away
    tl.store(at, n * columns, mask=written)
    tl.store(at + units, middle, mask=written)
    tl.store(at + 2 * units, tl.sum(tl.sum(tl.where(real, deviations, 0.0), 2), 1), mask=written)


@triton.jit
def _measure(
    x_ptr, part_ptr, unit, written, flat_written, height, width, strips, chunks, units, SCALE: tl.constexpr,
    WHOLE: tl.constexpr, STRIPS: tl.constexpr, GROUPS: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    strip = unit // chunks % strips
    image = unit // chunks // strips * height * width
    group = tl.arange(0, GROUPS)
    if STRIPS == 1:
        group += tl.program_id(0) % chunks * GROUPS  # several strips are walked whole images across
    column = group[:, None] * 4 + tl.arange(0, 4)[None, :]
    inner = height - 2
    first = 1 + strip * inner // strips
    rows = inner // strips
    more = (1 + (strip + 1) * inner // strips - first) > rows
    top = strip == 0
    bottom = strip == strips - 1
    shift, total, square, flat_shift, flat_total, flat_square = _walk(
        x_ptr, image, first, rows, more, top, bottom, tl.full((), SCALE, WORK), height, width, column, group,
        WHOLE, STRIPS, GROUPS, WORK,
    )  # fmt: skip
    inside = rows + more.to(tl.int64)
    pixels = inside + top.to(tl.int64) + bottom.to(tl.int64)
    at = part_ptr + unit
    real = (column < width)[None, :, :]
    _report(at, units, written, shift, total, square, pixels, real, 1.0 / SCALE)
    real = ((column > 0) & (column < width - 1))[None, :, :]
    _report(at + 3 * units, units, flat_written, flat_shift, flat_total, flat_square, inside, real, 1.0 / SCALE)


@triton.jit
def _strips(
    x_ptr, part_ptr, height, steps, strips, chunks, units, STEP: tl.constexpr, SCALE: tl.constexpr,
    WHOLE: tl.constexpr, STRIPS: tl.constexpr, GROUPS: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    """One program reads STRIPS strips of 4·GROUPS columns and writes six numbers for each.

    They are count, mean and squared deviations, of pixels and of Laplacians. With a SCALE other than 1, only those are read
    again whose squares had overflowed.
    """
    height = tl.cast(height, tl.int64)
    units = tl.cast(units, tl.int64)
    width = tl.cast(steps, tl.int64) * STEP  # so written, the compiler knows how rows are aligned
    unit = tl.program_id(0).to(tl.int64) * STRIPS + tl.arange(0, STRIPS)
    held = unit < units
    unit = tl.minimum(unit, units - 1)  # beyond the last walk the last again: no load needs a mask for it
    if SCALE == 1.0:
        _measure(
            x_ptr, part_ptr, unit, held, held, height, width, strips, chunks, units, SCALE, WHOLE, STRIPS, GROUPS, WORK
        )  # fmt: skip
    else:
        # 0·x is 0 unless x is infinite or no number
        written = held & (tl.load(part_ptr + 2 * units + unit) * 0.0 != 0.0)
        flat_written = held & (tl.load(part_ptr + 5 * units + unit) * 0.0 != 0.0)
        if tl.max((written | flat_written).to(tl.int32)) > 0:
            _measure(
                x_ptr, part_ptr, unit, written, flat_written, height, width, strips, chunks, units, SCALE,
                WHOLE, STRIPS, GROUPS, WORK,
            )  # fmt: skip


@triton.jit
def _put(ptr, value):
    if ptr.dtype.element_ty != tl.float64:
        value = value.to(tl.float32)  # the interpreter misreads a cast from fp64 to bf16
    tl.store(ptr, value.to(ptr.dtype.element_ty))


@triton.jit
def _merge(part_ptr, sharpness_ptr, mean_ptr, contrast_ptr, parts, units, PARTS: tl.constexpr):
    """One program reads all parts of one image, twice, and writes its three numbers (Chan's formula, in fp64)."""
    image = tl.program_id(0).to(tl.int64)
    units = tl.cast(units, tl.int64)
    count = tl.zeros((PARTS,), tl.float64)
    total, flat_count, flat_total = count, count, count
    for start in range(0, parts, PARTS):
        at = start + tl.arange(0, PARTS)
        real = at < parts
        here = part_ptr + image * parts + at
        n = tl.load(here, mask=real, other=0.0)
        flat_n = tl.load(here + 3 * units, mask=real, other=0.0)
        count += n
        total += n * tl.load(here + units, mask=real, other=0.0)
        flat_count += flat_n
        flat_total += flat_n * tl.load(here + 4 * units, mask=real, other=0.0)
    n_all, flat_all = tl.sum(count), tl.sum(flat_count)
    mean, flat_mean = tl.sum(total) / n_all, tl.sum(flat_total) / flat_all
    square = tl.zeros((PARTS,), tl.float64)
    flat_square = square
    for start in range(0, parts, PARTS):
        at = start + tl.arange(0, PARTS)
        real = at < parts
        here = part_ptr + image * parts + at
        away = tl.load(here + units, mask=real, other=0.0) - mean
        flat_away = tl.load(here + 4 * units, mask=real, other=0.0) - flat_mean
        square += tl.load(here + 2 * units, mask=real, other=0.0)
        square += tl.load(here, mask=real, other=0.0) * tl.where(real, away * away, 0.0)
        flat_square += tl.load(here + 5 * units, mask=real, other=0.0)
        flat_square += tl.load(here + 3 * units, mask=real, other=0.0) * tl.where(real, flat_away * flat_away, 0.0)
    _put(sharpness_ptr + image, tl.sum(flat_square) / flat_all)
    _put(mean_ptr + image, mean)
    _put(contrast_ptr + image, tl.sqrt(tl.sum(square) / n_all))


def _cut(batch: int, height: int, width: int) -> tuple[int, int, int]:
    """Return the groups of columns a program walks, and into how many chunks of them and strips an image is cut."""
    groups = min(GROUPS, triton.next_power_of_2(triton.cdiv(width, 4)))
    chunks = triton.cdiv(width, 4 * groups)
    for share in SHARES:
        strips = triton.cdiv(height - 2, share)
        if batch * strips * chunks * groups >= FULL_MACHINE * GROUPS:
            break
    return groups, chunks, strips


@_op("papernotes::image_statistics", mutates_args=())
def _statistics_op(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, height, width = images.shape
    sharpness, mean, contrast = (images.new_empty(batch) for _ in range(3))
    if batch:
        groups, chunks, strips = _cut(batch, height, width)
        units, step = batch * strips * chunks, math.gcd(width, 16)
        held = GROUPS // groups
        parts = images.new_empty((6, units), dtype=torch.float64)
        images = images.contiguous()
        # fp16 cannot overflow in fp32, and fp64 has no wider type to be compared with
        for scale in (1.0, SMALL) if images.dtype in (torch.float32, torch.bfloat16) else (1.0,):
            _wrap(_strips)[(triton.cdiv(units, held),)](
                images, parts, height, width // step, strips, chunks, units, STEP=step, SCALE=scale,
                WHOLE=width % (4 * groups) == 0, STRIPS=held, GROUPS=groups,
                WORK=tl.float64 if images.dtype == torch.float64 else tl.float32,
                num_warps=4 if images.dtype == torch.float64 else 2,
            )  # fmt: skip
        _wrap(_merge)[(batch,)](parts, sharpness, mean, contrast, strips * chunks, units, PARTS=PARTS)
    return sharpness, mean, contrast


@_statistics_op.register_fake
def _(images):
    return tuple(images.new_empty(images.shape[0]) for _ in range(3))


def image_statistics(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return sharpness, mean and contrast as `method.image_statistics` does; by it on a CPU without Triton's interpreter.

    The kernel has no backward: images that need a gradient go to the method as well. fp32 and bf16 are summed in fp32, where
    a deviation below about 1e-19 counts as 0. Raises ValueError as the method does.
    """
    if not (images.is_cuda or INTERPRETED) or (torch.is_grad_enabled() and images.requires_grad):
        return method.image_statistics(images)
    method._check(images)
    return _statistics_op(images.detach())
