"""AlexNet: local response normalization, and the network as a table of layers (Krizhevsky, Sutskever, Hinton 2012)."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def local_response_norm(
    x: Float[Tensor, "batch channel ..."], size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> Float[Tensor, "batch channel ..."]:
    """Divide each activity by (k + α Σ a²)^β, summed over `size` neighboring channels (section 3.3).

    α multiplies the sum, as in the paper; torch's own α is divided by the size first. An odd window reaches ⌊size/2⌋
    channels to either side, an even one a channel further down than up, as in torch. Half precision is summed in fp32.
    Raises ValueError unless x is floating point, has a batch and a channel dimension, and the size is at least 1.
    """
    _check(x, size)
    below, above = reach(size, x.shape[1])
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    squares = nn.functional.pad(
        wide * wide, (0, 0) * (x.dim() - 2) + (below, above)
    )  # beyond the ends there is nothing
    total = squares.unfold(1, below + 1 + above, 1).sum(-1) if x.numel() else squares.narrow(1, 0, x.shape[1])
    return (wide * (k + alpha * total) ** -beta).to(x.dtype)


def reach(size: int, channels: int) -> tuple[int, int]:
    """Return how many channels below and above its own a window of `size` takes in; all of them at most."""
    most = max(channels - 1, 0)
    return min(size // 2, most), min((size - 1) // 2, most)


def _check(x: Tensor, size: int) -> None:
    if not x.is_floating_point():
        raise ValueError(f"a floating-point tensor is needed, not {x.dtype}; call x.float() first")
    if x.dim() < 2:
        raise ValueError(f"x must be [batch, channel, ...], not of shape {tuple(x.shape)}; add the missing dimensions")
    if size < 1 or size != int(size):
        raise ValueError(f"the window must hold a whole number of channels, at least 1, not {size}")


class Layer(NamedTuple):
    """One layer with weights, and what follows it: ReLU wherever `relu`, then normalization, then overlapping pooling."""

    name: str
    out: int
    kernel: int = 0
    stride: int = 1
    padding: int = 0
    split: bool = False
    """Whether each of the two GPUs sees only its own half of the channels."""
    norm: bool = False
    pool: bool = False
    dropout: bool = False
    """Whether half of its outputs are dropped in training."""
    relu: bool = True


IMAGE = (3, 224, 224)


def table() -> tuple[Layer, ...]:
    """Return the layers of figure 2 and section 3.5, in order.

    The paper states inputs of 224 and maps of 55; a padding of 2 in the first layer makes the two agree.
    """
    return (
        Layer("conv1", 96, kernel=11, stride=4, padding=2, norm=True, pool=True),
        Layer("conv2", 256, kernel=5, padding=2, split=True, norm=True, pool=True),
        Layer("conv3", 384, kernel=3, padding=1),
        Layer("conv4", 384, kernel=3, padding=1, split=True),
        Layer("conv5", 256, kernel=3, padding=1, split=True, pool=True),
        Layer("fc6", 4096, dropout=True),
        Layer("fc7", 4096, dropout=True),
        Layer("fc8", 1000, relu=False),
    )


class ResponseNorm(nn.Module):
    """Local response normalization with the paper's constants: k = 2, n = 5, α = 10⁻⁴, β = 0.75."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized activities (section 3.3)."""
        return local_response_norm(x)


def network(gpus: int = 2, image: tuple[int, int, int] = IMAGE) -> nn.Sequential:
    """Build the network on the meta device, without memory for its weights; with one GPU no convolution is split.

    Raises ValueError unless there are one or two GPUs.
    """
    if gpus not in (1, 2):
        raise ValueError(f"the table is for one or two GPUs, not {gpus}")
    channels, *side = image
    parts: dict[str, nn.Module] = {}
    for layer in table():
        if layer.kernel:
            groups = gpus if layer.split else 1
            parts[layer.name] = nn.Conv2d(
                channels, layer.out, layer.kernel, layer.stride, layer.padding, groups=groups, device="meta"
            )
            side = [(s + 2 * layer.padding - layer.kernel) // layer.stride + 1 for s in side]
        else:
            if side:
                parts["flatten"], channels, side = nn.Flatten(), channels * side[0] * side[1], []
            parts[layer.name] = nn.Linear(channels, layer.out, device="meta")
        channels = layer.out
        if layer.relu:
            parts[f"{layer.name}_relu"] = nn.ReLU()
        if layer.dropout:
            parts[f"{layer.name}_dropout"] = nn.Dropout(0.5)
        if layer.norm:
            parts[f"{layer.name}_norm"] = ResponseNorm()
        if layer.pool:
            parts[f"{layer.name}_pool"] = nn.MaxPool2d(3, stride=2)
            side = [(s - 3) // 2 + 1 for s in side]
    return nn.Sequential(OrderedDict(parts))
