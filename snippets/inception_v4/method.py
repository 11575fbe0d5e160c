"""Scaled residuals, and Inception-v4 and both Inception-ResNets as data (Szegedy, Ioffe, Vanhoucke, Alemi 2016).

Figures and tables are those of arXiv 1602.07261. A chain is a tuple of steps. A step is a string (see `_layer`), a list of
chains that run side by side and are concatenated, or a `Residual` block around such a list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Float


def scaled_residual(
    x: Float[Tensor, "*shape"], branch: Float[Tensor, "*shape"], scale: float
) -> Float[Tensor, "*shape"]:
    """Return relu(x + scale·branch) (section 3.3, Figure 20).

    The sum is formed in at least fp32 and rounded once. ReLU then acts on the rounded sum, as
    torch's own does: where a positive sum underflows to 0 in the tensors' dtype, the gradient is 0.
    At 0 the derivative is 0; NaN stays NaN and lets the gradient through. Raises ValueError unless
    both tensors have one shape, one floating dtype and one device, and the scale is a number.
    """
    check_residual(x, branch, scale)
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.relu((x.to(wide) + scale * branch.to(wide)).to(x.dtype))


def check_residual(x: Tensor, branch: Tensor, scale: float) -> None:
    """Raise ValueError unless `scaled_residual` has an answer for these arguments."""
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"scaled_residual needs a floating-point tensor, not {x.dtype}; call x.float() first")
    for what in ("shape", "dtype", "device"):
        one, other = getattr(x, what), getattr(branch, what)
        if one != other:
            raise ValueError(f"scaled_residual needs x and branch of one {what}, not {one} and {other}")
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise ValueError(f"scaled_residual needs a Python number as its scale, not {type(scale).__name__}")


class Residual(NamedTuple):
    """An Inception-ResNet module: branches, concatenated, then a linear 1×1 convolution back to the input's width."""

    branches: list[Any]


def _reduction_a(k: int, l: int, m: int, n: int) -> list[str]:  # noqa: E741 - the paper's names
    """Figure 7, with a column of Table 1."""
    return ["max/2V", f"3x3:{n}/2V", f"1x1:{k} 3x3:{l} 3x3:{m}/2V"]


_STEM = (  # Figure 3
    "3x3:32/2V 3x3:32V 3x3:64",
    ["max/2V", "3x3:96/2V"],
    ["1x1:64 3x3:96V", "1x1:64 7x1:64 1x7:64 3x3:96V"],
    ["3x3:192/2V", "max/2V"],
)
_SIDES = ["1x3:256", "3x1:256"]

NETWORKS: dict[str, tuple[tuple[str, Any, int], ...]] = {
    "Inception-v4": (
        ("Stem", _STEM, 1),
        ("A", ["avg 1x1:96", "1x1:96", "1x1:64 3x3:96", "1x1:64 3x3:96 3x3:96"], 4),  # Figure 4
        ("Reduction-A", _reduction_a(192, 224, 256, 384), 1),
        ("B", ["avg 1x1:128", "1x1:384", "1x1:192 1x7:224 7x1:256", "1x1:192 1x7:192 7x1:224 1x7:224 7x1:256"], 7),
        ("Reduction-B", ["max/2V", "1x1:192 3x3:192/2V", "1x1:256 1x7:256 7x1:320 3x3:320/2V"], 1),  # Figure 8
        ("C", ["avg 1x1:256", "1x1:256", ("1x1:384", _SIDES), ("1x1:384 1x3:448 3x1:512", _SIDES)], 3),  # Figure 6
    ),
    "Inception-ResNet-v1": (
        ("Stem", "3x3:32/2V 3x3:32V 3x3:64 max/2V 1x1:80 3x3:192V 3x3:256/2V", 1),  # Figure 14
        ("A", Residual(["1x1:32", "1x1:32 3x3:32", "1x1:32 3x3:32 3x3:32"]), 5),  # Figure 10
        ("Reduction-A", _reduction_a(192, 192, 256, 384), 1),
        ("B", Residual(["1x1:128", "1x1:128 1x7:128 7x1:128"]), 10),  # Figure 11
        ("Reduction-B", ["max/2V", "1x1:256 3x3:384/2V", "1x1:256 3x3:256/2V", "1x1:256 3x3:256 3x3:256/2V"], 1),
        ("C", Residual(["1x1:192", "1x1:192 1x3:192 3x1:192"]), 5),  # Figure 13
    ),
    "Inception-ResNet-v2": (
        ("Stem", _STEM, 1),
        ("A", Residual(["1x1:32", "1x1:32 3x3:32", "1x1:32 3x3:48 3x3:64"]), 5),  # Figure 16
        ("Reduction-A", _reduction_a(256, 256, 384, 384), 1),
        ("B", Residual(["1x1:192", "1x1:128 1x7:160 7x1:192"]), 10),  # Figure 17
        ("Reduction-B", ["max/2V", "1x1:256 3x3:384/2V", "1x1:256 3x3:288/2V", "1x1:256 3x3:288 3x3:320/2V"], 1),
        ("C", Residual(["1x1:192", "1x1:192 1x3:224 3x1:256"]), 5),  # Figure 19
    ),
}
"""Each network: (stage, module, how many in a row), from the image to the average pooling (Figures 9 and 15)."""


class Concat(nn.Module):
    """Run chains side by side on the same input and concatenate their channels."""

    def __init__(self, branches: list[Any], channels: int) -> None:
        super().__init__()
        built = [chain(one, channels) for one in branches]
        self.branches = nn.ModuleList(module for module, _ in built)
        self.channels = sum(out for _, out in built)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d h2 w2"]:
        return torch.cat([branch(x) for branch in self.branches], 1)


class ResidualBlock(nn.Module):
    """Return relu(x + scale·W·f(x)); W is a 1×1 convolution without activation or batch norm."""

    def __init__(self, branches: list[Any], channels: int, scale: float) -> None:
        super().__init__()
        self.inception, self.scale = Concat(branches, channels), scale
        self.expand = nn.Conv2d(self.inception.channels, channels, 1)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        return scaled_residual(x, self.expand(self.inception(x)), self.scale)


def chain(steps: Any, channels: int, scale: float = 0.1) -> tuple[nn.Sequential, int]:
    """Build a chain of steps over an input of so many channels; return it and the channels it puts out."""
    layers: list[nn.Module] = []
    for step in steps if type(steps) is tuple else (steps,):
        if isinstance(step, Residual):
            layers.append(ResidualBlock(step.branches, channels, scale))
        elif isinstance(step, list):
            layers.append(Concat(step, channels))
            channels = layers[-1].channels
        else:
            for name in step.split():
                layer, channels = _layer(name, channels)
                layers += layer
    return nn.Sequential(*layers), channels


def _layer(name: str, channels: int) -> tuple[list[nn.Module], int]:
    """Read one layer: `7x1:64` convolves 7 rows, 1 column to 64 filters, with batch norm and ReLU.

    `/2` is stride 2; `V` is valid padding, as in the paper's figures, else the grid stays as it is;
    `max` and `avg` pool over 3×3.
    """
    valid, stride = name.endswith("V"), 2 if "/2" in name else 1
    kind, _, filters = name.removesuffix("V").removesuffix("/2").partition(":")
    if kind == "max":
        return [nn.MaxPool2d(3, stride, 0 if valid else 1)], channels
    if kind == "avg":
        return [nn.AvgPool2d(3, stride, 0 if valid else 1, count_include_pad=False)], channels
    rows, columns = map(int, kind.split("x"))
    padding = (0, 0) if valid else (rows // 2, columns // 2)
    convolution = nn.Conv2d(channels, int(filters), (rows, columns), stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(int(filters), eps=1e-3), nn.ReLU()], int(filters)


def build(name: str, classes: int = 1000, scale: float = 0.1) -> nn.ModuleDict:
    """Build one of NETWORKS for RGB images, with its classifier; under `torch.device("meta")` it costs no memory.

    Raises ValueError for a name that is none of NETWORKS.
    """
    if name not in NETWORKS:
        raise ValueError(f"no network '{name}'; choose one of {', '.join(NETWORKS)}")
    return build_stages(NETWORKS[name], classes, scale)


def build_stages(stages: Iterable[tuple[str, Any, int]], classes: int = 1000, scale: float = 0.1) -> nn.ModuleDict:
    """Build stages of NETWORKS' form one after another, then average pooling, dropout and the classifier."""
    built, channels = nn.ModuleDict(), 3
    for stage, module, repeats in stages:
        blocks = []
        for _ in range(repeats):
            block, channels = chain(module, channels, scale)
            blocks.append(block)
        built[stage] = nn.Sequential(*blocks)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, classes)]
    built["Classifier"] = nn.Sequential(*head)
    return built


def forward(network: nn.ModuleDict, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch classes"]:
    """Return the class scores (before softmax) of 299×299 images."""
    for stage in network.values():
        images = stage(images)
    return images
