"""ELU beside ReLU, LeakyReLU and PReLU: curves, the paper's MNIST network on digits, and the response to noise."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from generator.lab.data import digits
from generator.lab.figures import FAINT, INK, SERIES, panel
from generator.lab.kernels import Kernel
from snippets.elu import kernel, method

SEEDS, LAYERS, UNITS, EPOCHS, BATCH, RATE = 3, 8, 128, 21, 64, 0.01
LOOKS = range(2, EPOCHS, 3)
"""Epochs after which the loss on the whole training set is taken."""
SETTING = f"digits, {LAYERS} hidden layers of {UNITS}, {EPOCHS} epochs, SGD {RATE}, {SEEDS} seeds"
NOISE = 0.5
"""Standard deviation of the noise on a net input."""


def leaky(slope: float):
    return lambda x: torch.where(x > 0, x, slope * x)


ACTIVATIONS = {
    "ELU": method.elu,
    "ReLU": torch.relu,
    "LeakyReLU 0.1": leaky(0.1),
    "LeakyReLU 0.33": leaky(0.33),
    "PReLU": None,  # its slopes are learned, one a layer, from 0.25
}
COLOUR = dict(zip(ACTIVATIONS, SERIES, strict=False))


def run(record) -> None:
    """Record the curves, the training runs, the noise response, and the rounding errors."""
    curves(record)
    training(record)
    noise(record)
    rounding(record)


def curves(record) -> None:
    x = torch.linspace(-4, 2, 241, dtype=torch.float64, requires_grad=True)
    value, value_axis = panel("value", "x", "f(x)")
    slope, slope_axis = panel("derivative", "x", "f′(x)")
    shown = {**ACTIVATIONS, "PReLU": leaky(0.25)}
    for name, f in shown.items():
        y = f(x)
        gradient = torch.autograd.grad(y.sum(), x)[0]
        style = {"color": COLOUR[name], "lw": 2.4 if name == "ELU" else 1.3, "ls": "--" if name == "PReLU" else "-"}
        label = "PReLU at its start, 0.25" if name == "PReLU" else name
        value_axis.plot(x.detach(), y.detach(), label=label, **style)
        gradient[(x > 0) & (x < 0.03)] = math.nan  # leave the jump open
        slope_axis.plot(x.detach(), gradient, **style)
    value_axis.axhline(-1, color=FAINT, lw=1, ls=":")
    value_axis.text(2, -0.97, "−α", color=FAINT, va="bottom", ha="right")
    value_axis.legend(loc="upper left")
    slope_axis.text(-0.75, 0.6, "ELU: f(x) + α", color=COLOUR["ELU"], ha="right")
    record.figure(
        "curves",
        [value, slope],
        caption="ELU (α = 1) and its relatives. Below 0 ELU bends to −α and its slope dies away; the others go on.",
        alt="Two panels. Left: all functions equal x above 0; below 0 ELU levels off at −1, ReLU is 0, the leaky ones are "
        "straight lines. Right: slopes; ELU's falls smoothly from 1 to 0, the others are constant below 0.",
    )
    below = torch.linspace(-30, -1e-9, 1001, dtype=torch.float64, requires_grad=True)
    for alpha in (1.0, 0.5):
        y = method.elu(below, alpha)
        slopes = torch.autograd.grad(y.sum(), below)[0]
        name = "" if alpha == 1 else "_half"
        record.metric(f"saturation{name}", y[0].item(), setting=f"float64, x = −30, α = {alpha}")
        record.metric(f"slope_gap{name}", (slopes - (y + alpha)).abs().max().item(), setting=f"float64, α = {alpha}")


def training(record) -> None:
    runs = {name: train(name) for name in ACTIVATIONS}
    loss, loss_axis = panel("training loss", "epoch", "cross-entropy, nats")
    mean, mean_axis = panel("after training", "hidden layer", "mean activation")
    layers = np.arange(1, LAYERS + 1)
    for name, (losses, _, means, _) in runs.items():
        style = {"color": COLOUR[name], "lw": 2.4 if name == "ELU" else 1.3, "ls": "--" if name == "PReLU" else "-"}
        loss_axis.plot(np.array(LOOKS) + 1, losses.mean(1), label=name, **style)
        mean_axis.plot(layers, means.mean(1), marker="o", ms=3, **style)
    loss_axis.set_yscale("log")
    loss_axis.set_xticks(np.array(LOOKS) + 1)
    loss_axis.legend(loc="upper right")
    mean_axis.axhline(0, color=INK, lw=0.8)
    mean_axis.set_xticks(layers)
    record.figure(
        "training",
        [loss, mean],
        caption=f"Left: training loss. Right: mean activation of each hidden layer over the training set. {SETTING}.",
        alt="Two panels with one curve for each activation. Left: training loss against epoch, logarithmic. Right: mean "
        "activation against hidden layer, with a line at zero.",
    )
    rows = []
    for name, (losses, accuracy, means, slopes) in runs.items():
        key = name.lower().replace(" ", "_").replace(".", "")
        record.metric(f"loss_{key}", losses[-1].tolist(), unit="nats", setting=SETTING)
        record.metric(f"accuracy_{key}", (100 * accuracy).tolist(), unit="%", setting=f"held-out quarter; {SETTING}")
        rows.append(
            {
                "activation": name,
                "training loss": round(losses[-1].mean().item(), 4),
                "lowest–highest seed": f"{losses[-1].min():.4f}–{losses[-1].max():.4f}",
                "test accuracy, %": round(100 * accuracy.mean().item(), 2),
                "|mean activation|, all layers": round(means.abs().mean().item(), 3),
                "slope learned": f"{slopes.min():.2f}–{slopes.max():.2f}" if slopes is not None else "—",
            }
        )
    record.table("training", rows, caption=f"After {EPOCHS} epochs. {SETTING}.")
    closer = (runs["ELU"][2].abs() < runs["ReLU"][2].abs()).sum(0)
    record.metric("layers_nearer_zero", closer.tolist(), unit=f"of {LAYERS} layers", setting=SETTING)
    ratio = runs["ELU"][0][-1] / runs["ReLU"][0][-1]
    record.metric("loss_ratio_to_relu", ratio.tolist(), setting=f"ELU over ReLU, same seed; {SETTING}")
    for other in ("LeakyReLU 0.1", "LeakyReLU 0.33", "PReLU"):
        ratio = runs["ELU"][0][-1] / runs[other][0][-1]
        key = other.lower().replace(" ", "_").replace(".", "")
        record.metric(f"loss_ratio_to_{key}", ratio.tolist(), setting=f"ELU over {other}, same seed; {SETTING}")


def train(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Train all seeds at once, one a batch entry; return losses [look, seed], accuracy, means [layer, seed], slopes."""
    x, y, x_test, y_test = digits(seed=0)
    generator = torch.Generator().manual_seed(1)  # the same start and the same batches for every activation
    sizes = [x.shape[1], *[UNITS] * LAYERS, 10]
    weights = [
        (torch.randn(SEEDS, i, o, generator=generator) * (2 / i) ** 0.5).requires_grad_() for i, o in pairwise(sizes)
    ]
    biases = [torch.zeros(SEEDS, 1, o, requires_grad=True) for o in sizes[1:]]
    slopes = [torch.full((SEEDS, 1, 1), 0.25, requires_grad=name == "PReLU") for _ in range(LAYERS)]
    parameters = weights + biases + (slopes if name == "PReLU" else [])

    def forward(h: Tensor) -> tuple[Tensor, list[Tensor]]:
        hidden = []
        for layer in range(LAYERS):
            z = torch.baddbmm(biases[layer], h, weights[layer])
            h = torch.where(z > 0, z, slopes[layer] * z) if name == "PReLU" else ACTIVATIONS[name](z)
            hidden.append(h)
        return torch.baddbmm(biases[-1], h, weights[-1]), hidden

    everything = x.expand(SEEDS, *x.shape)
    losses = []
    for epoch in range(EPOCHS):
        order = torch.stack([torch.randperm(len(x), generator=generator) for _ in range(SEEDS)])
        for at in range(0, len(x) - BATCH + 1, BATCH):
            batch = order[:, at : at + BATCH]
            logits, _ = forward(x[batch])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y[batch].flatten()) * SEEDS
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.data.sub_(gradient, alpha=RATE)
        if epoch not in LOOKS:
            continue
        with torch.no_grad():
            logits, hidden = forward(everything)
            each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), y.expand(SEEDS, -1), reduction="none")
            losses.append(each.mean(1))
    with torch.no_grad():
        means = torch.stack([h.mean((1, 2)) for h in hidden])
        test, _ = forward(x_test.expand(SEEDS, *x_test.shape))
        accuracy = (test.argmax(-1) == y_test).float().mean(1)
    return torch.stack(losses), accuracy, means, torch.stack(slopes).detach() if name == "PReLU" else None


def noise(record) -> None:
    """Measure Var f(z + ε) for ε ~ N(0, NOISE²) against z: 20,001 equiprobable noise values, so nothing is random."""
    steps = torch.arange(20001, dtype=torch.float64)
    normal = NOISE * math.sqrt(2) * torch.erfinv((2 * steps + 1) / 20001 - 1)
    z = torch.linspace(-6, 0, 121, dtype=torch.float64)
    spread = {
        name: f(z[:, None] + normal).var(1, correction=0)
        for name, f in ACTIVATIONS.items()
        if f is not None and name != "ReLU"
    }
    setting = f"noise of standard deviation {NOISE}, by quadrature"
    at, crossing = (z + 3).abs().argmin(), {}
    for name, variance in spread.items():
        key = name.lower().replace(" ", "_").replace(".", "")
        record.metric(f"noise_{key}", variance[at].item(), setting=f"z = −3; {setting}")
        if name != "ELU":
            crossing[name] = z[spread["ELU"] < variance].max().item()
            record.metric(f"noise_crossing_{key}", crossing[name], setting=f"largest z where ELU is quieter; {setting}")
    fig, axis = panel("response to noise on a deactivated unit", "net input z", "variance of the output")
    for name, variance in spread.items():
        axis.plot(z, variance, color=COLOUR[name], lw=2.4 if name == "ELU" else 1.3)
        axis.text(-5.9, 1.2 * variance[:5].mean() if name != "ELU" else 2e-5, name, color=COLOUR[name])
    axis.set_yscale("log")
    record.figure(
        "noise",
        fig,
        caption=f"Variance of f(z + noise), noise of standard deviation {NOISE}. ELU wins only once it saturates; just "
        "below 0 it passes more noise than either leaky slope.",
        alt="Variance against net input from −6 to 0, logarithmic. Both leaky lines are level; ELU rises steadily from far "
        f"below them to above both, crossing slope 0.1 at {crossing['LeakyReLU 0.1']:.1f} and slope 0.33 at "
        f"{crossing['LeakyReLU 0.33']:.1f}.",
    )
    weights = torch.exp(-(z**2) / 2)  # net inputs of a standard normal that fell below 0
    average = {name: ((variance * weights).sum() / weights.sum()).item() for name, variance in spread.items()}
    record.metric(
        "noise_ratio_all_deactivated",
        average["ELU"] / average["LeakyReLU 0.1"],
        setting=f"ELU over LeakyReLU 0.1, averaged over z < 0 of a standard normal; {setting}",
    )


def rounding(record) -> None:
    """Measure the error near 0, and what a slope taken from a rounded output would be off by."""
    x = -torch.logspace(-30, 1, 4001, dtype=torch.float64).float()
    exact = torch.expm1(x.double())
    for name, got in (("kernel", kernel.elu(x)), ("naive", torch.exp(x) - 1)):
        error = ((got.double() - exact) / exact).abs().max().item()
        record.metric(f"relative_error_{name}", error, setting="fp32, −10 ≤ x ≤ −1e−30, against float64 expm1")
    for dtype, rtol in ((torch.float16, 1e-3), (torch.bfloat16, 1.6e-2), (torch.float32, 1.3e-6)):
        x = torch.linspace(-12, 0, 12001, dtype=torch.float64).to(dtype)
        exact = torch.exp(x.double())
        got = (method.elu(x).double() + 1).to(dtype).double()
        share = ((got - exact).abs() / (1e-5 + rtol * exact)).max().item()
        key = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]
        record.metric(
            f"slope_error_{key}", share, unit="× torch's tolerance", setting="f(x) + α for −12 ≤ x ≤ 0, α = 1"
        )


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    return {"x": 3 * torch.randn(shape, dtype=dtype, device=device, generator=generator), "alpha": 1.0}


def _bytes(arguments) -> int:
    return 2 * arguments["x"].numel() * arguments["x"].element_size()


KERNELS = (
    Kernel(
        name="elu",
        op=kernel.elu,
        twin=method.elu,
        inputs=_inputs,
        bytes_moved=_bytes,
        operations=lambda arguments: 19 * arguments["x"].numel(),  # eight series terms of two, exp, select, scale
        dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        differentiable=("x",),
        backward_bytes=lambda arguments: _bytes(arguments) * 3 // 2,  # dL/dy and what was kept in, dL/dx out
        oracle="method.elu in float64; F.elu in the tests",
    ),
)
