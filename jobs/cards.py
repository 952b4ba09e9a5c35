"""``python -m jobs.cards METRICS``: writes the compact preset's model cards from its training and evaluation files.

Every figure comes from ``training.json``, ``training-log.jsonl`` and the ``metrics.json`` of ``fdi evaluate``.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fdi_lib.models.presets import compact_folder, file_sha256

_ABOUT = {
    "base": "Frozen diffusion base: a denoising UNet of photographs on a pixel-unshuffled latent (v prediction).",
    "encoder": "BLIP-2 vision model and Q-Former in small, trained so that degradation and content separate.",
    "bank": "Reference bank: Feature Difference Instructions, geometry of clean features, calibrated thresholds.",
}


def write_cards(metrics: dict[str, Any], table: Path = Path("docs/training-data.tsv")) -> list[Path]:
    """Write ``README.md`` into every folder of the compact preset; return the files."""
    environment = Environment(
        loader=PackageLoader("jobs", "templates"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    card, preset, sources = environment.get_template("model-card.md.j2"), compact_folder(), _sources(table)
    written = []
    for folder in [preset / n for n in _ABOUT] + sorted(p.parent for p in preset.glob("adapters/*/config.json")):
        name, adapter = folder.name, folder.parent.name == "adapters"
        file = "adapter.safetensors" if adapter else f"{name}.safetensors"
        figures = metrics["degradations"].get(name) if adapter else None
        recipe = "manifests/banks/compact.yaml" if name == "bank" else f"manifests/train/compact/{name}.yaml"
        text = card.render(
            task=name if adapter else "",
            title=f"Compact {name}" + (" adapter" if adapter else ""),
            about=f"FDI adapter that undoes `{name}`, for the compact base." if adapter else _ABOUT[name],
            file=file,
            sha256=file_sha256(folder / file),
            command=f"fdi bank build {recipe}" if name == "bank" else f"fdi train {recipe}",
            facts=_facts(folder, metrics if name == "bank" else None),
            measured=_shown(figures) if figures else None,
            n=figures["n"] if figures else 0,
            sources=sources,
        )
        (folder / "README.md").write_text(text)
        written.append(folder / "README.md")
    return written


def _sources(table: Path) -> str:
    with table.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["split"] == "train"]
    counts = Counter((row["source_repository"], row["licence"]) for row in rows)
    return "; ".join(f"{repository} ({licence}, {n} files)" for (repository, licence), n in sorted(counts.items()))


def _shown(figures: dict[str, Any]) -> dict[str, str]:
    keep = (
        "psnr_in",
        "psnr_out",
        "gain_db",
        "gain_db_classified",
        "gain_db_without_fidelity",
        "classical",
        "classical_gain_db",
        "found",
    )
    return {
        k: figures[k] if isinstance(figures[k], str) else f"{figures[k]:.2f}"
        for k in keep
        if figures.get(k) is not None
    }


def _facts(folder: Path, metrics: dict[str, Any] | None) -> dict[str, str]:
    facts: dict[str, str] = {}
    training = folder / "training.json"
    if training.exists():
        summary = json.loads(training.read_text())
        last = ", ".join(
            f"{k} {v}" for k, v in summary["last"].items() if k not in ("step", "lr", "steps_per_s", "grad_norm")
        )
        facts["training"] = (
            f"{summary['steps']} steps of {summary['batch']}, seed {summary['seed']}, {summary['pictures']} pictures"
        )
        facts["last logged"] = last + " (`training-log.jsonl` has all)"
    if metrics:
        clean = metrics["clean"]
        facts["clean tiles left untouched"] = f"{clean['untouched']:.3f} of {clean['n']}"
    config = json.loads((folder / "config.json").read_text())
    if "start_t" in config:
        facts["sampling"] = f"init {config['init']}, start_t {config['start_t']}, {config['steps']} step"
        facts["base, encoder"] = f"sha256 `{config['base_sha256'][:16]}`, `{config['encoder_sha256'][:16]}`"
    return facts


if __name__ == "__main__":
    for path in write_cards(json.loads(Path(sys.argv[1]).read_text())):
        print(path)
