"""Paths measured: what gradient each length carries, what one deleted block costs, and k functions a block.

All seeds train at once: a network holds SEEDS copies side by side, [batch, seed, unit], each with its own weights,
split and minibatches.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generator.lab.data import digits
from generator.lab.figures import FAINT, INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import fit
from snippets.multi_residual import kernel, method

SEEDS, WIDTH, BATCH = 4, 16, 128
BLOCKS, EPOCHS = 54, 12  # of two layers each: with the first and the last layer, 110
EFFECTIVE = range(5, 18)  # blocks: the 10 to 34 layers of Veit et al.
SUBSET = 23  # blocks in use in a minibatch of theirs, for a mean path length of 11.5
PATHS, RARE, COMMON = 16, 2, 28  # sampled paths a length, and from COMMON blocks on, where little gradient is left
IMAGES, TYPICAL = 32, 10  # from the training set, on which paths are measured; blocks on a typical path
SHORT, LONGER = 5, 24  # blocks of the short nets, a depth at which a plain one trains too, and epochs
FUNCTIONS, BRANCHES = 12, (1, 2, 4)  # residual functions in all, and k a block
SETTING = f"digits, width {WIDTH}, {SEEDS} seeds"
DEEP = f"{SETTING}, {BLOCKS} blocks, {EPOCHS} epochs"
LENGTHS = np.arange(BLOCKS + 1)


class Net(nn.Module):
    """The parts of every net here: a first layer, `layers` square ones in `copies`, a last one, and `norms` of batch norm.

    Weights are He-initialized; there are no biases but batch normalization's.
    """

    def __init__(self, layers: int, norms: int, *copies: int) -> None:
        super().__init__()
        units = math.prod(copies) * WIDTH
        self.stem, self.head = he(SEEDS, 64, WIDTH), he(SEEDS, WIDTH, 10)
        self.weights = he(layers, *copies, WIDTH, WIDTH)
        self.gains, self.shifts = nn.Parameter(torch.ones(norms, units)), nn.Parameter(torch.zeros(norms, units))
        self.register_buffer("moments", torch.stack([torch.zeros(norms, units), torch.ones(norms, units)]))
        self.refresh()

    def refresh(self) -> None:
        """Take the layers apart once a pass: indexing would give each its own full-sized gradient."""
        self.weight, self.gain, self.shift = (t.unbind() for t in (self.weights, self.gains, self.shifts))
        self.running = [pair.unbind() for pair in self.moments.unbind(1)]

    def normalized(self, x: Tensor, at: int, keep: bool = True) -> Tensor:
        """Batch-normalize every unit of every copy apart; without `keep`, running moments are left as they are."""
        running = self.running[at] if keep else (None, None)
        training = self.training or not keep
        return F.batch_norm(x.flatten(1), *running, self.gain[at], self.shift[at], training).view(x.shape)


def he(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * (2 / shape[-2]) ** 0.5)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return x [batch, seed, in] times weight [seed, in, out]."""
    return (x.transpose(0, 1) @ weight).transpose(0, 1)


class Stack(Net):
    """`blocks` blocks of two layers in pre-activation order, each block with a skip over it, or none of them."""

    def __init__(self, blocks: int, skip: bool = True, subset: int | None = None) -> None:
        super().__init__(2 * blocks, 2 * blocks + 1, SEEDS)
        self.skip, self.subset, self.blocks = skip, subset, blocks
        self.order = torch.Generator().manual_seed(7)

    def layer(self, x: Tensor, at: int, keep: bool = True) -> Tensor:
        return linear(self.normalized(x, at, keep).relu(), self.weight[at])

    def branch(self, x: Tensor, block: int, keep: bool = True) -> Tensor:
        return self.layer(self.layer(x, 2 * block, keep), 2 * block + 1, keep)

    def out(self, x: Tensor, keep: bool = True) -> Tensor:
        return linear(self.normalized(x, 2 * self.blocks, keep).relu(), self.head)

    def forward(self, x: Tensor, without: int = -1) -> Tensor:
        """Return logits [batch, seed, class]; `without` leaves out one block, or one layer where there are no skips."""
        self.refresh()
        x, used = linear(x, self.stem), range(self.blocks)
        if not self.skip:
            for at in range(2 * self.blocks):
                x = x if at == without else self.layer(x, at)
            return self.out(x)
        if self.subset and self.training:
            used = torch.randperm(self.blocks, generator=self.order)[: self.subset].sort().values.tolist()
        for block in used:
            if block != without:
                f = self.branch(x, block)
                # in a test every branch counts by its share in training, as in stochastic depth
                x = x + (f * (self.subset / self.blocks) if self.subset and not self.training else f)
        return self.out(x)


class MultiResidual(Net):
    """Blocks of k residual functions of two layers each, summed with their input by `method.residual_sum`."""

    def __init__(self, k: int) -> None:
        super().__init__(2 * FUNCTIONS // k, 2 * FUNCTIONS // k, k, SEEDS)

    def forward(self, x: Tensor) -> Tensor:
        self.refresh()
        x = linear(x, self.stem).relu()
        for at in range(0, len(self.weight), 2):
            f = self.layer(x.transpose(0, 1), at).relu()  # [batch, function, seed, unit]
            f = self.layer(f.permute(1, 2, 0, 3), at + 1)
            x = method.residual_sum(x, f.movedim(1, 0))
        return linear(x, self.head)

    def layer(self, x: Tensor, at: int) -> Tensor:
        return self.normalized((x @ self.weight[at]).movedim(2, 0), at) if x.dim() == 4 else self.layer(x[None], at)


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each seed's own split of the digits, images [image, seed, 64] and labels [image, seed]."""
    splits = [digits(seed) for seed in range(SEEDS)]
    return tuple(torch.stack([split[part] for split in splits], 1) for part in range(4))


def objective(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten()) * SEEDS  # the sum of the copies' own means


def train(net: nn.Module, splits: tuple[Tensor, ...], epochs: int) -> float:
    """Train all copies, and return their mean loss in the last epoch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x, y = splits[:2]
    return fit(net, x, y, optimizer=optimizer, epochs=epochs, batch=BATCH, objective=objective)[-1] / SEEDS


@torch.no_grad()
def errors(net: nn.Module, splits: tuple[Tensor, ...], **options) -> np.ndarray:
    """Return each seed's test error in percent."""
    net.eval()
    return (100 * (net(splits[2], **options).argmax(2) != splits[3]).double().mean(0)).numpy()


class Paths:
    """A residual net unraveled at one minibatch: what the gradient of each path, and of each length, is at the image."""

    def __init__(self, net: Stack, x: Tensor, y: Tensor) -> None:
        self.net = net.double().train()
        net.refresh()
        self.streams = [linear(x.double(), net.stem).detach()]  # what enters each block
        with torch.no_grad():
            for block in range(net.blocks):
                self.streams.append(self.streams[-1] + net.branch(self.streams[-1], block, keep=False))
        last = self.streams.pop().requires_grad_()
        self.start = torch.autograd.grad(objective(net.out(last, keep=False), y), last)[0]

    def back(self, block: int, gradients: Tensor) -> Tensor:
        """Send gradients [path, batch, seed, unit] back through one block's branch alone."""
        x = self.streams[block].requires_grad_()
        f = self.net.branch(x, block, keep=False)
        return torch.autograd.grad(f, x, gradients, is_grads_batched=True)[0]

    def at_image(self, gradients: Tensor) -> Tensor:
        """Return gradients that arrived at the first block as they arrive at the pixels, [path, seed, batch · pixel]."""
        return torch.einsum("pbsu,siu->psbi", gradients, self.net.stem.detach()).flatten(2)

    def sampled(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and root mean square of the norm of random paths of each length, [length, seed].

        The mean is the measure of Veit et al.
        """
        generator = torch.Generator().manual_seed(11)
        drawn = [PATHS if length < COMMON else RARE for length in range(self.net.blocks + 1)]
        length = torch.arange(self.net.blocks + 1).repeat_interleave(torch.tensor(drawn))
        rank = torch.rand(len(length), self.net.blocks, generator=generator).argsort(1).argsort(1)
        through = rank < length[:, None]
        gradients = self.start.repeat(len(length), 1, 1, 1)
        for block in reversed(range(self.net.blocks)):
            taken = through[:, block]
            gradients[taken] = self.back(block, gradients[taken])
        norms = self.at_image(gradients).norm(dim=2).split(drawn)
        mean, square = (torch.stack([of.pow(power).mean(0) for of in norms]).numpy() for power in (1, 2))
        return mean, square**0.5

    def summed(self) -> Tensor:
        """Return the sum of the gradients of all paths of each length, [length, seed, batch · pixel], exactly.

        A path of length k at a block's input skipped the block, or had length k − 1 before its branch.
        """
        gradients = torch.zeros(self.net.blocks + 1, *self.start.shape, dtype=self.start.dtype)
        gradients[0] = self.start
        for block in reversed(range(self.net.blocks)):
            longest = self.net.blocks - block
            gradients[1 : longest + 1] += self.back(block, gradients[:longest])
        return self.at_image(gradients)


def shares(magnitudes: np.ndarray) -> np.ndarray:
    """Return each length's part of the total, [length, seed]."""
    return magnitudes / magnitudes.sum(0)


def binomial() -> np.ndarray:
    return np.array([float(math.comb(BLOCKS, int(k))) for k in LENGTHS])


def variance_alone(at_right_angles: bool) -> np.ndarray:
    """Return each length's share if block l multiplies a gradient by 1/√l: batch norm's division by the stream's spread.

    The norms of the paths of a length add up to a coefficient of ∏(1 + z/√l). Gradients at right angles add in squares,
    to a coefficient of ∏(1 + z/l).
    """
    product = np.ones(1)
    for block in range(1, BLOCKS + 1):
        product = np.convolve(product, [1, 1 / block if at_right_angles else block**-0.5])
    return shares(np.sqrt(product) if at_right_angles else product)


def run(record) -> None:
    """Record what each path length carries, what deletions cost, and what k branches a block bring."""
    splits = data()
    torch.manual_seed(0)
    net = Stack(BLOCKS)
    images = [part[:IMAGES] for part in splits[:2]]
    before = Paths(net, *images)
    untrained = before.sampled(), before.summed()
    train(net.float(), splits, EPOCHS)
    deletions(record, net, splits)
    subsets(record, errors(net, splits), splits)
    after = Paths(net, *images)
    paths(record, {"trained": (after.sampled(), after.summed()), "untrained": untrained})
    multiplied(record, splits)


def paths(record, found: dict[str, tuple[tuple[np.ndarray, np.ndarray], Tensor]]) -> None:
    """Record each measure's share of gradient on the effective paths, and its mean length."""
    inside, curves = slice(EFFECTIVE.start, EFFECTIVE.stop), {}
    for name, ((single, square), summed) in found.items():
        how = DEEP if name == "trained" else f"{SETTING}, {BLOCKS} blocks, untrained"
        whole = summed.sum(0)
        measures = {
            "": (shares(binomial()[:, None] * single), f"{PATHS} paths a length times their number"),
            "_summed": (shares(summed.norm(dim=2).numpy()), "norm of each length's exact sum"),
            "_along": (((summed * whole).sum(2) / whole.square().sum(1)).numpy(), "each length's part of the gradient"),
        }
        for suffix, (share, measure) in measures.items():
            setting = f"{how}; {measure}"
            record.metric(f"share_{name}{suffix}", share[inside].sum(0), setting=f"5–17 blocks; {setting}")
            record.metric(f"mean_length_{name}{suffix}", LENGTHS @ share, unit="blocks", setting=setting)
        alignment = summed.norm(dim=2).numpy()[TYPICAL] / (math.comb(BLOCKS, TYPICAL) ** 0.5 * square[TYPICAL])
        setting = f"norm of the sum of all paths of {TYPICAL} blocks, 1 were they at right angles; {how}"
        record.metric(f"alignment_{name}", alignment, setting=setting)
        factor = (single[-1] / single[0]) ** (1 / BLOCKS)
        record.metric(f"factor_{name}", factor, setting=f"geometric mean of the {BLOCKS} blocks on one path; {how}")
        curves[name] = (single, *(share for share, _ in measures.values()))
    number = binomial() / 2.0**BLOCKS
    record.metric("share_of_paths", 100 * number[inside].sum(), unit="%", setting="binomial, 54 blocks, lengths 5–17")
    record.metric("share_of_paths_middle", 100 * number[19:36].sum(), unit="%", setting="binomial, lengths 19–35")
    for suffix, share in (("", variance_alone(False)), ("_summed", variance_alone(True))):
        setting = f"computed, 1/√l a block{', paths at right angles' if suffix else ''}"
        record.metric(f"share_variance_alone{suffix}", share[inside].sum(), setting=setting)
        record.metric(f"mean_length_variance_alone{suffix}", LENGTHS @ share, unit="blocks", setting=setting)
    record.metric("factor_variance_alone", math.factorial(BLOCKS) ** (-0.5 / BLOCKS), setting="computed, 1/√l a block")
    draw_paths(record, curves)


def draw_paths(record, curves: dict[str, tuple[np.ndarray, ...]]) -> None:
    number, one = panel("how many paths", "blocks on the path", "share of all paths")
    single, two = panel("gradient of one path", "blocks on the path", "norm, relative to length 0")
    product, three = panel("paths × gradient of one", "blocks on the path", "share of the sum")
    exact, four = panel("norm of the exact sum", "blocks on the path", "share of the sum")
    one.bar(LENGTHS, binomial() / 2.0**BLOCKS, color=FAINT, width=0.8)
    one.text(11, 0.112, "10–34 layers", color=SERIES[4], ha="center", fontsize=8.5)
    for color, (name, (path, share, summed, _)) in zip(SERIES, curves.items(), strict=False):
        spread(two, LENGTHS, (path / path[0]).T, color, label=name)
        spread(three, LENGTHS, share.T, color, label=name)
        spread(four, LENGTHS, summed.T, color, label=name)
    three.plot(LENGTHS, variance_alone(False), color=INK, ls=":", lw=1.4, label="1/√l a block")
    four.plot(LENGTHS, variance_alone(True), color=INK, ls=":", lw=1.4, label="1/√l, at right angles")
    two.set_yscale("log")
    for axis in (one, two, three, four):
        axis.axvspan(EFFECTIVE.start, EFFECTIVE.stop - 1, color=SERIES[4], alpha=0.14, linewidth=0)
    for axis in (two, three, four):
        axis.legend(loc="lower left" if axis is two else "upper right")
    one.set_ylim(0, 0.122)
    record.figure(
        "paths",
        [number, single, product, exact],
        caption=f"A net of {BLOCKS} blocks taken apart into its paths; shaded, 5 to 17 blocks or 10 to 34 layers. 1: how "
        "many paths pass through so many blocks. 2: gradient norm at the image of one path, mean of "
        f"{PATHS} random ones a length (from {COMMON} blocks on, {RARE}), the same for all nets. 3: the product of 1 and "
        "2, jagged where few of the drawn paths carry most; dotted, a factor of 1/√l for block l. 4: the gradients of all paths of a length, added before the norm is "
        f"taken; dotted, the same factors and paths at right angles. {SEEDS} seeds, band from least to greatest.",
        alt="Four panels against path length. The count of paths is a bell around 27 blocks. The gradient of one path falls "
        "steadily with length on a logarithmic axis. Their product is a bell at shorter lengths, and the norm of each "
        "length's exact sum another at still shorter ones; in both the trained nets peak before the untrained.",
    )


def deletions(record, net: Stack, splits: tuple[Tensor, ...]) -> None:
    """Delete each block of the deep net, and each block or layer of two short ones, and test again."""
    found = {"deep": (errors(net, splits), np.array([errors(net, splits, without=b) for b in range(BLOCKS)]), DEEP)}
    for name, skip in (("residual", True), ("plain", False)):
        torch.manual_seed(1)
        short = Stack(SHORT, skip)
        train(short, splits, LONGER)
        deleted = [errors(short, splits, without=at) for at in range(SHORT if skip else 2 * SHORT)]
        what = f"{SHORT} blocks" if skip else f"{2 * SHORT} layers without skips"
        found[name] = errors(short, splits), np.array(deleted), f"{SETTING}, {what}, {LONGER} epochs"
    rows = []
    names = {
        "deep": f"residual, {BLOCKS} blocks",
        "residual": f"residual, {SHORT} blocks",
        "plain": f"plain, {2 * SHORT} layers",
    }
    for name, (whole, deleted, setting) in found.items():
        one = "layer" if name == "plain" else "block"
        record.metric(f"error_{name}", whole, unit="%", setting=f"test error, {setting}")
        record.metric(f"error_{name}_deleted", deleted.mean(0), unit="%", setting=f"one {one} deleted, mean; {setting}")
        record.metric(f"cost_{name}", (deleted - whole).mean(0), unit="points", setting=f"one {one} deleted; {setting}")
        record.metric(f"cost_{name}_worst", (deleted - whole).max(0), unit="points", setting=f"worst {one}; {setting}")
        record.metric(f"cost_{name}_least", (deleted - whole).min(0), unit="points", setting=f"least {one}; {setting}")
        rows.append(
            {
                "net": names[name],
                "test error, whole (%)": f"{whole.mean():.1f}",
                f"one {'block or layer'} deleted (%)": f"{deleted.mean():.1f}",
                "the least harmful (%)": f"{deleted.mean(1).min():.1f}",
                "the most harmful (%)": f"{deleted.mean(1).max():.1f}",
            }
        )
    record.table("deletions", rows, caption=f"Means over the seeds: {SETTING}.")
    deep, ax = panel(f"residual, {BLOCKS} blocks", "deleted block", "test error (%)")
    spread(ax, np.arange(1, BLOCKS + 1), found["deep"][1].T, SERIES[0])
    ax.axhline(found["deep"][0].mean(), color=INK, lw=0.9, ls=":")
    short, bx = panel("the short nets", "deleted layers", "test error (%)")
    spread(bx, 2 * np.arange(SHORT) + 1.5, found["residual"][1].T, SERIES[0], marker="o", ms=4)
    spread(bx, np.arange(1, 2 * SHORT + 1), found["plain"][1].T, SERIES[1], marker="o", ms=4)
    for color, name in zip(SERIES, ("residual", "plain"), strict=False):
        bx.axhline(found[name][0].mean(), color=color, lw=0.9, ls=":")
    bx.text(10, 66, "plain", color=SERIES[1], ha="right")
    bx.text(4.3, 30, "residual", color=SERIES[0])
    for axis in (ax, bx):
        axis.set_ylim(0, 100)
    record.figure(
        "deletions",
        [deep, short],
        caption=f"Test error after one deletion, {SEEDS} seeds, band from least to greatest; dotted, the whole net. Left: a "
        f"block of {BLOCKS}. Right: a block (blue, two layers) of {SHORT}, and a layer (orange) of a plain net as deep.",
        alt="Two panels of test error against the place of the deletion. In the deep residual net the error is high for "
        "the first blocks and then stays on the dotted line. In the short nets the plain one's error is near the top "
        "wherever a layer is deleted, and the residual one's falls from high to low.",
    )


def subsets(record, full: np.ndarray, splits: tuple[Tensor, ...]) -> None:
    """Train with SUBSET random blocks a minibatch, so that long paths are never seen, and test all blocks."""
    torch.manual_seed(0)
    net = Stack(BLOCKS, subset=SUBSET)
    train(net, splits, EPOCHS)
    error = errors(net, splits)
    setting = f"{DEEP}, {SUBSET} random blocks a minibatch"
    record.metric("error_subset", error, unit="%", setting=setting)
    record.metric("subset_minus_full", error - full, unit="points", setting=setting)


def multiplied(record, splits: tuple[Tensor, ...]) -> None:
    """Train k functions a block with depth times k held fixed."""
    rows, found = [], []
    for k in BRANCHES:
        torch.manual_seed(2)
        net = MultiResidual(k)
        loss = train(net, splits, LONGER)
        error = errors(net, splits)
        blocks = FUNCTIONS // k
        found.append(error)
        record.metric(
            f"error_k{k}", error, unit="%", setting=f"{SETTING}, {blocks} blocks of k = {k}, {LONGER} epochs, test"
        )
        rows.append(
            {
                "k": k,
                "blocks": blocks,
                "layers": 2 * blocks + 2,
                "parameters": sum(p.numel() for p in net.parameters()) // SEEDS,
                "paths": (k + 1) ** blocks,
                "mean path (blocks)": f"{blocks * k / (k + 1):.1f}",
                "last training loss": f"{loss:.3f}",
                "test error (%)": f"{error.mean():.2f} ({error.min():.2f}–{error.max():.2f})",
            }
        )
    record.table(
        "multiplied", rows, caption=f"{FUNCTIONS} residual functions, k of them a block: {SETTING}, {LONGER} epochs."
    )
    fig, ax = panel("", "residual functions a block, k", "test error (%)")
    for seed, by_k in enumerate(np.array(found).T):
        ax.plot(range(len(BRANCHES)), by_k, color=FAINT, lw=1, marker="o", ms=4, label="_" * seed + "one seed")
    ax.plot(range(len(BRANCHES)), np.mean(found, 1), color=SERIES[0], marker="o", ms=5, label="mean")
    ax.set_xticks(range(len(BRANCHES)), [f"{k}\n{FUNCTIONS // k} blocks" for k in BRANCHES])
    ax.set_ylim(bottom=0)
    ax.legend()
    record.figure(
        "multiplied",
        fig,
        caption=f"Test error of nets with {FUNCTIONS} residual functions and equal parameters, k of them side by side: "
        f"{SETTING}, {LONGER} epochs.",
        alt="Test error against k = 1, 2, 4: a grey line a seed and their mean in blue.",
    )


def _inputs(shape, dtype, device, seed):
    """Return k branches of shape [k, …] and an x of the rest of that shape."""
    generator = torch.Generator(device).manual_seed(seed)
    draw = {"dtype": dtype, "device": device, "generator": generator}
    return {"x": torch.randn(shape[1:], **draw), "branches": torch.randn(shape, **draw)}


def _bytes(arguments) -> int:
    x, branches = arguments["x"], arguments["branches"]
    return (2 * x.numel() + branches.numel()) * x.element_size()


KERNELS = (
    Kernel(
        name="residual_sum",
        op=kernel.residual_sum,
        twin=method.residual_sum,
        inputs=_inputs,
        bytes_moved=_bytes,
        operations=lambda arguments: arguments["branches"].numel() + arguments["x"].numel(),  # an addition each, a ReLU
        shapes=((2,), (0, 7), (3, 0, 3), (1, 1), (2, 7), (3, 1023), (4, 1024), (5, 1025), (9, 31, 67), (2, 2, 3, 5, 7)),
        bench_shapes=((4, 128 * 1024 * 1024), (1, 128 * 1024 * 1024)),
        compile_shape=(9, 4096),  # two rounds of branches and one more
        dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        differentiable=("x", "branches"),
        # dL/dy and y in, dL/dx out, which is each branch's gradient as well
        backward_bytes=lambda arguments: 3 * arguments["x"].numel() * arguments["x"].element_size(),
        reduction=lambda arguments: arguments["branches"].shape[0] + 1,
        oracle="method.residual_sum in float64; torch.relu(x + branches.sum(0)) in the tests",
        eager=lambda x, branches: torch.relu(x + branches.sum(0)),
    ),
)
