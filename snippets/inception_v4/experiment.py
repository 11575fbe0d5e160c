"""The three networks counted on the meta device, and wide residual stacks trained with and without scaled residuals."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from generator.lab.data import digits
from generator.lab.figures import INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import error_rate, fit
from snippets.inception_v4 import kernel, method

PRINTED = {
    ("Inception-ResNet-v1", "A"): 256,
    ("Inception-ResNet-v1", "B"): 896,
    ("Inception-ResNet-v1", "C"): 1792,
    ("Inception-ResNet-v2", "A"): 384,
    ("Inception-ResNet-v2", "B"): 1154,
    ("Inception-ResNet-v2", "C"): 2048,
}
"""Filters of the last 1×1 convolution as the paper's figures 10, 11, 13, 16, 17 and 19 print them."""
COLOUR = dict(zip(method.NETWORKS, (SERIES[0], SERIES[2], SERIES[1]), strict=True))

WIDE, SLIM, NARROW, BLOCKS = 1152, 128, 32, 5
"""Filters of the stream, wide as on the 17×17 grid of Inception-ResNet-v2, and slim; filters inside a block; blocks."""
SEEDS, EPOCHS, BATCH = 3, 2, 32
RATE = 0.045
"""The paper's learning rate; its RMSProp has decay 0.9 and ε = 1.0 (section 4)."""
RUNS = {
    "wide_1": (WIDE, 1.0, True),
    "wide_03": (WIDE, 0.3, True),
    "wide_01": (WIDE, 0.1, True),
    "slim_1": (SLIM, 1.0, True),
    "plain_wide_1": (WIDE, 1.0, False),
    "plain_wide_01": (WIDE, 0.1, False),
    "plain_slim_1": (SLIM, 1.0, False),
}
"""What is trained: (filters, residual scale, batch norm). The plain ones were added once the others were known."""
SETTING = f"digits, {BLOCKS} blocks, {EPOCHS} epochs in batches of {BATCH}, RMSProp at {RATE:g}, {SEEDS} seeds"


def run(record) -> None:
    """Record shapes and costs of the networks, what factored convolutions save, and the training of wide stacks."""
    counted = {name: count(method.NETWORKS[name]) for name in method.NETWORKS}
    grids(record, counted)
    cost(record, counted)
    factors(record, counted)
    stacks(record)


# The networks


def count(stages: Any) -> dict[str, tuple[tuple[int, ...], int, int]]:
    """Run a network on the meta device; return each stage's output shape, parameters and multiply-adds an image."""
    with torch.device("meta"):
        network, images = method.build_stages(stages).eval(), torch.empty(1, 3, 299, 299)
    found = {}
    for name, stage in network.items():
        total = [0]

        def add(layer, inputs, output, total=total):
            grid = output[0, 0].numel() if output.dim() == 4 else 1
            total[0] += layer.weight.numel() * grid

        for layer in stage.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(add)
        images = stage(images)
        found[name] = tuple(images.shape[1:]), sum(p.numel() for p in stage.parameters()), total[0]
    return found


def grids(record, counted) -> None:
    def shown(shape):
        return "×".join(map(str, (*shape[1:], shape[0]))) if len(shape) == 3 else str(shape[0])

    rows = [{"stage": "Image", **dict.fromkeys(counted, "299×299×3")}]
    rows += [
        {"stage": stage, **{n: shown(c[stage][0]) for n, c in counted.items()}} for stage in counted["Inception-v4"]
    ]
    record.table(
        "grids", rows, caption="Output of each stage, rows × columns × channels, as the built modules give it."
    )
    for name, stages in counted.items():
        shapes = [stages[stage][0] for stage in "ABC"]
        key, setting = name.lower().replace("-", "_"), f"{name} on a 299×299×3 image, modules A, B, C"
        record.metric(f"grids_{key}", ", ".join(str(shape[1]) for shape in shapes), setting=setting)
        record.metric(f"channels_{key}", ", ".join(str(shape[0]) for shape in shapes), setting=setting)
    widths = [
        {
            "network": name,
            "module": stage,
            "printed in the paper": filters,
            "channels of its input": counted[name][stage][0][0],
            "can be added": "yes" if filters == counted[name][stage][0][0] else "no",
        }
        for (name, stage), filters in PRINTED.items()
    ]
    record.table("widths", widths, caption="The linear 1×1 convolution before each sum: filters printed, and needed.")
    record.metric("misprints", sum(row["can be added"] == "no" for row in widths), unit=f"of {len(widths)} figures")


def cost(record, counted) -> None:
    size, size_axis = panel("parameters", "millions", height=3.2)
    work, work_axis = panel("multiply-adds for an image", "billions", height=3.2)
    stages = list(counted["Inception-v4"])
    places = np.arange(len(stages))
    for nth, (name, found) in enumerate(counted.items()):
        for axis, what, unit in ((size_axis, 1, 1e6), (work_axis, 2, 1e9)):
            values = [found[stage][what] / unit for stage in stages]
            axis.barh(places + 0.27 * (nth - 1), values, height=0.25, color=COLOUR[name], label=name)
        key = name.lower().replace("-", "_")
        record.metric(f"parameters_{key}", total(found, 1), setting=f"{name}, 1,000 classes, batch norm included")
        record.metric(f"multiply_adds_{key}", total(found, 2) / 1e9, unit="billion", setting=f"{name}, 299×299 image")
    for axis in (size_axis, work_axis):
        axis.set_yticks(places, stages)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
    work_axis.legend(loc="lower right")
    record.figure(
        "cost",
        [size, work],
        caption="Where the three networks keep their parameters and spend their work. Module B, home of the 1×7 and 7×1 "
        "convolutions, sets them apart: Inception-v4's is larger than those of the other two together.",
        alt="Two bar charts with a group of three bars for each stage, from stem to classifier: parameters in millions, and "
        "multiply-adds in billions. Inception-v4's bar for module B is the longest in both.",
    )
    record.metric(
        "work_resnet_v2_to_v4",
        total(counted["Inception-ResNet-v2"], 2) / total(counted["Inception-v4"], 2),
        setting="multiply-adds, Inception-ResNet-v2 over Inception-v4",
    )


def total(found, what: int) -> int:
    return sum(stage[what] for stage in found.values())


def squared(steps: Any) -> Any:
    """Return the steps with each 1×n, n×1 pair as one n×n convolution with the second one's filters."""
    if isinstance(steps, str):
        steps = re.sub(r"1x(\d):\d+ \1x1:(\d+)", r"\1x\1:\2", steps)
        return re.sub(r"(\d)x1:\d+ 1x\1:(\d+)", r"\1x\1:\2", steps)
    if isinstance(steps, method.Residual):
        return method.Residual(squared(steps.branches))
    return type(steps)(squared(step) for step in steps)


def factors(record, counted) -> None:
    rows = []
    for name, stages in method.NETWORKS.items():
        full = count(tuple((stage, squared(module), repeats) for stage, module, repeats in stages))
        for what, key in ((1, "parameters"), (2, "work")):
            saved = total(full, what) / total(counted[name], what)
            record.metric(
                f"square_{key}_{name.lower().replace('-', '_')}", saved, unit="×", setting=f"{name}, n×n over factored"
            )
        for stage in ("Stem", "B", "Reduction-B", "C"):
            if full[stage] != counted[name][stage]:
                rows.append(
                    {
                        "network": name,
                        "stage": stage,
                        "parameters, 1×n and n×1": f"{counted[name][stage][1] / 1e6:.2f} M",
                        "parameters, n×n": f"{full[stage][1] / 1e6:.2f} M",
                        "multiply-adds, 1×n and n×1": f"{counted[name][stage][2] / 1e9:.2f} G",
                        "multiply-adds, n×n": f"{full[stage][2] / 1e9:.2f} G",
                    }
                )
    record.table("factors", rows, caption="Stages with 1×n and n×1 pairs, as printed and with n×n in their place.")
    layers = {rows * columns: method.chain(f"{rows}x{columns}:64", 64)[0][0] for rows, columns in ((1, 7), (7, 7))}
    pair, square = 2 * layers[7].weight.numel(), layers[49].weight.numel()
    record.metric("pair_to_square", pair / square, setting="weights of 1×7 and 7×1 over those of 7×7, 64 filters each")


# Wide residual stacks


class Block(nn.Module):
    """An Inception-ResNet block on a 1×1 grid: narrow, batch norm or not, ReLU, linear expansion, scaled sum."""

    def __init__(self, filters: int, scale: float, norm: bool) -> None:
        super().__init__()
        self.narrow = nn.Linear(filters, NARROW, bias=not norm)
        self.norm = nn.BatchNorm1d(NARROW, eps=1e-3) if norm else nn.Identity()
        self.expand, self.scale = nn.Linear(NARROW, filters), scale

    def forward(self, x: Tensor) -> Tensor:
        return method.scaled_residual(x, self.expand(torch.relu(self.norm(self.narrow(x)))), self.scale)


class Stack(nn.Module):
    """Residual blocks between a stem and a classifier; `stream` keeps what the last block put out."""

    def __init__(self, filters: int, scale: float, norm: bool, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(64, filters), nn.ReLU())
        self.blocks = nn.Sequential(*(Block(filters, scale, norm) for _ in range(blocks)))
        self.classifier = nn.Linear(filters, 10)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        self.stream = self.blocks(self.stem(x))
        return self.classifier(self.stream)


def train(data: tuple[Tensor, ...], filters: int, scale: float, norm: bool, seed: int) -> dict[str, Any]:
    """Train one stack; return each step's loss, stream size and share of zeros, the error and the share of dead units."""
    x, y, x_test, y_test = data
    torch.manual_seed(seed)
    stack = Stack(filters, scale, norm)
    steps: list[tuple[float, float, float]] = []

    def objective(scores: Tensor, labels: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(scores, labels)
        stream = stack.stream.detach()
        steps.append((loss.item(), stream.square().mean().sqrt().item(), (stream == 0).float().mean().item()))
        return loss

    optimizer = torch.optim.RMSprop(stack.parameters(), lr=RATE, alpha=0.9, eps=1.0, foreach=True)
    fit(stack, x, y, optimizer=optimizer, epochs=EPOCHS, batch=BATCH, seed=seed, objective=objective)
    error = 100 * error_rate(stack, x_test, y_test)  # one batch, whose stream is still there
    dead = (stack.stream == 0).all(0).float().mean().item()
    planned = EPOCHS * (len(x) // BATCH)
    steps += [(math.nan,) * 3] * (planned - len(steps))
    return {"steps": np.array(steps), "error": error, "dead": 100 * dead}


def stacks(record) -> None:
    data = [digits(seed=seed) for seed in range(SEEDS)]
    growth(record, data[0][0][:64])
    runs = {name: [train(data[seed], *what, seed) for seed in range(SEEDS)] for name, what in RUNS.items()}
    rows = []
    for name, (filters, scale, norm) in RUNS.items():
        setting = f"{filters} filters, scale {scale:g}, batch norm {'in' if norm else 'not in'} the blocks; {SETTING}"
        found = {
            "error": [r["error"] for r in runs[name]],
            "dead": [r["dead"] for r in runs[name]],
            "peak": [float(np.nanmax(r["steps"][:, 0])) for r in runs[name]],
            "rms": [float(r["steps"][-1, 1]) for r in runs[name]],
        }
        record.metric(f"error_{name}", found["error"], unit="%", setting=f"test error; {setting}")
        record.metric(f"dead_{name}", found["dead"], unit="%", setting=f"units 0 on all held-out images; {setting}")
        record.metric(f"peak_loss_{name}", found["peak"], unit="nats", setting=f"highest minibatch loss; {setting}")
        shown = {key: f"{min(seeds):.3g} to {max(seeds):.3g}" for key, seeds in found.items()}
        rows.append(
            {
                "filters": filters,
                "scale": f"{scale:g}",
                "batch norm": "yes" if norm else "no",
                "highest loss, nats": shown["peak"],
                "dead units, %": shown["dead"],
                "last rms": shown["rms"],
                "test error, %": shown["error"],
            }
        )
    caption = f"Lowest and highest of {SEEDS} seeds; a dead unit of the last block is 0 on every held-out image. Setting: {SETTING}."
    record.table("stacks", rows, caption=caption)
    named = {"wide_1": "scale 1", "wide_03": "scale 0.3", "wide_01": "scale 0.1"}
    draw(record, "stacks", runs, named, f"Stacks of {WIDE} filters with batch norm in their blocks")
    named = {"plain_wide_1": "scale 1", "plain_slim_1": f"scale 1, {SLIM} filters", "plain_wide_01": "scale 0.1"}
    draw(record, "plain", runs, named, f"Stacks without batch norm, of {WIDE} filters where none are named")


def growth(record, x: Tensor) -> None:
    """Follow the size of the stream through 20 blocks before any training."""
    panels = []
    for norm, key in ((True, ""), (False, "plain_")):
        fig, axis = panel("with batch norm" if norm else "without", "block", "root mean square of the stream")
        torch.manual_seed(0)
        stack = Stack(WIDE, 1.0, norm, blocks=20)
        for scale, colour in ((1.0, SERIES[1]), (0.3, SERIES[4]), (0.1, SERIES[0])):
            for block in stack.blocks:
                block.scale = scale
            with torch.no_grad():
                streams = [stack.stem(x)]
                for block in stack.blocks:
                    streams.append(block(streams[-1]))
            sizes = [stream.square().mean().sqrt().item() for stream in streams]
            axis.plot(range(21), sizes, color=colour)
            axis.text(20.3, sizes[-1], f"s = {scale:g}", color=colour, va="center", ha="left")
            record.metric(
                f"growth_{key}{scale:g}".replace(".", ""),
                sizes[-1] / sizes[0],
                unit="×",
                setting=f"20 blocks, {WIDE} filters",
            )
        axis.set_yscale("log")
        axis.set_ylim(0.3, 2e4)
        axis.set_xticks(range(0, 21, 5))
        panels.append(fig)
    record.figure(
        "growth",
        panels,
        caption=f"Size of a stream of {WIDE} filters before training, for residual scales 1, 0.3 and 0.1. With batch norm a "
        "branch has the same size in every block; without it, a branch grows with the stream that it is added to.",
        alt="Two panels, size of the stream against the block from 0 to 20 on a logarithmic axis, a line for each scale. With "
        "batch norm all lines stay low; without it the line of scale 1 rises steeply and straight.",
    )


def draw(record, figure: str, runs, named: dict[str, str], what: str) -> None:
    loss, loss_axis = panel("training loss", "step", "cross-entropy, nats")
    zeros, zeros_axis = panel("last block", "step", "share of outputs that are 0")
    for (name, label), colour in zip(named.items(), (SERIES[1], SERIES[4], SERIES[0]), strict=True):
        steps = np.stack([r["steps"] for r in runs[name]])
        for axis, column in ((loss_axis, 0), (zeros_axis, 2)):
            spread(axis, np.arange(1, steps.shape[1] + 1), steps[:, :, column], colour, label=label, lw=1.4)
    loss_axis.axhline(math.log(10), color=INK, lw=0.8, ls=":")
    loss_axis.set_yscale("log")
    loss_axis.legend(loc="upper right")
    zeros_axis.set_ylim(0, 1)
    record.figure(
        figure,
        [loss, zeros],
        caption=f"{what}; bands from the lowest to the highest seed, dotted: guessing. Setting: {SETTING}.",
        alt="Two panels against the training step, a curve for each kind of stack: the training loss, logarithmic, and the "
        "share of the last block's outputs that are 0.",
    )


# The kernel


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    x, branch = (3 * torch.randn(shape, dtype=dtype, device=device, generator=generator) for _ in range(2))
    return {"x": x, "branch": branch, "scale": 0.1}


def _bytes(arguments) -> int:
    return 3 * arguments["x"].numel() * arguments["x"].element_size()


KERNELS = (
    Kernel(
        name="scaled_residual",
        op=kernel.scaled_residual,
        twin=method.scaled_residual,
        inputs=_inputs,
        bytes_moved=_bytes,
        operations=lambda arguments: 3 * arguments["x"].numel(),  # multiply, add, select
        bench_shapes=((128 * 1024 * 1024,),),
        dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        differentiable=("x", "branch"),
        backward_bytes=lambda arguments: _bytes(arguments) * 4 // 3,  # dL/dy and y in, dL/dx and dL/dbranch out
        oracle="method.scaled_residual in float64; torch's own operators in the tests",
        eager=lambda x, branch, scale: torch.relu(torch.add(x, branch, alpha=scale)),
    ),
)
