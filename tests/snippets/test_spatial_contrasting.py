"""What Hoffer et al. define as the spatial-contrasting loss, on values found another way, and where it is delicate."""

import math

import numpy as np
import pytest
import torch
import triton
from torch.testing import assert_close

from snippets.spatial_contrasting import kernel, method

LOSSES = pytest.mark.parametrize(
    "loss", [method.spatial_contrasting_loss, kernel.spatial_contrasting_loss], ids=["method", "kernel"]
)
HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_hand(anchor, positive):
    """The loss and both gradients in numpy float64, a pair at a time: equation 4 and its chain rule."""
    a, p = anchor.double().numpy(), positive.double().numpy()
    n = len(a)
    distance = np.array([[math.dist(one, other) for other in p] for one in a])
    loss, da, dp = 0.0, np.zeros_like(a), np.zeros_like(p)
    for i in range(n):
        exps = np.exp(distance[i].min() - distance[i])
        loss += distance[i, i] - distance[i].min() + math.log(exps.sum())
        for j in range(n):
            if distance[i, j] > 0:
                pull = ((i == j) - exps[j] / exps.sum()) / n * (a[i] - p[j]) / distance[i, j]
                da[i] += pull
                dp[j] -= pull
    return tuple(torch.as_tensor(one) for one in (loss / n, da, dp))


def with_gradients(loss, anchor, positive, grad=1.0):
    leaves = [one.detach().clone().requires_grad_() for one in (anchor, positive)]
    out = loss(*leaves)
    return out.detach(), *torch.autograd.grad(out * grad, leaves)


def close(got, want, **tolerance):
    for one, other in zip(got, want, strict=True):
        assert_close(one, other.to(one.dtype), **tolerance)


@LOSSES
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (16, 3), (17, 5), (129, 1)], ids=str)
def test_it_is_equation_4_pair_by_pair_with_its_gradients(loss, shape):
    anchor, positive = draw(*shape), draw(*shape, seed=1)
    close(with_gradients(loss, anchor, positive), by_hand(anchor, positive))
    close(with_gradients(loss, anchor.float(), positive.float()), by_hand(anchor.float(), positive.float()))


@LOSSES
def test_two_images_give_the_distance_ratio_of_equation_3(loss):
    anchor = torch.tensor([[0.0, 0.0], [10.0, 0.0]], dtype=torch.float64)
    positive = torch.tensor([[3.0, 4.0], [10.0, 1.0]], dtype=torch.float64)
    ratios = [
        math.exp(-5) / (math.exp(-5) + math.exp(-math.sqrt(101))),
        math.exp(-1) / (math.exp(-1) + math.exp(-math.hypot(7, 4))),
    ]
    assert loss(anchor, positive).item() == pytest.approx(-sum(map(math.log, ratios)) / 2, rel=1e-14)


@LOSSES
def test_the_distance_is_not_squared(loss):
    anchor, positive = torch.tensor([[0.0], [4.0]]), torch.tensor([[0.0], [4.0]])
    assert loss(anchor, positive).item() == pytest.approx(math.log1p(math.exp(-4)), rel=1e-5)  # exp(−16) if it were


@LOSSES
def test_features_that_know_nothing_score_log_n_and_get_no_gradient(loss):
    same = torch.full((37, 3), 2.5, dtype=torch.float64)
    out, da, dp = with_gradients(loss, same, same)
    assert out.item() == pytest.approx(math.log(37), rel=1e-14)
    assert (da == 0).all()
    assert (dp == 0).all()


@LOSSES
def test_where_a_pair_coincides_its_distance_pulls_nowhere(loss):
    anchor = draw(6, 3)
    positive = draw(6, 3, seed=1)
    positive[2] = anchor[2]  # its own
    positive[4] = anchor[1]  # another's
    anchor[5] = anchor[0]  # duplicates among the anchors
    got = with_gradients(loss, anchor, positive)
    close(got, by_hand(anchor, positive))
    assert got[1].isfinite().all()


@LOSSES
def test_a_batch_of_one_has_loss_0_and_no_gradient(loss):
    out, da, dp = with_gradients(loss, draw(1, 4), draw(1, 4, seed=1))
    assert out.item() == 0
    assert (da == 0).all()
    assert (dp == 0).all()


@LOSSES
def test_an_empty_batch_is_nan_and_no_features_are_log_n(loss):
    out, da, dp = with_gradients(loss, draw(0, 4), draw(0, 4))
    assert out.isnan()
    assert da.shape == dp.shape == (0, 4)
    out, da, _ = with_gradients(loss, draw(3, 0), draw(3, 0))
    assert out.item() == pytest.approx(math.log(3))
    assert da.shape == (3, 0)


@LOSSES
def test_a_common_offset_changes_nothing(loss):
    """|a|² + |p|² − 2a·p would have no correct digit left: the squares are 10⁹ times the differences'."""
    steps = torch.randint(-8, 9, (2, 40, 6), generator=torch.Generator().manual_seed(0)) / 8
    anchor, positive = (steps + 65536.0).float()  # eighths at 2¹⁶ are exact in fp32
    assert_close(anchor - 65536, steps[0], rtol=0, atol=0)
    close(with_gradients(loss, anchor, positive), by_hand(*steps))


@LOSSES
def test_close_pairs_keep_their_digits(loss):
    anchor = draw(20, 4, dtype=torch.float32)
    positive = anchor + 1e-4 * draw(20, 4, dtype=torch.float32, seed=1)
    close(with_gradients(loss, anchor, positive), by_hand(anchor, positive))


@LOSSES
def test_large_distances_do_not_underflow_to_infinity(loss):
    anchor, positive = 1e4 * draw(19, 3, dtype=torch.float32), 1e4 * draw(19, 3, dtype=torch.float32, seed=1)
    close(with_gradients(loss, anchor, positive), by_hand(anchor, positive))


@LOSSES
@HALF
def test_half_precision_squares_do_not_overflow(loss, dtype):
    anchor, positive = (300 * draw(5, 8, seed=n).to(dtype) for n in (0, 1))  # squares near 10⁶, fp16 ends at 65504
    got = with_gradients(loss, anchor, positive)
    assert all(one.dtype == dtype for one in got)
    close(got, by_hand(anchor, positive))


@LOSSES
def test_a_nan_reaches_the_loss_and_every_row_that_meets_it(loss):
    anchor = draw(18, 2)
    anchor[3, 1] = math.nan
    out, da, dp = with_gradients(loss, anchor, draw(18, 2, seed=1))
    assert out.isnan()
    assert dp.isnan().all()
    assert da[3].isnan().all()
    assert not da[[0, 1, 2, 17]].isnan().any()


@LOSSES
def test_a_negative_at_infinity_is_out_of_the_race(loss):
    """exp(−∞) = 0: the loss is as if the far positive were missing, but for its own anchor's infinite distance."""
    anchor, positive = draw(20, 2), draw(20, 2, seed=1)
    positive[19, 0] = math.inf
    assert loss(anchor, positive) == math.inf
    positive[:, 0] = math.inf
    assert loss(anchor, positive).isnan()


@LOSSES
def test_the_gradient_is_scaled_by_what_comes_from_above(loss):
    anchor, positive = draw(9, 3), draw(9, 3, seed=1)
    _, da, dp = by_hand(anchor, positive)
    close(with_gradients(loss, anchor, positive, grad=-7.0)[1:], (-7 * da, -7 * dp))


@LOSSES
def test_one_step_down_the_gradient_lowers_the_loss_and_joins_pairs(loss):
    anchor, positive = draw(24, 4), draw(24, 4, seed=1)
    out, da, dp = with_gradients(loss, anchor, positive)
    nearer, positive_nearer = anchor - 2 * da, positive - 2 * dp
    assert loss(nearer, positive_nearer) < out
    assert (nearer - positive_nearer).norm(dim=1).mean() < (anchor - positive).norm(dim=1).mean()


def test_the_gradient_has_a_gradient():
    anchor, positive = (draw(4, 3, seed=n).requires_grad_() for n in (0, 1))
    assert torch.autograd.gradgradcheck(kernel.spatial_contrasting_loss, (anchor, positive), fast_mode=True)


def test_both_sides_are_shared_out_and_added_up_when_the_batch_is_small_for_the_machine():
    batch = 4 * kernel.OTHERS * kernel.LEAST_TILES // 2 + 1
    shares, share = kernel._shares(batch, 1, kernel.MOST_SHARES)
    assert shares > 1
    assert (shares - 1) * share < batch <= shares * share
    assert share % kernel.OTHERS == 0
    anchor, positive = draw(batch, 2), draw(batch, 2, seed=1)
    close(with_gradients(kernel.spatial_contrasting_loss, anchor, positive), by_hand(anchor, positive))


@pytest.mark.parametrize("programs", [1, 7, 512, 10_000])
def test_shares_cover_every_row_once(programs):
    for batch in (1, 15, 16, 17, 129, 1000, 65_537):
        shares, share = kernel._shares(batch, programs, 8)
        assert share % kernel.OTHERS == 0
        assert (shares - 1) * share < batch <= shares * share
        assert shares <= 8


def test_a_row_of_many_features_is_summed_in_two_levels():
    anchor, positive = (draw(2, 2 * kernel.CHUNK + 3, dtype=torch.float32, seed=n) for n in (0, 1))
    close(with_gradients(kernel.spatial_contrasting_loss, anchor, positive), by_hand(anchor, positive))


def test_nothing_of_size_batch_by_batch_is_kept_by_the_kernel():
    anchor, positive = (draw(200, 2, seed=n).requires_grad_() for n in (0, 1))

    def kept(loss):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
            loss(anchor, positive)
        return max(saved)

    assert kept(kernel.spatial_contrasting_loss) <= 2 * triton.cdiv(200, kernel.OWN) * kernel.OWN
    assert kept(method.spatial_contrasting_loss) == 200 * 200


@LOSSES
@pytest.mark.parametrize(
    ("anchor", "positive", "message"),
    [
        (torch.zeros(3), torch.zeros(3), "anchor must be a floating"),
        (torch.zeros(2, 3), torch.zeros(2, 3, 1), "positive must be a floating"),
        (torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3), "anchor must be a floating"),
        (torch.zeros(2, 3), torch.zeros(3, 3), "one shape"),
        (torch.zeros(2, 3), torch.zeros(2, 4), "one shape"),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float64), "dtype"),
        (torch.zeros(2, 3), torch.zeros(2, 3, device="meta"), "device"),
    ],
)
def test_bad_arguments_are_refused(loss, anchor, positive, message):
    with pytest.raises(ValueError, match=message):
        loss(anchor, positive)
