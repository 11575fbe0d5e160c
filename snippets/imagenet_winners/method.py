"""Top-k error, the measure by which the ImageNet challenge ranked its entries (Russakovsky et al. 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor


def topk_errors(
    logits: Float[Tensor, "row class_"], target: Int[Tensor, " row"], ks: Sequence[int] = (1, 5)
) -> Float[Tensor, " k"]:
    """Return for each k the share of rows whose target is not among the k largest logits, as float64.

    The target's rank is the number of larger logits and of equal ones at a lower class; a row errs where rank ≥ k, and
    for every k where it holds a NaN. Rates are an integer count over the rows; of no rows they are NaN. Raises
    ValueError for a wrong shape or dtype, a target that is no class, and unless every k is a whole number of at least 1.
    """
    _check(logits, target, ks)
    if target.numel() and (target.min() < 0 or target.max() >= logits.shape[1]):
        raise ValueError(_outside(logits.shape[1]))
    target = target.long()[:, None]
    own = logits.gather(1, target)
    earlier = torch.arange(logits.shape[1], device=logits.device) < target
    rank = ((logits > own) | ((logits == own) & earlier)).sum(1)
    broken = logits.isnan().any(1)
    return torch.stack([((rank >= k) | broken).sum() for k in ks]).double() / len(logits)


def _check(logits: Tensor, target: Tensor, ks: Sequence[int]) -> None:
    if logits.dim() != 2 or not logits.is_floating_point():
        raise ValueError(f"logits must be floating [row, class], not {logits.dtype} of shape {tuple(logits.shape)}")
    whole = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
    if target.shape != logits.shape[:1] or not whole:
        raise ValueError(
            f"target must hold one class index for each of {logits.shape[0]} rows, not {target.dtype} of shape {tuple(target.shape)}"
        )
    if not len(ks) or any(k < 1 or k != int(k) for k in ks):
        raise ValueError(f"every k must be a whole number of at least 1, and there must be one, not {tuple(ks)}")


def _outside(classes: int) -> str:
    return f"a target is not among the {classes} classes; indices run from 0 to {classes - 1}"
