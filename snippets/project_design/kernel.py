"""Confusion matrix in Triton: few cells are counted in each program's own histogram, many by adding to copies of the matrix.

A label outside the classes adds to no cell but to a count of its own, by which the op raises.
"""

import os
from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import method

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BLOCK = 2048
"""Pairs of labels a program reads at a time: 16 bytes of uint8 labels a thread."""
PROGRAMS = 1056
"""Eight for each multiprocessor of a large GPU; each goes over the labels in strides."""
BINS = 512
"""Up to so many cells fit a program's histogram, whose cost grows with them."""
COPIES = 64
"""At most so many copies of a larger matrix, so that the cells of the diagonal are not added to by all programs at once."""
COPIED_CELLS = 2**20
"""Cells of all the copies together: 8 MB, which a large GPU's cache holds."""


@triton.jit
def _cell(target, predicted, classes, CELL: tl.constexpr, outside):
    """The cell of each pair of labels; `outside` where one of them is no class."""
    # compared before anything is narrowed: 2³² + 3 is no class 3
    known = (target >= 0) & (target < classes) & (predicted >= 0) & (predicted < classes)
    cell = target.to(CELL) * classes.to(CELL) + predicted.to(CELL)
    return tl.where(known, cell, outside)


@triton.jit
def _count_few(target_ptr, predicted_ptr, count_ptr, n, classes, cells, BINS: tl.constexpr, BLOCK: tl.constexpr):
    """One program reads every so many blocks of both labels into BINS bins and adds them to `cells` counts and one of bad pairs."""
    classes = tl.cast(classes, tl.int32)
    count = tl.zeros((BINS,), dtype=tl.int32)
    step = tl.num_programs(0).to(tl.int64) * BLOCK
    for start in range(tl.program_id(0).to(tl.int64) * BLOCK, n, step):
        at = start + tl.arange(0, BLOCK)
        if start + BLOCK <= n:  # a full block needs no mask: its loads stay wide
            cell = _cell(tl.load(target_ptr + at), tl.load(predicted_ptr + at), classes, tl.int32, cells)
        else:
            target = tl.load(target_ptr + at, mask=at < n, other=0)
            predicted = tl.load(predicted_ptr + at, mask=at < n, other=0)
            cell = _cell(target, predicted, classes, tl.int32, cells)
            cell = tl.where(at < n, cell, cells + 1)  # a bin that is never added
        count += tl.histogram(cell, BINS)
    bin = tl.arange(0, BINS)
    # integer sums do not depend on their order: the same bits every time
    tl.atomic_add(count_ptr + bin, count.to(tl.int64), mask=(bin <= cells) & (count > 0), sem="relaxed")


@triton.jit
def _count_many(target_ptr, predicted_ptr, count_ptr, n, classes, cells, COPIES: tl.constexpr, BLOCK: tl.constexpr):
    """One program reads BLOCK of both labels and adds 1 a pair to its copy of the `cells` counts, or to that of bad pairs."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    row_ptr = count_ptr + (tl.program_id(0) % COPIES).to(tl.int64) * (tl.cast(cells, tl.int64) + 1)
    classes = tl.cast(classes, tl.int64)
    one = tl.full((BLOCK,), 1, dtype=tl.int64)
    if start + BLOCK <= n:
        cell = _cell(tl.load(target_ptr + at), tl.load(predicted_ptr + at), classes, tl.int64, cells)
        tl.atomic_add(row_ptr + cell, one, sem="relaxed")
    else:
        target = tl.load(target_ptr + at, mask=at < n, other=0)
        predicted = tl.load(predicted_ptr + at, mask=at < n, other=0)
        cell = _cell(target, predicted, classes, tl.int64, cells)
        tl.atomic_add(row_ptr + cell, one, mask=at < n, sem="relaxed")


# Opaque to the compiler on a GPU, too: the op raises by what it counted, which no traced code can.
@torch.library.custom_op("papernotes::confusion_matrix", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _confusion_op(target: Tensor, predicted: Tensor, classes: int) -> Tensor:
    cells, n = classes * classes, target.numel()
    few = cells + 2 <= BINS
    copies = 1 if few else max(1, min(COPIES, COPIED_CELLS // cells, triton.cdiv(n, BLOCK)))
    counts = torch.zeros(copies, cells + 1, dtype=torch.int64, device=target.device)
    if n:
        blocks, labels = triton.cdiv(n, BLOCK), (target.contiguous(), predicted.contiguous())
        if few:
            bins = max(64, triton.next_power_of_2(cells + 2))
            _count_few[(min(blocks, PROGRAMS),)](*labels, counts, n, classes, cells, BINS=bins, BLOCK=BLOCK)
        else:
            _count_many[(blocks,)](*labels, counts, n, classes, cells, COPIES=copies, BLOCK=BLOCK)
    if copies > 1:
        counts = counts.sum(0, keepdim=True)
    if counts[0, cells].item():  # waits for the GPU
        raise ValueError(method._outside(classes))
    return counts[0, :cells].view(classes, classes).clone()


@_confusion_op.register_fake
def _(target, predicted, classes):
    return torch.empty(classes, classes, dtype=torch.int64, device=target.device)


def confusion_matrix(target: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Return the counts as `method.confusion_matrix` does; by it on a CPU without Triton's interpreter.

    Waits for the GPU, to raise ValueError for a label that is no class, inside torch.compile as well.
    """
    method._check(target, predicted, classes)
    if not (target.is_cuda or INTERPRETED):
        return method.confusion_matrix(target, predicted, classes)
    return _confusion_op(target, predicted, classes)


def diagnose(errors: Mapping[str, float], *, tolerance: float = method.TOLERANCE) -> str:
    """Return the verdict of `method.diagnose`: four subtractions need no GPU."""
    return method.diagnose(errors, tolerance=tolerance)
