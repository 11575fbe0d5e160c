"""What Glorot & Bengio claim of softsign and of their initialization, and that the kernels are the method."""

import math

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from scipy import stats
from torch.testing import assert_close

from snippets.glorot_init import experiment, kernel, method

SOFTSIGNS = pytest.mark.parametrize("softsign", [method.softsign, kernel.softsign], ids=["method", "kernel"])
MODULES = pytest.mark.parametrize("module", [method, kernel], ids=["method", "kernel"])
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
DTYPES = pytest.mark.parametrize("dtype", FLOATS, ids=str)
SEEDS = [0, 1, 7, -1, 2**31, 2**40 + 17, 2**63 - 1, -(2**63)]
EXTREMES = [0.0, -0.0, 1e-8, -1e-8, 1.0, -1.0, 80.0, -80.0, 6e4, -6e4, math.inf, -math.inf, math.nan]


def out_and_gradient(function, x, grad):
    x = x.detach().clone().requires_grad_()
    y = function(x)
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


def low_and_high(rows, columns):
    bound = math.sqrt(6) / math.sqrt(rows + columns)
    return -bound, bound


# Softsign


@SOFTSIGNS
@DTYPES
def test_softsign_is_torchs_at_the_extremes_too(softsign, dtype):
    values = [*EXTREMES, torch.finfo(dtype).max, torch.finfo(dtype).min, torch.finfo(dtype).tiny]
    x = torch.tensor(values, dtype=torch.float64).to(dtype)
    got, own = (out_and_gradient(f, x, torch.ones_like(x)) for f in (softsign, F.softsign))
    want = out_and_gradient(F.softsign, x.double(), torch.ones(len(x), dtype=torch.float64))  # rounded once
    assert_close(got, tuple(w.to(dtype) for w in want), equal_nan=True)
    assert [one.isnan().tolist() for one in got] == [one.isnan().tolist() for one in own]
    assert torch.equal(got[0].signbit()[:2], torch.tensor([False, True]))


@SOFTSIGNS
@pytest.mark.parametrize(("dtype", "goal"), [(torch.float64, 1e-15), (torch.float32, 3e-7)], ids=str)
def test_softsign_keeps_its_digits_from_tiny_to_huge(softsign, dtype, goal):
    x = torch.logspace(-35, 35, 3000, dtype=torch.float64).to(dtype)
    exact = x.double() / (1 + x.double())
    assert ((softsign(-x).double() + exact) / exact).abs().max() < goal


@pytest.mark.parametrize(("dtype", "goal"), [(torch.float64, 1e-15), (torch.float32, 5e-7)], ids=str)
def test_the_kernels_slope_keeps_its_digits_where_torchs_cancels(dtype, goal):
    x = torch.logspace(-5, 15, 2000, dtype=torch.float64).to(dtype)
    exact = (1 + x.double()) ** -2
    for sign in (1, -1):
        _, slope = out_and_gradient(kernel.softsign, sign * x, torch.ones_like(x))
        assert ((slope.double() - exact) / exact).abs().max() < goal
    assert out_and_gradient(kernel.softsign, torch.tensor([1e22]), torch.tensor([1e30]))[1].item() == pytest.approx(
        1e-14
    )


def test_softsign_goes_to_its_asymptotes_polynomially_where_tanh_does_so_exponentially():
    x = torch.tensor([10.0, 100.0, 1000.0], dtype=torch.float64)
    assert_close(1 - kernel.softsign(x), 1 / (1 + x))
    assert (1 - torch.tanh(x) < 1e-8).all()


def test_the_second_derivative_is_right_too():
    x = torch.tensor([-3.0, -0.7, -1e-3, 0.2, 5.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(kernel.softsign, x)


@SOFTSIGNS
def test_an_integer_tensor_is_refused_with_a_hint(softsign):
    with pytest.raises(ValueError, match="floating-point"):
        softsign(torch.arange(3))


# The random numbers


def test_philox_gives_the_known_answers_of_its_authors():
    assert [f"{w:08x}" for w in method.philox(0, torch.tensor([0]))[0].tolist()] == [
        "6627e8d5",
        "e169c58d",
        "bc57ac4c",
        "9b00dbd8",
    ]


@triton.jit
def _philox(out_ptr, seed, start, stream):
    at = tl.arange(0, 32).to(tl.int64) + start
    low, high = at.to(tl.uint32), (at >> 32).to(tl.uint32)
    first, second, third, fourth = tl.philox(seed, low, high, low * 0 + stream, low * 0)
    row = out_ptr + 4 * tl.arange(0, 32)
    tl.store(row, first.to(tl.int64))
    tl.store(row + 1, second.to(tl.int64))
    tl.store(row + 2, third.to(tl.int64))
    tl.store(row + 3, fourth.to(tl.int64))


@pytest.mark.parametrize("seed", SEEDS)
def test_philox_is_tritons_for_any_key_counter_and_stream(seed):
    for start, stream in ((0, 0), (2**31 - 16, 1), (2**32 - 16, 0), (2**40 + 3, 1)):
        out = torch.empty(32, 4, dtype=torch.int64)
        _philox[(1,)](out, seed, start, stream)
        assert torch.equal(out, method.philox(seed, start + torch.arange(32), stream))


@triton.jit
def _elements(out_ptr, seed, start, STREAM: tl.constexpr):
    tl.store(out_ptr + tl.arange(0, 64), kernel._words(seed, start, STREAM, 64).to(tl.int64))


@pytest.mark.parametrize("start", [0, 1024, 2**31, 2**33 + 4096, 2**40])
def test_the_numbers_continue_beyond_two_to_the_31_elements(start):
    out = torch.empty(64, dtype=torch.int64)
    _elements[(1,)](out, 11, start, 1)
    assert torch.equal(out, method.philox(11, start // 4 + torch.arange(16), 1).flatten())


# The fill


@DTYPES
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["normalized_uniform_", "standard_uniform_"])
def test_kernel_and_method_draw_the_same_bits(name, seed, dtype):
    for shape in ((33, 41), (1, 1), (3, 5), (0, 3), (3, 0), (0, 0)):
        mine, theirs = (getattr(one, name)(torch.full(shape, math.nan, dtype=dtype), seed) for one in (kernel, method))
        assert torch.equal(mine, theirs)


@MODULES
@DTYPES
def test_it_stays_within_the_bounds_and_comes_close_to_them(module, dtype):
    for rows, columns in ((1, 1), (2, 1), (37, 90), (200, 11)):
        low, high = low_and_high(rows, columns)
        for seed in range(2):
            w = module.normalized_uniform_(torch.empty(rows, columns, dtype=dtype), seed).double()
            assert low <= w.min() <= w.max() <= high
            assert w.numel() < 2000 or w.abs().max() > 0.99 * high
            assert (w != 0).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("bound", [1.7320508, 1.0, 0.75, 0.3, 0.0123, 2**-10, 5e-6])
def test_the_largest_number_below_a_bound_has_no_larger_neighbour_below_it(dtype, bound):
    below = torch.tensor(method.round_down(bound, dtype), dtype=dtype)
    assert below.item() == method.round_down(bound, dtype) <= bound
    assert torch.nextafter(below, torch.tensor(9.0, dtype=dtype)).item() > bound or dtype == torch.float64


@MODULES
@DTYPES
@pytest.mark.parametrize("seed", [0, 2**40 + 17])
def test_the_numbers_are_uniform_by_kolmogorov_and_smirnov(module, dtype, seed):
    w = module.normalized_uniform_(torch.empty(60, 250, dtype=dtype), seed).double().flatten()
    low, high = low_and_high(60, 250)
    # a rounded number stands for its cell: spread it out again, as a continuous test asks
    cell = torch.exp2(torch.floor(w.abs().log2())) * torch.finfo(dtype).eps
    noise = torch.rand(len(w), dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5
    spread = (w + cell * noise).clamp(low, high)
    assert stats.kstest(spread.numpy(), "uniform", args=(low, high - low)).pvalue > 1e-3


@MODULES
@DTYPES
def test_mean_and_variance_are_those_of_equation_12(module, dtype):
    rows, columns = 100, 200
    w = module.normalized_uniform_(torch.empty(rows, columns, dtype=dtype), 5).double()
    variance, count = 2 / (rows + columns), rows * columns
    assert abs(w.mean().item()) < 4 * math.sqrt(variance / count)
    # the variance of w² is (9/5 − 1)·variance²
    assert w.var().item() == pytest.approx(variance, rel=4 * math.sqrt(0.8 / count))


@MODULES
def test_the_standard_initialization_leaves_a_third(module):
    w = module.standard_uniform_(torch.empty(50, 400, dtype=torch.float64), 2)
    assert w.abs().max() <= 1 / math.sqrt(400)
    assert 400 * w.var().item() == pytest.approx(1 / 3, rel=4 * math.sqrt(0.8 / w.numel()))


def test_neighbours_rows_streams_and_seeds_are_uncorrelated():
    draw = lambda seed: method.normalized_uniform_(torch.empty(256, 256, dtype=torch.float64), seed)  # noqa: E731
    w = draw(0).flatten()
    others = [w.roll(lag) for lag in (1, 2, 3, 4, 256, 1024)] + [draw(1).flatten(), draw(2**32).flatten()]
    for other in others:
        assert abs(torch.corrcoef(torch.stack((w, other)))[0, 1].item()) < 4.5 / 256


@MODULES
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(module):
    fill = lambda seed: module.normalized_uniform_(torch.empty(40, 30), seed)  # noqa: E731
    assert torch.equal(fill(9), fill(9))
    assert (fill(9) == fill(10)).double().mean() < 0.01


@MODULES
def test_a_wider_dtype_has_more_digits_of_the_same_numbers(module):
    wide = module.normalized_uniform_(torch.empty(40, 30, dtype=torch.float64), 3)
    single = module.normalized_uniform_(torch.empty(40, 30), 3)
    assert (wide - single.double()).abs().max() < 2**-22 * low_and_high(40, 30)[1]
    limit = method.round_down(low_and_high(40, 30)[1], torch.float16)
    half = module.normalized_uniform_(torch.empty(40, 30, dtype=torch.float16), 3)
    assert torch.equal(half, single.clamp(-limit, limit).half())
    assert (wide.float().double() != wide).double().mean() > 0.9  # a float64 is no widened float32


@MODULES
def test_a_new_matrix_has_the_numbers_of_a_filled_one(module):
    model = torch.zeros(1, 30).expand(20, 30)
    for dtype in FLOATS:
        fresh = module.normalized_uniform_like(model, 8, dtype)
        assert torch.equal(fresh, module.normalized_uniform_(torch.empty(20, 30, dtype=dtype), 8))
    assert (model == 0).all()


@MODULES
def test_a_place_has_its_number_whatever_the_strides(module):
    want = module.normalized_uniform_(torch.empty(30, 70), 4)
    buffer = torch.full((60, 150), 7.0)
    for weight in (torch.empty(70, 30).t(), buffer[::2, 5:145:2], torch.empty(30, 1, 70).squeeze(1)):
        assert module.normalized_uniform_(weight, 4) is weight
        assert torch.equal(weight, want)
    untouched = torch.ones_like(buffer, dtype=torch.bool)
    untouched[::2, 5:145:2] = False
    assert (buffer[untouched] == 7).all()


@MODULES
def test_a_parameter_can_be_filled_as_torchs_own_initializers_do(module):
    weight = torch.nn.Parameter(torch.empty(20, 30))
    version = weight._version
    assert module.normalized_uniform_(weight, 1) is weight
    assert weight.is_leaf
    assert weight.requires_grad
    assert weight._version > version  # a graph that saved it will notice
    (weight**2).sum().backward()
    assert_close(weight.grad, 2 * weight.detach())


@pytest.mark.parametrize("layout", [lambda w: w, lambda w: w.t(), lambda w: w[:, ::2]])
def test_the_mutating_op_is_registered_as_what_it_is(layout):
    torch.library.opcheck(torch.ops.papernotes.uniform_.default, (layout(torch.empty(6, 8)), 0.5, 7))


def test_a_compiled_model_can_fill_its_own_weight():
    fill = torch.compile(lambda w: kernel.normalized_uniform_(w, 6) * 2, fullgraph=True, backend="aot_eager")
    weight = torch.empty(12, 13)
    assert_close(fill(weight), 2 * method.normalized_uniform_(torch.empty(12, 13), 6))
    assert torch.equal(weight, method.normalized_uniform_(torch.empty(12, 13), 6))


@MODULES
@pytest.mark.parametrize("name", ["normalized_uniform_", "standard_uniform_"])
@pytest.mark.parametrize(
    ("weight", "seed", "said"),
    [
        (torch.empty(3), 0, "matrix"),
        (torch.empty(()), 0, "matrix"),
        (torch.empty(2, 3, 4), 0, "matrix"),
        (torch.empty(2, 3, dtype=torch.int64), 0, "floating-point"),
        (torch.empty(1, 3).expand(2, 3), 0, "share memory"),
        (torch.empty(2, 3), 2**63, "64 bits"),
        (torch.empty(2, 3), -(2**63) - 1, "64 bits"),
        (torch.empty(2, 3), 0.5, "64 bits"),
    ],
)
def test_bad_arguments_are_refused(module, name, weight, seed, said):
    with pytest.raises(ValueError, match=said):
        getattr(module, name)(weight, seed)


# The paper


def test_in_a_linear_network_the_normalized_weights_keep_both_variances():
    generator = torch.Generator().manual_seed(0)
    ratios = {}
    for name, init in (("standard", method.standard_uniform_), ("normalized", method.normalized_uniform_)):
        forward = torch.randn(200, 128, generator=generator, dtype=torch.float64)
        backward = torch.randn(200, 128, generator=generator, dtype=torch.float64)
        for layer in range(6):
            weight = init(torch.empty(128, 128, dtype=torch.float64), layer)
            forward, backward = forward @ weight.T, backward @ weight
        ratios[name] = forward.var().item(), backward.var().item()
    assert ratios["normalized"] == pytest.approx((1, 1), rel=0.25)
    assert ratios["standard"] == pytest.approx((3**-6, 3**-6), rel=0.25)


def test_a_stretched_sigmoid_is_the_sigmoid_with_smaller_weights():
    """Weights 10 times as large and a rate 100 times as large give σ(0.1·) the sigmoid's very steps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 20, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (64,), generator=generator)
    start = [torch.randn(a, b, generator=generator, dtype=torch.float64) for a, b in ((20, 16), (16, 16), (16, 3))]
    curves = []
    for f, scale in ((torch.sigmoid, 1), (experiment.late_sigmoid, 10)):
        weights = [(w * (scale if n < 2 else 1)).requires_grad_() for n, w in enumerate(start)]
        losses = []
        for _ in range(30):
            z = x
            for w in weights[:-1]:
                z = f(z @ w)
            loss = F.cross_entropy(z @ weights[-1], y)
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for n, (w, g) in enumerate(zip(weights, gradients, strict=True)):
                    w -= 0.5 * (scale**2 if n < 2 else 1) * g
            losses.append(loss.item())
        curves.append(losses)
    assert curves[1] == pytest.approx(curves[0], rel=1e-9)
    assert curves[0][-1] < 0.9 * curves[0][0]


def test_the_synthetic_shapes_have_nine_classes_and_hide_at_most_half():
    images, labels = experiment.shapes(300, torch.Generator().manual_seed(3))
    again, _ = experiment.shapes(300, torch.Generator().manual_seed(3))
    assert torch.equal(images, again)
    assert images.shape == (300, 32, 32)
    assert labels.unique().tolist() == list(range(9))
    levels = torch.tensor([len(one.unique()) for one in images])
    assert (levels[labels < 3] == 2).all()  # a gray and the black behind it
    assert (levels[labels >= 3] == 3).all()
