"""Builds the reference bank: FDI of every degradation, clean geometry, held-out references for the thresholds."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from fdi_lib.core.moments import Moments, PairMoments
from fdi_lib.core.similarity import matched_filter, shrunk, shrunk_covariance
from fdi_lib.errors import WeightsError
from fdi_lib.models.bank import ReferenceBank
from fdi_lib.models.encoder import Encoder
from fdi_lib.models.entry import Content, Entry, Severities
from fdi_lib.training.features import Damage, ViewsOf, features_of_views, making_views
from fdi_lib.training.namer import damage_to_name, train_namer

# Each held-out image takes so many of the degradations, in turn; fewer in grey, since weights are to stay small.
_ALONE_OF_EACH, _ALONE_OF_EACH_GREY = 5, 3
_AT_ONCE = 256  # images whose views are in memory together


def pair_moments(
    encoder: Encoder, degraded: Sequence[np.ndarray], clean: Sequence[np.ndarray], sample: int = 0
) -> PairMoments:
    """Moments of paired features, and so many pairs as they are; both sides are views of images, uint8 V,S,S,3 each."""
    (tokens_d, q_d), (tokens_c, q_c) = (features_of_views(encoder, side) for side in (degraded, clean))
    names = [str(i) for i in range(len(q_d))]
    return PairMoments.of(names, q_c, q_d, (tokens_d - tokens_c).sum(0, dtype=np.float64), sample, 0)


def entry_of(
    name: str, pairs: PairMoments, content_DD: np.ndarray, held_out_MD: np.ndarray, prototypes: int = 1
) -> Entry:
    """The bank's entry of one degradation.

    Args:
        name: of the degradation.
        pairs: moments of its pairs.
        content_DD: the bank's covariance of clean features.
        held_out_MD: features of further, held-out degraded images.
        prototypes: 1 for the mean alone; with more, so many by severity besides it, from the pairs' sample.

    Raises:
        WeightsError: the encoder sees no difference.
    """
    fdi_TD, mean_D = pairs.fdi_tokens_TD.astype(np.float32), pairs.difference.mean_D
    if not np.linalg.norm(mean_D) > 0:
        raise WeightsError(f"{name}: the encoder sees no difference between the degraded and the clean pictures at all")
    filter_D = matched_filter(mean_D, content_DD, shrunk(pairs.degraded.covariance_DD, pairs.count))
    severities = severities_of(pairs, content_DD, prototypes) if prototypes > 1 else None
    return Entry(name, fdi_TD, mean_D, filter_D, pairs.spread, pairs.count, held_out_MD, severities)


def severities_of(pairs: PairMoments, content_DD: np.ndarray, count: int) -> Severities:
    """Prototypes of equally many pairs each, by the length of their differences along the FDI, mildest first.

    They come from the sample that the moments keep: no second pass over the pairs, however many there are.

    Args:
        pairs: moments of a degradation's pairs, with a sample of at least ``count`` rows.
        content_DD: the bank's covariance of clean features.
        count: severities.
    """
    clean_ND, degraded_ND = np.split(pairs.sample.row_ND.astype(np.float64), 2, axis=1)
    difference_ND = degraded_ND - clean_ND
    order_N = np.argsort(difference_ND @ pairs.difference.mean_D, kind="stable")
    fdi, filters = [], []
    for mine in np.array_split(order_N, count):
        fdi.append(difference_ND[mine].mean(0))
        filters.append(matched_filter(fdi[-1], content_DD, shrunk_covariance(degraded_ND[mine])))
    return Severities(np.stack(fdi), np.stack(filters))


def build_bank(
    encoder: Encoder,
    encoder_sha256: str,
    names: tuple[str, ...],
    content: list[np.ndarray],
    reference: list[np.ndarray],
    held_out: list[np.ndarray],
    weights: np.ndarray,
    *,
    whole: Sequence[np.ndarray] = (),
    whole_weights: Sequence[float] = (),
    clean_false_positive_rate: float,
    seed: int,
    prototypes: int = 1,
    mixed: Collection[str] = (),
    mixture_references: int = 0,
    beside: Sequence[np.ndarray] = (),
    workers: int = 0,
    monochrome: bool = False,
) -> ReferenceBank:
    """Build a bank from clean pictures and synthetic degradations of them.

    Args:
        encoder: whose features.
        encoder_sha256: hash of its weights file.
        names: degradations of the bank.
        content: clean images (uint8 HW3) that describe what content looks like: mean and covariance.
        reference: clean images whose degraded twins give the FDI.
        held_out: clean images, of other pictures than ``reference``, for the thresholds.
        weights: what each of them counts.
        whole: further held-out clean images that are whole pictures, not cuts.
        whole_weights: what each of those counts.
        clean_false_positive_rate: rate of the bank's own thresholds.
        seed: of the degradations.
        prototypes: of each degradation, see :func:`entry_of`.
        mixed: degradations that a network learns to name together, see :func:`damage_to_name`.
        mixture_references: pictures of every two of them that it learns on; 0: none.
        beside: clean images that it learns on besides the content, whose mean and covariance they aren't in.
        workers: processes that damage pictures; 0: this one does it.
        monochrome: build it of the same pictures, and of what damage makes of them, in grey.
    """
    entries, within = [], []
    weight_N = np.concatenate([weights, whole_weights])
    counts_N = weight_N > 0  # others are only damaged
    clean = [image for image, counts in zip([*held_out, *whole], counts_N, strict=True) if counts]
    with making_views(encoder.view_spec, workers, monochrome) as views_of:
        q_content, q_clean = (_features(encoder, [*map(Damage, images)], views_of) for images in (content, clean))
        reference_views = views_of(map(Damage, reference))
        content_DD = shrunk_covariance(q_content)
        alone_of_each = _ALONE_OF_EACH_GREY if monochrome else _ALONE_OF_EACH
        alone, mixed_MD, mixed_MK = _damaged(encoder, names, held_out, seed, views_of, alone_of_each)
        for k, name in enumerate(names):
            views = views_of(Damage(image, (name,), (seed, k, i)) for i, image in enumerate(reference))
            pairs = pair_moments(encoder, views, reference_views, len(views) if prototypes > 1 else 0)
            # Tiles of one picture are no independent pictures, damaged or not.
            looks = max(1, round(len(alone[name]) / max(weights.sum(), 1)))
            entries.append(replace(entry_of(name, pairs, content_DD, alone[name], prototypes), looks=looks))
            within.append(shrunk(pairs.difference.covariance_DD, pairs.count))
        bank = ReferenceBank(
            tuple(entries),
            Content(q_content.mean(0), content_DD, np.mean(within, axis=0)),
            q_clean,
            weight_N[counts_N],
            (np.arange(len(weight_N)) >= len(held_out))[counts_N],
            mixed_MD,
            mixed_MK,
            clean_false_positive_rate,
            encoder_sha256,
        )
        damages = damage_to_name(names, mixed, [*content, *beside], mixture_references, seed)
        if not damages:
            return bank
        q_learnt = _features(encoder, [*map(Damage, beside), *damages], views_of)
        present = [()] * (len(q_content) + len(beside)) + [damage.names for damage in damages]
        return _with_namer(bank, np.concatenate([q_content, q_learnt]), present, mixed, seed)


def _with_namer(
    bank: ReferenceBank, q_ND: np.ndarray, present: Sequence[tuple[str, ...]], mixed: Collection[str], seed: int
) -> ReferenceBank:
    """The bank with a network that names all degradations of ``mixed`` that an image has; clean ones have none."""
    present_NK = np.array([[name in names for name in bank.names] for names in present])
    known_K = np.array([name in mixed for name in bank.names])
    return replace(bank, namer=train_namer(bank.geometry.residual(q_ND), present_NK, known_K, seed))


def _features(encoder: Encoder, damages: Sequence[Damage], views_of: ViewsOf) -> np.ndarray:
    """Features N,D of what becomes of pictures; only so many views are in memory at once."""
    parts = [damages[i : i + _AT_ONCE] for i in range(0, len(damages), _AT_ONCE)]
    return np.concatenate([features_of_views(encoder, views_of(part))[1] for part in parts])


def bank_from_moments(
    pairs: dict[str, PairMoments],
    held_out: dict[str, PairMoments],
    rate: float,
    encoder_sha256: str,
    prototypes: int = 1,
) -> ReferenceBank:
    """Build a bank from moments of stored pairs, whatever their number.

    Args:
        pairs: by degradation; their clean sides are the content.
        held_out: of further pairs, by degradation; their samples hold the features that thresholds are found on.
        rate: clean false-positive rate of the bank's own thresholds.
        encoder_sha256: hash of the encoder's weights file.
        prototypes: of each degradation, see :func:`entry_of`.
    """
    clean = functools.reduce(Moments.merge, (found.clean for found in pairs.values()))
    content_DD = shrunk(clean.covariance_DD, clean.count)
    within = [shrunk(found.difference.covariance_DD, found.count) for found in pairs.values()]
    width = len(clean.mean_D)
    rows = {name: found.sample.row_ND.astype(np.float64) for name, found in held_out.items()}
    entries = tuple(
        entry_of(name, found, content_DD, rows[name][:, width:], prototypes) for name, found in pairs.items()
    )
    held_clean_ND = np.concatenate([found[:, :width] for found in rows.values()])
    return ReferenceBank(
        entries,
        Content(clean.mean_D, content_DD, np.mean(within, axis=0)),
        held_clean_ND,
        np.ones(len(held_clean_ND)),
        np.zeros(len(held_clean_ND), bool),
        np.zeros((0, width)),
        np.zeros((0, len(entries)), bool),
        rate,
        encoder_sha256,
    )


def _damaged(
    encoder: Encoder,
    names: tuple[str, ...],
    held_out: list[np.ndarray],
    seed: int,
    views_of: ViewsOf,
    alone_of_each: int,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Features of held-out images, damaged in turn: each degradation alone, and all two-fold mixtures.

    Returns:
        Alone, by name: M,D; mixed M,D and which degradations each of them has, bool M,K.
    """
    pairs = list(itertools.combinations(names, 2))
    alone: dict[str, np.ndarray] = {}
    for k, name in enumerate(names):
        mine = [i for i in range(len(held_out)) if (i + k) % len(names) < alone_of_each]
        views = views_of(Damage(held_out[i], (name,), (seed, 99, k, i)) for i in mine)
        alone[name] = features_of_views(encoder, views)[1]
    order = np.random.default_rng([seed, 98]).permutation(len(pairs))
    chosen = [(i, pairs[order[i % len(pairs)]]) for i in range(len(held_out))] if pairs else []
    views = views_of(Damage(held_out[i], kinds, (seed, 98, i)) for i, kinds in chosen)
    width = len(next(iter(alone.values()))[0])
    mixed_MD = features_of_views(encoder, views)[1] if views else np.zeros((0, width))
    present = np.array([[name in kinds for name in names] for _, kinds in chosen], bool)
    return alone, mixed_MD, present.reshape(-1, len(names))
