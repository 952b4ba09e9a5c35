"""What a finished training of an adapter leaves: its folder, ``training.json`` last. Knows no Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fdi_lib.models.adapter import FDIAdapter
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.storage.store import Store
from jobs.cards import adapter_card
from jobs.train_plan import Plan
from jobs.train_storage import publish


def finished(output: Store, recipe: str) -> dict[str, Any] | None:
    """The summary of an earlier run of the same recipe, if it was finished."""
    if not output.exists("training.json"):
        return None
    summary: dict[str, Any] = json.loads(output.read("training.json"))
    return summary if summary["training_sha256"] == recipe else None


def publish_adapter(
    plan: Plan,
    adapter: FDIAdapter,
    bank: ReferenceBank,
    log: str,
    summary: dict[str, Any],
    measured: Callable[[Path], Any] | None = None,
) -> dict[str, Any]:
    """Write the adapter's folder where the manifest says; return the summary that lies in it.

    Args:
        plan: that was carried out.
        adapter: its result.
        bank: that holds its task.
        log: lines of JSON.
        summary: of the training, so far.
        measured: measures the adapter in a folder; what it finds joins the summary.
    """
    m = plan.manifest
    with TemporaryDirectory(prefix="fdi-adapter-") as parent:
        folder = Path(parent, plan.config.task)
        bank.save_fdi(plan.config.task, folder)
        adapter.save_pretrained(folder)
        (folder / "training-log.jsonl").write_text(log)
        if measured:
            summary = summary | {"measured": measured(folder)}
        (folder / "README.md").write_text(adapter_card(folder, summary, m))
        last = {"training.json": json.dumps(summary, indent=1).encode() + b"\n"}
        publish(folder, m.output, m.storage, last)
    return summary
