"""Image statistics against a convolution and moments in float64, and what makes a variance go wrong."""

import math

import pytest
import scipy.ndimage
import scipy.stats
import torch
import torch.nn.functional as F

from snippets.selfai import experiment, kernel, method

BOTH = pytest.mark.parametrize("statistics", [method.image_statistics, kernel.image_statistics], ids=["twin", "kernel"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
FILTER = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def reference(images):
    """Return the three numbers by a convolution with the Laplacian's filter and torch's moments, in float64."""
    wide = images.detach().double()
    edges = F.conv2d(wide[:, None], FILTER[None, None]).flatten(1)
    return edges.var(1, correction=0), wide.mean((1, 2)), wide.std((1, 2), correction=0)


def assert_right(got, images):
    for mine, want in zip(got, reference(images), strict=True):
        torch.testing.assert_close(mine, want.to(images.dtype), equal_nan=True)


@BOTH
@DTYPES
@pytest.mark.parametrize("shape", [(1, 3, 3), (2, 3, 40), (2, 37, 4), (3, 12, 21)], ids=str)
def test_it_is_the_variance_of_a_convolution_and_two_moments(statistics, dtype, shape):
    images = draw(*shape, dtype=dtype) + 1
    assert_right(statistics(images), images)


@BOTH
def test_scipys_laplacian_agrees_away_from_the_border(statistics):
    image = draw(9, 14)
    edges = scipy.ndimage.laplace(image.numpy())[1:-1, 1:-1]
    assert statistics(image[None])[0].item() == pytest.approx(edges.var(), rel=1e-12)


@pytest.mark.parametrize("shape", [(1, 140, 5), (1, 4, 1030), (40, 3, 17), (1, 19, 512)], ids=str)
def test_strips_chunks_and_many_images_join_to_the_same_numbers(shape):
    images = draw(*shape, dtype=torch.float32) * torch.linspace(1, 9, shape[1])[:, None]
    assert_right(kernel.image_statistics(images), images)


@BOTH
@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_texture_survives_a_mean_far_larger_than_it(statistics, offset):
    images = (offset + 0.05 * draw(2, 70, 33)).float()
    assert_right(statistics(images), images)
    wrong = (images**2).mean((1, 2)) - images.mean((1, 2)) ** 2  # the textbook formula, which cancels
    assert not torch.allclose(wrong.sqrt().double(), reference(images)[2], rtol=0.1)


@BOTH
def test_a_bright_line_or_pixel_spoils_nothing_it_does_not_belong_to(statistics):
    lines = 1 / 3 * draw(40, 20)[None]
    lines[:, 1] = 1e4  # the first inner row of a strip, from which values are measured
    spot = draw(40, 20)[None]
    spot[:, 1, 5] = -1e6
    images = torch.cat([lines, spot]).float()
    assert_right(statistics(images), images)


@BOTH
@DTYPES
@pytest.mark.parametrize("value", [0.1, -1e4])
def test_a_constant_image_has_neither_sharpness_nor_contrast(statistics, dtype, value):
    sharpness, mean, contrast = statistics(torch.full((2, 19, 7), value, dtype=dtype))
    assert (sharpness == 0).all()
    assert (contrast == 0).all()
    torch.testing.assert_close(mean, torch.full((2,), value, dtype=dtype))


@BOTH
def test_a_ramp_has_contrast_but_no_sharpness_and_a_bowl_neither(statistics):
    y, x = torch.meshgrid(torch.arange(18.0), torch.arange(13.0), indexing="ij")
    ramp, bowl = 3 * x - 0.5 * y + 100, x * x + 2 * y * y
    sharpness, mean, contrast = statistics(torch.stack([ramp, bowl]))
    assert (sharpness == 0).all()  # the bowl's Laplacian is 6 everywhere: a mean, and no variance
    assert contrast[0].item() == pytest.approx(math.sqrt(9 * (13**2 - 1) / 12 + 0.25 * (18**2 - 1) / 12), rel=1e-6)
    assert mean[0].item() == pytest.approx(100 + 3 * 6 - 0.5 * 8.5, rel=1e-6)


@BOTH
def test_the_border_counts_only_as_a_neighbor(statistics):
    image = torch.zeros(1, 6, 7)
    image[0, 0, 3] = 8.0  # one inner pixel sees it: Δ is 8 there, 0 at the 19 others
    assert statistics(image)[0].item() == pytest.approx(64 * (1 / 20 - 1 / 400), rel=1e-6)
    image = torch.zeros(1, 6, 7)
    image[0, 2, 3] = 1.0  # an inner pixel: −4, and 1 at its four neighbors
    assert statistics(image)[0].item() == pytest.approx(20 / 20, rel=1e-6)


@BOTH
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_corner_that_is_no_number_leaves_sharpness_alone(statistics, value):
    image = draw(1, 5, 6, dtype=torch.float32)
    clean = reference(image)[0].item()
    image[0, -1, 0] = value
    sharpness, mean, contrast = statistics(image)
    assert sharpness.item() == pytest.approx(clean, rel=1e-6)  # no inner pixel is beside a corner
    torch.testing.assert_close(mean, torch.tensor([value]), equal_nan=True)
    assert contrast.isnan().all()


@BOTH
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [(1, 1), (4, 3)])
def test_what_is_no_number_reaches_its_own_image_only(statistics, value, at):
    images = draw(3, 5, 6, dtype=torch.float32)
    images[1][at] = value
    assert_right(statistics(images), images)


@BOTH
@pytest.mark.parametrize("scale", [1e19, 1e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_squares_beyond_the_dtype_do_not_spoil_the_contrast(statistics, scale, dtype):
    images = (scale * (draw(2, 11, 9).clamp(-2.8, 2.8) + 0.5)).to(dtype)  # a mean that does not cancel
    assert_right(statistics(images), images)


@BOTH
def test_a_half_precision_sharpness_too_large_is_infinite_as_torchs_variance_is(statistics):
    images = (255 * (torch.arange(63) % 2)).reshape(1, 7, 9).half()
    sharpness, mean, contrast = statistics(images)
    assert torch.isinf(sharpness).all()
    assert torch.isinf(method.laplacian(images).var(correction=0))
    assert contrast.item() == pytest.approx(127.5, rel=1e-3)
    assert mean.item() == pytest.approx(255 * 31 / 63, rel=1e-3)


@BOTH
def test_no_images_give_no_numbers(statistics):
    for one in statistics(torch.empty(0, 5, 4)):
        assert one.shape == (0,)
        assert one.dtype == torch.float32


@BOTH
@pytest.mark.parametrize("lay", [lambda x: x.mT, lambda x: x[:, ::2, 1:], lambda x: x[:1].expand(3, -1, -1)])
def test_the_layout_in_memory_does_not_matter(statistics, lay):
    images = lay(draw(2, 14, 11, dtype=torch.float32))
    assert_right(statistics(images), images)


@BOTH
@pytest.mark.parametrize(
    "images", [torch.zeros(5, 5), torch.zeros(1, 1, 5, 5), torch.zeros(2, 5, 5, dtype=torch.uint8)]
)
def test_what_is_no_stack_of_floating_images_is_refused(statistics, images):
    with pytest.raises(ValueError, match=r"floating .batch, height, width"):
        statistics(images)


@BOTH
@pytest.mark.parametrize("shape", [(1, 2, 9), (4, 9, 2), (0, 1, 1), (1, 0, 5)])
def test_an_image_without_an_interior_is_refused(statistics, shape):
    with pytest.raises(ValueError, match="at least 3"):
        statistics(torch.zeros(shape))


@BOTH
def test_a_gradient_is_the_one_of_the_definition(statistics):
    images = draw(2, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(statistics, (images,))
    flat = torch.full((1, 4, 4), 0.3, requires_grad=True)
    sharpness, _, contrast = statistics(flat)
    (sharpness + contrast).sum().backward()
    assert (flat.grad == 0).all()


def test_nothing_is_written_beyond_the_parts_and_the_results():
    images = draw(3, 20, 10, dtype=torch.float32)
    buffer = torch.full((3 * 200 + 64,), math.nan)
    buffer[32:632] = images.flatten()
    assert_right(kernel.image_statistics(buffer[32:632].view(3, 20, 10)), images)
    assert buffer[:32].isnan().all()
    assert buffer[632:].isnan().all()


# The experiment's own yardsticks


def test_ranks_correlate_as_in_scipy_ties_included():
    a, b = draw(60).round(decimals=1), draw(60, seed=1) + draw(60)
    assert experiment.spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)


def test_blur_alone_lowers_the_sharpness_of_a_portrait_and_over_exposure_raises_its_mean():
    sitting = experiment.sit(20, torch.Generator().manual_seed(0))
    images = {}
    for name, factor in (("best", None), ("blurred", 0), ("bright", 1)):
        defects = torch.zeros(20, 4)
        if factor is not None:
            defects[:, factor] = 1.0
        images[name] = experiment.draw(experiment.replace(sitting, defects=defects, over=torch.ones(20)))
    best, blurred, bright = (reference(one) for one in images.values())
    assert (blurred[0] < best[0]).all()
    assert (bright[1] > best[1]).all()


def test_the_known_quality_runs_from_nothing_wrong_to_everything_wrong():
    sitting = experiment.sit(2, torch.Generator().manual_seed(0))
    sitting.defects = torch.tensor([[0.0, 0, 0, 0], [1.0, 1, 1, 1]])
    torch.testing.assert_close(sitting.quality, torch.tensor([1.0, 0.0]), atol=1e-6, rtol=0)
