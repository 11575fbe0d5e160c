"""Why deep networks are hard to train: softsign, and weights drawn so that depth changes no variance (Glorot & Bengio 2010).

Equations are those of the AISTATS paper; weight is [out, in], the sizes n_{j+1} and n_j of the layers it joins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def softsign(x: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Return x / (1 + |x|) (section 2.3), with slope 1/(1 + |x|)². Raises ValueError unless x is floating point."""
    _check_floating(x)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # one rounding in half precision, at the end
    return (wide / (1 + wide.abs())).to(x.dtype)


def standard_uniform_(weight: Float[Tensor, "out in"], seed: int) -> Float[Tensor, "out in"]:
    """Fill weight with U[−1/√n, 1/√n], n its inputs, and return it (equation 1): n·Var[W] = 1/3.

    Raises ValueError as `normalized_uniform_` does.
    """
    check_fill(weight, seed)
    return _fill_(weight, standard_bound(weight), seed)


def normalized_uniform_(weight: Float[Tensor, "out in"], seed: int) -> Float[Tensor, "out in"]:
    """Fill weight with U[−√6/√(n_j + n_{j+1}), √6/√(n_j + n_{j+1})] and return it (equation 16).

    Its variance is 2/(n_j + n_{j+1}). The numbers depend on the seed and on an element's place in row-major order, not
    on strides; no gradient is recorded, as in torch.nn.init. Raises ValueError unless weight is a floating-point
    matrix whose elements lie apart in memory and the seed fits int64.
    """
    check_fill(weight, seed)
    return _fill_(weight, normalized_bound(weight), seed)


def normalized_uniform_like(weight: Float[Tensor, "out in"], seed: int, dtype: torch.dtype) -> Float[Tensor, "out in"]:
    """Return a new matrix of weight's shape and the given dtype, filled by `normalized_uniform_`; weight stays as it is.

    Raises ValueError unless weight is a floating-point matrix and the seed fits int64.
    """
    check_fill(weight, seed, like=True)
    return uniform(weight.numel(), normalized_bound(weight), seed, dtype, weight.device).view(weight.shape)


def standard_bound(weight: Float[Tensor, "out in"]) -> float:
    """Return 1/√n for a matrix of n inputs (equation 1)."""
    return max(weight.shape[1], 1) ** -0.5


def normalized_bound(weight: Float[Tensor, "out in"]) -> float:
    """Return √6/√(n_j + n_{j+1}) for a matrix from n_j to n_{j+1} units (equation 16)."""
    return (6 / max(sum(weight.shape), 1)) ** 0.5


def uniform(count: int, bound: float, seed: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, " count"]:
    """Return `count` numbers of U(−bound, bound), none outside after rounding: element i is word i mod 4 of counter ⌊i/4⌋.

    A number is an odd multiple of bound/2²⁴, so that 0 is never drawn and the sign is fair; of bound/2⁵³ in float64,
    whose further bits come from stream 1.
    """
    counter = torch.arange((count + 3) // 4, device=device)
    bits = philox(seed, counter).flatten()[:count] >> 8
    if dtype == torch.float64:
        bits = (bits << 29) | (philox(seed, counter, stream=1).flatten()[:count] >> 3)
    work, digits = (torch.float64, 53) if dtype == torch.float64 else (torch.float32, 24)
    drawn = (2 * bits + 1 - 2**digits).to(work) * (round_down(bound, work) * 2.0**-digits)
    limit = round_down(bound, dtype)
    return drawn.clamp(-limit, limit).to(dtype)


def round_down(bound: float, dtype: torch.dtype) -> float:
    """Return the largest number of a dtype that is not above a bound between 0 and 2."""
    info, power = torch.finfo(dtype), 1.0
    while power > bound and power > info.tiny:
        power /= 2
    return int(bound / (power * info.eps)) * (power * info.eps)


def philox(seed: int, counter: Int[Tensor, " n"], stream: int = 0) -> Int[Tensor, "n 4"]:
    """Return Philox-4x32-10's four words for each counter (Salmon et al. 2011), the key being the seed's two halves.

    The 128-bit counter is (counter, stream), low word first, as in `tl.philox`.
    """
    low = 2**32 - 1
    a, b, c, d = counter & low, (counter >> 32) & low, torch.full_like(counter, stream), torch.zeros_like(counter)
    for turn in range(10):
        key, other = (seed + turn * 0x9E3779B9) & low, ((seed >> 32) + turn * 0xBB67AE85) & low
        # a product may wrap to a negative int64: its 64 bits are still those of the unsigned one
        left, right = a * 0xD2511F53, c * 0xCD9E8D57
        a, c = (right >> 32 & low) ^ b ^ key, (left >> 32 & low) ^ d ^ other
        b, d = right & low, left & low
    return torch.stack((a, b, c, d), dim=-1)


def check_fill(weight: Tensor, seed: int, like: bool = False) -> None:
    """Raise ValueError unless weight is a matrix that can be filled (or only taken as a model) and the seed fits int64."""
    _check_floating(weight)
    if weight.dim() != 2:
        raise ValueError(
            f"weight must be a matrix [out, in], not of shape {tuple(weight.shape)}; flatten a convolution's to [out, in·kernel]"
        )
    if not like and any(size > 1 and stride == 0 for size, stride in zip(weight.shape, weight.stride(), strict=True)):
        raise ValueError("weight's elements share memory, so they cannot differ; call weight.contiguous() first")
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise ValueError(f"the seed must be an integer that fits 64 bits, not {seed!r}")


@torch.no_grad()
def _fill_(weight: Tensor, bound: float, seed: int) -> Tensor:
    drawn = uniform(weight.numel(), bound, seed, weight.dtype, weight.device)
    return weight.copy_(drawn.view(weight.shape))


def _check_floating(x: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(f"a floating-point tensor is needed, not {x.dtype}; call x.float() first")
