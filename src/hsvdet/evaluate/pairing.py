"""Annotations and detections of one image side by side, in float64, and who matches whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..data.dataset import DetectionData, Record
from ..data.overlap import overlaps
from ..errors import DataError, NonFiniteError, did_you_mean
from ..structures import Detections

UNMATCHED, IGNORED = -1, -2
MATCHING_IOU = 0.5


class Pair(NamedTuple):
    """One image. truth: [N, 4] xyxy pixels, truth_labels, crowd, area: [N], visibility: [N] or None.
    boxes: [D, 4] xyxy pixels, scores: [D] descending, labels: [D]."""

    truth: np.ndarray
    truth_labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    visibility: np.ndarray | None
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def pair_up(data: DetectionData, detections: Mapping[int | str, Detections]) -> list[Pair]:
    """One Pair per record, in the order COCO breaks ties between images: by id when all ids are numbers,
    else as the data set lists them. An image without an entry has no detections.

    Raises DataError for an empty data set, an image the data set does not have and a class out of range;
    NonFiniteError for a NaN or infinite score or box (pycocotools would count a NaN score as a perfect one).
    """
    records = in_order(data.records)
    if not records:
        raise DataError(f"Evaluation expects images, {data.root} has none in split {data.split!r}.")
    known = {record.id for record in records}
    if len(known) < len(records):
        raise DataError(f"{data.root}: {len(records) - len(known)} image ids of {data.split!r} occur twice.")
    for image_id in detections:
        if image_id not in known:
            near = did_you_mean(image_id, map(str, known)) if isinstance(image_id, str) else ""
            raise DataError(f"Detections for image {image_id!r}, which {data.root} does not have.{near}")
    return [_pair(record, detections.get(record.id), len(data.labels)) for record in records]


def in_order(records: Sequence[Record]) -> list[Record]:
    """As COCO breaks ties between images: by id when all ids are numbers, else as they are."""
    numbered = all(isinstance(record.id, int) for record in records)
    return sorted(records, key=lambda record: record.id) if numbered else list(records)


def _pair(record: Record, found: Detections | None, classes: int) -> Pair:
    if found is None:
        boxes, scores, labels = np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64)
    else:
        boxes, scores = (part.detach().cpu().double().numpy() for part in (found.boxes, found.scores))
        labels = found.labels.detach().cpu().numpy()
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            raise NonFiniteError(f"Detections of image {record.id!r} hold a NaN or infinite score or box.")
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise DataError(
                f"Detections of image {record.id!r} name class {labels.max()}, the data set has {classes}"
                " classes. Map the detector's classes to the data set's by name first."
            )
        order = np.argsort(-scores, kind="stable")
        if record.labelled is not None:
            order = order[record.labelled[labels[order]]]
        boxes, scores, labels = boxes[order], scores[order], labels[order]
    visibility = None if record.visibility is None else np.asarray(record.visibility, dtype=np.float64)
    pair = Pair(
        np.asarray(record.boxes, dtype=np.float64).reshape(-1, 4),
        np.asarray(record.labels, dtype=np.int64),
        np.asarray(record.crowd, dtype=bool),
        np.asarray(record.area, dtype=np.float64),
        visibility,
        boxes,
        scores,
        labels,
    )
    if record.labelled is None:
        return pair
    known = record.labelled[pair.truth_labels]
    return pair._replace(
        truth=pair.truth[known],
        truth_labels=pair.truth_labels[known],
        crowd=pair.crowd[known],
        area=pair.area[known],
        visibility=None if visibility is None else visibility[known],
    )


def match(overlap: np.ndarray, crowd: np.ndarray, threshold: float) -> np.ndarray:
    """COCO's greedy matching: [D] index of the object each detection takes, or UNMATCHED, or IGNORED when
    only a crowd region is under it. overlap: [D, N], by descending score, 0 where the class is wrong.

    Each detection takes the free object it overlaps most (the later one when equal, as COCO does). So what the
    first n detections take does not depend on those after them.
    """
    matches = np.full(len(overlap), UNMATCHED)
    near = overlap >= threshold
    matches[near[:, crowd].any(1)] = IGNORED
    detections, objects = np.nonzero(near & ~crowd)
    by_overlap = np.lexsort((-objects, -overlap[detections, objects], detections))
    taken: set[int] = set()
    last = -1
    for detection, best in zip(detections[by_overlap].tolist(), objects[by_overlap].tolist(), strict=True):
        if detection != last and best not in taken:
            matches[detection] = best
            taken.add(best)
            last = detection
    return matches


def match_within_class(pair: Pair) -> np.ndarray:
    """`match` among boxes of the same class: the true positives of average precision at IoU 0.5."""
    overlap = overlaps(pair.boxes, pair.truth, pair.crowd)
    return match(overlap * (pair.labels[:, None] == pair.truth_labels), pair.crowd, MATCHING_IOU)
