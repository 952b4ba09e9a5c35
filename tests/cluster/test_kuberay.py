"""The RayJob against KubeRay's own CustomResourceDefinitions, closed so that a misspelt key is an error."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
RAYJOB = ROOT / "cluster/kuberay/rayjob.yaml"
KUBERNETES = "1.34"


def closed(schema: Any) -> Any:
    """Return an OpenAPI schema in which an object admits no key that it does not name.

    The API server prunes unknown keys silently; here they are errors. Free-form maps and preserved fields stay open.
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    is_object = schema.get("type") == "object" and isinstance(schema.get("properties"), dict)
    if is_object and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


@pytest.fixture(scope="module")
def crd() -> jsonschema.Draft202012Validator:
    folder = os.environ.get("KUBERAY_CRDS")
    if not folder:
        pytest.skip("KUBERAY_CRDS names no folder with KubeRay's CRDs: cluster/kuberay is not checked against them")
    definition = yaml.load((Path(folder) / "rayjobs.yaml").read_text(), Loader=yaml.CSafeLoader)
    [version] = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    # A CRD leaves metadata to the API server.
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    names = {"name": {"type": "string"}, "namespace": {"type": "string"}, "labels": labels, "annotations": labels}
    schema["properties"]["metadata"] = {"type": "object", "properties": names, "additionalProperties": False}
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture
def rayjob() -> dict[str, Any]:
    return yaml.safe_load(RAYJOB.read_text())


def test_rayjob_is_valid(rayjob: dict[str, Any], crd: jsonschema.Draft202012Validator) -> None:
    crd.validate(rayjob)


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("spec",), "ttlSecondAfterFinished", 600),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0), "minReplica", 1),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec"), "nodeSelectors", {"a": "b"}),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0), "resource", {}),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0), "maxReplicas", "eight"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"), "num-cpus", 0),
        (("metadata",), "label", {}),
    ],
)
def test_a_typo_is_caught(
    rayjob: dict[str, Any], crd: jsonschema.Draft202012Validator, path: tuple[Any, ...], key: str, value: Any
) -> None:
    broken = part = copy.deepcopy(rayjob)
    for step in path:
        part = part[step]
    part[key] = value
    with pytest.raises(jsonschema.ValidationError, match=r"Additional properties|is not of type"):
        crd.validate(broken)


def pods(rayjob: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    workers = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **workers}


def test_pods_are_valid_kubernetes(rayjob: dict[str, Any]) -> None:
    for name, template in pods(rayjob).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_what_keeps_a_run_safe(rayjob: dict[str, Any]) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert rayjob["spec"]["shutdownAfterJobFinishes"] is True
    for template in pods(rayjob).values():
        [container] = template["spec"]["containers"]
        assert "env" not in container, "credentials come from a service account or a secret, never inline"
        assert template["spec"]["serviceAccountName"] == "fdi-restore"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        spec = group["template"]["spec"]
        drain = " ".join(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"])
        seconds = int(drain.rsplit("sleep ", 1)[1])
        assert f"--deadline-remaining-seconds {seconds} " in drain
        assert spec["terminationGracePeriodSeconds"] > seconds
