"""The classifier's passes keep one shape, and its decisions don't depend on batch mates."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fdi_lib.core.decision import Decision
from fdi_lib.errors import ManifestError, WeightsError
from fdi_lib.manifest import ClassifySettings, RestoreSettings
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.classifier import Classifier
from fdi_lib.models.encoder import Encoder

VIEWS = np.random.default_rng(0).integers(0, 255, (5, 5, 96, 96, 3)).astype(np.uint8)


def _classifier(models, batch: int) -> Classifier:
    return Classifier.from_settings(models, ClassifySettings(), RestoreSettings(), batch)


def test_every_pass_has_the_same_shape(models, monkeypatch):
    classifier, shapes = _classifier(models, 2), []
    tokens = classifier.encoder.tokens

    def noted(views: np.ndarray) -> torch.Tensor:
        shapes.append(len(views))
        return tokens(views)

    monkeypatch.setattr(classifier.encoder, "tokens", noted)
    assert len(classifier.classify_views(VIEWS, [96] * 5)) == 5
    assert shapes == [2, 2, 2]


@pytest.mark.parametrize("batch", [1, 3])
def test_features_do_not_depend_on_batch_mates(models, batch):
    classifier = _classifier(models, batch)
    together = classifier.features(VIEWS)
    alone = np.concatenate([classifier.features(view[None]) for view in VIEWS])
    np.testing.assert_array_equal(together, alone)


def test_a_degradation_without_adapter_is_unknown(models, monkeypatch):
    found = Decision("mixture", (("noise", 1.0), ("mould", 1.0)), scores={"mould": 0.9})
    monkeypatch.setattr("fdi_lib.core.judge.Judge.decide", lambda *_, **__: [found])
    decision = _classifier(models, 1).classify_views(VIEWS[:1], [96])[0]
    assert (decision.verdict, decision.adapters, decision.scores) == ("unknown", (), {"mould": 0.9})


def test_no_views_no_decisions(models):
    assert _classifier(models, 1).classify_views(VIEWS[:0], []) == []


def test_a_bank_of_another_encoder_is_refused(preset):
    with pytest.raises(WeightsError, match="made with encoder"):
        ReferenceBank.from_pretrained(preset / "bank", "f" * 64)


def test_an_encoder_without_all_its_keys_is_refused(preset, tmp_path):
    encoder = Encoder.from_pretrained(preset / "encoder")
    del encoder.qformer.encoder.layer[1]
    encoder.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="tensors don't fit"):
        Encoder.from_pretrained(tmp_path)


def test_what_is_disabled_is_left_out_and_the_verdict_stays(models, monkeypatch):
    settings = RestoreSettings(adapters={"noise": {"enabled": False}})
    classifier = Classifier.from_settings(models, ClassifySettings(), settings)
    found = [Decision("mixture", (("noise", 1.0), ("haze", 1.0))), Decision("single", (("noise", 1.0),))]
    monkeypatch.setattr("fdi_lib.core.judge.Judge.decide", lambda *_, **__: found)
    decisions = classifier.classify_views(VIEWS[:2], [96, 96])
    assert [(d.verdict, d.route) for d in decisions] == [("mixture", "haze"), ("single", "")]


def test_settings_for_an_adapter_that_is_not_there_are_refused(models):
    with pytest.raises(ManifestError, match=r"restore\.adapters\.mould: .*haze, jpeg, noise"):
        Classifier.from_settings(models, ClassifySettings(), RestoreSettings(adapters={"mould": {}}))


@pytest.mark.parametrize(("extent", "whole"), [("auto", [False, True]), ("whole", [True] * 2), ("detail", [False] * 2)])
def test_large_images_pass_for_whole_pictures_unless_it_is_said(models, extent, whole):
    classifier = Classifier.from_settings(models, ClassifySettings(extent=extent), RestoreSettings())
    bank = replace(classifier.bank, whole_only=frozenset({"jpeg"}), calibrated=None)
    classifier = Classifier(classifier.encoder, bank, ClassifySettings(extent=extent), RestoreSettings())
    decisions = classifier.classify([np.zeros((767, 900), np.uint8), np.zeros((900, 768, 3), np.uint8)])
    assert [("jpeg" in decision.scores) for decision in decisions] == whole


def test_decisions_stay_with_their_images(models):
    classifier = _classifier(models, 2)
    sides = [96, 4000, 96, 4000, 96]
    together = classifier.classify_views(VIEWS, sides)
    for i, decision in enumerate(together):
        alone = classifier.classify_views(VIEWS[i : i + 1], sides[i : i + 1])[0]
        assert decision.route == alone.route and decision.scores == pytest.approx(alone.scores)


def test_monochrome_images_are_judged_by_references_of_their_own(models):
    classifier = _classifier(models, 1)
    strict = replace(classifier.bank.detail.thresholds, limit_K=np.full(3, 1e9), unknown_energy=1e9)
    lax = replace(strict, unknown_energy=0.0)
    bank = replace(classifier.bank, calibrated=(strict, strict))
    bank = replace(bank, monochrome=replace(bank, calibrated=(lax, lax)))
    classifier = Classifier(classifier.encoder, bank, ClassifySettings(), RestoreSettings())
    colour = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
    found = classifier.classify([colour, colour[..., 0], colour[..., [0, 0, 0]], colour])
    assert [decision.verdict for decision in found] == ["clean", "unknown", "unknown", "clean"]
