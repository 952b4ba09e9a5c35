"""What a cluster has, and what its autoscaler says that it may get: enough, not yet, or never."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import ray
from ray._raylet import GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, GCS_AUTOSCALER_STATE_NAMESPACE
from ray.core.generated.autoscaler_pb2 import ClusterConfig
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

from fdi_lib.errors import CapacityError, FDIError
from jobs.capacity import Amount, Capacity, possible, present
from jobs.pool import joined

GIB = 2.0**30


def test_amounts() -> None:
    have, need = Amount(4, 1, 10.0), Amount(1, 0.25, 3.0)
    assert have.holds(need) == 3 and (have - need * 3).holds(need) == 0
    assert need + need == need * 2


def test_a_share_of_a_gpu_is_one_of_a_single_device() -> None:
    assert Amount(8, 2).holds(Amount(1, 0.6)) == 2
    assert Amount(8, 2).holds(Amount(1, 0.5)) == 4
    assert Amount(8, 1.75).holds(Amount(1, 0.6)) == 2, "the rest of a device that something else has a quarter of"
    assert Amount(8, 0.75).holds(Amount(1, 0.25)) == 3
    assert Amount(8, 3).holds(Amount(1, 2)) == 1
    node = Capacity([Amount(8, 2, 8 * GIB)])
    assert node.shortage([(Amount(1, 0.6), 2)]) == ""
    assert node.shortage([(Amount(1, 0.6), 3)]).endswith("the nodes have room for 2")


def test_what_is_short_is_named() -> None:
    two = Capacity([Amount(4, 1, 8 * GIB), Amount(8, 0, 16 * GIB)])
    assert two.shortage([(Amount(8), 1), (Amount(4, 1), 1)]) == ""
    assert two.shortage([(Amount(1), 13)]).endswith("the cluster has 12 CPUs, 1 GPUs, 24.0 GiB")
    worker = "one worker needs 5 CPUs, 1 GPUs, 0.0 GiB on one node, the largest node has 4 CPUs, 1 GPUs, 8.0 GiB"
    assert two.shortage([(Amount(1), 1), (Amount(5, 1), 1)]) == worker


@pytest.fixture
def autoscaler(ray_local: None) -> Callable[..., None]:
    """Tell the cluster the limits of an autoscaler, as groups of (resources, most)."""
    names = {"key": GCS_AUTOSCALER_CLUSTER_CONFIG_KEY.encode(), "namespace": GCS_AUTOSCALER_STATE_NAMESPACE.encode()}

    def tell(*groups: tuple[dict[str, int], int]) -> None:
        config = ClusterConfig()
        for resources, most in groups:
            config.node_group_configs.add(resources=resources, max_count=most)
        _internal_kv_put(value=config.SerializeToString(), overwrite=True, **names)

    yield tell
    _internal_kv_del(**names)


def test_what_an_autoscaler_may_never_add_is_refused_at_once(autoscaler: Callable[..., None]) -> None:
    assert possible(present()) is None  # nobody has said anything
    autoscaler(({"CPU": 16, "GPU": 1, "memory": 64 * 2**30}, 3))
    started = time.monotonic()
    with (
        pytest.raises(CapacityError, match=r"need 1 CPUs, 4 GPUs.* has .* 3 GPUs.* raise its limits"),
        joined([(Amount(1, 4), 1)], 60.0),
    ):
        pass
    with (
        pytest.raises(CapacityError, match=r"one worker needs .* 2 GPUs.* on one node.* raise its limits"),
        joined([(Amount(1, 2), 1)], 60.0),
    ):
        pass
    assert time.monotonic() - started < 30


def test_what_it_may_add_is_waited_for(autoscaler: Callable[..., None]) -> None:
    autoscaler(({"CPU": 16, "GPU": 2}, 2), ({"CPU": 4}, 0))
    for one, count in ((Amount(1, 1), 4), (Amount(1, 2), 1)):
        with pytest.raises(FDIError, match="add nodes") as error, joined([(one, count)], 0.5):
            pass
        assert error.value.exit_code == 1
    autoscaler(({"CPU": 16, "GPU": 2}, -1))  # without end
    with pytest.raises(FDIError, match="add nodes"), joined([(Amount(1, 1), 400)], 0.5):
        pass
    assert ray.is_initialized()
