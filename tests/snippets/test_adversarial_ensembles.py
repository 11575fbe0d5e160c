"""The FGSM step against its closed form, and max-confidence against a loop over exact probabilities."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
import triton.language as tl
from torch.testing import assert_close

from snippets.adversarial_ensembles import kernel, method

STEPS = pytest.mark.parametrize("step", [method.fgsm_step, kernel.fgsm_step], ids=["method", "kernel"])
IN_PLACE = pytest.mark.parametrize("step", [method.fgsm_step_, kernel.fgsm_step_], ids=["method", "kernel"])
VOTES = pytest.mark.parametrize("vote", [method.max_confidence, kernel.max_confidence], ids=["method", "kernel"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
NAN, INF = math.nan, math.inf


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def most_confident(logits):
    """Return the predictions by a loop in plain Python: per model exp and fsum, then the first strict maximum."""
    predictions = []
    for instance in logits.double().transpose(0, 1).tolist():
        best, winner = -1.0, 0
        for row in instance:
            largest = max(row)
            weights = [math.exp(one - largest) for one in row]
            total = math.fsum(weights)
            for class_, weight in enumerate(weights):
                if weight / total > best:
                    best, winner = weight / total, class_
        predictions.append(winner)
    return torch.tensor(predictions)


# The FGSM step


@STEPS
@DTYPES
def test_a_step_is_x_plus_epsilon_times_the_sign_within_0_and_1(step, dtype):
    x, gradient = torch.rand(1500, dtype=torch.float64).to(dtype), draw(1500, dtype=dtype)
    want = [
        min(max(a + (0.3 if g > 0 else -0.3 if g < 0 else 0.0), 0.0), 1.0)
        for a, g in zip(x.tolist(), gradient.tolist(), strict=True)
    ]
    assert_close(step(x, gradient, 0.3), torch.tensor(want, dtype=torch.float64).to(dtype))


@STEPS
def test_half_precision_is_rounded_once(step):
    x = torch.linspace(0, 1, 1001).half()
    exact = [float(min(max(Fraction(a) - Fraction(0.3), 0), 1)) for a in x.tolist()]
    got = step(x, -torch.ones_like(x), 0.3)
    assert_close(got, torch.tensor(exact, dtype=torch.float64).half(), rtol=0, atol=2e-7)


@STEPS
def test_a_double_keeps_the_double_epsilon(step):
    x = torch.full((3,), 0.5, dtype=torch.float64)
    assert step(x, x, 0.1).tolist() == [0.6, 0.6, 0.6]
    assert step(x, x, 1e-12)[0].item() == 0.5 + 1e-12


@STEPS
def test_the_size_of_a_gradient_does_not_matter_but_zero_and_nan_move_nothing(step):
    gradient = torch.tensor([1e-30, -1e-30, 1e30, INF, -INF, 0.0, -0.0, NAN])
    got = step(torch.full((8,), 0.5), gradient, 0.25)
    assert got.tolist() == [0.75, 0.25, 0.75, 0.75, 0.25, 0.5, 0.5, 0.5]


@STEPS
def test_what_is_no_pixel_is_clamped_and_nan_stays(step):
    x = torch.tensor([-3.0, 7.0, INF, -INF, NAN, 0.0, 1.0])
    got = step(x, torch.ones(7), 0.25)
    assert_close(got, torch.tensor([0.0, 1.0, 1.0, 0.0, NAN, 0.25, 1.0]), equal_nan=True)
    assert_close(step(x, torch.ones(7), 0.0), x.clamp(0, 1), equal_nan=True)


@STEPS
def test_the_step_raises_a_linear_loss_by_epsilon_times_the_l1_norm(step):
    """Section 3: the change of w·x under a max-norm bound is at most ε‖w‖₁, and the sign reaches it."""
    w, x = draw(500, dtype=torch.float64), torch.full((500,), 0.5, dtype=torch.float64)
    change = w @ (step(x, w, 0.25) - x)
    assert change.item() == pytest.approx(0.25 * sum(abs(one) for one in w.tolist()), rel=1e-12)
    for seed in range(20):
        other = x + 0.25 * (2 * torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1)
        assert w @ (other - x) < change


@IN_PLACE
@DTYPES
@pytest.mark.parametrize("layout", [lambda t: t, lambda t: t.t(), lambda t: t[:, ::2], lambda t: t[1]])
def test_in_place_gives_the_same_numbers_in_the_same_memory(step, dtype, layout):
    base, gradient = torch.rand(40, 30).to(dtype), layout(draw(40, 30, dtype=dtype))
    x = layout(base)
    before, untouched = x.clone(), base.clone()
    want = (before.double() + 0.1 * gradient.double().sign()).clamp(0, 1).to(dtype)
    got = step(x, gradient, 0.1)
    assert got is x
    assert_close(layout(base), want)
    layout(untouched).copy_(layout(base))
    assert torch.equal(base, untouched)


@STEPS
def test_gradients_laid_out_otherwise_and_empty_and_0d_inputs_work(step):
    x, gradient = torch.rand(33, 20), draw(20, 33).t()
    assert_close(step(x, gradient, 0.1), (x + 0.1 * gradient.sign()).clamp(0, 1))
    assert_close(step(x, torch.ones(()).expand(33, 20), 0.1), (x + 0.1).clamp(0, 1))
    assert step(torch.ones(0, 3), torch.ones(0, 3), 0.1).shape == (0, 3)
    assert step(torch.tensor(0.5), torch.tensor(-1.0), 0.5).item() == 0


@STEPS
def test_an_attack_on_a_leaf_carries_no_gradient_on(step):
    x = torch.rand(20, requires_grad=True)
    (gradient,) = torch.autograd.grad((x**2).sum(), x)
    assert not step(x, gradient, 0.1).requires_grad


@IN_PLACE
def test_a_leaf_that_asks_for_gradients_may_be_attacked_in_place(step):
    x = torch.full((20,), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad((x**2).sum(), x)
    assert (step(x, gradient, 0.25).detach() == 0.75).all()
    assert x.requires_grad
    assert x.is_leaf


@pytest.mark.parametrize("step", [method.fgsm_step, kernel.fgsm_step, method.fgsm_step_, kernel.fgsm_step_])
def test_a_bad_step_is_refused(step):
    x = torch.rand(4, 3)
    for epsilon in (-0.1, INF, NAN):
        with pytest.raises(ValueError, match="epsilon must be finite"):
            step(x, x, epsilon)
    for gradient in (torch.rand(3), torch.rand(4, 3).double(), torch.ones(4, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="gradient must be like x"):
            step(x, gradient, 0.1)
    with pytest.raises(ValueError, match="floating point"):
        step(torch.ones(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64), 0.1)


# The max-confidence ensemble


@VOTES
@DTYPES
@pytest.mark.parametrize("shape", [(1, 3, 2), (5, 37, 10), (3, 4, 2049), (2, 3, 5000)], ids=str)
def test_the_most_confident_model_decides(vote, dtype, shape):
    logits = 2 * draw(*shape, dtype=dtype, seed=4)
    got = vote(logits)
    assert got.dtype == torch.int64
    assert torch.equal(got, most_confident(logits))


@VOTES
def test_confidence_is_the_softmax_probability_not_the_logit(vote):
    logits = torch.tensor([[[9.0, 8.9, 8.8]], [[0.0, 3.0, 0.0]]])  # the largest logit belongs to the less sure model
    assert vote(logits).tolist() == [1]
    assert logits.amax(0).argmax(1).tolist() == [0]


@VOTES
def test_it_is_neither_the_mean_nor_the_majority(vote):
    sure, unsure = [4.0, 0.0, 0.0], [0.0, 1.5, 0.0]
    logits = torch.tensor([[sure], *[[unsure]] * 9])
    assert vote(logits).tolist() == [0]
    assert logits.softmax(2).mean(0).argmax(1).tolist() == [1]


@VOTES
@DTYPES
def test_shifting_a_models_logits_changes_nothing(vote, dtype):
    logits = torch.randint(-4, 5, (4, 50, 7), generator=torch.Generator().manual_seed(1)).to(dtype)
    shift = torch.tensor([0.0, 8.0, -16.0, 32.0], dtype=dtype)[:, None, None]
    assert torch.equal(vote(logits + shift), vote(logits))


@VOTES
@pytest.mark.parametrize("classes", [3, 2050])
def test_ties_go_to_the_first_model_then_to_the_first_class(vote, classes):
    logits = torch.zeros(3, 4, classes)
    logits[:, 1, -1] = 5.0  # all three models agree on class and confidence
    logits[1:, 2] = -INF
    logits[1, 2, :2], logits[2, 2, :2] = torch.tensor([[1.0, 5.0], [5.0, 1.0]])  # as confident, of different classes
    logits[2, 3, 1:] = 5.0
    logits[2, 3, 0] = -INF  # the last is the most confident, and cannot tell the classes after its first apart
    assert vote(logits).tolist() == [0, classes - 1, 1, 1]


@VOTES
def test_probabilities_that_round_to_one_tie_and_those_that_just_do_not_still_differ(vote):
    float32_ties = torch.tensor([[[0.0, 18.0]], [[20.0, 0.0]]])
    assert float32_ties.softmax(2).amax(2).tolist() == [[1.0], [1.0]]
    assert vote(float32_ties).tolist() == [0]  # the second model is surer, as float64 sees
    assert vote(torch.tensor([[[0.0, 80.0]], [[1e4, 0.0]]])).tolist() == [1]  # both are 1 in float64: the first model


@VOTES
@DTYPES
def test_minus_infinity_rules_a_class_out(vote, dtype):
    logits = torch.tensor([[[-INF, 1.0, 0.0]], [[0.5, -INF, -INF]]], dtype=dtype)
    assert vote(logits).tolist() == [0]
    assert vote(logits[:1]).tolist() == [1]


@VOTES
@pytest.mark.parametrize("classes", [4, 2050])
@pytest.mark.parametrize("broken", [NAN, INF, -INF])
def test_a_broken_model_stands_above_every_number_as_in_torch(vote, classes, broken):
    logits = draw(3, 2, classes)
    for at in (0, 1, classes - 1):
        bad = logits.clone()
        if broken == -INF:
            bad[1, 0] = broken  # no class is left: 0 / 0
        else:
            bad[1, 0, at] = broken
        want = bad.softmax(2, dtype=torch.float64).transpose(0, 1).flatten(1).argmax(1) % classes
        assert want[0] == 0
        assert torch.equal(vote(bad), want)


@VOTES
def test_tiny_and_huge_logits_follow_float64_probabilities(vote):
    for scale in (1e-40, 1e-30, 1e-3, 1e4, 1e30):
        logits = scale * draw(4, 30, 6, seed=3)
        assert torch.equal(vote(logits), most_confident(logits)), scale


@VOTES
@pytest.mark.parametrize("above", [1e-4, 1e-12])
def test_a_class_that_is_larger_by_a_hair_wins_wherever_it_stands(vote, above):
    for at in (0, 1500, 2100, 4099):
        logits = torch.zeros(1, 1, 4100)
        logits[0, 0, at] = above
        assert vote(logits).tolist() == [at]


@VOTES
def test_one_class_one_model_and_no_instance(vote):
    assert vote(draw(3, 5, 1)).tolist() == [0] * 5
    x = draw(1, 40, 9)
    assert torch.equal(vote(x), x[0].argmax(1))
    empty = vote(torch.zeros(3, 0, 4))
    assert empty.shape == (0,)
    assert empty.dtype == torch.int64


@VOTES
def test_any_layout_of_the_logits_will_do(vote):
    base = draw(6, 12, 8)
    for logits in (
        base.permute(2, 1, 0),
        base[:, ::2],
        base[..., 1::2],
        base[:1].expand(5, -1, -1),
        base.transpose(0, 1),
    ):
        assert torch.equal(vote(logits), most_confident(logits))


@VOTES
def test_bad_logits_are_refused(vote):
    for bad in (torch.zeros(3, 4), torch.zeros(2, 2, 2, 2), torch.zeros(2, 2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"must be floating \[model, batch, class\]"):
            vote(bad)
    for shape in ((0, 3, 4), (3, 4, 0)):
        with pytest.raises(ValueError, match="at least one model and one class"):
            vote(torch.zeros(shape))


# The kernels as torch operators


@pytest.mark.parametrize(("batch", "classes", "rows", "few"), [(5, 13, 128, True), (3, 40, 1, False)])
def test_nothing_is_written_beyond_the_last_instance_or_read_beyond_the_last_class(batch, classes, rows, few):
    buffer, out = torch.full((4096,), NAN), torch.full((256,), -1)
    buffer[: 2 * batch * classes] = draw(2 * batch * classes)
    want = most_confident(buffer[: 2 * batch * classes].view(2, batch, classes))
    programs = ((batch + rows - 1) // rows,)
    kernel._max_confidence[programs](
        buffer, out, 2, batch, classes, STEP=1, ROWS=rows, BLOCK=16, FEW=few, WORK=tl.float32
    )
    assert torch.equal(out[:batch], want)
    assert (out[batch:] == -1).all()


def test_the_in_place_step_passes_opcheck_and_compiles_without_a_graph_break():
    torch.library.opcheck(kernel._fgsm_in_place_op, (torch.rand(6, 7).t(), draw(7, 6), 0.1))
    compiled = torch.compile(lambda x, g: kernel.fgsm_step_(x * 1.0, g, 0.25) + 1, fullgraph=True, backend="aot_eager")
    x, gradient = torch.rand(30), draw(30)
    assert_close(compiled(x, gradient), (x + 0.25 * gradient.sign()).clamp(0, 1) + 1)
