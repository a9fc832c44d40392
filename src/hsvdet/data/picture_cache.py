"""Pictures decoded once for all workers of a process, at the size that training needs."""

from __future__ import annotations

import logging
import mmap
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from ..preprocess import Preprocess
from .dataset import Record
from .images import read_image

GIBIBYTE = 2**30
# Images are read at no less than this many times the size they have on the canvas, so that scaling up by
# the usual factor still finds detail.
_OVERSAMPLE = 1.5


class Picture(NamedTuple):
    """image: [3, H, W] uint8, 1/shrink of the file's size, which is `size` (height, width)."""

    image: Tensor
    shrink: int
    size: tuple[int, int]


class Pictures:
    """Decodes the pictures of records, keeps those that fit into `budget` bytes, and knows which are broken.

    What is kept lies in anonymous shared memory, made before workers are forked: each picture is decoded and
    stored once for all of them, and /dev/shm (small in containers) is not used. Where workers are not
    forked but sent a copy, the copy starts empty.
    """

    def __init__(self, records: list[Record], preprocess: Preprocess, budget: int = 0):
        self.records, self.preprocess, self.budget = records, preprocess, budget
        self.shrink = [self._shrink(record.size) for record in records]
        # Per picture, shared by the workers: whether it is stored, whether its warning was given.
        self._stored = _shared_bytes(len(records))
        self._warned = _shared_bytes(len(records))
        self._slots: list[tuple[int, int, int] | None] = []  # offset, height, width
        used = 0
        for record, shrink in zip(records, self.shrink, strict=True):
            slot = None
            if budget:
                height, width = (-(-side // shrink) for side in record.size)
                if used + 3 * height * width <= budget:
                    slot = used, height, width
                    used += 3 * height * width
            self._slots.append(slot)
        try:
            self._store = _shared_bytes(used)
        except OSError as error:
            raise ConfigError(
                f"cache='ram' asked for {used / GIBIBYTE:.1f} GiB of memory, which this machine does not give."
                " Lower cache_gibibytes, or train without cache."
            ) from error

    def __getstate__(self):
        return self.records, self.preprocess, self.budget

    def __setstate__(self, state):
        self.__init__(*state)

    def read(self, index: int, whole: bool = False) -> Picture:
        """Raises DataError naming the file. whole: at its full size."""
        record = self.records[index]
        shrink = 1 if whole else self.shrink[index]
        slot = self._slots[index]
        if slot is None:
            image = read_image(record.path, shrink)
        else:
            offset, height, width = slot
            place = self._store[offset : offset + 3 * height * width].view(height, width, 3)
            image = place.permute(2, 0, 1)
            if not self._stored[index]:
                decoded = read_image(record.path, shrink)
                if decoded.shape != image.shape:  # the annotations give a wrong size
                    self._slots[index] = None
                    return _picture(decoded, shrink, record)
                image.copy_(decoded)
                # After the pixels: another worker must not find the mark before them. Two workers that
                # decode the same picture at once write the same bytes.
                self._stored[index] = 1
        return _picture(image, shrink, record)

    def warn(self, index: int, message: str) -> None:
        """Once per picture, whichever worker meets it first."""
        if not self._warned[index]:
            self._warned[index] = 1
            logging.getLogger("hsvdet").warning(message)

    def _shrink(self, size: tuple[int, int]) -> int:
        _, content = self.preprocess.geometry(*size)
        room = min(size[0] / content.height, size[1] / content.width) / _OVERSAMPLE
        return next(factor for factor in (8, 4, 2, 1) if factor <= max(1, room))


def _picture(image: Tensor, shrink: int, record: Record) -> Picture:
    return Picture(image, shrink, record.size if shrink > 1 else (image.shape[1], image.shape[2]))


def _shared_bytes(length: int) -> Tensor:
    """[length] uint8 zeros that forked processes see and write in common. Costs memory only where written."""
    return torch.frombuffer(mmap.mmap(-1, max(1, length)), dtype=torch.uint8)[:length]
