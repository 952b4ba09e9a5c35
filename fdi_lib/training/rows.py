"""Trains small networks on rows that are all at hand: epochs of shuffled batches, AdamW, a cosine to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch


def fit_rows(
    parameters: Iterable[torch.nn.Parameter],
    rows: int,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    *,
    epochs: int,
    batch: int,
    rate: float,
    decay: float,
) -> float:
    """Train on the CPU; torch's own generator shuffles.

    Args:
        parameters: to train.
        rows: number of them.
        loss_of: indices of rows (int64 B) -> loss.
        epochs: times that each row is learnt from.
        batch: rows a step.
        rate: learning rate at the start.
        decay: of weights.

    Returns:
        The last epoch's mean loss.
    """
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-rows // batch))
    losses = torch.zeros(1)
    for _ in range(epochs):
        parts = torch.randperm(rows).split(batch)
        losses = torch.zeros(len(parts))
        for i, part in enumerate(parts):
            loss = loss_of(part)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses[i] = loss.detach()
    return float(losses.mean())
