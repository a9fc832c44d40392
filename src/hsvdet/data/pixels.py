"""Images of any kind to [H, W, 3] uint8 RGB, upright, without PyTorch. Pillow decodes: it checks sizes before it
allocates.

What happens with every unusual image is in docs/data.md.
"""

# pyright: strict

from __future__ import annotations

import io
import logging
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from os import PathLike
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..bounds import MAX_PIXELS
from ..errors import DataError

# No EPS, PDF or WMF: opening those runs other programs.
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "MPO", "JPEG2000", "AVIF")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
_ORIENTATION = 0x0112  # the EXIF tag: 1 to 8; from 5 on, height and width change places
_STRIP = 1 << 20  # pixels that are converted at a time
_BACKGROUND = 255  # white, under transparent pixels

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .bmp .dib .gif .tif .tiff .webp .ppm .pgm .pbm .pnm .jp2 .avif".split()
)

PixelSource = str | PathLike[str] | bytes | Image.Image | np.ndarray


def read_pixels(source: PixelSource, shrink: int = 1) -> np.ndarray:
    """One image as [H, W, 3] uint8 RGB, upright (EXIF rotation applied), of its own memory.

    source: a path, the bytes of a file, a Pillow image, or an array [H, W, 3] uint8 RGB (also [H, W], [H, W, 1]
    and [H, W, 4]). Files are known by their content, not by their name. Grey is repeated, CMYK converted,
    transparency laid over white, 16 bits divided by 257; of an animation the first frame is used.

    shrink: 1, 2, 4 or 8; of a file, this part of each side (rounded up) is wanted, every pixel the mean of a
    square of the file's pixels. JPEG files are decoded at that size at once, in a third of the time.

    Raises DataError in one line when the image is missing, broken, truncated, empty, of an unknown format or
    larger than MAX_PIXELS (before any pixel is decoded), or when an array is not of bytes.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, "the Pillow image")
    given: Any = source
    if not isinstance(given, str | PathLike | bytes | bytearray | memoryview):
        raise DataError(
            "An image is expected as a path, the bytes of a file, a Pillow image or an array;"
            f" got {type(given).__name__}."
        )
    with _opened(source) as (name, image):
        return _decode(image, name, shrink)


def name_of(source: object, number: int) -> str:
    """What to call an image in errors: its path, or its number in a list (from 0)."""
    return f"{source}" if isinstance(source, str | PathLike) else f"image {number + 1} of the list"


def image_size(source: str | PathLike[str] | bytes) -> tuple[int, int]:
    """(height, width) in pixels, upright, from the header alone. Raises DataError as `read_pixels`."""
    with _opened(source) as (_, image):
        width, height = image.size
        # Pillow turns TIFF files by itself and gives their upright size.
        turned = image.format != "TIFF" and _orientation(image) >= 5
        return (width, height) if turned else (height, width)


@contextmanager
def _opened(source: str | PathLike[str] | bytes) -> Generator[tuple[str, Image.Image], None, None]:
    """The name to use in messages, and the image with only its header read."""
    limit = max_pixels()
    if isinstance(source, (bytes, bytearray, memoryview)):
        name, file = "the image given as bytes", io.BytesIO(source)
    else:
        name, file = os.fspath(source), _open_file(os.fspath(source))
    with file:
        try:
            if not file.read(1):
                raise DataError(f"{name} is empty (0 bytes). Replace or remove it.")
            image = Image.open(file, formats=_formats())
            if image.width * image.height > limit:
                raise Image.DecompressionBombError
        except DataError:
            raise
        except Image.DecompressionBombError as error:
            raise DataError(
                f"{name} has more than {limit:,} pixels and was not decoded."
                " If it is meant to be so large, set the environment variable HSVDET_MAX_PIXELS."
            ) from error
        except UnidentifiedImageError as error:
            raise DataError(
                f"{name} is not an image that can be read (JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000,"
                " PPM), or its header is broken."
            ) from error
        except Exception as error:  # on broken files Pillow's readers raise whatever they stumble over
            raise DataError(f"{name} has a broken header: {_reason(error)}.") from error
        yield name, image


def _open_file(name: str) -> BinaryIO:
    try:
        mode = os.stat(name).st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{name} is a folder, an image file was expected.")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise DataError(f"{name} is not a regular file, an image file was expected.")
        return open(name, "rb")
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{name} cannot be opened: {reason}.") from error


def _decode(image: Image.Image, name: str, shrink: int = 1) -> np.ndarray:
    try:
        # An MPO file is a photograph with a second view or a preview behind it: not an animation.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            _warn_once(f"{name} has several frames; the first is used.")
        if shrink > 1 and image.format in ("JPEG", "MPO"):
            width = image.width
            image.draft(None, (max(1, image.width // shrink), max(1, image.height // shrink)))
            shrink //= round(width / image.width)
        image.load()
        if _orientation(image) > 1:
            image = ImageOps.exif_transpose(image)
        pixels = _to_rgb(image, name)
        return np.array(Image.fromarray(pixels).reduce(shrink)) if shrink > 1 else pixels
    except DataError:
        raise
    except Exception as error:  # as in _opened
        raise DataError(f"{name} is broken or truncated: {_reason(error)}. Replace or remove it.") from error


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """[H, W, 3] uint8, writable."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_numbers(image, name)
    transparent = image.mode in _ALPHA_MODES or "transparency" in image.info
    if image.mode == "RGB" and not transparent and image.width * image.height <= _STRIP:
        return np.array(image)
    # A strip at a time: each step of a large image as a whole would take as much memory again.
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for rows in _strips(rgb):
        strip = image.crop((0, rows.start, image.width, rows.stop))
        pixels = np.asarray(strip.convert("RGBA" if transparent else "RGB"))
        rgb[rows] = _over_background(pixels) if transparent else pixels
    return rgb


def _from_numbers(image: Image.Image, name: str) -> np.ndarray:
    """Grey of 16 or 32 bits, or floating point, to RGB, a strip at a time."""
    whole = image.mode != "F"
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for rows in _strips(rgb):
        strip = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
        if not (strip.min() >= 0 and strip.max() <= (65535 if whole else 1)):  # also NaN
            what = "32-bit pixels beyond 65535" if whole else "floating point pixels outside [0, 1]"
            raise DataError(f"{name} has {what}. Convert it to 8 or 16 bits.")
        # Pillow's own conversion would saturate: 256 of 65535 became white.
        rgb[rows] = ((strip.astype(np.uint32) + 128) // 257 if whole else np.rint(strip * 255))[..., None]
    return rgb


def _over_background(rgba: np.ndarray) -> np.ndarray:
    colour, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    return ((colour * alpha + _BACKGROUND * (255 - alpha) + 127) // 255).astype(np.uint8)


def _strips(image: np.ndarray) -> Iterator[slice]:
    """Rows of [H, W, ...] in parts of about a million pixels."""
    step = max(1, _STRIP // max(1, image.shape[1]))
    for start in range(0, image.shape[0], step):
        yield slice(start, min(start + step, image.shape[0]))


def _from_array(array: np.ndarray) -> np.ndarray:
    expected = "An image array is expected as [height, width, 3] uint8 RGB"
    if array.dtype != np.uint8:
        todo = "multiply by 255 if it is in [0, 1], and " if array.dtype.kind == "f" else ""
        raise DataError(f"{expected}, got {array.dtype}: {todo}convert it with .astype(numpy.uint8).")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        todo = " Is it channels first? Use .transpose(1, 2, 0)." if array.shape[:1] in ((1,), (3,)) else ""
        raise DataError(f"{expected}, got the shape {list(array.shape)}.{todo}")
    if array.shape[2] == 1:
        array = np.repeat(array, 3, 2)
    elif array.shape[2] == 4:
        array = _over_background(array)
    return np.array(array, order="C")  # a copy: an array may be read-only, or have negative strides


def _orientation(image: Image.Image) -> int:
    try:
        value: Any = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF data do not make the picture unusable
        return 1
    return value if value in range(1, 9) else 1


def max_pixels() -> int:
    """Of an image, or a frame of a video. Raises DataError for a setting that is no number."""
    setting = os.environ.get("HSVDET_MAX_PIXELS", "")
    if not setting:
        return MAX_PIXELS
    if not setting.isdecimal() or len(setting) > 18 or int(setting) == 0:
        raise DataError(f"HSVDET_MAX_PIXELS expects a number such as {MAX_PIXELS}, got {setting[:40]!r}.")
    # Pillow refuses images of more than twice this number, and warns above it.
    if Image.MAX_IMAGE_PIXELS is not None and int(setting) > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = int(setting)
    return int(setting)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@cache
def _warn_once(message: str) -> None:
    logging.getLogger("hsvdet").warning(message)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
