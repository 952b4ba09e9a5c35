"""Say what was done: the label inside a restored image (XMP), and the JSON sidecar beside every image.

Both are deterministic: the only time in them is when the run started. It knows neither image formats nor storage.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import numpy as np
from lxml import etree

SIDECAR_VERSION = 1
# IPTC's code for a picture that a trained model altered; the URI is a name, with http as published.
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"

_NS = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "stEvt": "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#",
    "stRef": "http://ns.adobe.com/xap/1.0/sType/ResourceRef#",
}
_META = "adobe:ns:meta/"
_OURS = ("Iptc4xmpExt:DigitalSourceType", "Iptc4xmpExt:AISystemUsed", "Iptc4xmpExt:AISystemVersionUsed",
         "xmpMM:DerivedFrom")  # fmt: skip
# What a sidecar takes from run.json, where present: what was run, with what, and when.
_RUN_KEYS = ("algorithm_version", "software", "versions", "models", "numeric_profile")
_SETTINGS_KEYS = ("classify", "restore", "gates")


@dataclass(frozen=True)
class Label:
    """What a restored image says about itself.

    Args:
        source_uri: where the master is.
        source_sha256: hexadecimal digest of the master's bytes.
        composition: adapters with weights (``haze:1.00>noise:1.00``).
        software: name of the program.
        version: its version.
        when: ISO 8601 time, see :func:`timestamp`.
    """

    source_uri: str
    source_sha256: str
    composition: str
    software: str
    version: str
    when: str


def timestamp(started: datetime | str) -> str:
    """Return the one time that outputs may carry: when the run started, or ``SOURCE_DATE_EPOCH`` if that is set.

    Args:
        started: aware datetime, or ISO 8601 text.

    Returns:
        ISO 8601 in UTC, to the second.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch:
        moment = datetime.fromtimestamp(int(epoch), UTC)
    else:
        moment = datetime.fromisoformat(started) if isinstance(started, str) else started
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def labelled_xmp(packet: bytes, label: Label) -> bytes:
    """Merge the label for AI-altered media into an XMP packet.

    Sets IPTC's DigitalSourceType, AISystemUsed and AISystemVersionUsed, and xmpMM:DerivedFrom; appends to
    xmpMM:History; leaves every other property as it is. A packet that is not well-formed, or that declares a
    document type (the way to entity attacks), is replaced, and the history says so.

    Args:
        packet: the source's packet; empty for none.
        label: what to say.

    Returns:
        A UTF-8 packet without padding.
    """
    rdf = _parse(packet)
    lost = bool(packet.strip(b"\0 \r\n\t")) and rdf is None
    if rdf is None:
        rdf = etree.Element(_name("rdf:RDF"), nsmap={"rdf": _NS["rdf"]})
    descriptions = rdf.findall(_name("rdf:Description"))
    for description in descriptions:
        for name in map(_name, _OURS):
            description.attrib.pop(name, None)
            for old in description.findall(name):
                description.remove(old)

    # XMP wants one subject in a packet: a new description speaks of what the first one speaks of.
    about = descriptions[0].get(_name("rdf:about"), "") if descriptions else ""
    ours = etree.SubElement(rdf, _name("rdf:Description"), nsmap={k: v for k, v in _NS.items() if k != "rdf"})
    ours.set(_name("rdf:about"), about)
    _add(ours, "Iptc4xmpExt:DigitalSourceType", DIGITAL_SOURCE_TYPE)
    _add(ours, "Iptc4xmpExt:AISystemUsed", label.software)
    _add(ours, "Iptc4xmpExt:AISystemVersionUsed", label.version)
    source = _add(ours, "xmpMM:DerivedFrom", resource=True)
    _add(source, "stRef:documentID", f"sha256:{label.source_sha256}")
    _add(source, "stRef:filePath", label.source_uri)

    history = rdf.find(f"{_name('rdf:Description')}/{_name('xmpMM:History')}")
    history = _add(ours, "xmpMM:History") if history is None else history
    events = history.find(_name("rdf:Seq"))
    event = _add(_add(history, "rdf:Seq") if events is None else events, "rdf:li", resource=True)
    _add(event, "stEvt:action", "derived")
    _add(event, "stEvt:when", label.when)
    _add(event, "stEvt:softwareAgent", f"{label.software} {label.version}".strip())
    note = "; the source's XMP packet was not well-formed and is not carried over" if lost else ""
    _add(event, "stEvt:parameters", f"restored with {label.composition}{note}")

    meta = rdf.getparent()
    if meta is None:
        meta = etree.Element(f"{{{_META}}}xmpmeta", nsmap={"x": _META})
        meta.append(rdf)
    body = etree.tostring(meta, encoding="utf-8", with_tail=False)
    head = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'.encode()
    return head + b"\n" + body + b'\n<?xpacket end="w"?>'


def _parse(packet: bytes) -> etree._Element | None:
    """Return the packet's rdf:RDF element, or None when there is none to be trusted. No entities, no network."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(packet.strip(b"\0 \r\n\t"), parser)
    except etree.XMLSyntaxError:
        return None
    if root.getroottree().docinfo.internalDTD is not None:
        return None
    return root if root.tag == _name("rdf:RDF") else root.find(_name("rdf:RDF"))


def _name(qualified: str) -> str:
    prefix, _, local = qualified.partition(":")
    return f"{{{_NS[prefix]}}}{local}"


def _add(parent: etree._Element, qualified: str, text: str = "", *, resource: bool = False) -> etree._Element:
    element = etree.SubElement(parent, _name(qualified))
    if resource:
        element.set(_name("rdf:parseType"), "Resource")
    if text:
        element.text = "".join(c if c.isprintable() else _percent(c) for c in text)
    return element


def _percent(character: str) -> str:
    """Escape what XML cannot hold: control characters, and bytes of a file name that are not UTF-8."""
    undecoded = "\udc80" <= character <= "\udcff"
    return quote(character, errors="surrogateescape" if undecoded else "surrogatepass")


def sidecar(row: Mapping[str, Any], run: Mapping[str, Any]) -> bytes:
    """Return the provenance of one output as JSON: sorted keys, ASCII, a newline at the end.

    Everything that explains the file, and nothing that differs between two machines doing the same work: no host,
    worker, attempt, duration, output folder, nor any time but the run's start.

    Args:
        row: a LEDGER row; ``scores`` as a mapping or as pairs.
        run: run.json; ``started`` and, where present, what was run with which models and settings.
    """
    manifest = run.get("manifest") or {}
    document = {
        "schema_version": SIDECAR_VERSION,
        "image_id": row["image_id"],
        "source": {
            "uri": row["source_uri"], "sha256": row["source_sha256"], "bytes": row["source_bytes"],
            "width": row["width"], "height": row["height"], "pages": row["pages"],
        },
        "outcome": {key: row[key] for key in ("status", "reason", "detail")},
        "classification": {
            "verdict": row["verdict"], "route": row["route"], "composition": row["composition"],
            "scores": dict(_pairs(row["scores"])), "residual": row["residual"],
        },
        "restoration": {key: row[key] for key in ("adapters", "seed", "steps")},
        "gates": row["gates"],
        "output": {
            "name": (row["output_uri"] or "").rpartition("/")[2],
            "sha256": row["output_sha256"], "bytes": row["output_bytes"],
        },
        "run": {
            "started": timestamp(run["started"]),
            "settings": {key: manifest[key] for key in _SETTINGS_KEYS if key in manifest},
            **{key: run[key] for key in _RUN_KEYS if key in run},
        },
    }  # fmt: skip
    text = json.dumps(_plain(document), sort_keys=True, indent=1, allow_nan=False)
    return text.encode("ascii") + b"\n"


def _pairs(scores: Mapping[str, float] | Iterable[tuple[str, float]] | None) -> Iterable[tuple[str, float]]:
    return scores.items() if isinstance(scores, Mapping) else scores or ()


def _plain(value: Any) -> Any:
    """Round numbers to what a float32 column gives back, so that rows in memory and rows read again agree."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
