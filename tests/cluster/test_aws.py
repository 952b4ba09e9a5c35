"""The `ray up` file through Ray's own preparation and schema; no call to a cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster/aws/cluster.yaml").read_text())


def test_cluster_is_valid(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)
    # Whatever Ray filled in, nothing is installed at start: the image is complete.
    assert prepared["head_setup_commands"] == prepared["worker_setup_commands"] == []


def test_a_typo_is_caught(config: dict[str, Any]) -> None:
    config["idle_timeout_minute"] = config.pop("idle_timeout_minutes")
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        validate_config(prepare_config(config))


def test_head_works_not_and_workers_are_bounded(config: dict[str, Any]) -> None:
    nodes = config["available_node_types"]
    head = nodes.pop(config["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    for node in nodes.values():
        assert node["min_workers"] <= node["max_workers"] <= config["max_workers"]
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_mounts_exist(config: dict[str, Any]) -> None:
    for local in config["file_mounts"].values():
        assert (ROOT / local).is_dir()
