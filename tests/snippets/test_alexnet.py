"""What the AlexNet paper says of its layers and of local response normalization; and that the kernel is the method."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from snippets.alexnet import kernel, method

BOTH = pytest.mark.parametrize(
    "lrn", [method.local_response_norm, kernel.local_response_norm], ids=["method", "kernel"]
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)


def draw(*shape, dtype=torch.float64, seed=0, spread=5.0):
    return (spread * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).to(dtype)


def out_and_gradient(function, x, *constants):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = function(x, *constants)
    grad = draw(*y.shape, seed=1, spread=1).bfloat16().to(y.dtype)  # the same number in every dtype
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


def torchs(x, size, alpha, beta, k):
    return F.local_response_norm(x, size, alpha * size, beta, k)


def papers_loop(x, n, alpha, beta, k):
    """Section 3.3 as written: the sum runs over j from max(0, i − n/2) to min(N − 1, i + n/2)."""
    out = torch.empty_like(x)
    last = x.shape[1] - 1
    for i in range(last + 1):
        total = sum(x[:, j] ** 2 for j in range(max(0, i - n // 2), min(last, i + n // 2) + 1))
        out[:, i] = x[:, i] / (k + alpha * total) ** beta
    return out


# Local response normalization


@BOTH
@pytest.mark.parametrize("size", [1, 3, 5, 7, 11, 101])
def test_odd_windows_are_the_papers_sum(lrn, size):
    x = draw(2, 12, 3)
    assert_close(lrn(x, size, 0.01, 0.75, 2.0), papers_loop(x, size, 0.01, 0.75, 2.0))


@BOTH
@pytest.mark.parametrize(
    ("size", "beta", "k"),
    [
        (1, 0.75, 1),
        (2, 0.75, 2),
        (4, 1.3, 0.5),
        (5, 0.75, 2),
        (6, -0.5, 1),
        (13, 0.75, 2),
        (12, 1.3, 0.5),
        (40, 0.75, 2),
    ],
)
def test_odd_and_even_windows_are_torchs_once_alpha_is_scaled(lrn, size, beta, k):
    x = draw(2, 9 if size < 10 else 6, 5)  # a reach of 10 is beyond what the kernel holds in registers
    assert_close(out_and_gradient(lrn, x, size, 0.02, beta, k), out_and_gradient(torchs, x, size, 0.02, beta, k))


@BOTH
def test_torch_divides_alpha_by_the_size_and_the_paper_does_not(lrn):
    x = torch.full((1, 9, 1), 100.0, dtype=torch.float64)
    assert lrn(x)[0, 4].item() == pytest.approx(100 / (2 + 1e-4 * 5 * 100**2) ** 0.75, rel=1e-14)
    same = F.local_response_norm(x, 5, 1e-4, 0.75, 2.0)
    assert same[0, 4].item() == pytest.approx(100 / (2 + 1e-4 * 100**2) ** 0.75, rel=1e-14)


@BOTH
@DTYPES
@pytest.mark.parametrize(
    "shape", [(2, 5, 0), (0, 5, 2), (1, 1, 1), (2, 33, 3), (1, 7, 2, 3, 2), (2, 5, 30, 7)], ids=str
)
def test_every_dtype_and_number_of_dimensions(lrn, dtype, shape):
    x = draw(*shape, dtype=dtype)
    want = out_and_gradient(torchs, x.double(), 5, 0.02, 0.75, 2.0)
    assert_close(out_and_gradient(lrn, x, 5, 0.02, 0.75, 2.0), tuple(w.to(dtype) for w in want))


@BOTH
def test_a_matrix_is_batch_by_channel_which_torch_refuses(lrn):
    x = draw(4, 40)
    want = out_and_gradient(lambda x, *c: torchs(x[..., None], *c)[..., 0], x, 5, 0.02, 0.75, 2.0)
    assert_close(out_and_gradient(lrn, x, 5, 0.02, 0.75, 2.0), want)


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3),
        lambda x: x[:, ::2, 1:, ::3],
        lambda x: x[:, :1].expand(-1, 7, -1, -1),
    ],
    ids=["channels-last", "transposed", "sliced", "expanded"],
)
def test_any_layout_of_input_and_gradient(layout):
    base = draw(2, 20, 6, 9).requires_grad_()
    y, want = kernel.local_response_norm(layout(base), 5, 0.02), torchs(layout(base), 5, 0.02, 0.75, 2.0)
    assert_close(y, want)
    for grad in (
        draw(*y.shape, seed=1),
        draw(*y.shape[::-1], seed=1).permute(3, 2, 1, 0),
        torch.ones_like(y[:1, :1, :1, :1]).expand_as(y),
    ):
        (mine,) = torch.autograd.grad(y, base, grad, retain_graph=True)
        (theirs,) = torch.autograd.grad(want, base, grad, retain_graph=True)
        assert_close(mine, theirs)


def test_channels_last_stays_channels_last():
    x = draw(2, 4, 3, 5).to(memory_format=torch.channels_last)
    assert kernel.local_response_norm(x).is_contiguous(memory_format=torch.channels_last)


@BOTH
def test_infinity_and_nan_spread_two_channels_and_no_further(lrn):
    x = torch.ones(2, 12, 1)
    x[0, 5], x[1, 5] = math.inf, math.nan
    y = lrn(x)[..., 0]
    assert_close(y, F.local_response_norm(x, 5, 5e-4, 0.75, 2.0)[..., 0], equal_nan=True)
    assert y[0, 5].isnan()
    assert (y[0, [3, 4, 6, 7]] == 0).all()
    assert torch.equal(y[1].isnan(), torch.tensor([3 <= c <= 7 for c in range(12)]))


@pytest.mark.parametrize(  # torch rounds an exponent of 0.6 to fp32, which shows where the base is huge
    ("lrn", "beta"),
    [(method.local_response_norm, 0.75), (kernel.local_response_norm, 0.75), (kernel.local_response_norm, 0.6)],
    ids=["method", "kernel", "kernel-0.6"],
)
def test_huge_and_tiny_activities_keep_their_digits(lrn, beta):
    x = torch.logspace(-30, 15, 64, dtype=torch.float64).float()[None]
    want = papers_loop(x.double(), 5, 1e-4, beta, 2.0)
    assert ((lrn(x, 5, 1e-4, beta).double() - want) / want).abs().max() < 1.3e-6


@BOTH
def test_half_precision_squares_do_not_overflow(lrn):
    x = torch.full((1, 5), 1000.0, dtype=torch.float16)
    want = papers_loop(x.double(), 5, 1e-4, 0.75, 2.0)
    assert_close(lrn(x), want.half())
    assert not F.local_response_norm(x[..., None], 5, 5e-4, 0.75, 2.0).any()  # torch: 1000² is infinite


@BOTH
def test_a_negative_base_and_no_power_are_as_in_torch(lrn):
    x = draw(2, 6, 3)
    for constants in ((5, 0.1, 1.0, -3.0), (5, -0.1, 2.0, 1.0), (5, 0.1, 0.0, 2.0)):
        assert_close(out_and_gradient(lrn, x, *constants), out_and_gradient(torchs, x, *constants))


@BOTH
def test_neighbors_within_two_channels_inhibit_and_others_do_not(lrn):
    x = draw(1, 9).abs() + 1
    jacobian = torch.autograd.functional.jacobian(lambda x: lrn(x, 5, 0.05), x)[0, :, 0]
    distance = (torch.arange(9)[:, None] - torch.arange(9)).abs()
    assert (jacobian[distance == 0] > 0).all()
    assert (jacobian[(distance > 0) & (distance <= 2)] < 0).all()
    assert (jacobian[distance > 2] == 0).all()


@BOTH
@pytest.mark.parametrize(
    ("x", "size", "message"),
    [
        (torch.ones(2, 3, dtype=torch.int64), 5, "floating-point"),
        (torch.ones(3), 5, "batch, channel"),
        (torch.ones(()), 5, "batch, channel"),
        (torch.ones(2, 3), 0, "window"),
        (torch.ones(2, 3), -1, "window"),
        (torch.ones(2, 3), 2.5, "window"),
    ],
)
def test_bad_arguments_are_refused(lrn, x, size, message):
    with pytest.raises(ValueError, match=message):
        lrn(x, size)


def test_second_derivatives_are_right():
    x = draw(1, 6, 1, spread=1).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: kernel.local_response_norm(x, 3, 0.1), (x,))


def test_only_the_input_is_saved():
    x, saved = draw(2, 5, 3).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        kernel.local_response_norm(x)
    assert saved == [x.data_ptr()]


# The network


def weights(net):
    return sum(part.weight.numel() for part in net.modules() if isinstance(part, nn.Conv2d | nn.Linear))


def test_the_weights_are_those_counted_by_hand():
    split = 11 * 11 * 3 * 96 + 5 * 5 * 48 * 256 + 3 * 3 * 256 * 384 + 3 * 3 * 192 * 384 + 3 * 3 * 192 * 256
    dense = 6 * 6 * 256 * 4096 + 4096 * 4096 + 4096 * 1000
    assert weights(method.network()) == split + dense == 60_954_656
    assert (
        sum(p.numel() for p in method.network().parameters())
        == 60_954_656 + 96 + 256 + 384 + 384 + 256 + 4096 * 2 + 1000
    )
    whole = 2 * (5 * 5 * 48 * 256 + 3 * 3 * 192 * 384 + 3 * 3 * 192 * 256) + 11 * 11 * 3 * 96 + 3 * 3 * 256 * 384
    assert weights(method.network(gpus=1)) == whole + dense


def test_the_maps_have_the_sizes_of_figure_two():
    shapes = {}
    net = method.network()
    for name, part in net.named_children():
        part.register_forward_hook(lambda _, __, out, name=name: shapes.__setitem__(name, tuple(out.shape)))
    net(torch.empty(2, 3, 224, 224, device="meta"))
    assert shapes["conv1"] == (2, 96, 55, 55)
    assert shapes["conv2"] == (2, 256, 27, 27)
    assert shapes["conv3"] == shapes["conv4"] == (2, 384, 13, 13)
    assert shapes["conv5"] == (2, 256, 13, 13)
    assert shapes["flatten"] == (2, 9216)
    assert shapes["fc8"] == (2, 1000)


def test_normalization_follows_the_first_two_layers_and_pooling_the_first_two_and_the_fifth():
    names = [name for name, _ in method.network().named_children()]
    assert [n for n in names if n.endswith("norm")] == ["conv1_norm", "conv2_norm"]
    assert [n for n in names if n.endswith("pool")] == ["conv1_pool", "conv2_pool", "conv5_pool"]
    assert names.index("conv1_relu") < names.index("conv1_norm") < names.index("conv1_pool")
    assert [n for n in names if n.endswith("dropout")] == ["fc6_dropout", "fc7_dropout"]
    assert names[names.index("fc6_relu") + 1] == "fc6_dropout"
    assert "fc8_relu" not in names


def test_a_network_is_for_one_or_two_gpus():
    with pytest.raises(ValueError, match="GPUs"):
        method.network(gpus=3)
