"""Posterior draw and Gaussian KL in Triton, forward and backward, one pass each; the noise is drawn anew, never stored.

Inputs are seen as rows. Short rows share a program and get their KL at once; long ones are cut into chunks, whose sums
torch adds up. Next to 0, e^t − 1 − t and its slope are sums of powers: a posterior that has all but become the prior
would otherwise show rounding errors in place of its KL.
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
TILE, FIT = 1024, 2048
"""Elements of a program: of short rows or of a long row's chunk, and of a row in one piece at most."""


@triton.jit
def _exp(x, WORK: tl.constexpr):
    """e^x to about a unit in the last place for any x; a GPU's own fp32 exp loses digits as |x| grows."""
    if tl.float64 == WORK:
        y = tl.exp(x)
    else:
        x = tl.where(x > 150.0, 150.0, tl.where(x < -150.0, -150.0, x))  # both ends beyond overflow and underflow
        n = tl.floor(x * 1.4426950408889634 + 0.5)
        rest = (x - n * 0.693359375) + n * 2.1219444005469057e-4  # log 2 in two parts: n times the first is exact
        half = tl.floor(n * 0.5)  # 2ⁿ itself may overflow where e^x does not
        y = tl.exp(rest) * tl.exp2(half) * tl.exp2(n - half)
    return y


@triton.jit
def _beyond(t, ORDER: tl.constexpr, WORK: tl.constexpr):
    """e^t less the first ORDER terms of its series, 1 or 1 + t: a sum of powers where that would cancel."""
    TERMS: tl.constexpr = 16 if tl.float64 == WORK else 9  # the term left out is below half a unit in the last place
    near = tl.where(tl.abs(t) < 0.5, t, 0.0)
    series = 1.0 + near * (1.0 / TERMS)
    for k in tl.static_range(TERMS - 1, ORDER, -1):
        series = 1.0 + near * series * (1.0 / k)
    if ORDER == 1:
        y = tl.where(tl.abs(t) < 0.5, near * series, _exp(t, WORK) - 1.0)
    else:
        y = tl.where(tl.abs(t) < 0.5, near * near * series * 0.5, _exp(t, WORK) - 1.0 - t)
    return y


@triton.jit
def _radius(word, WORK: tl.constexpr):
    """√(−2 log u) of 32-bit words, u = (word + ½)/2³²: never the logarithm of 0."""
    # Next to 1, −log u = −log(1 − v) is a sum of powers of v: rounded to a float, u has lost the digits that matter.
    near = word >= 0xF0000000
    u_or_v = (tl.where(near, word ^ 0xFFFFFFFF, word).to(WORK) + 0.5) * 2.0**-32
    v = tl.where(near, u_or_v, 0.0)  # below 1/16
    TERMS: tl.constexpr = 13 if tl.float64 == WORK else 6
    series = v * 0.0 + 1.0 / TERMS
    for k in tl.static_range(TERMS - 1, 0, -1):
        series = v * series + 1.0 / k
    return tl.sqrt(2.0 * tl.where(near, v * series, -tl.log(u_or_v)))


@triton.jit
def _normals(first, second, WORK: tl.constexpr):
    """Two standard normal numbers of two words: r cos θ and r sin θ, θ = 2π·second/2³² (Box–Muller)."""
    r = _radius(first, WORK)
    # The nearest multiple of π/2 is taken off in integers, exactly; what is left is at most π/4.
    shifted = second + 0x20000000
    quarter = shifted >> 30
    x = ((shifted & 0x3FFFFFFF).to(tl.int32) - 0x20000000).to(WORK) * (1.5707963267948966 * 2.0**-30)
    TERMS: tl.constexpr = 9 if tl.float64 == WORK else 6
    cos, sin = x * 0.0 + 1.0, x * 0.0 + 1.0
    for k in tl.static_range(TERMS - 1, 0, -1):
        cos = 1.0 - x * x * cos * (1.0 / ((2 * k - 1) * (2 * k)))
        sin = 1.0 - x * x * sin * (1.0 / ((2 * k) * (2 * k + 1)))
    sin = x * sin
    turned = (quarter & 1) != 0
    a, b = tl.where(turned, sin, cos), tl.where(turned, cos, sin)
    return r * tl.where(((quarter + 1) & 2) != 0, -a, a), r * tl.where((quarter & 2) != 0, -b, b)


@triton.jit
def _noise(seed, counter, WORK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The noise [ROWS, BLOCK] of counters [ROWS, BLOCK/4]: each gives four neighbors."""
    low, high = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, low, high, low * 0, low * 0)
    n0, n1 = _normals(w0, w1, WORK)
    n2, n3 = _normals(w2, w3, WORK)
    return tl.reshape(tl.join(tl.join(n0, n2), tl.join(n1, n3)), (ROWS, BLOCK))


@triton.jit
def _tile(rows, latent, chunks, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Return a program's rows, chunk and Philox counters, its offsets [ROWS, BLOCK], which are real, and whether all are."""
    program = tl.program_id(0).to(tl.int64)
    first, chunk = program // chunks * ROWS, program % chunks
    row, k = first + tl.arange(0, ROWS), chunk * BLOCK + tl.arange(0, BLOCK)
    quad = chunk * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    counter = row[:, None] * tl.cdiv(latent, 4) + quad[None, :]
    whole = (first + ROWS <= rows) & (chunk * BLOCK + BLOCK <= latent)
    real = (row < rows)[:, None] & (k < latent)[None, :]
    return row, chunk, counter, row[:, None] * latent + k[None, :], real, whole


@triton.jit
def _read(ptr, at, real, whole, WORK: tl.constexpr):
    if whole:  # noqa: SIM108 (without a mask loads stay wide)
        x = tl.load(ptr + at).to(WORK)
    else:
        x = tl.load(ptr + at, mask=real, other=0.0).to(WORK)
    return x


@triton.jit
def _write(ptr, at, value, real, whole):
    if whole:
        tl.store(ptr + at, value.to(ptr.dtype.element_ty))
    else:
        tl.store(ptr + at, value.to(ptr.dtype.element_ty), mask=real)


@triton.jit
def _rate(apart, log_p, WORK: tl.constexpr):
    # 1/σ_p, and 1 where the means are equal: 0 times an overflow would be NaN
    nothing = (apart == 0) & (tl.abs(log_p) < float("inf"))
    return _exp(-0.5 * tl.where(nothing, 0.0, log_p), WORK)


@triton.jit
def _forward(
    mean_q_ptr, logvar_q_ptr, mean_p_ptr, logvar_p_ptr, z_ptr, kl_ptr, seed, rows, latent, chunks,
    WORK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads ROWS rows, or a chunk of one, of the four inputs, writes as much of z, and each row's sum of KL."""
    row, chunk, counter, at, real, whole = _tile(rows, latent, chunks, ROWS, BLOCK)
    mean_q = _read(mean_q_ptr, at, real, whole, WORK)
    log_q = _read(logvar_q_ptr, at, real, whole, WORK)
    apart = mean_q - _read(mean_p_ptr, at, real, whole, WORK)
    log_p = _read(logvar_p_ptr, at, real, whole, WORK)
    z = mean_q + _exp(0.5 * log_q, WORK) * _noise(seed, counter, WORK, ROWS, BLOCK)
    _write(z_ptr, at, z, real, whole)
    far = apart * _rate(apart, log_p, WORK)
    kl = 0.5 * tl.sum(_beyond(log_q - log_p, 2, WORK) + far * far, axis=1)  # what is not real adds 0
    tl.store(kl_ptr + row * chunks + chunk, kl.to(kl_ptr.dtype.element_ty), mask=row < rows)


@triton.jit
def _backward(
    grad_z_ptr, grad_kl_ptr, mean_q_ptr, logvar_q_ptr, mean_p_ptr, logvar_p_ptr,
    to_mean_q_ptr, to_logvar_q_ptr, to_mean_p_ptr, to_logvar_p_ptr, seed, rows, latent, chunks,
    Z: tl.constexpr, KL: tl.constexpr, WORK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program reads ROWS rows, or a chunk of one, of dL/dz and the inputs, and writes the four gradients there.

    Without Z or KL the loss does not use that output: nothing comes from it, not even 0 times an overflow.
    """
    row, _, counter, at, real, whole = _tile(rows, latent, chunks, ROWS, BLOCK)
    log_q = _read(logvar_q_ptr, at, real, whole, WORK)
    to_mean_q, to_log_q = tl.zeros((ROWS, BLOCK), WORK), tl.zeros((ROWS, BLOCK), WORK)
    to_mean_p, to_log_p = to_mean_q, to_log_q
    if KL:
        grad_kl = tl.load(grad_kl_ptr + row, mask=row < rows, other=0.0).to(WORK)[:, None]
        log_p = _read(logvar_p_ptr, at, real, whole, WORK)
        apart = _read(mean_q_ptr, at, real, whole, WORK) - _read(mean_p_ptr, at, real, whole, WORK)
        rate = _rate(apart, log_p, WORK)
        far, swell = apart * rate, _beyond(log_q - log_p, 1, WORK)
        to_mean_q, to_log_q = grad_kl * far * rate, 0.5 * grad_kl * swell
        to_mean_p, to_log_p = -to_mean_q, -0.5 * grad_kl * (swell + far * far)
    _write(to_mean_p_ptr, at, to_mean_p, real, whole)
    _write(to_logvar_p_ptr, at, to_log_p, real, whole)
    if Z:
        grad_z = _read(grad_z_ptr, at, real, whole, WORK)
        to_mean_q += grad_z
        to_log_q += 0.5 * grad_z * _exp(0.5 * log_q, WORK) * _noise(seed, counter, WORK, ROWS, BLOCK)
    _write(to_mean_q_ptr, at, to_mean_q, real, whole)
    _write(to_logvar_q_ptr, at, to_log_q, real, whole)


def _launch(x: Tensor) -> tuple[int, int, int, dict]:
    """Return how many rows and chunks a row there are, the number of programs, and their tile."""
    latent = x.shape[-1]
    rows = x.numel() // latent
    block = max(4, triton.next_power_of_2(latent)) if latent <= FIT else TILE
    chunks, each = triton.cdiv(latent, block), max(1, TILE // block)
    work = tl.float64 if x.dtype == torch.float64 else tl.float32
    warps = 8 if block > TILE else 4
    return rows, chunks, triton.cdiv(rows, each) * chunks, {
        "WORK": work, "ROWS": each, "BLOCK": block, "num_warps": warps,
    }  # fmt: skip


@_op("papernotes::draw_and_kl", mutates_args=())
def _draw_and_kl_op(
    mean_q: Tensor, logvar_q: Tensor, mean_p: Tensor, logvar_p: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    shape, dtype = mean_q.shape, mean_q.dtype
    z = torch.empty(shape, dtype=dtype, device=mean_q.device)  # row-major: an element's place decides its noise
    if not z.numel():
        return z, torch.zeros(shape[:-1], dtype=dtype, device=mean_q.device)
    rows, chunks, programs, tile = _launch(z)
    sums = torch.empty(
        (rows, chunks), dtype=dtype if chunks == 1 else torch.promote_types(dtype, torch.float32), device=mean_q.device
    )
    inputs = [one.contiguous() for one in (mean_q, logvar_q, mean_p, logvar_p)]
    _wrap(_forward)[(programs,)](*inputs, z, sums, seed, rows, shape[-1], chunks, **tile)
    return z, (sums if chunks == 1 else sums.sum(1).to(dtype)).reshape(shape[:-1])


@_op("papernotes::draw_and_kl_backward", mutates_args=())
def _draw_and_kl_backward_op(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mean_q: Tensor,
    logvar_q: Tensor,
    mean_p: Tensor,
    logvar_p: Tensor,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    outputs = tuple(torch.empty(mean_q.shape, dtype=mean_q.dtype, device=mean_q.device) for _ in range(4))
    if mean_q.numel():
        rows, chunks, programs, tile = _launch(mean_q)
        inputs = [one.contiguous() for one in (mean_q, logvar_q, mean_p, logvar_p)]
        grads = [inputs[0] if one is None else one.contiguous() for one in (grad_z, grad_kl)]
        _wrap(_backward)[(programs,)](
            *grads, *inputs, *outputs, seed, rows, mean_q.shape[-1], chunks,
            Z=grad_z is not None, KL=grad_kl is not None, **tile,
        )  # fmt: skip
    return outputs


@_draw_and_kl_op.register_fake
def _(mean_q, logvar_q, mean_p, logvar_p, seed):
    return (
        torch.empty(mean_q.shape, dtype=mean_q.dtype, device=mean_q.device),
        torch.empty(mean_q.shape[:-1], dtype=mean_q.dtype, device=mean_q.device),
    )


@_draw_and_kl_backward_op.register_fake
def _(grad_z, grad_kl, mean_q, logvar_q, mean_p, logvar_p, seed):
    return tuple(torch.empty(mean_q.shape, dtype=mean_q.dtype, device=mean_q.device) for _ in range(4))


def _keep(ctx, inputs, output):
    *kept, ctx.seed = inputs
    ctx.save_for_backward(*kept)
    ctx.set_materialize_grads(False)


def _back(ctx, grad_z, grad_kl):
    return *_draw_and_kl_backward_op(grad_z, grad_kl, *ctx.saved_tensors, ctx.seed), None


def _keep_for_second(ctx, inputs, output):
    *kept, ctx.seed = inputs
    ctx.save_for_backward(*kept)


def _second(ctx, *grads):
    # A gradient of the gradient is rare enough for torch: the twin's, through all it came from.
    with torch.enable_grad():
        leaves = [None if one is None else one.detach().requires_grad_() for one in ctx.saved_tensors]
        inputs = leaves[2:]
        outputs = method.draw_and_kl(*inputs, ctx.seed)
        used = [(y, grad) for y, grad in zip(outputs, leaves[:2], strict=True) if grad is not None]
        ys, from_ys = zip(*used, strict=True)
        first = torch.autograd.grad(ys, inputs, from_ys, create_graph=True, allow_unused=True)
    known = [(one, grad) for one, grad in zip(first, grads, strict=True) if one is not None and one.requires_grad]
    wanted = [one for one in leaves if one is not None]
    firsts, from_firsts = zip(*known, strict=True)
    found = iter(torch.autograd.grad(firsts, wanted, from_firsts, allow_unused=True))
    return *(None if one is None else next(found) for one in leaves), None


_draw_and_kl_op.register_autograd(_back, setup_context=_keep)
_draw_and_kl_backward_op.register_autograd(_second, setup_context=_keep_for_second)


def draw_and_kl(mean_q: Tensor, logvar_q: Tensor, mean_p: Tensor, logvar_p: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Draw z and return it with each row's KL as `method.draw_and_kl` does; on a CPU without Triton's interpreter, by it.

    Saves its four inputs and the seed for the backward. Raises ValueError unless the four are floating point, of one
    shape with a last dimension, one dtype and one device, and the seed fits int64.
    """
    if not (mean_q.is_cuda or INTERPRETED):
        return method.draw_and_kl(mean_q, logvar_q, mean_p, logvar_p, seed)
    method._check(mean_q, logvar_q, mean_p, logvar_p, seed)
    return _draw_and_kl_op(mean_q, logvar_q, mean_p, logvar_p, seed)
