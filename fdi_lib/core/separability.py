"""How well features tell degradations apart, from a bank's held-out references alone: probes, confusion, a plane.

That degradation and content separate linearly is what the classification rests on, so it is measured for every encoder.
Pure arrays. Suffixes: N images of a group, C groups or columns, K degradations, R rows, D feature numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fdi_lib.core.judge import Judge
from fdi_lib.core.metrics import auroc
from fdi_lib.core.similarity import shrunk

CLEAN, UNKNOWN, SEVERAL = "(clean)", "(unknown)", "(several)"  # of a confusion, beside the names
FEWEST = 4  # images of a group that a probe can be cross-validated on
_FOLDS = 10


@dataclass(frozen=True)
class Confusion:
    """What held-out images are taken for.

    Args:
        names: of the bank's degradations, K.
        rows: what images have: the names (one each), then clean, then several (mixtures), where there are any.
        columns: what they are taken for: the names, then clean, unknown, several.
        count_RC: images.
    """

    names: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    count_RC: np.ndarray

    def accuracy(self, names: Iterable[str]) -> float:
        """Share of the images of these degradations that are taken for exactly what they have."""
        rows = [self.names.index(name) for name in names]
        right = sum(self.count_RC[k, k] for k in rows)
        return float(right / max(self.count_RC[rows].sum(), 1))


def confusion(judge: Judge) -> Confusion:
    """Decide on held-out references; where thresholds were found on the same ones, it flatters them a little."""
    names, held = judge.geometry.names, judge.held_out
    columns = (*names, CLEAN, UNKNOWN, SEVERAL)
    groups = {name: held.damaged_MD[held.alone(k)] for k, name in enumerate(names)} | {CLEAN: held.clean_ND}
    groups[SEVERAL] = held.damaged_MD[held.present_MK.sum(1) > 1]
    groups = {row: q_ND for row, q_ND in groups.items() if len(q_ND) or row in names}
    count_RC = np.zeros((len(groups), len(columns)), int)
    for r, q_ND in enumerate(groups.values()):
        for decision in judge.decide(q_ND, max_adapters=3, mode="progressive") if len(q_ND) else ():
            found = {"clean": CLEAN, "unknown": UNKNOWN, "mixture": SEVERAL}.get(decision.verdict)
            count_RC[r, columns.index(found or decision.adapters[0][0])] += 1
    return Confusion(names, tuple(groups), columns, count_RC)


def false_positives(judge: Judge) -> float:
    """Share of held-out clean images, by weight, that are not said to be clean."""
    held = judge.held_out
    decisions = judge.decide(held.clean_ND, max_adapters=3, mode="progressive")
    wrong_N = np.array([decision.verdict != "clean" for decision in decisions])
    return float((wrong_N * held.weight_N).sum() / held.weight_N.sum())


def discriminant(groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Scores of Fisher's linear discriminant of groups, each image scored by a fit without its fold.

    A fold is a run of neighbouring rows: a bank's references lie in the order of their pictures, so that tiles of one
    picture mostly share a fold and none is recognised by its neighbours. Groups count alike, whatever their sizes;
    their common covariance is shrunk (:func:`fdi_lib.core.similarity.shrunk`).

    Args:
        groups: features N,D of each group, at least ``FEWEST`` rows each.

    Returns:
        N,C for each group: log-likelihoods of the groups, but for what all have in common.
    """
    folds = min(_FOLDS, *map(len, groups))
    fold_of = [np.arange(len(q_ND)) * folds // len(q_ND) for q_ND in groups]
    scores = [np.zeros((len(q_ND), len(groups))) for q_ND in groups]
    for fold in range(folds):
        known = [q_ND[fold_N != fold] for q_ND, fold_N in zip(groups, fold_of, strict=True)]
        mean_CD = np.stack([q_ND.mean(0) for q_ND in known])
        within_DD = np.mean([np.cov(q_ND, rowvar=False, bias=True) for q_ND in known], axis=0)
        # Fisher's linear discriminant: Gaussians around the means, with one covariance for all.
        weight_DC = np.linalg.solve(shrunk(within_DD, sum(map(len, known))), mean_CD.T)
        offset_C = (mean_CD.T * weight_DC).sum(0) / 2
        for q_ND, fold_N, score_NC in zip(groups, fold_of, scores, strict=True):
            score_NC[fold_N == fold] = q_ND[fold_N == fold] @ weight_DC - offset_C
    return scores


def probe(clean_ND: np.ndarray, damaged_ND: np.ndarray) -> tuple[float, float]:
    """Tell damaged from clean images by a linear probe: area under the curve, and accuracy where both count alike."""
    clean_N, damaged_N = (score_NC[:, 1] - score_NC[:, 0] for score_NC in discriminant([clean_ND, damaged_ND]))
    return auroc(damaged_N.tolist(), clean_N.tolist()), float((damaged_N > 0).mean() + (clean_N <= 0).mean()) / 2


def recalls(groups: Sequence[np.ndarray]) -> list[float]:
    """Share of each group's images that a linear probe of all groups puts into it."""
    return [float((score_NC.argmax(1) == c).mean()) for c, score_NC in enumerate(discriminant(groups))]


def plane(groups: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Project whitened features onto the plane in which the groups' means lie farthest apart.

    Args:
        groups: whitened features N,D of each group, at least two groups of at least one row.

    Returns:
        N,2 of each group, and the share of the spread of means that the plane holds.
    """
    mean_CD = np.stack([r_ND.mean(0) for r_ND in groups])
    centre_D = mean_CD.mean(0)
    _, spread, axes_CD = np.linalg.svd(mean_CD - centre_D, full_matrices=False)
    first_D, second_D = axes_CD[:2]
    if len(groups) == 2:  # their means lie on a line: across it, what varies most within the groups
        rest_ND = np.concatenate([r_ND - r_ND.mean(0) for r_ND in groups])
        rest_ND = rest_ND - np.outer(rest_ND @ first_D, first_D)
        second_D = np.linalg.eigh(rest_ND.T @ rest_ND)[1][:, -1]
    # An axis has no sign of its own: the same one whatever the linear algebra.
    axes_D2 = np.stack([axis_D * np.sign(axis_D[np.abs(axis_D).argmax()]) for axis_D in (first_D, second_D)], axis=1)
    share = float((spread[:2] ** 2).sum() / max((spread**2).sum(), 1e-12))
    return [(r_ND - centre_D) @ axes_D2 for r_ND in groups], share
