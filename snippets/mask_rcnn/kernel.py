"""RoIAlign in Triton, forward and backward, over channels-last features: neighboring threads read a pixel's channels.

Coordinates are float64, as in `method`; sums are fp32 (fp64 for fp64). The backward scatters with atomic adds, so on a
GPU its last bits vary from run to run; where torch is told to be deterministic, `method.roi_align` takes over.
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
BINS, CHANNELS = 16, 64
"""The tile of one program, at most."""
UNROLLED = tl.constexpr(4)
"""Up to this sampling ratio the loop over a bin's samples is unrolled, so that their loads overlap."""


@triton.jit
def _place(boxes_ptr, box, images, scale, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ALIGNED: tl.constexpr):
    """Return a box's image, the corner and sides of its first bin in feature pixels, and whether it has an answer."""
    OFFSET: tl.constexpr = 0.5 if ALIGNED else 0.0
    image = tl.load(boxes_ptr + box * 5).to(tl.float64)
    left = tl.load(boxes_ptr + box * 5 + 1).to(tl.float64) * scale - OFFSET
    top = tl.load(boxes_ptr + box * 5 + 2).to(tl.float64) * scale - OFFSET
    width = tl.load(boxes_ptr + box * 5 + 3).to(tl.float64) * scale - OFFSET - left
    height = tl.load(boxes_ptr + box * 5 + 4).to(tl.float64) * scale - OFFSET - top
    finite = tl.abs(left) + tl.abs(top) + tl.abs(width) + tl.abs(height) < float("inf")  # NaN is not, either
    known = finite & (image > -1) & (image < images)  # an index is cut towards 0
    if not ALIGNED:
        width = tl.maximum(width, 1.0)
        height = tl.maximum(height, 1.0)
    # A box without an answer reads and adds nothing: a NaN corner puts all its samples off the map.
    image = tl.where(known, image, 0.0).to(tl.int64)
    return image, tl.where(known, left, float("nan")), top, width / COLUMNS, height / ROWS, known


@triton.jit
def _samples(side, known, RATIO: tl.constexpr):
    """Return how many samples a bin of this side holds along one axis, and how far apart they are."""
    if RATIO > 0:
        samples = tl.full((), RATIO, tl.int64)
    else:
        samples = tl.where(known, tl.maximum(tl.ceil(side), 0.0), 0.0).to(tl.int64)
    return samples, side / tl.maximum(samples, 1)


@triton.jit
def _taps(first, bin, side, nth, step, size, WORK: tl.constexpr):
    """Return the two pixels around a sample of every bin, the second one's weight, and whether the map has it."""
    at = first + bin * side + (nth + 0.5) * step
    inside = (at >= -1.0) & (at <= size)
    at = tl.minimum(tl.maximum(tl.where(inside, at, 0.0), 0.0), size - 1)
    low = at.to(tl.int64)
    return low, tl.minimum(low + 1, size - 1), (at - low).to(WORK), inside


@triton.jit
def _corner(NTH: tl.constexpr, down, across, width):
    """Return one of the four pixels around a sample of every bin, and its weight."""
    top, bottom, lower, _ = down
    left, right, further, _ = across
    y, weight_y = (top, 1 - lower) if NTH < 2 else (bottom, lower)
    x, weight_x = (left, 1 - further) if NTH % 2 == 0 else (right, further)
    return (y * width + x)[:, None], (weight_y * weight_x)[:, None]


@triton.jit
def _read(total, image_ptr, down, across, width, channels, real, WHOLE: tl.constexpr):
    """Add one bilinear sample of every bin and channel to the total."""
    inside = (down[3] & across[3])[:, None]
    for nth in tl.static_range(4):
        pixel, weight = _corner(nth, down, across, width)
        # Off the map a bin reads some pixel and drops it: without a mask over bins, whole channel blocks load wide.
        if WHOLE:
            value = tl.load(image_ptr + pixel * channels)
        else:
            value = tl.load(image_ptr + pixel * channels, mask=real, other=0.0)
        total += tl.where(inside, weight * value.to(total.dtype), 0.0)
    return total


@triton.jit
def _add(share, image_ptr, down, across, width, channels, real):
    """Add every bin's share of the gradient to the four pixels of one sample."""
    real = real & (down[3] & across[3])[:, None]
    for nth in tl.static_range(4):
        pixel, weight = _corner(nth, down, across, width)
        tl.atomic_add(image_ptr + pixel * channels, weight * share, mask=real, sem="relaxed")


@triton.jit
def _tile(channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BINS: tl.constexpr, CHANNELS: tl.constexpr):
    """Return a program's box, bins and channels, where they lie in the output, and which of them are real."""
    BLOCKS: tl.constexpr = (ROWS * COLUMNS + BINS - 1) // BINS
    box = tl.program_id(0).to(tl.int64) // BLOCKS
    bin = tl.program_id(0) % BLOCKS * BINS + tl.arange(0, BINS)
    channel = tl.program_id(1).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)
    real = (channel < channels)[None, :]
    here = ((box * channels + channel) * (ROWS * COLUMNS))[None, :] + bin[:, None]
    written = real & (bin < ROWS * COLUMNS)[:, None]
    return box, tl.minimum(bin, ROWS * COLUMNS - 1), channel[None, :], here, real, written


@triton.jit
def _roi_align_forward(
    features_ptr,
    boxes_ptr,
    out_ptr,
    images,
    channels,
    height,
    width,
    scale: tl.float64,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    WHOLE: tl.constexpr,
    WORK: tl.constexpr,
    BINS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program reads CHANNELS channels around the samples of BINS bins of one box and writes those bins."""
    box, bin, channel, here, real, written = _tile(channels, ROWS, COLUMNS, BINS, CHANNELS)
    image, left, top, broad, tall, known = _place(boxes_ptr, box, images, scale, ROWS, COLUMNS, ALIGNED)
    rows, step_y = _samples(tall, known, RATIO)
    columns, step_x = _samples(broad, known, RATIO)
    image_ptr = features_ptr + image * height * width * channels + channel
    total = tl.zeros((BINS, CHANNELS), WORK)
    if RATIO > 0 and RATIO <= UNROLLED:
        for row in tl.static_range(RATIO):
            down = _taps(top, bin // COLUMNS, tall, row, step_y, height, WORK)
            for column in tl.static_range(RATIO):
                across = _taps(left, bin % COLUMNS, broad, column, step_x, width, WORK)
                total = _read(total, image_ptr, down, across, width, channels, real, WHOLE)
    else:
        for row in range(rows):
            down = _taps(top, bin // COLUMNS, tall, row, step_y, height, WORK)
            for column in range(columns):
                across = _taps(left, bin % COLUMNS, broad, column, step_x, width, WORK)
                total = _read(total, image_ptr, down, across, width, channels, real, WHOLE)
    total = tl.where(known, total / tl.maximum(rows * columns, 1).to(WORK), float("nan"))
    tl.store(out_ptr + here, total.to(out_ptr.dtype.element_ty), mask=written)


@triton.jit
def _roi_align_backward(
    grad_ptr,
    boxes_ptr,
    out_ptr,
    images,
    channels,
    height,
    width,
    scale: tl.float64,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RATIO: tl.constexpr,
    ALIGNED: tl.constexpr,
    WORK: tl.constexpr,
    BINS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One program reads the gradient of BINS bins of one box and adds it to the pixels around their samples."""
    box, bin, channel, here, _, written = _tile(channels, ROWS, COLUMNS, BINS, CHANNELS)
    image, left, top, broad, tall, known = _place(boxes_ptr, box, images, scale, ROWS, COLUMNS, ALIGNED)
    rows, step_y = _samples(tall, known, RATIO)
    columns, step_x = _samples(broad, known, RATIO)
    image_ptr = out_ptr + image * height * width * channels + channel
    share = tl.load(grad_ptr + here, mask=written, other=0.0).to(WORK) / tl.maximum(rows * columns, 1).to(WORK)
    for row in range(rows):  # not unrolled: nobody waits for an atomic add
        down = _taps(top, bin // COLUMNS, tall, row, step_y, height, WORK)
        for column in range(columns):
            across = _taps(left, bin % COLUMNS, broad, column, step_x, width, WORK)
            _add(share, image_ptr, down, across, width, channels, written)


def _work(x: Tensor) -> tuple[torch.dtype, tl.dtype]:
    return (torch.float64, tl.float64) if x.dtype == torch.float64 else (torch.float32, tl.float32)


def _grid(boxes: int, channels: int, bins: int) -> tuple[tuple[int, int], int]:
    """Return the grid, and the channels of one program."""
    block = CHANNELS if channels >= CHANNELS else triton.next_power_of_2(int(channels))
    return (boxes * triton.cdiv(bins, BINS), triton.cdiv(channels, block)), block


@_op("papernotes::roi_align", mutates_args=())
def _roi_align_op(
    features: Tensor, boxes: Tensor, rows: int, columns: int, scale: float, ratio: int, aligned: bool
) -> Tensor:
    if INTERPRETED:  # on a GPU this would wait for the device: there a box without an answer becomes NaN
        method._check_values(features, boxes)
    images, channels, height, width = features.shape
    out = features.new_empty((boxes.shape[0], channels, rows, columns))
    if not features.numel():
        return out.fill_(float("nan"))
    if out.numel():
        features = features.contiguous(memory_format=torch.channels_last)
        grid, block = _grid(boxes.shape[0], channels, rows * columns)
        _wrap(_roi_align_forward)[grid](
            features,
            boxes.contiguous(),
            out,
            images,
            channels,
            height,
            width,
            scale,
            ROWS=rows,
            COLUMNS=columns,
            RATIO=max(ratio, 0),
            ALIGNED=aligned,
            WHOLE=channels % block == 0,
            WORK=_work(features)[1],
            BINS=BINS,
            CHANNELS=block,
        )
    return out


@_op("papernotes::roi_align_backward", mutates_args=())
def _roi_align_backward_op(
    grad: Tensor,
    boxes: Tensor,
    images: int,
    height: int,
    width: int,
    scale: float,
    ratio: int,
    aligned: bool,
    channels_last: bool,
) -> Tensor:
    channels, rows, columns = grad.shape[1:]
    work, WORK = _work(grad)
    out = torch.zeros((images, height, width, channels), dtype=work, device=grad.device)
    if grad.numel() and out.numel():
        grid, block = _grid(grad.shape[0], channels, rows * columns)
        _wrap(_roi_align_backward)[grid](
            grad.contiguous(),
            boxes.contiguous(),
            out,
            images,
            channels,
            height,
            width,
            scale,
            ROWS=rows,
            COLUMNS=columns,
            RATIO=max(ratio, 0),
            ALIGNED=aligned,
            WORK=WORK,
            BINS=BINS,
            CHANNELS=block,
        )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return out.permute(0, 3, 1, 2).to(grad.dtype, memory_format=layout)


@_roi_align_op.register_fake
def _(features, boxes, rows, columns, scale, ratio, aligned):
    return features.new_empty((boxes.shape[0], features.shape[1], rows, columns))


@_roi_align_backward_op.register_fake
def _(grad, boxes, images, height, width, scale, ratio, aligned, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    shape = (images, grad.shape[1], height, width)
    return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout)


def _keep(ctx, inputs, output):
    features, boxes, _, _, *ctx.how = inputs
    ctx.images, _, ctx.height, ctx.width = features.shape
    ctx.channels_last = features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous()
    ctx.save_for_backward(boxes)


def _back(ctx, grad):
    (boxes,) = ctx.saved_tensors
    out = _roi_align_backward_op(grad, boxes, ctx.images, ctx.height, ctx.width, *ctx.how, ctx.channels_last)
    return out, None, None, None, None, None, None


def _keep_for_second(ctx, inputs, output):
    grad, boxes, _, _, _, *how, _ = inputs
    ctx.rows, ctx.columns, ctx.how = grad.shape[2], grad.shape[3], how
    ctx.save_for_backward(boxes)


def _second(ctx, grad):
    # The backward is linear in the gradient it scatters, and its transpose is the forward.
    (boxes,) = ctx.saved_tensors
    return _roi_align_op(grad, boxes, ctx.rows, ctx.columns, *ctx.how), *(None,) * 8


_roi_align_op.register_autograd(_back, setup_context=_keep)
_roi_align_backward_op.register_autograd(_second, setup_context=_keep_for_second)


def roi_align(
    features: Tensor,
    boxes: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Tensor:
    """Return RoIAlign as `method.roi_align` does; on a CPU without Triton's interpreter, by `method.roi_align`.

    Raises ValueError as it does for shapes, dtypes, devices and sizes. On a GPU nobody waits to read the boxes: one of
    an image that does not exist, or with a coordinate that is not finite, gives NaN and adds nothing to the gradient.
    """
    backward = features.requires_grad and torch.is_grad_enabled()
    if not (features.is_cuda or INTERPRETED) or (backward and torch.are_deterministic_algorithms_enabled()):
        return method.roi_align(features, boxes, output_size, spatial_scale, sampling_ratio, aligned)
    rows, columns = method._check(features, boxes, output_size)
    return _roi_align_op(features, boxes.detach(), rows, columns, spatial_scale, sampling_ratio, aligned)
