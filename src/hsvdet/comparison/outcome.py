"""What a comparison found: as an object, as JSON, and as a table for people."""

# pyright: strict

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..data.nms_ceiling import Deleted, deleted_text
from ..evaluate.columns import columns
from .bootstrap import FEWEST, Interval
from .conclusion import Sample, conclusion
from .judged import Measure
from .latency import Latency


class Reliability(NamedTuple):
    """Detections, all seeds together, in one bin of score: how many, their mean score, and the share that is right."""

    low: float
    high: float
    detections: int
    score: float
    precision: float


class ArmResult(NamedTuple):
    """detectors, seeds: of each run; a seed is None where it is not known. values: [S][M], of each run by measure;
    means: [M], over the runs. differences: [M], from the first arm; None of the first itself. best_scores: of each run
    the score of the highest F1, at which errors are counted. suppressed_at: the IoU, None where nothing was suppressed.
    """

    name: str
    detectors: tuple[str, ...]
    seeds: tuple[int | None, ...]
    values: tuple[tuple[float, ...], ...]
    means: tuple[float, ...]
    differences: tuple[Interval, ...] | None
    best_scores: tuple[float, ...]
    suppressed_at: float | None
    reliability: tuple[Reliability, ...]
    latency: Latency | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """arms: the first is the reference. measures: what was measured. sample: on what. nms_ceiling: of the data set.
    notes: what was left out, a sentence each."""

    arms: tuple[ArmResult, ...]
    measures: tuple[Measure, ...]
    sample: Sample
    data: str
    split: str
    objects: int
    resamples: int
    seed: int
    nms_ceiling: tuple[Deleted, ...]
    notes: tuple[str, ...]

    @property
    def conclusion(self) -> str:
        """One sentence: what may be concluded, and no more."""
        keys = [measure.key for measure in self.measures]
        others = [
            (arm.name, dict(zip(keys, arm.differences, strict=True))) for arm in self.arms if arm.differences
        ]
        return conclusion(self.arms[0].name, others, self.sample)

    def difference(self, key: str, arm: int = 1) -> Interval:
        """Of one measure by its key, from the first arm. arm: which other one."""
        differences = self.arms[arm].differences
        assert differences is not None  # only the first arm has none
        return differences[[measure.key for measure in self.measures].index(key)]

    def table(self) -> str:
        """For people: a line each measure, arms side by side, then what is to be said, and the conclusion."""
        first, *others = self.arms
        header = ["", self.sample.unit, first.name]
        for arm in others:
            header += [arm.name, "difference (95 %)"]
        rows = [header]
        for number, measure in enumerate(self.measures):
            if not self.sample.having(measure):
                continue
            row = [measure.title, str(self.sample.having(measure)), _value(first.means[number])]
            for arm in others:
                assert arm.differences is not None
                row += [_value(arm.means[number]), _difference(arm.differences[number], measure)]
            rows.append(row)
        if first.latency is not None:
            rows += self._latency_rows()
        remarks = [
            f"Differences are from {first.name}, of rates in points (hundredths); * shown"
            + (f" after Holm's correction for {len(others)} arms" if len(others) > 1 else "")
            + f"; no interval with fewer than {FEWEST} {self.sample.unit}. Measures are not corrected for one another:"
            " of twenty, one may be shown by chance.",
            *self.notes,
        ]
        if self.objects:
            remarks.append(f"NMS would delete {deleted_text(self.nms_ceiling)}.")
        return "\n\n".join([columns(rows, first=str.ljust), "\n".join(remarks), self.conclusion])

    def _latency_rows(self) -> list[list[str]]:
        rows: list[list[str]] = []
        for title, field in (("ms an image, median", "p50"), ("ms an image, p95", "p95")):
            row = [title, ""]
            for number, arm in enumerate(self.arms):
                assert arm.latency is not None
                row.append(f"{getattr(arm.latency, field):.1f}")
                low, high = arm.latency.quartiles
                ratio = f"x {arm.latency.ratio:.3f} (quartiles {low:.3f} to {high:.3f})"
                row += [ratio if field == "p50" else ""] * (number > 0)
            rows.append(row)
        return rows

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts, NaN as None; the keys are in docs/compare.md."""
        return {
            "conclusion": self.conclusion,
            "data": self.data,
            "split": self.split,
            "images": self.sample.images,
            "unit": self.sample.unit,
            "units": self.sample.total,
            "objects": self.objects,
            "resamples": self.resamples,
            "seed": self.seed,
            "measures": [
                {
                    "key": measure.key,
                    "title": measure.title,
                    "higher_is_better": measure.higher_is_better,
                    "units": self.sample.having(measure),
                }
                for measure in self.measures
            ],
            "arms": [self._arm_json(arm) for arm in self.arms],
            "nms_ceiling": [row.to_json() for row in self.nms_ceiling],
            "notes": list(self.notes),
        }

    def _arm_json(self, arm: ArmResult) -> dict[str, Any]:
        keys = [measure.key for measure in self.measures]
        differences = arm.differences
        return {
            "name": arm.name,
            "detectors": list(arm.detectors),
            "seeds": list(arm.seeds),
            "suppressed_at": arm.suppressed_at,
            "best_scores": list(arm.best_scores),
            "values": _known(dict(zip(keys, arm.means, strict=True))),
            "runs": [_known(dict(zip(keys, run, strict=True))) for run in arm.values],
            "differences": differences
            and {
                key: {**_known(one._asdict()), "shown": one.shown}
                for key, one in zip(keys, differences, strict=True)
            },
            "reliability": [_known(one._asdict()) for one in arm.reliability],
            "latency": arm.latency and arm.latency._asdict(),
        }


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in values.items()
    }


def _value(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _difference(one: Interval, measure: Measure) -> str:
    """ "+3.1 (+1.0 to +5.2)*", the star where it is shown."""
    if math.isnan(one.value):
        return "-"
    scale, digits = (100, 1) if measure.rate else (1, 3)
    value, low, high = (
        f"{round(scale * end, digits) + 0.0:+.{digits}f}" for end in (one.value, one.low, one.high)
    )
    if math.isnan(one.low):
        return f"{value} "
    return f"{value} ({low} to {high}){'*' if one.shown else ' '}"
