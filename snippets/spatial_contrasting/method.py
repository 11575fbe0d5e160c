"""Spatial contrasting: tell which patch came from the same image, by distances between features (Hoffer et al. 2016).

Equations are those of arXiv 1610.00243; f(x) is a patch's feature vector. A batch pairs row i of `anchor` with row i of
`positive`, two patches of image i; the other rows of `positive` are the negatives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def spatial_contrasting_loss(
    anchor: Float[Tensor, "batch feature"], positive: Float[Tensor, "batch feature"]
) -> Float[Tensor, ""]:
    """Return −(1/N) Σᵢ log(exp(−‖aᵢ − pᵢ‖₂) / Σⱼ exp(−‖aᵢ − pⱼ‖₂)), the batch loss of section 4.1.

    The distance's gradient at 0 is 0, as `torch.cdist` has it; the mean over an empty batch is NaN. Sums are fp32
    (fp64 for fp64). Raises ValueError unless both are floating [batch, feature] matrices of one shape, dtype and device.
    """
    _check(anchor, positive)
    work = torch.promote_types(anchor.dtype, torch.float32)
    # |a|² + |p|² − 2a·p, the fast way to all distances, loses them where features lie far from the origin
    distance = torch.cdist(anchor.to(work), positive.to(work), compute_mode="donot_use_mm_for_euclid_dist")
    own = torch.arange(len(anchor), device=anchor.device)
    return F.cross_entropy(-distance, own).to(anchor.dtype)


def _check(anchor: Tensor, positive: Tensor) -> None:
    for name, one in (("anchor", anchor), ("positive", positive)):
        if one.dim() != 2 or not one.is_floating_point():
            raise ValueError(
                f"{name} must be a floating [batch, feature] matrix, not {one.dtype} of shape {tuple(one.shape)}"
            )
    if anchor.shape != positive.shape:
        raise ValueError(
            f"anchor {tuple(anchor.shape)} and positive {tuple(positive.shape)} must have one shape: row i pairs with row i"
        )
    if anchor.dtype != positive.dtype or anchor.device != positive.device:
        raise ValueError(
            f"anchor ({anchor.dtype}, {anchor.device}) and positive ({positive.dtype}, {positive.device}) must share "
            "dtype and device"
        )
