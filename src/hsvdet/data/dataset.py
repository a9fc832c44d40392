"""A data set in memory: what every reader gives, and training, evaluation, checking and converting take."""

# pyright: strict

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Record(NamedTuple):
    """One image and its objects, as annotated; nothing of the picture itself is read yet.

    id: the data set's own image id (an integer in COCO, else the path relative to the root).
    size: (height, width) as the annotations say, else from the image's header.
    boxes: [N, 4] float32 xyxy pixels, repaired (inside the image, first corner before last).
    labels: [N] int64 in 0..C-1. crowd: [N] bool, a region of many objects: ignored in training and by AP.
    area: [N] float32 square pixels, the annotation's own (a mask's area in COCO), else the box's.
    visibility: [N] float32 in [0, 1] where the data set knows it, else None.
    group: where the data set knows it, what the image was taken from with others, such as a video; else None.
    labelled: [C] bool, the classes that are annotated in this image, so that their absence is known; None: all are.
    """

    id: int | str
    path: str
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    visibility: np.ndarray | None = None
    group: str | None = None
    labelled: np.ndarray | None = None


class Problem(NamedTuple):
    """Something wrong, by file. severity: "error" (must be repaired: the image or box is left out) or
    "warning" (was repaired or is harmless). what: a full sentence saying what was done with it."""

    severity: str
    file: str
    what: str


@dataclass(frozen=True)
class DetectionData:
    """One split of a data set.

    labels: class names, in the order of the contiguous ids 0..C-1. category_ids: the data set's own id of
    each class, restored on output. format: "coco", "yolo", "voc" or "idd". problems: what reading found.
    """

    records: list[Record]
    labels: tuple[str, ...]
    category_ids: tuple[int, ...]
    root: Path
    split: str
    format: str
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.records)
