"""AlexNet measured: its layers counted, ReLU against tanh, overlapping pooling, and what LRN does to neighbors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generator.lab.data import digits
from generator.lab.figures import FAINT, INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import error_rate, fit, minibatches
from snippets.alexnet import kernel, method

SEEDS = 3
TARGET, LONGEST = 0.25, 20  # training error to reach, epochs after which a run is given up
RATES = (0.03, 0.05, 0.1)
RACE_IMAGES, RACE_BATCH, NOISE = 640, 64, 0.5
POOL_EPOCHS = 12
LOUD = 8
PAPER_NEURONS = {"conv1": 253440, "conv2": 186624, "conv3": 64896, "conv4": 64896, "conv5": 43264}


def run(record) -> None:
    """Record the table of layers, the race to 25 % training error, the pooling runs, and the effect of LRN."""
    layers(record)
    race(record)
    pooling(record)
    neighbors(record)


def count(net: nn.Module) -> list[tuple[str, tuple[int, ...], int, int]]:
    """Return (name, output shape, weights, biases) of each layer with weights, after one pass on the meta device."""
    shapes: dict[str, tuple[int, ...]] = {}
    with_weights = {name: part for name, part in net.named_children() if isinstance(part, nn.Conv2d | nn.Linear)}
    for name, part in with_weights.items():
        part.register_forward_hook(lambda _, __, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:])))
    net(torch.empty(1, *method.IMAGE, device="meta"))
    return [(name, shapes[name], part.weight.numel(), part.bias.numel()) for name, part in with_weights.items()]


def layers(record) -> None:
    two, one = count(method.network(gpus=2)), count(method.network(gpus=1))
    rows = []
    for (name, shape, weights, biases), (_, _, whole, _) in zip(two, one, strict=True):
        stated = PAPER_NEURONS.get(name, math.prod(shape))
        rows.append(
            {
                "layer": name,
                "output": " × ".join(map(str, shape)),
                "neurons": math.prod(shape),
                "neurons in the paper": stated,
                "weights": weights,
                "biases": biases,
                "weights on one GPU": whole,
            }
        )
    weights, biases = sum(r["weights"] for r in rows), sum(r["biases"] for r in rows)
    total = {"layer": "all", "output": "", "neurons": sum(r["neurons"] for r in rows)}
    total |= {"neurons in the paper": sum(r["neurons in the paper"] for r in rows), "weights": weights}
    total |= {"biases": biases, "weights on one GPU": sum(r["weights on one GPU"] for r in rows)}
    record.table("layers", [*rows, total], caption="AlexNet counted layer by layer: split over two GPUs, and whole.")
    record.metric("weights", weights, setting="two GPUs, without biases")
    record.metric("parameters", weights + biases, setting="two GPUs, with biases")
    record.metric("weights_one_gpu", total["weights on one GPU"], setting="no split, without biases")
    record.metric("parameters_one_gpu", total["weights on one GPU"] + biases, setting="no split, with biases")
    record.metric("neurons", total["neurons"], setting="outputs of all eight layers")
    record.metric("neurons_conv1", rows[0]["neurons"], setting="96 maps of 55 × 55")
    dense = sum(r["weights"] for r in rows if r["layer"].startswith("fc"))
    record.metric("dense_share", 100 * dense / weights, unit="%", setting="weights of fc6, fc7 and fc8, two GPUs")


def small_network(activation: type[nn.Module], seed: int, pool: int = 3) -> nn.Sequential:
    """Build three convolutions and a linear layer for 8 × 8 images; weights N(0, 1/inputs), biases 0.

    Pooling has stride 2; rounding its output up gives windows of 2 and of 3 the same shapes.
    """
    torch.manual_seed(seed)
    squeeze = [nn.MaxPool2d(pool, stride=2, ceil_mode=True) for _ in range(2)]
    net = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *(nn.Conv2d(1, 16, 3, padding=1), activation(), squeeze[0]),
        *(nn.Conv2d(16, 32, 3, padding=1), activation(), squeeze[1]),
        *(nn.Conv2d(32, 32, 3, padding=1), activation()),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, 10),
    )
    for part in net:
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.normal_(part.weight, std=part.weight[0].numel() ** -0.5)
            nn.init.zeros_(part.bias)
    return net.to(memory_format=torch.channels_last)  # a third faster here


def errors_until(activation: type[nn.Module], rate: float, seed: int) -> list[float]:
    """Return the training error before each epoch and after the last, which is the first at or below the target."""
    x, y, _, _ = digits(seed)
    generator = torch.Generator().manual_seed(seed)
    x, y = x[:RACE_IMAGES] + NOISE * torch.randn(RACE_IMAGES, 64, generator=generator), y[:RACE_IMAGES]
    net = small_network(activation, seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    errors = [error_rate(net, x, y)]
    while errors[-1] > TARGET and len(errors) <= LONGEST:
        for index in minibatches(len(x), RACE_BATCH, generator):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(net(x[index]), y[index]).backward()
            optimizer.step()
        errors.append(error_rate(net, x, y))
    return errors


def epochs_needed(errors: list[float]) -> float:
    """Return when the error crossed the target, linear between the last two epochs; LONGEST if it never did."""
    if errors[-1] > TARGET:
        return float(LONGEST)
    before, after = errors[-2:]
    return len(errors) - 2 + (before - TARGET) / (before - after)


def race(record) -> None:
    """Train until a quarter of the training images are wrong, at the rate that was fastest on a seed of its own."""
    fig, axis = panel("on the way to 25 % training error", "epochs", "training error (%)")
    rates_fig, rates_axis = panel("how the rate was chosen", "learning rate", "epochs to 25 %")
    needed = {}
    for number, (name, activation) in enumerate((("ReLU", nn.ReLU), ("tanh", nn.Tanh))):
        key = name.lower()
        trials = {rate: epochs_needed(errors_until(activation, rate, seed=SEEDS)) for rate in RATES}
        best = min(trials, key=trials.__getitem__)
        runs = [errors_until(activation, best, seed) for seed in range(SEEDS)]
        needed[key] = [epochs_needed(errors) for errors in runs]
        setting = f"noisy digits, 3 convolutions + 1 linear, weights N(0, 1/inputs), lr {best:g}, {SEEDS} seeds"
        record.metric(f"epochs_{key}", needed[key], setting=setting)
        record.metric(f"rate_{key}", best, setting=f"the fastest of {', '.join(map(str, RATES))}, on another seed")
        for seed, errors in enumerate(runs):
            label = None if seed else name
            axis.plot(range(len(errors)), [100 * e for e in errors], color=SERIES[number], lw=1.2, label=label)
        rates_axis.plot(RATES, list(trials.values()), color=SERIES[number], marker="o", ms=4, label=name)
    ratio = [slow / fast for slow, fast in zip(needed["tanh"], needed["relu"], strict=True)]
    record.metric("tanh_over_relu", ratio, setting=f"epochs to 25 % training error, noisy digits, {SEEDS} seeds")
    axis.axhline(100 * TARGET, color=INK, lw=0.8)
    axis.set(ylim=(0, 100), xticks=range(0, LONGEST, 5))
    axis.legend()
    rates_axis.set(xscale="log", ylim=(0, 1.6 * LONGEST), xticks=RATES, xticklabels=[f"{rate:g}" for rate in RATES])
    rates_axis.minorticks_off()
    rates_axis.legend()
    record.figure(
        "race",
        [fig, rates_fig],
        caption=f"Left: training error of the same small network with ReLU and with tanh, a line a seed, each "
        f" until it reaches 25 % (horizontal line); {RACE_IMAGES} digits with noise of {NOISE}. Right: epochs needed "
        f"at each learning rate on one more seed, by which the rate on the left was chosen; {LONGEST} stands for 'not "
        "reached'.",
        alt="Left: falling curves of training error for ReLU and tanh, three seeds each, that end near 25 percent. Right: "
        "epochs needed against the learning rate for the same two.",
    )


def pooling(record) -> None:
    """Compare windows of 3 and of 2, both with stride 2, on the same seeds and shapes: test error by epoch."""
    fig, axis = panel("two ways of pooling", "epoch", "test error (%)")
    ends = {}
    for number, (name, window) in enumerate((("overlapping", 3), ("plain", 2))):
        runs, train = [], []
        for seed in range(SEEDS):
            x, y, test_x, test_y = digits(seed)
            x, y = x[:RACE_IMAGES], y[:RACE_IMAGES]
            net, errors = small_network(nn.ReLU, seed, pool=window), []
            optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
            fit(
                net, x, y, optimizer=optimizer, epochs=POOL_EPOCHS, batch=RACE_BATCH, seed=seed,
                after_epoch=lambda _, net=net, errors=errors, x=test_x, y=test_y: errors.append(100 * error_rate(net, x, y)),
            )  # fmt: skip
            runs.append(errors)
            train.append(100 * error_rate(net, x, y))
        ends[name] = [errors[-1] for errors in runs]
        setting = f"digits, {RACE_IMAGES} to train, {POOL_EPOCHS} epochs, window {window}, stride 2, {SEEDS} seeds"
        record.metric(f"test_error_{name}", ends[name], unit="%", setting=setting)
        record.metric(f"train_error_{name}", train, unit="%", setting=setting)
        spread(axis, range(1, POOL_EPOCHS + 1), runs, SERIES[number], name)
    gain = [plain - overlapping for plain, overlapping in zip(ends["plain"], ends["overlapping"], strict=True)]
    record.metric(
        "overlap_gain", gain, unit="percentage points", setting=f"plain minus overlapping, {SEEDS} paired seeds"
    )
    axis.set_ylim(bottom=0)
    axis.legend()
    record.figure(
        "pooling",
        fig,
        caption=f"Test error of the ReLU network with pooling windows of 3 and of 2, both with stride 2 and the same output "
        f"shapes: mean and range of {SEEDS} seeds. {RACE_IMAGES} digits to train on, 449 to test.",
        alt="Two falling curves of test error against the epoch, overlapping and plain pooling, each with a band for the range of seeds.",
    )


def inhibition(activity: Tensor, distance: int, own: float = 20.0) -> Tensor:
    """Return the share that is left of a unit's response when the channel at a distance is as active as given."""
    x = torch.zeros(len(activity), 9, dtype=torch.float64)
    x[:, 4] = own
    alone = method.local_response_norm(x)[:, 4]
    x[:, 4 + distance] = activity
    return method.local_response_norm(x)[:, 4] / alone


def neighbors(record) -> None:
    """Show which channels inhibit a unit, and a row of channels with one active one."""
    activity = torch.linspace(0, 400, 81, dtype=torch.float64)
    fig, axis = panel("one active neighbor", "activity of the neighbor", "response left (%)")
    for number, distance in enumerate((1, 2, 3)):
        left = 100 * inhibition(activity, distance)
        axis.plot(activity, left, color=(SERIES[0], SERIES[1], FAINT)[number], ls=("-", (0, (3, 3)), "-")[number])
        record.metric(
            f"left_at_distance_{distance}", left[40].item(), unit="%", setting="own activity 20, the neighbor's 200"
        )
    axis.text(390, 92, "3 channels away", ha="right", color=FAINT)
    axis.text(200, 56, "1 or 2 channels away", ha="left", color=SERIES[0])
    axis.set_ylim(0, 105)
    row_fig, row_axis = panel("24 channels, one of them loud", "channel", "output / input (%)")
    x = torch.full((1, 24), 60.0, dtype=torch.float64)
    x[0, LOUD] = 300.0
    left = (100 * method.local_response_norm(x) / x)[0]
    row_axis.bar(range(24), left, color=[SERIES[1] if c == LOUD else SERIES[0] for c in range(24)])
    row_axis.set_ylim(0, 70)
    record.figure(
        "neighbors",
        [fig, row_fig],
        caption="The paper's constants. Left: what is left of the response of a unit with activity 20 when one other channel is "
        f"active, by distance. Right: output over input of 24 channels, all with activity 60 but channel {LOUD} (orange), "
        "which has 300.",
        alt="Left: the response falls with the activity of a neighbor one or two channels away, the two lines on top of each "
        "other, and stays at 100 percent for a channel three away. Right: bars of equal height but for the loud channel and two "
        "on either side of it, which are less than half as high, and the channels at both ends, which are a little higher.",
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 24, 7, generator=generator, dtype=torch.float64).relu() * 100
    paper, size, alpha = method.local_response_norm(x), 5, 1e-4
    on = x > 0
    same = F.local_response_norm(x, size, alpha, 0.75, 2.0)
    scaled = F.local_response_norm(x, size, alpha * size, 0.75, 2.0)
    setting = "ReLU of N(0, 100²), 24 channels, float64"
    record.metric(
        "torch_same_alpha", (100 * (same / paper - 1)[on]).max().item(), unit="%", setting=f"torch given α; {setting}"
    )
    record.metric(
        "torch_scaled_alpha", (scaled / paper - 1)[on].abs().max().item(), setting=f"torch given nα; {setting}"
    )
    quiet = torch.full((1, 9), 1.0, dtype=torch.float64)
    record.metric("quiet_factor", method.local_response_norm(quiet)[0, 4].item(), setting="every activity 1")


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.randn(shape, dtype=dtype, device=device, generator=generator)
    return {"x": 2 * x, "size": 5, "alpha": 0.05, "beta": 0.75, "k": 2.0}  # α large enough for windows to matter


def _torchs(x, size, alpha, beta, k):
    return F.local_response_norm(x, size, alpha * size, beta, k)


def _bytes(arguments) -> int:
    return 2 * arguments["x"].numel() * arguments["x"].element_size()


KERNELS = (
    Kernel(
        name="local_response_norm",
        op=kernel.local_response_norm,
        twin=method.local_response_norm,
        inputs=_inputs,
        bytes_moved=_bytes,
        operations=lambda arguments: 15 * arguments["x"].numel(),  # five squares and sums, two roots, three products
        shapes=((0, 3), (1, 1), (3, 7), (2, 9, 5), (1, 12, 3, 5), (2, 3, 521), (1, 18, 16, 32)),
        bench_shapes=((512, 96, 55, 55), (1024, 256, 28, 28)),
        compile_shape=(1, 16, 32, 32),
        dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        differentiable=("x",),
        backward_bytes=lambda arguments: _bytes(arguments) * 3 // 2,  # dL/dy and x in, dL/dx out
        reduction=lambda arguments: arguments["size"],
        oracle="method.local_response_norm in float64; F.local_response_norm in the tests",
        eager=_torchs,
    ),
)
