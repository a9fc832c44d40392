"""COCO's average precision of many resamples of the same images: matched once, then weighted sums.

A resample gives each image a weight, how often it was drawn. Of a precision-recall curve only the true positives
matter: the precision at the others is that at the next true positive or less. They are few; of all other detections
only their running number is needed, and that does not hang on the overlap.
"""

# pyright: strict

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.overlap import occlusion, overlaps
from ..evaluate.average_precision import COCO_DETECTIONS, RECALL_STEPS
from ..evaluate.pairing import Pair
from .coco_matches import OBJECT, coco_matches

OVERLAPS = np.linspace(0.5, 0.95, 10)
AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}


class Matched(NamedTuple):
    """One class on all images. image: [D] int64, the image of each detection, by descending score. inside: [A, D] bool,
    whether it counts as wrong, when it takes nothing, in each range of AREAS. taken: of each view and overlap the
    positions of the detections that take something, and whether it counts. objects: [V, I], of each image."""

    image: np.ndarray
    inside: np.ndarray
    taken: list[list[tuple[np.ndarray, np.ndarray]]]
    objects: np.ndarray


def match_all(pairs: Sequence[Pair], classes: int, edges: Sequence[float]) -> list[Matched]:
    """Of each class. The views are the ranges of AREAS, then the bins of occlusion between `edges`: [low, high), the
    last one closed. As COCO has it, only the strongest 100 of an image and class take part."""
    parts: dict[int, list[tuple[np.ndarray, ...]]] = {label: [] for label in range(classes)}
    for number, pair in enumerate(pairs):
        ignored = _left_out(pair, edges)
        for label in np.unique(np.concatenate([pair.labels, pair.truth_labels])).tolist():
            found = np.flatnonzero(pair.labels == label)[:COCO_DETECTIONS]
            own = pair.truth_labels == label
            crowd = pair.crowd[own]
            overlap = overlaps(pair.boxes[found], pair.truth[own], crowd)
            taken = coco_matches(overlap, crowd, ignored[:, own], OVERLAPS)
            area = (pair.boxes[found, 2:] - pair.boxes[found, :2]).prod(-1)
            inside = np.stack([(area >= low) & (area <= high) for low, high in AREAS.values()])
            objects = (~ignored[:, own]).sum(1)
            parts[label].append((np.array(number), pair.scores[found], inside, taken, objects))
    return [_joined(part, len(pairs), len(AREAS) + len(edges) - 1) for part in parts.values()]


def _left_out(pair: Pair, edges: Sequence[float]) -> np.ndarray:
    """[V, N] bool: the objects that do not count."""
    occluded = np.zeros(len(pair.crowd))
    occluded[~pair.crowd] = occlusion(pair.truth[~pair.crowd])
    counting = [(pair.area >= low) & (pair.area <= high) for low, high in AREAS.values()]
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        below = occluded <= high if high == edges[-1] else occluded < high
        counting.append((occluded >= low) & below)
    return ~np.stack(counting) | pair.crowd


def _joined(parts: list[tuple[np.ndarray, ...]], images: int, views: int) -> Matched:
    objects = np.zeros((views, images))
    if not parts:
        nothing = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
        return Matched(
            nothing[0], np.zeros((len(AREAS), 0), bool), [[nothing] * len(OVERLAPS)] * views, objects
        )
    for number, _, _, _, count in parts:
        objects[:, number] = count
    image = np.concatenate([np.full(len(scores), number) for number, scores, _, _, _ in parts])
    order = np.argsort(-np.concatenate([part[1] for part in parts]), kind="stable")
    inside = np.concatenate([part[2] for part in parts], 1)[:, order]
    taken = np.concatenate([part[3] for part in parts], 2)[..., order]
    sparse: list[list[tuple[np.ndarray, np.ndarray]]] = []
    for view in taken:
        places = [np.flatnonzero(row) for row in view]
        sparse.append([(place, row[place] == OBJECT) for place, row in zip(places, view, strict=True)])
    return Matched(image[order], inside, sparse, objects)


def average_precision(matched: Sequence[Matched], weights: np.ndarray) -> np.ndarray:
    """[V, T, R]: of each view and overlap, mean over the classes that have objects in the resample; NaN where none has.

    weights: [I, R], how often each resample has each image."""
    by_class = np.stack([_of_class(one, weights) for one in matched])
    known = ~np.isnan(by_class)
    total = np.where(known, by_class, 0).sum(0)
    return np.divide(total, known.sum(0), out=np.full_like(total, np.nan), where=known.any(0))


def _of_class(matched: Matched, weights: np.ndarray) -> np.ndarray:
    """[V, T, R]"""
    drawn = weights[matched.image]  # [D, R]
    counted = [(drawn * inside[:, None]).cumsum(0) for inside in matched.inside]
    objects = matched.objects @ weights  # [V, R]
    found = np.zeros((len(matched.taken), len(OVERLAPS), weights.shape[1]))
    for view, row in enumerate(matched.taken):
        area = view if view < len(AREAS) else 0
        for threshold, (place, right) in enumerate(row):
            found[view, threshold] = _area_under(
                drawn[place], right, matched.inside[area, place], counted[area][place], objects[view]
            )
    return found


def _area_under(
    drawn: np.ndarray, right: np.ndarray, inside: np.ndarray, counted: np.ndarray, objects: np.ndarray
) -> np.ndarray:
    """[R]: mean precision over RECALL_STEPS. Of the detections that take something: drawn: [K, R], how often; right:
    [K], whether it counts; inside: [K], whether they are among `counted` [K, R], the detections up to each. objects:
    [R], how many there are to find."""
    # What takes an object counts whatever its area, what takes an ignored one never does.
    correction = right.astype(np.int8) - inside
    if correction.any():
        counted = counted + (drawn * correction[:, None]).cumsum(0)
    true, positive = drawn[right].cumsum(0), counted[right]
    precision = np.divide(true, positive, out=np.zeros_like(true), where=positive > 0)
    precision = np.maximum.accumulate(precision[::-1], 0)[::-1]
    recall = np.divide(true, objects, out=np.zeros_like(true), where=objects > 0)
    reached = np.searchsorted(RECALL_STEPS, recall, "right")  # recall steps up to each
    gained = np.diff(reached, prepend=0, axis=0)
    return np.where(objects > 0, (precision * gained).sum(0) / len(RECALL_STEPS), np.nan)
