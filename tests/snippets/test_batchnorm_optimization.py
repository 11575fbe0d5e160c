"""What Santurkar et al. build on and claim, and where batch normalization usually goes wrong."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from snippets.batchnorm_optimization import experiment, kernel, method

NORMS = pytest.mark.parametrize("norm", [method.batch_norm, kernel.batch_norm], ids=["method", "kernel"])
HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def channels_last(x):
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def by_hand(x, weight=None, bias=None, eps=1e-5):
    """Batch normalization in NumPy's float64 (extended precision for the moments), channel by channel."""
    y, means, variances = np.empty(x.shape), [], []
    for c in range(x.shape[1]):
        values = x[:, c].double().numpy().astype(np.longdouble)
        mean = values.sum() / values.size
        variance = ((values - mean) ** 2).sum() / values.size
        scale = (1.0 if weight is None else weight[c].item()) / np.sqrt(variance + eps)
        y[:, c] = (values - mean) * scale + (0.0 if bias is None else bias[c].item())
        means.append(float(mean))
        variances.append(float(variance))
    return torch.tensor(y), *(torch.tensor(one, dtype=torch.float64) for one in (means, variances))


def torchs(x, weight, bias, eps=1e-5):
    """F.batch_norm on contiguous memory, where its backward can be trusted; statistics from running ones, momentum 1."""
    mean, variance = torch.zeros(x.shape[1]).to(x), torch.zeros(x.shape[1]).to(x)
    y = F.batch_norm(x.contiguous(), mean, variance, weight, bias, True, 1.0, eps)
    n = x.numel() // x.shape[1]
    return y, mean, variance * (n - 1) / n


def leaves(*tensors):
    return [one.detach().clone(memory_format=torch.preserve_format).requires_grad_() for one in tensors]


# Forward and backward


@NORMS
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize(
    "shape", [(9, 4), (5, 3, 7), (3, 4, 5, 6), (2, 3, 2, 3, 4), (66, 2, 7, 7), (3, 1, 1100)], ids=str
)
def test_it_is_torchs_batch_norm_forward_and_backward(norm, layout, shape):
    x, weight, bias = leaves(layout(2 * draw(*shape) + 3), draw(shape[1], seed=1), draw(shape[1], seed=2))
    got, want = norm(x, weight, bias), torchs(x, weight, bias)
    assert_close(got, want)
    grad = draw(*shape, seed=3)
    mine = torch.autograd.grad(got[0], (x, weight, bias), grad)
    theirs = torch.autograd.grad(want[0], (x, weight, bias), grad)
    assert_close(mine, theirs)


@NORMS
@pytest.mark.parametrize("shape", [(9, 4), (3, 4, 5, 6), (2, 2, 1100), (20000, 2)], ids=str)
def test_mean_and_biased_variance_are_those_of_numpy(norm, shape):
    x = (0.5 * draw(*shape) - 2).float()
    got, want = norm(x, None, None), by_hand(x)
    assert [one.dtype for one in got] == [torch.float32] * 3
    assert_close(got, tuple(one.float() for one in want))


@NORMS
def test_the_gradient_of_the_mean_is_one_over_n_and_of_the_variance_twice_the_deviation_over_n(norm):
    (x,) = leaves(draw(6, 3, 5))
    _, mean, variance = norm(x, None, None)
    (of_mean,) = torch.autograd.grad(mean.sum(), x, retain_graph=True)
    (of_variance,) = torch.autograd.grad(variance.sum(), x)
    assert_close(of_mean, torch.full_like(x, 1 / 30))
    assert_close(of_variance, 2 * (x - x.mean((0, 2), keepdim=True)).detach() / 30)


def test_a_gradient_through_all_three_outputs_is_that_of_finite_differences():
    values = leaves(draw(4, 2, 3), draw(2, seed=1), draw(2, seed=2))
    assert torch.autograd.gradcheck(method.batch_norm, values)


@NORMS
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_gradients_into_mean_and_variance_add_to_that_of_the_output_in_every_dtype(norm, layout, dtype):
    """dL/dx written out: the part through y, plus 1/n of the mean's and 2(x − μ)/n of the variance's."""
    values = leaves(layout((2 * draw(6, 3, 5) + 1).to(dtype)), draw(3, seed=1).to(dtype))
    out = norm(*values, None)
    above = [draw(*one.shape, seed=3 + nth).to(one.dtype) for nth, one in enumerate(out)]
    got = torch.autograd.grad(out, values, above)
    x, gamma, g, of_mean, of_variance = (one.detach().double() for one in (*values, *above))
    over, wide = (0, 2), (1, 3, 1)
    centered = x - x.mean(over, keepdim=True)
    rstd = torch.rsqrt(centered.square().mean(over, keepdim=True) + 1e-5)
    hat = centered * rstd
    through = g - g.mean(over, keepdim=True) - hat * (g * hat).mean(over, keepdim=True)
    want = gamma.view(wide) * rstd * through + of_mean.view(wide) / 30 + of_variance.view(wide) * 2 * centered / 30
    assert_close(got, (want.to(dtype), (g * hat).sum(over).to(dtype)))


def test_the_kernel_can_be_differentiated_twice_as_its_twin_can():
    weights, downstream = (draw(2, seed=1), draw(2, seed=2)), [draw(3, 2, 2, seed=4), draw(2, seed=5), draw(2, seed=6)]
    for affine in (weights, (weights[0], None), (None, weights[1])):
        found = []
        for norm in (method.batch_norm, kernel.batch_norm):
            x, weight, bias = (None if one is None else leaves(one)[0] for one in (draw(3, 2, 2), *affine))
            above = leaves(*downstream)
            asked = [one for one in (x, weight, bias) if one is not None]
            first = torch.autograd.grad(norm(x, weight, bias), asked, above, create_graph=True)
            value = sum((one * draw(*one.shape, seed=7)).sum() for one in first)
            asked = [one for one in (x, weight, *above) if one is not None]
            found.append(torch.autograd.grad(value, asked))
        assert_close(found[0], found[1])


@NORMS
@pytest.mark.parametrize(("with_weight", "with_bias"), [(False, False), (True, False), (False, True)])
def test_without_a_weight_gamma_is_one_and_without_a_bias_beta_is_zero(norm, with_weight, with_bias):
    x = draw(7, 3, 4)
    weight, bias = draw(3, seed=1) if with_weight else None, draw(3, seed=2) if with_bias else None
    assert_close(norm(x, weight, bias)[0], by_hand(x, weight, bias)[0])
    asked = leaves(x, *(one for one in (weight, bias) if one is not None))
    names = iter(asked[1:])
    y = norm(asked[0], next(names) if with_weight else None, next(names) if with_bias else None)[0]
    grads = torch.autograd.grad(y, asked, draw(7, 3, 4, seed=3))
    names = iter(asked[1:])
    y = F.batch_norm(
        asked[0], None, None, next(names) if with_weight else None, next(names) if with_bias else None, True
    )
    assert_close(grads, torch.autograd.grad(y, asked, draw(7, 3, 4, seed=3)))


@NORMS
@HALF
@pytest.mark.parametrize("narrow", [True, False], ids=["weight in half", "weight in float32"])
def test_half_precision_keeps_its_statistics_in_float32(norm, dtype, narrow):
    x, weight, bias = (3 * draw(40, 3, 5) + 2).to(dtype), draw(3, seed=1).float(), draw(3, seed=2).float()
    if narrow:
        weight, bias = weight.to(dtype), bias.to(dtype)
    values = leaves(x, weight, bias)
    y, mean, variance = norm(*values)
    want = by_hand(x, weight, bias)
    assert (y.dtype, mean.dtype, variance.dtype) == (dtype, torch.float32, torch.float32)
    assert_close(y, want[0].to(dtype))
    assert_close((mean, variance), tuple(one.float() for one in want[1:]))
    assert [one.dtype for one in torch.autograd.grad(y.sum(), values)] == [dtype, weight.dtype, bias.dtype]


# Where it usually goes wrong


@NORMS
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize(("mean", "deviation"), [(1e4, 1e-2), (-3e5, 1.0), (100.0, 1e-3), (1e4, 1.0), (0.0, 1.0)])
def test_a_mean_that_dwarfs_the_deviation_cancels_nothing(norm, layout, mean, deviation):
    x = layout((deviation * draw(8, 2, 300) + mean).float())  # rounding spreads some of these over a few values only
    eps = 1e-5 * deviation**2
    y, found_mean, found_variance = norm(x, None, None, eps)
    want_y, want_mean, want_variance = by_hand(x, eps=eps)
    assert_close(y.double(), want_y, rtol=1e-5, atol=1e-5)
    assert_close(found_mean, want_mean.float())
    assert_close(found_variance.double(), want_variance, rtol=1e-5, atol=0)


@NORMS
def test_the_backward_survives_such_a_mean_too(norm):
    x = (1e-2 * draw(64, 3) + 1e4).float()
    grad = draw(64, 3, seed=3)
    values, wide = leaves(x, torch.ones(3)), leaves(x.double(), torch.ones(3, dtype=torch.float64))
    got = torch.autograd.grad(norm(*values, None, 1e-9)[0], values, grad.float())
    want = torch.autograd.grad(F.batch_norm(wide[0], None, None, wide[1], None, True, eps=1e-9), wide, grad)
    assert_close(tuple(one.double() for one in got), want, rtol=1e-5, atol=1e-3)  # gradients here are about 100


@NORMS
def test_one_value_far_from_all_others_does_not_spoil_the_variance_wherever_it_stands(norm):
    for place in (0, 700, 1999):
        x = draw(2000, 1).float()
        x[place] = 1e5
        want = by_hand(x)
        assert_close(norm(x, None, None), tuple(one.float() for one in want), rtol=2e-6, atol=1e-5)


@NORMS
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=["contiguous", "channels-last"])
def test_a_thousand_equal_deviations_are_summed_without_drift(norm, layout):
    """Added one after the other in float32, all would round the same way."""
    x = draw(3, 2, 256).half()
    x[0], x[-1] = 80, -80
    x = layout(x)
    assert_close(norm(x, None, None)[1:], tuple(one.float() for one in by_hand(x)[1:]))


@NORMS
def test_a_constant_channel_has_no_variance_and_gives_beta(norm):
    x = torch.full((50, 2, 9), 0.1)
    bias = torch.tensor([3.0, -4.0])
    y, mean, variance = norm(x, torch.ones(2), bias)
    assert (variance < 1e-15).all()
    assert_close(mean, torch.full((2,), 0.1))
    assert_close(y, bias[None, :, None].expand_as(y))


@NORMS
@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1), (1, 0), (1, 3, 1)], ids=str)
def test_one_value_a_channel_is_refused_as_in_torch(norm, shape):
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        norm(torch.zeros(shape), None, None)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        F.batch_norm(torch.zeros(shape), None, None, training=True)


@NORMS
def test_one_image_of_several_pixels_is_enough(norm):
    x = draw(1, 3, 2, 5)
    assert_close(norm(x, None, None), by_hand(x))


@NORMS
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0), (4, 0), (4, 0, 5)], ids=str)
def test_no_values_at_all_give_an_empty_result_and_nan_statistics(norm, shape):
    x, weight, bias = leaves(torch.zeros(shape), torch.ones(shape[1]), torch.ones(shape[1]))
    y, mean, variance = norm(x, weight, bias)
    assert y.shape == shape
    assert mean.shape == variance.shape == (shape[1],)
    assert torch.cat([mean, variance]).isnan().all()
    for grad in torch.autograd.grad(y.sum(), (x, weight, bias)):
        assert not grad.any()


@NORMS
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_no_number_stays_in_its_channel_and_in_the_mean(norm, layout, value, monkeypatch):
    monkeypatch.setattr(kernel, "TILE", 64)  # several values a lane: Welford's mean alone would forget an infinity
    x = layout(draw(30, 3, 4).float())
    for places in (((17, 2),), ((0, 0), (29, 3))):  # within, then where the kernel looks for a value to shift by
        for place in places:
            x[place[0], 1, place[1]] = value
        assert_close(norm(x, None, None), torchs(x, None, None), equal_nan=True)
        x[17, 1, 2] = 0.0


@NORMS
@pytest.mark.parametrize("weight", [math.inf, -math.inf, 0.0, math.nan])
def test_an_infinite_weight_keeps_the_sign_of_each_deviation(norm, weight):
    """torch's CPU kernel gives NaN there, by infinity − infinity in its folded offset."""
    x = 1e3 + draw(31, 2).float()
    y = norm(x, torch.tensor([weight, 1.0]), torch.tensor([0.5, math.inf]))[0]
    want = (x[:, 0].double() - x[:, 0].double().mean()) * weight + 0.5
    assert_close(y[:, 0].double(), want, equal_nan=True)
    assert (y[:, 1] == math.inf).all()


@NORMS
@pytest.mark.parametrize("scale", [1e-20, 1e-8, 1e8, 1e15])
def test_tiny_and_large_values(norm, scale):
    x = (scale * draw(100, 2)).float()
    assert_close(norm(x, None, None)[0].double(), by_hand(x)[0], rtol=1e-5, atol=1e-5)


def test_the_result_keeps_the_memory_format_and_so_does_the_gradient():
    for x in (draw(4, 3, 5, 6), channels_last(draw(4, 3, 5, 6)), channels_last(draw(4, 3, 7)), draw(8, 3)):
        (leaf,) = leaves(x)
        y = kernel.batch_norm(leaf, None, None)[0]
        assert y.stride() == x.stride()
        (grad,) = torch.autograd.grad(y, leaf, draw(*x.shape, seed=1))
        assert grad.stride() == x.stride()


def test_a_channels_last_input_is_not_copied(monkeypatch):
    copied = []
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, other: copied.append(other.shape) or self)
    for x in (draw(3, 2, 4, 5), channels_last(draw(3, 2, 4, 5))):
        kernel.batch_norm(x, None, None)
    assert not copied


def test_any_other_layout_is_read_right():
    base = draw(6, 8, 10, 4)
    for view in (
        base.transpose(0, 1), base.transpose(2, 3), base[::2, 1:6, ::3], base[:, :1].expand(6, 5, 10, 4), base[:1].expand(6, 8, 10, 4),
    ):  # fmt: skip
        (x,) = leaves(base)
        x = view.detach().requires_grad_()
        got = kernel.batch_norm(x, None, None)
        assert_close(got, by_hand(view))
        for grad in (
            draw(*view.shape, seed=1),
            draw(*view.shape[::-1], seed=1).permute(3, 2, 1, 0),
            torch.ones(()).double().expand(view.shape),
        ):
            (mine,) = torch.autograd.grad(got[0], x, grad, retain_graph=True)
            (theirs,) = torch.autograd.grad(
                F.batch_norm(x.contiguous(), None, None, training=True), x, grad.contiguous()
            )
            assert_close(mine, theirs)


@pytest.mark.parametrize("rows", [1, 2, 3, 511, 512, 513, 1023, 1024, 1025, 2049])
def test_every_height_of_the_last_slab_counts_each_row_once(rows):
    for x in (draw(rows + 1, 3), draw(rows + 1, 2, 16)):
        assert_close(kernel.batch_norm(x, None, None), by_hand(x))


def test_many_programs_share_a_channel():
    long, images = draw(33_000, 2), draw(70, 2, 16)
    assert kernel._plan(long)[0] > 1
    assert_close(kernel.batch_norm(long, None, None), by_hand(long))
    with pytest.MonkeyPatch.context() as patch:  # slabs of one step each
        patch.setattr(kernel, "LEAST_STEPS", 1)
        patch.setattr(kernel, "TILE", 64)
        for x in (images, channels_last(images), draw(70, 2, 7)):
            assert kernel._plan(x)[0] > 8
            x, weight, bias = leaves(x, draw(2, seed=1), draw(2, seed=2))
            got, want = kernel.batch_norm(x, weight, bias), torchs(x, weight, bias)
            assert_close(got, want)
            grad = draw(*x.shape, seed=3)
            assert_close(
                torch.autograd.grad(got[0], (x, weight, bias), grad),
                torch.autograd.grad(want[0], (x, weight, bias), grad),
            )


@NORMS
@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ((torch.zeros(3), None, None), "batch, channel"),
        ((torch.zeros(3, 2, dtype=torch.int64), None, None), "floating"),
        ((torch.zeros(3, 2), torch.ones(3), None), "weight must have shape"),
        ((torch.zeros(3, 2), torch.ones(2, 1), None), "weight must have shape"),
        ((torch.zeros(3, 2), None, torch.ones(1)), "bias must have shape"),
        ((torch.zeros(3, 2), torch.ones(2).double(), None), "weight must be"),
        ((torch.zeros(3, 2), None, torch.ones(2).half()), "bias must be"),
        ((torch.zeros(3, 2).half(), torch.ones(2).bfloat16(), None), "weight must be"),
        ((torch.zeros(3, 2), None, None, 0.0), "eps"),
        ((torch.zeros(3, 2), None, None, -1.0), "eps"),
        ((torch.zeros(3, 2), None, None, math.nan), "eps"),
    ],
)
def test_bad_arguments_are_refused_with_a_hint(norm, arguments, hint):
    with pytest.raises(ValueError, match=hint):
        norm(*arguments)


# Running statistics


def test_running_statistics_use_the_unbiased_variance_as_torchs_do():
    mine, theirs = [(torch.zeros(3).double(), torch.ones(3).double()) for _ in range(2)]
    for seed in range(4):
        x = draw(5, 3, 2, seed=seed)
        _, mean, variance = kernel.batch_norm(x, None, None)
        method.update_running_(*mine, mean, variance, 10, momentum=0.3)
        F.batch_norm(x, *theirs, training=True, momentum=0.3)
    assert_close(mine, theirs)
    with pytest.raises(ValueError, match="more than 1 value"):
        method.update_running_(*mine, mean, variance, 1)


# What the layer does to a network


@NORMS
def test_scaling_the_weights_below_changes_nothing_but_shrinks_their_gradient(norm):
    """The start of the paper's analysis: BN(aWx) = BN(Wx), so the gradient with respect to aW is 1/a of that for W."""
    x, target = draw(50, 6), draw(50, 4, seed=1)
    found = []
    for factor in (1.0, 10.0):
        (weight,) = leaves(factor * draw(6, 4, seed=2))
        y = norm(x @ weight, None, None, 1e-12)[0]
        found.append((y.detach(), *torch.autograd.grad((y * target).sum(), weight), weight.detach()))
    assert_close(found[0][0], found[1][0])
    assert_close(found[0][1], 10 * found[1][1])
    assert abs((found[0][1] * found[0][2]).sum().item()) < 1e-8  # and it is orthogonal to W


@NORMS
def test_the_gradient_that_passes_has_the_norm_of_the_papers_theorem(norm):
    """Theorem 4.1, before the inequality: what passes through BN has lost its mean and its part along the output."""
    (x,) = leaves(3 * draw(40, 1) + 1)
    grad, gamma = draw(40, 1, seed=1), torch.tensor([1.7], dtype=torch.float64)
    y = norm(x, gamma, None, 1e-12)[0]
    (passed,) = torch.autograd.grad(y, x, grad)
    hat = (y / gamma).detach()
    sigma = x.detach().var(0, correction=0).sqrt().item()
    want = (gamma.item() / sigma) ** 2 * (grad.norm() ** 2 - grad.sum() ** 2 / 40 - (grad * hat).sum() ** 2 / 40)
    assert passed.norm().item() ** 2 == pytest.approx(want.item(), rel=1e-8)


# The experiment's own arithmetic


def test_noise_has_a_mean_and_a_scale_of_its_own_for_each_unit_drawn_anew_each_step():
    ones, zeros = torch.ones(5, 4000, 64), torch.zeros(5, 4000, 64)
    shift, again = (experiment.disturb(zeros, step, 3).mean(1) for step in (7, 8))
    scale = (experiment.disturb(ones, 7, 3) - experiment.disturb(zeros, 7, 3)).mean(1)
    assert shift.abs().max() < 0.51
    assert shift.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.1)
    assert (shift - again).abs().mean() > 0.2
    assert scale.min() > 0.98
    assert scale.max() < 1.27


@pytest.mark.parametrize("net", [experiment.BN, experiment.STANDARD], ids=lambda net: net.name)
def test_the_seeds_of_a_stacked_network_do_not_touch_each_other(net):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(5, 8, 64, generator=generator), torch.randint(10, (5, 8), generator=generator)
    loss, gradient = experiment.loss_and_gradient(net, experiment.initial(net), x, y, 0)
    x[1:] = 0.5 * x[1:].flip(1)
    again, changed = experiment.loss_and_gradient(net, experiment.initial(net), x, y, 0)
    assert_close(loss[0], again[0])
    assert not torch.equal(loss[1:], again[1:])
    assert_close([one[0] for one in gradient], [one[0] for one in changed])


def test_the_gradient_of_the_first_layer_cannot_shift_and_its_last_can(monkeypatch):
    monkeypatch.setattr(experiment, "WATCHED", (1, 12))
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(5, 8, 64, generator=generator), torch.randint(10, (5, 8), generator=generator)
    params = experiment.initial(experiment.BN)
    _, gradient = experiment.loss_and_gradient(experiment.BN, params, x, y, 0)
    change, cosine = experiment.shift_of_gradients(experiment.BN, params, gradient, (x, y, 0))
    assert_close(change[0], torch.zeros(5))
    assert_close(cosine[0], torch.ones(5))
    assert (change[1] > 0.1).all()


def test_smoothness_along_a_gradient_is_the_curvature_of_a_parabola(monkeypatch):
    """A loss of ½ c p² has gradient c p and smoothness c, at whatever distance."""
    curvature = torch.tensor([2.0, 5.0])

    def parabola(net, params, *batch):
        return 0.5 * curvature * params[0][:, 0] ** 2, [curvature[:, None] * params[0]]

    monkeypatch.setattr(experiment, "loss_and_gradient", parabola)
    params = [torch.tensor([[3.0], [1.0]])]
    found = experiment.along_gradient(experiment.BN, params, parabola(None, params)[1], ())
    assert_close(found[2], curvature.expand(len(experiment.FACTORS), 2))
    rate = experiment.RATE * experiment.FACTORS[0]
    assert_close(found[0, 0], 0.5 * curvature * ((1 - rate * curvature) * params[0][:, 0]) ** 2)
