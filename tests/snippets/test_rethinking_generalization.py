"""What Zhang et al. prove of the network with 2n + d weights, and that the kernel is that network."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from snippets.rethinking_generalization import kernel, method

NETWORKS = pytest.mark.parametrize("two_layer", [method.two_layer, kernel.two_layer], ids=["method", "kernel"])
TOLERANCE = 1e-4
"""The most that the fit may miss a label by, in float64."""


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_loops(z, b, w):
    """The sum as the paper writes it, a term at a time and rounded once."""
    return [
        math.fsum(wj * max(zi - bj, 0.0) for bj, wj in zip(b.tolist(), w.tolist(), strict=True)) for zi in z.tolist()
    ]


def gradients_by_numpy(grad, z, b, w):
    grad, z, b, w = (one.numpy() for one in (grad, z, b, w))
    on = z[:, None] > b[None, :]
    ramps = np.where(on, z[:, None] - b[None, :], 0.0)
    return grad * (on * w).sum(1), -w * (on * grad[:, None]).sum(0), ramps.T @ grad


def misfit(x, y, two_layer=method.two_layer):
    a, b, w = method.memorize(x, y)
    return (two_layer(x @ a, b, w) - y).abs().max().item()


# The network


@NETWORKS
def test_it_is_the_sum_of_ramps_the_paper_writes(two_layer):
    z, b, w = draw(11), draw(137, seed=1), draw(137, seed=2)
    assert_close(two_layer(z, b, w), torch.tensor(by_loops(z, b, w), dtype=torch.float64), rtol=1e-13, atol=1e-13)


@NETWORKS
@pytest.mark.parametrize(("n", "m"), [(5, 7), (8, 128), (131, 3), (3, 133)])
def test_its_gradients_are_the_closed_ones(two_layer, n, m):
    z, b, w, grad = draw(n), draw(m, seed=1), draw(m, seed=2), draw(n, seed=3)
    leaves = [one.clone().requires_grad_() for one in (z, b, w)]
    got = torch.autograd.grad(two_layer(*leaves), leaves, grad)
    for one, want in zip(got, gradients_by_numpy(grad, z, b, w), strict=True):
        assert_close(one, torch.from_numpy(want), rtol=1e-12, atol=1e-12)


@NETWORKS
def test_a_ramp_has_no_slope_at_its_kink(two_layer):
    z, b, w = (torch.ones(1, dtype=torch.float64).requires_grad_() for _ in range(3))
    got = torch.autograd.grad(two_layer(z, b, w), (z, b, w))
    assert [one.item() for one in got] == [0.0, 0.0, 0.0]


@NETWORKS
def test_nothing_is_summed_over_nothing(two_layer):
    z = draw(4).requires_grad_()
    none = draw(0).requires_grad_()
    c = two_layer(z, none, none)
    assert c.tolist() == [0.0] * 4
    assert torch.autograd.grad(c.sum(), z)[0].tolist() == [0.0] * 4
    b, w = draw(3).requires_grad_(), draw(3).requires_grad_()
    c = two_layer(draw(0), b, w)
    assert c.shape == (0,)
    assert [one.tolist() for one in torch.autograd.grad(c.sum(), (b, w))] == [[0.0] * 3] * 2


@NETWORKS
def test_infinity_and_nan_pass_as_in_torch_even_beside_the_padding(two_layer):
    inf, nan = math.inf, math.nan
    z = torch.tensor([inf, -inf, nan, 1.0])
    c = two_layer(z, torch.zeros(3), torch.ones(3))
    assert_close(c, torch.tensor([inf, 0.0, nan, 3.0]), equal_nan=True)
    assert two_layer(z[:1], torch.tensor([inf]), torch.ones(1)).isnan().all()  # ∞ − ∞
    assert two_layer(-torch.ones(1), torch.zeros(1), torch.tensor([inf])).isnan().all()  # 0·∞


@NETWORKS
def test_an_infinite_gradient_stays_with_the_ramps_that_are_on(two_layer):
    z, b, w = (torch.tensor(v).requires_grad_() for v in ([1.0, -1.0], [0.0, 5.0], [2.0, 3.0]))
    got = torch.autograd.grad(two_layer(z, b, w), (z, b, w), torch.tensor([math.inf, 1.0]))
    assert [one.tolist()[:1] for one in got[:2]] == [[math.inf], [-math.inf]]
    assert (got[0][1], got[1][1]) == (0.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@NETWORKS
def test_half_precision_is_rounded_once(two_layer, dtype):
    z, b, w = (draw(500, seed=seed, dtype=dtype) for seed in range(3))
    want = torch.tensor(by_loops(z[:9].double(), b.double(), w.double()), dtype=torch.float64)
    assert_close(two_layer(z[:9], b, w), want.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_gradients_of_many_halves_are_rounded_once(dtype):
    grad, z = draw(300, dtype=dtype), draw(300, seed=1, dtype=dtype)
    b, w = draw(3, seed=2, dtype=dtype), draw(3, seed=3, dtype=dtype)
    _, *want = gradients_by_numpy(*(one.double() for one in (grad, z, b, w)))
    got = kernel._backward_units_op(grad, z, b, w)
    for one, exact in zip(got, want, strict=True):
        assert_close(one, torch.from_numpy(exact).to(dtype))
    want, *_ = gradients_by_numpy(*(one.double() for one in (w, b, z, grad)))
    assert_close(
        kernel._backward_samples_op(w, b, z, grad),
        torch.from_numpy(want).to(dtype),
    )


@NETWORKS
def test_strides_do_not_matter(two_layer):
    pool = draw(3, 40)
    z, b, w = pool.t()[::2].t()
    assert_close(two_layer(z, b, w), method.two_layer(z.clone(), b.clone(), w.clone()))


def test_only_what_is_asked_for_is_computed(monkeypatch):
    z, b, w = draw(4), draw(3), draw(3).requires_grad_()
    monkeypatch.setattr(kernel, "_backward_samples_op", None)
    (got,) = torch.autograd.grad(kernel.two_layer(z, b, w).sum(), w)
    assert_close(got, torch.relu(z[:, None] - b).sum(0))


def test_a_gradient_of_the_gradient_is_that_of_the_twin():
    values = [draw(5), draw(4, seed=1), draw(4, seed=2)]

    def twice(two_layer):
        leaves = [one.clone().requires_grad_() for one in values]
        first = torch.autograd.grad(two_layer(*leaves).pow(2).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(one.pow(2).sum() for one in first), leaves)

    assert_close(twice(kernel.two_layer), twice(method.two_layer))


@NETWORKS
@pytest.mark.parametrize(
    "arguments",
    [
        (torch.zeros(2, 2), torch.zeros(3), torch.zeros(3)),
        (torch.zeros(2), torch.zeros(3), torch.zeros(4)),
        (torch.zeros(()), torch.zeros(3), torch.zeros(3)),
        (torch.zeros(2), torch.zeros(3, 1), torch.zeros(3, 1)),
        (torch.zeros(2).double(), torch.zeros(3), torch.zeros(3)),
        (torch.zeros(2).long(), torch.zeros(3).long(), torch.zeros(3).long()),
    ],
)
def test_other_shapes_and_dtypes_are_refused(two_layer, arguments):
    with pytest.raises(ValueError, match="z"):
        two_layer(*arguments)


# The theorem


@pytest.mark.parametrize(("n", "d"), [(1, 1), (2, 1), (3, 7), (100, 1), (500, 2), (2000, 10), (300, 3072)])
@pytest.mark.parametrize("labels", ["real", "classes"])
def test_any_labels_of_any_samples_are_fitted_by_two_n_plus_d_numbers(n, d, labels):
    x = draw(n, d)
    y = draw(n, seed=1) if labels == "real" else torch.randint(0, 10, (n,), generator=torch.Generator().manual_seed(1))
    a, b, w = method.memorize(x, y)
    assert a.numel() + b.numel() + w.numel() == 2 * n + d
    z = (x @ a).numpy()
    c = np.maximum(z[:, None] - b.numpy(), 0.0) @ w.numpy()
    assert np.abs(c - y.numpy()).max() < TOLERANCE


def test_the_kernel_reads_the_same_network():
    x, y = draw(70, 5), draw(70, seed=1)
    assert misfit(x, y, kernel.two_layer) < TOLERANCE


def test_the_matrix_is_lower_triangular_with_a_positive_diagonal():
    x = draw(60, 4)
    a, b, _ = method.memorize(x, draw(60, seed=1))
    z = (x @ a).sort().values
    matrix = torch.relu(z[:, None] - b)
    assert (matrix.triu(1) == 0).all()
    assert (matrix.diagonal() > 0).all()


def test_its_weights_are_those_of_a_triangular_solver():
    x, y = draw(40, 4), draw(40, seed=1)
    a, b, w = method.memorize(x, y)
    z, order = (x @ a).sort()
    solved = torch.linalg.solve_triangular(torch.relu(z[:, None] - b), y[order][:, None], upper=False)[:, 0]
    assert_close(w, solved, rtol=1e-8, atol=1e-8 * w.abs().max().item())


def test_between_neighbors_the_network_is_a_straight_line():
    x, y = draw(50, 3), draw(50, seed=1)
    a, b, w = method.memorize(x, y)
    z, order = (x @ a).sort()
    between = torch.linspace(z[0], z[-1], 777, dtype=torch.float64)
    want = np.interp(between.numpy(), z.numpy(), y[order].numpy())
    assert_close(method.two_layer(between, b, w), torch.from_numpy(want), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "x",
    [
        1e-9 * draw(200, 5),
        1e-310 * draw(9, 5),
        1e300 * draw(200, 5),
        1 + 1e-6 * draw(200, 5),
        torch.arange(400.0, dtype=torch.float64)[:, None],
        (draw(300, 20) > 0).double(),
        draw(200, 30)[:, ::3],
    ],
    ids=["tiny", "subnormal", "huge", "close together", "a grid", "binary", "strided"],
)
def test_the_scale_and_place_of_the_samples_do_not_matter(x):
    assert misfit(x, draw(len(x), seed=1)) < TOLERANCE


def test_no_samples_need_no_units():
    a, b, w = method.memorize(draw(0, 3), draw(0))
    assert (a.shape, b.shape, w.shape) == ((3,), (0,), (0,))
    assert method.two_layer(draw(0, 3) @ a, b, w).shape == (0,)


def test_a_sample_seen_twice_needs_no_further_weight():
    x, y = draw(30, 3), draw(30, seed=1)
    x, y = torch.cat([x, x, x[:7]]), torch.cat([y, y, y[:7]])
    assert misfit(x, y) < TOLERANCE
    _, b, w = method.memorize(x, y)
    assert len(b) == 67
    assert (w != 0).sum() <= 30
    assert misfit(torch.zeros(4, 2).double(), torch.full((4,), 3.0).double()) < TOLERANCE


def test_one_sample_with_two_labels_is_an_error():
    x = draw(30, 3)
    with pytest.raises(ValueError, match="equal"):
        method.memorize(torch.cat([x, x[:1]]), draw(31, seed=1))
    with pytest.raises(ValueError, match="bfloat16"):
        method.memorize(draw(4000, 1).bfloat16(), draw(4000, seed=1))


def test_it_is_the_same_every_time_and_leaves_torchs_generator_alone():
    x, y = draw(50, 6), draw(50, seed=1)
    before = torch.random.get_rng_state()
    once = method.memorize(x, y)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(5)
    assert all(torch.equal(p, q) for p, q in zip(once, method.memorize(x, y), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_parameters_have_the_dtype_of_the_samples(dtype):
    x = draw(6, 3, dtype=dtype)
    x.requires_grad_()
    a, b, w = method.memorize(x, torch.arange(6))
    assert (a.dtype, b.dtype, w.dtype) == (dtype, dtype, dtype)
    assert not (a.requires_grad or b.requires_grad or w.requires_grad)
    slack = 0.3 if dtype.itemsize == 2 else 1e-3
    assert (method.two_layer(x.detach() @ a, b, w).double() - torch.arange(6)).abs().max() < slack
    zeros = method.memorize(torch.zeros(3, 2, dtype=dtype), torch.zeros(3))
    assert all(one.isfinite().all() for one in zeros)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (torch.zeros(3), torch.zeros(3), "matrix"),
        (torch.zeros(3, 0), torch.zeros(3), "matrix"),
        (torch.zeros(3, 2).long(), torch.zeros(3), "matrix"),
        (torch.zeros(3, 2), torch.zeros(4), "3 real numbers"),
        (torch.zeros(3, 2), torch.zeros(3, 1), "3 real numbers"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.complex64), "3 real numbers"),
        (torch.full((3, 2), math.nan), torch.zeros(3), "finite"),
        (torch.ones(3, 2), torch.full((3,), math.inf), "finite"),
    ],
)
def test_what_cannot_be_memorized_is_refused(x, y, says):
    with pytest.raises(ValueError, match=says):
        method.memorize(x, y)


def test_random_labels_carry_nothing_over_to_new_samples():
    x, y = draw(400, 20), (draw(400, seed=1) > 0).double()
    a, b, w = method.memorize(x[:200], y[:200])
    guessed = method.two_layer(x[200:] @ a, b, w) > 0.5
    assert 0.35 < (guessed != (y[200:] > 0.5)).double().mean() < 0.65
