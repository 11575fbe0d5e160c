"""What Jang, Gu and Poole claim of Gumbel-Softmax, and that the kernel draws and differentiates what the method does."""

import math
from decimal import Decimal, localcontext

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from scipy.stats import chisquare, gumbel_r, kstest, logistic
from torch.testing import assert_close

from snippets.gumbel_softmax import kernel, method

BOTH = pytest.mark.parametrize("sample", [method.gumbel_softmax, kernel.gumbel_softmax], ids=["method", "kernel"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
SIZES = pytest.mark.parametrize(
    ("dtype", "classes"),
    [(torch.float64, 6), (torch.float32, 6), (torch.float16, 6), (torch.bfloat16, 6), (torch.float32, 8200)],
    ids=str,
)
HARD = pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
SEEDS = [0, 1, 7, -1, 2**31, 2**32 + 5, 2**63 - 1, -(2**63)]
INF = math.inf


def draw(*shape, dtype=torch.float64, seed=0, scale=2.0):
    return (scale * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).to(dtype)


def uniforms(rows, classes, seed):
    """The same uniform numbers in float64: (word + ½)/2³², each row's classes four to a counter."""
    quads = -(-classes // 4)
    words = torch.stack(method.philox(seed, torch.arange(rows * quads)), dim=-1)
    return (words.view(rows, -1)[:, :classes].double() + 0.5) / 2**32


def by_torch(logits, tau, seed):
    """F.softmax of logits and the same noise, in float64."""
    x = logits.double().reshape(-1, logits.shape[-1])
    g = -torch.log(-torch.log(uniforms(*x.shape, seed)))
    return F.softmax((x + g) / tau, dim=-1).reshape(logits.shape)


def out_and_gradient(function, x, grad, *args):
    x = x.detach().clone().requires_grad_()
    y = function(x, *args)
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


# The noise


def test_philox_gives_the_published_known_answer():
    words = [int(w) for w in method.philox(0, torch.tensor([0]))]
    assert [f"{w:08x}" for w in words] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


@triton.jit
def _noise(out_ptr, seed, start, WORK: tl.constexpr):
    counter = start + tl.arange(0, 64).to(tl.int64)
    tl.store(out_ptr + tl.arange(0, 256), kernel._gumbel(seed, counter, WORK, 0, 256))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("start", [0, 2**33 + 4096])
def test_kernel_and_method_draw_the_same_bits_for_any_seed_and_beyond_two_to_the_31_elements(seed, start):
    words = torch.stack(method.philox(seed, start + torch.arange(64)), dim=-1).flatten()
    want = -torch.log(-torch.log((words.double() + 0.5) / 2**32))
    for dtype, work in ((torch.float64, tl.float64), (torch.float32, tl.float32)):
        got = torch.empty(256, dtype=dtype)
        _noise[(1,)](got, seed, torch.tensor(start).item(), WORK=work)
        assert_close(
            got,
            want.to(dtype),
            rtol=1e-6 if dtype == torch.float32 else 1e-12,
            atol=1e-6 if dtype == torch.float32 else 1e-12,
        )


@triton.jit
def _of_words(word_ptr, out_ptr, WORK: tl.constexpr):
    at = tl.arange(0, 16)
    tl.store(out_ptr + at, kernel._gumbel_of(tl.load(word_ptr + at).to(tl.uint32), WORK))


EXTREME = [
    *(0, 1, 2, 3, 2**23, 2**24 + 1, 2**31 - 1, 2**31),
    *(0xEFFFFFFF, 0xF0000000, 0xF0000001, 0xFFFF0000, 0xFFFFFF00, 2**32 - 3, 2**32 - 2, 2**32 - 1),
]


def exact_gumbel(words):
    """−log(−log u) in 40 decimal digits."""
    with localcontext(prec=40):
        half = Decimal("0.5")
        return torch.tensor(
            [float(-(-((w + half) / 2**32).ln()).ln()) for w in map(Decimal, words)], dtype=torch.float64
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_no_draw_has_an_infinite_logarithm_and_next_to_one_no_digit_is_lost(dtype, monkeypatch):
    """Neither log 0 nor log(−log 1), at either end of the words."""
    words = torch.tensor(EXTREME)
    got = torch.empty(16, dtype=dtype)
    _of_words[(1,)](words, got, WORK=tl.float64 if dtype == torch.float64 else tl.float32)
    monkeypatch.setattr(method, "philox", lambda seed, counter: list(words.view(4, 4).unbind(1)))
    want = exact_gumbel(EXTREME)
    for g in (got, method.gumbel((16,), 0, dtype)):
        assert g.isfinite().all()
        error = (g.double() - want).abs() / want.abs().clamp(min=1)
        assert error.max() < (1e-6 if dtype == torch.float32 else 1e-14)
        assert -3.14 < g.min() < -3.12
        assert 22.87 < g.max() < 22.88


def test_the_noise_is_gumbel_and_its_neighbors_are_independent():
    g = method.gumbel((400, 501), 3, torch.float64)
    assert kstest(g.flatten().numpy(), gumbel_r.cdf).pvalue > 1e-3
    centred = (g - g.mean()) / g.std()
    for a, b in ((centred[:, :-1], centred[:, 1:]), (centred[:, :-4], centred[:, 4:]), (centred[:-1], centred[1:])):
        assert abs((a * b).mean().item()) < 5 / 200_000**0.5


@BOTH
def test_rows_are_independent_and_seeds_differ(sample):
    rows = sample(torch.zeros(40, 7, dtype=torch.float64), 1.0, False, 5)
    assert len({tuple(row.tolist()) for row in rows}) == 40
    assert torch.equal(rows, sample(torch.zeros(40, 7, dtype=torch.float64), 1.0, False, 5))
    other = sample(torch.zeros(40, 7, dtype=torch.float64), 1.0, False, 6)
    assert (rows != other).all()
    one = torch.zeros(40, 7, dtype=torch.float64)
    one[3] = 9 * torch.arange(7)
    changed = (sample(one, 1.0, False, 5) != rows).any(1)
    assert changed.nonzero().flatten().tolist() == [3]


# The samples


@BOTH
@DTYPES
@pytest.mark.parametrize("shape", [(1,), (5,), (4, 3), (2, 3, 17), (70, 10), (5, 1024), (1, 8200)], ids=str)
def test_the_sample_is_torchs_softmax_of_the_same_noise(sample, dtype, shape):
    x = draw(*shape, dtype=dtype)
    assert_close(sample(x, 0.6, False, 11), by_torch(x, 0.6, 11).to(dtype))


@BOTH
@DTYPES
@HARD
@pytest.mark.parametrize("shape", [(6, 10), (1, 8200)], ids=str)
def test_the_gradient_is_that_of_torchs_softmax_in_float64(sample, dtype, hard, shape):
    x, grad = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=1)
    y, got = out_and_gradient(sample, x, grad, 0.6, hard, -7)
    soft = by_torch(x, 0.6, -7)
    inner = (grad.double() * soft).sum(-1, keepdim=True)
    assert_close(got, (soft * (grad.double() - inner) / 0.6).to(dtype))
    if hard:
        assert torch.equal(y, F.one_hot(soft.argmax(-1), shape[-1]).to(dtype))


@BOTH
def test_the_argmax_follows_the_probabilities_by_chi_squared(sample):
    logits, n = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5, -3.0]), 2500 if sample is kernel.gumbel_softmax else 100_000
    counts = sample(logits.expand(n, 6), 0.7, False, 2).argmax(1).bincount(minlength=6)
    assert torch.equal(counts, sample(logits.expand(n, 6), 3.0, True, 2).sum(0).long())
    assert chisquare(counts.numpy(), n * logits.double().softmax(0).numpy()).pvalue > 1e-3


def test_over_many_seeds_the_p_values_are_uniform():
    p_values = []
    for seed in range(80):
        logits = draw(10, seed=seed, scale=1.0)
        counts = (logits + method.gumbel((5000, 10), seed, torch.float64)).argmax(1).bincount(minlength=10)
        p_values.append(chisquare(counts.numpy(), 5000 * logits.softmax(0).numpy()).pvalue)
    assert kstest(p_values, "uniform").pvalue > 1e-3


def test_the_chi_square_test_would_see_noise_that_is_not_gumbel():
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5, -3.0])
    wrong = (logits + torch.randn(30_000, 6, generator=torch.Generator().manual_seed(0))).argmax(1)
    counts = wrong.bincount(minlength=6).numpy()
    assert chisquare(counts, 30_000 * logits.double().softmax(0).numpy()).pvalue < 1e-6


def test_two_classes_have_the_papers_density():
    """Equation 3 for k = 2: y₁ is the logistic function of (log π₁/π₂ + a logistic variable)/τ."""
    logits, tau = torch.tensor([0.7, -0.4], dtype=torch.float64), 0.8
    y = method.gumbel_softmax(logits.expand(20_000, 2), tau, seed=1)[:, 0]
    assert kstest((tau * torch.logit(y) - 1.1).numpy(), logistic.cdf).pvalue > 1e-3


@BOTH
def test_fifty_thousand_classes_sum_to_one_and_the_last_can_win(sample):
    x = draw(1, 50_257, dtype=torch.float32)
    y = sample(x, 0.9, False, 4)
    assert_close(y, by_torch(x, 0.9, 4).float())
    assert_close(y.sum(1), torch.ones(1))
    x[0, 50_256] = 60.0
    assert sample(x, 0.9, True, 4).nonzero().tolist() == [[0, 50_256]]


# The limits of τ


@BOTH
@SIZES
@pytest.mark.parametrize("tau", [1e-6, 5e-324])
def test_a_tiny_tau_gives_the_one_hot_of_the_argmax_and_no_nan(sample, dtype, tau, classes):
    x, grad = draw(2, classes, dtype=dtype), draw(2, classes, dtype=dtype, seed=1)
    y, gradient = out_and_gradient(sample, x, grad, tau, False, 1)
    assert torch.equal(y, F.one_hot(by_torch(x, 1.0, 1).argmax(-1), classes).to(dtype))
    assert (gradient == 0).all()


@BOTH
@pytest.mark.parametrize("tau", [1e8, 1e300, INF])
def test_a_huge_tau_gives_the_uniform_distribution_and_a_hard_sample_stays_categorical(sample, tau):
    x = draw(300, 5, dtype=torch.float32)
    assert_close(sample(x, tau, False, 1), torch.full((300, 5), 0.2), rtol=1e-6, atol=1e-6)
    assert torch.equal(sample(x, tau, True, 1), F.one_hot(by_torch(x, 1.0, 1).argmax(-1), 5).float())


@BOTH
@pytest.mark.parametrize("tau", [0, 0.0, -1.0, -INF, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(sample, tau):
    with pytest.raises(ValueError, match="tau must be positive"):
        sample(draw(2, 3), tau)


@BOTH
@pytest.mark.parametrize(
    ("x", "seed", "says"),
    [
        (torch.arange(6).view(2, 3), 0, "floating point"),
        (torch.zeros(2, 3, dtype=torch.complex64), 0, "floating point"),
        (torch.tensor(1.0), 0, "dimension of classes"),
        (torch.zeros(2, 3), 2**63, "64 bits"),
        (torch.zeros(2, 3), -(2**63) - 1, "64 bits"),
    ],
)
def test_bad_arguments_are_refused_with_a_hint(sample, x, seed, says):
    with pytest.raises(ValueError, match=says):
        sample(x, 1.0, False, seed)


def test_the_parts_of_the_method_refuse_bad_arguments_as_well():
    with pytest.raises(ValueError, match="shape"):
        method.relax(draw(2, 3), draw(3, 2), 1.0)
    with pytest.raises(ValueError, match="classes"):
        method.gumbel((), 0)
    with pytest.raises(ValueError, match="floating-point"):
        method.gumbel((3,), 0, torch.int64)


# Masks, infinities, ties


@BOTH
@HARD
@SIZES
def test_masked_classes_get_zero_and_a_zero_gradient(sample, hard, dtype, classes):
    x, grad = draw(3, classes, dtype=dtype), draw(3, classes, dtype=dtype, seed=1)
    x[:, 1], x[2, 2:] = -INF, -INF
    masked = x == -INF
    y, gradient = out_and_gradient(sample, x, grad, 0.5, hard, 3)
    assert (y[masked] == 0).all()
    assert (gradient[masked] == 0).all()
    assert gradient.isfinite().all()
    assert (y[2, 0] == 1).all()  # the only one left
    if not hard:
        assert_close(y, by_torch(x, 0.5, 3).to(dtype))


@BOTH
@HARD
@pytest.mark.parametrize("classes", [5, 4100])
@pytest.mark.parametrize("what", ["all masked", "nan", "inf", "two inf"])
def test_a_row_torchs_softmax_makes_nan_is_nan_and_its_neighbors_are_not(sample, hard, classes, what):
    x = draw(3, classes)  # fp64 rows are long from 4,097 classes on
    if what == "all masked":
        x[1] = -INF
    elif what == "two inf":
        x[1, :2] = INF
    else:
        x[1, classes - 1] = float(what)
    y, gradient = out_and_gradient(sample, x, torch.ones_like(x), 0.5, hard, 3)
    assert F.softmax(x, -1)[1].isnan().all()
    for result in (y, gradient):
        assert result.isnan().all(1).tolist() == [False, True, False]
        assert result[::2].isfinite().all()


@pytest.mark.parametrize("programs", [1, 3])
@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_long_row_may_be_cut_anywhere(programs, hard, dtype, monkeypatch):
    """One chunk of many steps, some of several, or a chunk a step; the largest entries come late and in every step."""
    monkeypatch.setattr(kernel, "PROGRAMS", programs)
    x, grad = draw(1, 9001, dtype=dtype), draw(1, 9001, dtype=dtype, seed=1)
    x[0, ::1500] = torch.arange(7, dtype=dtype) + 8
    got = out_and_gradient(kernel.gumbel_softmax, x, grad, 0.6, hard, 5)
    y, gradient = out_and_gradient(method.gumbel_softmax, x.double(), grad.double(), 0.6, hard, 5)
    assert_close(got, (y.to(dtype), gradient.to(dtype)))


@pytest.mark.parametrize("programs", [1, 2, 1024])
def test_of_equals_in_several_chunks_the_first_wins(programs, monkeypatch):
    monkeypatch.setattr(kernel, "PROGRAMS", programs)
    x = torch.full((1, 9001), -3e38)
    x[0, [3000, 3001, 5000, 9000]] = 3e38
    assert kernel.gumbel_softmax(x, 1.0, True, 0).nonzero().tolist() == [[0, 3000]]


@BOTH
@DTYPES
def test_huge_logits_do_not_overflow(sample, dtype):
    top = torch.finfo(dtype).max
    x = torch.tensor([[top, -top, 0, 1], [-top, -top, -top, -top], [80, -80, 0, 80]], dtype=torch.float64).to(dtype)
    y, gradient = out_and_gradient(sample, x, torch.ones_like(x), 1e-3)
    assert y.isfinite().all()
    assert gradient.isfinite().all()
    assert y[0].tolist() == [1, 0, 0, 0]
    long = torch.full((1, 8200), -top, dtype=dtype)
    assert sample(long, 1.0).isfinite().all()


@BOTH
@pytest.mark.parametrize("classes", [6, 8200])
def test_of_equal_perturbed_logits_the_first_is_the_hard_sample(sample, classes, monkeypatch):
    x = torch.full((1, classes), -3e38)
    x[0, 2:5] = 3e38  # the noise is lost beside it, so that these three are equal
    assert sample(x, 1.0, True, 0).nonzero().tolist() == [[0, 2]]
    assert_close(sample(x, 1.0, False, 0)[0, 2:5], torch.full((3,), 1 / 3))


# Layout, memory, registration


@BOTH
@HARD
def test_the_noise_follows_an_elements_place_not_its_memory(sample, hard):
    base = draw(60, 70)
    for x in (base.t(), base[::2, 3:50], base[:, None, :5].expand(60, 4, 5), base.view(2, 3, 70, 10).mT):
        grad = draw(*x.shape[::-1], seed=1).permute(*reversed(range(x.dim())))
        got = out_and_gradient(sample, x, grad, 0.7, hard, 2)
        want = out_and_gradient(method.gumbel_softmax, x.contiguous(), grad.contiguous(), 0.7, hard, 2)
        assert_close(got, want)


@BOTH
@HARD
@pytest.mark.parametrize("shape", [(0,), (0, 3), (5, 0), (2, 0, 4)], ids=str)
def test_nothing_in_nothing_out(sample, hard, shape):
    y, gradient = out_and_gradient(sample, torch.empty(shape), torch.empty(shape), 1.0, hard)
    assert y.shape == gradient.shape == shape


@pytest.mark.parametrize(
    ("dtype", "hard", "keeps"),
    [(torch.float32, False, "y"), (torch.float64, False, "y"), (torch.float16, False, "x"), (torch.float32, True, "x")],
)
def test_one_tensor_is_kept_and_no_noise(dtype, hard, keeps):
    x, saved = draw(4, 16, dtype=dtype).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        y = kernel.gumbel_softmax(x, 1.0, hard)
    assert saved == [(y if keeps == "y" else x).data_ptr()]


def test_gradcheck_of_the_soft_sample():
    for x in (draw(3, 5), draw(1, 4100, scale=0.1)):
        x.requires_grad_()
        for sample in (method.gumbel_softmax, kernel.gumbel_softmax):
            assert torch.autograd.gradcheck(lambda x, f=sample: f(x, 0.7, False, 1), (x,), fast_mode=True)


def test_the_straight_through_sample_compiles_for_one_seed_after_another():
    compiled = torch.compile(
        lambda x, seed: 3 * kernel.gumbel_softmax(x * 2, 0.5, True, seed), fullgraph=True, backend="aot_eager"
    )
    x, grad = draw(4, 9), draw(4, 9, seed=1)
    for seed in (1, 2, 3):
        want = out_and_gradient(lambda x, s: 3 * method.gumbel_softmax(x * 2, 0.5, True, s), x, grad, seed)
        assert_close(out_and_gradient(compiled, x, grad, seed), want)
