"""Run an artifact in its runtime beside the detector it was made of, and say what differs."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ...checkpoint import write_atomically
from ...data.dataset import DetectionData, Record
from ...data.pixels import read_pixels
from ...data.read import read_data
from ...detector import Detector, load
from ...errors import ConfigError, HsvdetError
from ...evaluate import evaluate_detections
from ...structures import Detections
from ..artifact import ArtifactHeader, write_header
from ..handover import certificate_files
from .agreement import Agreement, Candidates, Found, Rules, compare, failure
from .picture import draw_worst
from .probes import Probe, probes, spread
from .reference import Answer, Reference
from .seal import artifact_sha256, weights_sha256
from .tolerance import TOLERANCES, Tolerance

if TYPE_CHECKING:
    from .layers import Divergence

# Detections an image to look at: the score is lowered until there are so many, if need be.
_WANTED = 20
# Below this many a comparison says nothing.
_FEWEST = 20
_AP_SCORE = 0.001
_AT_ONCE = 8

_NOTHING = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

Artifact = Callable[[Sequence[np.ndarray], float], Sequence[Any]]


class ImageCheck(NamedTuple):
    """One image, the worse of two runs: alone, and with all the others. size: (height, width). reference,
    artifact: how many detections each has; agree: how many of them are one to one within the tolerance; ties: how
    many others rounding explains; differences: what is left, the worst first, in words. score_error, overlap,
    displacement: see `Agreement`."""

    image: str
    size: tuple[int, int]
    reference: int
    artifact: int
    agree: int
    ties: int
    differences: tuple[str, ...]
    score_error: float
    overlap: float
    displacement: float


class PrecisionCheck(NamedTuple):
    """Average precision of both on the same annotated images. truth: "annotations", or "detector" where there are
    none: then the detector's own detections are what is to be found, and its AP is 1."""

    truth: str
    images: int
    objects: int
    reference: float
    artifact: float

    @property
    def drop(self) -> float:
        return self.reference - self.artifact


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """passed: whether the artifact may be used. reasons: why not, in words; empty where it may.

    score: the threshold both were run at; lowered until there was enough to compare. precision: fp32, fp16 or
    int8, and the tolerance that belongs to it. diverges: the first layer that leaves eager's path, found only
    where the artifact failed, in formats that can be looked into. largest_float16: the largest value that fp16
    has to hold (65504 is the most it can), and the layer. artifact_sha256: of the artifact without its
    certificate. weights_sha256: of the detector's tensors. Nothing in it depends on the machine but rounding.
    """

    passed: bool
    reasons: tuple[str, ...]
    model: str
    target: str
    precision: str
    tolerance: Tolerance
    score: float
    images_from: str
    images: tuple[ImageCheck, ...]
    ap: PrecisionCheck
    largest_float16: tuple[str, float] | None
    diverges: Divergence | None
    artifact_sha256: str
    weights_sha256: str
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not a number is None."""
        content = dataclasses.asdict(self)
        content["tolerance"] = self.tolerance._asdict()
        content["images"] = [check._asdict() for check in self.images]
        content["ap"] = {**self.ap._asdict(), "drop": self.ap.drop}
        content["diverges"] = self.diverges and self.diverges._asdict()
        return _plain(content)

    def __str__(self) -> str:
        compared = sum(check.agree for check in self.images)
        ties = sum(check.ties for check in self.images)
        against = "annotations" if self.ap.truth == "annotations" else "the detector's own detections"
        lines = [
            f"{self.model} as {self.target} {self.precision}: {'certified' if self.passed else 'NOT certified'}",
            f"{len(self.images)} images ({self.images_from}), {compared} detections agree at score"
            f" {self.score:.3g}, {ties} ties",
        ]
        if self.images:
            lines.append(
                f"largest score error {max(check.score_error for check in self.images):.2g} of the score,"
                f" smallest IoU {min(check.overlap for check in self.images):.4f}"
            )
        lines.append(
            f"AP on {self.ap.images} images against {against}: {self.ap.reference:.4f} eager,"
            f" {self.ap.artifact:.4f} artifact"
        )
        if self.largest_float16:
            layer, value = self.largest_float16
            lines.append(f"largest float16 value {value:.4g} in {layer} (65504 is the limit)")
        lines += [f"- {reason}" for reason in self.reasons]
        return "\n".join(lines)


def certify(
    detector: Detector | str | PathLike[str],
    artifact: str | PathLike[str],
    data: DetectionData | str | PathLike[str] | None = None,
    *,
    split: str = "val",
    images: int = 12,
    evaluated: int = 200,
    tolerance: Tolerance | None = None,
) -> Certificate:
    """Compare an artifact with the detector it was made of; the certificate goes into the artifact, beside it as
    ARTIFACT.certificate.json, and what differs most as ARTIFACT.certificate.png (eager left, the artifact right).

    detector: or its checkpoint. data: validation images of the user's, with which it should be done; drawn scenes
    where none are given. images: how many of them to compare detection by detection, with ten more made of
    them. evaluated: on how many to measure AP. tolerance: that of the artifact's precision if not given.
    An artifact that fails says so in its header. Raises CheckpointError, ConfigError, DataError, SaveError.
    """
    from ... import runtime

    path = Path(artifact)
    runner = runtime.load(path)
    if path.suffix == ".onnx" and find_spec("onnx") is None:
        raise ConfigError(
            f"{path}: certifying an ONNX artifact needs onnx, not installed here: pip install onnx"
        )
    if not isinstance(detector, Detector):
        detector = load(detector)
    header = runner.header
    if data is not None and not isinstance(data, DetectionData):
        data = read_data(data, split, labels=detector.labels)
    if tolerance is None:
        if header.precision not in TOLERANCES:
            raise ConfigError(
                f"{path}: no tolerance is known for precision {header.precision!r}; there are"
                f" {', '.join(TOLERANCES)}."
            )
        tolerance = TOLERANCES[header.precision]
    certificate, tried, worst = examine(
        detector,
        header,
        lambda batch, score: runner(list(batch), score=score),
        data,
        images=images,
        evaluated=evaluated,
        tolerance=tolerance,
    )
    certificate = _sealed(certificate, detector, path, header, [worst.probe, *tried[:2]])
    _write(certificate, path, header, worst, detector.labels)
    return certificate


class Worst(NamedTuple):
    """The image with the largest difference, and what both found in it."""

    probe: Probe
    agreement: Agreement


def examine(
    detector: Detector,
    header: ArtifactHeader,
    artifact: Artifact,
    data: DetectionData | None,
    *,
    images: int,
    evaluated: int,
    tolerance: Tolerance,
) -> tuple[Certificate, list[Probe], Worst]:
    """The comparison alone, what was compared, and the worst of it.

    artifact: [H, W, 3] uint8 images and a score to Detections of each, of arrays or tensors.
    """
    detector = _at_size(detector, header.size)
    iou = 0.7 if header.iou is None else header.iou
    reference = Reference(detector, iou=iou, limit=header.limit, minimal=header.dynamic)
    tried = probes(data, images)
    answers = [reference.answer(probe.image) for probe in tried]
    score = _score(reference, answers, header.floor)
    checked = _compare_all(reference, tried, answers, artifact, score, tolerance)
    ap = _average_precision(reference, artifact, data, tried, answers, score, header.floor, evaluated)
    checks = tuple(_check(probe, agreement) for probe, agreement in zip(tried, checked, strict=True))
    worst = Worst(*max(zip(tried, checked, strict=True), key=lambda pair: _badness(pair[1])))
    reasons = [
        *_class_map(detector, header),
        *_preprocessing(detector, header),
        *_enough(checks, score, header.floor, tolerance),
        *_differences(checks, worst, tolerance),
        *_ap_drop(ap, tolerance),
    ]
    certificate = Certificate(
        passed=not reasons,
        reasons=tuple(reasons),
        model=header.model,
        target=header.target,
        precision=header.precision,
        tolerance=tolerance,
        score=score,
        images_from="drawn scenes" if data is None else f"the data's split {data.split}",
        images=checks,
        ap=ap,
        largest_float16=None,
        diverges=None,
        artifact_sha256="",
        weights_sha256="",
        versions={**header.versions, **_versions(header.target)},
    )
    return certificate, tried, worst


def _at_size(detector: Detector, size: tuple[int, int]) -> Detector:
    """A copy in float32 that takes images at the artifact's size."""
    preprocess = dataclasses.replace(detector.preprocess, size=tuple(size))
    if next(detector.net.parameters()).dtype is not torch.float32:
        raise ConfigError("A certificate compares with the float32 detector; load it from its checkpoint.")
    return dataclasses.replace(detector, preprocess=preprocess)


def _score(reference: Reference, answers: Sequence[Answer], floor: float) -> float:
    """A threshold that leaves about _WANTED detections an image: 0.25, or lower; where scores lie far apart."""
    found = [reference.detections(answer, floor).scores for answer in answers]
    scores = np.sort(np.concatenate(found))[::-1].astype(np.float64)
    wanted = _WANTED * len(answers)
    if (scores > 0.25).sum() >= wanted or not len(scores):
        return max(0.25, floor)
    near = scores[int(wanted * 0.9) : int(wanted * 1.1) + 1]
    gaps = near[:-1] / np.maximum(near[1:], np.finfo(np.float32).tiny)
    if gaps.max(initial=1) < 1.0001:  # fewer detections than wanted, or scores that are all the same
        return floor
    return float(math.sqrt(near[gaps.argmax()] * near[gaps.argmax() + 1]))


def _compare_all(
    reference: Reference,
    tried: Sequence[Probe],
    answers: Sequence[Answer],
    artifact: Artifact,
    score: float,
    tolerance: Tolerance,
) -> list[Agreement]:
    """Each image alone, then all of them in one call; the worse of the two for each. Where boxes are not judged,
    the two must still be alike."""
    labels = reference.detector.labels
    images = [probe.image for probe in tried]
    alone = [_attempt(artifact, [image], score)[0] for image in images]
    together = _attempt(artifact, images, score)
    agreements = []
    for answer, *both in zip(answers, alone, together, strict=True):
        expected = reference.detections(answer, score)
        refused = next((came for came in both if isinstance(came, str)), None)
        if refused is not None:
            agreements.append(failure(expected, refused))
            continue
        candidates = reference.candidates(answer, score * (1 - 2 * tolerance.score))
        rules = reference.rules(answer, score)
        if not tolerance.boxes and not _alike(*map(_found, both), rules, labels):
            what = "alone the artifact answers otherwise than among other images"
            agreements.append(failure(expected, what))
            continue
        compared = (compare(expected, _found(came), candidates, rules, tolerance, labels) for came in both)
        agreements.append(max(compared, key=_badness))
    return agreements


def _alike(alone: Found, together: Found, rules: Rules, labels: tuple[str, ...]) -> bool:
    """Whether most detections are the same. Where rounding is coarse, not all need be: a batch may sum in another
    order, and a sum then fall to the next of 256 levels."""
    itself = Candidates(*alone, np.arange(len(alone.scores)))
    same = len(compare(alone, together, itself, rules, TOLERANCES["fp16"], labels).pairs)
    return 2 * same >= max(len(alone.scores), len(together.scores))


def _attempt(artifact: Artifact, images: Sequence[np.ndarray], score: float) -> Sequence[Any]:
    """Detections of each image, or the words in which the runtime refused them."""
    try:
        answers = artifact(images, score)
    except HsvdetError:
        raise
    except Exception as error:  # every runtime has its own
        reason = " ".join(str(error).split())
        return [f"the runtime stops: {reason[-200:] or type(error).__name__}"] * len(images)
    if len(answers) != len(images):
        return [f"{len(answers)} answers to {len(images)} images"] * len(images)
    return answers


def _found(detections: Any) -> Found:
    return Found(*(np.asarray(part) for part in detections[:3]))


def _badness(agreement: Agreement) -> tuple[float, float, float]:
    worst = max((difference.size for difference in agreement.differences), default=0.0)
    return worst, agreement.score_error, 1 - agreement.overlap


def _check(probe: Probe, agreement: Agreement) -> ImageCheck:
    return ImageCheck(
        probe.name,
        (probe.image.shape[0], probe.image.shape[1]),
        len(agreement.reference.scores),
        len(agreement.artifact.scores),
        len(agreement.pairs),
        agreement.ties,
        tuple(difference.what for difference in agreement.differences),
        agreement.score_error,
        agreement.overlap,
        agreement.displacement,
    )


def _class_map(detector: Detector, header: ArtifactHeader) -> list[str]:
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


def _preprocessing(detector: Detector, header: ArtifactHeader) -> list[str]:
    """What the header says; what the graph does shows in its detections."""
    expected = json.loads(json.dumps(detector.preprocess.to_json()))
    came = json.loads(json.dumps(header.preprocess))
    wrong = [name for name in expected if name != "size" and came.get(name) != expected[name]]
    return [
        f"preprocessing: {name} is {came.get(name)}, the detector's is {expected[name]}" for name in wrong
    ]


def _enough(checks: Sequence[ImageCheck], score: float, floor: float, tolerance: Tolerance) -> list[str]:
    expected = sum(check.reference for check in checks)
    if expected < _FEWEST:
        return [
            f"nothing was compared: the detector finds {expected} objects in {len(checks)} images at score"
            f" {score:.3g}, and the artifact holds none under {floor:g}. Give images in which it finds something"
            " (--data), or train it first"
        ]
    share = sum(check.agree for check in checks) / expected
    if tolerance.boxes and share < tolerance.matched and not any(check.differences for check in checks):
        return [
            f"only {share:.0%} of {expected} detections can be told apart from ties: too few to say that the rest"
            " is right"
        ]
    return []


def _differences(checks: Sequence[ImageCheck], worst: Worst, tolerance: Tolerance) -> list[str]:
    wrong = [check for check in checks if check.differences]
    if not wrong or not (tolerance.boxes or math.isinf(_badness(worst.agreement)[0])):
        return []
    count = sum(len(check.differences) for check in wrong)
    total = sum(check.reference for check in checks)
    return [
        f"{count} differences in {len(wrong)} of {len(checks)} images, {total} detections; {worst.probe.name}:"
        f" {worst.agreement.differences[0].what}"
    ]


def _average_precision(
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
        for detections in _attempt(artifact, images[start : start + _AT_ONCE], score):
            boxes, scores, labels = _NOTHING if isinstance(detections, str) else _found(detections)
            sound = np.isfinite(boxes).all(1) & np.isfinite(scores) & (labels >= 0) & (labels < classes)
            found.append(_tensors(Found(boxes[sound], scores[sound], labels[sound])))
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


def _ap_drop(ap: PrecisionCheck, tolerance: Tolerance) -> list[str]:
    annotated = ap.truth == "annotations"
    most = tolerance.ap if annotated else tolerance.own
    if not ap.objects or ap.drop <= most:  # nothing to find is a reason of its own
        return []
    against = "annotations" if annotated else "the detector's own detections"
    return [
        f"AP against {against} falls from {ap.reference:.4f} to {ap.artifact:.4f} on {ap.images} images; at most"
        f" {most:g} is tolerated"
    ]


def _sealed(
    certificate: Certificate,
    detector: Detector,
    path: Path,
    header: ArtifactHeader,
    looked_at: Sequence[Probe],
) -> Certificate:
    """With hashes and, for ONNX, with what can be seen inside the graph; the first probe is searched."""
    reasons = list(certificate.reasons)
    largest = diverges = None
    if path.suffix == ".onnx":
        from .layers import look_inside

        largest, diverges = look_inside(
            _at_size(detector, header.size),
            path,
            [probe.image for probe in looked_at],
            dynamic=header.dynamic,
            precision=certificate.precision,
            search=bool(reasons),
        )
        if largest and largest.overflows:
            layer, value = largest
            reasons.append(f"float16 overflow: {value:.4g} in {layer}, 65504 is the most it can hold")
        if diverges:
            reasons.append(f"the first layer that diverges is {diverges.layer}: {diverges.what}")
    return dataclasses.replace(
        certificate,
        passed=not reasons,
        reasons=tuple(reasons),
        largest_float16=largest and tuple(largest),
        diverges=diverges,
        artifact_sha256=artifact_sha256(path),
        weights_sha256=weights_sha256(detector),
    )


def _write(
    certificate: Certificate,
    path: Path,
    header: ArtifactHeader,
    worst: Worst,
    labels: tuple[str, ...],
) -> None:
    write_header(path, dataclasses.replace(header, certificate=certificate.to_json()))
    text = json.dumps(certificate.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
    in_words, in_a_picture = certificate_files(path)
    write_atomically(in_words, text.encode())
    picture = io.BytesIO()
    draw_worst(worst.probe, worst.agreement, labels).save(picture, "PNG")
    write_atomically(in_a_picture, picture.getvalue())
    if not certificate.passed:
        logging.getLogger("hsvdet").warning("%s is not certified: %s", path, certificate.reasons[0])


def _versions(target: str) -> dict[str, str]:
    names = {"onnx": ["onnx", "onnxruntime"], "openvino": ["openvino"], "executorch": ["executorch"]}.get(
        target, []
    )
    return {name: metadata.version(name) for name in ["hsvdet", "torch", *names]}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
