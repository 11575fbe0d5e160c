"""Self-normalizing networks: the fixed point that sets SELU's constants, SELU, alpha dropout (Klambauer et al. 2017).

Equations are those of arXiv 1706.02515; z is a unit's net input, (μ, ν) a layer's mean and variance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


def half_moments(variance: float) -> tuple[float, float, float, float]:
    """Return E[z; z>0], E[z²; z>0], E[eᶻ−1; z≤0], E[(eᶻ−1)²; z≤0] for z ~ N(0, variance): the parts of equations 4 and 5.

    The last two are (w(s) − 1)/2 and (w(2s) − 2w(s) + 1)/2 with w(s) = exp(s²) erfc(s), s = √(variance/2).
    """
    nu = torch.tensor(variance, dtype=torch.float64)
    s = (nu / 2).sqrt()
    if s < 0.25:  # those differences cancel: sum w(s) = Σ (−s)ᵏ / Γ(k/2 + 1) without the terms that do
        k = torch.arange(1, 40, dtype=torch.float64)
        term = torch.exp(k * s.log() - torch.lgamma(k / 2 + 1)) * (-1) ** k
        first, second = term.sum() / 2, (term * (2**k - 2)).sum() / 2
    else:  # erfcx is exp(s²) erfc(s) in one piece: neither factor can overflow or underflow
        w, w2 = torch.special.erfcx(s), torch.special.erfcx(2 * s)
        first, second = (w - 1) / 2, (w2 - 2 * w + 1) / 2
    return (nu / (2 * torch.pi)).sqrt().item(), variance / 2, first.item(), second.item()


def fixed_point(mean: float, variance: float) -> tuple[float, float]:
    """Return (α, λ) for which a SELU layer maps (mean, variance) to itself (equation 3 with ω = 0, τ = 1).

    Normalized weights make z ~ N(0, variance), so that E[selu] = λ(P₁ + αN₁) and E[selu²] = λ²(P₂ + α²N₂); dividing
    the first by the root of the second leaves a quadratic in α. For mean 0 it is α = −P₁/N₁ (equation 14).
    Raises ValueError where no α > 0 and λ > 0 solve it.
    """
    if not (0 < variance < float("inf") and abs(mean) < float("inf")):
        raise ValueError(f"fixed_point needs a finite mean and a positive, finite variance, not ({mean}, {variance})")
    p1, p2, n1, n2 = half_moments(variance)
    share = mean / (variance + mean**2) ** 0.5  # E[selu] / √E[selu²], free of λ
    # (p1 + α n1)² = share² (p2 + α² n2), where p1 + α n1 and share have the same sign
    a, half_b = n1**2 - share**2 * n2, p1 * n1
    discriminant = share**2 * (n2 * p1**2 + p2 * n1**2 - share**2 * p2 * n2)  # half_b² − ac without its cancellation
    if discriminant >= 0 and a != 0:
        roots = [(-half_b - sign * discriminant**0.5) / a for sign in (1, -1)]
        for alpha in roots:
            if alpha > 0 and (share == 0 or (p1 + alpha * n1) * share > 0):
                return alpha, ((variance + mean**2) / (p2 + alpha**2 * n2)) ** 0.5
    raise ValueError(
        f"no SELU with α > 0 keeps mean {mean} and variance {variance}: the mean is too far from 0; "
        "move it towards 0 or raise the variance"
    )


ALPHA, LAMBDA = fixed_point(0.0, 1.0)
SATURATION = -LAMBDA * ALPHA
"""What SELU tends to for very negative inputs (α′ in the paper), and what alpha dropout sets a unit to."""


def selu(x: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Return λx where x > 0, else λα(exp(x) − 1) (equation 2). Raises ValueError unless x is floating point."""
    _check(x)
    # expm1 sees no positive number: an overflow on the branch not taken would make its gradient NaN.
    below = x.masked_fill(x > 0, 0).to(torch.promote_types(x.dtype, torch.float32))  # half precision blurs the slope
    return torch.where(x > 0, LAMBDA * x, (LAMBDA * ALPHA * torch.expm1(below)).to(x.dtype))


def affine_pair(
    p: float, mean: float = 0.0, variance: float = 1.0, saturation: float = SATURATION
) -> tuple[float, float]:
    """Return (a, b) such that a·dropped + b has the mean and variance the activations had before the drop.

    With q = 1 − p and saturation α′: a² = ν / (q(ν + (1−q)(α′−μ)²)), b = μ − a(qμ + (1−q)α′) (section "New Dropout
    Technique"). Raises ValueError unless 0 ≤ p < 1.
    """
    if not 0 <= p < 1:
        raise ValueError(f"the affine pair needs 0 <= p < 1, not {p}")
    q = 1 - p
    a = (variance / (q * (variance + p * (saturation - mean) ** 2))) ** 0.5
    return a, mean - a * (q * mean + p * saturation)


def philox(seed: int, counter: Int[Tensor, ...]) -> list[Int[Tensor, ...]]:
    """Return the four 32-bit words of Philox-4x32-10 for each 64-bit counter (Salmon et al. 2011), as `tl.philox` does.

    The seed's low and high halves are the key; the first word is `tl.randint(seed, counter)`.
    """
    low = 0xFFFFFFFF
    c0, c1, c2, c3 = counter & low, (counter >> 32) & low, torch.zeros_like(counter), torch.zeros_like(counter)
    k0, k1 = seed & low, (seed >> 32) & low
    for _ in range(10):
        # int64 products wrap, but their 64 bits are those of the unsigned product
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            ((second >> 32) & low) ^ c1 ^ k0,
            second & low,
            ((first >> 32) & low) ^ c3 ^ k1,
            first & low,
        )
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return [c0, c1, c2, c3]


def keep_mask(shape: tuple[int, ...], p: float, seed: int, device: torch.device | None = None) -> Bool[Tensor, ...]:
    """Return the mask of `alpha_dropout`: element i is kept iff word i mod 4 of counter ⌊i/4⌋ reaches p·2³²."""
    n = torch.Size(shape).numel()
    words = philox(seed, torch.arange((n + 3) // 4, device=device))
    return (torch.stack(words, dim=-1).flatten()[:n] >= drop_threshold(p)).reshape(shape)


def drop_threshold(p: float) -> int:
    """Return p·2³² as an integer below 2³², so that only p = 1 may drop everything."""
    return min(round(p * 2**32), 2**32 - 1)


def alpha_dropout(x: Float[Tensor, ...], p: float, seed: int) -> Float[Tensor, ...]:
    """Set each element to SELU's saturation with probability p, then restore mean 0 and variance 1 by a·x + b.

    The mask depends on the seed and on an element's place in row-major order alone. p = 0 returns x itself; p = 1
    returns zeros, the limit of what dropped units become. Raises ValueError unless 0 ≤ p ≤ 1 and the seed fits int64.
    """
    _check(x)
    check_dropout(p, seed)
    if p == 0:
        return x
    if p == 1:
        return x.masked_fill(torch.ones((), dtype=torch.bool, device=x.device), 0)  # zeros, and a gradient of zeros
    a, b = affine_pair(p)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # one rounding in half precision, at the end
    return torch.where(keep_mask(x.shape, p, seed, x.device), a * wide + b, a * SATURATION + b).to(x.dtype)


def check_dropout(p: float, seed: int) -> None:
    """Raise ValueError unless p is a probability and the seed fits int64."""
    if not 0 <= p <= 1:
        raise ValueError(f"alpha_dropout needs a drop probability 0 <= p <= 1, not {p}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"alpha_dropout needs a seed that fits 64 bits, not {seed}")


def _check(x: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(f"a floating-point tensor is needed, not {x.dtype}; call x.float() first")
