"""LIME's perturbed images and their weights in Triton: the image is read once a group of samples, each output written once.

Nothing is computed with pixels, only moved: they travel as integers of their size, so that every dtype keeps its bits.
"""

import os
from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import method

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# On a GPU the compiler sees inside the op; the interpreter is opaque to it.
_op = torch.library.custom_op if INTERPRETED else torch.library.triton_op
_wrap = (lambda kernel: kernel) if INTERPRETED else torch.library.wrap_triton
BLOCK = 1024
GROUP = 16
"""Samples a program writes for the one block of pixels that it reads."""
COLUMNS = 128
"""Segments counted at a time for the weights."""
_SAME_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit
def _weigh(masks_ptr, weight_ptr, first, samples, segments, width, GROUP: tl.constexpr, COLUMNS: tl.constexpr):
    """Count what GROUP masks keep, and write exp(−((1 − √(k/S))/σ)²) for each."""
    sample = first + tl.arange(0, GROUP)
    kept = tl.zeros((GROUP,), tl.int32)
    for at in range(0, segments, COLUMNS):
        column = at + tl.arange(0, COLUMNS)
        real = (sample < samples)[:, None] & (column < segments)[None, :]
        entry = tl.load(masks_ptr + sample[:, None] * segments + column[None, :], mask=real, other=0)
        kept += tl.sum((entry != 0).to(tl.int32), axis=1)
    distance = 1.0 - tl.sqrt(kept.to(tl.float64) / tl.maximum(segments, 1).to(tl.float64))
    tl.store(weight_ptr + sample, tl.exp(-(distance / width) * (distance / width)), mask=sample < samples)


@triton.jit
def _perturb(
    image_ptr, segments_ptr, masks_ptr, fill_ptr, out_ptr, weight_ptr,
    samples, segments, channels, pixels, blocks, width: tl.float64,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program reads BLOCK pixels of a channel and their labels, and writes those pixels of GROUP perturbed images.

    The first program of a group also reads its masks and writes its weights.
    """
    program = tl.program_id(0)
    block = program % blocks
    channel = (program // blocks) % tl.maximum(channels, 1)
    first = (program // blocks // tl.maximum(channels, 1)).to(tl.int64) * GROUP
    segments = tl.cast(segments, tl.int64)  # one segment would be a constexpr, which has no .to
    if (block == 0) & (channel == 0):
        _weigh(masks_ptr, weight_ptr, first, samples, segments, width, GROUP, COLUMNS)
    start = block.to(tl.int64) * BLOCK
    plane = tl.cast(pixels, tl.int64)
    step = plane * channels  # from one sample to the next
    image_ptr += channel.to(tl.int64) * plane + start
    out_ptr += first * step + channel.to(tl.int64) * plane + start
    masks_ptr += first * segments
    within = tl.arange(0, BLOCK)
    count = tl.minimum(GROUP, samples - first).to(tl.int32)
    if start + BLOCK <= plane:  # a full block needs no mask: its loads and stores stay wide
        fill = tl.load(fill_ptr + channel)
        label = tl.load(segments_ptr + start + within)
        pixel = tl.load(image_ptr + within)
        known = (label >= 0) & (label < segments)  # false only in a compiled graph, where nothing could raise
        label = tl.where(known, label, 0).to(tl.int32)
        for _ in range(count):
            kept = known & (tl.load(masks_ptr + label, mask=known, other=0) != 0)
            tl.store(out_ptr + within, tl.where(kept, pixel, fill))
            out_ptr += step
            masks_ptr += segments
    else:
        inside = start + within < plane
        fill = tl.load(fill_ptr + channel, mask=start < plane, other=0)  # an image of no channels has no fill
        label = tl.load(segments_ptr + start + within, mask=inside, other=-1)
        pixel = tl.load(image_ptr + within, mask=inside, other=0)
        known = inside & (label >= 0) & (label < segments)
        label = tl.where(known, label, 0).to(tl.int32)
        for _ in range(count):
            kept = known & (tl.load(masks_ptr + label, mask=known, other=0) != 0)
            tl.store(out_ptr + within, tl.where(kept, pixel, fill), mask=inside)
            out_ptr += step
            masks_ptr += segments


@_op("papernotes::lime_perturb", mutates_args=())
def _perturb_op(image: Tensor, segments: Tensor, masks: Tensor, fill: Tensor, width: float) -> tuple[Tensor, Tensor]:
    samples, columns = masks.shape
    channels, height, across = image.shape
    out = torch.empty((samples, channels, height, across), dtype=image.dtype, device=image.device)
    weights = torch.empty(samples, dtype=torch.float64, device=image.device)
    if samples:
        bits = _SAME_SIZE[image.element_size()]
        pixels = height * across if channels else 0
        blocks = max(1, triton.cdiv(pixels, BLOCK))
        _wrap(_perturb)[(blocks * max(1, channels) * triton.cdiv(samples, GROUP),)](
            image.contiguous().view(bits), segments.contiguous(), masks.contiguous(), fill.contiguous().view(bits),
            out.view(bits), weights, samples, columns, channels, pixels, blocks, width,
            GROUP=GROUP, BLOCK=BLOCK, COLUMNS=COLUMNS,
        )  # fmt: skip
    return out, weights


@_perturb_op.register_fake
def _(image, segments, masks, fill, width):
    samples = masks.shape[0]
    images = torch.empty((samples, *image.shape), dtype=image.dtype, device=image.device)
    return images, torch.empty(samples, dtype=torch.float64, device=image.device)


def perturb(image: Tensor, segments: Tensor, masks: Tensor, fill: float | Sequence[float] | Tensor) -> Tensor:
    """Return the images of `method.perturb`, as `perturb_and_weigh` makes them."""
    return perturb_and_weigh(image, segments, masks, fill)[0]


def perturb_and_weigh(
    image: Tensor, segments: Tensor, masks: Tensor, fill: float | Sequence[float] | Tensor, width: float = 0.25
) -> tuple[Tensor, Tensor]:
    """Return `method.perturb_and_weigh`; by it on a CPU without Triton's interpreter, and where a gradient is asked for.

    Raises ValueError as the method does; inside torch.compile, where nothing can, a pixel whose label is no column of the
    masks is filled in every sample.
    """
    wanted = (isinstance(fill, Tensor) and fill.requires_grad) or image.requires_grad
    if not (image.is_cuda or INTERPRETED) or (wanted and torch.is_grad_enabled()):
        return method.perturb_and_weigh(image, segments, masks, fill, width)
    method._check_weighing(masks, width)
    color = method._check(image, segments, masks, fill)
    return _perturb_op(image, segments, masks.to(torch.bool).view(torch.int8), color, float(width))


def explain(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    segments: Tensor,
    samples: int,
    seed: int,
    fill: float | Sequence[float] | Tensor = 0.0,
    width: float = 0.25,
) -> Tensor:
    """Return the coefficients of `method.explain`, with images and weights from the kernel. Raises ValueError as it does."""
    return method._explain(perturb_and_weigh, predict, image, segments, samples, seed, fill, width)
