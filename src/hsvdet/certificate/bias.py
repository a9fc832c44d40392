"""What is off in one direction: rounding moves detections to all sides, a fault of the artifact to one.

Average precision hardly sees boxes that are one per cent too large, and does not see scores that are halved, since
their order stays. So of detections of the same object in both runs it is the median that is held to a limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.overlap import overlaps
from .matching import Found, assign
from .tolerance import Tolerance

_SAME_OBJECT = 0.5  # IoU
# Standard error of the median of n normal values of standard deviation 1, times the root of n.
_MEDIAN = float(np.sqrt(np.pi / 2))
_SPREAD = 1.4826  # of a normal distribution: the standard deviation over the median absolute deviation
_QUANTITIES = ("score", "width", "height", "shift to the right", "shift down")


class BiasCheck(NamedTuple):
    """objects: detections with a partner of the same class; whole: those of them that no edge cuts off. found: the
    share of the detector's that have one. score: the factor of scores, the median of all. box: the factor of a width
    or height, or 1 plus a shift as a share of it, whichever is farthest from 1; quantity: which that is. score_error,
    box_error: their standard errors."""

    objects: int
    whole: int
    found: float
    score: float
    score_error: float
    box: float
    box_error: float
    quantity: str


def measure_bias(
    expected: Sequence[Found], came: Sequence[Found], sizes: Sequence[tuple[int, int]]
) -> BiasCheck:
    """expected: the detector's in each image, came: the artifact's at a far lower score, so that those whose scores
    fell are there too. sizes: (height, width). Boxes cut off at an edge count for scores alone."""
    scores, boxes = [np.zeros(0)], [np.zeros((0, 4))]
    for one, other, (height, width) in zip(expected, came, sizes, strict=True):
        a, b = one.boxes.astype(np.float64), other.boxes.astype(np.float64)
        overlap = overlaps(a, b)
        alike = (one.labels[:, None] == other.labels) & (overlap >= _SAME_OBJECT)
        i, j = assign(np.where(alike, 1 - overlap, np.inf)).T
        scores.append(np.log(np.maximum(other.scores[j], 1e-9) / np.maximum(one.scores[i], 1e-9)))
        a, b = a[i], b[j]
        both = np.concatenate([a, b], 1)
        whole = ((both[:, [0, 1, 4, 5]] > 0) & (both[:, [2, 3, 6, 7]] < [width, height] * 2)).all(1)
        a, b = a[whole], b[whole]
        sides, others = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
        shifts = (b[:, :2] + b[:, 2:] - a[:, :2] - a[:, 2:]) / 2 / sides
        boxes.append(np.concatenate([np.log(others / sides), shifts], 1))
    factors, moved = np.concatenate(scores), np.concatenate(boxes)
    score, score_error = _median(factors)
    each = [_median(column) for column in moved.T]
    at = int(np.argmax([abs(median) - error for median, error in each]))
    total = sum(len(one.scores) for one in expected)
    return BiasCheck(
        len(factors), len(moved), len(factors) / max(1, total), float(np.exp(score)), score_error,
        float(np.exp(each[at][0])), each[at][1], _QUANTITIES[1 + at],
    )  # fmt: skip


def _median(values: np.ndarray) -> tuple[float, float]:
    """And its standard error; 0 and infinity of nothing."""
    if not len(values):
        return 0.0, float("inf")
    median = float(np.median(values))
    spread = _SPREAD * float(np.median(np.abs(values - median)))
    return median, _MEDIAN * spread / len(values) ** 0.5


def of_bias(bias: BiasCheck, tolerance: Tolerance) -> list[str]:
    """Reasons. What is beyond the limit by less than twice its standard error is not held against an artifact."""
    if not bias.objects:
        return [
            "none of the detector's detections has a partner of the same class and place in the artifact's"
        ]
    against = []
    if bias.found < tolerance.found:
        against.append(
            f"only {bias.found:.1%} of the detector's detections have a partner of the same class and place;"
            f" {tolerance.found:.0%} are expected"
        )
    for what, count, factor, error, most in (
        ("scores", bias.objects, bias.score, bias.score_error, tolerance.score_bias),
        (f"boxes' {bias.quantity}", bias.whole, bias.box, bias.box_error, tolerance.box_bias),
    ):
        off = abs(float(np.log(factor)))
        if off - 2 * error > most:
            against.append(
                f"{what}: the median over {count} objects is off by {factor - 1:+.2%}, {most:.1%} is tolerated"
            )
        elif 2 * error > most:
            against.append(
                f"{what}: whether they are off in one direction cannot be told from {count} objects (to"
                f" {2 * error:.2%}, {most:.1%} is tolerated). Give more images (--data, --images)"
            )
    return against
