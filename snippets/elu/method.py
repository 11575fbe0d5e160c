"""Exponential linear units: one equation, in place or not (Clevert, Unterthiner, Hochreiter 2015)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def elu(x: Float[Tensor, ...], alpha: float = 1.0) -> Float[Tensor, ...]:
    """Return x where x > 0, else α(exp(x) − 1) (arXiv 1511.07289, section 3).

    α may be negative, as in `F.elu`, though the paper has α > 0. Raises ValueError unless x is floating point.
    """
    _check(x)
    # expm1 sees no positive number: an overflow on the branch not taken would make its gradient NaN.
    below = x.masked_fill(x > 0, 0).to(torch.promote_types(x.dtype, torch.float32))  # half precision blurs the slope
    return torch.where(x > 0, x, (alpha * torch.expm1(below)).to(x.dtype))


def elu_(x: Float[Tensor, ...], alpha: float = 1.0) -> Float[Tensor, ...]:
    """Overwrite x with ELU(x) and return it.

    Raises ValueError unless x is floating point, RuntimeError where autograd forbids it (a leaf that needs a gradient).
    """
    return x.copy_(elu(x.clone(), alpha))  # autograd keeps the copy: x itself is about to change


def _check(x: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(f"elu needs a floating-point tensor, not {x.dtype}; call x.float() first")
