"""Three numbers that describe a photograph before any network sees it: sharpness, mean and contrast.

The Selfai post names no statistic; these are what the field uses. The variance of the Laplacian as a measure of focus is from
Pech-Pacheco et al. 2000 ("LAPV" in Pertuz et al. 2013); the other two are an image's first moments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def laplacian(images: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch inner_height inner_width"]:
    """Return Δ = up + down + left + right − 4·center for every pixel that has four neighbors.

    Summed as differences from the center: neighbors are alike, so little is rounded away where the image is bright.
    """
    center = images[:, 1:-1, 1:-1]
    vertical = (images[:, :-2, 1:-1] - center) + (images[:, 2:, 1:-1] - center)
    return vertical + ((images[:, 1:-1, :-2] - center) + (images[:, 1:-1, 2:] - center))


def image_statistics(
    images: Float[Tensor, "batch height width"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return sharpness Var[Δ], mean E[x] and contrast √Var[x] of each image, in the images' dtype.

    Variances are population variances; Δ is taken over the (h − 2)(w − 2) pixels that have four neighbors. Computed in float64 and
    rounded once: what is too large for the dtype is its infinity. Raises ValueError unless images are
    floating [batch, height, width] with both sides at least 3: a smaller image has no such pixel.
    """
    _check(images)
    wide = images.double()
    sharpness = laplacian(wide).flatten(1).var(1, correction=0)
    # less one pixel, so that a constant image has contrast 0 whatever its value
    contrast = (wide - wide[:, :1, :1].detach()).flatten(1).std(1, correction=0)
    return tuple(one.to(images.dtype) for one in (sharpness, wide.flatten(1).mean(1), contrast))


def _check(images: Tensor) -> None:
    if images.dim() != 3 or images.dtype not in DTYPES:
        raise ValueError(
            f"images must be floating [batch, height, width], not {images.dtype} of shape {tuple(images.shape)}"
        )
    if min(images.shape[1:]) < 3:
        raise ValueError(
            f"an image of {images.shape[1]} by {images.shape[2]} has no pixel with four neighbors; both sides must be at least 3"
        )
