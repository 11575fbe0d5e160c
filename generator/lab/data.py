"""Data sets without a download: the 1,797 real 8x8 digits that ship with scikit-learn."""

from __future__ import annotations

import torch
from torch import Tensor


def digits(seed: int = 0, held_out: float = 0.25) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (train images [n, 64] in 0..1, train labels, test images, test labels), split by the seed."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32) / 16
    y = torch.tensor(labels, dtype=torch.long)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    cut = round(len(x) * (1 - held_out))
    train, test = order[:cut], order[cut:]
    return x[train], y[train], x[test], y[test]
