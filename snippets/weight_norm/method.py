"""Weight normalization: a weight vector's direction v and its length g as separate parameters (Salimans and Kingma 2016).

Equations are those of arXiv 1602.07868.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def weight_norm(v: Float[Tensor, ...], g: Float[Tensor, ...], dim: int | None = 0) -> Float[Tensor, ...]:
    """Return w = g·v/‖v‖ (equation 2), ‖v‖ taken over every dimension but `dim`.

    g has one length for each index along `dim`, as shape [channel] or as [1, …, channel, …, 1]. As in torch, `dim=None`
    and `dim=-1` both mean one norm and one g for the whole of v; other negative dims count from the end. A v of zeros
    has no direction: its w is NaN, and so is its gradient.
    Raises ValueError for another dtype, a dim that v lacks, or a g that does not fit.
    """
    outer, channels, inner = _check(v, g, dim)
    if not v.numel():
        return v * g.reshape(_shape_of_g(v, dim))  # nothing to scale: gradients of zero
    wide = torch.promote_types(v.dtype, torch.float32)  # squares of fp16 overflow from 256 on
    x = v.reshape(outer, channels, inner).to(wide)
    largest = x.detach().abs().amax((0, 2), keepdim=True)
    # divided by its largest entry, v can neither overflow nor vanish when squared; the quotient's value is the same
    x = x / torch.where((largest > 0) & largest.isfinite(), largest, 1)
    norm = x.square().sum((0, 2), keepdim=True).sqrt()
    return (x * (g.reshape(1, channels, 1).to(wide) / norm)).to(v.dtype).reshape(v.shape)


def _shape_of_g(v: Tensor, dim: int | None) -> list[int]:
    """Return the shape that broadcasts g against v, as `torch.norm_except_dim` gives it."""
    if dim is None or dim == -1:
        return []
    dim %= v.dim()
    return [size if d == dim else 1 for d, size in enumerate(v.shape)]


def _check(v: Tensor, g: Tensor, dim: int | None) -> tuple[int, int, int]:
    """Return the sizes (before dim, of dim, behind dim) of v, or raise ValueError."""
    if v.dtype not in DTYPES or g.dtype != v.dtype:
        raise ValueError(f"v and g must share one floating dtype, not {v.dtype} and {g.dtype}")
    if v.device != g.device:
        raise ValueError(f"v is on {v.device} and g on {g.device}; move one to the other")
    if dim is None or dim == -1:
        if g.numel() != 1 or g.dim() > max(1, v.dim()):
            raise ValueError(
                f"dim={dim} takes one norm of the whole v and one g, not g of shape {tuple(g.shape)}; "
                f"for the last dimension write dim={v.dim() - 1}"
            )
        return 1, 1, v.numel()
    if not -v.dim() <= dim < v.dim():
        raise ValueError(f"v of shape {tuple(v.shape)} has no dim {dim}")
    dim %= v.dim()
    channels, shape = v.shape[dim], _shape_of_g(v, dim)
    if list(g.shape) not in ([channels], shape):
        raise ValueError(f"g must have shape {shape} or [{channels}] for dim {dim} of v, not {tuple(g.shape)}")
    return v.shape[:dim].numel(), channels, v.shape[dim + 1 :].numel()
