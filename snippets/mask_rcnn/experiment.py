"""RoIPool and RoIAlign under a shifting box, what a box reads, and masks that compete or do not."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generator.lab.figures import FAINT, INK, SERIES, panel
from generator.lab.kernels import Kernel
from snippets.mask_rcnn import kernel, method

STRIDE, SHIFTS = 16, 321
"""Image pixels a feature pixel, as in ResNet-C4; and the positions of the box, over two feature pixels."""
SEEDS, STEPS, LOOK, BATCH, TESTED, SIDE, CLASSES = 3, 120, 20, 32, 160, 20, 3
MASKS = f"synthetic discs, squares and crosses, {SIDE}x{SIDE} RoIs, 4 convolutions of 16, {STEPS} steps, {SEEDS} seeds"


def run(record) -> None:
    """Record the shifts, the reading of large boxes, and the masks."""
    ramp(record)
    shifts(record)
    reading(record)
    gradients(record)
    masks(record)


# RoI features


def positions(height: int, width: int) -> Tensor:
    """Return a map [1, 1, height, width] whose value is the x, in image pixels, of its own pixel's center."""
    return ((torch.arange(width, dtype=torch.float64) + 0.5) * STRIDE).expand(1, 1, height, width)


def ramp(record) -> None:
    """Compare RoIAlign of a linear ramp with the ramp at each bin's center, on random boxes inside the map."""
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(2, 200, 2, generator=generator, dtype=torch.float64)
    y, x = torch.meshgrid(torch.arange(40).double(), torch.arange(50).double(), indexing="ij")
    near = 1 + random[0] * torch.tensor([28, 18])
    far = near + 0.5 + random[1] * 19.5
    boxes = torch.cat([torch.zeros(200, 1), near, far], 1)
    nth = (torch.arange(7).double() + 0.5) / 7
    centers = near[:, :, None] + nth * (far - near)[:, :, None] - 0.5
    want = 0.7 * centers[:, 0, None, :] - 1.3 * centers[:, 1, :, None] + 2
    features = (0.7 * x - 1.3 * y + 2)[None, None]
    got = torch.stack([method.roi_align(features, boxes, 7, sampling_ratio=ratio)[:, 0] for ratio in (1, 2, 4, 0)])
    how = (
        "ramp 0.7x - 1.3y + 2, 200 random boxes inside the map, 7x7 bins; 1, 4, 16 and adaptively many samples; float64"
    )
    record.metric("ramp_error", (got - want).abs().max().item(), setting=how)


def shifts(record) -> None:
    """Slide a box by fractions of a pixel and ask where each operation thinks that its middle bin is."""
    features = positions(40, 50)
    shift = torch.linspace(0, 2 * STRIDE, SHIFTS, dtype=torch.float64)
    start, side = 10.3 * STRIDE, 7 * STRIDE * 1.6
    boxes = torch.tensor([0, start, start, start + side, start + side], dtype=torch.float64).repeat(SHIFTS, 1)
    boxes[:, [1, 3]] += shift[:, None]
    center = start + side / 2 + shift
    seen = {
        "RoIAlign": method.roi_align(features, boxes, 7, 1 / STRIDE),
        "RoIAlign, not aligned": method.roi_align(features, boxes, 7, 1 / STRIDE, aligned=False),
        "RoIPool": method.roi_pool(features, boxes, 7, 1 / STRIDE),
    }
    seen = {name: pooled[:, 0, 3, 3] for name, pooled in seen.items()}
    error = {name: value - center for name, value in seen.items()}

    style = {
        "RoIAlign": {"color": SERIES[0], "lw": 2.4},
        "RoIAlign, not aligned": {"color": SERIES[2], "lw": 1.4, "ls": "--"},
        "RoIPool": {"color": SERIES[1], "lw": 1.6},
    }
    where, where_axis = panel("what the middle bin reports", "shift of the box (image pixels)", "x it reports (px)")
    wrong, wrong_axis = panel("how far that is off", "shift of the box (image pixels)", "error (px)")
    for name, value in seen.items():
        where_axis.plot(shift, value, label=name, **style[name])
        wrong_axis.plot(shift, error[name], **style[name])
    where_axis.plot(shift[::40], center[::40], "o", color=INK, ms=3, label="true center")
    where_axis.legend(loc="upper left")
    wrong_axis.axhline(0, color=FAINT, lw=0.8)
    wrong_axis.annotate("RoIAlign", (31, 0.5), color=SERIES[0], ha="right", va="bottom", fontsize=8.5)
    wrong_axis.annotate("not aligned: half a pixel", (31, 7.4), color=SERIES[2], ha="right", va="top", fontsize=8.5)
    wrong_axis.annotate("RoIPool", (31, error["RoIPool"].max() + 0.6), color=SERIES[1], ha="right", fontsize=8.5)
    wrong_axis.set_ylim(-4, error["RoIPool"].max().item() + 4)
    record.figure(
        "shifts",
        [where, wrong],
        caption=f"A box slides right over a map that holds each pixel's own x, {STRIDE} image pixels a feature pixel. "
        "RoIAlign reports its bin's center; RoIPool stands still, then jumps.",
        alt="Left: against the shift, RoIAlign is a straight line on the true center, RoIPool a staircase above it. "
        "Right: the error of RoIAlign is 0, without the half pixel 8, that of RoIPool a sawtooth.",
    )

    rounding = torch.stack([(boxes[:, n] / STRIDE + 0.5).floor() for n in (1, 3)], 1)
    same = (rounding[1:] == rounding[:-1]).all(1)  # no corner rounded to another pixel between the two shifts
    moved = (seen["RoIPool"][1:] - seen["RoIPool"][:-1]).abs()
    how = f"box of 179 px slid over 32 px in steps of 0.1 px, stride {STRIDE}, 7x7 bins"
    record.metric("roi_pool_change_between_jumps", moved[same].max().item(), "px", setting=how)
    record.metric("roi_pool_values", len(seen["RoIPool"].unique()), setting=f"{how}: distinct values of {SHIFTS}")
    record.metric("roi_align_values", len(seen["RoIAlign"].unique()), setting=f"{how}: distinct values of {SHIFTS}")
    swing = {name: (value.max() - value.min()).item() for name, value in error.items()}
    record.metric("roi_pool_swing", swing["RoIPool"], "px", setting=f"{how}: largest minus smallest error")
    record.metric("roi_align_swing", swing["RoIAlign"], "px", setting=f"{how}: largest minus smallest error")
    record.metric("half_pixel", error["RoIAlign, not aligned"].mean().item(), "px", setting=f"{how}, aligned=False")


def reading(record) -> None:
    """Count by the gradient the pixels under a box that its 7x7 bins read at all."""
    rows = []
    for side in (7, 14, 28, 56, 112):
        features = torch.zeros(1, 1, 120, 120, dtype=torch.float64, requires_grad=True)
        box = torch.tensor([[0, 3.3, 3.3, 3.3 + side, 3.3 + side]], dtype=torch.float64)
        row = {"side of the box (feature pixels)": side}
        for name, ratio in (("4 samples a bin", 2), ("adaptive", 0)):
            pooled = method.roi_align(features, box, 7, sampling_ratio=ratio)
            (gradient,) = torch.autograd.grad(pooled.sum(), features)
            row[f"{name} (%)"] = round(100 * min(1.0, (gradient != 0).sum().item() / side**2), 1)
        rows.append(row)
    record.table("reading", rows, caption="Share of the pixels under a box that its 7x7 bins read.")
    record.metric(
        "read_share_56", rows[3]["4 samples a bin (%)"], "%", setting="a box of 56 feature pixels, 7x7 bins, 4 samples"
    )


# Masks


def multinomial_loss(logits: Tensor, classes: Tensor, target: Tensor) -> Tensor:
    """Return the per-pixel softmax loss of Table 2b: K classes and background, each pixel of one kind."""
    return F.cross_entropy(logits, torch.where(target > 0, classes[:, None, None], logits.shape[1] - 1))


def gradients(record) -> None:
    """Measure what one class's target does to the logits of the others."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, CLASSES + 1, SIDE, SIDE, generator=generator, dtype=torch.float64, requires_grad=True)
    _, classes, target, _ = shapes(64, generator)
    others = torch.ones(64, CLASSES, dtype=torch.bool)
    others[torch.arange(64), classes] = False
    share = {}
    for name, loss in (
        ("sigmoid", method.mask_loss(logits[:, :CLASSES], classes, target.double())),
        ("softmax", multinomial_loss(logits, classes, target)),
    ):
        gradient = torch.autograd.grad(loss, logits)[0][:, :CLASSES].abs()
        share[name] = (gradient[others].sum() / gradient.sum()).item()
    how = "random logits, 64 RoIs; share of Σ|∂L/∂z| over the class logits"
    record.metric("sigmoid_gradient_elsewhere", share["sigmoid"], setting=how)
    record.metric("softmax_gradient_elsewhere", share["softmax"], setting=how)


def shapes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw RoIs: images [n, 1, SIDE, SIDE], the class whose box this is, its mask, and where another lies over it.

    The RoI is the box of its shape with some air. A second shape, of another class, is as large and centered up to
    half a RoI away; brightness adds where they overlap. Noise has a standard deviation of 0.1.
    """
    at = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1

    def draw(kind: Tensor, center: Tensor, radius: Tensor) -> Tensor:
        y = (at[None, :, None] - center[:, :1, None]) / radius[:, None, None]
        x = (at[None, None, :] - center[:, 1:, None]) / radius[:, None, None]
        disc, square = x**2 + y**2 < 1, (x.abs() < 0.85) & (y.abs() < 0.85)
        cross = ((x.abs() < 0.35) & (y.abs() < 1)) | ((y.abs() < 0.35) & (x.abs() < 1))
        return torch.stack([disc, square, cross], 1)[torch.arange(count), kind]

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *size, generator=generator)

    classes = torch.randint(CLASSES, (count,), generator=generator)
    others = (classes + torch.randint(1, CLASSES, (count,), generator=generator)) % CLASSES
    target = draw(classes, uniform(-0.1, 0.1, 2), uniform(0.75, 0.95))
    other = draw(others, uniform(-0.5, 0.5, 2), uniform(0.75, 0.95))
    images = target.float() + other.float() + 0.1 * torch.randn(count, SIDE, SIDE, generator=generator)
    return images[:, None], classes, target.float(), target & other


def head(outputs: int) -> nn.Sequential:
    """Return a small fully convolutional mask branch; its dilations let every pixel see the whole RoI."""
    layers: list[nn.Module] = []
    for channels, dilation in ((1, 1), (16, 2), (16, 4), (16, 2)):
        layers += [nn.Conv2d(channels, 16, 3, padding=dilation, dilation=dilation), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(16, outputs, 1))


def of_class(logits: Tensor, classes: Tensor) -> Tensor:
    return logits[torch.arange(len(classes)), classes]


LOSSES = {
    "sigmoid": (CLASSES, method.mask_loss),
    "softmax": (CLASSES + 1, multinomial_loss),
    "agnostic": (1, lambda logits, classes, target: method.mask_loss(logits, 0 * classes, target)),
}
"""Outputs of the mask branch, and its loss."""

READINGS = {
    # which branch, its probability of the true class's mask, and how to say so
    "sigmoid": ("sigmoid", lambda z, k: of_class(z, k).sigmoid(), "sigmoid, one mask a class"),
    "softmax": ("softmax", lambda z, k: of_class(z.softmax(1), k), "softmax over the classes"),
    "softmax_told": (
        "softmax",
        lambda z, k: (of_class(z, k) - z[:, -1]).sigmoid(),
        "same softmax, other classes removed",
    ),
    "agnostic": ("agnostic", lambda z, k: z[:, 0].sigmoid(), "sigmoid, one mask for all classes"),
}


def probabilities(loss: str, seed: int, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """Train a mask branch; return, after every LOOK steps, each reading of it: [look, n, SIDE, SIDE]."""
    outputs, objective = LOSSES[loss]
    torch.manual_seed(seed)
    net, generator = head(outputs), torch.Generator().manual_seed(1000 + seed)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    seen: dict[str, list[Tensor]] = {name: [] for name, (which, *_) in READINGS.items() if which == loss}
    for step in range(1, STEPS + 1):
        drawn, kinds, target, _ = shapes(BATCH, generator)
        optimizer.zero_grad()
        objective(net(drawn), kinds, target).backward()
        optimizer.step()
        if step % LOOK == 0:
            with torch.no_grad():
                logits = net(images)
            for name, looks in seen.items():
                looks.append(READINGS[name][1](logits, classes))
    return {name: torch.stack(looks) for name, looks in seen.items()}


def masks(record) -> None:
    """Train a mask branch with each loss and compare the true class's mask, thresholded at ½, with the truth."""
    overlap: dict[str, list[Tensor]] = {name: [] for name in READINGS}
    recall: dict[str, list[float]] = {name: [] for name in READINGS}
    shown: dict[str, Tensor] = {}
    for seed in range(SEEDS):
        images, classes, target, both = shapes(TESTED, torch.Generator().manual_seed(2000 + seed))
        for loss in LOSSES:
            for name, p in probabilities(loss, seed, images, classes).items():
                mask, truth = p > 0.5, target > 0.5
                overlap[name].append(((mask & truth).sum((2, 3)) / (mask | truth).sum((2, 3))).mean(1))
                recall[name].append(mask[-1][both].float().mean().item())
                shown.setdefault(name, p[-1])
        shown.setdefault("image", images[:, 0])
        shown.setdefault("truth", target)
    last = {name: [looks[-1].item() for looks in each] for name, each in overlap.items()}
    for name in READINGS:
        record.metric(f"iou_{name}", last[name], setting=f"{MASKS}: mean IoU of {TESTED} new RoIs")
        record.metric(f"overlap_recall_{name}", recall[name], setting=f"{MASKS}: where two shapes overlap")
    ratio = [a / s for a, s in zip(last["agnostic"], last["sigmoid"], strict=True)]
    record.metric("iou_agnostic_over_sigmoid", ratio, setting=MASKS)
    rows = [
        {
            "mask": READINGS[name][2],
            "mean IoU": round(math.fsum(last[name]) / SEEDS, 3),
            "recall where shapes overlap": round(math.fsum(recall[name]) / SEEDS, 3),
        }
        for name in READINGS
    ]
    record.table("masks", rows, caption=f"{MASKS[0].upper()}{MASKS[1:]}; means over the seeds.")
    draw_masks(record, shown)
    draw_learning(record, {name: torch.stack(each) for name, each in overlap.items()})


def draw_masks(record, shown: dict[str, Tensor]) -> None:
    """Show the first four test RoIs of the first seed, and what each loss made of them."""
    left, axis = panel("RoI and its true mask", height=2.1)
    right, other = panel("probability of the true class's mask", height=2.1)
    gap = 2

    def tile(rows: list[Tensor]) -> Tensor:
        sheet = torch.full((len(rows) * (SIDE + gap) - gap, 4 * (SIDE + gap) - gap), math.nan)
        for n, row in enumerate(rows):
            for m in range(4):
                top, start = n * (SIDE + gap), m * (SIDE + gap)
                sheet[top : top + SIDE, start : start + SIDE] = row[m]
        return sheet

    for ax, rows, labels in (
        (axis, [shown["image"] / 2, shown["truth"]], ["RoI", "mask"]),
        (other, [shown["sigmoid"], shown["softmax"]], ["sigmoid", "softmax"]),
    ):
        ax.imshow(tile(rows), cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        ax.set_yticks([SIDE / 2, SIDE / 2 + SIDE + gap], labels, rotation=90, va="center")
        ax.set_xticks([])
        ax.grid(False)
        ax.spines[:].set_visible(False)
    record.figure(
        "masks",
        [left, right],
        caption="Four RoIs the networks have not seen, two shapes in each: the RoI's own is centered. "
        "Bright is probable. First seed.",
        alt="Two rows of four small images: overlapping shapes and the mask of the centered one; then the probability "
        "that a sigmoid and a softmax head give to that mask.",
    )


def draw_learning(record, overlap: dict[str, Tensor]) -> None:
    """Draw the mean IoU of every reading against the steps of training, seeds as a band."""
    fig, axis = panel("how fast a mask branch learns", "steps", "mean IoU, new RoIs", height=3.2)
    steps = torch.arange(1, STEPS // LOOK + 1) * LOOK
    for colour, (name, looks) in zip(SERIES, overlap.items(), strict=False):
        dashed = "--" if name == "softmax_told" else "-"
        axis.plot(steps, looks.mean(0), color=colour, ls=dashed, label=READINGS[name][2])
        axis.fill_between(steps, looks.amin(0), looks.amax(0), color=colour, alpha=0.15, lw=0)
    axis.set_ylim(0, 1.02)
    axis.legend(loc="center right", bbox_to_anchor=(1.02, 0.59))
    record.figure(
        "learning",
        fig,
        caption=f"Mean IoU of the true class's mask while training; bands span {SEEDS} seeds. Dashed: the "
        "same softmax branch, read with the other classes' outputs removed.",
        alt="Sigmoid masks rise fastest and end highest; softmax masks lag far behind; the same softmax outputs with "
        "the other classes removed come close to the sigmoid.",
    )


# The kernel


def boxes_in(count: int, height: int, width: int, images: int, generator: torch.Generator) -> Tensor:
    """Draw boxes, some over the border, on quarters of a pixel: there fp16, bf16 and float64 place samples alike."""
    ends = torch.rand(2, count, 2, generator=generator) * torch.tensor([width + 2, height + 2]) - 1
    ends = (ends * 4).round() / 4
    image = torch.randint(images, (count, 1), generator=generator).float()
    return torch.cat([image, ends.amin(0), ends.amax(0)], 1)


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> dict[str, object]:
    """Return arguments for (images, channels, height, width, boxes, bins): features and boxes drawn from the seed."""
    images, channels, height, width, count, bins = shape
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, channels, height, width, generator=generator).to(dtype)
    boxes = boxes_in(count, height, width, images, generator).to(dtype)
    boxes[3:4, 1:] -= 4 * max(height, width)  # one lies wholly off the map: it must be 0, whatever the map holds
    return {
        "features": features.to(device),
        "boxes": boxes.to(device),
        "output_size": bins,
        "spatial_scale": 1.0,
        "sampling_ratio": 0 if channels == 3 else 2,
        "aligned": channels != 5,
    }


def _pooled(arguments) -> int:
    return len(arguments["boxes"]) * arguments["features"].shape[1] * arguments["output_size"] ** 2


KERNELS = (
    Kernel(
        name="roi_align",
        op=kernel.roi_align,
        twin=method.roi_align,
        inputs=inputs,
        shapes=(
            (1, 1, 1, 1, 1, 1),
            (2, 4, 9, 7, 0, 2),
            (2, 5, 9, 13, 4, 3),
            (1, 3, 12, 10, 4, 2),
            (2, 64, 16, 16, 4, 4),
        ),
        bench_shapes=((2, 256, 200, 304, 1024, 7), (2, 256, 200, 304, 256, 14)),
        differentiable=("features",),
        bytes_moved=lambda a: (a["features"].numel() + a["boxes"].numel() + _pooled(a)) * a["features"].element_size(),
        backward_bytes=lambda a: (
            (a["features"].numel() + a["boxes"].numel() + _pooled(a)) * a["features"].element_size()
        ),
        operations=lambda a: 32 * _pooled(a),  # four samples of four products and four sums
        reduction=lambda a: 16,
        oracle="method.roi_align in float64, itself tested against a loop over samples",
        special=("features",),  # a box must be finite
        vectorised=False,
        repeatable=False,
    ),
)
