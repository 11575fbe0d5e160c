"""Gumbel-Softmax: a differentiable sample from a categorical distribution (Jang, Gu and Poole 2016).

Equations are those of arXiv 1611.01144. Logits stand for log π, up to a constant that the softmax removes; the noise g
comes from a counter, so that a seed and an element's place name it.
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


def gumbel(
    shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Float[Tensor, "... class"]:
    """Return g = −log(−log u), u uniform on the open interval (0, 1): Gumbel(0, 1) noise (section 2).

    With w word k mod 4 of counter row·⌈classes/4⌉ + ⌊k/4⌋, u = (w + ½)/2³². Raises ValueError unless the shape has a
    dimension of classes, the dtype is floating point and the seed fits int64.
    """
    _check_noise(shape, dtype, seed)
    *leading, classes = shape
    quads = (classes + 3) // 4
    rows = torch.Size(leading).numel()
    words = torch.stack(philox(seed, torch.arange(rows * quads, device=device)), dim=-1)
    word = words.view(rows, 4 * quads)[:, :classes].reshape(shape)
    work = torch.promote_types(dtype, torch.float32)
    # Both ends are written from 0, where a float is finest: 1 − v would round to 1, and its logarithm to 0.
    u = (word.to(work) + 0.5) * 2.0**-32
    v = ((0xFFFFFFFF - word).to(work) + 0.5) * 2.0**-32
    return -torch.log(torch.where(u < 0.5, -torch.log(u), -torch.log1p(-v))).to(dtype)


def relax(
    logits: Float[Tensor, "... class"], g: Float[Tensor, "... class"], tau: float, hard: bool = False
) -> Float[Tensor, "... class"]:
    """Return y = softmax((log π + g)/τ) (equation 2), or with `hard` the one-hot z of its largest entry (equation 1).

    The one-hot passes its gradient to y as if it were y: the straight-through estimator (section 2.2). Raises
    ValueError unless logits are floating point with a dimension of classes, g has their shape, and τ > 0.
    """
    _check(logits, tau)
    if g.shape != logits.shape:
        raise ValueError(f"g needs the shape {tuple(logits.shape)} of the logits, not {tuple(g.shape)}")
    if not logits.numel():
        return logits.clone()
    work = torch.promote_types(logits.dtype, torch.float32)
    perturbed = logits.to(work) + g.to(work)
    # The largest is taken off before τ divides: a tiny τ then overflows to exp(−inf) = 0, never to inf − inf.
    below = perturbed - perturbed.detach().amax(-1, keepdim=True)
    y = torch.softmax(below / within(tau, work), dim=-1)
    if hard:  # by the perturbed logits, which still differ where a large τ has rounded all of y to 1/classes
        z = torch.zeros_like(y).scatter_(-1, perturbed.argmax(-1, keepdim=True), 1.0)
        y = z + (y - y.detach())
    return y.to(logits.dtype)


def gumbel_softmax(
    logits: Float[Tensor, "... class"], tau: float, hard: bool = False, seed: int = 0
) -> Float[Tensor, "... class"]:
    """Return a Gumbel-Softmax sample for each row of logits (equation 2); with `hard`, one-hot and straight-through.

    The noise depends on the seed and on an element's row and class alone. Masked classes (−inf) get 0, a row without
    any other gets NaN. Raises ValueError unless logits are floating point with a dimension of classes, τ > 0, and the
    seed fits int64.
    """
    _check(logits, tau)
    work = torch.promote_types(logits.dtype, torch.float32)
    return relax(logits, gumbel(tuple(logits.shape), seed, work, logits.device), tau, hard)


def within(tau: float, work: torch.dtype) -> float:
    """Return τ, or the nearest number whose inverse is neither 0 nor infinite in `work`."""
    least = 2.0 * torch.finfo(work).tiny
    return min(max(tau, least), 1 / least)


def _check(logits: Tensor, tau: float) -> None:
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating point, not {logits.dtype}; call logits.float() first")
    if logits.dim() == 0:
        raise ValueError("logits need a last dimension of classes; a 0-d tensor has none")
    if not tau > 0:
        raise ValueError(f"the temperature tau must be positive, not {tau}")


def _check_noise(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
    if not shape:
        raise ValueError("the noise needs a shape with a last dimension of classes, not ()")
    if not dtype.is_floating_point:
        raise ValueError(f"the noise needs a floating-point dtype, not {dtype}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"the seed must fit 64 bits, and {seed} does not")
