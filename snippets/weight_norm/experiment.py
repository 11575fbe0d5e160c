"""Weight normalization measured: its initialization, the length of v under four optimizers, five networks, and its cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from generator.lab.data import digits
from generator.lab.figures import FAINT, INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import error_rate, fit
from snippets.weight_norm import kernel, method

SEEDS = 5
HIDDEN, WIDTH, BATCH, FIRST = 3, 128, 100, 500
"""Hidden layers, their units, a minibatch, and the batch that initializes."""
SPREAD = 0.05
"""The paper's standard deviation of v at the start."""
EPOCHS, EARLY, RATE = 4, 3, 0.003
DEEP = 10
CEILING, RUNAWAY = 100.0, 0.3
"""Where a loss that exploded is drawn, and the rate at which g is looked at afterwards."""
NET = f"digits, {HIDDEN} hidden ReLU layers of {WIDTH}"
RATES, SWEEP_SEEDS, SWEEP_EPOCHS, TRAINED = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), 3, 3, 1.0
LENGTH_RATES, ROUNDING = (0.001, 0.01, 0.1), -1e-12


def sgd(rate: float, **more: float) -> Callable:
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, **more)


OPTIMIZERS: dict[str, Callable] = {
    "plain SGD, 0.01": sgd(0.01),
    "… with momentum 0.9": sgd(0.01, momentum=0.9),
    f"Adam, {RATE}": lambda parameters: torch.optim.Adam(parameters, lr=RATE),
    "… with weight decay 0.1": sgd(0.01, weight_decay=0.1),
}
NETWORKS = {
    "none": {},
    "WN": {"weight": True},
    "BN": {"mean": True, "deviation": True},
    "mean-only BN": {"mean": True},
    "WN + mean-only BN": {"weight": True, "mean": True},
}


def run(record) -> None:
    """Record the initialization and the gradient's direction, the length of v, the five networks, and the cost."""
    initialization(record)
    lengths(record)
    learning_rates(record)
    networks(record)
    cost(record)


@cache
def data(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return digits(seed)


class Layer(nn.Module):
    """y = w·x + b with w = g·v/‖v‖ where `weight`, else w = v; minus its batch mean, over its batch deviation."""

    def __init__(self, inputs: int, units: int, weight=False, mean=False, deviation=False) -> None:
        super().__init__()
        self.v = nn.Parameter(SPREAD * torch.randn(units, inputs))
        self.b = nn.Parameter(torch.zeros(units))
        self.weight, self.mean, self.deviation = weight, mean, deviation
        if weight or deviation:
            self.g = nn.Parameter(torch.ones(units))
        self.register_buffer("running_mean", torch.zeros(units))
        self.register_buffer("running_variance", torch.ones(units))

    def forward(self, x: Tensor) -> Tensor:
        t = x @ (method.weight_norm(self.v, self.g) if self.weight else self.v).T
        if self.mean:
            mean = t.mean(0) if self.training else self.running_mean
            variance = t.var(0, correction=0) if self.training else self.running_variance
            if self.training:
                with torch.no_grad():
                    self.running_mean.lerp_(mean, 0.1)
                    self.running_variance.lerp_(variance, 0.1)
            t = t - mean
            if self.deviation:
                t = t * (self.g / (variance + 1e-5).sqrt())
        return t + self.b

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Make this batch's pre-activations zero-mean and unit-variance: g = 1/σ[t], b = −μ[t]/σ[t] (equation 6)."""
        t = x @ method.weight_norm(self.v, self.v.new_ones(len(self.v))).T
        scale = 1 / t.std(0, correction=0)
        if self.weight:
            self.g.copy_(scale)
        else:  # without g the same scale goes into the weights; BN would not notice it
            self.v.copy_(method.weight_norm(self.v, scale))
        if self.mean:  # the batch's own mean, subtracted, leaves nothing to b
            self.running_mean.copy_(t.mean(0) * scale)
        else:
            self.b.copy_(-t.mean(0) * scale)


def network(seed: int, x: Tensor | None = None, hidden: int = HIDDEN, **kind: bool) -> nn.Sequential:
    """Return a net drawn by the seed, initialized on the batch x layer by layer; its output uses no batch statistics."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n in range(hidden):
        layers += [Layer(WIDTH if n else 64, WIDTH, **kind), nn.ReLU()]
    net = nn.Sequential(*layers, Layer(WIDTH, 10, weight=kind.get("weight", False)))
    if x is not None:
        net.to(x.dtype)
        for layer in net:
            if isinstance(layer, Layer):
                layer.initialize(x)
            with torch.no_grad():
                x = layer(x)
    return net


def layers(net: nn.Sequential) -> list[Layer]:
    return [layer for layer in net if isinstance(layer, Layer)]


@torch.no_grad()
def pre_activations(net: nn.Sequential, x: Tensor) -> list[Tensor]:
    """Return [batch, unit] of every layer, before its activation function."""
    found = []
    for layer in net:
        x = layer(x)
        if isinstance(layer, Layer):
            found.append(x)
    return found


def initialization(record) -> None:
    """Measure the first batch's pre-activations, the gradient's angle to v, and ten layers with and without."""
    means, deviations, cosines, factors = [], [], [], []
    for seed in range(SEEDS):
        x, y, _, _ = data(seed)
        net = network(seed, x[:FIRST], weight=True)
        found = torch.cat(pre_activations(net, x[:FIRST]), dim=1).double()
        means.append(found.mean(0).abs().max())
        deviations.append((found.std(0, correction=0) - 1).abs().max())
        factors.append(torch.cat([(layer.g / layer.v.norm(dim=1)).detach() ** 2 for layer in layers(net)]).median())
        nn.functional.cross_entropy(net(x[:BATCH]), y[:BATCH]).backward()
        v, grad = (
            [one.detach().double() for one in them]
            for them in zip(*((layer.v, layer.v.grad) for layer in layers(net)), strict=True)
        )
        cosines.append(
            max(
                nn.functional.cosine_similarity(a, b, eps=0).nan_to_num().abs().max()
                for a, b in zip(v, grad, strict=True)
            )
        )
    setting = f"every unit of every layer, the initializing batch of {FIRST}; {NET}, float32, {SEEDS} seeds"
    record.metric("init_mean_error", torch.stack(means), setting=f"largest |mean|, {setting}")
    record.metric("init_deviation_error", torch.stack(deviations), setting=f"largest |std − 1|, {setting}")
    setting = f"largest of every unit of every layer, first batch of {BATCH}; {NET}, float32, {SEEDS} seeds"
    record.metric("gradient_cosine", torch.stack(cosines), setting=setting)

    setting = f"median over units, right after initialization; {NET}, {SEEDS} seeds"
    record.metric("effective_rate_factor", torch.stack(factors), setting=setting)

    runs: dict[str, list[list[tuple[float, float]]]] = {}
    for seed in range(SEEDS):
        x, _, fresh, _ = data(seed)
        plain, ready = network(seed, hidden=DEEP), network(seed, x[:FIRST], hidden=DEEP, weight=True)
        for name, net, batch in (
            ("v alone", plain, x[:FIRST]),
            ("its batch", ready, x[:FIRST]),
            ("unseen", ready, fresh),
        ):
            found = pre_activations(net, batch)[:DEEP]
            runs.setdefault(name, []).append([(t.std(0).mean().item(), t.mean(0).abs().mean().item()) for t in found])
    panels = [
        panel("spread of pre-activations", "layer", "std, mean over units"),
        panel("offset of pre-activations", "layer", "|mean|, mean over units"),
    ]
    for number, (_, ax) in enumerate(panels):
        for (name, values), color in zip(runs.items(), (FAINT, SERIES[0], SERIES[1]), strict=True):
            curves = torch.tensor(values)[:, :, number].clamp_min(1e-9)
            label = {"v alone": "w = v, no initialization"}.get(name, name)
            spread(ax, range(1, DEEP + 1), curves, color, label, ls="--" if name == "unseen" else "-")
        ax.set_yscale("log")
        ax.set_xticks(range(1, DEEP + 1))
    panels[0][1].legend(loc="lower left")
    at_end = {name: torch.tensor(values)[:, -1, 0] for name, values in runs.items()}
    deep = f"digits, layer {DEEP} of {WIDTH} ReLU units each, {SEEDS} seeds"
    record.metric("deep_deviation_plain", at_end["v alone"], setting=f"w = v, std {SPREAD}; {deep}")
    record.metric("deep_deviation_unseen", at_end["unseen"], setting=f"initialized, on the test images; {deep}")
    record.figure(
        "initialization",
        [fig for fig, _ in panels],
        caption=f"Pre-activations of {DEEP} ReLU layers of {WIDTH} on digits before any training: weights drawn with standard "
        f"deviation {SPREAD} as they are (grey), and after the data-dependent initialization, on the batch of {FIRST} that it "
        f"saw (blue) and on the test images (orange). Bands: {SEEDS} seeds.",
        alt="Two panels against the layer, logarithmic. Left, the spread: grey falls by orders of magnitude, blue stays at 1 and "
        "orange near 1. Right, the offset: blue is at rounding error, orange small, grey falls with the spread.",
    )


def lengths(record) -> None:
    """Follow every ‖v‖, step by step, in float64: under four optimizers, and under plain SGD at three rates."""
    by_optimizer, ax = panel("four optimizers", "epoch", "‖v‖ over its first value, mean")
    by_rate, rate_ax = panel("plain SGD at three rates", "epoch", "growth of ‖v‖ so far, mean")
    seeds = range(SWEEP_SEEDS)
    epochs = torch.linspace(0, SWEEP_EPOCHS, SWEEP_EPOCHS * (len(data(0)[0]) // BATCH) + 1)
    rows, followed = [], {}
    for number, (name, make) in enumerate(OPTIMIZERS.items()):
        norms = torch.stack([follow(make, seed, torch.float64) for seed in seeds])  # [seed, step, unit]
        followed[name] = norms
        step = norms[:, 1:] / norms[:, :-1] - 1
        growth = (norms / norms[:, :1]).mean(2)
        spread(ax, epochs, growth, SERIES[number], name)
        rows.append(
            {
                "optimizer": name,
                "smallest change of a ‖v‖ in a step": f"{step.min():.1e}",
                "steps that shrink a ‖v‖": f"{100 * (step < ROUNDING).double().mean():.1f} %",
                f"‖v‖ after {SWEEP_EPOCHS} epochs over the first": f"{growth[:, -1].mean():.4f}",
            }
        )
    ax.axhline(1, color=INK, lw=0.6)
    low, high = ax.get_ylim()
    ax.set_ylim(top=high + 0.5 * (high - low))  # room for the legend
    ax.legend(fontsize=7.5)
    smallest = []
    for number, rate in enumerate(LENGTH_RATES):
        norms = followed.get(f"plain SGD, {rate:g}")
        if norms is None:
            norms = torch.stack([follow(sgd(rate), seed, torch.float64) for seed in seeds])
        smallest.append((norms[:, 1:] / norms[:, :-1] - 1).amin((1, 2)))
        growth = (norms / norms[:, :1]).mean(2) - 1
        spread(rate_ax, epochs[1:], growth[:, 1:], SERIES[number + 4], f"{rate:g}")
        rate_ax.text(epochs[-1] * 1.02, growth[:, -1].mean(), f"{rate:g}", color=SERIES[number + 4], va="center")
    rate_ax.set_yscale("log")
    rate_ax.set_xticks(range(SWEEP_EPOCHS + 1))
    rate_ax.set_xlim(right=float(epochs[-1]) * 1.17)
    setting = f"plain SGD at {len(LENGTH_RATES)} rates, {SWEEP_EPOCHS} epochs, {NET}, {SWEEP_SEEDS} seeds"
    record.metric(
        "smallest_step_sgd", torch.stack(smallest).amin(0), setting=f"of any ‖v‖, relative, float64; {setting}"
    )
    narrow = torch.stack([follow(sgd(0.01), seed, torch.float32) for seed in seeds])
    shrunk = (narrow[:, 1:] < narrow[:, :-1]).double().mean((1, 2)) * 100
    record.metric(
        "shrinking_steps_float32", shrunk, unit="%", setting=f"of steps and units, rate 0.01, float32; {setting}"
    )
    record.table(
        "lengths",
        rows,
        caption=f"Net: {NET}, batches of {BATCH}, float64, {SWEEP_SEEDS} seeds; below {ROUNDING:g} is shrinking.",
    )
    record.figure(
        "lengths",
        [by_optimizer, by_rate],
        caption=f"Length of v over training, mean over all units of a net whose every layer is weight-normalized. Left: four "
        "optimizers. Right: plain SGD at the rates written beside the curves; growth is ‖v‖ over its first value, less 1, on a "
        f"logarithmic axis. Net: {NET}; bands: {SWEEP_SEEDS} seeds.",
        alt="Left: under plain SGD the length hardly moves at this rate, momentum and Adam lengthen v, weight decay shortens it. "
        "Right: under plain SGD the length grows at every rate, and the more the larger the rate.",
    )


def follow(make: Callable, seed: int, dtype: torch.dtype) -> Tensor:
    """Train a weight-normalized net and return ‖v‖ of all its units after every step [step, unit], in float64."""
    x, y, _, _ = data(seed)
    net = network(seed, x[:FIRST].to(dtype), weight=True).to(dtype)
    optimizer = make(net.parameters())

    def measure(*_) -> Tensor:
        return torch.cat([layer.v.detach().double().norm(dim=1) for layer in layers(net)])

    found = [measure()]
    optimizer.register_step_post_hook(lambda *_: found.append(measure()))
    fit(net, x.to(dtype), y, optimizer=optimizer, epochs=SWEEP_EPOCHS, batch=BATCH, seed=seed)
    return torch.stack(found)


def learning_rates(record) -> None:
    """Train with plain SGD at rates more than two orders of magnitude apart, with and without WN, from the same function."""
    fig, ax = panel("plain SGD", "learning rate", "training loss, last epoch")
    setting = f"plain SGD, {len(RATES)} rates from {RATES[0]:g} to {RATES[-1]:g}, {SWEEP_EPOCHS} epochs, {NET}, {SWEEP_SEEDS} seeds"
    runaway = []
    for name, color in (("WN", SERIES[0]), ("none", INK)):
        losses = []
        for seed in range(SWEEP_SEEDS):
            x, y, _, _ = data(seed)
            for rate in RATES:
                net = network(seed, x[:FIRST], **NETWORKS[name])
                start = [layer.g.detach().clone() for layer in layers(net)] if name == "WN" else []
                optimizer = sgd(rate)(net.parameters())
                losses.append(fit(net, x, y, optimizer=optimizer, epochs=SWEEP_EPOCHS, batch=BATCH, seed=seed)[-1])
                if name == "WN" and rate == RUNAWAY:
                    now = [layer.g.detach().abs() for layer in layers(net)]
                    runaway.append(max((g / g0).max().item() for g, g0 in zip(now, start, strict=True)))
        found = torch.tensor(losses).view(SWEEP_SEEDS, -1).nan_to_num(CEILING)
        spread(ax, RATES, found.clamp_max(CEILING), color, name, marker="o", ms=4)
        record.metric(
            f"best_rate_{name.lower()}", [RATES[n] for n in found.argmin(1)], setting=f"lowest last loss; {setting}"
        )
        working = (found < TRAINED).sum(1)
        record.metric(
            f"working_rates_{name.lower()}", working, setting=f"rates whose last loss is below {TRAINED:g}; {setting}"
        )
    record.metric("g_growth", runaway, setting=f"largest |g| over its first value, rate {RUNAWAY:g}; {setting}")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.axhline(math.log(10), color=FAINT, lw=1, ls="--")
    ax.text(0.012, math.log(10) * 1.1, "guessing", color=FAINT, va="bottom")
    ax.legend()
    record.figure(
        "rates",
        fig,
        caption=f"Training loss of the last of {SWEEP_EPOCHS} epochs against the learning rate of plain SGD, with weight "
        f"normalization (blue) and without (the color of the text), from the same function. Net: {NET}; bands: {SWEEP_SEEDS} seeds; whatever lies "
        f"above {CEILING:g} or is not finite is drawn there.",
        alt=f"Loss against learning rate from {RATES[0]:g} to {RATES[-1]:g}, both axes logarithmic, one curve with and one "
        "without weight normalization, and a dashed line at the loss of guessing.",
    )


def networks(record) -> None:
    """Train the five networks, which start as one function on the first batch, and compare loss and test error."""
    loss_panel, loss_axis = panel("training", "epoch", "training loss")
    error_panel, error_axis = panel("test", "test error (%)", "")
    losses: dict[str, list[list[float]]] = {}
    errors: dict[str, list[float]] = {}
    for name, kind in NETWORKS.items():
        for seed in range(SEEDS):
            x, y, test, labels = data(seed)
            net = network(seed, x[:FIRST], **kind)
            optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
            losses.setdefault(name, []).append(
                fit(net, x, y, optimizer=optimizer, epochs=EPOCHS, batch=BATCH, seed=seed)
            )
            errors.setdefault(name, []).append(100 * error_rate(net, test, labels))
    setting = f"{NET}, Adam {RATE}, batches of {BATCH}, {SEEDS} seeds"
    for number, name in enumerate(NETWORKS):
        key = name.lower().replace(" + ", "_").replace("-", "_").replace(" ", "_")
        color = (INK, *SERIES)[number]
        spread(loss_axis, range(1, EPOCHS + 1), losses[name], color, name)
        error_axis.plot(errors[name], [-number] * SEEDS, "o", ms=5, color=color, alpha=0.6)
        error_axis.plot([sum(errors[name]) / SEEDS], [-number], "|", ms=16, mew=2, color=color)
        record.metric(
            f"early_loss_{key}", [run[EARLY - 1] for run in losses[name]], setting=f"epoch {EARLY}; {setting}"
        )
        record.metric(f"final_loss_{key}", [run[-1] for run in losses[name]], setting=f"epoch {EPOCHS}; {setting}")
        record.metric(f"test_error_{key}", errors[name], unit="%", setting=f"after {EPOCHS} epochs; {setting}")
    loss_axis.set_xticks(range(1, EPOCHS + 1))
    loss_axis.set_yscale("log")
    loss_axis.legend(fontsize=7.5)
    error_axis.set_yticks([-n for n in range(len(NETWORKS))], list(NETWORKS))
    error_axis.set_xlim(left=0)
    record.figure(
        "networks",
        [loss_panel, error_panel],
        caption=f"Five networks that start as the same function on the first batch. Left: mean training loss of each epoch; "
        f"bands: {SEEDS} seeds. Right: test error after {EPOCHS} epochs, a dot a seed, a bar at the mean. Net: {setting}.",
        alt="Left: five falling training losses on a logarithmic axis. Right: the test errors of the five networks, five dots "
        "each.",
    )


# name: (rows of the layer's product: batch × positions, inputs of a unit, units)
LAYERS = {
    "digits net, hidden layer": (BATCH, WIDTH, WIDTH),
    "linear 1024 → 1024, batch 128": (128, 1024, 1024),
    "conv 3×3, 96 → 96, 32×32, batch 100": (100 * 32 * 32, 96 * 9, 96),
    "conv 3×3, 192 → 192, 16×16, batch 100": (100 * 16 * 16, 192 * 9, 192),
    "conv 3×3, 512 → 512, 7×7, batch 32": (32 * 7 * 7, 512 * 9, 512),
}


def cost(record) -> None:
    """Count the least bytes and operations that WN and BN add to one training step of a layer, forward and backward."""
    rows = []
    for name, (samples, inputs, units) in LAYERS.items():
        weights, activations = units * inputs, samples * units
        wn, bn, mean_only = 5 * weights, 5 * activations, 4 * activations  # tensors in and out, each once
        product = 6 * weights * samples
        rows.append(
            {
                "layer": name,
                "WN (MB)": f"{4 * wn / 1e6:.3g}",
                "BN (MB)": f"{4 * bn / 1e6:.3g}",
                "mean-only BN (MB)": f"{4 * mean_only / 1e6:.3g}",
                "BN over WN": f"{bn / wn:.0f}" if bn > 10 * wn else f"{bn / wn:.2f}",
                "WN, share of operations": f"{100 * 10 * weights / product:.2g} %",
                "BN, share": f"{100 * 14 * activations / product:.2g} %",
            }
        )
        if name.startswith(("digits", "conv 3×3, 96")):
            key = "digits" if name.startswith("digits") else "convolution"
            record.metric(f"bytes_bn_over_wn_{key}", bn / wn, setting=f"{name}; forward and backward, counted")
    record.table(
        "cost",
        rows,
        caption="Least traffic a training step, float32, counted and not timed. WN: v in, w out; dL/dw and v in, dL/dv out. "
        "BN: the same five of the layer's outputs; mean-only BN, whose backward needs no activations: four. Operations are a "
        "share of the layer's own product, forward and backward.",
    )


def _inputs(dim: int | None):
    def draw(shape, dtype, device, seed):
        generator = torch.Generator(device).manual_seed(seed)
        v = torch.randn(shape, dtype=dtype, device=device, generator=generator)
        shape_of_g = [1] if dim is None else method._shape_of_g(v, dim)
        g = torch.randn(shape_of_g, dtype=dtype, device=device, generator=generator)
        return {"v": v, "g": g, "dim": dim}

    return draw


def _bytes(arguments, tensors: int = 2, vectors: int = 1) -> int:
    """Count v in and w out, and g in."""
    v, g = arguments["v"], arguments["g"]
    return (tensors * v.numel() + vectors * g.numel()) * v.element_size()


def _eager(v: Tensor, g: Tensor, dim: int | None) -> Tensor:
    return torch._weight_norm(v, g, -1 if dim is None else dim)


def _declare(name: str, dim: int | None, **shapes) -> Kernel:
    return Kernel(
        name=name,
        op=kernel.weight_norm,
        twin=method.weight_norm,
        inputs=_inputs(dim),
        bytes_moved=_bytes,
        operations=lambda arguments: 4 * arguments["v"].numel(),  # square, add, by 1/‖v‖, by g
        dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        differentiable=("v", "g"),
        # dL/dw and v in, dL/dv out; g, norm and power in, dL/dg out
        backward_bytes=lambda arguments: _bytes(arguments, 3, 2) + 2 * 4 * arguments["g"].numel(),
        reduction=lambda arguments: arguments["v"].numel() // max(1, arguments["g"].numel()),
        oracle="method.weight_norm in float64; torch.nn.utils.parametrizations.weight_norm in the tests",
        eager=_eager,
        **shapes,
    )


KERNELS = (
    _declare(
        "weight_norm",
        0,
        shapes=((0, 3), (3, 0), (1,), (7,), (31, 67), (32, 128), (5, 3, 3, 3), (17, 1025), (2, 16385)),
        bench_shapes=((65536, 4096), (131072, 1152), (64, 4 * 1024 * 1024)),
        compile_shape=(64, 4096),
    ),
    _declare(
        "weight_norm_columns",
        1,
        shapes=((0, 3), (3, 0), (1, 5), (31, 67), (128, 32), (2, 3, 5, 7), (1025, 17)),
        bench_shapes=((65536, 4096), (512, 512 * 1024)),
        compile_shape=(4096, 64),
    ),
    _declare(
        "weight_norm_whole",
        None,
        shapes=((), (0, 3), (1,), (31, 67), (5, 3, 3, 3), (1024,), (20_011,)),
        bench_shapes=((256 * 1024 * 1024,),),
        compile_shape=(1024 * 1024,),
    ),
)
