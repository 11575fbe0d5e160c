"""Gradients of random rectifier networks before training: their noise, correlation and co-activation by depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from generator.lab.figures import FAINT, INK, SERIES, panel
from generator.lab.kernels import Kernel
from snippets.shattered_gradients import kernel, method

WIDTH = 200  # the paper's, as is the grid of 256 inputs in [-2, 2]
GRID = 256
SEEDS = range(5)
LAYERS = 64
TRACKED = 12  # inputs whose Jacobian is followed: 66 pairs
DIRECTIONS = 50
EARLY = slice(0, 6)  # layers 1 to 6: 2^-6 still stands above the noise of one network
LATE = slice(7, 64)  # layers 8 to 64
LAGS = 40
DROWNED = {"plain_bn": 8, "plain": 16, "residual": 24}
"""The last layer drawn where the correlation sinks into the fluctuations of one network of this width."""


@dataclass(frozen=True)
class Net:
    """One kind of network: its name in metrics, on figures, and the options of its block."""

    name: str
    label: str
    skip: bool = False
    bn: bool = False
    beta: float = 1.0


PLAIN = Net("plain", "plain")
PLAIN_BN = Net("plain_bn", "plain + BN", bn=True)
RESIDUAL = Net("residual", "residual", skip=True)
RESIDUAL_BN = Net("residual_bn", "residual + BN", skip=True, bn=True)
SCALED = Net("residual_bn_scaled", "residual + BN, β = 0.1", skip=True, bn=True, beta=0.1)
NETS = (PLAIN, PLAIN_BN, RESIDUAL, RESIDUAL_BN, SCALED)
COLOR = dict(zip((net.name for net in NETS), SERIES, strict=False))


@dataclass(frozen=True)
class Depths:
    """What one random network shows layer by layer, first layer first."""

    correlation: np.ndarray
    active: np.ndarray
    co_active: np.ndarray


def descend(net: Net, seed: int, layers: int = LAYERS, coins: bool = False) -> Depths:
    """Send 256 Gaussian inputs through a random network; follow activity and the correlation of gradients.

    With `coins` each layer sees fresh Gaussian noise: a fair coin for every input and unit, as the theorems assume.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(GRID, WIDTH, generator=generator)
    jacobian = torch.randn(DIRECTIONS, WIDTH, generator=generator).expand(TRACKED, DIRECTIONS, WIDTH)
    correlation, active, co_active = [], [], []
    for _ in range(layers):
        weight = method.he_normal(WIDTH, WIDTH, generator)
        x, jacobian, u = method.block(x, jacobian, weight, net.skip, net.bn, net.beta)
        if coins:
            x = torch.randn(x.shape, generator=generator)
        correlation.append(method.distinct_pairs(method.gradient_correlation(jacobian)).item())
        active.append((u > 0).float().mean().item())
        co_active.append(method.distinct_pairs(method.co_activation(u)).item())
    return Depths(np.array(correlation), np.array(active), np.array(co_active))


def gradient_curves(net: Net, depths: tuple[int, ...], seed: int, heads: int) -> dict[int, Tensor]:
    """Return dy/dx on the grid for `heads` random readouts y, [head, grid] at each depth of one random network.

    The first layer lifts the number to 200 rectifiers with biases: without them every kink would lie at 0.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    inputs = torch.linspace(-2, 2, GRID)[:, None]
    w, b = torch.randn(2, WIDTH, generator=generator)
    weight = method.he_normal(WIDTH, WIDTH, generator)
    u = inputs * w + b
    x, jacobian = u.relu() @ weight.T, (((u > 0) * w) @ weight.T)[:, None]
    readout = torch.randn(WIDTH, heads, generator=generator)
    found = {1: (jacobian[:, 0] @ readout).T}
    for depth in range(2, max(depths) + 1):
        weight = method.he_normal(WIDTH, WIDTH, generator)
        x, jacobian, _ = method.block(x, jacobian, weight, net.skip, net.bn, net.beta)
        found[depth] = (jacobian[:, 0] @ readout).T
    return {depth: found[depth] for depth in depths}


def autocorrelation(curves: Tensor) -> np.ndarray:
    """Return the mean autocorrelation function of the curves [curve, grid], each with its own mean removed."""
    centered = curves.double() - curves.double().mean(1, keepdim=True)
    n = centered.shape[1]
    shifted = [(centered[:, : n - lag] * centered[:, lag:]).sum(1) for lag in range(LAGS + 1)]
    return (torch.stack(shifted) / shifted[0]).mean(1).numpy()


def noises(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return white noise and its running sum, Brownian noise, [curve, grid] each."""
    white = torch.randn(count, GRID, generator=torch.Generator().manual_seed(2000 + seed), dtype=torch.float64)
    return white, white.cumsum(1)


def per_layer_factor(correlation: np.ndarray) -> float:
    """Fit correlation ∝ factor^L over layers 1 to 6."""
    layer = np.arange(1, len(correlation) + 1)[EARLY]
    return float(np.exp(np.polyfit(layer, np.log(correlation[EARLY]), 1)[0]))


def power(correlation: np.ndarray) -> float:
    """Fit correlation ∝ L^power over layers 8 to 64."""
    layer = np.arange(1, len(correlation) + 1)[LATE]
    return float(np.polyfit(np.log(layer), np.log(correlation[LATE]), 1)[0])


def infinite_width(skip: bool, layers: int = LAYERS) -> np.ndarray:
    """Return the gradient correlation of two orthogonal inputs without BN, for infinite width.

    Their cosine ρ alone matters: π − arccos ρ over π is the share of active units that are co-active, and the branch
    turns ρ into (√(1 − ρ²) + ρ(π − arccos ρ)) / π. A skip averages branch and identity, whose variances are equal.
    """
    rho, correlation, found = 0.0, 1.0, []
    for _ in range(layers):
        angle = np.pi - np.arccos(min(rho, 1.0))
        kept, turned = angle / np.pi, (np.sqrt(max(0.0, 1 - rho**2)) + rho * angle) / np.pi
        correlation *= (1 + kept) / 2 if skip else kept
        rho = (rho + turned) / 2 if skip else turned
        found.append(correlation)
    return np.array(found)


def theorem_3(beta: float, branch: float = 1.0, layers: int = LAYERS) -> np.ndarray:
    """Return the product behind Theorem 3, for a branch of the given variance over the batch.

    Before block l the stream's variance is v = 1 + β²·branch·(l − 1); BN divides by √v, so the block adds β²/v to the
    gradient's variance and, at co-activation 1/4, half of that to its covariance. The paper takes branch = 1.
    """
    added = beta**2 / (1 + beta**2 * branch * np.arange(layers))
    return np.cumprod((1 + added / 2) / (1 + added))


CENTERED = 1 - 1 / np.pi
"""Variance over the batch of W·ρ(u): of its second moment, 1, the part 1/π is a mean that every input shares."""


def run(record) -> None:
    """Record curves, autocorrelations, correlations and co-activation rates."""
    depths = {net.name: [descend(net, seed) for seed in SEEDS] for net in NETS}
    _curves(record)
    _autocorrelations(record)
    _correlations(record, depths)
    _co_activations(record, depths)


def _curves(record) -> None:
    white, brown = (noise[0] for noise in noises(1, 0))
    plain = gradient_curves(PLAIN_BN, (1, 8, 24), 0, 1)
    scaled = gradient_curves(SCALED, (50,), 0, 1)
    curves = [
        ("1 layer", plain[1][0], SERIES[0]),
        ("plain + BN, 8 layers", plain[8][0], SERIES[1]),
        ("plain + BN, 24 layers", plain[24][0], SERIES[1]),
        ("residual + BN, β = 0.1, 50 layers", scaled[50][0], SERIES[4]),
        ("Brownian noise", brown, INK),
        ("white noise", white, INK),
    ]
    panels = []
    grid = np.linspace(-2, 2, GRID)
    for title, curve, color in curves:
        fig, ax = panel(title, "input x", "dy/dx, standardized", height=1.9)
        values = curve.double().numpy()
        ax.plot(grid, (values - values.mean()) / values.std(), color=color, linewidth=1.1)
        panels.append(fig)
    record.figure(
        "curves",
        panels,
        caption="The gradient dy/dx of one random network of one real input at 256 points, each curve "
        "standardized. With depth a plain net's gradient turns from a random walk into white noise; a "
        "50-layer residual net's does not.",
        alt="Six curves. One layer, and the 50-layer residual net with β = 0.1, wander slowly like the "
        "Brownian noise. The 8-layer plain net jumps more often, and the 24-layer plain net flickers at "
        "every point like the white noise.",
    )


def _autocorrelations(record) -> None:
    depths = (1, 4, 10, 24, 50)
    white, brown = (np.mean([autocorrelation(noises(40, s)[k]) for s in SEEDS], 0) for k in (0, 1))
    panels = []
    for net in (PLAIN, PLAIN_BN, RESIDUAL_BN, SCALED):
        found = [gradient_curves(net, depths, seed, 40) for seed in SEEDS]
        fig, ax = panel(net.label, "lag (grid points of 4/255)", "autocorrelation of dy/dx")
        for noise, style, name in ((brown, "--", "Brownian"), (white, ":", "white")):
            ax.plot(noise, color=INK, linestyle=style, linewidth=1.2, label=name)
        for n, depth in enumerate(depths):
            by_seed = [autocorrelation(curves[depth]) for curves in found]
            ax.plot(np.mean(by_seed, 0), color=SERIES[n], label=f"{depth} layer{'s' * (depth > 1)}", linewidth=1.5)
            if depth in (1, 24, 50):
                record.metric(
                    f"acf_lag1_{net.name}_{depth}",
                    [float(acf[1]) for acf in by_seed],
                    setting=f"{net.label}, {depth} layer(s) of 200, 256 inputs in [-2, 2], 5 networks of 40 readouts",
                )
        ax.set(ylim=(-0.2, 1.55), yticks=(0, 0.5, 1))
        ax.legend(loc="upper right", ncols=3, handlelength=1.4, columnspacing=1.0, fontsize=7.5)
        panels.append(fig)
    record.metric("acf_lag1_brownian", float(brown[1]), setting="200 random walks of 256 steps")
    record.metric("acf_lag1_white", float(white[1]), setting="200 draws of 256 points")
    record.figure(
        "autocorrelation",
        panels,
        caption="Autocorrelation of the gradient curve, mean over 5 networks of 40 readouts each. Without BN the "
        "curve stays correlated, because inputs come to share their active units; with BN it whitens; "
        "skips slow that, and β = 0.1 all but stops it.",
        alt="Four panels of autocorrelation against lag, with white noise at zero and Brownian noise falling "
        "slowly. Plain with BN drops toward white noise as depth grows; residual with BN lies between; β "
        "= 0.1 stays near Brownian.",
    )


def _correlations(record, depths: dict[str, list[Depths]]) -> None:
    setting = "width 200, 256 Gaussian inputs, 66 pairs, 5 seeds"
    by_net = {name: np.array([one.correlation for one in found]) for name, found in depths.items()}
    for name, by_seed in by_net.items():
        record.metric(
            f"factor_{name}", [per_layer_factor(one) for one in by_seed], setting=f"{setting}, fit over layers 1–6"
        )
        for at in (24, 64):
            record.metric(
                f"correlation_{at}_{name}",
                [float(one[at - 1]) for one in by_seed],
                setting=f"{setting}, {at} layers",
            )
    for net in (PLAIN, RESIDUAL):
        coins = [per_layer_factor(descend(net, seed, 6, coins=True).correlation) for seed in SEEDS]
        record.metric(f"factor_{net.name}_coins", coins, setting="the same, every unit switched by a fair coin")
    for net in (RESIDUAL_BN, SCALED):
        exponents = [power(one) for one in by_net[net.name]]
        record.metric(f"exponent_{net.name}", exponents, setting=f"{setting}, fit over layers 8–64")
    for name, theory in (
        ("plain_infinite", infinite_width(False)),
        ("theorem_3", theorem_3(1.0)),
        ("theorem_3_centered", theorem_3(1.0, CENTERED)),
    ):
        record.metric(f"exponent_{name}", power(theory), setting="computed, not sampled; fit over layers 8–64")
    record.metric("correlation_64_plain_infinite", float(infinite_width(False)[-1]), setting="computed, infinite width")
    record.metric(
        "correlation_64_theorem_3_scaled", float(theorem_3(0.1)[-1]), setting="the product behind Theorem 3, β = 0.1"
    )
    record.metric(
        "correlation_64_centered_scaled",
        float(theorem_3(0.1, CENTERED)[-1]),
        setting="the same, branch variance 1 − 1/π",
    )

    layer = np.arange(1, LAYERS + 1)
    near, ax = panel("First layers", "layers L", "correlation of gradients")
    for net in NETS:
        last = min(DROWNED.get(net.name, LAYERS), 12)
        _band(ax, layer[:last], by_net[net.name][:, :last], COLOR[net.name], net.label)
    ax.plot(layer[:12], 0.5 ** layer[:12], color=INK, linestyle=":", linewidth=1.1, label="2^(−L), (3/4)^L")
    ax.plot(layer[:12], 0.75 ** layer[:12], color=INK, linestyle=":", linewidth=1.1)
    ax.set(yscale="log", ylim=(1e-3, 1.6))
    ax.legend(loc="lower left", fontsize=7.5, handlelength=1.4)
    far, ax = panel("To 64 layers", "layers L", "correlation of gradients")
    for net in NETS:
        last = DROWNED.get(net.name, LAYERS)
        _band(ax, layer[:last], by_net[net.name][:, :last], COLOR[net.name], net.label)
    for theory in (infinite_width(False), infinite_width(True), theorem_3(1.0, CENTERED), theorem_3(0.1, CENTERED)):
        ax.plot(layer, theory, color=INK, linestyle="--", linewidth=0.9)
    ax.plot(layer, theorem_3(1.0), color=INK, linestyle=":", linewidth=1.1)
    ax.set(xscale="log", yscale="log", ylim=(1e-3, 1.6))
    ax.legend(loc="lower left", fontsize=7.5, handlelength=1.4)
    record.figure(
        "correlation",
        [near, far],
        caption="Correlation of gradients between distinct inputs: mean over 66 pairs and 5 networks, band from "
        "the least to the greatest. Left: dotted, what Theorems 1 and 2 say at co-activation 1/4. Right, "
        "both axes logarithmic: dotted, Theorem 3 for β = 1; dashed, infinite width without BN, and "
        "Theorem 3 with the branch's variance about its mean. Curves stop where one network's noise "
        "drowns them.",
        alt="Left panel: plain with BN falls along the line 2 to the minus L; plain without BN and residual "
        "fall slower and bend upward; residual with BN falls slowly, and with β 0.1 hardly at all. Right "
        "panel: the same to 64 layers, the residual nets with BN are nearly straight lines on the dashed "
        "theory.",
    )
    rows = [
        {
            "network": net.label,
            "factor a layer, 1–6": f"{np.mean([per_layer_factor(one) for one in by_net[net.name]]):.3f}",
            "correlation at 24": f"{by_net[net.name][:, 23].mean():.4f}",
            "correlation at 64": f"{by_net[net.name][:, 63].mean():.4f}",
        }
        for net in NETS
    ]
    record.table(
        "correlations", rows, caption=f"Correlation of gradients between inputs ({setting}); means over the seeds."
    )


def _co_activations(record, depths: dict[str, list[Depths]]) -> None:
    setting = "width 200, 256 Gaussian inputs, 5 seeds"
    for net in (PLAIN, PLAIN_BN, RESIDUAL, RESIDUAL_BN):
        for at in (1, 64):
            record.metric(
                f"co_activation_{net.name}_{at}",
                [float(one.co_active[at - 1]) for one in depths[net.name]],
                setting=f"{net.label}, layer {at}, {setting}",
            )
    record.metric(
        "co_activation_plain_bn_farthest",
        [float(np.abs(one.co_active - 0.25).max()) for one in depths["plain_bn"]],
        setting=f"largest distance from 1/4 in 64 layers, {setting}",
    )
    for net in (PLAIN, PLAIN_BN):
        record.metric(
            f"active_share_{net.name}",
            [float(one.active.mean()) for one in depths[net.name]],
            setting=f"{net.label}, mean over 64 layers, {setting}",
        )
    layer = np.arange(1, LAYERS + 1)
    panels = []
    for title, pair in (("Plain", (PLAIN, PLAIN_BN)), ("Residual", (RESIDUAL, RESIDUAL_BN))):
        fig, ax = panel(title, "layer", "share of units")
        for net in pair:
            dash = "-" if net.bn else "--"
            suffix = "BN" if net.bn else "no BN"
            co_active = np.array([one.co_active for one in depths[net.name]])
            active = np.array([one.active for one in depths[net.name]])
            _band(ax, layer, active, SERIES[2], f"active, {suffix}", dash)
            _band(ax, layer, co_active, SERIES[0], f"co-active, {suffix}", dash)
        ax.axhline(0.25, color=FAINT, linewidth=1.0)
        ax.set(ylim=(0, 0.75))
        ax.legend(loc="lower center", ncols=2, fontsize=7.5, handlelength=1.8)
        panels.append(fig)
    record.figure(
        "co_activation",
        panels,
        caption="Share of units that are active, and share active for both of two inputs, layer by layer; band "
        "from the least to the greatest of 5 networks. Half the units are active everywhere. With BN a "
        "quarter is co-active; without, the quarter climbs toward the half.",
        alt="Two panels, plain and residual. The active share stays near one half. The co-active share is "
        "flat at one quarter with batch normalization and climbs from one quarter toward one half "
        "without.",
    )


def _band(ax, layer: np.ndarray, by_seed: np.ndarray, color: str, label: str, dash: str = "-") -> None:
    ax.plot(layer, by_seed.mean(0), color=color, label=label, linestyle=dash, linewidth=1.5)
    ax.fill_between(layer, by_seed.min(0).clip(1e-4), by_seed.max(0), color=color, alpha=0.2, linewidth=0)


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)}


KERNELS = (
    Kernel(
        name="co_activation",
        op=kernel.co_activation,
        twin=method.co_activation,
        inputs=_inputs,
        bytes_moved=lambda a: a["x"].numel() * a["x"].element_size() + a["x"].shape[0] ** 2 * 4,
        operations=lambda a: a["x"].shape[0] * (a["x"].shape[0] + 1) * a["x"].shape[1],
        shapes=((0, 5), (1, 1), (1, 7), (5, 16), (31, 67), (63, 1023), (64, 64), (65, 129), (130, 1025)),
        bench_shapes=((256, 1024 * 1024), (2048, 65536), (8192, 8192)),
        oracle="float64 masks and a matrix product",
    ),
)
