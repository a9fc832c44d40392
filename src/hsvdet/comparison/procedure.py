"""Detect with every run of every arm, judge, draw the images again, and say how sure the differences are."""

# pyright: strict

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike, fspath

import numpy as np

from ..data.dataset import DetectionData
from ..data.nms_ceiling import nms_ceiling
from ..data.read import as_data
from ..detector import Detector
from ..errors import ConfigError
from ..evaluate.pairing import in_order, pair_up
from ..progress import Advance
from ..progress import progress as shown_progress
from ..runtime.detector import is_artifact
from ..validation import detect_on
from .arms import Arm, check_classes, find_arms, paired
from .bootstrap import Interval, intervals, resamples
from .conclusion import Sample
from .judged import Judged, judge, measures_of
from .latency import Latency, latencies
from .outcome import ArmResult, Comparison, Reliability
from .report import write_comparison
from .tallies import SCORE_BINS


def compare(
    *detectors: Detector | str | PathLike[str],
    data: DetectionData | str | PathLike[str],
    split: str = "val",
    batch: int = 16,
    device: str = "auto",
    workers: int | None = None,
    score: float = 0.001,
    iou: float = 0.7,
    max_detections: int | None = None,
    resampled: int = 1000,
    seed: int = 0,
    latency: bool = False,
    out: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare detectors on one split of a data set: what differs from the first, and how sure that is.

    detectors: two or more of a Detector, a checkpoint, an artifact, the folder of a run, or a folder of such folders
    that differ in their seed; runs are paired by it. data, split, batch, device, workers, score, iou, max_detections:
    as of `val`; an artifact keeps its own device and iou. resampled: how often the images are drawn again. seed: of
    these draws; the same gives the same numbers. latency: also time each arm, image by image in turn. out: a folder for
    comparison.json, .txt and .png. progress: on stderr. docs/compare.md says what is measured and how.
    Raises ConfigError for detectors of other classes than each other's or the data's, for runs that cannot be paired,
    and for fewer than 100 resamples; and as `val`.
    """
    if resampled < 100:
        raise ConfigError(f"resampled expects 100 or more, or there is no 95 % to read off; got {resampled}.")
    if seed < 0:
        raise ConfigError(f"seed expects 0 or more, got {seed}.")
    arms, notes = paired(find_arms(detectors))
    data = as_data(data, split, check_classes(arms))
    judged: list[list[Judged]] = []
    suppressed: list[float | None] = []
    for arm in arms:
        found = None
        judged.append([])
        for run in arm.runs:
            _, found = detect_on(
                run.detector,
                data,
                batch=batch,
                device="auto" if is_artifact(run.detector) else device,
                workers=workers,
                score=score,
                iou=iou,
                max_detections=max_detections,
                progress=progress,
            )
            judged[-1].append(judge(data, found.detections))
        suppressed.append(found and found.suppressed_at)
    timed = latencies(arms, data, device=device, iou=iou, max_detections=max_detections) if latency else None
    weights = resamples(_units(data)[0], resampled, seed)
    total = sum(map(len, judged))
    with shown_progress("drawing the images again", total, "runs", shown=progress) as advance:
        values = [_values(runs, weights, advance) for runs in judged]
    comparison = _compared(arms, judged, values, suppressed, timed, data, seed, notes)
    if out is not None:
        write_comparison(comparison, out)
    return comparison


def _compared(
    arms: Sequence[Arm],
    judged: Sequence[Sequence[Judged]],
    values: Sequence[np.ndarray],
    suppressed: Sequence[float | None],
    timed: Sequence[Latency] | None,
    data: DetectionData,
    seed: int,
    notes: Sequence[str],
) -> Comparison:
    """values, suppressed, timed: of each arm, values as of `_values`."""
    pairs = pair_up(data, {})
    measures = measures_of(pairs)
    units, unit = _units(data)
    sample = Sample(len(pairs), units, unit, len(arms[0].runs))
    first, *others = values
    by_measure = [
        intervals([own[:, i] - first[:, i] for own in others], sample.having(measure), seed)
        for i, measure in enumerate(measures)
    ]
    differences: list[tuple[Interval, ...] | None] = [None, *zip(*by_measure, strict=True)]
    results = [
        ArmResult(
            name=arm.name,
            detectors=tuple(
                run.detector if isinstance(run.detector, str) else run.detector.name for run in arm.runs
            ),
            seeds=tuple(run.seed for run in arm.runs),
            values=tuple(tuple(row) for row in own[..., 0].tolist()),
            means=tuple(own[..., 0].mean(0).tolist()),
            differences=differences[i],
            best_scores=tuple(one.best_score for one in judged[i]),
            suppressed_at=suppressed[i],
            reliability=_reliability(judged[i]),
            latency=None if timed is None else timed[i],
        )
        for i, (arm, own) in enumerate(zip(arms, values, strict=True))
    ]
    return Comparison(
        arms=tuple(results),
        measures=measures,
        sample=sample,
        data=fspath(data.root),
        split=data.split,
        objects=int(sum((~pair.crowd).sum() for pair in pairs)),
        resamples=first.shape[-1] - 1,
        seed=seed,
        nms_ceiling=nms_ceiling(data.records),
        notes=tuple(notes),
    )


def _values(runs: Sequence[Judged], weights: np.ndarray, advance: Advance) -> np.ndarray:
    """[S, M, 1 + resamples]"""
    values: list[np.ndarray] = []
    for run in runs:
        values.append(run.values(weights))
        advance(1)
    return np.stack(values)


def _units(data: DetectionData) -> tuple[np.ndarray, str]:
    """[I]: what is drawn again as one, in the order of `pair_up`: the images of a sequence, for they are alike."""
    records = in_order(data.records)
    names = [record.id if record.group is None else f"group {record.group}" for record in records]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    unit = "images" if all(record.group is None for record in records) else "sequences"
    return np.array([numbers[name] for name in names]), unit


def _reliability(judged: Sequence[Judged]) -> tuple[Reliability, ...]:
    count, scores, right = np.stack([one.tallies.calibration for one in judged]).sum((0, -1))
    return tuple(
        Reliability(
            float(low), float(high), int(n), *((float(s / n), float(r / n)) if n else (math.nan, math.nan))
        )
        for low, high, n, s, r in zip(SCORE_BINS[:-1], SCORE_BINS[1:], count, scores, right, strict=True)
    )
