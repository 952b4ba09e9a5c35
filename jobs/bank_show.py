"""``fdi bank show``: what a reference bank holds, and how well its encoder's features tell degradations apart.

Everything comes from the bank's folder, which keeps the features of its held-out references: no encoder is loaded, so
it serves for any. Does NOT know how a bank is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fdi_lib.core import separability
from fdi_lib.core.judge import Judge
from fdi_lib.core.metrics import auroc
from fdi_lib.core.scatter import scatter
from fdi_lib.core.separability import CLEAN
from fdi_lib.errors import ManifestError
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.entry import Entry


def holds(bank: ReferenceBank) -> dict[str, Any]:
    """What a bank holds: names, pairs, spread, thresholds and the largest cosine between two directions."""
    unit_KD = bank.geometry.unit_KD
    cosine_KK = unit_KD @ unit_KD.T
    np.fill_diagonal(cosine_KK, -np.inf)
    alone, whole = len(bank.names) == 1, bank.whole.thresholds
    detail = dict(zip(bank.detail.geometry.names, bank.detail.thresholds.limit_K.round(2).tolist(), strict=True))
    degradations = {
        name: {
            "pairs": bank.entry(name).pairs,
            "explained_by_mean": round(bank.entry(name).spread, 3),
            "amplitude": round(float(whole.single_K[k]), 2),
            "limit": detail.get(name),
            "limit_whole": round(float(whole.limit_K[k]), 2),
            "nearest": None if alone else bank.names[int(cosine_KK[k].argmax())],
            "nearest_cosine": None if alone else round(float(cosine_KK[k].max()), 3),
            "severities": _severities(bank, bank.entry(name)),
        }
        for k, name in enumerate(bank.names)
    }
    t = bank.detail.thresholds
    limits = {"unknown_energy": t.unknown_energy, "unknown_energy_whole": whole.unknown_energy}
    limits |= {"whole_pictures": int(bank.whole_N.sum()), "member": t.member, "margin": round(t.margin, 2)}
    limits |= {"monochrome": bank.monochrome is not None}
    together = [bank.names[k] for k in np.flatnonzero(bank.namer.known_K)] if bank.namer else []
    return {"encoder_sha256": bank.encoder_sha256, "degradations": degradations, **limits, "named_together": together}


def _severities(bank: ReferenceBank, entry: Entry) -> list[dict[str, float]]:
    """Of each severity, the mildest first: whitened length, and cosine to the mean's direction; empty without any."""
    if entry.severities is None:
        return []
    white_PD, mean_D = (x @ bank.geometry.whitening_DD for x in (entry.severities.fdi_PD, entry.mean_D))
    length_P = np.linalg.norm(white_PD, axis=1)
    cosine_P = white_PD @ mean_D / length_P / np.linalg.norm(mean_D)
    return [{"length": round(float(n), 2), "cosine": round(float(c), 3)} for n, c in
            zip(length_P, cosine_P, strict=True)]  # fmt: skip


def run(uri: str, plot: str | None = None) -> dict[str, Any]:
    """Describe the bank in a folder; draw its held-out references where ``plot`` names a PNG file.

    Returns:
        What :func:`holds` says, and for each degradation ``held_out`` (images), ``probe_auc`` and ``probe_accuracy`` of
        a cross-validated linear probe of clean images against its own, ``kind_accuracy`` of one of all kinds and clean,
        ``filter_auc`` of its matched filter, ``found`` and ``found_whole`` (share decided to be exactly it, as details
        and as whole pictures are judged; None where it isn't looked for), ``found_grey`` and ``found_whole_grey`` (the
        same of references in grey; None where there are none); ``clean``: ``held_out``,
        ``kind_accuracy``, ``false_positives`` (share by weight, of details, whole pictures, and of both in one colour);
        ``kind_accuracy`` of all; ``cosines`` of directions;
        ``confusion`` by row and column; ``plot``. None stands for what too few images can't tell.

    Raises:
        WeightsError: there is no bank.
        ManifestError: the plot can't be written there.
    """
    if plot and (Path(plot).is_dir() or not Path(plot).absolute().parent.is_dir()):
        raise ManifestError("no file can be written there", key="--plot", value=plot, remedy="name a file in a folder")
    bank = ReferenceBank.from_pretrained(Path(uri))
    # Clean images that don't count for the thresholds (garments on plain grounds) don't count here.
    clean = bank.detail.held_out
    groups = {CLEAN: clean.clean_ND[clean.weight_N > 0]} | {entry.name: entry.held_out_MD for entry in bank.entries}
    summary = holds(bank)
    _probe(bank, groups, summary)
    unit_KD = bank.geometry.unit_KD
    names, cosine_KK = bank.names, np.round(unit_KD @ unit_KD.T, 3).tolist()
    decided, whole = separability.confusion(bank.detail), separability.confusion(bank.whole)
    grey = {"found_grey": bank.monochrome.detail, "found_whole_grey": bank.monochrome.whole} if bank.monochrome else {}
    in_grey = {key: separability.confusion(judge) for key, judge in grey.items()}
    for name, row in summary["degradations"].items():
        row["found"] = round(decided.accuracy([name]), 4) if name in decided.names else None
        row["found_whole"] = round(whole.accuracy([name]), 4)
        row |= {"found_grey": None, "found_whole_grey": None}
        for key, judged in in_grey.items():
            row[key] = round(judged.accuracy([name]), 4) if name in judged.names else None
    summary["cosines"] = {n: dict(zip(names, row_K, strict=True)) for n, row_K in zip(names, cosine_KK, strict=True)}
    summary["confusion"] = {
        name: dict(zip(decided.columns, row_C.tolist(), strict=True))
        for name, row_C in zip(decided.rows, decided.count_RC, strict=True)
    }
    if plot:
        _draw(bank, groups, Path(plot))
    return summary | {"plot": plot}


def _probe(bank: ReferenceBank, groups: dict[str, np.ndarray], summary: dict[str, Any]) -> None:
    """Add what probes say to the summary."""
    enough = {name: q_ND for name, q_ND in groups.items() if len(q_ND) >= separability.FEWEST}
    both = CLEAN in enough and len(enough) > 1
    recalls = dict(zip(enough, separability.recalls(list(enough.values())), strict=True)) if both else {}
    score_NK = bank.geometry.scores(groups[CLEAN])
    for k, (name, row) in enumerate(summary["degradations"].items()):
        q_ND = groups[name]
        auc, accuracy = separability.probe(groups[CLEAN], q_ND) if both and name in enough else (None, None)
        found = auroc(bank.geometry.scores(q_ND)[:, k].tolist(), score_NK[:, k].tolist()) if len(q_ND) else None
        row |= {"held_out": len(q_ND), "probe_auc": _rounded(auc), "probe_accuracy": _rounded(accuracy)}
        row |= {"kind_accuracy": _rounded(recalls.get(name)), "filter_auc": _rounded(found)}
    summary["clean"] = {
        "held_out": len(groups[CLEAN]),
        "kind_accuracy": _rounded(recalls.get(CLEAN)),
        "false_positives": _false_positives(bank.detail),
        "false_positives_whole": _false_positives(bank.whole),
        "false_positives_monochrome": bank.monochrome and _false_positives(bank.monochrome.detail),
        "false_positives_whole_monochrome": bank.monochrome and _false_positives(bank.monochrome.whole),
    }
    summary["kind_accuracy"] = _rounded(float(np.mean(list(recalls.values()))) if recalls else None)


def _false_positives(judge: Judge) -> float | None:
    return _rounded(separability.false_positives(judge))


def _draw(bank: ReferenceBank, groups: dict[str, np.ndarray], path: Path) -> None:
    shown = {name: bank.geometry.residual(q_ND) for name, q_ND in groups.items() if len(q_ND)}
    points, share = separability.plane(list(shown.values()))
    title = f"Held-out references, whitened: the plane of widest means ({share:.0%} of their spread)"
    Image.fromarray(scatter(dict(zip(shown, points, strict=True)), title)).save(path, "PNG")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


_SHOWN = {
    "pairs": "pairs", "explained_by_mean": "explained", "amplitude": "amplitude", "limit": "limit",
    "limit_whole": "of wholes",
    "nearest": "nearest", "nearest_cosine": "cosine", "held_out": "held out", "probe_auc": "probe AUC",
    "probe_accuracy": "accuracy", "kind_accuracy": "of all kinds", "filter_auc": "filter AUC", "found": "found",
    "found_whole": "as wholes", "found_grey": "in grey", "found_whole_grey": "wholes",
}  # fmt: skip


def text(summary: dict[str, Any]) -> str:
    """The summary as tables."""
    rows = summary["degradations"].items()
    clean, confusion, names = summary["clean"], summary["confusion"], list(summary["degradations"])
    columns = list(next(iter(confusion.values())))
    second = "a mixture's member"
    if summary["named_together"]:
        named = ", ".join(summary["named_together"])
        second = f"a network names the second of {named} above log odds of {summary['margin']:.2f}; another one"
    decided = [(name, *(str(row[column] or "") for column in columns)) for name, row in confusion.items()]
    facts = [
        f"encoder {summary['encoder_sha256'][:12]}, unknown above an energy of {summary['unknown_energy']:.1f} "
        f"({summary['unknown_energy_whole']:.1f} for whole pictures; {summary['whole_pictures']} are held out), "
        f"{second} joins from {summary['member']:.2f} of its amplitude",
        f"a cross-validated linear probe of all kinds and clean names {_cell(summary['kind_accuracy'])} rightly, kinds "
        f"counting alike; of {clean['held_out']} clean images {_cell(clean['kind_accuracy'])}",
        f"held-out clean images not left alone: {clean['false_positives']:.1%} by weight, of whole pictures "
        f"{clean['false_positives_whole']:.1%} (the thresholds were found on the same ones)",
        f"monochrome images: {clean['false_positives_monochrome']:.1%} and "
        f"{clean['false_positives_whole_monochrome']:.1%}, by references of their own"
        if summary["monochrome"]
        else "monochrome images are judged as those in colour",
    ]
    facts += [
        f"severities of {name}, mildest first, as length (cosine to the mean): "
        + ", ".join(f"{each['length']:.2f} ({each['cosine']:.2f})" for each in row["severities"])
        for name, row in rows
        if row["severities"]
    ]
    return "\n\n".join([
        _aligned([("", *_SHOWN.values()), *((name, *(_cell(row[key]) for key in _SHOWN)) for name, row in rows)]),
        "\n".join(facts),
        _aligned([("cosines", *names), *((n, *(f"{summary['cosines'][n][m]:.2f}" for m in names)) for n in names)]),
        _aligned([("decided as", *columns), *decided]),
        *([f"plot: {summary['plot']}"] if summary["plot"] else []),
    ])  # fmt: skip


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join(lines)
