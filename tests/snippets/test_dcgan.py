"""What DCGAN's layer computes, that its gradients survive a scale of 0, and that the kernel is the method."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from generator.lab.kernels import TOLERANCE
from snippets.dcgan import kernel, method

LAYERS = pytest.mark.parametrize("layer", [method.conv_transpose, kernel.conv_transpose], ids=["method", "kernel"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
NAMES = ("x", "weight", "scale", "shift")


def draw(batch=2, channels=3, outs=4, height=3, width=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, channels, height, width), (channels, outs, 4, 4), (outs,), (outs,)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes]


def oracle(x, weight, scale, shift):
    z = F.conv_transpose2d(x, weight, stride=2, padding=1) * scale[:, None, None] + shift[:, None, None]
    return F.relu(z)


def with_gradients(function, inputs, dtype=None, seed=1):
    inputs = [one.detach().clone().requires_grad_() for one in inputs]
    y = function(*inputs)
    grad = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    grad = grad.to(dtype or y.dtype).to(y.dtype)  # what comes from downstream is rounded for both sides alike
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


def scatter(x, weight, scale, shift):
    """Every input pixel paints its 4 × 4 patch: the paper's picture, and nothing of the gather form."""
    batch, _, height, width = x.shape
    canvas = torch.zeros(batch, weight.shape[1], 2 * height + 2, 2 * width + 2, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            canvas[:, :, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += torch.einsum("bc,cokl->bokl", x[:, :, i, j], weight)
    return F.relu(canvas[:, :, 1:-1, 1:-1] * scale[:, None, None] + shift[:, None, None])


@LAYERS
def test_the_layer_is_a_painted_patch_a_pixel(layer):
    inputs = draw()
    assert_close(layer(*inputs), scatter(*inputs))


@LAYERS
@DTYPES
def test_it_is_torchs_transposed_convolution_affine_and_relu_both_ways(layer, dtype):
    inputs = draw(2, 18, 20, 3, 5, dtype)
    got, want = with_gradients(layer, inputs), with_gradients(oracle, [one.double() for one in inputs], dtype)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        rtol, atol = TOLERANCE[dtype]
        assert_close(g.double(), w, rtol=rtol, atol=atol * (16 * 18 * 30) ** 0.5)  # the longest sum: the scale's


@LAYERS
def test_a_scale_of_zero_or_below_still_has_its_gradients(layer):
    x, weight, scale, shift = draw()
    scale = torch.tensor([0.0, -0.0, -1.5, 2.0], dtype=torch.float64)
    shift = torch.tensor([0.3, -0.3, 0.1, 0.0], dtype=torch.float64)
    for got, want in zip(
        with_gradients(layer, (x, weight, scale, shift)), with_gradients(oracle, (x, weight, scale, shift)), strict=True
    ):
        assert_close(got, want)


def test_the_scales_gradient_is_the_weights_own_before_scaling():
    x, weight, scale, shift = draw()
    _, _, by_weight, by_scale, _ = with_gradients(oracle, (x, weight, scale, shift))
    unscaled = by_weight / scale[:, None, None]
    assert_close((weight * unscaled).sum((0, 2, 3)), by_scale)


@LAYERS
def test_an_empty_batch_gives_an_empty_image_and_zero_gradients(layer):
    y, by_x, *rest = with_gradients(layer, draw(batch=0))
    assert y.shape == (0, 4, 6, 4)
    assert by_x.shape == (0, 3, 3, 2)
    assert not any(one.any() for one in rest)


@LAYERS
def test_an_infinite_weight_reaches_only_pixels_under_its_tap(layer):
    x, weight, scale, shift = draw(height=4, width=4)
    weight[0, 0, 0, 0], weight[1, 1, 3, 2] = torch.inf, -torch.inf
    assert_close(layer(x, weight, scale, shift), scatter(x, weight, scale, shift), equal_nan=True)


@LAYERS
def test_nan_passes_through_relu_as_in_torch(layer):
    x, weight, scale, shift = draw()
    x[0, 1, 1, 1], shift[2] = torch.nan, torch.nan
    for got, want in zip(
        with_gradients(layer, (x, weight, scale, shift)), with_gradients(oracle, (x, weight, scale, shift)), strict=True
    ):
        assert_close(got, want, equal_nan=True)


def test_several_blocks_of_pixels_and_channels_and_shares_agree():
    inputs = draw(1, 70, 67, 6, 11, torch.float32)
    exact = with_gradients(oracle, [one.double() for one in inputs], torch.float32)
    for got, want in zip(with_gradients(kernel.conv_transpose, inputs), exact, strict=True):
        assert_close(got.double(), want, rtol=1.3e-6, atol=1e-5 * (16 * 70 * 66) ** 0.5)


def test_the_weight_gradient_is_the_same_when_pixels_are_shared_out(monkeypatch):
    inputs = draw(3, 2, 3, 5, 5)
    whole = with_gradients(kernel.conv_transpose, inputs)
    monkeypatch.setattr(kernel, "LEAST_PIXELS", 16)
    for got, want in zip(with_gradients(kernel.conv_transpose, inputs), whole, strict=True):
        assert_close(got, want)


def test_a_channels_last_image_stays_channels_last():
    inputs = draw()
    inputs[0] = inputs[0].to(memory_format=torch.channels_last)
    y = kernel.conv_transpose(*inputs)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_close(y, oracle(*inputs))


def test_second_derivatives_are_torchs():
    found = []
    for layer in (kernel.conv_transpose, oracle):
        inputs = [one.requires_grad_() for one in draw()]
        first = torch.autograd.grad((layer(*inputs) ** 2).sum(), inputs, create_graph=True)
        found.append(torch.autograd.grad(sum((one**3).sum() for one in first), inputs))
    for got, want in zip(*found, strict=True):
        assert_close(got, want)


@LAYERS
@pytest.mark.parametrize(
    "spoil",
    [
        lambda x, w, a, b: (x[0], w, a, b),
        lambda x, w, a, b: (x[:, :2], w, a, b),
        lambda x, w, a, b: (x[:, :, :0], w, a, b),
        lambda x, w, a, b: (x, w[..., :3], a, b),
        lambda x, w, a, b: (x, w, a[:2], b),
        lambda x, w, a, b: (x, w, a, b[None]),
        lambda x, w, a, b: (x, w.float(), a, b),
        lambda x, w, a, b: (x.long(), w, a, b),
    ],
)
def test_bad_arguments_raise(layer, spoil):
    with pytest.raises(ValueError, match="must be"):
        layer(*spoil(*draw()))


def test_the_released_discriminator_has_28672_pooled_features():
    widths, sides = (128, 128, 256, 256, 512, 512), (32, 16, 16, 8, 8, 4)
    layers = [torch.empty(1, width, side, side, device="meta") for width, side in zip(widths, sides, strict=True)]
    assert method.pooled_features(layers).shape == (1, 28_672)


def test_pooling_keeps_the_largest_of_each_cell():
    layer = torch.arange(64.0).view(1, 1, 8, 8)
    want = [layer[0, 0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].max() for i in range(2) for j in range(2)]
    assert method.pooled_features([layer, layer + 100], grid=2).tolist() == [[*want, *(one + 100 for one in want)]]


def test_pooling_refuses_a_layer_that_does_not_divide():
    for layers in ([], [torch.zeros(1, 1, 6, 8)], [torch.zeros(1, 1, 2, 2)], [torch.zeros(1, 8, 8)]):
        with pytest.raises(ValueError, match="pooled"):
            method.pooled_features(layers)
