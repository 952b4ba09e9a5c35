"""A reference bank's files: ``bank.safetensors`` with its arrays, ``config.json`` with names and thresholds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file

from fdi_lib.core.namer import Namer
from fdi_lib.core.similarity import Thresholds
from fdi_lib.errors import WeightsError
from fdi_lib.models.configs import read_config
from fdi_lib.models.entry import Content, Entry, Severities, as_half

if TYPE_CHECKING:
    from fdi_lib.models.bank import ReferenceBank

MONOCHROME = "monochrome"  # folder, in a bank's, of the one for monochrome images
ARRAYS = "bank.safetensors"
_SYMMETRIC = ("content.covariance_DD", "content.within_DD")  # stored as their upper triangles


def write(bank: ReferenceBank, folder: Path) -> None:
    """Write a bank's own files, held-out features in float16; the bank is as it will be read."""
    folder.mkdir(parents=True, exist_ok=True)
    full = {f"content.{key}": value for key, value in vars(bank.content).items()} | {"weight": bank.weight_N}
    half = {"clean": bank.clean_ND, "mixed": bank.mixed_MD}
    for entry in bank.entries:
        full |= {f"{entry.name}.tokens": entry.tokens_TD, f"{entry.name}.mean": entry.mean_D}
        full[f"{entry.name}.filter"] = entry.filter_D
        full |= entry.severities.arrays(f"{entry.name}.") if entry.severities else {}
        full |= {f"{entry.name}.looks": np.array([entry.looks])} if entry.looks > 1 else {}
        half[f"{entry.name}.held_out"] = entry.held_out_MD
    arrays = {key: np.ascontiguousarray(value, np.float32) for key, value in full.items()}
    arrays |= {key: as_half(value) for key, value in half.items()}
    arrays |= {"mixed_present": bank.mixed_MK.astype(np.uint8), "whole": bank.whole_N.astype(np.uint8)}
    arrays |= bank.namer.arrays() if bank.namer else {}
    arrays |= {key: _packed(arrays[key]) for key in _SYMMETRIC if key in arrays}
    # safetensors writes memory as it lies, whatever an array's strides: columns that were chosen would be mixed up.
    path = folder / ARRAYS
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, path)
    path.chmod(0o644)  # safetensors writes files that only their owner may read
    config = {
        "names": list(bank.names),
        "encoder_sha256": bank.encoder_sha256,
        "clean_false_positive_rate": bank.rate,
        "pairs": {entry.name: entry.pairs for entry in bank.entries},
        "explained_by_mean": {entry.name: entry.spread for entry in bank.entries},
        "whole_only": sorted(bank.whole_only),
        "monochrome": bank.monochrome is not None,
        "thresholds": {key: asdict(getattr(bank, key).thresholds) for key in ("detail", "whole")},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=np.ndarray.tolist) + "\n")


def has_monochrome(folder: Path) -> bool:
    """Whether the bank in a folder has one for monochrome images; another one's may have been left there."""
    return bool(read_config(folder).get(MONOCHROME))


def read(folder: Path, encoder_sha256: str | None) -> dict[str, Any]:
    """The fields of the bank in a folder but ``monochrome``; checked to be of an encoder, where one is given.

    Raises:
        WeightsError: a file is missing or of another form, or the bank belongs to another encoder.
    """
    path = folder / ARRAYS
    if not path.is_file():
        raise WeightsError(f"{path}: not found; a bank folder holds bank.safetensors and config.json")
    config = read_config(folder)
    if encoder_sha256 is not None:
        check_made_with(folder, config, encoder_sha256)
    a = load_file(path)
    if not {"mixed_present", "whole"} <= set(a) or "mixture.present" in a:
        raise WeightsError(f"{path}: of another form than this release reads; build it again with `fdi bank build`")
    mixed_MK, whole_N = (a.pop(key).astype(bool) for key in ("mixed_present", "whole"))
    a |= {key: _unpacked(a[key]) for key in _SYMMETRIC if key in a}
    namer = Namer.among(a)
    if namer and not namer.fits(len(config["names"]), len(a["content.mean_D"])):
        raise WeightsError(f"{path}: what names two degradations together is none of this bank's; build it again")
    tokens = {name: a.pop(f"{name}.tokens") for name in config["names"]}
    x = {key: value.astype(np.float64) for key, value in a.items()}
    entries = tuple(
        Entry(
            name,
            tokens[name],
            x[f"{name}.mean"],
            x[f"{name}.filter"],
            config["explained_by_mean"][name],
            config["pairs"][name],
            x[f"{name}.held_out"],
            Severities.among(x, f"{name}."),
            int(x.get(f"{name}.looks", [1])[0]),
        )
        for name in config["names"]
    )
    return {
        "entries": entries,
        "content": Content(x["content.mean_D"], x["content.covariance_DD"], x["content.within_DD"]),
        "clean_ND": x["clean"],
        "weight_N": x["weight"],
        "whole_N": whole_N,
        "mixed_MD": x["mixed"],
        "mixed_MK": mixed_MK,
        "rate": config["clean_false_positive_rate"],
        "encoder_sha256": config["encoder_sha256"],
        "whole_only": frozenset(config["whole_only"]),
        "calibrated": (_thresholds(config["thresholds"]["detail"]), _thresholds(config["thresholds"]["whole"])),
        "namer": namer,
    }


def _packed(value_DD: np.ndarray) -> np.ndarray:
    return value_DD[np.triu_indices(len(value_DD))]


def _unpacked(value: np.ndarray) -> np.ndarray:
    """The symmetric matrix of an upper triangle; of banks written until 2026-11-27, which hold it whole, itself."""
    if value.ndim == 2:
        return value
    side = int((2 * len(value)) ** 0.5)
    if side * (side + 1) // 2 != len(value):
        raise WeightsError(f"a bank's covariance of {len(value)} numbers is no triangle; build the bank again")
    upper_DD = np.zeros((side, side), value.dtype)
    upper_DD[np.triu_indices(side)] = value
    return upper_DD + np.triu(upper_DD, 1).T


def _thresholds(stored: Mapping[str, Any]) -> Thresholds:
    arrays: dict[str, Any] = {k: np.array(v) if isinstance(v, list) else v for k, v in stored.items()}
    return Thresholds(**arrays)


def check_made_with(folder: Path, config: Mapping[str, Any], encoder_sha256: str) -> None:
    """Refuse a bank of another encoder.

    Args:
        folder: the bank's, for the message.
        config: that lies in it.
        encoder_sha256: of the encoder at hand.

    Raises:
        WeightsError: it belongs to another one.
    """
    if config["encoder_sha256"] != encoder_sha256:
        raise WeightsError(
            f"{folder}: made with encoder {config['encoder_sha256'][:12]}, found encoder {encoder_sha256[:12]}; point "
            "models.bank to a bank of this encoder (`fdi bank build` with its models.encoder), or models.encoder to "
            "the bank's own"
        )
