"""Every error this project raises on purpose.

    FDIError
    ├── ManifestError        a user's setting is wrong: file, line, key, value, remedy        exit 2
    ├── RunConflictError     the output belongs to another run, or to no run                  exit 2
    ├── WeightsError         a checkpoint is missing, altered, or of another architecture     exit 2
    │   └── AdapterLoadError one adapter does not load on one worker: tried elsewhere, then its images fail
    ├── StorageRefusedError  the store said no for good: 403, no such bucket                  exit 2
    │   └── ObjectRefusedError  ... to one object, and answers otherwise: of a source, that image fails
    ├── CapacityError        a pool that the cluster can never satisfy                        exit 2
    ├── StorageOutageError   the store does not answer: running again resumes                 exit 1
    ├── LeaseError           another job works on this output, or took it over                exit 1
    └── ItemError            one image cannot be read or restored: becomes a row, never an exit

Anything else that is raised is a bug and stops the job with exit 1.
"""

from __future__ import annotations


class FDIError(Exception):
    """Base class; ``exit_code`` is what the command line returns."""

    exit_code = 1


class ManifestError(FDIError):
    """A user's setting is wrong. The message names file, line, key, value and remedy as far as they are known."""

    exit_code = 2

    def __init__(
        self, problem: str, *, key: str = "", value: str = "", remedy: str = "", file: str = "", line: int | None = None
    ) -> None:
        self.problem, self.key, self.value, self.remedy = problem, key, value, remedy
        self.file, self.line = file, line
        super().__init__(problem)

    def __str__(self) -> str:
        """One line: ``file:line: key = value: problem; remedy``."""
        where = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        what = f"{self.key} = {self.value!r}: " if self.key and self.value else f"{self.key}: " if self.key else ""
        return f"{where}{what}{self.problem}" + (f"; {self.remedy}" if self.remedy else "")


class RunConflictError(FDIError):
    """The output folder holds another run, or things that no run wrote."""

    exit_code = 2


class WeightsError(FDIError):
    """A checkpoint is missing, altered, or of another architecture; the message names file, expected and found."""

    exit_code = 2


class AdapterLoadError(WeightsError):
    """One adapter could not be loaded: ``adapter`` is its name. The job tries another worker before images fail."""

    def __init__(self, adapter: str, problem: str) -> None:
        self.adapter, self.problem = adapter, problem
        super().__init__(adapter, problem)  # both, so that it can be pickled

    def __str__(self) -> str:
        """One line."""
        return f"adapter {self.adapter} does not load: {self.problem}"


class StorageRefusedError(FDIError):
    """The store refused for good (403, no such bucket): nothing heals by waiting."""

    exit_code = 2


class ObjectRefusedError(StorageRefusedError):
    """The store refused one object, and answers otherwise. ``reason`` is a code of :mod:`fdi_lib.records`."""

    def __init__(self, reason: str, problem: str) -> None:
        self.reason, self.problem = reason, problem
        super().__init__(reason, problem)  # both, so that it can be pickled

    def __str__(self) -> str:
        """One line."""
        return self.problem


class CapacityError(FDIError):
    """A pool asks for more than the cluster, or its autoscaler's limits, can ever give."""

    exit_code = 2


class StorageOutageError(FDIError):
    """The store does not answer (refused connection, time-out, 5xx after retries): running again resumes."""

    exit_code = 1


class LeaseError(FDIError):
    """Another job works on this output, or has taken it over: running again, when that one is done, resumes."""

    exit_code = 1


class ItemError(Exception):
    """One image cannot be read or restored. ``reason`` is a code of :mod:`fdi_lib.records`; it becomes a row."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)
