"""Model cards. ``python -m jobs.cards TILES WHOLE`` writes the compact preset's, ``fdi train`` that of a new adapter.

Every figure comes from ``training.json``, ``training-log.jsonl`` and the ``metrics.json`` of ``fdi evaluate``, or from
what ``fdi train`` has just measured. Their front matter is the Hugging Face Hub's.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import TrainManifest
from fdi_lib.models.bank_files import ARRAYS, MONOCHROME
from fdi_lib.models.checkpoints import file_sha256
from fdi_lib.models.configs import read_config
from fdi_lib.models.presets import compact_folder

_ABOUT = {
    "base": "Frozen diffusion base: a denoising UNet of photographs on a pixel-unshuffled latent (v prediction).",
    "encoder": "BLIP-2 vision model and Q-Former in small, trained so that degradation and content separate.",
    "bank": "Reference bank: Feature Difference Instructions, geometry of clean features, calibrated thresholds; in "
    "`monochrome/` the same of pictures in grey, for scans of black-and-white prints.",
}


def write_cards(
    metrics: dict[str, Any], whole: dict[str, Any], table: Path = Path("docs/training-data.tsv")
) -> list[Path]:
    """Write ``README.md`` into every folder of the compact preset; return the files.

    Args:
        metrics: ``metrics.json`` of ``manifests/evaluate/compact.yaml``, of tiles.
        whole: that of ``manifests/evaluate/whole.yaml``, of whole photographs.
        table: list of pictures.

    Raises:
        ManifestError: figures are of another split than the cards say, or the list names no sources.
    """
    for found in (metrics, whole):
        for key, expected in (("split", "test"), ("colour", "as_is")):
            if found.get(key, expected) != expected:
                remedy = "measure the test photographs, as they are, for the cards"
                raise ManifestError("not what cards tell", key=f"data.{key}", value=found[key], remedy=remedy)
    preset = compact_folder()
    only_whole = read_config(preset / "bank").get("whole_only", ())
    written = []
    adapters = [path.parent for path in sorted(preset.glob("adapters/*/config.json"))]
    for folder in [preset / n for n in _ABOUT] + adapters:
        name, adapter = folder.name, folder in adapters
        file = "adapter.safetensors" if adapter else f"{name}.safetensors"
        figures = _of_tiles(metrics["degradations"].get(name), name in only_whole) if adapter else None
        where = sources(table, until=_trained(folder).get("pictures_added_until", "9999"))
        recipe = "manifests/banks/compact.yaml" if name == "bank" else f"manifests/train/compact/{name}.yaml"
        text = render(
            licence="apache-2.0",
            task=name if adapter else "",
            model_name=f"compact-{name}",
            dataset="synthetic damage on test photographs, manifests/evaluate/compact.yaml",
            dataset_type="synthetic",
            title=f"Compact {name}" + (" adapter" if adapter else ""),
            about=f"FDI adapter that undoes `{name}`, for the compact base." if adapter else _ABOUT[name],
            file=file,
            sha256=file_sha256(folder / file),
            command=f"fdi {'bank build' if name == 'bank' else 'train'} {recipe} data.uri=FOLDER",
            facts=_facts(folder, metrics if name == "bank" else None) | in_whole(whole, name),
            measured=_shown(figures) if figures else None,
            measured_by=f"By `fdi evaluate manifests/evaluate/compact.yaml`, on {figures['n'] if figures else 0} tiles "
            "of 256 px of test photographs that no training saw",
            unmeasured="On tiles: not yet; see above and docs/quality.md."
            if adapter
            else "See the adapters' cards and docs/quality.md.",
            data=f"Pictures of the `train` split of docs/training-data.tsv, each listed with its hash: {where}.\n"
            "The weights are released under Apache-2.0.",
            limits="Trained on small crops of a few dozen photographs with synthetic damage. "
            "Real damage differs;\nlook at the review queue and the report before publishing anything.",
        )
        (folder / "README.md").write_text(text)
        written.append(folder / "README.md")
    return written


def adapter_card(folder: Path, summary: dict[str, Any], manifest: TrainManifest) -> str:
    """The card of an adapter that ``fdi train`` has just made.

    Args:
        folder: the adapter's, complete but for the card.
        summary: what ``training.json`` will hold.
        manifest: of the training.
    """
    task, figures, own = summary["task"], summary.get("measured"), manifest.data.kind != "clean"
    against = "".join(f" models.{key}=..." for key, given in manifest.models if given is not None)
    checked = f"; {summary['left_out']} more were left out (`pairs.tsv` among the checkpoints)" if own else ""
    facts = _facts(folder, None) | {
        "training": f"{summary['steps']} steps of {summary['batch']}, seed {summary['seed']}",
        "validation PSNR": f"{summary['best']['validation_psnr']:.2f} dB at step {summary['best']['step']}",
    }
    if "initial_sha256" in summary:
        facts["went on from"] = _origin(summary)
    if own:
        others = "alone in the bank" if summary["accuracy_before"] is None else (
            f"others named right {summary['accuracy_before']:.1%} before, {summary['accuracy_after']:.1%} with it"
        )  # fmt: skip
        facts["classifier, held-out references"] = f"recognised in {summary['recognised']:.1%}; {others}"
    return render(
        licence="other",
        task=task,
        model_name=task,
        dataset="held-out pairs",
        dataset_type="image-pairs",
        title=f"{task} adapter",
        about=f"FDI adapter that undoes `{task}`.",
        file="adapter.safetensors",
        sha256=file_sha256(folder / "adapter.safetensors"),
        command=f"fdi train MANIFEST task={task} data.kind={manifest.data.kind} data.uri=...{against}",
        facts=facts,
        measured=_shown(figures) if figures else None,
        measured_by=f"By `fdi train`, on {figures['n'] if figures else 0} held-out pairs of other pictures",
        unmeasured="By its training alone (see above); `fdi evaluate` measures it beside other methods.",
        data=f"{summary['pairs']} pairs were learnt from, {summary['held_out']} held out{checked}."
        if own
        else f"{summary['pairs']} clean tiles of {summary['pictures']} pictures, degraded on the fly.",
        limits="It has seen what its training pairs show, and nothing else. Look at the review queue and the report "
        "before publishing\nanything. Whoever owns the pictures says what may be done with these weights.",
    )


def render(template: str = "model-card.md.j2", **values: Any) -> str:
    """Fill in a template of this package; every variable must be given."""
    environment = Environment(
        loader=PackageLoader("jobs", "templates"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template(template).render(**values)


def sources(table: Path, kinds: Collection[str] | None = None, until: str = "9999") -> str:
    """Where the training pictures come from: repositories, each with its licence and number of files.

    Args:
        table: list of pictures.
        kinds: photo, garment or plate; None takes all.
        until: date up to which they had been ``added`` to the list; rows without one always had been.

    Raises:
        ManifestError: the list doesn't say.
    """
    with table.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["split"] == "train"]
    if any(not row.get(column) for row in rows for column in ("source_repository", "licence")):
        raise ManifestError(
            "the picture list names no source_repository or licence",
            key="data.pictures",
            value=str(table),
            remedy="give every picture both: model cards name them",
        )
    taken = [row for row in rows if (kinds is None or row["kind"] in kinds) and (row.get("added") or "") <= until]
    counts = Counter((row["source_repository"], row["licence"]) for row in taken)
    return "; ".join(f"{repository} ({licence}, {n} files)" for (repository, licence), n in sorted(counts.items()))


def _of_tiles(figures: dict[str, Any] | None, only_whole: bool) -> dict[str, Any] | None:
    """Figures of tiles; what the classifier found says nothing of what it looks for in whole pictures only."""
    if figures is None or not only_whole:
        return figures
    return {key: value for key, value in figures.items() if key not in ("found", "gain_db_classified")}


def _shown(figures: dict[str, Any]) -> dict[str, str]:
    keep = (
        "psnr_in",
        "psnr_out",
        "gain_db",
        "gain_db_classified",
        "gain_db_without_fidelity",
        "gain_db_fidelity_only",
        "classical",
        "classical_gain_db",
        "found",
    )
    return {
        k: figures[k] if isinstance(figures[k], str) else f"{figures[k]:.2f}"
        for k in keep
        if figures.get(k) is not None
    }


def in_whole(whole: dict[str, Any], name: str) -> dict[str, str]:
    """What an adapter, or the bank, came to on whole photographs; nothing for what wasn't measured there."""
    if name == "bank":
        return {"clean whole photographs left untouched": "{untouched:.3f} of {n}".format(**whole["clean"])}
    figures = whole["degradations"].get(name)
    if figures is None:
        return {}
    told = (
        "{n} of {psnr_in:.1f} dB: told {gain_db:+.1f} dB; classified {gain_db_classified:+.1f} dB, found in {found:.0%}"
    )
    return {"on whole test photographs": told.format(**figures)}


def _trained(folder: Path) -> dict[str, Any]:
    """``training.json``; empty where nothing was trained."""
    path = folder / "training.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _facts(folder: Path, metrics: dict[str, Any] | None) -> dict[str, str]:
    facts: dict[str, str] = {}
    given = _trained(folder)
    summary = given.get("rest", given)  # where one part was trained by itself
    if "initial_sha256" in given:
        facts["went on from"] = _origin(given)
    if "last" in summary:
        last = ", ".join(
            f"{k} {v}" for k, v in summary["last"].items() if k not in ("step", "lr", "steps_per_s", "grad_norm")
        )
        facts["training"] = (
            f"{summary['steps']} steps of {summary['batch']}, seed {summary['seed']}, {summary['pictures']} pictures"
        )
        facts["last logged"] = last + " (`training-log.jsonl` has all)"
        if "trained_with_encoder_sha256" in summary:  # see jobs/training/carry_over.py
            before = summary["trained_with_encoder_sha256"][:16]
            facts["carried over"] = f"trained with the FDI of encoder `{before}`, does the same with that of today's"
    if metrics:
        clean = metrics["clean"]
        facts["clean tiles left untouched"] = f"{clean['untouched']:.3f} of {clean['n']}"
    in_grey = folder / MONOCHROME / ARRAYS
    if in_grey.is_file():
        facts[f"`{MONOCHROME}/{ARRAYS}`"] = f"sha256 `{file_sha256(in_grey)}`"
    config = json.loads((folder / "config.json").read_text())
    if "start_t" in config:
        facts["sampling"] = f"init {config['init']}, start_t {config['start_t']}, {config['steps']} step"
        facts["base, encoder"] = f"sha256 `{config['base_sha256'][:16]}`, `{config['encoder_sha256'][:16]}`"
    return facts


def _origin(summary: dict[str, Any]) -> str:
    before = ", ".join(f"`{sha256[:16]}`" for sha256 in summary["initial_sha256"])
    return f"weights {before}; trained since: {summary.get('only', 'all of it')}"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m jobs.cards TILES/metrics.json WHOLE/metrics.json")
    for path in write_cards(*(json.loads(Path(path).read_text()) for path in sys.argv[1:])):
        print(path)
