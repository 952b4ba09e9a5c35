"""What adapters see in tiles is computed once where that is cheap to keep; passes are halved, repeated, never late."""

import gc
import weakref

import numpy as np
import pytest
import torch

from fdi_lib.core.decision import Decision
from fdi_lib.manifest import ClassifySettings, ModelSettings, RestoreSettings
from fdi_lib.models import passes
from fdi_lib.models.adapter import FDIAdapter
from fdi_lib.models.passes import Passes
from fdi_lib.models.restorer import Restorer

SETTINGS = RestoreSettings(tile_px=64, overlap_px=16)
NOISE = Decision("single", (("noise", 1.0),))
BOTH = Decision("mixture", (("haze", 0.5), ("noise", 0.7)), "composite")


def _restorer(models: ModelSettings, batch: int = 2, **settings: object) -> Restorer:
    return Restorer.from_settings(models, ClassifySettings(), SETTINGS.model_copy(update=settings), batch=batch)


def _images(*tiles: int) -> list[np.ndarray]:
    """Images of so many tiles one beside the other."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (64, 16 + 48 * n, 3), np.uint8) for n in tiles]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tiles an adapter was shown, each time."""
    shown, guidance = [], FDIAdapter.guidance

    def counted(self: FDIAdapter, image_BCHW: torch.Tensor) -> object:
        shown.append(len(image_BCHW))
        return guidance(self, image_BCHW)

    monkeypatch.setattr(FDIAdapter, "guidance", counted)
    return shown


@pytest.mark.parametrize(
    ("tiles", "batches"),
    [((1,), 1), ((1, 1, 1), 2), ((8,), 4), ((9,), 2 * 5), ((3, 3, 3, 3), 6), ((3, 20, 1), 2 + 2 * 10)],
    ids=str,
)
def test_tiles_are_looked_at_once_but_those_of_a_large_image_twice(models, looks, tiles, batches):
    _restorer(models).restore(_images(*tiles), [NOISE] * len(tiles))
    assert looks == [2] * batches


@pytest.mark.parametrize("decision", [NOISE, BOTH])
def test_what_is_kept_changes_no_bit(models, monkeypatch, looks, decision):
    images, restorer, made = _images(1, 3, 12, 2, 1), _restorer(models, 3), []
    for held in (0, 2, 4, 100):
        monkeypatch.setattr(passes, "_HELD_BATCHES", held)
        made.append(restorer.restore(images, [decision] * len(images)))
        for out, expected in zip(made[-1], made[0], strict=True):
            np.testing.assert_array_equal(out, expected)
    assert len(set(looks)) == 1


@pytest.mark.parametrize(("tiles", "most"), [((8, 8, 8), 4), ((40,), 1), ((40, 3, 2), 3)], ids=str)
def test_only_so_much_is_kept(models, monkeypatch, tiles, most):
    alive, found, look = weakref.WeakSet(), [], Passes._look

    def watched(self: Passes, *given: object) -> object:
        made = look(self, *given)
        alive.add(made[1])
        found.append(len(alive))
        return made

    monkeypatch.setattr(passes.Guidance, "__hash__", object.__hash__)
    monkeypatch.setattr(Passes, "_look", watched)
    gc.collect()
    _restorer(models).restore(_images(*tiles), [NOISE] * len(tiles))
    assert max(found) <= most


def test_a_batch_that_was_asked_for_ahead_may_not_fit_either(models, monkeypatch):
    images, restorer = _images(5, 1, 8), _restorer(models, 4)
    expected, calls, decode = _restorer(models, 2).restore(images, [NOISE] * 3), [], restorer.base.decode

    def short_of_memory(latent: torch.Tensor) -> torch.Tensor:
        calls.append(len(latent))
        if calls == [4, 4]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latent)

    monkeypatch.setattr(restorer.base, "decode", short_of_memory)
    made = restorer.restore_each(images, [NOISE] * 3)
    assert calls == [4, 4] + [2] * 7
    for one, right in zip(made, expected, strict=True):
        assert "in batches of 2 tiles, not 4" in one.note
        np.testing.assert_array_equal(one.pixels, right)


@pytest.mark.gpu
@pytest.mark.parametrize("init", ["input", "noised_input"])
def test_a_pass_waits_for_the_gpu_only_where_results_are_needed(models, init):
    if not torch.cuda.is_available():
        pytest.skip("NOT RUN: needs a CUDA device, and this process sees none")
    restorer, images = _restorer(models, 4, dtype="bf16", init=init, steps=2), _images(5, 1, 30)
    expected = restorer.restore(images, [BOTH] * 3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = restorer.restore(images, [BOTH] * 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for out, right in zip(made, expected, strict=True):
        np.testing.assert_array_equal(out, right)
