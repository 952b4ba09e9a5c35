"""A user's mistakes: each names file, line, key, value and remedy, and never a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdi_lib.errors import ManifestError
from fdi_lib.manifest import RestoreManifest, TrainManifest, load_manifest

GOOD = "kind: restore\nsource: {uri: in}\noutput:\n  uri: out\n"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def _load(text: str, *overrides: str, kind: str | None = None):
        Path("m.yaml").write_text(text)
        return load_manifest("m.yaml", overrides, kind)

    return _load


def test_relative_paths_become_absolute(load, tmp_path: Path) -> None:
    manifest = load(GOOD)
    assert isinstance(manifest, RestoreManifest)
    assert manifest.source.uri == str(tmp_path / "in")
    assert manifest.output.uri == str(tmp_path / "out")


def test_overrides(load) -> None:
    manifest = load(
        GOOD,
        "restore.steps=4",
        "restore.start_t=0.5",
        "gates.enabled=false",
        "limits.timeout_s=1e2",
        "models.base=null",
    )
    assert (manifest.restore.steps, manifest.restore.start_t, manifest.gates.enabled) == (4, 0.5, False)
    assert (manifest.limits.timeout_s, manifest.models.base) == (100.0, None)
    assert load(GOOD, "output.uri=out: #1").output.uri.endswith("out: #1")  # a URI isn't parsed as YAML
    train = load("kind: train\ntask: noise\noutput: o\ndata: {uri: d}\n", "workers=[1, 8]", kind="train")
    assert isinstance(train, TrainManifest) and train.workers == (1, 8)


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        (GOOD + "restore:\n  stepz: 4\n", (), "m.yaml:6: restore.stepz: unknown key; did you mean restore.steps?"),
        (GOOD, ("tile_px=3",), "command line: tile_px: unknown key; did you mean restore.tile_px?"),
        (GOOD, ("restor.steps=3",), "command line: restor: unknown key; did you mean restore?"),
        (GOOD + "restore:\n  steps: '4'\n", (), "m.yaml:6: restore.steps = '4': must be a whole number or 'auto', not"),
        (GOOD, ("restore.steps=0",), "command line: restore.steps = '0': must be greater than or equal to 1 or 'auto'"),
        (GOOD + "source: {}\n", (), "m.yaml:5: source: written twice, first on line 2"),
        (GOOD, ("output.uri=in/x",), "command line: output.uri = 'in/x': lies inside source.uri"),
        (GOOD, ("source.uri=out/x",), "m.yaml:4: output.uri = 'out': contains source.uri"),
        (GOOD, ("output.image.format=jp2",), "this release can't write JPEG 2000"),
        (GOOD, ("models.preset=custom", "models.encoder=a/b"), "models.base: preset custom needs base"),
        (GOOD, ("models.base=a/b",), "models.base = 'a/b': preset compact brings its own base"),
        (GOOD, ("pools.classify.min=9",), "pools.classify.min = '9': min is larger than max; use at most 4"),
        (GOOD, ("pools.restore.gpus=1.5",), "pools.restore.gpus = '1.5': above 1 only whole numbers"),
        (GOOD, ("restore.overlap_px=512",), "restore.overlap_px = '512': more than half a tile; use at most 256"),
        (GOOD, ("source.uri=http://x/y",), "http:// is not supported; use a local path, file:// or s3://"),
        (GOOD, ("source.uri=s3://",), "names no bucket"),
        (GOOD, ("source.uri=s3://b/../c",), "'.' and '..' mean nothing in a key"),
        (GOOD, ("nonsense",), "command line: not KEY=VALUE; write restore.steps=4, for example"),
        (GOOD, ("source.uri.x=1",), "command line: source.uri.x: uri holds a value, not keys"),
        (GOOD + "limits: &a {wait_s: 1}\n", (), "m.yaml:5: not readable as YAML: anchors are not supported"),
        (GOOD + "limits: !!python/name:os.system x\n", (), "m.yaml:5: not readable as YAML: could not determine"),
        ("a: [1\nb: }", (), "m.yaml:2: not readable as YAML"),
        ("", (), "m.yaml: is empty"),
        ("- a\n", (), "m.yaml: is not a mapping"),
        ("a: 1\n", (), "m.yaml: kind: missing; start the file with kind: restore"),
        ("kind: restor\n", (), "m.yaml:1: kind = 'restor': unknown kind; use one of: restore"),
        ("kind: restore\n", (), "m.yaml: source: missing (and 1 more problem in this manifest)"),
    ],
)  # fmt: skip
def test_message(load, text: str, overrides: tuple[str, ...], expected: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load(text, *overrides)
    assert expected in str(caught.value)
    assert caught.value.exit_code == 2


def test_kind_of_another_command(load) -> None:
    with pytest.raises(ManifestError, match="this command takes a train manifest; run fdi restore"):
        load(GOOD, kind="train")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere\.yaml: no such manifest"):
        load_manifest(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(ManifestError, match="can't be read"):
        load_manifest(str(tmp_path))
    (tmp_path / "image.yaml").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ManifestError, match="UTF-8"):
        load_manifest(str(tmp_path / "image.yaml"))


@pytest.mark.parametrize(
    "override",
    [
        "source.uri=s3://AKIA:planted@bucket/x",
        "source.uri=s3://bucket/x?X-Amz-Signature=planted",
        "source.uri=s3://bucket/x?a=b&AWSAccessKeyId=planted",
        "output.uri=folder?token=planted",
        "source.url=s3://AKIA:planted@bucket/x",
        "source.storage.aws_secret_access_key=planted",
        "source.storage.endpoint_url=https://user:planted@host",
        "s3://AKIA:planted@bucket/x=1",
        "models.encoder=https://user:planted@host/model",
    ],
)
def test_secret_is_refused_and_never_repeated(load, override: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load(GOOD, override)
    assert "planted" not in str(caught.value)


def test_syntax_error_does_not_quote_the_file(load) -> None:
    with pytest.raises(ManifestError) as caught:
        load("kind: restore\nsource: {uri: 's3://a:planted@b'\n")
    assert "planted" not in str(caught.value)


def test_data_comes_from_the_environment(load, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "kind: evaluate\noutput: o\ndata: {kind: synthetic}\n"
    monkeypatch.delenv("FDI_DATA", raising=False)
    with pytest.raises(ManifestError, match=r"data\.uri: no data given; add data\.uri=FOLDER"):
        load(text)
    monkeypatch.setenv("FDI_DATA", "/pictures")
    assert load(text).data.uri == "/pictures"
