"""Portraits drawn with a known quality, a scorer that learns it from ratings, and what the score has taken over from its raters."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generator.lab.figures import FAINT, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import fit
from snippets.selfai import kernel, method

SIDE, TRAIN, TEST, SEEDS = 32, 1500, 500, 3
MORE = 3
"""Times as many portraits, and as many steps of training, for the scorer that shows what training is worth."""
EPOCHS, BATCH, RATE = 12, 50, 2e-3
REDRAWN = 100
FACTORS = ("sharpness", "exposure", "framing", "symmetry")
WEIGHTS = torch.tensor([0.3, 0.3, 0.2, 0.2])
"""Quality is 1 less these times the four defects, each uniform in 0..1."""
BLUR, STOPS, OFFSET, TILT = 2.0, 1.5, 8.0, 25.0
"""What a defect of 1 is: pixels of blur (σ), stops of exposure, pixels off the middle, degrees of tilt."""
DISAGREEMENT, GRAIN = 0.05, 0.02
"""Standard deviation of the noise on a rating, and on a pixel."""
TASTE = 0.3
"""What the second group of raters adds per unit of background brightness."""
SETTING = f"{TRAIN} drawn portraits of {SIDE} × {SIDE} for training, {TEST} held out, {SEEDS} seeds"


@dataclass
class Sitting:
    """What a batch of portraits is drawn from: the four defects [batch, 4], and what no rating should depend on."""

    defects: Tensor
    over: Tensor
    """+1 for an exposure that is too long, −1 for one too short."""
    direction: Tensor
    """Where the face is off to, in radians."""
    left: Tensor
    """+1 or −1, the side the head is tilted to."""
    background: Tensor
    skin: Tensor
    hair: Tensor
    breadth: Tensor
    smile: Tensor
    grain: Tensor

    @property
    def quality(self) -> Tensor:
        """Return the quality that is known because it was fixed: 1 − Σ wᵢ dᵢ."""
        return 1 - self.defects @ WEIGHTS


def sit(count: int, generator: torch.Generator) -> Sitting:
    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    def sign() -> Tensor:
        return between(-1, 1).sign()

    return Sitting(
        defects=torch.rand(count, 4, generator=generator), over=sign(), direction=between(0, 2 * torch.pi), left=sign(),
        background=between(0.2, 0.8), skin=between(0.3, 0.9), hair=between(0.05, 0.6), breadth=between(0.85, 1.15),
        smile=between(-0.1, 0.25), grain=GRAIN * torch.randn(count, SIDE, SIDE, generator=generator),
    )  # fmt: skip


def draw(sitting: Sitting, at_once: int = 50) -> Tensor:
    """Return the portraits [batch, SIDE, SIDE], some at a time, so that they stay in the cache."""
    parts = zip(*(getattr(sitting, one.name).split(at_once) for one in fields(sitting)), strict=True)
    return torch.cat([paint_portraits(Sitting(*part)) for part in parts])


def paint_portraits(s: Sitting) -> Tensor:
    """Return the portraits [batch, SIDE, SIDE] in 0..1: painted back to front, then blurred, exposed, and grainy."""
    blur, exposure, framing, tilt = s.defects.T
    axis = torch.arange(SIDE) - (SIDE - 1) / 2

    def each(values: Tensor) -> Tensor:
        return values[:, None, None]

    x0 = axis[None, None, :] - each(OFFSET * framing * s.direction.cos())
    y0 = axis[None, :, None] - each(OFFSET * framing * s.direction.sin())
    angle = each(s.left * tilt * TILT * torch.pi / 180)
    x, y = x0 * angle.cos() + y0 * angle.sin(), y0 * angle.cos() - x0 * angle.sin()

    def ellipse(x: Tensor, y: Tensor, across: float | Tensor, down: float) -> Tensor:
        """Return how much of a pixel lies inside: from 0 to 1 over about a pixel's width."""
        squared = (x / across).square() + (y / down).square()
        return squared.sub_(1).mul_(-down / 2).add_(0.5).clamp_(0, 1)

    def paint(canvas: Tensor, where: Tensor, shade: Tensor | float) -> Tensor:
        return torch.lerp(canvas, torch.as_tensor(shade, dtype=canvas.dtype).expand_as(where), where)

    breadth, skin, hair = each(s.breadth), each(s.skin), each(s.hair)
    canvas = each(s.background).expand(-1, SIDE, SIDE)
    canvas = paint(canvas, ellipse(x0, y0 - 17, 12.0, 8), 0.5 * hair + 0.2)  # shoulders stay level
    canvas = paint(canvas, ellipse(x, y + 2, 7.5 * breadth, 9.5), hair)
    canvas = paint(canvas, ellipse(x, y - 0.5, 6 * breadth, 7.5), skin)
    for side in (-1, 1):
        canvas = paint(canvas, ellipse(x - 2.5 * side * breadth, y + 1.5, 1.2, 0.9), 0.05)
    canvas = paint(canvas, ellipse(x, y - 1.2, 0.6, 1.5), 0.75 * skin)
    canvas = paint(canvas, ellipse(x, y - 4.3 + each(s.smile) * x**2, 2.6, 0.8), 0.35 * skin)
    spreading = torch.exp(-0.5 * ((axis[:, None] - axis[None, :]) / each(BLUR * blur).clamp_min(1e-3)) ** 2)
    spreading = spreading / spreading.sum(2, keepdim=True)
    return (spreading @ canvas @ spreading.mT * each(2 ** (STOPS * exposure * s.over)) + s.grain).clamp(0, 1)


class Scorer(nn.Module):
    """A 4 × 4 convolution of stride 4, written as a product over patches, and two linear layers: an image to one number."""

    def __init__(self, patch: int = 4, channels: int = 24, hidden: int = 48) -> None:
        super().__init__()
        self.patch = patch
        self.filters = nn.Linear(patch**2, channels)
        self.hidden = nn.Linear(channels * (SIDE // patch) ** 2, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, images: Tensor) -> Tensor:
        patches = (images - 0.5).unfold(1, self.patch, self.patch).unfold(2, self.patch, self.patch)
        maps = self.filters(patches.flatten(3).flatten(1, 2)).relu()
        return self.score(self.hidden(maps.flatten(1)).relu())[:, 0]


def train(images: Tensor, ratings: Tensor, seed: int) -> Scorer:
    torch.manual_seed(seed)
    scorer = Scorer()
    optimizer = torch.optim.Adam(scorer.parameters(), lr=RATE, fused=True)
    fit(scorer, images, ratings, optimizer=optimizer, epochs=EPOCHS, batch=BATCH, seed=seed, objective=F.mse_loss)
    return scorer.eval().requires_grad_(False)


def spearman(a: Tensor, b: Tensor) -> float:
    """Return the correlation of ranks; equal values share their mean rank."""
    return torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1].item()


def ranks(values: Tensor) -> Tensor:
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count - 1) / 2).double()[place]


@dataclass
class Run:
    """All that one seed made."""

    held_out: Sitting
    images: Tensor
    ratings: Tensor
    fair: Scorer
    longer: Scorer
    tasteful: Scorer
    by_statistics: dict[str, Tensor]


def one_seed(seed: int) -> Run:
    generator = torch.Generator().manual_seed(seed)
    sitting, held_out = sit(TRAIN, generator), sit(TEST, generator)
    images, unseen = draw(sitting), draw(held_out)
    noise = DISAGREEMENT * torch.randn(TRAIN + TEST, generator=generator)
    ratings = sitting.quality + noise[:TRAIN]
    more = sit(TRAIN * (MORE - 1), generator)
    extra = more.quality + DISAGREEMENT * torch.randn(len(more.quality), generator=generator)
    by_statistics = {}
    for name, features in (("linear", describe), ("squares and products", lambda one: products(describe(one)))):
        solution = torch.linalg.lstsq(features(images), ratings.double()).solution
        by_statistics[name] = features(unseen) @ solution
    return Run(
        held_out,
        unseen,
        held_out.quality + noise[TRAIN:],
        fair=train(images, ratings, seed),
        longer=train(torch.cat([images, draw(more)]), torch.cat([ratings, extra]), seed),
        tasteful=train(images, ratings + TASTE * (sitting.background - 0.5), seed),
        by_statistics=by_statistics,
    )


def describe(images: Tensor) -> Tensor:
    """Return 1, the root of the sharpness, mean and contrast, [batch, 4]; no logarithm: a burnt-out image has sharpness 0."""
    sharpness, mean, contrast = method.image_statistics(images.double())
    return torch.stack([torch.ones_like(mean), sharpness.sqrt(), mean, contrast], dim=1)


def products(features: Tensor) -> Tensor:
    """Return all products of two features, each once; the first is 1, so the features themselves are among them."""
    i, j = torch.triu_indices(features.shape[1], features.shape[1])
    return features[:, i] * features[:, j]


def run(record) -> None:
    """Record how well the score ranks, the ranked strip, what each factor does, and what a second group's taste does."""
    runs = [one_seed(seed) for seed in range(SEEDS)]
    ranking(record, runs)
    strip(record, runs[0])
    statistics(record, runs)
    dependence(record, runs)
    taste(record, runs)


def ranking(record, runs: list[Run]) -> None:
    predictors = {
        "three statistics, linear": ("spearman_linear", lambda r: r.by_statistics["linear"]),
        "three statistics, squares and products": ("spearman_squares", lambda r: r.by_statistics["squares and products"]),
        "patch scorer": ("spearman", lambda r: r.fair(r.images)),
        f"patch scorer, {MORE} times the portraits": ("spearman_longer", lambda r: r.longer(r.images)),
        "one rating, with its noise": ("spearman_rating", lambda r: r.ratings),
    }  # fmt: skip
    rows = []
    for name, (metric, predict) in predictors.items():
        values = [spearman(predict(one), one.held_out.quality) for one in runs]
        record.metric(metric, values, setting=f"{name}; {SETTING}")
        rows.append({"ranked by": name, "mean": round(sum(values) / SEEDS, 3), "lowest seed": round(min(values), 3)})
    record.table("ranking", rows, caption=f"Spearman correlation with the known quality. {SETTING}.")


def strip(record, one: Run) -> None:
    """Show twelve held-out portraits, evenly spaced in rank, best first."""
    score = one.fair(one.images)
    shown = score.argsort(descending=True)[torch.linspace(0, TEST - 1, 12).round().long()]
    panels = []
    for half, title in enumerate(("the better half", "the worse half")):
        fig, ax = panel(title, height=2.7)
        for n, index in enumerate(shown[6 * half : 6 * half + 6].tolist()):
            column, row = n % 3 * 36, n // 3 * 44
            box = (column, column + SIDE, row + SIDE, row)
            ax.imshow(one.images[index], cmap="cividis", vmin=0, vmax=1, extent=box, interpolation="nearest")
            text = f"{score[index]:.2f} ({one.held_out.quality[index]:.2f})"
            ax.text(column + SIDE / 2, row + SIDE + 7, text, ha="center", fontsize=8.5)
        ax.set(xlim=(-1, 2 * 36 + SIDE + 1), ylim=(44 + SIDE + 9, -1))
        ax.axis("off")
        panels.append(fig)
    record.figure(
        "strip",
        panels,
        caption="Twelve held-out portraits, best to worst by the scorer, evenly spaced in rank. Below each its score, and in "
        "brackets its known quality. First seed.",
        alt="Two panels of six small drawn portraits each. They begin sharp, well lit, central and upright; towards the end they are blurred, "
        "too dark or too bright, off the middle and tilted.",
    )


def statistics(record, runs: list[Run]) -> None:
    """Correlate each statistic with each defect: what three numbers can and cannot see."""
    rows = []
    for number, name in enumerate(("sharpness", "mean", "contrast"), start=1):
        row: dict[str, str | float] = {"statistic": name}
        for factor, what in enumerate(("blur", "exposure", "off-center", "tilt")):
            values = [spearman(describe(r.images)[:, number], r.held_out.defects[:, factor]) for r in runs]
            row[what] = round(sum(values) / SEEDS, 2)
        rows.append(row)
    record.table(
        "statistics",
        rows,
        caption=f"Spearman correlation of each statistic with the size of each defect. {TEST} held-out portraits, mean of {SEEDS} seeds.",
    )


def first(sitting: Sitting) -> Sitting:
    return Sitting(*(getattr(sitting, one.name)[:REDRAWN] for one in fields(sitting)))


def dependence(record, runs: list[Run]) -> None:
    """Vary one defect with the others at 0, over the held-out sitters."""
    grid = torch.linspace(0, 1, 6)
    curves = torch.empty(len(runs), 4, len(grid))
    for r, one in enumerate(runs):
        for factor in range(4):
            for n, value in enumerate(grid):
                defects = torch.zeros(REDRAWN, 4)
                defects[:, factor] = value
                curves[r, factor, n] = one.fair(draw(replace(first(one.held_out), defects=defects))).mean()
    panels = []
    units = (
        f"blur σ, of {BLUR:g} px",
        f"exposure error, of {STOPS:g} stops",
        f"offset, of {OFFSET:g} px",
        f"tilt, of {TILT:g}°",
    )
    for factor, name in enumerate(FACTORS):
        fig, ax = panel(name, f"defect: {units[factor]}", "mean score", height=2.4)
        ax.plot(grid, 1 - WEIGHTS[factor] * grid, color=FAINT, ls="--", lw=1.2)
        spread(ax, grid, curves[:, factor], SERIES[0])
        ax.set_ylim(0.45, 1.05)
        if factor == 0:
            ax.text(0.98, 0.93, "known quality", color=FAINT, ha="right", transform=ax.transAxes)
            ax.text(0.03, 0.06, "scorer", color=SERIES[0], transform=ax.transAxes)
        panels.append(fig)
        drop = [(c[factor, 0] - c[factor, -1]).item() for c in curves]
        record.metric(f"drop_{name}", drop, setting=f"defect from 0 to 1, others 0; {SETTING}")
    record.figure(
        "dependence",
        panels,
        caption=f"What each factor does to the score: one defect grows, the other three are 0. Mean over {REDRAWN} held-out sitters; the "
        f"band spans {SEEDS} seeds. Dashed: the quality that was fixed beforehand.",
        alt="Four panels, one a factor. In each the mean score falls as the defect grows, beside a dashed straight line.",
    )


def taste(record, runs: list[Run]) -> None:
    """Redraw the held-out portraits before other backgrounds; nothing that quality depends on changes."""
    grid = torch.linspace(0.2, 0.8, 4)
    curves = torch.empty(2, len(runs), len(grid))
    for r, one in enumerate(runs):
        for n, value in enumerate(grid):
            images = draw(replace(first(one.held_out), background=torch.full((REDRAWN,), value.item())))
            curves[0, r, n], curves[1, r, n] = one.fair(images).mean(), one.tasteful(images).mean()
    fig, ax = panel("the same sitters redrawn", "brightness of the background", "mean score")
    names = ("raters who ignore it", "raters who prefer it bright")
    for group, key in enumerate(("shift_fair", "shift_tasteful")):
        spread(ax, grid, curves[group], SERIES[group])
        change = (curves[group, :, -1] - curves[group, :, 0]).tolist()
        record.metric(key, change, setting=f"background from 0.2 to 0.8; {SETTING}")
    ax.text(0.2, curves[0, :, :2].max() + 0.01, names[0], color=SERIES[0], va="bottom")
    ax.text(0.97, 0.08, names[1], color=SERIES[1], ha="right", transform=ax.transAxes)
    record.metric("shift_of_the_raters", TASTE * 0.6, setting="what the second group was made to add, from 0.2 to 0.8")
    values = [spearman(one.tasteful(one.images), one.held_out.quality) for one in runs]
    record.metric("spearman_tasteful", values, setting=f"scorer of the second group; {SETTING}")
    record.figure(
        "taste",
        fig,
        caption=f"Mean score of {REDRAWN} held-out portraits, redrawn before darker and brighter backgrounds. The known quality is the "
        f"same at every point. One scorer a group of raters; the band spans {SEEDS} seeds.",
        alt="Two curves over background brightness: the scorer of the raters who ignore it, and the scorer of those who prefer it bright.",
    )


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    return {"images": torch.randn(shape, dtype=dtype, device=device, generator=generator)}


def _eager(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same by torch's convolution and moments, in the images' dtype: four reads and a map of Laplacians."""
    stencil = torch.tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=images.dtype, device=images.device)
    edges = F.conv2d(images[:, None], stencil[None, None]).flatten(1)
    contrast, mean = torch.std_mean(images, dim=(1, 2), correction=0)
    return edges.var(1, correction=0), mean, contrast


KERNELS = (
    Kernel(
        name="image_statistics",
        op=kernel.image_statistics,
        twin=method.image_statistics,
        inputs=_inputs,
        bytes_moved=lambda arguments: arguments["images"].numel() * arguments["images"].element_size(),
        operations=lambda arguments: 15 * arguments["images"].numel(),  # five for Δ, five for each of two variances
        shapes=((0, 3, 4), (1, 3, 3), (3, 4, 5), (2, 11, 33), (16, 16, 16), (1, 5, 520), (1, 70, 7)),
        bench_shapes=((1024, 512, 512), (8, 4096, 4096)),
        compile_shape=(16, 64, 512),
        dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        oracle="method.image_statistics in float64; F.conv2d and moments in the tests",
        eager=_eager,
    ),
)
