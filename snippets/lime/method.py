"""LIME for images: hide superpixels at random, ask the model, and fit a weighted linear model (Ribeiro et al. 2016).

Equations are those of arXiv 1602.04938; a mask z′ [segment] is 1 where a superpixel of the image is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Bool, Float, Int, Shaped
    from torch import Tensor

LABELS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def perturb(
    image: Shaped[Tensor, "channel h w"],
    segments: Int[Tensor, "h w"],
    masks: Shaped[Tensor, "sample segment"],
    fill: float | Sequence[float] | Float[Tensor, " channel"],
) -> Shaped[Tensor, "sample channel h w"]:
    """Return the image once a mask, with every superpixel whose entry is 0 painted over by `fill` (section 3.1).

    The fill, a number or one a channel, is cast to the image's dtype. Raises ValueError for ranks, shapes or dtypes that
    do not fit, and for a label that is no column of the masks: on a GPU that check waits for the device.
    """
    color = _check(image, segments, masks, fill)
    kept = masks.to(torch.bool)[:, segments.long()]
    # chosen, not multiplied: what is hidden may be NaN or infinite
    return torch.where(kept[:, None], image, color[:, None, None])


def proximity(masks: Shaped[Tensor, "sample segment"], width: float = 0.25) -> Float[Tensor, " sample"]:
    """Return π(z′) = exp(−D²/σ²), D the cosine distance of a mask to that which keeps all (section 3.3); float64.

    With k of S segments kept, D = 1 − √(k/S). Raises ValueError unless the masks have two dimensions and width σ > 0.
    """
    _check_weighing(masks, width)
    share = masks.to(torch.bool).sum(1, dtype=torch.float64) / max(masks.shape[1], 1)
    return torch.exp(-(((1 - share.sqrt()) / width) ** 2))


def perturb_and_weigh(
    image: Shaped[Tensor, "channel h w"],
    segments: Int[Tensor, "h w"],
    masks: Shaped[Tensor, "sample segment"],
    fill: float | Sequence[float] | Float[Tensor, " channel"],
    width: float = 0.25,
) -> tuple[Shaped[Tensor, "sample channel h w"], Float[Tensor, " sample"]]:
    """Return the perturbed images and their weights: `perturb` and `proximity`. Raises ValueError as they do."""
    weights = proximity(masks, width)
    return perturb(image, segments, masks, fill), weights


def draw_masks(samples: int, segments: int, seed: int) -> Bool[Tensor, "sample segment"]:
    """Return random masks whose number of kept segments is uniform on 0 … S (section 3.3); the first keeps all.

    A uniform chance for each mask does it: kept with the same unknown chance, k of S is as likely as any other number.
    torch's global random state is left alone. Raises ValueError unless both counts are at least 1.
    """
    for name, count in (("samples", samples), ("segments", segments)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"draw_masks needs a whole number of {name}, at least 1, not {count!r}")
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(samples, 1, dtype=torch.float64, generator=generator)
    masks = torch.rand(samples, segments, dtype=torch.float64, generator=generator) < chance
    masks[0] = True
    return masks


def explain(
    predict: Callable[[Shaped[Tensor, "sample channel h w"]], Float[Tensor, " sample"]],
    image: Shaped[Tensor, "channel h w"],
    segments: Int[Tensor, "h w"],
    samples: int,
    seed: int,
    fill: float | Sequence[float] | Float[Tensor, " channel"] = 0.0,
    width: float = 0.25,
) -> Float[Tensor, " segment"]:
    """Return w of g(z′) = w₀ + w·z′ that minimizes Σ π(z′) (f(z) − g(z′))² over the samples (equation 2), in float64.

    There is no penalty on w: for a model that is linear in the superpixels the answer is its own coefficients, once the
    masks tell them apart. Where they do not, w is the solution of least norm. `predict` sees all samples at once, the
    unperturbed image first. Raises ValueError as `perturb` does, and for scores that are not one finite number a sample.
    """
    return _explain(perturb_and_weigh, predict, image, segments, samples, seed, fill, width)


def _explain(make, predict, image, segments, samples, seed, fill, width) -> Tensor:
    """Draw masks, make the images and weights by `make`, ask `predict`, and solve."""
    if segments.numel() == 0:
        raise ValueError("explain needs an image of at least one pixel, and a segment to ask about")
    _check_labels(image, segments)
    masks = draw_masks(samples, int(segments.max()) + 1, seed)
    images, weights = make(image, segments, masks.to(image.device), fill, width)
    scores = predict(images)
    if scores.shape != (samples,) or scores.is_complex():
        raise ValueError(f"predict must give one real score a sample [{samples}], not {list(scores.shape)}")
    if not torch.isfinite(scores).all():
        raise ValueError("predict gave a score that is NaN or infinite; no linear model fits it")
    # the system is small and may lack rank, which LAPACK's driver on a CPU can tell and a GPU's cannot
    return solve(masks, scores.to("cpu", torch.float64), weights.cpu()).to(image.device)


def solve(
    masks: Shaped[Tensor, "sample segment"], scores: Float[Tensor, " sample"], weights: Float[Tensor, " sample"]
) -> Float[Tensor, " segment"]:
    """Return the weighted least-squares coefficients of the masks, beside an intercept; CPU tensors, in float64."""
    design = torch.cat([torch.ones(len(masks), 1, dtype=torch.float64), masks.to(torch.float64)], 1)
    root = weights.double().sqrt()[:, None]
    return torch.linalg.lstsq(root * design, root * scores.double()[:, None], driver="gelsd").solution[1:, 0]


def _check(image: Tensor, segments: Tensor, masks: Tensor, fill: object) -> Tensor:
    """Return the fill as one value a channel [channel]; raise ValueError for what `perturb` cannot take."""
    _check_labels(image, segments)
    if masks.dim() != 2 or masks.is_complex():
        raise ValueError(f"masks must be real [sample, segment], not {masks.dtype} {list(masks.shape)}")
    if not image.device == segments.device == masks.device:
        raise ValueError(
            f"image, segments and masks must share a device: {image.device}, {segments.device}, {masks.device}"
        )
    # a compiled graph cannot stop to look; there the labels are the caller's to keep in range
    if segments.numel() and not torch.compiler.is_compiling():
        low, high = (int(end) for end in torch.aminmax(segments))
        if low < 0 or high >= masks.shape[1]:
            raise ValueError(
                f"segments holds labels from {low} to {high}, masks has columns for 0 to {masks.shape[1] - 1}; "
                "number the segments from 0 and give masks a column for each"
            )
    try:
        color = torch.as_tensor(fill, dtype=image.dtype, device=image.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"fill must be a number or one a channel that {image.dtype} can hold: {error}") from None
    if color.shape not in ((), (image.shape[0],)):
        raise ValueError(f"fill must be a number or one for each of {image.shape[0]} channels, not {list(color.shape)}")
    return color.expand(image.shape[0])


def _check_labels(image: Tensor, segments: Tensor) -> None:
    if image.dim() != 3 or image.is_complex():
        raise ValueError(f"image must be real [channel, h, w], not {image.dtype} {list(image.shape)}")
    if segments.shape != image.shape[1:]:
        raise ValueError(
            f"segments must be [h, w] = {list(image.shape[1:])} as the image is, not {list(segments.shape)}"
        )
    if segments.dtype not in LABELS:
        raise ValueError(f"segments must hold integer labels, not {segments.dtype}")


def _check_weighing(masks: Tensor, width: float) -> None:
    if masks.dim() != 2 or masks.is_complex():
        raise ValueError(f"masks must be real [sample, segment], not {masks.dtype} {list(masks.shape)}")
    if not width > 0:
        raise ValueError(f"the width of the kernel must be above 0, not {width}")
