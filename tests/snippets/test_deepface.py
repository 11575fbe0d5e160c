"""What DeepFace says of its layers and distances, and that the locally connected kernels are the method."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from generator.lab.guards import padded, poisoned
from snippets.deepface import kernel, method

LAYERS = pytest.mark.parametrize(
    "layer", [method.locally_connected, kernel.locally_connected], ids=["method", "kernel"]
)
HALVES = [torch.float16, torch.bfloat16]


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def setting(batch, channels, height, width, out, kh, kw, down=1, across=1, dtype=torch.float64):
    rows, columns = (height - kh) // down + 1, (width - kw) // across + 1
    x, weight = (
        draw(batch, channels, height, width, dtype=dtype),
        draw(rows, columns, out, channels, kh, kw, dtype=dtype, seed=1),
    )
    return x, weight, draw(rows, columns, out, dtype=dtype, seed=2), (down, across)


def position_by_position(x, weight, bias, stride):
    """Cut out every patch and multiply it with that position's filters: no unfold, no einsum."""
    rows, columns, out, _, kh, kw = weight.shape
    y = x.new_zeros(len(x), out, rows, columns)
    for i, j in itertools.product(range(rows), range(columns)):
        top, left = i * stride[0], j * stride[1]
        patch = x[:, :, top : top + kh, left : left + kw]
        for o in range(out):
            y[:, o, i, j] = (patch * weight[i, j, o]).sum((1, 2, 3)) + (0 if bias is None else bias[i, j, o])
    return y


def gradients_by_position(x, weight, grad, stride):
    """Add up, position by position, what each contributes to the three gradients."""
    rows, columns, _, _, kh, kw = weight.shape
    dx, dweight, dbias = torch.zeros_like(x), torch.zeros_like(weight), torch.zeros_like(weight[..., 0, 0, 0])
    for i, j in itertools.product(range(rows), range(columns)):
        here = (..., slice(i * stride[0], i * stride[0] + kh), slice(j * stride[1], j * stride[1] + kw))
        g = grad[:, :, i, j]
        dx[here] += torch.tensordot(g, weight[i, j], dims=1)
        dweight[i, j] = torch.tensordot(g.T, x[here], dims=1)
        dbias[i, j] = g.sum(0)
    return dx, dweight, dbias


SETTINGS = [
    (1, 1, 1, 1, 1, 1, 1),
    (2, 3, 6, 7, 5, 3, 2),
    (3, 1, 5, 5, 2, 5, 5),  # one position: a fully connected layer
    (2, 2, 9, 8, 3, 2, 3, 3, 1),
    (17, 2, 3, 4, 18, 2, 2, 1, 2),
    (2, 6, 3, 20, 2, 2, 3, 1, 4),  # more than one strip of pixels, more than one block of channels
    (1, 2, 7, 7, 1, 2, 2, 3, 4),  # stride over the filter's size: pixels that nobody reads
    (2, 12, 4, 4, 3, 3, 3),  # more taps than one step reads
    (70, 1, 2, 3, 1, 2, 2),  # more images than one program takes
    (2, 1, 3, 3, 40, 3, 2),  # more filters than one step of the gradient of x reads
]


@LAYERS
@pytest.mark.parametrize("sizes", SETTINGS, ids=str)
def test_each_position_uses_its_own_filters_forward_and_backward(layer, sizes):
    x, weight, bias, stride = setting(*sizes)
    leaves = [one.requires_grad_() for one in (x, weight, bias)]
    y = layer(*leaves, stride)
    grad = draw(*y.shape, seed=3)
    assert_close(y.detach(), position_by_position(x.detach(), weight.detach(), bias.detach(), stride))
    got = torch.autograd.grad(y, leaves, grad)
    assert_close(got, gradients_by_position(x.detach(), weight.detach(), grad, stride))


@LAYERS
@pytest.mark.parametrize("stride", [1, 2, (1, 3)], ids=str)
def test_with_the_same_filters_everywhere_it_is_a_convolution(layer, stride):
    x, shared, bias = draw(3, 4, 8, 9), draw(5, 4, 3, 2, seed=1), draw(5, seed=2)
    want = F.conv2d(x, shared, bias, stride)
    positions = want.shape[2:]
    weight = shared.expand(*positions, *shared.shape).clone().requires_grad_()
    y = layer(x, weight, bias.expand(*positions, 5), stride)
    assert_close(y.detach(), want)
    y.sum().backward()
    shared.requires_grad_()
    F.conv2d(x, shared, bias, stride).sum().backward()
    assert_close(weight.grad.sum((0, 1)), shared.grad)


@LAYERS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=str)
def test_every_dtype_stays_what_it_is_and_sums_in_fp32_or_better(layer, dtype):
    x, weight, bias, stride = setting(2, 16, 5, 5, 3, 4, 4, dtype=dtype)
    leaves = [one.requires_grad_() for one in (x, weight, bias)]
    y = layer(*leaves, stride)
    grad = draw(*y.shape, dtype=dtype, seed=3)
    got = (y, *torch.autograd.grad(y, leaves, grad))
    wide = [one.detach().double() for one in (x, weight, bias)]
    want = (position_by_position(*wide, stride), *gradients_by_position(*wide[:2], grad.double(), stride))
    slack = {"atol": 16 * 1e-5, "rtol": 1.3e-6} if dtype == torch.float32 else {}
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        assert_close(g.detach(), w.to(dtype), **slack)


@LAYERS
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_long_sum_in_half_precision_does_not_stop_growing(layer, dtype):
    ones = torch.ones(1, 100, 6, 6, dtype=dtype)
    assert layer(ones, torch.ones(1, 1, 1, 100, 6, 6, dtype=dtype)).item() == torch.tensor(3600.0).to(dtype).item()


@LAYERS
@pytest.mark.parametrize("sizes", [(0, 2, 4, 4, 3, 2, 2), (2, 0, 4, 4, 3, 2, 2), (2, 3, 4, 4, 0, 2, 2)], ids=str)
def test_without_images_channels_or_filters_the_result_is_empty_or_the_bias(layer, sizes):
    x, weight, bias, stride = setting(*sizes)
    leaves = [one.requires_grad_() for one in (x, weight, bias)]
    y = layer(*leaves, stride)
    assert_close(y.detach(), bias.detach().permute(2, 0, 1).expand(len(x), -1, -1, -1))
    got = torch.autograd.grad(y, leaves, torch.ones_like(y))
    assert_close(got, (torch.zeros_like(x), torch.zeros_like(weight), torch.full_like(bias, len(x))))


@LAYERS
def test_what_is_not_finite_spreads_to_the_positions_that_see_it_and_no_further(layer):
    x, weight, _, _ = setting(2, 1, 6, 20, 2, 3, 3)
    x[0, 0, 1, 9], x[1, 0, 4, 4] = math.inf, math.nan
    y = layer(x, weight)
    assert_close(y, position_by_position(x, weight, None, (1, 1)), equal_nan=True)
    x = x.nan_to_num(0, 0, 0).requires_grad_()
    grad = torch.ones_like(y)
    grad[0, 0, 2, 5] = math.inf
    (dx,) = torch.autograd.grad(layer(x, weight), x, grad)
    seen = torch.zeros_like(x, dtype=torch.bool)
    seen[0, 0, 2:5, 5:8] = True
    assert torch.equal(~dx.isfinite(), seen)


@LAYERS
def test_any_layout_of_input_weight_and_gradient(layer):
    x, weight, bias, stride = setting(3, 4, 3, 4, 2, 2, 2)
    strange = [
        x.to(memory_format=torch.channels_last),
        weight.permute(5, 0, 2, 1, 4, 3).contiguous().permute(1, 3, 2, 5, 4, 0),
        bias.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    ]
    for leaves in (strange, [x[::2], weight, bias], [x[:1].expand(3, -1, -1, -1), weight, bias]):
        leaves = [one.requires_grad_() for one in leaves]
        y = layer(*leaves, stride)
        assert_close(y.detach(), position_by_position(*(one.detach() for one in leaves), stride))
        for grad in (torch.ones(()).double().expand(y.shape), draw(*y.shape[::-1]).permute(3, 2, 1, 0)):
            got = torch.autograd.grad(y, leaves, grad, retain_graph=True)
            assert_close(got, gradients_by_position(leaves[0].detach(), leaves[1].detach(), grad, stride))


def test_nothing_beyond_the_tensors_is_read_and_nothing_is_left_unwritten():
    x, weight, bias, stride = setting(3, 5, 5, 18, 17, 3, 2, 2, 3, dtype=torch.float32)
    leaves = [padded(one, one.stride()).requires_grad_() for one in (x, weight, bias)]
    with poisoned():
        y = kernel.locally_connected(*leaves, stride)
        grads = torch.autograd.grad(y, leaves, torch.ones_like(y))
    assert all(one.isfinite().all() for one in (y, *grads))


def test_nothing_is_written_beside_an_output(monkeypatch):
    made, plain = [], torch.Tensor.new_empty

    def between_guards(self, size, **how):
        if how:  # the interpreter's own
            return plain(self, size, **how)
        n = math.prod(size)
        made.append((torch.full((n + 2000,), math.nan, dtype=self.dtype), n))
        return made[-1][0][1000 : 1000 + n].view(size)

    for batch in (16, 3):  # whole blocks of images are not padded
        x, weight, bias, stride = setting(batch, 5, 5, 18, 17, 3, 2, 2, 3)
        leaves = [one.requires_grad_() for one in (x, weight, bias)]
        monkeypatch.setattr(torch.Tensor, "new_empty", between_guards)
        y = kernel.locally_connected(*leaves, stride)
        torch.autograd.grad(y, leaves, torch.ones_like(y))
        monkeypatch.undo()
    assert len(made) >= 8
    for buffer, n in made:
        assert not buffer[1000 : 1000 + n].isnan().any()
        assert buffer[:1000].isnan().all()
        assert buffer[1000 + n :].isnan().all()


def test_the_gradients_of_the_gradients_are_right_too():
    x, weight, bias, stride = setting(2, 2, 4, 3, 2, 2, 2, 2, 1)
    leaves = [one.requires_grad_() for one in (x, weight, bias)]
    found = []
    for layer in (method.locally_connected, kernel.locally_connected):
        y = layer(*leaves, stride)
        first = torch.autograd.grad((y**3).sum(), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum((one**2).sum() for one in first), leaves))
    assert_close(found[0], found[1])


def test_only_the_gradients_asked_for_are_computed(monkeypatch):
    x, weight, _, stride = setting(2, 2, 4, 3, 2, 2, 2)
    monkeypatch.setattr(kernel, "_x_backward_op", None)
    kernel.locally_connected(x, weight.requires_grad_(), None, stride).sum().backward()
    assert weight.grad is not None


@LAYERS
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": draw(2, 5, 6)}, "weight"),
        ({"weight": draw(3, 5, 6)}, "weight"),
        ({"weight": draw(4, 5, 2, 4, 2, 2)}, "channels"),
        ({"weight": draw(5, 4, 2, 3, 2, 2)}, "positions"),
        ({"weight": draw(1, 1, 2, 3, 6, 6)}, "fit"),
        ({"weight": draw(6, 7, 2, 3, 0, 0)}, "fit"),
        ({"bias": draw(2, 4, 5)}, "bias"),
        ({"bias": draw(4, 5, 2).float()}, "dtype"),
        ({"weight": draw(4, 5, 2, 3, 2, 2).float()}, "dtype"),
        ({"x": torch.ones(2, 3, 5, 6, dtype=torch.long)}, "dtype"),
        ({"stride": 0}, "stride"),
        ({"stride": (1, -1)}, "stride"),
        ({"stride": (1, 1, 1)}, "stride"),
        ({"stride": 1.0}, "stride"),
        ({"stride": 2}, "positions"),
    ],
)
def test_bad_arguments_are_refused(layer, change, says):
    x, weight, bias, _ = setting(2, 3, 5, 6, 2, 2, 2)
    with pytest.raises(ValueError, match=says):
        layer(**({"x": x, "weight": weight, "bias": bias, "stride": 1} | change))


# The network and the distance


def test_the_papers_shapes_follow_from_its_filters_and_strides():
    def side(before, size, stride):
        return (before - size) // stride + 1

    c1 = side(152, 11, 1)
    m2 = math.ceil((c1 - 3) / 2) + 1
    c3 = side(m2, 9, 1)
    l4 = side(c3, 9, 1)
    l5 = side(l4, 7, 2)
    assert [c1, m2, c3, l4, l5, side(l5, 5, 1)] == [142, 71, 63, 55, 25, 21]


def test_an_output_of_l6_sees_73_pixels_each_way_and_not_74():
    x = torch.zeros(1, 1, 152, 152, dtype=torch.float64, requires_grad=True)
    y = F.avg_pool2d(F.conv2d(x, torch.ones(1, 1, 11, 11).double()), 3, 2, ceil_mode=True)  # as wide as a maximum
    for size, stride in ((9, 1), (9, 1), (7, 2), (5, 1)):
        y = F.conv2d(y, torch.ones(1, 1, size, size).double(), stride=stride)
    y[0, 0, 10, 10].backward()
    assert y.shape[2:] == (21, 21)
    assert (x.grad[0, 0] != 0).any(0).sum() == 73


def test_chi_squared_is_the_sum_of_weighted_quotients_and_0_for_two_zeros():
    f1, f2, w = draw(4, 9).abs(), draw(4, 9, seed=1).abs(), draw(9, seed=2)
    f1[:, 3] = f2[:, 3] = 0
    want = [
        sum(c * (a - b) ** 2 / (a + b) for a, b, c in zip(*row, w.tolist(), strict=True) if a + b)
        for row in zip(f1.tolist(), f2.tolist(), strict=True)
    ]
    assert_close(method.weighted_chi_squared(f1, f2, w), torch.tensor(want, dtype=torch.float64))
    assert_close(method.weighted_chi_squared(f1, f1, w), torch.zeros(4, dtype=torch.float64))


def test_chi_squared_has_a_gradient_where_both_features_are_0():
    f1, f2 = torch.zeros(2, dtype=torch.float64, requires_grad=True), torch.tensor([0.0, 1.0], dtype=torch.float64)
    method.weighted_chi_squared(f1, f2, torch.ones(2, dtype=torch.float64)).backward()
    assert f1.grad.isfinite().all()


def test_chi_squared_refuses_features_that_do_not_match():
    with pytest.raises(ValueError, match="as many features"):
        method.weighted_chi_squared(draw(2, 3), draw(2, 3), draw(4))
