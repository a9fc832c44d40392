"""One sentence: what may be concluded, and no more.

Of all that is measured two were chosen beforehand: recall of the heavily occluded at one false positive an image, and
AP. Choosing the measure by its result would make the 95 % untrue.
"""

# pyright: strict

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .bootstrap import FEWEST, Interval
from .judged import Measure

OCCLUDED, AP = "recall_at_fppi1_occlusion_0.5_to_0.9", "ap"


class Sample(NamedTuple):
    """images: how many. units: [I], the sequence of each, or its own number. unit: "images" or "sequences". seeds: how
    many runs of each arm are paired."""

    images: int
    units: np.ndarray
    unit: str
    seeds: int

    @property
    def total(self) -> int:
        return len(np.unique(self.units))

    def having(self, measure: Measure) -> int:
        """How many images or sequences have what is measured."""
        return len(np.unique(self.units[measure.members]))


def conclusion(first: str, others: Sequence[tuple[str, Mapping[str, Interval]]], sample: Sample) -> str:
    """first: the reference's name. others: of each other arm its name and its differences by key."""
    arms = "; ".join(_about(name, first, differences) for name, differences in others)
    return f"{arms} ({_basis(len(others), sample)})."


def _about(name: str, first: str, differences: Mapping[str, Interval]) -> str:
    found, precision = differences[OCCLUDED], differences[AP]
    if math.isnan(found.corrected_low):
        hidden = f"{name} beside {first}: too few images with heavily occluded objects to tell"
    elif found.shown:
        more = "more" if found.corrected_low > 0 else "fewer"
        hidden = f"{name} finds {_span(found)} points {more} of the heavily occluded objects than {first}"
    else:
        hidden = f"{name} beside {first}: no difference shown in the heavily occluded objects found"
    if math.isnan(precision.corrected_low):
        return f"{hidden}; AP: too few images with objects to tell"
    if precision.shown:
        side = "higher" if precision.corrected_low > 0 else "lower"
        return f"{hidden}; AP is {_span(precision)} points {side}"
    return f"{hidden}; AP: no difference shown"


def _span(one: Interval) -> str:
    """In points, away from zero; rounded outwards, so that nothing is claimed that the interval does not say."""
    low, high = sorted(abs(100 * end) for end in (one.corrected_low, one.corrected_high))
    return f"{math.floor(10 * low) / 10:.1f} to {math.ceil(10 * high) / 10:.1f}"


def _basis(arms: int, sample: Sample) -> str:
    corrected = f" after Holm's correction for {arms} arms" if arms > 1 else ""
    if sample.seeds > 1:
        seeds = f"{sample.seeds} paired seeds"
    else:
        seeds = "one run each, so of these weights, not of training again"
    where = f"{sample.total} {sample.unit}"
    if sample.total == 1:
        where = where.removesuffix("s")
    if sample.unit != "images":
        where = f"{sample.images} images in {where}"
    fewest = f", at least {FEWEST} are needed" if sample.total < FEWEST else ""
    return f"95 %{corrected}, {seeds}, {where}{fewest}; occluded by IoU .5 to .9, found at one false positive an image"
