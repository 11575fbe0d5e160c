"""What the Inception-v4 paper says of its networks and residuals, against numbers found another way."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from snippets.inception_v4 import experiment, kernel, method

BOTH = pytest.mark.parametrize("scaled", [method.scaled_residual, kernel.scaled_residual], ids=["method", "kernel"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
SCALES = pytest.mark.parametrize("scale", [0.1, 0.3, 1.0, 1, 0.0, -0.5, 1e-3])
NAMES = list(method.NETWORKS)


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).mul(3).to(dtype)


def value_and_gradients(scaled, x, branch, scale, grad):
    x, branch = (t.detach().clone().requires_grad_() for t in (x, branch))
    y = scaled(x, branch, scale)
    return y.detach(), *torch.autograd.grad(y, (x, branch), grad)


def by_loop(x, branch, scale, grad):
    """Element by element in Python's own float64."""
    value, dx, dbranch = (torch.zeros(x.shape, dtype=torch.float64) for _ in range(3))
    for i, (a, f, g) in enumerate(zip(*(t.double().flatten().tolist() for t in (x, branch, grad)), strict=True)):
        if a + scale * f > 0:
            value.view(-1)[i], dx.view(-1)[i], dbranch.view(-1)[i] = a + scale * f, g, scale * g
    return value, dx, dbranch


# The scaled residual


@BOTH
@DTYPES
@SCALES
def test_value_and_gradients_are_those_of_a_float64_loop(scaled, dtype, scale):
    x, branch, grad = (draw(1100, dtype=dtype, seed=seed) for seed in range(3))
    got = value_and_gradients(scaled, x, branch, scale, grad)
    assert_close(got, tuple(want.to(dtype) for want in by_loop(x, branch, scale, grad)))


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("scale", [0.0, -0.0, 0.1, -2.0, math.inf, -math.inf, math.nan, 1e300])
def test_zeros_infinities_and_nan_go_as_in_torch(scaled, dtype, scale):
    if dtype == torch.float32 and scale == 1e300:
        scale = 1e39  # beyond fp32: an infinite scale, in torch too
    values = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-8, 80.0, -80.0, math.inf, -math.inf, math.nan], dtype=dtype)
    x, branch = (t.flatten() for t in torch.meshgrid(values, values, indexing="ij"))
    for grad in (torch.ones_like(x), torch.full_like(x, math.inf), torch.full_like(x, math.nan)):
        got = value_and_gradients(scaled, x, branch, scale, grad)
        want = value_and_gradients(lambda x, f, s: torch.relu(x + f * s), x, branch, scale, grad)
        assert_close(got, want, equal_nan=True)


@BOTH
def test_the_derivative_at_exactly_zero_is_zero_and_nan_lets_the_gradient_through(scaled):
    x, branch = torch.tensor([-1.0, 0.0, -0.0, math.nan]), torch.tensor([2.0, 0.0, 0.0, 1.0])
    y, dx, dbranch = value_and_gradients(scaled, x, branch, 0.5, torch.full((4,), 7.0))
    assert_close(y, torch.tensor([0.0, 0.0, 0.0, math.nan]), equal_nan=True)
    assert dx.tolist() == [0.0, 0.0, 0.0, 7.0]
    assert dbranch.tolist() == [0.0, 0.0, 0.0, 3.5]


@BOTH
def test_a_half_precision_sum_that_underflows_to_zero_has_no_gradient(scaled):
    """The documented choice: the mask is that of the rounded output, as it is for torch's own ReLU in that dtype."""
    tiny = torch.finfo(torch.float16).smallest_normal / 1024  # the smallest number above 0
    x, branch = torch.zeros(2, dtype=torch.float16), torch.full((2,), tiny, dtype=torch.float16)
    for scale, kept in ((0.25, False), (0.75, True)):  # a quarter of it rounds to 0, three quarters to itself
        y, dx, dbranch = value_and_gradients(scaled, x, branch, scale, torch.ones_like(x))
        assert (y > 0).all().item() is kept
        assert dx.tolist() == [float(kept)] * 2
        assert_close(dbranch, scale * dx)
        assert_close(dx, value_and_gradients(lambda x, f, s: torch.relu(x + s * f), x, branch, scale, dx * 0 + 1)[1])


@BOTH
@HALVES
def test_half_precision_rounds_the_sum_not_the_product(scaled, dtype):
    """(1 + ε/4)·1 − 1 is ε/4, which both halves hold; a product rounded on its own would leave 0."""
    one, quarter = torch.ones(3, dtype=dtype), torch.finfo(dtype).eps / 4
    y, dx, _ = value_and_gradients(scaled, -one, one, 1 + quarter, one)
    assert_close(y, quarter * one, rtol=0, atol=0)
    assert_close(dx, one, rtol=0, atol=0)


@BOTH
def test_half_precision_overflow_is_infinite_and_keeps_its_gradient(scaled):
    x = torch.full((2,), 6e4, dtype=torch.float16)
    y, dx, dbranch = value_and_gradients(scaled, x, x, 1.0, torch.ones_like(x))
    assert y.isinf().all() and (dx == 1).all() and (dbranch == 1).all()


@BOTH
@DTYPES
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (1024,), (2049,), (2, 3, 4, 5)], ids=str)
def test_every_shape_from_nothing_to_several_blocks(scaled, dtype, shape):
    x, branch, grad = (draw(*shape, dtype=dtype, seed=seed) for seed in range(3))
    got = value_and_gradients(scaled, x, branch, 0.3, grad)
    assert_close(got, tuple(want.to(dtype) for want in by_loop(x, branch, 0.3, grad)))


LAYOUTS = {
    "plain": lambda t: t,
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(1, 3).contiguous().transpose(1, 3),
    "a slice": lambda t: torch.stack([t, t * 0], -1)[..., 0],
    "expanded": lambda t: t[:1].expand_as(t),
}


@BOTH
@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("first", LAYOUTS)
def test_x_branch_and_gradient_may_each_have_their_own_layout(scaled, first, second):
    x, branch = LAYOUTS[first](draw(2, 6, 5, 7)), LAYOUTS[second](draw(2, 6, 5, 7, seed=1))
    for grad in (LAYOUTS[second](draw(2, 6, 5, 7, seed=2)), torch.ones(()).double().expand(2, 6, 5, 7)):
        assert_close(value_and_gradients(scaled, x, branch, 0.2, grad), by_loop(x, branch, 0.2, grad))


@BOTH
@pytest.mark.parametrize(
    ("x", "branch", "scale", "message"),
    [
        (torch.ones(3), torch.ones(4), 0.1, "one shape"),
        (torch.ones(2, 3), torch.ones(3), 0.1, "one shape"),
        (torch.ones(3), torch.ones(3).double(), 0.1, "one dtype"),
        (torch.ones(3), torch.ones(3, device="meta"), 0.1, "one device"),
        (torch.arange(3), torch.arange(3), 0.1, "floating-point"),
        (torch.ones(3).bool(), torch.ones(3).bool(), 0.1, "floating-point"),
        (torch.ones(3) * 1j, torch.ones(3) * 1j, 0.1, "floating-point"),
        (torch.ones(3), torch.ones(3), torch.tensor(0.1), "Python number"),
        (torch.ones(3), torch.ones(3), True, "Python number"),
        (torch.ones(3), torch.ones(3), None, "Python number"),
    ],
)
def test_bad_arguments_are_refused_with_a_hint(scaled, x, branch, scale, message):
    with pytest.raises(ValueError, match=message):
        scaled(x, branch, scale)


def test_the_inputs_are_not_saved_only_the_output_is():
    x, saved = draw(64).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        y = kernel.scaled_residual(x, draw(64, seed=1).requires_grad_(), 0.1)
    assert saved == [y.data_ptr()]


@pytest.mark.parametrize("who", ["x", "branch"])
def test_either_input_may_do_without_a_gradient(who):
    x, branch = draw(50).requires_grad_(who == "x"), draw(50, seed=1).requires_grad_(who == "branch")
    kernel.scaled_residual(x, branch, 0.1).sum().backward()
    wanted, other = (x, branch) if who == "x" else (branch, x)
    slope = (x + 0.1 * branch > 0).double() * (1 if who == "x" else 0.1)
    assert_close(wanted.grad, slope)
    assert other.grad is None


def test_one_compiled_graph_serves_one_scale_after_another():
    compiled = torch.compile(
        lambda x, f, s: kernel.scaled_residual(x * 2, f, s) + 1, fullgraph=True, backend="aot_eager"
    )
    x, branch, grad = draw(40), draw(40, seed=1), draw(40, seed=2)
    for scale in (0.1, 0.3, 1.0):
        got = value_and_gradients(compiled, x, branch, scale, grad)
        value, dx, dbranch = by_loop(2 * x, branch, scale, grad)
        assert_close(got, (value + 1, 2 * dx, dbranch))


def test_the_ops_pass_opcheck():
    arguments = draw(33).requires_grad_(), draw(33, seed=1).requires_grad_(), 0.1
    torch.library.opcheck(kernel._residual_op, arguments)
    torch.library.opcheck(kernel._residual_op, (draw(6, 7).t(), draw(7, 6), 0.1))
    torch.library.opcheck(kernel._residual_backward_op, (draw(6, 7).t(), draw(7, 6), 0.1))


# The networks


def built(name):
    with torch.device("meta"):
        return method.build(name)


def test_inception_v4_has_the_published_number_of_parameters():
    """42,679,816 is what the released weights hold in other libraries, batch norm's two numbers a filter included."""
    assert sum(p.numel() for p in built("Inception-v4").parameters()) == 42_679_816


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("Inception-v4", (384, 384, 1024, 1024, 1536, 1536)),
        ("Inception-ResNet-v1", (256, 256, 896, 896, 1792, 1792)),
        ("Inception-ResNet-v2", (384, 384, 1152, 1152, 2144, 2144)),
    ],
)
def test_a_299_pixel_image_passes_grids_of_35_17_and_8(name, channels):
    network, images = built(name).eval(), torch.empty(2, 3, 299, 299, device="meta")
    shapes = []
    for stage in network.values():
        images = stage(images)
        shapes.append(tuple(images.shape))
    assert shapes == [(2, c, g, g) for c, g in zip(channels, (35, 35, 17, 17, 8, 8), strict=True)] + [(2, 1000)]
    assert method.forward(network, torch.empty(2, 3, 299, 299, device="meta")).shape == (2, 1000)


def test_the_stem_passes_the_sizes_printed_beside_figure_3():
    with torch.device("meta"):
        stem, images = method.build("Inception-v4").eval()["Stem"][0], torch.empty(1, 3, 299, 299)
        sizes = [(images := layer(images)).shape[1:] for layer in stem]
    kept = [tuple(size) for size, layer in zip(sizes, stem, strict=True) if not isinstance(layer, torch.nn.BatchNorm2d)]
    assert list(dict.fromkeys(kept)) == [
        (32, 149, 149), (32, 147, 147), (64, 147, 147), (160, 73, 73), (192, 71, 71), (384, 35, 35)
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_reduction_a_adds_its_two_convolutions_to_what_is_pooled(name):
    """Table 1: out = in + m + n, whatever k and l are."""
    columns = {"Inception-v4": (192, 224, 256, 384), "Inception-ResNet-v1": (192, 192, 256, 384)}
    k, l, m, n = columns.get(name, (256, 256, 384, 384))  # noqa: E741
    assert [layer.out_channels for layer in convolutions(built(name)["Reduction-A"])] == [n, k, l, m]
    width = {"Inception-v4": 384, "Inception-ResNet-v1": 256}.get(name, 384)
    assert convolutions(built(name)["B"])[0].in_channels == width + m + n


def convolutions(module):
    return [layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)]


@pytest.mark.parametrize(("name", "counts"), [(NAMES[0], (4, 7, 3)), (NAMES[1], (5, 10, 5)), (NAMES[2], (5, 10, 5))])
def test_the_modules_repeat_as_figures_9_and_15_say(name, counts):
    assert tuple(len(built(name)[stage]) for stage in "ABC") == counts


def test_parameters_of_a_residual_block_by_hand():
    """Figure 17 on 1,152 channels: no bias under batch norm (2 numbers a filter), a bias in the linear expansion."""
    convolved = 1152 * 192 + 1152 * 128 + 7 * 128 * 160 + 7 * 160 * 192
    by_hand = convolved + 2 * (192 + 128 + 160 + 192) + (384 * 1152 + 1152)
    assert sum(p.numel() for p in built("Inception-ResNet-v2")["B"][0].parameters()) == by_hand


@pytest.mark.parametrize(("channels", "printed"), [(1152, 1154), (2144, 2048)])
def test_the_widths_misprinted_in_figures_17_and_19_cannot_be_added(channels, printed):
    with pytest.raises(ValueError, match="one shape"):
        method.scaled_residual(torch.ones(1, channels, 2, 2), torch.ones(1, printed, 2, 2), 0.1)


def test_a_residual_block_is_its_branches_expanded_scaled_and_added():
    torch.manual_seed(0)
    block = method.ResidualBlock(["1x1:3", "1x1:4 1x3:5 3x1:6"], 8, 0.2).double().eval()
    first, second = block.inception.branches
    x = draw(2, 8, 5, 5).relu()

    def layer(x, convolution, norm, padding=(0, 0)):
        y = F.conv2d(x, convolution.weight, padding=padding)
        return F.relu(y / (1 + norm.eps) ** 0.5)  # fresh running statistics: mean 0, variance 1

    one = layer(x, first[0], first[1])
    two = layer(layer(layer(x, second[0], second[1]), second[3], second[4], (0, 1)), second[6], second[7], (1, 0))
    expanded = F.conv2d(torch.cat([one, two], 1), block.expand.weight, block.expand.bias)
    assert_close(block(x), F.relu(x + 0.2 * expanded))


def test_average_pooling_does_not_count_the_padding():
    pooled = method.chain("avg", 1)[0](torch.ones(1, 1, 4, 4))
    assert_close(pooled, torch.ones(1, 1, 4, 4))


def test_a_filter_bank_ends_in_rows_by_columns_not_the_other_way_round():
    module, channels = method.chain("7x1:64", 3)
    assert channels == 64
    assert module[0].weight.shape == (64, 3, 7, 1)


def test_an_unknown_network_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="Inception-ResNet-v1"):
        method.build("Inception-v3")


# What the experiment counts with


def test_squared_merges_a_pair_in_either_order_and_leaves_the_rest():
    steps = ("1x1:9 1x7:5 7x1:6", ["7x1:4 1x7:3 3x3:2", "1x3:8"], method.Residual(["1x3:1 3x1:2"]))
    assert experiment.squared(steps) == ("1x1:9 7x7:6", ["7x7:3 3x3:2", "1x3:8"], method.Residual(["3x3:2"]))


def test_multiply_adds_are_weights_times_grid():
    found = experiment.count((("Stem", ("3x3:4/2V", ["1x1:5", "1x7:6"]), 1),))
    shape, parameters, work = found["Stem"]
    assert shape == (11, 149, 149)
    assert parameters == 27 * 4 + 2 * 4 + 4 * 5 + 2 * 5 + 4 * 7 * 6 + 2 * 6
    assert work == 149 * 149 * (27 * 4 + 4 * 5 + 4 * 7 * 6)
    assert found["Classifier"][2] == 11 * 1000


def test_a_seventh_wide_pair_costs_two_sevenths_of_the_square():
    pair, _ = method.chain("1x7:64 7x1:64", 64)
    square, _ = method.chain("7x7:64", 64)
    weights = [sum(layer.weight.numel() for layer in convolutions(module)) for module in (pair, square)]
    assert weights[0] / weights[1] == pytest.approx(2 / 7)


def test_without_batch_norm_a_block_of_scale_one_multiplies_the_stream():
    """Width ∞: branch and stream are independent, so relu's mean square about doubles; with norm the branch stays."""
    torch.manual_seed(0)
    x = torch.rand(64, 64)
    for norm, low, high in ((False, 1.2, 2.5), (True, 0.9, 1.2)):
        stack = experiment.Stack(1024, 1.0, norm, blocks=16)
        with torch.no_grad():
            streams = [stack.stem(x)]
            for block in stack.blocks:
                streams.append(block(streams[-1]))
        last = (streams[-1].square().mean() / streams[-2].square().mean()).sqrt().item()
        assert low < last < high
