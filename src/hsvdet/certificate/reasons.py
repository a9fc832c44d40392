"""Why an artifact may not be used, in words."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.overlap import overlaps
from ..detector import Detector
from ..runtime.artifact import ArtifactHeader
from .agreement import Agreement
from .certificate import ImageCheck, PrecisionCheck, RecallCheck, TieCheck
from .tolerance import Tolerance

# What rounding does to the overlap of small boxes that are computed in float32, and in bfloat16.
_FINE, _COARSE = 1e-3, 0.05
# Below this many detections a comparison says nothing.
_FEWEST = 20
# Of fewer objects recall is a matter of one or two of them.
_FEWEST_OBJECTS = 50


class Outputs(NamedTuple):
    """One image's rows as the artifact gives them. size: its (height, width). most: detections there could be."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    counted: int
    size: tuple[int, int]
    most: int


def of_class_map(detector: Detector, header: ArtifactHeader) -> list[str]:
    if tuple(header.labels) != tuple(detector.labels):
        if len(header.labels) != len(detector.labels):
            return [f"class map: {len(header.labels)} classes, the detector has {len(detector.labels)}"]
        i = next(i for i, name in enumerate(detector.labels) if header.labels[i] != name)
        return [f"class map: label {i} is {header.labels[i]!r}, the detector's is {detector.labels[i]!r}"]
    if tuple(header.category_ids) != tuple(detector.category_ids):
        pairs = zip(header.category_ids, detector.category_ids, detector.labels, strict=False)
        came, expected, name = next((pair for pair in pairs if pair[0] != pair[1]), (None, None, "?"))
        return [f"class map: {name!r} has category id {came}, the detector's is {expected}"]
    return []


def of_identity(detector: Detector, header: ArtifactHeader) -> list[str]:
    """What an artifact says of its weights is the checkpoint's to say."""
    expected = json.loads(json.dumps(detector.header()))
    came = json.loads(json.dumps(header.to_json()))
    return [
        f"header: its {name} is {shortened(came[name])}, the detector's is {shortened(expected[name])}"
        for name in ("model", "config", "licence", "source")
        if came[name] != expected[name]
    ]


def of_precision(header: ArtifactHeader, found: str) -> list[str]:
    if header.precision == found:
        return []
    return [f"header: its precision is {header.precision}, its graph is {found} and is judged by that"]


def of_outputs(outputs: Sequence[Outputs], header: ArtifactHeader) -> list[str]:
    """What the header promises of every answer."""
    against = []
    rows = {len(one.scores) for one in outputs}
    # Where rows are left, no more are needed: a runtime may have fewer candidates than there are predictions.
    short = any(
        len(one.scores) < min(header.max_detections, one.most) and (one.scores > 0).all() for one in outputs
    )
    if short or max(rows, default=0) > header.max_detections:
        against.append(
            f"header: {header.max_detections} detections an image at most, the artifact has {max(rows)} rows"
        )
    finite = [one for one in outputs if np.isfinite(one.scores).all()]  # the others are a reason of their own
    wrong = [one for one in finite if one.counted != (one.scores > header.score).sum()]
    if wrong:
        against.append(
            f"count: {wrong[0].counted} rows are counted, {(wrong[0].scores > header.score).sum()} pass the header's"
            f" score of {header.score:g}; so in {len(wrong)} of {len(outputs)} images"
        )
    positive = np.concatenate([one.scores[one.scores > 0] for one in finite] or [np.zeros(0)])
    if len(positive) and positive.min() < header.floor * (1 - 1e-6):
        against.append(
            f"header: its floor is {header.floor:g}, a score of {positive.min():.3g} is in the output"
        )
    if header.iou is not None:
        over = max((_most_overlap(one) for one in finite), default=0.0)
        if over > header.iou + (_COARSE if header.precision == "bf16" else _FINE):
            against.append(
                f"header: suppression is at IoU {header.iou:g}, two boxes of a class overlap by {over:.4f}"
            )
    return against


def _most_overlap(one: Outputs) -> float:
    """Between two boxes of a class of one answer, those left out that were cut off at an edge after suppression."""
    used = one.scores > 0
    boxes, labels = one.boxes[used].astype(np.float64), one.labels[used]
    height, width = one.size
    whole = (boxes[:, :2] > 0).all(1) & (boxes[:, 2:] < [width, height]).all(1)
    boxes, labels = boxes[whole], labels[whole]
    both = np.where(labels[:, None] == labels, overlaps(boxes, boxes), 0.0)
    np.fill_diagonal(both, 0.0)
    return float(both.max(initial=0.0))


def shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def of_preprocessing(detector: Detector, header: ArtifactHeader) -> list[str]:
    """What the header says; what the graph does shows in its detections."""
    expected = json.loads(json.dumps(detector.preprocess.to_json()))
    came = json.loads(json.dumps(header.preprocess))
    wrong = [name for name in expected if name != "size" and came.get(name) != expected[name]]
    return [
        f"preprocessing: {name} is {came.get(name)}, the detector's is {expected[name]}" for name in wrong
    ]


def of_too_little(checks: Sequence[ImageCheck], score: float, floor: float) -> list[str]:
    """Of images as they are: what is detected in others, or in noise, proves nothing."""
    own = [check for check in checks if check.kind == "image"]
    expected = sum(check.reference for check in own)
    if expected < _FEWEST:
        return [
            f"nothing was compared: the detector finds {expected} objects in {len(own)} images at score"
            f" {score:.3g}, and the artifact holds none under {floor:g}. Give images in which it finds something"
            " (--data), or train it first"
        ]
    return []


def of_ties(ties: TieCheck) -> list[str]:
    """A right artifact falls the other way here and there. One that is wrong everywhere by as little as its rounding
    does so at each place where it can."""
    if ties.share <= ties.most:
        return []
    return [
        f"{ties.places} detections, {ties.share:.1%}, would be ties within the rounding; with more than"
        f" {ties.most:.0%} the artifact cannot be told from another detector"
    ]


def of_differences(
    checks: Sequence[ImageCheck], name: str, worst: Agreement, tolerance: Tolerance
) -> list[str]:
    """name: of the image with the worst agreement."""
    wrong = [check for check in checks if check.differences]
    if not wrong or not (tolerance.boxes or math.isinf(worst.severity[0])):
        return []
    # What agrees elsewhere, in noise for one, does not make up for differences in images as they are.
    own = [check for check in checks if check.kind == "image"]
    borne = all(_differences(part) <= tolerance.differing * _detections(part) for part in (own, checks))
    if borne and not math.isinf(worst.severity[0]):
        return []
    return [
        f"{_differences(checks)} differences in {len(wrong)} of {len(checks)} images, {_detections(checks)} detections;"
        f" {name}: {worst.differences[0].what}"
    ]


def _differences(checks: Sequence[ImageCheck]) -> int:
    return sum(len(check.differences) for check in checks)


def _detections(checks: Sequence[ImageCheck]) -> int:
    return sum(check.reference for check in checks)


def of_average_precision(ap: PrecisionCheck, tolerance: Tolerance) -> list[str]:
    annotated = ap.truth == "annotations"
    most = tolerance.ap if annotated else tolerance.own
    if not ap.objects or ap.drop <= most:  # nothing to find is a reason of its own
        return []
    against = "annotations" if annotated else "the detector's own detections"
    return [
        f"AP against {against} falls from {ap.reference:.4f} to {ap.artifact:.4f} on {ap.images} images; at most"
        f" {most:g} is tolerated"
    ]


def of_recall(recall: Sequence[RecallCheck], truth: str, tolerance: Tolerance) -> list[str]:
    """AP hardly sees what happens to a tenth of the objects, if they are the small ones or those that others hide.
    truth: as of `PrecisionCheck`."""
    most = tolerance.recall if truth == "annotations" else tolerance.own
    lost = [check for check in recall if check.objects >= _FEWEST_OBJECTS and check.loss > most + 1e-9]
    return [
        f"recall of objects by {check.by}, {check.which}: falls from {check.reference:.3f} to {check.artifact:.3f} at"
        f" one false positive an image, from {check.reference_at_any_score:.3f} to"
        f" {check.artifact_at_any_score:.3f} at any score, of {check.objects} objects; at most {most:g} is tolerated"
        for check in lost
    ]
