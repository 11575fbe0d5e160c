"""What He et al. claim of shortcuts and pre-activation, and that the kernel is torch's BN and ReLU."""

import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from snippets.identity_mappings import kernel, method

BOTH = pytest.mark.parametrize("preactivation", [method.preactivation, kernel.preactivation], ids=["method", "kernel"])
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
HALVES = [torch.float16, torch.bfloat16]
SHAPES = [(2, 1), (5, 3), (3, 70), (2, 3, 5), (2, 3, 5, 7), (9, 2, 16, 16), (1, 2, 3000), (2, 2, 3, 2, 2)]


def draw(*shape, seed=0, spread=1.0, mean=0.0, dtype=torch.float64):
    values = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (spread * values + mean).to(dtype)


def oracle(x, weight, bias, eps=1e-5):
    return F.relu(F.batch_norm(x, None, None, weight, bias, training=True, eps=eps))


def differentiated(function, x, weight, bias, grad, **more):
    leaves = [one.detach().requires_grad_() for one in (x, weight, bias)]
    y = function(*leaves, **more)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def parameters(channels, dtype=torch.float64):
    return draw(channels, seed=1, spread=0.3, mean=1.0, dtype=dtype), draw(channels, seed=2, dtype=dtype)


def agree(got, want, dtypes, reduced):
    rtol, atol = {
        torch.float64: (1e-7, 1e-7), torch.float32: (1.3e-6, 1e-5), torch.float16: (1e-3, 1e-5), torch.bfloat16: (1.6e-2, 1e-5),
    }[dtypes[0]]  # fmt: skip
    for mine, theirs, dtype in zip(got, want, dtypes, strict=True):
        assert mine.dtype == dtype
        assert_close(mine.double(), theirs, rtol=rtol, atol=atol * reduced**0.5, equal_nan=True)


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_torchs_batch_norm_and_relu_forward_and_backward(preactivation, shape, dtype):
    x, grad, (weight, bias) = draw(*shape, dtype=dtype), draw(*shape, seed=3, dtype=dtype), parameters(shape[1], dtype)
    want = differentiated(oracle, *(one.double() for one in (x, weight, bias, grad)))
    agree(differentiated(preactivation, x, weight, bias, grad), want, [dtype] * 4, x.numel() // shape[1])


@BOTH
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_takes_float32_parameters_as_torch_does(preactivation, dtype):
    x, grad, (weight, bias) = (
        draw(6, 3, 8, dtype=dtype),
        draw(6, 3, 8, seed=3, dtype=dtype),
        parameters(3, torch.float32),
    )
    want = differentiated(oracle, *(one.double() for one in (x, weight, bias, grad)))
    got = differentiated(preactivation, x, weight, bias, grad)
    agree(got, want, [dtype, dtype, torch.float32, torch.float32], 48)
    assert_close(got[0], oracle(x, weight, bias), rtol=2e-2, atol=1e-2)
    assert oracle(x, weight, bias).dtype == dtype


@BOTH
@pytest.mark.parametrize("mean", [1e2, 1e4, -1e6])
def test_a_mean_far_above_the_deviation_costs_no_digits(preactivation, mean):
    for shape in ((40, 3), (4, 3, 700)):
        x, (weight, bias) = draw(*shape, mean=mean, dtype=torch.float32), parameters(3, torch.float32)
        grad = draw(*shape, seed=3, dtype=torch.float32)
        want = differentiated(oracle, *(one.double() for one in (x, weight, bias, grad)))
        agree(differentiated(preactivation, x, weight, bias, grad), want, [torch.float32] * 4, x.numel() // 3)


@BOTH
def test_a_level_that_jumps_from_tile_to_tile_costs_no_digits(preactivation):
    x = draw(1, 2, 6 * 2048, dtype=torch.float32)
    x[..., 2048:] += 3000.0  # the first tile, about whose mean sums are taken, is unlike all others
    weight, bias = parameters(2, torch.float32)
    with mock.patch.object(kernel, "PROGRAMS", 1):  # one program takes every tile of a channel
        y = preactivation(x, weight, bias)
    assert_close(y.double(), oracle(x.double(), weight.double(), bias.double()), rtol=1.3e-6, atol=1e-5)


@BOTH
@pytest.mark.parametrize("scale", [1e30, 3e18, 1e-20])
def test_numbers_whose_squares_overflow_are_normalized_all_the_same(preactivation, scale):
    x, (weight, bias) = draw(50, 3, spread=scale, dtype=torch.float32), parameters(3, torch.float32)
    x[:, 1] = draw(50, seed=5)  # a usual channel beside huge ones keeps its digits
    want = oracle(x.double(), weight.double(), bias.double())
    assert_close(preactivation(x, weight, bias).double(), want, rtol=1.3e-6, atol=1e-5)


@BOTH
@pytest.mark.parametrize("scale", [1e160, 1e300])
def test_a_variance_that_overflows_in_float64_leaves_relu_of_the_bias_as_in_torch(preactivation, scale):
    x, (weight, bias), grad = draw(40, 3).clamp(-1, 1) * scale, parameters(3), draw(40, 3, seed=3)
    got, want = (differentiated(one, x, weight, bias, grad) for one in (preactivation, oracle))
    assert (want[0] == bias.relu()).all()
    for mine, theirs in zip(got, want, strict=True):
        assert_close(mine, theirs)


@BOTH
def test_a_channel_without_deviation_sends_no_gradient_back(preactivation):
    x = draw(1, 40, dtype=torch.float32).expand(17, 40)  # 1/σ is 316: what is left of dL/dy less its mean shows
    ones, grad = torch.ones(40), draw(1, 40, seed=3, spread=3, dtype=torch.float32).expand(17, 40)
    _, got, _, bias_grad = differentiated(preactivation, x, ones, ones, grad)
    assert_close(got, torch.zeros(17, 40))
    assert_close(bias_grad, 17 * grad[0])
    grad = draw(17, 40, seed=3, spread=1e-3, mean=100, dtype=torch.float32)
    want = differentiated(oracle, *(one.double() for one in (x, ones, ones, grad)))
    agree(differentiated(preactivation, x, ones, ones, grad), want, [torch.float32] * 4, 17)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_an_infinite_gradient_spoils_its_own_channel_as_in_torch(bad):
    x, (weight, bias), grad = draw(6, 3), parameters(3), draw(6, 3, seed=3)
    grad[2, 1] = bad
    x[2, 1] = 4.0  # its ReLU is open
    got, want = (differentiated(one, x, weight, bias, grad) for one in (kernel.preactivation, oracle))
    for mine, theirs in zip(got, want, strict=True):
        assert_close(mine, theirs, equal_nan=True)


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_spoil_their_own_channel_as_in_torch(preactivation, bad):
    x, (weight, bias), grad = draw(4, 3, 6), parameters(3), draw(4, 3, 6, seed=3)
    x[2, 1, 3] = bad
    got, want = (differentiated(one, x, weight, bias, grad) for one in (preactivation, oracle))
    for mine, theirs in zip(got, want, strict=True):
        assert_close(mine, theirs, equal_nan=True)
    assert got[0][:, 1].isnan().all()  # relu(NaN) is NaN
    assert got[0][:, [0, 2]].isfinite().all()


@BOTH
def test_at_the_kink_no_gradient_passes(preactivation):
    x = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    got = differentiated(preactivation, x, torch.ones(1).double(), torch.zeros(1).double(), torch.ones(3, 1).double())
    assert got[0].flatten().tolist() == pytest.approx([0, 0, 1.5**0.5], rel=1e-5)
    assert got[3].item() == 1  # only the last one is open
    constant = torch.full((5, 1), 1e8, dtype=torch.float32)
    y, _, weight, bias = differentiated(preactivation, constant, torch.ones(1), torch.zeros(1), torch.ones(5, 1))
    assert [y.sum().item(), weight.item(), bias.item()] == [0, 0, 0]


@BOTH
def test_a_weight_of_zero_gives_relu_of_the_bias_and_no_gradient_to_x(preactivation):
    x, bias = draw(7, 2, 3), torch.tensor([0.5, -0.5], dtype=torch.float64)
    y, x_grad, _, bias_grad = differentiated(
        preactivation, x, torch.zeros(2).double(), bias, torch.ones(7, 2, 3).double()
    )
    assert (y[:, 0] == 0.5).all() and (y[:, 1] == 0).all()
    assert (x_grad == 0).all()
    assert bias_grad.tolist() == [21, 0]


@BOTH
def test_an_output_that_underflows_in_half_precision_still_passes_its_gradient(preactivation):
    x, weight, bias = draw(8, 1, dtype=torch.float16), torch.tensor([1e-9]), torch.tensor([2e-9])
    y, _, _, bias_grad = differentiated(preactivation, x, weight, bias, torch.ones(8, 1, dtype=torch.float16))
    want = (draw(8, 1, dtype=torch.float16).double() - x.double().mean()) / x.double().std(
        correction=0
    ) * 1e-9 + 2e-9 > 0
    assert (y == 0).all()
    assert bias_grad.item() == want.sum().item() > 0


LAYOUTS = {
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "sliced": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "expanded": lambda x: x[:1].expand(x.shape),
}


@BOTH
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_of_input_and_gradient_changes_nothing(preactivation, layout):
    x, (weight, bias) = draw(4, 2, 5, 3), parameters(2)
    x, grads = (
        layout(x),
        [draw(4, 2, 5, 3, seed=3), layout(draw(4, 2, 5, 3, seed=3)), torch.ones(()).double().expand(x.shape)],
    )
    for grad in grads:
        # torch's own channels-last backward misreads some strides, so the oracle gets row-major copies
        want = differentiated(oracle, x.contiguous(), weight, bias, grad.contiguous())
        got = differentiated(preactivation, x, weight, bias, grad)
        agree(got, want, [torch.float64] * 4, 60)
    if x.is_contiguous(memory_format=torch.channels_last):
        assert got[0].is_contiguous(memory_format=torch.channels_last)


def test_parameters_may_be_strided():
    x, wide = draw(6, 4, 5), draw(8, seed=1)
    got = differentiated(kernel.preactivation, x, wide[::2], wide[1::2], torch.ones_like(x))
    want = differentiated(oracle, x, wide[::2], wide[1::2], torch.ones_like(x))
    agree(got, want, [torch.float64] * 4, 30)


@pytest.mark.parametrize("shape", [(3, 2, 100), (90, 5), (20, 40), (9, 2, 30)], ids=str)
@pytest.mark.parametrize(("programs", "turns"), [(1, 3), (1, 32), (10**9, 1)])
def test_however_the_tiles_are_shared_out_the_result_is_the_same(shape, programs, turns):
    x, grad, (weight, bias) = draw(*shape), draw(*shape, seed=3), parameters(shape[1])
    with mock.patch.multiple(kernel, TILE=64, WIDE=16, PROGRAMS=programs, TURNS=turns):
        got = differentiated(kernel.preactivation, x, weight, bias, grad)
    agree(got, differentiated(oracle, x, weight, bias, grad), [torch.float64] * 4, x.numel() // shape[1])


def test_more_parts_than_one_tile_of_the_combining_kernel():
    x, grad, (weight, bias) = draw(80, 1, spread=3, mean=50), draw(80, 1, seed=3), parameters(1)
    with mock.patch.multiple(kernel, TILE=2, PROGRAMS=10**9):  # 40 parts
        got = differentiated(kernel.preactivation, x, weight, bias, grad)
    agree(got, differentiated(oracle, x, weight, bias, grad), [torch.float64] * 4, 80)


def test_the_backward_keeps_x_and_numbers_a_channel_only():
    x, (weight, bias), saved = draw(6, 3, 50).requires_grad_(), parameters(3), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        kernel.preactivation(x, weight.requires_grad_(), bias.requires_grad_())
    assert [one.data_ptr() for one in saved if one.numel() >= x.numel()] == [x.data_ptr()]
    assert sum(one.numel() for one in saved) <= x.numel() + 5 * 3


def test_the_backward_can_be_differentiated_again():
    x, (weight, bias) = draw(5, 2, 3), parameters(2)
    leaves = [one.requires_grad_() for one in (x, weight, bias)]
    penalties = []
    for function in (kernel.preactivation, oracle):
        (slope,) = torch.autograd.grad(function(*leaves).square().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(slope.square().sum(), leaves))
    for mine, theirs in zip(*penalties, strict=True):
        assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


@BOTH
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0), (4, 0), (0, 0, 2)], ids=str)
def test_an_empty_input_gives_an_empty_output_and_zero_gradients(preactivation, shape):
    got = differentiated(preactivation, draw(*shape), *parameters(shape[1]), draw(*shape))
    assert [tuple(one.shape) for one in got] == [shape, shape, (shape[1],), (shape[1],)]
    assert not got[2].any() and not got[3].any()


@BOTH
@pytest.mark.parametrize(
    ("x", "weight", "bias", "eps", "says"),
    [
        (draw(1, 3), draw(3), draw(3), 1e-5, "more than 1 value per channel"),
        (draw(1, 3, 1, 1), draw(3), draw(3), 1e-5, "more than 1 value per channel"),
        (draw(3), draw(3), draw(3), 1e-5, "batch, channel"),
        (draw(4, 3), draw(4), draw(3), 1e-5, "weight must be"),
        (draw(4, 3), draw(3), draw(3, 1), 1e-5, "bias must be"),
        (draw(4, 3), draw(3), draw(3), 0.0, "eps"),
        (draw(4, 3), draw(3), draw(3), math.nan, "eps"),
        (draw(4, 3).long(), draw(3), draw(3), 1e-5, "float"),
        (draw(4, 3).float(), draw(3), draw(3), 1e-5, "weight is torch.float64"),
        (draw(4, 3).half(), draw(3).half(), draw(3).float(), 1e-5, "bias is torch.float32"),
        (draw(4, 3).half(), draw(3).bfloat16(), draw(3).bfloat16(), 1e-5, "weight is torch.bfloat16"),
    ],
)
def test_bad_arguments_are_refused_with_a_hint(preactivation, x, weight, bias, eps, says):
    with pytest.raises(ValueError, match=says):
        preactivation(x, weight, bias, eps)


@BOTH
def test_eps_stands_under_the_root(preactivation):
    x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    y = preactivation(x, torch.ones(1).double(), torch.zeros(1).double(), eps=3.0)
    assert y.flatten().tolist() == [0, 0.5]


# The units


def linear(seed, gain=1.0):
    weight = gain * draw(6, 6, seed=seed) / 6**0.5
    return lambda x: x @ weight.T


def norm(x):
    return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()


LAYERS, NORMS = (linear(1), linear(2)), (norm, norm)


def test_every_placement_is_figure_4s_chain_of_parts():
    x, (w1, w2), relu = draw(20, 6), LAYERS, lambda z: z.clamp(min=0)
    inner = norm(w2(relu(norm(w1(x)))))
    want = {
        "original": relu(x + inner),
        "BN after addition": relu(norm(x + w2(relu(norm(w1(x)))))),
        "ReLU before addition": x + relu(inner),
        "ReLU-only pre-activation": x + norm(w2(relu(norm(w1(relu(x)))))),
        "full pre-activation": x + w2(relu(norm(w1(relu(norm(x)))))),
    }
    assert tuple(want) == method.PLACEMENTS
    for placement, value in want.items():
        assert_close(method.unit(x, LAYERS, NORMS, placement), value)


def test_with_relu_before_the_addition_no_activation_ever_falls():
    x, fell = draw(30, 6), {}
    for placement in ("ReLU before addition", "full pre-activation"):
        y = x
        for n in range(40):
            after = method.unit(y, (linear(2 * n), linear(2 * n + 1)), NORMS, placement)
            fell[placement] = fell.get(placement, False) or bool((after < y).any())
            y = after
    assert fell == {"ReLU before addition": False, "full pre-activation": True}


def test_equation_5_the_gradient_of_pre_activation_units_is_one_plus_that_of_the_branches():
    x = draw(10, 6).requires_grad_()
    end, branches = x, torch.zeros_like(x)
    for _ in range(5):
        after = method.unit(end, LAYERS, NORMS)
        branches = branches + (after - end)
        end = after
    assert_close(end, x + branches)  # equation 4
    grad = draw(10, 6, seed=9)
    (whole,) = torch.autograd.grad(end, x, grad, retain_graph=True)
    (through,) = torch.autograd.grad(branches, x, grad)
    assert_close(whole, grad + through)


@pytest.mark.parametrize("lam", [0.5, 0.9, 1.1])
def test_equation_8_the_shortcut_term_of_the_gradient_is_lambda_to_the_depth(lam):
    x = draw(4, 6).requires_grad_()
    y = x
    for n in range(30):
        y = lam * y + 0.1 * linear(n)(torch.relu(y)).detach()  # only the shortcut carries gradient
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert_close(gradient, torch.full_like(x, lam**30))


def test_every_shortcut_is_figure_2s_sum():
    x, branch, gate = draw(5, 6), draw(5, 6, seed=1), linear(3)
    g = 1 / (1 + torch.exp(-gate(x)))
    want = {
        "identity": x + branch,
        "constant scaling": 0.5 * x + 0.5 * branch,
        "exclusive gating": (1 - g) * x + g * branch,
        "shortcut-only gating": (1 - g) * x + branch,
        "1×1 convolution": gate(x) + branch,
    }
    for shortcut, value in want.items():
        assert_close(method.join(x, branch, shortcut, gate), value)
    dropped = method.join(x, branch, "dropout", gate) - branch
    kept = dropped.abs() > 1e-12
    assert_close(dropped[kept], 2 * x[kept])
    assert set(want) | {"dropout"} == set(method.SHORTCUTS)


def test_unknown_units_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match="full pre-activation"):
        method.unit(draw(5, 6), LAYERS, NORMS, "post")
    with pytest.raises(ValueError, match="identity"):
        method.join(draw(5, 6), draw(5, 6), "zero", linear(1))
