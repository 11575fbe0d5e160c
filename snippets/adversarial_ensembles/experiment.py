"""FGSM on a small ConvNet, and what mean and max ensembles, bootstraps and adversarial training do against it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generator.lab.data import digits
from generator.lab.figures import FAINT, INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from snippets.adversarial_ensembles import kernel, method

SEEDS, MEMBERS, SIZES = 3, 50, (5, 25, 50)
EPSILON = 0.25
EPSILONS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
CHANNELS, HIDDEN, EPOCHS, BATCH, RATE = 8, 16, 4, 64, 1e-2
HARDENED = {"epochs": 8, "rate": 3e-3}
"""Adversarial training is harder: at the others' rate and length one of three networks died."""
NET = f"4×4 conv of {CHANNELS}, dense {HIDDEN}, 10; {EPOCHS} epochs"
SETTING = f"digits 8×8, {NET}, ε = {EPSILON}, {SEEDS} seeds"
POOLS = {"all": "all data", "bootstrap": "bootstraps"}
RULES = ("mean", "max")
MNIST = {("all", 5): 0.27, ("all", 25): 0.30, ("all", 50): 0.35, ("bootstrap", 5): 0.32, ("bootstrap", 25): 0.45,
         ("bootstrap", 50): 0.57}  # fmt: skip
"""The essay's max ensembles on its MNIST adversaries."""


def run(record) -> None:
    """Train everything once a seed; record what the attack does, what ensembles do, and what fresh attacks do."""
    trained = [train_seed(seed) for seed in range(SEEDS)]
    alone(record, trained)
    ensembles(record, trained)
    fresh(record, trained)
    hardened(record, trained)
    feature_space(record, trained)


def train_seed(seed: int) -> dict:
    """Return the seed's data and its 101 models: the attacked baseline, 50 on all data, 50 on bootstraps."""
    x, y, test, labels = digits(seed)
    generator = torch.Generator().manual_seed(seed)
    every = torch.arange(len(x)).expand(1 + MEMBERS, -1)
    drawn = torch.randint(len(x), (MEMBERS, len(x)), generator=generator)  # as many as there are, with replacement
    pool = Pool(1 + 2 * MEMBERS, generator)
    train(pool, x[None], y[None], torch.cat([every, drawn]), generator)
    pool.requires_grad_(False)
    gradient = slope(lambda x: F.cross_entropy(pool(patch(x))[0], labels, reduction="sum"), test)
    attacked = torch.stack([method.fgsm_step(test, gradient, epsilon) for epsilon in EPSILONS])
    logits = torch.stack([pool(patch(one)) for one in attacked])  # [ε, model, image, class]
    return {"x": x, "y": y, "test": test, "labels": labels, "pool": pool, "gradient": gradient, "attacked": attacked,
            "logits": logits, "adversaries": attacked[EPSILONS.index(EPSILON)]}  # fmt: skip


def members(name: str) -> slice:
    return slice(1, 1 + MEMBERS) if name == "all" else slice(1 + MEMBERS, None)


def alone(record, trained: list[dict]) -> None:
    """The attacked baseline, and single models on its adversaries."""
    at = EPSILONS.index(EPSILON)
    right = torch.tensor(
        [[[accuracy(one.argmax(1), t["labels"]) for one in logits] for logits in t["logits"]] for t in trained]
    )  # [seed, ε, model]
    record.metric("baseline_clean", right[:, 0, 0], setting=SETTING)
    record.metric("baseline_attacked", right[:, at, 0], setting=SETTING)
    for name, words in POOLS.items():
        record.metric(f"single_mean_{name}", right[:, at, members(name)].mean(1), setting=f"{words}, {SETTING}")
        record.metric(f"single_best_{name}", right[:, at, members(name)].amax(1), setting=f"{words}, {SETTING}")
    record.metric("noise", [accuracy(noisy(t), t["labels"]) for t in trained], setting=f"random signs, {SETTING}")
    panels = []
    for title, images, logits in (
        ("clean", trained[0]["test"], trained[0]["logits"][0, 0]),
        (f"after one step of ε = {EPSILON}", trained[0]["adversaries"], trained[0]["logits"][at, 0]),
    ):
        fig, axis = panel(title, height=2.1)
        tiles = images[:10].view(2, 5, 8, 8).permute(0, 2, 1, 3).reshape(16, 40)
        axis.imshow(tiles, cmap="viridis", vmin=0, vmax=1, extent=(0, 40, 16, 0))
        for line in range(8, 40, 8):
            axis.plot((line, line), (0, 16), color=FAINT, lw=0.8)
        axis.plot((0, 40), (8, 8), color=FAINT, lw=0.8)
        axis.spines[:].set_visible(False)
        for number, said in enumerate(logits[:10].argmax(1).tolist()):
            axis.text(8 * (number % 5) + 4, -1 if number < 5 else 18, said, ha="center", va="center", color=INK)
        axis.set(xticks=(), yticks=(), ylim=(19, -2))
        panels.append(fig)
    record.figure(
        "adversaries",
        panels,
        caption="Ten held-out digits before and after the step, and what the attacked network reads in each: the numbers above "
        "belong to the upper row, those below to the lower. First seed.",
        alt="Two grids of ten 8 by 8 digits. On the left clean; on the right the same digits with every pixel moved up or "
        "down: still mostly legible, under other predicted numbers.",
    )


def noisy(t: dict) -> Tensor:
    """Return the baseline's predictions where each pixel moves by ε up or down at random."""
    generator = torch.Generator().manual_seed(11)
    signs = torch.randn(t["test"].shape, generator=generator)
    return t["pool"](patch(method.fgsm_step(t["test"], signs, EPSILON)))[0].argmax(1)


def ensembles(record, trained: list[dict]) -> None:
    """Mean against max, all data against bootstraps, by the number of members, on the baseline's adversaries."""
    at = EPSILONS.index(EPSILON)
    got: dict[tuple, list[float]] = {}
    rows = []
    for name, words in POOLS.items():
        for size in SIZES:
            for rule in RULES:
                got[name, size, rule] = [
                    ensemble_accuracy(t["logits"][at, members(name)], t["labels"], rule, size) for t in trained
                ]
                setting = f"{rule} of {size}, {words}, {SETTING}"
                record.metric(f"{rule}_{size}_{name}", got[name, size, rule], setting=setting)
            rows.append({"trained on": words, "members": size, "mean": average(got[name, size, "mean"]),
                         "max": average(got[name, size, "max"]),
                         "max, essay's MNIST": MNIST[name, size]})  # fmt: skip
        best = [max(accuracy(one.argmax(1), t["labels"]) for one in t["logits"][at, members(name)]) for t in trained]
        record_difference(
            record, f"mean_gain_{name}", got[name, 50, "mean"], best, f"mean of 50 less the best of the 50, {words}"
        )
        for metric, other, said in (("max_gain", (50, "mean"), "mean of 50"), ("growth", (5, "max"), "max of 5")):
            record_difference(
                record, f"{metric}_{name}", got[name, 50, "max"], got[name, *other], f"max of 50 less {said}, {words}"
            )
    boot, every = got["bootstrap", 50, "max"], got["all", 50, "max"]
    record_difference(record, "bootstrap_gain", boot, every, "max of 50, bootstraps less all data")
    joined = []
    for t in trained:
        own = t["logits"][at, members("bootstrap")]
        joined.append(accuracy(predict(torch.cat([own, t["logits"][at, :1]]), "max"), t["labels"]))
    record_difference(record, "baseline_cost", boot, joined, "max of 50 less max of 50 and the baseline, bootstraps")
    caption = f"Accuracy on adversaries made for another network. {SETTING}, mean; each pool of 50 is cut into disjoint ensembles."
    record.table("ensembles", rows, caption=caption)
    by_size(record, got)
    by_epsilon(record, trained)


def record_difference(record, name: str, first: list[float], second: list[float], what: str) -> None:
    record.metric(name, [a - b for a, b in zip(first, second, strict=True)], setting=f"{what}; {SETTING}")


def average(values: list[float]) -> float:
    return round(sum(values) / len(values), 3)


def by_size(record, got: dict) -> None:
    panels = []
    for name, words in POOLS.items():
        fig, axis = panel(words, "members", "accuracy")
        for number, rule in enumerate(("max", "mean")):
            runs = torch.tensor([got[name, size, rule] for size in SIZES]).T
            spread(axis, SIZES, runs, SERIES[number], label=rule, marker="o", ms=4)
        axis.plot(SIZES, [MNIST[name, size] for size in SIZES], color=INK, ls="--", lw=1.2, label="max, essay's MNIST")
        axis.axhline(0.1, color=FAINT, lw=0.8)
        axis.set(ylim=(0, 0.75), xticks=SIZES)
        axis.legend(loc="upper left", ncols=2)
        panels.append(fig)
    record.figure(
        "by-size",
        panels,
        caption=f"Max and mean ensembles on the baseline's adversaries, by the number of members: mean and range of {SEEDS} "
        "seeds. The dashed line is what the essay reports on MNIST; the thin gray line is chance.",
        alt="Two panels of accuracy against 5, 25 and 50 members, trained on all data and on bootstraps. In each a curve for "
        "max, one for mean, and the essay's dashed curve.",
    )


def by_epsilon(record, trained: list[dict]) -> None:
    fig, axis = panel("adversaries made for the baseline", "ε", "accuracy", height=3.1)
    curves = {"the baseline": [[accuracy(one[0].argmax(1), t["labels"]) for one in t["logits"]] for t in trained]}
    spread(axis, EPSILONS, curves["the baseline"], INK, label="the baseline")
    for number, (name, words) in enumerate(POOLS.items()):
        for rule, style in (("max", "-"), ("mean", "--")):
            runs = [[accuracy(predict(one[members(name)], rule), t["labels"]) for one in t["logits"]] for t in trained]
            spread(axis, EPSILONS, runs, SERIES[number], label=f"{rule} of 50, {words}", ls=style)
            curves[f"{rule} of 50, {words}"] = runs
    rows = [
        {"ε": epsilon, **{name: average([run[at] for run in runs]) for name, runs in curves.items()}}
        for at, epsilon in enumerate(EPSILONS)
    ]
    record.table(
        "by-epsilon",
        rows,
        caption=f"Accuracy by the size of the step. {SETTING.replace(f' ε = {EPSILON},', '')}, mean.",
    )
    axis.axhline(0.1, color=FAINT, lw=0.8)
    axis.set_ylim(0, 1)
    axis.legend(loc="lower left", fontsize=7.5)
    right, lead = panel("what max gains over mean", "ε", "difference of accuracies", height=3.1)
    for number, words in enumerate(POOLS.values()):
        gain = torch.tensor(curves[f"max of 50, {words}"]) - torch.tensor(curves[f"mean of 50, {words}"])
        spread(lead, EPSILONS, gain, SERIES[number], label=words)
    lead.axhline(0, color=INK, lw=0.6)
    lead.legend(loc="upper left")
    record.figure(
        "by-epsilon",
        [fig, right],
        caption=f"Left: accuracy by the size of the step, mean and range of {SEEDS} seeds; the gray line is chance. Right: the "
        "difference between the two rules, for the same ensembles of 50.",
        alt="Left: accuracy falls with ε for five curves, the baseline's first, then those of four ensembles of 50, which lie on "
        "each other. Right: max less mean against ε, for both pools.",
    )


def fresh(record, trained: list[dict]) -> None:
    """Attack the ensembles of 50 themselves, and compare with adversaries made for another network."""
    rows = []
    for name, words in POOLS.items():
        attacked = [attack_ensemble(t, name) for t in trained]
        for rule in RULES:
            own, other = ([one[rule, attack] for one in attacked] for attack in (rule, "mean"))
            record.metric(f"fresh_{rule}_{name}", own, setting=f"{rule} of 50 under its own FGSM, {words}, {SETTING}")
            transferred = record.metrics[f"{rule}_50_{name}"]["value"]
            rows.append({"ensemble of 50": f"{rule}, {words}", "another network's": round(transferred, 3),
                         "its own": average(own), "those of the mean": average(other)})  # fmt: skip
        record.metric(f"fresh_max_by_mean_{name}", other, setting=f"max of 50, FGSM on the mean, {words}, {SETTING}")
    record.table(
        "fresh",
        rows,
        caption=f"Accuracy of the same ensembles, by whom the adversaries were made for. {SETTING}, mean.",
    )
    harder, baseline = (record.metrics[name]["seeds"] for name in ("fresh_max_by_mean_bootstrap", "baseline_attacked"))
    record_difference(
        record,
        "fresh_gain",
        harder,
        baseline,
        "max of 50 bootstraps, FGSM on the mean, less the baseline under its own",
    )


def attack_ensemble(t: dict, name: str) -> dict[tuple[str, str], float]:
    """Return each rule's accuracy under FGSM on each rule's loss, by (rule, attacked rule)."""
    pool, found = t["pool"].part(members(name)), {}
    for attack in RULES:
        gradient = slope(lambda x, attack=attack: own_loss(pool(patch(x)), t["labels"], attack), t["test"])
        logits = pool(patch(method.fgsm_step(t["test"], gradient, EPSILON)))
        found |= {(rule, attack): accuracy(predict(logits, rule), t["labels"]) for rule in RULES}
    return found


def hardened(record, trained: list[dict]) -> None:
    """Train with FGSM in the loop; test on clean digits, the old adversaries, and adversaries made for the new network."""
    generator = torch.Generator().manual_seed(99)
    pool = Pool(SEEDS, generator)
    x, y, labels = (torch.stack([t[key] for t in trained]) for key in ("x", "y", "labels"))
    every = torch.arange(x.shape[1]).expand(SEEDS, -1)
    train(pool, x, y, every, generator, **HARDENED, epsilon=EPSILON)
    pool.requires_grad_(False)
    test = torch.stack([t["test"] for t in trained])
    own = method.fgsm_step(test, slope(lambda x: loss(pool(patch(x)), labels), test), EPSILON)
    steps = test  # ten smaller steps that never leave the same ε-box: stronger than one
    for _ in range(10):
        gradient = slope(lambda x: loss(pool(patch(x)), labels), steps)
        steps = method.fgsm_step(steps, gradient, EPSILON / 4).clamp(test - EPSILON, test + EPSILON)
    old = torch.stack([t["adversaries"] for t in trained])
    rows, setting = [], f"adversarially trained for {HARDENED['epochs']} epochs; {SETTING}"
    for name, words, images, mnist in (
        ("clean", "clean digits", test, "0.98"),
        ("old", "the baseline's adversaries", old, "0.91"),
        ("own", "its own adversaries", own, "0.71"),
        ("steps", "its own, ten steps in the same box", steps, "not reported"),
    ):
        predictions = pool(patch(images)).argmax(2)
        values = [accuracy(one, truth) for one, truth in zip(predictions, labels, strict=True)]
        record.metric(f"hardened_{name}", values, setting=setting)
        rows.append({"tested on": words, "accuracy": average(values), "essay's MNIST": mnist})
    record.table(
        "hardened",
        rows,
        caption=f"One network trained on clean and adversarial digits by halves, for {HARDENED['epochs']} epochs. Otherwise: {SETTING}, mean.",
    )


def feature_space(record, trained: list[dict]) -> None:
    """Where adversaries lie in the last hidden layer: distances for every seed, a t-SNE map of the first."""
    ratios = []
    for t in trained:
        known, clean, moved = (t["pool"].features(patch(t[key]))[0] for key in ("x", "test", "adversaries"))
        ratios.append((torch.cdist(moved, known).amin(1).mean() / torch.cdist(clean, known).amin(1).mean()).item())
    record.metric(
        "distance_ratio",
        ratios,
        setting=f"distance to the nearest training digit, over that of clean digits; {SETTING}",
    )
    from sklearn.manifold import TSNE

    count = 100
    both = torch.cat([one[:count] for one in features_of(trained[0])]).double().numpy()
    spots = TSNE(init="pca", perplexity=20, random_state=0, method="exact", max_iter=300).fit_transform(both)
    panels = []
    labels = trained[0]["labels"][:count].numpy()
    for title, at, other in (
        ("clean digits", slice(count), slice(count, None)),
        ("their adversaries", slice(count, None), slice(count)),
    ):
        fig, axis = panel(title, "t-SNE 1", "t-SNE 2", height=3.2)
        axis.scatter(*spots[other].T, s=3, color=FAINT, alpha=0.5)
        for digit in range(10):
            those = spots[at][labels == digit]
            color = [*SERIES, INK, FAINT][digit]
            axis.scatter(*those.T, s=22, color=color, marker=f"${digit}$", lw=0)
        axis.set(xticks=(), yticks=())
        panels.append(fig)
    record.figure(
        "tsne",
        panels,
        caption=f"One t-SNE map of the baseline's last hidden layer for {count} clean digits and their adversaries; each is "
        "drawn by its true label, and the other half as gray dots. First seed. Distances on such a map mean little.",
        alt="The same map twice. Left: clean digits, drawn as their labels, in clusters of one label each. Right: "
        "the adversaries of the same digits, drawn as true labels.",
    )


def features_of(t: dict) -> list[Tensor]:
    return [t["pool"].features(patch(t[key]))[0] for key in ("test", "adversaries")]


class Pool(nn.Module):
    """Many small ConvNets side by side: [model, batch, pixel] → [model, batch, class], every layer one batched product."""

    def __init__(self, models: int, generator: torch.Generator) -> None:
        super().__init__()
        for name, shape in (("conv", (16, CHANNELS)), ("dense", (9 * CHANNELS, HIDDEN)), ("out", (HIDDEN, 10))):
            for part, size in (("weight", shape), ("bias", (1, shape[1]))):
                drawn = torch.rand(models, *size, generator=generator)
                setattr(self, f"{name}_{part}", nn.Parameter((2 * drawn - 1) / shape[0] ** 0.5))

    def part(self, which: slice) -> Pool:
        """Return some of the models, frozen, as a pool of their own."""
        some = copy.copy(self)
        some._parameters = {
            name: nn.Parameter(one.detach()[which], requires_grad=False) for name, one in self._parameters.items()
        }
        return some

    def features(self, patches: Tensor) -> Tensor:
        """Return the last hidden layer; patches are [batch, 9 · 16] for all models, or have a batch for each."""
        models, batch = len(self.conv_weight), patches.shape[-2]
        patches = patches.reshape(-1, batch * 9, 16).expand(models, -1, -1)
        conv = torch.baddbmm(self.conv_bias, patches, self.conv_weight).relu()
        return torch.baddbmm(self.dense_bias, conv.view(models, batch, -1), self.dense_weight).relu()

    def forward(self, patches: Tensor) -> Tensor:
        return torch.baddbmm(self.out_bias, self.features(patches), self.out_weight)


def patch(x: Tensor) -> Tensor:
    """Return what the convolution sees of each image: 9 places, two pixels apart, of 4 × 4 pixels each."""
    seen = F.unfold(x.reshape(-1, 1, 8, 8), 4, stride=2).transpose(1, 2)
    return seen.reshape(*x.shape[:-1], 9 * 16)


def train(
    pool: Pool,
    x: Tensor,
    y: Tensor,
    sample: Tensor,
    generator: torch.Generator,
    *,
    epochs: int = EPOCHS,
    rate: float = RATE,
    epsilon: float = 0.0,
) -> None:
    """Train each model on its row of `sample`, in its own order; with ε, half the loss is that of fresh adversaries.

    x [split, image, pixel] and y [split, image] hold one split for all models, or one for each.
    """
    optimizer = torch.optim.Adam(pool.parameters(), lr=rate, fused=True)
    models, count = sample.shape
    split = torch.arange(models)[:, None] if len(x) > 1 else 0
    patches = patch(x)
    for _ in range(epochs):
        order = sample.gather(1, torch.stack([torch.randperm(count, generator=generator) for _ in range(models)]))
        for at in range(0, count - BATCH + 1, BATCH):
            index = order[:, at : at + BATCH]
            seen, labels = patches[split, index], y[split, index]
            total = loss(pool(seen), labels)
            if epsilon:
                images = x[split, index]
                gradient = slope(lambda x, labels=labels: loss(pool(patch(x)), labels), images)
                adversaries = method.fgsm_step(images, gradient, epsilon)
                total = (total + loss(pool(patch(adversaries)), labels)) / 2
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum over models of the mean cross-entropy, so that each model has the gradient it would have alone."""
    return F.cross_entropy(logits.flatten(0, 1), labels.expand(logits.shape[:2]).flatten(), reduction="sum") / BATCH


def slope(objective, x: Tensor) -> Tensor:
    """Return the gradient of the objective at x."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(objective(x), x)[0]


def predict(logits: Tensor, rule: str) -> Tensor:
    """Return an ensemble's predictions: by the mean of its members' probabilities, or by the most confident member."""
    return logits.softmax(2).mean(0).argmax(1) if rule == "mean" else method.max_confidence(logits)


def own_loss(logits: Tensor, labels: Tensor, rule: str) -> Tensor:
    """Return what an attack on the whole ensemble climbs: the loss of the mean, or of the most confident member."""
    log = logits.log_softmax(2)
    if rule == "mean":
        return F.nll_loss(log.logsumexp(0), labels, reduction="sum")
    boldest = log.amax(2).argmax(0)
    return F.nll_loss(log[boldest, torch.arange(len(labels))], labels, reduction="sum")


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    return (predictions == labels).double().mean().item()


def ensemble_accuracy(logits: Tensor, labels: Tensor, rule: str, size: int) -> float:
    """Return the mean accuracy of the pool's disjoint ensembles of that size."""
    groups = logits.split(size)
    return sum(accuracy(predict(group, rule), labels) for group in groups) / len(groups)


def _step_inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.rand(shape, dtype=torch.float32, device=device, generator=generator).to(dtype)
    gradient = torch.randn(shape, dtype=torch.float32, device=device, generator=generator).to(dtype)
    return {"x": x, "gradient": gradient, "epsilon": EPSILON}


def _logits(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    return {"logits": torch.randn(shape, dtype=torch.float32, device=device, generator=generator).mul_(3).to(dtype)}


def _by_softmax(logits: Tensor) -> Tensor:
    """What one would write in torch: all probabilities, in the logits' own precision."""
    confidence, winner = logits.softmax(2).max(2)
    return winner.gather(0, confidence.argmax(0)[None])[0]


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
KERNELS = (
    Kernel(
        name="fgsm_step",
        op=kernel.fgsm_step,
        twin=method.fgsm_step,
        inputs=_step_inputs,
        bytes_moved=lambda arguments: 3 * arguments["x"].numel() * arguments["x"].element_size(),
        operations=lambda arguments: 5 * arguments["x"].numel(),  # two for the sign, the sum, two for the clamp
        dtypes=DTYPES,
        oracle="method.fgsm_step in float64",
    ),
    Kernel(
        name="max_confidence",
        op=kernel.max_confidence,
        twin=method.max_confidence,
        inputs=_logits,
        bytes_moved=lambda arguments: (
            arguments["logits"].numel() * arguments["logits"].element_size() + 8 * arguments["logits"].shape[1]
        ),
        operations=lambda arguments: 4 * arguments["logits"].numel(),  # largest, difference, exp, sum
        shapes=((2, 0, 3), (1, 1, 1), (5, 130, 10), (3, 5, 1000), (2, 3, 2049), (2, 2, 4100)),
        bench_shapes=((50, 262144, 10), (10, 16384, 1000), (4, 1024, 50304)),
        compile_shape=(4, 64, 1000),
        dtypes=DTYPES,
        exact=True,
        oracle="method.max_confidence, torch's softmax in float64",
        eager=_by_softmax,
    ),
)
