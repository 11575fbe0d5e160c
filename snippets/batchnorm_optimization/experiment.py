"""Deep networks on digits with BN, without, and with noise after BN: what drifts, what each layer's gradient misses, and how
far a gradient can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from generator.lab.data import digits
from generator.lab.figures import SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import minibatches
from snippets.batchnorm_optimization import kernel, method

SEEDS = 5  # trained side by side: [seed, sample, unit]
DEPTH, WIDTH = 12, 64
BATCH, EPOCHS, RATE = 64, 8, 0.1  # plain SGD
MEASURED = 12  # every so many steps
FACTORS = (0.5, 1, 2, 3, 4)  # steps along the gradient, in learning rates
WATCHED = (3, 6, 9, 12)  # layers whose gradient is taken again once the layers below have moved
NOISE_MEAN, NOISE_SCALE, NOISE_WITHIN = 0.5, 1.25, 0.1
SETTING = f"digits, {DEPTH} hidden layers of {WIDTH}, {EPOCHS} epochs, {SEEDS} seeds"
EPS = 1e-5


@dataclass(frozen=True)
class Net:
    """One kind of network: its name in metrics and on figures, its color, and what follows each linear map."""

    name: str
    label: str
    color: str
    bn: bool
    noise: bool = False


BN = Net("bn", "BN", SERIES[0], bn=True)
STANDARD = Net("standard", "no BN", SERIES[1], bn=False)
NOISY = Net("noisy", "noisy BN", SERIES[2], bn=True, noise=True)
NETS = (STANDARD, BN, NOISY)
Params = list[Tensor]
"""Weight [seed, in, out], bias and, with BN, gain [seed, unit] of each layer, the output's weight and bias last."""


@dataclass
class Run:
    """What the training of one kind of network left behind; the seeds are the last axis throughout."""

    loss: np.ndarray  # [step, seed]
    errors: list[float]  # [seed], on held-out digits
    trace: np.ndarray  # [step], the mean of what one unit's rectifier is given
    drift: np.ndarray  # [step, layer, seed], of means, in standard deviations
    deviation_drift: np.ndarray  # the same of standard deviations, as the logarithm of their ratio
    shift: np.ndarray  # [measurement, ‖G − G′‖/‖G‖ or cosine, layer, seed]
    landscape: np.ndarray  # [measurement, loss or gradient change or smoothness, factor, seed]


def initial(net: Net) -> Params:
    """Draw He weights, the same for every kind of network."""
    generator = torch.Generator().manual_seed(0)
    params = []
    for _ in range(DEPTH):
        params.append(torch.randn(SEEDS, WIDTH, WIDTH, generator=generator) * (2 / WIDTH) ** 0.5)
        params.append(torch.zeros(SEEDS, WIDTH))
        if net.bn:
            params.append(torch.ones(SEEDS, WIDTH))
    weight = torch.randn(SEEDS, WIDTH, 10, generator=generator) / WIDTH**0.5
    return [*params, weight, torch.zeros(SEEDS, 10)]


def disturb(a: Tensor, step: int, layer: int) -> Tensor:
    """Scale and shift activations [seed, sample, unit] by noise whose mean and scale each unit draws anew at each step."""
    generator = torch.Generator().manual_seed(1000 * step + layer)
    seeds, _, units = a.shape
    mean = NOISE_MEAN * (2 * torch.rand(seeds, 1, units, generator=generator) - 1)
    scale = 1 + (NOISE_SCALE - 1) * torch.rand(seeds, 1, units, generator=generator)
    shift = mean + NOISE_WITHIN * (2 * torch.rand(a.shape, generator=generator) - 1)
    return (scale + NOISE_WITHIN * torch.randn(a.shape, generator=generator)) * a + shift


def forward(net: Net, params: Params, x: Tensor, step: int = 0, running=None, trained: bool = False):
    """Return the outputs [seed, sample, class], and what each layer's rectifier was given.

    `running` holds each layer's running mean and variance: moved in training, used once trained, when there is no noise.
    """
    each, given = 3 if net.bn else 2, []
    for layer in range(DEPTH):
        weight, bias, *gain = params[each * layer : each * (layer + 1)]
        x = x @ weight
        if not net.bn:
            x = x + bias[:, None]
        else:
            # the seeds' units are channels side by side: [sample, seed · unit]
            z, (gamma, beta) = x.transpose(0, 1).flatten(1), (gain[0].flatten(), bias.flatten())
            if trained:
                mean, variance = running[layer]
                z = (z - mean) * torch.rsqrt(variance + EPS) * gamma + beta
            else:
                z, mean, variance = method.batch_norm(z, gamma, beta, EPS)
                if running is not None:
                    method.update_running_(*running[layer], mean, variance, len(z))
            x = z.unflatten(1, (SEEDS, WIDTH)).transpose(0, 1)
        if net.noise and not trained:
            x = disturb(x, step, layer)
        given.append(x)
        x = x.relu()
    return x @ params[-2] + params[-1][:, None], given


def loss_and_gradient(net: Net, params: Params, x: Tensor, y: Tensor, step: int, running=None, of=slice(None)):
    """Return each seed's loss and the gradient of the parameters asked for; seeds do not touch each other's."""
    params = [one.detach() for one in params]
    asked = [one.requires_grad_() for one in params[of]]
    outputs, _ = forward(net, params, x, step, running)
    losses = F.cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)
    return losses.detach(), list(torch.autograd.grad(losses.sum(), asked))


def moved(params: Params, gradient: Params, rate: float) -> Params:
    return [one - rate * g for one, g in zip(params, gradient, strict=True)]


def norm(tensors: Params) -> Tensor:
    """Return each seed's norm over all the tensors."""
    return torch.stack([one.flatten(1).square().sum(1) for one in tensors]).sum(0).sqrt()


def shift_of_gradients(net: Net, params: Params, gradient: Params, batch) -> Tensor:
    """Return ‖G − G′‖/‖G‖ and cos(G, G′) [2, layer, seed] of watched layers' weights (Definition 2.1).

    G′ is the gradient of layer i after the layers below it have taken their step.
    """
    each, after, found = 3 if net.bn else 2, moved(params, gradient, RATE), []
    for layer in WATCHED:
        at = each * (layer - 1)
        _, (again,) = loss_and_gradient(net, after[:at] + params[at:], *batch, of=slice(at, at + 1))
        g, h = gradient[at].flatten(1), again.flatten(1)
        found.append(torch.stack([(g - h).norm(dim=1) / g.norm(dim=1), F.cosine_similarity(g, h)]))
    return torch.stack(found, 1)


def along_gradient(net: Net, params: Params, gradient: Params, batch) -> Tensor:
    """Return loss, change of the gradient and effective smoothness [3, factor, seed] at several steps along it."""
    found = []
    for factor in FACTORS:
        loss, there = loss_and_gradient(net, moved(params, gradient, factor * RATE), *batch)
        change = norm(moved(there, gradient, 1))
        found.append(torch.stack([loss, change, change / (factor * RATE * norm(gradient))]))
    return torch.stack(found, 1)


@torch.no_grad()
def moments(net: Net, params: Params, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation [layer, seed, unit] of what the rectifiers are given for the same samples."""
    given = torch.stack(forward(net, params, x, step)[1])
    mean = given.mean(2, keepdim=True)
    variance = (given - mean).square_().sum(2) / (given.shape[2] - 1)  # far faster than std along an inner dimension
    return mean.squeeze(2), variance.sqrt().clamp_min(1e-6)


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return train images, labels, test images, labels [seed, sample, …], pixels standardized."""
    x, y, test_x, test_y = (torch.stack(one) for one in zip(*map(digits, range(SEEDS)), strict=True))
    return (x - x.mean()) / x.std(), y, (test_x - x.mean()) / x.std(), test_y


def train(net: Net, data: tuple[Tensor, Tensor, Tensor, Tensor], surveyed: bool) -> Run:
    """Train all seeds of one kind of network, measuring as they go."""
    x, y, test_x, test_y = data
    orders = [torch.Generator().manual_seed(seed) for seed in range(SEEDS)]
    params, running = initial(net), None
    if net.bn:
        running = [(torch.zeros(SEEDS * WIDTH), torch.ones(SEEDS * WIDTH)) for _ in range(DEPTH)]
    losses, seen, shifts, lands, step = [], [], [], [], 0
    for _ in range(EPOCHS):
        for indices in zip(*(minibatches(x.shape[1], BATCH, order) for order in orders), strict=True):
            index = torch.stack(indices)
            batch = torch.take_along_dim(x, index[..., None], 1), torch.take_along_dim(y, index, 1), step
            seen.append(moments(net, params, x[:, :BATCH], step))
            loss, gradient = loss_and_gradient(net, params, *batch, running)
            losses.append(loss)
            if surveyed and step % MEASURED == 0:
                shifts.append(shift_of_gradients(net, params, gradient, batch))
                lands.append(along_gradient(net, params, gradient, batch))
            params, step = moved(params, gradient, RATE), step + 1
    outputs, _ = forward(net, params, test_x, running=running, trained=True)
    means, deviations = (torch.stack(one) for one in zip(*seen, strict=True))  # [step, layer, seed, unit]
    return Run(
        loss=torch.stack(losses).numpy(),
        errors=(outputs.argmax(2) != test_y).double().mean(1).tolist(),
        trace=means[:, -1, 0, 0].numpy(),
        drift=(means.diff(dim=0).abs() / deviations[:-1]).mean(3).numpy(),
        deviation_drift=deviations.log().diff(dim=0).abs().mean(3).numpy(),
        shift=torch.stack(shifts).numpy() if surveyed else np.empty(0),
        landscape=torch.stack(lands).numpy() if surveyed else np.empty(0),
    )


def run(record) -> None:
    """Record training, drift, the shift of gradients and the landscape."""
    data = load()
    runs = {net: train(net, data, surveyed=net is not NOISY) for net in NETS}
    _training(record, runs)
    _drift(record, runs)
    _shift(record, runs)
    _landscape(record, runs)


def typical(values: np.ndarray) -> np.ndarray:
    """Return the geometric mean over measurements [measurement, seed]: such quantities span decades."""
    return np.exp(np.log(values).mean(0))


def _training(record, runs: dict[Net, Run]) -> None:
    steps = len(runs[BN].loss) // EPOCHS
    fig, ax = panel("training", "epoch", "loss, mean of the epoch")
    rows, whole = [], {}
    for net, one in runs.items():
        epochs = one.loss.reshape(EPOCHS, steps, SEEDS).mean(1)
        spread(ax, range(1, EPOCHS + 1), epochs.T, net.color, net.label, marker="o", ms=3)
        whole[net] = one.loss.mean(0)
        record.metric(f"loss_{net.name}", epochs[-1], setting=f"last epoch, {SETTING}")
        record.metric(f"run_loss_{net.name}", whole[net], setting=f"mean of all steps, {SETTING}")
        record.metric(f"error_{net.name}", one.errors, setting=f"held-out digits, running statistics, {SETTING}")
        rows.append(
            {
                "network": net.label,
                "loss, last epoch": _range(epochs[-1]),
                "loss, all steps": _range(whole[net]),
                "test error": _range(np.array(one.errors)),
                "drift of means": _range(one.drift.mean((0, 1))),
                "drift of deviations": _range(one.deviation_drift.mean((0, 1))),
            }
        )
    kept = (whole[STANDARD] - whole[NOISY]) / (whole[STANDARD] - whole[BN])
    record.metric("gain_kept", kept, setting=f"share of BN's lower mean loss that noisy BN keeps, {SETTING}")
    ax.set(ylim=(0, None))
    ax.legend()
    record.table(
        "training",
        rows,
        caption=f"Mean over the seeds, lowest and highest in brackets ({SETTING}, plain SGD at {RATE}).",
    )
    record.figure(
        "training",
        fig,
        caption=f"Training loss, noise included: mean of {SEEDS} seeds, with a band from the lowest to the highest "
        f"({SETTING}, plain SGD at {RATE}).",
        alt="Three falling curves with bands: BN is lowest with a narrow band, noisy BN lies above it with a narrow band, and the "
        "network without BN has a very wide band.",
    )


def _range(values: np.ndarray) -> str:
    return f"{values.mean():.2g} ({values.min():.2g} to {values.max():.2g})"


def _decades(ax) -> None:
    """Make y logarithmic, its labels plain numbers."""
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")


def _drift(record, runs: dict[Net, Run]) -> None:
    trace, left = panel(f"one unit of layer {DEPTH}, one seed", "training step", "mean of the rectifier's input")
    layers, right = panel("all units", "layer", "drift of the mean in a step (sd)")
    for net in (STANDARD, NOISY, BN):
        one = runs[net]
        left.plot(one.trace, color=net.color, linewidth=1.1, label=net.label)
        by_layer = one.drift.mean(0)
        spread(right, range(1, DEPTH + 1), by_layer.T, net.color)
        right.text(
            *{"noisy": (1, 0.42), "standard": (2.2, 0.055), "bn": (1, 0.0028)}[net.name], net.label, color=net.color
        )
        record.metric(f"drift_{net.name}", by_layer.mean(0), unit="sd", setting=f"mean of layers and steps, {SETTING}")
        record.metric(f"deviation_drift_{net.name}", one.deviation_drift.mean((0, 1)), setting=SETTING)
    left.legend(ncols=3, loc="upper center", handlelength=1, columnspacing=1)
    left.margins(y=0.2)
    _decades(right)
    right.set(ylim=(2e-4, 2), xticks=range(1, DEPTH + 1))
    record.figure(
        "drift",
        [trace, layers],
        caption="What rectifiers are given for the same 64 digits, step after step. Left: the mean for one unit. Right: how far a "
        "unit's mean moves in one step, in its standard deviations, averaged over units and steps; bands over "
        f"{SEEDS} seeds ({SETTING}).",
        alt="Left: noisy BN jumps at every step, no BN jumps and wanders, BN stays almost flat. Right, on a logarithmic scale: "
        "noisy BN is level, no BN rises with depth and ends near it, BN lies far below both.",
    )


def _shift(record, runs: dict[Net, Run]) -> None:
    figures = []
    for nth, (name, title, label) in enumerate(
        (("change", "size of the change", "‖G − G′‖ / ‖G‖"), ("cosine", "agreement", "cosine of G and G′"))
    ):
        fig, ax = panel(title, "layer", label)
        for net in (STANDARD, BN):
            by_layer = runs[net].shift[:, nth].mean(0)
            spread(ax, WATCHED, by_layer.T, net.color, net.label, marker="o", ms=4)
            record.metric(f"shift_{name}_{net.name}", by_layer.mean(0), setting=f"layers {WATCHED}, {SETTING}")
            for layer, values in zip(WATCHED, by_layer, strict=True):
                record.metric(f"shift_{name}_{net.name}_{layer}", values, setting=f"layer {layer}, {SETTING}")
        ax.set(xticks=WATCHED)
        ax.legend(loc="best")
        figures.append(fig)
    record.figure(
        "shift",
        figures,
        caption="The gradient G of a layer's weights, and G′ once all layers below have taken their step: internal covariate shift "
        f"by the paper's Definition 2.1. Mean of {len(runs[BN].shift)} measurements, bands over {SEEDS} seeds ({SETTING}).",
        alt="Two panels by layer, with and without BN. Left the relative size of the change, near 1 for both. Right the cosine: without "
        "BN it is highest at layer 3, with BN it is highest at layer 12.",
    )


def _landscape(record, runs: dict[Net, Run]) -> None:
    parts = (
        ("loss_range", "loss", "highest − lowest loss"),
        ("gradient_change", "gradient", "largest ‖change of gradient‖"),
        ("smoothness", "effective smoothness", "largest ‖change‖ / distance"),
    )
    figures, found = [], {}
    for nth, (name, title, label) in enumerate(parts):
        fig, ax = panel(title, "training step", label)
        for net in (STANDARD, BN):
            along = runs[net].landscape[:, nth]  # [measurement, factor, seed]
            values = along.max(1) - along.min(1) if name == "loss_range" else along.max(1)
            spread(ax, np.arange(len(values)) * MEASURED, values.T, net.color, net.label)
            found[name, net] = typical(values)
            record.metric(f"{name}_{net.name}", found[name, net], setting=f"geometric mean over steps, {SETTING}")
        if name == "smoothness":
            ax.set_ylim(0, None)
        else:
            _decades(ax)
        ax.legend()
        figures.append(fig)
    fig, ax = panel("near and far", "learning rates along the gradient", "‖change‖ / distance")
    for net in (STANDARD, BN):
        _, change, smoothness = runs[net].landscape.transpose(1, 2, 0, 3)  # each [factor, measurement, seed]
        length = typical(change[0] / smoothness[0]) / FACTORS[0]
        record.metric(f"step_{net.name}", length, setting=f"rate times norm of the gradient, geometric mean, {SETTING}")
        for name, at in (("near", 0), ("far", -1)):
            where = f"at {FACTORS[at]} learning rates, geometric mean over steps, {SETTING}"
            record.metric(f"smoothness_{name}_{net.name}", typical(smoothness[at]), setting=where)
        spread(ax, FACTORS, typical(smoothness.swapaxes(0, 1)).T, net.color, net.label, marker="o", ms=4)
    ax.set_ylim(0, None)
    ax.legend()
    figures.append(fig)
    ratio = found["loss_range", STANDARD] / found["loss_range", BN]
    record.metric("loss_range_ratio", ratio, setting=f"no BN over BN, {SETTING}")
    record.figure(
        "landscape",
        figures,
        caption=f"Along the gradient of one minibatch, at {min(FACTORS)} to {max(FACTORS)} learning rates from where it was taken: the "
        "spread of the loss, how far the gradient moves from what it was, and that change per distance; last, the same by how "
        f"far the walk went. Mean of {SEEDS} seeds, bands from lowest to highest ({SETTING}).",
        alt="Four panels, the first three over training steps. On logarithmic scales the loss and the gradient vary many times more without BN than with "
        "it. The largest change per distance is much alike for both, with a wide band without BN and a narrow one with it. By "
        "distance, both start alike; with BN the change per distance then falls steeply, without it by less than half.",
    )


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*size):
        return torch.randn(size, dtype=dtype, device=device, generator=generator)

    return {"x": 2 * draw(*shape) + 3, "weight": draw(shape[1]), "bias": draw(shape[1])}


def _channels_last(shape, dtype, device, seed):
    drawn = _inputs(shape, dtype, device, seed)
    return {**drawn, "x": drawn["x"].movedim(1, -1).contiguous().movedim(-1, 1)}


def _bytes(passes: int):
    # x does not fit a cache, and no output is known before its channel's statistics are: they cost a pass of their own
    return lambda arguments: (
        passes * arguments["x"].numel() * arguments["x"].element_size()
        + 4 * arguments["x"].shape[1] * arguments["x"].element_size()
    )


COMMON = {
    "op": kernel.batch_norm,
    "twin": method.batch_norm,
    "bytes_moved": _bytes(3),  # x twice, y
    "backward_bytes": _bytes(5),  # dL/dy and x twice, dL/dx
    "operations": lambda arguments: 12 * arguments["x"].numel(),  # eight for the statistics, four for y
    "dtypes": (torch.float32, torch.bfloat16),  # the tests try the others
    "differentiable": ("x", "weight", "bias"),
    "reduction": lambda arguments: arguments["x"].numel() // max(1, arguments["x"].shape[1]),
    "eager": lambda x, weight, bias: F.batch_norm(x, None, None, weight, bias, training=True),
    "compile_shape": (16, 64, 32, 32),
}
KERNELS = (
    Kernel(
        name="batch_norm",
        inputs=_inputs,
        shapes=((2, 1), (0, 3), (7, 3), (31, 7), (3, 2, 41), (2, 3, 5, 7), (2, 1, 33, 67), (17, 2, 32, 32), (16500, 2)),
        bench_shapes=((64, 64, 256, 128), (128, 1024, 32, 32), (256, 2048, 16, 16)),
        oracle="method.batch_norm in float64; F.batch_norm in the tests",
        **COMMON,
    ),
    Kernel(
        name="batch_norm_channels_last",
        inputs=_channels_last,
        shapes=((2, 2, 4), (2, 3, 2, 3, 2), (3, 4, 5, 7), (300, 7), (70, 2, 7, 15)),
        bench_shapes=((64, 64, 256, 128), (128, 1024, 32, 32), (131072, 1024)),
        layouts=False,
        oracle="method.batch_norm in float64; F.batch_norm on a contiguous copy in the tests",
        **{**COMMON, "dtypes": (torch.float32,)},
    ),
)
