"""A toy translation with a hidden register: what the latent variable carries, where its KL is, and what it is good for."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generator.lab.figures import FAINT, INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from snippets.variational_nmt import kernel, method

SEEDS, STEPS, BATCH, HIDDEN, LATENT, RATE, LOOK = 3, 300, 64, 32, 2, 0.01, 20
LENGTH, PAIRED, PLAIN = 6, 6, 6
"""Words of a sentence; source words with a polite and a casual translation, and with one alone."""
KINDS = ("marked", "neutral", "open")
"""A marker tells the register; no word shows it; nothing tells it and every word shows it."""
TESTED, DRAWS = 200, 10
SETTING = f"{LENGTH} words, latent {LATENT}, hidden {HIDDEN}, {STEPS} Adam steps of {BATCH}, {SEEDS} seeds"
COLOUR = dict(zip(("open", "marked", "neutral"), SERIES, strict=False))


def sentences(kind: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return source [seed, sentence, marker and words], target [seed, sentence, word] and register for kinds [seed, sentence]."""
    register = torch.randint(2, kind.shape, generator=generator)
    word = torch.randint(PAIRED, (*kind.shape, LENGTH), generator=generator)
    plain = (kind == 1).unsqueeze(-1)
    marker = torch.where(kind == 0, register, 2).unsqueeze(-1)
    source = torch.cat((marker, 3 + word + PAIRED * plain), dim=-1)
    return source, torch.where(plain, word, PLAIN + PAIRED * register.unsqueeze(-1) + word), register


class Translator(nn.Module):
    """Every seed's encoder, prior, posterior and decoder, side by side: a leading dimension of all parameters."""

    def __init__(self, latent: bool, sees_past: bool) -> None:
        super().__init__()
        self.latent, self.sees_past = latent, sees_past
        self.generator = torch.Generator().manual_seed(0)
        self.source = self.weight(3 + PAIRED + PLAIN, HIDDEN, scale=1.0)
        self.target, self.past = (self.weight(PLAIN + 2 * PAIRED, HIDDEN, scale=1.0) for _ in range(2))
        layers = {"prior": (HIDDEN, HIDDEN), "posterior": (2 * HIDDEN, HIDDEN)}
        layers |= {f"{net}_{what}": (HIDDEN, LATENT) for net in layers for what in ("mean", "logvar")}
        layers |= {"z": (LATENT, HIDDEN), "word": (HIDDEN, HIDDEN), "sentence": (HIDDEN, HIDDEN)}
        layers |= {"written": (HIDDEN, HIDDEN), "through_z": (HIDDEN, HIDDEN), "out": (HIDDEN, PLAIN + 2 * PAIRED)}
        self.weights = nn.ParameterDict({name: self.weight(*size) for name, size in layers.items()})
        self.biases = nn.ParameterDict(
            {k: nn.Parameter(torch.zeros(SEEDS, 1, size)) for k, (_, size) in layers.items()}
        )

    def weight(self, fan_in: int, fan_out: int, scale: float | None = None) -> nn.Parameter:
        drawn = torch.randn(SEEDS, fan_in, fan_out, generator=self.generator)
        return nn.Parameter(drawn * (scale or fan_in**-0.5))

    def dense(self, name: str, x: Tensor) -> Tensor:
        flat = torch.baddbmm(self.biases[name], x.flatten(1, -2), self.weights[name])
        return flat.view(*x.shape[:-1], flat.shape[-1])

    def gaussian(self, net: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the prior or posterior: a tanh layer, then two linear ones, as in the paper."""
        h = torch.tanh(self.dense(net, x))
        return self.dense(f"{net}_mean", h), self.dense(f"{net}_logvar", h)

    def read(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return the words' embeddings and the whole source's mean."""
        embedded = look_up(self.source, source)
        return embedded[:, :, 1:], embedded.mean(2)

    def infer(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return mean and log variance of the posterior and of the prior."""
        _, read = self.read(source)
        seen = torch.cat((read, look_up(self.target, target).mean(2)), dim=-1)
        return *self.gaussian("posterior", seen), *self.gaussian("prior", read)

    def decode(self, source: Tensor, z: Tensor | None, written: Tensor) -> Tensor:
        """Return log p [seed, sentence, word, form] of each word, given z and, where the decoder sees it, what is written before."""
        words, read = self.read(source)
        h = self.dense("word", words) + self.dense("sentence", read).unsqueeze(2)
        if z is not None:
            h = h + self.dense("through_z", torch.tanh(self.dense("z", z))).unsqueeze(2)
        if self.sees_past:
            before = look_up(self.past, written).cumsum(2)[:, :, :-1] / torch.arange(1, LENGTH).view(-1, 1)
            h = h + self.dense("written", F.pad(before, (0, 0, 1, 0)))
        return self.dense("out", torch.tanh(h)).log_softmax(-1)

    def bound(self, source: Tensor, target: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return −log p(y|x), with a latent variable an upper bound on it, and the KL within [seed, sentence]."""
        z, kl = None, torch.zeros(source.shape[:2])
        if self.latent:
            z, kl = method.draw_and_kl(*self.infer(source, target), seed)
        log_p = self.decode(source, z, target).gather(-1, target.unsqueeze(-1)).squeeze(-1)
        return kl - log_p.sum(-1), kl

    def prior(self, source: Tensor, seed: int | None = None) -> Tensor | None:
        """Return the prior's mean, or a draw from it: what stands in for z where there is no target."""
        if not self.latent:
            return None
        mean, logvar = self.gaussian("prior", self.read(source)[1])
        return mean if seed is None else method.draw_and_kl(mean, logvar, mean, logvar, seed)[0]

    def write(self, source: Tensor, z: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
        """Translate word by word: the likeliest form, or with a generator one drawn by its probability."""
        written = torch.zeros_like(source[:, :, 1:])
        for at in range(LENGTH):
            log_p = self.decode(source, z, written)[:, :, at]
            if generator is not None:  # the arg max of log p + Gumbel noise is a draw from p
                log_p = log_p - torch.empty_like(log_p).exponential_(generator=generator).log()
            written[:, :, at] = log_p.argmax(-1)
        return written


def look_up(table: Tensor, index: Tensor) -> Tensor:
    return table[torch.arange(SEEDS).view(-1, 1, 1), index]


def train(latent: bool, sees_past: bool, test: tuple[Tensor, Tensor, Tensor]) -> tuple[Translator, list[dict]]:
    """Train on sentences drawn afresh, and return the model with what was seen of the test sentences on the way."""
    model, generator = Translator(latent, sees_past), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), RATE, foreach=True)
    looks = []
    for step in range(STEPS + 1):
        if latent and step % LOOK == 0:
            looks.append({"step": step, **look(model, test, step)})
        source, target, _ = sentences(torch.randint(3, (SEEDS, BATCH), generator=generator), generator)
        optimizer.zero_grad(set_to_none=True)
        model.bound(source, target, step)[0].mean(1).sum().backward()
        optimizer.step()
    return model, looks


@torch.no_grad()
def look(model: Translator, test: tuple[Tensor, Tensor, Tensor], seed: int) -> dict:
    """Return the KL [kind, seed] and the Gaussians of the test sentences."""
    gaussians = model.infer(*test[:2])
    return {"kl": by_kind(method.draw_and_kl(*gaussians, seed)[1]), "gaussians": gaussians}


def by_kind(values: Tensor) -> Tensor:
    """Return the mean [kind, seed] of what was measured of each test sentence [seed, sentence]."""
    return values.view(SEEDS, len(KINDS), TESTED).mean(-1).T


def final(model: Translator, test: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the bound and the KL within [kind, seed]; where z is drawn, the mean of several draws."""
    drawn = [model.bound(*test[:2], seed=STEPS + 1 + n) for n in range(DRAWS if model.latent else 1)]
    bound, kl = (by_kind(torch.stack(one).mean(0)) for one in zip(*drawn, strict=True))
    return bound, kl


def share_valid(written: Tensor, source: Tensor) -> list[float]:
    """Return, by seed, the share of open sentences that were given one of their two right translations."""
    word = source[:, :, 1:] - 3
    right = [(written == PLAIN + PAIRED * register + word).all(-1) for register in range(2)]
    return (right[0] | right[1]).double().mean(-1).tolist()


def run(record) -> None:
    """Train the four models and record what each does with sentences that leave their register open."""
    kinds = torch.arange(3).repeat_interleave(TESTED).expand(SEEDS, -1)
    test = sentences(kinds, torch.Generator().manual_seed(2))
    models = {(latent, past): train(latent, past, test) for latent in (False, True) for past in (False, True)}
    measure(record, models, test)
    training(record, models)
    picture(record, models[True, False][1], test[2])


@torch.no_grad()
def measure(record, models, test) -> None:
    """Record bounds, KL and valid translations; draw those of the open sentences."""
    source = test[0][:, 2 * TESTED :]
    rows, bars = [], {}
    for (latent, past), (model, _) in models.items():
        key = ("latent" if latent else "plain") + ("_past" if past else "")
        name = f"{'sees its past' if past else 'word by word'}, {'with z' if latent else 'no z'}"
        bound, kl = final(model, test)
        for number, kind in enumerate(KINDS):
            record.metric(f"nats_{kind}_{key}", bound[number].tolist(), "nats", setting=SETTING)
            if latent:
                record.metric(f"kl_{kind}_{key}", kl[number].tolist(), "nats", setting=SETTING)
        greedy = share_valid(model.write(source, model.prior(source)), source)
        sampled = share_valid(
            model.write(source, model.prior(source, seed=3), torch.Generator().manual_seed(4)), source
        )
        record.metric(f"valid_greedy_{key}", greedy, setting=f"z at the prior's mean, likeliest words; {SETTING}")
        record.metric(f"valid_sampled_{key}", sampled, setting=f"z and words drawn; {SETTING}")
        if latent:
            mean_q, logvar_q, mean_p, logvar_p = model.infer(*test[:2])
            swapped = by_kind(method.draw_and_kl(mean_p, logvar_p, mean_q, logvar_q, 0)[1])[2].tolist()
            record.metric(f"kl_swapped_open_{key}", swapped, "nats", setting=f"KL(prior ‖ posterior); {SETTING}")
            drawn = share_valid(model.write(source, model.prior(source, seed=3)), source)
            record.metric(f"valid_drawn_{key}", drawn, setting=f"z drawn from the prior, likeliest words; {SETTING}")
        bars[name] = (bound[2].tolist(), sampled)
        rows.append(
            {
                "decoder": name,
                "nats, open": f"{bound[2].mean():.3f}",
                "of it KL": f"{kl[2].mean():.3f}" if latent else "–",
                "nats, marked": f"{bound[0].mean():.3f}",
                "nats, neutral": f"{bound[1].mean():.3f}",
                "valid, greedy": f"{sum(greedy) / SEEDS:.2f}",
                "valid, sampled": f"{sum(sampled) / SEEDS:.2f}",
            }
        )
    for key, names in (
        ("", ("word by word, no z", "word by word, with z")),
        ("_past", ("sees its past, no z", "sees its past, with z")),
    ):
        plain, latent = (bars[name][0] for name in names)
        saved = [a - b for a, b in zip(plain, latent, strict=True)]
        record.metric(f"saved_open{key}", saved, "nats", setting=f"−log p without z less the bound with z; {SETTING}")
    record.table(
        "decoders",
        rows,
        caption=f"Nats a sentence (with z a bound: at most that many), and the share of open sentences given one of their two "
        f"right translations. Greedy: likeliest words, z at the prior's mean. Sampled: z and words drawn. {SETTING}; means.",
    )
    panels = []
    for number, (title, label) in enumerate(
        (("what an open sentence costs", "nats a sentence"), ("sampled translations", "share valid"))
    ):
        fig, axis = panel(title, label)
        for place, (name, values) in enumerate(bars.items()):
            colour = SERIES[0] if "with" in name else SERIES[1]
            axis.barh(place, sum(values[number]) / SEEDS, color=colour, alpha=0.45, height=0.6)
            axis.plot(values[number], [place] * SEEDS, "o", ms=4, color=colour)
        if number == 0:
            axis.axvline(math.log(2), color=INK, lw=1, ls="--")
            axis.text(math.log(2) + 0.1, 3.55, "log 2, the least", color=INK, fontsize=8.5)
        axis.set_yticks(range(len(bars)), [name.replace(", ", ",\n") for name in bars])
        axis.set_ylim(-0.5, 3.9)
        axis.grid(visible=False, axis="y")
        panels.append(fig)
    record.figure(
        "open-sentences",
        panels,
        caption=f"Four models on sentences whose register the source leaves open; dots are seeds. Left: −log p of the reference, "
        f"for models with z an upper bound on it. Right: share of sampled translations that are right and keep to one register. {SETTING}.",
        alt="Two bar charts over four models: word by word or seeing its past, without and with z.",
    )


def training(record, models) -> None:
    """Draw the KL of each kind of sentence over training."""
    panels = []
    for past, title in ((False, "decoder: word by word"), (True, "decoder sees its past")):
        looks = models[True, past][1]
        fig, axis = panel(title, "training step", "KL, nats a sentence")
        runs = torch.stack([one["kl"] for one in looks])  # [look, kind, seed]
        for kind in COLOUR:
            spread(axis, [one["step"] for one in looks], runs[:, KINDS.index(kind)].T, COLOUR[kind], kind)
        axis.axhline(math.log(2), color=INK, lw=1, ls="--")
        axis.set_ylim(0, 1.6)
        axis.legend(loc="upper right", ncols=3, fontsize=8)
        axis.text(STEPS, math.log(2) - 0.03, "log 2", color=INK, ha="right", va="top", fontsize=8.5)
        panels.append(fig)
    record.figure(
        "kl",
        panels,
        caption=f"KL between posterior and prior on {TESTED} held-out sentences of each kind, mean and range of the seeds. "
        f"Dashed: log 2, what a fair coin needs. {SETTING}.",
        alt="Two line charts of KL against training step for open, marked and neutral sentences, one a decoder.",
    )
    early = models[True, False][1][2]["kl"]
    for kind, values in zip(KINDS, early.tolist(), strict=True):
        record.metric(f"early_kl_{kind}", values, "nats", setting=f"after {2 * LOOK} steps; {SETTING}")


def picture(record, looks: list[dict], register: Tensor) -> None:
    """Draw posterior means and the prior in the plane of z, for the first seed."""
    panels = []
    for kind, at in (("open", 1), ("open", -1), ("marked", 1), ("marked", -1)):
        mean_q, _, mean_p, logvar_p = (one[0] for one in looks[at]["gaussians"])
        chosen = slice(KINDS.index(kind) * TESTED, (KINDS.index(kind) + 1) * TESTED)
        fig, axis = panel(f"{kind}, step {looks[at]['step']}", "z₁", "z₂", height=2.9)
        for number, name in enumerate(("polite", "casual")):
            is_it = register[0, chosen] == number
            axis.plot(
                *mean_q[chosen][is_it][:50].T, "o", ms=3, alpha=0.5, color=SERIES[number], label=f"posterior, {name}"
            )
            if kind == "marked" or number == 0:  # of open sentences both registers have one prior
                prior = is_it if kind == "marked" else slice(None)
                ring(axis, mean_p[chosen][prior].mean(0), (logvar_p[chosen][prior] / 2).exp().mean(0))
        axis.plot([], [], color=INK, lw=1.2, label="prior, 1 and 2 σ")
        axis.legend(loc="upper center", fontsize=7.5, ncols=2, handletextpad=0.3, columnspacing=0.9)
        axis.set(xlim=(-6, 6), ylim=(-4, 6))
        panels.append(fig)
    record.figure(
        "latent",
        panels,
        caption="The plane of z, first seed, word-by-word decoder: posterior means of the test sentences (dots, by the "
        "register of their target) and the conditional prior (rings at one and two standard deviations, averaged over sentences).",
        alt="Four scatter plots of posterior means with rings for the prior: open sentences early in training and at the "
        "end, marked sentences early in training and at the end.",
    )


def ring(axis, mean: Tensor, deviation: Tensor) -> None:
    angle = torch.linspace(0, 2 * math.pi, 73)
    for radius in (1, 2):
        x, y = mean[0] + radius * deviation[0] * angle.cos(), mean[1] + radius * deviation[1] * angle.sin()
        axis.plot(x, y, color=INK if radius == 1 else FAINT, lw=1.2)


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    names = ("mean_q", "logvar_q", "mean_p", "logvar_p")
    drawn = {one: torch.randn(shape, dtype=dtype, device=device, generator=generator) for one in names}
    return {**drawn, "seed": 2**40 + 17}


def _bytes(arguments) -> int:
    x = arguments["mean_q"]
    return (5 * x.numel() + x.shape[:-1].numel()) * x.element_size()  # four in, z and a number a row out


def _eager(mean_q, logvar_q, mean_p, logvar_p, seed):
    """What one writes in torch today: its own noise, and the sum spelled out."""
    z = mean_q + torch.exp(logvar_q / 2) * torch.randn_like(mean_q)
    t = logvar_q - logvar_p
    return z, 0.5 * (torch.exp(t) - 1 - t + (mean_q - mean_p).square() * torch.exp(-logvar_p)).sum(-1)


KERNELS = (
    Kernel(
        name="draw_and_kl",
        op=kernel.draw_and_kl,
        twin=method.draw_and_kl,
        inputs=_inputs,
        bytes_moved=_bytes,
        operations=lambda arguments: 75 * arguments["mean_q"].numel(),  # noise 40, three exps 24, series and sums
        shapes=((0, 5), (3, 0), (1,), (5, 1), (2, 6), (2, 3, 5, 7), (3, 7, 64), (2, 1000), (2, 2051)),
        bench_shapes=((131072, 1024),),
        compile_shape=(64, 1024),
        dtypes=(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        differentiable=("mean_q", "logvar_q", "mean_p", "logvar_p"),
        backward_bytes=lambda arguments: (_bytes(arguments) * 9) // 5,  # dL/dz and four in, four gradients out
        reduction=lambda arguments: arguments["mean_q"].shape[-1],
        oracle="method.draw_and_kl in float64; torch.distributions in the tests",
        eager=_eager,
    ),
)
