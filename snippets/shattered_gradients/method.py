"""Co-activation, and the correlation of gradients between inputs by depth (Balduzzi et al. 2017, arXiv 1702.08591)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

EXACT_UNITS = 2**24
"""Float32 counts every unit up to here; beyond, adding 1 may change nothing."""


def co_activation(x: Float[Tensor, "batch unit"]) -> Float[Tensor, "batch batch"]:
    """Return C_ij = mean over units n of [x_in > 0 ∧ x_jn > 0], the share of units that inputs i and j both switch on.

    x holds pre-activations; NaN > 0 is false; without units every entry is NaN, as the mean of nothing is in torch.
    The result is float32 (float64 for float64) and carries no gradient: C is piecewise constant in x.
    Raise ValueError unless x is a floating matrix.
    """
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"x must be a floating [batch, unit] matrix, not {x.dtype} of shape {tuple(x.shape)}")
    exact = x.dtype == torch.float64 or x.shape[1] > EXACT_UNITS
    active = (x > 0).to(torch.float64 if exact else torch.float32)
    both = active @ active.T
    return (both / x.shape[1]).to(torch.float64 if x.dtype == torch.float64 else torch.float32)


def he_normal(out: int, inputs: int, generator: torch.Generator, dtype=torch.float32) -> Float[Tensor, "out inputs"]:
    """Draw weights of variance σ² = 2/N, under which Theorem 1 gives every gradient variance 1."""
    return torch.randn(out, inputs, generator=generator, dtype=dtype) * (2 / inputs) ** 0.5


def block(
    x: Float[Tensor, "batch unit"],
    jacobian: Float[Tensor, "some direction unit"],
    weight: Float[Tensor, "unit unit"],
    skip: bool = False,
    bn: bool = False,
    beta: float = 1.0,
) -> tuple[Float[Tensor, "batch unit"], Float[Tensor, "some direction unit"], Float[Tensor, "batch unit"]]:
    """Advance x ← [x +] β·W·ρ(u) with u = x or BN(x), and the Jacobian of the batch's first inputs along with it.

    Plain it is the network of Theorem 1, with skip of Theorem 2, with skip, BN and β of Theorem 3. BN's mean and
    variance are the batch's, and constants to the derivative: the gradient is that of a function of one input. Return
    the new x, the new Jacobian, and u.
    """
    u, slope = x, torch.ones_like(x[0])
    if bn:
        slope = torch.rsqrt(x.var(0, correction=0) + 1e-5)
        u = (x - x.mean(0)) * slope
    # Row by row W·diag(active · slope)·J: an inactive unit lets no gradient through.
    passed = ((u > 0) * slope)[: len(jacobian), None] * jacobian
    y, moved = beta * u.relu() @ weight.T, beta * passed @ weight.T
    return (x + y, jacobian + moved, u) if skip else (y, moved, u)


def gradient_correlation(jacobian: Float[Tensor, "batch direction unit"]) -> Float[Tensor, "batch batch"]:
    """Return R_ij = C_ij / √(C_ii·C_jj) with C_ij = ⟨J_i, J_j⟩, the covariance of gradients over a random readout v.

    For v ~ N(0, 1) the gradient of v·x at input i is J_i·v, and E_v[J_i·v · J_j·v] = ⟨J_i, J_j⟩.
    """
    flat = jacobian.flatten(1)
    # Divide by the largest entry first: at depth 50 the squares of a plain net's gradient underflow.
    flat = flat / flat.abs().amax(1, keepdim=True)
    flat = flat / flat.norm(dim=1, keepdim=True)
    return flat @ flat.T


def distinct_pairs(matrix: Float[Tensor, "batch batch"]) -> Float[Tensor, ""]:
    """Return the mean over pairs i ≠ j, over which the paper averages co-activation."""
    n = len(matrix)
    return (matrix.sum() - matrix.trace()) / (n * (n - 1))
