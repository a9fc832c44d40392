"""COCO's matching of one image under several views of its objects and at several overlaps, all at once."""

# pyright: strict

from __future__ import annotations

import numpy as np

NOTHING, OBJECT, IGNORED_OBJECT = 0, 1, 2


def coco_matches(
    overlap: np.ndarray, crowd: np.ndarray, ignored: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """[V, T, D] int8: what each detection of a class takes: NOTHING, an OBJECT, or an IGNORED_OBJECT.

    overlap: [D, N], detections by descending score, objects of the same class. crowd: [N]. ignored: [V, N], the objects
    that a view (a range of areas, a bin of occlusion) leaves out, crowd regions always. thresholds: [T].
    Each detection takes the free object that it overlaps most, of those that count before those that are ignored, the
    later one when equal; a crowd region is always free. So does pycocotools.
    """
    taken = np.zeros((len(ignored), len(thresholds), len(overlap)), dtype=np.int8)
    free: np.ndarray = np.ones((len(ignored), len(thresholds), len(crowd)), dtype=bool)
    left_out = ignored[:, None]
    for detection in np.flatnonzero((overlap >= thresholds.min()).any(1)):
        own = overlap[detection]
        near = np.logical_and(own >= thresholds[:, None], free | crowd)
        counting = np.logical_and(near, ~left_out)
        counts = np.asarray(counting.any(-1))
        near = np.where(counts[..., None], counting, near)
        view, threshold = np.nonzero(near.any(-1))
        best = len(own) - 1 - np.where(near, own, -1.0)[..., ::-1].argmax(-1)
        free[view, threshold, best[view, threshold]] = False
        taken[view, threshold, detection] = IGNORED_OBJECT
        taken[..., detection][counts] = OBJECT
    return taken
