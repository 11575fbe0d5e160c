"""Zhang et al.'s randomization tests on digits, explicit regularizers on and off, and the network with 2n + d weights."""

from __future__ import annotations

from itertools import pairwise
from statistics import mean

import torch
from torch import Tensor, nn

from generator.lab.data import digits
from generator.lab.figures import INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import fit
from snippets.rethinking_generalization import kernel, method

SAMPLES, WIDTH, EPOCHS, BATCH, RATE, MOMENTUM, SEEDS = 400, 128, 40, 50, 0.05, 0.9, 3
DECAY, DROP, SHIFT = 5e-4, 0.5, 1
SETTING = f"{SAMPLES} digits, 2 hidden layers of {WIDTH}, {EPOCHS} epochs, {SEEDS} seeds"
WORLDS = {
    "true labels": "true_labels",
    "random labels": "random_labels",
    "shuffled pixels": "shuffled_pixels",
    "random pixels": "random_pixels",
    "Gaussian noise": "noise",
}
REGULARIZERS = {
    "none": {},
    "weight decay": {"decay": DECAY},
    "dropout": {"drop": DROP},
    "shifted images": {"shift": SHIFT},
    "all three": {"decay": DECAY, "drop": DROP, "shift": SHIFT},
}


def run(record) -> None:
    """Record the five worlds, the regularizers, and the network that is built."""
    plain = {name: train(name, watch=True) for name in WORLDS}
    worlds(record, plain)
    regularizers(record, plain)
    built(record)


class Networks(nn.Module):
    """One MLP a seed, all trained at once: inputs [sample, seed, pixel], outputs [seed, sample, class]."""

    def __init__(self, drop: float = 0.0, shift: int = 0, background: Tensor | None = None) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(1)
        self.drop, self.shift, self.background = drop, shift, background
        sizes = (64, WIDTH, WIDTH, 10)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            drawn = torch.randn(SEEDS, inputs, outputs, generator=self.generator) * (2 / inputs) ** 0.5
            self.weights.append(drawn)
            self.biases.append(torch.zeros(SEEDS, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.shift:
            x = self.shifted(x)
        x = torch.baddbmm(self.biases[0], x.transpose(0, 1), self.weights[0])
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            x = torch.relu(x)
            if self.training and self.drop:
                keep = torch.rand(x.shape, generator=self.generator) >= self.drop
                x = x * keep / (1 - self.drop)
            x = torch.baddbmm(bias, x, weight)
        return x

    def shifted(self, x: Tensor) -> Tensor:
        """Move every image by up to `shift` pixels each way; what comes in from outside is background."""
        side, moves = 8 + 2 * self.shift, 2 * self.shift + 1
        padded = self.background.expand(len(x), SEEDS, side, side).clone()
        padded[..., self.shift : 8 + self.shift, self.shift : 8 + self.shift] = x.reshape(len(x), SEEDS, 8, 8)
        down, right = torch.randint(0, moves, (2, len(x), SEEDS, 1), generator=self.generator)
        at = torch.arange(8)[:, None] * side + torch.arange(8)
        return padded.flatten(2).gather(2, at.flatten() + down * side + right)


def world(name: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return one seed's digits, standardized, with one thing about them made random."""
    x, y, x_test, y_test = digits(seed)
    x, y = x[:SAMPLES], y[:SAMPLES]
    center, size = x.mean(), x.std()
    images = [(x - center) / size, (x_test - center) / size]
    labels = [y, y_test]
    generator = torch.Generator().manual_seed(100 + seed)
    order = torch.randperm(64, generator=generator)
    for half, image in enumerate(images):
        if name == "random labels":
            labels[half] = torch.randint(0, 10, labels[half].shape, generator=generator)
        elif name == "shuffled pixels":  # one order for all images
            images[half] = image[:, order]
        elif name == "random pixels":  # an order for each image
            images[half] = image.gather(1, torch.rand(image.shape, generator=generator).argsort(1))
        elif name == "Gaussian noise":  # the mean and variance of the images
            images[half] = torch.randn(image.shape, generator=generator)
    return images[0], labels[0], images[1], labels[1]


def train(name: str, watch: bool = False, decay: float = 0.0, drop: float = 0.0, shift: int = 0) -> dict:
    """Train one network a seed; return both errors at the end, and the training error after each epoch if watched."""
    data = [world(name, seed) for seed in range(SEEDS)]
    x, y, x_test, y_test = (torch.stack(one, 1) for one in zip(*data, strict=True))
    networks = Networks(drop, shift, background=x.amin((0, 2))[None, :, None, None])
    optimizer = torch.optim.SGD(networks.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=decay)

    @torch.no_grad()
    def errors(x: Tensor, y: Tensor) -> list[float]:
        networks.eval()
        right = networks(x).argmax(2).T.eq(y).double().mean(0)
        networks.train()
        return (1 - right).tolist()

    curve = [errors(x, y)] if watch else []
    fit(
        networks, x, y, optimizer=optimizer, epochs=EPOCHS, batch=BATCH,
        objective=lambda out, y: SEEDS * nn.functional.cross_entropy(out.flatten(0, 1), y.T.flatten()),
        after_epoch=(lambda epoch: curve.append(errors(x, y))) if watch else None,
    )  # fmt: skip
    left, test = errors(x, y), errors(x_test, y_test)
    return {"curve": curve, "train": left, "test": test, "gap": [b - a for a, b in zip(left, test, strict=True)]}


def epochs_to_fit(curve: list[list[float]]) -> list[int]:
    """Return the first epoch without a training error, a number a seed; the last epoch where there is none."""
    return [next((e for e, error in enumerate(one) if error == 0), EPOCHS) for one in zip(*curve, strict=True)]


def percent(values: list[float]) -> str:
    return f"{100 * mean(values):.1f} ({100 * min(values):.1f}–{100 * max(values):.1f})"


def worlds(record, results: dict) -> None:
    """Show that the same network fits what has a pattern and what has none."""
    rows = []
    for name, key in WORLDS.items():
        one, epochs = results[name], epochs_to_fit(results[name]["curve"])
        lowest = [min(seed) for seed in zip(*one["curve"], strict=True)]
        record.metric(f"lowest_train_error_{key}", lowest, setting=f"over the epochs; {SETTING}")
        record.metric(f"train_error_{key}", one["train"], setting=SETTING)
        record.metric(f"test_error_{key}", one["test"], setting=SETTING)
        record.metric(f"epochs_{key}", epochs, "epochs", setting=f"first without a training error; {SETTING}")
        row = {"data": name, "epochs until no training error": f"{mean(epochs):.1f} ({min(epochs)}–{max(epochs)})"}
        row |= {"training error, %": percent(one["train"]), "test error, %": percent(one["test"])}
        rows.append(row)
    record.table("worlds", rows, caption=f"Mean and range. {SETTING}.")
    slow, fast = (epochs_to_fit(results[name]["curve"]) for name in ("random labels", "true labels"))
    ratio = [a / b for a, b in zip(slow, fast, strict=True)]
    record.metric("slowdown", ratio, "×", setting=f"epochs until no training error, random over true labels; {SETTING}")

    curves, axis = panel("while training", "epoch", "training error, %", height=3.1)
    for number, name in enumerate(WORLDS):
        errors = 100 * torch.tensor(results[name]["curve"]).T
        # Dashes: two pairs of curves lie on each other.
        spread(axis, range(EPOCHS + 1), errors, SERIES[number], name, ls="--" if number in (2, 4) else "-")
    axis.set_ylim(bottom=-2)
    axis.legend(loc="upper right")
    after, axis = panel("after training", "error, %", height=3.1)
    for number, name in enumerate(WORLDS):
        for seed in range(SEEDS):
            ends = [100 * results[name][which][seed] for which in ("train", "test")]
            place = -number + 0.18 * (seed - 1)
            axis.plot(ends, [place, place], color=SERIES[number], lw=1)
            axis.plot(ends[0], place, marker="o", ms=4, mfc="none", color=SERIES[number])
            axis.plot(ends[1], place, marker="o", ms=5, color=SERIES[number])
    axis.axvline(90, color=INK, lw=0.8, ls=":")
    axis.text(88.5, 0.0, "guessing", ha="right", va="center")
    axis.set_yticks([-number for number in range(len(WORLDS))], WORLDS)
    axis.set_xlim(-4, 100)
    record.figure(
        "training_curves",
        [curves, after],
        caption="One network, five versions of the digits. Left: training error, mean and range of the seeds. Right: the "
        f"gap between training error (ring) and test error (dot), a line a seed. {SETTING}.",
        alt="Left: five training error curves that fall from about 90 % towards 0; true labels and shuffled pixels first, "
        "random labels among the last. Right: for each version lines from training to test error; short for true labels and "
        "shuffled pixels, and out to guessing at 90 % for random labels and for noise.",
    )


def regularizers(record, plain: dict) -> None:
    """Compare the gap with each explicit regularizer with the gap that random labels open."""
    results = {
        world: {
            name: train(f"{world} labels", **how) if how else plain[f"{world} labels"]
            for name, how in REGULARIZERS.items()
        }
        for world in ("true", "random")
    }
    true, random = results["true"], results["random"]
    opened = [a - b for a, b in zip(random["none"]["gap"], true["none"]["gap"], strict=True)]
    changes = {
        name: [a - b for a, b in zip(one["gap"], true["none"]["gap"], strict=True)] for name, one in true.items()
    }
    rows = []
    for name in REGULARIZERS:
        key = name.replace(" ", "_")
        record.metric(f"gap_{key}", points(true[name]["gap"]), "points", setting=f"true labels; {SETTING}")
        record.metric(
            f"gap_random_labels_{key}", points(random[name]["gap"]), "points", setting=f"random labels; {SETTING}"
        )
        record.metric(f"train_error_random_labels_{key}", random[name]["train"], setting=SETTING)
        row = {"regularizer": name, "training error, %": percent(true[name]["train"])}
        row |= {"test error, %": percent(true[name]["test"]), "gap, points": percent(true[name]["gap"])}
        rows.append(row | {"random labels: training error, %": percent(random[name]["train"])})
    record.table("regularizers", rows, caption=f"Mean and range; a gap is test error less training error. {SETTING}.")
    largest = [max(abs(one[seed]) for one in changes.values()) for seed in range(SEEDS)]
    record.metric(
        "largest_gap_change", points(largest), "points", setting=f"over the regularizers, true labels; {SETTING}"
    )
    share = [a / b for a, b in zip(largest, opened, strict=True)]
    record.metric(
        "gap_change_share", share, setting=f"largest change by a regularizer over that by random labels; {SETTING}"
    )
    panels = []
    for title, label, shown in (
        (
            "true labels: the gap",
            "test error − training error, points",
            {name: one["gap"] for name, one in true.items()},
        ),
        ("random labels: what is fitted", "training error, %", {name: one["train"] for name, one in random.items()}),
    ):
        fig, axis = panel(title, label, height=2.6)
        for number, values in enumerate(shown.values()):
            axis.plot(points(values), [-number] * SEEDS, "o", ms=5, color=SERIES[len(panels)])
        axis.set_yticks([-number for number in range(len(shown))], shown)
        axis.set_xlim(-3, 100)
        panels.append(fig)
    record.figure(
        "regularizers",
        panels,
        caption="Explicit regularizers, a dot a seed. Left: what they do to the gap on true labels. Right: the training error "
        f"that they leave on random labels. {SETTING}; weight decay {DECAY}, dropout {DROP}, shifts by up to {SHIFT} pixel.",
        alt="Two panels with five rows of dots. Left: all rows lie close together near the left end, far from the 90 points "
        "that random labels cost. Right: no regularizer and weight decay near 0; the others further to the right, all three "
        "together furthest.",
    )


def points(values: list[float]) -> list[float]:
    return [100 * value for value in values]


def misfit(x: Tensor, y: Tensor) -> float:
    a, b, w = method.memorize(x, y)
    return (method.two_layer(x @ a, b, w) - y).abs().max().item()


def misfit_midway(x: Tensor, y: Tensor) -> float:
    """Fit with every kink in the middle of its gap, by forward substitution, along the direction `memorize` takes."""
    z, order = (x @ method.memorize(x, y)[0]).sort()
    b = torch.cat([z[:1] - (z[-1] - z[0]), (z[1:] + z[:-1]) / 2])
    w = torch.linalg.solve_triangular(torch.relu(z[:, None] - b), y[order][:, None], upper=False)[:, 0]
    return (method.two_layer(z, b, w) - y[order]).abs().max().item()


def built(record) -> None:
    """Fit all training digits without training, and see what that network makes of new ones."""
    errors, unseen, weights = [], {"true": [], "random": []}, []
    for seed in range(SEEDS):
        x, y, x_test, y_test = (one.double() if one.is_floating_point() else one for one in digits(seed))
        generator = torch.Generator().manual_seed(seed)
        for labels, at in (("true", y), ("random", torch.randint(0, 10, y.shape, generator=generator))):
            a, b, w = method.memorize(x, at)
            error = (method.two_layer(x @ a, b, w) - at).abs().max().item()
            unseen[labels].append((method.two_layer(x_test @ a, b, w).round() != y_test).double().mean().item())
        errors.append(error)
        weights.append(a.numel() + b.numel() + w.numel() - 2 * len(x) - x.shape[1])
    setting = f"{len(x):,} digits in {x.shape[1]} dimensions, {{}}, float64, {SEEDS} seeds"
    record.metric("built_max_error", errors, setting=setting.format("random labels"))
    record.metric("built_weights_beyond", weights, setting=f"weights less 2n + d; {setting.format('random labels')}")
    record.metric(
        "built_test_error_true", unseen["true"], setting=setting.format("true labels, rounded to the nearest class")
    )
    record.metric(
        "built_test_error_random",
        unseen["random"],
        setting=setting.format("random labels, rounded to the nearest class"),
    )

    line, axis = panel("what it looks like", "projection z = ⟨a, x⟩", "output c(z)", height=3.0)
    x, y = digits(0)[0][:40].double(), torch.randint(0, 10, (40,), generator=torch.Generator().manual_seed(0))
    a, b, w = method.memorize(x, y)
    z = x @ a
    between = torch.cat([z, b, torch.linspace(b[0], z.max(), 400, dtype=torch.float64)]).sort().values
    axis.plot(between, method.two_layer(between, b, w), color=SERIES[0], lw=1)
    axis.plot(z, y, "o", ms=3.5, color=SERIES[1])
    axis.set_xlim(z.min() - 0.3, z.max() + 0.3)
    close, axis = panel("how close it comes", "samples n", "largest error", height=3.0)
    counts = [10, 30, 100, 300, 1000]
    ways = {
        "float64": (misfit, torch.float64),
        "float64, kinks midway": (misfit_midway, torch.float64),
        "float32": (misfit, torch.float32),
    }
    for number, (name, (how, dtype)) in enumerate(ways.items()):
        found = []
        for seed in range(SEEDS):
            generator = torch.Generator().manual_seed(seed)
            drawn = [(torch.randn(n, 10, generator=generator), torch.randn(n, generator=generator)) for n in counts]
            found.append([how(x.to(dtype), y.to(dtype)) for x, y in drawn])
        spread(axis, counts, found, SERIES[(0, 3, 1)[number]], name, marker="o", ms=3)
    axis.axhline(1e-4, color=INK, lw=0.8, ls=":")
    axis.set(xscale="log", yscale="log")
    axis.legend(loc="upper left", fontsize=7.5)
    record.figure(
        "built",
        [line, close],
        caption="The network with 2n + d weights. Left: its output along the one direction it looks at (blue), through 40 "
        "digits with random labels (orange). Right: its largest error on n Gaussian samples in 10 dimensions with Gaussian "
        f"labels, mean and range of {SEEDS} seeds; dotted, 10⁻⁴.",
        alt="Left: a jagged line that runs straight from each of 40 dots to the next. Right: largest error against n on "
        "logarithmic axes; the float64 line stays far below the dotted line, the float32 line climbs through it.",
    )


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    n, m = shape

    def draw(count: int):
        return torch.randn(count, dtype=dtype, device=device, generator=generator)

    return {"z": draw(n), "b": draw(m), "w": draw(m)}


def _bytes(arguments) -> int:
    return (2 * arguments["z"].numel() + 2 * arguments["b"].numel()) * arguments["z"].element_size()


KERNELS = (
    Kernel(
        name="two_layer",
        op=kernel.two_layer,
        twin=method.two_layer,
        inputs=_inputs,
        bytes_moved=_bytes,
        operations=lambda arguments: 4 * arguments["z"].numel() * arguments["b"].numel(),
        shapes=((0, 3), (3, 0), (1, 1), (9, 5), (3, 130), (130, 5)),
        bench_shapes=((32768, 32768),),
        compile_shape=(256, 256),
        dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        differentiable=("z", "b", "w"),
        backward_bytes=lambda arguments: (
            3 * arguments["z"].numel() * arguments["z"].element_size()
            + 4 * arguments["b"].numel() * arguments["z"].element_size()
        ),
        reduction=lambda arguments: max(arguments["z"].numel(), arguments["b"].numel()),
        oracle="method.two_layer in float64",
    ),
)
