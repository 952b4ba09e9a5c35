"""A folder as a store: on this machine, or on a network file system that has hard links.

Does NOT know what the files are.
"""

from __future__ import annotations

import errno
import os
import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO

from fdi_lib.errors import ItemError, ObjectRefusedError, StorageOutageError, StorageRefusedError
from fdi_lib.manifest.locations import local_path
from fdi_lib.records import Reason
from fdi_lib.storage.store import LEFT_OUT, NO_FILE, UNFINISHED, UNFINISHED_S, ObjectEntry, Store, check_name, printable

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENOTSUP,
            errno.EXDEV)  # fmt: skip
_READABLE = (Reason.ACCESS_DENIED, "make it readable for the user who runs this")
_OF_ONE_FILE = {
    errno.EACCES: _READABLE,
    errno.EPERM: _READABLE,
    errno.EIO: (Reason.READ_ERROR, "copy it from a backup, or mend the disk"),
}


class LocalStore(Store):
    """A folder on this machine, or on a network file system that has hard links."""

    def __init__(self, root: str) -> None:
        self.root = root

    @property
    def local_path(self) -> str:
        """The root as an absolute local path."""
        return self.root

    def uri(self, path: str = "") -> str:
        """The absolute local path."""
        return posixpath.join(self.root, path) if path else self.root

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """See :meth:`Store.read`."""
        with self._reading(self.uri(path)), open(self._place(path), "rb", opener=_regular_file) as file:
            file.seek(offset)
            return file.read(-1 if length is None else length)

    def create(self, path: str, data: bytes) -> bool:
        """See :meth:`Store.create`. A link to a finished file, because a rename would overwrite."""
        place = self._place(path)
        with self._finished(place, data) as finished:
            try:
                os.link(finished, place)
            except FileExistsError:
                if place.is_dir():
                    raise ItemError(Reason.OUTPUT_CONFLICT, f"{place} is a folder") from None
                return False
            _sync_folder(place.parent)
            return True

    def replace(self, path: str, data: bytes) -> None:
        """See :meth:`Store.replace`."""
        place = self._place(path)
        with self._finished(place, data) as finished:
            os.replace(finished, place)
            _sync_folder(place.parent)

    def size(self, path: str) -> int | None:
        """See :meth:`Store.size`."""
        place = self._place(path)
        try:
            with self._reading(str(place)):
                status = place.stat()
        except FileNotFoundError:
            return None
        return status.st_size if S_ISREG(status.st_mode) else None

    def walk(self, prefix: str = "", without: str | None = None) -> Iterator[ObjectEntry]:
        """See :meth:`Store.walk`. Links are followed; a link that leads nowhere is listed with size 0."""
        folder = prefix.rpartition("/")[0]
        if folder:
            check_name(folder)
        root = Path(self.root, folder)
        if root.is_dir():
            status = root.stat()  # a link to the root itself is a loop, too
            barred = os.path.realpath(without) if without else None
            for entry in _walk(root, f"{folder}/" if folder else "", ((status.st_dev, status.st_ino),), barred):
                if entry.path.startswith(prefix):
                    yield entry

    def delete(self, path: str) -> None:
        """See :meth:`Store.delete`."""
        with _translated(self.uri(path)):
            self._place(path).unlink(missing_ok=True)

    def is_object(self) -> bool:
        """True when the root is a file."""
        return os.path.isfile(self.root)

    def check(self, for_writing: bool = False) -> None:
        """See :meth:`Store.check`."""
        if not for_writing and not os.path.exists(self.root):
            raise StorageRefusedError(f"{self.root}: no such file or folder; check the path")
        if not for_writing and not (os.path.isdir(self.root) or os.path.isfile(self.root)):
            raise StorageRefusedError(f"{self.root}: neither a file nor a folder; check the path")
        with _translated(self.root):
            nearest = Path(self.root)
            while not nearest.exists():
                nearest = nearest.parent
            if for_writing and not nearest.is_dir():
                raise StorageRefusedError(f"{self.root}: {nearest} is a file; name a folder")
            if not os.access(nearest, os.W_OK | os.X_OK if for_writing else os.R_OK):
                remedy = "ask its owner, or name another place"
                raise StorageRefusedError(f"{self.root}: no permission at {nearest}; {remedy}")
            if for_writing:
                self._try_to_write()

    def _try_to_write(self) -> None:
        """Make the folder and a file with a link, then remove all of it: rights alone don't tell what can be made."""
        folder = Path(self.root)
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        try:
            with self._finished(folder / "probe", b"") as probe:
                link = probe.with_suffix(".link")
                try:
                    os.link(probe, link)
                finally:
                    link.unlink(missing_ok=True)
        except FileNotFoundError as error:  # what /proc says
            raise StorageRefusedError(f"{self.root}: no folder can be made there; name another place") from error
        finally:
            for place in missing:
                with suppress(OSError):  # another job has just begun to write there
                    place.rmdir()

    def remove_unfinished(self) -> None:
        """See :meth:`Store.remove_unfinished`. Ages are told by the file system's own clock."""
        if Path(self.root, UNFINISHED).is_dir():
            with self._finished(Path(self.root, "now"), b"") as now:
                for path in now.parent.iterdir():
                    with suppress(FileNotFoundError):  # finished meanwhile
                        if path.is_file() and now.stat().st_mtime - path.stat().st_mtime > UNFINISHED_S:
                            path.unlink()

    def at(self, uri: str) -> tuple[Store, str]:
        """See :meth:`Store.at`."""
        place = local_path(uri)
        if place is None:
            raise StorageRefusedError(f"{uri}: not on the local disk, unlike {self.root}; list what lies in one store")
        if place.startswith(self.root.rstrip("/") + "/"):
            return self, place[len(self.root.rstrip("/")) + 1 :]
        return LocalStore(posixpath.dirname(place)), posixpath.basename(place)

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """As :func:`_translated`. One file without permission, on bad sectors, or a link to itself, stops nothing."""
        with _translated(what):
            try:
                yield
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise FileNotFoundError(what) from error
                # Where nothing can be read any more it is not the file: a share's ticket expired, say.
                if error.errno in _OF_ONE_FILE and os.access(self.root, os.R_OK | os.X_OK):
                    reason, remedy = _OF_ONE_FILE[error.errno]
                    raise ObjectRefusedError(reason, f"{what}: {error.strerror}; {remedy}") from error
                raise

    def _place(self, path: str) -> Path:
        return Path(self.root, check_name(path))

    @contextmanager
    def _finished(self, place: Path, data: bytes) -> Iterator[Path]:
        """A durable file with ``data``, to be linked or moved to ``place``; removed at the end if it is still there.

        It lies in one folder of the root, whose last file takes it along: so does what a killed writer leaves.
        """
        with _translated(str(place)):
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                what = f"a file lies where {place.parent} should be a folder"
                raise ItemError(Reason.OUTPUT_CONFLICT, what) from None
            # A folder of the output may be a link to another file system, where no link from the root's leads to.
            elsewhere = place.parent.stat().st_dev != os.stat(self.root).st_dev
            finished = Path(place.parent if elsewhere else self.root, UNFINISHED, uuid.uuid4().hex)
            try:
                with _new_file(finished) as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield finished
            except FileNotFoundError as error:
                raise StorageOutageError(f"{place}: {finished} went away before it was there; run again") from error
            finally:
                finished.unlink(missing_ok=True)
                with suppress(OSError):  # others write there, too
                    finished.parent.rmdir()


def _new_file(path: Path) -> BinaryIO:
    """Make a file, and its folder if that isn't there, or has just gone with another one's last file."""
    for tries_left in reversed(range(100)):
        with suppress(FileExistsError):
            path.parent.mkdir()
        try:
            return open(path, "xb")
        except FileNotFoundError:
            if not tries_left:
                raise
    raise AssertionError


def _regular_file(path: str, flags: int) -> int:
    """Open a file; what only looks like one (a pipe, a device) would keep its reader waiting for ever."""
    handle = os.open(path, flags | os.O_NONBLOCK)
    if not S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", path)
    return handle


def _sync_folder(folder: Path) -> None:
    """Make new names in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...], barred: str | None) -> Iterator[ObjectEntry]:
    """List below ``folder`` in the order of whole paths.

    Args:
        folder: what is listed.
        prefix: its path below the store's root.
        above: the folders on the way, against link loops.
        barred: real path of a folder that is not entered.
    """
    with _translated(str(folder)):
        found = []
        with os.scandir(folder) as items:
            for item in items:
                status = _status(item)
                # Backslashes twice: the name "\\xff", so written, is not that of the byte FF. Neither can be read.
                name = printable(item.name.replace("\\", "\\\\"))
                name += "/" if status and S_ISDIR(status.st_mode) else ""
                found.append((name, item.name, status, item.is_symlink()))
    real = os.path.realpath(folder) if barred else ""
    for name, raw, status, is_link in sorted(found, key=lambda each: each[:2]):
        path = prefix + name
        if barred and _leads_into(os.path.realpath(folder / raw) if is_link else os.path.join(real, raw), barred):
            yield ObjectEntry(path.rstrip("/"), 0, LEFT_OUT)
        elif status is None:
            yield ObjectEntry(path, 0, "")
        elif S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) not in above:
                yield from _walk(folder / raw, path, (*above, (status.st_dev, status.st_ino)), barred)
        elif not S_ISREG(status.st_mode):
            yield ObjectEntry(path, 0, NO_FILE)
        else:
            yield ObjectEntry(path, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}")


def _leads_into(path: str, barred: str) -> bool:
    return path == barred or path.startswith(f"{barred.rstrip('/')}/")


def _status(item: os.DirEntry[str]) -> os.stat_result | None:
    """What the entry is; None for a link that leads nowhere, or a file that is just gone."""
    try:
        return item.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn the system's errors into ours; a missing file stays ``FileNotFoundError``."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(what) from error
    except OSError as error:
        if error.errno in _REFUSED:
            remedy = "ask its owner, or name another place (one with hard links, if this is for output)"
            raise StorageRefusedError(f"{what}: {error.strerror}; {remedy}") from error
        raise StorageOutageError(f"{what}: {error.strerror}; run again when that is mended") from error
