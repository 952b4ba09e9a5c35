"""JSON beside weights, read without the libraries that the weights need: a bank is read where no model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fdi_lib.errors import WeightsError


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model folder's ``config.json``.

    Raises:
        WeightsError: it is missing or not JSON.
    """
    return read_json(folder / "config.json", "a model folder")


def read_json(path: Path, holder: str) -> dict[str, Any]:
    """Read a JSON object; ``holder`` is what ought to have the file, for the message.

    Raises:
        WeightsError: it is missing or not JSON.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: not found; {holder} holds it")
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON ({error})") from error
    return values
