"""The spatial-contrasting loss in Triton, forward and backward: distances live in registers, no [batch, batch] is stored.

Distances and their gradients are sums of direct differences. A matrix product would be the usual way to both, but it
subtracts large numbers: where features share an offset, or a pair lies close together, the digits are gone.
A thread owns one row and walks over the other side's rows, so every sum stays within a thread.
"""

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
OWN, OTHERS = 128, 16
"""The tile of one program: a row a thread, against so many rows of the other side at once."""
STEP = 2
"""Features handled at once."""
CHUNK = 64
"""Features summed before they join the total: a long sum of squares rounds less in two levels."""
FULL_MACHINE, MOST_SHARES, LEAST_TILES = 512, 8, 4
"""Fewer rows than fill a large GPU also share out the other side, each program with some tiles to do."""


@triton.jit
def _gap(own_ptr, other_ptr, WORK: tl.constexpr, OWN: tl.constexpr, OTHERS: tl.constexpr):
    """Return own − other [OTHERS, OWN] for one feature, of the rows that start at the two pointers."""
    own = tl.load(own_ptr + tl.arange(0, OWN)).to(WORK)
    return own[None, :] - tl.load(other_ptr + tl.arange(0, OTHERS)).to(WORK)[:, None]


@triton.jit
def _distances(
    own_ptr, other_ptr, features, stride,
    WORK: tl.constexpr, OWN: tl.constexpr, OTHERS: tl.constexpr, STEP: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Return the distances [OTHERS, OWN] of the rows that start at the two pointers, read feature by feature."""
    squares = tl.zeros((OTHERS, OWN), WORK)
    for start in range(0, features, CHUNK):
        part = tl.zeros((OTHERS, OWN), WORK)
        for at in range(start, tl.minimum(start + CHUNK, features), STEP):
            for k in tl.static_range(STEP):
                line = (at + k) * stride
                gap = _gap(own_ptr + line, other_ptr + line, WORK, OWN, OTHERS)
                part += gap * gap
        squares += part
    return tl.sqrt(squares)


@triton.jit
def _spatial_contrasting_forward(
    both_ptr, paired_ptr, nearest_ptr, total_ptr, batch, features, padded, share,
    WORK: tl.constexpr, OWN: tl.constexpr, OTHERS: tl.constexpr, STEP: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One program reads OWN anchors and `share` positives; for each anchor it writes three numbers.

    They are the distance d to its own positive (0 if another share has it), the nearest distance m, and Σ exp(m − d).
    """
    stride = tl.full((), padded, tl.int64)
    here = tl.program_id(0).to(tl.int64) * OWN
    own, other = tl.arange(0, OWN), tl.arange(0, OTHERS)
    first = tl.program_id(1).to(tl.int64) * share
    paired = tl.zeros((OWN,), WORK)
    total = tl.zeros((OWN,), WORK)
    nearest = tl.full((OWN,), float("inf"), WORK)
    for start in range(first, tl.minimum(first + share, batch), OTHERS):
        other_ptr = both_ptr + (stride * features + start)
        d = _distances(both_ptr + here, other_ptr, features, stride, WORK, OWN, OTHERS, STEP, CHUNK)
        d = tl.where((start + other < batch)[:, None], d, float("inf"))
        paired += tl.sum(tl.where((start + other)[:, None] == (here + own)[None, :], d, 0.0), axis=0)
        least = tl.minimum(nearest, tl.min(d, axis=0))
        base = tl.where(least == float("inf"), 0.0, least)  # inf − inf would be NaN; a NaN distance reaches the sum
        total = total * tl.exp(base - nearest) + tl.sum(tl.exp(base[None, :] - d), axis=0)
        nearest = least
    into = tl.program_id(1).to(tl.int64) * stride + here + own
    tl.store(paired_ptr + into, paired)  # buffers reach to a whole tile: no mask
    tl.store(nearest_ptr + into, nearest)
    tl.store(total_ptr + into, total)


@triton.jit
def _spatial_contrasting_backward(
    grad_ptr, both_ptr, shift_ptr, out_ptr, batch, features, padded, share,
    WORK: tl.constexpr, OWN: tl.constexpr, OTHERS: tl.constexpr, STEP: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One program reads OWN rows of one side and `share` rows of the other, and writes its part of the OWN rows' gradient.

    The side is the anchors' where program_id(1) is 0, the positives' where it is 1. Distances are computed again.
    `shift` holds each anchor's nearest distance m and log Σ exp(m − d): with them a softmax needs no second pass.
    """
    stride = tl.full((), padded, tl.int64)
    side = tl.program_id(1)
    here = tl.program_id(0).to(tl.int64) * OWN
    own, other = tl.arange(0, OWN), tl.arange(0, OTHERS)
    own_ptr = both_ptr + ((side * stride) * features + here)
    out_ptr += (tl.program_id(2).to(tl.int64) * 2 + side) * stride * features + here
    first = tl.program_id(2).to(tl.int64) * share
    grad = tl.load(grad_ptr).to(WORK) / tl.full((), batch, WORK)
    for start in range(first, tl.minimum(first + share, batch), OTHERS):
        other_ptr = both_ptr + (((1 - side) * stride) * features + start)
        d = _distances(own_ptr, other_ptr, features, stride, WORK, OWN, OTHERS, STEP, CHUNK)
        anchor = tl.where(side == 0, here, start) + tl.where(side == 0, own[None, :], other[:, None])
        softmax = tl.exp(tl.load(shift_ptr + anchor) - d - tl.load(shift_ptr + stride + anchor))
        is_pair = other[:, None] + (start - here).to(tl.int32) == own[None, :]
        slope = grad * (tl.where(is_pair, 1.0, 0.0) - softmax)
        d = tl.where((other < (batch - start).to(tl.int32))[:, None], d, 0.0)  # beyond the batch: no gradient
        weight = tl.where(d == 0, 0.0, slope / tl.where(d == 0, 1.0, d))
        for at in range(0, features, STEP):
            line = at * stride
            into = out_ptr + line + own
            # Both are read before the first is written, so that their loads overlap.
            was, was_next = tl.load(into), tl.load(into + stride)
            gap = _gap(own_ptr + line, other_ptr + line, WORK, OWN, OTHERS)
            gap_next = _gap(own_ptr + line + stride, other_ptr + line + stride, WORK, OWN, OTHERS)
            tl.store(into, was + tl.sum(weight * gap, axis=0))
            tl.store(into + stride, was_next + tl.sum(weight * gap_next, axis=0))
        tl.debug_barrier()  # the next tile adds to what this one wrote


def _shares(batch: int, programs: int, most: int) -> tuple[int, int]:
    """Return into how many shares the other side is cut, and the rows in each, where so many programs run anyway."""
    tiles = triton.cdiv(batch, OTHERS)
    wanted = max(1, min(triton.cdiv(FULL_MACHINE, programs), tiles // LEAST_TILES, most))
    share = triton.cdiv(tiles, wanted) * OTHERS
    return triton.cdiv(batch, share), share


def _lines(anchor: Tensor, positive: Tensor) -> Tensor:
    """Return both sides as [2, feature, batch], zeros to whole tiles: then rows are neighbors and no load needs a mask."""
    batch, features = anchor.shape
    both = anchor.new_zeros(2, max(1, triton.cdiv(features, STEP)) * STEP, triton.cdiv(batch, OWN) * OWN)
    both[0, :features, :batch] = anchor.t()
    both[1, :features, :batch] = positive.t()
    return both


def _sizes(x: Tensor) -> dict:
    work = tl.float64 if x.dtype == torch.float64 else tl.float32
    return {"WORK": work, "OWN": OWN, "OTHERS": OTHERS, "STEP": STEP, "CHUNK": CHUNK, "num_warps": OWN // 32}


@_op("papernotes::spatial_contrasting_loss", mutates_args=())
def _spatial_contrasting_op(anchor: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    batch = anchor.shape[0]
    work = torch.promote_types(anchor.dtype, torch.float32)
    if batch == 0:
        return anchor.new_full((), float("nan")), anchor.new_empty((2, 0), dtype=work)
    both = _lines(anchor, positive)
    _, features, padded = both.shape
    shares, share = _shares(batch, padded // OWN, batch)
    paired, nearest, total = anchor.new_empty(3, shares, padded, dtype=work).unbind()
    _wrap(_spatial_contrasting_forward)[(padded // OWN, shares)](
        both, paired, nearest, total, batch, features, padded, share, **_sizes(anchor)
    )
    least = nearest.amin(0)
    log_total = (total * torch.exp(least - nearest)).sum(0).log()
    # own − nearest first: their difference is exact where both are large, and the logarithm small
    loss = ((paired.sum(0) - least) + log_total)[:batch].mean()
    return loss.to(anchor.dtype), torch.stack([least, log_total])


@_op("papernotes::spatial_contrasting_backward", mutates_args=())
def _spatial_contrasting_backward_op(
    grad: Tensor, anchor: Tensor, positive: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    batch, width = anchor.shape
    if anchor.numel() == 0:
        return anchor.new_empty(batch, width), anchor.new_empty(batch, width)
    both = _lines(anchor, positive)
    _, features, padded = both.shape
    shares, share = _shares(batch, 2 * padded // OWN, MOST_SHARES)
    out = anchor.new_zeros(shares, 2, features, padded, dtype=shift.dtype)
    _wrap(_spatial_contrasting_backward)[(padded // OWN, 2, shares)](
        grad, both, shift, out, batch, features, padded, share, **_sizes(anchor)
    )
    first, second = out.sum(0)[:, :width, :batch].transpose(1, 2).to(anchor.dtype).unbind()
    return first.clone(memory_format=torch.contiguous_format), second.clone(memory_format=torch.contiguous_format)


@_spatial_contrasting_op.register_fake
def _(anchor, positive):
    padded = (anchor.shape[0] + OWN - 1) // OWN * OWN
    work = torch.promote_types(anchor.dtype, torch.float32)
    return anchor.new_empty(()), anchor.new_empty((2, padded), dtype=work)


@_spatial_contrasting_backward_op.register_fake
def _(grad, anchor, positive, shift):
    return anchor.new_empty(anchor.shape), anchor.new_empty(anchor.shape)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1])


def _back(ctx, grad, _):
    return _spatial_contrasting_backward_op(grad, *ctx.saved_tensors)


def _keep_for_second(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])


def _second(ctx, *along):
    # Rare enough for plain torch, and for a [batch, batch, feature] tensor. What `shift` carries is in the formula.
    with torch.enable_grad():
        grad, anchor, positive = leaves = [one.detach().requires_grad_() for one in ctx.saved_tensors]
        work = torch.promote_types(anchor.dtype, torch.float32)
        squares = (anchor.to(work)[:, None] - positive.to(work)).square().sum(2)
        distance = torch.where(squares == 0, 0.0, torch.where(squares == 0, 1.0, squares).sqrt())
        loss = (torch.diagonal(distance) + torch.logsumexp(-distance, 1)).mean()
        first = torch.autograd.grad(loss, leaves[1:], grad.to(work), create_graph=True)
    second = torch.autograd.grad(first, leaves, along, allow_unused=True)
    return *(torch.zeros_like(one) if got is None else got for one, got in zip(leaves, second, strict=True)), None


_spatial_contrasting_op.register_autograd(_back, setup_context=_keep)
_spatial_contrasting_backward_op.register_autograd(_second, setup_context=_keep_for_second)


def spatial_contrasting_loss(anchor: Tensor, positive: Tensor) -> Tensor:
    """Return the loss as `method.spatial_contrasting_loss` does; on a CPU without Triton's interpreter, by it.

    Keeps its inputs and two numbers an anchor for the backward. Its second derivative exists, in plain torch.
    Raises ValueError unless both are floating [batch, feature] matrices of one shape, dtype and device.
    """
    method._check(anchor, positive)
    if not (anchor.is_cuda or INTERPRETED):
        return method.spatial_contrasting_loss(anchor, positive)
    return _spatial_contrasting_op(anchor, positive)[0]
