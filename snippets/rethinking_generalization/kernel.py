"""The two-layer ReLU network in Triton, forward and backward: n × m ramps are summed in registers, none is stored.

One op sums over the units for each sample, one over the samples for each unit; no sum is shared, so that none is atomic.
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
TILES = {2: (4, 256), 4: (8, 128), 8: (4, 128)}
"""By bytes an element: a program's own samples (or units), and the units (or samples) it meets at a time.

A program is one warp, so that each of its threads reads neighbors enough for a wide load.
"""
memorize = method.memorize  # a sort and some differences are no work for a kernel


@triton.jit
def _own(ptr, count, OWN: tl.constexpr, WORK: tl.constexpr):
    """Read a program's own OWN elements as a column; those beyond the last repeat it and are not stored."""
    at = tl.program_id(0).to(tl.int64) * OWN + tl.arange(0, OWN)
    return at, tl.load(ptr + tl.minimum(at, count - 1)).to(WORK)[:, None]


@triton.jit
def _met(first_ptr, second_ptr, start, last, WORK: tl.constexpr, STEP: tl.constexpr, FULL: tl.constexpr):
    """Read STEP elements of two vectors as rows; those beyond the last are 0. Return also where they lie."""
    at = tl.full((), start, tl.int64) + tl.arange(0, STEP)[None, :]
    if FULL:  # no mask: the loads stay wide
        first, second = tl.load(first_ptr + at), tl.load(second_ptr + at)
    else:
        first = tl.load(first_ptr + at, mask=at < last, other=0.0)
        second = tl.load(second_ptr + at, mask=at < last, other=0.0)
    return at, first.to(WORK), second.to(WORK)


@triton.jit
def _forward_step(total, z, b_ptr, w_ptr, start, last, STEP: tl.constexpr, FULL: tl.constexpr):
    at, b, w = _met(b_ptr, w_ptr, start, last, total.dtype, STEP, FULL)
    # As torch's relu does, a ramp keeps NaN.
    more = total + tl.maximum(z - b, 0.0, propagate_nan=tl.PropagateNan.ALL) * w
    return more if FULL else tl.where(at < last, more, total)  # 0 units of an infinite z would be NaN


@triton.jit
def _forward(
    z_ptr, b_ptr, w_ptr, c_ptr, samples, units, WORK: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """One program reads OWN samples of z and all of b and w, and writes c of those samples."""
    at, z = _own(z_ptr, samples, OWN, WORK)
    full = units - units % STEP
    total = tl.zeros((OWN, STEP), WORK)
    for start in range(0, full, STEP):
        total = _forward_step(total, z, b_ptr, w_ptr, start, units, STEP, True)
    if full < units:
        total = _forward_step(total, z, b_ptr, w_ptr, full, units, STEP, False)
    tl.store(c_ptr + at, tl.sum(total, 1).to(c_ptr.dtype.element_ty), mask=at < samples)


@triton.jit
def _samples_step(total, grad, z, b_ptr, w_ptr, start, last, STEP: tl.constexpr, FULL: tl.constexpr):
    at, b, w = _met(b_ptr, w_ptr, start, last, total.dtype, STEP, FULL)
    off = z - b <= 0 if FULL else (z - b <= 0) | (at >= last)
    return tl.where(off, total, total + grad * w)


@triton.jit
def _backward_samples(
    grad_ptr, z_ptr, b_ptr, w_ptr, out_ptr, samples, units, WORK: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """One program reads OWN samples of dL/dc and z, and all of b and w, and writes dL/dz of those samples."""
    at, z = _own(z_ptr, samples, OWN, WORK)
    _, grad = _own(grad_ptr, samples, OWN, WORK)
    full = units - units % STEP
    total = tl.zeros((OWN, STEP), WORK)
    for start in range(0, full, STEP):
        total = _samples_step(total, grad, z, b_ptr, w_ptr, start, units, STEP, True)
    if full < units:
        total = _samples_step(total, grad, z, b_ptr, w_ptr, full, units, STEP, False)
    tl.store(out_ptr + at, tl.sum(total, 1).to(out_ptr.dtype.element_ty), mask=at < samples)


@triton.jit
def _units_step(kinks, weights, b, w, grad_ptr, z_ptr, start, last, STEP: tl.constexpr, FULL: tl.constexpr):
    at, grad, z = _met(grad_ptr, z_ptr, start, last, kinks.dtype, STEP, FULL)
    off = z - b <= 0 if FULL else (z - b <= 0) | (at >= last)
    more = weights + tl.maximum(z - b, 0.0, propagate_nan=tl.PropagateNan.ALL) * grad
    return tl.where(off, kinks, kinks - grad * w), more if FULL else tl.where(at < last, more, weights)


@triton.jit
def _backward_units(
    grad_ptr, z_ptr, b_ptr, w_ptr, kinks_ptr, weights_ptr, samples, units,
    WORK: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """One program reads OWN units of b and w, and all of dL/dc and z, and writes dL/db and dL/dw of those units."""
    at, b = _own(b_ptr, units, OWN, WORK)
    _, w = _own(w_ptr, units, OWN, WORK)
    full = samples - samples % STEP
    kinks, weights = tl.zeros((OWN, STEP), WORK), tl.zeros((OWN, STEP), WORK)
    for start in range(0, full, STEP):
        kinks, weights = _units_step(kinks, weights, b, w, grad_ptr, z_ptr, start, samples, STEP, True)
    if full < samples:
        kinks, weights = _units_step(kinks, weights, b, w, grad_ptr, z_ptr, full, samples, STEP, False)
    tl.store(kinks_ptr + at, tl.sum(kinks, 1).to(kinks_ptr.dtype.element_ty), mask=at < units)
    tl.store(weights_ptr + at, tl.sum(weights, 1).to(weights_ptr.dtype.element_ty), mask=at < units)


def _sizes(z: Tensor) -> dict:
    own, step = TILES[z.element_size()]
    return {"WORK": tl.float64 if z.dtype == torch.float64 else tl.float32, "OWN": own, "STEP": step, "num_warps": 1}


def _programs(count: int, z: Tensor) -> tuple[int]:
    return (triton.cdiv(count, TILES[z.element_size()][0]),)


@_op("papernotes::two_layer", mutates_args=())
def _two_layer_op(z: Tensor, b: Tensor, w: Tensor) -> Tensor:
    c = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    if n := z.numel():
        z, b, w = z.contiguous(), b.contiguous(), w.contiguous()
        _wrap(_forward)[_programs(n, z)](z, b, w, c, n, b.numel(), **_sizes(z))
    return c


@_op("papernotes::two_layer_backward_samples", mutates_args=())
def _backward_samples_op(grad: Tensor, z: Tensor, b: Tensor, w: Tensor) -> Tensor:
    out = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    if n := z.numel():
        grad, z, b, w = grad.contiguous(), z.contiguous(), b.contiguous(), w.contiguous()
        _wrap(_backward_samples)[_programs(n, z)](grad, z, b, w, out, n, b.numel(), **_sizes(z))
    return out


@_op("papernotes::two_layer_backward_units", mutates_args=())
def _backward_units_op(grad: Tensor, z: Tensor, b: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    kinks = torch.empty(b.shape, dtype=b.dtype, device=b.device)
    weights = torch.empty(w.shape, dtype=w.dtype, device=w.device)
    if m := b.numel():
        grad, z, b, w = grad.contiguous(), z.contiguous(), b.contiguous(), w.contiguous()
        _wrap(_backward_units)[_programs(m, z)](grad, z, b, w, kinks, weights, z.numel(), m, **_sizes(z))
    return kinks, weights


@_two_layer_op.register_fake
def _(z, b, w):
    return torch.empty(z.shape, dtype=z.dtype, device=z.device)


@_backward_samples_op.register_fake
def _(grad, z, b, w):
    return torch.empty(z.shape, dtype=z.dtype, device=z.device)


@_backward_units_op.register_fake
def _(grad, z, b, w):
    return torch.empty(b.shape, dtype=b.dtype, device=b.device), torch.empty(w.shape, dtype=w.dtype, device=w.device)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _back(ctx, grad):
    for_z, for_b, for_w = ctx.needs_input_grad
    out = _backward_samples_op(grad, *ctx.saved_tensors) if for_z else None
    kinks, weights = _backward_units_op(grad, *ctx.saved_tensors) if for_b or for_w else (None, None)
    return out, kinks if for_b else None, weights if for_w else None


def _again(ctx, gradients, differentiated):
    # A gradient of the gradient is rare enough for torch: the twin's, through all it came from.
    with torch.enable_grad():
        grad, z, b, w = leaves = [one.detach().requires_grad_() for one in ctx.saved_tensors]
        first = torch.autograd.grad(method.two_layer(z, b, w), differentiated(z, b, w), grad, create_graph=True)
    return torch.autograd.grad(first, leaves, gradients, allow_unused=True)


def _samples_again(ctx, for_z):
    return _again(ctx, (for_z,), lambda z, b, w: (z,))


def _units_again(ctx, for_b, for_w):
    return _again(ctx, (for_b, for_w), lambda z, b, w: (b, w))


_two_layer_op.register_autograd(_back, setup_context=_keep)
_backward_samples_op.register_autograd(_samples_again, setup_context=_keep)
_backward_units_op.register_autograd(_units_again, setup_context=_keep)


def two_layer(z: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """Return c as `method.two_layer` does; on a CPU without Triton's interpreter, by `method.two_layer`.

    Sums in float32, float64 in float64. Raises ValueError as it does.
    """
    if not (z.is_cuda or INTERPRETED):
        return method.two_layer(z, b, w)
    method.check(z, b, w)
    return _two_layer_op(z, b, w)
