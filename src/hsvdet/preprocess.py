"""From an image of any size to what a network takes. Travels with the weights, in every checkpoint."""

# pyright: strict

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .bounds import LARGEST_SIDE, LARGEST_STRIDE
from .errors import ConfigError, counted
from .structures import Rectangle

Resize = Literal["letterbox", "fit", "stretch", "shortest"]


# (height, width), or one number for both.
Size = int | tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an image is resized, padded and normalised.

    size: (height, width) of the network's input. resize:
      letterbox  the aspect kept, the picture in the middle, `fill` around it (the YOLO family);
      fit        the aspect kept, the picture in the top left corner, padded right and below (DETR family);
      stretch    resized to `size`, the aspect not kept (RT-DETR);
      shortest   the shorter side to min(size) unless the longer would pass max(size); no padding
                 (DETR's published evaluation: size (800, 1333)).
    fill: the grey of the padding, 0..255. mean, std: of channels in [0, 1]. stride: sides of the canvas are
    multiples of it. antialias: low-pass before shrinking (Pillow does, the YOLO family's OpenCV did not).
    """

    size: tuple[int, int]
    resize: Resize = "letterbox"
    fill: int = 114
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    stride: int = 32
    antialias: bool = False

    def __post_init__(self):
        if self.resize not in ("letterbox", "fit", "stretch", "shortest"):
            raise ConfigError(f"resize expects letterbox, fit, stretch or shortest, got {self.resize!r}.")
        for name in ("size", "mean", "std"):
            value = getattr(self, name)
            object.__setattr__(self, name, _as_tuple(value))
        for name, expected, valid in (
            ("stride", f"an integer from 1 to {LARGEST_STRIDE}", _is_int(self.stride, 1, LARGEST_STRIDE)),
            ("fill", "an integer from 0 to 255", _is_int(self.fill, 0, 255)),
            ("mean", "three numbers", _are_numbers(self.mean)),
            ("std", "three numbers above 0", _are_numbers(self.std) and min(self.std) > 0),
            ("antialias", "true or false", _is(self.antialias, bool)),
        ):
            if not valid:
                raise ConfigError(
                    f"preprocess: {name} expects {expected}, got {str(getattr(self, name))[:80]}."
                )
        if not _are_sides(self.size, self.stride):
            raise ConfigError(
                f"size expects (height, width) of at least {self.stride} and at most {LARGEST_SIDE}, got"
                f" {str(self.size)[:80]}."
            )
        if self.resize != "shortest" and any(side % self.stride for side in self.size):
            nearest = tuple(max(self.stride, round(side / self.stride) * self.stride) for side in self.size)
            raise ConfigError(
                f"size expects multiples of {self.stride}, got {self.size[0]}x{self.size[1]}."
                f" Nearest: {nearest[0]}x{nearest[1]}."
            )

    @property
    def pads(self) -> bool:
        """Whether there may be padding beside a picture; of pictures without any, batches make some."""
        return self.resize != "stretch"

    def resized(self, size: Size) -> Preprocess:
        """With another `size`, (height, width) or one number for both. Raises ConfigError."""
        return replace(self, size=(size, size) if isinstance(size, int) else tuple(size))

    def geometry(self, height: int, width: int, minimal: bool = False) -> tuple[tuple[int, int], Rectangle]:
        """(canvas height, width) and where the picture lies on it, for an image of height x width pixels.

        minimal: leave out the rows or columns of padding that the stride does not ask for, so a wide image
        costs a wide canvas. Depends on this image alone, never on its neighbours in a batch.
        """
        if self.resize == "stretch":
            return self.size, Rectangle(0, 0, self.size[1], self.size[0])
        if self.resize == "shortest":
            short, long = min(self.size), max(self.size)
            if max(height, width) / min(height, width) * short > long:
                short = round(long * min(height, width) / max(height, width))
            if height <= width:
                content = Rectangle(0, 0, max(1, int(short * width / height)), max(1, short))
            else:
                content = Rectangle(0, 0, max(1, short), max(1, int(short * height / width)))
            return (content.height, content.width), content
        ratio = min(self.size[0] / height, self.size[1] / width)
        new_height = min(max(1, round(height * ratio)), self.size[0])
        new_width = min(max(1, round(width * ratio)), self.size[1])
        canvas = self.size
        if minimal:
            canvas = (_round_up(new_height, self.stride), _round_up(new_width, self.stride))
        left = top = 0
        if self.resize == "letterbox":
            # The half pixel of an odd gap goes to the right and to the bottom.
            left, top = (canvas[1] - new_width) // 2, (canvas[0] - new_height) // 2
        return canvas, Rectangle(left, top, new_width, new_height)

    def across(self, sizes: Sequence[tuple[int, int]]) -> str | None:
        """A warning where `size` lies across most images, as one does that was meant as width x height; else None.

        sizes: (height, width) of each image.
        """
        height, width = self.size
        upright = height > width
        other = sum(h < w if upright else h > w for h, w in sizes)
        if height == width or self.resize == "shortest" or 2 * other <= len(sizes):
            return None
        shape, images = ("upright", "landscape") if upright else ("landscape", "upright")
        return (
            f"A size is height x width: {height}x{width} is {shape}, and {other:,} of {counted(len(sizes), 'image')}"
            f" {'is' if len(sizes) == 1 else 'are'} {images}, where {width}x{height} shows more."
        )

    def to_canvas(self, image: Tensor, minimal: bool = False) -> tuple[Tensor, Rectangle]:
        """image: [3, H, W] uint8 to its canvas [3, H', W'] uint8, and where the picture lies on it."""
        canvas, content = self.geometry(image.shape[-2], image.shape[-1], minimal)
        size = [content.height, content.width]
        if list(image.shape[-2:]) != size:
            image = resize(image, size, antialias=self.antialias)
        if canvas == (content.height, content.width):
            return image, content
        placed = torch.full((3, *canvas), self.fill, dtype=torch.uint8)
        bottom, right = content.top + content.height, content.left + content.width
        placed[:, content.top : bottom, content.left : right] = image
        return placed, content

    def normalise(self, image: Tensor) -> Tensor:
        """[..., 3, H, W] uint8 to float32."""
        scaled = image.to(torch.float32, copy=True).div_(255)  # in place: large batches live on page faults
        if self.mean == (0.0, 0.0, 0.0) and self.std == (1.0, 1.0, 1.0):
            return scaled
        mean = scaled.new_tensor(self.mean)[:, None, None]
        std = scaled.new_tensor(self.std)[:, None, None]
        return scaled.sub_(mean).div_(std)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Preprocess:
        """Raises ConfigError, also for a name that it does not have."""
        names = [item.name for item in fields(cls)]
        if "size" not in content or not content.keys() <= set(names):
            raise ConfigError(
                f"preprocess expects size, and no other names than {', '.join(names)}; got"
                f" {', '.join(content)[:80] or 'nothing'}."
            )
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def resize(image: Tensor, size: list[int], *, antialias: bool) -> Tensor:
    """image: [3, H, W] uint8 to `size` (height, width), bilinear, the same bits on every processor.

    PyTorch resizes uint8 in whole numbers everywhere; torchvision asks it to only where that is fast, and elsewhere
    resizes in float32, a grey level off here and there. Artifacts resize in whole numbers as well.
    """
    # Batch strides that say whether channels come last: torchvision's way of keeping them where they are.
    batch = image.as_strided((1, *image.shape), (image.numel(), *image.stride()))
    return F.interpolate(batch, size, mode="bilinear", align_corners=False, antialias=antialias)[0]


def _is_int(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind)


def _as_tuple(value: object) -> object:
    """A list, as JSON has them; anything else as it is, for the checks."""
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


def _parts(value: object) -> tuple[object, ...]:
    return cast("tuple[object, ...]", value) if isinstance(value, tuple) else ()


def _are_sides(size: object, least: int) -> bool:
    return len(_parts(size)) == 2 and all(_is_int(side, least, LARGEST_SIDE) for side in _parts(size))


def _are_numbers(values: object) -> bool:
    return len(_parts(values)) == 3 and all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        for value in _parts(values)
    )


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
