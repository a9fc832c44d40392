"""Precision, recall and F1 by the score that a detection must pass, and the score at which F1 is highest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .pairing import IGNORED, Pair


class OperatingPoint(NamedTuple):
    """What detections scoring over `score` come to at IoU 0.5. precision: of them, the share that found an object;
    recall: of the objects, the share that was found; f1: 2 P R / (P + R). NaN without objects, and the precision of no
    detections."""

    score: float
    precision: float
    recall: float
    f1: float


class Operating(NamedTuple):
    """best: all classes pooled, where F1 is highest. by_class: the same of each class. curve: all classes, at the
    scores 0, 0.01, ... 0.99."""

    best: OperatingPoint
    by_class: tuple[OperatingPoint, ...]
    curve: tuple[OperatingPoint, ...]


def operating(pairs: Sequence[Pair], matches: Sequence[np.ndarray], classes: int) -> Operating:
    """matches: of each pair, what `match_within_class` gave. What only a crowd region explains counts as neither right
    nor wrong."""
    judged = [taken != IGNORED for taken in matches]
    scores, labels, right = (
        np.concatenate([part[use] for part, use in zip(parts, judged, strict=True)])
        for parts in (
            [pair.scores for pair in pairs],
            [pair.labels for pair in pairs],
            [taken >= 0 for taken in matches],
        )
    )
    objects = np.concatenate([pair.truth_labels[~pair.crowd] for pair in pairs])
    counts = np.bincount(objects, minlength=classes)
    curve = []
    for over in (step / 100 for step in range(100)):
        passing = scores > over
        curve.append(_point(over, int(right[passing].sum()), int(passing.sum()), len(objects)))
    return Operating(
        _best(scores, right, len(objects)),
        tuple(_best(scores[labels == c], right[labels == c], int(counts[c])) for c in range(classes)),
        tuple(curve),
    )


def _best(scores: np.ndarray, right: np.ndarray, objects: int) -> OperatingPoint:
    """The score lies midway between the weakest detection that passes and the next: so both stay where they are when
    another runtime rounds otherwise."""
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(right[order])
    if not objects:
        return _point(float("nan"), 0, 0, 0)
    if not len(scores):
        return _point(0.0, 0, 0, objects)
    last = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # equal scores pass together
    best = int(np.argmax(2 * found[last] / (last + 1 + objects)))
    below = scores[last[best] + 1] if best + 1 < len(last) else 0.0
    return _point(float(scores[last[best]] + below) / 2, int(found[last[best]]), int(last[best]) + 1, objects)


def _point(score: float, found: int, passing: int, objects: int) -> OperatingPoint:
    if not objects:
        return OperatingPoint(float(score), *[float("nan")] * 3)
    precision = found / passing if passing else float("nan")
    return OperatingPoint(float(score), precision, found / objects, 2 * found / (passing + objects))
