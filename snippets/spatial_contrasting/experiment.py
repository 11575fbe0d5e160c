"""Spatial contrasting measured: what pretraining on unlabelled digits is worth by labels, and what a large batch costs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from generator.lab.data import digits
from generator.lab.figures import FAINT, INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import error_rate, fit, minibatches
from snippets.spatial_contrasting import kernel, method

SEEDS, EPOCHS, BATCH = 3, 8, 128
LABELS = (20, 50, 100, 500, 1340)
FEW, MANY = LABELS[0], LABELS[-1]
TUNED, SMALL = 100, 32
"""Labels for fine-tuning, and the size of its minibatches."""
STEPS = {TUNED: 60, MANY: 100}
SIZE, PATCH, CHANNELS = 8, 5, 32
MAP = SIZE - PATCH + 1
SETTING = f"2 conv layers with BN, 5×5 patches, {EPOCHS} epochs of batch {BATCH} without labels, {SEEDS} seeds"
WIDTH = 128
"""Features a row, where the cost of a batch is counted."""


def run(record) -> None:
    """Record accuracy by number of labels, the distances learned, and loss and memory as the batch grows."""
    results, trained = {}, {}
    for name, source in (("digits", digits), ("textures", textures)):
        results[name], trained[name] = measure(source)
        report(record, name, results[name])
    record.table("labels", rows(results), caption=f"Test accuracy in %, means of {SEEDS} seeds. {SETTING}.")
    accuracy(record, results)
    examples(record, trained)
    distances(record, trained)
    scale(record, trained)


def textures(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return noisy gratings in ten directions, as many and as large as the digits: every patch shows its image's class."""
    generator = torch.Generator().manual_seed(seed)
    count, held_out = 1797, 449
    y = torch.randint(10, (count,), generator=generator)
    phase, contrast = torch.rand(2, count, 1, 1, generator=generator)
    angle = (y * math.pi / 10).view(-1, 1, 1)
    row, column = torch.arange(SIZE).view(-1, 1), torch.arange(SIZE)
    wave = torch.sin(2 * math.pi * ((row * angle.sin() + column * angle.cos()) / 4 + phase))
    x = (0.5 + 0.5 * contrast) * wave + 0.3 * torch.randn(count, SIZE, SIZE, generator=generator)
    x = x.flatten(1)
    return x[held_out:], y[held_out:], x[:held_out], y[:held_out]


def encoder(seed: int) -> nn.Sequential:
    """Return two convolutions whose [4, 4] map has a 5×5 patch of the 8×8 image behind each place."""
    torch.manual_seed(seed)
    first, second = nn.Conv2d(1, 16, 3), nn.Conv2d(16, CHANNELS, 3)
    return nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(), second, nn.BatchNorm2d(CHANNELS), nn.ReLU())


def sample(count: int, generator: torch.Generator) -> Tensor:
    """Return two different places of the map for each image."""
    return torch.rand(count, MAP * MAP, generator=generator).argsort(1)[:, :2]


def patches(features: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the features of two places of each image's map (Algorithm 1 samples in feature space)."""
    places = sample(len(features), generator)
    chosen = features.flatten(2).gather(2, places[:, None].expand(-1, CHANNELS, -1))
    return chosen[..., 0], chosen[..., 1]


def pretrain(images: Tensor, seed: int) -> nn.Sequential:
    """Return an encoder trained on images alone, by the loss between two patches of each."""
    network = encoder(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, fused=True)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for index in minibatches(len(images), BATCH, generator):
            optimizer.zero_grad(set_to_none=True)
            method.spatial_contrasting_loss(*patches(network(images[index]), generator)).backward()
            optimizer.step()
    return network


@torch.no_grad()
def spatial(network: nn.Module, images: Tensor) -> Tensor:
    """Return the feature map [image, channel, 4, 4] in evaluation mode."""
    return network.eval()(images)


def balanced(y: Tensor, count: int) -> Tensor:
    """Return the indices of the first count / 10 samples of each class; of all there are, where a class has fewer."""
    return torch.cat([(y == one).nonzero()[: count // 10, 0] for one in range(10)])


def probe(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor) -> float:
    """Return the test accuracy of ridge regression from standardized frozen features to one-hot labels."""
    mean, deviation = x.mean(0), x.std(0) + 1e-3
    x, test_x = ((one - mean) / deviation for one in (x, test_x))
    target = F.one_hot(y, 10).float()
    offset = target.mean(0)
    weight = torch.linalg.solve(x.T @ x + 0.1 * len(x) * torch.eye(x.shape[1]), x.T @ (target - offset))
    return 100 * ((test_x @ weight + offset).argmax(1) == test_y).double().mean().item()


def fine_tune(start: nn.Sequential, data: tuple[Tensor, ...], count: int, seed: int) -> float:
    """Return the test accuracy after training all layers and a new linear one on `count` labels."""
    x, y, test_x, test_y = data
    torch.manual_seed(seed)
    network = nn.Sequential(encoder(seed), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10))
    network[0].load_state_dict(start.state_dict())
    chosen = balanced(y, count)
    rate, epochs = 1e-2, round(STEPS[count] / (len(chosen) // SMALL))
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, fused=True)

    def cool(epoch: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - (epoch + 1) / epochs)

    fit(
        network,
        x[chosen],
        y[chosen],
        optimizer=optimizer,
        epochs=epochs,
        batch=SMALL,
        seed=seed,
        after_epoch=cool,
    )
    return 100 * (1 - error_rate(network, test_x, test_y))


def measure(source) -> tuple[dict[str, list], tuple]:
    """Return every accuracy, a seed at a time, and the last seed's encoders with its test images."""
    found: dict[str, list] = {}
    for seed in range(SEEDS):
        x, y, test_x, test_y = source(seed)
        data = x.view(-1, 1, SIZE, SIZE), y, test_x.view(-1, 1, SIZE, SIZE), test_y
        networks = {"random": encoder(seed), "pretrained": pretrain(data[0], seed)}
        found.setdefault("ceiling", []).append(fine_tune(networks["random"], data, MANY, seed))
        for name, network in networks.items():
            found.setdefault(f"tuned_{name}", []).append(fine_tune(network, data, TUNED, seed))
            features, test_features = (spatial(network, data[n]).mean((2, 3)) for n in (0, 2))
            picked = [balanced(y, count) for count in LABELS]
            accuracies = [probe(features[p], y[p], test_features, test_y) for p in picked]
            found.setdefault(f"probe_{name}", []).append(accuracies)
    return found, (networks["random"], networks["pretrained"], data[2])


def amount(count: int) -> str:
    return "all" if count == MANY else str(count)


def report(record, data: str, found: dict[str, list]) -> None:
    setting = f"{data}, {SETTING}"
    record.metric(f"{data}_ceiling", found["ceiling"], unit="%", setting=f"all layers, all labels; {setting}")
    for name in ("random", "pretrained"):
        key = f"{data}_tuned_{name}_{TUNED}"
        record.metric(key, found[f"tuned_{name}"], unit="%", setting=f"all layers, {TUNED} labels; {setting}")
        for n, count in enumerate(LABELS):
            values = [one[n] for one in found[f"probe_{name}"]]
            where = f"linear probe, {amount(count)} labels; {setting}"
            record.metric(f"{data}_probe_{name}_{amount(count)}", values, unit="%", setting=where)
    for n, count in enumerate(LABELS):
        pairs = zip(found["probe_pretrained"], found["probe_random"], strict=True)
        where = f"linear probe, pretrained minus random, {amount(count)} labels; {setting}"
        record.metric(f"{data}_gain_{amount(count)}", [a[n] - b[n] for a, b in pairs], unit="points", setting=where)


def rows(results: dict[str, dict[str, list]]) -> list[dict[str, object]]:
    def mean(values) -> str:
        return f"{sum(values) / SEEDS:.1f}"

    table = []
    for data, found in results.items():
        for n, count in enumerate(LABELS):
            random, trained = ([one[n] for one in found[f"probe_{name}"]] for name in ("random", "pretrained"))
            table.append((data, "linear probe", amount(count), mean(random), mean(trained)))
        tuned = (mean(found[f"tuned_{name}"]) for name in ("random", "pretrained"))
        table.append((data, "all layers", str(TUNED), *tuned))
        table.append((data, "all layers", "all", mean(found["ceiling"]), "–"))
    return [dict(zip(("data", "trained", "labels", "random", "pretrained"), row, strict=True)) for row in table]


def accuracy(record, results: dict[str, dict[str, list]]) -> None:
    panels = []
    for data, found in results.items():
        fig, axis = panel(data, "labels", "test accuracy of a linear probe, %", height=3.1)
        ceiling = sum(found["ceiling"]) / SEEDS
        axis.axhline(ceiling, color=INK, lw=1, ls="--", label="all layers, all labels")
        for name, color in (("pretrained", SERIES[0]), ("random", SERIES[1])):
            spread(axis, LABELS, found[f"probe_{name}"], color, marker="o", ms=4, label=f"{name} encoder")
        axis.set_xscale("log")
        axis.set_xticks(LABELS, [str(count) for count in LABELS])
        axis.minorticks_off()
        axis.set_ylim(0, 104)
        axis.legend(loc="lower right")
        panels.append(fig)
    record.figure(
        "labels",
        panels,
        caption="Accuracy of a linear classifier on frozen, average-pooled features, by the number of labels: digits on the left, "
        f"textures on the right. Lines are means, bands lowest to highest; dashed, full supervision. {SETTING}.",
        alt="Two panels against 20 to 1340 labels, one for digits and one for textures, each with a line for the pretrained and "
        "for the random encoder, and a dashed line for the fully supervised network.",
    )


def examples(record, trained: dict[str, tuple]) -> None:
    panels = []
    for data, (_, _, images) in trained.items():
        fig, axis = panel(data, height=2.3)
        shown = F.pad(images[:8, 0], (0, 1, 0, 1), value=math.nan).view(2, 4, SIZE + 1, SIZE + 1)
        axis.imshow(shown.transpose(1, 2).reshape(2 * (SIZE + 1), -1), cmap="viridis")
        for n, places in enumerate(sample(8, torch.Generator().manual_seed(0)).tolist()):
            for place, color in zip(places, SERIES[1:4:2], strict=True):
                at = (n % 4 * (SIZE + 1) + place % MAP - 0.5, n // 4 * (SIZE + 1) + place // MAP - 0.5)
                axis.add_patch(Rectangle(at, PATCH, PATCH, fill=False, color=color, lw=2))
        axis.axis("off")
        panels.append(fig)
    record.figure(
        "patches",
        panels,
        caption="Eight test images of each data set, and the two patches sampled in each: anchor orange, positive purple. "
        "A patch of a texture shows which texture it is; a patch of a digit shows a stroke.",
        alt="Two rows of four small images, digits on the left and striped textures on the right, each with two outlined squares.",
    )


def distances(record, trained: dict[str, tuple]) -> None:
    """Show who is nearest to whom among the patches of 16 test images, after training; count it, also before."""
    panels = []
    for data, (random, network, images) in trained.items():
        for name, one in (("random", random), ("pretrained", network)):
            anchor, positive = patches(spatial(one, images[:BATCH]), torch.Generator().manual_seed(0))
            gap = torch.cdist(anchor, positive, compute_mode="donot_use_mm_for_euclid_dist")
            hits = (gap.argmin(1) == torch.arange(BATCH)).double().mean().item()
            setting = f"own positive nearest of {BATCH}, {data}, test images, seed {SEEDS - 1}"
            record.metric(f"{data}_found_{name}", 100 * hits, unit="%", setting=setting)
        fig, axis = panel(data, "positive of image", "anchor of image", height=3.1)
        axis.grid(False)
        mesh = axis.pcolormesh(gap[:16, :16], cmap="viridis", rasterized=True)
        axis.set(aspect="equal")
        axis.set_xticks([0.5, 8.5, 15.5], ["0", "8", "15"])
        axis.set_yticks([0.5, 8.5, 15.5], ["0", "8", "15"])
        axis.invert_yaxis()
        fig.colorbar(mesh, ax=axis, label="distance")
        panels.append(fig)
    record.figure(
        "distances",
        panels,
        caption="After pretraining: distances between one patch of each of 16 test images (rows) and another patch of each "
        f"(columns), last of {SEEDS} seeds. The loss wants a dark diagonal, two patches of one image close together.",
        alt="Two heat maps of 16 by 16 distances between features of patches, digits on the left and textures on the right.",
    )


def kept_bytes(loss, batch: int) -> int:
    """Return the bytes that autograd keeps between forward and backward, each storage once; nothing is allocated."""
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage._cdata] = storage.nbytes()
        held.append(tensor)  # alive, so that no other storage takes its place
        return tensor

    held: list[Tensor] = []
    anchor, positive = (torch.empty(batch, WIDTH, device="meta", requires_grad=True) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = loss(anchor, positive)
        del out
    return sum(seen.values())


def scale(record, trained: dict[str, tuple]) -> None:
    """Follow the loss and the memory as the batch grows."""
    left, loss_axis = panel("loss", "batch N", "loss, nats", height=3.0)
    sizes = (2, 4, 8, 16, 32, 64, 128, 256, 448)
    loss_axis.plot(sizes, [math.log(n) for n in sizes], color=INK, lw=1, ls="--", label="log N")
    for (data, (random, network, images)), color in zip(trained.items(), SERIES[:2], strict=True):
        for name, one in (("random", random), ("pretrained", network)):
            features = spatial(one, images[: sizes[-1]])
            losses = [batch_loss(features, n) for n in sizes]
            if name == "random":  # both lie on log N: a broad band under its line
                loss_axis.plot(sizes, losses, color=FAINT, lw=5, alpha=0.35, label="_" * (data != "digits") + "random")
            else:
                loss_axis.plot(sizes, losses, color=color, marker="o", ms=4, label=f"{data}, pretrained")
            for n in (sizes[4], sizes[-1]):
                known = math.log(n) - losses[sizes.index(n)]
                setting = f"log N − loss, N = {n}, {data}, test images, seed {SEEDS - 1}"
                record.metric(f"{data}_known_{name}_{n}", known, unit="nats", setting=setting)
    loss_axis.set_xscale("log", base=2)
    loss_axis.legend(fontsize=7.5)
    right, axis = panel("memory kept for the backward", "batch N", "bytes", height=3.0)
    sizes = [2**n for n in range(8, 18)]
    losses = {
        "naive": method.spatial_contrasting_loss,
        "kernel": lambda *pair: kernel._spatial_contrasting_op(*pair)[0],
    }
    rows = {}
    for (name, loss), color in zip(losses.items(), (SERIES[1], SERIES[0]), strict=True):
        rows[name] = [kept_bytes(loss, n) for n in sizes]
        axis.plot(sizes, rows[name], color=color, marker="o", ms=4, label={"naive": "plain torch"}.get(name, name))
        setting = f"kept bytes from N = {sizes[-2]} to {sizes[-1]}, {WIDTH} features, fp32"
        record.metric(f"{name}_growth", rows[name][-1] / rows[name][-2], setting=setting)
        for n in (4096, 65536):
            record.metric(
                f"{name}_kept_{n}",
                rows[name][sizes.index(n)] / 2**20,
                unit="MiB",
                setting=f"N = {n}, {WIDTH} features, fp32",
            )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xticks([2**8, 2**11, 2**14, 2**17], ["256", "2,048", "16,384", "131,072"])
    axis.set_yticks([2**20, 2**25, 2**30, 2**35], ["1 MiB", "32 MiB", "1 GiB", "32 GiB"])
    axis.legend()
    record.figure(
        "scale",
        [left, right],
        caption=f"As the batch grows. Left: the loss on test images; features that know nothing score log N (grey band: random encoders). Right: bytes that "
        f"autograd keeps for the backward with {WIDTH} fp32 features, counted from tensor shapes, for the loss in plain torch "
        "and for the kernel.",
        alt="Two panels against batch size. Left: log N rises as a dashed line, and the losses of random and pretrained encoders rise with it. Right: on log axes "
        "the line of plain torch climbs twice as steeply as the kernel's.",
    )


def batch_loss(features: Tensor, size: int) -> float:
    """Return the mean loss over the disjoint batches of a size, between fresh places of each map."""
    generator = torch.Generator().manual_seed(size)
    batches = [features[at : at + size] for at in range(0, len(features) - size + 1, size)]
    return sum(method.spatial_contrasting_loss(*patches(one, generator)).item() for one in batches) / len(batches)


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    draw = lambda: torch.randn(shape, dtype=dtype, device=device, generator=generator)  # noqa: E731
    anchor = draw()
    return {"anchor": anchor, "positive": (anchor + draw()).to(dtype)}


def _operations(arguments) -> int:
    batch, features = arguments["anchor"].shape
    return 3 * batch * batch * features + 6 * batch * batch  # subtract, multiply, add; root, exponential, sums


def _quick(anchor: Tensor, positive: Tensor) -> Tensor:
    """Distances by a matrix product, as torch takes them by default: fast, and inexact far from the origin."""
    return F.cross_entropy(-torch.cdist(anchor, positive), torch.arange(len(anchor), device=anchor.device))


KERNELS = (
    Kernel(
        name="spatial_contrasting_loss",
        op=kernel.spatial_contrasting_loss,
        twin=method.spatial_contrasting_loss,
        inputs=_inputs,
        bytes_moved=lambda arguments: 2 * arguments["anchor"].numel() * arguments["anchor"].element_size(),
        operations=_operations,
        shapes=((0, 3), (1, 1), (2, 0), (5, 7), (35, 3)),
        bench_shapes=((8192, 128),),
        compile_shape=(16, 16),
        dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        differentiable=("anchor", "positive"),
        backward_bytes=lambda arguments: 4 * arguments["anchor"].numel() * arguments["anchor"].element_size(),
        reduction=lambda arguments: max(1, arguments["anchor"].shape[0]),
        oracle="torch.cdist without its matrix product, and F.cross_entropy, in float64",
        eager=_quick,
        vectorised=False,  # 16 bytes on NVIDIA; AMD's wider wavefront reads an element a thread
    ),
)
