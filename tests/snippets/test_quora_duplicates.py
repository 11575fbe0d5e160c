"""Duplicate questions: the weighted bag of word vectors, the distance of a pair, and the data of the experiment."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from snippets.quora_duplicates import experiment, kernel, method

BOTH = pytest.mark.parametrize("of", [method, kernel], ids=["method", "kernel"])
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def draw(rows, dim, sizes, dtype=torch.float32, integer=torch.int64, seed=0):
    """Return table, indices, offsets and weights of bags of the given sizes."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(rows, dim, generator=generator, dtype=torch.float64).to(dtype)
    indices = torch.randint(0, max(rows, 1), (sum(sizes),), generator=generator, dtype=integer)
    offsets = torch.tensor([sum(sizes[:bag]) for bag in range(len(sizes))], dtype=integer)
    weights = torch.randn(sum(sizes), generator=generator, dtype=torch.float64).to(dtype)
    return table, indices, offsets, weights


def by_hand(table, indices, offsets, weights):
    """Add up each bag in a loop, in Python's floats."""
    ends = [*offsets.tolist(), len(indices)]
    bags = [range(begin, end) for begin, end in pairwise(ends)]
    table, weights = table.tolist(), weights.tolist()
    width = range(len(table[0]))
    return [[math.fsum(weights[i] * table[indices[i]][k] for i in bag) for k in width] for bag in bags]


def gradients(run, inputs, seed=1):
    leaves = [one.detach().requires_grad_() for one in inputs]
    out = run(*leaves)
    along = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, leaves, along)


# ---- the bag --------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("sizes", [(2, 3, 1), (0, 4, 0, 0, 2), (3, 0, 0), (0, 0), (17,), ()], ids=str)
def test_a_bag_is_the_sum_of_its_weighted_rows_and_an_empty_one_is_zero(of, sizes):
    inputs = draw(4, 5, sizes, torch.float64)  # four rows: longer bags repeat an index
    got = of.embedding_bag(*inputs)
    torch.testing.assert_close(got, torch.tensor(by_hand(*inputs), dtype=torch.float64).reshape(len(sizes), 5))


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("integer", [torch.int32, torch.int64], ids=str)
def test_a_bag_and_its_gradients_are_torchs(of, dtype, integer):
    table, indices, offsets, weights = draw(7, 20, (3, 0, 9, 1), dtype, integer)
    got = gradients(lambda t, w: of.embedding_bag(t, indices, offsets, w), (table, weights))
    want = gradients(
        lambda t, w: F.embedding_bag(indices, t, offsets, mode="sum", per_sample_weights=w).to(dtype),
        (table.double(), weights.double()),
    )
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        torch.testing.assert_close(g, w.to(dtype))


def test_the_gradient_of_a_word_that_fills_many_chunks_is_whole():
    # runs that end in a chunk, that end with one, that fill several, and more parts than one step of the join adds
    counts = {3: 5, 4: 27, 7: 64, 9: 1, 12: 40 + 32 * 9, 13: 2}
    indices = torch.cat([torch.full((n,), word) for word, n in counts.items()])
    shuffle = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))
    table, weights = torch.zeros(15, 3), torch.arange(len(indices)) % 5 - 1.0  # small integers: sums are exact
    along = torch.tensor([[1.0, 2.0, -3.0], [4.0, 0.0, 1.0]])
    offsets = torch.tensor([0, 200])
    leaf = table.requires_grad_()
    kernel.embedding_bag(leaf, indices[shuffle], offsets, weights).backward(along)
    want = torch.zeros(15, 3)
    for i, word in enumerate(indices[shuffle].tolist()):
        want[word] += weights[i] * along[int(i >= 200)]
    assert torch.equal(leaf.grad, want)


@BOTH
def test_entries_in_no_bag_are_summed_nowhere_and_have_no_gradient(of):
    table, indices, _, weights = draw(3, 4, (5,))
    none = torch.tensor([], dtype=torch.long)
    out, to_table, to_weights = gradients(lambda t, w: of.embedding_bag(t, indices, none, w), (table, weights))
    assert out.shape == (0, 4)
    assert not to_table.any() and not to_weights.any()


@BOTH
def test_a_row_that_is_not_finite_spoils_its_bags_alone_even_at_weight_zero(of):
    table = torch.tensor([[1.0, math.inf], [2.0, 3.0], [math.nan, 1.0]])
    indices, offsets = torch.tensor([0, 1, 1, 2, 0]), torch.tensor([0, 2, 3, 4])
    weights = torch.tensor([1.0, 1.0, 2.0, 1.0, 0.0])
    got = of.embedding_bag(table, indices, offsets, weights)
    want = F.embedding_bag(indices, table, offsets, mode="sum", per_sample_weights=weights)
    torch.testing.assert_close(got, want, equal_nan=True)
    assert got[3].isnan().tolist() == [False, True]


@BOTH
def test_a_half_precision_bag_is_summed_in_float32(of):
    table, n = torch.tensor([[1.0]], dtype=torch.float16), 2100  # in float16, 2048 + 1 is 2048
    indices, weights = torch.zeros(n, dtype=torch.long), torch.ones(n, dtype=torch.float16)
    assert of.embedding_bag(table, indices, torch.tensor([0]), weights).item() == 2100


@BOTH
def test_strided_inputs_give_what_their_copies_give(of):
    table, indices, offsets, weights = draw(6, 9, (2, 2, 3))
    spread = [torch.stack([one, one], dim=-1)[..., 0] for one in (table, indices, offsets, weights)]
    assert not any(one.is_contiguous() for one in spread)
    torch.testing.assert_close(of.embedding_bag(*spread), of.embedding_bag(table, indices, offsets, weights))


@BOTH
def test_the_bags_second_derivatives_are_those_of_finite_differences(of):
    table, indices, offsets, weights = draw(3, 2, (2, 0, 2), torch.float64)
    leaves = table.requires_grad_(), weights.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda t, w: of.embedding_bag(t, indices, offsets, w), leaves, fast_mode=True)


@BOTH
def test_a_gradient_of_the_weights_alone_needs_none_of_the_table(of):
    table, indices, offsets, weights = draw(3, 2, (2, 1))
    of.embedding_bag(table, indices, offsets, weights.requires_grad_()).sum().backward()
    torch.testing.assert_close(weights.grad, table.sum(1)[indices])
    assert table.grad is None


def changed(position, value):
    inputs = list(draw(4, 3, (2, 3)))
    inputs[position] = value
    return inputs


@BOTH
@pytest.mark.parametrize(
    ("inputs", "about"),
    [
        (changed(1, torch.tensor([0, 1, 2, 3, 4])), "indices must lie in 0 … 3"),
        (changed(1, torch.tensor([0, 1, -1, 3, 2])), "indices must lie in 0 … 3"),
        (changed(2, torch.tensor([1, 2])), "start at 0"),
        (changed(2, torch.tensor([0, 3, 2])), "never fall"),
        (changed(2, torch.tensor([0, 6])), "not exceed 5"),
        (changed(0, torch.zeros(4)), "table must be"),
        (changed(1, torch.zeros(5)), "indices must be int32 or int64"),
        (changed(1, torch.zeros(5, 1, dtype=torch.long)), "indices must have one dimension"),
        (changed(2, torch.tensor(0)), "offsets must have one dimension"),
        (changed(3, torch.zeros(4)), "5 indices, but 4 weights"),
        (changed(3, torch.zeros(5, dtype=torch.float64)), "share a floating dtype"),
        (changed(0, torch.zeros(4, 3, dtype=torch.long)), "share a floating dtype"),
        (changed(0, torch.zeros(0, 3)), "indices must lie"),
    ],
)
def test_a_bag_refuses_what_does_not_fit_and_says_why(of, inputs, about):
    with pytest.raises(ValueError, match=about):
        of.embedding_bag(*inputs)


def test_where_nobody_looks_a_wrong_index_is_nan_and_touches_nothing():
    if not kernel.INTERPRETED:
        pytest.skip("the op below is called as compiled code would call it")
    table, _, offsets, weights = draw(4, 3, (2, 2))
    indices = torch.tensor([1, 4, 2, 2])
    leaves = table.requires_grad_(), weights.requires_grad_()
    out = kernel._bag_op(leaves[0], indices, offsets, leaves[1])
    assert out.isnan().all(1).tolist() == [True, False]
    to_table, to_weights = torch.autograd.grad(out, leaves, torch.ones_like(out))
    assert to_weights.isnan().tolist() == [False, True, False, False]
    want = torch.zeros(4, 3)
    want[1], want[2] = weights[0].detach(), (weights[2] + weights[3]).detach()
    torch.testing.assert_close(to_table, want)


# ---- the distance ---------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 17), (6,), (3, 2053), (1, 300), (0, 4), (4, 0)], ids=str)
def test_a_distance_and_its_gradients_are_torchs_without_its_epsilon(of, shape):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for _ in range(2))
    got = gradients(of.pairwise_distance, (a, b))
    want = gradients(lambda a, b: F.pairwise_distance(a, b, eps=0.0), (a, b))
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w)


@BOTH
def test_equal_points_are_at_distance_zero_with_gradient_zero_where_torchs_default_has_neither(of):
    x = torch.full((2, 9), 0.7)
    d, to_a, to_b = gradients(of.pairwise_distance, (x, x.clone()))
    assert not d.any() and not to_a.any() and not to_b.any()
    d, to_a, _ = gradients(F.pairwise_distance, (x, x.clone()))
    torch.testing.assert_close(d, torch.full((2,), 3e-6))  # √9 times its epsilon
    assert to_a.abs().min() > 0.01


@BOTH
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_distance_moves_its_ends_apart_by_unit_vectors(of, dtype):
    a = torch.tensor([[3.0, 0.0, 0.0], [1.0, 2.0, 2.0]], dtype=dtype)
    b = torch.tensor([[0.0, 4.0, 0.0], [1.0, 2.0, 2.0]], dtype=dtype)
    leaves = a.requires_grad_(), b.requires_grad_()
    d = of.pairwise_distance(*leaves)
    assert d.tolist() == [5.0, 0.0] and d.dtype == dtype
    to_a, to_b = torch.autograd.grad(d.sum(), leaves)
    torch.testing.assert_close(to_a, torch.tensor([[0.6, -0.8, 0], [0, 0, 0]], dtype=dtype))
    assert torch.equal(to_b, -to_a)


@BOTH
def test_float16_squares_do_not_overflow_before_their_root(of):
    a = torch.full((1, 4), 300.0, dtype=torch.float16)  # 300² is beyond float16
    d, to_a, _ = gradients(of.pairwise_distance, (a, torch.zeros_like(a)), seed=3)
    assert d.item() == 600.0
    assert 0 < to_a.abs().min() < math.inf
    huge = torch.full((1, 4), 60000.0, dtype=torch.float16)
    leaf = huge.requires_grad_()
    d = of.pairwise_distance(leaf, torch.zeros_like(huge))
    assert d.item() == math.inf  # 120,000 is no float16, but its direction is known
    assert torch.autograd.grad(d.sum(), leaf)[0].tolist() == [[0.5] * 4]


@BOTH
@pytest.mark.parametrize("value", [1e20, 1e-20, 1e-22, 1e-25, math.inf, -math.inf, math.nan])
def test_the_ends_of_the_range_are_torchs(of, value):
    a, b = torch.tensor([[value, 1.0], [value, 0.0]]), torch.tensor([[0.0, 1.0], [-value, 0.0]])
    for pair in ((a, b), (a, a.clone())):
        got = gradients(of.pairwise_distance, pair)
        want = gradients(lambda a, b: F.pairwise_distance(a, b, eps=0.0), pair)
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w, rtol=1.3e-6, atol=0.0, equal_nan=True)


@BOTH
def test_strided_points_give_what_their_copies_give(of):
    x = torch.randn(5, 8, 2, generator=torch.Generator().manual_seed(0))
    a, b = x.permute(1, 2, 0).unbind(1)
    got = gradients(of.pairwise_distance, (a, b))
    for g, w in zip(got, gradients(of.pairwise_distance, (a.contiguous(), b.contiguous())), strict=True):
        torch.testing.assert_close(g, w)


@BOTH
def test_the_distances_second_derivatives_are_those_of_finite_differences(of):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradgradcheck(of.pairwise_distance, (a, b), fast_mode=True)


@BOTH
@pytest.mark.parametrize(
    ("a", "b", "about"),
    [
        (torch.zeros(2, 3), torch.zeros(3), "one shape"),
        (torch.zeros(2, 3), torch.zeros(2, 1), "one shape"),
        (torch.tensor(1.0), torch.tensor(2.0), "one shape"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), "share a floating dtype"),
        (torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long), "share a floating dtype"),
    ],
)
def test_a_distance_refuses_what_does_not_fit_and_says_why(of, a, b, about):
    with pytest.raises(ValueError, match=about):
        of.pairwise_distance(a, b)


def test_a_cpu_without_the_interpreter_falls_back_to_the_twin(monkeypatch):
    monkeypatch.setattr(kernel, "INTERPRETED", False)
    for name in ("_bag_op", "_distance_op"):
        monkeypatch.setattr(kernel, name, None)
    inputs = draw(4, 3, (2, 3))
    torch.testing.assert_close(kernel.embedding_bag(*inputs), method.embedding_bag(*inputs))
    assert kernel.pairwise_distance(torch.ones(4), torch.zeros(4)).item() == 2.0


# ---- the experiment's data ------------------------------------------------------------------------------------------


def test_generated_pairs_are_duplicates_as_often_as_quoras_and_a_negative_pair_shares_words():
    pairs, labels = experiment.pairs(11)
    assert abs(labels.mean().item() - 149_306 / 404_351) < 0.03
    shared = [
        len({*one.split()} & {*two.split()}) for (one, two), label in zip(pairs, labels, strict=True) if not label
    ]
    assert sum(shared) / len(shared) > 1.5


def test_the_best_threshold_of_training_is_what_accuracy_applies_to_test():
    train, test = experiment.TRAIN, experiment.TEST
    distance = torch.cat([torch.linspace(0, 1, train), torch.linspace(0, 1, test)])[:, None]
    label = (distance < 0.25).float()
    label[train:][distance[train:] > 0.75] = 1  # wrong for any threshold that was learned
    assert experiment.accuracy(distance, label)[0] == pytest.approx(0.75, abs=0.01)
