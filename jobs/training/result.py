"""What a finished training of an adapter leaves: its folder, ``training.json`` last. Knows no Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fdi_lib.models.adapter import FDIAdapter
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.storage.store import Store
from jobs.cards import adapter_card
from jobs.training.plan import Plan
from jobs.training.storage import publish


def publish_trained(
    plan: Plan,
    weights: Mapping[str, torch.Tensor],
    bank: ReferenceBank,
    log: str,
    summary: dict[str, Any],
    measured: Callable[[Path], Any] | None = None,
) -> dict[str, Any]:
    """Write what was trained; return the summary. Several adapters lie in folders of their own below the output.

    Args:
        plan: that was carried out.
        weights: of the adapter, or of :class:`Together`, by name.
        bank: that holds the tasks.
        log: lines of JSON.
        summary: of the training, so far.
        measured: measures the one adapter in a folder; what it finds joins the summary.
    """
    made = plan.untrained()
    made.load_state_dict(weights)
    if isinstance(made, FDIAdapter):
        return _publish(plan, made, bank, log, summary, measured)
    for k, name in enumerate(plan.manifest.names):
        own = {"initial_sha256": summary["initial_sha256"][k : k + 1]} if "initial_sha256" in summary else {}
        _publish(plan.alone(k), made[k], bank, log, summary | {"task": name} | own, None)
    output = Store.open(plan.manifest.output, plan.manifest.storage)
    output.replace("training.json", json.dumps(summary, indent=1).encode() + b"\n")
    return summary


def _publish(
    plan: Plan,
    adapter: FDIAdapter,
    bank: ReferenceBank,
    log: str,
    summary: dict[str, Any],
    measured: Callable[[Path], Any] | None,
) -> dict[str, Any]:
    """Write one adapter's folder where the plan's manifest says; return the summary that lies in it."""
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
