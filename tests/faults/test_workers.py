"""Workers, nodes and heads that go away, and a disk that is full: the job goes on, or ends and is resumed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from fdi_lib.core.routing import TRIES
from fdi_lib.storage.attempts import suspects
from tests.faults.world import IMAGES, World, until
from tests.session import Session

_ACTORS = (b"ray::MapWorker", b"ray::RestoreActor")  # in the order in which they start; they live long
_TASKS = (b"ray::Map", b"ray::copy_images")  # gone before they are seen, sometimes
_BIG_VIEWS = {"FDI_TEST_VIEW_PX": "512"}  # 4 MB an image, more than the object store of the test holds


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, and two nodes."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            made.add_node(num_cpus=2, memory=2 * 2**30)
        yield made
    finally:
        made.shutdown()


def address(cluster: Cluster) -> dict[str, str]:
    return {"RAY_ADDRESS": cluster.address}


def kill_one(driver: Session, rng: random.Random, kind: bytes) -> bool:
    pids = driver.pids(kind)
    if pids:
        driver.kill([rng.choice(pids)])
    return bool(pids)


def test_workers_of_every_kind_may_be_killed(tmp_path: Path, undisturbed: World) -> None:
    world, rng = World(undisturbed.source, tmp_path / "out"), random.Random(5)
    with world.driver() as driver:
        for kind in _ACTORS:
            until(lambda kind=kind: kill_one(driver, rng, kind), driver)
        for kind in (*_TASKS, _ACTORS[-1]):
            time.sleep(rng.uniform(0.2, 1.0))
            kill_one(driver, rng, kind)
        assert driver.summary()["images"] == IMAGES
    world.check_like(undisturbed)


@pytest.mark.slow
def test_a_node_may_be_lost(tmp_path: Path, undisturbed: World, cluster: Cluster) -> None:
    world = World(undisturbed.source, tmp_path / "out")
    with world.driver(address(cluster)) as driver:
        for node in list(cluster.worker_nodes):
            goal = world.outputs() + 15
            until(lambda goal=goal: world.outputs() >= goal, driver)
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=2, memory=2 * 2**30)
        assert driver.summary()["images"] == IMAGES
    world.check_like(undisturbed)
    assert max(suspects(world.store, 1).values(), default=0) < TRIES, "a lost node fails no image"


@pytest.mark.slow
def test_a_head_may_be_lost_and_the_job_started_again_on_another(tmp_path: Path, undisturbed: World) -> None:
    world = World(undisturbed.source, tmp_path / "out")
    # How long Ray tries to reach a head that is gone, a minute by default.
    impatient = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    for number in range(2):
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "memory": 4 * 2**30})
        try:
            with world.driver(address(made) | impatient) as driver:
                if number == 0:
                    until(lambda: world.outputs() >= 20, driver)
                    made.remove_node(made.head_node, allow_graceful=False)
                    code, _ = driver.end(180)
                    assert code not in (0, 2, 3), driver.errors.read_text()[-2000:]
                else:
                    assert driver.summary()["images"] == IMAGES
        finally:
            made.shutdown()
    world.check_like(undisturbed)


@pytest.mark.slow
def test_a_full_disk_where_objects_would_be_spilled_stops_nothing(tmp_path: Path, undisturbed: World) -> None:
    world = World(undisturbed.source, tmp_path / "out")
    full = {"RAY_local_fs_capacity_threshold": "0.000001"}
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 3,
            "memory": 4 * 2**30,
            "object_store_memory": 80 * 2**20,
            "_system_config": {"local_fs_capacity_threshold": 0.000001},
        },
    )
    try:
        with world.driver(address(made) | full | _BIG_VIEWS) as driver:
            assert driver.summary()["images"] == IMAGES
    finally:
        made.shutdown()
    assert {row["status"] for row in world.rows().values()} == {row["status"] for row in undisturbed.rows().values()}
