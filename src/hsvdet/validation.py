"""How good a detector is on a data set: the same code for `hsvdet val` and at the end of each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from os import PathLike
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import models
from .boxes import cxcywh_to_xyxy
from .data.dataset import DetectionData
from .data.loader import EvaluationLoader, EvaluationSet
from .data.read import read_data
from .detector import Detector
from .devices import autocast, default_workers, find_device, move
from .errors import ConfigError
from .evaluate import Evaluation, duplicates_per_object, evaluate_detections, write_report
from .layers.selection import selectors_of
from .loading import load
from .runtime.detector import ArtifactDetector, is_artifact, refuse
from .structures import Batch, Detections


class Found(NamedTuple):
    """By image id: detections in original pixels, and how many raw predictions compete for each object."""

    detections: dict[int | str, Detections]
    candidates: dict[int | str, Tensor]


def val(
    detector: Detector | str | PathLike[str],
    data: DetectionData | str | PathLike[str],
    *,
    split: str = "val",
    batch: int = 16,
    device: str = "auto",
    workers: int | None = None,
    score: float = 0.001,
    iou: float = 0.7,
    max_detections: int | None = None,
    precision: str = "fp32",
    out: str | PathLike[str] | None = None,
) -> Evaluation:
    """Evaluate a detector, a checkpoint or an artifact on one split of a data set.

    data: a path, read with the detector's classes, or DetectionData with these very classes. score: weaker
    detections are left out; COCO's AP wants nearly all. iou: of the suppression. max_detections: of an image, the
    model's own number if not given. out: a folder for the report (numbers and pictures). An image's detections do
    not depend on the images it shares a batch with. An artifact of `hsvdet export` is run by its runtime, for which
    device, precision and iou are settled; it gives each box one class, and no predictions from before suppression.
    Raises CheckpointError, ConfigError, DataError.
    """
    if is_artifact(detector):
        refuse(detector, device=device not in ("auto", "cpu"), precision=precision != "fp32")
        detector = ArtifactDetector(detector)
        data = _of_classes(detector, data, split)
        found = detector.on_data(data, score=score, iou=iou, max_detections=max_detections, batch=batch)
        return _reported(evaluate_detections(data, found), out)
    place = find_device(device)
    if not isinstance(detector, Detector):
        detector = load(detector)
    data = _of_classes(detector, data, split)
    images = EvaluationSet(data, detector.preprocess)
    loader = EvaluationLoader(
        images,
        batch,
        workers=default_workers(place) if workers is None else workers,
        pin_memory=place.type == "cuda",
        normalise=False,
    )
    net = detector.to(place).net.eval()
    found = find_all(
        detector,
        net,
        loader,
        device=place,
        precision=precision,
        score=score,
        iou=iou,
        max_detections=max_detections,
    )
    return _reported(evaluate_detections(data, found.detections, candidates=found.candidates), out)


def _of_classes(
    detector: Detector | ArtifactDetector, data: DetectionData | str | PathLike[str], split: str
) -> DetectionData:
    if not isinstance(data, DetectionData):
        data = read_data(data, split, labels=detector.labels)
    check_labels(detector, data)
    return data


def _reported(evaluation: Evaluation, out: str | PathLike[str] | None) -> Evaluation:
    if out is not None:
        write_report(evaluation, out)
    return evaluation


@torch.inference_mode()
def find_all(
    detector: Detector,
    net: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: str = "fp32",
    score: float = 0.001,
    iou: float = 0.7,
    max_detections: int | None = None,
    between: Callable[[], None] = lambda: None,
) -> Found:
    """Run `net` (of the detector's kind, in evaluation mode) over batches. between: called after each."""
    reading = models.find(detector.name).reading
    # The upper bound among token selectors looks at the objects, in evaluation as well.
    oracle = any(selector.needs_targets for selector in selectors_of(net))
    found = Found({}, {})
    for batch in batches:
        batch = move(batch, device, detector.preprocess)
        with autocast(device, precision):
            answer = net(batch.images, batch.padding, batch.targets if oracle else None).answer
        sizes = [info.size for info in batch.infos]
        detections = reading.detections(
            answer, sizes, score=score, iou=iou, max_detections=max_detections, multi_label=True
        )
        boxes, probabilities = cxcywh_to_xyxy(answer.boxes.float()), reading.scores(answer.logits)
        for i, (info, target) in enumerate(zip(batch.infos, batch.targets, strict=True)):
            found.detections[info.id] = Detections(*(part.cpu() for part in detections[i]))
            # In fractions of the image: overlaps are the same as in pixels.
            truth = cxcywh_to_xyxy(target.boxes)
            counts = duplicates_per_object(boxes[i], probabilities[i], truth, target.labels)
            found.candidates[info.id] = counts.cpu()
        between()
    return found


def check_labels(detector: Detector | ArtifactDetector, data: DetectionData) -> None:
    """Raises ConfigError where label i of the one is not label i of the other."""
    if tuple(data.labels) == tuple(detector.labels):
        return
    unknown = [name for name in data.labels if name not in detector.labels]
    missing = [name for name in detector.labels if name not in data.labels]
    what = [
        *([f"the data set alone has {', '.join(unknown)}"] if unknown else []),
        *([f"the detector alone has {', '.join(missing)}"] if missing else []),
    ]
    raise ConfigError(
        f"The classes of the data set and of the detector differ: {'; '.join(what) or 'their order is not the same'}."
        " Read the data with `read_data(path, split, labels=detector.labels)`, or create the detector with the"
        " data set's labels."
    )
