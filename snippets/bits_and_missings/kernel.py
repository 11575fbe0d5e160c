"""k-winners in Triton, forward and backward: the k-th largest value of a row is found by bisection, never by sorting.

A float's bits, read as sign and magnitude, are an integer in the order of the values. The threshold is built bit by bit
from the top: a bit stays if at least k keys reach it. A row that fits in registers is read once; a longer one once for
every two bits and once more to write, from the L2 cache where it fits. Where a gradient is wanted the forward also
writes one bit an element, so that the backward reads n/8 bytes and dL/dy, and x can be freed.
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
TILE = 2048
"""Elements of one program, where rows are shorter."""
LONGEST = 64 * 1024
"""Bytes of keys of the longest row that stays in registers; no key is narrower than 4."""
CHUNK = 2048
"""Elements of a longer row that are read at a time."""
BYTES = 256
"""Bytes of the bit mask that one program of the backward reads."""
_INFINITY = {
    torch.float64: 0x7FF << 52,
    torch.float32: 0xFF << 23,
    torch.float16: 0x1F << 10,
    torch.bfloat16: 0xFF << 7,
}


@triton.jit
def _key(x, KEY: tl.constexpr, INFINITY: tl.constexpr):
    """Return integers in the order of the values: both zeros are 0, every NaN is the largest."""
    BITS: tl.constexpr = x.dtype.primitive_bitwidth
    LARGEST: tl.constexpr = (1 << (BITS - 1)) - 1
    bits = x.to(tl.int16, bitcast=True).to(KEY) if BITS == 16 else x.to(KEY, bitcast=True)
    magnitude = bits & LARGEST
    return tl.where(magnitude > INFINITY, LARGEST, tl.where(bits < 0, -magnitude, magnitude))


@triton.jit
def _pack(keep, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Return eight neighbors' bits as one byte, the first lowest."""
    bits = tl.reshape(keep.to(tl.int32), (ROWS, WIDTH // 8, 8)) << tl.arange(0, 8)[None, None, :]
    return tl.sum(bits, axis=2).to(tl.uint8)


@triton.jit
def _k_winners_rows(
    x_ptr, y_ptr, bits_ptr, rows, n, k,
    MASK: tl.constexpr, WHOLE: tl.constexpr, KEY: tl.constexpr, INFINITY: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program reads ROWS rows of x and writes the same rows of y, and with MASK of the bit mask."""
    LOWEST: tl.constexpr = -(1 << (x_ptr.dtype.element_ty.primitive_bitwidth - 1))
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = (first + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    at = row * n + column
    whole = (first + ROWS <= rows) & WHOLE  # no mask: the loads stay wide
    real = (row < rows) & (column < n)
    if whole:
        key = _key(tl.load(x_ptr + at), KEY, INFINITY)
    else:
        x = tl.load(x_ptr + at, mask=real, other=0.0)
        key = tl.where(real, _key(x, KEY, INFINITY), LOWEST)  # below −∞: padding never wins

    low, step = tl.full((ROWS,), LOWEST, KEY), tl.full((), LOWEST, KEY)
    held, over = tl.full((ROWS,), WIDTH + 1, tl.int32), tl.zeros((ROWS,), tl.int32)
    while (step != 0) & (tl.max((held != k).to(tl.int32), axis=0) > 0):  # exactly k: nothing is left to separate
        candidate = low ^ step  # sets the next bit; the first step turns the lowest key into 0
        reach = tl.sum((key >= candidate[:, None]).to(tl.int32), axis=1)
        # at least k keys reach `low`, `held` of them; fewer than k, `over`, reach the upper bound
        enough = reach >= k
        low, held = tl.where(enough, candidate, low), tl.where(enough, reach, held)
        over = tl.where(enough, over, tl.maximum(over, reach))
        step = (step >> 1) & -(LOWEST + 1)

    keep = key >= low[:, None]
    if tl.max((held != k).to(tl.int32), axis=0) > 0:  # ties at the threshold: the first of them win
        tied = key == low[:, None]
        spare = tl.where(held == k, WIDTH, k - over)[:, None]
        keep = keep & ((tl.cumsum(tied.to(tl.int32), axis=1) <= spare) | (key > low[:, None]))
    if whole:  # x again, from the cache: only its key stayed in registers
        x = tl.load(x_ptr + at)
        tl.store(y_ptr + at, tl.where(keep, x, tl.zeros_like(x)))
    else:
        x = tl.load(x_ptr + at, mask=real, other=0.0)
        tl.store(y_ptr + at, tl.where(keep, x, tl.zeros_like(x)), mask=real)
    if MASK:
        byte = tl.arange(0, WIDTH // 8)[None, :]
        width = (n + 7) // 8
        tl.store(bits_ptr + row * width + byte, _pack(keep & real, ROWS, WIDTH), mask=(row < rows) & (byte < width))


@triton.jit
def _narrow(reach, candidate, k, low, held, over):
    """Move one bound of `_k_winners_rows` to a candidate that `reach` keys reach."""
    enough = reach >= k
    low, held = tl.where(enough, candidate, low), tl.where(enough, reach, held)
    return low, held, tl.where(enough, over, tl.maximum(over, reach))


@triton.jit
def _chunk(x_row, start, n, KEY: tl.constexpr, INFINITY: tl.constexpr, CHUNK: tl.constexpr):
    """Return CHUNK elements of a row and their keys; past the row's end the key is below −∞'s."""
    at = start + tl.arange(0, CHUNK)
    x = tl.load(x_row + at) if start + CHUNK <= n else tl.load(x_row + at, mask=at < n, other=0.0)
    LOWEST: tl.constexpr = -(1 << (x.dtype.primitive_bitwidth - 1))
    return x, tl.where(at < n, _key(x, KEY, INFINITY), LOWEST)


@triton.jit
def _k_winners_long(
    x_ptr, y_ptr, bits_ptr, n, k,
    MASK: tl.constexpr, KEY: tl.constexpr, INFINITY: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One program reads one row of x, chunk by chunk and several times, and writes that row of y and of the bit mask."""
    LOWEST: tl.constexpr = -(1 << (x_ptr.dtype.element_ty.primitive_bitwidth - 1))
    row = tl.program_id(0).to(tl.int64)
    x_row, y_row = x_ptr + row * n, y_ptr + row * n
    n = n.to(tl.int64)
    low, middle = tl.full((), LOWEST, KEY), tl.full((), 0, KEY)
    step = tl.full((), -(LOWEST // 2), KEY)
    held, over = n + 1, n * 0
    while (step > 0) & (held != k):
        one, two, three = tl.zeros((CHUNK,), tl.int32), tl.zeros((CHUNK,), tl.int32), tl.zeros((CHUNK,), tl.int32)
        for start in range(0, n, CHUNK):
            _, key = _chunk(x_row, start, n, KEY, INFINITY, CHUNK)
            one += (key >= middle - step).to(tl.int32)
            two += (key >= middle).to(tl.int32)
            three += (key >= middle + step).to(tl.int32)
        low, held, over = _narrow(tl.sum(one.to(tl.int64), axis=0), middle - step, k, low, held, over)
        low, held, over = _narrow(tl.sum(two.to(tl.int64), axis=0), middle, k, low, held, over)
        low, held, over = _narrow(tl.sum(three.to(tl.int64), axis=0), middle + step, k, low, held, over)
        step = step >> 2
        middle = low + 2 * step

    spare = tl.where(held == k, n, k - over)  # how many of those at the threshold win, the first ones
    before = n * 0
    byte = tl.arange(0, CHUNK // 8)
    width = (n + 7) // 8
    for start in range(0, n, CHUNK):
        x, key = _chunk(x_row, start, n, KEY, INFINITY, CHUNK)
        tied = (key == low).to(tl.int32)
        keep = (key > low) | ((tied > 0) & (before + tl.cumsum(tied, axis=0) <= spare))
        before += tl.sum(tied, axis=0)
        y = tl.where(keep, x, tl.zeros_like(x))
        at = start + tl.arange(0, CHUNK)
        if start + CHUNK <= n:
            tl.store(y_row + at, y)
        else:
            tl.store(y_row + at, y, mask=at < n)
        if MASK:
            here = start // 8 + byte
            tl.store(
                bits_ptr + row * width + here[None, :], _pack(keep[None, :], 1, CHUNK), mask=(here < width)[None, :]
            )


@triton.jit
def _k_winners_backward(
    grad_ptr, bits_ptr, out_ptr, bytes, n, ALIGNED: tl.constexpr, BYTES: tl.constexpr
):  # fmt: skip
    """One program reads BYTES bytes of the bit mask and eight elements of dL/dy for each, and writes those of dL/dx."""
    first = tl.program_id(0).to(tl.int64) * BYTES
    byte = first + tl.arange(0, BYTES)
    bit = tl.arange(0, 8)[None, :]
    if (first + BYTES <= bytes) & ALIGNED:
        keep = (tl.load(bits_ptr + byte).to(tl.int32)[:, None] >> bit) & 1
        at = byte[:, None] * 8 + bit
        grad = tl.load(grad_ptr + at)
        tl.store(out_ptr + at, tl.where(keep > 0, grad, tl.zeros_like(grad)))
    else:
        width = (n + 7) // 8  # a row begins with a byte of its own
        keep = (tl.load(bits_ptr + byte, mask=byte < bytes, other=0).to(tl.int32)[:, None] >> bit) & 1
        column = (byte % width)[:, None] * 8 + bit
        at = (byte // width)[:, None] * n + column
        real = (byte < bytes)[:, None] & (column < n)
        grad = tl.load(grad_ptr + at, mask=real, other=0.0)
        tl.store(out_ptr + at, tl.where(keep > 0, grad, tl.zeros_like(grad)), mask=real)


def _like(x: Tensor, bits: bool) -> tuple[Tensor, Tensor]:
    """Return room for y, row-major, and for the bit mask, one row of whole bytes for each of x's; none without `bits`."""
    shape = (*x.shape[:-1], (x.shape[-1] + 7) // 8) if bits else (0,)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), torch.empty(shape, dtype=torch.uint8, device=x.device)


@_op("papernotes::k_winners", mutates_args=())
def _k_winners_op(x: Tensor, k: int, bits: bool) -> tuple[Tensor, Tensor]:
    y, mask = _like(x, bits)
    n = x.shape[-1]
    if k in (0, n):
        y.copy_(x) if k else y.zero_()
        return y, mask.fill_(255 if k else 0)
    if not (rows := x.numel() // n):
        return y, mask
    options = {
        "MASK": bits,
        "KEY": tl.int64 if x.dtype == torch.float64 else tl.int32,
        "INFINITY": _INFINITY[x.dtype],
    }
    x, width = x.contiguous(), max(16, triton.next_power_of_2(n))
    if width * max(4, x.element_size()) > LONGEST:
        _wrap(_k_winners_long)[(rows,)](x, y, mask, n, k, **options, CHUNK=CHUNK, num_warps=8)
    else:
        together = max(1, TILE // width)
        _wrap(_k_winners_rows)[(triton.cdiv(rows, together),)](
            x, y, mask, rows, n, k, **options, WHOLE=n == width, ROWS=together, WIDTH=width,
            num_warps=min(16, max(4, width // 512)),
        )  # fmt: skip
    return y, mask


@_op("papernotes::k_winners_backward", mutates_args=())
def _k_winners_backward_op(grad: Tensor, mask: Tensor) -> Tensor:
    out = torch.empty(grad.shape, dtype=grad.dtype, device=grad.device)
    if bytes := mask.numel():
        n = grad.shape[-1]
        _wrap(_k_winners_backward)[(triton.cdiv(bytes, BYTES),)](
            grad.contiguous(), mask, out, bytes, n, ALIGNED=n % 8 == 0, BYTES=BYTES
        )
    return out


@_k_winners_op.register_fake
def _(x, k, bits):
    return _like(x, bits)


@_k_winners_backward_op.register_fake
def _(grad, mask):
    return torch.empty(grad.shape, dtype=grad.dtype, device=grad.device)


def _keep_mask(ctx, inputs, output):
    ctx.save_for_backward(output[1])


def _back(ctx, grad, _):
    return _k_winners_backward_op(grad, *ctx.saved_tensors), None, None


def _keep_mask_again(ctx, inputs, output):
    ctx.save_for_backward(inputs[1])


def _back_again(ctx, grad):
    return _k_winners_backward_op(grad, *ctx.saved_tensors), None  # linear in dL/dy: its gradient is itself


_k_winners_op.register_autograd(_back, setup_context=_keep_mask)
_k_winners_backward_op.register_autograd(_back_again, setup_context=_keep_mask_again)


def k_winners(x: Tensor, k: int) -> Tensor:
    """Keep the k largest of each row as `method.k_winners` does; on a CPU without Triton's interpreter, by that function.

    Saves one bit an element for the backward. Raises ValueError unless x is a floating-point tensor of rank 1 or more
    and 0 ≤ k ≤ n.
    """
    if not (x.is_cuda or INTERPRETED):
        return method.k_winners(x, k)
    method._check(x, k)
    return _k_winners_op(x, k, torch.is_grad_enabled() and x.requires_grad)[0]
