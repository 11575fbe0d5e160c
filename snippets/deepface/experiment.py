"""DeepFace measured: its shapes and parameters, local against shared filters as faces shift, and two distances."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generator.lab.figures import FAINT, INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import error_rate, fit
from snippets.deepface import kernel, method

LAYERS = (  # name, kind, output channels, filter, stride, side or width in the paper's figure 2
    ("C1", "convolution", 32, 11, 1, 142),
    ("M2", "max pooling", 32, 3, 2, 71),
    ("C3", "convolution", 16, 9, 1, 63),
    ("L4", "local", 16, 9, 1, 55),
    ("L5", "local", 16, 7, 2, 25),
    ("L6", "local", 16, 5, 1, 21),
    ("F7", "full", 4096, 0, 0, 4096),
    ("F8", "full", 4030, 0, 0, 4030),
)
SIDE, PEOPLE, HELD_OUT, SEEDS = 20, 16, 30, 3
"""Pixels a side, people, and test photos of each; all drawn anew for every seed."""
MANY, FEW = 160, 20
"""Training photos of each person; the network sees as many minibatches of the few as of the many."""
MAPS, FILTER, STRIDE, FEATURES = 8, 5, 2, 32
MATCHED = 14
"""The maps of the shared layer that gives a network about as many parameters as the local one has."""
EPOCHS, BATCH, RATE = 3, 64, 3e-3
SHIFT, PROBES = 3, (0, 1, 2, 3, 4)
FAR = max(PROBES)
STRANGERS, STRANGER_PHOTOS, PAIRS = 40, 12, 1000
"""People no network was trained on, for verification; as many again teach the weights and the thresholds."""
NOISE = 0.5
CONDITIONS = {"aligned": (0, MANY), "few": (0, FEW), "shifted": (SHIFT, MANY)}
"""The largest shift, in training and test, and the training photos of each person."""
KINDS = {"local": "local", "shared": "shared", "matched": f"shared, {MATCHED} maps"}
SETTING = (
    f"drawn faces of {SIDE} x {SIDE}, {PEOPLE} people, {MANY * PEOPLE * EPOCHS // BATCH} minibatches, {SEEDS} seeds"
)


def run(record) -> None:
    """Record the network's shapes and parameters, the alignment experiment, and verification by distance."""
    network(record)
    gallery(record)
    verification(record, alignment(record))


# The network


def network(record) -> None:
    """Send a 152 x 152 image through the layers without computing a number, and count."""
    x = torch.empty(1, 3, 152, 152, device="meta")
    rows, weights, work, reach, jump = [], {}, {}, 1, 1
    for name, kind, out, size, stride, _ in LAYERS:
        before = x
        x, shape = layer(x, kind, out, size, stride)
        weights[name] = sum(math.prod(one) for one in shape)
        products = x.numel() * before.numel() if kind == "full" else x.numel() * size * size * before.shape[1]
        work[name] = 0 if kind == "max pooling" else products
        if size:
            reach, jump = reach + (size - 1) * jump, jump * stride
        record.metric(f"side_{name.lower()}", x.shape[-1], setting="computed on the meta device")
        what = f"{kind}, {size} x {size}" + f", stride {stride}" * (stride > 1) if size else kind
        rows.append(
            {
                "layer": name,
                "what": what,
                "output": " x ".join(map(str, x.shape[1:])),
                "parameters": f"{weights[name]:,}",
                "share of parameters": f"{0:.2%}",
                "multiply-adds": f"{work[name] / 1e6:,.1f} M",
            }
        )
        if name == "L6":
            record.metric("patch_l6", reach, unit="pixels", setting="a side; filters and strides added up, C1 to L6")
    total = sum(weights.values())
    for row in rows:
        row["share of parameters"] = f"{weights[row['layer']] / total:.2%}"
    late = sum(weights[name] for name, kind, *_ in LAYERS if kind in ("local", "full"))
    record.metric("parameters", total / 1e6, unit="million", setting="weights and biases, C1 to F8")
    record.metric("share_local_and_full", 100 * late / total, unit="%", setting="L4 to F8, of all parameters")
    front = work["C1"] + work["C3"]
    record.metric("share_work_front", 100 * front / sum(work.values()), unit="%", setting="C1 and C3, multiply-adds")
    pooled = F.max_pool2d(torch.empty(1, 32, 142, 142, device="meta"), 3, 2)
    record.metric("side_m2_rounded_down", pooled.shape[-1], setting="M2 as torch pools by default")
    plain, _ = layer(torch.empty(1, 16, 55, 55, device="meta"), "local", 16, 7, 1)
    record.metric("side_l5_stride_1", plain.shape[-1], setting="L5 with stride 1")
    record.table(
        "layers", rows, caption="The network for one image of 3 x 152 x 152; shapes computed on the meta device."
    )
    panels = [bars("parameters", "millions", weights), bars("multiply-adds for one image", "millions", work)]
    record.figure(
        "layers",
        panels,
        caption="Where the parameters are (left) and where the arithmetic is (right), layer by layer. Orange: locally "
        "connected; blue: convolution and pooling; grey: fully connected.",
        alt="Two horizontal bar charts over the layers C1 to F8. Parameters: L4 is by far the longest bar, then F7 and F8; "
        "the convolutions have none to be seen. Multiply-adds: C1 and C3 are the longest bars.",
    )


def layer(x: Tensor, kind: str, out: int, size: int, stride: int) -> tuple[Tensor, list[tuple[int, ...]]]:
    """Return a layer's output and the shapes of its parameters."""
    if kind == "max pooling":
        return F.max_pool2d(x, size, stride, ceil_mode=True), []  # 71 takes the last, incomplete window as well
    if kind == "full":
        shapes = [(out, x.numel()), (out,)]
        return F.linear(x.flatten(1), *(torch.empty(one, device="meta") for one in shapes)), shapes
    positions = [(side - size) // stride + 1 for side in x.shape[2:]]
    shapes = [(out, x.shape[1], size, size), (out,)]
    if kind == "local":
        shapes = [(*positions, *one) for one in shapes]
        return method.locally_connected(x, *(torch.empty(one, device="meta") for one in shapes), stride), shapes
    return F.conv2d(x, *(torch.empty(one, device="meta") for one in shapes), stride), shapes


def bars(title: str, unit: str, values: dict[str, int]):
    fig, axis = panel(title, unit)
    colours = {"local": SERIES[1], "full": FAINT}
    names = list(values)
    numbers = [values[name] / 1e6 for name in names]
    axis.barh(names, numbers, color=[colours.get(kind, SERIES[0]) for _, kind, *_ in LAYERS])
    for place, number in enumerate(numbers):
        axis.text(number + max(numbers) * 0.02, place, f"{number:.2g}" if number < 1 else f"{number:.1f}", va="center")
    axis.set_xlim(0, max(numbers) * 1.2)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    return fig


# Drawn faces


def people(count: int, generator: torch.Generator) -> Tensor:
    """Return the parts of as many faces [person, part, (x, y, width, height, darkness)], all on a common plan."""
    plan = torch.tensor(
        [
            [0.0, 0.5, 6.5, 8.5, -1.0],  # the head, brighter than the background
            [-3.0, -1.8, 1.2, 0.8, 1.0],  # eyes
            [3.0, -1.8, 1.2, 0.8, 1.0],
            [-3.0, -4.0, 1.7, 0.6, 0.8],  # brows
            [3.0, -4.0, 1.7, 0.6, 0.8],
            [0.0, 0.8, 0.8, 1.8, 0.5],  # nose
            [0.0, 4.4, 2.2, 0.8, 0.9],  # mouth
        ]
    )
    own = torch.randn(count, *plan.shape, generator=generator)
    return torch.cat([plan[:, :2] + 0.5 * own[..., :2], plan[:, 2:] * (0.2 * own[..., 2:]).exp()], -1)


def photograph(faces: Tensor, count: int, generator: torch.Generator, noise: float = NOISE) -> tuple[Tensor, Tensor]:
    """Return `count` photos of each face, with a margin to shift them in [photo, 1, row, column], and who is on them.

    Each has its own expression (the parts move, the mouth widens), light from one side, contrast and noise.
    """
    who = torch.arange(len(faces)).repeat_interleave(count)
    parts = faces[who].clone()
    n = len(who)
    parts[:, 1:, :2] += 0.25 * torch.randn(n, parts.shape[1] - 1, 2, generator=generator)
    parts[:, -1, 2] *= torch.exp(0.2 * torch.randn(n, generator=generator))
    axis = torch.arange(SIDE + 2 * FAR) - (SIDE - 1) / 2 - FAR
    x, y, width, height, dark = parts[..., None].unbind(2)
    across = torch.exp(-0.5 * ((axis - x) / width) ** 2)  # a part is a blot, dark · across · down
    down = torch.exp(-0.5 * ((axis - y) / height) ** 2)
    image = -torch.einsum("npy,npx->nyx", dark * down, across)
    light = 0.3 / SIDE * torch.randn(2, n, 1, generator=generator) * axis
    image = (
        image * torch.exp(0.2 * torch.randn(n, 1, 1, generator=generator)) + light[0, :, None] + light[1, :, :, None]
    )
    return (image + noise * torch.randn(image.shape, generator=generator))[:, None], who


def framed(photos: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Cut each photo to SIDE x SIDE, its face moved by up to `shift` pixels each way."""
    down, across = FAR + torch.randint(-shift, shift + 1, (2, len(photos)), generator=generator)
    return photos.unfold(2, SIDE, 1).unfold(3, SIDE, 1)[torch.arange(len(photos)), :, down, across]


def gallery(record) -> None:
    """Draw photos of four people, with a line between one and the next."""
    panels = []
    for shift, noise, title in (
        (0, 0.0, "aligned, noise left out"),
        (SHIFT, NOISE, f"shifted up to {SHIFT} pixels, noise"),
    ):
        generator = torch.Generator().manual_seed(0)
        photos, _ = photograph(people(4, generator), 5, generator, noise)
        tiles = F.pad(framed(photos, shift, generator)[:, 0], (1, 1, 1, 1), value=float("nan"))
        sheet = tiles.unflatten(0, (4, 5)).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
        fig, axis = panel(title, "five photos", "four people", height=3.1)
        axis.imshow(sheet.numpy(), cmap="cividis", interpolation="nearest", vmin=-1.5, vmax=1.5)
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        panels.append(fig)
    record.figure(
        "faces",
        panels,
        caption="The drawn faces: a row is one person, who keeps the place, size and darkness of each part; every photo has "
        "its own expression, light and contrast. Left aligned and without noise, right the same photos as the networks see "
        "them, with noise, and shifted.",
        alt="Two sheets of four rows and five columns of small blurred faces with eyes, brows, nose and mouth. On the left "
        "the faces sit in the middle of their squares; on the right they are moved about and hard to see for noise.",
    )


# Local against shared filters


class Local(nn.Module):
    """A layer with its own filters at every position, started as `nn.Conv2d` starts its one bank."""

    def __init__(self, side: int) -> None:
        super().__init__()
        bound = 1 / FILTER
        self.weight = nn.Parameter(torch.empty(side, side, MAPS, 1, FILTER, FILTER).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(side, side, MAPS).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return method.locally_connected(x, self.weight, self.bias, STRIDE)


def classifier(kind: str, seed: int) -> nn.Sequential:
    """Return pixels → local or shared layer → ReLU → features, fully connected → ReLU → people."""
    torch.manual_seed(seed)
    side = (SIDE - FILTER) // STRIDE + 1
    maps = MATCHED if kind == "matched" else MAPS
    first = Local(side) if kind == "local" else nn.Conv2d(1, maps, FILTER, STRIDE)
    full = nn.Linear(maps * side * side, FEATURES)
    return nn.Sequential(first, nn.ReLU(), nn.Flatten(), full, nn.ReLU(), nn.Linear(FEATURES, PEOPLE))


def alignment(record) -> list[tuple[nn.Module, Tensor]]:
    """Train each kind in each condition; return the local networks of the aligned faces.

    With each network comes the largest value that its features take on the training faces.
    """
    errors: dict[tuple[str, str], list[float]] = {(kind, name): [] for kind in KINDS for name in CONDITIONS}
    probes: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    kept = []
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        faces = people(PEOPLE, generator)
        (photos, who), (test, answer) = (photograph(faces, count, generator) for count in (MANY, HELD_OUT))
        tests = {shift: framed(test, shift, generator) for shift in PROBES}
        for name, (shift, count) in CONDITIONS.items():
            chosen = torch.arange(len(who)) % MANY < count
            x, y = framed(photos, shift, generator)[chosen], who[chosen]
            for kind in KINDS:
                module = classifier(kind, seed)
                optimizer = torch.optim.Adam(module.parameters(), RATE, fused=True)
                fit(module, x, y, optimizer=optimizer, epochs=EPOCHS * MANY // count, batch=BATCH, seed=seed)
                errors[kind, name].append(100 * error_rate(module, tests[shift], answer))
                if name == "aligned":
                    probes[kind].append([100 * error_rate(module, tests[one], answer) for one in PROBES])
                if name == "aligned" and kind == "local":
                    kept.append((module, activations(module, x).amax(0).clamp_min(1e-3)))
    rows = []
    for kind, title in KINDS.items():
        for name, (shift, count) in CONDITIONS.items():
            where = f"shifts up to {shift} pixels" if shift else "aligned"
            setting = f"{where}, {count} training photos each; {SETTING}"
            record.metric(f"error_{kind}_{name}", errors[kind, name], unit="%", setting=setting)
        nudged = [seen[1] for seen in probes[kind]]
        setting = f"trained on aligned faces, tested with shifts up to 1 pixel; {SETTING}"
        record.metric(f"error_{kind}_nudged", nudged, unit="%", setting=setting)
        number = sum(one.numel() for one in classifier(kind, 0).parameters())
        record.metric(f"weights_{kind}", number, setting="parameters of the whole classifier")
        cells = {
            f"aligned, {MANY} photos": ranged(errors[kind, "aligned"]),
            f"aligned, {FEW} photos": ranged(errors[kind, "few"]),
            f"shifted, {MANY} photos": ranged(errors[kind, "shifted"]),
        }
        rows.append({"first layer": title, "parameters": f"{number:,}", **cells})
    record.table("alignment", rows, caption=f"Test error, mean and range over the seeds; {SETTING}.")
    draw_alignment(record, errors, probes)
    return kept


def ranged(values: list[float]) -> str:
    return f"{sum(values) / len(values):.1f} % ({min(values):.1f}–{max(values):.1f})"


def draw_alignment(record, errors, probes) -> None:
    left, axis = panel("trained and tested alike", "", "test error (%)")
    for place, (kind, title) in enumerate(KINDS.items()):
        for at, name in enumerate(CONDITIONS):
            values = errors[kind, name]
            x = at + 0.25 * (place - 1)
            axis.bar(x, sum(values) / SEEDS, 0.22, color=SERIES[place], alpha=0.55, label="_" * at + title)
            axis.plot([x] * SEEDS, values, ls="", marker="o", ms=3.5, color=INK)
    axis.set_xticks(
        range(3), [f"aligned\n{MANY} photos", f"aligned\n{FEW} photos", f"shifted ≤ {SHIFT} px\n{MANY} photos"]
    )
    axis.grid(axis="x", visible=False)
    axis.legend(loc="upper left")
    right, axis = panel("trained on aligned faces", "largest shift of a test face (pixels)", "test error (%)")
    for place, kind in enumerate(KINDS):
        spread(axis, PROBES, probes[kind], SERIES[place], marker="o", ms=3.5)
    axis.set_ylim(bottom=0)
    axis.set_xticks(PROBES)
    record.figure(
        "alignment",
        [left, right],
        caption="Test error of three first layers: filters of their own at every position (blue), one shared bank of "
        f"{MAPS} maps (orange), and one of {MATCHED} maps, which gives as many parameters as the local layer (green). Left: "
        "trained and tested in the same condition; bars are means, dots are seeds. Right: trained on aligned faces, "
        f"tested on shifted ones; mean and range. {SETTING[0].upper() + SETTING[1:]}.",
        alt="Left, grouped bars of test error for aligned faces with many photos, with few, and for shifted faces. Right, "
        "three curves of test error that rise steeply with the shift of the test faces.",
    )


# Verification


def verification(record, networks: list[tuple[nn.Module, Tensor]]) -> None:
    """Decide from two photos of strangers whether they show one person, by three distances of features."""
    names = {"inner": "inner product", "plain": "χ², equal weights", "weighted": "weighted χ²"}
    accuracy = {(key, shift): [] for key in names for shift in (0, 2)}
    area = {key: [] for key in names}
    rates = {key: [] for key in names}
    grid = torch.linspace(0, 1, 101)
    for seed, (module, largest) in enumerate(networks):
        generator = torch.Generator().manual_seed(500 + seed)
        taught, asked = (photograph(people(STRANGERS, generator), STRANGER_PHOTOS, generator) for _ in range(2))
        f1, f2, same = pairs(module, largest, taught, 0, generator)
        weights = linear_svm(method.chi_squared_terms(f1, f2), same)
        thresholds = {key: best_threshold(score, same) for key, score in scores(f1, f2, weights).items()}
        for shift in (0, 2):
            f1, f2, same = pairs(module, largest, asked, shift, generator)
            for key, score in scores(f1, f2, weights).items():
                accuracy[key, shift].append(100 * ((score > thresholds[key]) == same).float().mean().item())
                if shift == 0:
                    false, true = roc(score, same)
                    area[key].append(torch.trapezoid(true, false).item())
                    rates[key].append([true[torch.searchsorted(false, one, right=True) - 1].item() for one in grid])
    setting = f"{STRANGERS} people the network never saw, {SEEDS} seeds"
    rows = []
    for key, name in names.items():
        record.metric(f"accuracy_{key}", accuracy[key, 0], unit="%", setting=f"aligned; {setting}")
        record.metric(
            f"accuracy_{key}_shifted", accuracy[key, 2], unit="%", setting=f"shifted by up to 2 pixels; {setting}"
        )
        record.metric(f"area_{key}", area[key], setting=f"area under the ROC curve, aligned; {setting}")
        cells = [ranged(accuracy[key, shift]) for shift in (0, 2)]
        rows.append(
            {
                "distance": name,
                "aligned": cells[0],
                "shifted by up to 2": cells[1],
                "ROC area, aligned": f"{sum(area[key]) / SEEDS:.3f}",
            }
        )
    record.table("verification", rows, caption=f"Accuracy of 'same' or 'not same', mean and range; {setting}.")
    fig, axis = panel("same person or not", "false accepts", "true accepts", height=3.0)
    for place, (key, name) in enumerate(names.items()):
        spread(axis, grid, rates[key], SERIES[place], name)
    axis.plot([0, 1], [0, 1], color=FAINT, lw=1, ls="--")
    axis.text(0.62, 0.55, "chance", color=INK, fontsize=8)
    axis.legend(loc="lower right")
    record.figure(
        "verification",
        fig,
        caption=f"ROC of three distances on the same features of the local network, aligned faces. Mean and range; {setting}.",
        alt="ROC curves of the inner product, of chi-squared with equal weights and of weighted chi-squared, all above "
        "the diagonal of chance.",
    )


@torch.no_grad()
def activations(module: nn.Sequential, photos: Tensor) -> Tensor:
    return module[:-1](photos)


def pairs(module, largest: Tensor, photos: tuple[Tensor, Tensor], shift: int, generator) -> tuple[Tensor, ...]:
    """Return the normalized features of PAIRS pairs of photos of one person and PAIRS of two, and which are which."""
    images, who = framed(photos[0], shift, generator), photos[1]
    f = F.normalize(activations(module, images) / largest, dim=1)  # section 3: by each feature's maximum, then by L2
    a, b = torch.randint(len(who), (2, 100 * PAIRS), generator=generator)
    same = who[a] == who[b]
    chosen = torch.cat([(same & (a != b)).nonzero()[:PAIRS, 0], (~same).nonzero()[:PAIRS, 0]])
    return f[a[chosen]], f[b[chosen]], same[chosen]


def scores(f1: Tensor, f2: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Return three similarities of pairs: larger means more alike."""
    return {
        "inner": (f1 * f2).sum(1),
        "plain": -method.weighted_chi_squared(f1, f2, torch.ones_like(weights)),
        "weighted": -method.weighted_chi_squared(f1, f2, weights),
    }


def linear_svm(terms: Tensor, same: Tensor, ridge: float = 1e-3) -> Tensor:
    """Return the weights of χ² that a linear SVM (squared hinge) gives its terms, to tell pairs of one person."""
    scale = terms.mean(0).clamp_min(1e-6)
    parameters = torch.zeros(terms.shape[1] + 1, requires_grad=True)
    sign = torch.where(same, 1.0, -1.0)
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        margin = sign * (parameters[-1] - (terms / scale) @ parameters[:-1])
        value = F.relu(1 - margin).square().mean() + ridge * parameters[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return parameters.detach()[:-1] / scale


def roc(score: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Return false and true accepts as the threshold falls."""
    hits = same[score.argsort(descending=True, stable=True)].float()
    zero = torch.zeros(1)
    return torch.cat([zero, (1 - hits).cumsum(0) / (1 - hits).sum()]), torch.cat([zero, hits.cumsum(0) / hits.sum()])


def best_threshold(score: Tensor, same: Tensor) -> float:
    """Return the threshold that tells most of these pairs."""
    order = score.sort(descending=True, stable=True).values
    false, true = roc(score, same)
    best = int((true - false).argmax())
    return order[max(best - 1, 0)].item() - 1e-7


# The kernel


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> dict[str, object]:
    """Return arguments for (batch, in_channel, height, width, out_channel, filter, stride), drawn from the seed."""
    batch, channels, height, width, out, size, stride = shape
    generator = torch.Generator(device).manual_seed(seed)
    positions = ((height - size) // stride + 1, (width - size) // stride + 1)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=dtype, device=device, generator=generator)

    weight = draw(*positions, out, channels, size, size) / (channels * size * size) ** 0.5
    return {
        "x": draw(batch, channels, height, width),
        "weight": weight,
        "bias": draw(*positions, out),
        "stride": stride,
    }


def with_torch(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Compute the layer in the dtype it comes in: the fair competitor, as matrix products sum halves in fp32 anyway."""
    patches = x.unfold(2, weight.shape[4], stride).unfold(3, weight.shape[5], stride)
    return torch.einsum("bcijuv,ijocuv->boij", patches, weight) + bias.permute(2, 0, 1)


def _bytes(a) -> int:
    read = a["x"].numel() + a["weight"].numel() + a["bias"].numel()
    return (read + len(a["x"]) * a["bias"].numel()) * a["x"].element_size()


KERNELS = (
    Kernel(
        name="locally_connected",
        op=kernel.locally_connected,
        twin=method.locally_connected,
        eager=with_torch,
        inputs=inputs,
        shapes=(
            (1, 1, 1, 1, 1, 1, 1),
            (0, 1, 2, 2, 1, 2, 1),
            (2, 3, 7, 6, 5, 3, 2),
            (18, 2, 5, 4, 17, 2, 1),
            (16, 8, 3, 19, 3, 3, 4),
        ),
        compile_shape=(64, 16, 24, 24, 16, 9, 1),
        bench_shapes=((32, 16, 119, 119, 16, 9, 1),),
        differentiable=("x", "weight", "bias"),
        bytes_moved=_bytes,
        # x, weight and the gradient in; the gradients of x, weight and bias out
        backward_bytes=lambda a: _bytes(a) + (a["x"].numel() + a["weight"].numel()) * a["x"].element_size(),
        operations=lambda a: 2 * len(a["x"]) * a["weight"].numel(),
        reduction=lambda a: a["weight"][0, 0, 0].numel(),
        oracle="method.locally_connected in float64; in the tests, a loop over positions and F.conv2d",
    ),
)
