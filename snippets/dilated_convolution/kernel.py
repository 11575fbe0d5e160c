"""Dilated convolution in Triton as an implicit matrix product: output positions × (taps · channels) × output channels.

Nothing is unfolded in memory: each step reads one tap's channels at a tile of positions, straight from a channels-last
input, so neighboring threads read neighboring channels at any dilation. The input's gradient is the same product
with the filter mirrored; the filter's sums over positions, in shares that a second sum adds up: no atomics, the same
bits every time. float32 is multiplied as such (no TF32), half precision is summed in float32.
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
# The interpreter multiplies bf16 as if its bits were integers: there, operands are widened first.
_WIDENED = INTERPRETED
_TYPES = {torch.float64: tl.float64, torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
_TILES = {torch.float64: (32, 32, 16, 4), torch.float32: (64, 64, 16, 4)}
"""Rows, columns and depth of one program's product at most, and its warps."""
_HALF_TILE = (128, 128, 64, 8)
MENDED = 4, 256
"""Positions and channels of one program that mends what an infinite weight broke: its weights load wide on 64 lanes, too."""
LARGEST_STEP = 32
"""A step of the filter's gradient reads this many positions at most: with more, registers spill."""
FULL_MACHINE, LEAST_STEPS = 512, 8
"""Fewer tiles of the filter's gradient than fill a large GPU share out the positions, each share with some steps to do."""


@triton.jit
def _corner(first, height, width):
    """Return the image, row and column of position `first`: two divisions in 64 bits, so that the rest need not be."""
    line = first // width
    image = line // height
    return image, (line - image * height).to(tl.int32), (first - line * width).to(tl.int32)


@triton.jit
def _ahead(corner, steps, height, width):
    """Return the image, row and column of the positions `steps` after a corner."""
    column = corner[2] + steps
    row = corner[1] + column // width
    return corner[0] + row // height, row % height, column % width


@triton.jit
def _tap(tap, kernel_width, down, across):
    """Return how many rows and columns a tap lies behind the first one."""
    return tap // kernel_width * down, tap % kernel_width * across


@triton.jit
def _offset(tap, kernel_width, down, across, width):
    """Return how many pixels of memory those are, in 64 bits."""
    return (tap // kernel_width).to(tl.int64) * down * width + (tap % kernel_width).to(tl.int64) * across


@triton.jit
def _inside(row, column, height, width):
    return (row >= 0) & (row < height) & (column >= 0) & (column < width)


@triton.jit
def _dilated_conv(
    x_ptr, weight_ptr, bias_ptr, out_ptr,
    positions, channels, outs, height, width, out_height, out_width,
    taps, kernel_width, down, across, top, left, out_image, out_channel, out_position, biased,
    WHOLE: tl.constexpr, OPERAND: tl.constexpr, WORK: tl.constexpr,
    POSITIONS: tl.constexpr, OUTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One program reads what the taps see around POSITIONS outputs, in all channels, and writes OUTS channels of them.

    `x` lies as [batch, height, width, channel], the filter as [tap, channel, out]; `out` as its strides say.
    """
    out_blocks = tl.cdiv(outs, OUTS)
    first = tl.program_id(0).to(tl.int64) // out_blocks * POSITIONS
    out = tl.program_id(0) % out_blocks * OUTS + tl.arange(0, OUTS)
    place = tl.arange(0, POSITIONS)
    image, row, column = _ahead(_corner(first, out_height, out_width), place, out_height, out_width)
    real = first + place < positions
    top_row, left_column = row - top, column - left
    corner_ptr = x_ptr + ((image * height + top_row) * width + left_column) * channels
    channel = tl.arange(0, CHANNELS)
    blocks = tl.cdiv(channels, CHANNELS)
    total = tl.zeros((POSITIONS, OUTS), WORK)
    for step in range(taps * blocks):  # one loop, not two: its loads run ahead across taps
        tap, block = step // blocks, step % blocks
        below, beside = _tap(tap, kernel_width, down, across)
        inside = real & _inside(top_row + below, left_column + beside, height, width)
        x_at = corner_ptr + _offset(tap, kernel_width, down, across, width) * channels + block * CHANNELS
        weight_at = weight_ptr + (tap.to(tl.int64) * channels + block * CHANNELS) * outs
        weight_at = weight_at + channel.to(tl.int64)[:, None] * outs + out[None, :]
        if WHOLE:
            x = tl.load(x_at[:, None] + channel[None, :], mask=inside[:, None], other=0.0)
            weight = tl.load(weight_at)
        else:
            here = block * CHANNELS + channel < channels
            x = tl.load(x_at[:, None] + channel[None, :], mask=inside[:, None] & here[None, :], other=0.0)
            weight = tl.load(weight_at, mask=here[:, None] & (out < outs)[None, :], other=0.0)
        total = tl.dot(x.to(OPERAND), weight.to(OPERAND), total, input_precision="ieee", out_dtype=WORK)
    total += tl.load(bias_ptr + out, mask=out < biased, other=0.0).to(WORK)[None, :]
    pixel = row.to(tl.int64) * out_width + column
    out_at = (image * out_image + pixel * out_position)[:, None] + (out.to(tl.int64) * out_channel)[None, :]
    if WHOLE:
        tl.store(out_ptr + out_at, total.to(out_ptr.dtype.element_ty), mask=real[:, None])
    else:
        total = total.to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + out_at, total, mask=real[:, None] & (out < outs)[None, :])


@triton.jit
def _mend(
    grad_ptr, weight_ptr, broken_ptr, out_ptr,
    positions, channels, outs, height, width, out_height, out_width,
    taps, kernel_width, down, across, top, left, out_image, out_channel, out_position,
    WORK: tl.constexpr, POSITIONS: tl.constexpr, OUTS: tl.constexpr,
):  # fmt: skip
    """One program does nothing if the filter is finite, else writes OUTS input gradients at POSITIONS places anew.

    A gradient outside the output does not exist and is left out; the matrix product met an infinite weight with it, as 0·∞.
    """
    if tl.load(broken_ptr).to(WORK) != 0:
        first = tl.program_id(0).to(tl.int64) * POSITIONS
        out = tl.program_id(1).to(tl.int64) * OUTS + tl.arange(0, OUTS)
        place = tl.arange(0, POSITIONS)
        image, row, column = _ahead(_corner(first, out_height, out_width), place, out_height, out_width)
        real, kept = first + place < positions, out < outs
        corner = (image * height + row - top) * width + column - left
        total = tl.zeros((POSITIONS, OUTS), WORK)
        for step in range(taps * channels):
            tap, channel = step // channels, step % channels
            below, beside = _tap(tap, kernel_width, down, across)
            inside = real & _inside(row - top + below, column - left + beside, height, width)
            pixel = corner + _offset(tap, kernel_width, down, across, width)
            grad = tl.load(grad_ptr + pixel * channels + channel, mask=inside, other=0.0).to(WORK)
            weight_at = weight_ptr + (tap.to(tl.int64) * channels + channel) * outs + out
            weight = tl.load(weight_at, mask=kept, other=0.0).to(WORK)
            total += tl.where(inside[:, None], grad[:, None] * weight[None, :], 0.0)
        pixel = row.to(tl.int64) * out_width + column
        out_at = (image * out_image + pixel * out_position)[:, None] + (out * out_channel)[None, :]
        tl.store(out_ptr + out_at, total.to(out_ptr.dtype.element_ty), mask=real[:, None] & kept[None, :])


@triton.jit
def _weight_gradient(
    grad_ptr, x_ptr, parts_ptr, bias_parts_ptr,
    positions, share, channels, outs, height, width, out_height, out_width,
    taps, kernel_width, down, across, top, left,
    WHOLE: tl.constexpr, OPERAND: tl.constexpr, WORK: tl.constexpr,
    POSITIONS: tl.constexpr, OUTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One program reads a share of the positions and writes its part of OUTS × CHANNELS weights of one tap.

    Both inputs are channels-last; parts lie as [share, tap, out, channel]. Programs of the first tap and channel block
    also write their part of the bias's gradient.
    """
    tile = tl.program_id(0)
    out_blocks, channel_blocks = tl.cdiv(outs, OUTS), tl.maximum(tl.cdiv(channels, CHANNELS), 1)
    tap = tile // channel_blocks // out_blocks
    out = tile // channel_blocks % out_blocks * OUTS + tl.arange(0, OUTS)
    channel = tile % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    real_out, real_channel = (out < outs)[None, :], (channel < channels)[None, :]
    below, beside = _tap(tap, kernel_width, down, across)
    offset = _offset(tap, kernel_width, down, across, width)
    first = tl.program_id(1).to(tl.int64) * share
    count = (tl.minimum(first + share, positions) - first).to(tl.int32)
    corner = _corner(first, out_height, out_width)
    grad_at = grad_ptr + first * outs + out[None, :]
    total = tl.zeros((OUTS, CHANNELS), WORK)
    for start in range(0, count, POSITIONS):
        place = start + tl.arange(0, POSITIONS)
        image, row, column = _ahead(corner, place, out_height, out_width)
        pixel = (image * height + row - top) * width + column - left + offset
        row, column = row - top + below, column - left + beside
        real = (place < count)[:, None]
        inside = real & _inside(row, column, height, width)[:, None]
        if not WHOLE:
            real = real & real_out
            inside = inside & real_channel
        grad = tl.load(grad_at + place.to(tl.int64)[:, None] * outs, mask=real, other=0.0)
        x = tl.load(x_ptr + pixel[:, None] * channels + channel[None, :], mask=inside, other=0.0)
        total = tl.dot(tl.trans(grad.to(OPERAND)), x.to(OPERAND), total, input_precision="ieee", out_dtype=WORK)
    part = (tl.program_id(1).to(tl.int64) * taps + tap) * outs
    parts_at = parts_ptr + (part + out[:, None]) * channels + channel[None, :]
    if WHOLE:
        tl.store(parts_at, total)
    else:
        tl.store(parts_at, total, mask=tl.trans(real_out) & real_channel)
    if tile % channel_blocks == 0 and tap == 0:
        bias = tl.zeros((OUTS,), WORK)
        for start in range(0, count, POSITIONS):
            place = start + tl.arange(0, POSITIONS)
            real = (place < count)[:, None] & real_out
            bias += tl.sum(tl.load(grad_at + place.to(tl.int64)[:, None] * outs, mask=real, other=0.0).to(WORK), 0)
        tl.store(bias_parts_ptr + tl.program_id(1).to(tl.int64) * outs + out, bias, mask=out < outs)


def _types(x: Tensor) -> dict[str, tl.dtype]:
    work = tl.float64 if x.dtype == torch.float64 else tl.float32
    return {"OPERAND": work if _WIDENED else _TYPES[x.dtype], "WORK": work}


def _tile(x: Tensor, outs: int, channels: int) -> tuple[int, int, int, int]:
    """Return the most of a product's rows, columns and depth that one program takes, and its warps."""
    rows, columns, depth, warps = _TILES.get(x.dtype, _HALF_TILE)
    return rows, min(columns, _block(outs)), min(depth, _block(channels)), warps


def _block(size: int) -> int:
    return max(16, triton.next_power_of_2(int(size)))  # a matrix unit takes no less than 16


def _layout(x: Tensor) -> bool:
    """Return whether x is kept channels-last, and its convolution with it."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _empty(x: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _launch(x, filters, bias, out, dilation, before, gradient=False) -> Tensor:
    """Fill `out` with the convolution of x with filters [kernel_height, kernel_width, channel, out]."""
    kernel_height, kernel_width, channels, outs = filters.shape
    batch, _, out_height, out_width = out.shape
    rows, columns, depth, warps = _tile(x, outs, channels)
    if positions := batch * out_height * out_width:
        x, filters = x.contiguous(memory_format=torch.channels_last), filters.contiguous()
        sizes = (
            positions, channels, outs, x.shape[2], x.shape[3], out_height, out_width,
            kernel_height * kernel_width, kernel_width, *dilation, *before, out.stride(0), out.stride(1), out.stride(3),
        )  # fmt: skip
        _wrap(_dilated_conv)[(triton.cdiv(positions, rows) * triton.cdiv(outs, columns),)](
            x, filters, filters if bias is None else bias.contiguous(), out, *sizes, 0 if bias is None else outs,
            WHOLE=channels % depth == 0 and outs % columns == 0, **_types(x),
            POSITIONS=rows, OUTS=columns, CHANNELS=depth, num_warps=warps,
        )  # fmt: skip
        if gradient:
            # 0 for a sound filter, NaN for one with an infinity or a NaN; asked on the device, so that nobody waits
            _wrap(_mend)[(triton.cdiv(positions, MENDED[0]), triton.cdiv(outs, MENDED[1]))](
                x, filters, (filters * 0).sum(), out, *sizes,
                WORK=_types(x)["WORK"], POSITIONS=MENDED[0], OUTS=MENDED[1], num_warps=1, num_stages=1,
            )  # fmt: skip
    return out


@_op("papernotes::dilated_conv2d", mutates_args=())
def _conv_op(x: Tensor, weight: Tensor, bias: Tensor | None, down: int, across: int, top: int, left: int) -> Tensor:
    out = _empty(x, _out_shape(x, weight, down, across, top, left), _layout(x))
    return _launch(x, weight.permute(2, 3, 1, 0), bias, out, (down, across), (top, left))


def _out_shape(x, weight, down, across, top, left):
    batch, _, height, width = x.shape
    outs, _, kernel_height, kernel_width = weight.shape
    rows = height + 2 * top - down * (kernel_height - 1)
    return batch, outs, rows, width + 2 * left - across * (kernel_width - 1)


@_op("papernotes::dilated_conv2d_input_gradient", mutates_args=())
def _input_gradient_op(
    grad: Tensor,
    weight: Tensor,
    height: int,
    width: int,
    down: int,
    across: int,
    top: int,
    left: int,
    channels_last: bool,
) -> Tensor:
    out = _empty(grad, (grad.shape[0], weight.shape[1], height, width), channels_last)
    if not out.numel():
        return out
    # x(s) met tap t at p = s − l·t: the mirrored filter, its last tap now first
    before = (down * (weight.shape[2] - 1) - top, across * (weight.shape[3] - 1) - left)
    return _launch(grad, weight.flip(2, 3).permute(2, 3, 0, 1), None, out, (down, across), before, gradient=True)


@_op("papernotes::dilated_conv2d_weight_gradient", mutates_args=())
def _weight_gradient_op(
    grad: Tensor, x: Tensor, kernel_height: int, kernel_width: int, down: int, across: int, top: int, left: int
) -> tuple[Tensor, Tensor]:
    batch, outs, out_height, out_width = grad.shape
    channels, taps, positions = x.shape[1], kernel_height * kernel_width, batch * out_height * out_width
    # here a product's rows are output channels, its columns input channels, and its depth positions
    _, columns, _, warps = _tile(x, outs, channels)
    size, depth = _tile(x, channels, positions)[1:3]
    depth = min(depth, LARGEST_STEP)
    tiles = triton.cdiv(outs, columns) * max(1, triton.cdiv(channels, size)) * taps
    steps = triton.cdiv(positions, depth)
    share = triton.cdiv(steps, max(1, min(triton.cdiv(FULL_MACHINE, tiles), steps // LEAST_STEPS))) * depth
    shares = triton.cdiv(positions, share) if positions else 0
    work = torch.promote_types(x.dtype, torch.float32)
    parts = torch.empty((shares, kernel_height, kernel_width, outs, channels), dtype=work, device=x.device)
    bias_parts = torch.empty((shares, outs), dtype=work, device=x.device)
    if shares:
        _wrap(_weight_gradient)[(tiles, shares)](
            grad.contiguous(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last),
            parts, bias_parts, positions, share, channels, outs, x.shape[2], x.shape[3], out_height, out_width,
            taps, kernel_width, down, across, top, left,
            WHOLE=outs % columns == 0 and channels % size == 0 and channels > 0, **_types(x),
            POSITIONS=depth, OUTS=columns, CHANNELS=size, num_warps=warps,
        )  # fmt: skip
    weight = x.new_empty((outs, channels, kernel_height, kernel_width)).copy_(parts.sum(0).permute(2, 3, 0, 1))
    return weight, bias_parts.sum(0).to(x.dtype)


@_conv_op.register_fake
def _(x, weight, bias, down, across, top, left):
    return _empty(x, _out_shape(x, weight, down, across, top, left), _layout(x))


@_input_gradient_op.register_fake
def _(grad, weight, height, width, down, across, top, left, channels_last):
    return _empty(grad, (grad.shape[0], weight.shape[1], height, width), channels_last)


@_weight_gradient_op.register_fake
def _(grad, x, kernel_height, kernel_width, down, across, top, left):
    return x.new_empty((grad.shape[1], x.shape[1], kernel_height, kernel_width)), x.new_empty(grad.shape[1:2])


def _keep(ctx, inputs, output):
    x, weight, _, *ctx.how = inputs
    ctx.save_for_backward(x, weight)


def _back(ctx, grad):
    x, weight = ctx.saved_tensors
    wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    to_x = to_weight = to_bias = None
    if wants_x:
        to_x = _input_gradient_op(grad, weight, *x.shape[2:], *ctx.how, _layout(x))
    if wants_weight or wants_bias:
        to_weight, to_bias = _weight_gradient_op(grad, x, *weight.shape[2:], *ctx.how)
    return to_x, to_weight if wants_weight else None, to_bias if wants_bias else None, None, None, None, None


# All three are linear in each tensor they read, and each one's gradients are the other two: the second derivative.


def _keep_input(ctx, inputs, output):
    grad, weight, _, _, *ctx.how, _ = inputs
    ctx.save_for_backward(grad, weight)


def _back_input(ctx, upon):
    grad, weight = ctx.saved_tensors
    to_weight, _ = _weight_gradient_op(grad, upon, *weight.shape[2:], *ctx.how)
    return _conv_op(upon, weight, None, *ctx.how), to_weight, *(None,) * 7


def _keep_weight(ctx, inputs, output):
    grad, x, _, _, *ctx.how = inputs
    ctx.save_for_backward(grad, x)


def _back_weight(ctx, upon_weight, upon_bias):
    grad, x = ctx.saved_tensors
    to_x = _input_gradient_op(grad, upon_weight, *x.shape[2:], *ctx.how, _layout(x))
    return _conv_op(x, upon_weight, upon_bias, *ctx.how), to_x, *(None,) * 6


_conv_op.register_autograd(_back, setup_context=_keep)
_input_gradient_op.register_autograd(_back_input, setup_context=_keep_input)
_weight_gradient_op.register_autograd(_back_weight, setup_context=_keep_weight)


def dilated_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    dilation: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
) -> Tensor:
    """Return the dilated convolution as `method.dilated_conv2d` does; on a CPU without Triton's interpreter, by it.

    The output is channels-last in memory where x is. Raises ValueError as the method does.
    """
    spread, margin, _ = method._check(x, weight, bias, dilation, padding)
    if not (x.is_cuda or INTERPRETED):
        return method.dilated_conv2d(x, weight, bias, dilation, padding)
    return _conv_op(x, weight, bias, *spread, *margin)
