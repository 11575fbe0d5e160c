"""The adversarial game on logits: what D and G minimize, and the discriminator that is best against a fixed G.

Equations are those of Goodfellow et al. 2014 (arXiv 1406.2661). D(x) = σ(logit); a real logit is D's for x ~ p_data, a
fake one D's for G(z).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    Scalar = Float[Tensor, ""]


def gan_losses(real_logits: Float[Tensor, ...], fake_logits: Float[Tensor, ...]) -> tuple[Scalar, Scalar, Scalar]:
    """Return the losses of D, the minimax G and the non-saturating G, all means (equation 1, section 3).

    D minimizes −V = mean −log D(x) + mean −log(1 − D(G(z))); the minimax G minimizes mean log(1 − D(G(z))); the
    non-saturating G minimizes mean −log D(G(z)). The mean of no logits is NaN.
    Raises ValueError unless both are floating-point tensors of one dtype on one device.
    """
    _check(real_logits, fake_logits)
    r, f = _widened(real_logits), _widened(fake_logits)
    minimax = log_one_minus_d(f).mean()
    losses = -log_d(r).mean() - minimax, minimax, -log_d(f).mean()
    return tuple(loss.to(real_logits.dtype) for loss in losses)


def gan_losses_and_gradients(
    real_logits: Float[Tensor, "*real"], fake_logits: Float[Tensor, "*fake"]
) -> tuple[Scalar, Scalar, Scalar, Float[Tensor, "*real"], Float[Tensor, "*fake"], Float[Tensor, "*fake"]]:
    """Return the three losses, then the gradients of D's to the real logits, of both of G's to the fake ones.

    They are (D(x) − 1)/n, −D(G(z))/m for the minimax G and (D(G(z)) − 1)/m for the non-saturating one, with n real and m
    fake logits; D's gradient to the fake logits is minus that of the minimax G. None of them carries a gradient itself.
    Raises ValueError as `gan_losses` does.
    """
    real_logits, fake_logits = real_logits.detach(), fake_logits.detach()
    losses = gan_losses(real_logits, fake_logits)
    r, f = _widened(real_logits), _widened(fake_logits)
    n, m = max(r.numel(), 1), max(f.numel(), 1)
    # σ(−x) is 1 − σ(x) without the rounding error of a D near 1
    gradients = -torch.sigmoid(-r) / n, -torch.sigmoid(f) / m, -torch.sigmoid(-f) / m
    return *losses, *(gradient.to(real_logits.dtype) for gradient in gradients)


def log_d(logits: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Return log D = log σ(logit): minus the cross-entropy with label 1; NaN at ±∞ as in torch's."""
    return logsigmoid(logits) - 0 * logits.detach()


def log_one_minus_d(logits: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Return log(1 − D) = log σ(−logit): minus the cross-entropy with label 0; NaN at −∞ as in torch's."""
    return logsigmoid(-logits) - 0 * logits.detach().clamp(max=0)


def best_discriminator(p_data: Float[Tensor, ...], p_g: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Return D*(x) = p_data(x) / (p_data(x) + p_g(x)), the best D against a fixed G (equation 2, proposition 1).

    Where both densities are 0 no sample ever falls, and it is NaN. Raises ValueError for a negative density.
    """
    if (p_data < 0).any() or (p_g < 0).any():
        raise ValueError("a density is never negative: pass p_data(x) and p_g(x), not their logarithms")
    return p_data / (p_data + p_g)


def _widened(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))  # half precision blurs a mean


def _check(real_logits: Tensor, fake_logits: Tensor) -> None:
    for name, logits in (("real_logits", real_logits), ("fake_logits", fake_logits)):
        if not logits.is_floating_point():
            raise ValueError(f"{name} must be a floating-point tensor, not {logits.dtype}; call .float() first")
    if real_logits.dtype != fake_logits.dtype:
        raise ValueError(f"the logits have two dtypes, {real_logits.dtype} and {fake_logits.dtype}; cast one")
    if real_logits.device != fake_logits.device:
        raise ValueError(f"the logits are on {real_logits.device} and {fake_logits.device}; move one")
