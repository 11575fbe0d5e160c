"""The adversarial game measured: the best D for a fixed G, both players' learning, collapse, and the Parzen window."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from generator.lab.data import digits
from generator.lab.figures import FAINT, INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from snippets.gan import kernel, method

SEEDS, BATCH, HIDDEN, NOISE = 4, 128, 32, 4
RATE, BETAS = 4e-3, (0.5, 0.999)
MEANS, WIDTHS, WEIGHTS = (-1.0, 1.0), (0.2, 0.3), (0.4, 0.6)
FIXED_MEAN, FIXED_WIDTH = 0.3, 0.7
MODES, RING_WIDTH, SAMPLES, PRESENT = 8, 0.1, 500, 0.01
FIXED_STEPS, FIXED_BATCH, LINE_STEPS, RING_STEPS, AFTER_STEPS, EVERY = 600, 128, 600, 800, 800, 25
SCHEDULES, NEVER = (1, 10), 10**9
NETS = f"2 hidden layers of {HIDDEN} ReLUs each, Adam {RATE:g}, batch {BATCH}, {SEEDS} seeds"


def run(record) -> None:
    """Record the fixed-G results, learning in one and two dimensions, the two generator losses, and Parzen scores."""
    fixed_generator(record)
    line(record)
    ring(record)
    saturation(record)
    parzen(record)


# Several runs at once: every parameter has a leading axis, one entry a run, and the runs never mix.


def network(runs: int, sizes: tuple[int, ...], generator: torch.Generator) -> list[Tensor]:
    """Return weights [run, in, out] of an MLP with He's variance, and biases [run, 1, out] that spread the ReLUs' kinks."""
    parameters = []
    for inputs, outputs in itertools.pairwise(sizes):
        weight = torch.randn(runs, inputs, outputs, generator=generator) * (2 / inputs) ** 0.5
        bias = (2 * torch.rand(runs, 1, outputs, generator=generator) - 1) / inputs**0.5
        parameters += [weight.requires_grad_(), bias.requires_grad_()]
    return parameters


def apply(parameters: list[Tensor], x: Tensor) -> Tensor:
    for at in range(0, len(parameters), 2):
        x = torch.baddbmm(parameters[at + 1], torch.relu(x) if at else x, parameters[at])
    return x


def adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=RATE, betas=BETAS, fused=True)


@dataclass
class Game:
    """Both players of several runs, their optimizers, and the noise they draw."""

    dimensions: int
    seed: int
    runs: int = SEEDS
    g: list[Tensor] = field(init=False)
    d: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.noise = torch.Generator().manual_seed(self.seed)
        self.g = network(self.runs, (NOISE, HIDDEN, HIDDEN, self.dimensions), self.noise)
        self.d = network(self.runs, (self.dimensions, HIDDEN, HIDDEN, 1), self.noise)
        self.g_step, self.d_step = adam(self.g), adam(self.d)

    def sample(self, count: int = BATCH) -> Tensor:
        return apply(self.g, torch.randn(self.runs, count, NOISE, generator=self.noise))

    def train_d(self, real: Tensor, fake: Tensor) -> None:
        logits = apply(self.d, torch.cat([real, fake], 1))
        loss, _, _ = method.gan_losses(*logits.split(real.shape[1], 1))
        self._update(self.d, loss, self.d_step)

    def train_g(self) -> None:
        _, _, loss = method.gan_losses(torch.zeros(1), apply(self.d, self.sample()))
        self._update(self.g, loss, self.g_step)

    def _update(self, parameters: list[Tensor], loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        # the mean over runs is undone: each run sees the gradient it would see alone
        for one, gradient in zip(parameters, torch.autograd.grad(loss * self.runs, parameters), strict=True):
            one.grad = gradient
        optimizer.step()

    def play(self, data, steps: int, g_per_d: int, watch=None) -> list:
        """Take G steps, one D step before every g_per_d-th of them; return what `watch` says every EVERY steps."""
        seen = []
        for step in range(steps):
            if step % EVERY == 0 and watch:
                seen.append(watch(self))
            if (step + 1) % g_per_d == 0:
                with torch.no_grad():
                    fake = self.sample()
                self.train_d(data(self), fake)
            self.train_g()
        return [*seen, watch(self)] if watch else seen


# One dimension, where every density is known


def p_data(x: Tensor) -> Tensor:
    parts = zip(MEANS, WIDTHS, WEIGHTS, strict=True)
    return sum(weight * normal(x, mean, width) for mean, width, weight in parts)


def normal(x: Tensor, mean: float, width: float) -> Tensor:
    return torch.exp(-(((x - mean) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))


def draw_data(game: Game, count: int = BATCH) -> Tensor:
    second = torch.rand(game.runs, count, 1, generator=game.noise) >= WEIGHTS[0]
    z = torch.randn(game.runs, count, 1, generator=game.noise)
    return torch.where(second, MEANS[1] + WIDTHS[1] * z, MEANS[0] + WIDTHS[0] * z)


GRID = torch.linspace(-3.5, 3.5, 701, dtype=torch.float64)
STEP = 0.01


def value(logits: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """Return V(D, G) for D's logits on the grid, the expectations as sums over it."""
    return ((real * method.log_d(logits) + fake * method.log_one_minus_d(logits)) * STEP).sum(-1)


def fixed_generator(record) -> None:
    """Train D alone, against a fixed G that is wrong and against one that is perfect."""
    real, wrong = p_data(GRID), normal(GRID, FIXED_MEAN, FIXED_WIDTH)
    best = method.best_discriminator(real, wrong)
    divergence = (real * (real / (real + wrong) * 2).log() + wrong * (wrong / (real + wrong) * 2).log()).sum() * STEP
    game = Game(1, seed=1, runs=2 * SEEDS)  # the first half of the runs faces the wrong G, the second the perfect one
    for step in range(FIXED_STEPS):
        fake = draw_data(game, FIXED_BATCH)
        fake[:SEEDS] = FIXED_MEAN + FIXED_WIDTH * torch.randn(SEEDS, FIXED_BATCH, 1, generator=game.noise)
        game.d_step.param_groups[0]["lr"] = RATE * (1 - step / FIXED_STEPS)
        game.train_d(draw_data(game, FIXED_BATCH), fake)
    with torch.no_grad():
        logits = apply(game.d, GRID.float().expand(2 * SEEDS, -1)[..., None])[..., 0].double()
    trained = {"wrong": logits[:SEEDS], "perfect": logits[SEEDS:]}
    setting = f"{FIXED_STEPS} D steps on {FIXED_BATCH} fresh samples, rate falling to 0; {NETS.split(', batch')[0]}, {SEEDS} seeds"
    for name, fake, target in (("fixed", wrong, best), ("optimum", real, torch.full_like(best, 0.5))):
        logits = trained["wrong" if name == "fixed" else "perfect"]
        error = ((logits.sigmoid() - target).abs() * (real + fake) / 2 * STEP).sum(-1)
        record.metric(f"d_error_{name}", error.tolist(), setting=f"mean |D − D*| over both densities; {setting}")
        record.metric(
            f"value_{name}", value(logits, real, fake).tolist(), unit="nats", setting=f"V on a grid; {setting}"
        )
    record.metric("value_best", value(best.logit(), real, wrong).item(), unit="nats", setting="V of D*, quadrature")
    by_divergence = -math.log(4) + divergence.item()
    record.metric("value_by_divergence", by_divergence, unit="nats", setting="−log 4 + 2 JSD, quadrature")
    difference = abs(value(best.logit(), real, wrong).item() - by_divergence)
    record.metric("value_difference", difference, unit="nats", setting="V of D* against −log 4 + 2 JSD, quadrature")
    figures = []
    for title, fake, target, logits in (
        ("a fixed, wrong G", wrong, best, trained["wrong"]),
        ("a perfect G", real, torch.full_like(best, 0.5), trained["perfect"]),
    ):
        fig, axis = panel(title, "x", "D(x); densities")
        shown = range(130, 611, 4)
        axis.fill_between(GRID[shown], real[shown], color=FAINT, alpha=0.25, linewidth=0)
        if fake is wrong:
            axis.plot(GRID[shown], fake[shown], color=FAINT, lw=1.2, ls=":")
        spread(axis, GRID[shown], logits.sigmoid()[:, shown], SERIES[0])
        axis.plot(GRID[shown], target[shown], color=INK, lw=1.2, ls="--")
        axis.set_ylim(0, 1.05)
        figures.append(fig)
    record.figure(
        "best-d",
        figures,
        caption=f"D trained alone against a fixed G (blue: mean and range of {SEEDS} seeds) and the best D by formula (dashed). "
        "Grey area: the data's density; dotted: the density of the wrong G. Right, G has the data's own density.",
        alt="Two panels over x. Left, the trained D follows the dashed curve p_data/(p_data + p_g) through two bumps. Right, it "
        "stays near the dashed line at one half.",
    )


def line(record) -> None:
    """Learn the 1-D mixture, both players in turn, and compare G's histogram with the density."""
    game = Game(1, seed=2)
    game.play(draw_data, LINE_STEPS, 1)
    edges = torch.linspace(-3, 3, 61)
    with torch.no_grad():
        drawn = game.sample(4000)[..., 0]
        logits = apply(game.d, GRID.float().expand(SEEDS, -1)[..., None])[..., 0]
    shares = torch.stack([torch.histogram(one, edges)[0] for one in drawn]) / drawn.shape[1]
    middle = (edges[1:] + edges[:-1]) / 2
    wanted = p_data(middle) * 0.1
    setting = f"4,000 samples, bins of 0.1, {LINE_STEPS} steps each; {NETS}"
    distance = ((shares - wanted).abs().sum(1) + 1 - shares.sum(1)) / 2
    record.metric("line_distance", distance.tolist(), setting=f"total variation to the data; {setting}")
    fig, axis = panel("G's samples", "x", "density")
    axis.fill_between(middle, p_data(middle), color=FAINT, alpha=0.3, linewidth=0)
    for number, one in enumerate(shares):
        axis.step(middle, one / 0.1, where="mid", color=SERIES[number], lw=1.1)
    second, other = panel("D after the game", "x", "D(x)")
    for number, one in enumerate(logits.sigmoid()):
        other.plot(GRID, one, color=SERIES[number], lw=1.2)
    other.axhline(0.5, color=INK, lw=1, ls="--")
    other.set(ylim=(0, 1), xlim=(-2.2, 2.6))
    axis.set_xlim(-2.2, 2.6)
    record.figure(
        "line",
        [fig, second],
        caption=f"The 1-D mixture after {LINE_STEPS} steps of each player, one color a seed. Left: histograms of G's samples over "
        "the data's density (grey). Right: D, which would be one half (dashed) at the optimum.",
        alt="Left, four histograms over the grey two-peaked density. Right, four curves of D over x about the line at one half.",
    )


# Two dimensions: a ring of modes

CENTERS = torch.stack([torch.tensor([math.cos(a), math.sin(a)]) for a in torch.arange(MODES) * (2 * math.pi / MODES)])


def draw_ring(game: Game) -> Tensor:
    mode = torch.randint(MODES, (game.runs, BATCH), generator=game.noise)
    return CENTERS[mode] + RING_WIDTH * torch.randn(game.runs, BATCH, 2, generator=game.noise)


@torch.no_grad()
def coverage(game: Game) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each run the modes that hold a share PRESENT of its samples, the share near any mode, and the spread."""
    x = game.sample(SAMPLES)
    near = torch.cdist(x, CENTERS.expand(game.runs, -1, -1)) < 3 * RING_WIDTH
    spread_out = x.var(1).sum(-1).sqrt()  # the root mean square distance from the samples' mean: 1 on the ring
    return (near.float().mean(1) >= PRESENT).sum(-1), near.any(-1).float().mean(1), spread_out


def ring(record) -> None:
    """Learn the ring with 1 or with 10 G steps a D step; then go on from the first with a D that never moves again."""
    counts, axis = panel("modes covered", "G steps", f"modes of {MODES}", height=3.2)
    clouds = []
    for number, g_per_d in enumerate(SCHEDULES):
        game = Game(2, seed=3)
        seen = game.play(draw_ring, RING_STEPS, g_per_d, coverage)
        steps = [EVERY * n for n in range(len(seen))]
        setting = f"of {MODES}, {g_per_d} G steps a D step, {RING_STEPS} G steps; {NETS}"
        modes = torch.stack([count for count, *_ in seen], 1)
        spread(axis, steps, modes, SERIES[number], label=f"{g_per_d} G step{'s' * (g_per_d > 1)} a D step")
        record.metric(f"modes_{g_per_d}", modes[:, -1].tolist(), setting=setting)
        record.metric(
            f"near_{g_per_d}",
            seen[-1][1].tolist(),
            setting=f"share of samples within 3 widths of a mode; {setting[6:]}",
        )
        record.metric(
            f"spread_{g_per_d}", seen[-1][2].tolist(), setting=f"rms distance from the samples' mean; {setting[6:]}"
        )
        if g_per_d == 1:
            early = RING_STEPS // SCHEDULES[1] // EVERY
            record.metric(
                "modes_1_early",
                modes[:, early].tolist(),
                setting=f"of {MODES}, after {EVERY * early} steps each; {NETS}",
            )
            learned = game
        clouds.append(cloud(game, f"{g_per_d} G step{'s' * (g_per_d > 1)} a D step", SERIES[number]))
    seen = learned.play(draw_ring, AFTER_STEPS, NEVER, coverage)
    modes = torch.stack([count for count, *_ in seen], 1)
    spread(axis, [RING_STEPS + EVERY * n for n in range(len(seen))], modes, FAINT, label="then D frozen")
    setting = f"of {MODES}, {AFTER_STEPS} G steps with D frozen, from the ring learned with equal steps; {NETS}"
    record.metric("modes_frozen", modes[:, -1].tolist(), setting=setting)
    axis.set_ylim(0, MODES + 0.4)
    axis.legend(loc=(0.45, 0.2))
    record.figure(
        "collapse",
        [*clouds, counts, cloud(learned, f"then {AFTER_STEPS} with D frozen", FAINT)],
        caption=f"Dots: {SAMPLES} samples of one seed's G after {RING_STEPS} G steps, and after {AFTER_STEPS} more with D frozen, over "
        f"the ring's modes (circles of 2 widths). Curves: modes covered, mean and range of {SEEDS} seeds.",
        alt="Three scatter plots of samples over eight circles, and a plot of the number of modes covered against G steps for "
        "two schedules, the first of which goes on with a frozen D.",
    )


def cloud(game: Game, title: str, color: str):
    fig, axis = panel(title, "x₁", "x₂", height=3.2)
    turn = torch.linspace(0, 2 * math.pi, 40)
    for x, y in CENTERS.tolist():
        axis.plot(x + 2 * RING_WIDTH * turn.cos(), y + 2 * RING_WIDTH * turn.sin(), color=INK, lw=0.7)
    with torch.no_grad():
        dots = game.sample(SAMPLES)[0]
    axis.plot(*dots.T, ".", ms=2.5, color=color, rasterized=True)
    axis.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
    return fig


def saturation(record) -> None:
    """Train D alone against an untrained G on the ring, and measure the gradient each loss would give G."""
    game = Game(2, seed=5)
    steps, norms = range(0, 201, 20), {"minimax": [], "non-saturating": []}
    for step in range(201):
        if step in steps:
            _, *losses = method.gan_losses(torch.zeros(1), apply(game.d, game.sample(1000)))
            for name, loss in zip(norms, losses, strict=True):
                gradients = torch.autograd.grad(loss * game.runs, game.g, retain_graph=True)
                norms[name].append(sum(one.flatten(1).square().sum(1) for one in gradients).sqrt())
        with torch.no_grad():
            fake = game.sample()
        game.train_d(draw_ring(game), fake)
    fig, axis = panel("gradient that reaches G", "D steps against an untrained G", "norm")
    for number, (name, seen) in enumerate(norms.items()):
        spread(axis, steps, torch.stack(seen, 1), SERIES[number], label=name)
        setting = f"norm over G's weights, after 200 D steps against an untrained G on the ring; {NETS}"
        record.metric(f"gradient_{name.replace('-', '_')}", seen[-1].tolist(), setting=setting)
    axis.set_yscale("log")
    axis.set_yticks([1, 10], ["1", "10"])  # the formatter of a log axis would set mathematics
    axis.set_yticks([], minor=True)
    axis.legend(loc="best")
    record.figure(
        "saturation",
        fig,
        caption=f"Norm of the gradient that each generator loss sends to an untrained G while D alone learns; mean and range of "
        f"{SEEDS} seeds.",
        alt="Two curves of gradient norm against D's steps, for the minimax and for the non-saturating loss.",
    )


# The Parzen window, on real digits

WINDOWS = tuple(round(0.1 * 1.2**n, 4) for n in range(11))
KEPT, LLOYD, SPLITS = 300, 10, 3


def window_score(samples: Tensor, x: Tensor, width: float) -> float:
    """Return the mean log density, in nats, of x under Gaussians of this width around the samples."""
    squares = torch.cdist(x, samples).square() / (-2 * width**2)
    scale = math.log(len(samples)) + x.shape[1] * math.log(width * math.sqrt(2 * math.pi))
    return (squares.logsumexp(1) - scale).mean().item()


def k_means(x: Tensor, centers: Tensor) -> Tensor:
    for _ in range(LLOYD):
        member = F.one_hot(torch.cdist(x, centers).argmin(1), len(centers)).to(x)
        count = member.sum(0)[:, None]
        centers = torch.where(count > 0, member.T @ x / count.clamp_min(1), centers)
    return centers


def parzen(record) -> None:
    """Score sets of samples as the paper does: the width from a validation set, the mean log density from a test set."""
    scores: dict[str, list[float]] = {}
    shown: dict[str, Tensor] = {}
    for seed in range(SPLITS):
        train, _, rest, _ = digits(seed, held_out=0.4)
        validation, test = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        generator = torch.Generator().manual_seed(seed)
        noise = torch.rand(KEPT // 2, 64, generator=generator)
        models = {
            "real images": train[:KEPT],
            "k-means centers": k_means(train, train[:KEPT]),
            "half real, half noise": torch.cat([train[: KEPT // 2], noise]),
        }
        for name, samples in models.items():
            width = max(WINDOWS, key=lambda one, s=samples: window_score(s, validation, one))
            scores.setdefault(name, []).append(window_score(samples, test, width))
            shown.setdefault(name, samples[torch.linspace(0, KEPT - 1, 8).long()])
    setting = f"{KEPT} samples, 8×8 digits, width from validation, {SPLITS} splits"
    fig, axis = panel("Parzen score", "mean log density of test digits, nats", height=1.9)
    for number, (name, values) in enumerate(scores.items()):
        key = ("real", "k_means", "half_noise")[number]
        record.metric(f"parzen_{key}", values, unit="nats", setting=f"{name}; {setting}")
        axis.plot(values, [-number] * SPLITS, "o", ms=5, color=SERIES[number], alpha=0.8)
        axis.text(sum(values) / SPLITS, 0.22 - number, name, color=SERIES[number], ha="center")
    axis.set(ylim=(-2.5, 0.6), yticks=[])
    axis.margins(x=0.3)
    pictures, other = panel("what was scored", height=1.9)
    rows = torch.cat([torch.cat([one.view(8, 8) for one in images], 1) for images in shown.values()])
    other.imshow(rows, cmap="cividis", rasterized=True)
    other.set(yticks=[3.5, 11.5, 19.5], yticklabels=["real", "k-means", "half noise"], xticks=[])
    other.grid(False)
    record.figure(
        "parzen",
        [fig, pictures],
        caption=f"Left: Parzen-window scores of three sets of {KEPT} 'samples', a dot a split; higher is taken to be better. Right: "
        "eight of each set, first split.",
        alt="Left, dots for three sets of samples on one axis of nats. Right, rows of 8 by 8 pictures: real digits, blurred "
        "centers, and a row that is half digits and half noise.",
    )


# The kernels


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    more = (shape[0] and shape[0] + 16, *shape[1:]) if shape else ()  # equal counts would hide a swap of the two
    real, fake = (4 * torch.randn(one, dtype=dtype, device=device, generator=generator) for one in (shape, more))
    return {"real_logits": real, "fake_logits": fake}


def _bytes(arguments, real_passes: int = 1, fake_passes: int = 1) -> int:
    real, fake = arguments["real_logits"], arguments["fake_logits"]
    return (real_passes * real.numel() + fake_passes * fake.numel()) * real.element_size()


def _logits(arguments) -> int:
    return arguments["real_logits"].numel() + arguments["fake_logits"].numel()


# The suite compares an output's bytes, and a 0-d tensor shows none: the losses are declared stacked, as one tensor [3].


def _twin(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return torch.stack(method.gan_losses(real_logits, fake_logits))


def _twin_with_gradients(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, ...]:
    results = method.gan_losses_and_gradients(real_logits, fake_logits)
    return torch.stack(results[:3]), *results[3:]


def _eager(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    caught = F.softplus(fake_logits).mean()
    return torch.stack([F.softplus(-real_logits).mean() + caught, -caught, F.softplus(-fake_logits).mean()])


def _eager_with_gradients(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, ...]:
    n, m = real_logits.numel(), fake_logits.numel()
    p = torch.sigmoid(fake_logits)
    return _eager(real_logits, fake_logits), (torch.sigmoid(real_logits) - 1) / n, -p / m, (p - 1) / m


KERNELS = (
    Kernel(
        name="gan_losses",
        op=kernel._stacked_losses,
        twin=_twin,
        inputs=_inputs,
        bytes_moved=_bytes,
        operations=lambda arguments: (
            12 * _logits(arguments)
        ),  # exp, the product's two, two maxima, two sums, infinities
        shapes=((), (0, 3), (1023,), (1024,), (31, 67), (2, 3, 5, 7)),
        dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        differentiable=("real_logits", "fake_logits"),
        backward_bytes=lambda arguments: 2 * _bytes(arguments),  # logits in, their gradients out
        oracle="method.gan_losses in float64; F.binary_cross_entropy_with_logits in the tests",
        eager=_eager,
    ),
    Kernel(
        name="gan_losses_and_gradients",
        op=kernel._stacked_losses_and_gradients,
        twin=_twin_with_gradients,
        inputs=_inputs,
        bytes_moved=lambda arguments: _bytes(
            arguments, 2, 3
        ),  # logits in; one gradient of the real, two of the fake out
        operations=lambda arguments: 18 * _logits(arguments),
        shapes=((7,), (1024,), (31, 67)),
        dtypes=(torch.float32, torch.bfloat16),
        oracle="method.gan_losses_and_gradients in float64; F.binary_cross_entropy_with_logits in the tests",
        eager=_eager_with_gradients,
    ),
)
