"""What crowding costs: average precision and recall by how much an object is overlapped by another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.overlap import occlusion
from .average_precision import average_precision_in_bins
from .pairing import Pair
from .recall import Recalls


class OcclusionBin(NamedTuple):
    """Objects whose occlusion lies in [low, high), in [low, high] for the last bin. NaN where there are none.

    The occlusion of an object is its largest IoU with another object of the image, of any class, crowd
    regions left out.
    ap, ap50: COCO's, objects outside the bin ignored (see `average_precision_in_bins`).
    recall, recall_at_fppi1: see `Recalls`.
    """

    low: float
    high: float
    objects: int
    ap: float
    ap50: float
    recall: float
    recall_at_fppi1: float


def occlusion_bins(pairs: Sequence[Pair], classes: int, recalled: Recalls) -> tuple[OcclusionBin, ...]:
    """The bins of `recalled`, with their average precision."""
    crowd = np.concatenate([pair.crowd for pair in pairs])
    occluded = np.zeros(len(crowd))
    occluded[~crowd] = np.concatenate([occlusion(pair.truth[~pair.crowd]) for pair in pairs])
    edges = [recalled.occlusion[0].low, *(bin.high for bin in recalled.occlusion)]
    precision = average_precision_in_bins(pairs, classes, occluded, edges)
    return tuple(
        OcclusionBin(bin.low, bin.high, bin.objects, ap, ap50, bin.recall, bin.recall_at_fppi1)
        for bin, (ap, ap50) in zip(recalled.occlusion, precision, strict=True)
    )
