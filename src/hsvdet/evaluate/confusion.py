"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.overlap import overlaps
from .pairing import IGNORED, MATCHING_IOU, UNMATCHED, Pair, match

CONFUSION_SCORE = 0.25


def confusion_matrix(pairs: Sequence[Pair], matches_of: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """[C + 1, C + 1] int64 counts, row = true class, column = predicted class, the last of each = background:
    the last column counts missed objects, the last row detections of nothing. matches_of: of each pair, what
    `match_within_class` gave at IoU 0.5.

    Detections scoring at least 0.25 are matched at IoU 0.5, first within their class, so that the diagonal
    holds the true positives of average precision at this score; what is left then matches any class.
    Detections that only a crowd region of their class explains are left out, and so are crowd regions.
    """
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for pair, matches in zip(pairs, matches_of, strict=True):
        # The strongest come first, and what they take does not depend on the others.
        keep = pair.scores >= CONFUSION_SCORE
        pair = pair._replace(boxes=pair.boxes[keep], scores=pair.scores[keep], labels=pair.labels[keep])
        matches = matches[keep]
        left = np.flatnonzero(matches == UNMATCHED)
        missed = ~pair.crowd
        missed[matches[matches >= 0]] = False
        if len(left) and missed.any():
            overlap = overlaps(pair.boxes[left], pair.truth) * missed
            matches[left] = match(overlap, np.zeros_like(pair.crowd), MATCHING_IOU)
            missed[matches[matches >= 0]] = False
        hit = matches >= 0
        np.add.at(matrix, (pair.truth_labels[matches[hit]], pair.labels[hit]), 1)
        alarms = ~hit & (matches != IGNORED)
        matrix[:-1, -1] += np.bincount(pair.truth_labels[missed], minlength=classes)
        matrix[-1, :-1] += np.bincount(pair.labels[alarms], minlength=classes)
    return matrix
