"""Recall at a number of false positives an image, and CrowdHuman's log-average miss rate, of many resamples."""

# pyright: strict

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..evaluate.pairing import UNMATCHED, Pair
from ..evaluate.recall import found_at
from .groups import Groups

RATES = np.logspace(-2, 0, 9)  # false positives an image; the last is 1
_LEAST_MISSED = 1e-10  # a logarithm of 0 is none


class Alarms(NamedTuple):
    """scores, image: [F], of the detections that found nothing, by descending score. found: [N], the score that each
    object was found with, -inf where it was missed."""

    scores: np.ndarray
    image: np.ndarray
    found: np.ndarray


class WeightedRecall(NamedTuple):
    """at_any_score, at_fppi1: [G, R], of each group of objects; NaN where a resample has none of them. miss_rate: [R],
    the geometric mean of 1 - recall of all objects at the nine RATES."""

    at_any_score: np.ndarray
    at_fppi1: np.ndarray
    miss_rate: np.ndarray


def alarms_of(pairs: Sequence[Pair], matches: Sequence[np.ndarray]) -> Alarms:
    """matches: of each pair, what `match_within_class` gave at IoU 0.5."""
    wrong = [taken == UNMATCHED for taken in matches]
    scores = np.concatenate([pair.scores[one] for pair, one in zip(pairs, wrong, strict=True)])
    image = np.repeat(np.arange(len(pairs)), [one.sum() for one in wrong])
    order = np.argsort(-scores, kind="stable")
    found = np.concatenate([found_at(*one) for one in zip(pairs, matches, strict=True)])
    return Alarms(scores[order], image[order], found)


def weighted_recall(alarms: Alarms, groups: Groups, weights: np.ndarray) -> WeightedRecall:
    """weights: [I, R], how often each resample has each image. Scores are chosen anew in each resample, as `Recalls`
    has it: the lowest over which there are at most so many false positives an image."""
    members = np.stack([group.members for group in groups.rows]).astype(float)
    drawn = weights[groups.image]  # [N, R]
    objects = members @ drawn

    def share(over: np.ndarray | float, rows: slice) -> np.ndarray:
        """[G, R]: found with a score over `over`."""
        found = members[rows] @ (drawn * (alarms.found[:, None] > over))
        return np.divide(found, objects[rows], out=np.full_like(found, np.nan), where=objects[rows] > 0)

    up_to = weights[alarms.image].cumsum(0)  # [F, R]
    ends = np.append(alarms.scores, -np.inf)
    over = [ends[(up_to <= rate * weights.sum(0)).sum(0)] for rate in RATES]
    missed = np.stack([1 - share(one, slice(1))[0] for one in over])
    every = slice(None)
    return WeightedRecall(
        share(-np.inf, every), share(over[-1], every), np.exp(np.log(missed.clip(_LEAST_MISSED)).mean(0))
    )
