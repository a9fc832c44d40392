"""What crowding costs: average precision and recall by how much an object is overlapped by another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.overlap import occlusion
from .average_precision import average_precision_in_bins
from .pairing import IGNORED, UNMATCHED, Pair, match_within_class, strongest_per_class

OCCLUSION_EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
VISIBILITY_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)


class OcclusionBin(NamedTuple):
    """Objects whose occlusion lies in [low, high), in [low, high] for the last bin. NaN where there are none.

    The occlusion of an object is its largest IoU with another object of the image, of any class, crowd
    regions left out.
    ap, ap50: COCO's, objects outside the bin ignored (see `average_precision_in_bins`).
    recall: share of the bin's objects found at IoU 0.5 with at most 100 detections per image and class.
    recall_at_fppi1: the same among detections above the score that leaves one false positive per image,
    one score for all bins; so a detector cannot buy recall with false alarms.
    Both recalls pool all classes, and come from one matching with all objects: a detection of the neighbour
    is not counted as having found this object.
    """

    low: float
    high: float
    objects: int
    ap: float
    ap50: float
    recall: float
    recall_at_fppi1: float


class VisibilityBin(NamedTuple):
    """Objects whose visible share lies in [low, high), the last bin closed; recalls as in OcclusionBin."""

    low: float
    high: float
    objects: int
    recall: float
    recall_at_fppi1: float


class Crowding(NamedTuple):
    """occlusion: the bins of OCCLUSION_EDGES, 0.9 to 1 only where it occurs. visibility: None where the data
    set does not know it. score_at_fppi1: detections must score more; 0 where all false positives are fewer
    than images."""

    occlusion: tuple[OcclusionBin, ...]
    visibility: tuple[VisibilityBin, ...] | None
    score_at_fppi1: float


def crowding(pairs: Sequence[Pair], classes: int) -> Crowding:
    """Occlusion and visibility bins over all images."""
    found_score, false_positives = _found(pairs)
    score_at_fppi1 = 0.0
    if len(false_positives) > len(pairs):
        score_at_fppi1 = float(np.sort(false_positives)[::-1][len(pairs)])

    crowd = np.concatenate([pair.crowd for pair in pairs])
    occluded = np.zeros(len(crowd))
    occluded[~crowd] = np.concatenate([occlusion(pair.truth[~pair.crowd]) for pair in pairs])
    edges = OCCLUSION_EDGES if (occluded >= OCCLUSION_EDGES[-2]).any() else OCCLUSION_EDGES[:-1]
    precision = average_precision_in_bins(pairs, classes, occluded, edges)
    bins = []
    for low, high, members, (ap, ap50) in zip(
        edges[:-1], edges[1:], _members(occluded, edges), precision, strict=True
    ):
        counts = _recalls(found_score[members & ~crowd], score_at_fppi1)
        bins.append(OcclusionBin(low, high, counts[0], ap, ap50, *counts[1:]))

    visibility = None
    if any(pair.visibility is not None for pair in pairs):
        seen = [
            np.full(len(pair.crowd), np.nan) if pair.visibility is None else pair.visibility for pair in pairs
        ]
        visibility = tuple(
            VisibilityBin(low, high, *_recalls(found_score[members & ~crowd], score_at_fppi1))
            for low, high, members in zip(
                VISIBILITY_EDGES[:-1],
                VISIBILITY_EDGES[1:],
                _members(np.concatenate(seen), VISIBILITY_EDGES),
                strict=True,
            )
        )
    return Crowding(tuple(bins), visibility, score_at_fppi1)


def _found(pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """The score each object was found with at IoU 0.5 (-inf: missed), and the scores of false positives."""
    found_score, false_positives = [], []
    for pair in pairs:
        pair = strongest_per_class(pair, 100)
        matches = match_within_class(pair, 0.5)
        scores = np.full(len(pair.crowd), -np.inf)
        taken = (matches != UNMATCHED) & (matches != IGNORED)
        scores[matches[taken]] = pair.scores[taken]
        found_score.append(scores)
        false_positives.append(pair.scores[matches == UNMATCHED])
    return np.concatenate(found_score), np.concatenate(false_positives)


def _members(quantity: np.ndarray, edges: Sequence[float]) -> list[np.ndarray]:
    """[N] bool for each bin."""
    bins = [(quantity >= low) & (quantity < high) for low, high in zip(edges[:-2], edges[1:-1], strict=True)]
    return [*bins, (quantity >= edges[-2]) & (quantity <= edges[-1])]


def _recalls(found_score: np.ndarray, score_at_fppi1: float) -> tuple[int, float, float]:
    if not len(found_score):
        return 0, float("nan"), float("nan")
    above = found_score > score_at_fppi1 if score_at_fppi1 > 0 else found_score > -np.inf
    return len(found_score), float((found_score > -np.inf).mean()), float(above.mean())
