"""Run the readers over the corpus in this process, and print one line of JSON for each file: a test's child process.

    python -m tests.hostile.measure LIST     JSON lines of ``path``, ``name``, ``altered``

A process of its own, because memory is measured by its peak, which only grows (making the corpus takes more than
reading it), and because a reader that dies must not take the tests along.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from pathlib import Path

import numpy as np

from fdi_lib.storage.images import decode
from tests.hostile.cases import DECODED, HEIGHT, LIMIT_MP, WIDTH, grey, honest, picture
from tests.hostile.readers import exercise


def main(listing: str) -> None:
    for data in honest().values():
        exercise(data)
    before = peak_mib()
    for line in Path(listing).read_text().splitlines():
        case = json.loads(line)
        data, started = Path(case["path"]).read_bytes(), time.perf_counter()
        try:
            outcome = exercise(data)
            wrong = looks_wrong(data, case["name"], case["altered"]) if outcome == DECODED else ""
        except Exception:  # whatever it is: the test shows it
            outcome, wrong = "", traceback.format_exc()
        seconds, after = time.perf_counter() - started, peak_mib()
        found = {"name": case["name"], "outcome": outcome, "wrong": wrong, "seconds": seconds, "mib": after - before}
        print(json.dumps(found), flush=True)
        before = after


def peak_mib() -> float:
    """The most memory this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def looks_wrong(data: bytes, name: str, altered: bool) -> str:
    """Why the picture is not what the file holds: black, partial, or another one; empty if it is."""
    pixels = decode(data, LIMIT_MP).pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels // 257).astype(np.uint8)
    if altered:
        # What it should look like is not known, but the grain leaves no row all of one value; a row that was filled
        # up in place of missing samples is.
        whole = pixels.shape[:2] == (HEIGHT, WIDTH) and "black" not in name
        blank = int((pixels.reshape(len(pixels), -1).std(axis=1) == 0).sum()) if whole else 0
        return f"{blank} rows of one value" if blank else ""
    expected = picture() if pixels.ndim == 3 else grey()
    if pixels.shape != expected.shape:
        return f"a picture of {pixels.shape}"
    apart = float(np.abs(pixels.astype(int) - expected).mean())
    return f"another picture: {apart:.1f} levels apart" if apart > 4 else ""


if __name__ == "__main__":
    main(sys.argv[1])
