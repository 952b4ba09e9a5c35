"""The label in the picture and the sidecar beside it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from lxml import etree

from fdi_lib.records import LEDGER
from fdi_lib.storage.provenance import DIGITAL_SOURCE_TYPE, Label, labelled_xmp, sidecar, timestamp

LABEL = Label("s3://archive/box 1/a.tif", "ab" * 32, "haze:1.00>noise:1.00", "fdi-restore", "0.1.0",
              "2026-11-23T07:00:00Z")  # fmt: skip
NS = {"rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "ext": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
      "mm": "http://ns.adobe.com/xap/1.0/mm/", "evt": "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#",
      "ref": "http://ns.adobe.com/xap/1.0/sType/ResourceRef#", "dc": "http://purl.org/dc/elements/1.1/"}  # fmt: skip
EXISTING = (
    b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="uuid:1" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/tiff"
 xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" i:DigitalSourceType="http://cv.iptc.org/old"
 xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/" xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#">
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Fifth Avenue &amp; 42nd</rdf:li></rdf:Alt></dc:title>
<xmpMM:History><rdf:Seq><rdf:li stEvt:action="created"/></rdf:Seq></xmpMM:History>
</rdf:Description></rdf:RDF></x:xmpmeta>"""
    + b" " * 500
    + b'<?xpacket end="w"?>\0\0'
)
ROW = {name: None for name in LEDGER.names} | {
    "image_id": "a.tar/1.tif", "source_uri": "s3://in/a.tar#1.tif", "source_sha256": "cd" * 32, "source_bytes": 9,
    "width": 4, "height": 3, "pages": [{"width": 4, "height": 3}], "status": "restored", "reason": "", "detail": "",
    "verdict": "single", "route": "noise", "composition": "noise:1.00", "scores": [("noise", 0.9), ("haze", 0.1)],
    "residual": float("nan"), "adapters": [{"name": "noise", "weight": 1.0, "sha256": "ef" * 32}], "seed": 7,
    "steps": 4, "gates": [], "output_uri": "/out/images/a/1.tif", "output_sha256": "01" * 32, "output_bytes": 8,
    "seconds": 3.2, "attempt": 1, "worker": "node-1",
}  # fmt: skip
RUN = {"started": "2026-11-23T08:00:00+01:00", "models": {"base": {"sha256": "23" * 32}}, "finished": "later",
       "manifest": {"restore": {"seed": 0}, "output": {"uri": "/out"}}}  # fmt: skip


def one(root: etree._Element, path: str) -> str:
    (found,) = root.xpath(path, namespaces=NS)
    return str(found)


def test_a_fresh_packet_says_what_was_done() -> None:
    packet = labelled_xmp(b"", LABEL)
    assert packet.startswith(b"<?xpacket begin=") and packet.endswith(b'<?xpacket end="w"?>')
    root = etree.fromstring(packet)
    assert one(root, "//ext:DigitalSourceType/text()") == DIGITAL_SOURCE_TYPE
    assert DIGITAL_SOURCE_TYPE.startswith("http://cv.iptc.org/newscodes/digitalsourcetype/composite")
    assert one(root, "//ext:AISystemUsed/text()") == "fdi-restore"
    assert one(root, "//ext:AISystemVersionUsed/text()") == "0.1.0"
    assert one(root, "//mm:DerivedFrom/ref:filePath/text()") == LABEL.source_uri
    assert one(root, "//mm:DerivedFrom/ref:documentID/text()") == "sha256:" + "ab" * 32
    assert one(root, "//mm:History/rdf:Seq/rdf:li/evt:action/text()") == "derived"
    assert one(root, "//mm:History/rdf:Seq/rdf:li/evt:when/text()") == LABEL.when
    assert one(root, "//mm:History/rdf:Seq/rdf:li/evt:softwareAgent/text()") == "fdi-restore 0.1.0"
    assert "haze:1.00>noise:1.00" in one(root, "//evt:parameters/text()")


def test_an_existing_packet_is_merged_into() -> None:
    root = etree.fromstring(labelled_xmp(EXISTING, LABEL))
    assert one(root, "//@dc:format") == "image/tiff"
    assert one(root, "//dc:title//rdf:li/text()") == "Fifth Avenue & 42nd"
    assert root.xpath("//ext:DigitalSourceType/text() | //@ext:DigitalSourceType", namespaces=NS) == [
        DIGITAL_SOURCE_TYPE
    ]
    assert root.xpath("//rdf:Description/@rdf:about", namespaces=NS) == ["uuid:1", "uuid:1"]
    actions = root.xpath("//mm:History/rdf:Seq/rdf:li/@evt:action | //evt:action/text()", namespaces=NS)
    assert actions == ["created", "derived"]
    again = etree.fromstring(labelled_xmp(labelled_xmp(EXISTING, LABEL), LABEL))
    assert one(again, "//mm:DerivedFrom/ref:filePath/text()") == LABEL.source_uri  # replaced, not doubled
    assert len(again.xpath("//mm:History/rdf:Seq/rdf:li", namespaces=NS)) == 3


def test_a_bare_rdf_root_is_merged_into() -> None:
    inner = EXISTING[EXISTING.index(b"<rdf:RDF") : EXISTING.index(b"</x:xmpmeta>")]
    assert one(etree.fromstring(labelled_xmp(inner, LABEL)), "//@dc:format") == "image/tiff"


HOSTILE = {
    "not xml": b"<x:xmpmeta",
    "bytes": bytes(range(200, 256)),
    "no rdf": b"<note/>",
    "entity": b'<!DOCTYPE a [<!ENTITY e "boom">]>' + EXISTING.split(b"?>\n")[1].split(b"<?")[0],
    "file": b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/hostname">]><a>&e;</a>',
    "laughs": b'<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><a>&b;</a>',
    "deep": b"<a>" * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_packet_is_replaced_and_the_history_says_so(name: str) -> None:
    packet = labelled_xmp(HOSTILE[name], LABEL)
    root = etree.fromstring(packet)
    assert one(root, "//ext:DigitalSourceType/text()") == DIGITAL_SOURCE_TYPE
    assert "not well-formed" in one(root, "//evt:parameters/text()")
    assert b"boom" not in packet and b"ENTITY" not in packet and len(packet) < 3000


def test_names_that_xml_cannot_hold_are_escaped() -> None:
    label = Label("s3://in/a\0b\n\udcff\ud800<&.tif", "", "", "fdi-restore", "1", "now")
    root = etree.fromstring(labelled_xmp(b"", label))
    assert one(root, "//ref:filePath/text()") == "s3://in/a%00b%0A%FF%ED%A0%80<&.tif"


def test_the_sidecar_explains_the_derivative_and_hides_the_machine() -> None:
    data = sidecar(ROW, RUN)
    found = json.loads(data)
    assert found["source"] == {"uri": "s3://in/a.tar#1.tif", "sha256": "cd" * 32, "bytes": 9, "width": 4, "height": 3,
                               "pages": [{"width": 4, "height": 3}]}  # fmt: skip
    assert found["output"] == {"name": "1.tif", "sha256": "01" * 32, "bytes": 8}
    assert found["classification"]["scores"] == {"haze": 0.1, "noise": 0.9}
    assert found["classification"]["residual"] is None
    assert found["restoration"]["adapters"][0]["sha256"] == "ef" * 32
    assert found["run"]["models"] == RUN["models"] and found["run"]["settings"] == {"restore": {"seed": 0}}
    assert found["run"]["started"] == "2026-11-23T07:00:00Z"
    assert not re.search(rb"node-1|seconds|attempt|worker|later|/out", data)
    assert data == json.dumps(found, sort_keys=True, indent=1).encode() + b"\n"


def test_the_sidecar_is_the_same_from_memory_and_from_the_ledger() -> None:
    elsewhere = ROW | {"worker": "node-2", "attempt": 3, "seconds": 1.0, "output_uri": "s3://b/images/a/1.tif",
                       "scores": {"noise": float(np.float32(0.9)), "haze": np.float32(0.1)}}  # fmt: skip
    assert sidecar(elsewhere, RUN) == sidecar(ROW, RUN)
    assert sidecar(ROW | {"seed": 8}, RUN) != sidecar(ROW, RUN)


def test_a_failed_image_has_a_sidecar_too() -> None:
    row = {name: None for name in LEDGER.names} | {"image_id": "x", "status": "failed", "reason": "truncated"}
    assert json.loads(sidecar(row, RUN))["outcome"] == {"status": "failed", "reason": "truncated", "detail": None}


def test_the_only_time_is_the_runs_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert timestamp(datetime(2026, 11, 23, 7, 0, 0, 999, UTC)) == "2026-11-23T07:00:00Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert timestamp("2026-11-23T07:00:00Z") == "1970-01-02T00:00:00Z"
    assert json.loads(sidecar(ROW, RUN))["run"]["started"] == "1970-01-02T00:00:00Z"
