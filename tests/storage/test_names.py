"""Names are made harmless and unique in the same way every time."""

from __future__ import annotations

import pytest

from fdi_lib.storage.names import harmless, plain, unique


@pytest.mark.parametrize(
    ("name", "expected"), [("./a//b.png", "a/b.png"), ("a/b.png", "a/b.png"), ("../a", "../a"), ("/a", "/a")]
)
def test_plain(name: str, expected: str) -> None:
    assert plain(name) == expected


def test_harmless() -> None:
    assert harmless("a/b.png") == "a/b.png"
    assert harmless("../b.png").startswith("unsafe-") and "/" not in harmless("../b.png")
    assert harmless("../b.png") == harmless("../b.png") != harmless("/b.png")


def test_unique() -> None:
    taken: set[str] = set()
    assert [unique("a.b/c.png", taken) for _ in range(3)] == ["a.b/c.png", "a.b/c~2.png", "a.b/c~3.png"]
    assert [unique("x", taken) for _ in range(2)] == ["x", "x~2"]
