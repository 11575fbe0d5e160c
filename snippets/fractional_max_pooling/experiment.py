"""Fractional max-pooling seen and used: its regions, the pictures they make, and the gain from averaging many of them."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import torch
from torch import Tensor, nn

from generator.lab.data import digits
from generator.lab.figures import FAINT, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import fit
from snippets.fractional_max_pooling import kernel, method

SEEDS, EPOCHS, BATCH, RATE = 3, 10, 64, 1e-2
CHANNELS = (10, 14, 20)
SIZES = (8, 6, 4, 3)
"""8 × 8 digits shrink by 4/3, 3/2 and 4/3: about √2 a layer."""
PASSES = 16
VARIANTS = {
    "random, overlapping": (False, True),
    "random, disjoint": (False, False),
    "pseudorandom, overlapping": (True, True),
    "pseudorandom, disjoint": (True, False),
}
TRAINED = {"random": (False, True), "pseudorandom": (True, True)}
"""The kinds of regions that networks are trained with, all overlapping."""
SETTING = f"digits, 3 convolutions, {EPOCHS} epochs, {SEEDS} seeds"


def run(record) -> None:
    """Record the increments, the pooled pictures, the layers that fit, and error against the number of passes."""
    sequences(record)
    pictures(record)
    depth(record)
    averaging(record)


def sequences(record) -> None:
    """Count the sequences whose 1s and 2s are not in the proportion that α asks for, over all sizes up to 64."""
    wrong = drawn = 0
    for n_out in range(1, 65):
        for n_in in range(n_out, min(2 * n_out, 64) + 1):
            for pseudorandom in (False, True):
                steps = method.increments(n_in, n_out, pseudorandom, seed=n_in * 65 + n_out)
                drawn += 1
                wrong += (steps.count(1), steps.count(2)) != (2 * n_out - n_in, n_in - n_out)
    record.metric("sequences_drawn", drawn, setting="all sizes up to 64, both kinds")
    record.metric("sequences_wrong", wrong, setting="1s and 2s not in the proportion of N_in to N_out")
    panels = []
    for title, pseudorandom in (("random", False), ("pseudorandom", True)):
        fig, axis = panel(title, "output pixel", "where its region starts, less α·i")
        for seed in range(5):
            steps = method.increments(45, 32, pseudorandom, seed)
            away = [sum(steps[:i]) - 45 / 32 * i for i in range(33)]
            axis.plot(range(33), away, color=SERIES[0], lw=1.2, alpha=0.55)
        axis.axhline(0, color=FAINT, lw=1)
        axis.set_ylim(-4.5, 4.5)
        panels.append(fig)
    record.figure(
        "wander",
        panels,
        caption="How far five sequences for α = 45/32 stray from an even grid. A random order wanders by pixels and comes "
        "home at the end; a pseudorandom one is never a whole pixel away.",
        alt="Two panels of five lines each, offset against output pixel. Left: lines wander up and down by up to a few "
        "pixels. Right: all lines stay within one pixel of zero.",
    )


def picture(size: int = 181) -> Tensor:
    """Return a picture with edges of every direction: a ring, a disc, a cross and a ramp, in 0..1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    radius = (x**2 + y**2).sqrt()
    image = 0.25 + 0.15 * x
    image = torch.where((radius - 0.8).abs() < 0.03, 0.95, image)
    image = torch.where(((x + 0.3) ** 2 + (y + 0.3) ** 2) < 0.05, 0.8, image)
    image = torch.where(((x - y).abs() < 0.03) & (radius < 0.6), 0.6, image)
    return torch.where(((x + y - 0.3).abs() < 0.02) & (radius < 0.7), 1.0, image)


def pictures(record) -> None:
    """Pool one picture five times by √2, in four ways and twice each."""
    image, generator = picture(), random.Random(0)
    panels = [_shown("the picture", image)]
    for name, (pseudorandom, overlapping) in VARIANTS.items():
        draws = []
        for _ in range(2):
            pooled = image
            for n_in, n_out in pairwise((181, 128, 91, 64, 45, 32)):
                steps = [method.increments(n_in, n_out, pseudorandom, generator.randrange(2**31)) for _ in "rc"]
                pooled = method.fractional_max_pool(pooled, *steps, overlapping=overlapping)
            draws += [pooled, torch.full((32, 2), math.nan)]
        panels.append(_shown(name, torch.cat(draws[:-1], 1)))
    record.figure(
        "pictures",
        panels,
        caption="One picture of 181 × 181 pixels pooled five times by √2, to 32 × 32, twice in each way. Random regions bend it, "
        "differently each time; pseudorandom ones shrink it evenly. Overlapping regions let bright lines grow.",
        alt="The original and eight small versions: a ring, a disc and two strokes. In the random ones the ring is dented "
        "differently in each draw; in the pseudorandom ones it stays round. Overlapping ones are brighter.",
    )


def _shown(title: str, image: Tensor):
    fig, axis = panel(title, height=2.0)
    axis.imshow(image, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    axis.set_axis_off()
    return fig


def layers_down(size: int, target: int, alpha: float) -> int:
    """Return how many poolings by α, each rounded to whole pixels, lead from one size to another."""
    count = 0
    while size > target:
        size, count = round(size / alpha), count + 1
    return count


def depth(record) -> None:
    by_two, by_root = layers_down(64, 2, 2.0), layers_down(64, 2, math.sqrt(2))
    record.metric("layers_by_two", by_two, setting="from 64 pixels to 2")
    record.metric("layers_by_root_two", by_root, setting="from 64 pixels to 2, each size rounded")
    record.metric("layers_ratio", by_root / by_two, setting="√2 against 2, from 64 pixels to 2")


class Net(nn.Module):
    """Three convolutions, each followed by a pooling whose regions are drawn anew at every call."""

    def __init__(self, pseudorandom: bool, overlapping: bool, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.how = pseudorandom, overlapping
        self.draws = random.Random(seed)
        self.layers = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1) for i, o in zip((1, *CHANNELS[:-1]), CHANNELS, strict=True)
        )
        self.head = nn.Linear(CHANNELS[-1] * SIZES[-1] ** 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        pseudorandom, overlapping = self.how
        h = x.view(-1, 1, 8, 8)
        for layer, n_in, n_out in zip(self.layers, SIZES, SIZES[1:], strict=False):
            rows, columns = (method.increments(n_in, n_out, pseudorandom, self.draws.randrange(2**31)) for _ in "rc")
            h = method.fractional_max_pool(torch.relu(layer(h)), rows, columns, overlapping)
        return self.head(h.flatten(1))


def averaging(record) -> None:
    """Train each variant, then classify by the mean probability of 1 to PASSES passes with fresh regions."""
    errors = {name: torch.stack([_errors(*how, seed) for seed in range(SEEDS)]) for name, how in TRAINED.items()}
    passes, top = torch.arange(1, PASSES + 1), max(curves.max().item() for curves in errors.values())
    panels, rows = [], []
    for (name, curves), colour in zip(errors.items(), (SERIES[0], SERIES[1]), strict=True):
        fig, axis = panel(f"{name} regions", "passes averaged", "test error, %")
        spread(axis, passes, curves, colour, lw=1.8)
        axis.set_ylim(0, 1.08 * top)
        axis.set_xticks([1, 4, 8, 12, 16])
        panels.append(fig)
        for n in (1, 6, 12):
            where = f"test error, {'mean of single passes' if n == 1 else f'{n} passes'}; {SETTING}"
            record.metric(f"{name}_{n}", curves[:, n - 1].tolist(), unit="%", setting=where)
        means = {n: round(curves[:, n - 1].mean().item(), 2) for n in (1, 2, 6, 12, 16)}
        rows.append({"regions": name, **{f"{n} pass{'es' * (n > 1)}, %": value for n, value in means.items()}})
    record.figure(
        "passes",
        panels,
        caption="Test error when the probabilities of several passes are averaged, each with fresh overlapping regions: mean "
        f"over the seeds, with their range. {SETTING}.",
        alt="Two panels, test error against the number of passes from 1 to 16, a line with a band for the seeds. Left random, "
        "right pseudorandom regions.",
    )
    record.table("passes", rows, caption=f"Test error, mean over the seeds. One pass: the mean of {PASSES}. {SETTING}.")


@torch.no_grad()
def _errors(pseudorandom: bool, overlapping: bool, seed: int) -> Tensor:
    """Return the test error in % of a trained network after 1 to PASSES passes; that of one is the mean of them all."""
    x, y, x_test, y_test = digits(seed=seed)
    net = Net(pseudorandom, overlapping, seed)
    with torch.enable_grad():
        optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
        fit(net, x, y, optimizer=optimizer, epochs=EPOCHS, batch=BATCH, seed=seed)
    each = torch.stack([net(x_test).softmax(1) for _ in range(PASSES)])
    averaged = each.cumsum(0)
    errors = 100 * (averaged.argmax(-1) != y_test).float().mean(1)
    errors[0] = 100 * (each.argmax(-1) != y_test).float().mean()
    return errors


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.randn(shape, generator=generator, device=device, dtype=torch.float64).to(dtype)
    rows, columns = (method.increments(size, max(1, round(size / 2**0.5)), seed=seed + size) for size in shape[-2:])
    return {"x": x, "rows": rows, "columns": columns}


def _outputs(arguments) -> int:
    x = arguments["x"]
    return x.shape[:-2].numel() * len(arguments["rows"]) * len(arguments["columns"])


def _bytes(arguments) -> int:
    x = arguments["x"]
    return x.numel() * x.element_size() + _outputs(arguments) * (x.element_size() + 1)


KERNELS = (
    Kernel(
        name="fractional_max_pool",
        op=kernel.fractional_max_pool,
        twin=method.fractional_max_pool,
        inputs=_inputs,
        bytes_moved=_bytes,
        operations=lambda arguments: 8 * _outputs(arguments),
        shapes=((1, 1), (0, 3, 4), (2, 3, 5, 7), (7, 8), (3, 31, 17), (2, 16, 64)),
        bench_shapes=((64, 64, 181, 181), (256, 256, 64, 64)),
        dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        differentiable=("x",),
        exact=True,
        vectorised=False,
        oracle="method.fractional_max_pool in float64; a loop over regions and F.max_pool2d in the tests",
    ),
)
