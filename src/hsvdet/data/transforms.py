"""Sample to Sample: placing, moving, flipping and colouring one image; its boxes follow.

Training transforms take their randomness as an argument (`rng`, a numpy Generator), never from a global
state, so that a sample depends on its key alone and not on the worker, the process or the batch it is in.
Images are uint8 [3, H, W]; laid out [H, W, 3] in memory, as decoders give them, they are resized twice as
fast as planes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..boxes import area
from ..preprocess import Preprocess, resize
from ..structures import Rectangle, Sample

SMALLEST_SIDE = 2.0  # pixels: a thinner box is no object a network could be asked for
SMALLEST_SHARE = 0.1  # of a box's area that must stay on the canvas
LARGEST_ASPECT = 100.0


class Letterbox(NamedTuple):
    """The image onto its canvas as `preprocess` says (of any resize mode), as evaluation does; no randomness.

    minimal: as in `Preprocess.geometry`. Every box is kept.
    """

    preprocess: Preprocess
    minimal: bool = False

    def __call__(self, sample: Sample) -> Sample:
        height, width = sample.image.shape[-2:]
        image, content = self.preprocess.to_canvas(sample.image, self.minimal)
        scale = sample.boxes.new_tensor([content.width / width, content.height / height] * 2)
        offset = sample.boxes.new_tensor([content.left, content.top] * 2)
        return sample.with_boxes(lambda boxes: boxes * scale + offset)._replace(image=image, content=content)


class HorizontalFlip(NamedTuple):
    """Left and right exchanged with this probability."""

    probability: float = 0.5

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        width = sample.image.shape[-1]
        content = sample.content
        if content is not None:
            content = content._replace(left=width - content.left - content.width)

        def flipped(boxes: Tensor) -> Tensor:
            left, top, right, bottom = boxes.unbind(-1)
            return torch.stack([width - right, top, width - left, bottom], -1)

        return sample.with_boxes(flipped)._replace(image=sample.image.flip(-1), content=content)


class ColourJitter(NamedTuple):
    """Hue, saturation, brightness and contrast as one 3 x 3 matrix and an offset: one pass over the image.

    hue: largest rotation of the chroma plane, in turns (.015 is 5.4 degrees). saturation, brightness,
    contrast: largest relative change; .4 draws a factor from .6 to 1.4. The rotation is of the YIQ plane at
    constant luma, not of the HSV cone (which is not linear); contrast is about mid-grey.
    """

    hue: float = 0.0
    saturation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if not any(self):
            return sample
        turn, saturation, brightness, contrast = rng.uniform(-1, 1, 4) * self + (0, 1, 1, 1)
        angle = 2 * math.pi * turn
        cos, sin = saturation * math.cos(angle), saturation * math.sin(angle)
        chroma = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
        matrix = brightness * contrast * _RGB_FROM_YIQ @ chroma @ _YIQ_FROM_RGB
        offset = torch.full((3, 1), 127.5 * (1 - contrast))
        pixels = sample.image.reshape(3, -1).float()
        pixels = torch.addmm(offset, torch.from_numpy(matrix).float(), pixels)
        return sample._replace(image=to_uint8(pixels).view(sample.image.shape))


# NTSC 1953 primaries: luma, orange-blue and purple-green axes (Rec. ITU-R BT.470, FCC 47 CFR 73.682).
_YIQ_FROM_RGB = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB_FROM_YIQ = np.linalg.inv(_YIQ_FROM_RGB)


@dataclass(frozen=True, kw_only=True)
class RandomAffine:
    """The image onto the canvas of `preprocess`, scaled and moved there at random, in one resize.

    scale: the factor is drawn from 1 - scale to 1 + scale, about the middle of the canvas. translate:
    largest shift, in fractions of the canvas. rotate, shear: largest angle in degrees, about the middle of
    the canvas; asked for, they cost a second interpolation, and boxes become the hulls of their turned
    corners. Boxes are clipped, and dropped as `keep_visible` says. With all numbers 0 this is `Letterbox`.
    """

    preprocess: Preprocess
    scale: float = 0.0
    translate: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.image.shape[-2:]
        size, content = self.preprocess.geometry(height, width)
        motion = self.draw(rng)
        place = Rectangle(
            left=round(motion.move(content.left, size[1], axis=0)),
            top=round(motion.move(content.top, size[0], axis=1)),
            width=max(1, round(content.width * motion.scale)),
            height=max(1, round(content.height * motion.scale)),
        )
        moved = self.compose([(sample, place)], size, motion)
        if motion.turn is None:
            moved = moved._replace(content=_inside(place, size))
        return moved

    def draw(self, rng: np.random.Generator) -> Motion:
        scale, *shift = rng.uniform(-1, 1, 3) * (self.scale, self.translate, self.translate) + (1, 0, 0)
        if not self.rotate and not self.shear:
            return Motion(scale, tuple(shift), None)
        limits = (self.rotate, self.shear, self.shear)
        angle, shear_x, shear_y = np.radians(rng.uniform(-1, 1, 3) * limits)
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return Motion(scale, tuple(shift), rotation @ [[1, math.tan(shear_x)], [math.tan(shear_y), 1]])

    def compose(self, tiles: list[tuple[Sample, Rectangle]], size: tuple[int, int], motion: Motion) -> Sample:
        """Tiles onto one canvas of `size`, then turned as `motion` says (its scale and shift are already in
        the tiles' places).

        tiles: samples with where the whole of each picture comes to lie, in pixels of the canvas; what is
        outside is neither resized nor kept. The result carries the info of the first. Regions to ignore are cut off
        at its edges, and of turned ones the hull is ignored.
        """
        window = motion.window(size)
        canvas = torch.full((3, window.height, window.width), self.preprocess.fill, dtype=torch.uint8)
        pasted = []
        for sample, place in tiles:
            place = place._replace(left=place.left - window.left, top=place.top - window.top)
            pasted.append(_paste(canvas, sample, place, self.preprocess.antialias))
        if motion.turn is not None:
            canvas = _turn_image(canvas, window, size, motion.turn, self.preprocess.fill)
            pasted = [
                sample.with_boxes(partial(_turn_boxes, window=window, size=size, turn=motion.turn))
                for sample in pasted
            ]
        bounds = Rectangle(0, 0, size[1], size[0])
        xyxy, keep = keep_visible(torch.cat([sample.boxes for sample in pasted]), bounds)
        return Sample(
            canvas,
            xyxy[keep],
            torch.cat([sample.labels for sample in pasted])[keep],
            tiles[0][0].info,
            ignored=joined_regions(pasted, bounds),
            labelled=labelled_in_all(pasted),
        )


class Motion(NamedTuple):
    """What `RandomAffine` drew. shift: (x, y) in canvases. turn: 2 x 2, rotation and shear, or None."""

    scale: float
    shift: tuple[float, float]
    turn: np.ndarray | None

    def move(self, position: float, length: int, axis: int) -> float:
        """Where a position on a canvas of this length goes. axis: 0 = x, 1 = y."""
        return (position - length / 2) * self.scale + length * (0.5 + self.shift[axis])

    def window(self, size: tuple[int, int]) -> Rectangle:
        """The part of the plane that turning brings onto a canvas of `size`: where tiles can be seen."""
        height, width = size
        if self.turn is None:
            return Rectangle(0, 0, width, height)
        half = np.abs(np.linalg.inv(self.turn)) @ [width / 2, height / 2]
        left, top = math.floor(width / 2 - half[0]), math.floor(height / 2 - half[1])
        right, bottom = math.ceil(width / 2 + half[0]), math.ceil(height / 2 + half[1])
        return Rectangle(left, top, right - left, bottom - top)


def keep_visible(xyxy: Tensor, bounds: Rectangle) -> tuple[Tensor, Tensor]:
    """Boxes [N, 4] clipped to `bounds`, and which to keep [N] bool: at least 2 px wide and high, more than a
    tenth of the area still inside, longer than wide (or wider than long) by a factor under 100."""
    clipped = clip(xyxy, bounds)
    sides = clipped[:, 2:] - clipped[:, :2]
    short, long = sides.amin(-1), sides.amax(-1)
    keep = (short >= SMALLEST_SIDE) & (long < LARGEST_ASPECT * short)
    return clipped, keep & (area(clipped) > SMALLEST_SHARE * area(xyxy))


def joined_regions(samples: Sequence[Sample], bounds: Rectangle) -> Tensor | None:
    """The regions to ignore of all of them, [M, 4], cut off at `bounds`; None for none."""
    regions = [sample.ignored for sample in samples if sample.ignored is not None]
    if not regions:
        return None
    clipped = clip(torch.cat(regions), bounds)
    return clipped[(clipped[:, 2:] > clipped[:, :2]).all(-1)]


def labelled_in_all(samples: Sequence[Sample]) -> Tensor | None:
    """[C] bool, the classes that are labelled in each of them; None for all classes."""
    masks = [sample.labelled for sample in samples if sample.labelled is not None]
    return torch.stack(masks).all(0) if masks else None


def clip(xyxy: Tensor, bounds: Rectangle) -> Tensor:
    low = xyxy.new_tensor([bounds.left, bounds.top] * 2)
    high = low + xyxy.new_tensor([bounds.width, bounds.height] * 2)
    return torch.minimum(torch.maximum(xyxy, low), high)


def to_uint8(pixels: Tensor) -> Tensor:
    """Float pixels in 0..255 to the nearest uint8, clipped; in place. By way of int16, which PyTorch
    vectorises: five times faster than straight to uint8."""
    return pixels.add_(0.5).clamp_(0, 255).to(torch.int16).to(torch.uint8)


def _inside(place: Rectangle, size: tuple[int, int]) -> Rectangle | None:
    """The visible part of `place` on a canvas of `size`; None where that is all of it, or nothing."""
    left, top = max(place.left, 0), max(place.top, 0)
    width = min(place.left + place.width, size[1]) - left
    height = min(place.top + place.height, size[0]) - top
    if (height, width) == size or width < 1 or height < 1:
        return None
    return Rectangle(left, top, width, height)


def _paste(canvas: Tensor, sample: Sample, place: Rectangle, antialias: bool) -> Sample:
    """Resize what is visible of a sample into the canvas [3, H, W], in place. The sample with its boxes there,
    unclipped."""
    height, width = sample.image.shape[-2:]
    across = _visible(place.left, place.width, width, canvas.shape[2])
    down = _visible(place.top, place.height, height, canvas.shape[1])
    if across is None or down is None:
        scale = [place.width / width, place.height / height]
        offset = [place.left, place.top]
    else:
        piece = sample.image[:, down.first : down.last, across.first : across.last]
        # Cut out before resizing: a strided view takes PyTorch's slow path.
        piece = piece.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        new_size = [down.end - down.start, across.end - across.start]
        if list(piece.shape[1:]) != new_size:
            piece = resize(piece, new_size, antialias=antialias)
        top, bottom = max(down.start, 0), min(down.end, canvas.shape[1])
        left, right = max(across.start, 0), min(across.end, canvas.shape[2])
        canvas[:, top:bottom, left:right] = piece[
            :, top - down.start : bottom - down.start, left - across.start : right - across.start
        ]
        scale = [across.scale, down.scale]
        offset = [across.start - across.first * scale[0], down.start - down.first * scale[1]]
    factor, shift = sample.boxes.new_tensor(scale * 2), sample.boxes.new_tensor(offset * 2)
    return sample.with_boxes(lambda boxes: boxes * factor + shift)


class _Span(NamedTuple):
    """Along one axis: source pixels first..last are resized onto canvas pixels start..end."""

    first: int
    last: int
    start: int
    end: int

    @property
    def scale(self) -> float:
        return (self.end - self.start) / (self.last - self.first)


def _visible(start: int, length: int, source: int, canvas: int) -> _Span | None:
    """The fewest whole source pixels that cover what a canvas shows of a picture laid from `start` over
    `length` pixels of it. Both ends are whole pixels, so boxes can follow the resize exactly."""
    shown_from, shown_to = max(start, 0), min(start + length, canvas)
    if shown_from >= shown_to:
        return None
    ratio = length / source
    first = min(math.floor((shown_from - start) / ratio), source - 1)
    last = min(max(math.ceil((shown_to - start) / ratio), first + 1), source)
    return _Span(
        first,
        last,
        start if first == 0 else math.floor(start + first * ratio),
        start + length if last == source else math.ceil(start + last * ratio),
    )


def _turn_image(
    image: Tensor, window: Rectangle, size: tuple[int, int], turn: np.ndarray, fill: int
) -> Tensor:
    """The window's image [3, h, w] turned about the middle of the canvas, cut to the canvas `size`."""
    canvas = np.array([size[1], size[0]])
    corner, extent = np.array(window[:2]), np.array(window[2:])
    # Canvas in -1..1 to pixels about its middle, back through the turn, to the window in -1..1.
    matrix = (2 / extent)[:, None] * np.linalg.inv(turn) * (canvas / 2)
    shift = 2 * (canvas / 2 - corner) / extent - 1
    theta = torch.from_numpy(np.concatenate([matrix, shift[:, None]], 1)).float()[None]
    grid = torch.nn.functional.affine_grid(theta, [1, 3, *size], align_corners=False)
    # Padding is zero outside: with the fill as zero, rounding at the window's rim cannot show a dark line.
    centred = image[None].float().sub_(fill)
    turned = torch.nn.functional.grid_sample(centred, grid, mode="bilinear", align_corners=False)
    return to_uint8(turned[0].add_(fill))


def _turn_boxes(xyxy: Tensor, window: Rectangle, size: tuple[int, int], turn: np.ndarray) -> Tensor:
    """The hulls of the boxes' corners, in pixels of the window, turned about the middle of the canvas."""
    xyxy = xyxy + xyxy.new_tensor([window.left, window.top] * 2)
    middle = xyxy.new_tensor([size[1] / 2, size[0] / 2])
    corners = xyxy[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] - middle  # [N, 4, 2]
    corners = corners @ torch.from_numpy(turn).to(xyxy).T + middle
    return torch.cat([corners.amin(1), corners.amax(1)], -1)
