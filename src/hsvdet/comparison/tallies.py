"""Sums over images: errors by kind, duplicates, calibration, Jaccard index. A resample of images weights the terms."""

# pyright: strict

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..evaluate.measure import duplicates_in
from ..evaluate.pairing import IGNORED, Pair
from .mistakes import mistakes

SCORE_BINS = np.linspace(0.1, 1, 10)  # nine bins; weaker detections are left out
JACCARD_SCORES = np.arange(100) / 100


class Tallies(NamedTuple):
    """Of each image. mistakes: [6, I], by KINDS. duplicates: [2, I], detections that compete for an object, summed over
    the objects that have any, and how many these are. calibration: [3, 9, I], of the detections in each bin of score
    their number, the sum of their scores, how many are right. jaccard: [100, I] at each of JACCARD_SCORES, NaN where an
    image has neither objects nor detections."""

    mistakes: np.ndarray
    duplicates: np.ndarray
    calibration: np.ndarray
    jaccard: np.ndarray

    def mistakes_per_image(self, weights: np.ndarray) -> np.ndarray:
        """[6, R]. weights, here and below: [I, R], how often each resample has each image."""
        return self.mistakes @ weights / weights.sum(0)

    def duplicates_per_object(self, weights: np.ndarray) -> np.ndarray:
        """[R]: mean over the objects that have any; NaN where none has."""
        total, objects = self.duplicates @ weights
        return np.divide(total, objects, out=np.full_like(total, np.nan), where=objects > 0)

    def calibration_error(self, weights: np.ndarray) -> np.ndarray:
        """[R]: D-ECE on the score (Küppers et al. 2020, arXiv 2004.13546): |precision - mean score| of each bin,
        weighted by its detections; NaN without any."""
        count, scores, right = self.calibration @ weights
        total = count.sum(0)
        error = np.abs(right - scores).sum(0)
        return np.divide(error, total, out=np.full_like(total, np.nan), where=total > 0)

    def jaccard_index(self, weights: np.ndarray) -> np.ndarray:
        """[R]: the mean over images of matched / (matched + detections that found nothing + objects not found), at the
        score where it is highest; NaN where no image has an object or a detection."""
        known = ~np.isnan(self.jaccard)
        total, images = np.where(known, self.jaccard, 0) @ weights, known @ weights
        mean = np.divide(total, images, out=np.full_like(total, -np.inf), where=images > 0)
        best = mean.max(0)
        return np.where(np.isfinite(best), best, np.nan)


def tallies_of(pairs: Sequence[Pair], matches: Sequence[np.ndarray], classes: int, score: float) -> Tallies:
    """matches: of each pair, what `match_within_class` gave at IoU 0.5. score: that a detection must pass to be looked
    at for mistakes."""
    competing = [duplicates_in(pair, classes).numpy() for pair in pairs]
    both = list(zip(pairs, matches, strict=True))
    return Tallies(
        np.stack([mistakes(pair, taken, score) for pair, taken in both], 1).astype(float),
        np.array([[one.sum(), (one > 0).sum()] for one in competing], dtype=float).T,
        np.stack([_calibration(pair, taken) for pair, taken in both], -1),
        np.stack([_jaccard(pair, taken) for pair, taken in both], -1),
    )


def _calibration(pair: Pair, matches: np.ndarray) -> np.ndarray:
    """[3, 9]"""
    bins = np.digitize(pair.scores, SCORE_BINS[:-1]) - 1
    judged = (matches != IGNORED) & (bins >= 0)
    terms = np.ones(len(bins)), pair.scores, matches >= 0
    count = len(SCORE_BINS) - 1
    return np.stack([np.bincount(bins[judged], term[judged], count) for term in terms])


def _jaccard(pair: Pair, matches: np.ndarray) -> np.ndarray:
    """[100]"""
    scores = pair.scores[matches != IGNORED]
    right = pair.scores[matches >= 0]
    detections = (scores > JACCARD_SCORES[:, None]).sum(1)
    matched = (right > JACCARD_SCORES[:, None]).sum(1)
    union = detections + (~pair.crowd).sum() - matched
    return np.divide(matched, union, out=np.full(len(union), np.nan), where=union > 0)
