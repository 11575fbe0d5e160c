"""A declared kernel comes in; every case of the test matrix goes out, and each can be proved on a device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from generator.lab.guards import bounded, padded
from generator.lab.kernels import Kernel
from generator.lab.parity import agree

LAYOUTS = ("transposed", "sliced", "expanded", "channels_last")
SPECIAL = (
    0.0, -0.0, 1e-8, -1e-8, 0.5, -0.5, 0.5, -0.5, 1.0, -1.0, 1.0, -1.0, 3.0, -3.0, 6.0, -6.0, 80.0, -80.0, math.inf, -math.inf, math.nan,
)  # fmt: skip
"""Zeros, what lies next to them, the usual kinks, ties, saturation, and what is no number."""
FEW_ELEMENTS = 10_000
"""Layouts are tried on inputs up to this size: what they break shows in one block and a bit."""


@dataclass(frozen=True)
class Case:
    """One cell of the matrix: the inputs of a declared shape and dtype, laid out in memory in one way."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str = "contiguous"
    special: bool = False

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "0-d"
        return f"{str(self.dtype).removeprefix('torch.')}-{shape}-{self.layout}" + "-special" * self.special


def cases(kernel: Kernel) -> Iterator[Case]:
    """Yield every declared shape in every dtype, then two shapes in each layout, then the special values."""
    sized = sorted((_elements(kernel, shape), shape) for shape in kernel.shapes)
    for dtype in kernel.dtypes:
        for shape in kernel.shapes:
            yield Case(tuple(shape), dtype)
        for layout in LAYOUTS if kernel.layouts else ():
            fitting = [shape for n, shape in sized if n <= FEW_ELEMENTS and _applies(kernel, shape, layout)]
            for shape in dict.fromkeys(fitting[:1] + fitting[-1:]):
                yield Case(tuple(shape), dtype, layout)
        if _special_names(kernel):
            holding = [shape for n, shape in sized if n >= len(SPECIAL)]
            for shape in holding[:1] + [shape for shape in holding[1:] if len(shape) > 1][:1]:
                yield Case(tuple(shape), dtype, special=True)


def arguments_of(kernel: Kernel, case: Case, device: torch.device, seed: int = 0) -> dict[str, Any]:
    """Return the inputs of a case, each inside a larger buffer of NaN."""
    arguments = kernel.inputs(case.shape, case.dtype, device, seed)
    for name, value in arguments.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            if case.special and name in _special_names(kernel):
                value = _sprinkled(value, seed)
            arguments[name] = lay(value, case.layout)
    return arguments


def prove(kernel: Kernel, case: Case, device: torch.device, seed: int = 0) -> None:
    """Raise, saying what and where, unless the kernel agrees with its twin on a case and keeps to its tensors."""
    arguments = arguments_of(kernel, case, device, seed)
    about = f"shape {case.shape}, {str(case.dtype).removeprefix('torch.')}, {case.layout}"
    about += ", special values" * case.special
    with bounded():
        try:
            agree(kernel, arguments, seed, about, partial(lay, layout=case.layout))
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{kernel.name}: {error}\n  {about}") from error


def lay(values: Tensor, layout: str) -> Tensor:
    """Return the values in a layout, padded with NaN; contiguous where the layout asks for more dimensions."""
    strides = _strides(values, layout)
    if strides is None:
        return padded(values, _strides(values, "contiguous") or ())
    # a slice starts in the middle of a 16-byte line, as a real one may
    return padded(values, strides, misaligned=int(layout == "sliced"))


def _strides(values: Tensor, layout: str) -> tuple[int, ...] | None:
    """Return the strides a layout gives to a tensor, None where it is no other than contiguous."""
    shape = values.shape
    if layout == "contiguous":
        return torch.empty(shape, device="meta").stride()
    if not values.numel() or not values.dim():
        return None
    if layout == "sliced":
        return tuple(2 * stride for stride in torch.empty(shape, device="meta").stride())
    if layout == "expanded":
        return (0, *torch.empty(shape[1:], device="meta").stride()) if shape[0] > 1 else None
    if layout == "transposed":
        if values.dim() < 2 or min(shape[-2:]) < 2:
            return None
        return torch.empty((*shape[:-2], shape[-1], shape[-2]), device="meta").transpose(-1, -2).stride()
    if values.dim() != 4 or shape[1] < 2 or max(shape[2:]) < 2:
        return None
    return torch.empty(shape, device="meta", memory_format=torch.channels_last).stride()


def _floating(kernel: Kernel, shape: tuple[int, ...]) -> dict[str, Tensor]:
    drawn = kernel.inputs(shape, torch.float32, torch.device("cpu"), 0)
    return {n: value for n, value in drawn.items() if isinstance(value, Tensor) and value.is_floating_point()}


def _elements(kernel: Kernel, shape: tuple[int, ...]) -> int:
    return max((one.numel() for one in _floating(kernel, shape).values()), default=0)


def _applies(kernel: Kernel, shape: tuple[int, ...], layout: str) -> bool:
    return any(_strides(one, layout) is not None for one in _floating(kernel, shape).values())


def _special_names(kernel: Kernel) -> tuple[str, ...]:
    return tuple(_floating(kernel, kernel.shapes[-1])) if kernel.special is None else tuple(kernel.special)


def _sprinkled(values: Tensor, seed: int) -> Tensor:
    """Return the values with the special ones at random places, and NaN at both ends."""
    flat = values.detach().clone().flatten()
    if not flat.numel():
        return values
    special = torch.tensor(SPECIAL, dtype=torch.float64).to(flat)
    generator = torch.Generator().manual_seed(seed + 2)
    places = torch.randperm(flat.numel(), generator=generator)[: len(SPECIAL)].to(flat.device)
    flat[places] = special[: len(places)]
    flat[0] = flat[-1] = math.nan
    return flat.view(values.shape)
