"""``python -m jobs.training.niqe_model FOLDER``: fit the model of clean photographs that NIQE compares with.

From the photographs of the *train* split, halved as for training; those of the test split take no part, so they can be
scored. FOLDER is where the listed pictures lie. Does NOT score anything: that is ``fdi evaluate``.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fdi_lib.core.niqe import FEATURES, SHARPNESS, fit, sharp_features
from fdi_lib.core.protocol import as_float
from fdi_lib.errors import FDIError, ManifestError
from fdi_lib.models.checkpoints import file_sha256
from fdi_lib.models.pristine import PRISTINE_FILE, PRISTINE_FOLDER, save_pristine
from fdi_lib.training.pictures import read_list
from jobs.cards import render, sources

_REDUCTION = 2  # every source is a JPEG: the mean of 2 x 2 pixels is clean
_PATCH_PX = 64  # the paper's are 96: of those, a tile of 256 px holds only four


def run(root: Path, table: Path, output: Path) -> dict[str, Any]:
    """Fit the model, write it with its card, and return what ``config.json`` says.

    Args:
        root: folder of the listed pictures.
        table: list of pictures.
        output: folder of the model.

    Raises:
        ManifestError: the list or a picture is missing, altered or of unknown origin, or sharp patches are too few.
    """
    photographs = [picture for picture in read_list(table, root, "train") if picture.kind == "photo"]
    where = sources(table, ["photo"])
    features = [sharp_features(as_float(picture.load(_REDUCTION)), _PATCH_PX) for picture in photographs]
    try:
        pristine = fit(features, _PATCH_PX)
    except ValueError as error:
        raise ManifestError(
            str(error), key="data.pictures", value=str(table), remedy="list more photographs, or larger ones"
        ) from None
    about: dict[str, Any] = {
        "patches": sum(map(len, features)),
        "pictures": len(photographs),
        "reduction": _REDUCTION,
        "sharpness": SHARPNESS,
    }
    save_pristine(pristine, output, about)
    about |= {"patch_px": _PATCH_PX}
    card = render(
        "niqe-card.md.j2",
        features=FEATURES,
        file=PRISTINE_FILE,
        sha256=file_sha256(output / PRISTINE_FILE),
        where=where,
        **about,
    )
    (output / "README.md").write_text(card)
    return about


def main(argv: Sequence[str]) -> int:
    """Fit, and print what was made; 2 where the data can't be used."""
    parser = ArgumentParser(prog="python -m jobs.training.niqe_model", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the pictures that the list names")
    parser.add_argument("--pictures", type=Path, default=Path("docs/training-data.tsv"), help="list of pictures")
    parser.add_argument("--output", type=Path, default=PRISTINE_FOLDER, help="folder of the model")
    options = parser.parse_args(argv)
    try:
        made = run(options.folder, options.pictures, options.output)
    except FDIError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{options.output}: " + ", ".join(f"{key} {value}" for key, value in made.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
