"""From a source's settings to its images: list objects as a stream, then read the images of each object once.

What counts as an image: with ``files``, objects whose extension is in :data:`IMAGE_EXTENSIONS`; in a shard, each member
with such an extension (tar) or each row (Parquet); with ``inventory``, each row. ``auto`` goes by each object's own
extension, so a mixture is fine. Everything else is counted in ``Listing.ignored``, never silently left out: objects
that are no images, links into the output, pipes and devices (never opened), an inventory's repeated rows.

Does NOT decode anything, nor decide anything: an inventory's ``sha256`` is checked here, its ``adapter`` handed on.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from fdi_lib.errors import ItemError, ManifestError, ObjectRefusedError
from fdi_lib.manifest.locations import local_path
from fdi_lib.records import Reason
from fdi_lib.storage.inventory import facts, inventory_entries
from fdi_lib.storage.names import check_image_name, harmless, plain, unique
from fdi_lib.storage.parquet import sandboxed_rows
from fdi_lib.storage.shards import READ_AHEAD_BYTES, Member, RangeReader, Row, parquet_rows, tar_members
from fdi_lib.storage.store import UNKNOWN_SIZE, UNREAD, ObjectEntry, Store, extension, is_absolute, printable

if TYPE_CHECKING:
    from fdi_lib.manifest.settings import SourceSettings

# fmt: off
IMAGE_EXTENSIONS = frozenset({
    "jpg", "jpeg", "jpe", "jfif", "png", "tif", "tiff", "jp2", "j2k", "j2c", "jpf", "jpx", "jxl",
    "webp", "heic", "heif", "avif", "bmp", "gif", "ppm", "pgm", "pbm", "pnm",
})
# fmt: on
SHARDS = {"tar": "webdataset", "parquet": "parquet"}  # extension: the format that reads it
_LITTLE_AHEAD_BYTES = 64 * 2**10  # for a Parquet file's footer (it reads ahead itself), and for a tar's headers alone
REPEATED = "(repeated row)"  # in ``Listing.ignored``, beside extensions and ``UNREAD``


def is_image(path: str) -> bool:
    """True if the extension is one of an image."""
    return extension(path) in IMAGE_EXTENSIONS


def holds_images(path: str, form: str) -> bool:
    """True if an object of that name is read where ``source.format`` is ``form``."""
    kind = extension(path)
    wanted = "files" if kind in IMAGE_EXTENSIONS else SHARDS.get(kind)
    return wanted is not None and form in ("auto", wanted)


class Listing(Iterator[list[ObjectEntry]]):
    """A stream of blocks of objects that hold images, in order; nothing listed is kept.

    An entry's ``path`` is relative to ``source.uri``; for an inventory's rows, and where ``source.uri`` names one
    object, it is an absolute URI of unknown size.

    Attributes:
        ignored: objects left out so far, counted by extension (``(none)`` without one), ``UNREAD``, ``REPEATED``.
    """

    def __init__(self, source: SourceSettings, objects_per_block: int, output: str = "") -> None:
        self.ignored: Counter[str] = Counter()
        self._source, self._block, self._output = source, objects_per_block, output
        self._entries = self._list()

    def __next__(self) -> list[ObjectEntry]:
        block = list(islice(self._entries, self._block))
        if not block:
            raise StopIteration
        return block

    def _list(self) -> Iterator[ObjectEntry]:
        store = Store.open(self._source.uri, self._source.storage)
        if self._source.format == "inventory":
            yield from self._once(inventory_entries(store))
            return
        alone = extension(self._source.uri) in IMAGE_EXTENSIONS | SHARDS.keys() and store.is_object()
        without = local_path(self._output) if self._output else None
        for entry in [ObjectEntry(store.uri(), UNKNOWN_SIZE, "")] if alone else store.walk(without=without):
            if entry.version in UNREAD:
                self.ignored[entry.version] += 1
            elif holds_images(entry.path, self._source.format):
                yield entry
            else:
                self.ignored[extension(entry.path) or "(none)"] += 1

    def _once(self, entries: Iterator[ObjectEntry]) -> Iterator[ObjectEntry]:
        """An inventory's rows, each image once (its first row counts); about 150 bytes are held for each."""
        seen: dict[bytes, int] = {}  # hash of the image's id: how much of the URI is not in the id
        for entry in entries:
            name = path_below(self._source, entry.path)
            key = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()
            cut = len(entry.path) - len(name)
            if key not in seen:
                seen[key] = cut
                yield entry
            elif seen[key] == cut:
                self.ignored[REPEATED] += 1
            else:
                raise ManifestError(
                    f"another row's image would get the same name, {printable(name)}",
                    key="uri",
                    value=printable(entry.path),
                    file=self._source.uri,
                    remedy="list one of the two in an inventory of its own",
                )


def list_objects(source: SourceSettings, objects_per_block: int, output: str = "") -> Listing:
    """List the objects of a source that hold images, ``objects_per_block`` at a time.

    Args:
        source: what is listed.
        objects_per_block: length of a block.
        output: URI of the run's output: links that lead there are not followed. Any other link is.

    Raises:
        ManifestError: an inventory that can't be read.
        StorageRefusedError, StorageOutageError: as the store says.
    """
    return Listing(source, objects_per_block, output)


def read_images(
    store: Store, source: SourceSettings, entry: ObjectEntry, with_bytes: bool = True, timeout_s: float = 600.0
) -> Iterator[tuple[dict[str, Any], bytes | ItemError]]:
    """Stream an object's images in order, each with its ``REFERENCE`` row, in one sequential read.

    An image that can't be read comes with an ``ItemError`` in place of its bytes. If a shard is broken or cut, its
    readable images come first, then one row named after the shard itself (``UNREADABLE``) stands for the rest. A name
    that occurs again inside a shard becomes ``name~2.ext``, ``name~3.ext``, in order; hostile names are replaced by
    harmless ones.

    Args:
        store: the store rooted at ``source.uri``.
        source: where the entry comes from.
        entry: as listed by :func:`list_objects`.
        with_bytes: False for the rows alone: a file is not read, of a shard only headers or names; bytes are empty.
        timeout_s: longest time for some rows of a Parquet shard.
    """
    path = path_below(source, entry.path)
    uri = entry.path if is_absolute(entry.path) else store.uri(entry.path)
    kind = "file" if source.format == "inventory" else {"tar": "tar", "parquet": "parquet"}.get(extension(path), "file")
    row = {
        "image_id": path,
        "shard": "",
        "source_uri": uri,
        "object": uri,
        "kind": kind,
        "offset": 0,
        "length": 0,
        "row": -1,
    }
    try:
        check_image_name(path)
        here, name = store.at(entry.path) if is_absolute(entry.path) else (store, entry.path)
        if kind == "file":
            data = here.read(name) if with_bytes else b""
            wrong = _unlike_its_row(entry, data) if source.format == "inventory" and with_bytes else None
            yield row | {"length": len(data)}, wrong or data
            return
        size = _size(here, name) if entry.size == UNKNOWN_SIZE else entry.size
        row |= {"shard": path, "length": size}
        ahead = _LITTLE_AHEAD_BYTES if kind == "parquet" or not with_bytes else READ_AHEAD_BYTES
        yield from _shard(row, RangeReader(here, name, size, ahead), with_bytes, timeout_s)
    except FileNotFoundError:
        yield row, ItemError(Reason.MISSING_SOURCE, uri)
    except ObjectRefusedError as error:
        again = "run `fdi retry`" if kind == "file" else "restore this shard into another output"
        yield row, ItemError(error.reason, f"{error}, then {again}")
    except ItemError as error:
        yield row | {"image_id": harmless(path)}, error


def _unlike_its_row(entry: ObjectEntry, data: bytes) -> ItemError | None:
    """Why the bytes are not those that an inventory's row lists; None if they are, or if it doesn't say."""
    listed, found = facts(entry).get("sha256"), hashlib.sha256(data).hexdigest()
    if listed in (None, found):
        return None
    return ItemError(Reason.SOURCE_CHANGED, f"the inventory lists sha256 {listed}, the bytes there have {found}")


def read_image(store: Store, reference: dict[str, Any]) -> bytes:
    """Read one image again: one ranged read; for a Parquet shard, the start of its row group.

    Raises:
        ItemError: ``MISSING_SOURCE`` if it is gone, ``SOURCE_CHANGED`` if fewer bytes lie there than before;
            ``ACCESS_DENIED`` or ``ARCHIVED`` if the store refuses its object alone.
    """
    here, name = store.at(reference["object"])
    try:
        if reference["kind"] == "file":
            return here.read(name)
        if reference["kind"] == "tar":
            data = here.read(name, reference["offset"], reference["length"])
        else:
            reader = RangeReader(here, name, _size(here, name), ahead=_LITTLE_AHEAD_BYTES)
            data = next((row.data or b"" for row in parquet_rows(reader, only=reference["row"])), b"")
    except FileNotFoundError:
        raise ItemError(Reason.MISSING_SOURCE, reference["object"]) from None
    except ObjectRefusedError as error:
        raise ItemError(error.reason, f"{error}, then run `fdi retry`") from error
    if len(data) != reference["length"]:
        raise ItemError(Reason.SOURCE_CHANGED, f"{reference['length']} bytes were expected, {len(data)} are there")
    return data


class Companion(NamedTuple):
    """A member of a WebDataset sample that is not an image: its bytes lie at ``offset`` in the shard."""

    sample: str
    name: str
    offset: int
    length: int


def sample_key(name: str) -> str:
    """The name up to the first dot of its last segment: WebDataset's key of a sample."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def companions(store: Store, path: str, size: int) -> Iterator[Companion]:
    """List a tar shard's members that are not images, to be carried over with their samples.

    Raises:
        ItemError: as :func:`fdi_lib.storage.shards.tar_members`.
    """
    for member in tar_members(RangeReader(store, path, size, _LITTLE_AHEAD_BYTES)):
        if not is_image(member.name) and not member.problem:
            name = plain(member.name)
            yield Companion(sample_key(name), name, member.offset, member.length)


def _shard(
    row: dict[str, Any], reader: RangeReader, with_bytes: bool, timeout_s: float
) -> Iterator[tuple[dict[str, Any], bytes | ItemError]]:
    """The images of one shard; ``row`` names the shard."""
    taken: set[str] = set()
    rows: Iterator[Row | Member]
    if row["kind"] == "parquet":
        rows = sandboxed_rows(reader, timeout_s, with_bytes)
    else:
        rows = filter(lambda member: is_image(member.name), tar_members(reader))
    for item in rows:
        raw = item.name or f"{item.number:08d}" if isinstance(item, Row) else item.name
        data: bytes | ItemError
        if isinstance(item, Row):
            place = {"offset": 0, "length": len(item.data or b""), "row": item.number}
            data = ItemError(Reason.MISSING_SOURCE, "the row holds no bytes") if item.data is None else item.data
        else:
            place = {"offset": item.offset, "length": item.length}
            data = _member_bytes(reader, item) if with_bytes else b""
        name = plain(raw)
        try:
            check_image_name(f"{row['shard']}/{name}")
        except ItemError as error:
            name, data = harmless(name), error
        name = unique(name, taken)
        yield row | place | {"image_id": f"{row['shard']}/{name}", "source_uri": f"{row['object']}#{raw}"}, data


def _member_bytes(reader: RangeReader, member: Member) -> bytes | ItemError:
    if member.problem:
        return ItemError(Reason.UNREADABLE, member.problem)
    reader.seek(member.offset)
    data = reader.read(member.length)
    if len(data) < member.length:
        return ItemError(Reason.SOURCE_CHANGED, "the shard became shorter while it was read")
    return data


def _size(store: Store, name: str) -> int:
    size = store.size(name)
    if size is None:
        raise FileNotFoundError(store.uri(name))
    return size


def path_below(source: SourceSettings, path: str) -> str:
    """Return the path below ``source.uri``, of an absolute URI below its folder, or else the URI without its scheme."""
    if not is_absolute(path):
        return path
    folder = f"{posixpath.dirname(local_path(source.uri) or source.uri)}/"
    path = local_path(path) or path
    return path[len(folder) :] if path.startswith(folder) else path.partition("://")[2] or path.lstrip("/")
