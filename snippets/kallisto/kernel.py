"""One EM step over equivalence classes in Triton: gather the weights of a class, add its reads back by shares."""

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
TILE = 512
BLOCK = 1024


@triton.jit
def _weights(transcripts_ptr, alpha_ptr, lengths_ptr, at, mask):
    # An entry behind the end of its class asks for transcript 0 and weighs nothing.
    t = tl.load(transcripts_ptr + at, mask=mask, other=0).to(tl.int64)
    alpha = tl.load(alpha_ptr + t, mask=mask, other=0.0).to(tl.float64)
    length = tl.load(lengths_ptr + t, mask=mask, other=1.0).to(tl.float64)
    return t, alpha / length


@triton.jit
def _em_scatter(
    alpha_ptr,
    lengths_ptr,
    offsets_ptr,
    transcripts_ptr,
    counts_ptr,
    after_ptr,
    classes,
    CLASSES: tl.constexpr,
    MEMBERS: tl.constexpr,
):
    """One program reads CLASSES classes, MEMBERS entries of each at a time, and adds to the transcripts they name."""
    e = tl.program_id(0).to(tl.int64) * CLASSES + tl.arange(0, CLASSES)
    real = e < classes
    begin = tl.load(offsets_ptr + e, mask=real, other=0).to(tl.int64)
    size = tl.load(offsets_ptr + e + 1, mask=real, other=0).to(tl.int64) - begin
    count = tl.load(counts_ptr + e, mask=real, other=0).to(tl.float64)
    longest = tl.max(size, axis=0)
    step = tl.arange(0, MEMBERS)

    total = tl.zeros((CLASSES,), dtype=tl.float64)
    for start in range(0, longest, MEMBERS):
        inside = (start + step)[None, :] < size[:, None]
        at = begin[:, None] + (start + step)[None, :]
        _, weight = _weights(transcripts_ptr, alpha_ptr, lengths_ptr, at, inside)
        total += tl.sum(weight, axis=1)

    empty = total == 0.0
    divisor = tl.where(empty, 1.0, total)
    for start in range(0, longest, MEMBERS):
        inside = (start + step)[None, :] < size[:, None]
        at = begin[:, None] + (start + step)[None, :]
        t, weight = _weights(transcripts_ptr, alpha_ptr, lengths_ptr, at, inside)
        share = tl.where(empty[:, None], 0.0, weight / divisor[:, None]) * count[:, None]
        # float64: many small classes meet in one abundant transcript, and the order of arrival is free
        tl.atomic_add(after_ptr + t, share, mask=inside, sem="relaxed")


@triton.jit
def _em_normalize(after_ptr, reads_ptr, alpha_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """One program reads BLOCK expected counts and writes the same elements of the next alpha."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    reads = tl.load(reads_ptr)
    some = reads != 0.0
    divisor = tl.where(some, reads, 1.0)
    if start + BLOCK <= n:  # a full block needs no mask: its loads stay wide
        after = tl.load(after_ptr + at) / divisor
        before = tl.load(alpha_ptr + at)
        tl.store(out_ptr + at, tl.where(some, after.to(before.dtype), before))
    else:
        after = tl.load(after_ptr + at, mask=at < n, other=0.0) / divisor
        before = tl.load(alpha_ptr + at, mask=at < n, other=0.0)
        tl.store(out_ptr + at, tl.where(some, after.to(before.dtype), before), mask=at < n)


def _tile(classes: int, entries: int) -> tuple[int, int]:
    """Return (classes, members) of a tile: as wide as the mean class, so that one giant class has a program's width."""
    members = min(TILE, max(4, triton.next_power_of_2(triton.cdiv(entries, max(1, classes)))))
    return TILE // members, members


@_op("papernotes::kallisto_em_step", mutates_args=())
def _em_step_op(alpha: Tensor, lengths: Tensor, offsets: Tensor, transcripts: Tensor, counts: Tensor) -> Tensor:
    alpha, lengths, offsets, transcripts, counts = (
        x.contiguous() for x in (alpha, lengths, offsets, transcripts, counts)
    )
    out = torch.empty_like(alpha)
    after = torch.zeros(alpha.shape, dtype=torch.float64, device=alpha.device)
    reads = counts.sum(dtype=torch.float64)
    if classes := counts.numel():
        tile, members = _tile(classes, transcripts.numel())
        _wrap(_em_scatter)[(triton.cdiv(classes, tile),)](
            alpha, lengths, offsets, transcripts, counts, after, classes, CLASSES=tile, MEMBERS=members
        )
    if n := alpha.numel():
        _wrap(_em_normalize)[(triton.cdiv(n, BLOCK),)](after, reads, alpha, out, n, BLOCK=BLOCK)
    return out


@_em_step_op.register_fake
def _(alpha, lengths, offsets, transcripts, counts):
    return torch.empty_like(alpha, memory_format=torch.contiguous_format)


def em_step(alpha: Tensor, lengths: Tensor, offsets: Tensor, transcripts: Tensor, counts: Tensor) -> Tensor:
    """Return the next α as `method.em_step` does; on a CPU without Triton's interpreter, by `method.em_step`."""
    if not (alpha.is_cuda or INTERPRETED):
        return method.em_step(alpha, lengths, offsets, transcripts, counts)
    method.check(alpha, lengths, offsets, transcripts, counts)
    return _em_step_op(alpha, lengths, offsets, transcripts, counts)
