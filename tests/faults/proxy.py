"""A proxy on loopback that stands before the S3 server, writes down every request, and breaks what a rule says.

Requests reach the server as they came, header for header, so that their signatures stay valid. A rule is any function
of a :class:`Request` that returns a :class:`Fault`, or None for no harm. Does NOT know S3, but for the look of its
errors.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds
_NO_BODY = (204, 304)


@dataclass(frozen=True)
class Request:
    """What a rule is asked about.

    Attributes:
        number: of all requests, from 1.
        method: of HTTP.
        target: path and query, as they came.
        seen: how often the same method and target came before: 0 the first time.
    """

    number: int
    method: str
    target: str
    seen: int

    @property
    def bucket(self) -> str:
        """First segment of the path."""
        return self.target.lstrip("/").split("?")[0].partition("/")[0]

    @property
    def key(self) -> str:
        """The object's key, decoded; empty for a request about the bucket, a listing say."""
        return unquote(urlsplit(self.target).path.lstrip("/").partition("/")[2])


@dataclass(frozen=True)
class Fault:
    """What becomes of a request. Several at once are possible.

    Attributes:
        status: answered with this error at once, and never forwarded; 0: forwarded.
        code: S3's name for it; by default the usual one.
        delay_s: pause before anything else.
        reset: the connection is reset ``before`` the request reaches the server, or ``after``, when it was carried out.
        cut: the answer ends after this share of its body, though its length promised more.
        trickle_s: pause after each 64th part of the body.
    """

    status: int = 0
    code: str = ""
    delay_s: float = 0.0
    reset: Literal["", "before", "after"] = ""
    cut: float | None = None
    trickle_s: float = 0.0


@dataclass(frozen=True)
class Record:
    """A request, what the server said (None: it never got it, or was gone), and what the client was told (None)."""

    request: Request
    headers: dict[str, str]
    upstream: int | None
    answered: int | None
    fault: Fault | None


Rule = Callable[[Request], Fault | None]


def share_of(fraction: float, fault: Fault, seed: int = 0) -> Rule:
    """A rule that harms a fraction of the requests. Which ones follows from seed, method, key and repetition alone."""

    def rule(request: Request) -> Fault | None:
        text = f"{seed} {request.method} {request.key} {request.seen}"
        drawn = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") / 2**32
        return fault if drawn < fraction else None

    return rule


def first_of(*rules: Rule) -> Rule:
    """The first fault that any of the rules finds."""
    return lambda request: next((fault for rule in rules if (fault := rule(request))), None)


class FaultProxy:
    """The proxy; use as a context manager.

    Args:
        upstream: URL of the server.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.rule: Rule = lambda request: None
        self.records: list[Record] = []
        self._seen: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> FaultProxy:
        self.on()
        return self

    def __exit__(self, *_: object) -> None:
        self.off()

    def on(self) -> None:
        """Listen, at the same port as before."""
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", self._port), handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def off(self) -> None:
        """Reset every connection and refuse new ones. It waits for the server's thread; connections have their own."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            reset(connection)

    def forget(self) -> None:
        """Begin anew: no rule, no records, nothing seen."""
        with self._lock:
            self.rule = lambda request: None
            self.records = []
            self._seen.clear()

    def ask(self, method: str, target: str) -> tuple[Request, Fault | None]:
        """Number a request and let the rule judge it."""
        with self._lock:
            number = sum(self._seen.values()) + 1
            request = Request(number, method, target, self._seen[method, target])
            self._seen[method, target] += 1
        return request, self.rule(request)

    def note(self, record: Record) -> None:
        """Write a request down."""
        with self._lock:
            self.records.append(record)

    def connected(self, connection: socket.socket, there: bool) -> None:
        """Know which connections are open."""
        with self._lock:
            (self._open.add if there else self._open.discard)(connection)


class _Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.proxy.connected(self.connection, True)

    def finish(self) -> None:
        self.proxy.connected(self.connection, False)
        super().finish()

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):  # the client went away, or the proxy was switched off
            self.close_connection = True

    def _serve(self) -> None:
        assert "Transfer-Encoding" not in self.headers, "a request of unknown length is not forwarded"
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request, fault = self.proxy.ask(self.command, self.path)
        does = fault or Fault()
        time.sleep(does.delay_s)
        answer = _Answer(does.status, {"Content-Type": "application/xml"}, _error(does.status, does.code))
        upstream: int | None = None
        gone = does.reset == "before"
        if not gone and not does.status:
            try:
                answer = self._forward(body)
                upstream = answer.status
            except (OSError, http.client.HTTPException):  # the server is gone
                gone = True
        gone = gone or does.reset == "after"
        # Written down before anybody hears of it: whoever has the answer finds the record, too.
        headers = dict(self.headers.items())
        self.proxy.note(Record(request, headers, upstream, None if gone else answer.status, fault))
        if gone:
            reset(self.connection)
            self.close_connection = True
        else:
            self._say(answer, does)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _forward(self, body: bytes) -> _Answer:
        server = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        try:
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):  # between neighbours only, and never signed
                    server.putheader(name, value)
            server.endheaders(body or None)
            answer = server.getresponse()
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")}
            return _Answer(answer.status, headers, answer.read())
        finally:
            server.close()

    def _say(self, answer: _Answer, does: Fault) -> None:
        status, headers, body = answer
        self.send_response_only(status)
        if self.command != "HEAD" and status not in _NO_BODY:
            headers = {k: v for k, v in headers.items() if k.lower() != "content-length"}
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if does.cut is not None and body:
            self.wfile.write(body[: int(len(body) * does.cut)])
            self.close_connection = True
            return
        pieces = max(1, len(body) // 64) if does.trickle_s else max(1, len(body))
        for start in range(0, len(body), pieces):
            self.wfile.write(body[start : start + pieces])
            time.sleep(does.trickle_s)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def reset(connection: socket.socket) -> None:
    """Close a connection with a reset, even where other objects still hold it."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        connection.shutdown(socket.SHUT_RD)  # wakes the thread that reads it
        os.close(connection.detach())
    except OSError:
        pass  # it was closed before


def _error(status: int, code: str) -> bytes:
    code = code or {503: "SlowDown", 500: "InternalError", 429: "TooManyRequests"}.get(status, "Error")
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>planned</Message></Error>".encode()
