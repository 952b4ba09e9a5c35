"""YAML 1.2 scalars, and where each key was written."""

from __future__ import annotations

import pytest

from fdi_lib.manifest.yamltree import override, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [("no", "no"), ("1e-4", 1e-4), ("010", 10), ("1:30", "1:30"), ("2026-11-01", "2026-11-01"), ("~", None), ("", None),
     ("true", True), (".5", 0.5), ("-3", -3), ("s3://a/b", "s3://a/b"), ('"4"', "4"), ("[1, a]", [1, "a"])],
)  # fmt: skip
def test_scalars_are_the_same_in_file_and_override(text: str, value: object) -> None:
    assert parse(f"a: {text}\n", "f").data["a"] == value
    tree = parse("a: 0\n", "f")
    override(tree, f"a={text}")
    assert tree.data["a"] == value and type(tree.data["a"]) is type(value)


def test_lines() -> None:
    tree = parse("a:\n  b: 1\n  c: [1,\n    2]\n", "f")
    assert tree.lines == {("a",): 1, ("a", "b"): 2, ("a", "c"): 3, ("a", "c", 0): 3, ("a", "c", 1): 4}
    assert tree.error(("a", "c", 1), "p").line == 4
    assert tree.error(("a", "zzz"), "p").line == 1
    override(tree, "a.c=3")
    assert tree.error(("a", "c"), "p").file == "command line"
    assert tree.error(("a", "b"), "p").file == "f"
