"""Co-activation and the correlation of gradients, against closed forms, loops and autograd."""

import math

import numpy as np
import pytest
import torch

from snippets.shattered_gradients import experiment, kernel, method

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BOTH = pytest.mark.parametrize("co_activation", [method.co_activation, kernel.co_activation], ids=["method", "kernel"])


def counted(x):
    """Count in Python integers, divide in float64, round once: the only right answer, bit by bit."""
    masks = [{n for n, value in enumerate(row) if value > 0} for row in x.double().tolist()]
    rows = [[len(a & b) / x.shape[1] for b in masks] for a in masks]
    return torch.tensor(rows, dtype=torch.float64).to(torch.float64 if x.dtype == torch.float64 else torch.float32)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 7), (2, 16), (5, 15), (31, 67), (64, 32), (65, 33), (3, 1023), (130, 1100)]
)
def test_counts_are_exact_and_rounded_once(co_activation, dtype, shape):
    x = normal(*shape, dtype=dtype)
    assert torch.equal(co_activation(x), counted(x))


@BOTH
def test_result_is_float32_and_float64_for_float64(co_activation):
    for dtype in DTYPES:
        assert co_activation(normal(3, 5, dtype=dtype)).dtype == (
            torch.float64 if dtype == torch.float64 else torch.float32
        )


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
def test_only_what_exceeds_zero_is_active(co_activation, dtype):
    tiny = torch.finfo(dtype).smallest_normal
    row = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, tiny, -tiny, 80.0, -80.0]
    x = torch.tensor([row, [1.0] * len(row)], dtype=dtype)
    expected = torch.tensor([[3 / 9, 3 / 9], [3 / 9, 1.0]], dtype=torch.float64)
    assert torch.equal(co_activation(x), expected.to(co_activation(x).dtype))


@BOTH
def test_all_active_gives_one_and_none_active_gives_zero(co_activation):
    assert torch.equal(co_activation(torch.ones(4, 100)), torch.ones(4, 4))
    assert torch.equal(co_activation(torch.zeros(4, 100)), torch.zeros(4, 4))


@BOTH
def test_an_empty_batch_gives_an_empty_matrix_and_no_units_give_nan(co_activation):
    assert co_activation(torch.ones(0, 5)).shape == (0, 0)
    nothing = co_activation(torch.ones(3, 0))
    assert nothing.shape == (3, 3) and nothing.isnan().all()
    assert co_activation(torch.ones(0, 0)).shape == (0, 0)


@BOTH
def test_transposed_sliced_and_expanded_inputs_give_the_same(co_activation):
    x = normal(70, 140)
    for view in (x.T, x[::2], x[:, ::3], x[3:, 5:], x[1:2].expand(9, 140), x[:, 4:5].expand(70, 33), x.T[::2, 1:]):
        assert torch.equal(co_activation(view), counted(view))


@BOTH
def test_nothing_outside_the_view_is_counted(co_activation):
    # Everything around the view is active: a mask that lets one neighbor in would raise a count.
    buffer = torch.ones(80, 200)
    view = buffer[3:70, 8:105]
    view.copy_(normal(67, 97))
    assert torch.equal(co_activation(view), counted(view))


@BOTH
def test_there_is_no_gradient(co_activation):
    x = normal(3, 8).requires_grad_()
    assert not co_activation(x).requires_grad


@BOTH
@pytest.mark.parametrize("x", [torch.ones(3), torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.int64)])
def test_anything_but_a_floating_matrix_is_refused(co_activation, x):
    with pytest.raises(ValueError, match=r"floating \[batch, unit\] matrix"):
        co_activation(x)


def test_more_units_than_int32_counts_are_refused_by_the_kernel():
    with pytest.raises(ValueError, match="int32"):
        kernel.co_activation(torch.zeros(1, 1).expand(1, 2**31))


def test_the_method_counts_on_where_float32_stops():
    n = method.EXACT_UNITS + 3
    x = torch.ones(1, n, dtype=torch.float16)
    x[0, 5] = -1
    assert method.co_activation(x).item() == torch.tensor((n - 1) / n, dtype=torch.float64).float().item()


def test_small_batches_of_many_units_share_out_the_units_and_large_ones_do_not():
    assert kernel._shares(4, 100_000)[0] > 1
    assert kernel._shares(8192, 8192)[0] == 1
    for batch, units in ((1, 1), (3, 1023), (4, 100_000), (200, 777), (65, 2**20)):
        shares, share = kernel._shares(batch, units)
        assert share % kernel.STEP == 0
        assert (shares - 1) * share < units <= shares * share


def test_shared_counts_come_out_the_same_twice():
    x = normal(40, 3000)
    assert kernel._shares(*x.shape)[0] > 1
    assert torch.equal(kernel.co_activation(x), kernel.co_activation(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_op_is_registered_as_torch_asks(dtype):
    torch.library.opcheck(torch.ops.papernotes.co_activation.default, (normal(5, 37, dtype=dtype),))


def test_it_compiles_without_a_graph_break():
    x = normal(20, 50)
    assert torch.equal(torch.compile(kernel.co_activation, fullgraph=True)(x), counted(x))


def test_independent_inputs_share_a_quarter_and_correlated_ones_more():
    # For two normal variables of correlation ρ, P(both > 0) = 1/4 + arcsin(ρ)/2π.
    a, b = normal(2, 400_000)
    for rho in (0.0, 0.5, 0.9):
        c = method.co_activation(torch.stack([a, rho * a + math.sqrt(1 - rho**2) * b]))
        assert c[0, 1].item() == pytest.approx(0.25 + math.asin(rho) / (2 * math.pi), abs=0.003)
        assert c[0, 0].item() == pytest.approx(0.5, abs=0.003)  # each is active for half: the quarter is of pairs


@pytest.mark.parametrize("net", experiment.NETS, ids=lambda net: net.name)
def test_the_jacobian_is_autograds_with_the_statistics_held_fixed(net):
    x, weight = normal(9, 6, dtype=torch.float64), normal(6, 6, seed=1, dtype=torch.float64)
    mean, slope = (x.mean(0), (x.var(0, correction=0) + 1e-5).rsqrt()) if net.bn else (0.0, 1.0)

    def forward(row):
        y = net.beta * weight @ ((row - mean) * slope).relu()
        return row + y if net.skip else y

    got, jacobian, _ = method.block(x, torch.eye(6).double().expand(4, 6, 6), weight, net.skip, net.bn, net.beta)
    for i in range(9):
        torch.testing.assert_close(got[i], forward(x[i]))
    for i in range(4):
        torch.testing.assert_close(jacobian[i], torch.autograd.functional.jacobian(forward, x[i]).T)


def test_gradient_correlation_is_the_average_over_random_readouts():
    jacobian = normal(3, 5, 8, dtype=torch.float64) + 0.5
    covariance = [[sum((a[d] @ b[d]).item() for d in range(5)) for b in jacobian] for a in jacobian]
    got = method.gradient_correlation(jacobian)
    for i in range(3):
        for j in range(3):
            assert got[i, j].item() == pytest.approx(covariance[i][j] / math.sqrt(covariance[i][i] * covariance[j][j]))


def fall(layers, dtype, spread):
    """Follow two Jacobians down a plain net of 64 units whose weights have the given standard deviation."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(8, 64, generator=generator).to(dtype)
    jacobian = torch.eye(64, dtype=dtype).expand(2, 64, 64)
    for _ in range(layers):
        weight = (torch.rand(64, 64, generator=generator) * 2 - 1) * 3**0.5 * spread
        x, jacobian, _ = method.block(x, jacobian, weight.to(dtype))
    return jacobian


@pytest.mark.parametrize("layers", [50, 70])
def test_the_correlation_survives_gradients_whose_squares_underflow(layers):
    # U(±1/√N), torch's own initialization, has variance 1/3N: each layer leaves a sixth of the gradient's power.
    low, high = (fall(layers, dtype, (1 / 3 / 64) ** 0.5) for dtype in (torch.float32, torch.float64))
    assert 0 < low.abs().max() < 1e-17
    if layers == 70:
        assert low.square().sum() == 0
    torch.testing.assert_close(
        method.gradient_correlation(low).double(), method.gradient_correlation(high), rtol=0, atol=1e-4
    )


def test_he_weights_neither_vanish_nor_explode_in_fifty_layers():
    assert 1e-3 < fall(50, torch.float32, (2 / 64) ** 0.5).square().sum() / 64 < 1e3


def test_he_weights_have_variance_two_over_fan_in():
    weight = method.he_normal(300, 500, torch.Generator().manual_seed(0))
    assert weight.var().item() == pytest.approx(2 / 500, rel=0.02)


def test_theorem_1_holds_where_coins_switch_the_units():
    found = np.mean([experiment.descend(experiment.PLAIN, s, 5, coins=True).correlation for s in range(6)], 0)
    assert found == pytest.approx(0.5 ** np.arange(1, 6), abs=0.012)


def test_theorem_2_holds_where_coins_switch_the_units():
    found = np.mean([experiment.descend(experiment.RESIDUAL, s, 5, coins=True).correlation for s in range(6)], 0)
    assert found == pytest.approx(0.75 ** np.arange(1, 6), abs=0.012)


def test_theorem_3s_product_has_the_papers_variance_and_falls_as_one_over_root_depth():
    for beta in (0.1, 1.0):
        added = beta**2 / (1 + beta**2 * np.arange(64))
        assert np.prod(1 + added) == pytest.approx(1 + beta**2 * 64)
    far = experiment.theorem_3(1.0, layers=100_000)
    assert math.log(far[-1] / far[999]) / math.log(100) == pytest.approx(-0.5, abs=0.001)


def test_a_branch_adds_less_than_one_to_the_variance_because_its_mean_is_shared():
    # The mean of ρ(u) is 1/√2π a unit: 1/π of the branch's second moment, the same for every input.
    x = normal(4096, 200)
    branch = x.relu() @ method.he_normal(200, 200, torch.Generator().manual_seed(1)).T
    assert branch.square().mean().item() == pytest.approx(1.0, rel=0.1)
    assert branch.var(0).mean().item() == pytest.approx(experiment.CENTERED, rel=0.02)


def test_without_bn_co_activation_climbs_and_with_it_it_stays():
    plain, normed = (experiment.descend(net, 0, 24) for net in (experiment.PLAIN, experiment.PLAIN_BN))
    assert plain.co_active[-1] > 0.38
    assert np.abs(normed.co_active - 0.25).max() < 0.02
    assert np.abs(normed.active - 0.5).max() < 0.01


def test_the_infinite_width_curve_starts_at_the_theorems_and_leaves_them_above():
    plain, residual = experiment.infinite_width(False), experiment.infinite_width(True)
    assert plain[0] == pytest.approx(0.5) and residual[0] == pytest.approx(0.75)
    # Layer 2 sees ρ = 1/π: it keeps 1/2 + arcsin(1/π)/π of the gradient.
    assert plain[1] / plain[0] == pytest.approx(0.5 + math.asin(1 / math.pi) / math.pi)
    layers = np.arange(2, 65)
    assert (plain[1:] > 0.5**layers).all() and (residual[1:] > 0.75**layers).all()
    far = experiment.infinite_width(False, 40_000)
    assert math.log(far[-1] / far[9_999]) / math.log(4) == pytest.approx(-3, abs=0.05)


def test_autocorrelation_agrees_with_numpy():
    curve = normal(1, 256, dtype=torch.float64)
    z = curve[0].numpy() - curve[0].numpy().mean()
    full = np.correlate(z, z, "full")[255:]
    assert experiment.autocorrelation(curve) == pytest.approx(full[: experiment.LAGS + 1] / full[0])


def test_a_curve_is_the_derivative_of_its_network():
    # Without BN the curve can be integrated: its steps are the slopes of a piecewise linear function.
    generator = torch.Generator().manual_seed(1000)
    w, b = torch.randn(2, experiment.WIDTH, generator=generator)
    weight = method.he_normal(experiment.WIDTH, experiment.WIDTH, generator)
    readout = torch.randn(experiment.WIDTH, 1, generator=generator)
    inputs = torch.linspace(-2, 2, experiment.GRID)[:, None].requires_grad_()
    y = (inputs * w + b).relu() @ weight.T @ readout
    (slope,) = torch.autograd.grad(y.sum(), inputs)
    torch.testing.assert_close(
        experiment.gradient_curves(experiment.PLAIN, (1,), 0, 1)[1][0], slope[:, 0], rtol=1e-4, atol=1e-5
    )
