"""The classifier: encoder and reference bank, without the base. What classify actors hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from fdi_lib.core.decision import Decision
from fdi_lib.core.monochrome import is_monochrome
from fdi_lib.core.views import ViewSpec, check_images, make_views
from fdi_lib.manifest import ClassifySettings, ModelSettings, RestoreSettings
from fdi_lib.models.bank import Extent, ReferenceBank
from fdi_lib.models.encoder import Encoder
from fdi_lib.models.encoders import find_encoder
from fdi_lib.models.presets import ModelFolders, model_folders

# Shorter side of images that pass for whole pictures where the manifest leaves it open: cuts as large as that look like
# whole pictures in all that counts (docs/decisions/0016).
_WHOLE_PX = 768


class Classifier:
    """Decides which degradations an image has, by similarity of its features to the bank's references."""

    def __init__(
        self,
        encoder: Encoder,
        bank: ReferenceBank,
        classify: ClassifySettings,
        restore: RestoreSettings,
        batch: int = 1,
        adapters: Collection[str] | None = None,
    ) -> None:
        self.encoder, self.bank, self._batch, self._adapters = encoder, bank, batch, adapters
        self._classify, self._restore = classify, restore
        extents: tuple[Extent, ...] = ("detail", "whole") if classify.extent == "auto" else (classify.extent,)
        self._judges = {
            (extent, monochrome): bank.judge(extent, monochrome).at_rate(classify.clean_false_positive_rate)
            for extent in extents
            for monochrome in ((False, True) if bank.monochrome else (False,))
        }

    @classmethod
    def from_settings(
        cls, models: ModelSettings, classify: ClassifySettings, restore: RestoreSettings, batch: int = 1
    ) -> Classifier:
        """Load encoder and bank.

        Args:
            models: which weights.
            classify: the manifest's section.
            restore: the manifest's section, for mode, strength and what is set for single adapters.
            batch: images of one forward pass; every pass has exactly this many.

        Raises:
            WeightsError: weights are missing or don't belong together.
            ManifestError: something is set for an adapter that isn't there.
        """
        return cls.from_folders(model_folders(models), classify, restore, batch)

    @classmethod
    def from_folders(
        cls, folders: ModelFolders, classify: ClassifySettings, restore: RestoreSettings, batch: int = 1
    ) -> Classifier:
        """Load encoder and bank; an adapter with another entry than the bank's brings it along."""
        restore.check_adapters(folders.adapter_names())
        found = find_encoder(folders.encoder)
        bank = ReferenceBank.from_pretrained(folders.bank, found.sha256)
        for name in folders.adapter_names():
            bank = bank.with_entry_of(folders.adapters[name])
        return cls(found.load(), bank, classify, restore, batch, folders.adapter_names())

    def without(self, name: str) -> Classifier:
        """The same classifier with a bank that doesn't know a degradation: to measure what becomes of unknown ones."""
        return Classifier(
            self.encoder, self.bank.without(name), self._classify, self._restore, self._batch, self._adapters
        )

    @property
    def view_spec(self) -> ViewSpec:
        """The views that :meth:`classify_views` expects."""
        return self.encoder.view_spec

    def features(self, views: np.ndarray) -> np.ndarray:
        """Views uint8 B,V,S,S,3 -> features q, float64 B,D.

        Passes have one fixed shape, the last one padded: other shapes round differently, and a result must not depend
        on how many images happen to be at hand.
        """
        rows = []
        for start in range(0, len(views), self._batch):
            part = views[start : start + self._batch]
            padding = np.zeros((self._batch - len(part), *views.shape[1:]), np.uint8)
            _, q_BD = self.encoder.features(np.concatenate([part, padding]))
            rows.append(q_BD.numpy()[: len(part)])
        return np.concatenate(rows).astype(np.float64)

    def classify_views(self, views: np.ndarray, shorter_px: Sequence[int]) -> list[Decision]:
        """Decide for images given by their views.

        Args:
            views: uint8 B,V,S,S,3 RGB; the first of each image shows the whole of it, and whether it is monochrome.
            shorter_px: shorter side of each image.
        """
        if not len(views):
            return []
        given = self._classify.extent
        extent_B = [("whole" if px >= _WHOLE_PX else "detail") if given == "auto" else given for px in shorter_px]
        monochrome_B = [self.bank.monochrome is not None and is_monochrome(view[0]) for view in views]
        kind_B, q_BD = list(zip(extent_B, monochrome_B, strict=True)), self.features(views)
        decisions: dict[int, Decision] = {}
        for kind, judge in self._judges.items():
            rows = [i for i, each in enumerate(kind_B) if each == kind]
            if rows:
                found = judge.decide(
                    q_BD[rows],
                    max_adapters=self._classify.max_adapters,
                    mode=self._restore.mode,
                    strength=self._restore.strength,
                    strengths=self._restore.strengths,
                )
                decisions |= zip(rows, found, strict=True)
        return [self._doable(decisions[i]) for i in range(len(views))]

    def _doable(self, decision: Decision) -> Decision:
        """A degradation that nobody here can undo is as good as unknown: a person decides, nothing is guessed."""
        if self._adapters is not None and any(name not in self._adapters for name, _ in decision.adapters):
            return replace(decision, verdict="unknown", adapters=())
        # What the manifest disables is known, and left as it is: the verdict stays, and says so.
        return replace(decision, adapters=tuple(p for p in decision.adapters if p[0] not in self._restore.disabled))

    def classify(self, images: list[np.ndarray]) -> list[Decision]:
        """Decide for images: HW or HW3 arrays, uint8 or uint16, grey or RGB.

        Raises:
            ValueError: an image of another kind.
        """
        check_images(images)
        if not images:
            return []
        views = np.stack([make_views(image, self.view_spec) for image in images])
        return self.classify_views(views, [min(image.shape[:2]) for image in images])
