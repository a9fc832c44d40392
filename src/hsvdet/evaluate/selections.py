"""What learned token selectors select: objects, or something else; counted image by image, map by map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..data.overlap import occlusion
from ..structures import Selection
from .recall import OCCLUDED

SMALL = 32.0**2  # pixels of a box, as COCO's small objects


class MapCount(NamedTuple):
    """One map of one image. kept: selected cells; on_objects: of them, whose centre lies in a box; on_border: of them,
    in the outermost rows and columns of the picture. cells, cells_on_objects: all of the picture. covered: [N] bool,
    objects that a kept cell belongs to: its centre lies in the box, or the box's centre in it."""

    stride: int
    kept: int
    on_objects: int
    on_border: int
    cells: int
    cells_on_objects: int
    covered: np.ndarray


class ImageCount(NamedTuple):
    """Of one image. small, occluded: [N] bool."""

    maps: tuple[MapCount, ...]
    small: np.ndarray
    occluded: np.ndarray


class SelectionScores(NamedTuple):
    """Of the map of a stride, or of all maps together (None). tokens: selected in an image, on average. precision: the
    share of them whose centre lies in a box; lift: times as much as of all cells. coverage: the share of objects that
    a selected token belongs to; coverage_small: of those under 32 x 32 pixels; coverage_occluded: of those with an IoU
    of at least 0.5 with another. border: the share of tokens in the outermost rows and columns of the picture. NaN
    where there is nothing to share."""

    stride: int | None
    tokens: float
    precision: float
    lift: float
    coverage: float
    coverage_small: float
    coverage_occluded: float
    border: float


def count_selections(
    selections: Sequence[Selection], number: int, extent: np.ndarray, boxes: np.ndarray, size: tuple[int, int]
) -> ImageCount | None:
    """Of image `number` of a batch; None where the network does not say what it kept.

    extent: [4], left, top, width, height of the picture in pixels of the input. boxes: [N, 4] xyxy fractions of the
    picture. size: (height, width) of the image in its own pixels.
    """
    said = [(one.stride, one.kept) for one in selections if one.kept is not None]
    if not said:
        return None
    pixels = boxes * np.array([*size[::-1], *size[::-1]])
    there = boxes * np.tile(extent[2:], 2) + np.tile(extent[:2], 2)
    maps = tuple(_count(kept[number].cpu().numpy(), stride, extent, there) for stride, kept in said)
    sides = pixels[:, 2:] - pixels[:, :2]
    return ImageCount(maps, sides.prod(-1) < SMALL, occlusion(pixels) >= OCCLUDED[0])


def _count(kept: np.ndarray, stride: int, extent: np.ndarray, boxes: np.ndarray) -> MapCount:
    """boxes: xyxy pixels of the input."""
    left, top, width, height = extent
    rows, columns = (np.arange(side) * stride for side in kept.shape)
    # Of the picture are cells that have some of it.
    in_rows, in_columns = (
        (places + stride > first) & (places < first + length)
        for places, first, length in ((rows, top, height), (columns, left, width))
    )
    picture = in_rows[:, None] & in_columns
    kept = kept & picture
    inner = _without_ends(in_rows)[:, None] & _without_ends(in_columns)
    x, y = columns + stride / 2, rows + stride / 2
    along = (x > boxes[:, None, 0]) & (x < boxes[:, None, 2])
    down = (y > boxes[:, None, 1]) & (y < boxes[:, None, 3])
    within = down[:, :, None] & along[:, None]  # [N, h, w]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    own = (rows <= centre[:, 1:]) & (centre[:, 1:] < rows + stride)
    own = own[:, :, None] & ((columns <= centre[:, :1]) & (centre[:, :1] < columns + stride))[:, None]
    on_objects = within.any(0)
    return MapCount(
        stride,
        int(kept.sum()),
        int((kept & on_objects).sum()),
        int((kept & ~inner).sum()),
        int(picture.sum()),
        int((picture & on_objects).sum()),
        ((within | own) & kept).any((1, 2)),
    )


def _without_ends(members: np.ndarray) -> np.ndarray:
    """The same [n] bool without its first and last True."""
    inner = members.copy()
    inner[np.flatnonzero(members)[[0, -1]] if members.any() else []] = False
    return inner


def summarise_selections(counts: Iterable[ImageCount]) -> tuple[SelectionScores, ...]:
    """A row for each map, finest first, and one for all where there are several; nothing of no images."""
    counts = list(counts)
    if not counts:
        return ()
    strides = sorted({one.stride for count in counts for one in count.maps})
    groups: list[int | None] = [*strides, *([None] if len(strides) > 1 else [])]
    return tuple(_scores(counts, stride) for stride in groups)


def _scores(counts: Sequence[ImageCount], stride: int | None) -> SelectionScores:
    rows = [[one for one in count.maps if stride in (None, one.stride)] for count in counts]
    maps = [one for row in rows for one in row]
    kept, cells = sum(one.kept for one in maps), sum(one.cells for one in maps)
    precision = _share(sum(one.on_objects for one in maps), kept)
    covered = np.concatenate([np.any([one.covered for one in row], axis=0) for row in rows])
    small, occluded = (
        np.concatenate(parts) for parts in ([c.small for c in counts], [c.occluded for c in counts])
    )
    return SelectionScores(
        stride=stride,
        tokens=kept / len(counts),
        precision=precision,
        lift=_share(precision, _share(sum(one.cells_on_objects for one in maps), cells)),
        coverage=_share(int(covered.sum()), len(covered)),
        coverage_small=_share(int(covered[small].sum()), int(small.sum())),
        coverage_occluded=_share(int(covered[occluded].sum()), int(occluded.sum())),
        border=_share(sum(one.on_border for one in maps), kept),
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
