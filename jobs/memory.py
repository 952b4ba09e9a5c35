"""How much memory this process holds. Does NOT know what for."""

from __future__ import annotations

import os
from pathlib import Path


def resident_mib(pid: int | None = None) -> float:
    """Memory of a process that is in RAM, in MiB; this process by default. Linux only."""
    pages = int(Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
