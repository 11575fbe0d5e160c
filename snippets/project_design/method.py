"""Where a project's error comes from: the gaps between five error rates, and the confusion matrix behind each of them.

The gaps are those of deeplearning.ai's course on structuring machine-learning projects and of Ng's "Machine Learning
Yearning"; neither numbers its equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Int

LABELS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Stage(NamedTuple):
    """One step of the decision flow: the two error rates it compares, what a gap is called, and what mends it."""

    before: str
    after: str
    verdict: str
    cures: tuple[str, ...]


STAGES = (
    Stage("human", "training", "bias", ("a larger network", "longer training", "a better optimizer")),
    Stage("training", "train_dev", "variance", ("more data", "augmentation", "regularization")),
    Stage("train_dev", "dev", "data mismatch", ("see how they differ", "training data like dev's")),
    Stage("dev", "test", "overfitted dev set", ("a larger dev set", "a fresh one")),
)
"""The flow, in the order in which the course works through it."""
NONE = "none"
ERRORS = (STAGES[0].before, *(stage.after for stage in STAGES))
"""The five error rates, each of data one step further from what the model was fitted to."""
TOLERANCE = 0.01
"""A gap of up to one percentage point is nothing to work on."""
SLACK = 1e-9
"""0.08 − 0.07 is not 0.01 in floating point: gaps this close count as equal."""


def gaps(errors: Mapping[str, float]) -> dict[str, float]:
    """Return what each step of the flow adds to the error, by the name of the fault: error(after) − error(before).

    Raises ValueError unless `errors` maps exactly the five names of ERRORS to rates between 0 and 1.
    """
    rates = _rates(errors)
    return {stage.verdict: rates[stage.after] - rates[stage.before] for stage in STAGES}


def diagnose(errors: Mapping[str, float], *, tolerance: float = TOLERANCE) -> str:
    """Return the name of the largest gap, of equal ones the earlier; "none" where none exceeds the tolerance.

    Raises ValueError unless `errors` maps human, training, train_dev, dev and test to rates between
    0 and 1, and 0 ≤ tolerance ≤ 1.
    """
    if not _is_rate(tolerance):
        raise ValueError(f"the tolerance must be a share between 0 and 1, not {tolerance!r}")
    verdict, most = NONE, float(tolerance)
    for name, gap in gaps(errors).items():
        if gap > most + SLACK:
            verdict, most = name, gap
    return verdict


def confusion_matrix(target: Int[Tensor, ...], predicted: Int[Tensor, ...], classes: int) -> Int[Tensor, "row column"]:
    """Return C[i, j] = Σ 1[target = i]·1[predicted = j], how many of class i were taken for class j, as int64.

    Raises ValueError for labels that are no integers or not among 0 … classes − 1, for shapes or devices
    that differ, and unless `classes` is a whole number of at least 1.
    """
    _check(target, predicted, classes)
    rows, columns = target.flatten().long(), predicted.flatten().long()
    for labels in (rows, columns):
        if labels.numel() and (labels.min() < 0 or labels.max() >= classes):
            raise ValueError(_outside(classes))
    matrix = torch.zeros(classes, classes, dtype=torch.int64, device=target.device)
    return matrix.index_put_((rows, columns), torch.ones_like(rows), accumulate=True)


def _is_rate(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= 1  # NaN is not


def _rates(errors: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(errors, Mapping):
        raise ValueError(f"errors must map {', '.join(ERRORS)} to error rates, not be {type(errors).__name__}")
    missing, unknown = [one for one in ERRORS if one not in errors], [one for one in errors if one not in ERRORS]
    if missing or unknown:
        said = (
            f"missing {missing}" * bool(missing)
            + ", " * bool(missing and unknown)
            + f"unknown {unknown}" * bool(unknown)
        )
        raise ValueError(f"errors must map exactly {', '.join(ERRORS)}: {said}")
    for name, value in errors.items():
        if not _is_rate(value):
            raise ValueError(
                f"the {name} error must be a number between 0 and 1, not {value!r}; divide percents by 100, call .item() on tensors"
            )
    return {name: float(errors[name]) for name in ERRORS}


def _check(target: Tensor, predicted: Tensor, classes: int) -> None:
    for name, labels in (("target", target), ("predicted", predicted)):
        if not isinstance(labels, Tensor) or labels.dtype not in LABELS:
            kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise ValueError(f"{name} must hold integer labels (uint8, int8, int16, int32, int64), not {kind}")
    if target.shape != predicted.shape:
        raise ValueError(f"target {tuple(target.shape)} and predicted {tuple(predicted.shape)} must have one shape")
    if target.device != predicted.device:
        raise ValueError(f"target is on {target.device}, predicted on {predicted.device}; move one of them")
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise ValueError(f"classes must be a whole number of at least 1, not {classes!r}")


def _outside(classes: int) -> str:
    return f"a label is not among the {classes} classes; labels run from 0 to {classes - 1}"
