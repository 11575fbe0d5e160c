"""What Goodfellow et al. claim of the adversarial game, and that the kernels are the losses."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from torch.testing import assert_close

from snippets.gan import experiment, kernel, method

LOSSES = pytest.mark.parametrize("losses", [method.gan_losses, kernel.gan_losses], ids=["method", "kernel"])
BOTH = pytest.mark.parametrize(
    "both", [method.gan_losses_and_gradients, kernel.gan_losses_and_gradients], ids=["method", "kernel"]
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
SIZES = [((1,), ()), ((7,), (3, 5)), ((1024,), (1023,)), ((5, 3, 70), (2100,)), ((2500,), (1,))]
INF, NAN = math.inf, math.nan


def draw(*shape, dtype=torch.float64, seed=0, spread=4.0):
    return (spread * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).to(dtype)


def cross_entropies(real, fake):
    """The three losses by torch's cross-entropy: D wants 1 and 0, G the opposite of D, or its own label 1."""
    called = F.binary_cross_entropy_with_logits
    caught = called(fake, torch.zeros_like(fake))
    return called(real, torch.ones_like(real)) + caught, -caught, called(fake, torch.ones_like(fake))


def losses_and_gradients(function, real, fake, weights=(1.0, 0.7, -0.3)):
    real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
    losses = function(real, fake)
    grads = [torch.tensor(w, dtype=torch.float64).to(real.dtype) for w in weights]
    return [loss.detach() for loss in losses], torch.autograd.grad(losses, (real, fake), grads)


def assert_agree(got, want, dtype, **tolerance):
    assert_close(got, type(got)(w.to(dtype) for w in want), equal_nan=True, **tolerance)


# The losses are torch's cross-entropies


@LOSSES
@DTYPES
@pytest.mark.parametrize(("real_shape", "fake_shape"), SIZES, ids=str)
def test_losses_and_gradients_are_those_of_torchs_cross_entropy(losses, dtype, real_shape, fake_shape):
    real, fake = draw(*real_shape, dtype=dtype), draw(*fake_shape, dtype=dtype, seed=1)
    # the downstream weights must be those that the dtype can hold
    weights = [torch.tensor(w).to(dtype).item() for w in (1.0, 0.7, -0.3)]
    got, gradients = losses_and_gradients(losses, real, fake, weights)
    want, slopes = losses_and_gradients(cross_entropies, real.double(), fake.double(), weights)
    assert_agree(got, want, dtype)
    assert_agree(gradients, slopes, dtype)


@BOTH
@DTYPES
@pytest.mark.parametrize(("real_shape", "fake_shape"), SIZES, ids=str)
def test_the_one_pass_gives_the_gradient_of_each_loss(both, dtype, real_shape, fake_shape):
    real, fake = draw(*real_shape, dtype=dtype), draw(*fake_shape, dtype=dtype, seed=1)
    *losses, d_real, d_minimax, d_non_saturating = both(real, fake)
    r, f = real.double().requires_grad_(), fake.double().requires_grad_()
    discriminator, minimax, non_saturating = cross_entropies(r, f)
    want = [
        torch.autograd.grad(discriminator, r, retain_graph=True)[0],
        torch.autograd.grad(minimax, f, retain_graph=True)[0],
        torch.autograd.grad(non_saturating, f)[0],
    ]
    assert_agree(losses, [discriminator, minimax, non_saturating], dtype)
    assert_agree([d_real, d_minimax, d_non_saturating], want, dtype)
    (d_fake,) = torch.autograd.grad(cross_entropies(r, f)[0], f)
    assert_close(d_minimax, -d_fake.to(dtype))  # the zero-sum game: what D gains, the minimax G loses


@LOSSES
@DTYPES
@pytest.mark.parametrize("logit", [100.0, -100.0, 80.0, -80.0])
def test_a_logit_of_one_hundred_neither_overflows_nor_vanishes(losses, dtype, logit):
    x = torch.full((3,), logit, dtype=dtype)
    tail = math.log1p(math.exp(-abs(logit)))
    called_fake, called_real = max(logit, 0) + tail, max(-logit, 0) + tail  # −log(1 − D), −log D
    (discriminator, minimax, non_saturating), (d_real, d_fake) = losses_and_gradients(losses, x, x, (1, 0, 0))
    assert discriminator.item() == abs(logit)
    relative, least = {torch.float64: (1e-14, 0), torch.float16: (1e-3, 6e-8)}.get(dtype, (1e-5, 3e-45))
    if dtype == torch.bfloat16:
        relative, least = 8e-3, 1e-38  # the interpreter's cast to bf16 is wrong below the smallest normal number
    assert minimax.item() == pytest.approx(-called_fake, rel=relative, abs=least)
    assert non_saturating.item() == pytest.approx(called_real, rel=relative, abs=least)
    assert_close(d_real, torch.full_like(x, (logit < 0) / -3))
    assert_close(d_fake, torch.full_like(x, (logit > 0) / 3))


@LOSSES
@DTYPES
@pytest.mark.parametrize("odd", [INF, -INF, NAN, 3e38, -3e38])
def test_infinity_and_nan_pass_as_in_torchs_cross_entropy(losses, dtype, odd):
    for real_odd, fake_odd in ((odd, 0.5), (0.5, odd)):
        real, fake = draw(1500, dtype=dtype), draw(9, dtype=dtype, seed=1)
        real[1100], fake[4] = real_odd, fake_odd
        got, gradients = losses_and_gradients(losses, real, fake, (1.0, 0.5, 0.25))
        want, slopes = losses_and_gradients(cross_entropies, real.double(), fake.double(), (1.0, 0.5, 0.25))
        assert_agree(got, want, dtype)
        assert_agree(gradients, slopes, dtype)


@BOTH
@pytest.mark.parametrize("odd", [INF, -INF, NAN])
def test_an_odd_logit_spoils_its_own_gradient_alone(both, odd):
    real, fake = draw(40), draw(40, seed=1)
    real[3] = fake[5] = odd
    _, _, _, d_real, *d_fake = both(real, fake)
    assert d_real.isfinite().sum() == 40 - math.isnan(odd)
    assert all(one.isfinite().sum() == 40 - math.isnan(odd) for one in d_fake)


@LOSSES
@DTYPES
@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_the_mean_of_no_logits_is_nan_as_in_torch(losses, dtype, n, m):
    real, fake = draw(n, dtype=dtype), draw(m, 1, dtype=dtype)[:, 0]
    got, gradients = losses_and_gradients(losses, real, fake, (1.0, 0.5, 0.25))
    want, slopes = losses_and_gradients(cross_entropies, real.double(), fake.double(), (1.0, 0.5, 0.25))
    assert_agree(got, want, dtype)
    assert_agree(gradients, slopes, dtype)
    assert got[0].isnan()
    assert got[2].isnan() == (m == 0)


@LOSSES
@pytest.mark.parametrize(("dtype", "goal"), [(torch.float32, 2e-6), (torch.float64, 1e-14)], ids=str)
def test_the_small_loss_of_a_confident_d_keeps_its_digits(losses, dtype, goal):
    for logit in (1e-3, 0.5, 3.0, 8.0, 16.0, 18.0, 25.0):
        x = torch.full((1100,), logit, dtype=dtype)
        discriminator, minimax, _ = losses(x, -x)
        want = math.log1p(math.exp(-x[0].item()))
        assert discriminator.item() == pytest.approx(2 * want, rel=goal)
        assert minimax.item() == pytest.approx(-want, rel=goal)


@pytest.mark.parametrize("fill", [0.0, 1e-4, None])
def test_a_program_that_takes_many_blocks_loses_no_precision(monkeypatch, fill):
    monkeypatch.setattr(kernel, "ENOUGH_PROGRAMS", 1)
    n = 65 * kernel.BLOCK * 2 + 77  # two full chunks of 64 blocks, and one that ends within a block
    real = draw(n, dtype=torch.float32) if fill is None else torch.full((n,), fill)
    fake = draw(3000, dtype=torch.float32, seed=1)
    got = kernel.gan_losses_and_gradients(real, fake)
    want = cross_entropies(real.double(), fake.double())
    assert_close(got[0].double(), want[0], rtol=2e-7, atol=0)
    assert_close(got[3].double(), (torch.sigmoid(real.double()) - 1) / n, rtol=1.3e-6, atol=0)
    assert_close(got[4].double(), -torch.sigmoid(fake.double()) / 3000, rtol=2e-6, atol=0)
    assert_close(got[5].double(), (torch.sigmoid(fake.double()) - 1) / 3000, rtol=2e-6, atol=0)


def test_the_chunks_of_any_count_cover_it_and_stay_within_the_product_that_fp32_holds():
    for n in (0, 1, 1023, 1024, 1025, 2**20 + 1, 2**22, 2**22 + 1, 2**27, 2**31 + 5, 2**36):
        programs, chunk = kernel._chunks(n)
        assert (programs - 1) * chunk < n <= programs * chunk or n == programs == 0
        assert chunk % kernel.BLOCK == 0
        assert 2.0 ** (chunk // kernel.BLOCK + 1) < torch.finfo(torch.float32).max


LAYOUTS = {
    "transposed": lambda x: x.reshape(60, 70).t(),
    "sliced": lambda x: x.reshape(60, 70)[::2, 3:50],
    "expanded": lambda x: x[:41, None].expand(41, 5),
    "channels-last": lambda x: x.reshape(2, 3, 70, 10).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout_of_either_input(layout):
    base, other = draw(4200).requires_grad_(), draw(4200, seed=1).requires_grad_()
    mine = kernel.gan_losses(layout(base), layout(other))
    theirs = cross_entropies(layout(base), layout(other))
    assert_close(mine, theirs)
    grads = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    assert_close(
        torch.autograd.grad(mine, (base, other), tuple(grads)), torch.autograd.grad(theirs, (base, other), tuple(grads))
    )
    d_real = kernel.gan_losses_and_gradients(layout(base), layout(other))[3]
    x = layout(base).detach()
    assert_close(d_real, (torch.sigmoid(x) - 1) / x.numel())


@LOSSES
def test_each_player_gets_a_gradient_only_where_one_is_asked_for(losses):
    real, fake = draw(1500), draw(20, seed=1).requires_grad_()
    discriminator, _, non_saturating = losses(real, fake)
    (gradient,) = torch.autograd.grad(non_saturating, fake, retain_graph=True)
    assert_close(gradient, (torch.sigmoid(fake) - 1) / 20)
    assert discriminator.requires_grad
    real.requires_grad_()
    (gradient,) = torch.autograd.grad(losses(real, fake.detach())[0], real)
    assert_close(gradient, (torch.sigmoid(real) - 1) / 1500)


def test_a_gradient_that_nobody_wants_is_not_written():
    one = torch.ones((), dtype=torch.float64)
    d_real, d_fake = kernel._gan_losses_backward_op(one, one, one, draw(50), draw(60), False, True)
    assert (d_real.numel(), d_fake.numel()) == (0, 60)


@LOSSES
def test_the_gradients_can_be_differentiated_again(losses):
    """As an unrolled step of the other player needs it."""
    real, fake = draw(6).requires_grad_(), draw(2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradgradcheck(losses, (real, fake))
    assert torch.autograd.gradgradcheck(lambda x: losses(real.detach(), x), (fake,))


@LOSSES
def test_a_penalty_can_be_added_to_a_loss_in_place(losses):
    real = draw(5).requires_grad_()
    discriminator, *_ = losses(real, draw(5, seed=1))
    discriminator += (real**2).sum()
    (gradient,) = torch.autograd.grad(discriminator, real)
    assert_close(gradient, (torch.sigmoid(real) - 1) / 5 + 2 * real)


@LOSSES
def test_bad_arguments_are_refused_with_a_hint(losses):
    with pytest.raises(ValueError, match=r"real_logits must be a floating-point tensor, not torch.int64"):
        losses(torch.arange(3), draw(3))
    with pytest.raises(ValueError, match="fake_logits must be"):
        losses(draw(3), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="two dtypes"):
        losses(draw(3), draw(3, dtype=torch.float32))


# What the paper claims


def density(x, mean, width):
    return math.exp(-(((x - mean) / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))


def test_no_d_does_better_against_a_fixed_g_than_the_formula():
    """Proposition 1: p log D + q log(1 − D) is largest at D = p / (p + q), found here by trying every D."""
    p, q = torch.rand(50, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    best = method.best_discriminator(p, q)
    tried = torch.linspace(1e-4, 1 - 1e-4, 9999, dtype=torch.float64)
    values = p[:, None] * tried.log() + q[:, None] * (1 - tried).log()
    assert_close(tried[values.argmax(1)], best, rtol=0, atol=1e-4)
    mine = p * method.log_d(best.logit()) + q * method.log_one_minus_d(best.logit())
    assert (mine[:, None] >= values - 1e-12).all()


def test_the_best_value_is_minus_log_four_plus_twice_the_jensen_shannon_divergence():
    """Theorem 1, with the divergence from its definition as two Kullback-Leibler integrals."""
    p, q = lambda x: density(x, -0.5, 0.8), lambda x: density(x, 0.4, 1.1)
    divergence = quad(lambda x: p(x) * math.log(2 * p(x) / (p(x) + q(x))) / 2, -9, 9)[0]
    divergence += quad(lambda x: q(x) * math.log(2 * q(x) / (p(x) + q(x))) / 2, -9, 9)[0]
    x = torch.linspace(-9, 9, 18001, dtype=torch.float64)
    real, fake = (torch.tensor([f(one) for one in x.tolist()], dtype=torch.float64) for f in (p, q))
    logits = method.best_discriminator(real, fake).logit()
    value = ((real * method.log_d(logits) + fake * method.log_one_minus_d(logits)) * 1e-3).sum()
    assert value.item() == pytest.approx(-math.log(4) + 2 * divergence, abs=1e-6)


@LOSSES
def test_at_the_optimum_d_is_one_half_and_the_value_minus_log_four(losses):
    p = torch.rand(30, dtype=torch.float64) + 0.1
    assert_close(method.best_discriminator(p, p), torch.full_like(p, 0.5))
    discriminator, minimax, non_saturating = losses(torch.zeros(77), torch.zeros(33))
    assert -discriminator.item() == pytest.approx(-math.log(4), rel=1e-6)
    assert minimax.item() == pytest.approx(-math.log(2), rel=1e-6)
    assert non_saturating.item() == pytest.approx(math.log(2), rel=1e-6)


@BOTH
def test_the_minimax_gradient_vanishes_where_d_is_sure_and_the_other_does_not(both):
    """Section 3: both push a fake logit up; at D = 1/2 alike, at D → 0 only the non-saturating loss pushes at all."""
    fake = torch.tensor([-30.0, -10.0, 0.0, 10.0], dtype=torch.float64)
    *_, d_minimax, d_non_saturating = both(fake, fake)
    assert (d_minimax < 0).all()
    assert (d_non_saturating < 0).all()
    assert_close(d_minimax / d_non_saturating, fake.exp(), rtol=1e-12, atol=0)
    assert_close(4 * d_non_saturating, -1 / (1 + fake.exp()), rtol=1e-12, atol=0)


def test_a_negative_density_is_refused():
    with pytest.raises(ValueError, match="never negative"):
        method.best_discriminator(torch.tensor([0.5]), torch.tensor([-0.1]))


# The experiment's own parts


def test_the_window_score_is_the_mean_log_density_of_the_mixture():
    samples, x = draw(6, 3, spread=1.0), draw(4, 3, seed=1, spread=1.0)
    want = [
        math.log(sum(math.prod(density(a, b, 0.7) for a, b in zip(one, s, strict=True)) for s in samples.tolist()) / 6)
        for one in x.tolist()
    ]
    assert experiment.window_score(samples, x, 0.7) == pytest.approx(sum(want) / 4, rel=1e-9)


def test_runs_that_train_side_by_side_do_not_mix():
    """The gradient of one run is that of a network of its own."""
    parameters = experiment.network(3, (2, 5, 1), torch.Generator().manual_seed(0))
    x = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(1))
    together = torch.autograd.grad(
        method.gan_losses(experiment.apply(parameters, x), torch.zeros(1))[0] * 3, parameters
    )
    for run in range(3):
        w1, b1, w2, b2 = (one[run].detach().requires_grad_() for one in parameters)
        alone = F.softplus(-(torch.relu(x[run] @ w1 + b1) @ w2 + b2)).mean()
        for mine, own in zip(together, torch.autograd.grad(alone, (w1, b1, w2, b2)), strict=True):
            assert_close(mine[run], own)
