"""Boxes and names on photographs, and contact sheets, drawn by Pillow.

Names are drawn in the first font that has all their letters: DejaVu Sans (Latin, Greek, Cyrillic, Arabic; it
comes with matplotlib), else a font of the system. Where none has them, for example Thai, Chinese or emoji on
a machine without such fonts, the missing letters give way to the class number: "#3".
"""

# pyright: strict

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .errors import ConfigError
from .structures import Detections

Colour = tuple[int, int, int]
Picture = Tensor | np.ndarray | Image.Image

# Okabe and Ito (2008), told apart by colour-blind people; black is left out, it vanishes on photographs.
_OKABE_ITO: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
# An irrational step round the colour circle never repeats; of four, this one kept 80 colours farthest apart.
_HUE_STEP = 0.5698403


class Boxes(Protocol):
    """Record, Sample and Detections are such: boxes [N, 4] xyxy pixels of the image."""

    @property
    def boxes(self) -> Tensor | np.ndarray: ...


def class_colour(index: int) -> Colour:
    """RGB of a class, the same in every picture. The first seven are safe for colour-blind people; after
    them hue, lightness and saturation take turns, so neighbours differ in all three."""
    if index < len(_OKABE_ITO):
        return _OKABE_ITO[index]
    lightness, saturation = (0.35, 0.55, 0.75)[index % 3], (0.9, 0.55)[index // 3 % 2]
    red, green, blue = colorsys.hls_to_rgb((0.1 + index * _HUE_STEP) % 1, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_detections(
    image: Picture, detections: Detections, labels: Sequence[str], *, truth: Boxes | None = None
) -> Image.Image:
    """A copy of the image with boxes in the colour of their class and "name score" on them.

    image: [3, H, W] uint8 tensor, [H, W, 3] or [H, W] uint8 array, or a Pillow image. detections: boxes in
    its pixels. labels: the names of the classes. truth: annotated objects, shown as white corners.
    Lines and letters grow with the image and shrink with the objects. Names come after all boxes, the highest
    score first; one is moved to where it hides no other, shortened to the score, or left out where there is
    no room (the colour still tells the class). A score of NaN, as annotations have none, is not written.
    np.asarray() of the result is the [H, W, 3] uint8 array.

    Raises ConfigError for an image of another type and a class without a name.
    """
    picture = _as_pillow(image)
    canvas = ImageDraw.Draw(picture)
    if truth is not None:
        for box in _whole_pixels(truth.boxes, picture.size)[0]:
            _draw_corners(canvas, box, _line_width(picture.size))
    boxes, kept = _whole_pixels(detections.boxes, picture.size)
    if not len(boxes):
        return picture
    scores, classes = (_numpy(part)[kept] for part in (detections.scores, detections.labels))
    if not 0 <= classes.min() <= classes.max() < len(labels):
        raise ConfigError(
            f"Drawing expects names for classes up to {classes.max()}, got {len(labels)} names."
        )
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1).clip(1))
    width = min(_line_width(picture.size), max(1, round(np.median(sides) / 20)))
    strongest = np.argsort(-scores, kind="stable")
    for i in strongest[::-1]:
        canvas.rectangle(tuple(boxes[i]), outline=class_colour(int(classes[i])), width=width)
    size = _letter_size(picture.size, sides)
    placed = np.zeros((0, 4))
    for i in strongest:
        index = int(classes[i])
        text, font_path = printable(labels[index], index)
        placed = _draw_name(
            canvas,
            (text,) if np.isnan(scores[i]) else (f"{text} {scores[i]:.2f}", f"{scores[i]:.2f}"),
            ImageFont.truetype(font_path, size),
            boxes[i],
            placed,
            class_colour(index),
        )
    return picture


def draw_grid(images: Sequence[Picture], columns: int | None = None, *, cell: int = 320) -> Image.Image:
    """A contact sheet: images in rows of `columns` (default: a square sheet), the longer side of each shrunk
    to at most `cell` pixels."""
    if not images:
        raise ConfigError("A contact sheet expects at least one image, got none.")
    thumbnails: list[Image.Image] = []
    for image in images:
        thumbnail = _as_pillow(image)
        thumbnail.thumbnail((cell, cell), Image.Resampling.LANCZOS)
        thumbnails.append(thumbnail)
    columns = min(len(thumbnails), columns or math.ceil(math.sqrt(len(thumbnails))))
    gap = 4
    width = max(thumbnail.width for thumbnail in thumbnails) + gap
    height = max(thumbnail.height for thumbnail in thumbnails) + gap
    rows = math.ceil(len(thumbnails) / columns)
    sheet = Image.new("RGB", (columns * width + gap, rows * height + gap), (255, 255, 255))
    for i, thumbnail in enumerate(thumbnails):
        left = gap + i % columns * width + (width - gap - thumbnail.width) // 2
        top = gap + i // columns * height + (height - gap - thumbnail.height) // 2
        sheet.paste(thumbnail, (left, top))
    return sheet


@lru_cache(maxsize=4096)
def printable(name: str, index: int) -> tuple[str, str]:
    """The name as it can be drawn, and the path of the font that draws it (see the module)."""
    name = " ".join(name.split())
    letters = frozenset(ord(letter) for letter in name if letter != " ")
    bundled = _bundled_font()
    if letters <= _letters_of(bundled):
        return name or f"#{index}", bundled
    for path in _system_fonts():
        if letters <= _letters_of(path):
            return name, path
    rest = "".join(letter for letter in name if letter == " " or ord(letter) in _letters_of(bundled))
    return f"{' '.join(rest.split())} #{index}".strip(), bundled


@lru_cache(maxsize=1)
def _bundled_font() -> str:
    from matplotlib import get_data_path

    return f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    from matplotlib.font_manager import findSystemFonts  # pyright: ignore[reportUnknownVariableType] untyped in part

    # Upright, regular faces first: the shortest name of a family is the plain one.
    return tuple(sorted(findSystemFonts(), key=lambda path: (len(path.rsplit("/", 1)[-1]), path)))


@lru_cache(maxsize=1024)
def _letters_of(path: str) -> frozenset[int]:
    """The characters an outline font has; none for a bitmap font (colour emoji) or an unreadable file."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()


def _as_pillow(image: Picture) -> Image.Image:
    """A new one. Of a large image, each further copy would take 4 bytes a pixel."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = _numpy(image)
    if isinstance(image, Tensor) and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ConfigError(
            "Drawing expects a [3, H, W] uint8 tensor, an [H, W, 3] uint8 array or a Pillow image,"
            f" got {tuple(image.shape)} {image.dtype}."
        )
    picture = Image.fromarray(np.ascontiguousarray(array))
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _numpy(values: Tensor | np.ndarray) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _whole_pixels(xyxy: Tensor | np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes to first and last pixel inside the image, and which of them are finite: [M, 4] int, [N] bool."""
    xyxy = _numpy(xyxy).reshape(-1, 4)
    finite = np.all(np.isfinite(xyxy), 1)
    first, last = np.minimum(xyxy[:, :2], xyxy[:, 2:])[finite], np.maximum(xyxy[:, :2], xyxy[:, 2:])[finite]
    limit = np.array([*size, *size]) - 1
    return np.concatenate([first, np.maximum(last - 1, first)], 1).round().clip(0, limit).astype(int), finite


def _line_width(size: tuple[int, int]) -> int:
    return max(1, round(math.hypot(*size) / 500))


def _letter_size(size: tuple[int, int], sides: np.ndarray) -> int:
    """Pixels. 12 on 640 x 480, 22 on 1920 x 1080, 35 on 3840 x 2160; less for small objects and for more than
    forty of them; never under 9."""
    full = 12 * (math.hypot(*size) / 800) ** 0.62
    return max(9, round(min(full, float(np.median(sides)) * 0.3) * min(1, (40 / len(sides)) ** 0.25)))


def _draw_corners(canvas: ImageDraw.ImageDraw, box: np.ndarray, width: int) -> None:
    """White with a dark rim, a fifth of each side."""
    left, top, right, bottom = map(int, box)
    arm_x, arm_y = max(1, (right - left) // 5), max(1, (bottom - top) // 5)
    for colour, thickness in (((0, 0, 0), width + 2), ((255, 255, 255), width)):
        for x, toward_x in ((left, arm_x), (right, -arm_x)):
            for y, toward_y in ((top, arm_y), (bottom, -arm_y)):
                corner = [(x + toward_x, y), (x, y), (x, y + toward_y)]
                canvas.line(corner, fill=colour, width=thickness, joint="curve")


def _draw_name(
    canvas: ImageDraw.ImageDraw,
    texts: Sequence[str],
    font: ImageFont.FreeTypeFont,
    box: np.ndarray,
    placed: np.ndarray,
    colour: Colour,
) -> np.ndarray:
    """Draw the first of `texts` that finds room at its box; the names placed so far, with this one."""
    left, top, right, bottom = box
    image_width, image_height = canvas.im.size
    ascent, descent = font.getmetrics()
    height, margin = ascent + descent, max(1, font.size // 6)
    for text in texts:
        width = math.ceil(font.getlength(text)) + 2 * margin
        if width > image_width or height > image_height:
            continue
        corners = np.array(
            [
                (left, top - height),
                (left, top),
                (right - width + 1, top - height),
                (left, bottom + 1),
                (right - width + 1, bottom + 1),
                (left, bottom - height + 1),
            ]
        )
        corners = corners.clip(0, (image_width - width, image_height - height))
        spots = np.concatenate([corners, corners + (width, height)], 1)
        sides = np.minimum(spots[:, None, 2:], placed[:, 2:]) - np.maximum(spots[:, None, :2], placed[:, :2])
        free = ~np.any(np.all(sides > 0, -1), 1)
        if not free.any():
            continue
        x, y = (int(value) for value in corners[free.argmax()])
        canvas.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
        luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
        canvas.text((x + margin, y), text, font=font, fill=(0, 0, 0) if luminance > 120 else (255, 255, 255))
        return np.concatenate([placed, spots[[free.argmax()]]])
    return placed
