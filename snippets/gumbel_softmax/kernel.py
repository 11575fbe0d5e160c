"""Gumbel-Softmax in Triton, forward and backward: noise, sum, softmax and arg max in one pass; no noise is ever stored.

Rows that fit registers are read once. Longer ones are cut into chunks: a first sweep leaves each chunk's largest entry
and sum, a second adds them up and writes. The backward of a soft fp32 or fp64 sample needs the sample alone, which its
reader keeps anyhow. A hard sample has lost it, and fp16 or bf16 has rounded it: there the logits are kept, for no more
bytes than a second output would cost, and the soft sample is drawn again from its seed.
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
SHORT, FIT, STEP = 1024, 8192, 2048
"""Elements of a program: of several short rows, of a row in one piece at most (fp64: half), and of a long row's step."""
PROGRAMS, MOST_CHUNKS = 1024, 1024
"""Long rows are cut until there are about this many programs; one program combines at most this many chunks."""


@triton.jit
def _gumbel_of(word, WORK: tl.constexpr):
    """Return −log(−log u) of 32-bit words, u = (word + ½)/2³²."""
    # Next to 1, −log u = −log(1 − v) is a sum of powers of v: rounded to a float, u has lost the digits that matter.
    near = word >= 0xF0000000
    u_or_v = (tl.where(near, word ^ 0xFFFFFFFF, word).to(WORK) + 0.5) * 2.0**-32
    v = tl.where(near, u_or_v, 0.0)  # below 1/16
    TERMS: tl.constexpr = 13 if tl.float64 == WORK else 6  # the term left out is below half a unit in the last place
    series = v * (1.0 / TERMS)
    for k in tl.static_range(TERMS - 1, 0, -1):
        series = v * (series + 1.0 / k)
    return -tl.log(tl.where(near, series, -tl.log(u_or_v)))


@triton.jit
def _gumbel(seed, counter, WORK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Return the noise [ROWS, BLOCK], or [BLOCK] for ROWS = 0: each Philox counter gives four neighbors."""
    low, high = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, low, high, low * 0, low * 0)
    word = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    word = tl.reshape(word, (ROWS, BLOCK)) if ROWS else tl.reshape(word, (BLOCK,))
    return _gumbel_of(word, WORK)


@triton.jit
def _read(ptr, at, real, whole, other, WORK: tl.constexpr):
    if whole:  # noqa: SIM108 (without a mask loads stay wide)
        x = tl.load(ptr + at).to(WORK)
    else:
        x = tl.load(ptr + at, mask=real, other=other).to(WORK)
    return x


@triton.jit
def _write(ptr, at, value, real, whole):
    if whole:
        tl.store(ptr + at, value.to(ptr.dtype.element_ty))
    else:
        tl.store(ptr + at, value.to(ptr.dtype.element_ty), mask=real)


@triton.jit
def _rows(rows, classes, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Return the Philox counters of a program's tile, its offsets [ROWS, BLOCK], which are real, and whether all are."""
    first = tl.program_id(0).to(tl.int64) * ROWS
    row, k = first + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    real = (row < rows)[:, None] & (k < classes)[None, :]
    counter = row[:, None] * tl.cdiv(classes, 4) + tl.arange(0, BLOCK // 4)[None, :]
    return counter, row[:, None] * classes + k[None, :], real, (first + ROWS <= rows) & (classes == BLOCK)


@triton.jit
def _one_hot(k, first, total):
    # a sum that is NaN (from NaN, +inf, or nothing but −inf) makes the row NaN, as in the soft sample
    return tl.where((total > 0) & (total < float("inf")), (k == first).to(total.dtype), float("nan"))


@triton.jit
def _forward(
    x_ptr, y_ptr, seed, inverse: tl.float64, rows, classes,
    HARD: tl.constexpr, WORK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads ROWS whole rows of logits, draws their noise, and writes their samples."""
    inverse = tl.full((), inverse, WORK)
    counter, at, real, whole = _rows(rows, classes, ROWS, BLOCK)
    x = _read(x_ptr, at, real, whole, float("-inf"), WORK)
    x += _gumbel(seed, counter, WORK, ROWS, BLOCK)
    largest = tl.max(x, axis=1)[:, None]
    e = tl.exp((x - largest) * inverse)
    total = tl.sum(e, axis=1)[:, None]
    if HARD:
        k = tl.arange(0, BLOCK)[None, :]
        y = _one_hot(k, tl.min(tl.where(x == largest, k, BLOCK), axis=1)[:, None], total)
    else:
        y = e * (1.0 / total)
    _write(y_ptr, at, y, real, whole)


@triton.jit
def _backward(
    grad_ptr, kept_ptr, out_ptr, seed, inverse: tl.float64, rows, classes,
    FROM_OUTPUT: tl.constexpr, WORK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads ROWS whole rows of dL/dy and of y (or logits) and writes those of dL/dlogits."""
    inverse = tl.full((), inverse, WORK)
    counter, at, real, whole = _rows(rows, classes, ROWS, BLOCK)
    grad = _read(grad_ptr, at, real, whole, 0.0, WORK)
    if FROM_OUTPUT:
        y = _read(kept_ptr, at, real, whole, 0.0, WORK)
    else:
        x = _read(kept_ptr, at, real, whole, float("-inf"), WORK)
        x += _gumbel(seed, counter, WORK, ROWS, BLOCK)
        e = tl.exp((x - tl.max(x, axis=1)[:, None]) * inverse)
        y = e * (1.0 / tl.sum(e, axis=1)[:, None])
    _write(out_ptr, at, y * (grad - tl.sum(grad * y, axis=1)[:, None]) * inverse, real, whole)


@triton.jit
def _tile(start, row, classes, STEP: tl.constexpr):
    """Return the classes [STEP] from `start` on, their offsets, which are real, and whether all are."""
    k = start + tl.arange(0, STEP)
    return k, row * classes + k, k < classes, start + STEP <= classes


@triton.jit
def _perturbed(x_ptr, start, row, at, real, whole, seed, classes, WORK: tl.constexpr, STEP: tl.constexpr):
    counter = row * tl.cdiv(classes, 4) + start // 4 + tl.arange(0, STEP // 4)
    return _read(x_ptr, at, real, whole, float("-inf"), WORK) + _gumbel(seed, counter, WORK, 0, STEP)


@triton.jit
def _chunk(classes, steps, STEP: tl.constexpr):
    """Return a program's row, and the first class of its chunk and the one after its last."""
    first = tl.program_id(1).to(tl.int64) * steps * STEP
    return tl.program_id(0).to(tl.int64), first, tl.minimum(first + tl.cast(steps, tl.int64) * STEP, classes)


@triton.jit
def _fold(
    kept_ptr, grad_ptr, sums_ptr, best_ptr, seed, inverse: tl.float64, classes, steps, chunks,
    HARD: tl.constexpr, GRADIENT: tl.constexpr, FROM_OUTPUT: tl.constexpr, WORK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program reads a chunk of one row and writes its largest entry m, where that is, and Σ exp((x − m)/τ), plain and times dL/dy.

    From the output y it is Σ y dL/dy alone, as if m were 0 and the sum 1.
    """
    inverse = tl.full((), inverse, WORK)
    row, first, last = _chunk(classes, steps, STEP)
    # the lowest finite number, not −inf: a chunk of masked classes alone then subtracts to −inf and sums to 0
    largest = tl.full((), -1.7976931348623157e308 if tl.float64 == WORK else -3.4028234663852886e38, WORK)
    best = tl.zeros((), tl.int64)
    total, dot = tl.zeros((STEP,), WORK), tl.zeros((STEP,), WORK)
    for start in range(first, last, STEP):
        k, at, real, whole = _tile(start, row, classes, STEP)
        if FROM_OUTPUT:
            e = _read(kept_ptr, at, real, whole, 0.0, WORK)
        else:
            x = _perturbed(kept_ptr, start, row, at, real, whole, seed, classes, WORK, STEP)
            here = tl.max(x, axis=0)
            if HARD:  # of equals the first stays
                best = tl.where(here > largest, tl.min(tl.where(x == here, k, classes), axis=0), best)
            now = tl.maximum(largest, here)
            shrink = tl.exp((largest - now) * inverse)
            e = tl.exp((x - now) * inverse)
            total, dot, largest = total * shrink + e, dot * shrink, now
        if GRADIENT:
            dot += e * _read(grad_ptr, at, real, whole, 0.0, WORK)
    every = tl.num_programs(0).to(tl.int64) * chunks  # of [sum, row, chunk]
    here = row * chunks + tl.program_id(1)
    if not FROM_OUTPUT:
        tl.store(sums_ptr + here, largest)
        tl.store(sums_ptr + every + here, tl.sum(total, axis=0))
    if GRADIENT:
        tl.store(sums_ptr + 2 * every + here, tl.sum(dot, axis=0))
    if HARD:
        tl.store(best_ptr + here, best)


@triton.jit
def _spread(
    kept_ptr, grad_ptr, sums_ptr, best_ptr, out_ptr, seed, inverse: tl.float64, classes, steps, chunks,
    HARD: tl.constexpr, GRADIENT: tl.constexpr, FROM_OUTPUT: tl.constexpr, WORK: tl.constexpr,
    CHUNKS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program adds up what `_fold` left of a row, reads one chunk of it again and writes that of y or of dL/dlogits.

    A hard sample is known without reading: 1 at the first of the largest.
    """
    inverse = tl.full((), inverse, WORK)
    row, first, last = _chunk(classes, steps, STEP)
    each = tl.arange(0, CHUNKS)
    there, given = row * chunks + each, each < chunks
    every = tl.num_programs(0).to(tl.int64) * chunks
    largest, total, weight = tl.zeros((), WORK), tl.full((), 1.0, WORK), tl.full((CHUNKS,), 1.0, WORK)
    if not FROM_OUTPUT:
        chunk_largest = tl.load(sums_ptr + there, mask=given, other=float("-inf"))
        largest = tl.max(chunk_largest, axis=0)
        weight = tl.exp((chunk_largest - largest) * inverse)
        total = tl.sum(weight * tl.load(sums_ptr + every + there, mask=given, other=0.0), axis=0)
        if HARD:
            best = tl.load(best_ptr + there, mask=given, other=0)
            best = tl.min(tl.where(chunk_largest == largest, best, classes), axis=0)
    one_over = 1.0 / total
    if GRADIENT:
        dot = tl.sum(weight * tl.load(sums_ptr + 2 * every + there, mask=given, other=0.0), axis=0) * one_over
    for start in range(first, last, STEP):
        k, at, real, whole = _tile(start, row, classes, STEP)
        if HARD:
            out = _one_hot(k, best, total)
        else:
            if FROM_OUTPUT:
                out = _read(kept_ptr, at, real, whole, 0.0, WORK)
            else:
                x = _perturbed(kept_ptr, start, row, at, real, whole, seed, classes, WORK, STEP)
                out = tl.exp((x - largest) * inverse) * one_over
            if GRADIENT:
                out = out * (_read(grad_ptr, at, real, whole, 0.0, WORK) - dot) * inverse  # 0 first: 0·∞ is NaN
        _write(out_ptr, at, out, real, whole)


def _work(x: Tensor) -> tuple[torch.dtype, tl.dtype]:
    return (torch.float64, tl.float64) if x.dtype == torch.float64 else (torch.float32, tl.float32)


def _launch(
    out: Tensor, kept: Tensor, grad: Tensor | None, tau: float, seed: int, hard: bool, from_output: bool
) -> None:
    """Write the samples of logits `kept` into `out`, or with `grad` the gradient, from logits or output `kept`."""
    if not out.numel():
        return
    classes = out.shape[-1]
    rows = out.numel() // classes
    dtype, WORK = _work(out)
    inverse = 1.0 / method.within(tau, dtype)
    block = max(4, triton.next_power_of_2(int(classes)))
    if block <= (FIT // 2 if dtype == torch.float64 else FIT):
        share = max(1, SHORT // block)
        how = {"WORK": WORK, "ROWS": share, "BLOCK": block, "num_warps": min(16, max(4, share * block // 256))}
        grid = (triton.cdiv(rows, share),)
        if grad is None:
            _wrap(_forward)[grid](kept, out, seed, inverse, rows, classes, HARD=hard, **how)
        else:
            _wrap(_backward)[grid](grad, kept, out, seed, inverse, rows, classes, FROM_OUTPUT=from_output, **how)
        return
    tiles = triton.cdiv(classes, STEP)
    steps = triton.cdiv(tiles, min(tiles, MOST_CHUNKS, triton.cdiv(PROGRAMS, rows)))
    chunks = triton.cdiv(tiles, steps)
    sums = torch.empty((3, rows, chunks), dtype=dtype, device=out.device)
    best = torch.empty((rows, chunks) if hard else (1,), dtype=torch.int64, device=out.device)
    how = {"HARD": hard, "GRADIENT": grad is not None, "FROM_OUTPUT": from_output, "WORK": WORK, "STEP": STEP}
    grad = kept if grad is None else grad
    sizes = (seed, inverse, classes, steps, chunks)
    _wrap(_fold)[(rows, chunks)](kept, grad, sums, best, *sizes, **how, num_warps=8)
    how["CHUNKS"] = triton.next_power_of_2(int(chunks))
    _wrap(_spread)[(rows, chunks)](kept, grad, sums, best, out, *sizes, **how, num_warps=8)


@_op("papernotes::gumbel_softmax", mutates_args=())
def _gumbel_softmax_op(logits: Tensor, tau: float, hard: bool, seed: int) -> Tensor:
    # row-major whatever the input's layout: an element's place decides its noise
    y = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    _launch(y, logits.contiguous(), None, tau, seed, hard, False)
    return y


@_op("papernotes::gumbel_softmax_backward", mutates_args=())
def _gumbel_softmax_backward_op(grad: Tensor, kept: Tensor, tau: float, seed: int, from_output: bool) -> Tensor:
    out = torch.empty(grad.shape, dtype=grad.dtype, device=grad.device)
    _launch(out, kept.contiguous(), grad.contiguous(), tau, seed, False, from_output)
    return out


@_gumbel_softmax_op.register_fake
def _(logits, tau, hard, seed):
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


@_gumbel_softmax_backward_op.register_fake
def _(grad, kept, tau, seed, from_output):
    return torch.empty(grad.shape, dtype=grad.dtype, device=grad.device)


def _keep(ctx, inputs, output):
    logits, ctx.tau, hard, ctx.seed = inputs
    ctx.from_output = not hard and logits.dtype in (torch.float32, torch.float64)
    ctx.save_for_backward(output if ctx.from_output else logits)


def _back(ctx, grad):
    return _gumbel_softmax_backward_op(grad, *ctx.saved_tensors, ctx.tau, ctx.seed, ctx.from_output), None, None, None


_gumbel_softmax_op.register_autograd(_back, setup_context=_keep)


def gumbel_softmax(logits: Tensor, tau: float, hard: bool = False, seed: int = 0) -> Tensor:
    """Sample as `method.gumbel_softmax` does, with the same noise; on a CPU without Triton's interpreter, by that function.

    Saves its output for the backward; a hard sample, and fp16 and bf16, the logits. Raises ValueError as
    `method.gumbel_softmax` does.
    """
    if not (logits.is_cuda or INTERPRETED):
        return method.gumbel_softmax(logits, tau, hard, seed)
    method._check(logits, tau)
    method._check_noise(tuple(logits.shape), logits.dtype, seed)
    return _gumbel_softmax_op(logits, float(tau), bool(hard), seed)
