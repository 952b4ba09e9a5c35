"""Names are made harmless and unique in the same way every time."""

from __future__ import annotations

import pytest

from fdi_lib.errors import ItemError
from fdi_lib.storage.names import check_image_name, harmless, plain, unique
from fdi_lib.storage.store import check_name


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


def test_an_images_name_leaves_room_for_its_outputs() -> None:
    for name in ("s" * 240, "é" * 120, "/".join(["d" * 224] * 4)):
        assert check_image_name(name) == name
        assert check_name(f"{name}~2.tiff.json")
    for name in ("s" * 241, "é" * 121, "/".join(["d" * 225] * 4), "../a"):
        with pytest.raises(ItemError, match="unsafe_name"):
            check_image_name(name)
