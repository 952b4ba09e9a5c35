"""The S3 store against servers that refuse, break off, or are not there; none of them is a real one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fdi_lib.errors import ItemError, StorageOutageError, StorageRefusedError
from fdi_lib.manifest.settings import StorageSettings
from fdi_lib.storage.s3 import CONFIG, S3Store
from fdi_lib.storage.store import Store


def _aside(monkeypatch: pytest.MonkeyPatch, endpoint_url: str) -> Store:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    return Store.open("s3://bucket/prefix", StorageSettings(endpoint_url=endpoint_url, region="us-east-1"))


def test_a_refused_connection_is_an_outage_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    store = _aside(monkeypatch, f"http://127.0.0.1:{port}")
    began = time.monotonic()
    with pytest.raises(StorageOutageError, match="s3://bucket/prefix"):
        store.check()
    assert time.monotonic() - began < 60


def test_a_silent_server_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        store = _aside(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}")
        assert isinstance(store, S3Store)
        store.config = {**CONFIG, "read_timeout": 0.2, "retries": {"total_max_attempts": 1}}
        with pytest.raises(StorageOutageError):
            store.read("a")


@contextmanager
def _server(answer: Callable[[BaseHTTPRequestHandler, int], None], heads: bool = False) -> Iterator[str]:
    """A server whose ``answer`` gets each GET, PUT or DELETE (and HEAD, if it wants those) and its number, from 1."""
    count = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            nonlocal count
            count += 1
            self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer(self, count)

        do_PUT = do_DELETE = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    if heads:
        Handler.do_HEAD = Handler.do_GET  # type: ignore[attr-defined]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _say(request: BaseHTTPRequestHandler, status: int, body: bytes = b"", length: int | None = None) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
    request.close_connection = True


def _error(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
    _say(request, status, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode())


def test_a_throttling_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with _server(lambda r, n: _error(r, 503, "SlowDown") if n < 3 else _say(r, 200, b"bytes")) as url:
        assert _aside(monkeypatch, url).read("a") == b"bytes"


def test_a_broken_server_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    with _server(lambda r, n: _error(r, 500, "InternalError")) as url:
        store = _aside(monkeypatch, url)
        assert isinstance(store, S3Store)
        store.config = {**CONFIG, "retries": {"total_max_attempts": 2}}
        with pytest.raises(StorageOutageError, match="InternalError"):
            store.create("a", b"")


def test_a_cut_answer_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with _server(lambda r, n: _say(r, 200, b"by", length=5) if n < 3 else _say(r, 200, b"bytes")) as url:
        assert _aside(monkeypatch, url).read("a") == b"bytes"


def test_a_create_that_meets_another_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with _server(lambda r, n: _error(r, 409, "ConditionalRequestConflict") if n == 1 else _say(r, 200)) as url:
        assert _aside(monkeypatch, url).create("a", b"data")


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (403, "AccessDenied", "allow s3:GetObject"),
        (501, "NotImplemented", "If-None-Match"),
        (301, "PermanentRedirect", "region"),
    ],
)
def test_a_refusal_names_its_remedy(monkeypatch: pytest.MonkeyPatch, status: int, code: str, remedy: str) -> None:
    with _server(lambda r, n: _error(r, status, code)) as url, pytest.raises(StorageRefusedError, match=remedy):
        _aside(monkeypatch, url).create("a", b"")


def test_a_wrong_endpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageRefusedError, match="endpoint"):
        _aside(monkeypatch, "not a url").check()


def test_hostile_names_never_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    store = _aside(monkeypatch, "http://127.0.0.1:9")
    for name in ("../x", "/x", "a//b", "a/./b", "", "a\0"):
        with pytest.raises(ItemError, match="unsafe_name"):
            store.read(name)
