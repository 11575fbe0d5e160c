"""What the ELU paper claims, and that the kernel is the method: values computed another way, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from snippets.elu import kernel, method

BOTH = pytest.mark.parametrize("elu", [method.elu, kernel.elu], ids=["method", "kernel"])
BOTH_IN_PLACE = pytest.mark.parametrize("elu_", [method.elu_, kernel.elu_], ids=["method", "kernel"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
EXTREMES = [
    0.0,
    -0.0,
    1e-8,
    -1e-8,
    1e-3,
    -1e-3,
    -0.5,
    -0.50001,
    1.0,
    -1.0,
    -7.5,
    80.0,
    -80.0,
    1e4,
    -1e4,
    math.inf,
    -math.inf,
]
SHAPES = [(), (0, 3), (1,), (7,), (1023,), (1024,), (1025,), (31, 67), (2, 3, 5, 7), (4099,)]


def by_loop(x, alpha):
    """Value and slope, element by element in Python's own float64."""
    value, slope = torch.empty_like(x, dtype=torch.float64), torch.empty_like(x, dtype=torch.float64)
    for i, v in enumerate(x.double().flatten().tolist()):
        value.view(-1)[i] = v if v > 0 else alpha * math.expm1(v)
        slope.view(-1)[i] = 1.0 if v > 0 else alpha * math.exp(v)
    return value, slope


def draw(*shape, dtype=torch.float64, seed=0, spread=3.0):
    return (spread * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).to(dtype)


def out_and_gradient(function, x, grad, *args):
    x = x.detach().clone().requires_grad_()
    y = function(x, *args)
    return y.detach(), torch.autograd.grad(y, x, grad)[0]


@BOTH
@pytest.mark.parametrize("alpha", [0.25, 1.0, 2.0])
def test_it_saturates_at_minus_alpha(elu, alpha):
    assert elu(torch.tensor([-50.0], dtype=torch.float64), alpha).item() == pytest.approx(-alpha, abs=1e-15)
    assert elu(torch.tensor([-math.inf]), alpha).item() == -alpha


@BOTH
@pytest.mark.parametrize("alpha", [0.25, 1.0, 2.0])
def test_its_derivative_below_zero_is_the_output_plus_alpha(elu, alpha):
    x = -draw(301).abs()
    y, slope = out_and_gradient(elu, x, torch.ones_like(x), alpha)
    assert_close(slope, y + alpha, rtol=0, atol=1e-15 * (1 + alpha))


@BOTH
@pytest.mark.parametrize("alpha", [1.0, 0.1, 2.5, 0.0, 100.0, -0.5])
@DTYPES
def test_value_and_slope_are_those_of_a_float64_loop(elu, alpha, dtype):
    x = torch.cat([draw(1500, dtype=dtype), torch.linspace(-12, 0.5, 400, dtype=torch.float64).to(dtype)])
    value, slope = by_loop(x, alpha)
    y, gradient = out_and_gradient(elu, x, torch.ones_like(x), alpha)
    assert_close(y, value.to(dtype))
    assert_close(gradient, slope.to(dtype))


@BOTH
@pytest.mark.parametrize("alpha", [1.0, 0.3, -0.5])
def test_it_agrees_with_torch_negative_alpha_included(elu, alpha):
    x, grad = draw(2000), draw(2000, seed=1)
    assert_close(out_and_gradient(elu, x, grad, alpha), out_and_gradient(F.elu, x, grad, alpha))


@BOTH
@DTYPES
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_extremes_nan_and_infinity_pass_as_in_torch(elu, dtype, alpha):
    x = torch.tensor([*EXTREMES, math.nan], dtype=torch.float64).to(dtype)
    y, gradient = out_and_gradient(elu, x, torch.ones_like(x), alpha)
    want, slope = out_and_gradient(F.elu, x, torch.ones_like(x), alpha)
    assert_close(y, want, equal_nan=True)
    assert_close(gradient[:-1], slope[:-1])
    assert gradient[-1].isnan()  # torch's vectorized loop says NaN too, its scalar tail says 1


@BOTH
def test_overflow_of_exp_never_reaches_the_branch_not_taken(elu):
    x = torch.tensor([800.0, 1e30, 3e38], dtype=torch.float32)
    y, gradient = out_and_gradient(elu, x, torch.ones(3))
    assert_close(y, x, rtol=0, atol=0)
    assert_close(gradient, torch.ones(3), rtol=0, atol=0)


@BOTH
@pytest.mark.parametrize(("dtype", "goal"), [(torch.float32, 1e-6), (torch.float64, 1e-15)], ids=str)
def test_relative_error_stays_small_all_the_way_to_zero(elu, dtype, goal):
    near, seam = (
        -torch.logspace(-30, 1.5, 6000, dtype=torch.float64),
        -torch.linspace(0.3, 0.8, 2001, dtype=torch.float64),
    )
    x = torch.cat([near, seam]).to(dtype)
    want = torch.expm1(x.double())
    assert ((elu(x).double() - want) / want).abs().max() < goal


def test_float64_is_not_narrowed_anywhere_not_even_in_alpha():
    x = draw(3000)
    assert_close(kernel.elu(x, 0.1), method.elu(x, 0.1), rtol=1e-15, atol=1e-16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_half_precision_output_could_not_give_the_slope_so_the_input_is_kept(dtype):
    x = torch.linspace(-12, 0, 4000, dtype=torch.float64).to(dtype)
    exact = torch.exp(x.double())
    rtol, atol = {torch.float16: (1e-3, 1e-5), torch.bfloat16: (1.6e-2, 1e-5)}[dtype]
    from_output = (method.elu(x).double() + 1).to(dtype)
    allowed = atol + rtol * exact
    assert ((from_output.double() - exact).abs() / allowed).max() > 4
    _, kept = out_and_gradient(kernel.elu, x, torch.ones_like(x))
    assert ((kept.double() - exact).abs() / allowed).max() < 1


@pytest.mark.parametrize(
    ("dtype", "alpha"), [(torch.float32, 1.0), (torch.float16, 1.0), (torch.float32, -1.0)], ids=str
)
def test_only_the_output_is_saved_where_it_can_tell_the_slope(dtype, alpha):
    x, saved = draw(64, dtype=dtype).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        y = kernel.elu(x, alpha)
    assert saved == [y.data_ptr() if dtype == torch.float32 and alpha > 0 else x.data_ptr()]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@DTYPES
def test_the_kernel_agrees_with_float64_at_every_shape(shape, dtype):
    x, grad = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=1)
    y, gradient = out_and_gradient(kernel.elu, x, grad)
    value, slope = by_loop(x, 1.0)
    assert_close(y, value.to(dtype))
    assert_close(gradient, (slope * grad.double()).to(dtype))


LAYOUTS = {
    "transposed": lambda x: x.reshape(60, 70).t(),
    "sliced": lambda x: x.reshape(60, 70)[::2, 3:50],
    "expanded": lambda x: x[:41, None].expand(41, 5),
    "channels-last": lambda x: x.reshape(2, 3, 70, 10).to(memory_format=torch.channels_last),
    "permuted": lambda x: x.reshape(6, 7, 100).permute(2, 0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_any_layout_of_input_and_gradient_gives_the_same_answer(layout, dtype):
    base = draw(4200, dtype=dtype).requires_grad_()
    y = kernel.elu(layout(base))
    assert_close(y, method.elu(layout(base.detach())))
    for grad in (
        torch.ones((), dtype=dtype).expand_as(y),
        draw(*y.shape[::-1], dtype=dtype).permute(*reversed(range(y.ndim))),
    ):
        (mine,) = torch.autograd.grad(y, base, grad, retain_graph=True)
        reference = base.detach().double().requires_grad_()
        (theirs,) = torch.autograd.grad(method.elu(layout(reference)), reference, grad.double())
        assert_close(mine, theirs.to(dtype))


@BOTH_IN_PLACE
@DTYPES
@pytest.mark.parametrize("alpha", [1.0, -0.5])
def test_in_place_overwrites_its_input_and_carries_the_gradient(elu_, dtype, alpha):
    leaf, grad = draw(2100, dtype=dtype).requires_grad_(), draw(2100, dtype=dtype, seed=1)
    x = leaf * 1
    y = elu_(x, alpha)
    assert y is x or y.data_ptr() == x.data_ptr()
    value, slope = by_loop(leaf.detach(), alpha)
    assert_close(x.detach(), value.to(dtype))
    assert_close(torch.autograd.grad(x, leaf, grad)[0], (slope * grad.double()).to(dtype))


@BOTH_IN_PLACE
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "expanded"])
def test_in_place_touches_only_its_own_elements(elu_, layout):
    base = draw(4200)
    want = base.clone()
    LAYOUTS[layout](want).copy_(method.elu(LAYOUTS[layout](base)))
    view = LAYOUTS[layout](base)
    elu_(view)
    assert_close(
        view, LAYOUTS[layout](want) if view.data_ptr() == base.data_ptr() else method.elu(LAYOUTS[layout](draw(4200)))
    )
    assert_close(base, want)


@BOTH_IN_PLACE
def test_in_place_refuses_what_autograd_refuses(elu_):
    with pytest.raises(RuntimeError):
        elu_(draw(5).requires_grad_())
    leaf = draw(5).requires_grad_()
    x = leaf * 1
    squared = x**2  # needs x as it was
    elu_(x)
    with pytest.raises(RuntimeError, match="inplace"):
        squared.sum().backward()
    with torch.no_grad():
        assert_close(elu_(leaf.detach().clone()), method.elu(leaf))


@pytest.mark.parametrize("function", [method.elu, kernel.elu, method.elu_, kernel.elu_])
def test_an_integer_tensor_is_refused_with_a_hint(function):
    with pytest.raises(ValueError, match="floating-point"):
        function(torch.arange(3))


@pytest.mark.parametrize("n", [1, 1000, 1024, 1500])
def test_nothing_is_written_or_read_beyond_the_last_element(n):
    poison = torch.full((4096,), math.nan)
    x, y = poison.clone(), poison.clone()
    x[:n] = draw(n, dtype=torch.float32)
    programs = (n + 1023) // 1024
    kernel._elu_forward[(programs,)](x, y, 1.0, n, WORK=kernel.tl.float32, BLOCK=1024)
    assert_close(y[:n], method.elu(x[:n]))
    assert y[n:].isnan().all()
    out = poison.clone()
    kernel._elu_backward[(programs,)](x, y, out, 1.0, n, FROM_OUTPUT=True, WORK=kernel.tl.float32, BLOCK=1024)
    assert not out[:n].isnan().any()
    assert out[n:].isnan().all()


@BOTH
@pytest.mark.parametrize("alpha", [1.0, 0.3, -0.7, 40.0])
def test_gradcheck(elu, alpha):
    x = torch.tensor([-3.0, -0.6, -0.4, -1e-2, 1e-2, 0.7, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: elu(x, alpha), (x,))


@pytest.mark.parametrize("alpha", [1.0, -0.7])
def test_gradcheck_in_place(alpha):
    x = torch.tensor([-3.0, -0.6, -0.4, -1e-2, 1e-2, 0.7, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: kernel.elu_(x * 1, alpha), (x,))


def test_opcheck():
    for dtype in (torch.float32, torch.float16):
        torch.library.opcheck(kernel._elu_op, (draw(33, dtype=dtype).requires_grad_(), 0.7))
        torch.library.opcheck(kernel._elu_op, (draw(6, 7, dtype=dtype).t(), 0.7))
    torch.library.opcheck(kernel._elu_in_place_op, (draw(33), 0.7))
    torch.library.opcheck(kernel._elu_backward_op, (draw(33), draw(33), 0.7, True))


def test_it_compiles_without_a_graph_break():
    x, grad = draw(5, 33, dtype=torch.float32), draw(5, 33, dtype=torch.float32)
    compiled = torch.compile(lambda x, alpha: kernel.elu(x * 2, alpha) + 1, fullgraph=True, backend="aot_eager")
    for alpha in (1.0, 0.5, -0.5):
        want = out_and_gradient(lambda x, alpha: method.elu(x * 2, alpha) + 1, x, grad, alpha)
        assert_close(out_and_gradient(compiled, x, grad, alpha), want)


def test_in_place_compiles_without_a_graph_break():
    compiled = torch.compile(lambda x: kernel.elu_(x * 2) + 1, fullgraph=True, backend="aot_eager")
    x = draw(5, 33, dtype=torch.float32)
    assert_close(compiled(x), method.elu(x * 2) + 1)


def test_the_op_that_overwrites_its_input_is_registered_soundly():
    for n in (0, 7, 1025):
        torch.library.opcheck(torch.ops.papernotes.elu_.default, (torch.linspace(-3, 3, n), 1.0))
