"""RoIAlign, the RoIPool it replaces, and the mask loss of Mask R-CNN (He, Gkioxari, Dollár, Girshick 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def roi_align(
    features: Float[Tensor, "image channel height width"],
    boxes: Float[Tensor, "box 5"],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Float[Tensor, "box channel row column"]:
    """Average bilinear samples in each bin of each box, quantizing nothing (arXiv 1703.06870, section 3 and figure 3).

    A box is (image, x1, y1, x2, y2); spatial_scale takes it to feature pixels. A bin holds sampling_ratio² samples, or,
    where that is not positive, ⌈side of the box / bins⌉ each way. aligned puts the center of pixel i at i + ½;
    without it, at i, and no box is smaller than one pixel. No gradient reaches the boxes.
    Raises ValueError for wrong shapes, dtypes, devices or sizes and, on a CPU, for an image that does not exist or a
    box that is not finite; on a GPU that would cost a wait for the device, and torch's own indexing raises instead.
    """
    rows, columns = _check(features, boxes, output_size)
    if boxes.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_values(features, boxes)
    image, x1, y1, x2, y2 = boxes.detach().double().unbind(1)  # a coordinate rounded to float32 can change pixel
    offset = 0.5 if aligned else 0.0
    y, weight_y, inside_y = _taps(
        y1 * spatial_scale - offset, y2 * spatial_scale - offset, rows, features.shape[2], sampling_ratio, aligned
    )
    x, weight_x, inside_x = _taps(
        x1 * spatial_scale - offset, x2 * spatial_scale - offset, columns, features.shape[3], sampling_ratio, aligned
    )

    work = torch.promote_types(features.dtype, torch.float32)
    # [box, row, tap, column, tap, channel]; both lists of taps run over a bin's samples and their two neighbors
    values = features.to(work)[image.long()[:, None, None, None, None], :, y[:, :, :, None, None], x[:, None, None]]
    weight = (weight_y[:, :, :, None, None] * weight_x[:, None, None]).to(work)
    inside = inside_y[:, :, :, None, None] & inside_x[:, None, None]
    values = values.masked_fill(~inside[..., None], 0)  # not by the weight alone: 0 · inf would be NaN
    return (values * weight[..., None]).sum((2, 4)).permute(0, 3, 1, 2).to(features.dtype).contiguous()


def _taps(
    start: Float[Tensor, " box"], end: Float[Tensor, " box"], bins: int, size: int, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pixels that each bin reads along one axis, their weights, and whether they count: [box, bin, tap]."""
    extent = end - start if aligned else (end - start).clamp(min=1)
    side = (extent / bins)[:, None, None]
    adaptive = sampling_ratio <= 0
    samples = side.ceil().clamp(min=0) if adaptive else torch.full_like(side, sampling_ratio)
    most = int(samples.max()) if adaptive and len(start) else max(sampling_ratio, 0)
    nth = torch.arange(most, device=start.device)
    bin = torch.arange(bins, device=start.device)[:, None]
    at = start[:, None, None] + bin * side + (nth + 0.5) * (side / samples.clamp(min=1))  # [box, bin, sample]
    inside = (at >= -1) & (at <= size) & (nth < samples)
    at = at.clamp(0, size - 1)  # up to one pixel outside the map, a sample takes the value of its edge
    low = at.long()
    high = (low + 1).clamp(max=size - 1)
    weight = torch.stack([1 - (at - low), at - low], -1) / samples.clamp(min=1)[..., None]
    return torch.stack([low, high], -1).flatten(2), weight.flatten(2), inside.repeat_interleave(2, -1)


def roi_pool(
    features: Float[Tensor, "image channel height width"],
    boxes: Float[Tensor, "box 5"],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
) -> Float[Tensor, "box channel row column"]:
    """Return the largest feature of each bin of each box, box and bins quantized to whole pixels (arXiv 1504.08083).

    Corners are rounded to [x · spatial_scale], halves away from 0, and both end pixels kept; a bin without pixels is 0.
    Raises ValueError as `roi_align` does.
    """
    rows, columns = _check(features, boxes, output_size)
    _check_values(features, boxes)
    scaled = boxes.detach().double()[:, 1:] * spatial_scale
    corners = (scaled.sign() * (scaled.abs() + 0.5).floor()).long().tolist()
    pooled = features.new_zeros(len(boxes), features.shape[1], rows, columns)
    for box, (image, (x1, y1, x2, y2)) in enumerate(zip(boxes[:, 0].long().tolist(), corners, strict=True)):
        for row, (top, bottom) in enumerate(_quantized_bins(y1, y2, rows, features.shape[2])):
            for column, (left, right) in enumerate(_quantized_bins(x1, x2, columns, features.shape[3])):
                if top < bottom and left < right:
                    pooled[box, :, row, column] = features[image, :, top:bottom, left:right].flatten(1).max(1).values
    return pooled


def _quantized_bins(start: int, end: int, bins: int, size: int) -> list[tuple[int, int]]:
    side = max(end - start + 1, 1)
    edges = [(start + side * n // bins, start - (-side * (n + 1) // bins)) for n in range(bins)]  # ⌊ ⌋ and ⌈ ⌉
    return [(min(max(low, 0), size), min(max(high, 0), size)) for low, high in edges]


def mask_loss(
    logits: Float[Tensor, "box K m m"], classes: Int[Tensor, " box"], target: Float[Tensor, "box m m"]
) -> Float[Tensor, ""]:
    """Return L_mask, the average binary cross-entropy of the true class k's mask alone (section 3).

    The K − 1 other masks of a box get no gradient; without boxes the loss is 0.
    Raises ValueError unless the shapes fit and, on a CPU, unless 0 ≤ k < K.
    """
    if logits.dim() != 4 or classes.shape != logits.shape[:1] or target.shape != logits[:, 0].shape:
        raise ValueError(
            "mask_loss needs logits [box, K, m, m], classes [box] and target [box, m, m], not "
            f"{list(logits.shape)}, {list(classes.shape)} and {list(target.shape)}"
        )
    if classes.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = (classes < 0) | (classes >= logits.shape[1])
        if wrong.any():
            raise ValueError(f"class {classes[wrong][0].item()} is not one of the {logits.shape[1]} that have a mask")
    k = classes.long()
    chosen = logits[torch.arange(len(k), device=k.device), k]
    if not len(k):
        return logits.sum()
    return F.binary_cross_entropy_with_logits(chosen, target.to(logits.dtype))


def _check(features: Tensor, boxes: Tensor, output_size: int | tuple[int, int]) -> tuple[int, int]:
    if features.dim() != 4 or not features.is_floating_point():
        raise ValueError(
            "features must be floating point [image, channel, height, width], "
            f"not {features.dtype} {list(features.shape)}"
        )
    if features.shape[2] < 1 or features.shape[3] < 1:
        raise ValueError(
            f"features of height {features.shape[2]} and width {features.shape[3]} have no pixel to sample"
        )
    if boxes.dim() != 2 or boxes.shape[1] != 5 or boxes.is_complex():
        raise ValueError(f"boxes must be [box, 5]: image, x1, y1, x2, y2; not {boxes.dtype} {list(boxes.shape)}")
    if boxes.device != features.device:
        raise ValueError(f"boxes are on {boxes.device}, features on {features.device}; move one of them")
    pair = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f"output_size must be a positive int or a pair of them, not {output_size!r}")
    return pair[0], pair[1]


def _check_values(features: Tensor, boxes: Tensor) -> None:
    """Raise ValueError for a box that no image can answer; on a GPU this waits for the device."""
    if not boxes.isfinite().all():
        raise ValueError("a box has a coordinate that is not finite")
    image = boxes[:, 0].long()
    wrong = (image < 0) | (image >= len(features))
    if wrong.any():
        raise ValueError(
            f"box {wrong.nonzero()[0].item()} belongs to image {image[wrong][0].item()}; there are {len(features)}"
        )
