"""Temporal convolution over dilations: beside F.conv3d and plain loops, its five-tap form, inflation, and what it refuses."""

import math

import pytest
import torch
import torch.nn.functional as F
import triton.language as tl
from torch.testing import assert_close

from snippets.besnet import experiment, kernel, method

CONVOLUTIONS = pytest.mark.parametrize("conv", [method.temporal_conv, kernel.temporal_conv], ids=["method", "kernel"])
DILATIONS = pytest.mark.parametrize("dilations", [(1,), (2,), (1, 2), (3, 1, 1), (4, 60)], ids=str)


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def mean_of_conv3d(x, weight, dilations):
    """Return what torch's own 3-D convolution gives, in float64."""
    x, filters = x.double(), weight.double()[..., None, None]
    outputs = [F.conv3d(x, filters, padding=(d, 0, 0), dilation=(d, 1, 1)) for d in dilations]
    return torch.stack(outputs).mean(0)


def out_and_gradients(conv, x, weight, dilations, grad):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = conv(x, weight, dilations)
    return (y.detach(), *torch.autograd.grad(y, (x, weight), grad.to(y.dtype)))


# What is computed


@CONVOLUTIONS
@DILATIONS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_output_and_gradients_are_those_of_the_mean_of_conv3d(conv, dilations, dtype):
    x, weight, grad = draw(2, 5, 6, 3, 7, dtype=dtype), draw(3, 5, 3, dtype=dtype, seed=1), draw(2, 3, 6, 3, 7, seed=2)
    grad = grad.to(dtype)
    got = out_and_gradients(conv, x, weight, dilations, grad)
    want = out_and_gradients(mean_of_conv3d, x.double(), weight.double(), dilations, grad.double())
    for mine, theirs, terms in zip(got, want, (15, 9, 252), strict=True):
        rtol, atol = {torch.float64: (1e-7, 1e-7), torch.float32: (1.3e-6, 1e-5), torch.float16: (1e-3, 1e-5)}.get(
            dtype, (1.6e-2, 1e-5)
        )
        assert_close(mine.double(), theirs, rtol=rtol, atol=atol * terms**0.5)


@CONVOLUTIONS
def test_one_number_at_a_time_it_is_the_sum_over_taps_and_dilations(conv):
    x, weight, dilations = draw(1, 2, 5, 1, 2), draw(2, 2, 3, seed=1), (1, 3)
    want = torch.zeros(1, 2, 5, 1, 2, dtype=torch.float64)
    for o in range(2):
        for t in range(5):
            for p in range(2):
                for d in dilations:
                    for tap in range(3):
                        frame = t + (tap - 1) * d
                        if 0 <= frame < 5:
                            for c in range(2):
                                want[0, o, t, 0, p] += weight[o, c, tap] * x[0, c, frame, 0, p] / 2
    assert_close(conv(x, weight, dilations), want)


@CONVOLUTIONS
def test_dilations_one_and_two_average_to_one_five_tap_filter(conv):
    x, w = draw(2, 4, 9, 2, 3), draw(3, 4, 3, seed=1)
    five = torch.stack([w[..., 0] / 2, w[..., 0] / 2, w[..., 1], w[..., 2] / 2, w[..., 2] / 2], dim=2)
    want = F.conv3d(x, five[..., None, None], padding=(2, 0, 0))
    assert_close(conv(x, w, (1, 2)), want, rtol=1e-13, atol=1e-13)
    assert_close(experiment.folded(x, w, (1, 2)), want, rtol=1e-13, atol=1e-13)


def test_the_five_taps_can_be_read_off_the_response_to_one_frame():
    x, w = torch.zeros(1, 1, 9, 1, 1), torch.tensor([[[2.0, 3.0, 7.0]]])
    x[0, 0, 4] = 1
    assert kernel.temporal_conv(x, w, (1, 2)).flatten().tolist() == [0, 0, 3.5, 3.5, 3, 1, 1, 0, 0]


@CONVOLUTIONS
def test_the_folding_costs_half_precision_nothing(conv):
    # a third of these weights is no float16, nor is three times the center tap
    x, w = draw(1, 1, 9, 1, 1, dtype=torch.float16), torch.tensor([[[1.001, 2.003, -3.005]]]).half()
    want = mean_of_conv3d(x, w, (1, 2, 3)).half()
    assert (conv(x, w, (1, 2, 3)).view(torch.int16) - want.view(torch.int16)).abs().max() <= 1


@CONVOLUTIONS
def test_repeated_dilations_count_as_often_as_they_stand_there(conv):
    x, w = draw(1, 2, 6, 1, 1), draw(2, 2, 3, seed=1)
    assert_close(conv(x, w, (1, 1, 2)), (2 * conv(x, w, (1,)) + conv(x, w, (2,))) / 3)


@CONVOLUTIONS
@pytest.mark.parametrize("dilation", [5, 6, 2**40])
def test_a_dilation_beyond_the_clip_leaves_the_center_tap_alone(conv, dilation):
    x, w = draw(1, 3, 5, 2, 2), draw(2, 3, 3, seed=1)
    assert_close(conv(x, w, (dilation,)), torch.einsum("oc,bcthw->bothw", w[..., 1], x))


# What the authors say


@CONVOLUTIONS
def test_the_length_is_kept_at_every_dilation(conv):
    weight = torch.ones(1, 1, 3)
    for time in (1, 2, 5):
        for dilation in (1, 2, 4, 5, 9):
            assert conv(torch.ones(1, 1, time, 1, 1), weight, (dilation,)).shape == (1, 1, time, 1, 1)


@CONVOLUTIONS
@pytest.mark.parametrize("dilations", [(1,), (2,), (1, 2)])
def test_an_inflated_filter_leaves_a_still_clip_as_it_was_but_for_the_padded_ends(conv, dilations):
    frame, w = draw(2, 4, 1, 3, 3), draw(5, 4, seed=1)
    y = conv(frame.expand(-1, -1, 8, -1, -1), method.inflate(w), dilations)
    still = torch.einsum("oc,bcthw->bothw", w, frame)
    most = max(dilations)
    assert_close(y[:, :, most:-most], still.expand(-1, -1, 8 - 2 * most, -1, -1), rtol=1e-13, atol=1e-13)
    for t in range(most):
        lost = sum(t < d for d in dilations) / len(dilations) / 3
        assert_close(y[:, :, t], still[:, :, 0] * (1 - lost))
        assert_close(y[:, :, -1 - t], still[:, :, 0] * (1 - lost))


def test_inflating_a_spatial_filter_makes_equal_slices_that_sum_to_it():
    w = draw(4, 3, 3, 3)
    grown = method.inflate(w, 5)
    assert grown.shape == (4, 3, 5, 3, 3)
    assert_close(grown.sum(2), w)
    assert (grown == grown[:, :, :1]).all()
    assert torch.equal(kernel.inflate(w, 5), grown)


# The kernel


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1.3e-6), (torch.float16, 1e-3)], ids=str)
def test_tiles_of_channels_outs_and_positions_that_do_not_divide_agree(dtype, rtol):
    x, w, grad = draw(1, 35, 5, 3, 11, dtype=dtype), draw(66, 35, 3, dtype=dtype, seed=1), draw(1, 66, 5, 3, 11, seed=2)
    got = out_and_gradients(kernel.temporal_conv, x, w, (1, 2), grad.to(dtype))
    want = out_and_gradients(mean_of_conv3d, x.double(), w.double(), (1, 2), grad.to(dtype).double())
    for mine, theirs, terms in zip(got, want, (175, 330, 165), strict=True):
        assert_close(mine.double(), theirs, rtol=rtol, atol=1e-5 * terms**0.5)


@pytest.mark.parametrize("machine", [3, 512])
def test_the_weight_gradient_does_not_depend_on_how_the_clips_are_shared_out(machine, monkeypatch):
    monkeypatch.setattr(kernel, "FULL_MACHINE", machine)
    monkeypatch.setattr(kernel, "LEAST_BLOCKS", 1)
    x, grad = draw(3, 2, 7, 2, 5), draw(3, 4, 7, 2, 5, seed=1)
    weight = torch.zeros(4, 2, 3, dtype=torch.float64, requires_grad=True)
    (want,) = torch.autograd.grad(mean_of_conv3d(x, weight, (1, 2)), weight, grad)
    got = kernel._temporal_conv_weight_op(grad, x, [1, 2])
    assert_close(got, want)
    assert torch.equal(got, kernel._temporal_conv_weight_op(grad, x, [1, 2]))


def test_nothing_is_read_or_written_outside():
    poison = torch.full((2048,), math.nan)
    x, w, y = poison.clone(), poison.clone(), poison.clone()
    x[512:518], w[512:515] = 1.0, 2.0
    dilations = torch.tensor([1, 2])
    kernel._temporal_conv[(1,)](
        x[512:], w[512:], dilations, y[512:], 2, 1, 1, 6, 1,
        WORK=tl.float32, WIDEN=True, OUTS=32, POSITIONS=64, STEP=16,
    )  # fmt: skip
    assert y[512:518].tolist() == [4, 5, 6, 6, 5, 4]
    assert y[:512].isnan().all()
    assert y[518:].isnan().all()


def test_a_value_that_is_no_number_reaches_just_the_frames_that_see_it():
    x, w = draw(1, 2, 9, 1, 2), draw(3, 2, 3, seed=1)
    x[0, 0, 4, 0, 1] = math.nan
    y = kernel.temporal_conv(x, w, (1, 2))
    assert y[:, :, 2:7, 0, 1].isnan().all()
    assert y.isnan().sum() == 5 * 3


@CONVOLUTIONS
def test_layouts_do_not_matter(conv):
    w = draw(3, 4, 3, seed=1)
    for x in (
        draw(4, 2, 5, 3, 2).transpose(0, 1),
        draw(2, 4, 5, 2, 6)[..., ::2],
        draw(2, 1, 5, 2, 3).expand(-1, 4, -1, -1, -1),
        draw(2, 4, 5, 2, 3).to(memory_format=torch.channels_last_3d),
    ):
        if x.shape[1] == 4:
            assert_close(conv(x, w, (1, 2)), mean_of_conv3d(x.contiguous(), w, (1, 2)))
            assert_close(conv(x, draw(4, 3, 3, seed=1).transpose(0, 1), (2,)).shape, torch.Size((2, 3, *x.shape[2:])))


@CONVOLUTIONS
@pytest.mark.parametrize("shape", [(0, 2, 3, 2, 2), (2, 2, 0, 2, 2), (2, 2, 3, 0, 2), (2, 0, 3, 2, 2)])
def test_an_empty_clip_gives_an_empty_or_zero_output_and_gradients(conv, shape):
    x, w = draw(*shape), draw(4, shape[1], 3, seed=1)
    y, of_x, of_weight = out_and_gradients(conv, x, w, (1, 2), torch.ones(shape[0], 4, *shape[2:], dtype=x.dtype))
    assert torch.equal(y, torch.zeros(shape[0], 4, *shape[2:], dtype=x.dtype))
    assert of_x.shape == x.shape
    assert torch.equal(of_weight, torch.zeros_like(w))


def test_gradients_of_gradients():
    x, w = draw(1, 1, 3, 1, 1).requires_grad_(), draw(2, 1, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: method.temporal_conv(x, w, (1, 2)), (x, w))
    assert torch.autograd.gradgradcheck(lambda x, w: kernel.temporal_conv(x, w, (1, 2)), (x, w), fast_mode=True)


def test_opcheck():
    x, w = draw(1, 2, 4, 1, 2).requires_grad_(), draw(3, 2, 3).requires_grad_()
    torch.library.opcheck(kernel._temporal_conv_op, (x, w, [1, 2]))
    torch.library.opcheck(
        kernel._temporal_conv_weight_op, (draw(1, 3, 4, 1, 2), x, [2]), test_utils=("test_schema", "test_faketensor")
    )


def test_it_compiles_without_a_graph_break_whichever_dilation_was_drawn():
    x, w = draw(1, 2, 4, 1, 2), draw(3, 2, 3)
    compiled = torch.compile(
        lambda x, w, d: kernel.temporal_conv(x * 2, w, (d,)) + 1, fullgraph=True, backend="aot_eager"
    )
    for d in (1, 2, 3):
        assert_close(compiled(x, w, d), mean_of_conv3d(2 * x, w, (d,)) + 1)


# What is refused

GOOD = (torch.ones(1, 2, 4, 1, 1), torch.ones(3, 2, 3))


@CONVOLUTIONS
@pytest.mark.parametrize("dilations", [(), 1, None, "12", (0,), (1, -2), (1.0,), (True,), ("1",)], ids=str)
def test_dilations_must_be_a_sequence_of_positive_integers(conv, dilations):
    with pytest.raises(ValueError, match="dilation"):
        conv(*GOOD, dilations)


@CONVOLUTIONS
@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (GOOD[0][0], GOOD[1]),
        (GOOD[0].long(), GOOD[1].long()),
        (GOOD[0], GOOD[1][0]),
        (GOOD[0], torch.ones(3, 2, 5)),
        (GOOD[0], torch.ones(3, 4, 3)),
        (GOOD[0], GOOD[1].double()),
        (GOOD[0], GOOD[1].to("meta")),
    ],
    ids=["rank", "integers", "weight rank", "five taps", "channels", "dtype", "device"],
)
def test_tensors_that_do_not_fit_are_refused(conv, x, weight):
    with pytest.raises(ValueError, match="must"):
        conv(x, weight, (1,))


@pytest.mark.parametrize("function", [method.inflate, kernel.inflate])
def test_inflating_nothing_or_no_times_is_refused(function):
    for weight, times in ((torch.ones(3), 3), (torch.ones(3, 3).long(), 3), (torch.ones(3, 3), 0)):
        with pytest.raises(ValueError, match=r"weight must|at least once"):
            function(weight, times)
