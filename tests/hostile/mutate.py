"""Damage to files as a fuzzer makes it, with checksums put right afterwards, so that it gets past the first check."""

from __future__ import annotations

import random
import struct
import zlib

from fdi_lib.storage.headers import PNG_SIGNATURE

MAX_BYTES = 1 << 17
_NUMBERS = [0, 1, 2, 7, 8, 255, 256, 4095, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
_TAR_BLOCK = 512


def mutate(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return ``data`` with a few changes; parts of ``others`` may get into it. The same arguments, the same bytes."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        if not found:
            break
        rng.choice(_CHANGES)(found, rng, others)
    del found[MAX_BYTES:]
    if rng.random() < 0.8:
        found = _put_right(found)
    return bytes(found)


def _span(found: bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(found))
    return start, min(len(found), start + rng.choice((1, 2, 4, 16, 100, 3000)))


def _turn(found: bytearray, rng: random.Random, others: list[bytes]) -> None:
    found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)


def _number(found: bytearray, rng: random.Random, others: list[bytes]) -> None:
    """An extreme number in place of another, of any width and byte order, sooner in the head than elsewhere."""
    width, number = rng.choice((1, 2, 4, 8)), rng.choice(_NUMBERS)
    at = rng.randrange(min(len(found), rng.choice((64, 1024, MAX_BYTES))))
    if rng.random() < 0.3:  # directories tend to lie at the end
        at = len(found) - 1 - rng.randrange(min(len(found), 400))
    raw = (number % 2 ** (8 * width)).to_bytes(width, rng.choice(("big", "little")))  # type: ignore[arg-type]
    found[at : at + width] = raw


def _remove(found: bytearray, rng: random.Random, others: list[bytes]) -> None:
    start, end = _span(found, rng)
    del found[start:end]


def _repeat(found: bytearray, rng: random.Random, others: list[bytes]) -> None:
    start, end = _span(found, rng)
    found[start:start] = found[start:end] * rng.choice((1, 2, 50))


def _noise(found: bytearray, rng: random.Random, others: list[bytes]) -> None:
    start, end = _span(found, rng)
    found[start:end] = rng.choice((bytes(end - start), b"\xff" * (end - start), rng.randbytes(end - start)))


def _splice(found: bytearray, rng: random.Random, others: list[bytes]) -> None:
    other = rng.choice(others)
    if other:
        start, end = _span(bytearray(other), rng)
        at = rng.randrange(len(found))
        found[at : at + rng.choice((0, end - start))] = other[start:end]


def _cut(found: bytearray, rng: random.Random, others: list[bytes]) -> None:
    del found[rng.randrange(len(found)) :]


_CHANGES = (_turn, _turn, _number, _number, _number, _remove, _repeat, _noise, _splice, _cut)


def _put_right(found: bytearray) -> bytearray:
    if found.startswith(PNG_SIGNATURE):
        _put_right_png(found)
    elif found[257:262] == b"ustar":
        _put_right_tar(found)
    return found


def _put_right_png(found: bytearray) -> None:
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(found):
        end = at + 12 + int.from_bytes(found[at : at + 4], "big")
        if end > len(found):
            return
        struct.pack_into(">I", found, end - 4, zlib.crc32(found[at + 4 : end - 4]))
        at = end


def _put_right_tar(found: bytearray) -> None:
    for at in range(0, len(found) - _TAR_BLOCK + 1, _TAR_BLOCK):
        block = found[at : at + _TAR_BLOCK]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            found[at + 148 : at + 156] = b"%06o\0 " % sum(block)
