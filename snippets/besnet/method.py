"""Random dilation networks: a 2-D filter inflated over time, and a temporal convolution averaged over dilations.

The network is BesNet (TwentyBN, Kinetics challenge 2017), described in its authors' posts alone, without numbered
equations; d is the dilation, D the set of dilations it is drawn from in training and averaged over in testing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

TAPS = 3


def inflate(weight: Float[Tensor, "out channel *size"], times: int = 3) -> Float[Tensor, "out channel times *size"]:
    """Replicate a filter along a new temporal dimension and divide by the copies: W[o, c, τ, …] = w[o, c, …] / times.

    Raises ValueError unless the weight is floating, has [out, in] first, and times ≥ 1.
    """
    if weight.dim() < 2 or not weight.is_floating_point():
        raise ValueError(f"weight must be floating [out, in, …], not {weight.dtype} of shape {tuple(weight.shape)}")
    if times < 1:
        raise ValueError(f"a filter is replicated at least once, not {times} times")
    size = weight.shape[2:]
    return (weight / times).unsqueeze(2).expand(*weight.shape[:2], times, *size).clone()


def temporal_conv(
    x: Float[Tensor, "batch channel time height width"],
    weight: Float[Tensor, "out channel 3"],
    dilations: Sequence[int],
) -> Float[Tensor, "batch out time height width"]:
    """Return the mean over d of the 3×1×1 convolution, as long as x: y[t] = 1/|D| Σ_d Σ_τ W[τ] x[t + (τ − 1) d].

    Frames beyond the clip are 0. Raises ValueError for a wrong rank, size, dtype or device, or a dilation below 1.
    """
    dilations = check(x, weight, dilations)
    batch, _, time, height, width = x.shape
    if 0 in (*x.shape, *weight.shape):  # torch refuses some empty convolutions; this one is a sum of nothing
        return (x.sum() + weight.sum()).mul(0) + x.new_zeros((batch, weight.shape[0], time, height, width))
    wide = torch.promote_types(x.dtype, torch.float32)  # one rounding in half precision, at the end
    frames, filters = x.to(wide).flatten(3), weight.to(wide).unsqueeze(3)
    y = sum(F.conv2d(frames, filters, padding=(d, 0), dilation=(d, 1)) for d in dilations) / len(dilations)
    return y.unflatten(3, (height, width)).to(x.dtype)


def check(x: Tensor, weight: Tensor, dilations: Sequence[int]) -> list[int]:
    """Raise ValueError unless the arguments fit; return the dilations, those beyond the clip cut to its length."""
    if x.dim() != 5 or not x.is_floating_point():
        raise ValueError(
            f"x must be floating [batch, channel, time, height, width], not {x.dtype} of shape {tuple(x.shape)}"
        )
    if weight.dim() != 3 or weight.shape[2] != TAPS or weight.shape[1] != x.shape[1]:
        raise ValueError(f"weight must be [out, {x.shape[1]}, {TAPS}] for this x, not {tuple(weight.shape)}")
    if weight.dtype != x.dtype or weight.device != x.device:
        raise ValueError(
            f"x and weight must share dtype and device, not {x.dtype} on {x.device} and {weight.dtype} on {weight.device}"
        )
    if not isinstance(dilations, Sequence) or isinstance(dilations, str) or len(dilations) == 0:
        raise ValueError(f"dilations must be a non-empty sequence of integers, such as (1, 2), not {dilations!r}")
    for d in dilations:
        if not isinstance(d, int) or isinstance(d, bool) or d < 1:
            raise ValueError(f"a dilation is an integer >= 1, not {d!r}")
    # at d = time both outer taps already fall on padding for every frame
    return [min(d, max(x.shape[2], 1)) for d in dilations]
