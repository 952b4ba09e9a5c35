"""The images: pinned base, the tested Ray, no root, and every copied path exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
RAY = re.search(r"^ray==(\S+)$", (ROOT / ".ci/constraints.txt").read_text(), re.MULTILINE)[1]  # type: ignore[index]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_dockerfile(name: str) -> None:
    text = (CLUSTER / name).read_text()
    lines = text.splitlines()
    [base] = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert base.startswith(f"rayproject/ray:{RAY}-py311-")
    assert [line for line in lines if line.startswith("USER ")] == ["USER ray"]

    ignored = (ROOT / ".dockerignore").read_text().split()
    for line in lines:
        if line.startswith("COPY "):
            *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
            for source in sources:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, source


def test_images_and_ray_agree_everywhere() -> None:
    for path in CLUSTER.rglob("*"):
        text = path.read_text() if path.is_file() else ""
        assert set(re.findall(r"fdi-restore:(\d\S*)-(?:cuda|cpu)", text)) <= {VERSION}, path
        assert set(re.findall(r"rayVersion: (\S+)", text)) <= {RAY}, path
