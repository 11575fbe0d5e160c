"""Four synthetic projects with a planted fault each, and a sound one: trained, measured, and diagnosed by `diagnose`.

Images are mean digits in Gaussian noise, so that the best possible rule is known (the nearest mean) and its error stands
in for the human level.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from generator.lab.data import digits
from generator.lab.figures import FAINT, INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import error_rate, fit
from snippets.project_design import kernel, method

SEEDS = range(5)
CLASSES = 10
NOISE = 0.4
"""Standard deviation a pixel, chosen for a best possible error of about 6 %, before any model was trained."""
TRAIN, HELD_OUT = 20_000, 10_000
EPOCHS, BATCH, RATE = 8, 1000, 0.02
BOTTLENECK = 2
FEW, FEW_EPOCHS, WIDE = 200, 100, 256
OFF_BY_ONE = 0.2
SMALL_DEV, TRIES, STEP = 200, 2000, 0.1
SOUND = method.NONE
COLOR = {stage.verdict: color for stage, color in zip(method.STAGES, SERIES, strict=False)}
LABEL = {"human": "best rule", "training": "training", "train_dev": "train-dev", "dev": "dev", "test": "test"}
"""How a figure names the five errors; the best possible rule stands in for a human."""

Data = tuple[Tensor, Tensor]


class Project(NamedTuple):
    """What one seed measured of one project."""

    errors: dict[str, float]
    model: nn.Module
    train_dev: Data
    dev: Data


@functools.cache
def means() -> Tensor:
    """Return the mean image of each digit [class, pixel]."""
    x, y, _, _ = digits(held_out=0.0)
    return torch.stack([x[y == digit].mean(0) for digit in range(CLASSES)])


def draw(count: int, generator: torch.Generator, *, off_by_one: float = 0.0) -> Data:
    """Return noisy mean digits and their labels; a share of them from a camera that looks one pixel to the left."""
    y = torch.randint(CLASSES, (count,), generator=generator)
    image = means()[y].view(count, 8, 8)
    moved = torch.rand(count, generator=generator) < off_by_one
    image = torch.where(moved[:, None, None], image.roll(1, 2), image).view(count, 64)
    return image + NOISE * torch.randn(count, 64, generator=generator), y


def best_rule(data: Data) -> float:
    """Return the error of the nearest mean: with equal priors and equal noise, no rule does better."""
    x, y = data
    return (torch.cdist(x, means()).argmin(1) != y).double().mean().item()


def trained(make: Callable[[], nn.Module], data: Data, seed: int, epochs: int, batch: int) -> nn.Module:
    torch.manual_seed(seed)
    model = make()
    fit(
        model,
        *data,
        optimizer=torch.optim.Adam(model.parameters(), lr=RATE, fused=True),
        epochs=epochs,
        batch=batch,
        seed=seed,
    )
    return model


def measured(model: nn.Module, train: Data, train_dev: Data, dev: Data, test: Data) -> Project:
    sets = {"training": train, "train_dev": train_dev, "dev": dev, "test": test}
    errors = {"human": best_rule(train_dev)} | {name: error_rate(model, *data) for name, data in sets.items()}
    return Project(errors, model, train_dev, dev)


def climbed(model: nn.Module, dev: Data, test: Data, seed: int) -> tuple[nn.Module, list[tuple[float, float]]]:
    """Change the weights at random, keep what lowers the dev error; return the model, and (dev, test) error on the way."""
    generator = torch.Generator().manual_seed(seed)
    tuned = nn.Linear(64, CLASSES)
    tuned.load_state_dict(model.state_dict())
    weight, (x, y) = tuned.weight.data, dev
    scale, best, path = STEP * weight.std(), error_rate(tuned, *dev), []
    path.append((best, error_rate(tuned, *test)))
    for attempt in range(1, TRIES + 1):
        tried = weight + scale * torch.randn(weight.shape, generator=generator)
        error = ((x @ tried.T + tuned.bias.data).argmax(1) != y).double().mean().item()
        if error < best:
            weight.copy_(tried)
            best = error
        if attempt % (TRIES // 20) == 0:
            path.append((best, error_rate(tuned, *test)))
    return tuned, path


def projects(seed: int) -> tuple[dict[str, Project], list[tuple[float, float]]]:
    """Train and measure the five projects of one seed, by the fault that was planted."""
    generator = torch.Generator().manual_seed(seed)
    train = draw(TRAIN, generator)
    train_dev, dev, test = (draw(HELD_OUT, generator) for _ in range(3))
    other_dev, other_test = (draw(HELD_OUT, generator, off_by_one=OFF_BY_ONE) for _ in range(2))
    few = train[0][:FEW], train[1][:FEW]
    small = dev[0][:SMALL_DEV], dev[1][:SMALL_DEV]

    linear = trained(lambda: nn.Linear(64, CLASSES), train, seed, EPOCHS, BATCH)
    narrow = trained(
        lambda: nn.Sequential(nn.Linear(64, BOTTLENECK), nn.Tanh(), nn.Linear(BOTTLENECK, CLASSES)),
        train, seed, EPOCHS, BATCH,
    )  # fmt: skip
    wide = trained(
        lambda: nn.Sequential(nn.Linear(64, WIDE), nn.ReLU(), nn.Linear(WIDE, CLASSES)), few, seed, FEW_EPOCHS, FEW
    )
    tuned, path = climbed(linear, small, test, seed)
    return {
        "bias": measured(narrow, train, train_dev, dev, test),
        "variance": measured(wide, few, train_dev, dev, test),
        "data mismatch": measured(linear, train, train_dev, other_dev, other_test),
        "overfitted dev set": measured(tuned, train, train_dev, small, test),
        SOUND: measured(linear, train, train_dev, dev, test),
    }, path


def example(fault: str, gap: float = 0.05) -> dict[str, float]:
    """Return error rates in which one step of the flow adds a gap and no other adds anything."""
    rate, errors = 0.01, {"human": 0.01}
    for stage in method.STAGES:
        rate += gap * (stage.verdict == fault)
        errors[stage.after] = rate
    return errors


def flow(record: Any) -> None:
    """Draw the decision flow from the stages, each under the name `diagnose` gives to a gap there."""
    fig, ax = panel(height=5.6)
    ax.set(xlim=(0, 10), ylim=(-1.75, 4.5))
    ax.axis("off")
    box = {"boxstyle": "round,pad=0.35", "fill": False, "linewidth": 1.2}
    for row, name in enumerate(method.ERRORS):
        said = "human" if name == "human" else LABEL[name]
        ax.text(
            1.45, 4 - row, f"{said}\nerror", ha="center", va="center", bbox=box | {"edgecolor": INK}, linespacing=1.1
        )
    for row, stage in enumerate(method.STAGES):
        verdict = method.diagnose(example(stage.verdict))
        ax.annotate("", (1.45, 3.28 - row), (1.45, 3.72 - row), arrowprops={"arrowstyle": "->", "color": FAINT})
        ax.annotate("", (3.5, 3.5 - row), (1.75, 3.5 - row), arrowprops={"arrowstyle": "->", "color": COLOR[verdict]})
        ax.text(3.7, 3.72 - row, verdict, color=COLOR[verdict], weight="bold", va="center")
        ax.text(3.7, 3.5 - row, "\n".join(stage.cures[:3]), va="top", fontsize=8.5, linespacing=1.15)
    percent = f"{100 * method.TOLERANCE:g}"
    nothing = method.diagnose(example(method.NONE))
    ax.text(
        5, -1.15,
        f"Work on the largest of the four gaps,\nthen measure again. All within {percent} point:\n“{nothing}”; "
        "now try it in the real world.",
        ha="center", va="center", bbox=box | {"edgecolor": FAINT}, linespacing=1.2,
    )  # fmt: skip
    record.figure(
        "flow",
        fig,
        caption="The decision flow, drawn from the stages of method.py. Each arrow to the right is a gap between two "
        "neighboring errors; its name is what diagnose() answers when this gap alone is planted, and below it stand the remedies.",
        alt="A column of five boxes: human, training, train-dev, dev and test error. Between each two an arrow leads to "
        + "; ".join(f"{stage.verdict}, mended by {', '.join(stage.cures)}" for stage in method.STAGES)
        + f". A last box: work on the largest gap; all within {percent} point means none.",
    )


def verdict_map(record: Any) -> None:
    """Draw which verdict two gaps at once receive, as diagnose() answers over a grid."""
    steps = [0.006 * n for n in range(16)]
    panels = []
    for first, second in (method.STAGES[:2], method.STAGES[2:]):
        title = f"{first.verdict}, or {second.verdict}?"
        fig, ax = panel(title, f"{first.verdict} gap (points)", f"{second.verdict} gap (points)", height=3.2)
        places: dict[str, list[tuple[float, float]]] = {}
        at = method.ERRORS.index(first.after)
        for x in steps:
            for y in steps:
                errors = {name: 0.01 + x * (n >= at) + y * (n > at) for n, name in enumerate(method.ERRORS)}
                places.setdefault(method.diagnose(errors), []).append((100 * x, 100 * y))
        for verdict, points in places.items():
            color = COLOR.get(verdict, FAINT)
            ax.plot(*zip(*points, strict=True), "s", color=color, markersize=7, markeredgewidth=0, label=verdict)
        ax.grid(visible=False)
        ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.18), ncols=3, handletextpad=0.1, columnspacing=1)
        panels.append(fig)
    record.figure(
        "verdicts",
        panels,
        caption="What diagnose() answers when two neighboring gaps are open at once and the other two are closed: the larger one, "
        f"and nothing while both are at most {100 * method.TOLERANCE:g} point.",
        alt="Two grids of colored squares. Left, bias against variance; right, data mismatch against overfitted dev set. The "
        "diagonal parts the two verdicts; a small square at the origin is none.",
    )


def staircases(record: Any, runs: Mapping[str, list[Project]]) -> None:
    """Draw the five errors of each project, and what each adds to the one before."""
    panels = []
    for planted, seeds in runs.items():
        named = sum(method.diagnose(one.errors) == planted for one in seeds)
        title = "sound" if planted == SOUND else f"planted: {planted}"
        fig, ax = panel(f"{title}\n“{planted}” in {named} of {len(seeds)} seeds", "", "error (%)", height=2.2)
        mean = {name: 100 * sum(one.errors[name] for one in seeds) / len(seeds) for name in method.ERRORS}
        ax.bar(0, mean["human"], color=FAINT, width=0.7)
        for at, stage in enumerate(method.STAGES, start=1):
            before, after = mean[stage.before], mean[stage.after]
            ax.bar(at, min(before, after), color=FAINT, width=0.7)
            if after > before:
                ax.bar(at, after - before, bottom=before, color=COLOR[stage.verdict], width=0.7)
        for at, name in enumerate(method.ERRORS):
            ax.plot([at] * len(seeds), [100 * one.errors[name] for one in seeds], ".", color=INK, markersize=3.5)
        ax.set_xticks(range(len(method.ERRORS)), [LABEL[name] for name in method.ERRORS])
        ax.grid(visible=False, axis="x")
        panels.append(fig)
    record.figure(
        "staircases",
        panels,
        caption="The five errors of each project: bars are means, dots the seeds. Colored is what a step adds to the error before it: "
        "bias (blue), variance (orange), data mismatch (green), dev set overfitted (purple). The scales differ.",
        alt="Five bar charts of the errors from best rule to test. " + " ".join(
            f"{planted}: the step to {stage.after.replace('_', '-')} is planted."
            for planted in runs for stage in method.STAGES if stage.verdict == planted
        ),
    )  # fmt: skip


def climb(record: Any, paths: list[list[tuple[float, float]]]) -> None:
    """Draw how the error on a small dev set falls with the tries while that on the test set does not."""
    fig, ax = panel("Tuning by a small dev set", "random changes tried", "error (%)")
    tries = [TRIES // 20 * n for n in range(21)]
    for which, (name, color) in enumerate((("dev", COLOR["overfitted dev set"]), ("test", INK))):
        values = [[100 * point[which] for point in path] for path in paths]
        spread(ax, tries, values, color)
        ax.text(TRIES, sum(one[-1] for one in values) / len(values) + 0.35, name, color=color, ha="right", va="bottom")
    ax.set_ylim(bottom=0)
    record.figure(
        "climb",
        fig,
        caption=f"Error on a dev set of {SMALL_DEV} images and on {HELD_OUT:,} test images while weights are changed at random and "
        f"only what helps dev is kept. Lines: mean of {len(paths)} seeds; bands: all of them.",
        alt="Two curves over the number of tries: the dev error falls steeply, then levels off; the test error rises a little and stays above it.",
    )


def confusions(record: Any, seeds: list[Project]) -> None:
    """Draw where the errors lie on data like the training set's and on the dev set, and list what the mismatch adds."""
    shares, panels = [], []
    for title in ("train-dev", "dev"):
        counted = torch.zeros(CLASSES, CLASSES, dtype=torch.float64)
        for one in seeds:
            x, y = one.train_dev if title == "train-dev" else one.dev
            counted += method.confusion_matrix(y, one.model(x).argmax(1), CLASSES)
        shares.append(100 * counted / counted.sum(1, keepdim=True))
        fig, ax = panel(f"{title}: share of a digit's images (%)", "predicted", "true digit", height=3.1)
        wrong = shares[-1].masked_fill(torch.eye(CLASSES, dtype=torch.bool), float("nan"))
        image = ax.imshow(wrong.numpy(), cmap="viridis", vmin=0, vmax=10)
        ax.set(xticks=range(CLASSES), yticks=range(CLASSES))
        ax.grid(visible=False)
        fig.colorbar(image, ax=ax, extend="max")
        panels.append(fig)
    record.figure(
        "confusions",
        panels,
        caption="Confusion matrices of the mismatch project, all seeds together: on images like those of the training set, and on the dev set, "
        "where one image in five is off by a pixel. The diagonal is left out; brighter is a more frequent confusion.",
        alt="Two ten by ten heat maps, digits by predicted digits. The first is almost dark, the second has a few bright cells.",
    )
    added = (shares[1] - shares[0]).fill_diagonal_(0)
    rows = []
    for flat in added.flatten().argsort(descending=True)[:5].tolist():
        i, j = divmod(flat, CLASSES)
        rows.append({"true digit": i, "taken for": j, "train-dev (%)": round(shares[0][i, j].item(), 1), "dev (%)": round(shares[1][i, j].item(), 1)})  # fmt: skip
    record.table("added", rows, caption="The five confusions that the mismatch adds most to, all seeds together.")


def run(record: Any) -> None:
    """Draw the flow, then train, measure and diagnose the five projects of each seed."""
    flow(record)
    verdict_map(record)
    measured_all = [projects(seed) for seed in SEEDS]
    runs = {planted: [found[planted] for found, _ in measured_all] for planted in measured_all[0][0]}
    rows = []
    for planted, seeds in runs.items():
        verdicts = [method.diagnose(one.errors) for one in seeds]
        setting = f"synthetic digits, {len(seeds)} seeds"
        record.metric(f"named_{planted.replace(' ', '_')}", [int(one == planted) for one in verdicts], setting=setting)
        found = [method.gaps(one.errors) for one in seeds]
        if planted in COLOR:
            # how far the planted gap lies above the next largest, or above the tolerance
            lead = [100 * (one[planted] - max(method.TOLERANCE, *(one[other] for other in one if other != planted))) for one in found]  # fmt: skip
            record.metric(f"lead_{planted.replace(' ', '_')}", lead, unit="points", setting=setting)
        means_of = {LABEL[name]: 100 * sum(one.errors[name] for one in seeds) / len(seeds) for name in method.ERRORS}
        rows.append({"planted": planted} | {name: round(value, 1) for name, value in means_of.items()} | {"named": f"{verdicts.count(planted)} of {len(seeds)}"})  # fmt: skip
    record.metric("sound_variance", [100 * method.gaps(one.errors)["variance"] for one in runs[SOUND]], unit="points")
    record.metric(
        "standard_error", 100 * (0.06 * 0.94 / SMALL_DEV) ** 0.5, unit="points", setting="6 % error on 200 images"
    )
    record.table("projects", rows, caption=f"Mean errors (%) of the five projects over {len(SEEDS)} seeds, and how often the planted fault was named.")  # fmt: skip
    staircases(record, runs)
    climb(record, [path for _, path in measured_all])
    confusions(record, runs["data mismatch"])


def _inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> dict[str, Any]:
    """Return labels and predictions of which about four in five are right; asked for floating ones, int64."""
    count, classes = shape
    generator = torch.Generator(device).manual_seed(seed)
    kind = dtype if dtype in method.LABELS else torch.int64
    target = torch.randint(classes, (count,), generator=generator, device=device, dtype=kind)
    other = torch.randint(classes, (count,), generator=generator, device=device, dtype=kind)
    right = torch.rand(count, generator=generator, device=device) < 0.8
    return {"target": target, "predicted": torch.where(right, target, other), "classes": classes}


def _by_bincount(target: Tensor, predicted: Tensor, classes: int) -> Tensor:
    return torch.bincount(target.long() * classes + predicted, minlength=classes**2).view(classes, classes)


def _bytes(arguments: Mapping[str, Any]) -> int:
    read = sum(arguments[name].numel() * arguments[name].element_size() for name in ("target", "predicted"))
    return read + 8 * arguments["classes"] ** 2


def _kernel(name: str, **more: Any) -> Kernel:
    return Kernel(
        name=name,
        op=kernel.confusion_matrix,
        twin=method.confusion_matrix,
        inputs=_inputs,
        bytes_moved=_bytes,
        operations=lambda arguments: 3 * arguments["target"].numel(),  # a product and two sums
        exact=True,
        oracle="method.confusion_matrix; torch.bincount in the tests",
        eager=_by_bincount,
        special=(),  # labels are integers
        **more,
    )


KERNELS = (
    _kernel(
        "confusion_matrix",
        shapes=((0, 3), (1, 1), (2049, 2), (5000, 10), (4096, 22)),
        bench_shapes=((1 << 28, 10),),
        compile_shape=(8192, 10),
        dtypes=(torch.int64, torch.uint8),
    ),
    _kernel(
        "confusion_matrix_many",
        shapes=((1, 30), (5000, 23), (4096, 100)),
        bench_shapes=((1 << 28, 1000),),
        compile_shape=(8192, 1000),
        dtypes=(torch.int64,),
    ),
)
