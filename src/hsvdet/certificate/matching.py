"""Detections of two runs side by side: how near each is to each, and which are the same."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..data.overlap import overlaps
from .tolerance import Tolerance


class Found(NamedTuple):
    """Detections of one image as numpy arrays. boxes: [N, 4] xyxy original pixels, scores: [N], labels: [N]."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Nearness:
    """All detections of one run [N] against all of another [M]: matrices [N, M]. scale: (y, x) pixels of the network's
    input per pixel of the image.

    overlap: IoU. displacement: the largest shift of a side, in pixels of the network's input. score_error: relative.
    same_class, same_box: bool, the box within the tolerance. sizeable: [N] bool, boxes of a pixel and more.
    """

    def __init__(self, reference: Found, artifact: Found, scale: tuple[float, float], tolerance: Tolerance):
        self.reference, self.artifact, self.scale, self.tolerance = reference, artifact, scale, tolerance
        a, b = reference.boxes.astype(np.float64), artifact.boxes.astype(np.float64)
        self.overlap: np.ndarray = overlaps(a, b)
        y, x = scale
        self.displacement: np.ndarray = (np.abs(a[:, None] - b) * (x, y, x, y)).max(-1, initial=0)
        self.sizeable: np.ndarray = np.all((a[:, 2:] - a[:, :2]) * (x, y) >= 1, axis=1)
        self.score_error: np.ndarray = relative_error(reference.scores[:, None], artifact.scores)
        self.same_class: np.ndarray = reference.labels[:, None] == artifact.labels
        self.same_box: np.ndarray = (self.overlap >= 1 - tolerance.box) | (
            self.displacement <= tolerance.pixels
        )

    @cached_property
    def pairs(self) -> np.ndarray:
        """[P, 2] The largest one to one matching of the same detections, of these the closest."""
        return assign(self.cost)

    def largest(self, error: np.ndarray) -> float:
        """Of a matrix: the largest in pairs."""
        return float(error[tuple(self.pairs.T)].max(initial=0))

    @property
    def cost(self) -> np.ndarray:
        """How far from one another two detections are that are the same within the tolerance; inf where not."""
        same = self.same_class & self.same_box & (self.score_error <= self.tolerance.score)
        return np.where(same, (1 - self.overlap) + self.score_error, np.inf)


def relative_error(expected: np.ndarray, came: np.ndarray) -> np.ndarray:
    """|difference| over the larger of two scores: an error e of the logit gives at most e, at any confidence."""
    return np.abs(expected - came) / np.maximum(np.maximum(expected, came), np.finfo(np.float32).tiny)


def assign(cost: np.ndarray) -> np.ndarray:
    """[K, 2] rows and columns: as many finite pairs as possible, then the cheapest. cost: below 3, or inf."""
    if not np.isfinite(cost).any():
        return np.zeros((0, 2), int)
    forbidden = 4.0 * (min(cost.shape) + 1)
    rows, columns = linear_sum_assignment(np.where(np.isfinite(cost), cost, forbidden))
    kept = np.isfinite(cost[rows, columns])
    return np.stack([rows[kept], columns[kept]], 1)
