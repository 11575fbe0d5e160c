"""The two-layer ReLU network whose 2n + d weights fit any n labels, built and not trained (Zhang et al. 2017, Theorem 1).

Symbols are those of arXiv 1611.03530, appendix C, except that x is a sample and z its projection on a.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Real
    from torch import Tensor

DIRECTIONS = 64
"""How many random directions `memorize` tries, beside the d axes."""
MOST_AXES = 64
"""More axes than this are not tried."""


def two_layer(z: Float[Tensor, " n"], b: Float[Tensor, " m"], w: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """Return c_i = Σⱼ wⱼ max(z_i − bⱼ, 0) for projected samples z (the proof of Theorem 1).

    Raises ValueError unless z, b and w are floating vectors of one dtype, b and w of one length.
    """
    check(z, b, w)
    wide = torch.promote_types(z.dtype, torch.float32)  # half precision is rounded once, at the end
    return (torch.relu(z.to(wide)[:, None] - b.to(wide)) @ w.to(wide)).to(z.dtype)


def memorize(
    x: Float[Tensor, "n d"], y: Real[Tensor, " n"]
) -> tuple[Float[Tensor, " d"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return (a, b, w) for which two_layer(x @ a, b, w) = y: d + n + n numbers for n samples (Theorem 1).

    With the z_i = ⟨a, x_i⟩ in order, the proof takes b₁ < z₁ < b₂ < z₂ < …, so that the matrix max(z_i − bⱼ, 0) is lower
    triangular with a positive diagonal. Here bⱼ = zⱼ₋₁: triangular still, and forward substitution becomes
    interpolation, wⱼ being the change of slope at bⱼ. Kinks inside the gaps would pass every steep slope on to the
    next gap with its sign reversed. Of many directions a, from a generator of its own, the least steep one is taken.

    All three have x's dtype and device; float64 is what makes the fit close. Raises ValueError for shapes and dtypes,
    for numbers that are not finite, and where equal rows of x have different y, or rows too close to be told apart.
    """
    if x.dim() != 2 or not x.shape[1] or not x.is_floating_point():
        raise ValueError(f"x must be a floating [sample, feature] matrix, not {x.dtype} of shape {tuple(x.shape)}")
    if y.shape != x.shape[:1] or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(
            f"y must be {x.shape[0]} real numbers, one a row of x, not {y.dtype} of shape {tuple(y.shape)}"
        )
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("x and y must be finite: no sum of ramps passes through infinity or NaN")
    x, target = x.detach(), y.detach().to(x.device, torch.float64)
    rows, which = x.unique(dim=0, return_inverse=True)
    labels = target.new_empty(len(rows)).scatter_(0, which, target)
    a = _direction(rows, labels)
    z, order = (x @ a).double().sort(stable=True)
    target, known = target[order], labels[which][order]
    if (target != known).any() or ((z.diff() == 0) & (target.diff() != 0)).any():
        raise ValueError(
            f"rows of x with different y are equal, or too close to be told apart in {x.dtype}: no function fits both; "
            "drop one of them, center x, or use float64"
        )
    # Rows that share a z share a label: their further units stay at the end, with weight 0.
    first = torch.cat([z.new_ones(min(len(z), 1), dtype=torch.bool), z.diff() > 0])
    distinct, values = z[first], target[first]
    spread = (distinct[-1:] - distinct[:1]).where(distinct[-1:] > distinct[:1], torch.ones_like(distinct[:1]))
    kinks = torch.cat([distinct[:1] - spread, distinct[:-1]])
    slopes = torch.cat([values[:1] / spread, values.diff() / distinct.diff()])
    changes = slopes.diff(prepend=slopes.new_zeros(1)) if len(slopes) else slopes
    b = torch.cat([kinks, z[-1:].expand(len(z) - len(kinks))])
    w = torch.cat([changes, z.new_zeros(len(z) - len(kinks))])
    return a, b.to(x.dtype), w.to(x.dtype)


def _direction(x: Tensor, y: Tensor) -> Tensor:
    """Return the direction on which y changes least steeply from one projected row to the next."""
    rows, features = x.shape
    generator = torch.Generator().manual_seed(0)
    tried = torch.randn(features, DIRECTIONS, generator=generator, dtype=torch.float64)
    if features <= MOST_AXES:  # on an axis nothing is rounded
        tried = torch.cat([torch.eye(features, dtype=torch.float64), tried], dim=1)
    if rows:  # scaled by a power of two: projections are near 1, and an axis stays exact
        least = 16 * torch.finfo(x.dtype).smallest_normal  # whose inverse does not overflow
        tried = tried * 2.0 ** -x.abs().max().double().cpu().clamp(min=least).log2().ceil()
    tried = tried.to(x)
    z, order = (x @ tried).double().sort(dim=0)
    rise, run = y[order].diff(dim=0).abs(), z.diff(dim=0)
    # Two labels at one place cannot be fitted; one label at one place needs no slope.
    steepness = torch.where(rise > 0, rise / run, 0.0).sum(0)
    return tried[:, steepness.argmin()].clone()


def check(z: Tensor, b: Tensor, w: Tensor) -> None:
    """Raise ValueError unless z, b and w are floating vectors of one dtype and device, b and w of one length."""
    if not z.dtype == b.dtype == w.dtype or not z.is_floating_point():
        raise ValueError(f"z, b and w must be of one floating dtype, not {z.dtype}, {b.dtype} and {w.dtype}")
    if z.dim() != 1 or b.dim() != 1 or b.shape != w.shape:
        shapes = ", ".join(str(tuple(one.shape)) for one in (z, b, w))
        raise ValueError(f"z must be [n], b and w both [m], not {shapes}")
    if not z.device == b.device == w.device:
        raise ValueError(f"z, b and w must be on one device, not {z.device}, {b.device} and {w.device}")
