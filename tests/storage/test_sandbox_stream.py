"""What the sandbox streams comes in order and once, up to where the child ends; the parent alone reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdi_lib.errors import ItemError, StorageOutageError
from fdi_lib.storage import sandbox as module
from fdi_lib.storage.sandbox import Sandbox
from tests import sandboxed

FILE = bytes(range(200))


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox()
    yield made
    made.close()


def read(offset: int, length: int) -> bytes:
    return FILE[offset : offset + length]


def until_it_ends(sandbox: Sandbox, then: str = "", timeout_s: float = 20) -> tuple[list[int], str]:
    """What came, and the reason for the end."""
    found = []
    try:
        for told, (array,) in sandbox.stream(sandboxed.numbers, read, timeout_s, upto=5, then=then):
            assert array.tolist() == [told["number"]]
            found.append(told["number"])
    except ItemError as error:
        return found, f"{error.reason}: {error.detail}"
    return found, ""


@pytest.mark.parametrize(
    ("then", "end"),
    [
        ("", ""),
        ("fail", "truncated: as the reader said"),
        ("stumble", "unreadable: IndexError at sandboxed.py:"),
        ("hang", "timeout: not decoded within 1 s"),
        ("crash", "decoder_died: its decoder died of SIGSEGV, twice"),
    ],
)
def test_all_that_came_before_the_end_comes_once(sandbox: Sandbox, then: str, end: str) -> None:
    found, said = until_it_ends(sandbox, then, timeout_s=1 if then == "hang" else 20)
    assert found == [0, 1, 2, 3, 4] and said.startswith(end)
    assert until_it_ends(sandbox) == ([0, 1, 2, 3, 4], "")


def test_a_child_that_died_once_goes_on_where_it_was(sandbox: Sandbox, tmp_path: Path) -> None:
    marker = tmp_path / "crash once"
    marker.touch()
    assert until_it_ends(sandbox, str(marker)) == ([0, 1, 2, 3, 4], "") and not marker.exists()


def test_waiting_for_the_store_or_the_taker_is_no_hang(sandbox: Sandbox) -> None:
    list(sandbox.stream(sandboxed.numbers, read, 20, upto=1))  # started

    def slow(offset: int, length: int) -> bytes:
        time.sleep(0.7)
        return read(offset, length)

    found = []
    for told, _ in sandbox.stream(sandboxed.numbers, slow, 0.5, upto=2):
        time.sleep(0.7)
        found.append(told["number"])
    assert found == [0, 1]


def test_what_the_store_says_stays_as_it_was_said(sandbox: Sandbox) -> None:
    def dead(offset: int, length: int) -> bytes:
        raise StorageOutageError("no answer")

    with pytest.raises(StorageOutageError, match="no answer"):
        list(sandbox.stream(sandboxed.numbers, dead, 20, upto=5))
    assert until_it_ends(sandbox) == ([0, 1, 2, 3, 4], "")


def test_streams_at_the_same_time_and_left_in_the_middle_do_not_meet() -> None:
    one, two = (module.stream(sandboxed.numbers, read, 20, upto=5) for _ in range(2))
    assert [next(stream)[0]["number"] for stream in (one, two, two, one)] == [0, 0, 1, 1]
    one.close()
    assert [told["number"] for told, _ in two] == [2, 3, 4]
    assert [told["number"] for told, _ in module.stream(sandboxed.numbers, read, 20, upto=5)] == [0, 1, 2, 3, 4]
