"""The winners' error rates as data, their parameters counted from definitions, and what ties do to a top-k error."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import torch
from torch import Tensor, nn

from generator.lab.figures import FAINT, INK, SERIES, panel
from generator.lab.kernels import Kernel
from snippets.alexnet import method as alexnet
from snippets.imagenet_winners import kernel, method

# Year, entry, top-5 error in %, source. What the challenge published, by year; outside data where the entry says so.
ENTRIES = (
    (2012, "SuperVision (AlexNet), extra data", 15.315, "challenge, 2012"),
    (2012, "SuperVision (AlexNet)", 16.422, "challenge, 2012"),
    (2012, "ISI, weighted features", 26.172, "challenge, 2012"),
    (2012, "XRCE/INRIA, Fisher vectors", 27.058, "challenge, 2012"),
    (2012, "LEAR-XRCE, nearest class mean", 34.464, "challenge, 2012"),
    (2013, "Clarifai", 11.7, "Russakovsky et al."),
    (2013, "NUS", 13.0, "Russakovsky et al."),
    (2013, "ZF", 13.5, "Russakovsky et al."),
    (2014, "GoogLeNet", 6.7, "Russakovsky et al."),
    (2014, "VGG", 7.3, "Russakovsky et al."),
    (2014, "SPPnet (MSRA)", 8.1, "Russakovsky et al."),
    (2015, "ResNet (MSRA)", 3.57, "He et al."),
    (2017, "SENet", 2.251, "Hu et al."),
)
WINNERS = (("AlexNet", 16.422), ("GoogLeNet", 6.7), ("VGG-19", 7.3), ("ResNet-152", 3.57), ("ZFNet", 13.5))
LISTED_ALEXNET, LISTED_GOOGLENET = 60_954_656, 11_176_896
Layer = tuple[str, int, int]
"""A layer's name, its weights, and its biases; a batch norm's two vectors count as biases."""


def run(record) -> None:
    """Record the table of entries, the counts, the search for the listed number, and the effect of ties."""
    rates(record)
    counted = sizes(record)
    search(record)
    figure(record, counted)
    ties(record)


def conv(name: str, inputs: int, outputs: int, size: int = 1, vectors: int = 1) -> Layer:
    """Return a layer that sees all its inputs; a fully connected one has size 1 or that of the map it flattens."""
    return name, inputs * outputs * size**2, vectors * outputs


def alexnet_layers(gpus: int = 2) -> list[Layer]:
    net = alexnet.network(gpus=gpus)
    parts = [(name, part) for name, part in net.named_children() if isinstance(part, nn.Conv2d | nn.Linear)]
    return [(name, part.weight.numel(), part.bias.numel()) for name, part in parts]


def zfnet_layers() -> list[Layer]:
    """Zeiler and Fergus 2014, figure 3: AlexNet unsplit, with a first layer of 7 × 7."""
    sizes = ((3, 96, 7), (96, 256, 5), (256, 384, 3), (384, 384, 3), (384, 256, 3), (256, 4096, 6), (4096, 4096, 1))
    return [conv(f"layer {n}", *one) for n, one in enumerate((*sizes, (4096, 1000, 1)), start=1)]


def vgg_layers(repeats: tuple[int, ...]) -> list[Layer]:
    """Simonyan and Zisserman 2015, table 1: blocks of 3 × 3 convolutions, columns D (16 layers) and E (19)."""
    layers, inputs = [], 3
    for block, (count, outputs) in enumerate(zip(repeats, (64, 128, 256, 512, 512), strict=True), start=1):
        for n in range(1, count + 1):
            layers.append(conv(f"conv{block}_{n}", inputs, outputs, 3))
            inputs = outputs
    return [*layers, conv("fc6", 512, 4096, 7), conv("fc7", 4096, 4096), conv("fc8", 4096, 1000)]


def resnet_layers(repeats: tuple[int, ...], bottleneck: bool) -> list[Layer]:
    """He et al. 2016, table 1, shortcuts of type B; convolutions have no bias and two batch-norm vectors."""
    layers, inputs = [conv("conv1", 3, 64, 7, vectors=2)], 64
    for stage, (count, width) in enumerate(zip(repeats, (64, 128, 256, 512), strict=True), start=2):
        outputs = 4 * width if bottleneck else width
        shape = ((width, 1), (width, 3), (outputs, 1)) if bottleneck else ((width, 3), (outputs, 3))
        for n in range(1, count + 1):
            if inputs != outputs:
                layers.append(conv(f"conv{stage}_{n} shortcut", inputs, outputs, 1, vectors=2))
            for wide, size in shape:
                layers.append(conv(f"conv{stage}_{n}", inputs, wide, size, vectors=2))
                inputs = wide
    return [*layers, conv("fc", inputs, 1000)]


# Szegedy et al. 2015, table 1: inputs, 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool projection.
INCEPTIONS = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}


def googlenet_layers(first: int = 7, five: int = 5) -> list[Layer]:
    """Return the trunk; `first` and `five` are the sizes of the first layer's kernels and of the inceptions' largest."""
    layers = [conv("conv1", 3, 64, first), conv("conv2 reduce", 64, 64), conv("conv2", 64, 192, 3)]
    for name, (inputs, one, reduce3, three, reduce5, largest, pool) in INCEPTIONS.items():
        parts = ((inputs, one, 1), (inputs, reduce3, 1), (reduce3, three, 3), (inputs, reduce5, 1))
        parts = (*parts, (reduce5, largest, five), (inputs, pool, 1))
        layers += [conv(f"inception {name}", *part) for part in parts]
    return [*layers, conv("classifier", 1024, 1000)]


HEADS = {
    "1 × 1 convolutions": [conv("4a", 512, 128), conv("4d", 528, 128)],
    "hidden layers": [conv("4a", 128, 1024, 4), conv("4d", 128, 1024, 4)],
    "classifiers": [conv("4a", 1024, 1000), conv("4d", 1024, 1000)],
}
"""GoogLeNet's two auxiliary heads, which serve in training alone (section 5)."""


def heads(names: Iterable[str] = tuple(HEADS)) -> list[Layer]:
    return [layer for name in names for layer in HEADS[name]]


def total(layers: list[Layer], vectors: bool = True) -> int:
    return sum(weights + vectors * biases for _, weights, biases in layers)


def rates(record) -> None:
    rows = [{"year": y, "entry": e, "top-5 error (%)": f"{r:g}", "source": s} for y, e, r, s in ENTRIES]
    record.table("entries", rows, caption="Top-5 error on the test set of the classification task, as published.")


def sizes(record) -> dict[str, int]:
    networks = {
        "AlexNet": alexnet_layers(),
        "ZFNet": zfnet_layers(),
        "VGG-16": vgg_layers((2, 2, 3, 3, 3)),
        "VGG-19": vgg_layers((2, 2, 4, 4, 4)),
        "GoogLeNet": googlenet_layers(),
        "GoogLeNet with both heads": [*googlenet_layers(), *heads()],
        "ResNet-18": resnet_layers((2, 2, 2, 2), bottleneck=False),
        "ResNet-152": resnet_layers((3, 8, 36, 3), bottleneck=True),
    }
    rows = []
    for name, layers in networks.items():
        weights, everything = total(layers, vectors=False), total(layers)
        widest = max(layers, key=lambda layer: layer[1])
        largest = f"{widest[0]}, {100 * widest[1] / weights:.0f} %"
        rows.append(
            {"network": name, "weights": weights, "with biases and batch norm": everything, "largest layer": largest}
        )
    record.table("sizes", rows, caption="Parameters counted from the definitions, for 1000 classes.")
    record.metric(
        "alexnet_weights", rows[0]["weights"], setting="split over two GPUs, all eight layers, without biases"
    )
    record.metric(
        "googlenet_weights", total(networks["GoogLeNet"], False), setting="trunk and classifier, without biases"
    )
    record.metric("googlenet_parameters", total(networks["GoogLeNet"]), setting="trunk and classifier, with biases")
    both = networks["GoogLeNet with both heads"]
    record.metric("googlenet_with_heads", total(both), setting="trunk, classifier, both auxiliary heads, with biases")
    record.metric("resnet18_without_fc", total(networks["ResNet-18"][:-1]), setting="convolutions and batch norms")
    record.metric(
        "size_ratio",
        rows[0]["weights"] / total(networks["GoogLeNet"], False),
        setting="AlexNet over GoogLeNet, weights",
    )
    return {row["network"]: row["with biases and batch norm"] for row in rows}


def search(record) -> None:
    """Count GoogLeNet in every way of a small family, and see which give the listed number."""
    names, rows = list(HEADS), []
    for first, five, vectors, classifier, *on in product(
        (7, 3), (5, 3), (True, False), (True, False), *[(True, False)] * 3
    ):
        trunk = googlenet_layers(first, five)
        layers = trunk if classifier else trunk[:-1]
        counted = [name for name, chosen in zip(names, on, strict=True) if chosen]
        layers = [*layers, *heads(counted)]
        row = {"first layer": f"{first} × {first}", "largest in inceptions": f"{five} × {five}"}
        row |= {"biases": "yes" if vectors else "no", "classifier": "yes" if classifier else "no"}
        row |= {"of the auxiliary heads": ", ".join(counted) or "nothing", "count": total(layers, vectors)}
        rows.append(row | {"minus the listed": row["count"] - LISTED_GOOGLENET})
    rows.sort(key=lambda row: abs(row["minus the listed"]))
    exact = [row for row in rows if not row["minus the listed"]]
    as_published = [row for row in exact if row["first layer"] == "7 × 7" and row["largest in inceptions"] == "5 × 5"]
    record.metric("ways_tried", len(rows), setting="sizes of two kernels, biases, classifier, parts of the heads")
    record.metric("ways_exact", len(exact), setting=f"that give {LISTED_GOOGLENET:,}")
    record.metric("ways_exact_as_published", len(as_published), setting="with the kernels of the paper")
    record.metric("closest_count", rows[0]["count"], setting="the nearest of all ways tried")
    record.table(
        "search",
        rows[:5],
        caption=f"The five of {len(rows)} ways of counting GoogLeNet that come closest to {LISTED_GOOGLENET:,}.",
    )


def figure(record, counted: dict[str, int]) -> None:
    fig, axis = panel("published entries", "year", "top-5 error (%)")
    best: dict[int, float] = {}
    for year, _, error, _ in ENTRIES:
        axis.plot(year, error, "o", color=FAINT, ms=4)
        best[year] = min(error, best.get(year, 100.0))
    axis.plot(list(best), list(best.values()), color=SERIES[0], marker="o", ms=5)
    names = {2012: "AlexNet", 2013: "Clarifai", 2014: "GoogLeNet", 2015: "ResNet", 2017: "SENet"}
    for year, name in names.items():
        axis.annotate(
            name,
            (year, best[year]),
            (-2, -13) if year < 2014 else (3, 7),
            textcoords="offset points",
            fontsize=8,
            ha="right" if year < 2014 else "left",
        )
    axis.set(ylim=(0, 37), xlim=(2010.7, 2018))
    axis.set_xticks(range(2011, 2019, 2))
    size_fig, size_axis = panel("error against size", "parameters (millions)", "top-5 error (%)")
    for name, error in WINNERS:
        millions = counted[name] / 1e6
        size_axis.plot(millions, error, "o", color=SERIES[0], ms=5)
        left = millions > 100
        size_axis.annotate(
            name,
            (millions, error),
            (-6 if left else 6, 4),
            textcoords="offset points",
            fontsize=8,
            ha="right" if left else "left",
            color=INK,
        )
    size_axis.set(xscale="log", xlim=(4, 250), ylim=(0, 19), xticks=(5, 10, 20, 50, 100, 200))
    size_axis.set_xticklabels(["5", "10", "20", "50", "100", "200"])
    size_axis.minorticks_off()
    record.figure(
        "errors",
        [fig, size_fig],
        caption="Left: every entry of the table (grey) and the best of its year (blue). Right: error of an entry against the "
        "size of one network of its kind, counted from its definition; the entries themselves are ensembles of several.",
        alt="Left: dots by year, with a line through the lowest of each year that falls from 15 percent in 2012 to about 2 in 2017. "
        "Right: five dots of error against parameters; GoogLeNet is far to the left, and the lowest, ResNet-152, is as large as AlexNet.",
    )


def ties(record) -> None:
    """Rate a network whose outputs carry no information, three ways: constant logits, rounded ones, and a broken one."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(1000).repeat(4)
    noise = torch.randn(4000, 1000, generator=generator)
    cases = {"random": noise, "all equal": torch.zeros_like(noise), "random, rounded to integers": noise.round()}
    cases["NaN"] = torch.full_like(noise, float("nan"))
    rows = []
    for name, logits in cases.items():
        own = logits.gather(1, target[:, None])
        strict = [((logits > own).sum(1) >= k).double().mean().item() for k in (1, 5)]
        errors = method.topk_errors(logits, target).tolist()
        rows.append(
            {
                "logits": name,
                "top-1 error (%)": round(100 * errors[0], 3),
                "top-5 error (%)": round(100 * errors[1], 3),
                "top-1, larger logits only (%)": round(100 * strict[0], 3),
                "top-5, larger logits only (%)": round(100 * strict[1], 3),
            }
        )
        if name in ("all equal", "NaN"):
            key = name.replace(" ", "_").lower()
            record.metric(
                f"top5_{key}", 100 * errors[1], unit="%", setting="4,000 rows, 1,000 classes, each target four times"
            )
            record.metric(
                f"top5_{key}_strict", 100 * strict[1], unit="%", setting="counting only logits larger than the target's"
            )
    record.table(
        "ties", rows, caption="4,000 rows of 1,000 logits that know nothing; each class is the target four times."
    )


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    rows, classes = shape
    logits = torch.randn(shape, dtype=dtype, device=device, generator=generator)
    target = torch.randint(max(classes, 1), (rows,), device=device, generator=generator)
    return {"logits": logits, "target": target, "ks": (1, 5)}


def _bytes(arguments) -> int:
    logits: Tensor = arguments["logits"]
    return logits.numel() * logits.element_size() + 8 * len(logits)


def _by_sorting(logits, target, ks):
    found = logits.topk(max(ks), dim=1).indices == target[:, None]
    return torch.stack([1 - found[:, :k].any(1).double().mean() for k in ks])


KERNELS = (
    Kernel(
        name="topk_errors",
        op=kernel.topk_errors,
        twin=method.topk_errors,
        inputs=_inputs,
        bytes_moved=_bytes,
        operations=lambda arguments: 4 * arguments["logits"].numel(),  # larger, equal, earlier, not a number
        shapes=((0, 7), (1, 1), (7, 5), (1, 1023), (130, 10), (9, 1000), (3, 1024), (2, 1025), (3, 5003)),
        bench_shapes=((131072, 1000), (4096, 50304)),
        compile_shape=(64, 1000),
        dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        exact=True,
        oracle="method.topk_errors in float64; torch.topk in the tests",
        eager=_by_sorting,
    ),
)
