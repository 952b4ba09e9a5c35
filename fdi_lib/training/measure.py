"""Measures a restorer on degraded tiles: gains with the adapter known and chosen, mixtures, clean and unknown images.

It does not know where tiles come from, nor how figures are shown; it chooses no parameter.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from fdi_lib.core import metrics
from fdi_lib.core.classical import Method, classical_method
from fdi_lib.core.decision import Decision, Mode, told
from fdi_lib.core.niqe import Pristine, niqe
from fdi_lib.core.order import in_order_of_repair
from fdi_lib.core.protocol import Sample, Tile, as_float, quantise
from fdi_lib.models.pristine import load_pristine

log = logging.getLogger(__name__)

_CHUNK = 32  # tiles handed to the restorer at once


class RestorerLike(Protocol):
    """The part of ``Restorer`` that is measured."""

    @property
    def adapter_hashes(self) -> Mapping[str, str]:
        """Hash by name of every adapter."""

    def classify(self, images: list[np.ndarray]) -> list[Decision]:
        """Decide for HW3 uint8 images."""

    def classify_without(self, name: str, images: list[np.ndarray]) -> list[Decision]:
        """Decide as if the bank didn't know a degradation."""

    def restore(
        self, images: list[np.ndarray], decisions: list[Decision], noise_keys: list[int] | None = None
    ) -> list[np.ndarray]:
        """Restore images of one route; shape and dtype stay."""

    def round_trip(self, images: list[np.ndarray]) -> list[np.ndarray]:
        """Images through the base's latent space and back."""

    def fidelity_only(self, images: list[np.ndarray], names: tuple[str, ...]) -> list[np.ndarray]:
        """Images through the adapters' fidelity paths, as if the base had returned its input."""


@dataclass
class EvaluationSet:
    """What is measured: degraded tiles by degradation, clean tiles, mixtures, degradations that no adapter knows."""

    singles: dict[str, list[Sample]]
    clean: list[Tile] = field(default_factory=list)
    mixtures: list[Sample] = field(default_factory=list)
    unknown: dict[str, list[Sample]] = field(default_factory=dict)


def measure(
    data: EvaluationSet,
    restorer: RestorerLike,
    bare: RestorerLike,
    mode: Mode,
    seed: int,
    methods: Mapping[str, Method] | None = None,
) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    """Measure everything.

    Args:
        data: the tiles; at least one degradation.
        restorer: what is measured.
        bare: the same without the fidelity path.
        mode: how several adapters are combined when they are told, not found.
        seed: of the bootstrap.
        methods: classical method by degradation, where it isn't the one tuned for that name.

    Returns:
        The content of ``metrics.json``, and for each degradation four pictures of its first tile: input, restored,
        classical, reference (uint8 HW3).

    Raises:
        WeightsError: the model of clean photographs that NIQE compares with is missing.
    """
    pristine = load_pristine()
    result: dict[str, Any] = {"degradations": {}}
    pictures: dict[str, list[np.ndarray]] = {}
    decided: dict[str, list[Decision]] = {}
    ceilings = _Ceilings(restorer)
    for name, samples in data.singles.items():
        result["degradations"][name], pictures[name], decided[name] = measure_single(
            name, samples, restorer, bare, (methods or {}).get(name) or classical_method(name), pristine
        )
        result["degradations"][name] |= _rounded({"psnr_roundtrip": ceilings.mean([s.tile for s in samples])})
        log.info("%s: %+.2f dB", name, result["degradations"][name]["gain_db"])
    result["clean"] = _clean(data.clean, restorer, seed)
    result["mixtures"] = _mixtures(data.mixtures, restorer, mode)
    result["unknown"] = _unknown(data, decided, restorer)
    return result, pictures


def _known(names: Sequence[str], mode: Mode) -> Decision:
    """The decision of someone who was told what happened: the last damage is undone first."""
    return told(in_order_of_repair(names) if mode == "progressive" else sorted(names), mode)


def _restored(samples: Sequence[Sample], decisions: Sequence[Decision], restorer: RestorerLike) -> list[np.ndarray]:
    """Restore one route at a time, as the job does; without an adapter an image stays as it is. uint8, in order."""
    outputs = [s.pixels for s in samples]
    routes: dict[str, list[int]] = defaultdict(list)
    for i, decision in enumerate(decisions):
        if decision.adapters:
            routes[decision.route].append(i)
    for route in sorted(routes):
        for start in range(0, len(routes[route]), _CHUNK):
            part = routes[route][start : start + _CHUNK]
            done = restorer.restore(
                [samples[i].pixels for i in part], [decisions[i] for i in part], [samples[i].noise_key for i in part]
            )
            for i, pixels in zip(part, done, strict=True):
                outputs[i] = pixels
    return outputs


def _in_chunks(work: Callable[[list[np.ndarray]], list[np.ndarray]], images: list[np.ndarray]) -> list[np.ndarray]:
    return [out for start in range(0, len(images), _CHUNK) for out in work(images[start : start + _CHUNK])]


def scores(
    score: Callable[[np.ndarray, np.ndarray], float], samples: Sequence[Sample], outputs: Sequence[np.ndarray]
) -> np.ndarray:
    """One score a sample, of what a reader of the written 8-bit file would see.

    Args:
        score: of :mod:`fdi_lib.core.metrics`, of an image and its reference.
        samples: with the references.
        outputs: for each sample an image of its shape, uint8.
    """
    pairs = zip(samples, outputs, strict=True)
    return np.array([score(as_float(out), as_float(sample.tile.pixels)) for sample, out in pairs])


def _psnr(samples: Sequence[Sample], outputs: Sequence[np.ndarray]) -> np.ndarray:
    return scores(metrics.psnr, samples, outputs)


def _blind(pristine: Pristine, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> dict[str, float | None]:
    """Mean NIQE over the tiles that have one before and after; None where no tile has: small and flat ones haven't."""
    pairs = [[niqe(as_float(pixels), pristine) for pixels in pair] for pair in zip(inputs, outputs, strict=True)]
    both = [pair for pair in pairs if None not in pair]
    means = np.mean(np.array(both, np.float64), axis=0) if both else (None, None)
    return dict(zip(("niqe_in", "niqe_out"), means, strict=True))


class _Ceilings:
    """PSNR of the truth after the base's latent space: what no restoration in it can pass without a fidelity path.

    The degradations of the protocol share their tiles; each is sent through once.
    """

    def __init__(self, restorer: RestorerLike) -> None:
        self._restorer = restorer
        self._known: dict[tuple[str, int, bytes], float] = {}

    def mean(self, tiles: Sequence[Tile]) -> float:
        """Mean over the tiles, dB; identical ones count as ``metrics.PSNR_CAP_DB``."""
        keys = [(t.picture, t.number, hashlib.sha256(t.pixels.tobytes()).digest()) for t in tiles]
        new = {key: tile.pixels for key, tile in zip(keys, tiles, strict=True) if key not in self._known}
        back = _in_chunks(self._restorer.round_trip, list(new.values()))
        for (key, pixels), made in zip(new.items(), back, strict=True):
            self._known[key] = metrics.psnr(as_float(made), as_float(pixels))
        return float(np.mean([self._known[key] for key in keys]))


def measure_single(
    name: str, samples: list[Sample], restorer: RestorerLike, bare: RestorerLike, method: Method, pristine: Pristine
) -> tuple[dict[str, Any], list[np.ndarray], list[Decision]]:
    """Measure one degradation.

    Args:
        name: of it and of its adapter.
        samples: damaged by it and nothing else; one at least.
        restorer: what is measured.
        bare: the same without the fidelity path.
        method: to compare with.
        pristine: what NIQE compares with.

    Returns:
        Its figures, four pictures of the first sample (see :func:`measure`), and the classifier's decisions.
    """
    known = [_known([name], "progressive")] * len(samples)
    decisions = restorer.classify([s.pixels for s in samples])
    inputs = [s.pixels for s in samples]
    outputs = _restored(samples, known, restorer)
    classical = [quantise(method(as_float(pixels))) for pixels in inputs]
    refined = _in_chunks(lambda part: restorer.fidelity_only(part, (name,)), inputs)
    before, after = _psnr(samples, inputs), _psnr(samples, outputs)
    figures = {
        "n": len(samples),
        "psnr_in": before.mean(),
        "psnr_out": after.mean(),
        "gain_db": (after - before).mean(),
        "gain_db_classified": (_psnr(samples, _restored(samples, decisions, restorer)) - before).mean(),
        "gain_db_without_fidelity": (_psnr(samples, _restored(samples, known, bare)) - before).mean(),
        "gain_db_fidelity_only": (_psnr(samples, refined) - before).mean(),
        "ssim_in": scores(metrics.ssim, samples, inputs).mean(),
        "ssim_out": scores(metrics.ssim, samples, outputs).mean(),
        "ms_ssim_in": scores(metrics.ms_ssim, samples, inputs).mean(),
        "ms_ssim_out": scores(metrics.ms_ssim, samples, outputs).mean(),
        **_blind(pristine, inputs, outputs),
        "classical": method.label,
        "classical_gain_db": (_psnr(samples, classical) - before).mean(),
        "found": np.mean([{n for n, _ in d.adapters} == {name} for d in decisions]),
    }
    return (
        _rounded(figures),
        [inputs[0], outputs[0], classical[0], samples[0].tile.pixels],
        decisions,
    )


def _clean(tiles: list[Tile], restorer: RestorerLike, seed: int) -> dict[str, Any]:
    """Share called clean, by picture; and share that would be altered. The rest, most of it unknown, stays as it is."""
    if not tiles:
        return {"n": 0, "untouched": None, "interval": None, "altered": None}
    decisions = restorer.classify([t.pixels for t in tiles])
    untouched = [float(d.verdict == "clean") for d in decisions]
    interval = metrics.bootstrap_by_picture(untouched, [t.picture for t in tiles], seed)
    return {
        "n": len(tiles),
        "untouched": round(float(np.mean(untouched)), 4),
        "interval": [round(v, 4) for v in interval],
        "altered": round(float(np.mean([bool(d.adapters) for d in decisions])), 4),
    }


MIXTURE_FIGURES = ("n", "f1", "psnr_in", "psnr_best_single", "psnr_out", "psnr_out_classified",
                   "gain_over_best_single_db", "gain_over_best_single_db_classified")  # fmt: skip


def _mixtures(samples: list[Sample], restorer: RestorerLike, mode: Mode) -> dict[str, Any]:
    """F1 of the adapters found; gain over the better of the two adapters alone, chosen anew for every tile."""
    if not samples:
        return dict.fromkeys(MIXTURE_FIGURES) | {"n": 0}
    decisions = restorer.classify([s.pixels for s in samples])
    alone = [
        _psnr(samples, _restored(samples, [_known([s.applied[i]], mode) for s in samples], restorer)) for i in (0, 1)
    ]
    both = _psnr(samples, _restored(samples, [_known(s.applied, mode) for s in samples], restorer))
    chosen = _psnr(samples, _restored(samples, decisions, restorer))
    pairs, best = zip(samples, decisions, strict=True), np.maximum(*alone)
    f1 = np.mean([metrics.set_f1(s.applied, [n for n, _ in d.adapters]) for s, d in pairs])
    means = (x.mean() for x in (_psnr(samples, [s.pixels for s in samples]), best, both, chosen))
    values = (len(samples), f1, *means, (both - best).mean(), (chosen - best).mean())
    return _rounded(dict(zip(MIXTURE_FIGURES, values, strict=True)))


def _unknown(data: EvaluationSet, decided: dict[str, list[Decision]], restorer: RestorerLike) -> dict[str, Any]:
    """Do kinds that the bank doesn't know stand out by their residual (AUROC), and are they called unknown.

    Kinds without an adapter, or that nobody looks for in such images; and, where there are several that are looked for,
    each of these in turn with a bank that lacks it.

    Args:
        data: the tiles.
        decided: about each kind that has an adapter.
        restorer: what is measured.
    """
    seen = {kind: restorer.classify([s.pixels for s in samples]) for kind, samples in data.unknown.items()}
    residuals: dict[str, list[float]] = {}  # of the kinds that are looked for
    for name, decisions in decided.items():
        if all(name in decision.scores for decision in decisions if decision.scores):
            residuals[name] = [decision.residual for decision in decisions]
        else:
            seen[name] = decisions
    for name in residuals if len(residuals) > 1 else ():
        seen[name] = restorer.classify_without(name, [s.pixels for s in data.singles[name]])
    kinds = {}
    for kind, decisions in seen.items():
        known = [value for name, values in residuals.items() if name != kind for value in values]
        if not known:  # nothing to tell it from
            continue
        auroc = metrics.auroc([d.residual for d in decisions], known)
        found = np.mean([d.verdict == "unknown" for d in decisions])
        kinds[kind] = _rounded({"n": len(decisions), "auroc": auroc, "found": found})
    if not kinds:
        return {"n": 0, "auroc": None, "found": None, "kinds": {}}
    mean = {key: np.mean([figures[key] for figures in kinds.values()]) for key in ("auroc", "found")}
    return _rounded({"n": sum(figures["n"] for figures in kinds.values())} | mean) | {"kinds": kinds}


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {k: round(float(v), 4) if isinstance(v, float | np.floating) else v for k, v in figures.items()}
