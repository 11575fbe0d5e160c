"""What is claimed of the residual sum and of a residual net's paths, and that the kernel is the method."""

import itertools
import math

import numpy as np
import pytest
import torch
import triton.language as tl
from torch.testing import assert_close

from snippets.multi_residual import experiment, kernel, method

BOTH = pytest.mark.parametrize("residual_sum", [method.residual_sum, kernel.residual_sum], ids=["method", "kernel"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_hand(x, branches):
    """One element at a time in Python's floats."""
    rows = [row.flatten().tolist() for row in branches.double()]
    sums = [math.fsum([value, *(row[i] for row in rows)]) for i, value in enumerate(x.double().flatten().tolist())]
    return torch.tensor([s if s > 0 else 0.0 for s in sums], dtype=torch.float64).view(x.shape)


def out_and_gradients(function, x, branches, grad):
    x, branches = x.detach().clone().requires_grad_(), branches.detach().clone().requires_grad_()
    y = function(x, branches)
    return y.detach(), *torch.autograd.grad(y, (x, branches), grad)


# The sum


@BOTH
@DTYPES
@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 5, 7, 8, 13])
def test_it_is_the_positive_part_of_the_sum_for_any_number_of_branches(residual_sum, dtype, k):
    x, branches, grad = draw(37, dtype=dtype), draw(k, 37, dtype=dtype, seed=1), draw(37, dtype=dtype, seed=2)
    y, dx, df = out_and_gradients(residual_sum, x, branches, grad)
    want = by_hand(x, branches)
    assert_close(y, want.to(dtype))
    assert_close(dx, torch.where(want > 0, grad, 0))
    assert df.shape == branches.shape
    for branch in df:
        assert torch.equal(branch, dx)


@BOTH
def test_with_one_branch_it_is_the_block_of_he_et_al(residual_sum):
    x, f = draw(3, 5, 7, dtype=torch.float32), draw(3, 5, 7, dtype=torch.float32, seed=1)
    assert torch.equal(residual_sum(x, f[None]), torch.relu(x + f))


@BOTH
@pytest.mark.parametrize("shape", [(), (0,), (4, 0, 2)], ids=str)
@pytest.mark.parametrize("k", [0, 3])
def test_scalars_and_empty_tensors_keep_their_shape(residual_sum, shape, k):
    x, branches = draw(*shape), draw(k, *shape, seed=1)
    y, dx, df = out_and_gradients(residual_sum, x, branches, torch.ones(shape, dtype=x.dtype))
    assert_close(y, by_hand(x, branches))
    assert (dx.shape, df.shape) == (x.shape, branches.shape)


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy under the interpreter, at inf − inf
@BOTH
def test_nan_and_infinity_go_where_torch_sends_them(residual_sum):
    inf, nan = math.inf, math.nan
    x = torch.tensor([nan, 1.0, inf, -inf, inf, 1.0, -0.0, 0.0, 2.0])
    branches = torch.tensor([[1.0, nan, 1.0, 1.0, -inf, -inf, 0.0, -0.0, -2.0], [1.0, 0, 0, 0, 0, 0, 0, 0, 0]])
    x, branches = x.repeat(120), branches.repeat(1, 120)  # a full block and the rest of one
    for grad in (torch.full_like(x, 3.0), torch.full_like(x, nan)):
        want = out_and_gradients(lambda x, b: torch.relu(x + b.sum(0)), x, branches, grad)
        for mine, theirs in zip(out_and_gradients(residual_sum, x, branches, grad), want, strict=True):
            assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


@BOTH
def test_the_slope_at_a_sum_of_zero_is_zero(residual_sum):
    x = torch.tensor([0.0, -0.0, 1.0, 1.0])
    branches = torch.tensor([[0.0, -0.0, -1.0, -0.5], [0.0, -0.0, 0.0, -0.5]])
    y, dx, df = out_and_gradients(residual_sum, x, branches, torch.ones(4))
    assert not y.any()
    assert not dx.any()
    assert not df.any()


@BOTH
@HALF
def test_half_precision_is_rounded_once_and_not_after_every_addition(residual_sum, dtype):
    large = 2048.0 if dtype == torch.float16 else 256.0  # adding 1 to it changes nothing in this precision
    x, ones = torch.full((20,), large, dtype=dtype), torch.ones(16, 20, dtype=dtype)
    step = x + ones[0]
    assert torch.equal(step, x)
    assert torch.equal(residual_sum(x, ones), torch.full((20,), large + 16, dtype=dtype))


@BOTH
def test_large_branches_that_cancel_do_not_overflow_float16(residual_sum):
    x, branches = torch.tensor([1.5], dtype=torch.float16), torch.tensor([[6e4], [6e4], [-6e4], [-6e4]]).half()
    assert residual_sum(x, branches).item() == 1.5


@BOTH
@HALF
def test_no_positive_sum_is_ever_stored_as_zero_so_the_output_tells_the_slope(residual_sum, dtype):
    # Neighbours at every magnitude, subnormals included; the interpreter alone converts bfloat16's own wrongly.
    first = 1024 if (residual_sum, dtype) == (kernel.residual_sum, torch.bfloat16) else 0
    last = 0x7C00 if dtype == torch.float16 else 0x7F80
    every = torch.arange(first, last, dtype=torch.int16).view(dtype)
    x, less = every[1:], -every[:-1]
    y, dx, _ = out_and_gradients(residual_sum, x, less[None], torch.ones_like(x))
    assert (x.double() + less.double() > 0).all()
    assert (y > 0).all()
    assert (dx == 1).all()
    # Numbers so far apart that float32 rounds: what is left of q in (p + q) − p decides.
    p, q = every[torch.randint(len(every), (2, 4000), generator=torch.Generator().manual_seed(0))]
    y, dx, _ = out_and_gradients(residual_sum, 0 * p, torch.stack([p, q, -p]), torch.ones_like(p))
    left = (p.float() + q.float()) - p.float()
    assert 0.01 < (left > 0).float().mean() < 0.999
    assert torch.equal(dx > 0, left > 0)
    assert torch.equal(y > 0, left > 0)


@BOTH
def test_float32_subnormals_are_not_flushed(residual_sum):
    x = torch.tensor([1e-40, -1e-45, 3e-39])
    branches = torch.tensor([[-0.9e-40, 3e-45, -3e-39]])
    y, dx, _ = out_and_gradients(residual_sum, x, branches, torch.ones(3))
    assert torch.equal(y > 0, torch.tensor([True, True, False]))
    assert torch.equal(dx, torch.tensor([1.0, 1.0, 0.0]))


# Memory


def test_all_branches_share_one_gradient_in_memory():
    x, branches = draw(50, 8).requires_grad_(), draw(3, 50, 8, seed=1).requires_grad_()
    dx, df = torch.autograd.grad(kernel.residual_sum(x, branches).sum(), (x, branches))
    assert df.stride(0) == 0
    assert df.untyped_storage().data_ptr() == dx.untyped_storage().data_ptr()


@BOTH
def test_shared_gradients_still_add_up_over_two_passes(residual_sum):
    x, branches = draw(30).requires_grad_(), draw(4, 30, seed=1).requires_grad_()
    for _ in range(2):
        residual_sum(x, branches).sum().backward()
    slope = (x + branches.sum(0) > 0).double().detach()
    assert torch.equal(x.grad, 2 * slope)
    assert torch.equal(branches.grad, 2 * slope.expand(4, 30))


@BOTH
def test_an_input_that_is_its_own_branch_gets_the_gradient_of_both(residual_sum):
    x = draw(30).requires_grad_()
    (dx,) = torch.autograd.grad(residual_sum(x, torch.stack([x, x * 2])).sum(), x)
    assert torch.equal(dx, 4 * (x > 0).double())


def test_only_the_output_is_saved():
    x, branches, saved = draw(64).requires_grad_(), draw(2, 64, seed=1).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        y = kernel.residual_sum(x, branches)
    assert saved == [y.data_ptr()]


LAYOUTS = {
    "x transposed": lambda x, b: (x.t().contiguous().t(), b),
    "branches transposed": lambda x, b: (x, b.transpose(1, 2).contiguous().transpose(1, 2)),
    "both transposed": lambda x, b: (x.t().contiguous().t(), b.transpose(1, 2).contiguous().transpose(1, 2)),
    "branch innermost": lambda x, b: (x, b.permute(1, 2, 0).contiguous().permute(2, 0, 1)),
    "every other branch": lambda x, b: (x, b.repeat_interleave(2, 0)[::2]),
    "branches backward": lambda x, b: (x, b.flip(0)),
    "one branch k times": lambda x, b: (x, b[:1].expand_as(b)),
    "x one row k times": lambda x, b: (x[:1].expand_as(x), b),
    "sliced": lambda x, b: (x[1::2, 3:-4], b[:, 1::2, 3:-4]),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_memory_order_changes_nothing(layout):
    x, branches = layout(draw(40, 33), draw(6, 40, 33, seed=1))
    x, branches = x.detach().requires_grad_(), branches.detach().requires_grad_()
    want = x.detach().contiguous(), branches.detach().contiguous()
    y = kernel.residual_sum(x, branches)
    assert_close(y.detach(), by_hand(*want))
    grad = draw(*y.shape[::-1], seed=2).t()
    dx, df = torch.autograd.grad(y, (x, branches), grad)
    assert torch.equal(dx, torch.where(y.detach() > 0, grad, 0))
    assert torch.equal(df, dx.expand(df.shape))


@pytest.mark.parametrize("k", [0, 1, 3, 4, 6, 9])
@pytest.mark.parametrize("n", [1, 1000, 1024, 1500])
def test_nothing_is_read_or_written_beyond_the_last_element(k, n):
    step = n + 13  # NaN between the branches
    x, f, out = (torch.full((size,), math.nan) for size in (4096, k * step + 4096, 4096))
    x[:n] = 1.0
    for branch in range(k):
        f[branch * step : branch * step + n] = branch + 1.0
    programs, unroll = ((n + 1023) // 1024,), kernel.UNROLL
    kernel._residual_sum[programs](
        x, f, out, n, step, k // unroll, TAIL=k % unroll, UNROLL=unroll, WORK=tl.float32, BLOCK=1024
    )
    assert (out[:n] == 1 + k * (k + 1) / 2).all()
    assert out[n:].isnan().all()
    out.fill_(math.nan)
    kernel._residual_sum_backward[programs](x, x, out, n, WORK=tl.float32, BLOCK=1024)
    assert (out[:n] == 1).all()
    assert out[n:].isnan().all()


# As operators


@BOTH
def test_first_and_second_derivatives_are_those_of_finite_differences(residual_sum):
    x, branches = draw(7).requires_grad_(), draw(3, 7, seed=1).requires_grad_()
    assert ((x + branches.sum(0)).abs() > 0.01).all()  # away from the kink
    assert torch.autograd.gradcheck(residual_sum, (x, branches))
    assert torch.autograd.gradgradcheck(residual_sum, (x, branches))


def test_no_branches_at_all_and_the_backward_pass_opcheck():
    torch.library.opcheck(kernel._residual_sum_op, (draw(5, 7).t(), draw(0, 7, 5).requires_grad_()))
    torch.library.opcheck(kernel._residual_sum_backward_op, (draw(7).requires_grad_(), draw(7, seed=1)))


def test_it_compiles_without_a_graph_break_for_one_k_after_another():
    compiled = torch.compile(lambda x, b: kernel.residual_sum(x * 2, b.sin()) + 1, fullgraph=True, backend="aot_eager")
    for k in (1, 2, 5):
        x, branches, grad = draw(33), draw(k, 33, seed=1), draw(33, seed=2)
        want = out_and_gradients(lambda x, b: torch.relu(x * 2 + b.sin().sum(0)) + 1, x, branches, grad)
        assert_close(out_and_gradients(compiled, x, branches, grad), want)


def test_without_the_interpreter_a_cpu_tensor_goes_to_the_method(monkeypatch):
    monkeypatch.setattr(kernel, "INTERPRETED", False)
    monkeypatch.setattr(kernel, "_residual_sum_op", None)
    x, branches = draw(9), draw(2, 9, seed=1)
    assert torch.equal(kernel.residual_sum(x, branches), method.residual_sum(x, branches))


@BOTH
@pytest.mark.parametrize(
    ("x", "branches", "message"),
    [
        (torch.ones(3).long(), torch.ones(2, 3), "floating-point"),
        (torch.ones(3), torch.ones(2, 3).int(), "floating-point"),
        (torch.ones(3), torch.ones(2, 3, dtype=torch.float64), "one dtype"),
        (torch.ones(3), torch.ones(3), r"\[k, 3\]"),
        (torch.ones(3), torch.ones(2, 4), r"\[k, 3\]"),
        (torch.ones(3), torch.ones(2, 1), r"\[k, 3\]"),
        (torch.ones(3), torch.ones(2, 1, 3), r"\[k, 3\]"),
        (torch.ones(()), torch.ones(()), r"\[k\]"),
        (torch.ones(3), torch.ones(2, 3, device="meta"), "one device"),
    ],
)
def test_bad_arguments_are_refused_with_a_hint(residual_sum, x, branches, message):
    with pytest.raises(ValueError, match=message):
        residual_sum(x, branches)


# Paths


@pytest.fixture(scope="module")
def unraveled():
    torch.manual_seed(3)
    net = experiment.Stack(5)
    images = draw(8, experiment.SEEDS, 64, dtype=torch.float32)
    labels = torch.randint(10, (8, experiment.SEEDS), generator=torch.Generator().manual_seed(4))
    return experiment.Paths(net, images, labels), images, labels


def path_gradient(paths, through):
    gradient = paths.start[None]
    for block in reversed(range(paths.net.blocks)):
        gradient = paths.back(block, gradient) if block in through else gradient
    return paths.at_image(gradient)[0]


def test_the_gradients_of_all_lengths_add_up_to_that_of_backpropagation(unraveled):
    paths, images, labels = unraveled
    x = images.double().requires_grad_()
    (whole,) = torch.autograd.grad(experiment.objective(paths.net(x), labels), x)
    assert_close(paths.summed().sum(0), whole.transpose(0, 1).flatten(1))


def test_the_sum_of_a_length_is_that_of_its_paths_one_by_one(unraveled):
    paths, *_ = unraveled
    for length, got in enumerate(paths.summed()):
        chosen = list(itertools.combinations(range(5), length))
        assert_close(got, sum(path_gradient(paths, set(one)) for one in chosen))


def test_sampled_paths_have_their_length_and_their_norm(unraveled):
    paths, *_ = unraveled
    for length, got in enumerate(paths.sampled()[0]):
        norms = [path_gradient(paths, set(one)).norm(dim=1) for one in itertools.combinations(range(5), length)]
        every = torch.stack(norms).numpy()
        assert (got >= every.min(0) - 1e-12).all()
        assert (got <= every.max(0) + 1e-12).all()
        if len(every) == 1:
            np.testing.assert_allclose(got, every[0])


def test_fifty_four_blocks_have_a_binomial_number_of_paths_of_each_length():
    row = [1]
    for _ in range(54):  # Pascal's triangle
        row = [a + b for a, b in zip([0, *row], [*row, 0], strict=True)]
    np.testing.assert_allclose(experiment.binomial(), row)
    assert sum(row) == 2**54
    assert sum(row[19:36]) / 2**54 > 0.95  # the 19 to 35 blocks of Veit et al.


def test_the_shares_for_a_factor_a_block_are_its_elementary_symmetric_sums(monkeypatch):
    monkeypatch.setattr(experiment, "BLOCKS", 4)
    factors = [block**-0.5 for block in range(1, 5)]
    products = [[math.prod(one) for one in itertools.combinations(factors, k)] for k in range(5)]
    for at_right_angles, sums in ((False, [sum(p) for p in products]), (True, [math.hypot(*p) for p in products])):
        np.testing.assert_allclose(experiment.variance_alone(at_right_angles), np.array(sums) / sum(sums))


def test_k_functions_a_block_cost_no_more_parameters_and_offer_k_plus_one_ways_through():
    sizes = {sum(p.numel() for p in experiment.MultiResidual(k).parameters()) for k in experiment.BRANCHES}
    assert len(sizes) == 1
    x = torch.ones((), dtype=torch.float64)  # with every function the identity, each path adds 1
    for k, blocks in ((1, 6), (2, 3), (3, 2)):
        y = x
        for _ in range(blocks):
            y = method.residual_sum(y, y.expand(k))
        assert y.item() == (k + 1) ** blocks
