"""Which images workers died with: written down outside of every process, so that no restart forgets a deadly one.

Only what a job saw counts: a job that is killed itself accuses nobody. Does NOT know workers, nor who is guilty.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from fdi_lib.storage.store import Store

FOLDER = "_control/attempts/"
_READERS = 8  # at once: each is a small object


def note_loss(store: Store, image_ids: Sequence[str], attempt: int, losses: int) -> None:
    """Write down that a worker died with these images.

    Args:
        store: the run's output.
        image_ids: the unit it worked on.
        attempt: of the ledger; another one (``fdi retry``) starts from nothing.
        losses: workers that died with this unit so far, this one included.
    """
    told = {"attempt": attempt, "losses": losses, "images": sorted(image_ids)}
    text = json.dumps(told, indent=1).encode()
    store.create(f"{FOLDER}{hashlib.blake2b(text, digest_size=16).hexdigest()}.json", text)


def suspects(store: Store, attempt: int) -> dict[str, int]:
    """How many workers died with each image at this attempt; of an image that was never alone, 1."""
    found: dict[str, int] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for told in map(json.loads, pool.map(store.read, [entry.path for entry in store.walk(FOLDER)])):
            if told["attempt"] == attempt:
                losses = told["losses"] if len(told["images"]) == 1 else 1
                for image_id in told["images"]:
                    found[image_id] = max(found.get(image_id, 0), losses)
    return found
