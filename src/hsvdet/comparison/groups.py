"""The objects of a data set by occlusion and by how many share their image: what recall is told apart by."""

# pyright: strict

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.overlap import occlusion
from ..evaluate.columns import span
from ..evaluate.pairing import Pair
from ..evaluate.recall import COUNT_EDGES, OCCLUDED, occlusion_edges


class Group(NamedTuple):
    """kind: "all", "occlusion" (largest IoU with another object of the image) or "objects" (of the image). low, high:
    its bounds, high None for no end. members: [N] bool, of all objects that are no crowd region."""

    kind: str
    low: float
    high: float | None
    members: np.ndarray

    @property
    def key(self) -> str:
        return "" if self.kind == "all" else f"_{self.kind}_{span(self.low, self.high).replace(' ', '_')}"

    @property
    def title(self) -> str:
        if self.kind == "all":
            return ""
        return f", {span(self.low, self.high)} {'objects' if self.kind == 'objects' else 'occluded'}"


class Groups(NamedTuple):
    """image: [N], the image of each object. edges: of the bins of occlusion. rows: all objects; the heavily occluded;
    the bins of occlusion; those of objects in the image."""

    image: np.ndarray
    edges: tuple[float, ...]
    rows: tuple[Group, ...]


def groups_of(pairs: Sequence[Pair]) -> Groups:
    counts = np.array([(~pair.crowd).sum() for pair in pairs])
    occluded = np.concatenate([occlusion(pair.truth[~pair.crowd]) for pair in pairs])
    edges = occlusion_edges(occluded)
    heavy = (occluded >= OCCLUDED[0]) & (occluded < OCCLUDED[1])
    rows = [Group("all", 0, None, np.ones(len(occluded), bool)), Group("occlusion", *OCCLUDED, heavy)]
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        below = occluded <= high if high == edges[-1] else occluded < high
        rows.append(Group("occlusion", low, high, (occluded >= low) & below))
    place = np.digitize(np.repeat(counts, counts), COUNT_EDGES)
    ends = [*(edge - 1 for edge in COUNT_EDGES[1:]), None]
    for number, (fewest, most) in enumerate(zip(COUNT_EDGES, ends, strict=True), start=1):
        if (place == number).any():
            rows.append(Group("objects", fewest, most, place == number))
    return Groups(np.repeat(np.arange(len(pairs)), counts), edges, tuple(rows))
