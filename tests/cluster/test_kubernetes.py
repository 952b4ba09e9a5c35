"""Core Kubernetes objects against Kubernetes' own schemas, strictly, and against one another."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster/kubernetes"
KUBERNETES = "1.34"


def load(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


OBJECTS = [(path.name, item) for path in sorted(FOLDER.glob("*.yaml")) for item in load(path.name)]


@pytest.mark.parametrize(("file", "item"), OBJECTS, ids=[f"{file}:{item['kind']}" for file, item in OBJECTS])
def test_object_is_valid(file: str, item: dict[str, Any]) -> None:
    kubernetes_validate.validate(item, KUBERNETES, strict=True)


def test_a_typo_is_caught() -> None:
    [cronjob] = load("cronjob.yaml")
    cronjob["spec"]["concurencyPolicy"] = cronjob["spec"].pop("concurrencyPolicy")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(cronjob, KUBERNETES, strict=True)


def test_names_fit_together() -> None:
    objects = {(item["kind"], item["metadata"]["name"]): item for _, item in OBJECTS}
    pod = objects["CronJob", "fdi-restore-nightly"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    rayjob = yaml.safe_load((ROOT / "cluster/kuberay/rayjob.yaml").read_text())
    job_pod = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]

    assert ("ServiceAccount", pod["serviceAccountName"]) in objects
    assert ("ServiceAccount", job_pod["serviceAccountName"]) in objects
    binding = objects["RoleBinding", "fdi-restore-starter"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": pod["serviceAccountName"]}]
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in objects
    assert f"rayjob {rayjob['metadata']['name']} " in pod["containers"][0]["command"][-1]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("", "get create"),  # none yet, or one that has just been made: then create is refused
        ("Running", "get create"),
        ("Complete", "get delete create"),
        ("Failed", "get delete create"),
    ],
)
def test_the_starter_removes_only_what_has_finished(tmp_path: Path, state: str, expected: str) -> None:
    [cronjob] = load("cronjob.yaml")
    [container] = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    kubectl, calls = tmp_path / "kubectl", tmp_path / "calls"
    kubectl.write_text(f'#!/bin/sh\necho "$1" >> {calls}\nif [ "$1" = get ]; then printf "%s" "{state}"; fi\n')
    kubectl.chmod(0o755)
    subprocess.run(container["command"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert calls.read_text().split() == expected.split()
