"""One picture of what a network looked at: the photograph, and over it heat, cells, points and boxes.

Drawn at twice its size and shrunk, so that lines and discs have smooth edges.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..draw import Colour, printable
from .view import View

_SUPERSAMPLING = 2
_CLOSE = 0.7  # of the picture's sides: a larger part is shown as the whole
_MARKS = ("circle", "square", "triangle", "diamond")  # of levels, finest first
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
REFERENCE: Colour = (0, 255, 170)  # on photographs and beside the heat's colours


class Panel:
    """A canvas over an image. All places are pixels of the image, all maps lie over the network's canvas.

    image: [3, H, W] uint8. longest: pixels of the longer side of the finished picture; by its shape, if not given.
    window: [4] xyxy, the part of the image that is shown, of the image's shape; all of it, if not given.
    """

    def __init__(
        self, image: Tensor, view: View, longest: int | None = None, window: np.ndarray | None = None
    ):
        height, width = view.size
        ratio = (longest or _longest(min(view.size) / max(view.size))) / max(height, width)
        self.view = view
        self.size = max(1, round(width * ratio)), max(1, round(height * ratio))
        self._big = self.size[0] * _SUPERSAMPLING, self.size[1] * _SUPERSAMPLING
        self._window = np.array([0.0, 0.0, width, height]) if window is None else window
        self._scale = np.array(self._big) / (self._window[2:] - self._window[:2])
        photograph = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
        self._picture = photograph.resize(
            self._big, Image.Resampling.LANCZOS, box=tuple(self._window.tolist())
        )

    def finished(self) -> Image.Image:
        return self._picture.resize(self.size, Image.Resampling.LANCZOS)

    def dim(self, brightness: float = 0.5) -> None:
        """Grey and dark, so that colours laid over it stand out."""
        grey = np.asarray(self._picture.convert("L"), dtype=np.float32) * brightness
        self._picture = Image.fromarray(np.repeat(grey[..., None], 3, -1).round().astype(np.uint8))

    def heat(self, values: np.ndarray, peak: float, *, smooth: bool = True) -> None:
        """Lay a map [h, w] over the picture, `peak` and above in the brightest colour; smooth: between cells."""
        strength = self._stretched(values / max(peak, 1e-12), smooth).clip(0, 1)
        opacity = (0.9 * strength**0.6)[..., None]
        colours = heat_colours()[(strength * 255).round().astype(int)]
        self._blend(colours, opacity)

    def tint(self, values: np.ndarray, peak: float, colour: Colour) -> None:
        """As `heat`, in one colour: several lie over one another."""
        strength = self._stretched(values / max(peak, 1e-12), True).clip(0, 1)
        self._blend(np.array(colour, dtype=np.float32), (0.85 * strength**0.8)[..., None])

    def light(self, chosen: np.ndarray, rest: float = 0.3) -> None:
        """Cells [h, w] bool stay as they are, with a thin outline; the rest fades to grey, of this brightness."""
        lit = self._stretched(chosen.astype(np.float32), False) > 0.5
        whole = np.asarray(self._picture, dtype=np.float32)
        faded = whole.mean(-1, keepdims=True) * rest
        edge = np.zeros_like(lit)
        for axis in (0, 1):
            step = np.diff(lit.astype(np.int8), axis=axis) != 0
            front = [slice(None), slice(None)]
            front[axis] = slice(1, None)
            back = [slice(None), slice(None)]
            back[axis] = slice(None, -1)
            edge[tuple(front)] |= step
            edge[tuple(back)] |= step
        picture = np.where(lit[..., None], whole, faded)
        picture[edge] = 0.35 * picture[edge] + 0.65 * 255
        self._picture = Image.fromarray(picture.round().astype(np.uint8))

    def cell(self, row: int, column: int, cells: tuple[int, int], colour: Colour) -> None:
        """Outline a cell of a map of `cells` (h, w)."""
        corners = np.array([(column, row), (column + 1, row + 1)]) / cells[::-1]
        self.box(self.view.to_image(corners).ravel(), colour, width=2.0)

    def box(self, xyxy: np.ndarray, colour: Colour, *, width: float = 2.5, dashed: bool = False) -> None:
        first, last = self._at(np.asarray(xyxy, dtype=np.float64).reshape(2, 2))
        corners = [first, np.array([last[0], first[1]]), last, np.array([first[0], last[1]])]
        canvas = ImageDraw.Draw(self._picture)
        for shade, thickness in ((BLACK, width + 1.5), (colour, width)):
            for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
                self._line(canvas, start, end, shade, thickness, dashed)

    def disc(self, point: np.ndarray, colour: Colour, text: str = "") -> None:
        """A small disc, with a number in it."""
        x, y = self._at(point)
        radius = (9.5 if text else 5) * _SUPERSAMPLING
        canvas = ImageDraw.Draw(self._picture)
        rim = radius + 1.5 * _SUPERSAMPLING
        canvas.ellipse((x - rim, y - rim, x + rim, y + rim), fill=BLACK)
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        if text:
            font = ImageFont.truetype(bold_font(), 12 * _SUPERSAMPLING)
            canvas.text((x, y), text, font=font, fill=readable_on(colour), anchor="mm")

    def cross(self, point: np.ndarray, colour: Colour = REFERENCE) -> None:
        x, y = self._at(point)
        arm = 9
        canvas = ImageDraw.Draw(self._picture)
        for shade, thickness in ((BLACK, 5), (colour, 2.5)):
            longer = (arm + (1 if shade == BLACK else 0)) * _SUPERSAMPLING
            for dx, dy in ((longer, 0), (0, longer)):
                canvas.line(
                    [(x - dx, y - dy), (x + dx, y + dy)], fill=shade, width=round(thickness * _SUPERSAMPLING)
                )

    def samples(self, points: np.ndarray, weights: np.ndarray, peak: float) -> None:
        """points: [heads, L, P, 2]. weights: [heads, L, P], by which they are coloured, the strongest on top; a
        level has its shape."""
        canvas = ImageDraw.Draw(self._picture)
        order = np.stack(np.unravel_index(np.argsort(weights, axis=None), weights.shape), -1)
        for head, level, number in order:
            strength = min(1.0, float(weights[head, level, number]) / max(peak, 1e-12))
            mark(
                canvas,
                self._at(points[head, level, number]),
                int(level),
                (3.0 + 2.5 * strength) * _SUPERSAMPLING,
                point_colour(strength),
            )

    def _at(self, point: np.ndarray) -> np.ndarray:
        return (np.asarray(point, dtype=np.float64) - self._window[:2]) * self._scale

    def _stretched(self, values: np.ndarray, smooth: bool) -> np.ndarray:
        """A map over the canvas to the pixels of the picture: [H, W] float32."""
        image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
        how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
        box = self.view.on_map(self._window, values.shape)
        return np.asarray(image.resize(self._big, how, box=tuple(box.tolist())))

    def _blend(self, colours: np.ndarray, opacity: np.ndarray) -> None:
        below = np.asarray(self._picture, dtype=np.float32)
        mixed = below * (1 - opacity) + colours * opacity
        self._picture = Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))

    def _line(
        self,
        canvas: ImageDraw.ImageDraw,
        start: np.ndarray,
        end: np.ndarray,
        colour: Colour,
        width: float,
        dashed: bool,
    ) -> None:
        length = float(np.linalg.norm(end - start))
        dash = 7 * _SUPERSAMPLING
        count = max(1, round(length / dash)) if dashed else 1
        for number in range(0, count, 2):
            ends = start + (end - start) * number / count, start + (end - start) * (number + 1) / count
            canvas.line([tuple(at) for at in ends], fill=colour, width=max(1, round(width * _SUPERSAMPLING)))


def mark(canvas: ImageDraw.ImageDraw, at: np.ndarray, level: int, radius: float, colour: Colour) -> None:
    """The shape of a level, with a dark rim."""
    x, y = at
    for size, fill in ((radius * 1.3 + 1, BLACK), (radius, colour)):
        match _MARKS[level % len(_MARKS)]:
            case "circle":
                canvas.ellipse((x - size, y - size, x + size, y + size), fill=fill)
            case "square":
                side = size * 0.88
                canvas.rectangle((x - side, y - side, x + side, y + side), fill=fill)
            case "triangle":
                corners = [
                    (x, y - size * 1.2),
                    (x + size * 1.1, y + size * 0.8),
                    (x - size * 1.1, y + size * 0.8),
                ]
                canvas.polygon(corners, fill=fill)
            case "diamond":
                reach = size * 1.25
                canvas.polygon([(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)], fill=fill)


@cache
def heat_colours() -> np.ndarray:
    """[256, 3] float32: dark violet over red to light yellow, of growing lightness."""
    from matplotlib import colormaps

    return (colormaps["inferno"](np.linspace(0.12, 1, 256))[:, :3] * 255).astype(np.float32)


def point_colour(strength: float) -> Colour:
    red, green, blue = (int(value) for value in heat_colours()[round(30 + strength * 225)])
    return red, green, blue


def readable_on(colour: Colour) -> Colour:
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return BLACK if luminance > 120 else WHITE


def bold_font() -> str:
    return printable("", 0)[1].replace("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")


def close_up(points: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """The part of an image of `size` (height, width), of its shape, that holds all of its [N, 2] points with room
    around them: a window for Panel, or None where that is most of it."""
    whole = np.array(size[::-1], dtype=np.float64)
    points = points.clip(0, whole)
    first, last = points.min(0), points.max(0)
    share = max(1.5 * ((last - first) / whole).max(), 0.2)
    if share > _CLOSE:
        return None
    corner = ((first + last - share * whole) / 2).clip(0, (1 - share) * whole)
    return np.concatenate([corner, corner + share * whole])


def _longest(shape: float) -> int:
    """Pixels of the longer side of a picture whose shorter one is `shape` of it: about the same area for all."""
    return round(min(487 / math.sqrt(shape), 900))
