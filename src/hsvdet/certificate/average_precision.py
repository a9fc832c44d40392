"""Average precision of the detector and of its artifact, on the same images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..data.dataset import DetectionData, Record
from ..data.pixels import read_pixels
from ..detector import Detector
from ..evaluate import evaluate_detections
from ..structures import Detections
from .certificate import PrecisionCheck
from .matching import Found
from .probes import Probe, spread
from .reference import Answer, Artifact, Reference, as_found, attempt

_AP_SCORE = 0.001
_AT_ONCE = 8

_NOTHING = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def average_precision(
    reference: Reference,
    artifact: Artifact,
    data: DetectionData | None,
    tried: Sequence[Probe],
    answers: Sequence[Answer],
    score: float,
    floor: float,
    evaluated: int,
) -> PrecisionCheck:
    """Against the annotations, or, where there are none, against what the detector finds in the images tried."""
    low, classes = max(floor, _AP_SCORE), len(reference.detector.labels)
    if data is None or not any(len(record.labels) for record in data.records):
        truth = {str(i): reference.detections(answer, score) for i, answer in enumerate(answers)}
        as_data = _as_truth(tried, truth, reference.detector)
        own = [_tensors(reference.detections(answer, min(low, score))) for answer in answers]
        came = _all(artifact, [probe.image for probe in tried], min(low, score), classes)
        both = [evaluate_detections(as_data, dict(zip(truth, found, strict=True))) for found in (own, came)]
        return PrecisionCheck("detector", len(tried), both[0].objects, both[0].ap, both[1].ap)
    records = spread(data.records, evaluated)
    part = dataclasses.replace(data, records=records)
    found: tuple[dict, dict] = {}, {}
    for start in range(0, len(records), _AT_ONCE):
        chunk = records[start : start + _AT_ONCE]
        pictures = [read_pixels(record.path) for record in chunk]
        came = _all(artifact, pictures, low, classes)
        for record, picture, detections in zip(chunk, pictures, came, strict=True):
            found[0][record.id] = _tensors(reference.detections(reference.answer(picture), low))
            found[1][record.id] = detections
    both = [evaluate_detections(part, detections) for detections in found]
    return PrecisionCheck("annotations", len(records), both[0].objects, both[0].ap, both[1].ap)


def _all(artifact: Artifact, images: Sequence[np.ndarray], score: float, classes: int) -> list[Detections]:
    """Nothing where the runtime stops, and without detections that are none (not finite, of no class): all are
    reasons of their own, and no evaluation takes them."""
    found = []
    for start in range(0, len(images), _AT_ONCE):
        for detections in attempt(artifact, images[start : start + _AT_ONCE], score):
            boxes, scores, labels = _NOTHING if isinstance(detections, str) else as_found(detections)
            valid = np.isfinite(boxes).all(1) & np.isfinite(scores) & (labels >= 0) & (labels < classes)
            found.append(_tensors(Found(boxes[valid], scores[valid], labels[valid])))
    return found


def _tensors(found: Found) -> Detections:
    return Detections(*(torch.from_numpy(np.ascontiguousarray(part)) for part in found))


def _as_truth(tried: Sequence[Probe], found: dict[str, Found], detector: Detector) -> DetectionData:
    records = []
    for probe, (name, detections) in zip(tried, found.items(), strict=True):
        boxes = detections.boxes.astype(np.float32)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        size = (probe.image.shape[0], probe.image.shape[1])
        crowd = np.zeros(len(boxes), bool)
        records.append(Record(name, probe.name, size, boxes, detections.labels, crowd, area))
    return DetectionData(records, detector.labels, detector.category_ids, Path("."), "val", "coco")
