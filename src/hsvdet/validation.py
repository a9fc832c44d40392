"""How good a detector is on a data set: the same code for `hsvdet val` and at the end of each epoch."""

# pyright: strict

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import models
from .boxes import cxcywh_to_xyxy
from .data.dataset import DetectionData
from .data.loader import EvaluationLoader, EvaluationSet
from .data.read import as_data
from .detector import Detector
from .devices import autocast, default_workers, find_device, move
from .errors import ConfigError
from .evaluate import (
    Evaluation,
    duplicates_per_object,
    evaluate_detections,
    merge_by_image,
    perfectly_deduplicated,
    write_report,
)
from .evaluate.selections import ImageCount, count_selections, summarise_selections
from .layers.selection import selectors_of
from .layers.tokens import content_extents
from .loading import as_detector
from .options import override
from .postprocess import to_pixels
from .progress import progress as shown_progress
from .runtime.detector import ArtifactDetector, is_artifact, refuse, require_artifact
from .structures import Batch, Detections, Prediction


class Found(NamedTuple):
    """By image id: detections in original pixels; how many raw predictions compete for each object, None for an
    artifact; the raw predictions perfectly deduplicated, None if not asked for. suppressed_at: the IoU of the
    suppression, None without. multi_label: whether all classes of a prediction come to it. max_detections: how many an
    image can have, of a query detector no more than its queries. queries: of a detector whose dense head answers beside
    them. selections: what learned token selectors chose."""

    detections: dict[int | str, Detections]
    candidates: dict[int | str, Tensor] | None
    deduplicated: dict[int | str, Detections] | None
    suppressed_at: float | None
    multi_label: bool
    max_detections: int
    queries: int | None
    selections: dict[int | str, ImageCount]


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
    multi_label: bool = False,
    precision: str = "fp32",
    options: Mapping[str, Any] | None = None,
    diagnose: bool = False,
    require_certificate: bool = False,
    trusted_key: str | PathLike[str] | None = None,
    out: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Evaluate a detector, a checkpoint or an artifact on one split of a data set.

    data: a path, read with the detector's classes, or DetectionData with these very classes. score: weaker
    detections are left out; COCO's AP wants nearly all. iou: of the suppression. max_detections: of an image, the
    model's own number if not given. multi_label: a suppressed prediction answers with every class over the score, as
    most published tables count, not with its best alone, as in `predict`, training and artifacts. options: as of
    `Detector.with_options`. diagnose: also what perfect deduplication of the same predictions would give.
    require_certificate, trusted_key: of an artifact, as of `runtime.load`. out: a folder for the report (numbers and
    pictures). progress: on stderr.
    An image's detections do not depend on the images it shares a batch with. An artifact of `hsvdet export` is run
    by its runtime, for which device, precision and iou are settled; each box has one class, and there are no
    predictions from before suppression to diagnose.
    Raises CheckpointError, ConfigError, DataError, and NonFiniteError naming an image whose answer has NaN.
    """
    data, found = detect_on(
        detector,
        data,
        split=split,
        batch=batch,
        device=device,
        workers=workers,
        score=score,
        iou=iou,
        max_detections=max_detections,
        multi_label=multi_label,
        precision=precision,
        options=options,
        diagnose=diagnose,
        require_certificate=require_certificate,
        trusted_key=trusted_key,
        progress=progress,
    )
    evaluation = evaluate_found(data, [found])
    if out is not None:
        write_report(evaluation, out, data)
    return evaluation


def detect_on(
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
    multi_label: bool = False,
    precision: str = "fp32",
    options: Mapping[str, Any] | None = None,
    diagnose: bool = False,
    require_certificate: bool = False,
    trusted_key: str | PathLike[str] | None = None,
    progress: bool = True,
) -> tuple[DetectionData, Found]:
    """The data as they were read, and what the detector finds in them. Parameters and errors as of `val`."""
    if is_artifact(detector):
        refuse(
            detector,
            device=device not in ("auto", "cpu"),
            precision=precision != "fp32",
            options=bool(options),
            diagnose=diagnose,
            multi_label=multi_label,
        )
        artifact = ArtifactDetector(
            detector, require_certificate=require_certificate, trusted_key=trusted_key
        )
        data = _of_classes(artifact, data, split)
        with shown_progress("evaluating", len(data), shown=progress) as advance:
            detections = artifact.on_data(
                data, score=score, iou=iou, max_detections=max_detections, batch=batch, after_each=advance
            )
        header = artifact.runner.header
        most = header.max_detections if max_detections is None else max_detections
        queries = _queries_beside_dense(models.find(header.model).config, header.config)
        return data, Found(detections, None, None, header.iou, False, most, queries, {})
    require_artifact(require_certificate, trusted_key)
    place = find_device(device)
    detector = as_detector(detector, options=options)
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
    with shown_progress("evaluating", len(data), shown=progress) as advance:
        found = find_all(
            detector,
            net,
            loader,
            device=place,
            precision=precision,
            score=score,
            iou=iou,
            max_detections=max_detections,
            multi_label=multi_label,
            diagnose=diagnose,
            after_each=advance,
        )
    return data, found


def _of_classes(
    detector: Detector | ArtifactDetector, data: DetectionData | str | PathLike[str], split: str
) -> DetectionData:
    data = as_data(data, split, detector.labels)
    check_labels(detector, data)
    return data


def evaluate_found(data: DetectionData, parts: Sequence[Found]) -> Evaluation:
    """What one process or several found in the images of a split, each in a part of them."""
    candidates = [part.candidates for part in parts if part.candidates is not None]
    deduplicated = [part.deduplicated for part in parts if part.deduplicated is not None]
    return evaluate_detections(
        data,
        merge_by_image(part.detections for part in parts),
        candidates=merge_by_image(candidates) if candidates else None,
        deduplicated=merge_by_image(deduplicated) if deduplicated else None,
        suppressed_at=parts[0].suppressed_at,
        multi_label=parts[0].multi_label,
        max_detections=min(part.max_detections for part in parts),
        queries=parts[0].queries,
        selections=summarise_selections(merge_by_image(part.selections for part in parts).values()),
    )


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
    multi_label: bool = False,
    diagnose: bool = False,
    after_each: Callable[[int], None] = lambda images: None,
) -> Found:
    """Run `net` (of the detector's kind, in evaluation mode) over batches. after_each: called after each, with its
    number of images.

    Raises NonFiniteError naming an image whose answer has NaN or infinity."""
    reading = models.find(detector.name).reading
    # The upper bound among token selectors looks at the objects, in evaluation as well.
    oracle = any(selector.needs_targets for selector in selectors_of(net))
    most = reading.max_detections if max_detections is None else max_detections
    candidates: dict[int | str, Tensor] = {}
    suppressed_at = iou if reading.suppresses else None
    queries = _queries_beside_dense(detector.config)
    found = Found({}, candidates, {} if diagnose else None, suppressed_at, multi_label, most, queries, {})
    for batch in batches:
        batch = move(batch, device, detector.preprocess)
        with autocast(device, precision):
            output = net(batch.images, batch.padding, batch.targets if oracle else None)
        answer = output.answer
        extents = content_extents(batch.images, batch.padding).cpu().numpy()
        sizes = [info.size for info in batch.infos]
        detections = reading.detections(
            answer,
            sizes,
            score=score,
            iou=iou,
            max_detections=max_detections,
            multi_label=multi_label,
            names=[info.path or str(info.id) for info in batch.infos],
        )
        # Cut off at the edges, as detections are.
        boxes, probabilities = cxcywh_to_xyxy(answer.boxes.float()).clamp(0, 1), reading.scores(answer.logits)
        for i, (info, target) in enumerate(zip(batch.infos, batch.targets, strict=True)):
            found.detections[info.id] = Detections(*(part.cpu() for part in detections[i]))
            # In fractions of the image: overlaps are the same as in pixels.
            truth = cxcywh_to_xyxy(target.boxes)
            counts = duplicates_per_object(boxes[i], probabilities[i], truth, target.labels)
            candidates[info.id] = counts.cpu()
            selected = count_selections(
                output.selections, i, extents[i], truth.double().cpu().numpy(), info.size
            )
            if selected is not None:
                found.selections[info.id] = selected
            if found.deduplicated is not None:
                one = Prediction(answer.logits[i], answer.boxes[i])
                raw = reading.candidates(one, info.size, score=score, multi_label=multi_label)
                raw = raw.inside(info.size)
                truth = to_pixels(target.boxes, info.size)
                stays = perfectly_deduplicated(raw.boxes, raw.scores, raw.labels, truth, target.labels)[:most]
                ideal = Detections(raw.boxes[stays], raw.scores[stays], raw.labels[stays])
                found.deduplicated[info.id] = Detections(*(part.cpu() for part in ideal))
        found = found._replace(max_detections=min(found.max_detections, answer.boxes.shape[1]))
        after_each(len(batch.infos))
    return found


def _queries_beside_dense(config: Any, options: Mapping[str, Any] | None = None) -> int | None:
    """None of a detector whose answers are all of one kind. options: that differ from the configuration's."""
    if not hasattr(config, "queries_beside_dense"):
        return None
    return override(config, options or {}).queries_beside_dense or None


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
