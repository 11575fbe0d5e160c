"""What Salimans and Kingma state of w = g·v/‖v‖, and that the kernels say the same at every size and extreme."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close

from generator.lab.kernels import TOLERANCE
from snippets.weight_norm import experiment, kernel, method

BOTH = pytest.mark.parametrize("weight_norm", [method.weight_norm, kernel.weight_norm], ids=["method", "kernel"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
# (shape, dim): short channels, columns, a middle dimension, one norm for all, and channels longer than one program holds
PLACES = [
    ((5, 7), 0), ((5, 7), 1), ((5, 7), -2), ((5, 7), -1), ((5, 7), None), ((4, 3, 3, 3), 0), ((4, 3, 3, 3), 1), ((2, 3, 5), 2),
    ((6,), 0), ((6,), None), ((3, 1), 0), ((1, 4), 1), ((2, 17_001), 0), ((1100, 33), 1), ((3, 2, 6000), 1), ((20_001,), None),
]  # fmt: skip


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def lengths_of(v, dim, seed=1):
    """Return a random g of the shape that torch gives ‖v‖ for this dim."""
    return draw(*torch.norm_except_dim(v.double(), 2, -1 if dim is None else dim).shape, dtype=v.dtype, seed=seed)


def by_loops(v, g, grad, dim):
    """Equations 2 and 3, channel by channel, in Python's float sums: w, dL/dv, dL/dg."""
    if dim is None or dim == -1:
        channels = [(...,)]
    else:
        channels = [(slice(None),) * (dim % v.dim()) + (n,) for n in range(v.shape[dim])]
    w, dv, dg = torch.empty_like(v), torch.empty_like(v), torch.empty(len(channels), dtype=v.dtype)
    for n, at in enumerate(channels):
        row, down, length = v[at].flatten().tolist(), grad[at].flatten().tolist(), g.flatten()[n].item()
        norm = math.sqrt(math.fsum(a * a for a in row))
        dg[n] = math.fsum(a * b for a, b in zip(row, down, strict=True)) / norm
        w[at] = length * v[at] / norm
        dv[at] = length / norm * grad[at] - length * dg[n] / norm**2 * v[at]
    return w, dv, dg.reshape(g.shape)


def run(weight_norm, v, g, grad, dim=0):
    v, g = (one.detach().clone().requires_grad_() for one in (v, g))
    w = weight_norm(v, g, dim)
    return w.detach(), *torch.autograd.grad(w, (v, g), grad)


# Equations 2 and 3


@BOTH
@pytest.mark.parametrize(("shape", "dim"), PLACES, ids=str)
def test_forward_and_both_gradients_are_equations_2_and_3_along_any_dim(weight_norm, shape, dim):
    v, grad = draw(*shape), draw(*shape, seed=2)
    g = lengths_of(v, dim)
    assert_close(run(weight_norm, v, g, grad, dim), by_loops(v, g, grad, dim), rtol=1e-10, atol=1e-11)


@BOTH
@pytest.mark.parametrize(
    ("module", "dim"), [(nn.Linear(9, 4), 0), (nn.Linear(9, 4), 1), (nn.Linear(9, 4), None), (nn.Conv2d(3, 5, 3), 0),
                        (nn.ConvTranspose2d(3, 5, 3), 1), (nn.Conv1d(4, 6, 2), -2), (nn.Conv1d(4, 6, 2), -1)]
)  # fmt: skip
def test_it_is_torchs_parametrization_for_every_layer_and_dim(weight_norm, module, dim):
    layer = parametrizations.weight_norm(type(module)(*_arguments(module)), dim=dim)
    held = layer.parametrizations.weight
    with torch.no_grad():
        held.original0.mul_(1.7)  # away from g = ‖v‖, where w = v
    grad = draw(*layer.weight.shape, dtype=torch.float32)
    want = layer.weight.detach(), *torch.autograd.grad(layer.weight, (held.original1, held.original0), grad)
    assert_close(run(weight_norm, held.original1, held.original0, grad, dim), want)


def _arguments(module):
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.in_channels, module.out_channels, module.kernel_size


@BOTH
def test_each_row_of_w_has_the_length_g_whatever_the_length_of_v(weight_norm):
    v, g = draw(6, 40), draw(6).abs()
    for scale in (1e-3, 1.0, 1e6):
        assert_close(weight_norm(scale * v, g).norm(dim=1), g)


@BOTH
@DTYPES
def test_the_gradient_is_orthogonal_to_v(weight_norm, dtype):
    v, g, grad = draw(20, 300, dtype=dtype), draw(20, dtype=dtype), draw(20, 300, dtype=dtype, seed=2)
    _, dv, _ = (one.double() for one in run(weight_norm, v, g, grad))
    cosine = nn.functional.cosine_similarity(dv, v.double(), dim=1).abs().max().item()
    # a rounded gradient leans by its rounding over √300; the paper's statement is about exact ones
    assert cosine < {torch.float64: 1e-15, torch.float32: 1e-6}.get(dtype, torch.finfo(dtype).eps / 4)


def test_a_step_of_plain_gradient_descent_obeys_pythagoras_and_never_shortens_v():
    v, g = draw(8, 30), draw(8).abs() + 0.5
    for step in range(20):
        grad = draw(8, 30, seed=step + 10)
        _, dv, _ = run(kernel.weight_norm, v, g, grad)
        after = v - 0.3 * dv
        assert_close(after.norm(dim=1) ** 2, v.norm(dim=1) ** 2 + 0.09 * dv.norm(dim=1) ** 2)
        assert (after.norm(dim=1) > v.norm(dim=1)).all()
        v = after


# The initialization and the networks of the experiment


def test_the_first_batch_comes_out_with_mean_zero_and_variance_one_in_every_layer():
    x = draw(300, 64, dtype=torch.float32).relu()
    for t in experiment.pre_activations(experiment.network(3, x, weight=True), x):
        assert t.mean(0).abs().max() < 1e-5
        assert (t.var(0, correction=0).sqrt() - 1).abs().max() < 1e-4


def test_all_five_networks_start_as_the_same_function_of_the_first_batch():
    x = draw(300, 64, dtype=torch.float32).relu()
    outputs = [experiment.network(3, x, **kind)(x) for kind in experiment.NETWORKS.values()]
    for y in outputs[1:]:
        assert_close(y, outputs[0], rtol=1e-3, atol=1e-3)  # ten layers of float32, and BN's 1e-5


def test_every_layer_of_the_weight_normalized_net_goes_through_the_method(monkeypatch):
    x, seen = draw(300, 64, dtype=torch.float32), []
    net = experiment.network(0, x, weight=True)
    plain = method.weight_norm
    monkeypatch.setattr(method, "weight_norm", lambda v, g, dim=0: seen.append(v) or plain(v, g, dim))
    net(x)
    assert [id(one) for one in seen] == [id(layer.v) for layer in experiment.layers(net)]


def test_batch_norm_is_torchs_in_training_and_running_statistics_serve_evaluation():
    x = draw(50, 64, dtype=torch.float32)
    layer = experiment.Layer(64, 8, mean=True, deviation=True)
    want = nn.functional.batch_norm(x @ layer.v.T, None, None, layer.g, layer.b, training=True)
    assert_close(layer(x), want)
    running = nn.functional.batch_norm(x @ layer.v.T, layer.running_mean, layer.running_variance, layer.g, layer.b)
    assert_close(layer.eval()(x), running)


# Extremes


@BOTH
@DTYPES
def test_a_zero_row_is_nan_as_in_torch_forward_and_backward_and_leaves_its_neighbors_alone(weight_norm, dtype):
    v, g, grad = draw(4, 9, dtype=dtype), draw(4, 1, dtype=dtype), draw(4, 9, dtype=dtype, seed=2)
    v[2] = 0
    got, want = run(weight_norm, v, g, grad), run(torch._weight_norm, v, g, grad)
    for mine, theirs in zip(got, want, strict=True):
        assert torch.equal(mine.isnan(), theirs.isnan())
        assert mine[2].isnan().all()
        assert not mine[[0, 1, 3]].isnan().any()


@BOTH
@pytest.mark.parametrize("where", ["v", "g"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 0.0])
@pytest.mark.parametrize("size", [9, 16_400])
def test_infinity_and_nan_go_where_torch_sends_them(weight_norm, where, value, size):
    v, g, grad = draw(2, size), draw(2, 1), draw(2, size, seed=2)
    v[0, 3] = 0
    (v if where == "v" else g)[0, 0] = value
    for mine, theirs in zip(run(weight_norm, v, g, grad), run(torch._weight_norm, v, g, grad), strict=True):
        assert_close(mine, theirs, equal_nan=True)


SHORT, LONG, TALL, ALL = ((3, 50), 0), ((1, 17_000), 0), ((1100, 16), 1), ((17_000,), None)
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
EXTREMES = [
    (60_000.0, F16, SHORT), (6e-8, F16, SHORT), (60_000.0, F16, LONG), (3e38, BF16, SHORT), (1e-37, BF16, ALL), (1e30, F32, SHORT),
    (1e30, F32, LONG), (1e30, F32, TALL), (3e38, F32, SHORT), (3e38, F32, ALL), (1e-30, F32, SHORT), (1e-30, F32, TALL),
    (1e-42, F32, SHORT), (1e-42, F32, LONG), (1e300, F64, SHORT), (1e300, F64, LONG), (1e-310, F64, SHORT), (1e-310, F64, ALL),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("value", "dtype", "place"), EXTREMES, ids=str)
def test_rows_whose_squares_overflow_or_vanish_are_right(weight_norm, value, dtype, place):
    """By scale: w and dL/dg of c·v are those of v, and dL/dv is 1/c of it."""
    shape, dim = place
    v = torch.full(shape, -value, dtype=dtype)
    v.view(-1)[::3] *= 0.5
    largest = v.double().abs().max()
    g, grad = lengths_of(v, dim), draw(*shape, dtype=dtype, seed=2)
    w, dv, dg = run(weight_norm, v, g, grad, dim)
    want_w, want_dv, want_dg = by_loops(v.double() / largest, g.double(), grad.double(), dim)
    rtol, atol = TOLERANCE[dtype]
    atol *= (v.numel() / g.numel()) ** 0.5  # sums of that many terms
    assert_close(w, want_w.to(dtype))
    assert_close(dg, want_dg.to(dtype), rtol=rtol, atol=atol)
    assert not dv.isnan().any()
    if 1e-30 <= value <= 1e30 or (value, dtype) == (1e300, F64):  # else dL/dv is no normal number of its dtype
        assert_close(dv.double() * largest, (want_dv / largest).to(dtype).double() * largest, rtol=rtol, atol=atol)


def test_one_huge_entry_among_chunks_of_moderate_ones_keeps_its_weight():
    v = torch.ones(1, 20_000)
    v[0, 19_000] = 1e25
    w = kernel.weight_norm(v, torch.ones(1))
    assert w[0, 19_000] == 1
    assert_close(w[0, :5], torch.full((5,), 1e-25))


def test_chunks_under_different_powers_of_two_add_up():
    v = torch.full((1, 20_000), 1e25)
    v[0, 9_000:] = 3e25
    v[0, 18_000:] = 1.0
    want = (v.double() / v.double().norm()).float()
    assert_close(kernel.weight_norm(v, torch.ones(1)), want, rtol=1.3e-6, atol=0)


def test_a_long_fp32_row_is_summed_to_the_last_digits():
    v = torch.full((1, 300_000), 0.1)
    assert_close(kernel.weight_norm(v, torch.ones(1)), torch.full((1, 300_000), 300_000**-0.5), rtol=3e-7, atol=0)


@BOTH
@pytest.mark.parametrize(
    ("shape", "dim"), [((0, 3), 0), ((3, 0), 0), ((0, 3), 1), ((2, 0, 3), 1), ((0,), None)], ids=str
)
def test_an_empty_v_gives_an_empty_w_and_gradients_of_zero(weight_norm, shape, dim):
    v = torch.empty(shape)
    g = torch.ones([] if dim is None else [shape[dim]])
    w, dv, dg = run(weight_norm, v, g, torch.empty(shape), dim)
    assert w.shape == dv.shape == v.shape
    assert torch.equal(dg, torch.zeros_like(g))


@BOTH
def test_a_number_without_dimensions_keeps_its_sign_and_takes_the_length(weight_norm):
    assert weight_norm(torch.tensor(-3.0), torch.tensor(2.0), None).item() == -2


# Layout, arguments, memory


@pytest.mark.parametrize("dim", [0, 1, 2, 3, None])
def test_any_layout_is_read_where_it_lies_and_w_lies_like_v(dim):
    base = draw(4, 6, 5, 3)
    for v in (
        base.to(memory_format=torch.channels_last),
        base.permute(2, 0, 3, 1),
        base[::2, 1:],
        base[:, :1].expand(4, 6, 5, 3),
    ):
        g = lengths_of(v, dim)
        for grad in (draw(*v.shape, seed=2), draw(1, dtype=v.dtype).expand(v.shape)):
            want = by_loops(v, g, grad, dim)
            assert_close(run(kernel.weight_norm, v, g, grad, dim), want)
        assert kernel.weight_norm(v, g, dim).stride() == torch.empty_like(v).stride()


def test_no_dim_costs_a_copy_of_v(monkeypatch):
    base = draw(64, 48)
    for v, dim in ((base, 0), (base, 1), (base.t(), 0), (base.t(), 1)):
        g, made = lengths_of(v, dim), []
        plain = torch.empty_like
        with monkeypatch.context() as patch:
            patch.setattr(
                torch,
                "empty_like",
                lambda t, *a, plain=plain, made=made, **k: made.append(t.shape) or plain(t, *a, **k),
            )
            kernel.weight_norm(v, g, dim)
        assert len(made) == 1  # w


@BOTH
def test_g_may_be_one_dimensional_or_shaped_to_broadcast_and_its_gradient_has_its_shape(weight_norm):
    v, g, grad = draw(4, 3, 2), draw(3), draw(4, 3, 2, seed=2)
    flat, shaped = run(weight_norm, v, g, grad, 1), run(weight_norm, v, g.view(1, 3, 1), grad, 1)
    assert_close(flat[:2], shaped[:2])
    assert flat[2].shape == (3,)
    assert shaped[2].shape == (1, 3, 1)


@BOTH
@pytest.mark.parametrize(
    ("v", "g", "dim", "said"),
    [
        (draw(4, 3), draw(3), 0, "must have shape"),
        (draw(4, 3), draw(1, 4), 0, "must have shape"),
        (draw(4, 3), draw(), 0, "must have shape"),
        (draw(4, 3), draw(1, 3), -1, "write dim=1"),
        (draw(4, 3), draw(3), None, "one norm"),
        (draw(4, 3), draw(4), 2, "no dim 2"),
        (draw(4, 3), draw(4), -3, "no dim -3"),
        (draw(), draw(), 0, "no dim 0"),
        (draw(4, 3), draw(4, dtype=torch.float32), 0, "one floating dtype"),
        (torch.ones(4, 3, dtype=torch.int64), torch.ones(4, dtype=torch.int64), 0, "one floating dtype"),
    ],
)
def test_bad_arguments_are_refused_with_a_hint(weight_norm, v, g, dim, said):
    with pytest.raises(ValueError, match=said):
        weight_norm(v, g, dim)


@BOTH
def test_a_gradient_of_the_gradient_is_right(weight_norm):
    v, g = draw(3, 4).requires_grad_(), draw(3).requires_grad_()
    assert torch.autograd.gradgradcheck(weight_norm, (v, g))


def test_the_backward_keeps_v_g_and_two_numbers_a_channel():
    v, g, saved = draw(8, 500, dtype=torch.float16).requires_grad_(), draw(8, dtype=torch.float16).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        kernel.weight_norm(v, g)
    assert sorted(one.numel() for one in saved) == [8, 16, 4000]
    assert saved[0].data_ptr() == v.data_ptr()


def test_the_work_is_cut_for_any_size():
    for sizes in (
        (1, 1, 1),
        (1, 1_000_003, 3),
        (1, 5, 2**31),
        (2**20, 7, 1),
        (4096, 4096, 1),
        (512, 256, 9),
        (3, 1, 16_384),
    ):
        for double in (False, True):
            tile, chunks, steps = kernel._tiles(*sizes, double)
            elements = tile["OUTER"] * tile["CHANNEL"] * tile["INNER"]
            assert elements <= (kernel.FIT // 2 if double else kernel.FIT)
            tiles = math.ceil(sizes[0] / tile["OUTER"]) * math.ceil(sizes[2] / tile["INNER"])
            assert tiles == 1 if not chunks else chunks * steps >= tiles > (chunks - 1) * steps
