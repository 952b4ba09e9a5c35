"""The model of clean photographs that NIQE compares with, on disk: one small folder, shipped with the package.

``python -m jobs.training.niqe_model`` makes it. It does not know what a score is made of, nor which pictures
were taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fdi_lib.core.niqe import FEATURES, Pristine
from fdi_lib.errors import WeightsError
from fdi_lib.models.configs import read_config

PRISTINE_FOLDER = Path(__file__).resolve().parent.parent / "weights" / "niqe"
PRISTINE_FILE = "niqe.safetensors"
_REMEDY = "install the package again, or make it with `python -m jobs.training.niqe_model FOLDER`"


def save_pristine(pristine: Pristine, folder: Path, about: Mapping[str, Any]) -> None:
    """Write ``niqe.safetensors`` (mean, covariance; float64) and ``config.json`` (side of the patches, ``about``)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PRISTINE_FILE
    save_file({"mean": pristine.mean_F, "covariance": pristine.covariance_FF}, path)
    path.chmod(0o644)  # safetensors writes files that only their owner may read
    (folder / "config.json").write_text(json.dumps({"patch_px": pristine.patch_px, **about}, indent=1) + "\n")


def load_pristine(folder: Path = PRISTINE_FOLDER) -> Pristine:
    """Load the model, the shipped one unless a folder is named.

    Raises:
        WeightsError: a file is missing, unreadable, or of another form.
    """
    path = folder / PRISTINE_FILE
    if not path.is_file():
        raise WeightsError(f"{path}: not found; {_REMEDY}")
    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not readable as safetensors ({error}); {_REMEDY}") from error
    found = {name: array.shape for name, array in sorted(arrays.items())}
    if found != {"covariance": (FEATURES, FEATURES), "mean": (FEATURES,)}:
        raise WeightsError(f"{path}: expected mean and covariance of {FEATURES} features, found {found}; {_REMEDY}")
    patch_px = read_config(folder).get("patch_px")
    if not isinstance(patch_px, int):
        raise WeightsError(f"{folder / 'config.json'}: expected patch_px, a whole number, found {patch_px}; {_REMEDY}")
    return Pristine(arrays["mean"].astype(np.float64), arrays["covariance"].astype(np.float64), patch_px)
