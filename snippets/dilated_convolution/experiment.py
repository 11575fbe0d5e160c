"""Dilated convolution measured: the field of a stack, the holes in it, what it costs, and a delay only it can reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from generator.lab.figures import FAINT, INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import fit
from snippets.dilated_convolution import kernel, method

DEPTH, CHANNELS = 6, 4
FIELD_SETTING = f"3 × 3 filters of weights in ½ … 1½, {CHANNELS} channels, one output's gradient"
RATES = range(1, 9)
LAYERS, UNITS, LENGTH, DELAY = 5, 8, 64, 27
SEQUENCES, EPOCHS, BATCH, RATE, SEEDS = 256, 10, 16, 1e-2, 3
DELAY_SETTING = f"{LAYERS} causal layers of {UNITS} channels and 2 taps, delay {DELAY}, {EPOCHS} epochs, {SEEDS} seeds"


def run(record) -> None:
    """Record what one layer does, what stacks of them see and leave out, their price, and the delay."""
    one_layer(record)
    receptive_field(record)
    gridding(record)
    price(record)
    delay(record)


def reach(dilations: Sequence[int], weights: Sequence[Tensor], size: int) -> Tensor:
    """Return |gradient| [size, size] of the middle output of a stack that keeps the resolution, summed over channels."""
    image = torch.zeros(1, weights[0].shape[1], size, size, dtype=torch.float64, requires_grad=True)
    x = image
    for rate, weight in zip(dilations, weights, strict=True):
        x = method.dilated_conv2d(x, weight, dilation=rate, padding=rate)
    (gradient,) = torch.autograd.grad(x[0, :, size // 2, size // 2].sum(), image)
    return gradient[0].abs().sum(0)


def side(seen: Tensor) -> int:
    """Return the side of the smallest centered square that holds every input with a gradient."""
    at = seen.nonzero()
    return int(2 * (at - seen.shape[0] // 2).abs().max() + 1)


def one_layer(record) -> None:
    """Record the gap between taps, the agreement with plain convolution, and the output's size, by rate."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 40, 40, dtype=torch.float64, generator=generator)
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64, generator=generator)
    gaps, sizes = [], []
    for rate in RATES:
        seen = reach([rate], [torch.ones(1, 1, 3, 3, dtype=torch.float64)], 41)[20].nonzero().flatten()
        gaps.append(max(abs(int(gap) - 1 - (rate - 1)) for gap in seen.diff()))
        sizes.append(abs(method.dilated_conv2d(x, weight, dilation=rate, padding=rate).shape[-1] - 40))
    setting = f"3 × 3 filter, rates {RATES[0]} to {RATES[-1]}"
    record.metric("gap_mismatch", max(gaps), setting=setting + ", largest deviation from k − 1")
    record.metric("size_mismatch", max(sizes), setting=setting + ", padding k, 40 × 40 input")
    error = (method.dilated_conv2d(x, weight) - functional.conv2d(x, weight)).abs().max().item()
    record.metric("rate_one_error", error, setting="largest difference from F.conv2d, float64")
    bare = method.dilated_conv2d(x, weight, dilation=RATES[-1])
    record.metric("size_unpadded", bare.shape[-1], "pixels", setting=f"40 pixels, rate {RATES[-1]}, no padding")


def receptive_field(record) -> None:
    """Measure the field of stacks of one to six layers, with doubling rates and without dilation."""
    size = 2 ** (DEPTH + 1) + 3
    generator = torch.Generator().manual_seed(1)
    weights = [
        0.5 + torch.rand(CHANNELS, CHANNELS, 3, 3, dtype=torch.float64, generator=generator) for _ in range(DEPTH)
    ]
    depths = range(1, DEPTH + 1)
    fields = {
        name: [side(reach(rates[:depth], weights[:depth], size)) for depth in depths]
        for name, rates in (("dilated", [2**n for n in range(DEPTH)]), ("plain", [1] * DEPTH))
    }
    parameters = [sum(weight.numel() for weight in weights[:depth]) for depth in depths]
    wrong = max(abs(field - (2 ** (depth + 1) - 1)) for depth, field in zip(depths, fields["dilated"], strict=True))
    record.metric("field_mismatch", wrong, "pixels", setting=f"from 2ⁿ⁺¹ − 1 at depths 1 to {DEPTH}; {FIELD_SETTING}")
    for name, measured in fields.items():
        record.metric(f"field_{name}", measured[-1], "pixels", setting=f"{DEPTH} layers, {FIELD_SETTING}")
    doubling = [(b + 1) / (a + 1) for a, b in pairwise(fields["dilated"])]
    record.metric("field_growth", min(doubling), setting="field + 1, deeper by one layer over before, the least ratio")
    steps = {b - a for a, b in pairwise(parameters)}
    record.metric("parameter_bend", max(steps) - min(steps), setting="parameters a layer, the most less the fewest")

    left, axis = panel("side of the field", "layers", "pixels (each line doubles)")
    axis.plot(depths, [2 ** (n + 1) - 1 for n in depths], color=INK, lw=1, ls="--")
    axis.plot(depths, [2 * n + 1 for n in depths], color=INK, lw=1, ls="--")
    axis.plot(depths, fields["dilated"], "o", color=SERIES[0])
    axis.plot(depths, fields["plain"], "s", color=SERIES[1])
    axis.set_yscale("log", base=2)
    axis.set_yticks([2**n for n in range(1, 8)], [str(2**n) for n in range(1, 8)])
    axis.minorticks_off()
    axis.text(3.9, 80, "rates 1, 2, 4 …", color=SERIES[0], ha="right")
    axis.text(5.0, 6.2, "no dilation", color=SERIES[1], ha="center")
    right, axis = panel("what it costs", "layers", "parameters")
    axis.plot(depths, parameters, "o-", color=SERIES[0], label="rates 1, 2, 4 …")
    axis.plot(depths, parameters, "s", color=SERIES[1], ms=3, label="no dilation")
    axis.set_ylim(0)
    axis.legend(loc="upper left")
    record.figure(
        "field",
        [left, right],
        caption="Left: the side of the square of inputs with a gradient to one output, measured (marks) and predicted "
        f"(dashed: 2ⁿ⁺¹ − 1 and 2n + 1 after n layers). Right: parameters of the same stacks. Setting: {FIELD_SETTING}.",
        alt="Left, on a doubling scale, the field of dilated stacks rises in a straight line while that of plain stacks "
        "bends flat; marks lie on the dashed predictions. Right, parameters of both on one straight line.",
    )


def paths(dilations: Sequence[int], size: int) -> Tensor:
    """Return the number of ways [size, size] from each input to the middle output: the gradient where all weights are 1."""
    return reach(dilations, [torch.ones(1, 1, 3, 3, dtype=torch.float64)] * len(dilations), size)


def gridding(record) -> None:
    """Count, by schedule of rates, the inputs of the field that reach an output and those its neighbor shares."""
    rows = []
    for dilations in ((1, 1, 1), (2, 2, 2), (1, 2, 4), (1, 2, 5), (1, 3, 9), (1, 4, 16)):
        field = 2 * sum(dilations) + 1
        seen = paths(dilations, field + 2)
        inner = seen[1:-1, 1:-1]
        coverage = (inner > 0).double().mean().item()
        shared = ((seen > 0) & (seen.roll(1, dims=1) > 0)).sum().item() / (seen > 0).sum().item()
        name = ", ".join(map(str, dilations))
        rows.append(
            {
                "rates": name,
                "field": f"{field} × {field}",
                "inputs reached": f"{coverage:.0%}",
                "shared with the next output": f"{shared:.0%}",
                "most paths from one input": int(seen.max().item()),
            }
        )
        if dilations in ((2, 2, 2), (1, 2, 4)):
            key = "".join(map(str, dilations))
            record.metric(f"coverage_{key}", coverage, setting=f"three 3 × 3 layers, rates {name}")
            record.metric(f"shared_{key}", shared, setting=f"inputs that the next output reads too, rates {name}")
    record.table("schedules", rows, caption="Three 3 × 3 layers each, so 27 weights a channel pair in every row.")
    panels = []
    for dilations in ((2, 2, 2), (1, 2, 4)):
        fig, axis = panel(f"rates {', '.join(map(str, dilations))}", "column", "row", height=3.2)
        seen = paths(dilations, 17)
        shown = axis.imshow(
            seen.where(seen > 0, math.nan).log2(),
            cmap="viridis",
            vmin=0,
            vmax=math.log2(49),
            extent=(-8.5, 8.5, 8.5, -8.5),
        )
        axis.grid(False)
        axis.set_xticks(range(-8, 9, 4))
        axis.set_yticks(range(-8, 9, 4))
        bar = fig.colorbar(shown, ax=axis, shrink=0.8)
        bar.set_ticks([0, 1, 2, 3, 4, 5], labels=["1", "2", "4", "8", "16", "32"])
        bar.set_label("paths to the output")
        panels.append(fig)
    record.figure(
        "gridding",
        panels,
        caption="Which inputs reach the output at (0, 0) through three 3 × 3 layers, and by how many paths; blank inputs do "
        "not reach it at all. The same number of weights on both sides.",
        alt="Two square maps. With rates 2, 2, 2 single colored pixels stand apart on a grid, three quarters or so of the "
        "square blank. With rates 1, 2, 4 the square is filled, brightest in four patches around a dim center.",
    )


def price(record) -> None:
    """Count what a field of 31 × 31 costs in four ways, in units of channels² and of channels² · pixels."""
    field, layers = 31, 4
    ways = {
        "dilated, rates 1, 2, 4, 8": (9 * layers, 9.0 * layers, "every pixel"),
        "plain 3 × 3 layers": (9 * (field // 2), 9.0 * (field // 2), "every pixel"),
        "one 31 × 31 filter": (field**2, float(field**2), "every pixel"),
        "3 × 3 at stride 2": (9 * layers, sum(9 / 4**n for n in range(1, layers + 1)), "every 16th pixel a side"),
    }
    least = ways["dilated, rates 1, 2, 4, 8"]
    rows = [
        {
            "way": way,
            "weights (× channels²)": weights,
            "products a pixel (× channels²)": round(products, 2),
            "answers": where,
        }
        for way, (weights, products, where) in ways.items()
    ]
    record.table("price", rows, caption="Four ways to a field of 31 × 31, all layers of the same width, counted.")
    setting = "field of 31 × 31, counted"
    record.metric("products_over_strided", least[1] / ways["3 × 3 at stride 2"][1], "×", setting=setting)
    record.metric("products_under_plain", ways["plain 3 × 3 layers"][1] / least[1], "×", setting=setting)


class Causal(nn.Module):
    """A stack of causal convolutions of two taps over [batch, channel, 1, time], tanh between, and a linear readout."""

    def __init__(self, dilations: Sequence[int], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        widths = [1] + [UNITS] * len(dilations)
        self.dilations = list(dilations)
        self.weights = nn.ParameterList(
            torch.randn(out, into, 1, 2, generator=generator) / (2 * into) ** 0.5 for into, out in pairwise(widths)
        )
        self.readout = nn.Parameter(torch.randn(1, UNITS, 1, 1, generator=generator) / UNITS**0.5)

    def forward(self, x: Tensor) -> Tensor:
        for rate, weight in zip(self.dilations, self.weights, strict=True):
            x = torch.tanh(method.dilated_conv2d(functional.pad(x, (rate, 0)), weight, dilation=(1, rate)))
        return method.dilated_conv2d(x, self.readout)


def error(got: Tensor, delayed: Tensor) -> Tensor:
    """Return the mean squared error where the delayed signal has begun, as a share of the signal's variance of 1."""
    return (got - delayed)[..., DELAY:].square().mean()


def sequences(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 1, 1, LENGTH, generator=torch.Generator().manual_seed(seed))
    return x, functional.pad(x, (DELAY, 0))[..., :LENGTH]


def delay(record) -> None:
    """Train both stacks to give back what they heard DELAY steps ago; measure the error, and what they listen to."""
    stacks = {"dilated": [2**n for n in range(LAYERS)], "plain": [1] * LAYERS}
    curves: dict[str, list[list[float]]] = {name: [] for name in stacks}
    errors: dict[str, list[float]] = {name: [] for name in stacks}
    listens: dict[str, list[list[float]]] = {name: [] for name in stacks}
    for name, dilations in stacks.items():
        for seed in range(SEEDS):
            net = Causal(dilations, seed)
            adam = torch.optim.Adam(net.parameters(), lr=RATE)
            x, y = sequences(SEQUENCES, seed)
            curves[name].append(fit(net, x, y, optimizer=adam, epochs=EPOCHS, batch=BATCH, seed=seed, objective=error))
            x, y = sequences(SEQUENCES, 1000 + seed)
            x.requires_grad_()
            got = net(x)
            errors[name].append(error(got, y).item())
            (gradient,) = torch.autograd.grad(got[..., -1].sum(), x)
            listens[name].append(gradient.abs().mean((0, 1, 2)).flip(0)[: 2**LAYERS + 4].tolist())
        record.metric(
            f"delay_error_{name}", errors[name], setting=f"share of the variance, unseen noise; {DELAY_SETTING}"
        )
        record.metric(f"delay_field_{name}", sum(dilations) + 1, "steps", setting=f"{LAYERS} layers of 2 taps")
    record.metric("delay_parameters", sum(p.numel() for p in net.parameters()), setting="either stack")
    left, axis = panel("learning", "epoch", "error (share of variance)")
    right, other = panel("what it listens to", "steps back", "mean |gradient|")
    for number, name in enumerate(stacks):
        label = ("no dilation", "rates 1, 2, 4, 8, 16")[name == "dilated"]
        spread(axis, range(1, EPOCHS + 1), curves[name], SERIES[number], label)
        spread(other, range(2**LAYERS + 4), listens[name], SERIES[number])
    axis.axhline(1, color=FAINT, lw=1, ls=":")
    axis.set_ylim(0)
    axis.legend(loc="center right")
    other.axvline(DELAY, color=INK, lw=1, ls="--")
    other.text(DELAY - 0.6, other.get_ylim()[1] * 0.9, "the delay", ha="right", color=INK)
    record.figure(
        "delay",
        [left, right],
        caption=f"Left: training error; 1 is what silence gets. Right: how much the last output depends on each earlier "
        f"input after training. Bands run from the lowest to the highest seed. {DELAY_SETTING}, equal parameters.",
        alt="Left, error against epoch: the dilated stack falls, the plain one stays at 1. Right, gradient against steps "
        "back: the dilated stack peaks at the delay, the plain one has no gradient beyond its few steps.",
    )


def _inputs(shape, dtype, device, seed):
    """Draw images, and odd filters padded so that the output keeps the size."""
    batch, channels, outs, height, width, taps, dilation = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).to(device)

    return {
        "x": draw(batch, channels, height, width),
        "weight": draw(outs, channels, taps, taps),
        "bias": draw(outs),
        "dilation": dilation,
        "padding": dilation * (taps // 2),
    }


def _out_elements(a) -> int:
    batch, _, height, width = a["x"].shape  # the padding keeps the size
    return batch * a["weight"].shape[0] * height * width


def _bytes(a) -> int:
    return (sum(a[name].numel() for name in ("x", "weight", "bias")) + _out_elements(a)) * a["x"].element_size()


def _longest_sum(a) -> int:
    outs, channels, height, width = a["weight"].shape
    return max(channels * height * width, outs * height * width, a["x"][:, :1].numel())


def _torchs(x, weight, bias, dilation, padding):
    return functional.conv2d(x, weight, bias, dilation=dilation, padding=padding)


KERNELS = (
    Kernel(
        name="dilated_conv2d",
        op=kernel.dilated_conv2d,
        twin=method.dilated_conv2d,
        inputs=_inputs,
        shapes=(
            (0, 1, 2, 4, 5, 3, 1),
            (1, 1, 1, 1, 1, 1, 1),
            (1, 2, 3, 5, 7, 3, 1),
            (2, 3, 5, 5, 4, 3, 2),
            (1, 16, 16, 4, 8, 3, 4),
            (1, 33, 17, 9, 8, 1, 3),
        ),
        bench_shapes=((16, 512, 512, 128, 128, 3, 2), (16, 512, 512, 128, 128, 3, 1)),
        compile_shape=(2, 128, 128, 16, 16, 3, 2),
        differentiable=("x", "weight", "bias"),
        bytes_moved=_bytes,
        # the gradients read x, the filter and the output's gradient, and write as much as they were taken of
        backward_bytes=lambda a: _bytes(a) + sum(a[n].numel() for n in ("x", "weight")) * a["x"].element_size(),
        operations=lambda a: 2 * _out_elements(a) * a["weight"][0].numel(),
        reduction=_longest_sum,
        eager=_torchs,
        oracle="method.dilated_conv2d in float64, itself tested against F.conv2d",
    ),
)
