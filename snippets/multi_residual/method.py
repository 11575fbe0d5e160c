"""The sum of a multi-residual block, with the ReLU that follows it (Abdi & Nahavandi 2016).

x is the block's input, branches[i] the output of its residual function fᵢ; with k = 1 it is the sum of a plain ResNet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def residual_sum(x: Float[Tensor, ...], branches: Float[Tensor, "k ..."]) -> Float[Tensor, ...]:
    """Return max(0, x + f₁(x) + … + f_k(x)): the paper's x_{l+1}, then the ReLU of the first ResNet.

    `branches` stacks the k values fᵢ(x); k may be 0. Half precision is summed in float32 and rounded
    once. As in torch, NaN stays NaN and the slope at a sum of 0 is 0. Raises ValueError unless both are
    floating point, of one dtype and on one device, and each branch has the shape of x.
    """
    _check(x, branches)
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.relu(x.to(wide) + branches.sum(0, dtype=wide)).to(x.dtype)


def _check(x: Tensor, branches: Tensor) -> None:
    if not (x.is_floating_point() and branches.is_floating_point()):
        raise ValueError(f"floating-point tensors are needed, not {x.dtype} and {branches.dtype}; call .float() first")
    if x.dtype != branches.dtype:
        raise ValueError(f"x is {x.dtype} but branches are {branches.dtype}; give both one dtype")
    if x.device != branches.device:
        raise ValueError(f"x is on {x.device} but branches are on {branches.device}; move them to one device")
    if branches.dim() != x.dim() + 1 or branches.shape[1:] != x.shape:
        expected = ", ".join(["k", *map(str, x.shape)])
        raise ValueError(
            f"branches must be [{expected}], not {list(branches.shape)}; use torch.stack on the k branches"
        )
