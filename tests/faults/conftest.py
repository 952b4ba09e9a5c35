"""The run that nothing disturbed, made once for all fault tests."""

from __future__ import annotations

import pytest

from tests.faults.world import IMAGES, RESTORED, World, archive


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("undisturbed")
    world = World(archive(folder / "in"), folder / "out")
    with world.driver() as driver:
        summary = driver.summary()
    assert (summary["images"], summary["restored"]) == (IMAGES, RESTORED) and len(world.rows()) == IMAGES
    assert set(world.restored_times().values()) <= {0, 1}
    return world
