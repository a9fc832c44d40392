"""What non-maximum suppression costs a dense detector, by its two thresholds, and Soft-NMS beside it.

After RT-DETR (Zhao et al. 2023, arXiv 2304.08069), section 3: the boxes that are left per score threshold
(figure 2), and time and AP per pair of thresholds (table 1). Timed on each image by itself, after the network.
What crowds lose shows in recall at one false positive an image, by occlusion: the number to tune the threshold by.
"""

# pyright: strict

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from os import PathLike
from typing import Any

import torch

from .. import models
from ..data.dataset import DetectionData
from ..data.images import read_image
from ..data.read import as_data
from ..data.scenes import generate_scene
from ..detector import Detector
from ..devices import find_device
from ..errors import ConfigError, counted
from ..evaluate import evaluate_detections
from ..evaluate.columns import labelled, span
from ..evaluate.recall import OCCLUDED, OCCLUSION_EDGES
from ..loading import as_detector
from ..preprocess import Size
from ..structures import Detections, Prediction
from ..validation import check_labels
from .soft_nms import gaussian, linear, soft_nms

SCORES = (0.001, 0.01, 0.05, 0.25)
OVERLAPS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SIGMAS = (0.3, 0.5, 0.7)  # the paper takes 0.5
_DECAYS = {"linear": linear, "gaussian": gaussian}


@dataclass(frozen=True)
class Quality:
    """What is found on a data set. recall_at_fppi1, by_occlusion, occluded: recall at one false positive an image,
    of all objects, in the bins of OCCLUSION_EDGES, and where occluded by 0.5 to 0.9. None: there are no objects."""

    ap: float | None
    recall_at_fppi1: float | None
    by_occlusion: tuple[float | None, ...]
    occluded: float | None


@dataclass(frozen=True)
class Cell:
    """One pair of thresholds. candidates, kept: boxes an image before and after, means. median_ms, p95_ms: of
    the suppression of one image, with the reading of scores. quality: on the data set, if there is one."""

    score: float
    iou: float
    candidates: float
    kept: float
    median_ms: float
    p95_ms: float
    quality: Quality | None


@dataclass(frozen=True)
class SoftCell:
    """Soft-NMS, of the candidates over `score`. decay: "linear" or "gaussian"; number: the IoU from which the one
    decays, the sigma of the other."""

    score: float
    decay: str
    number: float
    quality: Quality | None


@dataclass(frozen=True)
class SuppressionBenchmark:
    """network_ms: the median time of the network an image, for comparison. soft: empty without a data set."""

    model: str
    images: int
    settings: str
    network_ms: float
    cells: tuple[Cell, ...]
    soft: tuple[SoftCell, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def table(self) -> str:
        """For people."""
        images = counted(self.images, "image")
        title = f"{self.model}, {images}; {self.settings}; network {self.network_ms:.1f} ms an image"
        header = ["suppression", "score", "boxes", "kept", "median ms", "p95 ms"]
        rows = [
            [f"NMS {cell.iou:g}", f"{cell.score:g}", f"{cell.candidates:.1f}", f"{cell.kept:.1f}"]
            + [f"{cell.median_ms:.3f}", f"{cell.p95_ms:.3f}", *_quality_texts(cell.quality)]
            for cell in self.cells
        ]
        rows += [
            [f"{cell.decay} {cell.number:g}", f"{cell.score:g}", *[""] * 4, *_quality_texts(cell.quality)]
            for cell in self.soft
        ]
        if not self.soft:
            return f"{title}\n{labelled(header, rows)}"
        bins = [span(*bin) for bin in pairwise(OCCLUSION_EDGES[2:-1])]
        header += ["AP", "at 1 FP/image: all", *bins, span(*OCCLUDED)]
        best = f"best of NMS: {self._best('recall_at_fppi1')}; where occluded: {self._best('occluded')}"
        return f"{title}\n{labelled(header, rows)}\n{best}"

    def _best(self, of: str) -> str:
        known = [(getattr(cell.quality, of), cell) for cell in self.cells]
        known = [one for one in known if one[0] is not None]
        if not known:
            return "-"
        recall, cell = max(known, key=lambda one: one[0])
        return f"{recall:.3f} with NMS {cell.iou:g} at score {cell.score:g}"


@torch.inference_mode()
def benchmark_nms(
    detector: Detector | str | PathLike[str],
    data: DetectionData | str | PathLike[str] | None = None,
    *,
    split: str = "val",
    scores: Sequence[float] = SCORES,
    ious: Sequence[float] = OVERLAPS,
    max_detections: int | None = None,
    multi_label: bool = False,
    size: Size | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> SuppressionBenchmark:
    """Time the suppression of a trained detector with sigmoid classes over a grid of thresholds.

    detector: or a checkpoint. data: what it looks at, and what AP and recall are measured on, of Soft-NMS as well;
    16 built-in scenes, and neither, if not given. scores: weaker candidates are left out. ious: of the suppression.
    max_detections: boxes kept an image, the model's own number if not given. multi_label: every class of a
    prediction over the score is a candidate, not its best alone: as of `val`, whose numbers these are. precision:
    as of `Detector.accelerate`.
    Raises CheckpointError, DataError, and ConfigError for a model whose answer is not suppressed.
    """
    detector = as_detector(detector, size)
    reading = models.find(detector.name).reading
    if not reading.suppresses:
        raise ConfigError(f"{detector.name} answers without suppression: there is nothing to time.")
    thresholds = [*scores, *ious]
    if not scores or not ious or not all(0 <= value <= 1 for value in thresholds):
        raise ConfigError(f"scores and ious expect numbers from 0 to 1; got {thresholds}.")
    if data is not None:
        data = as_data(data, split, detector.labels)
        check_labels(detector, data)
    detector = detector.to(find_device(device)).accelerate(precision)
    detector.net.eval()
    cells = {(score, iou): _Measured({}, [], []) for score in scores for iou in ious}
    ways = [*(("linear", iou) for iou in ious), *(("gaussian", sigma) for sigma in SIGMAS)]
    soft: dict[tuple[str, float], dict[int | str, Detections]] = {way: {} for way in ways if data is not None}
    candidates: dict[float, list[int]] = {score: [] for score in scores}
    most = reading.max_detections if max_detections is None else max_detections
    network: list[float] = []
    for number, (id_, image) in enumerate(_pictures(data, detector)):
        shape = image.shape[1], image.shape[2]
        start = time.perf_counter()
        answer = detector.answer([detector.preprocess.to_canvas(image, minimal=True)])
        _finish(answer.logits)
        network.append(1e3 * (time.perf_counter() - start))
        alone = Prediction(*(part[0] for part in answer))
        for score in scores:
            pairs = reading.candidates(alone, shape, score=score, multi_label=multi_label)
            candidates[score].append(len(pairs.scores))
        read = partial(
            reading.detections,
            answer,
            [shape],
            max_detections=max_detections,
            multi_label=multi_label,
            names=[str(id_)],
        )
        if number == 0:  # the first call of all is slow
            read(score=scores[0], iou=ious[0])
        for (score, iou), cell in cells.items():
            start = time.perf_counter()
            (found,) = read(score=score, iou=iou)
            _finish(found.boxes)
            cell.times.append(1e3 * (time.perf_counter() - start))
            cell.kept.append(len(found.scores))
            if data is not None:
                cell.detections[id_] = Detections(*(part.cpu() for part in found))
        if soft:
            one = Prediction(*(part.cpu() for part in alone))
            raw = reading.candidates(one, shape, score=min(scores), multi_label=multi_label)
            for (name, number), found_by_id in soft.items():
                chosen = soft_nms(raw, _DECAYS[name](number), score=min(scores), most=most).inside(shape)
                found_by_id[id_] = Detections(chosen.boxes, chosen.scores, chosen.labels)

    def quality(found: dict[int | str, Detections]) -> Quality | None:
        return None if data is None else _quality(data, found)

    return SuppressionBenchmark(
        model=detector.name,
        images=len(network),
        settings=detector.describe(),
        network_ms=round(statistics.median(network), 3),
        cells=tuple(
            Cell(
                score,
                iou,
                candidates=round(statistics.mean(candidates[score]), 1),
                kept=round(statistics.mean(cell.kept), 1),
                median_ms=round(statistics.median(cell.times), 3),
                p95_ms=round(sorted(cell.times)[-(-95 * len(cell.times) // 100) - 1], 3),
                quality=quality(cell.detections),
            )
            for (score, iou), cell in cells.items()
        ),
        soft=tuple(
            SoftCell(min(scores), name, number, quality(found)) for (name, number), found in soft.items()
        ),
    )


@dataclass
class _Measured:
    detections: dict[int | str, Detections]
    times: list[float]
    kept: list[int]


def _quality(data: DetectionData, detections: dict[int | str, Detections]) -> Quality:
    evaluation = evaluate_detections(data, detections)
    recalls = evaluation.recalls
    bins = [bin.recall_at_fppi1 for bin in recalls.occlusion]
    ap, overall, occluded, *bins = (
        None if math.isnan(value) else value
        for value in (evaluation.ap, recalls.recall_at_fppi1, recalls.occluded.recall_at_fppi1, *bins)
    )
    return Quality(ap, overall, tuple(bins), occluded)


def _quality_texts(quality: Quality | None) -> list[str]:
    if quality is None:
        return []
    recalls = quality.recall_at_fppi1, *quality.by_occlusion[2:5], quality.occluded
    return ["-" if value is None else f"{value:.3f}" for value in (quality.ap, *recalls)]


def _pictures(data: DetectionData | None, detector: Detector) -> Iterator[tuple[int | str, torch.Tensor]]:
    if data is None:
        for index in range(16):
            yield index, read_image(generate_scene(0, index, detector.preprocess.size).image)
        return
    for record in data.records:
        yield record.id, read_image(record.path)


def _finish(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
