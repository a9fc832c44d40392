"""What non-maximum suppression takes from the true boxes themselves: a ceiling for every detector read with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .dataset import Record
from .overlap import occlusion, overlaps

OVERLAPS = (0.5, 0.6, 0.7, 0.8)
ORDERS = 5


class Deleted(NamedTuple):
    """iou: of two boxes that overlap more, suppression deletes the weaker. class_wise, agnostic: the share of
    true boxes deleted, within each class and among all boxes; NaN where there are no boxes."""

    iou: float
    class_wise: float
    agnostic: float

    def to_json(self) -> dict[str, float | None]:
        return {name: None if math.isnan(value) else value for name, value in self._asdict().items()}


def nms_ceiling(records: Iterable[Record], ious: Sequence[float] = OVERLAPS) -> tuple[Deleted, ...]:
    """Greedy suppression of true boxes whose scores are random: mean of five orders, the same at every call.

    Crowd regions are left out. A detector that finds exactly the true boxes loses as many, whatever it is.
    """
    random = np.random.default_rng(0)
    thresholds = np.array(ious)[:, None, None]
    total, deleted = 0, np.zeros((2, len(ious)))
    for record in records:
        boxes, labels = record.boxes[~record.crowd], record.labels[~record.crowd]
        total += len(boxes)
        close = occlusion(boxes) > min(*OVERLAPS, *ious)  # the others are never deleted
        boxes, labels = boxes[close], labels[close]
        overlap = overlaps(boxes, boxes)
        np.fill_diagonal(overlap, 0)
        agnostic = overlap > thresholds
        beats = np.stack([agnostic & (labels[:, None] == labels), agnostic])  # [2, T, N, N]
        for _ in range(ORDERS):
            deleted += _deleted(beats, random.permutation(len(labels)))
    shares = deleted / (ORDERS * total) if total else np.full_like(deleted, np.nan)
    return tuple(Deleted(float(iou), *column) for iou, column in zip(ious, shares.T.tolist(), strict=True))


def _deleted(beats: np.ndarray, order: np.ndarray) -> np.ndarray:
    """How many of the boxes, strongest first in `order`, a stronger one that stays overlaps too much.
    beats: [..., N, N], symmetric."""
    kept = np.zeros(beats.shape[:-1], dtype=bool)
    for box in order:
        kept[..., box] = ~(beats[..., box, :] & kept).any(-1)
    return (~kept).sum(-1)


def deleted_text(rows: Sequence[Deleted]) -> str:
    """For people: "15.2, 10.9 % of the true boxes at IoU 0.5, 0.6 within classes, 28.6, 18.2 % across them"."""

    def listed(values: Iterable[float], form: str) -> str:
        return ", ".join(format(value, form) for value in values)

    ious, own, agnostic = zip(*rows, strict=True)
    return (
        f"{listed((100 * share for share in own), '.1f')} % of the true boxes at IoU {listed(ious, 'g')} within"
        f" classes, {listed((100 * share for share in agnostic), '.1f')} % across them"
    )
