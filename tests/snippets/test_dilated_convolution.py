"""Dilated convolution against torch's, a loop in float64, and what the paper says of fields, gaps and sizes."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from snippets.dilated_convolution import experiment, kernel, method

BOTH = pytest.mark.parametrize("conv", [method.dilated_conv2d, kernel.dilated_conv2d], ids=["method", "kernel"])
TOLERANCE = {
    torch.float64: (1e-7, 1e-7),
    torch.float32: (1.3e-6, 1e-5),
    torch.float16: (1e-3, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-5),
}
CASES = [
    # batch, in, out, height, width, kernel, dilation, padding
    (2, 3, 5, 7, 6, (3, 3), 2, 2),
    (1, 1, 1, 5, 5, (5, 5), 1, 0),
    (2, 4, 3, 6, 8, (2, 3), (3, 1), (1, 4)),
    (1, 17, 33, 4, 5, (1, 1), 4, 0),
    (3, 2, 2, 4, 4, (3, 1), (7, 2), (9, 0)),  # more padding than the filter is wide: outputs that see no pixel
    (1, 2, 3, 1, 40, (1, 2), (1, 16), 0),
]


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def problem(batch, into, out, height, width, size, dtype=torch.float64):
    return (
        draw(batch, into, height, width, dtype=dtype),
        draw(out, into, *size, dtype=dtype, seed=1),
        draw(out, dtype=dtype, seed=2),
    )


def with_gradients(conv, tensors, *how, grad=None):
    leaves = [one.detach().clone().requires_grad_() for one in tensors]
    y = conv(*leaves, *how)
    return y, *torch.autograd.grad(y, leaves, draw(*y.shape, seed=9).to(y.dtype) if grad is None else grad.to(y.dtype))


def torchs(x, weight, bias, dilation, padding):
    return F.conv2d(x, weight, bias, dilation=dilation, padding=padding)


# The sum


@BOTH
def test_it_is_the_sum_of_equation_two_term_by_term(conv):
    x, weight, bias = problem(1, 2, 2, 5, 6, (2, 3))
    rate, pad = (3, 2), (1, 2)
    y = conv(x, weight, bias, rate, pad)
    assert y.shape == (1, 2, 4, 6)
    for o, p, q in itertools.product(range(2), range(4), range(6)):
        want = bias[o].item()
        for c, i, j in itertools.product(range(2), range(2), range(3)):
            row, column = p - pad[0] + rate[0] * i, q - pad[1] + rate[1] * j
            if 0 <= row < 5 and 0 <= column < 6:
                want += weight[o, c, i, j].item() * x[0, c, row, column].item()
        assert y[0, o, p, q].item() == pytest.approx(want, abs=1e-12)


@BOTH
@pytest.mark.parametrize(
    ("dtype", "case"),
    [(torch.float64, case) for case in CASES] + [(dtype, CASES[2]) for dtype in list(TOLERANCE)[1:]],
    ids=str,
)
def test_it_is_torchs_dilated_convolution_forward_and_backward(conv, dtype, case):
    *shape, size, dilation, padding = case
    tensors = problem(*shape, size, dtype=dtype)
    grad = draw(*torchs(*tensors, dilation, padding).shape, seed=9).to(dtype)
    got = with_gradients(conv, tensors, dilation, padding, grad=grad)
    want = with_gradients(torchs, [one.double() for one in tensors], dilation, padding, grad=grad)
    rtol, atol = TOLERANCE[dtype]
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        assert_close(g.double(), w, rtol=rtol, atol=atol * 8)  # the longest sum has some 64 terms


@BOTH
def test_rate_one_is_plain_convolution(conv):
    x, weight, bias = problem(2, 3, 4, 8, 8, (3, 3))
    assert_close(conv(x, weight, bias), F.conv2d(x, weight, bias))


@BOTH
def test_the_filter_is_not_mirrored_though_the_papers_equation_mirrors_it(conv):
    x = torch.zeros(1, 1, 1, 9, dtype=torch.float64)
    x[..., 4] = 1
    y = conv(x, torch.tensor([[[[1.0, 2.0, 3.0]]]], dtype=torch.float64), None, 2, (0, 2))
    assert y.flatten().tolist() == [0, 0, 3, 0, 2, 0, 1, 0, 0]


# What the paper says


@BOTH
@pytest.mark.parametrize("rate", [1, 2, 3, 5])
def test_rate_k_leaves_k_minus_one_inputs_between_taps(conv, rate):
    x = torch.zeros(1, 1, 1, 12, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(conv(x, torch.ones(1, 1, 1, 3, dtype=torch.float64), None, rate)[0, 0, 0, 0], x)
    assert gradient.flatten().tolist() == [1.0 if n in (0, rate, 2 * rate) else 0.0 for n in range(12)]


@BOTH
@pytest.mark.parametrize(("size", "rate"), [(3, 4), (5, 2), (1, 7)])
def test_the_output_keeps_the_resolution_if_padded_and_shrinks_if_not(conv, size, rate):
    x, weight = draw(1, 1, 13, 15), draw(2, 1, size, size)
    assert conv(x, weight, None, rate, rate * (size - 1) // 2).shape == (1, 2, 13, 15)
    assert conv(x, weight, None, rate).shape == (1, 2, 13 - rate * (size - 1), 15 - rate * (size - 1))


@BOTH
def test_a_stack_of_rates_one_two_four_sees_two_to_the_n_plus_one_minus_one(conv):
    x = torch.zeros(1, 1, 1, 41, dtype=torch.float64, requires_grad=True)
    y = x
    for n, field in enumerate((3, 7, 15, 31)):
        y = conv(y, torch.ones(1, 1, 1, 3, dtype=torch.float64), None, 2**n, (0, 2**n))
        (gradient,) = torch.autograd.grad(y[..., 20].sum(), x, retain_graph=True)
        seen = gradient.flatten().nonzero().flatten()
        assert (seen[0], seen[-1], len(seen)) == (20 - field // 2, 20 + field // 2, field)  # and without a hole


def test_paths_multiply_as_polynomials_do():
    for dilations in ((2, 2, 2), (1, 2, 4), (1, 3, 9)):
        line = [1]
        for rate in dilations:
            line = [
                sum(line[n - rate * t] for t in range(3) if 0 <= n - rate * t < len(line))
                for n in range(len(line) + 2 * rate)
            ]
        want = torch.tensor(line, dtype=torch.float64)
        assert_close(experiment.paths(dilations, len(line)), want[:, None] * want[None, :])


@BOTH
def test_shifting_the_input_shifts_the_output(conv):
    x, weight = draw(1, 2, 12, 12), draw(2, 2, 3, 3)
    assert_close(conv(x, weight, None, 3)[..., 1:], conv(x[..., 1:], weight, None, 3))


# Edges


@BOTH
def test_zero_batch_gives_an_empty_output_and_zero_gradients(conv):
    y, to_x, to_weight, to_bias = with_gradients(conv, problem(0, 3, 2, 5, 5, (3, 3)), 1, 0)
    assert y.shape == (0, 2, 3, 3)
    assert to_x.shape == (0, 3, 5, 5)
    assert (to_weight == 0).all()
    assert (to_bias == 0).all()


@BOTH
def test_without_input_channels_the_output_is_the_bias(conv):
    y, to_x, to_weight, to_bias = with_gradients(
        conv, problem(2, 0, 3, 4, 4, (3, 3)), 1, 0, grad=torch.ones(2, 3, 2, 2, dtype=torch.float64)
    )
    assert_close(y, draw(3, seed=2)[:, None, None].expand(2, 3, 2, 2))
    assert (to_x.shape, to_weight.shape) == ((2, 0, 4, 4), (3, 0, 3, 3))
    assert to_bias.tolist() == [8, 8, 8]


@BOTH
@pytest.mark.parametrize(
    ("shape", "size", "how", "says"),
    [
        ((1, 2, 4, 4), (3, 3), (2, 0), "larger than"),
        ((1, 2, 4, 4), (3, 3), (1, -1), "padding"),
        ((1, 2, 4, 4), (3, 3), (0, 0), "dilation"),
        ((1, 2, 4, 4), (3, 3), ((1, 2, 3), 0), "dilation"),
        ((1, 2, 4, 4), (3, 3), (1.0, 0), "dilation"),
        ((1, 2, 4, 4), (3, 3), (1, "same"), "padding"),
        ((1, 2, 4, 4), (3, 0), (1, 0), "empty"),
        ((1, 2, 0, 4), (3, 3), (1, 2), "empty"),
        ((1, 5, 4, 4), (3, 3), (1, 0), "channels"),
        ((2, 4, 4), (3, 3), (1, 0), "dimensions"),
    ],
)
def test_bad_sizes_are_refused_with_a_hint(conv, shape, size, how, says):
    with pytest.raises(ValueError, match=says):
        conv(torch.zeros(shape), torch.zeros(3, 2, *size), None, *how)


@BOTH
def test_bad_tensors_are_refused_with_a_hint(conv):
    x, weight = torch.zeros(1, 2, 4, 4), torch.zeros(3, 2, 3, 3)
    for bad in (
        (x.long(), weight.long()),
        (x, weight.double()),
        (x, weight, torch.zeros(2)),
        (x, weight, torch.zeros(3, 1)),
    ):
        with pytest.raises(ValueError, match=r"floating|float64|entries"):
            conv(*bad)
    with pytest.raises(ValueError, match="entries"):
        conv(x, weight, torch.zeros(4))


@BOTH
def test_an_infinite_weight_meets_zeros_of_the_padding_forward_and_nothing_at_all_backward(conv):
    # 0·∞ is NaN in the padding, as in torch; a gradient outside the output does not exist and makes none.
    x, weight, bias = problem(1, 3, 3, 6, 4, (3, 3))
    weight[0, 0, 0, 0], weight[1, 1, 2, 1], weight[2, 2, 2, 2] = math.inf, -math.inf, math.nan
    x[0, 2, 3, 3] = math.inf
    got = with_gradients(conv, (x, weight, bias), 2, 2)
    want = with_gradients(torchs, (x, weight, bias), 2, 2)
    for g, w in zip(got, want, strict=True):
        assert_close(g, w, equal_nan=True)
    assert want[0].isnan().any()
    assert not with_gradients(conv, (x, weight.nan_to_num(0, math.inf, 0), bias), 2, 2)[1][:, 1:].isnan().any()


@BOTH
def test_half_precision_is_not_summed_in_half_precision(conv):
    x = torch.full((1, 64, 8, 8), 1.0, dtype=torch.float16)
    x[:, 0] = 2048  # in float16, 2048 + 1 is 2048
    weight, bias = torch.ones(1, 64, 1, 1, dtype=torch.float16), torch.zeros(1, dtype=torch.float16)
    y, _, to_weight, to_bias = with_gradients(conv, (x, weight, bias), 1, 0, grad=torch.ones(1, 1, 8, 8))
    assert (y == 2048 + 64).all()  # 2111 rounds to 2112
    assert to_weight.flatten().tolist() == [math.inf] + [64.0] * 63
    assert to_bias.item() == 64


# The kernel


def test_float32_is_not_rounded_to_tf32():
    x, weight = torch.full((1, 16, 2, 2), 1 + 2**-20), torch.full((16, 16, 1, 1), 1.0)
    assert torch.equal(kernel.dilated_conv2d(x, weight), torch.full((1, 16, 2, 2), 16 * (1 + 2**-20)))


def test_a_long_reduction_is_shared_out_and_gives_the_same_bits_each_time(monkeypatch):
    monkeypatch.setattr(kernel, "LEAST_STEPS", 1)
    tensors = problem(2, 3, 4, 9, 8, (2, 1), dtype=torch.float32)
    shares = []
    real = torch.empty
    monkeypatch.setattr(kernel.torch, "empty", lambda *a, **k: shares.append(a[0]) or real(*a, **k))
    once, again = (with_gradients(kernel.dilated_conv2d, tensors, 2, 1) for _ in range(2))
    assert max(shape[0] for shape in shares if len(shape) == 5) > 2
    for a, b, want in zip(once, again, with_gradients(torchs, [t.double() for t in tensors], 2, 1), strict=True):
        assert torch.equal(a, b)
        assert_close(a.double(), want, rtol=1.3e-6, atol=1e-4)


def test_channels_last_stays_channels_last_and_contiguous_contiguous():
    x, weight, bias = problem(2, 3, 4, 6, 5, (3, 3))
    for layout in (torch.channels_last, torch.contiguous_format):
        placed = x.contiguous(memory_format=layout).requires_grad_()
        y = kernel.dilated_conv2d(placed, weight, bias, 2, 2)
        assert y.is_contiguous(memory_format=layout)
        assert torch.autograd.grad(y.sum(), placed)[0].is_contiguous(memory_format=layout)


def test_its_second_derivative_is_torchs():
    tensors = problem(1, 2, 3, 4, 3, (2, 2))
    second = []
    for conv in (kernel.dilated_conv2d, torchs):
        leaves = [one.clone().requires_grad_() for one in tensors]
        y = conv(*leaves, (2, 1), (1, 0))
        first = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True)
        penalty = sum((one * draw(*one.shape, seed=5)).sum() for one in first)
        second.append(torch.autograd.grad(penalty, leaves))
    for mine, theirs in zip(*second, strict=True):
        assert_close(mine, theirs)


def test_gradients_nobody_asks_for_are_not_computed(monkeypatch):
    def never(*_):
        raise AssertionError("computed")

    x, weight, bias = problem(1, 2, 2, 4, 4, (3, 3))
    monkeypatch.setattr(kernel, "_input_gradient_op", never)
    kernel.dilated_conv2d(x, weight.clone().requires_grad_(), bias).sum().backward()
    monkeypatch.undo()
    monkeypatch.setattr(kernel, "_weight_gradient_op", never)
    kernel.dilated_conv2d(x.clone().requires_grad_(), weight, bias).sum().backward()
