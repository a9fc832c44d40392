"""Which share of the objects is found, at any score and at one false positive an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.overlap import occlusion
from .pairing import UNMATCHED, Pair

OCCLUSION_EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
OCCLUDED = (0.5, 0.9)
# COCO's: pixels of the image, of the object itself where the data set knows it, of its box elsewhere.
SIZE_EDGES = (0.0, 32.0**2, 96.0**2, float("inf"))
VISIBILITY_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)
COUNT_EDGES = (1, 6, 11, 21, 51, 101, 201, 301)


class RecallBin(NamedTuple):
    """Objects of which some quantity lies in [low, high), in [low, high] for the last bin; recalls as in
    `Recalls`, NaN where there are no objects."""

    low: float
    high: float
    objects: int
    recall: float
    recall_at_fppi1: float


class CountBin(NamedTuple):
    """Images of `fewest` to `most` objects (None: or more) and the objects in them; recalls as in `Recalls`."""

    fewest: int
    most: int | None
    images: int
    objects: int
    recall: float
    recall_at_fppi1: float


class Recalls(NamedTuple):
    """Objects found at IoU 0.5 over all objects, crowd regions left out, all classes pooled.

    recall: by any detection. recall_at_fppi1: by detections over score_at_fppi1, the lowest score at which the
    data set has at most one false positive an image on average; one score for all bins. Detections of equal
    score pass it together or not at all, so that fppi, how many an image pass it, may lie below 1.
    score_at_fppi1 is NaN where the false positives are no more than the images: then every detection counts.
    All detections of an image count, not COCO's 100 of a class: this score keeps floods out, and 100 would be a
    ceiling of its own for images of more objects.

    occlusion: by the largest IoU with another object of the image, of any class; the bins of OCCLUSION_EDGES,
    0.9 to 1 only where it occurs. occluded: 0.5 to 0.9 in one. visibility: by the visible share, None where the
    data set does not know it. by_size: by area: small, medium and large, as of COCO's AP. by_count: by the number of
    objects in the image, the bins that occur.
    All come from one matching with all objects: a detection of the neighbour has not found this object.
    """

    recall: float
    recall_at_fppi1: float
    score_at_fppi1: float
    fppi: float
    occlusion: tuple[RecallBin, ...]
    occluded: RecallBin
    visibility: tuple[RecallBin, ...] | None
    by_size: tuple[RecallBin, ...]
    by_count: tuple[CountBin, ...]


def recalls(pairs: Sequence[Pair], matches: Sequence[np.ndarray]) -> Recalls:
    """matches: of each pair, what `match_within_class` gave at IoU 0.5."""
    alarms = np.concatenate(
        [pair.scores[taken == UNMATCHED] for pair, taken in zip(pairs, matches, strict=True)]
    )
    at = np.concatenate([found_at(*one) for one in zip(pairs, matches, strict=True)])
    found = _Found(at, _score_over(alarms, allowed=len(pairs)))
    occluded = np.concatenate([occlusion(pair.truth[~pair.crowd]) for pair in pairs])
    low, high = OCCLUDED
    _, recall, recall_at_fppi1 = found.rates(np.ones(len(at), dtype=bool))
    return Recalls(
        recall,
        recall_at_fppi1,
        found.over if np.isfinite(found.over) else float("nan"),
        float((alarms > found.over).sum()) / len(pairs),
        occlusion=found.bins(occluded, occlusion_edges(occluded)),
        occluded=RecallBin(low, high, *found.rates((occluded >= low) & (occluded < high))),
        visibility=_by_visibility(found, pairs),
        by_size=found.bins(np.concatenate([pair.area[~pair.crowd] for pair in pairs]), SIZE_EDGES),
        by_count=_by_count(found, pairs),
    )


class _Found(NamedTuple):
    """at: [N] the score that each object was found with, -inf where it was missed. over: score_at_fppi1."""

    at: np.ndarray
    over: float

    def rates(self, members: np.ndarray) -> tuple[int, float, float]:
        """members: [N] bool."""
        at = self.at[members]
        if not len(at):
            return 0, float("nan"), float("nan")
        return len(at), float((at > -np.inf).mean()), float((at > self.over).mean())

    def bins(self, quantity: np.ndarray, edges: Sequence[float]) -> tuple[RecallBin, ...]:
        """[low, high) each, the last one closed; a NaN is in none."""
        bins = []
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            below = quantity <= high if high == edges[-1] else quantity < high
            bins.append(RecallBin(low, high, *self.rates((quantity >= low) & below)))
        return tuple(bins)


def occlusion_edges(occluded: np.ndarray) -> tuple[float, ...]:
    """Without the last bin, of objects that are annotated twice, where there are none."""
    return OCCLUSION_EDGES if (occluded >= OCCLUSION_EDGES[-2]).any() else OCCLUSION_EDGES[:-1]


def found_at(pair: Pair, matches: np.ndarray) -> np.ndarray:
    """The score that each object was found with, -inf where it was missed."""
    scores = np.full(len(pair.crowd), -np.inf)
    taken = matches >= 0
    scores[matches[taken]] = pair.scores[taken]
    return scores[~pair.crowd]


def _score_over(alarms: np.ndarray, allowed: int) -> float:
    """The lowest score over which at most `allowed` of the false positives lie; -inf where all may."""
    return float(-np.sort(-alarms)[allowed]) if len(alarms) > allowed else -np.inf


def _by_visibility(found: _Found, pairs: Sequence[Pair]) -> tuple[RecallBin, ...] | None:
    if all(pair.visibility is None for pair in pairs):
        return None
    seen = [
        np.full((~pair.crowd).sum(), np.nan) if pair.visibility is None else pair.visibility[~pair.crowd]
        for pair in pairs
    ]
    return found.bins(np.concatenate(seen), VISIBILITY_EDGES)


def _by_count(found: _Found, pairs: Sequence[Pair]) -> tuple[CountBin, ...]:
    counts = np.array([(~pair.crowd).sum() for pair in pairs])
    images, objects = (np.digitize(numbers, COUNT_EDGES) for numbers in (counts, np.repeat(counts, counts)))
    ends = [*(edge - 1 for edge in COUNT_EDGES[1:]), None]
    return tuple(
        CountBin(fewest, most, int((images == place).sum()), *found.rates(objects == place))
        for place, (fewest, most) in enumerate(zip(COUNT_EDGES, ends, strict=True), start=1)
        if (images == place).any()
    )
