"""What is refused before a training starts, each with the key that is at fault and a remedy.

Does NOT know how a manifest becomes a plan (``plan.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from fdi_lib.core.degrade import NAMES
from fdi_lib.errors import ManifestError, WeightsError
from fdi_lib.manifest import TrainManifest
from fdi_lib.models.adapter import AdapterConfig, FDIAdapter
from fdi_lib.models.configs import read_config


def check_recipes(names: Sequence[str], key: str) -> None:
    """Refuse a degradation that nothing here can make.

    Raises:
        ManifestError: names it.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ManifestError("no such recipe", key=key, value=unknown[0], remedy=f"use some of: {', '.join(NAMES)}")


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose library isn't installed.

    Raises:
        ManifestError: names it.
    """
    for tracker in set(names) - {"tensorboard"}:
        if find_spec(tracker) is None:
            raise ManifestError(
                "not installed", key="watch.trackers", value=tracker, remedy=f"pip install 'fdi-restore[{tracker}]'"
            )


def check_base_of(folder: Path, base_sha256: str) -> None:
    """Refuse to go on from an adapter of another base.

    Raises:
        WeightsError: names both.
    """
    made_for = read_config(folder).get("base_sha256")
    if made_for != base_sha256:
        raise WeightsError(
            f"initial: {folder} was made for base {str(made_for)[:12]}, models.base is {base_sha256[:12]}; "
            "name its own base, or start from nothing"
        )


def check_form_of(folder: Path, config: AdapterConfig) -> None:
    """Refuse to go on from an adapter that can't lend its weights: of an encoder of another width, or of another form.

    Raises:
        WeightsError: names the first difference.
    """
    initial = FDIAdapter.from_pretrained(folder)
    found, wanted = (
        {name: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()}
        for adapter in (initial, FDIAdapter(config))
    )
    if found != wanted:
        name = min(name for name, _ in found.items() ^ wanted.items())
        raise WeightsError(
            f"initial: {folder} (made with encoder {initial.config.encoder_sha256[:12]}, models.encoder is "
            f"{config.encoder_sha256[:12]}): {name}: expected {wanted.get(name)}, found {found.get(name)}; name an "
            "adapter of the same encoder and form, or start from nothing"
        )


def check_latents(manifest: TrainManifest, crops: int, each_bytes: int) -> None:
    """Refuse to keep more latents than half of what a worker may use.

    Args:
        manifest: of the training.
        crops: whose latents are kept, by all workers together.
        each_bytes: of a crop's latents, degraded and clean.

    Raises:
        ManifestError: says how much they need.
    """
    fewest = manifest.workers[0] if isinstance(manifest.workers, tuple) else manifest.workers
    need, most = crops * each_bytes / fewest / 2**30, manifest.worker.memory_gib / 2
    if need > most:
        raise ManifestError(
            f"the latents of {crops} crops need {need:.1f} GiB a worker, at most half of worker.memory_gib is for them",
            key="data.cached_latents",
            value=str(manifest.data.cached_latents),
            remedy=f"keep fewer, or raise worker.memory_gib to {2 * need:.1f}",
        )
