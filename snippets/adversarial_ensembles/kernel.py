"""The FGSM step, also in place, and the max-confidence ensemble in Triton; logits are read once, no softmax is written.

A model's largest probability is 1 / (1 + tail), where the tail sums exp(logit − largest) over its other classes: so the
most confident model is the one with the smallest tail. The tail is summed in fp32 (fp64 for fp64), and 1 + tail rounded to
fp64, where the method's probabilities tie as well. Tails that agree to six digits may
go either way, as they do where all logits are nearly equal.
"""

import math
import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import method

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# On a GPU the compiler sees inside the op; the interpreter is opaque to it.
_op = torch.library.custom_op if INTERPRETED else torch.library.triton_op
_wrap = (lambda kernel: kernel) if INTERPRETED else torch.library.wrap_triton
BLOCK = 1024
TILE = 2048
"""Logits a program holds at a time; half as many in fp64, which needs twice the registers."""
HAIR = tl.constexpr(2.0**-54)
"""Logits this close have the same float64 probability: exp of their difference rounds to 1."""


@triton.jit
def _moved(x, gradient, epsilon):
    # comparisons with NaN are false: a NaN gradient moves nothing, a NaN x passes both ends of the clamp
    y = x + tl.where(gradient > 0, epsilon, tl.where(gradient < 0, -epsilon, 0.0))
    y = tl.where(y < 0, 0.0, y)
    return tl.where(y > 1, 1.0, y)


@triton.jit
def _fgsm(x_ptr, gradient_ptr, y_ptr, epsilon: tl.float64, n, WORK: tl.constexpr, BLOCK: tl.constexpr):
    """One program reads BLOCK elements of x and of the gradient and writes the same elements of y, which may be x."""
    epsilon = tl.full((), epsilon, WORK)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:  # a full block needs no mask: its loads stay wide
        y = _moved(tl.load(x_ptr + at).to(WORK), tl.load(gradient_ptr + at).to(WORK), epsilon)
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty))
    else:
        x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(WORK)
        gradient = tl.load(gradient_ptr + at, mask=at < n, other=0.0).to(WORK)
        tl.store(y_ptr + at, _moved(x, gradient, epsilon).to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _heard(x, at, largest, tail, where):
    """Let each lane hear one more logit: its largest so far, where that was, and the tail of all the others."""
    # exp(−|difference|) serves both cases: the newcomer joins the tail, or the tail shrinks to a new largest
    apart = tl.where(x == largest, 0.0, x - largest)  # −∞ after −∞ is no NaN
    joins = tl.exp(-tl.abs(apart))
    leads = apart > HAIR
    tail = tl.where(leads, (tail + 1.0) * joins, tail + joins)
    return tl.where(leads, x, largest), tail, tl.where(leads, at, where)


@triton.jit
def _max_confidence(
    logits_ptr, out_ptr, models, batch, steps,
    STEP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, FEW: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    """One program reads ROWS instances of every model, BLOCK classes at a time, and writes their ROWS predictions."""
    classes = tl.cast(steps, tl.int64) * STEP  # so written, the compiler knows how rows are aligned: 1000 = 125 · 8
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < batch
    row = tl.minimum(row, batch - 1)  # beyond the last row read the last again: no load needs a row mask
    column = tl.arange(0, BLOCK)[None, :]
    full = classes // BLOCK * BLOCK
    least = tl.full((ROWS,), float("inf"), tl.float64)
    predicted = tl.zeros((ROWS,), dtype=tl.int32)
    for model in range(0, models):
        start = logits_ptr + ((tl.cast(model, tl.int64) * batch + row) * classes)[:, None]
        if FEW:  # at most BLOCK classes; −∞ has probability 0 and changes nothing
            largest = tl.load(start + column, mask=column < classes, other=-float("inf")).to(WORK)
        else:
            largest = tl.load(start + column).to(WORK)
        tail = tl.where(largest == largest, 0.0, largest)  # a NaN stays in the tail
        where = tl.broadcast_to(column, (ROWS, BLOCK))
        if not FEW:
            for first in range(BLOCK, full, BLOCK):
                x = tl.load(start + first + column).to(WORK)
                largest, tail, where = _heard(x, (first + column).to(tl.int32), largest, tail, where)
            if full < classes:
                at = full + column
                x = tl.load(start + at, mask=at < classes, other=-float("inf")).to(WORK)
                largest, tail, where = _heard(x, at.to(tl.int32), largest, tail, where)
        top = tl.max(largest, axis=1)[:, None]
        winner = tl.min(tl.where(top - largest <= HAIR, where, 2147483647), axis=1)
        others = (tail + tl.where(where == winner[:, None], 0.0, 1.0)) * tl.exp(largest - top)
        total = 1.0 + tl.sum(others, axis=1).to(tl.float64)
        top = tl.max(largest, axis=1)
        sound = (total == total) & (tl.abs(top) < float("inf"))
        total = tl.where(sound, total, 0.0)  # below every sum: NaN is the largest probability, as in torch
        better = total < least
        predicted = tl.where(better, tl.where(sound, winner, 0), predicted)
        least = tl.where(better, total, least)
    tl.store(out_ptr + row, predicted.to(tl.int64), mask=inside)


def _work(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _launch_step(x: Tensor, gradient: Tensor, y: Tensor, epsilon: float) -> None:
    if n := x.numel():
        _wrap(_fgsm)[(triton.cdiv(n, BLOCK),)](x, gradient, y, epsilon, n, WORK=_work(x), BLOCK=BLOCK)


def _laid_as(y: Tensor, x: Tensor) -> Tensor:
    return x if x.stride() == y.stride() else torch.empty_like(y).copy_(x)


@_op("papernotes::fgsm_step", mutates_args=())
def _fgsm_op(x: Tensor, gradient: Tensor, epsilon: float) -> Tensor:
    y = torch.empty_like(x)
    _launch_step(_laid_as(y, x), _laid_as(y, gradient), y, epsilon)
    return y


@_op("papernotes::fgsm_step_", mutates_args={"x"})
def _fgsm_in_place_op(x: Tensor, gradient: Tensor, epsilon: float) -> None:
    strides = torch.empty_like(x, device="meta").stride()  # dense: those of x, unless x has gaps or overlaps
    dense = x if x.stride() == strides else torch.empty_like(x).copy_(x)
    _launch_step(dense, _laid_as(dense, gradient), dense, epsilon)
    if dense is not x:
        x.copy_(dense)


@_op("papernotes::max_confidence", mutates_args=())
def _max_confidence_op(logits: Tensor) -> Tensor:
    models, batch, classes = logits.shape
    out = torch.empty(batch, dtype=torch.int64, device=logits.device)
    if batch:
        step = math.gcd(classes, 16)
        tile = TILE // 2 if logits.dtype == torch.float64 else TILE
        block = min(tile, triton.next_power_of_2(classes))
        rows = tile // block
        _wrap(_max_confidence)[(triton.cdiv(batch, rows),)](
            logits.contiguous(), out, models, batch, classes // step,
            STEP=step, ROWS=rows, BLOCK=block, FEW=classes <= block, WORK=_work(logits),
        )  # fmt: skip
    return out


@_fgsm_op.register_fake
def _(x, gradient, epsilon):
    return torch.empty_like(x)


@_fgsm_in_place_op.register_fake
def _(x, gradient, epsilon):
    return None


@_max_confidence_op.register_fake
def _(logits):
    return torch.empty(logits.shape[1], dtype=torch.int64, device=logits.device)


def fgsm_step(x: Tensor, gradient: Tensor, epsilon: float) -> Tensor:
    """Return the step as `method.fgsm_step` does; by it on a CPU without Triton's interpreter. Raises as it does."""
    if not (x.is_cuda or INTERPRETED):
        return method.fgsm_step(x, gradient, epsilon)
    method._check_step(x, gradient, epsilon)
    return _fgsm_op(x.detach(), gradient.detach(), epsilon)


def fgsm_step_(x: Tensor, gradient: Tensor, epsilon: float) -> Tensor:
    """Overwrite x as `method.fgsm_step_` does and return it; by it on a CPU without Triton's interpreter.

    Needs no further memory where x is dense and the gradient laid out alike; the gradient must not overlap x. Raises as
    the method does.
    """
    if not (x.is_cuda or INTERPRETED):
        return method.fgsm_step_(x, gradient, epsilon)
    method._check_step(x, gradient, epsilon)
    _fgsm_in_place_op(x.detach(), gradient.detach(), epsilon)
    return x


def max_confidence(logits: Tensor) -> Tensor:
    """Return the predictions as `method.max_confidence` does; by it on a CPU without Triton's interpreter.

    Raises ValueError as the method does.
    """
    if not (logits.is_cuda or INTERPRETED):
        return method.max_confidence(logits)
    method._check_logits(logits)
    return _max_confidence_op(logits.detach())
