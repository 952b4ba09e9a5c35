"""A source for Ray Data made of functions: one read task for each. Does NOT know what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

Read = Callable[[], Iterator[Any]]


class ReadTasks(Datasource):
    """Functions that yield blocks, each in a task of its own, in order."""

    def __init__(self, reads: Sequence[Read]) -> None:
        super().__init__()
        self._reads = reads

    def estimate_inmemory_data_size(self) -> int | None:
        """Not known before they are read."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """One for each function, whatever the parallelism."""
        nothing_known = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(read, nothing_known) for read in self._reads]
