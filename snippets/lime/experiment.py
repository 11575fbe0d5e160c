"""LIME measured: exact on a linear model, a planted shortcut found, the spread of coefficients, and what its choices do.

The images are synthetic: a wolf or a husky, told apart by the belly, on snow or on grass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from generator.lab.figures import FAINT, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import error_rate, fit
from snippets.lime import kernel, method

SIDE, CELLS, LLOYD = 32, 6, 5
NETS, TRAINED, EPOCHS = 3, 400, 7
TESTED, SAMPLES = 12, 512
COUNTS, REPEATS = (128, 256, 512, 1024), 6
LINEAR = (10, 20, 30, 40, 50, 70, 100, 200, 500)
WOLF, HUSKY = 0, 1
READINGS = ("probability", "log-odds")
SETTING = f"{NETS} small ConvNets, {TRAINED} synthetic 32 × 32 images, {EPOCHS} epochs"


def run(record) -> None:
    """Record the walk through one image, the linear model, the shortcut, the spread, and the choices."""
    walk(record)
    linear_error, ridge_error = linear(record)
    trained = [[train(seed, planted) for seed in range(NETS)] for planted in (True, False)]
    shortcut(record, *trained)
    stability(record, trained[0], linear_error, ridge_error)
    choices(record, trained[0])
    redundancy(record)


# Images, superpixels, networks


def animals(kind: Tensor, snow: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images [n, 3, 32, 32] in 0..1 and where the animal is [n, 32, 32]; a husky's belly is lighter than its back."""
    count = len(kind)

    def uniform(low: float, high: float, *more: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *(more or (1, 1)), generator=generator)

    y, x = torch.arange(SIDE).view(-1, 1), torch.arange(SIDE).view(1, -1)
    row, column, facing = uniform(17, 20), uniform(13, 18), uniform(-1, 1).sign()
    body = ((y - row) / uniform(6, 8)) ** 2 + ((x - column) / uniform(9, 11)) ** 2 < 1
    head = (y - row + uniform(6, 8)) ** 2 + (x - column - facing * uniform(6, 8)) ** 2 < uniform(4, 5.5) ** 2
    coat = uniform(0.3, 0.6) + 0.25 * ((kind == HUSKY).view(-1, 1, 1) & body & (y > row))
    white, green = torch.tensor([0.88, 0.9, 0.95]), torch.tensor([0.3, 0.5, 0.2])
    ground = torch.where(snow.view(-1, 1), white, green) + uniform(-0.06, 0.06, 3)
    where = body | head
    images = torch.where(where[:, None], coat[:, None].expand(-1, 3, -1, -1), ground[:, :, None, None])
    return (images + 0.05 * torch.randn(images.shape, generator=generator)).clamp(0, 1), where


def superpixels(image: Tensor) -> Tensor:
    """Return labels [h, w]: k-means over place and color, started from a grid, as SLIC does without its windows."""
    step = SIDE / CELLS
    ticks = torch.arange(SIDE) + 0.5
    place = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), -1) / step
    points = torch.cat([place, 6 * image.permute(1, 2, 0)], -1).flatten(0, 1)
    grid = ((torch.arange(CELLS) + 0.5) * step).long()
    centers = points[(grid[:, None] * SIDE + grid).flatten()]
    for _ in range(LLOYD):
        label = torch.cdist(points, centers).argmin(1)
        members = nn.functional.one_hot(label, len(centers)).to(points.dtype)
        centers = (members.T @ points) / members.sum(0).clamp_min(1)[:, None]
    return torch.cdist(points, centers).argmin(1).unique(return_inverse=True)[1].view(SIDE, SIDE)


def train(seed: int, planted: bool) -> nn.Module:
    """Train a ConvNet where all wolves stand on snow and all huskies on grass; else on either by chance."""
    generator = torch.Generator().manual_seed(100 + seed)
    kind = torch.randint(2, (TRAINED,), generator=generator)
    snow = kind == WOLF if planted else torch.rand(TRAINED, generator=generator) < 0.5
    images, _ = animals(kind, snow, generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [part for i, o in ((3, 8), (8, 16), (16, 16)) for part in (nn.Conv2d(i, o, 3, 2, 1), nn.ReLU())]
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))
    fit(
        net,
        centered(images),
        kind,
        optimizer=torch.optim.Adam(net.parameters(), lr=1e-2),
        epochs=EPOCHS,
        batch=40,
        seed=seed,
    )
    return net.eval()


def centered(images: Tensor) -> Tensor:
    """Return pixels of 0..1 as −2..2, what the networks are given."""
    return 4 * (images - 0.5)


def explain_twice(net: nn.Module, kind: int, image: Tensor, segments: Tensor, seed: int, **choices) -> Tensor:
    """Return LIME's coefficients [2, segment] for a class: of its probability, and of its log-odds on the same samples."""
    choices = {"samples": SAMPLES, "fill": 0.0, "width": 0.25} | choices
    odds = torch.empty(0)

    @torch.no_grad()
    def probability(images: Tensor) -> Tensor:
        nonlocal odds
        logits = net(centered(images)).double()
        odds = logits[:, kind] - logits[:, 1 - kind]
        return odds.sigmoid()

    of_probability = method.explain(probability, image, segments, seed=seed, **choices)
    masks = method.draw_masks(choices["samples"], len(of_probability), seed)
    return torch.stack([of_probability, method.solve(masks, odds, method.proximity(masks, choices["width"]))])


def huskies_on_snow(count: int = TESTED) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return images that no network was trained on, where the animal is, and their superpixels."""
    kind, snow = torch.full((count,), HUSKY), torch.ones(count, dtype=torch.bool)
    images, where = animals(kind, snow, torch.Generator().manual_seed(7))
    return images, where, [superpixels(image) for image in images]


def on_animal(segments: Tensor, where: Tensor) -> Tensor:
    """Return which superpixels lie mostly on the animal."""
    size = torch.bincount(segments.flatten())
    return 2 * torch.bincount(segments[where], minlength=len(size)) > size


# A walk through one image


def outlined(image: Tensor, segments: Tensor, zoom: int = 6) -> Tensor:
    """Return the image enlarged [h, w, 3], with the borders between segments drawn."""
    big = image.permute(1, 2, 0).repeat_interleave(zoom, 0).repeat_interleave(zoom, 1).clone()
    label = segments.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    big[:, 1:][label[:, 1:] != label[:, :-1]] = torch.tensor([1.0, 0.35, 0.1])
    big[1:][label[1:] != label[:-1]] = torch.tensor([1.0, 0.35, 0.1])
    return big


def bare(axis) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def walk(record) -> None:
    """Draw an image, its superpixels, some perturbed samples, and the weight of a sample by how much it keeps."""
    images, _, cut = huskies_on_snow(1)
    image, segments = images[0], cut[0]
    count = int(segments.max()) + 1
    masks = method.draw_masks(60, count, seed=1)[1:]
    masks = masks[masks.sum(1).argsort(descending=True)[4::10]]  # one of every ten, most kept first
    made, weights = method.perturb_and_weigh(image, segments, masks, 0.0)
    left, axis = panel(f"{count} superpixels", height=3.0)
    axis.imshow(outlined(image, segments), interpolation="nearest")
    bare(axis)
    right, axis = panel("perturbed samples, with their weights", height=3.0)
    gap = 8
    sheet = torch.full((2 * SIDE + gap, 3 * SIDE + 2 * 4, 4), 0.0)
    for n, (sample, weight) in enumerate(zip(made, weights, strict=True)):
        top, start = (n // 3) * (SIDE + gap), (n % 3) * (SIDE + 4)
        sheet[top : top + SIDE, start : start + SIDE, :3] = sample.permute(1, 2, 0)
        sheet[top : top + SIDE, start : start + SIDE, 3] = 1
        axis.text(start + SIDE / 2, top + SIDE + 0.5, f"{weight:.2g}", ha="center", va="top", fontsize=8.5)
    axis.imshow(sheet, interpolation="nearest")
    axis.set_ylim(2 * SIDE + 2 * gap, -0.5)
    bare(axis)
    record.figure(
        "perturb",
        [left, right],
        caption="Left: a synthetic husky on snow, cut into superpixels by k-means over place and color. Right: six samples, "
        "hidden superpixels painted black; below each its weight at width 0.25, most kept first.",
        alt="A pixelated gray animal with a light belly on white, with orange outlines of superpixels; six copies of it with "
        "more and more patches black, whose weights fall from near 1 towards 0.",
    )
    weighing(record, count)


def weighing(record, count: int) -> None:
    """Draw the weight against what is kept, and where the total weight lies for two ways to draw masks."""
    kept = torch.arange(count + 1)
    left, axis = panel("weight of a sample", "share of superpixels kept", "weight π")
    for n, (width, at) in enumerate(((0.25, (0.53, 0.5)), (0.1, (0.68, 0.1)), (1.0, (0.3, 0.86)))):
        weights = method.proximity((torch.arange(count) < kept[:, None]), width)
        axis.plot(kept / count, weights, color=SERIES[n])
        axis.text(*at, f"σ = {width}", color=SERIES[n], ha="right" if width < 1 else "center", va="bottom")
    axis.set_ylim(0, 1.05)
    right, axis = panel("which samples decide", "share of superpixels kept", "share of the total weight")
    uniform = method.draw_masks(40_001, count, seed=0)[1:]
    coins = torch.rand(40_000, count, generator=torch.Generator().manual_seed(0)) < 0.5
    for n, (name, masks, at) in enumerate(
        (("uniform count", uniform, (0.83, 0.085)), ("fair coins", coins, (0.32, 0.11)))
    ):
        weights = method.proximity(masks)
        total = torch.zeros(count + 1, dtype=torch.float64).index_add_(0, masks.sum(1), weights) / weights.sum()
        axis.plot(kept / count, total, color=SERIES[n])
        axis.text(*at, name, color=SERIES[n], ha="center")
        tenth, most = weights.quantile(torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
        record.metric(f"weight_ratio_{name.split()[-1]}", most / tenth, setting=f"{count} superpixels, width 0.25")
        effective = weights.sum() ** 2 / (len(weights) * (weights**2).sum())
        record.metric(
            f"effective_{name.split()[-1]}", effective.item(), setting="effective share of 40,000 samples, width 0.25"
        )
    axis.set_ylim(bottom=0)
    record.figure(
        "weights",
        [left, right],
        caption="Left: the weight of a sample by the share of superpixels that it keeps, for three widths. Right: where the total "
        "weight lies at width 0.25, with the number kept drawn uniformly or by a fair coin for each superpixel; 40,000 masks.",
        alt="Left: three curves that rise to 1 at the right, the narrower the kernel the later. Right: a broad curve that grows "
        "with the share kept, and a narrow bell around one half.",
    )


# A linear model


def linear(record) -> tuple[Tensor, Tensor]:
    """Return the error of the coefficients, least squares and ridge, for each number of samples and seed."""
    images, _, cut = huskies_on_snow(5)
    errors = torch.zeros(2, 5, len(LINEAR), dtype=torch.float64)
    for seed, (image, segments) in enumerate(zip(images.double(), cut, strict=True)):
        weight = torch.randn(image.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        count = int(segments.max()) + 1
        true = torch.zeros(count, dtype=torch.float64).index_add_(
            0, segments.flatten(), (weight * image).sum(0).flatten()
        )
        for n, samples in enumerate(LINEAR):
            predict = lambda images, weight=weight: (images * weight).sum((1, 2, 3)) + 2.0  # noqa: E731
            found = method.explain(predict, image, segments, samples, seed)
            masks = method.draw_masks(samples, count, seed)
            scores = predict(method.perturb(image, segments, masks, 0.0))
            for which, one in enumerate((found, ridge(masks, scores, method.proximity(masks)))):
                errors[which, seed, n] = (one - true).abs().max() / true.abs().max()
    setting = f"{LINEAR[-1]} samples, random linear models of 5 images, relative to the largest coefficient"
    record.metric("linear_error", errors[0, :, -1], setting=setting)
    record.metric("ridge_error", errors[1, :, -1], setting=f"penalty 1; {setting}")
    return errors[0], errors[1]


def ridge(masks: Tensor, scores: Tensor, weights: Tensor, penalty: float = 1.0) -> Tensor:
    """Return weighted ridge coefficients beside a free intercept, as LIME's first implementation fits them."""
    design = torch.cat([torch.ones(len(masks), 1, dtype=torch.float64), masks.double()], 1)
    pull = penalty * torch.eye(design.shape[1], dtype=torch.float64)
    pull[0, 0] = 0
    weighted = design * weights[:, None]
    return torch.linalg.solve(weighted.T @ design + pull, weighted.T @ scores)[1:]


# The shortcut


def shortcut(record, planted: list[nn.Module], control: list[nn.Module]) -> None:
    """Ask both kinds of network about huskies on snow: which superpixel speaks most for the class they predict?"""
    images, where, cut = huskies_on_snow()
    kind = torch.arange(400) % 2
    usual, _ = animals(kind, kind == WOLF, torch.Generator().manual_seed(8))
    swapped, _ = animals(kind, kind == HUSKY, torch.Generator().manual_seed(9))
    chance = [(~on_animal(segments, mask)).double().mean().item() for segments, mask in zip(cut, where, strict=True)]
    record.metric("snow_share", sum(chance) / TESTED, setting=f"share of superpixels on snow, {TESTED} images")
    rows, maps = [], {}
    for name, nets in (("planted", planted), ("control", control)):
        seen = [[look(net, images[n], cut[n], where[n], seed=n) for n in range(TESTED)] for net in nets]
        maps[name] = seen[0][:3]
        setting = f"{TESTED} huskies on snow, {SAMPLES} samples; {SETTING}"
        usual_error = [error_rate(net, centered(usual), kind) for net in nets]
        swapped_error = [error_rate(net, centered(swapped), kind) for net in nets]
        called = [sum(one["kind"] == WOLF for one in each) / TESTED for each in seen]
        record.metric(f"error_usual_{name}", usual_error, setting=f"wolves on snow, huskies on grass; {SETTING}")
        record.metric(f"error_swapped_{name}", swapped_error, setting=f"wolves on grass, huskies on snow; {SETTING}")
        record.metric(f"called_wolf_{name}", called, setting=setting)
        for which, reading in enumerate(READINGS):
            first, order = (
                [sum(one[what][which] for one in each) / TESTED for each in seen] for what in ("first", "order")
            )
            key = f"{reading.replace('-', '_')}_{name}"
            record.metric(f"first_is_snow_{key}", first, setting=f"{reading}; {setting}")
            record.metric(f"snow_above_animal_{key}", order, setting=f"{reading}; {setting}")
            rows.append(
                {
                    "background": {"planted": "by class", "control": "by chance"}[name],
                    "error, usual": f"{sum(usual_error) / NETS:.1%}",
                    "error, swapped": f"{sum(swapped_error) / NETS:.1%}",
                    "explained": reading,
                    "snow is first": f"{sum(first) / NETS:.0%} ({min(first):.0%} to {max(first):.0%})",
                    "snow above animal": f"{sum(order) / NETS:.0%} ({min(order):.0%} to {max(order):.0%})",
                }
            )
    record.table(
        "shortcut",
        rows,
        caption=f"{SETTING}; means over the networks, with the range. Explained is the predicted class of {TESTED} huskies on "
        f"snow, {SAMPLES} samples each. Last column: over all pairs of an image, how often a snow superpixel has a larger "
        "coefficient than one on the animal.",
    )
    draw_maps(record, images, where, cut, maps)


def look(net: nn.Module, image: Tensor, segments: Tensor, where: Tensor, seed: int) -> dict[str, object]:
    """Explain the predicted class, and say for both readings whether snow comes first and how often it outranks the animal."""
    with torch.no_grad():
        kind = int(net(centered(image[None])).argmax())
    found = explain_twice(net, kind, image, segments, seed)
    animal = on_animal(segments, where)
    order = [(one[~animal][:, None] > one[animal]).double().mean().item() for one in found]
    return {"kind": kind, "found": found, "first": [not animal[one.argmax()] for one in found], "order": order}


def draw_maps(record, images: Tensor, where: Tensor, cut: list[Tensor], maps: dict) -> None:
    """Show three images, what each kind of network calls them, and the coefficients of both readings."""
    panels, down = [], (SIDE + 9, 2 * SIDE + 12)
    for name, shown in maps.items():
        title = {"planted": "trained with the shortcut", "control": "trained without it"}[name]
        fig, axis = panel(title, height=3.9)
        for n, one in enumerate(shown):
            left = n * (SIDE + 3)
            axis.imshow(images[n].permute(1, 2, 0), extent=(left, left + SIDE, SIDE, 0), interpolation="nearest")
            axis.text(left + SIDE / 2, SIDE + 4.5, f"“{('wolf', 'husky')[one['kind']]}”", ha="center", va="center")
            for values, top in zip(one["found"], down, strict=True):
                box, limit = (left, left + SIDE, top + SIDE, top), float(values.abs().max())
                axis.imshow(values[cut[n]], extent=box, cmap="PuOr_r", vmin=-limit, vmax=limit, interpolation="nearest")
                ticks = torch.arange(SIDE) + 0.5
                axis.contour(left + ticks, top + ticks, where[n], levels=[0.5], colors=["#444444"], linewidths=1)
        axis.set_xlim(-0.5, 3 * SIDE + 6.5)
        axis.set_ylim(3 * SIDE + 12.5, -0.5)
        bare(axis)
        axis.set_yticks([top + SIDE / 2 for top in down], READINGS, rotation=90, va="center")
        axis.tick_params(length=0)
        panels.append(fig)
    record.figure(
        "shortcut",
        panels,
        caption="Three huskies on snow, the class that a network gives them, and LIME's coefficients for that class, read from its "
        "probability and from its log-odds. Orange speaks for the class, purple against it, each map on its own scale; the "
        "gray line is the animal's outline. First seed.",
        alt="Two panels, each with a row of three images, labeled by the class, above two rows of maps in orange and purple over "
        "the same superpixels, with the animal's outline.",
    )


# Stability


def stability(record, nets: list[nn.Module], linear_error: Tensor, ridge_error: Tensor) -> None:
    """Repeat explanations with other masks: how far apart are their coefficients, and their first superpixels?"""
    images, _, cut = huskies_on_snow(NETS)
    deviations, agreement = torch.zeros(2, NETS, len(COUNTS), 2).unbind(-1)
    for at, net in enumerate(nets):
        for n, samples in enumerate(COUNTS):
            seeds = range(1000 * n, 1000 * n + REPEATS)
            runs = [explain_twice(net, WOLF, images[at], cut[at], seed, samples=samples) for seed in seeds]
            found = torch.stack(runs, 1)  # [reading, repeat, segment]
            deviations[:, at, n] = found.var(1).mean(1).sqrt()
            first = found.argmax(2)
            same = (first[:, :, None] == first[:, None]).sum((1, 2)) - REPEATS
            agreement[:, at, n] = same / (REPEATS * (REPEATS - 1))
        # over how far superpixels differ, from the most samples: the best estimate there is
        deviations[:, at] /= found.mean(1).std(1)[:, None]
    x = torch.tensor(COUNTS).float().log2()
    slopes = ((x - x.mean()) * deviations.log2()).sum(2) / ((x - x.mean()) ** 2).sum()
    setting = f"{REPEATS} repeats for one husky on snow a network; {SETTING}"
    for which, reading in enumerate(READINGS):
        key, about = reading.replace("-", "_"), f"{reading}, {setting}"
        record.metric(f"spread_slope_{key}", slopes[which], setting=f"of log spread against log samples; {about}")
        for n in (0, -1):
            record.metric(f"spread_{key}_{COUNTS[n]}", deviations[which, :, n], setting=f"{COUNTS[n]} samples; {about}")
            record.metric(
                f"same_first_{key}_{COUNTS[n]}", agreement[which, :, n], setting=f"{COUNTS[n]} samples; {about}"
            )
    left, axis = panel("a linear model", "samples", "largest error, relative")
    for errors, color, name, at in (
        (linear_error, 0, "least squares", 1e-12),
        (ridge_error, 1, "ridge, penalty 1", 3e-4),
    ):
        spread(axis, LINEAR, errors.clamp_min(1e-17), SERIES[color])
        axis.text(500, at, name, color=SERIES[color], ha="right")
    axis.set(xscale="log", yscale="log", ylim=(1e-17, 30))
    right, axis = panel("a network", "samples", "spread of a coefficient")
    for which, reading in enumerate(READINGS):
        spread(axis, COUNTS, deviations[which], SERIES[2 + which], marker="o", ms=4)
        level = float(deviations[which].mean(0)[0])
        axis.text(COUNTS[0], level * 1.12, reading, color=SERIES[2 + which], va="bottom")
        axis.plot(COUNTS, level * (COUNTS[0] / torch.tensor(COUNTS)) ** 0.5, color=FAINT, ls="--", lw=1)
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(COUNTS, [str(one) for one in COUNTS])
    axis.minorticks_off()
    record.figure(
        "samples",
        [left, right],
        caption="Left: error of the coefficients on random linear models of 5 images, by the number of samples. Right: standard "
        "deviation of a coefficient over explanations with other masks, relative to that between superpixels; networks with "
        "the shortcut, the dashed lines fall as 1/√n. Bands span the seeds.",
        alt="Left: the error of least squares drops from about 1 to rounding error once samples outnumber superpixels; that of "
        "ridge falls slowly. Right: the spread falls along a straight line on logarithmic axes.",
    )


# Choices


def choices(record, nets: list[nn.Module]) -> None:
    """Change one choice at a time and compare the order of the superpixels with that of the usual settings."""
    images, _, cut = huskies_on_snow(2)
    options = {
        "other masks": {"seed": 99},
        "width 0.1": {"width": 0.1},
        "width 1": {"width": 1.0},
        "fill: 0.5, mid-gray": {"fill": 0.5},
        "fill: 1, white": {"fill": 1.0},
        "fill: mean color of the images": {"fill": images.mean((0, 2, 3)).tolist()},
    }
    found: dict[str, list[list[list[float]]]] = {name: [] for name in options}
    largest: list[float] = []
    for net in nets:
        base = [explain_twice(net, WOLF, images[n], cut[n], n) for n in range(len(images))]
        for name, change in options.items():
            other = [explain_twice(net, WOLF, images[n], cut[n], **({"seed": n} | change)) for n in range(len(images))]
            if change.get("fill") == 1.0:
                largest.append(max(one[0].abs().max().item() for one in other))
            pairs = zip(base, other, strict=True)
            found[name].append([[rank_correlation(a[which], b[which]) for which in (0, 1)] for a, b in pairs])
    record.metric("largest_in_white", largest, setting="largest coefficient of the probability, white fill")
    rows = []
    for name, values in found.items():
        each = torch.tensor(values)  # [network, image, reading]
        rows.append({"changed": name})
        for which, reading in enumerate(READINGS):
            one = each[..., which]
            rows[-1][reading] = f"{one.mean():.2f} ({one.min():.2f} to {one.max():.2f})"
            key = name.split(",")[0].replace("fill: ", "fill_").replace(" ", "_").replace(".", "").split("_color")[0]
            setting = f"rank correlation, {reading}, {len(images)} huskies on snow; {SETTING}"
            record.metric(f"agrees_{key}_{reading.replace('-', '_')}", one.mean(1), setting=setting)
    record.table(
        "choices",
        rows,
        caption="Spearman's rank correlation of the coefficients with those of the usual settings (black fill, width 0.25, "
        f"{SAMPLES} samples), mean and range; 0 where the score never moves. {NETS} networks with the shortcut, {len(images)} huskies on snow each.",
    )


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Return Spearman's correlation; 0 where coefficients are rounding errors, whose order means nothing."""
    if min(a.abs().max().item(), b.abs().max().item()) < 1e-9:
        return 0.0
    ranks = torch.stack([a.argsort().argsort(), b.argsort().argsort()]).double()
    return torch.corrcoef(ranks)[0, 1].item()


def redundancy(record) -> None:
    """Score 1 where either of two superpixels is left: hide one at a time, then by LIME."""
    segments = torch.arange(16).view(4, 4)
    image = torch.ones(1, 4, 4, dtype=torch.float64)
    either = lambda images: (images[:, 0, 0, 0] + images[:, 0, 3, 3]).clamp(max=1)  # noqa: E731
    alone = 1 - either(method.perturb(image, segments, 1 - torch.eye(16), 0.0))
    found = [method.explain(either, image, segments, SAMPLES, seed)[[0, 15]].min().item() for seed in range(5)]
    record.metric("redundant_alone", alone[[0, 15]].max().item(), setting="score lost when one of the pair is hidden")
    record.metric("redundant_lime", found, setting=f"the lower of the pair's coefficients, {SAMPLES} samples, 5 seeds")


# The kernel


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> dict[str, object]:
    """Return arguments for (samples, channels, height, width, segments), drawn from the seed; the fill is one a channel."""
    samples, channels, height, width, count = shape
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(channels, height, width, generator=generator).to(device, dtype),
        "segments": torch.randint(count, (height, width), generator=generator).to(device),
        "masks": (torch.rand(samples, count, generator=generator) < 0.5).to(device),
        "fill": torch.randn(channels, generator=generator).to(device, dtype),
    }


def moved(arguments) -> int:
    """Count the image, labels and masks once, each perturbed image once."""
    image, masks, labels = arguments["image"], arguments["masks"], arguments["segments"]
    return (1 + len(masks)) * image.numel() * image.element_size() + 8 * labels.numel() + masks.numel()


def selections(arguments) -> int:
    return len(arguments["masks"]) * arguments["image"].numel()


SHAPES = (
    (0, 3, 4, 4, 2),
    (3, 1, 1, 1, 1),
    (2, 3, 0, 5, 3),
    (5, 3, 7, 11, 6),
    (18, 2, 33, 35, 200),
    (16, 3, 32, 32, 16),
)
KERNELS = (
    Kernel(
        name="lime_perturb",
        op=kernel.perturb,
        twin=method.perturb,
        inputs=inputs,
        shapes=SHAPES,
        bench_shapes=((1024, 3, 224, 224, 64),),
        dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        bytes_moved=moved,
        operations=selections,
        exact=True,
        oracle="method.perturb, bit for bit; a loop over pixels in the tests",
    ),
    Kernel(
        name="lime_perturb_and_weigh",
        op=kernel.perturb_and_weigh,
        twin=method.perturb_and_weigh,
        inputs=lambda *what: {**inputs(*what), "width": 0.25},
        shapes=SHAPES[3:],
        bench_shapes=((1024, 3, 224, 224, 64),),
        dtypes=(torch.float32,),
        bytes_moved=lambda a: moved(a) + 8 * len(a["masks"]),
        operations=lambda a: selections(a) + a["masks"].numel(),
        oracle="method.perturb_and_weigh; scikit-learn's cosine distance in the tests",
    ),
)
