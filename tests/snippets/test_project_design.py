"""What the course and the note say of gaps and confusions, on values computed another way."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion

from snippets.project_design import kernel, method
from snippets.project_design.experiment import best_rule, draw, means

COUNTS = pytest.mark.parametrize("count", [method.confusion_matrix, kernel.confusion_matrix], ids=["method", "kernel"])
DIAGNOSES = pytest.mark.parametrize("diagnose", [method.diagnose, kernel.diagnose], ids=["method", "kernel"])
NAMES = ("human", "training", "train_dev", "dev", "test")
FAULTS = ("bias", "variance", "data mismatch", "overfitted dev set")
DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def errors(*rates):
    return dict(zip(NAMES, rates, strict=True))


def labels(n, classes, dtype=torch.int64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(classes, (n,), generator=generator).to(dtype)


def by_bincount(target, predicted, classes):
    pairs = target.flatten().long() * classes + predicted.flatten().long()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


# The diagnosis


@DIAGNOSES
@pytest.mark.parametrize(
    ("rates", "verdict"),
    [
        ((0.01, 0.08, 0.09, 0.10, 0.11), "bias"),
        ((0.01, 0.02, 0.09, 0.10, 0.11), "variance"),
        ((0.01, 0.02, 0.03, 0.10, 0.11), "data mismatch"),
        ((0.01, 0.02, 0.03, 0.04, 0.11), "overfitted dev set"),
        ((0.01, 0.012, 0.015, 0.016, 0.02), "none"),
        ((0.05, 0.0, 0.0, 0.0, 0.0), "none"),  # better than the human level is no fault
        ((0.06, 0.08, 0.09, 0.03, 0.08), "overfitted dev set"),  # an optimistic dev error lies below all others
        ((0.01, 0.10, 0.11, 0.20, 0.21), "bias"),  # two gaps of nine points: the earlier is worked on first
        ((0.01, 0.10, 0.11, 0.21, 0.22), "data mismatch"),
        ((0, 0, 0, 0, 0), "none"),
        ((0, 1, 1, 1, 1), "bias"),
        ((0.0, 0.0, 0.0, 0.0, 1.0), "overfitted dev set"),
    ],
)
def test_the_largest_gap_names_the_fault(diagnose, rates, verdict):
    assert diagnose(errors(*rates)) == verdict


@DIAGNOSES
def test_of_two_planted_faults_the_larger_is_named_in_every_pair(diagnose):
    for (i, small), (j, large) in itertools.permutations(enumerate(FAULTS), 2):
        rates, total = [Fraction(1, 50)], Fraction(1, 50)
        for n in range(4):
            total += Fraction(3, 100) * (n == i) + Fraction(7, 100) * (n == j)
            rates.append(total)
        assert diagnose(errors(*map(float, rates))) == large, small
        assert diagnose(errors(*rates)) == large


@DIAGNOSES
def test_a_gap_of_exactly_the_tolerance_is_none_whatever_floating_point_makes_of_it(diagnose):
    for points in range(90):
        low, high = points / 100, (points + 1) / 100
        assert diagnose(errors(low, high, high, high, high)) == "none"
        assert diagnose(errors(low, low, low, high, high)) == "none"
        assert diagnose(errors(low, low, high + 1e-6, high, high)) == "variance"


@DIAGNOSES
def test_equal_gaps_go_to_the_earlier_stage_whatever_floating_point_makes_of_them(diagnose):
    for points in range(80):
        rates = [(points + 5 * n) / 100 for n in range(5)]
        assert diagnose(errors(*rates)) == "bias"
        assert diagnose(errors(rates[0], *rates[:4])) == "variance"


@DIAGNOSES
def test_the_tolerance_can_be_set(diagnose):
    rates = errors(0.01, 0.04, 0.05, 0.05, 0.05)
    assert diagnose(rates) == diagnose(rates, tolerance=0.029) == diagnose(rates, tolerance=0) == "bias"
    assert diagnose(rates, tolerance=0.03) == diagnose(rates, tolerance=1) == "none"
    for bad in (-0.01, 1.5, math.nan, math.inf, "0.1", None, True):
        with pytest.raises(ValueError, match="tolerance"):
            diagnose(rates, tolerance=bad)


@DIAGNOSES
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [8.0, -0.01, math.nan, math.inf, "0.1", None, True, torch.tensor(0.1)], ids=repr)
def test_what_is_no_rate_is_refused_with_its_name(diagnose, name, bad):
    with pytest.raises(ValueError, match=f"the {name} error .* between 0 and 1"):
        diagnose(errors(0.1, 0.1, 0.1, 0.1, 0.1) | {name: bad})


@DIAGNOSES
def test_a_missing_or_unknown_name_is_refused(diagnose):
    whole = errors(0.1, 0.1, 0.1, 0.1, 0.1)
    with pytest.raises(ValueError, match=r"missing \['train_dev'\], unknown \['train-dev'\]"):
        diagnose({name.replace("n_d", "n-d"): rate for name, rate in whole.items()})
    with pytest.raises(ValueError, match=r"unknown \['extra'\]"):
        diagnose(whole | {"extra": 0.1})
    with pytest.raises(ValueError, match="missing"):
        diagnose({})
    with pytest.raises(ValueError, match="list"):
        diagnose([0.1] * 5)


@DIAGNOSES
def test_any_real_number_and_any_order_of_names_will_do(diagnose):
    rates = {
        "test": np.float32(0.11),
        "dev": 0.10,
        "human": 0,
        "train_dev": np.float64(0.09),
        "training": Fraction(1, 12),
    }
    assert diagnose(rates) == "bias"


def test_the_gaps_add_up_from_the_human_level_to_the_test_error():
    found = method.gaps(errors(0.02, 0.05, 0.11, 0.10, 0.25))
    assert tuple(found) == FAULTS
    assert found == pytest.approx(dict(zip(FAULTS, (0.03, 0.06, -0.01, 0.15), strict=True)))


def test_the_best_rule_is_right_where_there_is_no_noise_and_no_model_beats_it():
    assert best_rule((means(), torch.arange(10))) == 0
    x, y = draw(20_000, torch.Generator().manual_seed(7))
    floor = best_rule((x, y))
    assert 0.05 < floor < 0.075
    # the discriminant of equal covariances, written out: the same rule by another formula
    score = x.double() @ means().double().T - means().double().square().sum(1) / 2
    assert (score.argmax(1) != y).double().mean().item() == pytest.approx(floor, abs=1e-3)


# The confusion matrix


@COUNTS
def test_rows_are_targets_and_columns_are_predictions(count):
    matrix = count(torch.tensor([0, 0, 0, 2]), torch.tensor([1, 1, 0, 2]), 3)
    assert matrix.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]
    assert matrix.dtype == torch.int64


@COUNTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "classes"), [(1, 1), (777, 2), (2048, 10), (4097, 22), (2049, 23), (300, 127)])
def test_it_agrees_with_bincount_and_scikit_learn(count, dtype, n, classes):
    target, predicted = labels(n, classes, dtype), labels(n, classes, dtype, seed=1)
    matrix = count(target, predicted, classes)
    assert torch.equal(matrix, by_bincount(target, predicted, classes))
    assert matrix.numpy().tolist() == sklearn_confusion(target, predicted, labels=range(classes)).tolist()


@COUNTS
def test_the_two_labels_may_differ_in_dtype_and_a_dtype_may_be_narrower_than_the_classes(count):
    target, predicted = labels(3000, 100, torch.uint8), labels(3000, 400, seed=1)
    assert torch.equal(count(target, predicted, 400), by_bincount(target, predicted, 400))
    assert torch.equal(count(predicted, target, 400), by_bincount(predicted, target, 400))


@COUNTS
def test_any_shape_and_any_layout_are_counted(count):
    target, predicted = labels(2 * 600, 9).view(2, 20, 30), labels(2 * 600, 9, seed=1).view(2, 20, 30)
    want = by_bincount(target, predicted, 9)
    assert torch.equal(count(target, predicted, 9), want)
    assert torch.equal(count(target.transpose(0, 2), predicted.transpose(0, 2), 9), want)
    assert torch.equal(count(target.transpose(0, 2), predicted.permute(2, 1, 0).contiguous(), 9), want)
    assert torch.equal(count(target[:, ::3], predicted[:, ::3], 9), by_bincount(target[:, ::3], predicted[:, ::3], 9))
    assert torch.equal(count(target[0, 0, :1].expand(50), predicted[0, 0, :1].expand(50), 9).sum(), torch.tensor(50))
    assert count(torch.tensor(2), torch.tensor(1), 3).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


@COUNTS
@pytest.mark.parametrize("classes", [1, 10, 40])
def test_no_labels_give_zeros(count, classes):
    for shape in ((0,), (3, 0)):
        empty = torch.empty(shape, dtype=torch.int64)
        assert torch.equal(count(empty, empty, classes), torch.zeros(classes, classes, dtype=torch.int64))


@COUNTS
@pytest.mark.parametrize("classes", [1, 10, 40])
@pytest.mark.parametrize("bad", [-1, "classes", 2**31, 2**32, 2**32 + 3, -(2**32) + 3, 2**40, 2**63 - 1, -(2**63)])
def test_a_label_out_of_range_is_an_error_wherever_it_stands(count, classes, bad):
    bad = classes if bad == "classes" else bad
    good = torch.zeros(2051, dtype=torch.int64)
    for place in (0, 2047, 2050):
        wrong = good.clone()
        wrong[place] = bad
        for pair in ((wrong, good), (good, wrong), (wrong, wrong)):
            with pytest.raises(ValueError, match=f"not among the {classes} classes"):
                count(*pair, classes)


@COUNTS
def test_a_wrong_pair_whose_cell_would_lie_inside_is_an_error(count):
    # 0·10 + 13 and 2·10 − 7 are both cell 13, where bincount would put them
    for target, predicted in ((0, 13), (2, -7)):
        with pytest.raises(ValueError, match="classes"):
            count(torch.tensor([target, 1]), torch.tensor([predicted, 1]), 10)


@COUNTS
def test_narrow_labels_out_of_range_are_an_error(count):
    for dtype, bad in ((torch.int8, -128), (torch.uint8, 255), (torch.int16, -1), (torch.int32, 2**31 - 1)):
        with pytest.raises(ValueError, match="classes"):
            count(torch.tensor([1, bad], dtype=dtype), torch.tensor([1, 1], dtype=dtype), 200)


@pytest.mark.parametrize("bad", [-1, 10, 2**32 + 3, -(2**62)])
def test_the_kernel_writes_nothing_outside_for_bad_labels_and_counts_them(bad):
    target = torch.tensor([3, bad, 9, bad])
    predicted = torch.tensor([4, 5, 9, bad])
    for launch, copies in ((kernel._count_few, {}), (kernel._count_many, {"COPIES": 1})):
        buffer = torch.zeros(4096, dtype=torch.int64)
        counts = buffer[2000:2101]
        more = {"BINS": 128} if launch is kernel._count_few else copies
        launch[(1,)](target, predicted, counts, 4, 10, 100, BLOCK=16, **more)
        assert counts[100] == 2
        assert counts[34] == counts[99] == 1
        assert buffer.sum() == 4


@COUNTS
@pytest.mark.parametrize("classes", [0, -3, 2.0, "10", None, True])
def test_classes_must_be_a_whole_number_of_at_least_one(count, classes):
    with pytest.raises(ValueError, match="classes must be a whole number"):
        count(torch.tensor([0]), torch.tensor([0]), classes)


@COUNTS
def test_labels_of_another_kind_or_shape_are_refused(count):
    good = torch.tensor([0, 1])
    for bad in (good.float(), good.double(), good.half(), good.bool(), good.cfloat(), [0, 1], None):
        with pytest.raises(ValueError, match="target must hold integer labels"):
            count(bad, good, 2)
        with pytest.raises(ValueError, match="predicted must hold integer labels"):
            count(good, bad, 2)
    with pytest.raises(ValueError, match="one shape"):
        count(good, torch.tensor([[0], [1]]), 2)
    with pytest.raises(ValueError, match="one shape"):
        count(good, torch.tensor(0), 2)


@COUNTS
def test_the_inputs_stay_as_they_are_and_the_result_is_its_own(count):
    target, predicted = labels(100, 5), labels(100, 5, seed=1)
    before = target.clone(), predicted.clone()
    matrix = count(target, predicted, 5)
    matrix.fill_(-1)
    assert torch.equal(target, before[0])
    assert torch.equal(predicted, before[1])
    assert count(target, predicted, 5).sum() == 100
    assert matrix.untyped_storage().nbytes() == 25 * 8


def test_inside_torch_compile_bad_labels_are_an_error_too():
    good, bad = labels(33, 3, torch.uint8), torch.full((33,), 3, dtype=torch.uint8)
    compiled = torch.compile(lambda t, p, c: kernel.confusion_matrix(t, p, c) + 0, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(good, good, 3), by_bincount(good, good, 3))
    with pytest.raises(ValueError, match="not among the 3 classes"):
        compiled(good, bad, 3)
    assert torch.equal(compiled(good, bad, 4), by_bincount(good, bad, 4))
