"""What workers died with is remembered per attempt, and an image that was alone keeps its count."""

from __future__ import annotations

from pathlib import Path

from fdi_lib.manifest import StorageSettings
from fdi_lib.storage.attempts import note_loss, suspects
from fdi_lib.storage.store import Store


def test_losses_are_remembered(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path), StorageSettings())
    assert suspects(store, 1) == {}
    note_loss(store, ["b", "a"], attempt=1, losses=1)
    note_loss(store, ["a", "b"], attempt=1, losses=1)  # the same, told twice
    note_loss(store, ["a", "b"], attempt=1, losses=2)
    note_loss(store, ["a"], attempt=1, losses=3)
    note_loss(store, ["c"], attempt=2, losses=1)
    assert suspects(store, 1) == {"a": 3, "b": 1}
    assert suspects(store, 2) == {"c": 1}
