"""Mask R-CNN: what the paper says of RoIAlign and of its masks, against a float64 loop over samples; and the kernel."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from snippets.mask_rcnn import kernel, method

BOTH = pytest.mark.parametrize("roi_align", [method.roi_align, kernel.roi_align], ids=["method", "kernel"])
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=lambda dtype: str(dtype)[6:]
)
BOXES = {
    "inside": [0, 1.5, 2, 9.25, 8],
    "over the top left corner": [1, -4, -3, 5, 6],
    "over the bottom right corner": [1, 8, 3, 20, 30],
    "empty": [0, 5, 5, 5, 5],
    "a line": [0, 2, 3, 2, 8],
    "inverted": [1, 7, 7, 3, 2],
    "inverted one way": [1, 3, 9, 4, 1],
    "far outside": [0, 40, 40, 50, 50],
    "the whole map": [0, 0, 0, 12, 10],
    "smaller than a pixel": [1, 4.25, 4.25, 4.75, 4.5],
}


def features_and_boxes(dtype=torch.float64, seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, channels, 10, 12, generator=generator, dtype=torch.float64).to(dtype)
    return features, torch.tensor(list(BOXES.values()), dtype=torch.float64)


def sampled(image, y, x):
    """One bilinear sample, in the cases that torchvision tells apart."""
    height, width = image.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return torch.zeros(len(image), dtype=torch.float64)
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = int(y), int(x)
    if top >= height - 1:
        top = bottom = height - 1
        y = float(top)
    else:
        bottom = top + 1
    if left >= width - 1:
        left = right = width - 1
        x = float(left)
    else:
        right = left + 1
    above = (1 - (x - left)) * image[:, top, left] + (x - left) * image[:, top, right]
    below = (1 - (x - left)) * image[:, bottom, left] + (x - left) * image[:, bottom, right]
    return (1 - (y - top)) * above + (y - top) * below


def looped(features, boxes, output_size, spatial_scale=1.0, sampling_ratio=2, aligned=True):
    """RoIAlign in float64, one sample after another."""
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    offset = 0.5 if aligned else 0.0
    pooled = []
    for image, *corners in boxes.double().tolist():
        x1, y1, x2, y2 = (corner * spatial_scale - offset for corner in corners)
        width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1.0), max(y2 - y1, 1.0))
        down = sampling_ratio if sampling_ratio > 0 else math.ceil(height / rows)
        across = sampling_ratio if sampling_ratio > 0 else math.ceil(width / columns)
        for row in range(rows):
            for column in range(columns):
                total = torch.zeros(features.shape[1], dtype=torch.float64)
                for nth_y in range(down):
                    y = y1 + row * height / rows + (nth_y + 0.5) * height / rows / down
                    for nth_x in range(across):
                        x = x1 + column * width / columns + (nth_x + 0.5) * width / columns / across
                        total = total + sampled(features[int(image)].double(), y, x)
                pooled.append(total / max(down * across, 1))
    if not pooled:
        return torch.zeros(0, features.shape[1], rows, columns, dtype=torch.float64)
    return torch.stack(pooled).view(len(boxes), rows, columns, -1).permute(0, 3, 1, 2)


def assert_agrees(roi_align, features, boxes, *how, **named):
    """Compare values and gradients with the loop's on float64 copies, by torch's own tolerances."""
    mine, theirs = features.detach().requires_grad_(), features.detach().double().requires_grad_()
    got, want = roi_align(mine, boxes, *how, **named), looped(theirs, boxes, *how, **named)
    assert got.dtype == features.dtype and got.is_contiguous()
    torch.testing.assert_close(got, want.to(got.dtype))
    downstream = torch.randn(want.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(got.dtype)
    (gradient,) = torch.autograd.grad(got, mine, downstream)
    wanted = torch.zeros_like(theirs)
    if len(boxes):
        (wanted,) = torch.autograd.grad(want, theirs, downstream.double())
    assert gradient.shape == features.shape
    torch.testing.assert_close(gradient, wanted.to(gradient.dtype))


@BOTH
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "not aligned"])
@pytest.mark.parametrize("ratio", [2, 0, 3], ids=["ratio 2", "adaptive", "ratio 3"])
def test_every_kind_of_box_agrees_with_a_loop_over_samples(roi_align, ratio, aligned):
    features, boxes = features_and_boxes()
    assert_agrees(roi_align, features, boxes, (2, 3), 1.0, ratio, aligned)


@BOTH
@DTYPES
def test_every_dtype_agrees_with_float64(roi_align, dtype):
    features, boxes = features_and_boxes(dtype)
    assert_agrees(roi_align, features, boxes.to(dtype)[:4], 2, 0.5, -1)
    assert_agrees(roi_align, features, boxes[:2], 2)  # boxes may keep a dtype of their own


@BOTH
@pytest.mark.parametrize("ratio", [1, 5])
def test_one_sample_and_many_samples_a_bin(roi_align, ratio):
    features, boxes = features_and_boxes()
    assert_agrees(roi_align, features, boxes[:3], (1, 2), 0.75, ratio)


@BOTH
@pytest.mark.parametrize("size", [1, (3, 7), (17, 1), [2, 2]], ids=str)
def test_outputs_need_not_be_square_nor_fit_a_tile(roi_align, size):
    features, boxes = features_and_boxes()
    assert_agrees(roi_align, features, boxes[1:2], tuple(size) if isinstance(size, list) else size)


@BOTH
@pytest.mark.parametrize("channels", [1, 5, 64, 65])
def test_channels_need_not_fit_a_tile(roi_align, channels):
    features, boxes = features_and_boxes(torch.float32, channels=channels)
    assert_agrees(roi_align, features, boxes[1:3].float(), 2, 1.0, 1)


@BOTH
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (16, 2)])
def test_maps_of_one_pixel_row_or_column(roi_align, height, width):
    features = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    boxes = torch.tensor([[0, -0.5, -0.5, 1.5, 1.5], [0, 0, 0, width, height], [0, 5, 7, 9, 9.5]], dtype=torch.float64)
    assert_agrees(roi_align, features, boxes, 2)


@BOTH
def test_layouts_other_than_contiguous(roi_align):
    features, boxes = features_and_boxes()
    want = looped(features, boxes[:3], 2)
    spread = torch.full((2, 6, 10, 24), math.nan, dtype=torch.float64)
    spread[:, ::2, :, ::2] = features
    expanded = torch.stack([boxes[:3], boxes[3:6]], -1)[..., 0]
    for one in (features.to(memory_format=torch.channels_last), spread[:, ::2, :, ::2]):
        one = one.detach().requires_grad_()
        got = roi_align(one, expanded, 2)
        torch.testing.assert_close(got, want)
        got.permute(0, 1, 3, 2).sum().backward()  # the gradient arrives expanded: all its strides are 0
        assert one.grad.sum().item() == pytest.approx(looped(torch.ones_like(features), boxes[:3], 2).sum().item())
    same = features[:1].expand(2, -1, -1, -1)
    torch.testing.assert_close(roi_align(same, boxes[:3], 2), looped(same, boxes[:3], 2))


@BOTH
def test_without_boxes_images_or_channels_there_is_nothing_to_pool(roi_align):
    features, boxes = features_and_boxes()
    features.requires_grad_()
    for ratio in (2, 0):
        empty = roi_align(features, boxes[:0], (7, 5), 1.0, ratio)
        assert empty.shape == (0, 3, 7, 5)
        assert not torch.autograd.grad(empty.sum(), features)[0].any()
    assert roi_align(features[:, :0], boxes, 2).shape == (len(boxes), 0, 2, 2)
    assert roi_align(features[:0], boxes[:0], 2).shape == (0, 3, 2, 2)


# What the paper claims


@BOTH
@pytest.mark.parametrize("ratio", [1, 2, 3, 0])
def test_a_linear_ramp_is_answered_exactly(roi_align, ratio):
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(20.0), indexing="ij")
    ramp = (3 * x - 2 * y + 1).double()[None, None]
    boxes = torch.tensor([[0, 3.3, 2.7, 15.1, 11.9], [0, 5.01, 4.4, 5.9, 6.2]], dtype=torch.float64)
    for (_, x1, y1, x2, y2), got in zip(boxes.tolist(), roi_align(ramp, boxes, (3, 4), 1.0, ratio), strict=True):
        for row in range(3):
            for column in range(4):
                center_x = x1 + (column + 0.5) / 4 * (x2 - x1) - 0.5  # pixel i has its center at i + ½
                center_y = y1 + (row + 0.5) / 3 * (y2 - y1) - 0.5
                assert got[0, row, column].item() == pytest.approx(3 * center_x - 2 * center_y + 1, abs=1e-12)


@BOTH
def test_half_a_pixel_lies_between_aligned_and_not(roi_align):
    ramp = torch.arange(20.0, dtype=torch.float64).expand(1, 1, 16, 20)
    box = torch.tensor([[0, 4, 4, 11, 11]], dtype=torch.float64)
    difference = roi_align(ramp, box, 7, aligned=False) - roi_align(ramp, box, 7, aligned=True)
    torch.testing.assert_close(difference, torch.full_like(difference, 0.5))


@BOTH
def test_an_empty_box_is_widened_only_where_not_aligned(roi_align):
    features, _ = features_and_boxes()
    empty = torch.tensor([[0, 5, 5, 5, 5]], dtype=torch.float64)
    pixel = torch.tensor([[0, 5, 5, 6, 6]], dtype=torch.float64)
    assert torch.equal(roi_align(features, empty, 2, aligned=False), roi_align(features, pixel, 2, aligned=False))
    assert not roi_align(features, empty, 2, sampling_ratio=0).any()  # aligned and adaptive: no sample at all
    at_the_corner = roi_align(features, empty, 2)  # aligned: every sample at (4.5, 4.5)
    torch.testing.assert_close(at_the_corner, features[:1, :, 4:6, 4:6].mean((2, 3), keepdim=True).expand(1, 3, 2, 2))


@BOTH
def test_the_edge_reaches_one_pixel_out_and_no_farther(roi_align):
    ones = torch.ones(1, 1, 6, 6, dtype=torch.float64)
    point = torch.tensor([[0, x, 3, x, 3] for x in (-0.5, -0.51, 6.5, 6.51)], dtype=torch.float64)
    assert roi_align(ones, point, 1).flatten().tolist() == [1, 0, 1, 0]


@BOTH
def test_the_gradient_weighs_pixels_as_the_forward_does(roi_align):
    features, boxes = features_and_boxes()
    features.requires_grad_()
    pooled = roi_align(features, boxes, (3, 2))
    (gradient,) = torch.autograd.grad(pooled.sum(), features)
    assert (gradient * features).sum().item() == pytest.approx(pooled.sum().item())  # RoIAlign is linear


def test_roi_pool_takes_the_largest_of_its_quantized_bin():
    features = torch.arange(48.0).view(1, 1, 6, 8)
    box = torch.tensor([[0, 15.0, 17.0, 70.0, 47.0]])  # at 1/16: x in [1, 4], y in [1, 3]
    assert method.roi_pool(features, box, (1, 2), 1 / 16).flatten().tolist() == [26, 28]
    halves = torch.tensor([[0, 8.0, 8.0, 24.0, 24.0]])  # ½ and 1½ round away from 0
    assert method.roi_pool(features, halves, 1, 1 / 16).item() == 18
    outside = torch.tensor([[0, 160.0, 0.0, 200.0, 40.0]])
    assert method.roi_pool(features, outside, 2, 1 / 16).tolist() == [[[[0, 0], [0, 0]]]]


def test_roi_pool_is_constant_until_a_corner_rounds_over_and_roi_align_is_not():
    features, _ = features_and_boxes()
    shifts = torch.linspace(0.01, 0.99, 25, dtype=torch.float64)
    boxes = torch.tensor([0, 2.5, 2.5, 8.5, 7.5], dtype=torch.float64) + shifts[:, None] * torch.tensor([0, 1, 1, 1, 1])
    pooled = method.roi_pool(features, boxes, 3)
    assert all(torch.equal(pooled[0], one) for one in pooled)
    aligned = method.roi_align(features, boxes, 3)
    assert all(not torch.equal(a, b) for a, b in pairwise(aligned))


def test_sigmoid_masks_do_not_compete():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(4, 5, 7, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([0, 3, 3, 4])
    target = (torch.rand(4, 7, 7, generator=generator) < 0.5).double()
    loss = method.mask_loss(logits, classes, target)
    (gradient,) = torch.autograd.grad(loss, logits)
    true = F.one_hot(classes, 5).bool()
    assert not gradient[~true].any()
    p = torch.sigmoid(logits[true])
    torch.testing.assert_close(gradient[true], (p - target) / target.numel())
    by_hand = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    torch.testing.assert_close(loss, by_hand)
    louder = logits.detach().clone()
    louder[~true] += 100
    assert method.mask_loss(louder, classes, target) == loss


def test_without_boxes_the_mask_loss_is_zero_and_has_a_gradient():
    logits = torch.zeros(0, 5, 7, 7, requires_grad=True)
    loss = method.mask_loss(logits, torch.zeros(0, dtype=torch.long), torch.zeros(0, 7, 7))
    loss.backward()
    assert loss == 0 and logits.grad.shape == logits.shape


# Bad arguments


@BOTH
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(3, 10, 12)}, "features must be"),
        ({"features": torch.zeros(2, 3, 10, 12, dtype=torch.long)}, "floating point"),
        ({"features": torch.zeros(2, 3, 0, 12)}, "no pixel"),
        ({"boxes": torch.zeros(2, 4)}, "boxes must be"),
        ({"boxes": torch.zeros(5)}, "boxes must be"),
        ({"boxes": torch.zeros(2, 5, device="meta")}, "move one"),
        ({"boxes": torch.tensor([[2.0, 0, 0, 1, 1]])}, "image 2; there are 2"),
        ({"boxes": torch.tensor([[0.0, 0, 0, 1, 1], [-1.0, 0, 0, 1, 1]])}, "box 1 belongs to image -1"),
        ({"boxes": torch.tensor([[0.0, 0, math.nan, 1, 1]])}, "not finite"),
        ({"boxes": torch.tensor([[0.0, 0, 0, math.inf, 1]])}, "not finite"),
        ({"output_size": 0}, "output_size"),
        ({"output_size": (7, -1)}, "output_size"),
        ({"output_size": (7, 7, 7)}, "output_size"),
        ({"output_size": 2.5}, "output_size"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_bad_arguments_are_named(roi_align, change, message):
    arguments = {"features": torch.zeros(2, 3, 10, 12), "boxes": torch.zeros(1, 5), "output_size": 7, **change}
    with pytest.raises(ValueError, match=message):
        roi_align(**arguments)


def test_roi_pool_and_mask_loss_name_bad_arguments_too():
    with pytest.raises(ValueError, match="output_size"):
        method.roi_pool(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 0)
    with pytest.raises(ValueError, match="image 1; there are 1"):
        method.roi_pool(torch.zeros(1, 1, 4, 4), torch.ones(1, 5), 2)
    with pytest.raises(ValueError, match="target"):
        method.mask_loss(torch.zeros(2, 3, 7, 7), torch.zeros(2).long(), torch.zeros(2, 3, 7, 7))
    with pytest.raises(ValueError, match="class 3"):
        method.mask_loss(torch.zeros(1, 3, 7, 7), torch.tensor([3]), torch.zeros(1, 7, 7))


# The kernel


@BOTH
def test_what_is_not_finite_reaches_the_bins_that_read_it_and_no_other(roi_align):
    features = torch.ones(1, 1, 8, 8)
    features[0, 0, 1, 1], features[0, 0, 6, 6] = math.inf, math.nan
    pooled = roi_align(features, torch.tensor([[0, 0.25, 0.25, 7.75, 7.75], [0, 20, 20, 30, 30]]), 3)
    assert pooled[0, 0, 0, 0] == math.inf and pooled[0, 0, 2, 2].isnan()
    assert pooled[0, 0, 0, 1:].tolist() == pooled[0, 0, 1, 1:].tolist() == [1, 1]
    assert not pooled[1].any()  # off the map: not even 0 · NaN


def test_a_box_without_an_answer_is_nan_where_nobody_waits_to_check(monkeypatch):
    monkeypatch.setattr(method, "_check_values", lambda features, boxes: None)  # as on a GPU
    features, _ = features_and_boxes()
    features.requires_grad_()
    good = [0, 1.5, 2, 9.25, 8]
    bad = [[2, 1, 1, 5, 5], [-1, 1, 1, 5, 5], [math.nan, 1, 1, 5, 5], [0, 1, math.nan, 5, 5], [0, 1, 1, math.inf, 5]]
    for ratio in (2, 0):
        pooled = kernel.roi_align(features, torch.tensor([good, *bad], dtype=torch.float64), 2, 1.0, ratio)
        assert pooled[1:].isnan().all()
        (gradient,) = torch.autograd.grad(pooled.sum(), features)
        (alone,) = torch.autograd.grad(
            kernel.roi_align(features, torch.tensor([good], dtype=torch.float64), 2, 1.0, ratio).sum(), features
        )
        torch.testing.assert_close(gradient, alone)
    assert kernel.roi_align(features[:0], torch.tensor([good]), 2).isnan().all()


def launch(features_at, boxes, out, images, channels, height, width, size):
    kernel._roi_align_forward[((len(boxes)) * -(-size * size // kernel.BINS), -(-channels // 4))](
        features_at, boxes, out, images, channels, height, width, 1.0, ROWS=size, COLUMNS=size, RATIO=2, ALIGNED=True,
        WHOLE=channels % 4 == 0, WORK=kernel.tl.float64, BINS=kernel.BINS, CHANNELS=4,
    )  # fmt: skip


@pytest.mark.parametrize("channels", [3, 4, 5])
def test_nothing_beyond_the_tensors_is_read_or_written(channels):
    features, boxes = features_and_boxes(channels=channels)
    last = features.permute(0, 2, 3, 1).contiguous()
    around = torch.full((last.numel() + 2000,), math.nan, dtype=torch.float64)
    around[1000:-1000] = last.flatten()
    out = torch.full((len(boxes) * channels * 9 + 2000,), -7.0, dtype=torch.float64)
    launch(around[1000:], boxes, out[1000:], 2, channels, 10, 12, 3)
    want = looped(features, boxes, 3)
    torch.testing.assert_close(out[1000:-1000].view_as(want), want)
    assert (out[:1000] == -7).all() and (out[-1000:] == -7).all()


def test_the_gradient_is_checked_by_differences_once_and_twice():
    features, boxes = features_and_boxes(channels=1)
    features = features[:, :, :5, :6].clone().requires_grad_()
    boxes = torch.tensor([[0, 0.5, 1, 4.25, 4], [1, -2, 3, 3, 7]], dtype=torch.float64)
    for ratio in (2, 0):
        torch.autograd.gradcheck(lambda x, r=ratio: kernel.roi_align(x, boxes, 2, 1.0, r), features, fast_mode=True)
    torch.autograd.gradgradcheck(lambda x: kernel.roi_align(x, boxes, 2), features, fast_mode=True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels last"])
def test_the_ops_are_registered_as_torch_wants(layout):
    features, boxes = features_and_boxes(torch.float32)
    features = features.to(memory_format=layout).requires_grad_()
    torch.library.opcheck(kernel._roi_align_op, (features, boxes[:2].float(), 2, 1, 1.0, 2, True))
    grad = torch.randn(2, 3, 2, 1, requires_grad=True)
    arguments = (grad, boxes[:2].float(), 2, 10, 12, 1.0, 2, True, layout == torch.channels_last)
    torch.library.opcheck(kernel._roi_align_backward_op, arguments)


def test_it_compiles_in_one_graph_for_any_number_of_boxes():
    features, boxes = features_and_boxes(torch.float32)
    features.requires_grad_()
    boxes = boxes.float()
    compiled = torch.compile(lambda x, b: (kernel.roi_align(x, b, 2, 0.5) * 2).sum(), fullgraph=True, dynamic=True)
    for count in (2, 3):
        (got,) = torch.autograd.grad(compiled(features, boxes[:count]), features)
        (want,) = torch.autograd.grad((method.roi_align(features, boxes[:count], 2, 0.5) * 2).sum(), features)
        torch.testing.assert_close(got, want)


def test_deterministic_algorithms_leave_the_atomic_adds_alone(monkeypatch):
    features, boxes = features_and_boxes()
    calls = []
    monkeypatch.setattr(kernel, "_roi_align_op", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    want = method.roi_align(features, boxes, 2)
    assert torch.equal(kernel.roi_align(features.requires_grad_(), boxes, 2), want) and not calls
    kernel.roi_align(features.detach(), boxes, 2)
    assert len(calls) == 1  # the forward alone is deterministic as it is
