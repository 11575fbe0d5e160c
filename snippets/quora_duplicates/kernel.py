"""A weighted embedding bag and the Euclidean distance of pairs in Triton, forward and backward, without atomic adds.

The table's gradient is summed in the order of the sorted indices: equal ones lie side by side, chunks of them are
added up by one program each, and what crosses chunks by a second pass. So it is the same bits each time, and a word
that is in every question does not hold up one program for long.
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
ENTRIES, COLUMNS = 8, 128
"""The tile of one warp that gathers rows of the table: enough loads on their way to hide the indices'."""
CHUNK = tl.constexpr(32)
"""Sorted entries of one program of the table's gradient."""
TILE, LONGEST = 2048, 2048
"""Elements of one program of the distance, and of a row in one piece."""


@triton.jit
def _columns(groups, ALIGN: tl.constexpr, BLOCK: tl.constexpr):
    """Return a program's columns and which are real; as dim is groups·ALIGN, a masked load is ALIGN elements wide."""
    column = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return column, column < tl.cast(groups, tl.int64) * ALIGN


@triton.jit
def _row_of(indices_ptr, at, real, rows):
    """Return the rows that entries name, and which are rows: the others (compiled, nobody looked) read row 0."""
    index = tl.load(indices_ptr + at, mask=real, other=0).to(tl.int64)
    known = (index >= 0) & (index < rows)
    return tl.where(known, index, 0), known


@triton.jit
def _bag_forward(
    table_ptr, indices_ptr, offsets_ptr, weights_ptr, out_ptr, rows, bags, n, groups,
    ALIGN: tl.constexpr, WORK: tl.constexpr, ENTRIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads BLOCK columns of the rows of one bag, ENTRIES rows at a time, and writes their weighted sum."""
    bag = tl.program_id(0).to(tl.int64)
    column, wanted = _columns(groups, ALIGN, BLOCK)
    begin = tl.maximum(tl.load(offsets_ptr + bag).to(tl.int64), 0)
    end = tl.load(offsets_ptr + bag + 1, mask=bag + 1 < bags, other=0).to(tl.int64)
    end = tl.minimum(tl.where(bag + 1 < bags, end, n), n)
    total = tl.zeros((ENTRIES, BLOCK), WORK)
    for step in range(0, end - begin, ENTRIES):
        at = begin + step + tl.arange(0, ENTRIES)
        real = at < end
        row, known = _row_of(indices_ptr, at, real, rows)
        weight = tl.load(weights_ptr + at, mask=real, other=0.0).to(WORK)
        weight = tl.where(known | ~real, weight, float("nan"))
        value = tl.load(
            table_ptr + (row * groups * ALIGN)[:, None] + column[None, :],
            mask=(real & known)[:, None] & wanted[None, :],
            other=0.0,
        )
        total += weight[:, None] * value.to(WORK)
    total = tl.sum(total, axis=0)
    tl.store(out_ptr + bag * groups * ALIGN + column, total.to(out_ptr.dtype.element_ty), mask=wanted)


@triton.jit
def _bag_weights_backward(
    grad_ptr, table_ptr, indices_ptr, bag_ptr, out_ptr, rows, n, groups,
    ALIGN: tl.constexpr, WORK: tl.constexpr, ENTRIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads the table's rows and the bags' gradients of ENTRIES entries and writes their products' sums."""
    at = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    real = at < n
    row, known = _row_of(indices_ptr, at, real, rows)
    bag = tl.load(bag_ptr + at, mask=real, other=-1)
    real = real & (bag >= 0)  # without any bag an entry is in none
    total = tl.zeros((ENTRIES, BLOCK), WORK)
    for start in range(0, groups * ALIGN, BLOCK):
        column = start + tl.arange(0, BLOCK)
        mask = (real & known)[:, None] & (column < groups * ALIGN)[None, :]
        value = tl.load(table_ptr + (row * groups * ALIGN)[:, None] + column[None, :], mask=mask, other=0.0)
        grad = tl.load(grad_ptr + (bag * groups * ALIGN)[:, None] + column[None, :], mask=mask, other=0.0)
        total += value.to(WORK) * grad.to(WORK)
    total = tl.where(known, tl.sum(total, axis=1), float("nan"))
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _bag_table_chunks(
    grad_ptr, keys_ptr, bag_ptr, weights_ptr, out_ptr, parts_ptr, rows, n, groups,
    ALIGN: tl.constexpr, WORK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads CHUNK sorted entries' gradients and writes a sum a run of equal indices, BLOCK columns of it.

    A run that is whole goes to its row of the table's gradient. One that came from the chunk before goes to part 0 of
    this chunk, and one that only starts here to part 1.
    """
    chunk = tl.program_id(0).to(tl.int64)
    column, wanted = _columns(groups, ALIGN, BLOCK)
    first = chunk * CHUNK
    last = tl.minimum(first + CHUNK, n)
    before = tl.load(keys_ptr + first - 1, mask=first > 0, other=0)
    came = (first > 0) & (before == tl.load(keys_ptr + first))
    total = tl.zeros((BLOCK,), WORK)
    for at in range(first, last):
        key = tl.load(keys_ptr + at).to(tl.int64)
        bag = tl.load(bag_ptr + at)
        weight = tl.load(weights_ptr + at).to(WORK)
        total += weight * tl.load(grad_ptr + bag * groups * ALIGN + column, mask=wanted, other=0.0).to(WORK)
        after = tl.load(keys_ptr + at + 1, mask=at + 1 < n, other=0).to(tl.int64)
        ends = (at + 1 == n) | (after != key)
        if ends | (at + 1 == last):
            whole = ends & (came == 0) & (key >= 0) & (key < rows)
            tl.store(out_ptr + key * groups * ALIGN + column, total.to(out_ptr.dtype.element_ty), mask=wanted & whole)
            part = chunk * 2 + tl.where(came, 0, 1)
            tl.store(parts_ptr + part * groups * ALIGN + column, total, mask=wanted & (came | (ends == 0)))
            total = tl.zeros((BLOCK,), WORK)
            came = came & False


@triton.jit
def _bag_table_joins(
    keys_ptr, parts_ptr, out_ptr, rows, chunks, groups,
    ALIGN: tl.constexpr, WORK: tl.constexpr, ENTRIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads the parts of the run that starts in its chunk and outlasts it, if any, and writes their sum."""
    chunk = tl.program_id(0).to(tl.int64)
    column, wanted = _columns(groups, ALIGN, BLOCK)
    key = tl.load(keys_ptr + (chunk + 1) * CHUNK).to(tl.int64)
    before = tl.load(keys_ptr + chunk * CHUNK - 1, mask=chunk > 0, other=0).to(tl.int64)
    starts = (chunk == 0) | (before != key)
    outlasts = tl.load(keys_ptr + (chunk + 1) * CHUNK - 1).to(tl.int64) == key
    if starts & outlasts & (key >= 0) & (key < rows):
        nth = tl.arange(0, ENTRIES)
        own = tl.load(parts_ptr + (chunk * 2 + 1) * groups * ALIGN + column, mask=wanted, other=0.0)
        total = tl.where((nth == 0)[:, None], own[None, :], 0.0)
        at = chunk + 1 + nth
        going = tl.full((), ENTRIES, tl.int32)
        while going == ENTRIES:
            same = (at < chunks) & (tl.load(keys_ptr + at * CHUNK, mask=at < chunks, other=0) == key)
            mask = same[:, None] & wanted[None, :]
            total += tl.load(parts_ptr + (at * 2 * groups * ALIGN)[:, None] + column[None, :], mask=mask, other=0.0)
            going = tl.sum(same.to(tl.int32), axis=0)
            at += ENTRIES
        total = tl.sum(total, axis=0).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + key * groups * ALIGN + column, total, mask=wanted)


@triton.jit
def _difference(a_ptr, b_ptr, row, rows, start, groups, ALIGN: tl.constexpr, WORK: tl.constexpr, BLOCK: tl.constexpr):
    """Return a − b of a tile, where it lies, and which of it is real."""
    column = start + tl.arange(0, BLOCK)
    at = (row * groups * ALIGN)[:, None] + column[None, :]
    real = (row < rows)[:, None] & (column < groups * ALIGN)[None, :]
    a, b = tl.load(a_ptr + at, mask=real, other=0.0), tl.load(b_ptr + at, mask=real, other=0.0)
    return a.to(WORK) - b.to(WORK), at, real


@triton.jit
def _root(x, WORK: tl.constexpr):
    # rounded as in torch, subnormal numbers included; in float64 `sqrt` is
    return tl.sqrt(x) if tl.float64 == WORK else tl.sqrt_rn(x)


@triton.jit
def _distance(
    a_ptr, b_ptr, row, rows, groups,
    ALIGN: tl.constexpr, WORK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    total = tl.zeros((ROWS, BLOCK), WORK)
    for start in range(0, groups * ALIGN, BLOCK):
        difference, _, _ = _difference(a_ptr, b_ptr, row, rows, start, groups, ALIGN, WORK, BLOCK)
        total += difference * difference
    return _root(tl.sum(total, axis=1), WORK)


@triton.jit
def _distance_forward(
    a_ptr, b_ptr, out_ptr, rows, groups,
    ALIGN: tl.constexpr, WORK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads ROWS rows of a and b, BLOCK columns at a time, and writes their distances."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = _distance(a_ptr, b_ptr, row, rows, groups, ALIGN, WORK, ROWS, BLOCK)
    tl.store(out_ptr + row, d.to(out_ptr.dtype.element_ty), mask=row < rows)


@triton.jit
def _store_both(slope, at, real, to_a_ptr, to_b_ptr):
    tl.store(to_a_ptr + at, slope.to(to_a_ptr.dtype.element_ty), mask=real)
    tl.store(to_b_ptr + at, (-slope).to(to_b_ptr.dtype.element_ty), mask=real)


@triton.jit
def _slope(difference, d, grad):
    # no direction where there is no distance; a d of NaN or infinity gives what the division gives, as in torch
    return grad[:, None] * tl.where((d == 0)[:, None], 0.0, difference / tl.where(d == 0, 1.0, d)[:, None])


@triton.jit
def _distance_backward(
    grad_ptr, a_ptr, b_ptr, to_a_ptr, to_b_ptr, rows, groups,
    ONE: tl.constexpr, ALIGN: tl.constexpr, WORK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads ROWS rows of a and b and their dL/dd, finds d again, and writes those rows of dL/da and dL/db."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    grad = tl.load(grad_ptr + row, mask=row < rows, other=0.0).to(WORK)
    if ONE:
        difference, at, real = _difference(a_ptr, b_ptr, row, rows, 0, groups, ALIGN, WORK, BLOCK)
        d = _root(tl.sum(difference * difference, axis=1), WORK)
        _store_both(_slope(difference, d, grad), at, real, to_a_ptr, to_b_ptr)
    else:  # a long row is read twice, the second time from the cache
        d = _distance(a_ptr, b_ptr, row, rows, groups, ALIGN, WORK, ROWS, BLOCK)
        for start in range(0, groups * ALIGN, BLOCK):
            difference, at, real = _difference(a_ptr, b_ptr, row, rows, start, groups, ALIGN, WORK, BLOCK)
            _store_both(_slope(difference, d, grad), at, real, to_a_ptr, to_b_ptr)


def _work(x: Tensor) -> tuple[torch.dtype, tl.dtype]:
    return (torch.float64, tl.float64) if x.dtype == torch.float64 else (torch.float32, tl.float32)


def _align(dim: int) -> int:
    """Return the largest power of two up to 16 that divides dim."""
    return next(power for power in (16, 8, 4, 2, 1) if dim % power == 0)


def _block(dim: int) -> int:
    return COLUMNS if dim >= COLUMNS else triton.next_power_of_2(int(dim))


@_op("papernotes::embedding_bag", mutates_args=())
def _bag_op(table: Tensor, indices: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    table, indices, offsets, weights = (x.contiguous() for x in (table, indices, offsets, weights))
    (rows, dim), bags, n = table.shape, offsets.shape[0], indices.shape[0]
    out = table.new_empty((bags, dim))
    if not table.numel():  # nothing to gather from
        return out.zero_()
    if bags:
        block, align = _block(dim), _align(dim)
        _wrap(_bag_forward)[(bags, triton.cdiv(dim, block))](
            table, indices, offsets, weights, out, rows, bags, n, dim // align,
            ALIGN=align, WORK=_work(table)[1], ENTRIES=ENTRIES, BLOCK=block, num_warps=1,
        )  # fmt: skip
    return out


@_op("papernotes::embedding_bag_table_backward", mutates_args=())
def _bag_table_backward_op(grad: Tensor, indices: Tensor, offsets: Tensor, weights: Tensor, rows: int) -> Tensor:
    dim, n = grad.shape[1], indices.shape[0]
    out = grad.new_zeros((rows, dim))
    if grad.numel() and n and rows:
        work, WORK = _work(grad)
        grad = grad.contiguous()
        keys, order = torch.sort(indices, stable=True)
        bag = method.bag_of(offsets, n)[order]
        chunks, block, align = triton.cdiv(n, CHUNK.value), _block(dim), _align(dim)
        parts = torch.empty((chunks, 2, dim), dtype=work, device=grad.device)
        columns = triton.cdiv(dim, block)
        _wrap(_bag_table_chunks)[(chunks, columns)](
            grad, keys, bag, weights[order], out, parts, rows, n, dim // align,
            ALIGN=align, WORK=WORK, BLOCK=block, num_warps=1,
        )  # fmt: skip
        if chunks > 1:
            _wrap(_bag_table_joins)[(chunks - 1, columns)](
                keys, parts, out, rows, chunks, dim // align,
                ALIGN=align, WORK=WORK, ENTRIES=ENTRIES, BLOCK=block, num_warps=1,
            )  # fmt: skip
    return out


@_op("papernotes::embedding_bag_weights_backward", mutates_args=())
def _bag_weights_backward_op(grad: Tensor, table: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    (rows, dim), n = table.shape, indices.shape[0]
    out = grad.new_empty((n,))
    if not (table.numel() and grad.numel()):
        return out.zero_()
    if n:
        block, align = _block(dim), _align(dim)
        entries = ENTRIES // 2  # it reads two rows an entry
        _wrap(_bag_weights_backward)[(triton.cdiv(n, entries),)](
            grad.contiguous(), table.contiguous(), indices.contiguous(), method.bag_of(offsets, n), out, rows, n, dim // align,
            ALIGN=align, WORK=_work(table)[1], ENTRIES=entries, BLOCK=block, num_warps=1,
        )  # fmt: skip
    return out


@_bag_op.register_fake
def _(table, indices, offsets, weights):
    return table.new_empty((offsets.shape[0], table.shape[1]))


@_bag_table_backward_op.register_fake
def _(grad, indices, offsets, weights, rows):
    return grad.new_empty((rows, grad.shape[1]))


@_bag_weights_backward_op.register_fake
def _(grad, table, indices, offsets):
    return grad.new_empty((indices.shape[0],))


def _keep_bag(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _back_bag(ctx, grad):
    table, indices, offsets, weights = ctx.saved_tensors
    wants_table, _, _, wants_weights = ctx.needs_input_grad
    to_table = _bag_table_backward_op(grad, indices, offsets, weights, table.shape[0]) if wants_table else None
    to_weights = _bag_weights_backward_op(grad, table, indices, offsets) if wants_weights else None
    return to_table, None, None, to_weights


def _keep_table_backward(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:-1])


def _second_of_table(ctx, along):
    # the sum is linear in table and in weights, so that its second derivatives are the three ops themselves
    grad, indices, offsets, weights = ctx.saved_tensors
    to_weights = _bag_weights_backward_op(grad, along, indices, offsets)
    return _bag_op(along, indices, offsets, weights), None, None, to_weights, None


def _second_of_weights(ctx, along):
    grad, table, indices, offsets = ctx.saved_tensors
    to_table = _bag_table_backward_op(grad, indices, offsets, along, table.shape[0])
    return _bag_op(table, indices, offsets, along), to_table, None, None


_bag_op.register_autograd(_back_bag, setup_context=_keep_bag)
_bag_table_backward_op.register_autograd(_second_of_table, setup_context=_keep_table_backward)
_bag_weights_backward_op.register_autograd(_second_of_weights, setup_context=_keep_bag)


def _shape(dim: int) -> tuple[int, int]:
    """Return how many rows a program of the distance takes, and how many columns of them at a time."""
    block = min(LONGEST, triton.next_power_of_2(int(dim)))
    return max(1, min(128, TILE // block)), block


@_op("papernotes::pairwise_distance", mutates_args=())
def _distance_op(a: Tensor, b: Tensor) -> Tensor:
    out, dim = a.new_empty(a.shape[:-1]), a.shape[-1]
    if not dim:
        return out.zero_()
    if rows := out.numel():
        (block_rows, block), align = _shape(dim), _align(dim)
        _wrap(_distance_forward)[(triton.cdiv(rows, block_rows),)](
            a.contiguous(), b.contiguous(), out, rows, dim // align,
            ALIGN=align, WORK=_work(a)[1], ROWS=block_rows, BLOCK=block,
        )  # fmt: skip
    return out


@_op("papernotes::pairwise_distance_backward", mutates_args=())
def _distance_backward_op(grad: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    to_a, to_b = (torch.empty_like(a, memory_format=torch.contiguous_format) for _ in range(2))
    if to_a.numel():
        dim = a.shape[-1]
        (block_rows, block), align = _shape(dim), _align(dim)
        rows = to_a.numel() // dim
        _wrap(_distance_backward)[(triton.cdiv(rows, block_rows),)](
            grad.contiguous(), a.contiguous(), b.contiguous(), to_a, to_b, rows, dim // align,
            ONE=dim <= block, ALIGN=align, WORK=_work(a)[1], ROWS=block_rows, BLOCK=block,
        )  # fmt: skip
    return to_a, to_b


@_distance_op.register_fake
def _(a, b):
    return a.new_empty(a.shape[:-1])


@_distance_backward_op.register_fake
def _(grad, a, b):
    return tuple(torch.empty_like(a, memory_format=torch.contiguous_format) for _ in range(2))


def _keep_pair(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _back_pair(ctx, grad):
    return _distance_backward_op(grad, *ctx.saved_tensors)


def _second_of_pair(ctx, along_a, along_b):
    # u = (a − b)/d, and its derivative (1 − uuᵀ)/d; rarely asked for, so in torch
    wide = _work(along_a)[0]
    grad, a, b, along = (x.to(wide) for x in (*ctx.saved_tensors, along_a - along_b))
    d = torch.linalg.vector_norm(a - b, dim=-1, keepdim=True)
    inverse = torch.where(d == 0, 0.0, 1 / d)
    u = (a - b) * inverse
    on_u = (along * u).sum(-1, keepdim=True)
    turn = (grad.unsqueeze(-1) * inverse * (along - u * on_u)).to(along_a.dtype)
    return on_u.squeeze(-1).to(along_a.dtype), turn, -turn


_distance_op.register_autograd(_back_pair, setup_context=_keep_pair)
_distance_backward_op.register_autograd(_second_of_pair, setup_context=_keep_pair)


def embedding_bag(table: Tensor, indices: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return each bag's weighted sum as `method.embedding_bag` does; on a CPU without the interpreter, by it.

    Raises ValueError as it does; a GPU waits while the values are looked at. Under torch.compile nobody looks: an index
    that is no row gives NaN and adds nothing to the table's gradient, and nothing outside the tensors is touched.
    """
    if not (table.is_cuda or INTERPRETED):
        return method.embedding_bag(table, indices, offsets, weights)
    method.check_bags(table, indices, offsets, weights)
    return _bag_op(table, indices, offsets, weights)


def pairwise_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return ‖a − b‖₂ as `method.pairwise_distance` does; on a CPU without Triton's interpreter, by it.

    Saves no distance: the backward reads both rows anyhow and finds it again, unrounded. Raises ValueError as it does.
    """
    if not (a.is_cuda or INTERPRETED):
        return method.pairwise_distance(a, b)
    method.check_pair(a, b)
    return _distance_op(a, b)
