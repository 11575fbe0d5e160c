"""Two open threads of the essay, tried on digits: sparse against dense units, and an attack that needs no gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from generator.lab.data import digits
from generator.lab.figures import FAINT, INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import fit
from snippets.bits_and_missings import kernel, method

SEEDS = range(3)
UNITS, WINNERS = 256, 25  # one hidden layer; about one unit in ten
EPOCHS, RATE = 25, 2e-3
NOISES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
EPSILONS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
NOISE, EPSILON = 0.4, 0.15  # where claims are judged; pixels lie in 0..1, in steps of 1/16
IMAGES, POPULATION, GENERATIONS = 50, 12, 40
MUTATION, TEMPERATURE = 0.05, 0.3
QUERIES = POPULATION * GENERATIONS
PGD_STEPS = 20
NAMES = ("dense", "sparse")
COLOR = {"sparse": SERIES[0], "dense": SERIES[1]}
LABEL = {"sparse": "k-winners", "dense": "ReLU"}
SETTING = f"digits, one hidden layer of {UNITS}, {WINNERS} winners, {EPOCHS} epochs, {len(SEEDS)} seeds"
ATTACKED = f"{IMAGES} test images that both networks get right, ε = {EPSILON}; {SETTING}"


class KWinners(nn.Module):
    """The layer: k winners a row."""

    def forward(self, x: Tensor) -> Tensor:
        return method.k_winners(x, WINNERS)


@dataclass(frozen=True)
class Trained:
    """Two networks that began with the same weights and saw the same minibatches, and the images they have not seen."""

    nets: dict[str, nn.Module]
    x: Tensor
    y: Tensor


def train(seed: int) -> Trained:
    """Train a ReLU network, and one whose ReLU is replaced by k winners."""
    x, y, test_x, test_y = digits(seed)
    torch.manual_seed(seed)
    first, last = nn.Linear(x.shape[1], UNITS), nn.Linear(UNITS, 10)
    nets = {}
    for name, units in (("dense", nn.ReLU()), ("sparse", KWinners())):
        net = nn.Sequential(copy.deepcopy(first), units, copy.deepcopy(last))
        fit(net, x, y, optimizer=torch.optim.Adam(net.parameters(), lr=RATE, fused=True), epochs=EPOCHS, seed=seed)
        nets[name] = net.eval().requires_grad_(False)
    return Trained(nets, test_x, test_y)


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return (net(x).argmax(1) == y).float().mean().item()


def slope_sign(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the sign of the loss's gradient at x."""
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(net(x), y, reduction="sum"), x)
    return slope.sign()


def fgsm(net: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """Take one step of the fast gradient sign method."""
    return (x + epsilon * slope_sign(net, x, y)).clamp(0, 1)


def pgd(net: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """Take many small steps of the same kind, each put back into the box of half-width ε."""
    at = x
    for _ in range(PGD_STEPS):
        at = at + epsilon / 8 * slope_sign(net, at, y)
        at = torch.minimum(torch.maximum(at, x - epsilon), x + epsilon).clamp(0, 1)
    return at


@torch.no_grad()
def margin(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return how far the likeliest wrong class's log-probability lies above the true one's, [image, member]."""
    log = net(x.flatten(0, 1)).log_softmax(1).view(*x.shape[:2], -1)
    true = y[:, None, None].expand(-1, x.shape[1], 1)
    return log.scatter(2, true, -torch.inf).amax(2) - log.gather(2, true)[..., 0]


Search = Callable[[nn.Module, Tensor, Tensor, int], tuple[np.ndarray, Tensor]]


def genetic(net: nn.Module, x: Tensor, y: Tensor, seed: int) -> tuple[np.ndarray, Tensor]:
    """Breed perturbations; return the share fooled after each generation, and the fittest images.

    A member is a corner of the box. The best of an image's population lives on. The others are children: two parents
    drawn by fitness, each pixel from either one, one in twenty drawn anew. No gradient is asked for.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (len(x), POPULATION, x.shape[1])
    delta = _signs(shape, generator)
    shares = []
    for generation in range(GENERATIONS):
        fitness = margin(net, (x[:, None] + EPSILON * delta).clamp(0, 1), y)
        best = delta[torch.arange(len(x)), fitness.argmax(1)]
        shares.append((fitness.amax(1) > 0).float().mean().item())
        if generation + 1 < GENERATIONS:
            chance = (fitness / TEMPERATURE).softmax(1)
            parents = torch.multinomial(chance, 2 * POPULATION, replacement=True, generator=generator)
            mother, father = delta.gather(1, parents[..., None].expand(-1, -1, shape[2])).chunk(2, 1)
            children = torch.where(torch.rand(shape, generator=generator) < 0.5, mother, father)
            mutated = torch.rand(shape, generator=generator) < MUTATION
            delta = torch.where(mutated, _signs(shape, generator), children)
            delta[:, 0] = best
    return np.array(shares), (x + EPSILON * best).clamp(0, 1)


def at_random(net: nn.Module, x: Tensor, y: Tensor, seed: int) -> tuple[np.ndarray, Tensor]:
    """Draw as many corners of the box as the genetic search asks about, none learning from another."""
    generator = torch.Generator().manual_seed(1000 + seed)
    fooled, shares = torch.zeros(len(x), dtype=torch.bool), []
    for _ in range(GENERATIONS):
        delta = _signs((len(x), POPULATION, x.shape[1]), generator)
        at = (x[:, None] + EPSILON * delta).clamp(0, 1)
        fooled |= margin(net, at, y).amax(1) > 0
        shares.append(fooled.float().mean().item())
    return np.array(shares), at[:, 0]


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator).float() * 2 - 1


def run(record) -> None:
    """Record accuracy under noise and under FGSM, then what each attack fools."""
    trained = [train(seed) for seed in SEEDS]
    _noise_and_fgsm(record, trained)
    _attacks(record, trained)


def _noise_and_fgsm(record, trained: list[Trained]) -> None:
    noisy: dict[str, list[list[float]]] = {name: [] for name in NAMES}
    attacked: dict[str, list[list[float]]] = {name: [] for name in NAMES}
    for seed, one in zip(SEEDS, trained, strict=True):
        noise = torch.randn(one.x.shape, generator=torch.Generator().manual_seed(seed))
        for name, net in one.nets.items():
            noisy[name].append([accuracy(net, one.x + sigma * noise, one.y) for sigma in NOISES])
            attacked[name].append([accuracy(net, fgsm(net, one.x, one.y, e), one.y) for e in EPSILONS])
    for name in NAMES:
        record.metric(f"accuracy_{name}", [runs[0] for runs in noisy[name]], setting=SETTING)
        at = NOISES.index(NOISE)
        record.metric(f"noise_{name}", [runs[at] for runs in noisy[name]], setting=f"noise of σ = {NOISE}; {SETTING}")
        at = EPSILONS.index(EPSILON)
        record.metric(
            f"fgsm_{name}", [runs[at] for runs in attacked[name]], setting=f"FGSM of ε = {EPSILON}; {SETTING}"
        )
    gaps = [s[0] - d[0] for s, d in zip(noisy["sparse"], noisy["dense"], strict=True)]
    record.metric("accuracy_gap", gaps, setting=f"k-winners' accuracy minus ReLU's; {SETTING}")
    panels = []
    for title, label, x, runs in (
        ("Gaussian noise", "noise σ (pixels lie in 0..1)", NOISES, noisy),
        ("FGSM", "step ε (pixels lie in 0..1)", EPSILONS, attacked),
    ):
        fig, ax = panel(title, label, "test accuracy")
        for name in NAMES:
            spread(ax, x, runs[name], COLOR[name], LABEL[name])
        ax.set_ylim(0, 1.02)
        ax.legend(loc="lower left")
        panels.append(fig)
    record.figure(
        "robustness",
        panels,
        caption="Test accuracy of the sparse and the dense network as Gaussian noise (left) or a step along the sign of "
        f"the gradient (right) grows. Line: mean of {len(SEEDS)} seeds; band: lowest to highest.",
        alt="Two panels with a falling accuracy curve for k-winners and one for ReLU, each with a band over the seeds.",
    )


def _attacks(record, trained: list[Trained]) -> None:
    searches: dict[tuple[str, str], list[np.ndarray]] = {}
    shares: dict[tuple[str, str], list[float]] = {}
    missed: dict[str, list[float]] = {name: [] for name in NAMES}
    for seed, one in zip(SEEDS, trained, strict=True):
        right = torch.stack([net(one.x).argmax(1) == one.y for net in one.nets.values()]).all(0)
        x, y = one.x[right][:IMAGES], one.y[right][:IMAGES]
        for name, net in one.nets.items():
            by_search = {}
            for attack, search in (("random", at_random), ("genetic", genetic)):
                curve, by_search[attack] = search(net, x, y, seed)
                searches.setdefault((attack, name), []).append(curve)
                shares.setdefault((attack, name), []).append(float(curve[-1]))
            for attack, at in (("fgsm", fgsm(net, x, y, EPSILON)), ("pgd", pgd(net, x, y, EPSILON))):
                shares.setdefault((attack, name), []).append(1 - accuracy(net, at, y))
                by_search[attack] = at
            survives = net(by_search["fgsm"]).argmax(1) == y
            fooled = net(by_search["genetic"]).argmax(1) != y
            missed[name].append((survives & fooled).float().mean().item())
            if seed == 0 and name == "sparse":
                _pictures(record, net, x, y, by_search["genetic"])
    for (attack, name), values in shares.items():
        record.metric(f"{attack}_fools_{name}", values, setting=ATTACKED)
    for name in NAMES:
        record.metric(
            f"missed_by_fgsm_{name}", missed[name], setting=f"fooled by the genetic search, not by FGSM; {ATTACKED}"
        )
    _search_figure(record, searches, shares)
    rows = [
        {"attack": label, "uses": uses, **{LABEL[name]: _range(shares[attack, name]) for name in NAMES}}
        for attack, label, uses in (
            ("random", f"best of {QUERIES} random corners", "probabilities"),
            ("genetic", f"genetic search, {QUERIES} queries", "probabilities"),
            ("fgsm", "FGSM", "one gradient"),
            ("pgd", "PGD", f"{PGD_STEPS} gradients"),
        )
    ]
    record.table("attacks", rows, caption=f"Share of images fooled, mean and range. {ATTACKED}.")


def _range(values: list[float]) -> str:
    return f"{np.mean(values):.0%} ({min(values):.0%} to {max(values):.0%})"


def _search_figure(record, searches, shares) -> None:
    queries = POPULATION * np.arange(1, GENERATIONS + 1)
    panels = []
    for name in ("sparse", "dense"):
        fig, ax = panel(LABEL[name], "queries an image", "share of images fooled")
        spread(ax, queries, searches["genetic", name], COLOR[name], "genetic search")
        spread(ax, queries, searches["random", name], FAINT, "random corners", linestyle="--")
        ax.axhline(np.mean(shares["fgsm", name]), color=INK, lw=1, label="FGSM")
        ax.axhline(np.mean(shares["pgd", name]), color=INK, lw=1, ls=":", label="PGD")
        ax.set_ylim(0, 1.36)  # room above the curves for the legend
        ax.set_yticks(np.linspace(0, 1, 6))
        ax.legend(loc="upper center", ncol=2)
        panels.append(fig)
    record.figure(
        "search",
        panels,
        caption="Share of images fooled by as many queries or fewer, within the same box. Colored: genetic search, which "
        "sees probabilities alone; dashed: corners drawn at random; level lines: FGSM and PGD, which see gradients. "
        f"Means of {len(SEEDS)} seeds, bands from lowest to highest.",
        alt="Two panels, k-winners and ReLU. In each a curve of the genetic search climbs with queries, a dashed curve for "
        "random corners lies below, and two level lines mark FGSM and PGD.",
    )


def _pictures(record, net: nn.Module, x: Tensor, y: Tensor, bred: Tensor) -> None:
    said = net(bred).argmax(1)
    chosen = (said != y).nonzero().flatten()[:4].tolist()
    fig, ax = panel("", "", "", height=2.3)
    sheet = np.full((18, 9 * max(1, len(chosen)) - 1), np.nan)
    for n, i in enumerate(chosen):
        sheet[:8, 9 * n : 9 * n + 8] = x[i].view(8, 8)
        sheet[10:, 9 * n : 9 * n + 8] = bred[i].view(8, 8)
        ax.text(9 * n + 3.5, -1.2, f"a {y[i]}", ha="center")
        ax.text(9 * n + 3.5, 19.6, f"read as {said[i]}", ha="center")
    ax.imshow(sheet, cmap="viridis", vmin=0, vmax=1)
    ax.set_ylim(20.5, -3)
    ax.set_axis_off()
    record.figure(
        "bred",
        fig,
        caption="Test digits (top) and what the genetic search made of them (bottom), with what the k-winners network reads; "
        f"no pixel moved by more than {EPSILON}. The first ones fooled, seed 0.",
        alt="Pairs of 8 by 8 digits: originals above with their labels, speckled versions below with the wrong digit read.",
    )


def _inputs(shape, dtype, device, seed):
    drawn = torch.randn(shape, dtype=torch.float64, device=device, generator=torch.Generator(device).manual_seed(seed))
    return {"x": drawn.to(dtype), "k": max(1, shape[-1] // 10)}


KERNELS = (
    Kernel(
        name="k_winners",
        op=kernel.k_winners,
        twin=method.k_winners,
        inputs=_inputs,
        bytes_moved=lambda arguments: 2 * arguments["x"].nbytes,
        operations=lambda arguments: 16 * arguments["x"].nbytes,  # for each bit of the threshold compare and count
        shapes=((0, 3), (7,), (2, 3, 4, 5), (3, 67), (16, 64)),
        bench_shapes=((32 * 1024, 4096),),
        compile_shape=(16, 4096),
        dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        differentiable=("x",),
        backward_bytes=lambda arguments: 2 * arguments["x"].nbytes + arguments["x"].numel() // 8,
        exact=True,
        oracle="method.k_winners, a stable sort; torch.topk and a sort in Python in the tests",
        eager=lambda x, k: torch.zeros_like(x).scatter(-1, *reversed(torch.topk(x, k))),
    ),
)
