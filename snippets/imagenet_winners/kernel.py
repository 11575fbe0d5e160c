"""Top-k errors in Triton: one read of the logits, no sorting; the rank of the target is a count of what lies before it."""

import math
import os
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import method

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# On a GPU the compiler sees inside the op; the interpreter is opaque to it.
_op = torch.library.custom_op if INTERPRETED else torch.library.triton_op
_wrap = (lambda kernel: kernel) if INTERPRETED else torch.library.wrap_triton
TILE = 2048
"""Logits a program compares at a time; half as many in fp64, which needs twice the registers."""
PROGRAMS = 2048
"""Enough to fill a large GPU; each adds to the same five counts, one after another."""
AT_ONCE = 4
"""How many k a launch counts for; more of them read the logits again."""


@triton.jit
def _before(x, column, own, target):
    """Which logits rank before the target's: larger ones, and equal ones of a lower class."""
    return ((x > own[:, None]) | ((x == own[:, None]) & (column[None, :] < target[:, None]))).to(tl.int32)


@triton.jit
def _count(
    logits_ptr, target_ptr, count_ptr, rows, steps, k0, k1, k2, k3,
    STEP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    """One program reads every so many tiles of ROWS rows and adds their errors for four k, and bad targets, to five counts."""
    classes = tl.cast(steps, tl.int64) * STEP  # so written, the compiler knows how rows are aligned: 1000 = 125 · 8
    full = classes // BLOCK * BLOCK
    wrong0 = tl.zeros((ROWS,), dtype=tl.int64)
    wrong1, wrong2, wrong3, bad = wrong0, wrong0, wrong0, wrong0
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)
        counted = row < rows
        row = tl.minimum(row, rows - 1)  # beyond the last row read the last again: no load needs a row mask
        target = tl.load(target_ptr + row).to(tl.int64)
        valid = (target >= 0) & (target < classes)
        start = logits_ptr + row * classes
        own = tl.load(start + target, mask=valid, other=0.0).to(WORK)
        rank = tl.zeros((ROWS, BLOCK), dtype=tl.int32)
        broken = tl.zeros((ROWS, BLOCK), dtype=tl.int32)
        for first in range(0, full, BLOCK):
            column = first + tl.arange(0, BLOCK)
            x = tl.load(start[:, None] + column[None, :]).to(WORK)
            rank += _before(x, column, own, target)
            broken |= (x != x).to(tl.int32)
        if full < classes:
            column = full + tl.arange(0, BLOCK)
            # −∞ may tie with the target's logit, but no column out here lies before it
            x = tl.load(start[:, None] + column[None, :], mask=(column < classes)[None, :], other=-float("inf")).to(
                WORK
            )
            rank += _before(x, column, own, target)
            broken |= (x != x).to(tl.int32)
        ranks, nan = tl.sum(rank, axis=1), tl.max(broken, axis=1) > 0
        wrong0 += (counted & ((ranks >= k0) | nan)).to(tl.int64)
        wrong1 += (counted & ((ranks >= k1) | nan)).to(tl.int64)
        wrong2 += (counted & ((ranks >= k2) | nan)).to(tl.int64)
        wrong3 += (counted & ((ranks >= k3) | nan)).to(tl.int64)
        bad += (counted & (valid == 0)).to(tl.int64)
    # integer sums do not depend on their order: the same bits every time
    tl.atomic_add(count_ptr, tl.sum(wrong0), sem="relaxed")
    tl.atomic_add(count_ptr + 1, tl.sum(wrong1), sem="relaxed")
    tl.atomic_add(count_ptr + 2, tl.sum(wrong2), sem="relaxed")
    tl.atomic_add(count_ptr + 3, tl.sum(wrong3), sem="relaxed")
    tl.atomic_add(count_ptr + 4, tl.sum(bad), sem="relaxed")


@_op("papernotes::topk_counts", mutates_args=())
def _counts_op(logits: Tensor, target: Tensor, ks: Sequence[int]) -> Tensor:
    """Count the rows in error for each of four k, and the targets that are no class."""
    rows, classes = logits.shape
    counts = torch.zeros(AT_ONCE + 1, dtype=torch.int64, device=logits.device)
    if rows:
        step = math.gcd(classes, 16) or 1
        tile = TILE // 2 if logits.dtype == torch.float64 else TILE
        block = min(tile, triton.next_power_of_2(max(classes, 1)))
        per_program = tile // block
        _wrap(_count)[(min(triton.cdiv(rows, per_program), PROGRAMS),)](
            logits.contiguous(), target.contiguous(), counts, rows, classes // step, *ks,
            STEP=step, ROWS=per_program, BLOCK=block,
            WORK=tl.float64 if logits.dtype == torch.float64 else tl.float32,
        )  # fmt: skip
    return counts


@_counts_op.register_fake
def _(logits, target, ks):
    return torch.empty(AT_ONCE + 1, dtype=torch.int64, device=logits.device)


def topk_errors(logits: Tensor, target: Tensor, ks: Sequence[int] = (1, 5)) -> Tensor:
    """Return the error rates as `method.topk_errors` does; by it on a CPU without Triton's interpreter.

    Raises ValueError as the method does; inside torch.compile a target that is no class gives NaN instead.
    """
    if not (logits.is_cuda or INTERPRETED):
        return method.topk_errors(logits, target, ks)
    method._check(logits, target, ks)
    rows, classes = logits.shape
    parts = []
    for at in range(0, len(ks), AT_ONCE):
        asked = [min(int(k), max(classes, 1)) for k in ks[at : at + AT_ONCE]]
        counts = _counts_op(logits.detach(), target, asked + asked[:1] * (AT_ONCE - len(asked)))
        rates = counts[: len(asked)].double() / rows
        if torch.compiler.is_compiling():
            rates = torch.where(counts[AT_ONCE] > 0, float("nan"), rates)
        elif rows and counts[AT_ONCE].item():
            raise ValueError(method._outside(classes))
        parts.append(rates)
    return torch.cat(parts)
