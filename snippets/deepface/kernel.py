"""The locally connected layer in Triton, forward and backward: a small matrix product at every position.

No two positions share a weight, so the weights are nearly all the bytes: the forward streams them in memory order, once
for every 64 images, and the weight gradient writes them once. x and y are held batch last, [row, column, channel,
image], where every tap of a filter is a whole line of images; the copies this takes are small beside the weights. The
gradient of x is gathered, never scattered.
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
OUT, IMAGES, TAPS = 16, 64, 64
"""The tile of one program, at most: output channels and images, and the taps of a filter read at a time."""
PIXELS, CHANNELS = 16, 4
"""Neighboring pixels and input channels whose gradient one program gathers."""
# In the interpreter a product of bf16 operands is wrong; on a GPU it is exact, and summed in fp32.
_BF16 = tl.float32 if INTERPRETED else tl.bfloat16
_TYPES = {
    torch.float64: (tl.float64, tl.float64),
    torch.float16: (tl.float16, tl.float32),
    torch.bfloat16: (_BF16, tl.float32),
}


@triton.jit
def _tap(tap, width, channels, images, KH: tl.constexpr, KW: tl.constexpr):
    """Return how far into batch-last x a filter's tap lies from the filter's corner."""
    channel, u, v = tap // (KH * KW), tap // KW % KH, tap % KW
    return ((u.to(tl.int64) * width + v) * channels + channel) * images


@triton.jit
def _forward(
    x_ptr, weight_ptr, bias_ptr, y_ptr, width, channels, images, columns, out, taps, down, across,
    KH: tl.constexpr, KW: tl.constexpr, OPERAND: tl.constexpr, WORK: tl.constexpr,
    OUT: tl.constexpr, IMAGES: tl.constexpr, TAPS: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """One program reads OUT filters of one position and the patches of IMAGES images, and writes their products."""
    shares = images // IMAGES  # whole ones: the batch is padded; programs that share filters are next to each other
    blocks = tl.cdiv(out, OUT).to(tl.int64) * shares
    position = tl.program_id(0).to(tl.int64) // blocks
    block = tl.program_id(0).to(tl.int64) % blocks
    image = block % shares * IMAGES + tl.arange(0, IMAGES)
    o = block // shares * OUT + tl.arange(0, OUT)
    # A filter beyond the last repeats it and is not stored: without a mask over filters, the taps load wide.
    filters = weight_ptr + (position * out + tl.minimum(o, out - 1))[:, None] * taps
    corner = (position // columns * down * width + position % columns * across) * channels * images
    patch = x_ptr + corner + image[None, :]
    step = tl.arange(0, TAPS)
    total = tl.zeros((OUT, IMAGES), WORK)
    full = taps - taps % TAPS
    for start in range(0, full, TAPS):
        tap = start + step
        w = tl.load(filters + tap[None, :]).to(OPERAND)
        x = tl.load(patch + _tap(tap, width, channels, images, KH, KW)[:, None]).to(OPERAND)
        total = tl.dot(w, x, total, input_precision="ieee", out_dtype=WORK)
    if full < taps:
        tap = full + step
        w = tl.load(filters + tap[None, :], mask=(tap < taps)[None, :], other=0.0).to(OPERAND)
        at = _tap(tap, width, channels, images, KH, KW)[:, None]
        x = tl.load(patch + at, mask=(tap < taps)[:, None], other=0.0).to(OPERAND)
        total = tl.dot(w, x, total, input_precision="ieee", out_dtype=WORK)
    real = o < out
    if BIAS:
        total += tl.load(bias_ptr + position * out + o, mask=real, other=0.0).to(WORK)[:, None]
    here = y_ptr + (position * out + o)[:, None] * images + image[None, :]
    tl.store(here, total.to(y_ptr.dtype.element_ty), mask=real[:, None])


@triton.jit
def _weight_backward(
    grad_ptr, x_ptr, dweight_ptr, dbias_ptr, width, channels, images, columns, out, taps, down, across,
    KH: tl.constexpr, KW: tl.constexpr, OPERAND: tl.constexpr, WORK: tl.constexpr,
    OUT: tl.constexpr, IMAGES: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """One program reads gradient and patches of all images at one position, and writes OUT x TAPS weight gradients."""
    shares = tl.cdiv(taps, TAPS)
    blocks = tl.cdiv(out, OUT).to(tl.int64) * shares
    position = tl.program_id(0).to(tl.int64) // blocks
    block = tl.program_id(0).to(tl.int64) % blocks
    first = block % shares * TAPS
    tap = first + tl.arange(0, TAPS)
    o = block // shares * OUT + tl.arange(0, OUT)
    real = o < out
    # What lies beyond the last filter or tap repeats the last and is not stored: images load wide, without a mask.
    grads = grad_ptr + (position * out + tl.minimum(o, out - 1))[:, None] * images
    corner = (position // columns * down * width + position % columns * across) * channels * images
    patch = x_ptr + corner + _tap(tl.minimum(tap, taps - 1), width, channels, images, KH, KW)[:, None]
    image = tl.arange(0, IMAGES)[None, :]
    total = tl.zeros((OUT, TAPS), WORK)
    for start in range(0, images, IMAGES):
        grad = tl.load(grads + (start + image)).to(OPERAND)
        x = tl.load(patch + (start + image)).to(OPERAND)
        total = tl.dot(grad, tl.trans(x), total, input_precision="ieee", out_dtype=WORK)
    here = dweight_ptr + (position * out + o)[:, None] * taps + tap[None, :]
    if first + TAPS <= taps:  # whole blocks of taps are written wide
        tl.store(here, total.to(dweight_ptr.dtype.element_ty), mask=real[:, None])
    else:
        tl.store(here, total.to(dweight_ptr.dtype.element_ty), mask=real[:, None] & (tap < taps)[None, :])
    if first == 0:
        both = tl.zeros((OUT,), WORK)
        for start in range(0, images, IMAGES):
            both += tl.sum(tl.load(grads + (start + image)).to(WORK), axis=1)
        tl.store(dbias_ptr + position * out + o, both.to(dbias_ptr.dtype.element_ty), mask=real)


@triton.jit
def _x_backward(
    grad_ptr, weight_ptr, dx_ptr, width, channels, images, rows, columns, out, down, across,
    KH: tl.constexpr, KW: tl.constexpr, OPERAND: tl.constexpr, WORK: tl.constexpr,
    FILTERS: tl.constexpr, IMAGES: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One program writes PIXELS neighbors in one row, CHANNELS x IMAGES each, from every position that covers one."""
    shares = images // IMAGES
    blocks = tl.cdiv(channels, CHANNELS).to(tl.int64) * shares
    strip = tl.program_id(0).to(tl.int64) // blocks
    block = tl.program_id(0).to(tl.int64) % blocks
    y = (strip // tl.cdiv(width, PIXELS)).to(tl.int32)  # small numbers again: the loop divides in 32 bits
    left = (strip % tl.cdiv(width, PIXELS)).to(tl.int32) * PIXELS
    cell = tl.arange(0, CHANNELS * PIXELS)  # neighboring pixels are neighboring taps of one filter
    x = left + cell % PIXELS
    channel = block // shares * CHANNELS + cell // PIXELS
    image = block % shares * IMAGES + tl.arange(0, IMAGES)
    real = (x < width) & (channel < channels)
    top = tl.maximum(y - KH + down, 0) // down  # the positions that cover a pixel: rows from top, columns from start
    start = tl.maximum(left - KW + across, 0) // across
    filters = (tl.maximum(tl.minimum(y // down + 1, rows) - top, 0).to(tl.int64) * out).to(tl.int32)  # in one column
    steps = tl.cdiv(filters, FILTERS)
    columns_here = tl.maximum(tl.minimum((left + PIXELS - 1) // across + 1, columns) - start, 0)
    total = tl.zeros((CHANNELS * PIXELS, IMAGES), WORK)
    for nth in range(columns_here * steps):
        j = start + nth // steps
        f = nth % steps * FILTERS + tl.arange(0, FILTERS)
        i = (top + f // out).to(tl.int64)
        at = (i * columns + j) * out + f % out
        v = x - j * across
        covered = (real & (v >= 0) & (v < KW))[:, None]
        taps = (at * channels)[None, :] * (KH * KW) + (y - i * down)[None, :] * KW + (channel * (KH * KW) + v)[:, None]
        w = tl.load(weight_ptr + taps, mask=covered & (f < filters)[None, :], other=0.0).to(OPERAND)
        grad = tl.load(grad_ptr + at[:, None] * images + image[None, :], mask=(f < filters)[:, None], other=0.0)
        share = tl.dot(w, grad.to(OPERAND), input_precision="ieee", out_dtype=WORK)
        total += tl.where(covered, share, 0.0)  # not by a weight of 0: 0 times an infinite gradient would be NaN
    here = dx_ptr + ((y.to(tl.int64) * width + x) * channels + channel)[:, None] * images + image[None, :]
    tl.store(here, total.to(dx_ptr.dtype.element_ty), mask=real[:, None])


def _types(x: Tensor) -> dict[str, tl.dtype]:
    """Return in which dtype the matrix product takes its operands, and in which it sums."""
    operand, work = _TYPES.get(x.dtype, (tl.float32, tl.float32))
    return {"OPERAND": operand, "WORK": work}


def _images(batch: int) -> int:
    """Return how many images a program takes: a power of two from 16 up."""
    return min(IMAGES, max(16, triton.next_power_of_2(int(batch))))


def _taps(x: Tensor) -> int:
    """Return the taps a program takes: fewer where each is wider."""
    return TAPS * 2 // max(2, x.element_size())


def _batch_last(x: Tensor) -> Tensor:
    """Return [batch, channel, row, column] as [row, column, channel, image], with images of 0 up to whole blocks."""
    batch, channels, rows, columns = x.shape
    padded = triton.cdiv(batch, _images(batch)) * _images(batch)
    make = x.new_empty if padded == batch else x.new_zeros
    out = make((rows, columns, channels, padded))
    out[..., :batch].copy_(x.permute(2, 3, 1, 0))
    return out


def _batch_first(x: Tensor, batch: int) -> Tensor:
    return x[..., :batch].permute(3, 2, 0, 1).contiguous()


@_op("papernotes::locally_connected", mutates_args=())
def _locally_connected_op(x: Tensor, weight: Tensor, bias: Tensor | None, down: int, across: int) -> Tensor:
    batch, channels, _, width = x.shape
    rows, columns, out, _, kh, kw = weight.shape
    if not batch or not out:
        return x.new_empty((batch, out, rows, columns))
    x, weight = _batch_last(x), weight.contiguous()
    images = x.shape[3]
    y = x.new_empty((rows, columns, out, images))
    block = _images(batch)
    given = weight if bias is None else bias.contiguous()  # a pointer is needed either way
    _wrap(_forward)[(rows * columns * triton.cdiv(out, OUT) * (images // block),)](
        x, weight, given, y, width, channels, images, columns, out, channels * kh * kw, down, across,
        KH=kh, KW=kw, **_types(x), OUT=OUT, IMAGES=block, TAPS=_taps(x), BIAS=bias is not None,
    )  # fmt: skip
    return _batch_first(y, batch)


@_op("papernotes::locally_connected_weight_backward", mutates_args=())
def _weight_backward_op(grad: Tensor, x: Tensor, kh: int, kw: int, down: int, across: int) -> tuple[Tensor, Tensor]:
    batch, channels, _, width = x.shape
    _, out, rows, columns = grad.shape
    dweight = x.new_empty((rows, columns, out, channels, kh, kw))
    dbias = x.new_empty((rows, columns, out))
    if not batch or not channels or not out:
        return dweight.zero_(), dbias.copy_(grad.sum(0).permute(1, 2, 0))
    x, grad = _batch_last(x), _batch_last(grad)
    taps, block = channels * kh * kw, _taps(x)
    _wrap(_weight_backward)[(rows * columns * triton.cdiv(out, OUT) * triton.cdiv(taps, block),)](
        grad, x, dweight, dbias, width, channels, x.shape[3], columns, out, taps, down, across,
        KH=kh, KW=kw, **_types(x), OUT=OUT, IMAGES=_images(batch), TAPS=block,
    )  # fmt: skip
    return dweight, dbias


@_op("papernotes::locally_connected_x_backward", mutates_args=())
def _x_backward_op(grad: Tensor, weight: Tensor, height: int, width: int, down: int, across: int) -> Tensor:
    batch, out, rows, columns = grad.shape
    channels, kh, kw = weight.shape[3:]
    if not batch or not channels or not out:
        return grad.new_zeros((batch, channels, height, width))
    grad, weight = _batch_last(grad), weight.contiguous()
    images = grad.shape[3]
    dx = grad.new_empty((height, width, channels, images))
    block, deep = _images(batch), min(CHANNELS, triton.next_power_of_2(int(channels)))
    strips = height * triton.cdiv(width, PIXELS)
    _wrap(_x_backward)[(strips * triton.cdiv(channels, deep) * (images // block),)](
        grad, weight, dx, width, channels, images, rows, columns, out, down, across,
        KH=kh, KW=kw, **_types(grad), FILTERS=16 if grad.element_size() > 2 else 32, IMAGES=block,
        PIXELS=PIXELS, CHANNELS=deep, num_warps=8,
    )  # fmt: skip
    return _batch_first(dx, batch)


@_locally_connected_op.register_fake
def _(x, weight, bias, down, across):
    return x.new_empty((x.shape[0], weight.shape[2], *weight.shape[:2]))


@_weight_backward_op.register_fake
def _(grad, x, kh, kw, down, across):
    out, rows, columns = grad.shape[1:]
    return x.new_empty((rows, columns, out, x.shape[1], kh, kw)), x.new_empty((rows, columns, out))


@_x_backward_op.register_fake
def _(grad, weight, height, width, down, across):
    return grad.new_empty((grad.shape[0], weight.shape[3], height, width))


# Each of the three is linear in either tensor, and their derivatives are each other: gradients of any order.


def _keep(ctx, inputs, output):
    x, weight, bias, *ctx.stride = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _back(ctx, grad):
    x, weight = ctx.saved_tensors
    dx = dweight = dbias = None
    if ctx.needs_input_grad[0]:
        dx = _x_backward_op(grad, weight, *x.shape[2:], *ctx.stride)
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        dweight, dbias = _weight_backward_op(grad, x, *weight.shape[4:], *ctx.stride)
    return dx, dweight, dbias if ctx.has_bias else None, None, None


def _keep_two(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.stride = inputs[4:]


def _weight_back(ctx, dweight, dbias):
    grad, x = ctx.saved_tensors
    to_grad = _locally_connected_op(x, dweight, dbias, *ctx.stride) if ctx.needs_input_grad[0] else None
    to_x = _x_backward_op(grad, dweight, *x.shape[2:], *ctx.stride) if ctx.needs_input_grad[1] else None
    return to_grad, to_x, None, None, None, None


def _x_back(ctx, dx):
    grad, weight = ctx.saved_tensors
    to_grad = _locally_connected_op(dx, weight, None, *ctx.stride) if ctx.needs_input_grad[0] else None
    to_weight = _weight_backward_op(grad, dx, *weight.shape[4:], *ctx.stride)[0] if ctx.needs_input_grad[1] else None
    return to_grad, to_weight, None, None, None, None


_locally_connected_op.register_autograd(_back, setup_context=_keep)
_weight_backward_op.register_autograd(_weight_back, setup_context=_keep_two)
_x_backward_op.register_autograd(_x_back, setup_context=_keep_two)


def locally_connected(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int | tuple[int, int] = 1
) -> Tensor:
    """Return `method.locally_connected`; on a CPU without Triton's interpreter, by `method.locally_connected`.

    Raises ValueError for ranks, shapes, dtypes, devices or strides that do not fit.
    """
    if not (x.is_cuda or INTERPRETED):
        return method.locally_connected(x, weight, bias, stride)
    return _locally_connected_op(x, weight, bias, *method._check(x, weight, bias, stride))
