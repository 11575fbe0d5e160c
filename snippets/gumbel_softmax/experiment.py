"""Gumbel-Softmax measured: samples and arg max by temperature, gradient estimators against the truth, a categorical VAE."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from generator.lab.data import digits
from generator.lab.figures import FAINT, INK, SERIES, panel, spread
from generator.lab.kernels import Kernel
from generator.lab.train import minibatches
from snippets.gumbel_softmax import kernel, method

PI = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
PANELS, DOTS = (5.0, 1.0, 0.5, 0.1), 220
TEMPERATURES, DRAWS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000), 20_000
CLASSES, COUNTED, SEEDS = 10, 100_000, 5

# three latents of four classes: 64 states, few enough to add up exactly
LATENTS, STATES, HIDDEN, PROBLEMS, ESTIMATES = 3, 4, 16, 5, 10_000
TAUS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
TOY = f"{LATENTS} latents of {STATES} classes, a random tanh network of {HIDDEN}, {ESTIMATES:,} draws, {PROBLEMS} problems"

ESTIMATORS = ("Gumbel-Softmax", "ST Gumbel-Softmax", "straight-through", "REINFORCE")
CODE, SYMBOLS, WIDTH, NETS = 8, 8, 64, 3
EPOCHS, BATCH, RATE, WARMEST, COLDEST, EVERY = 40, 100, 3e-3, 1.0, 0.5, 4
VAE = f"binarized 8×8 digits, {CODE} latents of {SYMBOLS} classes, {EPOCHS} epochs, {NETS} seeds"


def run(record) -> None:
    """Record the samples, the arg max, the gradient estimators, and the autoencoder."""
    simplex(record)
    temperature(record)
    frequencies(record)
    estimators(record)
    autoencoder(record)


def simplex(record) -> None:
    """Draw the same noise on the triangle of three classes at four temperatures."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], dtype=torch.float64)
    logits = PI.log().expand(DOTS, 3)
    panels = []
    for tau in PANELS:
        fig, ax = panel(f"τ = {tau:g}", height=2.6)
        y = method.gumbel_softmax(logits, tau, seed=1)
        ax.plot(*corners[[0, 1, 2, 0]].T, color=FAINT, lw=0.8)
        ax.scatter(*(y @ corners).T, s=9, color=SERIES[0], alpha=0.5, lw=0)
        ax.plot(*(y.mean(0) @ corners), "x", color=INK, ms=9, mew=2)
        ax.plot(*(PI @ corners), "o", color=SERIES[1], ms=10, mew=1.6, mfc="none")
        for (x, height), share, place in zip(corners.tolist(), PI.tolist(), ("top", "top", "bottom"), strict=True):
            ax.text(x, height + (0.04 if place == "bottom" else -0.05), f"{share:g}", ha="center", va=place)
        ax.set(aspect="equal", xlim=(-0.12, 1.12), ylim=(-0.16, 1.0))
        ax.axis("off")
        panels.append(fig)
    record.figure(
        "simplex",
        panels,
        caption=f"{DOTS} Gumbel-Softmax samples of three classes with probabilities {PI.tolist()}, from the same noise at four "
        "temperatures. A corner is a one-hot vector. Cross: mean of the samples; ring: mean of the categorical distribution.",
        alt="Four triangles. At temperature 5 the samples crowd the middle; at 1 they fill the triangle; at 0.5 they drift to "
        "the edges; at 0.1 nearly all sit in the corners, and their mean is that of the categorical distribution.",
    )


def temperature(record) -> None:
    """Follow the samples' mean and their largest coordinate from one-hot to uniform."""
    g = method.gumbel((DRAWS, 3), seed=2, dtype=torch.float64)
    logits = PI.log().expand(DRAWS, 3)
    samples = {tau: method.relax(logits, g, tau) for tau in TEMPERATURES}
    setting = f"π = {PI.tolist()}, {DRAWS:,} samples"
    record.metric("largest_coordinate", samples[0.01].amax(1).mean().item(), setting=f"τ = 0.01, {setting}")
    record.metric("farthest_from_uniform", (samples[1000] - 1 / 3).abs().max().item(), setting=f"τ = 1000, {setting}")
    record.metric("mean_against_pi", (samples[0.1].mean(0) - PI).abs().max().item(), setting=f"τ = 0.1, {setting}")
    record.metric(
        "mean_against_uniform", (samples[100].mean(0) - 1 / 3).abs().max().item(), setting=f"τ = 100, {setting}"
    )
    left, ax = panel("mean of the samples", "temperature τ", "mean of yᵢ")
    means = torch.stack([y.mean(0) for y in samples.values()])
    for number, share in enumerate(PI.tolist()):
        ax.axhline(share, color=SERIES[number], lw=0.8, ls=":")
        ax.semilogx(TEMPERATURES, means[:, number], color=SERIES[number])
        ax.text(0.011, share + 0.02, f"π = {share:g}", color=SERIES[number])
    ax.set_ylim(0, 0.75)
    ax.xaxis.set_major_formatter("{x:g}")
    right, ax = panel("how nearly one-hot", "temperature τ", "largest coordinate")
    largest = torch.stack([y.amax(1) for y in samples.values()])
    low, middle, high = largest.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), dim=1)
    ax.fill_between(TEMPERATURES, low, high, color=SERIES[0], alpha=0.16, lw=0)
    ax.semilogx(TEMPERATURES, middle, color=SERIES[0])
    ax.axhline(1 / 3, color=FAINT, lw=0.8)
    ax.text(0.011, 0.35, "uniform", color=FAINT)
    ax.set_ylim(0.25, 1.03)
    ax.xaxis.set_major_formatter("{x:g}")
    record.figure(
        "temperature",
        [left, right],
        caption=f"The same {DRAWS:,} draws of noise at {len(TEMPERATURES)} temperatures. Left: mean of each coordinate, from the "
        "probabilities π (dotted) to 1/3. Right: median of the largest coordinate, with the 10th to 90th percentile.",
        alt="Two panels over temperature on a log axis. Left: three curves start at 0.6, 0.3 and 0.1 and meet at one third. "
        "Right: the largest coordinate falls from 1 to one third between temperatures 0.1 and 10.",
    )


def frequencies(record) -> None:
    """Count the arg max of the samples, and test the counts against softmax(logits)."""
    from scipy.stats import chisquare

    p_values = []
    for seed in range(SEEDS):
        logits = torch.randn(CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        pi = logits.softmax(0)
        y = method.gumbel_softmax(logits.float().expand(COUNTED, CLASSES), 1.0, seed=seed)
        counts = y.argmax(1).bincount(minlength=CLASSES).double()
        p_values.append(float(chisquare(counts.numpy(), (COUNTED * pi).numpy()).pvalue))
        if seed == 0:
            fig, ax = panel("arg max of the samples", "probability πᵢ", "share of samples", height=2.9)
            ax.plot([0, 0.4], [0, 0.4], color=FAINT, lw=0.8)
            ax.plot(pi, counts / COUNTED, "o", color=SERIES[0], ms=5)
            ax.set(xlim=(0, None), ylim=(0, None))
    setting = f"{CLASSES} classes, {COUNTED:,} samples at τ = 1, {SEEDS} seeds"
    record.metric("chi_square_p", p_values, setting=setting)
    record.metric("chi_square_lowest_p", min(p_values), setting=f"lowest of the seeds; {setting}")
    record.figure(
        "frequencies",
        fig,
        caption=f"How often each of {CLASSES} classes is the largest of {COUNTED:,} samples at τ = 1, against its probability; "
        "first of the seeds. On the gray line the two are equal.",
        alt="Ten dots, all on the diagonal: the share of samples in which a class is largest equals its probability.",
    )


class Toy:
    """f(z) = a·tanh(Wz + b) of one-hot z for each problem, with logits θ and the exact gradient of E[f] in θ."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        draw = lambda *shape: torch.randn(PROBLEMS, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
        size = LATENTS * STATES
        self.theta, self.w, self.b, self.a = draw(LATENTS, STATES), draw(size, HIDDEN), draw(1, HIDDEN), draw(HIDDEN, 1)
        states = torch.cartesian_prod(*[torch.arange(STATES)] * LATENTS)
        theta = self.theta.clone().requires_grad_()
        chance = theta.log_softmax(-1)[:, torch.arange(LATENTS), states].sum(-1).exp()
        self.mean = (chance * self.f(F.one_hot(states, STATES).double().expand(PROBLEMS, -1, -1, -1))).sum(1)
        (self.gradient,) = torch.autograd.grad(self.mean.sum(), theta)

    def f(self, z: Tensor) -> Tensor:
        """Return f [problem, draw] of z [problem, draw, latent, class], one-hot or anywhere on the simplex."""
        return (torch.tanh(z.flatten(2) @ self.w + self.b) @ self.a)[..., 0]


def estimators(record) -> None:
    """Measure bias and spread of single-sample gradient estimates where the gradient is known."""
    toy = Toy()
    theta = toy.theta[:, None].expand(-1, ESTIMATES, -1, -1).clone().requires_grad_()
    g = method.gumbel(tuple(theta.shape), seed=3, dtype=torch.float64)

    def judge(objective: Tensor) -> tuple[list[float], list[float], list[float]]:
        """Return for each problem bias and deviation over the gradient's norm, and the bias in standard errors."""
        (estimate,) = torch.autograd.grad(objective.sum(), theta)
        size = toy.gradient.flatten(1).norm(dim=1)
        bias = (estimate.mean(1) - toy.gradient).flatten(1).norm(dim=1)
        deviation = estimate.var(1).flatten(1).sum(1).sqrt()
        return [(bias / size).tolist(), (deviation / size).tolist(), (bias / deviation * ESTIMATES**0.5).tolist()]

    found = {}
    for tau in TAUS:
        found["Gumbel-Softmax", tau] = judge(toy.f(method.relax(theta, g, tau)))
        found["ST Gumbel-Softmax", tau] = judge(toy.f(method.relax(theta, g, tau, hard=True)))
    z = method.relax(theta, g, 1.0, hard=True).detach()
    pi = theta.softmax(-1)
    found["straight-through", None] = judge(toy.f(z + pi - pi.detach()))
    cost = toy.f(z)
    for name, signal in (("REINFORCE", cost), ("REINFORCE, baseline", cost - toy.mean[:, None].detach())):
        found[name, None] = judge(signal * (theta.log_softmax(-1) * z).sum((-1, -2)))
    for (name, tau), (bias, deviation, errors) in found.items():
        if tau in (None, 0.1, 1.0, 5.0):
            key = name.lower().replace(", ", "_").replace(" ", "_").replace("-", "_")
            key += "" if tau is None else f"_tau_{tau:g}".replace(".", "")
            setting = TOY if tau is None else f"τ = {tau:g}; {TOY}"
            record.metric(f"{key}_bias", bias, setting=setting)
            record.metric(f"{key}_deviation", deviation, setting=setting)
            record.metric(f"{key}_bias_errors", errors, unit="standard errors", setting=setting)
    record.table(
        "estimators",
        [
            {
                "estimator": name,
                "τ": "–" if tau is None else f"{tau:g}",
                "relative bias": f"{sum(bias) / PROBLEMS:.3f}",
                "relative deviation": f"{sum(deviation) / PROBLEMS:.2f}",
                "root mean square error": f"{sum((b * b + d * d) ** 0.5 for b, d in zip(bias, deviation, strict=True)) / PROBLEMS:.2f}",
            }
            for (name, tau), (bias, deviation, _) in found.items()
        ],
        caption=f"Bias and standard deviation of one-sample estimates, as shares of the exact gradient's norm; means over problems. {TOY}.",
    )
    record.figure(
        "estimators",
        [
            _against_tau(found, 0, "bias", (0.01, 2)),
            _against_tau(found, 1, "standard deviation of one draw", (0.05, 20)),
        ],
        caption="Bias (left) and standard deviation (right) of gradient estimates over the exact gradient's norm. Bands: from the "
        f"lowest to the highest of {PROBLEMS} problems. Dashed: REINFORCE without a baseline, whose bias is only what {ESTIMATES:,} draws cannot resolve.",
        alt="Two log-log panels over temperature. Left: the bias of Gumbel-Softmax grows with temperature. Right: its deviation "
        "falls with temperature. REINFORCE and straight-through are flat lines for comparison.",
    )


def _against_tau(found, what: int, label: str, limits):
    fig, ax = panel(label, "temperature τ", "share of the gradient's norm", height=3.3)
    for number, name in enumerate(("Gumbel-Softmax", "ST Gumbel-Softmax")):
        runs = torch.tensor([found[name, tau][what] for tau in TAUS]).T
        spread(ax, TAUS, runs, SERIES[number], label=name)
    for color, style, name in ((SERIES[2], "-", "straight-through"), (SERIES[3], "--", "REINFORCE")):
        value = sum(found[name, None][what]) / PROBLEMS
        ax.plot((TAUS[0], TAUS[-1]), (value, value), color=color, ls=style, label=name)
    ax.set(xscale="log", yscale="log", ylim=limits)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
    fig.legend(fontsize=8, ncols=2, loc="outside lower center")
    return fig


class Autoencoders:
    """NETS categorical autoencoders for each estimator, side by side [estimator · seed]; seeds start alike."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        sizes = [(64, WIDTH), (WIDTH, CODE * SYMBOLS), (CODE * SYMBOLS, WIDTH), (WIDTH, 64)]
        self.weights, self.biases = [], []
        for fan_in, fan_out in sizes:
            one = torch.randn(1, NETS, fan_in, fan_out, generator=generator) / fan_in**0.5
            self.weights.append(one.expand(len(ESTIMATORS), -1, -1, -1).flatten(0, 1).clone().requires_grad_())
            self.biases.append(torch.zeros(len(ESTIMATORS) * NETS, 1, fan_out, requires_grad=True))

    def layer(self, number: int, x: Tensor) -> Tensor:
        return torch.baddbmm(self.biases[number], x, self.weights[number])

    def encode(self, x: Tensor) -> Tensor:
        """Return the logits of q(z|x) [net, batch, latent, class]."""
        return self.layer(1, torch.tanh(self.layer(0, x))).unflatten(-1, (CODE, SYMBOLS))

    def decode(self, z: Tensor) -> Tensor:
        return self.layer(3, torch.tanh(self.layer(2, z.flatten(2))))


def nats(logits: Tensor, x: Tensor) -> Tensor:
    """Return −log p(x|z) [net, batch] of binary pixels."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def divergence(q: Tensor) -> Tensor:
    """Return KL(q(z|x) ‖ uniform) [net, batch] of log-probabilities q."""
    return (q.exp() * (q + torch.tensor(float(SYMBOLS)).log())).sum((-1, -2))


def draw(theta: Tensor, q: Tensor, g: Tensor, tau: float) -> Tensor:
    """Return z for every net: relaxed, straight-through by the relaxed or by the probabilities, and merely drawn."""
    soft, st, plain, score = theta.chunk(len(ESTIMATORS))
    pi = q.chunk(len(ESTIMATORS))[2].exp()
    plain, score = (F.one_hot((one + g).argmax(-1), SYMBOLS).float() for one in (plain, score))  # equation 1
    return torch.cat([method.relax(soft, g, tau), method.relax(st, g, tau, True), plain + pi - pi.detach(), score])


def autoencoder(record) -> None:
    """Train categorical autoencoders with four gradient estimators on the same noise and judge them by discrete codes."""
    train, _, test, _ = digits()
    train, test = (train > 0.5).float(), (test > 0.5).float()
    nets = Autoencoders()
    parameters = [*nets.weights, *nets.biases]
    optimizer = torch.optim.Adam(parameters, lr=RATE, fused=True)
    generator = torch.Generator().manual_seed(0)
    steps = len(train) // BATCH
    step, mean, square, curves = 0, None, None, []
    every = len(ESTIMATORS) * NETS
    for epoch in range(EPOCHS):
        if epoch % EVERY == 0:
            curves.append(bound(nets, test, seed=epoch))
        noise = method.gumbel((steps, NETS, BATCH, CODE, SYMBOLS), seed=1000 + epoch)
        for index, g in zip(minibatches(len(train), BATCH, generator), noise, strict=True):
            # from WARMEST to COLDEST over the first half of training, by the paper's exponential
            tau = max(COLDEST, WARMEST * (COLDEST / WARMEST) ** (2 * step / (EPOCHS * steps)))
            x = train[index].expand(every, -1, -1)
            theta = nets.encode(x)
            q = theta - theta.logsumexp(-1, keepdim=True)  # a row of eight is too short for log_softmax to be fast
            z = draw(theta, q, g, tau)
            cost = nats(nets.decode(z), x)
            signal = cost[-NETS:].detach()
            now, now_square = signal.mean(1, keepdim=True), signal.square().mean(1, keepdim=True)
            mean = now if mean is None else 0.9 * mean + 0.1 * now
            square = now_square if square is None else 0.9 * square + 0.1 * now_square
            signal = (signal - mean) / (square - mean**2).clamp(min=1).sqrt()
            score = signal * (q[-NETS:] * z[-NETS:].detach()).sum((-1, -2))
            optimizer.zero_grad(set_to_none=True)
            ((cost + divergence(q)).mean(1).sum() + score.mean(1).sum()).backward()
            optimizer.step()
            step += 1
    curves.append(bound(nets, test, seed=EPOCHS))
    report(record, nets, torch.stack(curves))


@torch.no_grad()
def bound(nets: Autoencoders, x: Tensor, seed: int) -> Tensor:
    """Return the negative variational bound in nats [estimator, seed], with discrete codes."""
    x = x.expand(len(ESTIMATORS) * NETS, -1, -1)
    theta = nets.encode(x)
    g = method.gumbel((1, *theta.shape[1:]), seed=seed).expand_as(theta)
    loss = nats(nets.decode(F.one_hot((theta + g).argmax(-1), SYMBOLS).float()), x) + divergence(theta.log_softmax(-1))
    return loss.mean(1).view(len(ESTIMATORS), NETS)


def report(record, nets: Autoencoders, curves: Tensor) -> None:
    """Record the curves [evaluation, estimator, seed] and what the first Gumbel-Softmax net draws from the prior."""
    left, ax = panel("test loss", "epoch", "negative bound (nats)", height=3.0)
    epochs = range(0, EPOCHS + 1, EVERY)
    for number, name in enumerate(ESTIMATORS):
        key = name.lower().replace(" ", "_").replace("-", "_")
        record.metric(f"vae_{key}", curves[-1, number].tolist(), unit="nats", setting=f"test, discrete codes; {VAE}")
        spread(ax, epochs, curves[:, number].T, SERIES[number], label=name)
    ax.legend(fontsize=8)
    ax.set_ylim(20.5, 30)
    codes = F.one_hot(
        torch.randint(SYMBOLS, (len(ESTIMATORS) * NETS, 30, CODE), generator=torch.Generator().manual_seed(5)), SYMBOLS
    )
    with torch.no_grad():
        image = nets.decode(codes.float())[0].sigmoid().view(5, 6, 8, 8)
    right, ax = panel("drawn from the prior", height=3.0)
    padded = F.pad(image, (1, 1, 1, 1), value=0.0)
    ax.imshow(padded.permute(0, 2, 1, 3).reshape(50, 60), cmap="cividis", vmin=0, vmax=1)
    ax.axis("off")
    record.figure(
        "autoencoder",
        [left, right],
        caption=f"Left: negative variational bound on test digits with discrete codes, mean and range of {NETS} seeds; all four "
        "estimators see the same batches and the same noise. Right: 30 decoded codes drawn from the prior, pixel probabilities, "
        "first Gumbel-Softmax network.",
        alt="Left: four falling loss curves over epochs, one for each gradient estimator. Right: a grid of small blurred digits.",
    )


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    return {"logits": 2 * torch.randn(shape, dtype=dtype, device=device, generator=generator), "tau": 0.7}


def _soft(*what):
    return {**_inputs(*what), "hard": False, "seed": 2**40 + 17}


def _hard(*what):
    return {**_inputs(*what), "hard": True, "seed": -3}


def _torchs(logits, tau, hard, seed):
    return F.gumbel_softmax(logits, tau, hard)


def _bytes(arguments) -> int:
    return 2 * arguments["logits"].numel() * arguments["logits"].element_size()


# dL/dy and what was kept in, dL/dlogits out
GRADIENT = {"differentiable": ("logits",), "backward_bytes": lambda arguments: _bytes(arguments) * 3 // 2}


def _declare(name, inputs, dtypes, shapes, bench_shapes, compile_shape, **more):
    return Kernel(
        name=name,
        op=kernel.gumbel_softmax,
        twin=method.gumbel_softmax,
        inputs=inputs,
        dtypes=dtypes,
        shapes=shapes,
        bench_shapes=bench_shapes,
        compile_shape=compile_shape,
        bytes_moved=_bytes,
        operations=lambda arguments: (
            70 * arguments["logits"].numel()
        ),  # Philox 25, two logarithms of 13, series 8, softmax 8
        reduction=lambda arguments: arguments["logits"].shape[-1],
        eager=_torchs,  # its noise is of its own
        oracle="method.gumbel_softmax in float64 on the same noise; F.softmax of that noise in the tests",
        **more,
    )


SHORT = ((0, 3), (5, 0), (1,), (37,), (3, 4), (120, 10), (2, 3, 4, 5), (37, 67), (3, 1024))
LONG = ((5, 7), (8196,), (2, 8201))
BENCH, BENCH_LONG = ((131072, 1024),), ((2048, 65536),)
WIDE, HALF = torch.float32, torch.bfloat16
KERNELS = (
    _declare("gumbel_softmax", _soft, (WIDE, HALF), SHORT, BENCH, (64, 1024), **GRADIENT),
    _declare("gumbel_softmax_large", _soft, (HALF,), LONG, BENCH_LONG, (16, 65536), **GRADIENT),
    # no gradient here: a straight-through one is not that of finite differences; the tests compare it
    _declare("gumbel_softmax_hard", _hard, (WIDE,), SHORT + LONG[1:], BENCH, (64, 1024)),
)
