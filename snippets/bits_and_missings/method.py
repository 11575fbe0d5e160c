"""k-winners-take-all: a layer keeps its k largest activations and sets the rest to 0 (Makhzani and Frey 2013)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


def k_winners(x: Float[Tensor, "*rows n"], k: int) -> Float[Tensor, "*rows n"]:
    """Keep the k largest values of each row, ties to the lowest index, and set the rest to 0.

    zᵢ = xᵢ for i in supp_k(x), 0 elsewhere (arXiv 1312.5663, algorithm 1). Largest by value, not by magnitude, NaN
    before all as in `torch.topk`. The gradient passes to what was kept. Raises ValueError unless x is a floating-point
    tensor of rank 1 or more and 0 ≤ k ≤ n.
    """
    _check(x, k)
    return torch.where(_winners(x, k), x, 0)


@torch.no_grad()
def _winners(x: Float[Tensor, "*rows n"], k: int) -> Bool[Tensor, "*rows n"]:
    # One zero and one NaN: a radix sort would tell their signs apart.
    order = (x.masked_fill(x.isnan(), torch.nan) + 0.0).sort(dim=-1, descending=True, stable=True).indices
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, order[..., :k], True)


def _check(x: Tensor, k: int) -> None:
    if x.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"k_winners needs float64, float32, float16 or bfloat16, not {x.dtype}; call x.float() first")
    if x.dim() == 0:
        raise ValueError("k_winners needs rows, not a 0-d tensor; call x.reshape(1) first")
    if isinstance(k, bool) or not isinstance(k, int):
        raise ValueError(f"k must be an int, not {type(k).__name__}")
    if not 0 <= k <= x.shape[-1]:
        raise ValueError(f"k must lie between 0 and the row's length {x.shape[-1]}, not {k}")
