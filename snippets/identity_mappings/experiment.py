"""What a shortcut does to the gradient, and residual units of 110-layer networks trained alike on digits.

Fixed before the first run: the paper's 54 units, SGD with its rate 0.1 and momentum 0.9, batches of 64, 2 epochs, 4
seeds. The units are fully connected, 16 wide. Every network ends in BN, ReLU and one linear layer, so that networks
differ in their units alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from generator.lab.data import digits
from generator.lab.figures import FAINT, INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import minibatches
from snippets.identity_mappings import kernel, method

UNITS, WIDTH, CLASSES = 54, 16, 10
SEEDS, EPOCHS, BATCH, RATE, MOMENTUM = 4, 2, 64, 0.1, 0.9
SETTING = f"digits, {UNITS} units ({2 * UNITS + 2} layers) of width {WIDTH}, {EPOCHS} epochs, {SEEDS} seeds"
LAMBDAS = (0.5, 0.7, 0.9, 1.0, 1.1)
DEPTHS = (1, 2, 4, 8, 16, 24, 32, 40, 48, 54)
SMALL = 0.1  # the branch's scale where the shortcut is to dominate
GRADIENT_WIDTH, GRADIENT_BATCH, GRADIENT_SEEDS = 64, 64, 5
GATES = {"exclusive gating": (-6.0,), "shortcut-only gating": (0.0, -6.0)}
"""Initial biases of the gates: the paper's best for either, and for the second the 0 that spoils it."""


def run(record) -> None:
    gradients(record)
    shortcuts(record, original := train("identity", "original", 0.0))
    placements(record, original)


# The gradient against λ and depth


def first_gradient(lam: float, depth: int, scale: float, bn: bool) -> Tensor:
    """Return ‖dL/dx₀‖ / ‖dL/dx_L‖ [seed] of units λx + scale·W relu(x), with BN before the ReLU or without."""
    generator = torch.Generator().manual_seed(depth)
    s, w, b = GRADIENT_SEEDS, GRADIENT_WIDTH, GRADIENT_BATCH
    start = torch.randn(s, w, b, generator=generator).requires_grad_()
    x = start
    for _ in range(depth):
        weight = torch.randn(s, w, w, generator=generator) * (2 / w) ** 0.5
        x = torch.baddbmm(x, weight, torch.relu(normalize(x) if bn else x), beta=lam, alpha=scale)
    end = torch.randn(x.shape, generator=generator)
    (gradient,) = torch.autograd.grad(x, start, end)
    return gradient.flatten(1).norm(dim=1) / end.flatten(1).norm(dim=1)


def normalize(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Return BN of [seed, width, batch], statistics over the batch."""
    return F.batch_norm(x.view(1, -1, x.shape[-1]), None, None, weight, bias, training=True).view(x.shape)


def gradients(record) -> None:
    """Fit how the gradient at the first unit scales with λ and depth, and see what full-sized branches add."""
    nets = {
        "small": (f"Branches scaled by {SMALL}, no BN", SMALL, False),
        "full": ("Branches behind BN, not scaled", 1.0, True),
    }
    panels = []
    for name, (title, scale, bn) in nets.items():
        norms = torch.stack(
            [torch.stack([first_gradient(lam, depth, scale, bn) for depth in DEPTHS], dim=1) for lam in LAMBDAS]
        ).double()
        setting = f"{title}, width {GRADIENT_WIDTH}, L from {DEPTHS[0]} to {DEPTHS[-1]}, {GRADIENT_SEEDS} seeds"
        record.metric(
            f"exponent_{name}", fitted_exponent(norms), setting=f"λ from {LAMBDAS[0]} to {LAMBDAS[-1]}, {setting}"
        )
        fig, ax = panel(title, "units L", "gradient at the first unit / at the last")
        if name == "full":
            at_half = norms[LAMBDAS.index(0.5), :, -1]
            record.metric("gradient_full_half", at_half, setting=f"λ = 0.5, L = {DEPTHS[-1]}, {setting}")
            record.metric("shortcut_term_half", 0.5 ** DEPTHS[-1], setting=f"λ^L for λ = 0.5, L = {DEPTHS[-1]}")
        for color, lam, runs in zip(SERIES, LAMBDAS, norms, strict=False):
            spread(ax, DEPTHS, runs.numpy(), color)
            ax.plot(DEPTHS, [lam**depth for depth in DEPTHS], color=INK, linestyle=":", linewidth=1.0)
        low, high = {"small": (1e-18, 1e4), "full": (1e-4, 1e5)}[name]
        ax.set(yscale="log", ylim=(low, high), xlim=(0, 70), xticks=range(0, 55, 18))
        at = -math.inf
        for n in norms[:, :, -1].mean(1).argsort().tolist():  # labels from below, none on top of another
            at = max(math.log10(norms[n, :, -1].mean()), at + 0.075 * math.log10(high / low))
            ax.text(55.5, 10**at, f"λ = {LAMBDAS[n]}", color=SERIES[n], va="center", fontsize=8)
        panels.append(fig)
    record.figure(
        "gradient",
        panels,
        caption="Gradient that reaches the first of L units, as a share of the gradient at the last; mean of "
        f"{GRADIENT_SEEDS} random networks of width {GRADIENT_WIDTH}, band from least to greatest. Dotted: λ to the power L. Left, the "
        "shortcut dominates; right, branches of full size behind a BN of their own, where dotted lines leave the picture.",
        alt="Two panels against depth, with a logarithmic vertical axis. Left: five straight lines next to the dotted powers "
        "of λ. Right: no curve falls; the one for λ 0.5 climbs most while its dotted power drops out of the picture.",
    )


def fitted_exponent(norms: Tensor) -> list[float]:
    """Return k of log g(λ, L) − log g(1, L) = k·L·log λ by least squares, for each seed of norms [λ, seed, depth]."""
    x = torch.tensor(LAMBDAS, dtype=torch.float64).log()[:, None, None] * torch.tensor(DEPTHS)
    y = norms.log() - norms[LAMBDAS.index(1.0)].log()
    return ((x * y).sum((0, 2)) / (x * x).sum((0, 2))).tolist()


# Networks trained alike


@dataclass(frozen=True)
class Trained:
    """One kind of network after training: loss [step, seed], test error [seed], and what its units passed on."""

    loss: np.ndarray
    error: list[float]
    states: list[Tensor]

    @property
    def last(self) -> list[float]:
        """Return the mean loss over the last epoch, one a seed."""
        return self.loss[-len(self.loss) // EPOCHS :].mean(0).tolist()


class Net:
    """`SEEDS` networks side by side: activations are [seed, width, batch], and no network sees another."""

    def __init__(self, shortcut: str, placement: str, gate: float) -> None:
        generator = torch.Generator().manual_seed(0)
        s, w = SEEDS, WIDTH
        self.shortcut, self.placement = shortcut, placement
        self.stem = torch.randn(s, w, 64, generator=generator) * (2 / 64) ** 0.5
        self.weights = torch.randn(2 * UNITS, s, w, w, generator=generator) * (2 / w) ** 0.5
        self.scales, self.biases = torch.ones(2 * UNITS + 2, s * w), torch.zeros(2 * UNITS + 2, s * w)
        self.head = torch.zeros(s, CLASSES, w)
        gated = "gating" in shortcut
        self.linear = torch.randn(UNITS, s, w, w, generator=generator) * ((1 if gated else 2) / w) ** 0.5
        self.gate = torch.full((UNITS, s, w, 1), gate)
        self.parameters = [self.stem, self.weights, self.scales, self.biases, self.head]
        self.parameters += [self.linear] if gated or shortcut == "1×1 convolution" else []
        self.parameters += [self.gate] if gated else []
        for one in self.parameters:
            one.requires_grad_()

    def __call__(self, images: Tensor, states: list[Tensor] | None = None) -> Tensor:
        """Return the logits [seed, class, batch] of images [seed, pixel, batch]; note what each unit passed on."""
        weights, scales, biases = self.weights.unbind(), self.scales.unbind(), self.biases.unbind()
        linears, gates = self.linear.unbind(), self.gate.unbind()
        x = torch.relu(normalize(torch.bmm(self.stem, images), scales[-2], biases[-2]))
        for n in range(UNITS):
            (w1, w2), (a1, a2), (b1, b2) = (of[2 * n : 2 * n + 2] for of in (weights, scales, biases))
            layers = partial(torch.bmm, w1), partial(torch.bmm, w2)
            norms = partial(normalize, weight=a1, bias=b1), partial(normalize, weight=a2, bias=b2)
            x = self.unit(x, layers, norms, linears[n], gates[n])
            if states is not None:
                states.append(x)
        return torch.bmm(self.head, torch.relu(normalize(x, scales[-1], biases[-1])))

    def unit(self, x: Tensor, layers: tuple, norms: tuple, linear: Tensor, gate: Tensor) -> Tensor:
        """Return one unit: of Figure 4 where the shortcut is the identity, else the original one with Figure 2's."""
        if self.shortcut == "identity":
            return method.unit(x, layers, norms, self.placement)
        branch = norms[1](layers[1](torch.relu(norms[0](layers[0](x)))))
        # only a gate has a bias: a convolution's would be the next BN's
        apply = partial(torch.baddbmm, gate, linear) if "gating" in self.shortcut else partial(torch.bmm, linear)
        return torch.relu(method.join(x, branch, self.shortcut, apply))


def train(shortcut: str, placement: str, gate: float) -> Trained:
    """Train one kind of network, each seed on its own split, order and weights."""
    torch.manual_seed(0)  # dropout's
    net = Net(shortcut, placement, gate)
    x, y, held_x, held_y = (torch.stack(one) for one in zip(*(digits(seed) for seed in range(SEEDS)), strict=True))
    x, held_x = (one.transpose(1, 2) for one in (x, held_x))
    seed = torch.arange(SEEDS)[:, None]
    optimizer = torch.optim.SGD(net.parameters, RATE, MOMENTUM)
    generators = [torch.Generator().manual_seed(seed) for seed in range(SEEDS)]
    losses = []
    for _ in range(EPOCHS):
        for batch in zip(*(minibatches(x.shape[-1], BATCH, one) for one in generators), strict=True):
            index = torch.stack(batch)
            images = x.gather(2, index[:, None].expand(-1, x.shape[1], -1))
            loss = F.cross_entropy(
                net(images).transpose(1, 2).flatten(0, 1), y[seed, index].flatten(), reduction="none"
            )
            loss = loss.view(SEEDS, BATCH).mean(1)
            optimizer.zero_grad()
            loss.sum().backward()  # a seed's loss moves its own weights only
            optimizer.step()
            losses.append(loss.detach())
    states: list[Tensor] = []
    with torch.no_grad():  # BN by the statistics of the held-out images, all in one batch
        wrong = net(held_x, states).argmax(1) != held_y
    return Trained(torch.stack(losses).numpy(), (100 * wrong.double().mean(1)).tolist(), states)


NAMES = dict(zip(method.PLACEMENTS, ("original", "bn_after", "relu_before", "relu_only", "full"), strict=True))


def shortcuts(record, original: Trained) -> None:
    """Train Table 1's shortcuts in units that are otherwise the original ones."""
    results = {"identity": original}
    for shortcut in method.SHORTCUTS[1:]:
        for gate in GATES.get(shortcut, (0.0,)):
            label = f"{shortcut}, bias {gate:g}".replace("-6", "−6") if shortcut in GATES else shortcut
            results[label] = train(shortcut, "original", gate)
    reported = dict(zip(results, ("6.61", "12.35", "8.70", "12.86", "6.91", "12.22", "over 20"), strict=True))
    compare(record, "shortcut", results, reported, "identity", ("Scaling and gates", "Other shortcuts"))
    setting = f"mean of g over units 2 to {UNITS}, bias −6, before training, one batch of digits, {SEEDS} seeds"
    record.metric("gate_start", 100 * open_gates(), "%", setting)


@torch.no_grad()
def open_gates() -> Tensor:
    """Return how far the gates of untrained shortcut-only units with bias −6 are open, for each seed."""
    net = Net("shortcut-only gating", "original", -6.0)
    states: list[Tensor] = []
    net(torch.stack([digits(seed)[0][:BATCH].T for seed in range(SEEDS)]), states)
    gates = [torch.sigmoid(torch.baddbmm(*of)) for of in zip(net.gate[1:], net.linear[1:], states, strict=False)]
    return torch.stack(gates).mean((0, 2, 3))


def placements(record, original: Trained) -> None:
    """Train Table 2's placements, all with an identity shortcut, and follow what their units pass on."""
    results = {"original": original} | {one: train("identity", one, 0.0) for one in method.PLACEMENTS[1:]}
    reported = dict(zip(results, ("6.61", "8.17", "7.84", "6.71", "6.37"), strict=True))
    compare(record, "placement", results, reported, "full pre-activation", ("Post-activation", "Pre-activation"))
    for name, one in results.items():
        record.metric(f"loss_{NAMES[name]}", one.last, setting=f"{name}, last epoch, {SETTING}")
        record.metric(f"error_{NAMES[name]}", one.error, "%", f"{name}, held-out images, {SETTING}")
    signal(record, results)


def compare(
    record, what: str, results: dict[str, Trained], reported: dict[str, str], favorite: str, titles: tuple[str, str]
) -> None:
    """Record each kind's loss and error, the favorite's against the best of the others seed by seed, and the curves."""
    others = [one for name, one in results.items() if name != favorite]
    for measure, unit, of in (("loss", "", lambda one: one.last), ("error", "%", lambda one: one.error)):
        setting = f"{'last epoch' if unit == '' else 'held-out images, BN by their statistics'}, {SETTING}"
        record.metric(f"{what}_{measure}_favorite", of(results[favorite]), unit, f"{favorite}, {setting}")
        best = np.min([of(one) for one in others], axis=0)
        record.metric(f"{what}_{measure}_best_other", best, unit, f"the best of the others in each seed, {setting}")
    rows = [
        {
            what: name,
            "training loss": f"{np.mean(one.last):.3f} ({min(one.last):.3f} to {max(one.last):.3f})",
            "test error, %": f"{np.mean(one.error):.1f} ({min(one.error):.1f} to {max(one.error):.1f})",
            "in the paper, %": reported[name],
        }
        for name, one in results.items()
    ]
    caption = f"Mean and range. {sentence(SETTING)}. Loss over the last epoch. In the paper: ResNet-110 on CIFAR-10, test error."
    record.table(f"{what}s", rows, caption=caption)
    panels = [curves(titles[0], results, list(results)[: len(results) // 2 + 1], favorite)]
    panels.append(curves(titles[1], results, [favorite, *list(results)[len(results) // 2 + 1 :]], favorite))
    record.figure(
        f"{what}s",
        panels,
        caption=f"Training loss of each {what}, smoothed over 5 steps; mean of {SEEDS} seeds, band from least to greatest. "
        f"Blue in both panels: {favorite}. The gray line is chance, log {CLASSES}. {sentence(SETTING)}.",
        alt=f"Two panels of training loss against step, one line with a band for each {what}; {favorite} in blue in both.",
    )


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def curves(title: str, results: dict[str, Trained], names: list[str], favorite: str):
    """Draw the smoothed training loss of some kinds of network."""
    fig, ax = panel(title, "step", "training loss", height=3.0)
    for color, name in zip(SERIES[1:], [one for one in names if one != favorite], strict=False):
        draw(ax, results[name], name, color)
    draw(ax, results[favorite], favorite, SERIES[0])
    ax.axhline(math.log(CLASSES), color=FAINT, linewidth=0.8)
    ax.set(ylim=(0, 2.6), xlim=(0, 43))
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.22), ncols=1, fontsize=8)
    return fig


def draw(ax, one: Trained, label: str, color: str) -> None:
    smooth = np.stack([np.convolve(run, np.ones(5) / 5, mode="valid") for run in one.loss.T])
    spread(ax, np.arange(smooth.shape[1]) + 3, smooth, color, label)


def signal(record, results: dict[str, Trained]) -> None:
    """Follow the mean of what each unit passes on, after training; does any activation ever fall from unit to unit?"""
    fig, ax = panel("What the units pass on", "unit", "mean activation", height=3.0)
    for color, (name, one) in zip(
        (SERIES[1], SERIES[2], SERIES[3], SERIES[4], SERIES[0]), results.items(), strict=True
    ):
        states = torch.stack(one.states)  # [unit, seed, width, image]
        steps = states.diff(dim=0)
        spread(ax, np.arange(1, UNITS + 1), states.mean((2, 3)).T.numpy(), color, name)
        if name in ("ReLU before addition", "full pre-activation"):
            key = NAMES[name]
            setting = f"{name}, trained, held-out images, {SETTING}"
            record.metric(f"smallest_step_{key}", steps.amin((0, 2, 3)), setting=f"least of x(l+1) − x(l), {setting}")
            falling = (steps < 0).double().mean((0, 2, 3))
            record.metric(
                f"falling_share_{key}", 100 * falling, "%", f"activations that fall from unit to unit, {setting}"
            )
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.22), ncols=1, fontsize=8)
    ax.set_yscale("symlog", linthresh=1)
    ax.set_xlim(0, UNITS)
    record.figure(
        "signal",
        fig,
        caption=f"Mean activation behind each unit of the trained networks; mean of {SEEDS} seeds, band from least to "
        f"greatest. The vertical axis is linear up to 1 and logarithmic beyond. Held-out images, {SETTING}.",
        alt="Mean activation against unit for the five placements. With ReLU before the addition it only climbs.",
    )


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias = (torch.randn(of, dtype=torch.float64, generator=generator) for of in (shape, shape[1], shape[1]))
    return {
        name: one.to(dtype).to(device) for name, one in (("x", 2 * x + 1), ("weight", 1 + weight / 4), ("bias", bias))
    }


def _passes(count: int):
    return lambda arguments: count * arguments["x"].numel() * arguments["x"].element_size()


def _eager(x, weight, bias):
    return F.relu(F.batch_norm(x, None, None, weight, bias, training=True))


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
KERNELS = tuple(
    Kernel(
        name=name,
        op=kernel.preactivation,
        twin=method.preactivation,
        eager=_eager,
        inputs=_inputs,
        bytes_moved=_passes(2),
        operations=lambda arguments: 10 * arguments["x"].numel(),
        shapes=shapes,
        bench_shapes=bench,
        compile_shape=compiled,
        dtypes=dtypes,
        differentiable=("x", "weight", "bias"),
        backward_bytes=_passes(3),
        reduction=lambda arguments: arguments["x"].numel() // max(1, arguments["x"].shape[1]),
        oracle="method.preactivation in float64; F.relu of F.batch_norm in the tests",
        special=("x", "bias"),  # by an infinite weight torch's own CPU and GPU paths differ
    )
    for name, shapes, bench, compiled, dtypes in (
        (
            "preactivation",
            ((0, 3), (7, 5), (5, 3, 1), (31, 67), (2, 3, 5, 7), (3, 2, 1025), (9, 4, 256)),
            ((256, 64, 128, 128), (64, 256, 128, 128)),
            (16, 16, 64, 64),
            DTYPES,
        ),
        (
            "preactivation_rows",  # channels side by side: [batch, channel], and channels-last images alike
            ((6, 7), (17, 80)),
            ((4096 * 1024, 64), (512 * 1024, 512)),
            (1024, 64),
            (torch.float32,),
        ),
    )
)
