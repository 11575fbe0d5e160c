"""Self-normalization measured: the (mean, variance) map, 100 layers deep, two fixed points, and alpha dropout."""

from __future__ import annotations

import torch
from torch import Tensor

from generator.lab.figures import FAINT, INK, SERIES, panel
from generator.lab.kernels import Kernel
from snippets.self_normalizing import kernel, method

UNITS, BATCH, DEPTH, SEEDS = 256, 256, 100, 3
SETTING = f"{DEPTH} layers of {UNITS}, batch {BATCH}, weights N(0, 1/n), input N(0, 1), {SEEDS} seeds"
DROP = 0.1
PAPER_ALPHA, PAPER_LAMBDA = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def run(record) -> None:
    """Record the constants, the map, the depth experiment, and alpha dropout beside plain dropout."""
    constants(record)
    mapping(record)
    depth(record)
    dropout(record)


def scaled_elu(z: Tensor, alpha: float, scale: float) -> Tensor:
    return scale * torch.where(z > 0, z, alpha * torch.expm1(z.clamp(max=0)))


def moment_map(variance: float, alpha: float, scale: float) -> tuple[float, float]:
    """Return the next layer's mean and variance for normalized weights (equation 3, ω = 0, τ = 1)."""
    p1, p2, n1, n2 = method.half_moments(variance)
    mean = scale * (p1 + alpha * n1)
    return mean, scale**2 * (p2 + alpha**2 * n2) - mean**2


def jacobian_norm(variance: float, alpha: float, scale: float, step: float = 1e-5) -> float:
    """Return the map's spectral norm at the fixed point; with ω = 0 the old mean has no say, so one column is left."""
    above, below = (moment_map(variance * (1 + s), alpha, scale) for s in (step, -step))
    return sum(((a - b) / (2 * step * variance)) ** 2 for a, b in zip(above, below, strict=True)) ** 0.5


def constants(record) -> None:
    alpha, scale = method.fixed_point(0.0, 1.0)
    record.metric("alpha", alpha, setting="solved for mean 0, variance 1")
    record.metric("lambda", scale, setting="solved for mean 0, variance 1")
    record.metric("alpha_error", abs(alpha - PAPER_ALPHA), setting="against the paper's 32 digits")
    record.metric("lambda_error", abs(scale - PAPER_LAMBDA), setting="against the paper's 32 digits")
    record.metric(
        "saturation", method.selu(torch.tensor(-60.0, dtype=torch.float64)).item(), setting="selu(−60), float64"
    )
    record.metric("minus_alpha_lambda", -alpha * scale, setting="solved for mean 0, variance 1")
    record.metric("jacobian_norm", jacobian_norm(1.0, alpha, scale), setting="at (0, 1), central difference")
    rows = []
    for mean, variance in ((0, 0.25), (0, 1), (0, 4), (0, 16), (0.5, 1), (-0.5, 1)):
        alpha, scale = method.fixed_point(mean, variance)
        got = moment_map(variance, alpha, scale)
        rows.append(
            {
                "mean": mean,
                "variance": variance,
                "α": round(alpha, 6),
                "λ": round(scale, 6),
                "saturation −λα": round(-alpha * scale, 4),
                "spectral norm": round(jacobian_norm(variance, alpha, scale), 4),
                "largest residual": f"{max(abs(got[0] - mean), abs(got[1] - variance)):.0e}",
            }
        )
    record.table(
        "fixed-points", rows, caption="SELU constants for other targets; below 1 the norm means the point attracts."
    )
    alpha, scale = method.fixed_point(0.0, 4.0)
    record.metric("alpha_four", alpha, setting="solved for mean 0, variance 4")
    record.metric("lambda_four", scale, setting="solved for mean 0, variance 4")
    record.metric("jacobian_norm_four", jacobian_norm(4.0, alpha, scale), setting="at (0, 4), central difference")


def mapping(record) -> None:
    """Draw where one layer sends (mean, variance), and where a simulated stack of such layers really goes."""
    panels = []
    for target in (1.0, 4.0):
        alpha, scale = method.fixed_point(0.0, target)
        fig, axis = panel(f"fixed point (0, {target:g})", "mean", "variance", height=3.2)
        means, variances = torch.linspace(-0.8, 0.8, 9) * target**0.5, torch.linspace(0.2, 2.0, 10) * target
        grid = [(m.item(), v.item(), *moment_map(v.item(), alpha, scale)) for m in means for v in variances]
        m, v, to_m, to_v = zip(*grid, strict=True)
        # a fifth of the way: whole arrows would all end on one curve, as the next mean depends on the variance alone
        along = [(0.2 * (b - a), 0.2 * (d - c)) for a, b, c, d in zip(m, to_m, v, to_v, strict=True)]
        axis.quiver(m, v, *zip(*along, strict=True), angles="xy", scale_units="xy", scale=1, color=FAINT, width=0.005)
        for number, (mean, variance) in enumerate(((-0.7, 1.9), (0.7, 1.8), (0.6, 0.3), (-0.6, 0.4))):
            path = stack(mean * target**0.5, variance * target, alpha, scale)
            axis.plot(
                *zip(*path, strict=True), color=SERIES[0], lw=1.4, marker="o", ms=3, label="_" * number + "a stack"
            )
        axis.plot(0, target, marker="*", ms=13, color=SERIES[1])
        panels.append(fig)
    record.figure(
        "map",
        panels,
        caption="What one layer does to (mean, variance): grey arrows point to where equation 3 sends a layer, drawn a fifth "
        "of their length. Blue: four simulated stacks of 512 units with normalized weights, a dot a layer. Left the paper's "
        "α and λ, right those solved for (0, 4).",
        alt="Two vector fields over mean and variance. In both, arrows and four measured paths lead to the starred fixed "
        "point: (0, 1) on the left, (0, 4) on the right.",
    )


def stack(mean: float, variance: float, alpha: float, scale: float, layers: int = 12) -> list[tuple[float, float]]:
    """Follow a layer's mean and variance through weights whose rows sum to 0 and have norm 1 (ω = 0, τ = 1)."""
    generator = torch.Generator().manual_seed(3)
    x = mean + variance**0.5 * torch.randn(512, 512, generator=generator)
    path = [(x.mean().item(), x.var().item())]
    for _ in range(layers):
        w = torch.randn(512, 512, generator=generator)
        w -= w.mean(1, keepdim=True)
        x = scaled_elu(x @ (w / w.norm(dim=1, keepdim=True)).T, alpha, scale)
        path.append((x.mean().item(), x.var().item()))
    return path


def batch_norm_relu(z: Tensor) -> Tensor:
    return torch.relu((z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, correction=0) + 1e-5).sqrt())


NETWORKS = {
    "SELU": (method.selu, 1.0),
    "ELU": (lambda z: scaled_elu(z, 1.0, 1.0), 1.0),
    "ReLU": (torch.relu, 1.0),
    "ReLU, He init": (torch.relu, 2.0),
    "ReLU + BN": (batch_norm_relu, 1.0),
}


def depth(record) -> None:
    """Send a standard normal batch through 100 layers; all seeds at once, one a batch entry."""
    alpha, scale = method.fixed_point(0.0, 4.0)
    networks = {**NETWORKS, "SELU for (0, 4)": (lambda z: scaled_elu(z, alpha, scale), 1.0)}
    mean_panel, mean_axis = panel("mean", "layer", "mean activation")
    variance_panel, variance_axis = panel("variance", "layer", "variance of activations")
    rows, layers = [], range(1, DEPTH + 1)
    for number, (name, (f, gain)) in enumerate(networks.items()):
        means, variances = propagate(f, gain, start=4.0 if "4" in name else 1.0)
        style = {"color": SERIES[number], "lw": 2.2 if name == "SELU" else 1.2, "ls": "--" if "4" in name else "-"}
        mean_axis.plot(layers, means.mean(1), label=name, **style)
        variance_axis.plot(layers, variances.mean(1).clamp_min(1e-8), **style)
        key = {"ReLU, He init": "relu_he", "ReLU + BN": "relu_bn", "SELU for (0, 4)": "selu_four"}.get(
            name, name.lower()
        )
        setting = SETTING if "4" not in name else SETTING.replace("input N(0, 1)", "input N(0, 4)")
        record.metric(f"mean_layer_100_{key}", means[-1].tolist(), setting=setting)
        record.metric(f"variance_layer_100_{key}", variances[-1].tolist(), setting=setting)
        if name == "SELU":
            record.metric("largest_mean_selu", means.abs().amax(0).tolist(), setting=f"over all layers; {setting}")
            record.metric("lowest_variance_selu", variances.amin(0).tolist(), setting=f"over all layers; {setting}")
            record.metric("highest_variance_selu", variances.amax(0).tolist(), setting=f"over all layers; {setting}")
        rows.append(
            {
                "network": name,
                "mean, layer 100": f"{means[-1].mean():.3g}",
                "variance, layer 100": f"{variances[-1].mean():.3g}",
                "lowest–highest variance of the seeds": f"{variances[-1].min():.3g}–{variances[-1].max():.3g}",
            }
        )
    mean_axis.set_ylim(-0.05, 0.98)
    mean_axis.legend(loc="upper center", ncols=2, fontsize=7.5)
    mean_axis.axhline(0, color=INK, lw=0.6)
    variance_axis.set_yscale("log")
    variance_axis.axhline(1, color=INK, lw=0.6)
    record.figure(
        "depth",
        [mean_panel, variance_panel],
        caption=f"Mean and variance of the activations, layer by layer. {SETTING}; He init doubles the weights' variance, "
        "and the network for (0, 4) starts from N(0, 4). Variances below 10⁻⁸ are drawn there.",
        alt="Two panels against layer 1 to 100. SELU's mean stays near 0 and its variance near 1, SELU for (0, 4) near 0 and "
        "4; ELU's variance shrinks; plain ReLU's variance falls off the plot; ReLU with He init and with BN have a mean "
        "clearly above 0.",
    )
    record.table("depth", rows, caption=SETTING)


def propagate(f, gain: float, start: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = start**0.5 * torch.randn(SEEDS, BATCH, UNITS, generator=generator)
    means, variances = [], []
    for _ in range(DEPTH):
        x = f(x @ (torch.randn(SEEDS, UNITS, UNITS, generator=generator) * (gain / UNITS) ** 0.5))
        means.append(x.mean((1, 2)))
        variances.append(x.var((1, 2)))
    return torch.stack(means), torch.stack(variances)


def dropout(record) -> None:
    """Drop out the same SELU activations both ways, for several drop rates."""
    x = method.selu(torch.randn(200_000, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    rates = [0.05, 0.1, 0.2, 0.3, 0.5]
    results = {"alpha dropout": [], "plain dropout": []}
    for p in rates:
        plain = torch.where(method.keep_mask(x.shape, p, seed=1), x / (1 - p), 0.0)
        for name, y in (("alpha dropout", method.alpha_dropout(x, p, seed=1)), ("plain dropout", plain)):
            results[name].append((y.mean().item(), y.var().item()))
    setting = "200,000 SELU activations of N(0, 1)"
    chosen = rates.index(DROP)
    for name, key in (("alpha dropout", "alpha"), ("plain dropout", "plain")):
        record.metric(f"{key}_dropout_mean", results[name][chosen][0], setting=f"p = {DROP}; {setting}")
        record.metric(f"{key}_dropout_variance", results[name][chosen][1], setting=f"p = {DROP}; {setting}")
    shift = max(abs(mean - x.mean().item()) for mean, _ in results["plain dropout"])
    record.metric("plain_dropout_mean_shift", shift, setting=f"p from {rates[0]} to {rates[-1]}; {setting}")
    worst = max(abs(variance - 1) for _, variance in results["alpha dropout"])
    record.metric("alpha_dropout_worst_variance_error", worst, setting=f"p from {rates[0]} to {rates[-1]}; {setting}")
    variance_panel, variance_axis = panel("after one dropout", "drop probability p", "variance")
    for number, (name, values) in enumerate(results.items()):
        variance_axis.plot(rates, [v for _, v in values], marker="o", ms=4, color=SERIES[number])
        variance_axis.text(0.34, 1.06 if number == 0 else 1.75, name, color=SERIES[number], ha="center")
    variance_axis.set_ylim(0.8, 2.1)
    depth_panel, depth_axis = panel(f"dropout of {DROP} after every SELU layer", "layer", "variance of activations")
    for number, key in enumerate(("alpha", "plain")):
        variances = through_layers(alpha=key == "alpha")
        depth_axis.plot(range(1, 33), variances.mean(1), color=SERIES[number])
        depth_axis.text(32, variances[-8:].mean() - 0.16, f"{key} dropout", color=SERIES[number], ha="right")
        record.metric(
            f"variance_layer_32_{key}_dropout",
            variances[-1].tolist(),
            setting=f"32 SELU layers of {UNITS}, p = {DROP} after each, {SEEDS} seeds",
        )
    depth_axis.axhline(1, color=INK, lw=0.6)
    depth_axis.set_ylim(bottom=0)
    record.figure(
        "dropout",
        [variance_panel, depth_panel],
        caption="Alpha dropout (blue) against plain dropout (orange), with the same masks. Left: variance of the same SELU "
        f"activations after one dropout. Right: variance through 32 SELU layers, each followed by dropout of {DROP}, mean of "
        f"{SEEDS} seeds.",
        alt="Two panels. Left: alpha dropout's variance stays at 1 for every p, plain dropout's climbs to 2 at p = 0.5. Right: "
        "variance by layer; alpha dropout stays near 1, plain dropout settles higher.",
    )


def through_layers(alpha: bool) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(SEEDS, BATCH, UNITS, generator=generator)
    variances = []
    for layer in range(32):
        x = method.selu(x @ (torch.randn(SEEDS, UNITS, UNITS, generator=generator) / UNITS**0.5))
        if alpha:
            x = method.alpha_dropout(x, DROP, seed=layer)
        else:
            x = torch.where(method.keep_mask(x.shape, DROP, seed=layer), x / (1 - DROP), 0.0)
        variances.append(x.var((1, 2)))
    return torch.stack(variances)


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    return {"x": 3 * torch.randn(shape, dtype=dtype, device=device, generator=generator)}


def _bytes(arguments) -> int:
    return 2 * arguments["x"].numel() * arguments["x"].element_size()


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
KERNELS = (
    Kernel(
        name="selu",
        op=kernel.selu,
        twin=method.selu,
        inputs=_inputs,
        bytes_moved=_bytes,
        operations=lambda arguments: 19 * arguments["x"].numel(),  # eight series terms of two, exp, select, scale
        dtypes=DTYPES,
        differentiable=("x",),
        backward_bytes=lambda arguments: _bytes(arguments) * 3 // 2,  # dL/dy and what was kept in, dL/dx out
        oracle="method.selu in float64; F.selu in the tests",
    ),
    Kernel(
        name="alpha_dropout",
        op=kernel.alpha_dropout,
        twin=method.alpha_dropout,
        inputs=lambda *what: {**_inputs(*what), "p": DROP, "seed": 2**40 + 17},
        bytes_moved=_bytes,
        operations=lambda arguments: (
            27 * arguments["x"].numel()
        ),  # ten Philox rounds of ten, shared by four; select, a·x + b
        dtypes=DTYPES,
        differentiable=("x",),
        backward_bytes=_bytes,  # dL/dy in, dL/dx out: the mask is drawn again
        oracle="method.alpha_dropout in float64, the same mask replayed in plain torch",
    ),
)
