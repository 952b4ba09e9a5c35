"""Where a preset's weights lie, and what a run says about them. Light: it hashes files and loads no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdi_lib.core.views import ViewSpec
from fdi_lib.errors import WeightsError
from fdi_lib.manifest import CheckpointSettings, ModelSettings
from fdi_lib.manifest.locations import on_this_machine
from fdi_lib.models.bank_files import ARRAYS, MONOCHROME, check_made_with, has_monochrome
from fdi_lib.models.base_files import base_sha256, fetch_base
from fdi_lib.models.checkpoints import file_sha256
from fdi_lib.models.configs import read_config
from fdi_lib.models.encoders import EncoderFiles, find_encoder

_COMPACT = Path(__file__).resolve().parent.parent / "weights" / "compact"

_LICENCE = "Apache-2.0"  # of the shipped compact weights; model cards name the training pictures' licences


def compact_folder() -> Path:
    """Folder of the shipped compact preset."""
    return _COMPACT


def encoder_files(encoder: CheckpointSettings | None) -> EncoderFiles:
    """The encoder that a manifest names, or the preset's; see :func:`fdi_lib.models.encoders.find_encoder`."""
    return find_encoder(encoder or _COMPACT / "encoder")


@dataclass(frozen=True)
class ModelFolders:
    """The folders a run's models are loaded from.

    Args:
        encoder, base, bank: one folder each.
        adapters: folder by name.
    """

    encoder: Path
    base: Path
    bank: Path
    adapters: Mapping[str, Path]

    def adapter_names(self) -> list[str]:
        """Adapters at hand, sorted."""
        return sorted(self.adapters)


def adapter_folders(parent: Path) -> dict[str, Path]:
    """Folders below ``parent`` that hold ``adapter.safetensors``, by name."""
    return {path.parent.name: path.parent for path in sorted(parent.glob("*/adapter.safetensors"))}


def model_folders(models: ModelSettings) -> ModelFolders:
    """Resolve the settings to folders. Adapters that are named join the compact preset's; equal names replace them.

    Raises:
        WeightsError: a folder lacks its weights.
    """
    encoder = encoder_files(models.encoder).folder
    given = models.base
    base = fetch_base(str(_COMPACT / "base")) if given is None else fetch_base(given.uri, given.revision, given.sha256)
    adapters = adapter_folders(_COMPACT / "adapters") if models.preset == "compact" else {}
    own = adapter_folders(on_this_machine(models.adapters, "models.adapters")) if models.adapters is not None else {}
    adapters |= own
    known = on_this_machine(models.bank, "models.bank") if models.bank else _COMPACT / "bank"
    folders = ModelFolders(encoder, base, known, adapters)
    bank = folders.bank / "bank.safetensors"
    if not bank.is_file():
        raise WeightsError(
            f"models.bank: {bank} not found; reinstall fdi-restore, or set models.bank to a folder that holds it"
        )
    if models.adapters is not None and not own:
        raise WeightsError(
            f"models.adapters: no folder in {models.adapters} holds adapter.safetensors; train one with `fdi train`"
        )
    if not adapters:
        raise WeightsError("the compact preset has no adapter; reinstall fdi-restore")
    return folders


def view_spec(models: ModelSettings) -> ViewSpec:
    """The views that the encoder takes, from its configuration alone."""
    return encoder_files(models.encoder).view_spec


def describe_models(models: ModelSettings) -> dict[str, Any]:
    """What ``run.json`` records: preset, and file hash and licence of encoder, base, bank and every adapter.

    Raises:
        WeightsError: a folder lacks its weights, or an adapter was made for another base or encoder.
    """
    return describe(model_folders(models), models.preset)


def describe(folders: ModelFolders, preset: str) -> dict[str, Any]:
    """What :func:`describe_models` says, for folders that are known.

    Raises:
        WeightsError: bank or adapter were made for another base or encoder.
    """
    described: dict[str, Any] = {"preset": preset}
    encoder = find_encoder(folders.encoder)
    described["encoder"] = {"sha256": encoder.sha256, "licence": _licence(encoder.folder)}
    for key in ("base", "bank"):
        path = getattr(folders, key) / f"{key}.safetensors"
        sha256 = base_sha256(folders.base) if key == "base" else file_sha256(path)
        described[key] = {"sha256": sha256, "licence": _licence(path.parent)}
    check_made_with(folders.bank, read_config(folders.bank), encoder.sha256)
    described["bank"] |= _further_hashes(folders.bank, encoder.sha256)
    described["adapters"] = {}
    for name in folders.adapter_names():
        folder = folders.adapters[name]
        config = read_config(folder)
        for key in ("base", "encoder"):
            expected = described[key]["sha256"]
            if config[f"{key}_sha256"] != expected:
                raise WeightsError(
                    f"{folder}: made for {key} {config[f'{key}_sha256'][:12]}, found {key} {expected[:12]}; "
                    f"train the adapter again, or point models.{key} to its own"
                )
        described["adapters"][name] = {
            "sha256": file_sha256(folder / "adapter.safetensors"),
            "fdi_sha256": file_sha256(folder / "fdi.safetensors"),
            "config_sha256": file_sha256(folder / "config.json"),  # start, steps, tone: they change what it does
            "licence": _licence(folder),
        } | ({"together": config["together"]} if config.get("together") else {})
    return described


def _further_hashes(bank: Path, encoder_sha256: str) -> dict[str, str]:
    """Of what decides beside a bank's arrays: its thresholds, and its part for monochrome images."""
    names = {"config_sha256": "config.json"}
    if has_monochrome(bank):
        if not (bank / MONOCHROME / ARRAYS).is_file():
            raise WeightsError(
                f"{bank / MONOCHROME / ARRAYS}: not found; copy the bank's folder with all that is in it"
            )
        check_made_with(bank / MONOCHROME, read_config(bank / MONOCHROME), encoder_sha256)
        names |= {
            "monochrome_sha256": f"{MONOCHROME}/{ARRAYS}",
            "monochrome_config_sha256": f"{MONOCHROME}/config.json",
        }
    return {key: file_sha256(bank / name) for key, name in names.items()}


def _licence(folder: Path) -> str:
    return _LICENCE if folder.is_relative_to(_COMPACT) else "as stated by its owner"
