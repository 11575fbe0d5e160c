"""Transposed convolution (4 × 4, stride 2, padding 1) with scale, shift and ReLU in Triton, forward and backward.

In gather form nothing is stuffed with zeros: an output pixel reads 2 × 2 input pixels under the 2 × 2 taps of its parity,
so the layer is four small matrix products over the input channels. The backward knows the mask from the output's sign.
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
BF16 = tl.float32 if INTERPRETED else tl.bfloat16
"""What a bf16 matrix product takes: the interpreter misreads bf16 operands."""
FULL_MACHINE, LEAST_PIXELS = 1024, 512
"""The weight gradient shares the pixels out until the machine is full, but no share is smaller than this."""


@triton.jit
def _pixels(start, count, height, width, TILE: tl.constexpr):
    """Return image, row and column of TILE pixels from `start`, and which are real; the others repeat the last one."""
    at = start + tl.arange(0, TILE)
    real = at < count
    at = tl.minimum(at, count - 1)
    return at // width // height, at // width % height, at % width, real


@triton.jit
def _span(start, count, TILE: tl.constexpr):
    """Return TILE channel numbers from `start`, and which are real."""
    at = start + tl.arange(0, TILE).to(tl.int64)
    return at, at < count


@triton.jit
def _masked(grad_ptr, y_ptr, at, real, inside, EVEN: tl.constexpr):
    """Return dL/dy where ReLU let it pass and the pixel exists, else 0; a NaN in y lets it pass, as in torch."""
    if EVEN:
        grad, y = tl.load(grad_ptr + at), tl.load(y_ptr + at)
    else:
        grad, y = tl.load(grad_ptr + at, mask=real, other=0.0), tl.load(y_ptr + at, mask=real, other=0.0)
    WORK: tl.constexpr = tl.float64 if y_ptr.dtype.element_ty == tl.float64 else tl.float32
    return tl.where(inside & ~(y.to(WORK) <= 0), grad.to(WORK), 0.0)


@triton.jit
def _forward(
    x_ptr, taps_ptr, scale_ptr, shift_ptr, y_ptr, count, height, width, channels, outs,
    x_image, x_pixel, x_channel, y_image, y_pixel, y_channel,
    EVEN: tl.constexpr, WORK: tl.constexpr, OPERAND: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """One program reads 2 × 2 neighbors of M input pixels, all channels, and writes N channels of M output pixels of one parity."""
    p, q = tl.program_id(0) % 4 // 2, tl.program_id(0) % 2
    image, row, column, real = _pixels(tl.program_id(0).to(tl.int64) // 4 * M, count, height, width, M)
    out, real_out = _span(tl.program_id(1).to(tl.int64) * N, outs, N)
    total = tl.zeros((M, N), WORK)
    for tap in range(4):
        s, t = tap // 2, tap % 2
        y, x = row + p - s, column + q - t
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        y, x = tl.minimum(tl.maximum(y, 0), height - 1), tl.minimum(tl.maximum(x, 0), width - 1)
        pixel = x_ptr + image * x_image + (y * width + x) * x_pixel
        weight = taps_ptr + ((1 - p + 2 * s) * 4 + 1 - q + 2 * t).to(tl.int64) * channels * outs + out
        part = tl.zeros((M, N), WORK)
        for start in range(0, channels, K):
            channel, real_channel = _span(start, channels, K)
            a_at, b_at = pixel[:, None] + channel[None, :] * x_channel, weight[None, :] + channel[:, None] * outs
            if EVEN:
                a, b = tl.load(a_at), tl.load(b_at)
            else:
                a = tl.load(a_at, mask=real_channel[None, :], other=0.0)
                b = tl.load(b_at, mask=real_channel[:, None] & real_out[None, :], other=0.0)
            part = tl.dot(a.to(OPERAND), b.to(OPERAND), part, input_precision="ieee", out_dtype=WORK)
        # Off the image nothing is added, not even 0 times an infinite weight.
        total += tl.where(inside[:, None], part, 0.0)
    scale = tl.load(scale_ptr + out, mask=real_out, other=0.0).to(WORK)
    z = total * scale[None, :] + tl.load(shift_ptr + out, mask=real_out, other=0.0).to(WORK)[None, :]
    z = tl.where(z <= 0, 0.0, z)  # keeps NaN
    here = image * y_image + ((2 * row + p) * width * 2 + 2 * column + q) * y_pixel
    at = y_ptr + here[:, None] + out[None, :] * y_channel
    if EVEN:
        tl.store(at, z.to(y_ptr.dtype.element_ty), mask=real[:, None])
    else:
        tl.store(at, z.to(y_ptr.dtype.element_ty), mask=real[:, None] & real_out[None, :])


@triton.jit
def _grad_input(
    grad_ptr, y_ptr, taps_ptr, rest_ptr, out_ptr, count, height, width, channels, outs,
    x_image, x_pixel, x_channel, y_image, y_pixel, y_channel,
    SPLIT: tl.constexpr, EVEN: tl.constexpr, WORK: tl.constexpr, OPERAND: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """One program reads dL/dy and y on 4 × 4 pixels around each of M input pixels and writes N channels of dL/dx there."""
    image, row, column, real = _pixels(tl.program_id(0).to(tl.int64) * M, count, height, width, M)
    channel, real_channel = _span(tl.program_id(1).to(tl.int64) * N, channels, N)
    total = tl.zeros((M, N), WORK)
    for tap in range(16):
        y, x = 2 * row - 1 + tap // 4, 2 * column - 1 + tap % 4
        inside = ((y >= 0) & (y < 2 * height) & (x >= 0) & (x < 2 * width))[:, None]
        y, x = tl.minimum(tl.maximum(y, 0), 2 * height - 1), tl.minimum(tl.maximum(x, 0), 2 * width - 1)
        pixel = image * y_image + (y * width * 2 + x) * y_pixel
        weight = tl.cast(tap, tl.int64) * outs * channels + channel
        for start in range(0, outs, K):
            out, real_out = _span(start, outs, K)
            at, weight_at = pixel[:, None] + out[None, :] * y_channel, weight[None, :] + out[:, None] * channels
            g = _masked(grad_ptr, y_ptr, at, real_out[None, :], inside, EVEN).to(OPERAND)
            mask = None if EVEN else real_out[:, None] & real_channel[None, :]
            b = tl.load(taps_ptr + weight_at, mask=mask, other=None if EVEN else 0.0)
            total = tl.dot(g, b.to(OPERAND), total, input_precision="ieee", out_dtype=WORK)
            if SPLIT:  # what rounding scale · weight to half precision left over
                b = tl.load(rest_ptr + weight_at, mask=mask, other=None if EVEN else 0.0)
                total = tl.dot(g, b.to(OPERAND), total, input_precision="ieee", out_dtype=WORK)
    at = out_ptr + (image * x_image + (row * width + column) * x_pixel)[:, None] + channel[None, :] * x_channel
    if EVEN:
        tl.store(at, total.to(out_ptr.dtype.element_ty), mask=real[:, None])
    else:
        tl.store(at, total.to(out_ptr.dtype.element_ty), mask=real[:, None] & real_channel[None, :])


@triton.jit
def _grad_weight(
    grad_ptr, y_ptr, x_ptr, parts_ptr, sums_ptr, count, height, width, channels, outs, share,
    x_image, x_pixel, x_channel, y_image, y_pixel, y_channel,
    EVEN: tl.constexpr, WORK: tl.constexpr, OPERAND: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """One program reads `share` pixels of x and, one tap away, of dL/dy, and writes M × N sums of their products at that tap.

    The programs of the first input channels also write the plain sums of dL/dy.
    """
    blocks = tl.cdiv(outs, N)
    channel, real_channel = _span(tl.program_id(0).to(tl.int64) // blocks * M, channels, M)
    out, real_out = _span(tl.program_id(0).to(tl.int64) % blocks * N, outs, N)
    tap = tl.program_id(1)
    first = tl.program_id(2).to(tl.int64) * share
    last = tl.minimum(first + share, count)
    total = tl.zeros((M, N), WORK)
    plain = tl.zeros((N,), WORK)
    for start in range(first, last, K):
        image, row, column, real = _pixels(start, last, height, width, K)
        y, x = 2 * row - 1 + tap // 4, 2 * column - 1 + tap % 4
        inside = (real & (y >= 0) & (y < 2 * height) & (x >= 0) & (x < 2 * width))[:, None]
        y, x = tl.minimum(tl.maximum(y, 0), 2 * height - 1), tl.minimum(tl.maximum(x, 0), 2 * width - 1)
        at = (image * y_image + (y * width * 2 + x) * y_pixel)[:, None] + out[None, :] * y_channel
        g = _masked(grad_ptr, y_ptr, at, real_out[None, :], inside, EVEN)
        a_at = x_ptr + (image * x_image + (row * width + column) * x_pixel)[:, None] + channel[None, :] * x_channel
        a = tl.load(a_at) if EVEN else tl.load(a_at, mask=real_channel[None, :], other=0.0)
        a = tl.where(real[:, None], a.to(WORK), 0.0)  # a repeated pixel counts once, even an infinite one
        total = tl.dot(tl.trans(a.to(OPERAND)), g.to(OPERAND), total, input_precision="ieee", out_dtype=WORK)
        plain += tl.sum(g, 0)
    part = tl.program_id(2).to(tl.int64) * 16 + tap
    parts_at = parts_ptr + (part * channels + channel)[:, None] * outs + out[None, :]
    if EVEN:
        tl.store(parts_at, total)
    else:
        tl.store(parts_at, total, mask=real_channel[:, None] & real_out[None, :])
    if tl.program_id(0) < blocks:
        tl.store(sums_ptr + part * outs + out, plain, mask=real_out)


def _last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _laid(x: Tensor, last: bool) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _strides(x: Tensor, last: bool) -> tuple[int, int, int]:
    """Return the strides of image, pixel and channel; torch's own may lie where a side is 1."""
    _, channels, height, width = x.shape
    return (channels * height * width, channels, 1) if last else (channels * height * width, 1, height * width)


def _types(x: Tensor) -> tuple[torch.dtype, dict]:
    """Return the dtype of sums, and the two types a kernel is compiled for."""
    if x.dtype == torch.float64:
        return torch.float64, {"WORK": tl.float64, "OPERAND": tl.float64}
    operand = {torch.float16: tl.float16, torch.bfloat16: BF16}.get(x.dtype, tl.float32)
    return torch.float32, {"WORK": tl.float32, "OPERAND": operand}


def _sizes(x: Tensor, m: int | None, n: int, k: int | None) -> dict:
    """Return the tile for a product with m × n results over k; m or k None means pixels, of which there are many."""
    M, N, K = {8: (32, 32, 16), 4: (64, 64, 16), 2: (128, 64, 32)}[x.element_size()]

    def fit(size: int, tile: int) -> int:
        return min(tile, max(16, triton.next_power_of_2(size)))

    sizes = {"M": M if m is None else fit(m, M // 2), "N": fit(n, N), "K": K if k is None else fit(k, K)}
    even = all(size is None or size % sizes[name] == 0 for name, size in (("M", m), ("N", n), ("K", k)))
    return {**sizes, "EVEN": even, "num_warps": 4}


@_op("papernotes::dcgan_conv_transpose", mutates_args=())
def _conv_transpose_op(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    outs, last = weight.shape[1], _last(x)
    layout = torch.channels_last if last else torch.contiguous_format
    y = torch.empty((batch, outs, 2 * height, 2 * width), dtype=x.dtype, device=x.device, memory_format=layout)
    if batch:
        x = _laid(x, last)
        taps = weight.permute(2, 3, 0, 1).contiguous()  # small; neighboring threads read neighboring outputs
        sizes, count = _sizes(x, None, outs, channels), batch * height * width
        grid = (4 * triton.cdiv(count, sizes["M"]), triton.cdiv(outs, sizes["N"]))
        _wrap(_forward)[grid](
            x, taps, scale.contiguous(), shift.contiguous(), y, count, height, width, channels, outs,
            *_strides(x, last), *_strides(y, last), **_types(x)[1], **sizes,
        )  # fmt: skip
    return y


@_op("papernotes::dcgan_grad_input", mutates_args=())
def _grad_input_op(grad: Tensor, y: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    batch, outs, height, width = y.shape
    channels, last = weight.shape[0], _last(y)
    layout = torch.channels_last if last else torch.contiguous_format
    shape = (batch, channels, height // 2, width // 2)
    out = torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=layout)
    if batch:
        work, types = _types(y)
        scaled = weight.permute(2, 3, 1, 0).to(work) * scale.to(work)[:, None]
        taps = scaled.to(y.dtype).contiguous()
        # Half precision carries scale · weight in two numbers, so that no rounding comes before the sum.
        rest = (scaled - taps).to(y.dtype).masked_fill(taps.isinf(), 0).contiguous() if work != y.dtype else taps
        sizes, count = _sizes(y, None, channels, outs), batch * height * width // 4
        grid = (triton.cdiv(count, sizes["M"]), triton.cdiv(channels, sizes["N"]))
        _wrap(_grad_input)[grid](
            _laid(grad, last), _laid(y, last), taps, rest, out, count, height // 2, width // 2, channels, outs,
            *_strides(out, last), *_strides(y, last), SPLIT=work != y.dtype, **types, **sizes,
        )  # fmt: skip
    return out


@_op("papernotes::dcgan_grad_weight", mutates_args=())
def _grad_weight_op(grad: Tensor, y: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, height, width = x.shape
    outs, last, count = weight.shape[1], _last(y), batch * height * width
    work, types = _types(x)
    if not count:
        return weight.new_zeros(weight.shape), scale.new_zeros(outs), scale.new_zeros(outs)
    sizes = _sizes(x, channels, outs, None)
    tiles = triton.cdiv(channels, sizes["M"]) * triton.cdiv(outs, sizes["N"])
    shares = max(1, min(FULL_MACHINE // (16 * tiles), count // LEAST_PIXELS))
    share = triton.cdiv(triton.cdiv(count, shares), sizes["K"]) * sizes["K"]
    shares = triton.cdiv(count, share)
    parts = torch.empty((shares, 16, channels, outs), dtype=work, device=x.device)
    sums = torch.empty((shares, 16, outs), dtype=work, device=x.device)
    x = _laid(x, last)
    _wrap(_grad_weight)[(tiles, 16, shares)](
        _laid(grad, last), _laid(y, last), x, parts, sums, count, height, width, channels, outs, share,
        *_strides(x, last), *_strides(y, last), **types, **sizes,
    )  # fmt: skip
    unscaled = parts.sum(0).reshape(4, 4, channels, outs).permute(2, 3, 0, 1)
    # An infinite factor meets masked zeros, and both signs: adding 0 times it gives the NaN that torch gives.
    wide, factor = weight.to(work), scale.to(work)[:, None, None]
    by_scale = (wide * unscaled + 0 * wide).sum((0, 2, 3))  # Σ g · (x ∗ᵀ w) = Σ w · dL/dw before the scale
    by_shift = sums[:, [5, 6, 9, 10]].sum((0, 1))  # these four taps see every output pixel once
    by_weight = (unscaled * factor + 0 * factor).to(weight.dtype).contiguous()
    return by_weight, by_scale.to(scale.dtype), by_shift.to(scale.dtype)


@_conv_transpose_op.register_fake
def _(x, weight, scale, shift):
    batch, _, height, width = x.shape
    layout = torch.channels_last if _last(x) else torch.contiguous_format
    shape = (batch, weight.shape[1], 2 * height, 2 * width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


@_grad_input_op.register_fake
def _(grad, y, weight, scale):
    layout = torch.channels_last if _last(y) else torch.contiguous_format
    shape = (y.shape[0], weight.shape[0], y.shape[2] // 2, y.shape[3] // 2)
    return torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=layout)


@_grad_weight_op.register_fake
def _(grad, y, x, weight, scale):
    return weight.new_empty(weight.shape), scale.new_empty(scale.shape), scale.new_empty(scale.shape)


def _keep(ctx, inputs, output):
    x, weight, scale, _ = inputs
    ctx.save_for_backward(x, weight, scale, output)


def _back(ctx, grad):
    x, weight, scale, y = ctx.saved_tensors
    by_x = _grad_input_op(grad, y, weight, scale) if ctx.needs_input_grad[0] else None
    if not any(ctx.needs_input_grad[1:]):
        return by_x, None, None, None
    return by_x, *_grad_weight_op(grad, y, x, weight, scale)


def _keep_inputs(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _second_input(ctx, along):
    """Differentiate Σ along · dL/dx by torch's own convolutions: a gradient of a gradient is rare."""
    grad, y, weight, scale = ctx.saved_tensors
    grad, scale = grad.masked_fill(y <= 0, 0), scale[:, None, None]
    through = torch.nn.functional.conv_transpose2d(along, weight, stride=2, padding=1)
    by_weight = torch.nn.grad.conv2d_weight(grad * scale, weight.shape, along, stride=2, padding=1)
    return (scale * through).masked_fill(y <= 0, 0), None, by_weight, (grad * through).sum((0, 2, 3))


def _second_weight(ctx, along, along_scale, along_shift):
    """Differentiate Σ along · dL/dweight and its like: m · dL/dy meets scale · (x ∗ᵀ along) + along_scale · (x ∗ᵀ weight)."""
    grad, y, x, weight, scale = ctx.saved_tensors
    grad, scale, also = grad.masked_fill(y <= 0, 0), scale[:, None, None], along_scale[:, None, None]
    how = {"stride": 2, "padding": 1}
    moved, plain = (torch.nn.functional.conv_transpose2d(x, one, **how) for one in (along, weight))
    by_grad = (scale * moved + also * plain + along_shift[:, None, None]).masked_fill(y <= 0, 0)
    pairs = ((grad * scale, along), (grad * also, weight))
    by_x = sum(torch.nn.functional.conv2d(one, other, **how) for one, other in pairs)
    by_weight = torch.nn.grad.conv2d_weight(grad * also, weight.shape, x, **how)
    return by_grad, None, by_x, by_weight, (grad * moved).sum((0, 2, 3))


_conv_transpose_op.register_autograd(_back, setup_context=_keep)
_grad_input_op.register_autograd(_second_input, setup_context=_keep_inputs)
_grad_weight_op.register_autograd(_second_weight, setup_context=_keep_inputs)


def conv_transpose(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return ReLU(scale · (x ∗ᵀ weight) + shift) as `method.conv_transpose` does; without GPU or interpreter, by it.

    Keeps x and the output for the backward, no mask and no sum before the affine. A channels-last x gives a
    channels-last result. Raises ValueError for wrong shapes, dtypes or devices.
    """
    if not (x.is_cuda or INTERPRETED):
        return method.conv_transpose(x, weight, scale, shift)
    method._check(x, weight, scale, shift)
    return _conv_transpose_op(x, weight, scale, shift)
