"""Variational neural machine translation: a draw from the posterior and its divergence from the prior (Zhang et al. 2016).

The posterior q(z|x, y) has seen a source x and its target y, the prior p(z|x) the source alone (arXiv 1605.07869). Both
are diagonal Gaussians, given by mean and log variance; the noise ε comes from a counter, so that a seed and an
element's place name it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def philox(seed: int, counter: Int[Tensor, ...]) -> list[Int[Tensor, ...]]:
    """Return the four 32-bit words of Philox-4x32-10 for each 64-bit counter (Salmon et al. 2011), as `tl.philox` does."""
    low = 0xFFFFFFFF
    c0, c1, c2, c3 = counter & low, (counter >> 32) & low, torch.zeros_like(counter), torch.zeros_like(counter)
    k0, k1 = seed & low, (seed >> 32) & low
    for _ in range(10):
        # int64 products wrap, but their 64 bits are those of the unsigned product
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1 = ((second >> 32) & low) ^ c1 ^ k0, second & low
        c2, c3 = ((first >> 32) & low) ^ c3 ^ k1, first & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return [c0, c1, c2, c3]


def noise(shape: tuple[int, ...], seed: int, device: torch.device | None = None) -> Float[Tensor, "... latent"]:
    """Return ε ~ N(0, I) in float64 by Box–Muller: (r cos θ, r sin θ), r = √(−2 log u), θ = 2πv.

    Element k of a row takes word k mod 4 of counter row·⌈latent/4⌉ + ⌊k/4⌋; of a pair of words, u = (w + ½)/2³² is
    never 0 and v = w/2³². Raises ValueError unless the shape has a last dimension and the seed fits int64.
    """
    _check_noise(shape, seed)
    *leading, latent = shape
    rows, quads = torch.Size(leading).numel(), (latent + 3) // 4
    words = torch.stack(philox(seed, torch.arange(rows * quads, device=device)), dim=-1).double()
    u, v = (words[:, 0::2] + 0.5) * 2.0**-32, words[:, 1::2] * 2.0**-32
    r, theta = torch.sqrt(-2 * torch.log(u)), 2 * torch.pi * v
    pairs = torch.stack((r * torch.cos(theta), r * torch.sin(theta)), dim=-1)
    return pairs.view(rows, 4 * quads)[:, :latent].reshape(shape)


def draw_and_kl(
    mean_q: Float[Tensor, "... latent"],
    logvar_q: Float[Tensor, "... latent"],
    mean_p: Float[Tensor, "... latent"],
    logvar_p: Float[Tensor, "... latent"],
    seed: int,
) -> tuple[Float[Tensor, "... latent"], Float[Tensor, ...]]:
    """Return z = μ_q + σ_q ⊙ ε and KL(N(μ_q, σ_q²) ‖ N(μ_p, σ_p²)) of each row: both terms of the variational bound.

    KL = ½ Σ (e^t − 1 − t + (μ_q − μ_p)²/σ_p²) with t = log σ_q² − log σ_p², the logarithm of the variances' quotient.
    Raises ValueError unless the four are floating point, of one shape with a last dimension, one dtype and one device,
    and the seed fits int64.
    """
    _check(mean_q, logvar_q, mean_p, logvar_p, seed)
    work = torch.promote_types(mean_q.dtype, torch.float32)
    mu_q, log_q, mu_p, log_p = (one.to(work) for one in (mean_q, logvar_q, mean_p, logvar_p))
    z = mu_q + torch.exp(log_q / 2) * noise(mean_q.shape, seed, mean_q.device).to(work)
    t, apart = log_q - log_p, mu_q - mu_p
    # equal means differ by nothing, however narrow the prior: 0 times an overflow would be NaN
    rate = torch.exp(-(log_p / 2).masked_fill((apart == 0) & log_p.isfinite(), 0))
    kl = (torch.expm1(t) - t + (apart * rate).square()).sum(-1) / 2
    return z.to(mean_q.dtype), kl.to(mean_q.dtype)


def _check_noise(shape: tuple[int, ...], seed: int) -> None:
    if not len(shape):
        raise ValueError("a latent variable needs a last dimension; use x.reshape(1) for a single number")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"the seed must fit 64 bits, not {seed}")


def _check(mean_q: Tensor, logvar_q: Tensor, mean_p: Tensor, logvar_p: Tensor, seed: int) -> None:
    if not mean_q.is_floating_point():
        raise ValueError(f"floating-point means and log variances are needed, not {mean_q.dtype}; call .float() first")
    for name, one in (("logvar_q", logvar_q), ("mean_p", mean_p), ("logvar_p", logvar_p)):
        if one.shape != mean_q.shape:
            raise ValueError(
                f"{name} needs the shape {tuple(mean_q.shape)} of mean_q, not {tuple(one.shape)}; expand it first"
            )
        if one.dtype != mean_q.dtype:
            raise ValueError(f"{name} needs the dtype {mean_q.dtype} of mean_q, not {one.dtype}")
        if one.device != mean_q.device:
            raise ValueError(f"{name} needs the device {mean_q.device} of mean_q, not {one.device}")
    _check_noise(mean_q.shape, seed)
