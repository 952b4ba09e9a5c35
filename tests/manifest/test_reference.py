"""The page of manifest keys is the one that the settings would write."""

from __future__ import annotations

from pathlib import Path

from fdi_lib.manifest.reference import render


def test_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "manifest.md"
    assert page.read_text() == render(), "run: python -m fdi_lib.manifest.reference > docs/manifest.md"


def test_page_names_keys_bounds_and_defaults() -> None:
    page = render()
    assert "| `limits.max_failed_fraction` | `0.01` | number, >= 0, <= 1 |" in page
    assert "| `restore.steps` | `auto` | whole number, >= 1, <= 1000 or `auto` |" in page
