"""DCGAN's two operations: the generator's upsampling layer, and the features taken from the discriminator (Radford et al. 2015).

Shapes are those of arXiv 1511.06434; batch normalization enters `conv_transpose` as the scale and shift it amounts to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

KERNEL, STRIDE, PADDING = 4, 2, 1


def conv_transpose(
    x: Float[Tensor, "batch in height width"],
    weight: Float[Tensor, "in out 4 4"],
    scale: Float[Tensor, " out"],
    shift: Float[Tensor, " out"],
) -> Float[Tensor, "batch out 2*height 2*width"]:
    """Return ReLU(scale · (x ∗ᵀ weight) + shift): a fractionally strided convolution that doubles the image.

    Output pixel (2i + p, 2j + q) sums x[i + p − s, j + q − t] · weight[…, 1 − p + 2s, 1 − q + 2t] over s, t in {0, 1}
    and all input channels (section 3). Raises ValueError for wrong shapes, dtypes or devices.
    """
    _check(x, weight, scale, shift)
    work = torch.promote_types(x.dtype, torch.float32)  # half precision sums and normalizes in float32
    total = F.conv_transpose2d(x.to(work), weight.to(work), stride=STRIDE, padding=PADDING)
    z = total * scale.to(work)[:, None, None] + shift.to(work)[:, None, None]
    return torch.relu(z.to(x.dtype))


def pooled_features(layers: Sequence[Float[Tensor, "batch _ _ _"]], grid: int = 4) -> Float[Tensor, "batch feature"]:
    """Return every layer max-pooled to grid × grid, flattened and concatenated (section 5.1).

    Raises ValueError for a layer whose sides are no multiples of the grid.
    """
    if not layers or grid < 1:
        raise ValueError(f"pooled_features needs at least one layer and a positive grid, not {len(layers)} and {grid}")
    for layer in layers:
        if layer.dim() != 4 or not min(layer.shape[2:]) or layer.shape[2] % grid or layer.shape[3] % grid:
            raise ValueError(f"a layer of shape {tuple(layer.shape)} cannot be pooled to {grid} x {grid}")
    sides = [(layer.shape[2] // grid, layer.shape[3] // grid) for layer in layers]
    return torch.cat([F.max_pool2d(one, side).flatten(1) for one, side in zip(layers, sides, strict=True)], 1)


def _check(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> None:
    named = {"x": x, "weight": weight, "scale": scale, "shift": shift}
    if wrong := [name for name, one in named.items() if not one.is_floating_point() or one.dtype != x.dtype]:
        raise ValueError(f"{', '.join(wrong)} must be floating point and of x's dtype {x.dtype}; cast first")
    if wrong := [name for name, one in named.items() if one.device != x.device]:
        raise ValueError(f"{', '.join(wrong)} must be on x's device {x.device}")
    if x.dim() != 4 or not x.shape[1:].numel():
        raise ValueError(f"x must be [batch, in, height, width] with sides of at least 1, not {tuple(x.shape)}")
    if weight.dim() != 4 or weight.shape[0] != x.shape[1] or not weight.shape[1] or weight.shape[2:] != (4, 4):
        raise ValueError(f"weight must be [in, out, 4, 4] with x's {x.shape[1]} channels, not {tuple(weight.shape)}")
    if scale.shape != weight.shape[1:2] or shift.shape != weight.shape[1:2]:
        raise ValueError(
            f"scale and shift must be [out] with out = {weight.shape[1]}, not {tuple(scale.shape)} and {tuple(shift.shape)}"
        )
