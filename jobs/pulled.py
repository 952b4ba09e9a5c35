"""What Ray hands over, for a loop that must not wait: tables read in a thread, and errors out of their wrappings.

Does NOT know what the tables hold.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress

import pyarrow as pa
from ray.exceptions import RayError

from fdi_lib.errors import FDIError


class Pulled:
    """Reads an iterator of tables in a thread, at most a few ahead, so that finished units are never left waiting."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self.ended = False
        self._closed = threading.Event()
        self._queue: queue.Queue[pa.Table | BaseException | None] = queue.Queue(maxsize=4)
        threading.Thread(target=self._pull, args=(tables,), daemon=True).start()

    def get(self, timeout: float) -> pa.Table | None:
        """Return the next table, or None if there is none now."""
        if self.ended:
            return None
        try:
            item = self._queue.get(block=timeout > 0, timeout=timeout or None)
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise cause(item)
        self.ended = item is None
        return item

    def close(self) -> None:
        """Stop pulling; what was pulled is dropped. The thread ends with the table it waits for, if any."""
        self._closed.set()
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def _pull(self, tables: Iterator[pa.Table]) -> None:
        try:
            for table in tables:
                self._queue.put(table)
                if self._closed.is_set():
                    break
            self._queue.put(None)
        except BaseException as error:  # handed over to the thread that uses the tables
            self._queue.put(error)


def cause(error: BaseException) -> BaseException:
    """Return the exception that our own code raised, out of Ray's wrappings."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, FDIError) and not isinstance(seen, RayError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return error
