"""Why an artifact may not be used, in words."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from ..detector import Detector
from ..runtime.artifact import ArtifactHeader
from .agreement import Agreement
from .certificate import ImageCheck, PrecisionCheck, TieCheck
from .tolerance import Tolerance

# Below this many detections a comparison says nothing.
_FEWEST = 20


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


def of_preprocessing(detector: Detector, header: ArtifactHeader) -> list[str]:
    """What the header says; what the graph does shows in its detections."""
    expected = json.loads(json.dumps(detector.preprocess.to_json()))
    came = json.loads(json.dumps(header.preprocess))
    wrong = [name for name in expected if name != "size" and came.get(name) != expected[name]]
    return [
        f"preprocessing: {name} is {came.get(name)}, the detector's is {expected[name]}" for name in wrong
    ]


def of_too_little(checks: Sequence[ImageCheck], score: float, floor: float) -> list[str]:
    expected = sum(check.reference for check in checks)
    if expected < _FEWEST:
        return [
            f"nothing was compared: the detector finds {expected} objects in {len(checks)} images at score"
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
    count = sum(len(check.differences) for check in wrong)
    total = sum(check.reference for check in checks)
    if count <= tolerance.differing * total and not math.isinf(worst.severity[0]):
        return []
    return [
        f"{count} differences in {len(wrong)} of {len(checks)} images, {total} detections; {name}:"
        f" {worst.differences[0].what}"
    ]


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
