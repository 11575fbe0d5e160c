"""DeepFace's locally connected layer, its network, and its verification metric (Taigman, Yang, Ranzato, Wolf 2014)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def locally_connected(
    x: Float[Tensor, "batch in_channel height width"],
    weight: Float[Tensor, "out_height out_width out_channel in_channel kh kw"],
    bias: Float[Tensor, "out_height out_width out_channel"] | None = None,
    stride: int | tuple[int, int] = 1,
) -> Float[Tensor, "batch out_channel out_height out_width"]:
    """Convolve with a filter bank of its own at every position (section 3, layers L4 to L6).

    y[b, o, i, j] = bias[i, j, o] + Σ_{c, u, v} weight[i, j, o, c, u, v] · x[b, c, i·s + u, j·s + v]; there is no
    padding. Half precision is summed in fp32. Raises ValueError for ranks, shapes, dtypes, devices or strides that do
    not fit; the weight must have the positions that the stride leaves: ⌊(height − kh) / s⌋ + 1 rows, columns alike.
    """
    down, across = _check(x, weight, bias, stride)
    work = torch.promote_types(x.dtype, torch.float32)
    kh, kw = weight.shape[4:]
    # a view [batch, in, row, column, kh, kw]; widened first, so that the gradients of a pixel add up in fp32 as well
    patches = x.to(work).unfold(2, kh, down).unfold(3, kw, across)
    y = torch.einsum("bcijuv,ijocuv->boij", patches, weight.to(work))
    if bias is not None:
        y = y + bias.to(work).permute(2, 0, 1)
    return y.to(x.dtype).contiguous()


def weighted_chi_squared(
    f1: Float[Tensor, "*pair feature"], f2: Float[Tensor, "*pair feature"], w: Float[Tensor, " feature"]
) -> Float[Tensor, "*pair"]:
    """Return χ²(f₁, f₂) = Σᵢ wᵢ (f₁[i] − f₂[i])² / (f₁[i] + f₂[i]) for features ≥ 0 (section 4.1).

    A feature that is 0 on both sides adds 0, the limit. Raises ValueError unless the last dimensions agree.
    """
    if w.dim() != 1 or not f1.dim() or not f2.dim() or not f1.shape[-1] == f2.shape[-1] == len(w):
        raise ValueError(
            "f1, f2 [..., feature] and w [feature] must have as many features, "
            f"not {list(f1.shape)}, {list(f2.shape)} and {list(w.shape)}"
        )
    return (w * chi_squared_terms(f1, f2)).sum(-1)


def chi_squared_terms(
    f1: Float[Tensor, "*pair feature"], f2: Float[Tensor, "*pair feature"]
) -> Float[Tensor, "*pair feature"]:
    """Return (f₁ − f₂)² / (f₁ + f₂) for each feature: what the weights of χ² are learned on."""
    total = f1 + f2
    return torch.where(total == 0, 0.0, (f1 - f2) ** 2 / total.masked_fill(total == 0, 1.0))


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int | tuple[int, int]) -> tuple[int, int]:
    """Return the stride down and across; raise ValueError where the arguments do not fit each other."""
    pair = tuple(stride) if isinstance(stride, tuple | list) else (stride, stride)
    if len(pair) != 2 or not all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in pair):
        raise ValueError(f"stride must be a positive int or a pair of them, not {stride!r}")
    if x.dim() != 4 or weight.dim() != 6:
        raise ValueError(
            "x must be [batch, in_channel, height, width] and weight [out_height, out_width, out_channel, in_channel, "
            f"kh, kw], not {list(x.shape)} and {list(weight.shape)}"
        )
    for name, one in (("x", x), ("weight", weight), ("bias", bias)):
        if one is not None and not (one.is_floating_point() and one.dtype == x.dtype and one.device == x.device):
            raise ValueError(
                f"x, weight and bias must have one floating dtype and one device: x is {x.dtype} on {x.device}, "
                f"{name} is {one.dtype} on {one.device}"
            )
    _, channels, height, width = x.shape
    rows, columns, _, depth, kh, kw = weight.shape
    if depth != channels:
        raise ValueError(f"weight reads {depth} channels and x has {channels}")
    if not (0 < kh <= height and 0 < kw <= width):
        raise ValueError(f"filters of {kh} x {kw} do not fit into an input of {height} x {width}")
    positions = ((height - kh) // pair[0] + 1, (width - kw) // pair[1] + 1)
    if (rows, columns) != positions:
        raise ValueError(
            f"an input of {height} x {width} has {positions[0]} x {positions[1]} positions for filters of {kh} x {kw} "
            f"at stride {pair}, and weight is for {rows} x {columns}"
        )
    if bias is not None and bias.shape != weight.shape[:3]:
        raise ValueError(
            f"bias must be [out_height, out_width, out_channel] = {list(weight.shape[:3])}, not {list(bias.shape)}"
        )
    return pair[0], pair[1]
