"""What a cluster may be asked for, and what is said of one that isn't there: quickly, on one line."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import ray
from ray.data import DataContext

from fdi_lib.errors import CapacityError, FDIError
from jobs.capacity import Amount
from jobs.pool import Rest, _data_context, _expect_answer, _expect_room


class Server:
    """Accepts connections on loopback, and answers each with the same bytes, or never."""

    def __init__(self, answer: bytes | None) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._held: list[socket.socket] = []
        threading.Thread(target=self._serve, args=(answer,), daemon=True).start()

    def _serve(self, answer: bytes | None) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # closed
                return
            self._held.append(connection)
            if answer is not None:
                connection.recv(64)
                connection.sendall(answer)

    def close(self) -> None:
        with suppress(OSError):  # a thread that waits in accept() would keep it open
            self._listening.shutdown(socket.SHUT_RDWR)
        for each in (self._listening, *self._held):
            each.close()


@pytest.fixture
def silent() -> Iterator[Server]:
    server = Server(None)
    yield server
    server.close()


def refused(address: str, wait_s: float = 5.0) -> str:
    started = time.monotonic()
    with pytest.raises(FDIError) as error:
        _expect_answer(address, wait_s)
    assert error.value.exit_code == 1 and time.monotonic() - started < 10
    message = str(error.value)
    assert "\n" not in message and f"RAY_ADDRESS = {address}" in message and "unset it" in message
    return message


def test_nobody_listens(silent: Server) -> None:
    silent.close()
    for prefix in ("", "ray://"):
        assert "refused" in refused(prefix + silent.address)


def test_nobody_answers(silent: Server) -> None:
    assert "no answer within 0 s" in refused(silent.address, 0.3)


def test_something_else_answers() -> None:
    server = Server(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert "something else than Ray" in refused(server.address)
    server.close()


def test_no_such_port_and_no_such_host() -> None:
    refused("127.0.0.1:99999")
    refused("no-such-host.invalid:6379")


def test_what_speaks_http2_and_what_is_no_address_pass() -> None:
    server = Server(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
    for address in (server.address, f"ray://{server.address}", "auto", "local"):
        _expect_answer(address, 5.0)
    server.close()


def test_ray_itself_answers(ray_local: None) -> None:
    import ray

    _expect_answer(ray.get_runtime_context().gcs_address, 5.0)


@pytest.mark.usefixtures("ray_local")
def test_ray_data_pauses_in_every_turn_of_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[object] = []
    monkeypatch.setattr(Rest, "on_execution_step", lambda self, executor: turns.append(executor))
    with DataContext.current(_data_context(Amount(2.0, 0.0, 1e9))):
        assert sorted(row["id"] for row in ray.data.range(4).map(lambda row: row).iter_rows()) == [0, 1, 2, 3]
    assert turns


def test_this_machine_is_promised_to_each_pool_but_not_beyond_what_it_has() -> None:
    here, one = Amount(2.0, 0.0, 4.0 * 2**30), Amount(1.0, 1.0, 4.0 * 2**30)
    _expect_room([(one, 1), (one, 1), (one, 1), (Amount(900.0), 0)], here)  # slow, not refused; GPUs are Ray's to count
    _expect_room([(one, 2)], here)
    for worker, count in ((Amount(900.0), 1), (Amount(1.0, 0.0, 2.0**50), 1), (one, 3), (Amount(1.0), 3)):
        with pytest.raises(
            CapacityError, match=r"this machine \(2 CPUs, 4.0 GiB\); lower min, cpus or memory_gib"
        ) as no:
            _expect_room([(one, 1), (worker, count)], here)
        assert no.value.exit_code == 2
