"""What training an adapter minimises, on a frozen base: degraded and clean crops in, losses out.

Only the adapter's parameters move; that is asserted at the start by name, and at the end by the base's fingerprint.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fdi_lib.core.sheet import contact_sheet
from fdi_lib.models.adapter import AdapterConfig, FDIAdapter, Guidance
from fdi_lib.models.attach import attached, check_fits
from fdi_lib.models.base import Base
from fdi_lib.models.sampling import Schedule, sample, timesteps
from fdi_lib.training import alone
from fdi_lib.training.crops import PairSource
from fdi_lib.training.loop import FitSettings
from fdi_lib.training.samples import Batch, Samples, Shard, to_batch

NOISY_STARTS = ("noised_input", "ddim_inversion", "pure_noise")
_SHEET_ROWS = 4
_SCORED_AT_ONCE = 16


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts: noise prediction (Eq. 1), latent L1 without and with the fidelity path."""

    noise: float = 0.0
    l1: float = 1.0
    fidelity: float = 1.0


class AdapterTraining(nn.Module):
    """An adapter on its base, with the loss.

    The latent L1 is taken between restored and true latents, from the start that the adapter will be sampled from, in
    one step. Noise prediction is Eq. 1: the clean latent, noised to a time step drawn up to that start, and the error
    in the noise that the guided base predicts. From a noiseless start that state never occurs in sampling; the L1 is
    then the noise-prediction loss up to the level's constant factor.

    Args:
        base: frozen.
        adapter: whose parameters train.
        weights: of the loss's parts.
        recompute: keep no activations of the base for the backward pass, compute them again.
    """

    def __init__(
        self, base: Base, adapter: FDIAdapter, weights: LossWeights = LossWeights(), *, recompute: bool = False
    ) -> None:
        super().__init__()
        self.base, self.adapter, self.weights, self._recompute = base, adapter, weights, recompute
        self.schedule = Schedule(adapter.config.init, adapter.config.start_t, 1, 1.0)  # type: ignore[arg-type]
        check_fits(adapter.config, base)
        base.eval().requires_grad_(False)
        adapter.train().requires_grad_(True)
        moving = {name for name, p in self.named_parameters() if p.requires_grad}
        assert moving == {f"adapter.{name}" for name, _ in adapter.named_parameters()}, "only the adapter trains"
        self._before = base.fingerprint()
        self._guidance: Guidance | None = None
        self._latents: dict[int, torch.Tensor] = {}
        if recompute:
            base.unet.enable_gradient_checkpointing(self._computed_again)

    @property
    def levels(self) -> int:
        """Time steps of noise prediction: up to the level at which sampling starts."""
        return timesteps(self.base, self.schedule)[0] + 1

    def samples(self, pairs: PairSource, crop_px: int, seed: int, crops: int = 0) -> Samples:
        """Samples with what this loss needs of them; ``crops`` as in :class:`Samples`, their latents are kept."""
        noisy = self.weights.noise > 0 or self.adapter.config.init in NOISY_STARTS
        latent = (self.base.latent_channels, self.base.latent_factor) if noisy else None
        return Samples(pairs, crop_px, seed, latent, self.levels, crops)

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Losses of a batch: see :class:`Samples` and :func:`to_batch`; means over its samples."""
        latent, target = self._encode(batch)
        guidance = self._guide(batch)
        out = sample(self.base, latent, guidance, self.schedule, batch.get("noise")).float()
        refined = self._refined(batch, latent, out)
        parts = {"l1": F.l1_loss(out, target), "l1_refined": F.l1_loss(refined, target)}
        loss = self.weights.l1 * parts["l1"] + self.weights.fidelity * parts["l1_refined"]
        if self.weights.noise > 0:
            parts["noise"] = self._noise_prediction(target, guidance, batch)
            loss = loss + self.weights.noise * parts["noise"]
        with torch.no_grad():
            mse = ((refined - target) / 2).square().mean((1, 2, 3))
            psnr = (-10 * torch.log10(mse.clamp(min=1e-8))).mean()
        return {"loss": loss} | parts | {"psnr": psnr}

    @torch.no_grad()
    def restore(self, batch: Batch) -> torch.Tensor:
        """Restored images of a batch, B3HW in [0, 1]."""
        latent = self.base.encode(batch["degraded"])
        out = sample(self.base, latent, self._guidance_of(batch), self.schedule, batch.get("noise")).float()
        return (self.base.decode(self._refined(batch, latent, out)) / 2 + 0.5).clamp(0, 1)

    def finish(self) -> FDIAdapter:
        """Return the adapter, frozen.

        Raises:
            AssertionError: the base isn't what it was.
        """
        if self.base.fingerprint() != self._before:
            raise AssertionError("training changed the frozen base")
        self.adapter.eval().requires_grad_(False)
        return self.adapter

    def _encode(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents of degraded and clean crops; those of crops that return are encoded once and kept on the host."""
        if "crop" not in batch:
            return self.base.encode(batch["degraded"]), self.base.encode(batch["clean"])
        numbers = batch["crop"].tolist()
        new = [i for i, number in enumerate(numbers) if number not in self._latents]
        if new:
            both = torch.stack([self.base.encode(batch[side][new]) for side in ("degraded", "clean")], dim=1)
            self._latents |= zip((numbers[i] for i in new), both.cpu(), strict=True)
        both = torch.stack([self._latents[number] for number in numbers], dim=1).to(batch["degraded"].device)
        return both[0], both[1]

    def _guidance_of(self, batch: Batch) -> Guidance:
        return self.adapter.guidance(batch["degraded"])

    def _refined(self, batch: Batch, latent: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return self.adapter.refine(latent, out)

    def _guide(self, batch: Batch) -> Guidance:
        if not (self._recompute and torch.is_grad_enabled()):
            return self._guidance_of(batch)
        self._guidance = checkpoint(self._guidance_of, batch, use_reentrant=False)
        return self._guidance

    def _noise_prediction(self, clean: torch.Tensor, guidance: Guidance, batch: Batch) -> torch.Tensor:
        abar = self.base.alphas[batch["t"]].view(-1, 1, 1, 1)
        z = abar.sqrt() * clean + (1 - abar).sqrt() * batch["noise"]
        with attached(self.base, guidance):
            predicted = self.base.predict_clean(z, batch["t"]).float()
        # The error in the noise, by z = sqrt(abar) x0 + sqrt(1 - abar) noise, whatever the base predicts.
        return (abar / (1 - abar) * (predicted - clean).square()).mean()

    def _computed_again(self, block: nn.Module, *inputs: torch.Tensor) -> Any:
        """Gradient checkpointing of a block: when it runs again, in the backward pass, guidance is attached again."""
        guidance = self._guidance
        assert guidance is not None, "blocks compute after the guidance"
        return checkpoint(
            block, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), attached(self.base, guidance))
        )


class HeldOut:
    """Scores an adapter on held-out pairs: PSNR of restored crops, in dB. The same crops every time.

    Args:
        training: the model.
        samples: of held-out pairs.
        count: crops, over all processes.
        rank, world: this process takes every ``world``-th crop.
    """

    def __init__(self, training: AdapterTraining, samples: Samples, count: int, rank: int = 0, world: int = 1) -> None:
        self._training, self._samples = training, samples
        self._indices = Shard(rank, world, count).indices(0)
        self._batches: list[Batch] = []

    def score(self) -> tuple[float, int]:
        """Sum of PSNR, and of how many crops."""
        total = 0.0
        for batch in self._held():
            error = (self._training.restore(batch) - (batch["clean"] / 2 + 0.5)).double().square().mean((1, 2, 3))
            total += float((-10 * torch.log10(error.clamp(min=1e-10))).sum())
        return total, len(self._indices)

    def sheet(self) -> np.ndarray:
        """Input, restored and clean of the first crops, uint8 HW3."""
        batch = {k: v[:_SHEET_ROWS] for k, v in self._held()[0].items()}
        images = [batch["degraded"] / 2 + 0.5, self._training.restore(batch), batch["clean"] / 2 + 0.5]
        columns = [(x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy() for x in images]
        rows = list(zip(*columns, strict=True))
        return contact_sheet(rows, [str(i) for i in self._indices[: len(rows)]], ["input", "restored", "clean"])

    def _held(self) -> list[Batch]:
        device = next(self._training.parameters()).device
        if not self._batches:
            chunks = [self._indices[i : i + _SCORED_AT_ONCE] for i in range(0, len(self._indices), _SCORED_AT_ONCE)]
            self._batches = [to_batch(self._samples.rows(chunk)) for chunk in chunks]
        return [{k: v.to(device) for k, v in batch.items()} for batch in self._batches]


def fresh_adapter(config: AdapterConfig, fdi_TD: torch.Tensor, seed: int) -> FDIAdapter:
    """Make an adapter with first weights of a seed."""
    torch.manual_seed(seed)
    return FDIAdapter(config, fdi_TD)


def train_adapter(
    training: AdapterTraining,
    pairs: PairSource,
    settings: FitSettings,
    *,
    batch: int,
    crop_px: int,
    seed: int,
    folder: Path,
    judge: HeldOut | None = None,
    workers: int = 0,
    echo: int = 1,
    crops: int = 0,
) -> FDIAdapter:
    """Train in this process and return the adapter with averaged weights; ``jobs/training/adapter.py`` does it on Ray.

    ``workers`` processes make batches, each used for ``echo`` steps, see :func:`fdi_lib.training.alone.fit`; ``crops``
    return, see :class:`Samples`.
    """
    make_batch = partial(_batch, training.samples(pairs, crop_px, seed, crops), Shard(0, 1, batch))
    alone.fit(training, make_batch, training.losses, settings, folder, judge=judge, workers=workers, echo=echo)
    return training.finish()


def _batch(samples: Samples, shard: Shard, step: int) -> Batch:
    return to_batch(samples.rows(shard.indices(step)))
