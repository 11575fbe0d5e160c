"""Two questions come in as bags of word vectors; how far apart a Siamese pair of encoders puts them goes out.

A question's vector is x = Σᵢ wᵢ·v(wordᵢ), wᵢ its TF-IDF weight; f is one network for both questions; d = ‖f(x₁) − f(x₂)‖.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def embedding_bag(
    table: Float[Tensor, "row dim"],
    indices: Int[Tensor, " entry"],
    offsets: Int[Tensor, " bag"],
    weights: Float[Tensor, " entry"],
) -> Float[Tensor, "bag dim"]:
    """Return Σ weights[i]·table[indices[i]] over each bag's entries offsets[bag] ≤ i < offsets[bag + 1].

    The last bag ends with the entries; an empty bag is 0. Half precision is summed in float32. Reads the values of
    indices and offsets, for which a GPU must wait; under torch.compile it does not look.
    Raises ValueError for shapes or dtypes that do not fit, for an index that is no row of the table, and for offsets
    that do not start at 0, that fall, or that exceed the number of entries.
    """
    check_bags(table, indices, offsets, weights)
    wide = torch.promote_types(table.dtype, torch.float32)
    terms = weights.to(wide)[:, None] * table.to(wide)[indices.long()]
    sums = terms.new_zeros((len(offsets) + 1, table.shape[1]))  # row 0 takes what is in no bag: all, if there is none
    return sums.index_add(0, bag_of(offsets, len(indices)) + 1, terms)[1:].to(table.dtype)


def bag_of(offsets: Int[Tensor, " bag"], entries: int) -> Int[Tensor, " entry"]:
    """Return the bag of each entry: the last one that starts at or before it, −1 where there is none."""
    entry = torch.arange(entries, device=offsets.device)
    return torch.searchsorted(offsets.long().contiguous(), entry, right=True) - 1


def pairwise_distance(a: Float[Tensor, "*batch dim"], b: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
    """Return ‖a − b‖₂ over the last dimension, with no epsilon; where it is 0, so is its gradient.

    Half precision is subtracted and summed in float32. Raises ValueError unless both are floating point, of one shape
    and dtype, with at least one dimension.
    """
    check_pair(a, b)
    wide = torch.promote_types(a.dtype, torch.float32)
    return torch.linalg.vector_norm(a.to(wide) - b.to(wide), dim=-1).to(a.dtype)  # its subgradient at 0 is 0


def check_bags(table: Tensor, indices: Tensor, offsets: Tensor, weights: Tensor) -> None:
    """Raise ValueError unless the four describe bags of weighted rows; look at the values, but not while compiling."""
    if table.dim() != 2:
        raise ValueError(f"table must be [rows, dim], not {tuple(table.shape)}")
    for name, x in {"indices": indices, "offsets": offsets, "weights": weights}.items():
        if x.dim() != 1:
            raise ValueError(f"{name} must have one dimension, not shape {tuple(x.shape)}")
        if x.device != table.device:
            raise ValueError(f"{name} is on {x.device}, table on {table.device}; put both on one device")
    if not table.is_floating_point() or weights.dtype != table.dtype:
        raise ValueError(f"table and weights must share a floating dtype, not {table.dtype} and {weights.dtype}")
    for name, x in {"indices": indices, "offsets": offsets}.items():
        if x.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{name} must be int32 or int64, not {x.dtype}")
    if len(indices) != len(weights):
        raise ValueError(f"{len(indices)} indices, but {len(weights)} weights; give one weight an index")
    if not torch.compiler.is_compiling():
        _check_values(len(table), indices, offsets)


def _check_values(rows: int, indices: Tensor, offsets: Tensor) -> None:
    empty = torch.zeros((), dtype=torch.bool, device=indices.device)
    outside = ((indices < 0) | (indices >= rows)).any() if len(indices) else empty
    ends = ((offsets[0] != 0) | (offsets[-1] > len(indices)) | (offsets.diff() < 0).any()) if len(offsets) else empty
    index_fault, offset_fault = torch.stack((outside, ends)).tolist()  # the one moment a GPU waits
    if offset_fault:
        raise ValueError(f"offsets must start at 0, never fall, and not exceed {len(indices)}, the number of indices")
    if index_fault:
        raise ValueError(f"indices must lie in 0 … {rows - 1}, the rows of the table")


def check_pair(a: Tensor, b: Tensor) -> None:
    """Raise ValueError unless a and b are floating point, of one shape, dtype and device."""
    if a.shape != b.shape or a.dim() < 1:
        raise ValueError(f"a and b must have one shape [..., dim], not {tuple(a.shape)} and {tuple(b.shape)}")
    if not a.is_floating_point() or a.dtype != b.dtype:
        raise ValueError(f"a and b must share a floating dtype, not {a.dtype} and {b.dtype}")
    if a.device != b.device:
        raise ValueError(f"a is on {a.device}, b on {b.device}; put both on one device")
