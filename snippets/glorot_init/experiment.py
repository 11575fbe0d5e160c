"""Spread of activations and gradients by layer, a sigmoid network that saturates, and softsign against a stretched sigmoid."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from generator.lab.figures import FAINT, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import minibatches
from snippets.glorot_init import kernel, method

SEEDS = 3
CLASSES = [(0, None), (1, None), (2, None), (0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
"""A triangle (0), a parallelogram (1), an ellipse (2), or two of them in either order: the paper's nine classes."""
WIDE, DEEP, LOOK = 300, 5, 300  # units a layer, hidden layers, images for the spread at initialization
UNITS, HIDDEN, BATCH, RATE = 100, 4, 10, 0.1  # the networks that are trained
POOL, HELD_OUT = 8_000, 1_000
UPDATES, LONG, WATCH = 500, 2_000, 25  # of all networks; of the watched sigmoid one, looked at every 25
AT_START = f"{DEEP} hidden layers of {WIDE}, {LOOK} synthetic shape images, {SEEDS} seeds"
TRAINED = f"{HIDDEN} hidden layers of {UNITS}, synthetic shapes, SGD {RATE}, batch {BATCH}, {SEEDS} seeds"
INITS = {"standard": method.standard_uniform_, "normalized": method.normalized_uniform_}


def late_sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(0.1 * x)


def centered_late_sigmoid(x: Tensor) -> Tensor:
    return 40 * (torch.sigmoid(0.1 * x) - 0.5)  # slope 1 at 0, plateau at ±20


def run(record) -> None:
    """Record the weights' variance, the spread through depth, the saturation, and the comparison of activations."""
    images, labels = shapes(POOL + HELD_OUT, torch.Generator().manual_seed(0))
    gallery(record, images, labels)
    x = (images.flatten(1) - images.mean()) / images.std()
    variances(record)
    through_depth(record, x[:LOOK], labels[:LOOK])
    curves = activations(record, x, labels)
    saturation(record, curves["sigmoid_standard"])


# The images


def shapes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return gray images [count, 32, 32] of one or two shapes and their class; the shape in front hides at most half."""
    images, labels, found = [], [], 0
    while found < count:  # in portions that fit a processor's cache
        image, label = portion(200, generator)
        images, labels, found = [*images, image], [*labels, label], found + len(image)
    return torch.cat(images)[:count], torch.cat(labels)[:count]


def portion(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    label = torch.randint(9, (count,), generator=generator)
    front, back, gray, swap = torch.rand(4, count, 5, generator=generator)
    kinds = torch.tensor([[a, 3 if b is None else b] for a, b in CLASSES])[label]
    kinds = torch.where((swap[:, :1] < 0.5) & (kinds[:, 1:] < 3), kinds.flip(1), kinds)
    first, second = inside(kinds[:, 0], back), inside(kinds[:, 1], front)
    keep = 2 * (first & second).sum((1, 2)) <= first.sum((1, 2))
    near, far = (0.4 + 0.6 * gray[:, n, None, None] for n in (0, 1))  # gray on black
    image = torch.where(second, near, torch.where(first, far, 0.0))
    return image[keep], label[keep]


def inside(kind: Tensor, where: Tensor, size: int = 32) -> Tensor:
    """Return which pixels [n, size, size] lie in a shape: its unit form, stretched, sheared, turned and moved."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    right, down, long, wide, turn = where.T[:, :, None, None]
    right, down = axis - (right - 0.5), axis[:, None] - (down - 0.5)
    cos, sin = (2 * torch.pi * turn).cos(), (2 * torch.pi * turn).sin()
    b = (cos * down - sin * right) / (0.25 + 0.4 * wide)
    a = (cos * right + sin * down) / (0.25 + 0.4 * long) - (long - wide) * b
    triangle = torch.maximum(-a, a / 2 + 0.75**0.5 * b.abs()) <= 0.65
    parallelogram = torch.maximum(a.abs(), b.abs()) <= 0.8
    forms = torch.stack((triangle, parallelogram, a * a + b * b <= 1, torch.zeros_like(triangle)))
    return forms[kind, torch.arange(len(kind))]


def gallery(record, images: Tensor, labels: Tensor) -> None:
    fig, axis = panel("one image of each class", height=2.9)
    chosen = [images[(labels == label).nonzero()[0, 0]] for label in range(9)]
    rows = [
        torch.cat([F.pad(one, (1, 1, 1, 1), value=float("nan")) for one in chosen[at : at + 3]], 1) for at in (0, 3, 6)
    ]
    axis.imshow(torch.cat(rows), cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    axis.set_axis_off()
    record.figure(
        "shapes",
        fig,
        caption="Synthetic images, 32 × 32 pixels. Top row: a triangle, a parallelogram, an ellipse. Middle: two of the same. "
        "Bottom: two that differ. Position, size, shear, rotation and gray levels are random.",
        alt="Nine small images in a grid, each with one or two gray shapes on black.",
    )


# At initialization


def variances(record) -> None:
    """Measure n·Var[W] of a square matrix under both initializations."""
    for name, init in INITS.items():
        products = [WIDE * init(torch.empty(WIDE, WIDE), seed).double().var().item() for seed in range(SEEDS)]
        record.metric(f"n_variance_{name}", products, setting=f"weight {WIDE} × {WIDE}, {SEEDS} seeds")
    products = []
    for seed in range(SEEDS):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            products.append(WIDE * torch.nn.Linear(WIDE, WIDE).weight.double().var().item())
    record.metric(
        "n_variance_torch_linear", products, setting=f"torch.nn.Linear({WIDE}, {WIDE}) as made, {SEEDS} seeds"
    )


def draw(sizes: list[int], init: Callable, seed: int) -> list[Tensor]:
    """Return the weights [in, out] of consecutive layers; the numbers depend on the seed alone, their range on `init`."""
    pairs = enumerate(itertools.pairwise(sizes))
    return [init(torch.empty(after, before), 100 * seed + layer).T.contiguous() for layer, (before, after) in pairs]


def through_depth(record, x: Tensor, labels: Tensor) -> None:
    """Send images up and the gradient of their loss down, before any training."""
    functions: dict[str, Callable] = {
        "linear": lambda s: s,
        "tanh": torch.tanh,
        "softsign": method.softsign,
        "sigmoid": torch.sigmoid,
    }
    layers, rows = range(1, DEEP + 1), []
    forward_panel, forward_axis = panel("activations", "hidden layer", "standard deviation")
    backward_panel, backward_axis = panel("back-propagated gradient", "hidden layer", "standard deviation ÷ layer 5's")
    for number, (name, f) in enumerate(functions.items()):
        for init_name, init in INITS.items():
            runs = [spreads(f, draw([1024] + [WIDE] * DEEP + [9], init, seed), x, labels) for seed in range(SEEDS)]
            up, down = torch.tensor([one[0] for one in runs]), torch.tensor([one[1] for one in runs])
            for what, values in (("activation", up), ("gradient", down)):
                ratios = (values[:, -1] / values[:, 0]).tolist()
                record.metric(f"{what}_ratio_{name}_{init_name}", ratios, setting=f"last layer ÷ first; {AT_START}")
            style = {"color": SERIES[number], "ls": "-" if init_name == "normalized" else "--"}
            spread(forward_axis, layers, up, **style)
            spread(backward_axis, layers, down / down[:, -1:], **style)
            rows.append(
                {
                    "activation": name,
                    "initialization": init_name,
                    "activations, layer 5 ÷ 1": short((up[:, -1] / up[:, 0]).mean()),
                    "gradients, layer 5 ÷ 1": short((down[:, -1] / down[:, 0]).mean()),
                }
            )
            if name == "tanh":
                jacobians(record, init_name, init, x)
    for axis, heights in ((forward_axis, (1.27, 0.7, 0.45, 0.24)), (backward_axis, (1.0, 0.38, 0.17, 0.0027))):
        axis.set(yscale="log", xticks=layers, xlim=(-0.35, 5.2))
        for number, (name, height) in enumerate(zip(functions, heights, strict=True)):
            axis.text(0.85, height, name, color=SERIES[number], ha="right", va="center")
    backward_axis.plot([], [], color=FAINT, label="normalized")
    backward_axis.plot([], [], color=FAINT, ls="--", label="standard")
    backward_axis.legend(loc="lower right")
    record.figure(
        "spread",
        [forward_panel, backward_panel],
        caption="Spread by layer before training, standard initialization dashed, normalized solid. Left: the activations. "
        f"Right: the gradient of the loss at each layer's net input, relative to the top hidden layer. {AT_START}; "
        "bands, hardly visible, span the seeds.",
        alt="Two panels on a logarithmic axis over five layers: for each activation function a dashed line for the standard "
        "and a solid line for the normalized initialization; the dashed lines for tanh and softsign are steeper than the solid ones.",
    )
    record.table("spread", rows, caption=f"Ratio of standard deviations, mean of the seeds. {AT_START}.")


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def spreads(f: Callable, weights: list[Tensor], x: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """Return the standard deviation of z and of ∂Cost/∂s for each hidden layer, over images and units."""
    nets, outs = [], []
    for weight in weights[:-1]:
        nets.append((x @ weight).requires_grad_())
        x = f(nets[-1])
        outs.append(x)
    gradients = torch.autograd.grad(F.cross_entropy(x @ weights[-1], labels), nets)
    return [z.std().item() for z in outs], [g.std().item() for g in gradients]


def jacobians(record, name: str, init: Callable, x: Tensor) -> None:
    """Record the mean singular value of the square layers' Jacobians ∂z_{i+1}/∂z_i, at one image a seed."""
    means = []
    for seed in range(SEEDS):
        z, found = x[seed], []
        for number, weight in enumerate(draw([1024] + [WIDE] * DEEP, init, seed)):
            z = torch.tanh(z @ weight)
            if number:
                found.append(torch.linalg.svdvals(weight * (1 - z * z)).mean())
        means.append(torch.stack(found).mean().item())
    record.metric(f"singular_value_{name}", means, setting=f"tanh, mean of {DEEP - 1} layers of {WIDE}, {SEEDS} seeds")


# During training


def train(
    f: Callable, init: Callable, x: Tensor, labels: Tensor, updates: int, watch: int = 0, stretch: float = 1.0
) -> dict:
    """Train one network a seed, all at once: their losses, held-out errors, and each layer's activations over time.

    `stretch` multiplies the weights before f and, squared, the rate of whatever feeds f.
    """
    drawn = zip(*(draw([1024] + [UNITS] * HIDDEN + [9], init, seed) for seed in range(SEEDS)), strict=True)
    weights = [torch.stack(layer) * (stretch if n < HIDDEN else 1) for n, layer in enumerate(drawn)]
    biases = [torch.zeros(SEEDS, 1, weight.shape[2]) for weight in weights]
    parameters, test = [one.requires_grad_() for one in weights + biases], x[POOL:].expand(SEEDS, -1, -1)
    steps = ([-RATE * stretch**2] * HIDDEN + [-RATE]) * 2
    orders = zip(*(batches(seed) for seed in range(SEEDS)), strict=True)
    losses, moments = [], []
    for update in range(updates):
        if watch and update % watch == 0:
            with torch.no_grad():
                seen = layers(f, weights, biases, test[:, :LOOK])[:-1]
            moments.append([[z.mean((1, 2)).tolist(), z.std((1, 2)).tolist()] for z in seen])
        index = torch.stack(next(orders))
        outputs = layers(f, weights, biases, x[index])[-1]
        loss = F.cross_entropy(outputs.transpose(1, 2), labels[index], reduction="none").mean(1)
        gradients = torch.autograd.grad(loss.sum(), parameters)
        with torch.no_grad():
            torch._foreach_add_(parameters, torch._foreach_mul(gradients, steps))
        losses.append(loss.detach())
    with torch.no_grad():
        wrong = (layers(f, weights, biases, test)[-1].argmax(2) != labels[POOL:]).double().mean(1)
    return {"losses": torch.stack(losses, 1), "error": wrong.tolist(), "moments": torch.tensor(moments)}


def batches(seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from minibatches(POOL, BATCH, generator)


def layers(f: Callable, weights: list[Tensor], biases: list[Tensor], z: Tensor) -> list[Tensor]:
    """Return every layer's output [seed, image, unit]; the last one is not activated."""
    outs = []
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True), start=1):
        z = torch.baddbmm(bias, z, weight)
        z = z if number == len(weights) else f(z)
        outs.append(z)
    return outs


NETWORKS = {
    "tanh_standard": ("tanh", torch.tanh, "standard"),
    "softsign_standard": ("softsign", method.softsign, "standard"),
    "sigmoid_standard": ("sigmoid", torch.sigmoid, "standard"),
    "softsign": ("softsign", method.softsign, "normalized"),
    "late_sigmoid": ("σ(0.1x)", late_sigmoid, "normalized"),
    "sigmoid": ("sigmoid", torch.sigmoid, "normalized"),
    "tanh": ("tanh", torch.tanh, "normalized"),
    "centered_late_sigmoid": ("40(σ(0.1x) − ½)", centered_late_sigmoid, "normalized"),
}


def activations(record, x: Tensor, labels: Tensor) -> dict:
    """Train every network alike; draw those with normalized weights, and what softsign and the stretched sigmoid are."""
    found, rows = {}, []
    for key, (name, f, init) in NETWORKS.items():
        watched = key == "sigmoid_standard"
        found[key] = train(f, INITS[init], x, labels, LONG if watched else UPDATES, WATCH if watched else 0)
        final = found[key]["losses"][:, UPDATES - 100 : UPDATES].mean(1).tolist()
        if not watched:
            record.metric(f"error_{key}", found[key]["error"], setting=f"held-out error, {UPDATES} updates; {TRAINED}")
        record.metric(f"loss_{key}", final, setting=f"updates {UPDATES - 100} to {UPDATES}; {TRAINED}")
        errors = "–" if watched else " – ".join(f"{100 * one(found[key]['error']):.1f}" for one in (min, max))
        rows.append(
            {
                "activation": name,
                "initialization": init,
                "loss": short(sum(final) / SEEDS),
                "lowest – highest": f"{short(min(final))} – {short(max(final))}",
                "held-out error, %": errors,
            }
        )
    record.table("training", rows, caption=f"After {UPDATES} updates: loss over the last 100. {TRAINED}.")
    stretched = train(late_sigmoid, method.normalized_uniform_, x, labels, 100, stretch=10.0)["losses"]
    gaps = (stretched - found["sigmoid"]["losses"][:, :100]).abs().amax(1).tolist()
    record.metric("stretched_gap", gaps, setting=f"largest difference of the loss in 100 updates, float32; {TRAINED}")
    compare(record, found)
    return found


def compare(record, found: dict) -> None:
    curve_panel, curve_axis = panel("the functions", "x", "f(x)")
    loss_panel, loss_axis = panel("training", "update", "training loss")
    at = torch.linspace(-12, 12, 241)
    normalized = [(key, name, f) for key, (name, f, init) in NETWORKS.items() if init == "normalized"]
    places = {"softsign": (8, 0.4), "late_sigmoid": (-8, 0.48), "sigmoid": (-4.4, -0.35), "tanh": (-8, -1.35)}
    for number, (key, name, f) in enumerate(normalized):
        curve_axis.plot(at, f(at), color=SERIES[number])
        if key not in places:
            continue  # its loss would need another scale
        curve_axis.text(*places[key], name, color=SERIES[number], ha="center")
        losses = found[key]["losses"][:, :UPDATES].unflatten(1, (-1, 25)).mean(2)
        spread(loss_axis, torch.arange(12, UPDATES, 25), losses, SERIES[number])
        nudge = {"late_sigmoid": 0.03, "sigmoid": -0.03, "tanh": 0.03, "softsign": -0.03}[key]
        loss_axis.text(1.02 * UPDATES, losses[:, -1].mean() + nudge, name, color=SERIES[number], va="center")
    curve_axis.text(3.4, 1.55, "40(σ(0.1x) − ½)", color=SERIES[len(places)])
    curve_axis.set_ylim(-1.9, 1.9)
    loss_axis.set(xlim=(0, 1.28 * UPDATES), ylim=(1.75, 2.4))
    record.figure(
        "question",
        [curve_panel, loss_panel],
        caption="Softsign and what a later plateau alone would give. Left: five activation functions. Right, same colors: loss "
        "with normalized weights, averaged over 25 updates; line the mean of the seeds, band their range; the centered "
        f"form is left out, see the table. {TRAINED}.",
        alt="Left: five curves; σ(0.1x) is almost flat around one half, its centered form passes through zero as a straight "
        "line. Right: four loss curves over the updates.",
    )


def saturation(record, run: dict) -> None:
    """Draw the sigmoid network's activations over time (the paper's Figure 2)."""
    moments = run["moments"]  # [time, layer, mean or deviation, seed]
    at = torch.arange(0, LONG, WATCH)
    mean_panel, mean_axis = panel("mean activation", "update", "mean of a hidden layer")
    spread_panel, spread_axis = panel("spread", "update", "standard deviation of a hidden layer")
    for layer in range(HIDDEN):
        color = SERIES[HIDDEN - 1 - layer]
        spread(mean_axis, at, moments[:, layer, 0].T, color)
        spread(spread_axis, at, moments[:, layer, 1].T, color)
        name = f"layer {layer + 1}" + " (top)" * (layer + 1 == HIDDEN)
        heights = ((0.45, 0.122), (0.555, 0.062), (0.65, 0.1), (0.26, 0.023))[layer]
        mean_axis.text(LONG, heights[0], name, color=color, ha="right", va="center")
        spread_axis.text(LONG, heights[1], name, color=color, ha="right", va="center")
    mean_axis.set_ylim(0, 0.75)
    spread_axis.set_ylim(bottom=0)
    setting = f"after {LONG} updates; standard initialization, {TRAINED}"
    for layer in range(HIDDEN):
        record.metric(f"sigmoid_layer_{layer + 1}_mean", moments[-1, layer, 0].tolist(), setting=setting)
    record.metric("sigmoid_layer_4_start", moments[0, -1, 0].tolist(), setting="the same before training")
    lowest = moments[-1, :-1, 0].amin(0).tolist()
    record.metric("sigmoid_lowest_below_top", lowest, setting=f"lowest of layers 1 to {HIDDEN - 1} {setting}")
    record.figure(
        "saturation",
        [mean_panel, spread_panel],
        caption=f"A sigmoid network as it trains: mean and standard deviation of each hidden layer's activations over {LOOK} "
        f"held-out images and all units. Lines the mean of the seeds, bands their range. Standard initialization, {TRAINED}.",
        alt="Two panels over the updates. Left: the mean of the top hidden layer falls steadily from about one half, the layer "
        "below it rises, the two lowest stay. Right: the top layer's standard deviation shrinks.",
    )


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    return {"x": 3 * torch.randn(shape, dtype=dtype, device=device, generator=generator)}


def _bytes(arguments) -> int:
    return 2 * arguments["x"].numel() * arguments["x"].element_size()


def _weight(shape, dtype, device, seed):
    # the dtype apart, so that the twin's float64 copy of the weight draws the same numbers
    return {"weight": torch.ones(shape, dtype=dtype, device=device), "seed": 2**40 + 17 + seed, "dtype": dtype}


def _filled_by_torch(weight: Tensor, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.nn.init.xavier_uniform_(torch.empty_like(weight, dtype=dtype))


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
KERNELS = (
    Kernel(
        name="softsign",
        op=kernel.softsign,
        twin=method.softsign,
        inputs=_inputs,
        bytes_moved=_bytes,
        operations=lambda arguments: 3 * arguments["x"].numel(),  # |x|, add, divide
        bench_shapes=((128 * 1024 * 1024,),),
        dtypes=DTYPES,
        differentiable=("x",),
        backward_bytes=lambda arguments: _bytes(arguments) * 3 // 2,  # dL/dy and x in, dL/dx out
        oracle="method.softsign in float64; F.softsign in the tests",
        eager=F.softsign,
    ),
    Kernel(
        name="normalized_uniform",
        op=kernel.normalized_uniform_like,
        twin=method.normalized_uniform_like,
        inputs=_weight,
        bytes_moved=lambda arguments: arguments["weight"].numel() * arguments["dtype"].itemsize,  # written, never read
        operations=lambda arguments: 29 * arguments["weight"].numel(),  # ten Philox rounds of ten by four; scale, clamp
        shapes=((1, 1), (0, 3), (3, 0), (7, 5), (31, 33), (32, 64), (41, 100)),
        bench_shapes=((8192, 16384),),
        dtypes=DTYPES,
        exact=True,
        special=(),
        vectorised=False,  # nothing is loaded: the stores are wide
        oracle="method.normalized_uniform_, the same generator in plain torch, bit for bit",
        eager=_filled_by_torch,
    ),
)
