"""The temporal convolution averaged over dilations in Triton, forward and backward: one read of x, whatever the dilations.

Within a channel a clip is one line of time · position numbers, and a frame d away lies d · positions further along it:
the 3×1×1 convolution is a 1-D one whose zero padding is the two ends of that line. The outer taps of every dilation are
summed first and divided by |D| once; the center tap, which all dilations share, is added after. The filter is thus
folded in the accumulator and never rounded in half precision. The gradient of x is the same op with the filter
transposed and mirrored.
"""

import os
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import method

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# On a GPU the compiler sees inside the op; the interpreter is opaque to it.
_op = torch.library.custom_op if INTERPRETED else torch.library.triton_op
_wrap = (lambda kernel: kernel) if INTERPRETED else torch.library.wrap_triton
_WIDEN = INTERPRETED
"""The interpreter multiplies half-precision operands of tl.dot wrongly: there they are float32 first."""
FULL_MACHINE, LEAST_BLOCKS = 512, 8
"""Fewer tiles of dL/dW than fill a large GPU share out clips and positions, each program with some blocks to do."""


@triton.jit
def _dot(a, b, acc, WIDEN: tl.constexpr):
    if WIDEN:
        a, b = a.to(acc.dtype), b.to(acc.dtype)
    return tl.dot(a, b, acc, input_precision="ieee", out_dtype=acc.dtype)


@triton.jit
def _add_tap(
    acc, x_ptr, w_ptr, start, shift, channels, line,
    WIDEN: tl.constexpr, POSITIONS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Add one tap's [out, channel] · [channel, position]: x is read `shift` along its line, w_ptr points at its rows."""
    first = start + shift
    at = first + tl.arange(0, POSITIONS)
    step = tl.arange(0, STEP)
    # whole steps of channels need no mask where the tile lies inside the line: their loads stay wide
    channels = tl.full((), channels, tl.int64)
    full = tl.where((first >= 0) & (first + POSITIONS <= line), channels // STEP * STEP, 0)
    for channel in range(0, full, STEP):
        rows = channel + step
        w = tl.load(w_ptr + rows[None, :])
        x = tl.load(x_ptr + rows[:, None] * line + at[None, :])
        acc = _dot(w, x, acc, WIDEN)
    inside = (at >= 0) & (at < line)
    for channel in range(full, channels, STEP):
        rows = channel + step
        known = rows < channels
        w = tl.load(w_ptr + rows[None, :], mask=known[None, :], other=0.0)
        x = tl.load(x_ptr + rows[:, None] * line + at[None, :], mask=known[:, None] & inside[None, :], other=0.0)
        acc = _dot(w, x, acc, WIDEN)
    return acc


@triton.jit
def _temporal_conv(
    x_ptr, w_ptr, dilation_ptr, y_ptr, dilations, channels, outs, line, positions,
    WORK: tl.constexpr, WIDEN: tl.constexpr, OUTS: tl.constexpr, POSITIONS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program reads all channels of POSITIONS neighbors on a line, once a tap, and writes OUTS rows of y there.

    x is [batch, channel, line], w [3, out, channel], y [batch, out, line]; `positions` is one frame.
    """
    out_tiles, line_tiles = tl.cdiv(outs, OUTS), tl.cdiv(line, POSITIONS)
    program = tl.program_id(0)  # tiles that share x are neighbors, so that its second read comes from the cache
    clip = (program // out_tiles // line_tiles).to(tl.int64)
    start = (program // out_tiles % line_tiles).to(tl.int64) * POSITIONS
    rows = (program % out_tiles).to(tl.int64) * OUTS + tl.arange(0, OUTS)
    x_ptr += clip * channels * line
    # rows beyond the last repeat it, so that no load needs a row mask; they are not stored
    w_ptr += tl.minimum(rows, outs - 1)[:, None] * channels
    plane = tl.full((), outs, tl.int64) * channels
    acc = tl.zeros((OUTS, POSITIONS), dtype=WORK)
    for tap in range(2 * dilations + 1):
        if tap == 2 * dilations:  # the outer taps are all in; the center is last
            acc = acc / tl.full((), dilations, WORK)
            side, shift = 0, start * 0
        else:
            side = tap % 2 * 2 - 1
            shift = tl.load(dilation_ptr + tap // 2) * positions * side
        acc = _add_tap(acc, x_ptr, w_ptr + (side + 1) * plane, start, shift, channels, line, WIDEN, POSITIONS, STEP)
    at = start + tl.arange(0, POSITIONS)
    y_ptr += (clip * outs + rows)[:, None] * line + at[None, :]
    if (start + POSITIONS <= line) & ((program % out_tiles + 1) * OUTS <= outs):
        tl.store(y_ptr, acc.to(y_ptr.dtype.element_ty))
    else:
        tl.store(y_ptr, acc.to(y_ptr.dtype.element_ty), mask=(rows < outs)[:, None] & (at < line)[None, :])


@triton.jit
def _add_block(
    acc, g_ptr, x_ptr, block, shift, line, MASKED: tl.constexpr, WIDEN: tl.constexpr, POSITIONS: tl.constexpr
):
    """Add [out, position] · [position, channel] over one block of positions; x is read `shift` along."""
    at = block * POSITIONS + tl.arange(0, POSITIONS)
    if MASKED:
        inside = (at < line) & (at + shift >= 0) & (at + shift < line)
        g = tl.load(g_ptr + at[None, :], mask=inside[None, :], other=0.0)
        x = tl.load(x_ptr + (at + shift)[None, :], mask=inside[None, :], other=0.0)
    else:
        g = tl.load(g_ptr + at[None, :])
        x = tl.load(x_ptr + (at + shift)[None, :])
    return _dot(g, tl.trans(x), acc, WIDEN)


@triton.jit
def _temporal_conv_weight(
    g_ptr, x_ptr, dilation_ptr, partial_ptr, dilations, batch, channels, outs, line, positions, clips, blocks, segments,
    WORK: tl.constexpr, WIDEN: tl.constexpr, OUTS: tl.constexpr, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """One program reads OUTS rows of dL/dy and CHANNELS of x over its share, and writes its tile of one tap's dL/dW.

    A share is `clips` clips times `blocks` blocks of POSITIONS, one of `segments` on each line; partial is
    [share, 3, out, channel], and its sum over the shares is the gradient, in an order that is always the same.
    """
    channel_tiles = tl.cdiv(channels, CHANNELS)
    rows = (tl.program_id(0) // channel_tiles).to(tl.int64) * OUTS + tl.arange(0, OUTS)
    columns = (tl.program_id(0) % channel_tiles).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)
    tap, share = tl.program_id(1), tl.program_id(2).to(tl.int64)
    g_ptr += tl.minimum(rows, outs - 1)[:, None] * line
    x_ptr += tl.minimum(columns, channels - 1)[:, None] * line
    first_clip = share // segments * clips
    low = share % segments * blocks
    high = tl.minimum(low + blocks, tl.full((), tl.cdiv(line, POSITIONS), tl.int64))
    acc = tl.zeros((OUTS, CHANNELS), dtype=WORK)
    for clip in range(first_clip, tl.minimum(first_clip + clips, batch)):
        g_clip, x_clip = g_ptr + clip * outs * line, x_ptr + clip * channels * line
        for number in range(tl.where(tap == 1, 1, dilations)):  # the center tap is the same for every dilation
            shift = tl.load(dilation_ptr + number) * positions * (tap - 1)
            # blocks whose neighbors all lie on the line need no mask
            least, most = tl.maximum(-shift, 0), tl.minimum(line - shift, line)
            full = tl.minimum(tl.maximum(tl.cdiv(least, POSITIONS), low), high)
            tail = tl.minimum(tl.maximum(most // POSITIONS, full), high)
            for block in range(full, tail):
                acc = _add_block(acc, g_clip, x_clip, block, shift, line, False, WIDEN, POSITIONS)
            for edge in range(low, high - (tail - full)):
                block = tl.where(edge < full, edge, edge + tail - full)
                acc = _add_block(acc, g_clip, x_clip, block, shift, line, True, WIDEN, POSITIONS)
    acc = acc / tl.where(tap == 1, 1, dilations).to(WORK)
    kept = (rows < outs)[:, None] & (columns < channels)[None, :]
    tl.store(partial_ptr + ((share * 3 + tap) * outs + rows)[:, None] * channels + columns[None, :], acc, mask=kept)


def _tiles(x: Tensor) -> tuple[int, int, int, int]:
    """Return a tile's rows of y, its positions, the channels a step, and the warps; ieee fp32 and fp64 multiply slowly."""
    return {torch.float64: (32, 32, 16, 4), torch.float32: (32, 64, 16, 4)}.get(x.dtype, (64, 128, 32, 4))


def _work(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _on_device(dilations: list[int], x: Tensor) -> Tensor:
    """Return the dilations where the kernel can read them, those beyond the clip cut to its length; no copy waits."""
    return torch.cat([x.new_full((1,), min(d, x.shape[2]), dtype=torch.int64) for d in dilations])


@_op("papernotes::temporal_conv", mutates_args=())
def _temporal_conv_op(x: Tensor, weight: Tensor, dilations: list[int]) -> Tensor:
    batch, channels, time, height, width = x.shape
    outs, positions = weight.shape[0], height * width
    y = x.new_empty((batch, outs, time, height, width))
    if y.numel() == 0 or channels == 0:
        return y.zero_()
    rows, block, step, warps = _tiles(x)
    line = time * positions
    grid = (batch * triton.cdiv(outs, rows) * triton.cdiv(line, block),)
    _wrap(_temporal_conv)[grid](
        x.contiguous(), weight.permute(2, 0, 1).contiguous(), _on_device(dilations, x), y,
        len(dilations), channels, outs, line, positions,
        WORK=_work(x), WIDEN=_WIDEN, OUTS=rows, POSITIONS=block, STEP=step, num_warps=warps,
    )  # fmt: skip
    return y


@_op("papernotes::temporal_conv_weight", mutates_args=())
def _temporal_conv_weight_op(grad: Tensor, x: Tensor, dilations: list[int]) -> Tensor:
    batch, channels, time, height, width = x.shape
    outs, positions = grad.shape[1], height * width
    if grad.numel() == 0 or x.numel() == 0:
        return x.new_zeros((outs, channels, 3))
    side, block, warps = (64, 32, 4) if x.dtype in (torch.float16, torch.bfloat16) else (32, 16, 4)
    line = time * positions
    tiles = triton.cdiv(outs, side) * triton.cdiv(channels, side)
    on_line = triton.cdiv(line, block)
    wanted = max(1, FULL_MACHINE // (3 * tiles))
    groups = min(batch, wanted)
    segments = max(1, min(on_line // LEAST_BLOCKS, wanted // groups))
    clips, blocks = triton.cdiv(batch, groups), triton.cdiv(on_line, segments)
    groups, segments = triton.cdiv(batch, clips), triton.cdiv(on_line, blocks)
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    partial = x.new_empty((groups * segments, 3, outs, channels), dtype=work)
    _wrap(_temporal_conv_weight)[(tiles, 3, groups * segments)](
        grad.contiguous(), x.contiguous(), _on_device(dilations, x), partial,
        len(dilations), batch, channels, outs, line, positions, clips, blocks, segments,
        WORK=_work(x), WIDEN=_WIDEN, OUTS=side, CHANNELS=side, POSITIONS=block, num_warps=warps,
    )  # fmt: skip
    return partial.sum(0).permute(1, 2, 0).contiguous().to(x.dtype)


@_temporal_conv_op.register_fake
def _(x, weight, dilations):
    return x.new_empty((x.shape[0], weight.shape[0], *x.shape[2:]))


@_temporal_conv_weight_op.register_fake
def _(grad, x, dilations):
    return x.new_empty((grad.shape[1], x.shape[1], 3))


def _adjoint(weight: Tensor) -> Tensor:
    """Return the filter of the transposed convolution: out and in change places, and time runs backwards."""
    return weight.transpose(0, 1).flip(2)


def _keep(ctx, inputs, output):
    *kept, ctx.dilations = inputs
    ctx.save_for_backward(*kept)


def _back(ctx, grad):
    x, weight = ctx.saved_tensors
    of_x = _temporal_conv_op(grad, _adjoint(weight), ctx.dilations) if ctx.needs_input_grad[0] else None
    of_weight = _temporal_conv_weight_op(grad, x, ctx.dilations) if ctx.needs_input_grad[1] else None
    return of_x, of_weight, None


def _back_twice(ctx, along):
    # dL/dW is linear in dL/dy and in x: the convolution and its transpose, with the incoming gradient as their filter
    grad, x = ctx.saved_tensors
    of_grad = _temporal_conv_op(x, along, ctx.dilations) if ctx.needs_input_grad[0] else None
    of_x = _temporal_conv_op(grad, _adjoint(along), ctx.dilations) if ctx.needs_input_grad[1] else None
    return of_grad, of_x, None


_temporal_conv_op.register_autograd(_back, setup_context=_keep)
_temporal_conv_weight_op.register_autograd(_back_twice, setup_context=_keep)


def inflate(weight: Tensor, times: int = 3) -> Tensor:
    """Return the filter `method.inflate` makes: done once a network, it has no kernel."""
    return method.inflate(weight, times)


def temporal_conv(x: Tensor, weight: Tensor, dilations: Sequence[int]) -> Tensor:
    """Return the convolution as `method.temporal_conv` does; on a CPU without Triton's interpreter, by it.

    Products accumulate in fp32, those of fp64 in fp64. Raises ValueError for what `method.temporal_conv` refuses.
    """
    dilations = method.check(x, weight, dilations)
    if not (x.is_cuda or INTERPRETED):
        return method.temporal_conv(x, weight, dilations)
    return _temporal_conv_op(x, weight, dilations)
