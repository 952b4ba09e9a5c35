"""What a job does when it is told to end: preemption of its machine, ``ray job stop``, a scheduler.

Does NOT know what the job works on.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)
_SHARE_OF_GRACE = 0.6  # for the work; the rest is for ending processes and giving the lease back


@contextmanager
def finishing_on_sigterm(stop: Callable[[float], None], grace_s: float) -> Iterator[None]:
    """For the block: the first SIGTERM calls ``stop(seconds left for what is in flight)``, a second one interrupts.

    Args:
        stop: must return at once; it runs in the signal's handler.
        grace_s: time from the signal to the end of the process.

    Raises:
        KeyboardInterrupt: at the second signal.
    """
    told = False

    def on_sigterm(signum: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:
            raise KeyboardInterrupt
        told = True
        log.warning("SIGTERM: nothing new is begun; what is in flight may take %.0f s", _SHARE_OF_GRACE * grace_s)
        stop(_SHARE_OF_GRACE * grace_s)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    before = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
