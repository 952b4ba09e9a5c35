"""``fdi adapters``: what a folder or prefix of adapters holds, without loading any of them.

Reads ``config.json``, the header of ``adapter.safetensors`` and the card's metadata. Does NOT know torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from typing import Any

import yaml

from fdi_lib.errors import WeightsError
from fdi_lib.manifest import StorageSettings
from fdi_lib.models.presets import compact_folder
from fdi_lib.storage.store import Store

_MAX_HEADER_BYTES = 64 * 2**20  # of a safetensors file; a larger one is not an adapter's


def run(uri: str | None, storage: StorageSettings) -> dict[str, Any]:
    """List the adapters below ``uri``, the compact preset's by default.

    Returns:
        ``output`` (where they lie) and ``adapters``: each ``name, task, base_sha256, encoder_sha256, parameters,
        bytes, sha256, metrics``.

    Raises:
        WeightsError: there is none, or one isn't an adapter.
    """
    store = Store.open(uri or str(compact_folder() / "adapters"), storage)
    store.check()
    names = {entry.path for entry in store.walk() if entry.path.count("/") == 1}
    folders = sorted(name.rpartition("/")[0] for name in names if name.endswith("/config.json"))
    folders = [name for name in folders if f"{name}/adapter.safetensors" in names or _is_adapters(store, name)]
    if not folders:
        raise WeightsError(f"{store.uri()}: no adapter here (expected folders that hold config.json)")
    return {"output": store.uri(), "adapters": [_describe(store, folder) for folder in folders]}


def _describe(store: Store, folder: str) -> dict[str, Any]:
    weights = f"{folder}/adapter.safetensors"
    try:
        config = json.loads(store.read(f"{folder}/config.json"))
        data = store.read(weights)
        return {
            "name": folder,
            "task": config["task"],
            "base_sha256": config["base_sha256"],
            "encoder_sha256": config["encoder_sha256"],
            "parameters": _parameters(data),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "metrics": _metrics(store, f"{folder}/README.md"),
        }
    except FileNotFoundError as exc:
        raise WeightsError(f"{store.uri(folder)}: incomplete adapter folder, {weights} is missing") from exc
    except KeyError as exc:
        raise WeightsError(f"{store.uri(folder)}: not an adapter folder (config.json has no {exc})") from exc
    except (ValueError, TypeError, AttributeError) as exc:
        raise WeightsError(f"{store.uri(folder)}: not an adapter folder ({type(exc).__name__}: {exc})") from exc


def _is_adapters(store: Store, folder: str) -> bool:
    """Whether a folder without weights is an adapter's that lost them; others (a bank, an encoder) may lie beside."""
    try:
        return "task" in json.loads(store.read(f"{folder}/config.json"))
    except (ValueError, TypeError):
        return False


def _parameters(data: bytes) -> int:
    """Number of parameters, from the header: 8 bytes of length, then JSON with the tensors' shapes."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(_MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError("not a safetensors file")
    header = json.loads(data[8 : 8 + length])
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _metrics(store: Store, path: str) -> dict[str, float]:
    """Metrics by type from the model card's ``model-index``; empty where there is none."""
    if not store.exists(path):
        return {}
    head = store.read(path).decode("utf-8", "replace").split("\n---", 1)[0]
    card = yaml.safe_load(head.removeprefix("---")) if head.startswith("---") else {}
    results = [result for model in card.get("model-index", []) for result in model.get("results", [])]
    return {metric["type"]: metric["value"] for result in results for metric in result["metrics"]}


def text(summary: dict[str, Any]) -> str:
    """The list as an aligned table."""
    rows = [("adapter", "task", "base", "encoder", "parameters", "sha256", "metrics")]
    for found in summary["adapters"]:
        metrics = ", ".join(f"{name} {value}" for name, value in found["metrics"].items()) or "-"
        facts = (
            found["name"],
            found["task"],
            found["base_sha256"][:12],
            found["encoder_sha256"][:12],
            f"{found['parameters']:,}",
            found["sha256"][:12],
        )
        rows.append((*facts, metrics))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["adapters", *sys.argv[1:]]))
