"""The fuzzer notices what it is there to notice; and a little of it runs with every test."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile import fuzz
from tests.hostile.child import CRASH, HANG, UNEXPECTED, Child
from tests.hostile.mutate import MAX_BYTES, mutate

SEEDS = fuzz.seeds()

# A reader that does what the input says.
_READER = """
import os, signal, time
from tests.hostile.child import serve
def read(data):
    print("a library's chatter")
    if data == b"die": os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"sleep": time.sleep(60)
    if data == b"raise": raise struct.error("an escape")
import struct
serve(read)
"""


def test_a_crash_a_hang_and_an_exception_are_told_apart_and_the_next_input_is_read() -> None:
    with Child([sys.executable, "-c", _READER], most_seconds=1.0) as child:
        assert child.run(b"fine") == ("", "")
        for data, verdict, told in (
            (b"die", CRASH, "exit -11"),
            (b"sleep", HANG, ""),
            (b"raise", UNEXPECTED, "escape"),
        ):
            found, text = child.run(data)
            assert found == verdict and told in text
            assert child.run(b"x" * 200_000) == ("", "")


def test_an_offender_is_stored_and_can_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz.keep(tmp_path, UNEXPECTED, fuzz.IMAGE + b"text", "Traceback\nstruct.error: an escape")
    (offender,) = tmp_path.glob("unexpected-exception-" + "?" * 16)
    assert "escape" in offender.with_suffix(".txt").read_text()
    assert fuzz.main(["--replay", str(offender)]) == 0

    def breaks(data: bytes) -> None:
        raise IndexError(len(data))

    monkeypatch.setattr(fuzz, "read", breaks)
    with pytest.raises(IndexError, match="5"):
        fuzz.main(["--replay", str(offender)])


def test_mutations_are_many_small_and_repeatable() -> None:
    data = SEEDS[0][1:]
    found = [mutate(data, random.Random(number), [data]) for number in range(300)]
    assert found == [mutate(data, random.Random(number), [data]) for number in range(300)]
    assert len(set(found)) > 280 and max(map(len, found)) <= MAX_BYTES


@settings(max_examples=300, deadline=None)
@given(seed=st.sampled_from(SEEDS), number=st.integers(0, 2**32))
def test_a_mutated_file_is_read_or_refused(seed: bytes, number: int) -> None:
    fuzz.read(fuzz.mutated(seed, random.Random(number), [data[1:] for data in SEEDS[:40]]))


@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from([fuzz.TAR, fuzz.PARQUET]), number=st.integers(0, 2**32), data=st.data())
def test_a_mutated_shard_is_listed_or_refused(kind: bytes, number: int, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from([seed for seed in SEEDS if seed[:1] == kind]))
    fuzz.read(fuzz.mutated(seed, random.Random(number), [seed[1:] for seed in SEEDS if seed[:1] == kind]))
