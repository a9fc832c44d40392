"""How much boxes overlap, in NumPy and float64: what is planned, counted and evaluated must not hang on rounding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_AT_ONCE = (
    4_000_000  # pairs of boxes: what is worked out on the way takes five times the memory of the answer
)


def overlaps(xyxy_a: np.ndarray, xyxy_b: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """[A, 4] and [B, 4] to IoU [A, B]; in columns where `crowd` [B], the share of box a inside b."""
    found = np.empty((len(xyxy_a), len(xyxy_b)))
    for rows in _some_rows(*found.shape):
        found[rows] = _overlaps(xyxy_a[rows], xyxy_b, crowd)
    return found


def _some_rows(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _AT_ONCE // max(1, columns))
    return (slice(start, start + step) for start in range(0, rows, step))


def _overlaps(xyxy_a: np.ndarray, xyxy_b: np.ndarray, crowd: np.ndarray | None) -> np.ndarray:
    xyxy_a, xyxy_b = np.asarray(xyxy_a, np.float64)[:, None], np.asarray(xyxy_b, np.float64)
    # Side by side, not as [A, B, 2]: a third of the time.
    width = np.minimum(xyxy_a[..., 2], xyxy_b[..., 2]) - np.maximum(xyxy_a[..., 0], xyxy_b[..., 0])
    height = np.minimum(xyxy_a[..., 3], xyxy_b[..., 3]) - np.maximum(xyxy_a[..., 1], xyxy_b[..., 1])
    intersection = width.clip(min=0) * height.clip(min=0)
    area_a, area_b = ((xyxy[..., 2:] - xyxy[..., :2]).prod(-1) for xyxy in (xyxy_a, xyxy_b))
    union = area_a + area_b - intersection
    if crowd is not None:
        union = np.where(crowd, area_a, union)
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def occlusion(xyxy: np.ndarray) -> np.ndarray:
    """[N]: the largest IoU of each of the boxes [N, 4] of one image with another of them, 0 for one alone."""
    found = np.zeros(len(xyxy))
    for rows in _some_rows(len(xyxy), len(xyxy)):
        overlap = _overlaps(xyxy[rows], xyxy, None)
        np.fill_diagonal(overlap[:, rows.start :], 0)
        found[rows] = overlap.max(1)
    # Rounding may put the IoU of two equal boxes a bit above 1, outside the last bin of any histogram.
    return found.clip(max=1)
