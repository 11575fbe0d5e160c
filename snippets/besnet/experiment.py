"""Random dilation measured: a filter inflated over a still clip, and order across a gap whose frames vary with the rate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generator.lab.figures import INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import error_rate, fit
from snippets.besnet import kernel, method

FRAMES, SIDE, NOISE, STILL = 12, 3, 0.3, 24
SPACING, LASTS = 6, 2
"""Ticks from the first event to the second, and ticks that each lasts; a frame is taken every `stride` ticks."""
STRIDES, UNSEEN = (1.0, 2.0, 3.0), 1.5
PAIRS = ((0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1))
"""The six classes: which of three patterns comes first, and which second."""
WIDTH, EPOCHS, BATCH, RATE, TRAIN, TEST, SEEDS = 8, 7, 32, 0.01, 640, 150, 3
SETTING = f"synthetic clips of {FRAMES} frames, {TRAIN} to train, {EPOCHS} epochs, {SEEDS} seeds"
BOTH = (1, 2)
POLICIES = {"none": ((1,), False), "fixed": ((2,), False), "random": (BOTH, True)}
NAMES = {"none": "no dilation", "fixed": "fixed 2", "random": "random {1, 2}"}


def run(record) -> None:
    """Record what inflation does to a still clip, the lengths, and three ways to dilate under varying frame rates."""
    inflation(record)
    lengths(record)
    frame_rates(record)


def inflation(record) -> None:
    """Compare a still clip through inflated filters with one of its frames through the 2-D filters they come from."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 8, 1, 5, 5, generator=generator, dtype=torch.float64)
    filters = [torch.randn(8, 8, generator=generator, dtype=torch.float64) / 8**0.5 for _ in range(4)]
    worst, panels, shares = 0.0, [], {}
    for layers in (1, 4):
        fig, axis = panel(f"{layers} inflated layer{'s' * (layers > 1)}", "frame", "share of the 2-D output")
        for number, (label, dilations) in enumerate({"d = 1": (1,), "d = 2": (2,), "mean of both": BOTH}.items()):
            clip, frame = image.expand(-1, -1, STILL, -1, -1), image
            for w in filters[:layers]:
                clip = method.temporal_conv(clip, method.inflate(w), dilations)
                frame = torch.einsum("oc,bcthw->bothw", w, frame)
            reach = layers * max(dilations)
            worst = max(worst, (clip - frame)[:, :, reach : STILL - reach].abs().max().item())
            share = ((clip * frame).sum((0, 1, 3, 4)) / (frame * frame).sum()).tolist()
            shares[layers, label] = share
            style = {"color": SERIES[number], "ls": ("-", "--", ":")[number], "lw": 1.6, "marker": "o", "ms": 3}
            axis.plot(range(1, STILL + 1), share, label=label, **style)
        axis.set_ylim(0, 1.08)
        axis.legend(loc="lower center")
        panels.append(fig)
    setting = f"still clip of {STILL} frames, 8 channels, float64"
    record.metric("inflation_error", worst, setting=setting + ", frames whose taps lie inside the clip, 1 and 4 layers")
    record.metric("end_share_one", shares[1, "d = 1"][0], setting=setting + ", first frame, d = 1")
    record.metric(
        "second_share_both", shares[1, "mean of both"][1], setting=setting + ", second frame, mean of d = 1, 2"
    )
    record.metric("end_share_four", shares[4, "d = 1"][0], setting=setting + ", first frame after 4 layers, d = 1")
    record.figure(
        "inflation",
        panels,
        caption="A still clip through 1×1 filters inflated to 3×1×1, as a share of what the 2-D filters give. Left one layer, "
        "right four without activation or normalization between them.",
        alt="Two panels of share by frame for dilation 1, dilation 2 and their mean. One layer: all curves are 1 but for the "
        "first and last frames, at two thirds. Four layers: the drop at both ends is deeper and reaches further in.",
    )


def lengths(record) -> None:
    """Count the pairs of clip length and dilation for which the output is not as long as the clip."""
    weight = torch.ones(1, 1, 3)
    changed = [
        method.temporal_conv(torch.ones(1, 1, time, 1, 1), weight, (d,)).shape[2] != time
        for time in range(1, 33)
        for d in range(1, 41)
    ]
    record.metric("lengths_changed", sum(changed), setting="clips of 1 to 32 frames, dilations 1 to 40")


def clips(count: int, strides: tuple[float, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Return clips [count, 1, time, side, side] of noise with two events, and which pair they are, in which order."""
    fixed = torch.Generator().manual_seed(12345)
    patterns = torch.randn(3, SIDE, SIDE, generator=fixed).sign()
    generator = torch.Generator().manual_seed(seed)
    x = NOISE * torch.randn(count, 1, FRAMES, SIDE, SIDE, generator=generator)
    labels = torch.randint(len(PAIRS), (count,), generator=generator)
    for number, label in enumerate(labels.tolist()):
        stride = strides[number % len(strides)]
        gap, lasts = round(SPACING / stride), max(1, int(LASTS / stride))
        start = int(torch.randint(FRAMES - gap - lasts + 1, (), generator=generator))
        for event, pattern in enumerate(PAIRS[label]):
            at = start + event * gap
            x[number, 0, at : at + lasts] += patterns[pattern]
    return x, labels


class Temporal(nn.Module):
    """A 3×1×1 layer: in training one dilation, drawn for each minibatch if `draw`; in evaluation the mean over all."""

    def __init__(self, dilations: tuple[int, ...], draw: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.dilations, self.draw, self.generator = dilations, draw, generator
        # drawn tap by tap: there is no trained 2-D filter to inflate, and equal taps could not tell before from after
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH, 3, generator=generator) * (2 / (3 * WIDTH)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        dilations = self.dilations
        if self.training and self.draw:
            dilations = (dilations[int(torch.randint(len(dilations), (), generator=self.generator))],)
        return method.temporal_conv(x, self.weight, dilations)


class Spatial(nn.Module):
    """A 1×3×3 layer, each frame by itself."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(WIDTH, channels, 3, 3, generator=generator) * (2 / (9 * channels)) ** 0.5
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, time, height, width = x.shape
        frames = x.transpose(1, 2).reshape(-1, channels, height, width)
        return F.conv2d(frames, self.weight, padding=1).unflatten(0, (batch, time)).transpose(1, 2)


class BesNet(nn.Module):
    """A stem and one module, 3×1×1, 1×3×3, 3×1×1, with its shortcut; space is averaged, then time is max-pooled."""

    def __init__(self, dilations: tuple[int, ...], draw: bool, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.stem = nn.Sequential(Spatial(1, generator), nn.ReLU(), nn.BatchNorm3d(WIDTH))
        layers = (Temporal(dilations, draw, generator), Spatial(WIDTH, generator), Temporal(dilations, draw, generator))
        self.module = nn.Sequential(*(nn.Sequential(one, nn.ReLU(), nn.BatchNorm3d(WIDTH)) for one in layers))
        self.head = nn.Linear(WIDTH, len(PAIRS))
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(len(PAIRS), WIDTH, generator=generator) / WIDTH**0.5)
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.module(x)).mean((3, 4)).amax(2))

    def dilate(self, dilations: tuple[int, ...]) -> BesNet:
        for one in self.modules():
            if isinstance(one, Temporal):
                one.dilations = dilations
        return self


def frame_rates(record) -> None:
    """Train no dilation, dilation 2 and a random one on clips of three frame rates; test each rate, and a fourth."""
    rates = sorted((*STRIDES, UNSEEN), reverse=True)
    tests = {stride: clips(TEST, (stride,), 900 + number) for number, stride in enumerate(rates)}
    accuracy: dict[tuple[str, tuple[int, ...], float], list[float]] = {}
    for seed in range(SEEDS):
        x, labels = clips(TRAIN, STRIDES, seed)
        for name, (dilations, draw) in POLICIES.items():
            net = BesNet(dilations, draw, seed)
            optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)
            losses = fit(net, x, labels, optimizer=optimizer, epochs=EPOCHS, batch=BATCH, seed=seed)
            record.log(f"seed {seed}, {name}: last loss {losses[-1]:.3f}")
            for tested in ((1,), (2,), BOTH):
                net.dilate(tested)
                for stride, (clip, label) in tests.items():
                    accuracy.setdefault((name, tested, stride), []).append(1 - error_rate(net, clip, label))
    report(record, accuracy, rates)


def report(record, accuracy: dict[tuple[str, tuple[int, ...], float], list[float]], rates: list[float]) -> None:
    def over(name: str, tested: tuple[int, ...]) -> list[float]:
        return [sum(runs) / len(STRIDES) for runs in zip(*(accuracy[name, tested, s] for s in STRIDES), strict=True)]

    setting = f"{SETTING}, the three trained frame rates"
    for name, (dilations, _) in POLICIES.items():
        record.metric(f"accuracy_{name}", over(name, dilations), setting=setting)
        by_rate = zip(*(accuracy[name, dilations, s] for s in STRIDES), strict=True)
        record.metric(
            f"rate_gap_{name}", [max(runs) - min(runs) for runs in by_rate], setting=f"{setting}, best − worst"
        )
        record.metric(
            f"accuracy_unseen_{name}", accuracy[name, dilations, UNSEEN], setting=f"{SETTING}, a rate not trained"
        )
    for tested, name in (((1,), "one"), ((2,), "two")):
        record.metric(
            f"accuracy_random_at_{name}", over("random", tested), setting=f"{setting}, tested at d = {tested[0]}"
        )
    rows = []
    for name in POLICIES:
        cells = {str(t).replace("(1, 2)", "mean of 1 and 2").strip("(),"): over(name, t) for t in ((1,), (2,), BOTH)}
        rows.append(
            {
                "trained with": NAMES[name],
                **{f"tested at {k}": f"{100 * sum(v) / len(v):.1f} %" for k, v in cells.items()},
            }
        )
    record.table(
        "dilation-at-test", rows, caption=f"Accuracy, mean of {SEEDS} seeds, over the three trained frame rates."
    )

    gaps = [round(SPACING / stride) for stride in rates]
    left, axis = panel("as trained", "frames from event to event", "accuracy")
    for number, name in enumerate(("random", "none", "fixed")):
        runs = list(zip(*(accuracy[name, POLICIES[name][0], s] for s in rates), strict=True))
        spread(axis, gaps, runs, SERIES[number], NAMES[name], marker="o", ms=4)
    right, other = panel("trained at random, tested at", "frames from event to event", "accuracy")
    for number, (label, tested) in enumerate({"mean of 1 and 2": BOTH, "1": (1,), "2": (2,)}.items()):
        runs = list(zip(*(accuracy["random", tested, s] for s in rates), strict=True))
        spread(other, gaps, runs, SERIES[(0, 3, 4)[number]], label, marker="o", ms=4)
    for one in (axis, other):
        one.axhline(0.5, color=INK, lw=1, ls=":")
        one.text(gaps[0], 0.485, "order unknown", color=INK, va="top", fontsize=8)
        one.set(ylim=(0.1, 1.05), xticks=gaps)
        one.legend(loc="lower left")
    record.figure(
        "frame-rates",
        [left, right],
        caption=f"Accuracy by how many frames the same six ticks span; {SETTING}, line the mean and band the range. A gap of "
        f"{round(SPACING / UNSEEN)} frames was never trained on. Who knows both events but not their order reaches 0.5.",
        alt="Two panels of accuracy by frames between the events. Left: nets trained with no dilation, fixed 2 and random "
        "dilation. Right: the randomly trained net tested at dilation 1, at 2 and with their mean.",
    )


def folded(x: Tensor, weight: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Return the same as one F.conv3d: every dilation's taps folded into a filter of 2 · max(dilations) + 1."""
    most, share = max(dilations), 1 / len(dilations)
    taps = weight.new_zeros((*weight.shape[:2], 2 * most + 1))
    taps[..., most] = weight[..., 1]
    for d in dilations:
        taps[..., most - d] += share * weight[..., 0]
        taps[..., most + d] += share * weight[..., 2]
    return F.conv3d(x, taps[..., None, None], padding=(most, 0, 0))


def _inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> dict:
    batch, channels, outs, *rest = shape
    generator = torch.Generator(device).manual_seed(seed)
    draw = {"generator": generator, "device": device}
    x = torch.randn(batch, channels, *rest, **draw).to(dtype)
    weight = (torch.randn(outs, channels, 3, **draw) / max(1, 3 * channels) ** 0.5).to(dtype)
    return {"x": x, "weight": weight, "dilations": BOTH}


def _bytes(a) -> int:
    y = a["x"].numel() // max(1, a["x"].shape[1]) * a["weight"].shape[0]
    return (a["x"].numel() + a["weight"].numel() + y) * a["x"].element_size()


KERNELS = (
    Kernel(
        name="temporal_conv",
        op=kernel.temporal_conv,
        twin=method.temporal_conv,
        eager=folded,
        inputs=_inputs,
        shapes=(
            (0, 2, 3, 4, 2, 2),
            (2, 0, 3, 4, 2, 2),
            (1, 1, 1, 1, 1, 1),
            (2, 3, 5, 4, 3, 3),
            (1, 17, 33, 3, 5, 5),
        ),
        bench_shapes=((16, 256, 64, 16, 56, 56), (32, 64, 256, 16, 56, 56)),
        compile_shape=(2, 64, 64, 16, 16, 16),
        differentiable=("x", "weight"),
        bytes_moved=_bytes,
        # x and dL/dy are read for either gradient, and each gradient written once
        backward_bytes=lambda a: 2 * _bytes(a),
        operations=lambda a: 2 * 5 * a["x"].numel() * a["weight"].shape[0],  # the five taps of dilations 1 and 2
        reduction=lambda a: max(5 * max(a["weight"].shape[:2]), a["x"].numel() // max(1, a["x"].shape[1])),
        oracle="method.temporal_conv in float64; the mean of F.conv3d in the tests",
        special=("x",),  # 0 · ∞ at a padded end is NaN or not, depending on how torch convolves
    ),
)
