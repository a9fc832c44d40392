"""Between an image, the canvas a network saw it on, and the maps of cells over that canvas."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..structures import Rectangle

Cells = tuple[int, int]


class View(NamedTuple):
    """One image on its canvas. size, canvas: (height, width) in pixels. content: where the image lies on the canvas.

    A map of h x w cells covers the whole canvas, padding too: a cell is 1/h of its height and 1/w of its width.
    Points are (x, y) pixels of the image, upright, as it was before it was resized.
    """

    size: tuple[int, int]
    canvas: tuple[int, int]
    content: Rectangle

    def to_image(self, fractions: np.ndarray) -> np.ndarray:
        """[..., 2] (x, y) fractions of the canvas, as sampling locations are, to pixels of the image."""
        return (fractions * self._canvas - self._corner) / self._scale

    def to_canvas(self, points: np.ndarray) -> np.ndarray:
        """[..., 2] pixels of the image to fractions of the canvas."""
        return (points * self._scale + self._corner) / self._canvas

    def on_map(self, xyxy: np.ndarray, cells: Cells) -> np.ndarray:
        """A box [4] in pixels of the image to cells of a map, not whole ones."""
        corners = self.to_canvas(xyxy.reshape(2, 2)) * cells[::-1]
        return corners.clip(0, cells[::-1]).ravel()

    def centres(self, cells: Cells) -> np.ndarray:
        """[h, w, 2]: the centre of every cell in pixels of the image; cells of padding lie outside of it."""
        rows, columns = np.mgrid[: cells[0], : cells[1]]
        return self.to_image((np.stack([columns, rows], -1) + 0.5) / cells[::-1])

    def coverage(self, xyxy: np.ndarray, cells: Cells) -> np.ndarray:
        """[h, w] in 0..1: the part of each cell that a box [4] in pixels of the image covers."""
        left, top, right, bottom = self.on_map(xyxy, cells)
        rows, columns = (np.arange(count) for count in cells)
        down = (np.minimum(rows + 1, bottom) - np.maximum(rows, top)).clip(0)
        across = (np.minimum(columns + 1, right) - np.maximum(columns, left)).clip(0)
        return down[:, None] * across

    def nearest(self, point: np.ndarray, cells: Cells, allowed: np.ndarray | None = None) -> tuple[int, int]:
        """(row, column) of the allowed cell that is nearest to a point, in cells: the one it lies in, if allowed.

        allowed: [h, w] bool, at least one of them; all if not given.
        """
        place = self.to_canvas(point) * cells[::-1]
        rows, columns = np.mgrid[: cells[0], : cells[1]]
        # Sides before corners, so that the cell around the point is always the nearest.
        distance = np.stack([abs(columns + 0.5 - place[0]), abs(rows + 0.5 - place[1])])
        distance = distance.max(0) + distance.sum(0) * 1e-3
        if allowed is not None:
            distance = np.where(allowed, distance, np.inf)
        row, column = np.unravel_index(distance.argmin(), cells)
        return int(row), int(column)

    @property
    def _canvas(self) -> np.ndarray:
        return np.array(self.canvas[::-1], dtype=np.float64)

    @property
    def _corner(self) -> np.ndarray:
        return np.array([self.content.left, self.content.top], dtype=np.float64)

    @property
    def _scale(self) -> np.ndarray:
        """Canvas pixels per image pixel, in x and y."""
        return np.array([self.content.width / self.size[1], self.content.height / self.size[0]])


def inside(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Which of [..., 2] points lie in a box xyxy: [...] bool."""
    return np.all((points >= box[:2]) & (points <= box[2:]), -1)
