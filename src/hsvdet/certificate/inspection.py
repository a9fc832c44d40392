"""Run an artifact in its runtime beside the detector it was made of, and say what differs."""

# pyright: strict

from __future__ import annotations

import dataclasses
import io
import json
import logging
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..data.dataset import DetectionData
from ..data.read import as_data
from ..detector import Detector
from ..errors import ConfigError
from ..files import write_atomically
from ..loading import as_detector
from ..postprocess import require_finite
from ..runtime.artifact import ArtifactHeader, certificate_files, read_artifact, write_header
from ..runtime.runner import Runner
from ..runtime.seal import sign
from ..targets import TARGETS
from . import reasons
from .agreement import Agreement
from .average_precision import average_precision
from .bias import measure_bias, of_bias
from .certificate import Certificate, ImageCheck, TieCheck
from .comparison import compare_all
from .hashes import weights_sha256
from .matching import Found
from .picture import Tried, draw_both, worst_of, worth_showing
from .precision import precision_of
from .probes import Probe, probes
from .reference import Artifact, Reference, score_to_compare_at
from .ties import Rounding
from .tolerance import TOLERANCES, Tolerance


def certify(
    detector: Detector | str | PathLike[str],
    artifact: str | PathLike[str],
    data: DetectionData | str | PathLike[str] | None = None,
    *,
    split: str = "val",
    images: int = 12,
    evaluated: int = 200,
    tolerance: Tolerance | None = None,
    key: str | PathLike[str] | None = None,
) -> Certificate:
    """Compare an artifact with the detector it was made of; the certificate goes into the artifact, beside it as
    ARTIFACT.certificate.json, and in a picture as ARTIFACT.certificate.png (eager left, the artifact right): the worst
    difference, or where all is well the image with the most detections.

    detector: or its checkpoint. data: validation images of the user's, with which it should be done; drawn scenes
    where none are given. images: how many of them to compare detection by detection, with ten more made of
    them. evaluated: on how many to measure AP. tolerance: that of the precision found in the artifact's graph if not
    given. key: a file with an Ed25519 private key (PEM) to sign the certificate with, so that
    `runtime.load(trusted_key=)` can tell elsewhere who made it. What the artifact's header says is compared with the
    detector, the graph or its answers, and never believed; size and options that may change after training
    (`Detector.with_options`) are its own, and the detector is given the same.
    An artifact that fails says so in its header. Raises CheckpointError, ConfigError, DataError, SaveError.
    """
    from .. import runtime

    path = Path(artifact)
    runner = runtime.load(path)
    if path.suffix == ".onnx" and find_spec("onnx") is None:
        raise ConfigError(
            f"{path}: certifying an ONNX artifact needs onnx, not installed here: pip install onnx"
        )
    header = runner.header
    detector = _as_exported(as_detector(detector), header)
    if data is not None:
        data = as_data(data, split, detector.labels)
    precision = precision_of(read_artifact(path))
    certificate, tried, shown, possible = examine(
        detector,
        header,
        lambda batch, score: runner(list(batch), score=score),
        data,
        images=images,
        evaluated=evaluated,
        tolerance=TOLERANCES[precision] if tolerance is None else tolerance,
        precision=precision,
    )
    against = reasons.of_outputs(_outputs(runner, tried, possible), header)
    certificate = _sealed(certificate, against, detector, path, header, [shown.probe, *tried[:2]])
    if key is not None:
        certificate = dataclasses.replace(certificate, signature=sign(certificate.seal, key))
    _write(certificate, path, header, shown, detector.labels)
    return certificate


def _as_exported(detector: Detector, header: ArtifactHeader) -> Detector:
    """With the artifact's options, of those that may change after training: it says them, and is judged by them."""
    told = {name: header.config[name] for name in detector.changeable() if name in header.config}
    return detector if told == detector.changeable() else detector.with_options(told)


def _outputs(runner: Runner, tried: Sequence[Probe], possible: Sequence[int]) -> list[reasons.Outputs]:
    """Of images at which the runtime does not stop; where it does is said elsewhere."""
    found: list[reasons.Outputs] = []
    for probe, most in zip(tried, possible, strict=True):
        try:
            boxes, scores, labels, count = (np.asarray(part)[0] for part in runner.run(probe.image[None]))
        except Exception:  # every runtime has its own
            continue
        size = probe.image.shape[0], probe.image.shape[1]
        found.append(reasons.Outputs(boxes, scores, labels, int(count), size, most))
    return found


class Examination(NamedTuple):
    """The certificate without hashes; the images that were compared, and the one to show; how many detections each of
    these could have at most."""

    certificate: Certificate
    tried: list[Probe]
    shown: Tried
    possible: list[int]


def examine(
    detector: Detector,
    header: ArtifactHeader,
    artifact: Artifact,
    data: DetectionData | None,
    *,
    images: int,
    evaluated: int,
    tolerance: Tolerance,
    precision: str,
) -> Examination:
    """The comparison alone. Raises NonFiniteError naming an image to which the detector itself answers NaN.

    artifact: [H, W, 3] uint8 images and a score to Detections of each, of arrays or tensors. precision: as found in its
    graph.
    """
    detector = _at_size(detector, header.size)
    iou = 0.7 if header.iou is None else header.iou
    reference = Reference(detector, iou=iou, max_detections=header.max_detections, minimal=header.dynamic)
    tried = probes(data, images)
    answers = [reference.answer(probe.image) for probe in tried]
    for probe, answer in zip(tried, answers, strict=True):
        require_finite(answer.prediction, [f"image {probe.name!r}"])
    own = [answer for probe, answer in zip(tried, answers, strict=True) if probe.kind == "image"]
    score = score_to_compare_at(reference, own, header.floor)
    compared = compare_all(reference, [probe.image for probe in tried], answers, artifact, score, tolerance)
    both = average_precision(reference, artifact, data, tried, answers, score, header.floor, evaluated)
    bias = measure_bias([_over(found, score) for found in both.expected], both.came, both.sizes)
    checks = tuple(
        _check(probe, agreement) for probe, agreement in zip(tried, compared.agreements, strict=True)
    )
    ties = _ties(checks, compared.rounding, tolerance)
    beside = [Tried(*one) for one in zip(tried, compared.agreements, strict=True)]
    worst = worst_of(beside)
    against = [
        *reasons.of_class_map(detector, header),
        *reasons.of_identity(detector, header),
        *reasons.of_precision(header, precision),
        *reasons.of_preprocessing(detector, header),
        *reasons.of_too_little(checks, score, header.floor),
        *reasons.of_ties(ties),
        *reasons.of_differences(checks, worst.probe.name, worst.agreement, tolerance),
        *reasons.of_average_precision(both.check, tolerance),
        *reasons.of_recall(both.recall, both.check.truth, tolerance),
        *of_bias(bias, tolerance),
    ]
    certificate = Certificate(
        passed=not against,
        reasons=tuple(against),
        model=header.model,
        target=header.target,
        precision=precision,
        tolerance=tolerance,
        score=score,
        images_from="drawn scenes" if data is None else f"the data's split {data.split}",
        images=checks,
        ties=ties,
        ap=both.check,
        recall=both.recall,
        bias=bias,
        largest_float16=None,
        diverges=None,
        artifact_sha256="",
        weights_sha256="",
        versions={**header.versions, **_versions(header.target)},
    )
    shown = worth_showing(beside, not against, tolerance)
    return Examination(certificate, tried, shown, [reference.most(answer) for answer in answers])


def _over(found: Found, score: float) -> Found:
    return Found(*(part[found.scores > score] for part in found))


def _at_size(detector: Detector, size: tuple[int, int]) -> Detector:
    """A copy in float32 that takes images at the artifact's size."""
    if next(detector.net.parameters()).dtype is not torch.float32:
        raise ConfigError("A certificate compares with the float32 detector; load it from its checkpoint.")
    return detector.resized(size)


def _check(probe: Probe, agreement: Agreement) -> ImageCheck:
    return ImageCheck(
        probe.name,
        probe.kind,
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


def _ties(checks: Sequence[ImageCheck], rounding: Rounding, tolerance: Tolerance) -> TieCheck:
    detections = sum(check.reference + check.artifact for check in checks)
    places = sum(check.ties for check in checks)
    return TieCheck(places, places / max(1, detections), tolerance.ties, rounding.score, rounding.pixels)


def _sealed(
    certificate: Certificate,
    others: Sequence[str],
    detector: Detector,
    path: Path,
    header: ArtifactHeader,
    looked_at: Sequence[Probe],
) -> Certificate:
    """With hashes and, for ONNX, with what can be seen inside the graph; the first probe is searched. others: reasons
    that are known already."""
    against = [*certificate.reasons, *others]
    largest = diverges = None
    if path.suffix == ".onnx":
        from .divergence import look_inside

        largest, diverges = look_inside(
            _at_size(detector, header.size),
            path,
            [probe.image for probe in looked_at],
            dynamic=header.dynamic,
            precision=certificate.precision,
            search=bool(against),
        )
        if largest and largest.overflows:
            layer, value = largest
            against.append(f"float16 overflow: {value:.4g} in {layer}, 65504 is the most it can hold")
        if diverges:
            against.append(f"the first layer that diverges is {diverges.layer}: {diverges.what}")
    return dataclasses.replace(
        certificate,
        passed=not against,
        reasons=tuple(against),
        largest_float16=largest and tuple(largest),
        diverges=diverges,
        artifact_sha256=read_artifact(path).sha256,
        weights_sha256=weights_sha256(detector),
    )


def _write(
    certificate: Certificate,
    path: Path,
    header: ArtifactHeader,
    shown: Tried,
    labels: tuple[str, ...],
) -> None:
    write_header(path, dataclasses.replace(header, certificate=certificate.to_json()))
    text = json.dumps(certificate.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
    in_words, in_a_picture = certificate_files(path)
    write_atomically(in_words, text.encode())
    picture = io.BytesIO()
    draw_both(*shown, labels).save(picture, "PNG")
    write_atomically(in_a_picture, picture.getvalue())
    if not certificate.passed:
        logging.getLogger("hsvdet").warning("%s is not certified: %s", path, certificate.reasons[0])


def _versions(target: str) -> dict[str, str]:
    names = dict.fromkeys(["hsvdet", "torch", *TARGETS[target].runs])
    return {name: metadata.version(name) for name in names}
