"""Images of any kind to tensors [3, H, W] uint8 RGB, upright. `pixels.py` reads them."""

# pyright: strict, reportUnknownMemberType=false
# PyTorch's own types leave some of its functions untyped.

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import ConfigError, DataError
from .pixels import PixelSource, read_pixels

ImageSource = PixelSource | Tensor


def read_image(source: ImageSource, shrink: int = 1) -> Tensor:
    """One image as [3, H, W] uint8 RGB, upright. A view with channels last in memory.

    source, shrink: as of `read_pixels`; also a tensor [3, H, W] uint8 (or [1, H, W]), which comes back as it is.
    Raises DataError as `read_pixels`, and for a tensor that is not of bytes.
    """
    if isinstance(source, Tensor):
        return _from_tensor(source)
    return torch.from_numpy(read_pixels(source, shrink)).permute(2, 0, 1)


def is_image(given: object) -> bool:
    """Whether it is one image, rather than several of them."""
    kinds = (str, PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray, Tensor)
    return isinstance(given, kinds) or hasattr(given, "read") or not isinstance(given, Iterable)


def turned_to_rgb(image: ImageSource, name: str) -> ImageSource:
    """An array [H, W, 3] or a tensor [3, H, W] with blue first, with red first. Raises ConfigError for other images,
    whose files say themselves which colour comes first."""
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3:
        return image[..., ::-1]
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3:
        return image.flip(0)
    raise ConfigError(
        f"{name}: bgr expects arrays [height, width, 3] or tensors [3, height, width]; for other images leave it out."
    )


def _from_tensor(tensor: Tensor) -> Tensor:
    expected = "An image tensor is expected as [3, height, width] uint8 RGB"
    if tensor.dtype != torch.uint8:
        todo = "multiply by 255 if it is in [0, 1], and " if tensor.is_floating_point() else ""
        raise DataError(f"{expected}, got {tensor.dtype}: {todo}convert it with .to(torch.uint8).")
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3) or 0 in tensor.shape:
        todo = " Is it channels last? Use .permute(2, 0, 1)." if tensor.shape[-1:] in ((1,), (3,)) else ""
        raise DataError(f"{expected}, got the shape {list(tensor.shape)}.{todo}")
    return tensor.expand(3, -1, -1)
