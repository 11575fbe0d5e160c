"""Dilated convolution: a filter whose taps stand apart (Yu, Koltun 2015), in two dimensions and at stride 1.

Equation 2 of arXiv 1511.07122 is (F ∗ₗ k)(p) = Σ F(s) k(t) over s + l·t = p, with F the input, k the filter and l the
dilation. As in torch, the filter is not mirrored: the tap at t reads s = p + l·t.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Pair = tuple[int, int]


def dilated_conv2d(
    x: Float[Tensor, "batch in_channel height width"],
    weight: Float[Tensor, "out_channel in_channel kernel_height kernel_width"],
    bias: Float[Tensor, " out_channel"] | None = None,
    dilation: int | Pair = 1,
    padding: int | Pair = 0,
) -> Float[Tensor, "batch out_channel out_height out_width"]:
    """Return y(p) = bias + Σ weight(t) x(p + l·t) over taps t and channels, x zero-padded (equation 2).

    Half precision is summed in float32. Without input channels the sum is empty, and y is the bias. Raises ValueError
    for shapes, dtypes or devices that do not fit, a dilation below 1, a negative padding, and a filter larger than its input.
    """
    (down, across), (top, left), (rows, columns) = _check(x, weight, bias, dilation, padding)
    wide = torch.promote_types(x.dtype, torch.float32)
    image, filters = functional.pad(x.to(wide), (left, left, top, top)), weight.to(wide)
    y = x.new_zeros((), dtype=wide) if bias is None else bias.to(wide)[:, None, None]
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            seen = image[:, :, i * down : i * down + rows, j * across : j * across + columns]
            y = y + torch.einsum("oc,bchw->bohw", filters[:, :, i, j], seen)
    return y.to(x.dtype)


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int | Pair, padding: int | Pair
) -> tuple[Pair, Pair, Pair]:
    """Return dilation, padding and output size as pairs, or raise ValueError."""
    for name, tensor, rank in (("x", x, 4), ("weight", weight, 4), ("bias", bias, 1)):
        if tensor is None:
            continue
        if tensor.dim() != rank or not tensor.is_floating_point():
            raise ValueError(
                f"{name} must be a floating tensor of {rank} dimensions, not {tensor.dtype} of shape {tuple(tensor.shape)}"
            )
        if tensor.dtype != x.dtype or tensor.device != x.device:
            raise ValueError(f"{name} is {tensor.dtype} on {tensor.device}, x is {x.dtype} on {x.device}; move one")
    if weight.shape[1] != x.shape[1]:
        raise ValueError(f"weight reads {weight.shape[1]} channels, x has {x.shape[1]}; groups are not supported")
    if bias is not None and bias.shape[0] != weight.shape[0]:
        raise ValueError(f"bias has {bias.shape[0]} entries for {weight.shape[0]} output channels")
    if not all(size >= 1 for size in (weight.shape[0], *weight.shape[2:], *x.shape[2:])):
        raise ValueError(
            f"only batch and input channels may be empty, not x {tuple(x.shape)}, weight {tuple(weight.shape)}"
        )
    spread, margin = _pair("dilation", dilation, 1), _pair("padding", padding, 0)
    rows, columns = (
        size + 2 * beside - step * (taps - 1)
        for size, beside, step, taps in zip(x.shape[2:], margin, spread, weight.shape[2:], strict=True)
    )
    if not (rows >= 1 and columns >= 1):
        raise ValueError(
            f"a filter of {tuple(weight.shape[2:])} taps at dilation {spread} is larger than an input of "
            f"{tuple(x.shape[2:])} with padding {margin}; pad more or dilate less"
        )
    return spread, margin, (rows, columns)


def _pair(name: str, value: int | Pair, least: int) -> Pair:
    """Return one number for both axes, or one each, as a pair; raise ValueError for anything else."""
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(n, int) and n >= least for n in pair):
        raise ValueError(f"{name} must be an integer from {least} on, or a pair of them, not {value!r}")
    return pair
