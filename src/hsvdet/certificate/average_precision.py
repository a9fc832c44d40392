"""Average precision and recall of the detector and of its artifact, on the same images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from ..data.dataset import DetectionData, Record
from ..data.pixels import read_pixels
from ..detector import Detector
from ..evaluate import Evaluation, evaluate_detections
from ..evaluate.recall import RecallBin
from ..structures import Detections
from .certificate import PrecisionCheck, RecallCheck
from .matching import Found
from .probes import Probe, spread
from .reference import Answer, Artifact, Reference, as_found, attempt

_AP_SCORE = 0.001
_AT_ONCE = 8


class Evaluated(NamedTuple):
    """check, recall: what was measured; expected, came: both runs in each image, down to a low score. sizes: (height,
    width)."""

    check: PrecisionCheck
    recall: tuple[RecallCheck, ...]
    expected: list[Found]
    came: list[Found]
    sizes: list[tuple[int, int]]


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
) -> Evaluated:
    """Against the annotations, or, where there are none, against what the detector finds in the images tried, grey and
    noise left out."""
    low, classes = max(floor, _AP_SCORE), len(reference.detector.labels)
    if data is None or not any(len(record.labels) for record in data.records):
        real = [i for i, probe in enumerate(tried) if probe.kind != "no image"]
        tried, answers = [tried[i] for i in real], [answers[i] for i in real]
        truth = {str(i): reference.detections(answer, score) for i, answer in enumerate(answers)}
        as_data = _as_truth(tried, truth, reference.detector)
        own = [reference.detections(answer, min(low, score)) for answer in answers]
        came = _all(artifact, [probe.image for probe in tried], min(low, score), classes)
        both = [_evaluated(as_data, list(truth), found) for found in (own, came)]
        check = PrecisionCheck("detector", len(tried), both[0].objects, both[0].ap, both[1].ap)
        return Evaluated(check, _recall(*both), own, came, [answer.size for answer in answers])
    records = spread(data.records, evaluated)
    part = dataclasses.replace(data, records=records)
    own, came, sizes = [], [], []
    for start in range(0, len(records), _AT_ONCE):
        pictures = [read_pixels(record.path) for record in records[start : start + _AT_ONCE]]
        own += [reference.detections(reference.answer(picture), low) for picture in pictures]
        came += _all(artifact, pictures, low, classes)
        sizes += [(picture.shape[0], picture.shape[1]) for picture in pictures]
    both = [_evaluated(part, [record.id for record in records], found) for found in (own, came)]
    check = PrecisionCheck("annotations", len(records), both[0].objects, both[0].ap, both[1].ap)
    return Evaluated(check, _recall(*both), own, came, sizes)


def _evaluated(data: DetectionData, ids: Sequence[int | str], found: Sequence[Found]) -> Evaluation:
    return evaluate_detections(data, {i: _tensors(one) for i, one in zip(ids, found, strict=True)})


def _recall(reference: Evaluation, artifact: Evaluation) -> tuple[RecallCheck, ...]:
    one, other = reference.recalls, artifact.recalls
    return (
        *(_bin("size", *both) for both in zip(one.by_size, other.by_size, strict=True)),
        *(_bin("occlusion", *both) for both in zip(one.occlusion, other.occlusion, strict=True)),
    )


def _bin(by: Literal["size", "occlusion"], one: RecallBin, other: RecallBin) -> RecallCheck:
    recalls = one.recall_at_fppi1, other.recall_at_fppi1, one.recall, other.recall
    return RecallCheck(by, one.low, one.high, one.objects, *recalls)


def _all(artifact: Artifact, images: Sequence[np.ndarray], score: float, classes: int) -> list[Found]:
    """Nothing where the runtime stops, and without detections that are none (not finite, of no class): all are
    reasons of their own, and no evaluation takes them."""
    found = []
    for start in range(0, len(images), _AT_ONCE):
        for detections in attempt(artifact, images[start : start + _AT_ONCE], score):
            boxes, scores, labels = _NOTHING if isinstance(detections, str) else as_found(detections)
            valid = np.isfinite(boxes).all(1) & np.isfinite(scores) & (labels >= 0) & (labels < classes)
            found.append(Found(boxes[valid], scores[valid], labels[valid]))
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
