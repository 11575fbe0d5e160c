"""Synthetic transcripts and reads come in; what skipping, classes, EM and the bootstrap do to them goes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from generator.lab.figures import FAINT, INK, SERIES, panel
from generator.lab.kernels import Kernel
from snippets.kallisto import kernel, method

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from generator.lab.recorder import Recorder

SEEDS = (0, 1, 2, 3, 4)
K, READ, MEAN, SD, ERROR = 31, 75, 200, 20, 0.01
GENES, READS, REPLICATE, REPLICATES, BOOTSTRAPS = 60, 5_000, 2_000, 20, 40
SETTING = f"synthetic: {GENES} genes, {READS:,} single-end reads of {READ} bp, 1 % errors"
TWIN = str.maketrans("ACGT", "TGCA")


# ---- synthetic data -------------------------------------------------------------------------------------------------


@dataclass
class World:
    """Transcripts, and how often a read starts from each."""

    sequences: list[str]
    share: np.ndarray


def world(seed: int) -> World:
    """Draw genes of exons with two to four isoforms each; every fifth gene is a copy of the last with 2 % changes."""
    rng = np.random.default_rng(seed)
    sequences: list[str] = []
    for gene in range(GENES):
        if gene % 5 == 4:
            exons = [mutate(rng, exon, 0.02) for exon in exons]
        else:
            exons = [bases(rng, int(rng.integers(60, 301))) for _ in range(rng.integers(4, 9))]
        forms = {tuple(range(len(exons)))}
        for _ in range(rng.integers(1, 4)):
            kept = tuple(i for i in range(len(exons)) if i in (0, len(exons) - 1) or rng.random() < 0.7)
            forms.add(kept)
        sequences += ["".join(exons[i] for i in form) for form in sorted(forms)]
    molecules = rng.lognormal(0, 1.5, len(sequences))
    room = np.array([max(len(s) - MEAN + 1, 0) for s in sequences])
    return World(sequences, molecules * room / (molecules * room).sum())


def bases(rng: np.random.Generator, count: int) -> str:
    return "".join(rng.choice(list("ACGT"), count))


def mutate(rng: np.random.Generator, sequence: str, rate: float) -> str:
    letters = np.array(list(sequence))
    hit = rng.random(len(letters)) < rate
    letters[hit] = rng.choice(list("ACGT"), int(hit.sum()))
    return "".join(letters)


def sequence_reads(world: World, rng: np.random.Generator, count: int, error: float) -> tuple[list[str], np.ndarray]:
    """Return reads of either strand from the ends of fragments, and the transcript each came from."""
    origin = rng.choice(len(world.share), count, p=world.share)
    fragments = np.clip(rng.normal(MEAN, SD, count).round().astype(int), READ, None)
    place, reverse = rng.random(count), rng.random(count) < 0.5
    reads = []
    for t, fragment, at, back in zip(origin, fragments, place, reverse, strict=True):
        sequence = world.sequences[t]
        start = int(at * (max(len(sequence) - fragment, 0) + 1))
        piece = sequence[start : start + fragment]
        reads.append(piece[::-1].translate(TWIN)[:READ] if back else piece[:READ])
    text = mutate(rng, "".join(reads), error) if error else "".join(reads)
    return [text[at : at + READ] for at in range(0, len(text), READ)], origin


# ---- the run --------------------------------------------------------------------------------------------------------


@dataclass
class Sample:
    """One simulated experiment, pseudoaligned."""

    world: World
    index: method.Index
    reads: list[str]
    origin: np.ndarray
    classes: list[tuple[int, ...]]
    lengths: Tensor

    @property
    def problem(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (self.lengths, *method.csr(self.classes))


def sample(seed: int) -> Sample:
    drawn = world(seed)
    index = method.build_index(method.clean(drawn.sequences), K)
    reads, origin = sequence_reads(drawn, np.random.default_rng(1000 + seed), READS, ERROR)
    sizes = [len(s) for s in drawn.sequences]
    classes = method.pseudoalign(index, reads, sizes, MEAN)
    return Sample(drawn, index, reads, origin, classes, method.effective_lengths(torch.tensor(sizes), MEAN, SD))


def run(record: Recorder) -> None:
    samples = [sample(seed) for seed in SEEDS]
    graph(record)
    skipping(record, samples)
    one_read(record, samples[0])
    fragments(record, samples)
    likelihood(record, samples)
    factorized(record, samples)
    truth(record, samples)
    bootstrap(record, samples[0])


# ---- the graph ------------------------------------------------------------------------------------------------------

TOY = {"t1": "GATTCAGCCTACGGT", "t2": "GATTCAGTGGACGGT", "t3": "CCATCAGCCTACGGTAAGC"}


def graph(record: Recorder) -> None:
    """Draw the contigs of three short transcripts at k = 5, and each transcript's path through them."""
    index = method.build_index(list(TOY.values()), 5)
    texts: dict[int, str] = {}
    paths: list[list[int]] = [[] for _ in TOY]
    for (contig, t), (at, _) in sorted(index.met.items(), key=lambda item: (item[0][1], item[1][0])):
        texts.setdefault(contig, list(TOY.values())[t][at : at + int(index.size[contig]) + 4])
        paths[t].append(contig)
    record.metric("toy_contigs", len(texts), setting="three synthetic transcripts, k = 5")
    record.metric("toy_kmers", len(index.kmers), setting="three synthetic transcripts, k = 5")
    rows = [
        {
            "contig": texts[c],
            "k-mers": int(index.size[c]),
            "k-compatibility class": ", ".join(list(TOY)[t] for t in index.classes[c]),
        }
        for c in dict.fromkeys(c for path in paths for c in path)
    ]
    record.table("contigs", rows, caption="The contigs of the graph, and the class their k-mers share.")
    fig, ax = panel("contigs as nodes, k = 5", height=4.6)
    _draw_graph(ax, texts, paths, index.classes)
    record.figure(
        "graph",
        fig,
        caption="The colored de Bruijn graph of three short synthetic transcripts at k = 5. Each box is a contig, a "
        "run of k-mers in which no transcript enters or leaves; bars mark the transcripts through it, arrows their "
        "paths. Neighbors overlap by four bases.",
        alt="Boxes with short DNA sequences in layers from top to bottom, joined by colored lines for three "
        "transcripts that share some of the boxes and part at others.",
    )


def _draw_graph(ax: Axes, texts: dict[int, str], paths: list[list[int]], classes: list[tuple[int, ...]]) -> None:
    depth = dict.fromkeys(texts, 0)
    for _ in texts:
        for path in paths:
            for above, below in pairwise(path):
                depth[below] = max(depth[below], depth[above] + 1)
    side = (0.0, 0.65, -0.65)  # a contig lies between the sides of its transcripts
    at = {c: (float(np.mean([side[t] for t in classes[c]])), -float(d)) for c, d in depth.items()}
    for t, path in enumerate(paths):
        for above, below in pairwise(path):
            (x0, y0), (x1, y1), shift = at[above], at[below], 0.05 * (t - 1)
            ax.annotate(
                "",
                (x1 + shift, y1 + 0.26),
                (x0 + shift, y0 - 0.2),
                arrowprops={"arrowstyle": "->", "color": SERIES[t], "lw": 1.8, "shrinkA": 0, "shrinkB": 0},
            )
    for contig, (x, y) in at.items():
        wide = 0.036 * len(texts[contig]) + 0.04
        box = Rectangle((x - wide, y - 0.2), 2 * wide, 0.46, fill=False, edgecolor=FAINT)
        ax.add_patch(box)
        ax.text(x, y + 0.08, texts[contig], ha="center", va="center", family="monospace", fontsize=8.5)
        for i, t in enumerate(classes[contig]):
            height = y - 0.06 - 0.045 * i
            ax.plot([x - 0.9 * wide, x + 0.9 * wide], [height] * 2, color=SERIES[t], lw=2, solid_capstyle="butt")
    for t, name in enumerate(TOY):
        ax.text(0.9, 0.14 - 0.055 * t, name, color=SERIES[t], transform=ax.transAxes, weight="bold")
    ax.set(xlim=(-1.12, 1.12), ylim=(-max(depth.values()) - 0.4, 0.5), xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)


# ---- skipping -------------------------------------------------------------------------------------------------------


def skipping(record: Recorder, samples: list[Sample]) -> None:
    """Compare the classes found by skipping with those of hashing every k-mer, and count look-ups."""
    exact, noisy, lost, gained, looked, two_clean = [], [], [], [], [], []
    for seed, one in zip(SEEDS, samples, strict=True):
        clean, _ = sequence_reads(one.world, np.random.default_rng(2000 + seed), READS, 0.0)
        for reads, differ in ((clean, exact), (one.reads, noisy)):
            skip, every = (method.pseudoalign(one.index, reads, skip=choice) for choice in (True, False))
            differ.append(sum(a != b for a, b in zip(skip, every, strict=True)))
        lost.append(np.mean([not a and bool(b) for a, b in zip(skip, every, strict=True)]))
        gained.append(np.mean([bool(a) and not b for a, b in zip(skip, every, strict=True)]))
        looked.append(Counter(lookups(one.index, one.reads)))
        two_clean.append(np.mean(np.array(lookups(one.index, clean)) == 2))
    record.metric("other_class_without_errors", exact, "reads", setting=SETTING.replace("1 % errors", "no errors"))
    record.metric("other_class_with_errors", noisy, "reads", SETTING)
    record.metric("class_only_with_skipping", gained, setting=SETTING)
    record.metric("class_only_without_skipping", lost, setting=SETTING)
    record.metric("two_lookups_without_errors", two_clean, setting=SETTING.replace("1 % errors", "no errors"))
    record.metric("two_lookups_with_errors", [tally[2] / tally.total() for tally in looked], setting=SETTING)
    mean = [sum(n * times for n, times in tally.items()) / tally.total() for tally in looked]
    record.metric("mean_lookups", mean, setting=SETTING)
    windows = READ - K + 1
    record.metric("kmers_per_read", windows, setting=f"{READ} bp, k = {K}")
    together = sum(looked, Counter())
    fig, ax = panel("most reads need few look-ups", "k-mers looked up in a read", "reads (%)")
    counts = np.array([together[n] for n in range(1, windows + 1)])
    ax.bar(np.arange(1, windows + 1), 100 * counts / counts.sum(), color=SERIES[0], width=0.8)
    ax.axvline(windows, color=FAINT, lw=1.2, ls="--")
    ax.text(windows - 0.8, 0.9 * ax.get_ylim()[1], f"all {windows}", ha="right")
    record.figure(
        "lookups",
        fig,
        caption=f"k-mers looked up per read of {READ} bp, of {windows} in it ({SETTING}; five data sets).",
        alt="A histogram: a tall bar at two look-ups and a thin tail of reads with sequencing errors that need more.",
    )


def lookups(index: method.Index, reads: list[str]) -> list[int]:
    contig, ahead, _, _ = (column.tolist() for column in method.windows(index, "|".join(reads)))
    found, start = [], 0
    for read in reads:
        stop = start + len(read) - index.k + 1
        found.append(len(set(method.visit(contig[start:stop], ahead[start:stop])[0])))
        start += len(read) + 1
    return found


def one_read(record: Recorder, one: Sample) -> None:
    """Draw the windows of two reads: one without error over a junction, one with an error."""
    clean = {s[at : at + READ] for s in one.world.sequences for at in range(0, len(s) - READ, 7)}
    plain = next(read for read in sorted(clean) if len({*_windows(one.index, read)[0]}) == 3)
    ends = ((read, _windows(one.index, read)[0]) for read in one.reads)
    errors = next(r for r, c in ends if method.MISSING in c and len({*c}) >= 3 and c[0] >= 0 and c[-1] >= 0)
    panels = []
    for title, read in (("no error, three contigs", plain), ("one sequencing error", errors)):
        fig, ax = panel(title, "k-mer (first base in the read)", height=2.4)
        _draw_read(ax, one.index, read)
        panels.append(fig)
    record.figure(
        "read",
        panels,
        caption="Two synthetic reads. Each row is a contig with its k-compatibility class (numbers of transcripts); "
        "a bar spans the read's k-mers on it, dots are k-mers looked up, all others are skipped. Below: the "
        "class of the read, the intersection of those met. k-mers with a sequencing error are in no transcript.",
        alt="Horizontal bars for the contigs along a read; only a few dots mark k-mers that were looked up, at the "
        "ends of the bars.",
    )


def _windows(index: method.Index, read: str) -> tuple[list[int], list[int]]:
    contig, ahead, _, _ = method.windows(index, read)
    return contig.tolist()[: len(read) - index.k + 1], ahead.tolist()[: len(read) - index.k + 1]


def _draw_read(ax: Axes, index: method.Index, read: str) -> None:
    contig, ahead = _windows(index, read)
    looked, _ = method.visit(contig, ahead)
    order = list(dict.fromkeys(contig))
    for row, c in enumerate(order):
        spots = [at for at, here in enumerate(contig) if here == c]
        color = FAINT if c < 0 else SERIES[row]
        for _, group in groupby(enumerate(spots), key=lambda pair: pair[1] - pair[0]):  # one bar an unbroken stretch
            stretch = [at for _, at in group]
            bar = [stretch[0] - 0.4, stretch[-1] + 0.4]
            ax.plot(bar, [-row, -row], color=color, lw=7, alpha=0.35, solid_capstyle="butt")
        dots = [at for at in looked if at in spots]
        ax.plot(dots, [-row] * len(dots), "o", color=color, ms=5)
        name = "no transcript" if c < 0 else "{" + ", ".join(map(str, index.classes[c])) + "}"
        late = spots[0] > len(contig) * 0.5
        ax.text(spots[-1] + 0.4 if late else spots[0] - 0.4, -row + 0.24, name, ha="right" if late else "left")
    (members,) = method.pseudoalign(index, [read])
    ax.text(0, -len(order) + 0.1, "class of the read: {" + ", ".join(map(str, members)) + "}", color=INK, weight="bold")
    ax.set(ylim=(-len(order) - 0.2, 0.7), yticks=[], xlim=(-1, len(contig)))
    ax.grid(axis="y", visible=False)


def fragments(record: Recorder, samples: list[Sample]) -> None:
    """Count what the rule about sticking out changes."""
    changed, dropped = [], []
    for one in samples:
        free = method.pseudoalign(one.index, one.reads)
        changed.append(np.mean([a != b for a, b in zip(free, one.classes, strict=True)]))
        dropped.append(np.mean([bool(a) and not b for a, b in zip(free, one.classes, strict=True)]))
    record.metric("class_changed_by_fragment_rule", changed, setting=SETTING)
    record.metric("dropped_by_fragment_rule", dropped, setting=SETTING)


# ---- EM -------------------------------------------------------------------------------------------------------------


def likelihood(record: Recorder, samples: list[Sample]) -> None:
    """Follow the log-likelihood round by round, and see where the rule stops and what is left to gain."""
    falls, rounds, largest, gap, far = [], [], [], [], []
    for number, one in enumerate(samples):
        problem = one.problem
        stopped, stop = method.em(*problem)
        reads = problem[-1].sum()
        alpha = torch.full_like(problem[0], 1 / len(problem[0]))
        curve, change = [method.log_likelihood(alpha, *problem).item()], []
        for _ in range(1500):
            before, alpha = alpha, method.em_step(alpha, *problem)
            curve.append(method.log_likelihood(alpha, *problem).item())
            big = alpha * reads > 0.01
            change.append(((alpha - before).abs() / alpha)[big].max().item())
        rise = np.diff(curve)
        falls.append(int((rise < -1e-12 * abs(curve[-1])).sum()))
        rounds.append(stop)
        largest.append(change[stop - 2])
        gap.append(curve[-1] - method.log_likelihood(stopped, *problem).item())
        far.append(((stopped - alpha) * reads).abs().max().item())
        if number == 0:
            first = np.array(curve), np.array(change), stop
    record.metric(
        "rounds_in_which_likelihood_fell", falls, "rounds", f"{SETTING}; 1,500 rounds, beyond 1e-12 of |log L|"
    )
    record.metric("rounds_until_stop", rounds, "rounds", SETTING)
    record.metric("largest_change_at_stop", largest, setting=SETTING)
    record.metric("log_likelihood_left", gap, "nats", f"{SETTING}; against 1,500 rounds")
    record.metric("largest_count_difference", far, "reads", f"{SETTING}; against 1,500 rounds")
    curve, change, stop = first
    left, ax = panel("log-likelihood below its last value", "round", "log L(1,500 rounds) − log L (nats)")
    shown = np.unique(np.geomspace(1, 1400, 120).astype(int))
    ax.loglog(shown, np.maximum(curve[-1] - curve[shown], 1e-9))
    right, ay = panel("the stopping rule", "round", "largest change of α (%)")
    ay.loglog(shown, 100 * change[shown - 1])
    ay.axhline(1, color=FAINT, lw=1.2, ls="--")
    for axes in (ax, ay):
        axes.axvline(stop, color=INK, lw=1.2)
        axes.text(stop * 1.1, axes.get_ylim()[1] ** 0.9 * axes.get_ylim()[0] ** 0.1, "stop", va="top")
    record.figure(
        "likelihood",
        [left, right],
        caption=f"EM on one data set. Left: how far the log-likelihood is from its value after 1,500 rounds. Right: "
        f"the largest relative change among α_t·N > 0.01; the dashed line is 1 % ({SETTING}, seed 0).",
        alt="Two falling curves on log axes: the likelihood gap and the largest change; a line where the rule stops.",
    )


def factorized(record: Recorder, samples: list[Sample]) -> None:
    """Run EM with a term a read and with a term a class, and compare."""
    apart, fewer, classes = [], [], []
    for one in samples:
        lengths, offsets, transcripts, counts = one.problem
        mapped = [members for members in one.classes if members]
        every = torch.tensor([0, *map(len, mapped)]).cumsum(0), torch.tensor([t for m in mapped for t in m])
        ones = torch.ones(len(mapped), dtype=torch.long)
        a = b = torch.full_like(lengths, 1 / len(lengths))
        for _ in range(100):
            a = method.em_step(a, lengths, offsets, transcripts, counts)
            b = method.em_step(b, lengths, *every, ones)
        apart.append(((a - b) * counts.sum()).abs().max().item())
        fewer.append(len(every[1]) / len(transcripts))
        classes.append(len(counts))
    record.metric("classes_against_reads", apart, "reads", f"{SETTING}; largest difference after 100 rounds")
    record.metric("times_fewer_terms", fewer, setting=SETTING)
    record.metric("equivalence_classes", classes, setting=SETTING)


def truth(record: Recorder, samples: list[Sample]) -> None:
    """Compare estimated counts with the transcripts the reads came from."""
    from scipy.stats import pearsonr, spearmanr

    logs, ranks, mapped = [], [], []
    for number, one in enumerate(samples):
        lengths, *rest = one.problem
        alpha, _ = method.em(lengths, *rest)
        estimate = (alpha * rest[-1].sum()).numpy()
        real = np.bincount(one.origin, minlength=len(estimate))
        logs.append(pearsonr(np.log10(estimate + 1), np.log10(real + 1)).statistic)
        ranks.append(spearmanr(estimate, real).statistic)
        mapped.append(rest[-1].sum().item() / len(one.reads))
        if number == 0:
            shown = real, estimate
    record.metric("log_correlation_with_truth", logs, setting=SETTING)
    record.metric("rank_correlation_with_truth", ranks, setting=SETTING)
    record.metric("pseudoaligned_share", mapped, setting=SETTING)
    real, estimate = shown
    fig, ax = panel("synthetic truth and estimate", "true reads + 1", "estimated reads + 1", height=3.2)
    ends = [1, 1.3 * max(real.max(), estimate.max())]
    ax.plot(ends, ends, color=FAINT, lw=1)
    ax.loglog(real + 1, estimate + 1, "o", ms=3.5, alpha=0.7, mew=0)
    record.figure(
        "truth",
        fig,
        caption=f"Reads drawn from each transcript and reads kallisto's EM gives it ({SETTING}, seed 0; one dot a "
        "transcript). Off the diagonal are isoforms that differ little.",
        alt="A scatter on log axes; most dots lie on the diagonal, more widely spread below ten reads.",
    )


def bootstrap(record: Recorder, one: Sample) -> None:
    """Resample class counts, and draw fresh reads from the same truth; compare the spread of the estimates."""
    sizes = [len(s) for s in one.world.sequences]

    def estimate(offsets: Tensor, transcripts: Tensor, counts: Tensor) -> np.ndarray:
        return (method.em(one.lengths, offsets, transcripts, counts)[0] * counts.sum()).numpy()

    fresh, first = [], None
    for replicate in range(REPLICATES):
        reads, _ = sequence_reads(one.world, np.random.default_rng(3000 + replicate), REPLICATE, ERROR)
        problem = method.csr(method.pseudoalign(one.index, reads, sizes, MEAN))
        first = first or problem
        fresh.append(estimate(*problem))
    offsets, transcripts, counts = first
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(counts.double(), BOOTSTRAPS * int(counts.sum()), True, generator=generator)
    again = [torch.bincount(part, minlength=len(counts)) for part in drawn.view(BOOTSTRAPS, -1)]
    spread = np.array([estimate(offsets, transcripts, resampled) for resampled in again])
    technical, mean = np.std(fresh, 0, ddof=1), np.mean(fresh, 0)
    base = estimate(*first)
    some = (mean >= 5) & (base >= 5)  # what the first set does not hold cannot be drawn again
    ratio = spread.std(0, ddof=1)[some] / technical[some]
    sets = f"{BOOTSTRAPS} bootstraps against {REPLICATES} fresh read sets"
    setting = f"synthetic, seed 0: {REPLICATE:,} reads, {sets}, transcripts with 5 or more reads"
    record.metric("bootstrap_sd_over_fresh_sd", float(np.median(ratio)), setting=f"{setting}; median over transcripts")
    from scipy.stats import pearsonr

    both = np.log(spread.std(0, ddof=1)[some]), np.log(technical[some])
    record.metric("bootstrap_sd_correlation", pearsonr(*both).statistic, setting=f"{setting}; of log deviations")
    left, ax = panel("bootstrap spread", "transcript, by estimate", "estimated reads", height=3.2)
    order = np.argsort(-base)[:40:2]
    low, high = np.quantile(spread[:, order], [0.05, 0.95], axis=0)
    poisson = np.sqrt(base[order])
    ax.vlines(
        np.arange(len(order)) + 0.25, base[order] - 1.645 * poisson, base[order] + 1.645 * poisson, color=FAINT, lw=2
    )
    ax.vlines(np.arange(len(order)), low, high, color=SERIES[0], lw=3)
    ax.plot(np.arange(len(order)), base[order], "o", color=INK, ms=3)
    ax.set(yscale="log", xticks=[], ylim=(0.5, None))
    ax.text(0.97, 0.93, "bootstrap, 90 %", color=SERIES[0], ha="right", transform=ax.transAxes)
    ax.text(0.97, 0.85, "Poisson, 90 %", color=FAINT, ha="right", transform=ax.transAxes)
    right, ay = panel("against fresh reads", "SD over fresh read sets", "SD over bootstraps", height=3.2)
    ends = [technical[some].min() / 1.5, technical[some].max() * 1.5]
    ay.loglog(ends, ends, color=FAINT, lw=1)
    ay.loglog(technical[some], spread.std(0, ddof=1)[some], "o", ms=3.5, alpha=0.7, mew=0, color=SERIES[0])
    ticks = {"major_locator": FixedLocator([1, 2, 3, 5, 10, 20, 30, 50]), "minor_locator": NullLocator()}
    for axis in (ay.xaxis, ay.yaxis):
        axis.set(**ticks, major_formatter="{x:g}")
    record.figure(
        "bootstrap",
        [left, right],
        caption=f"Left: estimates with 90 % bootstrap intervals and what counting noise alone would give. Right: the "
        f"bootstrap's standard deviation against that of fresh read sets from the same truth ({setting}).",
        alt="Left, vertical intervals around falling estimates, some much longer than the Poisson interval. Right, a "
        "scatter on log axes along the diagonal.",
    )


# ---- the kernel -----------------------------------------------------------------------------------------------------


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> dict[str, Any]:
    """Draw (transcripts, classes, mean size): neighbors share classes as isoforms do; some α, counts, sizes are 0."""
    transcripts, classes, mean = shape
    generator = torch.Generator(device).manual_seed(seed)
    drawn = {"generator": generator, "device": device}
    alpha = (torch.rand(transcripts, dtype=torch.float64, **drawn) - 0.1).relu()
    lengths = 1 + 3000 * torch.rand(transcripts, dtype=torch.float64, **drawn)
    sizes = torch.randint(0, 2 * mean + 1, (classes,), **drawn).clamp(max=transcripts)
    offsets = torch.zeros(classes + 1, dtype=torch.long, device=device)
    torch.cumsum(sizes, 0, out=offsets[1:])
    first = torch.randint(0, transcripts, (classes,), **drawn)
    member = torch.repeat_interleave(torch.arange(classes, device=device), sizes)
    within = torch.arange(len(member), device=device) - offsets[member]
    return {
        "alpha": (alpha / alpha.sum().clamp_min(1e-300)).to(dtype),
        "lengths": lengths.to(dtype),
        "offsets": offsets,
        "transcripts": (first[member] + within) % transcripts,
        "counts": torch.randint(0, 50, (classes,), **drawn),
    }


def _bytes(arguments: Mapping[str, Any]) -> int:
    return sum(x.numel() * x.element_size() for x in (*arguments.values(), arguments["alpha"]))


KERNELS = (
    Kernel(
        name="kallisto_em_step",
        op=kernel.em_step,
        twin=method.em_step,
        inputs=inputs,
        bytes_moved=_bytes,
        operations=lambda arguments: 6 * arguments["transcripts"].numel() + 2 * arguments["alpha"].numel(),
        shapes=((1, 1, 1), (7, 1, 3), (5, 0, 1), (900, 1, 900), (31, 67, 4), (1023, 1025, 2), (257, 4099, 5)),
        bench_shapes=((200_000, 4_000_000, 8),),
        dtypes=(torch.float32, torch.float64),
        reduction=lambda arguments: int(torch.bincount(arguments["transcripts"], minlength=1).max()),
        oracle="method.em_step in float64; the tests use a loop over classes",
        special=(),  # abundances and lengths are finite, and lengths above 0
        vectorised=False,
        repeatable=False,
    ),
)
