"""A small DCGAN on 8 × 8 digits: samples, a latent walk, latent arithmetic, strided against pooled, features for an SVM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generator.lab.data import digits
from generator.lab.figures import FAINT, SERIES, panel
from generator.lab.kernels import Kernel
from generator.lab.train import minibatches
from snippets.dcgan import kernel, method

LATENT, WIDTH, BATCH, EPOCHS, SEEDS = 16, 16, 64, 6, 3
RATE, BETAS, LEAK, SPREAD = 1e-3, (0.5, 0.999), 0.2, 0.02
SETTING = f"digits, {EPOCHS} epochs of batches of {BATCH}, {SEEDS} seeds"
PAIRS, STEPS = 50, 100
LABELS, C = 300, 0.1
CROWD, TAIL, TRIALS = 1000, 50, 200


def run(record) -> None:
    """Record the feature count, then train both kinds of GAN once a seed and ask each question of them."""
    feature_count(record)
    gans = {kind: [train(seed, pooled=kind == "pooled") for seed in range(SEEDS)] for kind in ("strided", "pooled")}
    generators = [generator for generator, _, _ in gans["strided"]]
    samples(record, gans["strided"][0])
    walk(record, generators)
    arithmetic(record, generators)
    compare(record, gans)


class Generator(nn.Module):
    """z, projected to 2 × 2, then two transposed convolutions to 8 × 8; batch normalization in all but the last."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(LATENT, 2 * WIDTH * 4, bias=False)
        self.first, self.second = nn.BatchNorm2d(2 * WIDTH), nn.BatchNorm2d(WIDTH)
        self.up = nn.ConvTranspose2d(2 * WIDTH, WIDTH, 4, stride=2, padding=1, bias=False)
        self.image = nn.ConvTranspose2d(WIDTH, 1, 4, stride=2, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = F.relu(self.first(self.project(z).view(-1, 2 * WIDTH, 2, 2)))
        return torch.tanh(self.image(F.relu(self.second(self.up(h)))))

    @torch.no_grad()
    def sample(self, z: Tensor) -> Tensor:
        """Return images by the fused layer: trained, batch normalization is a scale and a shift a channel."""
        scale = self.second.weight / (self.second.running_var + self.second.eps).sqrt()
        shift = self.second.bias - scale * self.second.running_mean
        h = F.relu(self.first.eval()(self.project(z).view(-1, 2 * WIDTH, 2, 2)))
        return torch.tanh(self.image(method.conv_transpose(h, self.up.weight, scale, shift)))


class Discriminator(nn.Module):
    """Two layers that halve the image, by stride or by max pooling, then one logit; no normalization on the input layer."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()

        def halve(inputs: int, outputs: int) -> nn.Module:
            if pooled:
                return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.MaxPool2d(2))
            return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)

        self.first, self.second = halve(1, WIDTH), halve(WIDTH, 2 * WIDTH)
        self.norm, self.logit = nn.BatchNorm2d(2 * WIDTH), nn.Linear(2 * WIDTH * 4, 1)

    def layers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.leaky_relu(self.first(x), LEAK)
        return h, F.leaky_relu(self.norm(self.second(h)), LEAK)

    def forward(self, x: Tensor) -> Tensor:
        return self.logit(self.layers(x)[1].flatten(1)).squeeze(1)


def initialize(module: nn.Module) -> nn.Module:
    """Draw weights from N(0, 0.02²), as the paper does, and a normalization's scale around 1."""
    for one in module.modules():
        if isinstance(one, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(one.weight, 0.0, SPREAD)
        elif isinstance(one, nn.BatchNorm2d):
            nn.init.normal_(one.weight, 1.0, SPREAD)
    return module


def latent(count: int, seed: int) -> Tensor:
    return 2 * torch.rand(count, LATENT, generator=torch.Generator().manual_seed(seed)) - 1


def images(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return digits as images in −1..1, with their labels."""
    x, y, test_x, test_y = digits(seed)
    return 2 * x.view(-1, 1, 8, 8) - 1, y, 2 * test_x.view(-1, 1, 8, 8) - 1, test_y


def train(seed: int, pooled: bool) -> tuple[Generator, Discriminator, list[Tensor]]:
    """Play the game: a step of D, a step of G for −log D; return both, and samples of the same z before and during."""
    torch.manual_seed(seed)
    g, d = initialize(Generator()), initialize(Discriminator(pooled))
    of_g, of_d = (torch.optim.Adam(one.parameters(), lr=RATE, betas=BETAS, fused=True) for one in (g, d))
    x, draws = images(seed)[0], torch.Generator().manual_seed(100 + seed)
    fixed = latent(8, 1000 + seed)
    kept = [g.sample(fixed)]
    for epoch in range(EPOCHS):
        g.train()
        for index in minibatches(len(x), BATCH, draws):
            fake = g(2 * torch.rand(BATCH, LATENT, generator=draws) - 1)
            loss = F.softplus(-d(x[index])).mean() + F.softplus(d(fake.detach())).mean()
            of_d.zero_grad(set_to_none=True)
            loss.backward()
            of_d.step()
            of_g.zero_grad(set_to_none=True)
            F.softplus(-d(fake)).mean().backward()
            of_g.step()
        if epoch in (0, 2, EPOCHS - 1):
            kept.append(g.sample(fixed))
    return g.eval(), d.eval(), kept


def feature_count(record) -> None:
    """Send an empty image through three discriminators on the meta device and count what pooling to 4 × 4 leaves."""
    released = (128, 128, 256, 256, 512, 512), (1, 2) * 3, 32
    nets = {
        "the authors' released ImageNet model": released,
        "figure 1's generator mirrored": ((128, 256, 512, 1024), (2,) * 4, 64),
        "the same, from 64 channels": ((64, 128, 256, 512), (2,) * 4, 64),
    }
    rows, counts = [], []
    for name, (widths, strides, side) in nets.items():
        h, layers = torch.empty(1, 3, side, side, device="meta"), []
        for width, stride in zip(widths, strides, strict=True):
            h = nn.Conv2d(h.shape[1], width, 3, stride, padding=1, device="meta")(h)
            layers.append(h)
        counts.append(method.pooled_features(layers).shape[1])
        rows.append(
            {
                "discriminator": name,
                "image": f"{side} × {side}",
                "widths": ", ".join(map(str, widths)),
                "channels": sum(widths),
                "features": counts[-1],
            }
        )
    record.metric("features", counts[0], setting="the released ImageNet discriminator, shapes only")
    record.metric("features_mirrored", counts[1], setting="figure 1's generator mirrored, shapes only")
    record.table("features", rows, caption="Every layer max-pooled to 4 × 4 and concatenated: 16 numbers a channel.")


def sheet(title: str, rows: list[Tensor], labels: list[str]):
    """Draw rows of images [n, 1, 8, 8] in one panel, a label before each."""
    fig, axis = panel(title, height=0.36 * len(rows) + 0.5)
    strip = torch.stack([F.pad(row[:, 0], (0, 1, 0, 1), value=-1).permute(1, 0, 2).flatten(1) for row in rows])
    axis.imshow(strip.flatten(0, 1), cmap="viridis", vmin=-1, vmax=1, aspect="equal", interpolation="nearest")
    axis.set_yticks([9 * n + 4 for n in range(len(rows))], labels)
    axis.set_xticks([])
    axis.grid(visible=False)
    for side in axis.spines.values():
        side.set_visible(False)
    return fig


def samples(record, gan: tuple[Generator, Discriminator, list[Tensor]]) -> None:
    g, _, kept = gan
    z = latent(64, 5)
    with torch.no_grad():
        apart = (g(z) - g.sample(z)).abs().max().item()
    record.metric("fused_error", apart, setting="64 samples in float32, fused layer against three separate ones")
    real = images(0)[0][:8]
    record.figure(
        "samples",
        sheet(
            "the same eight z during training",
            [*kept, real],
            ["start", "1 epoch", "3 epochs", f"{EPOCHS} epochs", "real"],
        ),
        caption=f"Samples of eight latent vectors, before training and after 1, 3 and {EPOCHS} epochs, above eight real digits. "
        "Strided discriminator, first seed.",
        alt="Five rows of eight small images: flat at the start, then blobs, then strokes that look like digits; the last row "
        "shows real digits.",
    )


def walk(record, generators: list[Generator]) -> None:
    """Walk straight between pairs of z; a memorizer would show one training image, then jump to the next."""
    shares, jumps, drawn = [], [], None
    t = torch.linspace(0, 1, STEPS + 1)[:, None, None]
    for seed, g in enumerate(generators):
        ends, train_x = latent(2 * PAIRS, 2000 + seed).view(2, PAIRS, LATENT), images(seed)[0].flatten(1)
        path = g.sample(((1 - t) * ends[0] + t * ends[1]).flatten(0, 1)).flatten(1)
        nearest = train_x[torch.cdist(path, train_x).argmin(1)]
        steps = [one.view(STEPS + 1, PAIRS, 64).diff(dim=0).norm(dim=2) for one in (path, nearest)]
        ends_apart = (path.view(STEPS + 1, PAIRS, 64)[-1] - path.view(STEPS + 1, PAIRS, 64)[0]).norm(dim=1)
        shares.append((steps[0].amax(0) / ends_apart).max().item())
        jumps.append((steps[1].amax(0) / ends_apart).median().item())
        if drawn is None:
            drawn = [one.view(STEPS + 1, PAIRS, 1, 8, 8)[:, 0] for one in (path, nearest)], [one[:, 0] for one in steps]
    setting = f"{PAIRS} walks of {STEPS} steps, strided, {SETTING}"
    record.metric("largest_step", shares, setting=f"share of the distance of the ends, worst of {setting}")
    record.metric("nearest_jump", jumps, setting=f"the same for the nearest training images, median of {setting}")
    (path, nearest), steps = drawn
    tenth = slice(0, STEPS + 1, STEPS // 10)
    fig, axis = panel("how far each step goes", "step of the walk", "pixel distance")
    axis.plot(range(1, STEPS + 1), steps[1], color=FAINT, lw=1)
    axis.plot(range(1, STEPS + 1), steps[0], color=SERIES[0])
    axis.set_yscale("symlog", linthresh=0.1)
    record.figure(
        "walk",
        [sheet("a walk in latent space", [path[tenth], nearest[tenth]], ["G(z)", "nearest"]), fig],
        caption=f"One straight walk, first seed. Left: every tenth of its {STEPS} steps, and below each image its nearest "
        "training digit. Right: the pixel distance of each step, generator in blue, nearest training digits in grey, which stay "
        "and jump.",
        alt="Left: a row of generated digits changing gradually above a row of training digits. Right: the generator's steps "
        "are a low smooth curve; those of the nearest training digits are 0 with tall spikes.",
    )


def ink(x: Tensor) -> Tensor:
    return (x.flatten(1).mean(1) + 1) / 2


def arithmetic(record, generators: list[Generator]) -> None:
    """Add mean z(much ink) − mean z(little ink) to fresh z, with 1 and with 3 examples on either side."""
    shares: dict[str, list[float]] = {"1": [], "3": [], "random": []}
    rows = None
    for seed, g in enumerate(generators):
        crowd, fresh = latent(CROWD, 3000 + seed), latent(TRIALS, 4000 + seed)
        order = ink(g.sample(crowd)).argsort()
        draws = torch.Generator().manual_seed(seed)
        picks = torch.rand(2, TRIALS, TAIL, generator=draws).argsort(-1)[..., :3]  # other examples for every trial
        thick, thin = crowd[order[-TAIL:]][picks[0]], crowd[order[:TAIL]][picks[1]]
        moves = {"1": thick[:, 0] - thin[:, 0], "3": thick.mean(1) - thin.mean(1)}
        wild = torch.randn(TRIALS, LATENT, generator=draws)
        moves["random"] = wild / wild.norm(dim=1, keepdim=True) * moves["3"].norm(dim=1, keepdim=True)
        for name, move in moves.items():  # half of it either way: leaving the cube of z alone adds ink
            more, less = ink(g.sample(fresh + move / 2)), ink(g.sample(fresh - move / 2))
            shares[name].append((more > less).float().mean().item())
        if rows is None:
            rows = [g.sample(fresh[:8] + part * moves["3"][:8]) for part in (-0.5, -0.25, 0, 0.25, 0.5)]
    setting = f"{TRIALS} fresh z, examples from the {TAIL} extremes of {CROWD} samples, strided, {SETTING}"
    for name, value in shares.items():
        record.metric(f"ink_rises_{name}", value, setting=setting)
    record.figure(
        "arithmetic",
        sheet("ink by arithmetic", rows, ["− ½ move", "− ¼ move", "z", "+ ¼ move", "+ ½ move"]),
        caption="Eight fresh z in the middle row. The move is the mean z of three samples with much ink minus that of three with "
        "little; a quarter and a half of it are added downwards and taken away upwards. First seed.",
        alt="Five rows of eight generated digits; each column keeps its shape, and its brightness changes a little from row to row.",
    )


def frechet(a: Tensor, b: Tensor) -> float:
    """Return the squared Fréchet distance of two Gaussians with the moments of a and b [n, pixel]."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    values, vectors = torch.linalg.eigh(a.T.cov())
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.T.cov() @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace() - 2 * cross).item()


def accuracy(features, data: tuple[Tensor, Tensor, Tensor, Tensor]) -> float:
    """Return a linear SVM's accuracy on features, standardized by the labelled images."""
    from sklearn.svm import LinearSVC

    x, y, test_x, test_y = data
    with torch.no_grad():
        near, far = features(x[:LABELS]), features(test_x)
    mean, deviation = near.mean(0), near.std(0) + 1e-6
    machine = LinearSVC(C=C, random_state=0).fit(((near - mean) / deviation).numpy(), y[:LABELS].numpy())
    return machine.score(((far - mean) / deviation).numpy(), test_y.numpy())


def compare(record, gans) -> None:
    """Judge samples by their Fréchet distance to held-out digits, and discriminators by an SVM on their features."""
    found: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        data = images(seed)
        torch.manual_seed(50 + seed)
        ways = {
            "strided": gans["strided"][seed],
            "pooled": gans["pooled"][seed],
            "untrained": (None, initialize(Discriminator(pooled=False)).eval(), None),
        }
        for name, (g, d, _) in ways.items():
            if g is not None:
                found.setdefault(f"frechet_{name}", []).append(frechet(g.sample(latent(CROWD, 6000 + seed)), data[2]))
            score = accuracy(lambda x, d=d: method.pooled_features(d.layers(x), grid=2), data)
            found.setdefault(f"svm_{name}", []).append(score)
        found.setdefault("frechet_real", []).append(frechet(data[0][:CROWD], data[2]))
        found.setdefault("svm_pixels", []).append(accuracy(lambda x: x.flatten(1), data))
    for name, values in found.items():
        what = f"{CROWD} samples" if "frechet" in name else f"linear SVM, {LABELS} labels"
        record.metric(name, values, setting=f"{what}, {SETTING}")
    rows = []
    for name, title in (
        ("strided", "strided discriminator"),
        ("pooled", "pooled discriminator"),
        ("untrained", "strided, untrained"),
        ("pixels", "raw pixels"),
        ("real", "real digits"),
    ):
        row = {"what": title}
        for column, key, form in (("SVM accuracy", "svm", ".1%"), ("Fréchet distance of samples", "frechet", ".2f")):
            values = found.get(f"{key}_{name}")
            row[column] = f"{min(values):{form}} to {max(values):{form}}" if values else "–"
        rows.append(row)
    record.table(
        "compare",
        rows,
        caption=f"Lowest to highest of {SEEDS} seeds. Accuracy of a linear SVM with {LABELS} labels on held-out digits; Fréchet "
        f"distance in pixel space between {CROWD} images and the held-out digits. {SETTING}.",
    )


def _inputs(shape, dtype, device, seed):
    """Return inputs for shape = (batch, in, out, height, width); where channels fill a load, x lies channels-last."""
    batch, channels, outs, height, width = shape
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*size):
        return torch.randn(size, dtype=dtype, device=device, generator=generator)

    layout = torch.contiguous_format if channels % 16 else torch.channels_last
    return {
        "x": draw(batch, channels, height, width).to(memory_format=layout),
        "weight": draw(channels, outs, 4, 4) / (2 * channels**0.5),
        "scale": draw(outs),
        "shift": draw(outs),
    }


def _bytes(arguments) -> int:
    x, weight = arguments["x"], arguments["weight"]
    outs = weight.shape[1]
    return (x.numel() * (1 + 4 * outs / x.shape[1]) + weight.numel() + 2 * outs).__ceil__() * x.element_size()


def _operations(arguments) -> int:
    x, outs = arguments["x"], arguments["weight"].shape[1]
    return 32 * x.numel() * outs  # 16 taps, a multiplication and an addition each


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
KERNELS = (
    Kernel(
        name="conv_transpose",
        op=kernel.conv_transpose,
        twin=method.conv_transpose,
        inputs=_inputs,
        bytes_moved=_bytes,
        operations=_operations,
        shapes=((0, 1, 1, 2, 2), (1, 1, 1, 1, 1), (2, 3, 5, 3, 2), (3, 16, 16, 4, 4)),
        bench_shapes=((512, 256, 128, 16, 16),),
        compile_shape=(1, 64, 64, 8, 8),
        dtypes=DTYPES,
        differentiable=("x", "weight", "scale", "shift"),
        backward_bytes=lambda arguments: 3 * _bytes(arguments),
        reduction=lambda arguments: 4 * arguments["x"].numel(),
        oracle="method.conv_transpose in float64; F.conv_transpose2d and a loop in the tests",
    ),
)
