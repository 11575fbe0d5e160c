"""Fractional max-pooling against a loop over regions in float64 and against torch's own pooling."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from snippets.fractional_max_pooling import kernel, method

TWINS = pytest.mark.parametrize(
    "twin", [method.fractional_max_pool, kernel.fractional_max_pool], ids=["method", "kernel"]
)
OVER = pytest.mark.parametrize("overlapping", [True, False], ids=["overlapping", "disjoint"])


def regions(steps, size, overlapping):
    start = 0
    for step in steps:
        yield range(start, min(start + step + overlapping, size))
        start += step


def by_loop(x, rows, columns, overlapping):
    """Return the maxima of one image and where each lies: the first of equals, but of NaNs the last, as torch has it."""
    y, where = [], []
    for i in regions(rows, x.shape[0], overlapping):
        for j in regions(columns, x.shape[1], overlapping):
            best, place = -math.inf, (i[0], j[0])
            for r, c in itertools.product(i, j):
                value = x[r, c].item()
                if value > best or value != value:
                    best, place = value, (r, c)
            y.append(best)
            where.append(place)
    return torch.tensor(y, dtype=torch.float64).view(len(rows), len(columns)), where


def some(shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@TWINS
@OVER
@pytest.mark.parametrize("seed", range(6))
def test_every_region_gives_its_maximum_and_the_gradient_goes_where_it_lies(twin, overlapping, seed):
    height, width = 5 + seed, 17 - 2 * seed
    rows = method.increments(height, (height + 2) // 2, seed=seed)
    columns = method.increments(width, (2 * width + 2) // 3, pseudorandom=True, seed=seed)
    x = some((2, height, width), seed).requires_grad_()
    y = twin(x, rows, columns, overlapping)
    grad = some(y.shape, seed + 50)
    y.backward(grad)
    want = torch.zeros_like(x, dtype=torch.float64)
    for plane in range(2):
        exact, where = by_loop(x[plane].detach(), rows, columns, overlapping)
        assert torch.equal(y[plane].detach().double(), exact)
        for (r, c), g in zip(where, grad[plane].flatten().tolist(), strict=True):
            want[plane, r, c] += g
    torch.testing.assert_close(x.grad.double(), want, rtol=1.3e-6, atol=1e-5)


@TWINS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_when_every_increment_is_2_it_is_the_usual_pooling(twin, dtype):
    x = some((2, 3, 10, 14), dtype=dtype)
    even = [2] * 5, [2] * 7
    assert torch.equal(twin(x, *even, overlapping=False), F.max_pool2d(x, 2))
    # 3 × 3 at stride 2: the last row and column of regions reach past the edge, where only −inf lies
    padded = F.pad(x, (0, 1, 0, 1), value=-math.inf)
    assert torch.equal(twin(x, *even, overlapping=True), F.max_pool2d(padded, 3, 2))
    odd = some((2, 3, 11, 15), 1, dtype)
    assert torch.equal(twin(odd, *even, overlapping=True), F.max_pool2d(odd, 3, 2))
    assert torch.equal(twin(odd, *even, overlapping=False), F.max_pool2d(odd, 2))


@TWINS
@OVER
def test_when_every_increment_is_1_disjoint_regions_are_the_pixels_themselves(twin, overlapping):
    x = some((4, 6))
    y = twin(x, [1] * 4, [1] * 6, overlapping)
    want = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf)[None], 2, 1)[0] if overlapping else x
    assert torch.equal(y, want)


@TWINS
@OVER
def test_a_region_of_minus_infinity_gives_minus_infinity(twin, overlapping):
    x = torch.full((1, 4, 5), -math.inf)
    x[0, 0, 0] = -3.0
    y = twin(x, [2, 2], [2, 1, 2], overlapping)
    assert y[0, 0, 0] == -3
    assert torch.equal(y.flatten()[1:], torch.full((5,), -math.inf))


@TWINS
@OVER
def test_of_equals_the_first_in_row_major_order_takes_the_gradient(twin, overlapping):
    x = torch.zeros((1, 5, 5)).requires_grad_()
    rows, columns = [2, 1, 2], [1, 2, 2]
    twin(x, rows, columns, overlapping).sum().backward()
    want = torch.zeros(5, 5)
    want[torch.tensor([0, 2, 3])[:, None], torch.tensor([0, 1, 3])] = 1.0
    assert torch.equal(x.grad[0], want)


@TWINS
def test_nan_passes_and_takes_the_gradient_where_torch_sends_it(twin):
    for places in ([(0, 0)], [(1, 1), (0, 2)], [(2, 2)], [(0, 0), (1, 2), (3, 3)]):
        x = some((1, 1, 5, 7), 3)
        for r, c in places:
            x[0, 0, r, c] = math.nan
        mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        y = twin(mine, [2, 2], [2, 2, 2])
        want = F.max_pool2d(theirs, 3, 2)
        torch.testing.assert_close(y, want, rtol=0, atol=0, equal_nan=True)
        grad = some(y.shape, 4)
        y.backward(grad)
        want.backward(grad)
        torch.testing.assert_close(mine.grad, theirs.grad)


@TWINS
def test_infinities_and_extremes_are_kept(twin):
    x = torch.tensor([[math.inf, -math.inf, 3e38], [1e-45, -3e38, 0.0], [-0.0, 80.0, -80.0]])
    y = twin(x, [2, 1], [1, 2], overlapping=False)
    assert torch.equal(y, torch.tensor([[math.inf, 3e38], [0.0, 80.0]]))


@TWINS
def test_the_layout_of_the_input_changes_nothing(twin):
    x = some((2, 3, 9, 8))
    rows, columns = method.increments(9, 6, seed=1), method.increments(8, 5, seed=2)
    want = twin(x, rows, columns)
    for same in (x.to(memory_format=torch.channels_last), x.mT.contiguous().mT, F.pad(x, (3, 1))[..., 3:-1]):
        assert torch.equal(twin(same, rows, columns), want)
    assert torch.equal(twin(x, torch.tensor(rows), torch.tensor(columns)), want)
    assert torch.equal(twin(x[0, 0], rows, columns), want[0, 0])
    assert twin(x[:0], rows, columns).shape == (0, 3, 6, 5)


def test_half_precision_gradients_are_added_in_single():
    # one pixel wins all four regions that share it: 2048 + 3 · 1 is lost if it is added in fp16
    x = torch.zeros((1, 3, 3), dtype=torch.float16)
    x[0, 1, 1] = 1
    x.requires_grad_()
    y = kernel.fractional_max_pool(x, [1, 2], [1, 2])
    y.backward(torch.tensor([[[2048.0, 1.0], [1.0, 1.0]]], dtype=torch.float16))
    assert x.grad[0, 1, 1] == torch.tensor(2051.0).half()
    assert x.grad.count_nonzero() == 1


@pytest.mark.parametrize("pseudorandom", [False, True])
def test_increments_are_1s_and_2s_in_the_exact_proportion(pseudorandom):
    for n_out in range(1, 40):
        for n_in in range(n_out, 2 * n_out + 1):
            steps = method.increments(n_in, n_out, pseudorandom, seed=n_in)
            assert len(steps) == n_out and sum(steps) == n_in
            assert steps.count(2) == n_in - n_out and steps.count(1) == 2 * n_out - n_in


def test_pseudorandom_increments_follow_the_even_grid_and_random_ones_do_not():
    alpha = 46 / 33
    for seed in range(20):
        starts = [0, *itertools.accumulate(method.increments(46, 33, True, seed))]
        assert all(abs(start - alpha * i) <= 1 for i, start in enumerate(starts))
    away = [
        max(
            abs(start - alpha * i)
            for i, start in enumerate(itertools.accumulate(method.increments(46, 33, False, s)), 1)
        )
        for s in range(20)
    ]
    assert max(away) > 2


def test_a_seed_names_its_sequence_and_every_order_is_as_likely():
    draws = [tuple(method.increments(6, 4, seed=seed)) for seed in range(3000)]
    assert draws == [tuple(method.increments(6, 4, seed=seed)) for seed in range(3000)]
    counts = [draws.count(one) for one in set(draws)]
    assert len(counts) == 6  # two of four places are 2s
    assert sum((count - 500) ** 2 / 500 for count in counts) < 20.5  # χ² with 5 degrees, p = 0.001
    offsets = {tuple(method.increments(7, 5, True, seed=seed)) for seed in range(200)}
    assert len(offsets) == 5  # one for each fifth that u can fall into


@TWINS
def test_what_does_not_fit_is_refused_with_what_would(twin):
    x = some((4, 6))
    for rows, columns, what in (
        ([2, 3], [2] * 3, "1 and 2"),
        ([2, 2], [0, 2, 2, 2], "1 and 2"),
        ([2], [2] * 3, "add up to 2"),
        ([2] * 3, [2] * 3, "add up to 6"),
        ([], [2] * 3, "add up to 0"),
    ):
        with pytest.raises(ValueError, match=what):
            twin(x, rows, columns)
    with pytest.raises(ValueError, match="height and width"):
        twin(x[0], [2, 2], [2] * 3)
    with pytest.raises(ValueError, match="dtype"):
        twin(x > 0, [2, 2], [2] * 3)
    for n_in, n_out in ((5, 2), (3, 4), (0, 0), (4, 0)):
        with pytest.raises(ValueError, match="steps of 1 and 2"):
            method.increments(n_in, n_out)


def test_integers_are_pooled_too():
    x = torch.arange(20).view(4, 5)
    for twin in (method.fractional_max_pool, kernel.fractional_max_pool):
        assert twin(x, [2, 2], [2, 2, 1], overlapping=False).tolist() == [[6, 8, 9], [16, 18, 19]]
