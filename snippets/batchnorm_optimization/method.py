"""Batch normalization in training, the layer that Santurkar et al. (2018, arXiv 1805.11604) put to the test.

The paper takes the layer from Ioffe and Szegedy (2015, arXiv 1502.03167), Algorithm 1, whose symbols these are: μ and σ²
are a channel's mean and variance over the batch, γ (`weight`) and β (`bias`) are learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def batch_norm(
    x: Float[Tensor, "batch channel *rest"],
    weight: Float[Tensor, " channel"] | None,
    bias: Float[Tensor, " channel"] | None,
    eps: float = 1e-5,
) -> tuple[Float[Tensor, "batch channel *rest"], Float[Tensor, " channel"], Float[Tensor, " channel"]]:
    """Return y = γ(x − μ)/√(σ² + ε) + β, μ and the biased σ² = mean (x − μ)² (Ioffe and Szegedy, Algorithm 1).

    Without weight γ = 1, without bias β = 0. y has x's dtype; μ and σ² are float32, for float64 float64. A gradient
    flows through all three. No values at all give an empty y, and NaN for μ and σ².
    Raises ValueError for one value a channel, for ε ≤ 0, and for shapes and dtypes that `F.batch_norm` refuses.
    """
    check(x, weight, bias, eps)
    over = [0, *range(2, x.dim())]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    # A rounded mean is off by up to half its last digit, more than σ where μ ≫ σ. So it only shifts x, which is exact
    # near μ; the mean of what is left adds the digits it lacks, and carries the gradient.
    shift = wide.detach().mean(over, keepdim=True)
    shift = torch.where(shift.isfinite(), shift, 0.0)  # with an infinity in it, x − shift would lose its sign
    shifted = wide - shift
    rest = shifted.mean(over, keepdim=True)
    centered = shifted - rest
    variance = centered.square().mean(over, keepdim=True)
    y = centered * torch.rsqrt(variance + eps)
    if weight is not None:
        y = y * weight.to(wide.dtype).view(variance.shape)
    if bias is not None:
        y = y + bias.to(wide.dtype).view(variance.shape)
    return y.to(x.dtype), (shift + rest).flatten(), variance.flatten()


@torch.no_grad()
def update_running_(
    running_mean: Float[Tensor, " channel"],
    running_variance: Float[Tensor, " channel"],
    mean: Float[Tensor, " channel"],
    variance: Float[Tensor, " channel"],
    count: int,
    momentum: float = 0.1,
) -> None:
    """Move the running statistics, which inference uses, a share `momentum` toward one batch's, in place.

    `variance` is the biased one of `batch_norm` over `count` values a channel; the running one is unbiased, by the factor
    count/(count − 1) (Ioffe and Szegedy, Algorithm 2). Raises ValueError for fewer than two values.
    """
    if count < 2:
        raise ValueError(f"an unbiased variance needs more than 1 value per channel, not {count}")
    running_mean.mul_(1 - momentum).add_(mean.to(running_mean.dtype), alpha=momentum)
    unbiased = variance * (count / (count - 1))
    running_variance.mul_(1 - momentum).add_(unbiased.to(running_variance.dtype), alpha=momentum)


def check(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
    """Raise ValueError for arguments that `F.batch_norm` refuses in training; of an empty x it asks nothing more."""
    if x.dim() < 2 or not x.is_floating_point():
        raise ValueError(f"x must be floating, [batch, channel, …], not {x.dtype} of shape {tuple(x.shape)}")
    channels = x.shape[1]
    for name, one in (("weight", weight), ("bias", bias)):
        if one is None:
            continue
        if one.shape != (channels,):
            raise ValueError(f"{name} must have shape ({channels},), one value a channel, not {tuple(one.shape)}")
        allowed = (x.dtype,) if x.dtype in (torch.float32, torch.float64) else (x.dtype, torch.float32)
        if one.dtype not in allowed or one.device != x.device:
            raise ValueError(
                f"{name} must be {' or '.join(map(str, allowed))} on {x.device} to go with x, "
                f"not {one.dtype} on {one.device}"
            )
    if not eps > 0:
        raise ValueError(f"eps must be above 0, not {eps}")
    if x.shape[0] * x.shape[2:].numel() == 1:
        raise ValueError(f"Expected more than 1 value per channel in training, got shape {tuple(x.shape)}")
