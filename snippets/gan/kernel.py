"""The adversarial losses in Triton: every logit is read once, for all three losses and, if asked, for all gradients.

With u = exp(−|x|), softplus(±x) = max(±x, 0) + log(1 + u). A sum of log(1 + u) is the log of a product, so a lane
multiplies along its loop and takes one logarithm at the end.
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
best_discriminator, log_d, log_one_minus_d = method.best_discriminator, method.log_d, method.log_one_minus_d
BLOCK = 1024
ENOUGH_PROGRAMS = 4096
"""For each of the two inputs; beyond, a program takes several blocks."""
MOST_BLOCKS = 64
"""A program's: its lanes' products of as many numbers up to 2 stay far inside fp32."""


@triton.jit
def _log1p(p, TERMS: tl.constexpr):
    """log(1 + p) for p ≥ 0: 2 artanh(p / (2 + p)) as a series where 1 + p would round p away."""
    s = tl.where(p < 1, p, 0.0) / (2.0 + tl.where(p < 1, p, 0.0))
    z = s * s
    series = tl.zeros_like(z) + 1.0 / (2 * TERMS + 1)
    for k in tl.static_range(TERMS - 1, -1, -1):
        series = series * z + 1.0 / (2 * k + 1)
    return tl.where(p < 1, 2.0 * s * series, tl.log(1.0 + p))  # NaN < 1 is false: it comes out of the logarithm


@triton.jit
def _add(x, inside, product, above, below, MASKED: tl.constexpr):
    """Add logits x to a lane's three sums: ∏(1 + u) − 1, Σ max(x, 0) and Σ max(−x, 0)."""
    u = tl.exp(-tl.abs(x))
    high, low = tl.where(x > 0, x, 0.0), tl.where(x < 0, x, 0.0)
    # 0·x is NaN for an infinite x, as in torch's cross-entropy: (1 − label)·x with label 1, x + softplus(−x) with 0.
    high, deep = high + 0.0 * low, 0.0 * x - low
    if MASKED:
        u, high, deep = tl.where(inside, u, 0.0), tl.where(inside, high, 0.0), tl.where(inside, deep, 0.0)
    return u * (1.0 + product) + product, above + high, below + deep  # all terms are positive: nothing cancels


@triton.jit
def _sigmoids(x):
    """σ(x) and σ(−x), each without 1 − σ."""
    u = tl.exp(-tl.abs(x))
    larger = 1.0 / (1.0 + u)
    smaller = u * larger
    return tl.where(x > 0, larger, smaller), tl.where(x > 0, smaller, larger)


@triton.jit
def _gan_sums(
    real_ptr, fake_ptr, d_real_ptr, d_minimax_ptr, d_non_saturating_ptr, sums_ptr,
    n_real, n_fake, real_programs, fake_programs, real_chunk, fake_chunk,
    GRADIENTS: tl.constexpr, WORK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads a chunk of the real or of the fake logits and writes its sum, or its two, and gradients if asked.

    For logits x these are Σ softplus(x), for calling x fake, Σ softplus(−x), for calling it real, −σ(x)/n and −σ(−x)/n.
    """
    program = tl.program_id(0)
    is_fake = program >= real_programs
    x_ptr = tl.where(is_fake, fake_ptr, real_ptr)
    towards_real_ptr = tl.where(is_fake, d_non_saturating_ptr, d_real_ptr)
    n = tl.where(is_fake, n_fake, n_real)
    chunk = tl.where(is_fake, fake_chunk, real_chunk)
    first = tl.where(is_fake, program - real_programs, program).to(tl.int64) * chunk
    last = tl.minimum(first + chunk, n)
    full = first + (last - first) // BLOCK * BLOCK
    lane = tl.arange(0, BLOCK)
    product, above, below = tl.zeros((BLOCK,), WORK), tl.zeros((BLOCK,), WORK), tl.zeros((BLOCK,), WORK)
    share = -1.0 / n.to(WORK)
    for start in range(first, full, BLOCK):  # full blocks need no mask: their loads stay wide
        at = start + lane
        x = tl.load(x_ptr + at).to(WORK)
        product, above, below = _add(x, lane, product, above, below, MASKED=False)
        if GRADIENTS:
            towards_fake, towards_real = _sigmoids(x)
            tl.store(towards_real_ptr + at, (share * towards_real).to(x_ptr.dtype.element_ty))
            if is_fake:
                tl.store(d_minimax_ptr + at, (share * towards_fake).to(x_ptr.dtype.element_ty))
    if full < last:
        at = full + lane
        inside = at < last
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(WORK)
        product, above, below = _add(x, inside, product, above, below, MASKED=True)
        if GRADIENTS:
            towards_fake, towards_real = _sigmoids(x)
            tl.store(towards_real_ptr + at, (share * towards_real).to(x_ptr.dtype.element_ty), mask=inside)
            if is_fake:
                tl.store(d_minimax_ptr + at, (share * towards_fake).to(x_ptr.dtype.element_ty), mask=inside)
    TERMS: tl.constexpr = 17 if tl.float64 == WORK else 8  # the term left out is below half a unit in the last place
    logs = _log1p(product, TERMS)
    called_fake, called_real = tl.sum((above + logs).to(tl.float64)), tl.sum((below + logs).to(tl.float64))
    tl.store(sums_ptr + program, tl.where(is_fake, called_fake, called_real))
    if is_fake:
        tl.store(sums_ptr + fake_programs + program, called_real)


@triton.jit
def _total(sums_ptr, count, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, count, BLOCK):
        total += tl.load(sums_ptr + start + lane, mask=start + lane < count, other=0.0)
    return tl.sum(total)


@triton.jit
def _gan_means(
    sums_ptr, discriminator_ptr, minimax_ptr, non_saturating_ptr,
    n_real, n_fake, real_programs, fake_programs, BLOCK: tl.constexpr,
):  # fmt: skip
    """The one program reads all partial sums, in one order always, and writes the three losses."""
    real = _total(sums_ptr, real_programs, BLOCK) / tl.full((), n_real, tl.float64)  # 0 / 0 is NaN: the mean of nothing
    m = tl.full((), n_fake, tl.float64)
    fake = _total(sums_ptr + real_programs, fake_programs, BLOCK) / m
    fooled = _total(sums_ptr + real_programs + fake_programs, fake_programs, BLOCK) / m
    out = discriminator_ptr.dtype.element_ty
    tl.store(discriminator_ptr, (real + fake).to(tl.float32).to(out) if out != tl.float64 else real + fake)
    tl.store(minimax_ptr, (-fake).to(tl.float32).to(out) if out != tl.float64 else -fake)
    tl.store(non_saturating_ptr, fooled.to(tl.float32).to(out) if out != tl.float64 else fooled)


@triton.jit
def _gan_backward(
    d_discriminator_ptr, d_minimax_ptr, d_non_saturating_ptr, real_ptr, fake_ptr, d_real_ptr, d_fake_ptr,
    n_real, n_fake, real_programs, WORK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads the losses' three gradients and BLOCK logits, real or fake, and writes these logits' gradients."""
    program = tl.program_id(0)
    d_discriminator = tl.load(d_discriminator_ptr).to(WORK)
    lane = tl.arange(0, BLOCK)
    if program < real_programs:
        start = program.to(tl.int64) * BLOCK
        at = start + lane
        scale = -d_discriminator / tl.full((), n_real, WORK)
        if start + BLOCK <= n_real:
            _, q = _sigmoids(tl.load(real_ptr + at).to(WORK))
            tl.store(d_real_ptr + at, (scale * q).to(d_real_ptr.dtype.element_ty))
        else:
            _, q = _sigmoids(tl.load(real_ptr + at, mask=at < n_real, other=0.0).to(WORK))
            tl.store(d_real_ptr + at, (scale * q).to(d_real_ptr.dtype.element_ty), mask=at < n_real)
    else:
        start = (program - real_programs).to(tl.int64) * BLOCK
        at = start + lane
        m = tl.full((), n_fake, WORK)
        up = (d_discriminator - tl.load(d_minimax_ptr).to(WORK)) / m
        down = -tl.load(d_non_saturating_ptr).to(WORK) / m
        if start + BLOCK <= n_fake:
            p, q = _sigmoids(tl.load(fake_ptr + at).to(WORK))
            tl.store(d_fake_ptr + at, (up * p + down * q).to(d_fake_ptr.dtype.element_ty))
        else:
            p, q = _sigmoids(tl.load(fake_ptr + at, mask=at < n_fake, other=0.0).to(WORK))
            tl.store(d_fake_ptr + at, (up * p + down * q).to(d_fake_ptr.dtype.element_ty), mask=at < n_fake)


def _work(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _dense(x: Tensor) -> Tensor:
    """Return x, or a copy without gaps and overlaps: the order of the logits is free, and their gradients keep it."""
    like = torch.empty_like(x, device="meta")
    return x if x.stride() == like.stride() else torch.empty_like(x).copy_(x)


def _chunks(n: int) -> tuple[int, int]:
    """Return how many programs share n logits, and how many logits each takes."""
    blocks = triton.cdiv(n, BLOCK)
    chunk = BLOCK * min(MOST_BLOCKS, max(1, triton.cdiv(blocks, ENOUGH_PROGRAMS)))
    return triton.cdiv(n, chunk), chunk


def _launch(real: Tensor, fake: Tensor, gradients: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the pass over the logits, then the sum of its sums; `gradients` are to be written, or empty."""
    losses = real.new_empty(()), real.new_empty(()), real.new_empty(())
    (real_programs, real_chunk), (fake_programs, fake_chunk) = _chunks(real.numel()), _chunks(fake.numel())
    sums = real.new_empty((real_programs + 2 * fake_programs,), dtype=torch.float64)
    counts = real.numel(), fake.numel(), real_programs, fake_programs
    if real_programs + fake_programs:
        _wrap(_gan_sums)[(real_programs + fake_programs,)](
            real, fake, *(gradients or (real, fake, fake)), sums, *counts, real_chunk, fake_chunk,
            GRADIENTS=bool(gradients), WORK=_work(real), BLOCK=BLOCK,
        )  # fmt: skip
    _wrap(_gan_means)[(1,)](sums, *losses, *counts, BLOCK=BLOCK)
    return losses


@_op("papernotes::gan_losses", mutates_args=())
def _gan_losses_op(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _launch(_dense(real_logits), _dense(fake_logits), [])


@_op("papernotes::gan_losses_and_gradients", mutates_args=())
def _gan_losses_and_gradients_op(
    real_logits: Tensor, fake_logits: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    gradients = [torch.empty_like(real_logits), torch.empty_like(fake_logits), torch.empty_like(fake_logits)]
    return *_launch(_dense(real_logits), _dense(fake_logits), gradients), *gradients


@_op("papernotes::gan_losses_backward", mutates_args=())
def _gan_losses_backward_op(
    d_discriminator: Tensor, d_minimax: Tensor, d_non_saturating: Tensor, real_logits: Tensor, fake_logits: Tensor,
    real_wanted: bool, fake_wanted: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    d_real = torch.empty_like(real_logits) if real_wanted else real_logits.new_empty((0,))
    d_fake = torch.empty_like(fake_logits) if fake_wanted else fake_logits.new_empty((0,))
    real_programs, fake_programs = triton.cdiv(d_real.numel(), BLOCK), triton.cdiv(d_fake.numel(), BLOCK)
    if real_programs + fake_programs:
        _wrap(_gan_backward)[(real_programs + fake_programs,)](
            d_discriminator, d_minimax, d_non_saturating, _dense(real_logits), _dense(fake_logits), d_real, d_fake,
            real_logits.numel(), fake_logits.numel(), real_programs, WORK=_work(real_logits), BLOCK=BLOCK,
        )  # fmt: skip
    return d_real, d_fake


@_gan_losses_op.register_fake
def _(real_logits, fake_logits):
    return real_logits.new_empty(()), real_logits.new_empty(()), real_logits.new_empty(())


@_gan_losses_and_gradients_op.register_fake
def _(real_logits, fake_logits):
    losses = (real_logits.new_empty(()) for _ in range(3))
    return *losses, torch.empty_like(real_logits), torch.empty_like(fake_logits), torch.empty_like(fake_logits)


@_gan_losses_backward_op.register_fake
def _(d_discriminator, d_minimax, d_non_saturating, real_logits, fake_logits, real_wanted, fake_wanted):
    d_real = torch.empty_like(real_logits) if real_wanted else real_logits.new_empty((0,))
    return d_real, torch.empty_like(fake_logits) if fake_wanted else fake_logits.new_empty((0,))


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)  # the logits: a saved gradient would have to be written, and read again to be scaled


def _back(ctx, *grads):
    wanted = ctx.needs_input_grad
    d_real, d_fake = _gan_losses_backward_op(*grads, *ctx.saved_tensors, wanted[0], wanted[1])
    return d_real if wanted[0] else None, d_fake if wanted[1] else None


def _keep_for_second(ctx, inputs, output):
    *tensors, ctx.real_wanted, ctx.fake_wanted = inputs
    ctx.save_for_backward(*tensors)


def _second(ctx, *grads):
    """Differentiate the backward, in plain torch: rarely asked for, by unrolled steps and by checks of second order."""
    d_discriminator, d_minimax, d_non_saturating, real, fake = ctx.saved_tensors
    wide = torch.promote_types(real.dtype, torch.float32)
    r, f = real.to(wide), fake.to(wide)
    n, m = max(real.numel(), 1), max(fake.numel(), 1)
    a = grads[0].to(wide) / n if ctx.real_wanted else torch.zeros_like(r)
    b = grads[1].to(wide) / m if ctx.fake_wanted else torch.zeros_like(f)
    caught, fooled = (b * torch.sigmoid(f)).sum(), (b * torch.sigmoid(-f)).sum()
    to_weights = caught - (a * torch.sigmoid(-r)).sum(), -caught, -fooled
    to_real = a * d_discriminator * torch.sigmoid(r) * torch.sigmoid(-r)
    weight = d_discriminator - d_minimax + d_non_saturating
    to_fake = b * weight * torch.sigmoid(f) * torch.sigmoid(-f)
    return *(one.to(real.dtype) for one in (*to_weights, to_real, to_fake)), None, None


_gan_losses_op.register_autograd(_back, setup_context=_keep)
_gan_losses_backward_op.register_autograd(_second, setup_context=_keep_for_second)


def gan_losses(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three losses as `method.gan_losses` does; on a CPU without Triton's interpreter, by it.

    The backward reads the logits again and writes their gradients, only those that are asked for.
    Raises ValueError as `method.gan_losses` does.
    """
    if not (real_logits.is_cuda or INTERPRETED):
        return method.gan_losses(real_logits, fake_logits)
    method._check(real_logits, fake_logits)
    return _gan_losses_op(real_logits, fake_logits)


def gan_losses_and_gradients(
    real_logits: Tensor, fake_logits: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return losses and gradients as `method.gan_losses_and_gradients` does, in one pass over the logits.

    On a CPU without Triton's interpreter, by the method. Raises ValueError as `method.gan_losses` does.
    """
    if not (real_logits.is_cuda or INTERPRETED):
        return method.gan_losses_and_gradients(real_logits, fake_logits)
    method._check(real_logits, fake_logits)
    return _gan_losses_and_gradients_op(real_logits.detach(), fake_logits.detach())


def _stacked_losses(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the three losses as one tensor [3], for checks that compare an output's bytes."""
    return torch.stack(gan_losses(real_logits, fake_logits))


def _stacked_losses_and_gradients(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, ...]:
    """Return the three losses as one tensor [3], then the gradients."""
    results = gan_losses_and_gradients(real_logits, fake_logits)
    return torch.stack(results[:3]), *results[3:]
