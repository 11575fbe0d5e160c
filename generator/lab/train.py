"""A module and its data come in; trained parameters and the loss of each epoch go out. Plain loops, seeded throughout."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


def minibatches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices [size] of one epoch's full minibatches, each sample at most once, in an order of the generator's."""
    order = torch.randperm(count, generator=generator)
    for at in range(0, count - size + 1, size):
        yield order[at : at + size]


def fit(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    batch: int = 64,
    seed: int = 0,
    objective: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    after_epoch: Callable[[int], None] | None = None,
) -> list[float]:
    """Train the module and return its mean minibatch loss in each epoch; `after_epoch` is told the epoch, from 0.

    A loss that is no longer finite ends training: what follows could only be NaN, and is returned as such.
    """
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    for epoch in range(epochs):
        module.train()
        total, steps = 0.0, 0
        for index in minibatches(len(x), batch, generator):
            optimizer.zero_grad(set_to_none=True)
            loss = objective(module(x[index]), y[index])
            if not torch.isfinite(loss):
                return losses + [float("nan")] * (epochs - epoch)
            loss.backward()
            optimizer.step()
            total, steps = total + loss.item(), steps + 1
        losses.append(total / steps)
        if after_epoch is not None:
            after_epoch(epoch)
    return losses


@torch.no_grad()
def error_rate(module: nn.Module, x: Tensor, y: Tensor, *, batch: int = 512) -> float:
    """Return the share of samples whose largest output is not their label, in evaluation mode; the mode is put back."""
    training = module.training
    module.eval()
    wrong = sum(
        (module(x[at : at + batch]).argmax(1) != y[at : at + batch]).sum().item() for at in range(0, len(x), batch)
    )
    module.train(training)
    return wrong / len(x)
