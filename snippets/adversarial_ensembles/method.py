"""The fast gradient sign step (Goodfellow et al. 2014) and an ensemble that listens to its most confident member.

Equations are those of arXiv 1412.6572. Neither function is differentiable here: both treat their inputs as data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def fgsm_step(x: Float[Tensor, "*any"], gradient: Float[Tensor, "*any"], epsilon: float) -> Float[Tensor, "*any"]:
    """Return x̃ = x + ε sign(∇ₓJ), clamped to [0, 1] (section 4; the clamp keeps it an image).

    A gradient of 0 or NaN moves nothing, as sign is 0 there; a NaN in x stays. Half precision is rounded once, at the
    end. Raises ValueError unless x and the gradient are floating point and alike in shape, dtype and device, and
    unless 0 ≤ ε < ∞.
    """
    _check_step(x, gradient, epsilon)
    x, gradient = x.detach(), gradient.detach()
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide + epsilon * gradient.to(wide.dtype).sign()).clamp(0, 1).to(x.dtype)


def fgsm_step_(x: Float[Tensor, "*any"], gradient: Float[Tensor, "*any"], epsilon: float) -> Float[Tensor, "*any"]:
    """Overwrite x with `fgsm_step(x, gradient, epsilon)` and return it; no gradient is recorded. Raises as it does."""
    x.detach().copy_(fgsm_step(x, gradient, epsilon))
    return x


def max_confidence(logits: Float[Tensor, "model batch class_"]) -> Int[Tensor, " batch"]:
    """Return for each instance the class that any model gives the highest softmax probability.

    Probabilities are compared in float64. Equal ones, those that round to 1 among them, go to the first model, then to the
    first class. As torch orders it, NaN is above every number: an instance for which some model's probabilities are NaN
    (a logit of NaN or +∞, or all of them −∞) gets class 0. Raises ValueError unless the logits are floating
    [model, batch, class] with a model and a class.
    """
    _check_logits(logits)
    probability = logits.detach().softmax(2, dtype=torch.float64)
    return probability.transpose(0, 1).flatten(1).argmax(1) % logits.shape[2]


def _check_step(x: Tensor, gradient: Tensor, epsilon: float) -> None:
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point with values in 0..1, not {x.dtype}; call x.float() first")
    if gradient.shape != x.shape or gradient.dtype != x.dtype or gradient.device != x.device:
        raise ValueError(
            f"the gradient must be like x, {x.dtype} of shape {tuple(x.shape)} on {x.device}, "
            f"not {gradient.dtype} of shape {tuple(gradient.shape)} on {gradient.device}"
        )
    if not 0 <= epsilon < float("inf"):
        raise ValueError(f"epsilon must be finite and at least 0, not {epsilon}")


def _check_logits(logits: Tensor) -> None:
    if logits.dim() != 3 or not logits.is_floating_point():
        raise ValueError(
            f"logits must be floating [model, batch, class], not {logits.dtype} of shape {tuple(logits.shape)}"
        )
    if not logits.shape[0] or not logits.shape[2]:
        raise ValueError(f"max_confidence needs at least one model and one class, not shape {tuple(logits.shape)}")
