"""The run a folder belongs to: ``run.json``, and the identity that decides whether a manifest may resume it.

The only place that reads the clock for a run. Does NOT know Ray, the ledger, or how images are restored.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fdi_lib.errors import RunConflictError
from fdi_lib.manifest.kinds import RestoreManifest
from fdi_lib.manifest.locations import local_path
from fdi_lib.manifest.settings import SourceSettings, StorageSettings
from fdi_lib.records import ALGORITHM_VERSION, SCHEMA_VERSION
from fdi_lib.storage.store import UNFINISHED, ObjectEntry, Store

RUN_FILE = "run.json"
LISTING_FILE = "_control/listing.json"  # written when a run's listing is complete: {"listing", "ignored"}
_BEFORE_A_RUN = ("plan.parquet", RUN_FILE)
_DISTRIBUTIONS = ("fdi-restore", "ray", "torch", "diffusers", "transformers", "pyvips")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Run:
    """One run: where it writes, when it started, and what its ``run.json`` says.

    Attributes:
        store: the output folder.
        started: UTC, whole seconds; the ``when`` of every label. SOURCE_DATE_EPOCH overrides it.
        info: the content of ``run.json``.
    """

    store: Store
    started: datetime
    info: dict[str, Any]

    @property
    def source(self) -> SourceSettings:
        """The source that the run reads."""
        return SourceSettings.model_validate(self.info["manifest"]["source"])

    @property
    def finished(self) -> bool:
        """True once the whole source was accounted for."""
        return self.info["finished"] is not None

    def is_done(self, listing: Mapping[str, Any]) -> bool:
        """True when the run is finished and ``listing`` (of :func:`fingerprint`) is the one it finished with."""
        return self.finished and self.info["listing"] == dict(listing)


class Fingerprint:
    """Summary of a listing, taken while it streams past."""

    def __init__(self) -> None:
        """Start with nothing listed."""
        self._digest, self._objects, self._bytes = hashlib.sha256(), 0, 0

    def add(self, entry: ObjectEntry) -> None:
        """Count one entry."""
        self._digest.update(f"{entry.path}\0{entry.size}\0{entry.version}\n".encode("utf-8", "surrogateescape"))
        self._objects, self._bytes = self._objects + 1, self._bytes + entry.size

    def summary(self) -> dict[str, Any]:
        """What was listed so far: ``{"objects", "bytes", "sha256"}``."""
        return {"objects": self._objects, "bytes": self._bytes, "sha256": self._digest.hexdigest()}


def fingerprint(entries: Iterable[ObjectEntry]) -> dict[str, Any]:
    """Summary of a source's listing, in listing order: ``{"objects", "bytes", "sha256"}``. Streams."""
    seen = Fingerprint()
    for entry in entries:
        seen.add(entry)
    return seen.summary()


def open_run(
    manifest: RestoreManifest,
    models_description: Mapping[str, Any],
    numeric_profile: Mapping[str, Any],
    listing: Mapping[str, Any] | None = None,
) -> Run:
    """Start the manifest's run, or find the one to resume.

    Args:
        manifest: resolved settings.
        models_description: hashes and licences of encoder, base, bank, adapters; every SHA-256 in it is identity.
        numeric_profile: batch shapes, dtype, device type, threads, compile flags: what fixes the bytes.
        listing: :func:`fingerprint` of the source, where known at the start; readers estimate the time left from it.

    Raises:
        RunConflictError: the output belongs to another run, was made under another numeric profile, or holds things
            that no run wrote.
    """
    run = find_run(manifest, models_description, numeric_profile)
    if run is None:
        store = Store.open(manifest.output.uri, manifest.output.storage)
        info = json.loads(_encode(_new_info(manifest, models_description, numeric_profile, listing)))
        if store.create(RUN_FILE, _encode(info)):
            return _as_run(store, info)
        run = find_run(manifest, models_description, numeric_profile)  # another job has just begun it
    assert run is not None
    return run


def find_run(
    manifest: RestoreManifest, models_description: Mapping[str, Any], numeric_profile: Mapping[str, Any]
) -> Run | None:
    """The run to resume; None where the output is free for a new one. Writes nothing.

    Raises:
        RunConflictError: as :func:`open_run`.
    """
    store = Store.open(manifest.output.uri, manifest.output.storage)
    refuse_strangers(store)
    if not store.exists(RUN_FILE):
        return None
    run, info = load_run(store), json.loads(_encode(_new_info(manifest, models_description, numeric_profile, None)))
    _check_same(run, info)
    return replace(run, info={**run.info, "manifest": info["manifest"]})  # pools, limits and storage may have changed


def refuse_strangers(store: Store) -> None:
    """Refuse an output without ``run.json`` that holds anything but a plan.

    Raises:
        RunConflictError: it holds things that no run wrote.
    """
    if store.exists(RUN_FILE):
        return
    others = (e.path for e in store.walk() if e.path not in _BEFORE_A_RUN and not e.path.startswith(UNFINISHED))
    stranger = next(others, None)
    if stranger is not None and not store.exists(RUN_FILE):  # asked again: another job may just have started
        raise RunConflictError(
            f"{store.uri()} is not empty and holds no {RUN_FILE} (found {stranger}); use an empty output.uri"
        )


def load_run(store: Store) -> Run:
    """The run of an existing output.

    Raises:
        RunConflictError: there is no ``run.json``, or it isn't one.
    """
    try:
        info = json.loads(store.read(RUN_FILE))
        if info["schema_version"] != SCHEMA_VERSION:
            raise RunConflictError(
                f"{store.uri(RUN_FILE)} has schema {info['schema_version']}; this release reads {SCHEMA_VERSION}"
            )
        return _as_run(store, info)
    except FileNotFoundError:
        raise RunConflictError(f"{store.uri()} holds no {RUN_FILE}; name the output of a run") from None
    except (ValueError, KeyError, TypeError) as exc:
        raise RunConflictError(f"{store.uri(RUN_FILE)} is not a run's description ({type(exc).__name__})") from exc


def load_run_at(uri: str, storage: StorageSettings) -> Run:
    """The run of an existing output, by its URI. Raises as :func:`load_run`."""
    return load_run(Store.open(uri, storage))


def read_listing(store: Store) -> dict[str, Any] | None:
    """What the run listed, ``{"listing": fingerprint, "ignored": {extension: n}}``; None until that is complete."""
    try:
        found: dict[str, Any] = json.loads(store.read(LISTING_FILE))
    except FileNotFoundError:
        return None
    return found


def finish_run(run: Run, ignored: Mapping[str, int], listing: Mapping[str, Any], **facts: Any) -> Run:
    """Record that every image of ``listing`` is accounted for.

    Args:
        run: the run.
        ignored: number of objects that aren't images, by extension.
        listing: :func:`fingerprint` of the source that was accounted for.
        facts: anything else worth keeping in ``run.json``: counts, say.
    """
    info = {
        **run.info,
        **facts,
        "finished": _stamp(datetime.now(UTC)),
        "ignored": dict(sorted(ignored.items())),
        "listing": dict(listing),
    }
    run.store.replace(RUN_FILE, _encode(info))
    return replace(run, info=info)


def identity(manifest: RestoreManifest, models_description: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal for a run to be resumed, by dotted key. Models count by hash, not by where they lie."""
    settings = manifest.model_dump(mode="json")
    source = local_path(manifest.source.uri) or manifest.source.uri.rstrip("/")
    return {
        "source.uri": source,
        "output.layout": manifest.output.layout,
        **_flat("output.image", settings["output"]["image"]),
        **{k: v for k, v in _flat("models", models_description).items() if _SHA256.fullmatch(str(v))},
        **_flat("classify", settings["classify"]),
        **_flat("restore", settings["restore"]),
        **_flat("gates", settings["gates"]),
        "algorithm_version": ALGORITHM_VERSION,
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that shape the bytes; None for one that isn't installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _new_info(
    manifest: RestoreManifest,
    models_description: Mapping[str, Any],
    numeric_profile: Mapping[str, Any],
    listing: Mapping[str, Any] | None,
) -> dict[str, Any]:
    opened = datetime.now(UTC)
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    started = datetime.fromtimestamp(int(epoch), UTC) if epoch else opened
    return {
        "schema_version": SCHEMA_VERSION,
        "algorithm_version": ALGORITHM_VERSION,
        "identity": identity(manifest, models_description),
        "numeric_profile": dict(numeric_profile),
        "manifest": manifest.model_dump(mode="json"),
        "models": dict(models_description),
        "versions": versions(),
        "started": _stamp(started),
        "opened": _stamp(opened),  # the real clock, for rates; never part of an image or a sidecar
        "finished": None,
        "ignored": {},
        "listing": None if listing is None else dict(listing),
    }


def _check_same(run: Run, info: dict[str, Any]) -> None:
    differences = _differences(run.info["identity"], info["identity"])
    where = run.store.uri()
    if differences:
        raise RunConflictError(
            f"{where} belongs to a run with other settings: {'; '.join(differences)}; "
            "restore these settings to resume it, or use another output.uri"
        )
    differences = _differences(
        _flat("numeric_profile", run.info["numeric_profile"]), _flat("numeric_profile", info["numeric_profile"])
    )
    if differences:
        raise RunConflictError(
            f"{where} was begun under another numeric profile, so its bytes would differ: {'; '.join(differences)}; "
            "resume it under the same profile, or use another output.uri"
        )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    def shown(values: Mapping[str, Any], key: str) -> str:
        return json.dumps(values[key]) if key in values else "absent"

    keys = sorted(k for k in there.keys() | here.keys() if shown(there, k) != shown(here, k))
    return [f"{key} is {shown(there, key)} there, {shown(here, key)} here" for key in keys]


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Nested mappings and lists as one level of dotted keys."""
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {key: leaf for name, inner in value.items() for key, leaf in _flat(f"{prefix}.{name}", inner).items()}


def _as_run(store: Store, info: dict[str, Any]) -> Run:
    return Run(store, datetime.fromisoformat(info["started"]), info)


def _stamp(moment: datetime) -> str:
    return moment.replace(microsecond=0).isoformat().replace("+00:00", "Z")


def _encode(info: Mapping[str, Any]) -> bytes:
    return (json.dumps(info, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
