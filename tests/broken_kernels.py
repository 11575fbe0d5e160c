"""y = scale·x·(x + 1) in Triton, once right and then wrong in one way each: what the suite must catch."""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl

from generator.lab.kernels import ELEMENTWISE_SHAPES, Kernel

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_op = torch.library.custom_op if INTERPRETED else torch.library.triton_op
_wrap = (lambda kernel: kernel) if INTERPRETED else torch.library.wrap_triton
BLOCK = 256


@triton.jit
def _sound(x_ptr, y_ptr, scale, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, (scale * x * (x + 1)).to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _off_by_one(x_ptr, y_ptr, scale, n, BLOCK: tl.constexpr):
    """Leaves the last element unwritten."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, (scale * x * (x + 1)).to(y_ptr.dtype.element_ty), mask=at < n - 1)


@triton.jit
def _writes_past_the_end(x_ptr, y_ptr, scale, n, BLOCK: tl.constexpr):
    """Writes one element too many."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, (scale * x * (x + 1)).to(y_ptr.dtype.element_ty), mask=at <= n)


@triton.jit
def _no_upcast(x_ptr, y_ptr, scale, n, BLOCK: tl.constexpr):
    """Computes in whatever dtype x has."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(y_ptr + at, (scale * x * (x + 1)).to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _narrow_index(x_ptr, y_ptr, scale, n, BLOCK: tl.constexpr):
    """Multiplies in 32 bits: from element 2³¹ on the offset is negative."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, (scale * x * (x + 1)).to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _index_widened_late(x_ptr, y_ptr, scale, n, BLOCK: tl.constexpr):
    """Multiplies in 32 bits and widens what is left."""
    at = (tl.program_id(0) * BLOCK).to(tl.int64) + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, (scale * x * (x + 1)).to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _reads_past_the_end(x_ptr, y_ptr, scale, n, BLOCK: tl.constexpr):
    """Reads whole blocks; what it read too much, it drops."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at).to(tl.float32)
    tl.store(y_ptr + at, (scale * x * (x + 1)).to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _drops_nan(x_ptr, y_ptr, scale, n, BLOCK: tl.constexpr):
    """Takes NaN for 0."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    x = tl.where(x == x, x, 0.0)
    tl.store(y_ptr + at, (scale * x * (x + 1)).to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _writes_to_its_input(x_ptr, y_ptr, scale, n, BLOCK: tl.constexpr):
    """Leaves an intermediate value where it found x."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, (scale * x * (x + 1)).to(y_ptr.dtype.element_ty), mask=at < n)
    tl.store(x_ptr + at, (x + 1).to(x_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _gradient(grad_ptr, x_ptr, out_ptr, scale, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, (grad * scale * (2 * x + 1)).to(out_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _wrong_gradient(grad_ptr, x_ptr, out_ptr, scale, n, BLOCK: tl.constexpr):
    """Forgets the second x of the product rule."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, (grad * scale * (x + 1)).to(out_ptr.dtype.element_ty), mask=at < n)


def _twin(x, scale):
    return scale * x * (x + 1)


def _registered(name, forward, backward=_gradient, keeps_strides=True):
    """Register the two ops as a snippet's kernel does, and declare the kernel."""

    @_op(f"broken::{name}_backward", mutates_args=())
    def backward_op(grad: torch.Tensor, x: torch.Tensor, scale: float) -> torch.Tensor:
        grad, x = grad.contiguous(), x.contiguous()
        out = torch.empty_like(x)
        if n := x.numel():
            _wrap(backward)[(triton.cdiv(n, BLOCK),)](grad, x, out, scale, n, BLOCK=BLOCK)
        return out

    @_op(f"broken::{name}", mutates_args=())
    def forward_op(x: torch.Tensor, scale: float) -> torch.Tensor:
        x = x.contiguous() if keeps_strides else x
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if n := x.numel():
            _wrap(forward)[(triton.cdiv(n, BLOCK),)](x, y, scale, n, BLOCK=BLOCK)
        return y

    forward_op.register_fake(lambda x, scale: torch.empty(x.shape, dtype=x.dtype, device=x.device))
    backward_op.register_fake(lambda grad, x, scale: torch.empty(x.shape, dtype=x.dtype, device=x.device))

    def keep(ctx, inputs, output):
        x, ctx.scale = inputs
        ctx.save_for_backward(x)

    forward_op.register_autograd(
        lambda ctx, grad: (backward_op(grad, *ctx.saved_tensors, ctx.scale), None), setup_context=keep
    )

    def op(x, scale):
        return forward_op(x, scale) if x.is_cuda or INTERPRETED else _twin(x, scale)

    return Kernel(
        name=name,
        op=op,
        twin=_twin,
        inputs=_inputs,
        bytes_moved=lambda arguments: 2 * arguments["x"].numel() * arguments["x"].element_size(),
        operations=lambda arguments: 3 * arguments["x"].numel(),
        shapes=(*ELEMENTWISE_SHAPES, (1024,)),
        differentiable=("x",),
    )


def _inputs(shape, dtype, device, seed):
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device), "scale": 1.5}


SOUND = _registered("sound", _sound)
BROKEN = {
    name: _registered(name, forward)
    for name, forward in (
        ("off_by_one", _off_by_one),
        ("writes_past_the_end", _writes_past_the_end),
        ("no_upcast", _no_upcast),
        ("narrow_index", _narrow_index),
        ("index_widened_late", _index_widened_late),
        ("reads_past_the_end", _reads_past_the_end),
        ("drops_nan", _drops_nan),
        ("writes_to_its_input", _writes_to_its_input),
    )
}
BROKEN["wrong_gradient"] = _registered("wrong_gradient", _sound, _wrong_gradient)
BROKEN["ignores_strides"] = _registered("ignores_strides", _sound, keeps_strides=False)
KERNELS = (SOUND, *BROKEN.values())
