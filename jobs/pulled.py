"""What Ray hands over, for a loop that must not wait: tables read in a thread, and errors out of their wrappings.

Does NOT know what the tables hold.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pyarrow as pa
from ray.exceptions import RayError

from fdi_lib.errors import FDIError

_END_S = 3.0  # for a table that is under way when nobody wants it any more


class Pulled:
    """Reads an iterator of tables in a thread, at most a few ahead, so that finished units are never left waiting."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self.ended = False
        self._closed = threading.Event()
        self._queue: queue.Queue[pa.Table | BaseException | None] = queue.Queue(maxsize=4)
        self._thread = threading.Thread(target=self._pull, args=(tables,), daemon=True)
        self._thread.start()

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
        end = time.monotonic() + _END_S
        while self._thread.is_alive() and time.monotonic() < end:  # best before Ray is shut down under it
            with suppress(queue.Empty):
                self._queue.get(timeout=0.05)

    def _pull(self, tables: Iterator[pa.Table]) -> None:
        try:
            for table in tables:
                if self._closed.is_set():
                    return
                self._queue.put(table)
            self._queue.put(None)
        except BaseException as error:  # handed over to the thread that uses the tables
            if not self._closed.is_set():
                self._queue.put(error)


def cause(error: BaseException) -> BaseException:
    """Return the exception that our own code raised, out of Ray's wrappings."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, FDIError) and not isinstance(seen, RayError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return error
