"""What non-maximum suppression costs a dense detector, by its two thresholds.

After RT-DETR (Zhao et al. 2023, arXiv 2304.08069), section 3: the boxes that are left per score threshold
(figure 2), and time and AP per pair of thresholds (table 1). Timed on each image by itself, after the network.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch

from .. import models
from ..data.dataset import DetectionData
from ..data.images import read_image
from ..data.read import read_data
from ..data.scenes import generate_scene
from ..detector import Detector
from ..devices import find_device
from ..errors import ConfigError
from ..evaluate import evaluate_detections
from ..loading import load
from ..structures import Detections
from ..validation import check_labels

SCORES = (0.001, 0.01, 0.05, 0.25)
OVERLAPS = (0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Cell:
    """One pair of thresholds. candidates, kept: boxes an image before and after, means. median_ms, p95_ms: of
    the suppression of one image, with the reading of scores. ap: on the data set, if there is one."""

    score: float
    iou: float
    candidates: float
    kept: float
    median_ms: float
    p95_ms: float
    ap: float | None


@dataclass(frozen=True)
class SuppressionBenchmark:
    """network_ms: the median time of the network an image, for comparison."""

    model: str
    images: int
    settings: str
    network_ms: float
    cells: tuple[Cell, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def table(self) -> str:
        """For people."""
        lines = [
            f"{self.model}, {self.images} images; {self.settings}; network {self.network_ms:.1f} ms an image",
            f"{'score':>6}  {'IoU':>4}  {'boxes':>9}  {'kept':>7}  {'median ms':>9}  {'p95 ms':>8}  {'AP':>6}",
        ]
        for cell in self.cells:
            ap = "" if cell.ap is None else f"{cell.ap:6.4f}"
            lines.append(
                f"{cell.score:>6g}  {cell.iou:>4g}  {cell.candidates:9.1f}  {cell.kept:7.1f}  {cell.median_ms:9.3f}"
                f"  {cell.p95_ms:8.3f}  {ap}".rstrip()
            )
        return "\n".join(lines)


@torch.inference_mode()
def benchmark_nms(
    detector: Detector | str | PathLike[str],
    data: DetectionData | str | PathLike[str] | None = None,
    *,
    split: str = "val",
    scores: Sequence[float] = SCORES,
    ious: Sequence[float] = OVERLAPS,
    max_detections: int | None = None,
    size: tuple[int, int] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> SuppressionBenchmark:
    """Time the suppression of a trained detector with sigmoid classes over a grid of thresholds.

    detector: or a checkpoint. data: what it looks at, and what AP is measured on; 16 built-in scenes, and no AP,
    if not given. scores: weaker candidates are left out. ious: of the suppression. max_detections: boxes kept an
    image, the model's own number if not given. Every class over the score is a candidate, as COCO's AP wants.
    precision: as of `Detector.accelerate`.
    Raises CheckpointError, DataError, and ConfigError for a model whose answer is not suppressed.
    """
    if not isinstance(detector, Detector):
        if str(detector) in models.MODELS:
            raise ConfigError(
                f"benchmark nms expects a checkpoint; {detector} has random weights, which find nothing to suppress."
            )
        detector = load(detector)
    reading = models.find(detector.name).reading
    if not reading.suppresses:
        raise ConfigError(f"{detector.name} answers without suppression: there is nothing to time.")
    thresholds = [*scores, *ious]
    if not scores or not ious or not all(0 <= value <= 1 for value in thresholds):
        raise ConfigError(f"scores and ious expect numbers from 0 to 1; got {thresholds}.")
    if size is not None:
        preprocess = dataclasses.replace(detector.preprocess, size=tuple(size))
        detector = dataclasses.replace(detector, preprocess=preprocess)
    if data is not None and not isinstance(data, DetectionData):
        data = read_data(data, split, labels=detector.labels)
    if data is not None:
        check_labels(detector, data)
    detector = detector.to(find_device(device)).accelerate(precision)
    detector.net.eval()
    cells = {(score, iou): _Measured({}, [], []) for score in scores for iou in ious}
    candidates = {score: [] for score in scores}
    network = []
    for number, (id_, image) in enumerate(_pictures(data, detector)):
        start = time.perf_counter()
        answer = detector.answer([detector.preprocess.place(image, minimal=True)])
        _finish(answer.logits)
        network.append(1e3 * (time.perf_counter() - start))
        probabilities = reading.scores(answer.logits)
        for score in scores:
            candidates[score].append(int((probabilities > score).sum()))
        options = {"max_detections": max_detections, "multi_label": True}
        if number == 0:  # the first call of all is slow
            reading.detections(answer, [image.shape[1:]], score=scores[0], iou=ious[0], **options)
        for (score, iou), cell in cells.items():
            start = time.perf_counter()
            (found,) = reading.detections(answer, [image.shape[1:]], score=score, iou=iou, **options)
            _finish(found.boxes)
            cell.times.append(1e3 * (time.perf_counter() - start))
            cell.kept.append(len(found.scores))
            if data is not None:
                cell.detections[id_] = Detections(*(part.cpu() for part in found))
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
                ap=None if data is None else evaluate_detections(data, cell.detections).ap,
            )
            for (score, iou), cell in cells.items()
        ),
    )


@dataclass
class _Measured:
    detections: dict[int | str, Detections]
    times: list[float]
    kept: list[int]


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
