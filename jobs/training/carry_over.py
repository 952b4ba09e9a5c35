"""``python -m jobs.training.carry_over ADAPTERS BANK OUTPUT``: adapters go on with another encoder's bank.

Every adapter folder below ADAPTERS is written to OUTPUT with the FDI that BANK has of its task; what it does to images
stays (see :mod:`fdi_lib.models.carry`), so nothing is trained. Its base stays, too. Does NOT measure, nor write cards.
"""

from __future__ import annotations

import json
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import torch

from fdi_lib.errors import FDIError, ManifestError
from fdi_lib.models.adapter import FDIAdapter
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.carry import carried

_KEPT = ("training-log.jsonl", "training.json")  # a card names the weights it is of


def run(adapters: Path, bank_folder: Path, output: Path) -> list[str]:
    """Write the adapters; return their names.

    Raises:
        ManifestError: there are none, the bank lacks a task, or the output is not empty.
        WeightsError: an adapter or the bank can't be read, or doesn't fit.
    """
    bank = ReferenceBank.from_pretrained(bank_folder)
    folders = [path.parent for path in sorted(adapters.glob("*/config.json"))]
    if not folders:
        raise ManifestError("no adapters here", key="ADAPTERS", value=str(adapters), remedy="name their parent folder")
    if output.exists() and any(output.iterdir()):
        raise ManifestError("not empty", key="OUTPUT", value=str(output), remedy="name a new folder")
    missing = [folder.name for folder in folders if folder.name not in bank.names]
    if missing:
        remedy = "build a bank that has all tasks"
        raise ManifestError(f"the bank has no {', '.join(missing)}", key="BANK", value=str(bank_folder), remedy=remedy)
    trained_with, made_of = {}, {}  # all of them, before anything is written
    for folder in folders:
        adapter = FDIAdapter.from_pretrained(folder)
        trained_with[folder] = adapter.config.encoder_sha256
        made_of[folder] = carried(adapter, torch.from_numpy(bank.tokens_of(folder.name)), bank.encoder_sha256)
    for folder, made in made_of.items():
        target = output / folder.name
        target.mkdir(parents=True)
        bank.save_fdi(folder.name, target)
        made.save_pretrained(target)
        for name in _KEPT:
            if (folder / name).is_file():
                shutil.copy(folder / name, target / name)
        _note(target / "training.json", trained_with[folder])
    return [folder.name for folder in folders]


def _note(path: Path, encoder_sha256: str) -> None:
    """``training.json`` is of the training; say what was done since. Without one nothing is known of a training."""
    if path.is_file():
        trained = json.loads(path.read_text())
        trained.setdefault("trained_with_encoder_sha256", encoder_sha256)
        path.write_text(json.dumps(trained, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Carry adapters over; 2 for what can't be used, 1 for adapters that must be trained anew."""
    parser = ArgumentParser(prog="python -m jobs.training.carry_over", description=__doc__)
    for name in ("adapters", "bank", "output"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args(argv)
    try:
        names = run(given.adapters, given.bank, given.output)
    except (FDIError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ManifestError | OSError) else 1
    print(f"{given.output}: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
