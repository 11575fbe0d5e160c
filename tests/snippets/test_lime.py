"""What Ribeiro et al. claim of LIME for images, and that the kernel is the method."""

import inspect
import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics.pairwise import cosine_distances
from torch.testing import assert_close

from snippets.lime import kernel, method

BOTH = pytest.mark.parametrize("lime", [method, kernel], ids=["method", "kernel"])
NAN, INF = math.nan, math.inf


def scene(channels=3, height=6, width=9, segments=5, samples=7, dtype=torch.float64, seed=0):
    """An image, labels of which each occurs, and masks."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(channels, height, width, dtype=torch.float64, generator=generator).to(dtype)
    labels = torch.arange(height * width) % segments
    labels = labels[torch.randperm(len(labels), generator=generator)].reshape(height, width)
    return image, labels, torch.rand(samples, segments, generator=generator) < 0.5


def by_pixel(image, segments, masks, fill):
    """The perturbed images, one pixel after another."""
    out = np.empty((len(masks), *image.shape))
    for s, mask in enumerate(masks.tolist()):
        for c, plane in enumerate(image.tolist()):
            for i, row in enumerate(segments.tolist()):
                for j, label in enumerate(row):
                    out[s, c, i, j] = plane[i][j] if mask[label] else fill[c]
    return torch.tensor(out)


def linear(weight):
    """A model that is linear in the pixels, and so in any superpixels."""
    return lambda images: (images.double() * weight).sum((1, 2, 3)) + 3.0


def shares(image, segments, weight, fill):
    """What each superpixel adds to a linear model's score over the fill: its coefficient, by definition."""
    gain = weight * (image.double() - torch.as_tensor(fill, dtype=torch.float64).reshape(-1, 1, 1))
    return torch.stack([gain[:, segments == label].sum() for label in range(int(segments.max()) + 1)])


# Perturbed images


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_kept_superpixel_keeps_its_pixels_and_a_hidden_one_becomes_the_fill(lime, dtype):
    image, segments, masks = scene(dtype=dtype)
    fill = [0.5, -1.0, 2.0]
    got = lime.perturb(image, segments, masks, fill)
    assert got.dtype == dtype
    assert torch.equal(got.double(), by_pixel(image, segments, masks, fill))


@BOTH
def test_full_blocks_and_the_rest_of_a_plane_are_both_right(lime):
    image, segments, masks = scene(2, 40, 53, segments=301, samples=19)
    assert torch.equal(lime.perturb(image, segments, masks, 0.25), by_pixel(image, segments, masks, [0.25] * 2))


@BOTH
def test_a_fill_may_be_a_number_a_sequence_or_a_tensor(lime):
    image, segments, masks = scene(dtype=torch.float32)
    one = lime.perturb(image, segments, masks, 0.1)
    assert torch.equal(one, lime.perturb(image, segments, masks, (0.1, 0.1, 0.1)))
    assert torch.equal(one, lime.perturb(image, segments, masks, torch.full((3,), 0.1, dtype=torch.float64)))
    assert torch.equal(one, lime.perturb(image, segments, masks, torch.tensor(0.1)))


@BOTH
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.bfloat16], ids=str)
def test_masks_of_any_dtype_keep_where_they_are_not_0(lime, dtype):
    image, segments, masks = scene()
    values = masks.to(dtype) if dtype == torch.bool else masks.to(dtype) * 3
    assert torch.equal(lime.perturb(image, segments, values, 0.0), by_pixel(image, segments, masks, [0.0] * 3))


@BOTH
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_labels_and_pixels_may_be_integers_of_any_size(lime, dtype):
    image, segments, masks = scene()
    pixels = (image.abs() * 40).to(dtype)
    got = lime.perturb(pixels, segments.to(dtype), masks, 7)
    assert got.dtype == dtype
    assert torch.equal(got.double(), by_pixel(pixels, segments, masks, [7.0] * 3))


@BOTH
def test_what_is_hidden_may_be_nan_or_infinite_and_what_is_kept_keeps_every_bit(lime):
    odd = torch.tensor([NAN, INF, -INF, -0.0, 1e-45, NAN]).view(1, 2, 3)
    odd.view(torch.int32)[0, 0, 0] = 0x7FC00123  # a NaN with a message
    segments = torch.tensor([[0, 0, 0], [1, 1, 1]])
    got = lime.perturb(odd, segments, torch.tensor([[1, 1], [0, 0], [1, 0]]), 0.5)
    assert torch.equal(got[0].view(torch.int32), odd.view(torch.int32))
    assert torch.equal(got[1], torch.full((1, 2, 3), 0.5))
    assert torch.equal(got[2, 0, 0].view(torch.int32), odd[0, 0].view(torch.int32))
    assert torch.equal(got[2, 0, 1], torch.full((3,), 0.5))


@BOTH
def test_a_fill_may_be_nan(lime):
    image, segments, masks = scene()
    assert torch.equal(lime.perturb(image, segments, masks, NAN).isnan()[:, 0], ~masks[:, segments])


@BOTH
def test_memory_order_does_not_matter(lime):
    image, segments, masks = scene(3, 8, 8, segments=6)
    want = by_pixel(image, segments, masks, [1.0] * 3)
    strided = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    labels, kept = segments.t().contiguous().t(), masks.t().contiguous().t()
    assert torch.equal(lime.perturb(strided, labels, kept, 1.0), want)
    assert torch.equal(lime.perturb(image[:1].expand(3, 8, 8), labels, kept, 1.0), want[:, :1].expand(-1, 3, 8, 8))


@BOTH
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (5, 0, 4, 4), (5, 3, 0, 4), (5, 3, 4, 0)], ids=str)
def test_empty_images_and_no_samples_give_empty_results_and_every_weight(lime, shape):
    samples, *size = shape
    images, weights = lime.perturb_and_weigh(
        torch.zeros(size), torch.zeros(size[1:], dtype=torch.long), torch.ones(samples, 2), 0.0
    )
    assert images.shape == shape
    assert torch.equal(weights, torch.ones(samples, dtype=torch.float64))


@BOTH
def test_inputs_stay_as_they_are(lime):
    given = scene()
    before = [one.clone() for one in given]
    lime.perturb(*given, 0.0)
    assert all(torch.equal(one, old) for one, old in zip(given, before, strict=True))


@BOTH
def test_an_image_and_a_fill_may_ask_for_a_gradient(lime):
    image, segments, masks = scene()
    fill = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    lime.perturb(image.requires_grad_(), segments, masks, fill).sum().backward()
    kept = masks[:, segments].double().sum(0)
    assert_close(image.grad, kept.expand(3, -1, -1))
    assert_close(fill.grad, (len(masks) - kept).sum().expand(3))


# Weights


@BOTH
@pytest.mark.parametrize("width", [0.1, 0.25, 2.0, INF])
def test_weights_are_the_exponential_kernel_of_the_cosine_distance(lime, width):
    image, segments, masks = scene(segments=5, samples=40)
    masks = masks | (torch.arange(5) == 0)  # scikit-learn has no angle to a mask that keeps nothing
    distance = cosine_distances(masks.numpy(), np.ones((1, 5)))[:, 0]
    got = lime.perturb_and_weigh(image, segments, masks, 0.0, width)[1]
    assert_close(got, torch.tensor(np.exp(-(distance**2) / width**2)))


@BOTH
def test_weights_count_every_segment_of_many(lime):
    masks = torch.arange(300)[None] < torch.tensor([[0], [1], [127], [128], [129], [299], [300]])
    got = lime.perturb_and_weigh(torch.zeros(1, 1, 1), torch.zeros(1, 1, dtype=torch.long), masks, 0.0)[1]
    want = [math.exp(-(((1 - math.sqrt(k / 300)) / 0.25) ** 2)) for k in (0, 1, 127, 128, 129, 299, 300)]
    assert_close(got, torch.tensor(want, dtype=torch.float64))


def test_the_mask_that_keeps_all_weighs_1_and_that_which_keeps_nothing_least():
    weights = method.proximity(torch.ones(5, 4).tril(-1))
    assert_close(weights[0].item(), math.exp(-16))
    assert weights[-1] == 1
    assert (weights.diff() > 0).all()


# Masks


def test_the_first_mask_keeps_everything():
    assert method.draw_masks(1, 9, seed=3).all()
    assert method.draw_masks(50, 9, seed=3)[0].all()


def test_the_number_of_kept_segments_is_uniform_from_none_to_all():
    kept = method.draw_masks(20_001, 7, seed=0)[1:].sum(1)
    counts = torch.bincount(kept, minlength=8).double()
    chi_square = ((counts - 2500) ** 2 / 2500).sum().item()
    assert chi_square < 24.3  # 0.1 % of a χ² with 7 degrees of freedom


def test_every_segment_is_kept_half_of_the_time():
    shares = method.draw_masks(20_001, 7, seed=0)[1:].double().mean(0)
    assert (shares - 0.5).abs().max() < 4 * 0.5 / math.sqrt(20_000)


def test_a_seed_decides_the_masks_and_the_global_state_is_left_alone():
    before = torch.get_rng_state()
    first, again, other = (method.draw_masks(30, 9, seed) for seed in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Explanations


@BOTH
@pytest.mark.parametrize("fill", [0.0, 0.5, (1.0, -2.0, 0.25)], ids=str)
@pytest.mark.parametrize("width", [0.25, 2.0])
def test_a_model_linear_in_superpixels_is_recovered_exactly(lime, fill, width):
    image, segments, _ = scene(3, 8, 9, segments=12)
    weight = torch.randn(image.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got = lime.explain(linear(weight), image, segments, 64, 2, fill=fill, width=width)
    assert got.shape == (12,)
    assert got.dtype == torch.float64
    assert_close(got, shares(image, segments, weight, fill), rtol=0, atol=1e-10)


@BOTH
def test_a_large_intercept_leaks_into_no_coefficient(lime):
    image, segments, _ = scene()
    got = lime.explain(lambda images: images.new_full((len(images),), 1e6), image, segments, 32, 0)
    assert got.abs().max() < 1e-7


@BOTH
def test_the_coefficients_are_those_of_weighted_least_squares(lime):
    image, segments, _ = scene(1, segments=6)
    seen = {}

    def crooked(images):
        seen["masks"] = (images[:, 0] != -9).double()  # which pixels are kept
        return torch.tanh(images.clamp(min=-1).mean((1, 2, 3)) * 3) + images.amax((1, 2, 3))

    got = lime.explain(crooked, image, segments, 64, 4, fill=-9.0)
    first = [int((segments.flatten() == label).nonzero()[0]) for label in range(6)]
    masks = seen["masks"].flatten(1)[:, first]
    scores = crooked(lime.perturb(image, segments, masks, -9.0))
    weights = np.exp(-(((1 - np.sqrt(masks.numpy().mean(1))) / 0.25) ** 2))
    want = LinearRegression().fit(masks.numpy(), scores.numpy(), sample_weight=weights).coef_
    assert_close(got, torch.tensor(want), rtol=1e-9, atol=1e-9)


def test_nearer_samples_count_more():
    """A score that turns with the number kept: near the image its slope is that of the last superpixels."""
    image, segments, _ = scene(1, 10, 10, segments=20)
    image = torch.ones_like(image)
    fourth = lambda images: images.mean((1, 2, 3)) ** 4  # noqa: E731
    slope, wide = (method.explain(fourth, image, segments, 500, 0, width=width).mean() for width in (0.02, INF))
    assert slope > 1.5 * wide  # d(m⁴)/dm is 4 at the image and ∫4m³ dm = 1 on average, shared by 20


@BOTH
def test_the_first_image_that_the_model_sees_is_the_unperturbed_one(lime):
    image, segments, _ = scene(dtype=torch.float32)
    seen = []
    lime.explain(lambda images: seen.append(images) or images.sum((1, 2, 3)), image, segments, 12, 0)
    assert len(seen) == 1
    assert seen[0].shape == (12, *image.shape)
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0][0], image)


@BOTH
def test_a_seed_decides_the_explanation(lime):
    image, segments, _ = scene()
    model = lambda images: images.mean((1, 2, 3)).exp()  # noqa: E731
    torch.manual_seed(1)
    first = lime.explain(model, image, segments, 30, 8)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(first, lime.explain(model, image, segments, 30, 8))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, lime.explain(model, image, segments, 30, 9))


def test_both_versions_explain_alike():
    image, segments, _ = scene(dtype=torch.float32)
    model = lambda images: images.double().mean((1, 2, 3)).exp()  # noqa: E731
    a, b = (lime.explain(model, image, segments, 40, 1, 0.25, 0.5) for lime in (method, kernel))
    assert_close(a, b, rtol=1e-10, atol=1e-12)


@BOTH
def test_too_few_samples_give_the_solution_of_least_norm(lime):
    image, segments, _ = scene(segments=12)
    got = lime.explain(lambda images: images.new_full((len(images),), 2.0), image, segments, 1, 0)
    # one equation w₀ + Σw = 2 in 13 unknowns: each is 2/13
    assert_close(got, torch.full((12,), 2 / 13, dtype=torch.float64))


@BOTH
def test_a_label_without_pixels_gets_coefficient_0_from_a_linear_model(lime):
    image, segments, _ = scene(segments=4)
    skipping = torch.tensor([0, 1, 3, 4])[segments]
    got = lime.explain(linear(torch.ones_like(image)), image, skipping, 32, 0)
    assert got.shape == (5,)
    assert abs(got[2].item()) < 1e-10


def test_a_redundant_pair_is_seen_by_lime_and_not_by_hiding_one_at_a_time():
    segments = torch.arange(9).reshape(3, 3)
    either = lambda images: (images[:, 0, 0, 0] + images[:, 0, 2, 2] > 0).double()  # noqa: E731
    image = torch.ones(1, 3, 3)
    alone = 1 - either(method.perturb(image, segments, 1 - torch.eye(9), 0.0))
    assert torch.equal(alone, torch.zeros(9, dtype=torch.float64))
    assert set(method.explain(either, image, segments, 2000, 0).argsort(descending=True)[:2].tolist()) == {0, 8}


# Bad arguments


@BOTH
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(6, 9)}, "channel, h, w"),
        ({"image": torch.zeros(3, 6, 9, dtype=torch.complex64)}, "real"),
        ({"segments": torch.zeros(6, 8, dtype=torch.long)}, "as the image is"),
        ({"segments": torch.zeros(6, 9)}, "integer labels"),
        ({"segments": torch.full((6, 9), -1)}, "from -1"),
        ({"segments": torch.full((6, 9), 5)}, "labels from 5 to 5"),
        ({"masks": torch.ones(5)}, "sample, segment"),
        ({"masks": torch.ones(2, 0)}, "a column for each"),
        ({"fill": [0.0, 1.0]}, "one for each of 3 channels"),
        ({"fill": torch.zeros(3, 1)}, "one for each of 3 channels"),
        ({"fill": "black"}, "fill must be a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_perturb_cannot_take_is_named(lime, change, message):
    image, segments, masks = scene()
    with pytest.raises(ValueError, match=message):
        lime.perturb(**({"image": image, "segments": segments, "masks": masks, "fill": 0.0} | change))


@BOTH
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples"),
        ({"samples": 2.5}, "samples"),
        ({"width": 0.0}, "width"),
        ({"width": NAN}, "width"),
        ({"image": torch.zeros(3, 0, 4), "segments": torch.zeros(0, 4, dtype=torch.long)}, "at least one pixel"),
        ({"segments": torch.full((6, 9), -2)}, "from -2|segments"),
        ({"predict": lambda images: images.sum((2, 3))}, "one real score a sample"),
        ({"predict": lambda images: images.sum((1, 2, 3)) * NAN}, "NaN or infinite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_explain_cannot_take_is_named(lime, change, message):
    image, segments, _ = scene()
    given = {"predict": linear(1.0), "image": image, "segments": segments, "samples": 9, "seed": 0}
    with pytest.raises(ValueError, match=message):
        lime.explain(**(given | change))


def test_a_label_out_of_range_reads_nothing_wild_where_no_check_can_run():
    image, segments, masks = scene(dtype=torch.float32)
    segments[0, 0], segments[0, 1] = -3, 99
    compiled = torch.compile(kernel.perturb, fullgraph=True, backend="aot_eager")
    got = compiled(image, segments, masks, 0.5)
    assert torch.equal(got[:, :, 0, :2], torch.full((7, 3, 2), 0.5))
    segments[0, :2] = 0
    assert torch.equal(got[:, :, 1:], method.perturb(image, segments, masks, 0.5)[:, :, 1:])


@pytest.mark.parametrize("name", ["perturb", "perturb_and_weigh", "explain"])
def test_the_kernel_has_the_methods_signatures(name):
    mine, theirs = (inspect.signature(getattr(module, name)).parameters for module in (kernel, method))
    assert list(mine) == list(theirs)
    assert [one.default for one in mine.values()] == [one.default for one in theirs.values()]
