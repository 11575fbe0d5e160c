"""Top-k errors against sorting and against a plain loop; and the counts of the winners' parameters."""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from snippets.imagenet_winners import experiment, kernel, method

BOTH = pytest.mark.parametrize("topk_errors", [method.topk_errors, kernel.topk_errors], ids=["method", "kernel"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)


def draw(rows, classes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, classes, generator=generator, dtype=torch.float64).to(dtype),
        torch.randint(classes, (rows,), generator=generator),
    )


def by_loop(logits, target, ks):
    """Sort each row in Python, equal logits by class; a row with a NaN is wrong."""
    wrong = [0] * len(ks)
    for row, t in zip(logits.double().tolist(), target.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda c, row=row: (-row[c], c))
        for n, k in enumerate(ks):
            wrong[n] += any(math.isnan(v) for v in row) or t not in order[:k]
    return torch.tensor([w / len(logits) for w in wrong], dtype=torch.float64)


@BOTH
@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (5, 6), (300, 10), (9, 1000), (4, 2048), (4, 2049), (3, 6007)])
def test_where_nothing_ties_it_is_what_torchs_topk_says(topk_errors, rows, classes):
    logits, target = draw(rows, classes)
    target[::2] = logits.topk(min(3, classes)).indices[::2, -1]
    want = [1 - (logits.topk(min(k, classes)).indices == target[:, None]).any(1).double().mean() for k in (1, 3, 5)]
    assert_close(topk_errors(logits, target, (1, 3, 5)), torch.stack(want), rtol=0, atol=1e-15)


@BOTH
@DTYPES
def test_ties_go_to_the_lower_class(topk_errors, dtype):
    logits, target = draw(60, 37)
    logits = logits.round().to(dtype)  # about seven values over 37 classes
    assert torch.equal(topk_errors(logits, target, (1, 2, 5, 9, 36)), by_loop(logits, target, (1, 2, 5, 9, 36)))


@BOTH
@pytest.mark.parametrize("value", [0.0, 3.0, math.inf, -math.inf])
def test_logits_that_are_all_equal_know_nothing(topk_errors, value):
    logits = torch.full((100, 100), value)
    assert topk_errors(logits, torch.arange(100)).tolist() == [0.99, 0.95]


@BOTH
def test_zero_ties_with_minus_zero(topk_errors):
    logits = torch.tensor([[0.0, -0.0], [-0.0, 0.0]])
    assert topk_errors(logits, torch.tensor([1, 1]), (1,)).item() == 1.0
    assert topk_errors(logits, torch.tensor([0, 0]), (1,)).item() == 0.0


@BOTH
@DTYPES
def test_infinities_rank_as_numbers_do(topk_errors, dtype):
    logits = torch.tensor([[-math.inf, math.inf, 0.0, -math.inf]] * 4, dtype=dtype)
    ranks = [topk_errors(logits[:1], torch.tensor([t]), (1, 2, 3, 4)).sum().item() for t in range(4)]
    assert ranks == [2, 0, 1, 3]


@BOTH
@pytest.mark.parametrize("classes", [5, 1000, 2053])
def test_a_nan_anywhere_in_the_row_is_an_error_for_every_k(topk_errors, classes):
    logits, _ = draw(4, classes)
    target = logits.argmax(1)
    logits[0, target[0]] = math.nan
    logits[1, (target[1] + 1) % classes] = math.nan
    logits[2, classes - 1 if target[2] != classes - 1 else 0] = math.nan
    assert topk_errors(logits, target, (1, 5, classes, 10 * classes)).tolist() == [0.75] * 4


@BOTH
def test_no_error_is_left_once_k_reaches_the_classes(topk_errors):
    logits, target = draw(50, 7)
    assert topk_errors(logits, target, (7, 8, 10**12)).tolist() == [0, 0, 0]
    assert topk_errors(logits, target, (6,)).item() > 0


@BOTH
def test_any_number_of_ks_in_any_order(topk_errors):
    logits, target = draw(40, 12)
    for ks in ((1,), (5, 1), [3, 3], (1, 2, 3, 4, 5), range(1, 12)):
        assert torch.equal(topk_errors(logits, target, ks), by_loop(logits, target, list(ks)))


@BOTH
def test_the_rate_is_an_exact_count_over_the_rows(topk_errors):
    logits, target = draw(997, 3)
    errors = topk_errors(logits, target, (1, 2))
    assert errors.dtype == torch.float64
    assert errors.tolist() == [round(e * 997) / 997 for e in errors.tolist()]


@BOTH
def test_no_rows_have_no_rate(topk_errors):
    assert topk_errors(torch.empty(0, 5), torch.empty(0, dtype=torch.int64)).isnan().tolist() == [True, True]
    assert topk_errors(torch.empty(0, 0), torch.empty(0, dtype=torch.int64), (1,)).isnan().all()


@BOTH
@pytest.mark.parametrize("integers", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_any_integers_and_any_layout(topk_errors, integers):
    logits, target = draw(24, 30)
    want = by_loop(logits, target, (1, 5))
    assert torch.equal(topk_errors(logits, target.to(integers)), want)
    assert torch.equal(topk_errors(logits.t().contiguous().t(), target.to(integers).repeat_interleave(2)[::2]), want)
    assert torch.equal(topk_errors(logits.repeat_interleave(2, 1)[:, ::2], target.to(integers)), want)


@BOTH
@pytest.mark.parametrize(
    ("logits", "target", "ks", "message"),
    [
        (torch.ones(2, 3), torch.tensor([0, 3]), (1,), "classes"),
        (torch.ones(2, 3), torch.tensor([-1, 0]), (1,), "classes"),
        (torch.ones(2, 0), torch.tensor([0, 0]), (1,), "classes"),
        (torch.ones(2, 3), torch.tensor([0]), (1,), "target"),
        (torch.ones(2, 3), torch.tensor([[0], [1]]), (1,), "target"),
        (torch.ones(2, 3), torch.tensor([0.0, 1.0]), (1,), "target"),
        (torch.ones(2, 3), torch.tensor([True, False]), (1,), "target"),
        (torch.ones(3), torch.tensor([0]), (1,), "logits"),
        (torch.ones(2, 3, dtype=torch.int64), torch.tensor([0, 1]), (1,), "logits"),
        (torch.ones(2, 3), torch.tensor([0, 1]), (0,), "every k"),
        (torch.ones(2, 3), torch.tensor([0, 1]), (1, -5), "every k"),
        (torch.ones(2, 3), torch.tensor([0, 1]), (1.5,), "every k"),
        (torch.ones(2, 3), torch.tensor([0, 1]), (), "every k"),
    ],
)
def test_bad_arguments_are_refused(topk_errors, logits, target, ks, message):
    with pytest.raises(ValueError, match=message):
        topk_errors(logits, target, ks)


def test_a_wrong_target_is_nan_inside_torch_compile():
    compiled = torch.compile(kernel.topk_errors, fullgraph=True, backend="aot_eager")
    logits, target = draw(4, 3)
    assert torch.equal(compiled(logits, target, (1, 2)), by_loop(logits, target, (1, 2)))
    assert compiled(logits, target + 7, (1, 2)).isnan().all()


# The counts


@pytest.mark.parametrize(
    ("layers", "parameters"),
    [
        (experiment.alexnet_layers(), 60_965_224),
        (experiment.alexnet_layers(gpus=1), 62_378_344),
        (experiment.vgg_layers((2, 2, 3, 3, 3)), 138_357_544),
        (experiment.vgg_layers((2, 2, 4, 4, 4)), 143_667_240),
        (experiment.resnet_layers((2, 2, 2, 2), bottleneck=False), 11_689_512),
        (experiment.resnet_layers((3, 4, 6, 3), bottleneck=True), 25_557_032),
        (experiment.resnet_layers((3, 8, 36, 3), bottleneck=True), 60_192_808),
        (experiment.googlenet_layers(), 6_998_552),
        ([*experiment.googlenet_layers(), *experiment.heads()], 13_378_280),
    ],
)
def test_the_counts_are_those_of_widely_used_implementations(layers, parameters):
    assert experiment.total(layers) == parameters


def test_the_number_of_layers_with_weights_is_in_the_names():
    assert len(experiment.vgg_layers((2, 2, 3, 3, 3))) == 16
    assert len(experiment.vgg_layers((2, 2, 4, 4, 4))) == 19
    deep = experiment.resnet_layers((3, 8, 36, 3), bottleneck=True)
    assert sum("shortcut" not in name for name, _, _ in deep) == 152
    assert len(experiment.zfnet_layers()) == 8


def test_zfnet_differs_from_an_unsplit_alexnet_in_its_first_layer_alone():
    difference = experiment.total(experiment.alexnet_layers(gpus=1)) - experiment.total(experiment.zfnet_layers())
    assert difference == 3 * 96 * (11**2 - 7**2)


def test_inceptions_take_in_what_the_one_before_put_out():
    names = list(experiment.INCEPTIONS.values())
    for before, after in pairwise(names):
        assert before[1] + before[3] + before[5] + before[6] == after[0]


def test_the_listed_count_is_the_trunk_with_a_three_by_three_first_layer_and_two_hidden_layers():
    trunk = sum(weights for _, weights, _ in experiment.googlenet_layers())
    assert trunk - 3 * 64 * (7**2 - 3**2) + 2 * (4 * 4 * 128 * 1024) == 11_176_896
