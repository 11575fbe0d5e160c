"""What Klambauer et al. claim of SELU and alpha dropout, and that the kernels are the method."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from scipy.integrate import quad
from torch.testing import assert_close

from snippets.self_normalizing import kernel, method

PAPER_ALPHA, PAPER_LAMBDA = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
SELUS = pytest.mark.parametrize("selu", [method.selu, kernel.selu], ids=["method", "kernel"])
DROPOUTS = pytest.mark.parametrize("drop", [method.alpha_dropout, kernel.alpha_dropout], ids=["method", "kernel"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
SHAPES = [(), (0, 3), (1,), (7,), (1023,), (1024,), (1025,), (31, 67), (2, 3, 5, 7), (4099,)]
LAYOUTS = {
    "transposed": lambda x: x.reshape(60, 70).t(),
    "sliced": lambda x: x.reshape(60, 70)[::2, 3:50],
    "expanded": lambda x: x[:41, None].expand(41, 5),
    "channels-last": lambda x: x.reshape(2, 3, 70, 10).to(memory_format=torch.channels_last),
}


def draw(*shape, dtype=torch.float64, seed=0, spread=1.0):
    return (spread * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).to(dtype)


def out_and_gradient(function, x, grad, *args):
    x = x.detach().clone().requires_grad_()
    y = function(x, *args)
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


def moments_by_quadrature(alpha, scale, variance):
    """Mean and variance of SELU of N(0, variance), by adaptive integration: no error function involved."""
    deviation = math.sqrt(variance)

    def expect(function):
        density = lambda t: function(deviation * t) * math.exp(-t * t / 2) / math.sqrt(2 * math.pi)  # noqa: E731
        return sum(quad(density, *span, epsabs=0, epsrel=1e-12, limit=200)[0] for span in ((-13, 0), (0, 13)))

    unit = lambda z: scale * (z if z > 0 else alpha * math.expm1(z))  # noqa: E731
    mean = expect(unit)
    return mean, expect(lambda z: unit(z) ** 2) - mean**2


# The fixed point


def test_the_constants_are_those_of_the_paper_to_1e_12():
    alpha, scale = method.fixed_point(0.0, 1.0)
    assert abs(alpha - PAPER_ALPHA) < 1e-12
    assert abs(scale - PAPER_LAMBDA) < 1e-12
    assert (alpha, scale) == (method.ALPHA, method.LAMBDA)


def test_the_constants_are_the_closed_form_of_equation_14():
    w = math.exp(0.5) * math.erfc(math.sqrt(0.5))
    w2 = math.exp(2) * math.erfc(math.sqrt(2))
    alpha = -math.sqrt(2 / math.pi) / (w - 1)
    scale = (1 - w) * math.sqrt(2 * math.pi) / math.sqrt(2 * w2 + math.pi * w**2 - 2 * (2 + math.pi) * w + math.pi + 2)
    assert method.fixed_point(0.0, 1.0) == pytest.approx((alpha, scale), rel=1e-13)


@pytest.mark.parametrize(
    ("mean", "variance"),
    [(0, 1), (0, 4), (0, 0.01), (0, 1e-6), (0, 100), (0.2, 1), (-0.2, 1), (0.5, 1), (-0.5, 1), (1, 4), (-0.7, 4)],
)
def test_a_layer_maps_the_target_to_itself(mean, variance):
    got = moments_by_quadrature(*method.fixed_point(mean, variance), variance)
    assert got == pytest.approx((mean, variance), rel=1e-9, abs=1e-10 * variance)


def test_zero_and_four_hold_in_a_simulated_network_as_zero_and_one_do():
    generator = torch.Generator().manual_seed(0)
    for variance in (1.0, 4.0):
        alpha, scale = method.fixed_point(0.0, variance)
        x = variance**0.5 * torch.randn(512, 512, generator=generator)
        for _ in range(30):
            z = x @ (torch.randn(512, 512, generator=generator) / 512**0.5)
            x = scale * torch.where(z > 0, z, alpha * torch.expm1(z))
        assert abs(x.mean().item()) < 0.1 * variance**0.5
        assert x.var().item() == pytest.approx(variance, rel=0.15)


@pytest.mark.parametrize("variance", [1e-12, 1e-6, 1e-2, 0.1249, 0.1251, 0.5, 1.0, 30.0, 1e4, 1e8])
def test_small_and_large_variances_lose_no_digits(variance):
    """Against sums of terms of one sign, so that nothing can cancel: trapezoid in log t, exact to rounding."""
    log_t = np.linspace(-45, 4, 4901)
    t = np.exp(log_t)
    weight = np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi) * t * (log_t[1] - log_t[0])
    below = np.expm1(-math.sqrt(variance) * t)
    _, _, first, second = method.half_moments(variance)
    assert first == pytest.approx((below * weight).sum(), rel=1e-13)
    assert second == pytest.approx((below**2 * weight).sum(), rel=1e-13)


def test_the_two_ways_to_the_integrals_meet_where_they_change_over():
    below, above = method.half_moments(0.125 - 1e-14), method.half_moments(0.125 + 1e-14)
    assert below == pytest.approx(above, rel=1e-12)


@pytest.mark.parametrize(
    ("mean", "variance"), [(0.8, 1), (-3, 1), (10, 1), (0, 0), (0, -1), (0, math.inf), (math.nan, 1), (0, math.nan)]
)
def test_where_there_is_no_solution_it_says_so(mean, variance):
    with pytest.raises(ValueError, match="mean"):
        method.fixed_point(mean, variance)


# SELU


@SELUS
@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_selu_is_torchs_forward_and_backward_at_every_shape(selu, dtype, shape):
    x, grad = draw(*shape, dtype=dtype, spread=3), draw(*shape, dtype=dtype, seed=1)
    got, want = out_and_gradient(selu, x, grad), out_and_gradient(F.selu, x.double(), grad.double())
    assert_close(got, tuple(w.to(dtype) for w in want))


@SELUS
@DTYPES
def test_selu_extremes_nan_and_infinity_pass_as_in_torch(selu, dtype):
    values = [0.0, -0.0, 1e-8, -1e-8, -0.5, 1.0, 80.0, -80.0, 1e4, -1e4, math.inf, -math.inf, math.nan]
    x = torch.tensor(values, dtype=torch.float64).to(dtype)
    y, gradient = out_and_gradient(selu, x, torch.ones_like(x))
    want, slope = out_and_gradient(F.selu, x, torch.ones_like(x))
    assert_close(y, want, equal_nan=True)
    assert_close(gradient[:-1], slope[:-1])
    assert gradient[-1].isnan()  # torch's vectorized loop says NaN too, its scalar tail says λ


@SELUS
def test_selu_saturates_at_minus_lambda_alpha(selu):
    assert selu(torch.tensor(-100.0, dtype=torch.float64)).item() == pytest.approx(
        -PAPER_ALPHA * PAPER_LAMBDA, abs=1e-12
    )
    assert pytest.approx(-1.7580993408473766, abs=1e-12) == method.SATURATION


@SELUS
@pytest.mark.parametrize(("dtype", "goal"), [(torch.float32, 1e-6), (torch.float64, 1e-15)], ids=str)
def test_selu_relative_error_stays_small_all_the_way_to_zero(selu, dtype, goal):
    x = torch.cat([-torch.logspace(-30, 1.5, 4000, dtype=torch.float64), -torch.linspace(0.3, 0.8, 1501).double()]).to(
        dtype
    )
    want = PAPER_LAMBDA * PAPER_ALPHA * torch.expm1(x.double())
    assert ((selu(x).double() - want) / want).abs().max() < goal


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_selu_slope_near_saturation_survives_half_precision(dtype):
    x = torch.linspace(-12, 0, 3000, dtype=torch.float64).to(dtype)
    _, slope = out_and_gradient(kernel.selu, x, torch.ones_like(x))
    assert_close(slope, (PAPER_LAMBDA * PAPER_ALPHA * torch.exp(x.double())).to(dtype))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_selu_any_layout_of_input_and_gradient(layout):
    base = draw(4200).requires_grad_()
    y = kernel.selu(layout(base))
    assert_close(y, F.selu(layout(base)))
    for grad in (torch.ones((), dtype=y.dtype).expand_as(y), draw(*y.shape[::-1]).permute(*reversed(range(y.ndim)))):
        (mine,) = torch.autograd.grad(y, base, grad, retain_graph=True)
        (theirs,) = torch.autograd.grad(F.selu(layout(base)), base, grad)
        assert_close(mine, theirs)


# The random numbers


def test_philox_gives_the_published_known_answer():
    words = [int(w) for w in method.philox(0, torch.tensor([0]))]
    assert [f"{w:08x}" for w in words] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


@triton.jit
def _random(out_ptr, seed, start, WHAT: tl.constexpr):
    at = start + tl.arange(0, 64)
    if WHAT == "rand":
        tl.store(out_ptr + tl.arange(0, 64), tl.rand(seed, at))
    elif WHAT == "randint":
        tl.store(out_ptr + tl.arange(0, 64), tl.randint(seed, at).to(tl.uint32).to(tl.int64))


@triton.jit
def _mask(out_ptr, seed, start, threshold):
    tl.store(out_ptr + tl.arange(0, 256), kernel._keep(seed, start, threshold, 256).to(tl.int64))


SEEDS = [0, 1, 7, -1, 2**31, 2**32 + 5, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("seed", SEEDS)
def test_philox_is_tritons_bit_for_bit(seed):
    for start in (0, 1, 2**20 + 3):
        counter = start + torch.arange(64)
        word = method.philox(seed, counter)[0]
        integers = torch.empty(64, dtype=torch.int64)
        _random[(1,)](integers, seed, start, WHAT="randint")
        assert torch.equal(integers, word)
        floats = torch.empty(64)
        _random[(1,)](floats, seed, start, WHAT="rand")
        signed = word - (word >= 2**31) * 2**32
        assert torch.equal(floats, torch.where(signed < 0, -signed - 1, signed).float() * 4.6566127342e-10)


@pytest.mark.parametrize("start", [0, 1024, 2**31 - 1024, 2**31, 2**33 + 4096, 2**40])
def test_the_mask_continues_beyond_two_to_the_31_elements(start):
    out = torch.empty(256, dtype=torch.int64)
    _mask[(1,)](out, 11, torch.tensor(start).item(), method.drop_threshold(0.3) - 2**31)
    words = torch.stack(method.philox(11, start // 4 + torch.arange(64)), dim=-1).flatten()
    assert torch.equal(out.bool(), words >= 0.3 * 2**32)


# Alpha dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (0.0, 4.0), (0.3, 2.0)])
def test_the_affine_pair_restores_mean_and_variance_exactly(p, mean, variance):
    a, b = method.affine_pair(p, mean, variance)
    q, drop = 1 - p, method.SATURATION
    first = q * mean + p * drop
    second = q * (variance + mean**2) + p * drop**2
    assert a * first + b == pytest.approx(mean, abs=1e-12)
    assert a**2 * (second - first**2) == pytest.approx(variance, rel=1e-12)


def test_the_affine_pair_is_the_papers_for_zero_and_one():
    q, drop = 0.9, method.SATURATION
    a, b = method.affine_pair(0.1)
    assert a == pytest.approx((q + drop**2 * q * (1 - q)) ** -0.5, rel=1e-14)
    assert b == pytest.approx(-a * (1 - q) * drop, rel=1e-14)


@DROPOUTS
@pytest.mark.parametrize("p", [0.05, 0.2, 0.5])
def test_alpha_dropout_keeps_mean_and_variance_where_plain_dropout_does_not(drop, p):
    x = method.selu(draw(150_000))
    y, plain = drop(x, p, 3), F.dropout(x, p, training=True)
    error = 5 / 150_000**0.5
    assert y.mean().item() == pytest.approx(0, abs=error)
    assert y.var().item() == pytest.approx(1, abs=3 * error)
    assert plain.var().item() == pytest.approx(1 / (1 - p), rel=0.03)


@DROPOUTS
@DTYPES
@pytest.mark.parametrize("p", [0.1, 0.7])
def test_every_element_is_dropped_or_kept_as_the_replayed_mask_says(drop, dtype, p):
    x, grad = draw(5000, dtype=dtype), draw(5000, dtype=dtype, seed=1)
    words = torch.stack(method.philox(5, torch.arange(1250)), dim=-1).flatten()
    keep = words >= round(p * 2**32)
    a, b = method.affine_pair(p)
    y, gradient = out_and_gradient(drop, x, grad, p, 5)
    want = torch.where(keep, a * x.double() + b, a * -PAPER_LAMBDA * PAPER_ALPHA + b)
    assert_close(y, want.to(dtype))
    assert_close(gradient, torch.where(keep, a * grad.double(), 0.0).to(dtype))


@pytest.mark.parametrize("p", [0.001, 0.25, 0.5, 0.95])
def test_the_drop_rate_is_p_and_neighbours_are_independent(p):
    keep = method.keep_mask((400_000,), p, 0).double()
    error = 5 * math.sqrt(p * (1 - p) / 400_000)
    assert keep.mean().item() == pytest.approx(1 - p, abs=error)
    centred = keep - keep.mean()
    for lag in (1, 2, 3, 4, 1024):
        assert abs((centred[:-lag] * centred[lag:]).mean().item()) < error * math.sqrt(p * (1 - p)) + 1e-5


@DROPOUTS
def test_the_same_seed_gives_the_same_mask_and_another_seed_another(drop):
    x = draw(3000)
    assert torch.equal(drop(x, 0.5, 9), drop(x, 0.5, 9))
    assert 0.4 < (drop(x, 0.5, 9) == drop(x, 0.5, 10)).double().mean().item() < 0.6


@pytest.mark.parametrize("seed", SEEDS)
def test_kernel_and_method_draw_the_same_mask_for_any_seed(seed):
    x = draw(1500)
    assert_close(kernel.alpha_dropout(x, 0.4, seed), method.alpha_dropout(x, 0.4, seed), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@DTYPES
def test_alpha_dropout_agrees_with_float64_at_every_shape(shape, dtype):
    x, grad = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=1)
    got = out_and_gradient(kernel.alpha_dropout, x, grad, 0.3, 2)
    want = out_and_gradient(method.alpha_dropout, x.double(), grad.double(), 0.3, 2)
    assert_close(got, tuple(w.to(dtype) for w in want))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_mask_follows_an_elements_place_not_its_memory(layout):
    base = draw(4200).requires_grad_()
    x = layout(base)
    y = kernel.alpha_dropout(x, 0.5, 4)
    assert_close(y, method.alpha_dropout(x.contiguous(), 0.5, 4))
    for grad in (torch.ones((), dtype=y.dtype).expand_as(y), draw(*y.shape[::-1]).permute(*reversed(range(y.ndim)))):
        (mine,) = torch.autograd.grad(y, base, grad, retain_graph=True)
        (theirs,) = torch.autograd.grad(method.alpha_dropout(layout(base), 0.5, 4), base, grad)
        assert_close(mine, theirs)


@DROPOUTS
def test_p_zero_returns_the_input_and_p_one_zeros_as_in_torch(drop):
    x = draw(100)
    assert torch.equal(drop(x, 0, 1), x)
    y, gradient = out_and_gradient(lambda x: drop(x * 1, 0.0, 1), x, torch.ones(100, dtype=x.dtype))
    assert torch.equal(y, x)
    assert (gradient == 1).all()
    y, gradient = out_and_gradient(drop, torch.full((100,), math.nan), torch.ones(100), 1, 1)
    assert (y == 0).all()
    assert (gradient == 0).all()
    assert torch.equal(drop(x, 1.0, 1), F.alpha_dropout(x, 1.0, training=True).abs())


@DROPOUTS
def test_p_just_short_of_one_or_zero_stays_finite(drop):
    x = draw(2000)
    for p in (1e-12, 1e-6, 1 - 1e-6, 1 - 1e-12):
        assert drop(x, p, 1).isfinite().all()
    assert drop(x, 1 - 1e-12, 1).abs().max() < 1e-2  # on its way to the zeros of p = 1


@DROPOUTS
def test_a_dropped_nan_is_gone_and_a_kept_one_stays(drop):
    y = drop(torch.full((1000,), math.nan), 0.5, 6)
    assert torch.equal(y.isnan(), method.keep_mask((1000,), 0.5, 6))


@DROPOUTS
@pytest.mark.parametrize(("p", "seed"), [(-0.1, 0), (1.1, 0), (math.nan, 0), (0.5, 2**63), (0.5, -(2**63) - 1)])
def test_bad_arguments_are_refused(drop, p, seed):
    with pytest.raises(ValueError, match="alpha_dropout needs"):
        drop(draw(3), p, seed)


@pytest.mark.parametrize("function", [method.selu, kernel.selu, lambda x: kernel.alpha_dropout(x, 0.5, 0)])
def test_an_integer_tensor_is_refused_with_a_hint(function):
    with pytest.raises(ValueError, match="floating-point"):
        function(torch.arange(3))


def test_the_mask_is_never_stored():
    x, saved = draw(64).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        kernel.alpha_dropout(x, 0.5, 0)
    assert saved == []


def test_only_selus_output_is_saved():
    for dtype in (torch.float32, torch.float16):
        x, saved = draw(64, dtype=dtype).requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t.data_ptr()) or t, lambda t: t):
            y = kernel.selu(x)
        assert saved == [y.data_ptr() if dtype == torch.float32 else x.data_ptr()]


# The kernels as torch operators


@pytest.mark.parametrize("n", [1, 1000, 1024, 1500])
def test_nothing_is_written_or_read_beyond_the_last_element(n):
    poison = torch.full((4096,), math.nan)
    x, programs = poison.clone(), ((n + 1023) // 1024,)
    x[:n] = draw(n, dtype=torch.float32)
    dropped, threshold = -1.0, method.drop_threshold(0.5) - 2**31
    for launch in (
        lambda out: kernel._selu_forward[programs](x, out, n, WORK=tl.float32, BLOCK=1024),
        lambda out: kernel._selu_backward[programs](x, x, out, n, FROM_OUTPUT=False, WORK=tl.float32, BLOCK=1024),
        lambda out: kernel._alpha_dropout[programs](
            x, out, 3, threshold, 1.0, 0.0, dropped, n, WORK=tl.float32, BLOCK=1024
        ),
    ):
        out = poison.clone()
        launch(out)
        assert not out[:n].isnan().any()
        assert out[n:].isnan().all()


def test_gradcheck():
    x = torch.tensor([-3.0, -0.6, -0.4, -1e-2, 1e-2, 0.7, 3.0], dtype=torch.float64, requires_grad=True)
    for selu in (method.selu, kernel.selu):
        assert torch.autograd.gradcheck(selu, (x,))
    for drop in (method.alpha_dropout, kernel.alpha_dropout):
        assert torch.autograd.gradcheck(lambda x, drop=drop: drop(x, 0.4, 1), (x,))


def test_opcheck():
    for dtype in (torch.float32, torch.float16):
        torch.library.opcheck(kernel._selu_op, (draw(33, dtype=dtype).requires_grad_(),))
        torch.library.opcheck(kernel._alpha_dropout_op, (draw(33, dtype=dtype).requires_grad_(), 0.3, 7))
    torch.library.opcheck(kernel._alpha_dropout_op, (draw(6, 7).t(), 0.3, 7))
    torch.library.opcheck(kernel._selu_backward_op, (draw(33), draw(33), True))
    torch.library.opcheck(kernel._alpha_dropout_backward_op, (draw(33), 0.3, 7))


def test_they_compile_without_a_graph_break_for_one_seed_after_another():
    x, grad = draw(5, 33), draw(5, 33)
    compiled = torch.compile(
        lambda x, seed: kernel.alpha_dropout(kernel.selu(x * 2), 0.3, seed) + 1, fullgraph=True, backend="aot_eager"
    )
    for seed in (1, 2, 3):
        want = out_and_gradient(lambda x, s: method.alpha_dropout(method.selu(x * 2), 0.3, s) + 1, x, grad, seed)
        assert_close(out_and_gradient(compiled, x, grad, seed), want)
