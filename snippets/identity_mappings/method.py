"""Identity mappings: the pre-activation, and the residual units of Figures 2 and 4 (He, Zhang, Ren, Sun 2016).

Equations are those of arXiv 1603.05027: x_l enters unit l, F is its residual branch, h its shortcut, f what follows
the addition: y_l = h(x_l) + F(x_l), x_{l+1} = f(y_l) (equations 1 and 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
PLACEMENTS = (
    "original",
    "BN after addition",
    "ReLU before addition",
    "ReLU-only pre-activation",
    "full pre-activation",
)
SHORTCUTS = ("identity", "constant scaling", "exclusive gating", "shortcut-only gating", "1×1 convolution", "dropout")


def preactivation(
    x: Float[Tensor, "batch channel *place"],
    weight: Float[Tensor, " channel"],
    bias: Float[Tensor, " channel"],
    eps: float = 1e-5,
) -> Float[Tensor, "batch channel *place"]:
    """Return relu(BN(x)) by the statistics of this batch: f̂ of equation 9, all of a weight layer's input (Figure 4e).

    Statistics and arithmetic are float64, rounded once at the end. Where y ≤ 0 no gradient passes; the sign is that
    of y before its rounding. Raises ValueError for a single value a channel, as torch does, and for bad arguments.
    """
    check(x, weight, bias, eps)
    places = [0, *range(2, x.dim())]
    weight, bias = (p.double().view(-1, *[1] * (x.dim() - 2)) for p in (weight, bias))
    wide = x.double()
    if not x.numel():  # no mean to take; the parameters still get their gradient, 0
        return torch.relu(wide * weight + bias).to(x.dtype)
    centered = wide - wide.mean(places, keepdim=True)
    variance = centered.square().mean(places, keepdim=True)
    return torch.relu(weight * (centered * (variance + eps).rsqrt()) + bias).to(x.dtype)


def check(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    """Raise ValueError unless `preactivation` is defined for these arguments."""
    if x.dim() < 2:
        raise ValueError(f"x must be [batch, channel, …], not of shape {tuple(x.shape)}")
    if x.dtype not in DTYPES:
        raise ValueError(f"x must be float64, float32, float16 or bfloat16, not {x.dtype}; call x.float() first")
    for name, one in (("weight", weight), ("bias", bias)):
        if one.shape != x.shape[1:2]:
            raise ValueError(f"{name} must be [channel] = ({x.shape[1]},), not of shape {tuple(one.shape)}")
        if one.dtype != weight.dtype or one.dtype not in (x.dtype, torch.promote_types(x.dtype, torch.float32)):
            raise ValueError(f"{name} is {one.dtype} for an x of {x.dtype}: use x's dtype, or float32 where x is half")
        if one.device != x.device:
            raise ValueError(f"{name} is on {one.device} and x on {x.device}; move them together")
    if x.shape[0] * x.shape[2:].numel() == 1:
        raise ValueError(f"statistics need more than 1 value per channel, got input size {tuple(x.shape)}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, not {eps}")


def unit(
    x: Tensor,
    weights: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
    norms: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
    placement: str = "full pre-activation",
) -> Tensor:
    """Return x_{l+1} of a residual unit with identity shortcut, its activations placed as in Figure 4 (Table 2).

    The parts are always two weight layers, two BN and two ReLU. Raises ValueError for a placement not in PLACEMENTS.
    """
    (w1, w2), (bn1, bn2), relu = weights, norms, torch.relu
    if placement == "original":
        return relu(x + bn2(w2(relu(bn1(w1(x))))))
    if placement == "BN after addition":
        return relu(bn2(x + w2(relu(bn1(w1(x))))))
    if placement == "ReLU before addition":
        return x + relu(bn2(w2(relu(bn1(w1(x))))))
    if placement == "ReLU-only pre-activation":
        return x + bn2(w2(relu(bn1(w1(relu(x))))))
    if placement == "full pre-activation":
        return x + w2(relu(bn2(w1(relu(bn1(x))))))
    raise ValueError(f"unknown placement {placement!r}; one of {', '.join(PLACEMENTS)}")


def join(x: Tensor, branch: Tensor, shortcut: str, linear: Callable[[Tensor], Tensor], drop: float = 0.5) -> Tensor:
    """Return y_l: the branch F joined to one of Figure 2's shortcuts (Table 1).

    `linear` is the 1×1 convolution, or the gate's pre-activation W_g x + b_g, and `drop` dropout's rate; what is kept
    is divided by 1 − drop, as torch does. Raises ValueError for a shortcut not in SHORTCUTS.
    """
    if shortcut == "identity":
        return x + branch
    if shortcut == "constant scaling":
        return 0.5 * (x + branch)
    if shortcut == "exclusive gating":
        return torch.lerp(x, branch, torch.sigmoid(linear(x)))  # (1 − g)·x + g·F
    if shortcut == "shortcut-only gating":
        return (1 - torch.sigmoid(linear(x))) * x + branch
    if shortcut == "1×1 convolution":
        return linear(x) + branch
    if shortcut == "dropout":
        return torch.dropout(x, drop, True) + branch
    raise ValueError(f"unknown shortcut {shortcut!r}; one of {', '.join(SHORTCUTS)}")
