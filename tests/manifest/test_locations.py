"""Places: what lies inside what, by path segment; what carries a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdi_lib.manifest.locations import has_secret, is_inside, local_path, redact


@pytest.mark.parametrize(
    ("inner", "outer", "inside"),
    [
        ("/a/b", "/a", True),
        ("/a", "/a", True),
        ("/a", "/a/b", False),
        ("/ab", "/a", False),
        ("/a/../c", "/a", False),
        ("file:///a/b%20c", "/a/b c", True),
        ("s3://x/masters/out", "s3://x/masters/", True),
        ("s3://x/masters2", "s3://x/masters", False),
        ("s3://y/masters/out", "s3://x/masters", False),
        ("/x/masters/out", "s3://x/masters", False),
    ],
)
def test_is_inside(inner: str, outer: str, inside: bool) -> None:
    assert is_inside(inner, outer) is inside


def test_links_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "masters").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "masters")
    assert is_inside(str(tmp_path / "link" / "out"), str(tmp_path / "masters"))


def test_endpoints_are_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://one:1/")
    assert not is_inside("s3://x/a/b", "s3://x/a", "http://two:2", None)
    assert is_inside("s3://x/a/b", "s3://x/a", "http://one:1", None)


def test_secrets() -> None:
    for uri in ("s3://k:v@b/x", "https://h/x?sig=1", "https://h/x?a=1&X-Amz-Credential=1", "s3://b/x#access_token=1"):
        assert has_secret(uri), uri
        assert "@b" not in redact(uri).replace("***@b", "") and "=1" not in redact(uri)
    for uri in ("s3://b/x", "/photos/what?/a.jpg", "s3://b/a@b/c", "https://h/x?version=2", "org/model@main"):
        assert not has_secret(uri), uri


def test_local_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_path("a/b") == str(tmp_path / "a/b")
    assert local_path("file:///a%20b") == "/a b"
    assert local_path("s3://a/b") is None
