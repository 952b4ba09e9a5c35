"""One object that S3 refuses costs itself; rights to the whole store that are gone stop the job."""

from __future__ import annotations

import pickle
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from fdi_lib.errors import ItemError, ObjectRefusedError, StorageRefusedError
from fdi_lib.manifest import SourceSettings
from fdi_lib.records import Reason
from fdi_lib.storage.assemble import contents
from fdi_lib.storage.sources import read_image, read_images
from fdi_lib.storage.store import ObjectEntry
from tests.storage.test_s3_failures import _aside, _error, _say, _server


class Bucket:
    """Answers listings, or refuses them, and refuses every read with ``code``."""

    def __init__(self, status: int, code: str, lists: bool = True, holds: str = "prefix/a") -> None:
        self.status, self.code, self.lists, self.holds = status, code, lists, holds
        self.listed = 0

    def __call__(self, request: BaseHTTPRequestHandler, number: int) -> None:
        if request.command == "HEAD" and self.code == "InvalidObjectState":
            _say(request, 200, length=5000)  # what is archived may be looked at
        elif "list-type=2" not in request.path:
            _error(request, self.status, self.code)
        elif self.lists:
            self.listed += 1
            item = f"<Contents><Key>{self.holds}</Key><Size>1</Size><ETag>e</ETag></Contents>"
            _say(request, 200, f"<ListBucketResult>{item}</ListBucketResult>".encode())
        else:
            _error(request, 403, "AccessDenied")


@pytest.mark.parametrize(
    ("status", "code", "reason", "asks", "remedy"),
    [
        (403, "InvalidObjectState", Reason.ARCHIVED, 0, "restore it from its archive tier"),
        (403, "AccessDenied", Reason.ACCESS_DENIED, 1, "allow s3:GetObject"),
        (400, "KMS.DisabledException", Reason.ACCESS_DENIED, 0, "check credentials"),
    ],
)
def test_a_refusal_of_one_object_is_told_from_one_of_all(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, reason: Reason, asks: int, remedy: str
) -> None:
    bucket = Bucket(status, code)
    with _server(bucket) as url, pytest.raises(ObjectRefusedError, match=remedy) as caught:
        _aside(monkeypatch, url).read("a")
    assert caught.value.reason == reason and bucket.listed == asks
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.reason, str(again)) == (reason, str(caught.value))


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_where_nothing_may_be_listed_any_more_it_is_all(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    with _server(Bucket(403, code, lists=False)) as url, pytest.raises(StorageRefusedError, match=code) as caught:
        _aside(monkeypatch, url).read("a")
    assert not isinstance(caught.value, ObjectRefusedError)


def test_a_refused_object_that_no_listing_shows_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 refuses to say whether something is there to whom it doesn't let list the whole bucket."""
    with _server(Bucket(403, "AccessDenied", holds="prefix/abc")) as url, pytest.raises(FileNotFoundError):
        _aside(monkeypatch, url).read("a")


@pytest.mark.parametrize("name", ["a.png", "a.tar", "a.parquet"])
@pytest.mark.parametrize(
    ("code", "reason"), [("InvalidObjectState", Reason.ARCHIVED), ("AccessDenied", Reason.ACCESS_DENIED)]
)
def test_a_refused_image_or_shard_is_one_row(
    monkeypatch: pytest.MonkeyPatch, name: str, code: str, reason: Reason
) -> None:
    with _server(Bucket(403, code, holds=f"prefix/{name}"), heads=True) as url:
        store = _aside(monkeypatch, url)
        storage: dict[str, Any] = {"endpoint_url": url, "region": "us-east-1"}
        source = SourceSettings.model_validate({"uri": store.uri(), "storage": storage})
        entry = ObjectEntry(name, 5000, "")
        ((row, problem),) = read_images(store, source, entry)
        assert row["image_id"] == name and row["shard"] == ("" if name == "a.png" else name)
        assert isinstance(problem, ItemError) and problem.reason == reason
        assert ("fdi retry" if name == "a.png" else "another output") in problem.detail
        with pytest.raises(ItemError, match=reason):
            read_image(store, row | {"row": 0, "length": 1})
        if name != "a.png":
            assert contents(store, source, entry).images == [(name, 0)]


def test_credentials_that_expire_in_the_middle_stop_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with _server(Bucket(400, "ExpiredToken")) as url, pytest.raises(StorageRefusedError, match="renew"):
        store = _aside(monkeypatch, url)
        list(read_images(store, SourceSettings(uri=store.uri()), ObjectEntry("a.png", 5, "")))
