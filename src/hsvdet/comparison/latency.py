"""How long a picture takes, from pixels to detections, each arm in turn."""

# pyright: strict, reportUnknownMemberType=false
# PyTorch's own types leave some of its functions untyped.

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..data.dataset import DetectionData
from ..data.pixels import read_pixels
from ..detector import Detector
from ..devices import find_device
from ..loading import as_detector
from ..runtime.detector import ArtifactDetector, is_artifact
from .arms import Arm

IMAGES, WARMUP = 50, 3
SCORE = 0.25  # as `predict` has it


class Latency(NamedTuple):
    """Milliseconds of one image, with resizing and suppression, reading the file left out: median and 95th percentile
    over the images. ratio: to the first arm, the median over images, with quartiles. how: settings, in words."""

    p50: float
    p95: float
    ratio: float
    quartiles: tuple[float, float]
    how: str


def latencies(
    arms: Sequence[Arm], data: DetectionData, *, device: str, iou: float, max_detections: int | None
) -> list[Latency]:
    """Of the first run of each arm, as `predict` runs it: one image at a time, up to 50 images of the data spread
    evenly, all arms on one image before the next, every second image in reverse order."""
    detectors = [_ready(arm.runs[0].detector, device) for arm in arms]
    records = data.records[:: max(1, len(data) // IMAGES)][:IMAGES]
    times: list[list[float]] = [[] for _ in arms]
    for number, record in enumerate([*records[:WARMUP], *records]):
        image = torch.from_numpy(read_pixels(record.path)).permute(2, 0, 1)
        turns = list(zip(detectors, times, strict=True))
        for detector, own in turns if number % 2 else reversed(turns):
            start = time.perf_counter()
            detector.detect(
                [image], score=SCORE, iou=iou, max_detections=max_detections, batch=1, names=[record.path]
            )
            if number >= min(WARMUP, len(records)):
                own.append(1e3 * (time.perf_counter() - start))
    return [
        _summary(own, times[0], detector.describe()) for own, detector in zip(times, detectors, strict=True)
    ]


def _ready(detector: Detector | str, device: str) -> Detector | ArtifactDetector:
    if is_artifact(detector):
        return ArtifactDetector(detector)
    return as_detector(detector).to(find_device(device)).accelerate()


def _summary(times: list[float], first: list[float], how: str) -> Latency:
    ratios = [own / base for own, base in zip(times, first, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    p95 = sorted(times)[max(0, -(-95 * len(times) // 100) - 1)]
    return Latency(statistics.median(times), p95, statistics.median(ratios), (low, high), how)
