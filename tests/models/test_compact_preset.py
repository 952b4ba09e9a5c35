"""The shipped preset loads through the public API and does what its cards say, on a photograph it never saw."""

import numpy as np
import pytest
from skimage import data

from fdi_lib import Restorer
from fdi_lib.core.degrade import degrade
from fdi_lib.core.metrics import psnr
from fdi_lib.core.monochrome import grey, toned
from fdi_lib.manifest import ClassifySettings, ModelSettings, RestoreSettings
from fdi_lib.models.classifier import Classifier
from fdi_lib.models.presets import compact_folder


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer.from_preset("compact")


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return data.astronaut()[:256, 96:352]


@pytest.mark.parametrize(("name", "gain_db"), [("noise", 6), ("low_light", 5), ("jpeg", 0.2)])
def test_damage_is_found_and_repaired(restorer, photograph, name, gain_db):
    damaged = degrade(name, photograph.astype(np.float32) / 255, np.random.default_rng(0), 0.5)
    damaged = np.rint(damaged * 255).astype(np.uint8)
    decisions = restorer.classify([damaged])
    assert decisions[0].composition == f"{name}:1.00"
    restored = restorer.restore([damaged], decisions)[0]
    truth = photograph / 255
    assert psnr(truth, restored / 255) - psnr(truth, damaged / 255) > gain_db


def test_a_clean_photograph_is_left_alone(restorer, photograph):
    decisions = restorer.classify([photograph, photograph[..., 1]])
    assert [d.verdict for d in decisions] == ["clean", "clean"]
    np.testing.assert_array_equal(restorer.restore([photograph], decisions[:1])[0], photograph)


@pytest.mark.parametrize("name", ["noise", "low_light", "jpeg", "scratch"])
def test_damage_is_found_in_grey_scans_too(restorer, photograph, name):
    damaged = degrade(name, photograph.astype(np.float32) / 255, np.random.default_rng(0), 0.5)
    scan = grey(np.rint(damaged * 255).astype(np.uint8))[..., 0]
    decisions = restorer.classify([scan])
    assert decisions[0].composition == f"{name}:1.00"
    restored, truth = restorer.restore([scan], decisions)[0] / 255, grey(photograph)[..., 0] / 255
    assert psnr(truth, restored) > psnr(truth, scan / 255)


def test_a_sepia_print_is_no_faded_picture():
    whole = Classifier.from_settings(ModelSettings(), ClassifySettings(extent="whole"), RestoreSettings())
    prints = [toned(data.astronaut(), np.random.default_rng(seed)) for seed in range(6)]
    assert [decision.verdict for decision in whole.classify(prints)] == ["clean"] * 6


def test_all_weights_that_are_shipped_stay_small():
    files = list(compact_folder().parent.glob("**/*.safetensors"))
    assert len(files) > 20 and sum(path.stat().st_size for path in files) <= 30 * 2**20
