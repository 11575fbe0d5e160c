"""What Zhang et al. draw and what it costs: torch.distributions, scipy and plain loops beside method and kernel."""

import math

import pytest
import torch
import triton
import triton.language as tl
from scipy import stats
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from snippets.variational_nmt import kernel, method

BOTH = pytest.mark.parametrize("draw_and_kl", [method.draw_and_kl, kernel.draw_and_kl], ids=["method", "kernel"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
SHAPES = [(1,), (4, 1), (2, 3, 5), (2, 2048), (2, 2050)]
SEEDS = [0, 1, 7, -1, 2**31, 2**32 + 5, 2**63 - 1, -(2**63)]


def gaussians(*shape, dtype=torch.float64, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [(spread * torch.randn(shape, dtype=torch.float64, generator=generator)).to(dtype) for _ in range(4)]


def filled(*values, latent=3, dtype=torch.float32):
    return [torch.full((latent,), value, dtype=dtype) for value in values]


def distributions_kl(mean_q, logvar_q, mean_p, logvar_p):
    q, p = ((Normal(m, (v / 2).exp())) for m, v in ((mean_q, logvar_q), (mean_p, logvar_p)))
    return kl_divergence(q, p).sum(-1)


def with_gradients(function, inputs, *weights):
    leaves = [one.detach().clone().requires_grad_() for one in inputs]
    outputs = function(*leaves)
    return [*outputs, *torch.autograd.grad(outputs, leaves, weights)]


def words_by_integers(seed, counter):
    """Philox-4x32-10 in Python's own integers."""
    c, k = [counter & 0xFFFFFFFF, counter >> 32, 0, 0], [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def normals_by_loop(rows, latent, seed):
    out = []
    for row in range(rows):
        for k in range(latent):
            w = words_by_integers(seed, row * math.ceil(latent / 4) + k // 4)
            u, v = (w[k % 4 // 2 * 2] + 0.5) / 2**32, w[k % 4 // 2 * 2 + 1] / 2**32
            out.append(math.sqrt(-2 * math.log(u)) * (math.sin if k % 2 else math.cos)(2 * math.pi * v))
    return torch.tensor(out, dtype=torch.float64).view(rows, latent)


# The divergence


@BOTH
@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kl_and_its_gradients_are_those_of_torch_distributions(draw_and_kl, dtype, shape):
    inputs = gaussians(*shape, dtype=dtype)
    weight = torch.linspace(0.5, 1.5, max(1, math.prod(shape[:-1])), dtype=torch.float64).view(shape[:-1]).to(dtype)
    leaves = [one.double().requires_grad_() for one in inputs]
    want = distributions_kl(*leaves)
    their = torch.autograd.grad(want, leaves, weight.double())
    mine = [one.clone().requires_grad_() for one in inputs]
    got = draw_and_kl(*mine, 3)[1]
    assert got.dtype == dtype
    assert_close(got, want.to(dtype))
    for g, w in zip(torch.autograd.grad(got, mine, weight), their, strict=True):
        assert_close(g, w.to(dtype))


@BOTH
def test_the_kl_is_zero_where_posterior_and_prior_are_one_and_positive_elsewhere(draw_and_kl):
    mean, logvar, other, another = gaussians(50, 20)
    z, kl = draw_and_kl(mean, logvar, mean, logvar, 0)
    assert (kl == 0).all()
    assert not (z == mean).any()
    assert (draw_and_kl(mean, logvar, other, another, 0)[1] > 0).all()


@BOTH
def test_the_kl_against_a_standard_normal_is_the_autoencoders_closed_form(draw_and_kl):
    mean, logvar, *_ = gaussians(6, 10)
    zero = torch.zeros_like(mean)
    want = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(-1)
    assert_close(draw_and_kl(mean, logvar, zero, zero, 0)[1], want)
    reverse = draw_and_kl(zero, zero, mean, logvar, 0)[1]
    assert not torch.allclose(reverse, want)  # it is no distance: the order matters


@BOTH
def test_the_kl_is_the_mean_log_ratio_of_its_own_draws(draw_and_kl):
    one = [torch.tensor([value], dtype=torch.float64) for value in (0.7, -0.5, -0.4, 0.6)]
    z, kl = draw_and_kl(*(value.expand(20, 2000) for value in one), 5)
    q, p = Normal(one[0], (one[1] / 2).exp()), Normal(one[2], (one[3] / 2).exp())
    ratio = q.log_prob(z) - p.log_prob(z)
    assert ratio.mean().item() == pytest.approx(kl[0].item() / 2000, abs=5 * ratio.std().item() / 200)


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3, 1e-4, 1e-6])
def test_a_collapsed_posteriors_kl_keeps_its_digits_in_the_kernel(gap):
    zero, apart = filled(0.0, gap, latent=1)
    gap = apart.item()
    want = 0.5 * sum(gap**k / math.factorial(k) for k in range(2, 12))
    assert kernel.draw_and_kl(zero, apart, zero, zero, 0)[1].item() == pytest.approx(want, rel=1e-6)
    leaf = apart.clone().requires_grad_()
    kernel.draw_and_kl(zero, leaf, zero, zero, 0)[1].backward()
    assert leaf.grad.item() == pytest.approx(0.5 * math.expm1(gap), rel=1e-6)


# Extremes


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("logvar_q", "logvar_p"), [(80, 80), (-80, -80), (-80, 3), (3, 80), (40, 0), (0, -40), (80, 0)]
)
def test_large_log_variances_agree_with_torch_distributions(draw_and_kl, dtype, logvar_q, logvar_p):
    inputs = filled(0.5, logvar_q, 0.25, logvar_p, dtype=dtype)
    want = distributions_kl(*(one.double() for one in inputs))
    assert_close(draw_and_kl(*inputs, 0)[1], want.to(dtype))


@BOTH
def test_means_that_agree_cost_nothing_however_narrow_the_prior(draw_and_kl):
    for narrow in (-170.0, -400.0):  # 1/σ, and at −400 even 1/√σ, is beyond fp32
        inputs = filled(2.0, narrow, 2.0, narrow)
        got = with_gradients(lambda *x: draw_and_kl(*x, 0), inputs, torch.zeros(3), torch.tensor(1.0))
        assert got[1] == 0
        for gradient in got[2:]:
            assert (gradient == 0).all()


@BOTH
def test_an_overflow_is_infinite_and_not_nan(draw_and_kl):
    for inputs in (filled(0, 200, 0, 0), filled(1, 0, 0, -200), filled(1e30, 0, -1e30, 0), filled(0, 0, 0, -100)):
        assert draw_and_kl(*inputs, 0)[1] == math.inf
    assert draw_and_kl(*filled(0, 0, 0, -11, latent=40, dtype=torch.float16), 0)[1] == math.inf
    exact = distributions_kl(*(one.double() for one in filled(0, 0, 0, -100)))
    assert exact.to(torch.float32) == math.inf


@BOTH
def test_a_posterior_without_any_width_is_infinitely_far_and_drawn_at_its_mean(draw_and_kl):
    z, kl = draw_and_kl(*filled(1.5, -math.inf, 0.0, 0.0), 0)
    assert (z == 1.5).all()
    assert kl == math.inf
    q, p = Normal(torch.zeros(()), torch.zeros(()), validate_args=False), Normal(0.0, 1.0)
    assert kl_divergence(q, p) == math.inf


@BOTH
@pytest.mark.parametrize("place", range(4))
def test_nan_stays_in_its_row(draw_and_kl, place):
    inputs = gaussians(3, 9)
    inputs[place][1, 4] = math.nan
    z, kl = draw_and_kl(*inputs, 0)
    assert kl.isnan().tolist() == [False, True, False]
    assert z.isnan().sum() == (1 if place < 2 else 0)


@BOTH
def test_a_loss_of_z_alone_takes_nothing_from_an_overflown_kl(draw_and_kl):
    leaves = [one.requires_grad_() for one in filled(0.0, 60.0, 1.0, -60.0)]
    z, kl = draw_and_kl(*leaves, 0)
    assert kl == math.inf
    gradients = torch.autograd.grad(z.sum(), leaves, allow_unused=True)
    assert (gradients[0] == 1).all()
    assert_close(gradients[1], z.detach() / 2)
    assert all(one is None or (one == 0).all() for one in gradients[2:])


# The noise


@pytest.mark.parametrize("seed", SEEDS)
def test_the_noise_is_box_muller_of_philox_for_any_seed(seed):
    assert_close(method.noise((3, 7), seed), normals_by_loop(3, 7, seed), rtol=1e-13, atol=1e-13)
    zero = torch.zeros(3, 7, dtype=torch.float64)
    for draw_and_kl in (method.draw_and_kl, kernel.draw_and_kl):
        assert_close(draw_and_kl(zero, zero, zero, zero, seed)[0], normals_by_loop(3, 7, seed), rtol=1e-13, atol=1e-13)


def test_philox_gives_the_published_known_answer():
    words = [int(w) for w in method.philox(0, torch.tensor([0]))]
    assert [f"{w:08x}" for w in words] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


@triton.jit
def _pair(first_ptr, second_ptr, out_ptr, WORK: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, N)
    first, second = tl.load(first_ptr + at).to(tl.uint32), tl.load(second_ptr + at).to(tl.uint32)
    a, b = kernel._normals(first, second, WORK)
    tl.store(out_ptr + at, a)
    tl.store(out_ptr + N + at, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_kernels_normals_are_right_for_the_words_at_every_edge(dtype):
    """The first word decides the radius (0 must not give log 0), the second the angle (all quarters and their borders)."""
    radii = [0, 1, 2**16, 0xEFFFFFFF, 0xF0000000, 0xF0000001, 2**31, 2**32 - 2**8, 2**32 - 2, 2**32 - 1]
    angles = [q * 2**29 + d for q in range(8) for d in (0, 1, 12345)] + [q * 2**29 - 1 for q in range(1, 9)]
    words = torch.tensor([(r, a) for r in radii for a in angles] + [(7, 7)] * 192)
    n = 512
    assert len(words) == n
    out = torch.empty(2, n, dtype=dtype)
    work = tl.float64 if dtype == torch.float64 else tl.float32
    _pair[(1,)](words[:, 0].contiguous(), words[:, 1].contiguous(), out, WORK=work, N=n)
    want = torch.tensor(
        [
            [math.sqrt(-2 * math.log((r + 0.5) / 2**32)) * f(2 * math.pi * a / 2**32) for r, a in words.tolist()]
            for f in (math.cos, math.sin)
        ],
        dtype=torch.float64,
    )
    assert out.isfinite().all()
    assert_close(out, want.to(dtype), rtol=1e-13 if dtype == torch.float64 else 1.3e-6, atol=1e-14)


def test_the_noise_is_standard_normal_by_moments_and_kolmogorov_smirnov():
    x = method.noise((1000, 300), 2).flatten()
    count = x.numel()
    assert abs(x.mean().item()) < 4 / count**0.5
    assert x.var().item() == pytest.approx(1, abs=4 * (2 / count) ** 0.5)
    assert abs(stats.skew(x.numpy())) < 4 * (6 / count) ** 0.5
    assert abs(stats.kurtosis(x.numpy())) < 4 * (24 / count) ** 0.5
    for part in (x, x[0::4], x[1::4], x[2::4], x[3::4]):  # each of the four numbers of a counter
        assert stats.kstest(part.numpy(), "norm").pvalue > 1e-3
    assert 4 < x.abs().max() < math.sqrt(-2 * math.log(2**-33))


def test_neighbors_rows_and_seeds_are_independent():
    x, other = method.noise((400, 500), 2), method.noise((400, 500), 3)
    error = 4 / x.numel() ** 0.5
    for lag in (1, 2, 3, 4):
        a, b = x[:, :-lag], x[:, lag:]
        assert abs((a * b).mean().item()) < error
        assert abs(((a**2 - 1) * (b**2 - 1)).mean().item()) < 2 * error
    assert abs((x[:-1] * x[1:]).mean().item()) < error
    assert abs((x * other).mean().item()) < error


@BOTH
def test_a_draw_has_the_posteriors_mean_and_spread_and_ignores_the_prior(draw_and_kl):
    mean, logvar = (torch.full((10, 2000), value) for value in (2.0, -1.0))
    z, _ = draw_and_kl(mean, logvar, mean * 0, logvar * 0, 4)
    again, _ = draw_and_kl(mean, logvar, mean + 5, logvar - 3, 4)
    assert torch.equal(z, again)
    assert stats.kstest(z.flatten().double().numpy(), "norm", args=(2, math.exp(-0.5))).pvalue > 1e-3
    assert not torch.equal(z, draw_and_kl(mean, logvar, mean, logvar, 5)[0])


@BOTH
@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_z_and_all_gradients_are_those_of_the_replayed_noise(draw_and_kl, dtype, shape):
    inputs, weight = gaussians(*shape, dtype=dtype), gaussians(*shape, dtype=dtype, seed=1)[0]
    epsilon = method.noise(shape, 11)
    leaves = [one.double().requires_grad_() for one in inputs]
    want = leaves[0] + leaves[1].mul(0.5).exp() * epsilon, distributions_kl(*leaves)
    their = torch.autograd.grad(want, leaves, (weight.double(), torch.ones(shape[:-1], dtype=torch.float64)))
    got = with_gradients(lambda *x: draw_and_kl(*x, 11), inputs, weight, torch.ones(shape[:-1], dtype=dtype))
    for g, w in zip(got, (*want, *their), strict=True):
        assert_close(g, w.detach().to(dtype))


@BOTH
def test_the_noise_follows_an_elements_place_not_its_memory(draw_and_kl):
    inputs = gaussians(30, 40)
    for view in (lambda x: x.t(), lambda x: x[::2, 3:25], lambda x: x[:, :1].expand(30, 6), lambda x: x[0]):
        viewed = [view(one) for one in inputs]
        for g, w in zip(draw_and_kl(*viewed, 4), method.draw_and_kl(*(x.contiguous() for x in viewed), 4), strict=True):
            assert_close(g, w)


# Shapes and arguments


@BOTH
@DTYPES
def test_without_latent_dimensions_or_rows_nothing_is_drawn_and_the_kl_is_zero(draw_and_kl, dtype):
    for shape in ((0, 4), (3, 0), (0,), (2, 0, 5), (0, 0)):
        inputs = [torch.ones(shape, dtype=dtype, requires_grad=True) for _ in range(4)]
        z, kl = draw_and_kl(*inputs, 0)
        assert z.shape == shape
        assert kl.dtype == z.dtype == dtype
        assert torch.equal(kl, torch.zeros(shape[:-1], dtype=dtype))
        assert [g.shape for g in torch.autograd.grad((z.sum() + kl.sum()), inputs)] == [torch.Size(shape)] * 4


@BOTH
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: [one.int() for one in x], "floating-point"),
        (lambda x: [x[0], x[1][:, :1], x[2], x[3]], "logvar_q needs the shape"),
        (lambda x: [x[0], x[1], x[2][:1], x[3]], "mean_p needs the shape"),
        (lambda x: [x[0], x[1], x[2], x[3].float()], "logvar_p needs the dtype"),
        (lambda x: [one[0, 0] for one in x], "last dimension"),
        (lambda x: [x[0], x[1], x[2], x[3].to("meta")], "logvar_p needs the device"),
    ],
)
def test_bad_tensors_are_refused_with_a_hint(draw_and_kl, change, message):
    with pytest.raises(ValueError, match=message):
        draw_and_kl(*change(gaussians(3, 4)), 0)


@BOTH
@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1])
def test_a_seed_beyond_64_bits_is_refused(draw_and_kl, seed):
    with pytest.raises(ValueError, match="64 bits"):
        draw_and_kl(*gaussians(3, 4), seed)


# The kernel as a torch operator


def test_the_noise_is_never_stored():
    inputs, saved = [one.requires_grad_() for one in gaussians(4, 8)], []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        kernel.draw_and_kl(*inputs, 0)
    assert sorted(saved) == sorted(one.data_ptr() for one in inputs)


def test_a_gradient_of_the_gradient_is_the_methods():
    inputs = gaussians(2, 5)
    for which in (0, 1, slice(None)):
        found = []
        for draw_and_kl in (method.draw_and_kl, kernel.draw_and_kl):
            leaves = [one.clone().requires_grad_() for one in inputs]
            outputs = draw_and_kl(*leaves, 3)[which]
            loss = sum(one.square().sum() for one in (outputs if isinstance(outputs, tuple) else (outputs,)))
            first = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True, materialize_grads=True)
            again = sum(one.sin().sum() for one in first if one.requires_grad)
            found.append(torch.autograd.grad(again, leaves, allow_unused=True, materialize_grads=True))
        assert_close(*found)


def test_it_compiles_for_one_seed_after_another():
    compiled = torch.compile(
        lambda *x: sum(one.sum() for one in kernel.draw_and_kl(*x)), fullgraph=True, backend="aot_eager"
    )
    for seed in (2, 3, 2**40):
        inputs = [one.requires_grad_() for one in gaussians(3, 8)]
        z, kl = method.draw_and_kl(*inputs, seed)
        assert_close(compiled(*inputs, seed), z.sum() + kl.sum())
