"""Small networks learn from every row once an epoch, and tell the last epoch's loss."""

import pytest
import torch

from fdi_lib.training.rows import fit_rows


def test_every_row_is_learnt_from_once_an_epoch_and_the_last_loss_is_told() -> None:
    torch.manual_seed(0)
    slope, x, seen, losses = torch.nn.Parameter(torch.zeros(1)), torch.linspace(-1, 1, 50), [], []

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        loss = (slope * x[rows] - 3 * x[rows]).square().mean()
        seen.append(rows)
        losses.append(float(loss.detach()))
        return loss

    told = fit_rows([slope], 50, loss_of, epochs=200, batch=16, rate=0.1, decay=0.0)
    assert float(slope.detach()) == pytest.approx(3, abs=0.01)
    assert [len(rows) for rows in seen[:4]] == [16, 16, 16, 2] and len(seen) == 800
    assert torch.cat(seen[:4]).sort().values.tolist() == torch.cat(seen[4:8]).sort().values.tolist() == list(range(50))
    assert not torch.equal(seen[0], seen[4])
    assert told == pytest.approx(sum(losses[-4:]) / 4, abs=1e-7) and told < losses[0]
