"""What k-winners-take-all must keep, against torch.topk and a sort in plain Python; and what the kernel must not touch."""

import math

import pytest
import torch
from torch.testing import assert_close

from snippets.bits_and_missings import kernel, method

BOTH = pytest.mark.parametrize("k_winners", [method.k_winners, kernel.k_winners], ids=["method", "kernel"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_sort(x, k):
    """Which elements win, by Python's own stable sort: NaN first, then the largest, then the first."""
    keep = torch.zeros(x.shape, dtype=torch.bool)
    if not x.numel():
        return keep
    for row, mask in zip(x.reshape(-1, x.shape[-1]).tolist(), keep.view(-1, x.shape[-1]), strict=True):
        order = sorted(range(len(row)), key=lambda i: (0, 0) if math.isnan(row[i]) else (1, -row[i]))
        mask[order[:k]] = True
    return keep


def same_bits(a, b):
    return torch.equal(a.contiguous().view(BITS[a.dtype]), b.contiguous().view(BITS[b.dtype]))


def out_and_gradient(function, x, k, grad):
    x = x.detach().clone().requires_grad_()
    y = function(x, k)
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


def prove(k_winners, x, k):
    keep, grad = by_sort(x, k), draw(*x.shape, dtype=x.dtype, seed=1)
    y, gradient = out_and_gradient(k_winners, x, k, grad)
    nothing = torch.zeros_like(grad)
    assert same_bits(y, torch.where(keep, x, nothing))
    assert same_bits(gradient, torch.where(keep, grad, nothing))


@BOTH
@DTYPES
def test_without_ties_it_is_topk_scattered_onto_zeros(k_winners, dtype):
    x = torch.stack([torch.randperm(200, generator=torch.Generator().manual_seed(s)) for s in range(3)]).to(dtype) - 90
    values, index = torch.topk(x, 57)
    assert_close(k_winners(x, 57), torch.zeros_like(x).scatter(-1, index, values), rtol=0, atol=0)


@BOTH
@DTYPES
def test_ties_go_to_the_lowest_index_at_every_k(k_winners, dtype):
    x = torch.tensor([[2.0, 1.0, 2.0, 1.0, 1.0, 3.0, 1.0], [5.0] * 7], dtype=dtype)
    for k in (1, 5):
        prove(k_winners, x, k)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_zeros_of_both_signs_tie_and_keep_their_sign(k_winners, dtype):
    x = torch.tensor([[-0.0, 0.0, -0.0, 0.0, -1.0], [0.0, -0.0, 1.0, -0.0, 0.0]], dtype=dtype)
    for k in (1, 3):
        prove(k_winners, x, k)


@BOTH
@DTYPES
def test_nan_of_either_sign_wins_first_and_infinities_are_values(k_winners, dtype):
    negative = torch.tensor(math.nan, dtype=dtype).neg()
    x = torch.tensor([1.0, math.nan, -math.inf, math.inf, 0.0, -math.inf, math.inf, math.nan, -2.0], dtype=dtype)
    x[1] = negative
    assert by_sort(x, 2).tolist() == [False, True] + [False] * 5 + [True, False]
    for k in (1, 8):
        prove(k_winners, x, k)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_the_smallest_steps_of_a_dtype_decide(k_winners, dtype):
    tiny, big = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max
    near = torch.nextafter(torch.tensor(1.0).to(dtype), torch.tensor(2.0).to(dtype)).item()
    x = torch.tensor([tiny / 2, -tiny / 2, 1.0, near, -1.0, -near, big, -big, 0.0, tiny], dtype=dtype)
    for k in (3, 6):
        prove(k_winners, x, k)


@BOTH
def test_none_or_all_win(k_winners):
    x = draw(3, 33)
    x[0, 0], x[1, 1] = math.nan, -0.0
    y, gradient = out_and_gradient(k_winners, x, 0, torch.ones_like(x))
    assert same_bits(y, torch.zeros_like(x))  # not even NaN passes
    assert same_bits(gradient, torch.zeros_like(x))
    y, gradient = out_and_gradient(k_winners, x, 33, 2 * torch.ones_like(x))
    assert same_bits(y, x)
    assert_close(gradient, torch.full_like(x, 2))


@BOTH
def test_exactly_k_pass_a_gradient_even_where_the_output_is_0(k_winners):
    x = torch.zeros(4, 20)
    _, gradient = out_and_gradient(k_winners, x, 7, torch.ones_like(x))
    assert gradient.sum(-1).tolist() == [7.0] * 4


@BOTH
def test_a_gradient_of_nan_stays_where_it_is(k_winners):
    grad = torch.tensor([1.0, math.nan, math.inf, 2.0])
    _, gradient = out_and_gradient(k_winners, torch.tensor([4.0, 1.0, 2.0, 3.0]), 2, grad)
    assert gradient.tolist() == [1.0, 0.0, 0.0, 2.0]


@BOTH
@pytest.mark.parametrize(
    "x", [draw(2, 3, 40).transpose(1, 2), draw(4, 50)[:, ::2], draw(1, 9).expand(5, 9), draw(2, 0, 5), draw(0)], ids=str
)
def test_any_layout_and_empty_rows(k_winners, x):
    prove(k_winners, x, min(2, x.shape[-1]))


@BOTH
@pytest.mark.parametrize("n", [8191, 8193])
def test_rows_of_any_length(k_winners, n):
    x = (draw(2, n, seed=n) * 50).round() / 50  # many ties
    prove(k_winners, x, n // 3)


@pytest.mark.parametrize(("dtype", "n"), [(torch.float64, 100), (torch.float32, 256), (torch.bfloat16, 200)], ids=str)
def test_a_row_too_long_for_registers_is_streamed_with_the_same_result(monkeypatch, dtype, n):
    monkeypatch.setattr(kernel, "LONGEST", 64)
    monkeypatch.setattr(kernel, "CHUNK", 128)
    x = draw(2, n, dtype=dtype, seed=n)
    x[1] = (x[1] * 2).round() / 2
    x[:, 5], x[:, -1] = math.nan, math.inf
    prove(kernel.k_winners, x, n // 4)


def test_nothing_is_written_beyond_the_rows():
    x = draw(3, 21)
    y, bits = torch.full((128,), math.nan), torch.full((32,), 77, dtype=torch.uint8)
    kernel._k_winners_rows[(1,)](
        x, y, bits, 3, 21, 4, MASK=True, KEY=kernel.tl.int32, INFINITY=0xFF << 23, WHOLE=False, ROWS=4, WIDTH=32
    )  # fmt: skip
    assert_close(y[:63].view(3, 21), method.k_winners(x, 4))
    assert y[63:].isnan().all()
    assert (bits[9:] == 77).all()


def test_the_bits_are_kept_only_where_a_gradient_is_wanted():
    x = draw(4, 20)
    assert kernel._k_winners_op(x, 3, False)[1].numel() == 0
    mask = kernel._k_winners_op(x, 3, True)[1]
    assert mask.shape == (4, 3)
    bits = (mask[..., None] >> torch.arange(8)) & 1
    assert torch.equal(bits.reshape(4, 24)[:, :20].bool(), by_sort(x, 3))


@BOTH
def test_a_second_derivative_passes_the_same_mask(k_winners):
    x = draw(2, 9, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad((k_winners(x, 4) ** 3).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert_close(curvature, torch.where(by_sort(x.detach(), 4), 6 * x.detach(), 0.0))


@BOTH
@pytest.mark.parametrize(
    ("x", "k", "says"),
    [
        (torch.tensor(1.0), 1, "0-d"),
        (torch.ones(3), -1, "between 0"),
        (torch.ones(3), 4, "between 0"),
        (torch.ones(3, 0), 1, "between 0"),
        (torch.ones(3), True, "int"),
        (torch.ones(3), 1.0, "int"),
        (torch.ones(3, dtype=torch.int64), 1, "float"),
        (torch.ones(3, dtype=torch.complex64), 1, "float"),
    ],
)
def test_what_makes_no_sense_is_refused(k_winners, x, k, says):
    with pytest.raises(ValueError, match=says):
        k_winners(x, k)
