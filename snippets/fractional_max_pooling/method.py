"""Fractional max-pooling: regions whose corners advance by 1 or 2, so that a size shrinks by any factor from 1 to 2.

Section numbers are those of Graham 2014 (arXiv 1412.6071). The paper counts pixels from 1; here they count from 0, and
the increments add up to the size itself, so that they have exactly the proportion that α = N_in/N_out asks for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Int, Num
    from torch import Tensor


def increments(n_in: int, n_out: int, pseudorandom: bool = False, seed: int = 0) -> list[int]:
    """Return n_out increments, 1s and 2s, that add up to n_in (section 2.1).

    Random: a random order of 2·n_out − n_in ones and n_in − n_out twos. Pseudorandom: the differences of
    ⌈α(i + u)⌉ with one u drawn from (0, 1). Raises ValueError unless n_out ≤ n_in ≤ 2·n_out.
    """
    if not 0 < n_out <= n_in <= 2 * n_out:
        raise ValueError(
            f"steps of 1 and 2 lead from {n_in} to no fewer than {(n_in + 1) // 2} and no more, not {n_out}"
        )
    rng = random.Random(seed)
    if pseudorandom:
        # u = k/2⁵³ and α are fractions: in integers no rounding moves a corner
        k = rng.randrange(1, 2**53)
        corners = [-(-n_in * (i * 2**53 + k) // (n_out * 2**53)) for i in range(n_out + 1)]
        return [after - before for before, after in pairwise(corners)]
    steps = [1] * (2 * n_out - n_in) + [2] * (n_in - n_out)
    rng.shuffle(steps)
    return steps


def fractional_max_pool(
    x: Num[Tensor, "*batch height width"],
    rows: Sequence[int] | Int[Tensor, " out_height"],
    columns: Sequence[int] | Int[Tensor, " out_width"],
    overlapping: bool = True,
) -> Num[Tensor, "*batch out_height out_width"]:
    """Return the maximum of each region (section 2): region i starts where the increments before it end.

    It is as long as its increment, and 1 longer if overlapping; what would lie past the edge is left out. Ties go to
    the first in row-major order, and NaN to the last, as in `F.max_pool2d`. Increments may also add up to one less than
    the size: the last row or column then belongs to no disjoint region. Raises ValueError for other sums, for steps
    that are not 1 or 2, and for x without two dimensions.
    """
    steps = {-1: check(columns, x, -1, "columns"), -2: check(rows, x, -2, "rows")}
    # Columns first: the first of equals in each row, then the first row of these, is the first in row-major order.
    for dim in (-1, -2):
        x = _along(x, steps[dim], dim, overlapping)
    return x


def _along(x: Tensor, steps: list[int], dim: int, overlapping: bool) -> Tensor:
    """Return the maximum of each region along one dimension: of its first pixel, its second and, if there is one, its third."""
    size = x.shape[dim]
    starts = torch.tensor([0, *accumulate(steps)], device=x.device)
    ends = (starts[1:] + overlapping).clamp(max=size)
    best = x.index_select(dim, starts[:-1])
    for k in range(1, 3 if overlapping else 2):
        at = starts[:-1] + k
        tap = x.index_select(dim, at.clamp(max=size - 1))
        real = at < ends if dim == -1 else (at < ends)[:, None]
        best = torch.where(real & ((tap > best) | (tap != tap)), tap, best)
    return best


def check(steps: Sequence[int] | Tensor, x: Tensor, dim: int, name: str) -> list[int]:
    """Return the increments as a list; raise ValueError where they do not fit x."""
    if x.dim() < 2:
        raise ValueError(f"x must end in height and width, not be of shape {list(x.shape)}")
    if x.is_complex() or x.dtype == torch.bool:
        raise ValueError(f"x must be of an ordered dtype, not {x.dtype}")
    steps = [int(step) for step in (steps.tolist() if isinstance(steps, torch.Tensor) else steps)]
    if any(step not in (1, 2) for step in steps):
        raise ValueError(f"{name} must be increments of 1 and 2, not {steps}")
    size = x.shape[dim]
    if not steps or sum(steps) not in (size, size - 1):
        raise ValueError(
            f"{name} add up to {sum(steps)}, and x has {size} {name}; `increments({size}, n_out)` makes some that fit"
        )
    return steps
