"""The images with most mistakes, and a picture of them: truth beside what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ..data.dataset import DetectionData, Record
from ..data.images import read_image
from ..draw import draw_detections, draw_grid
from ..errors import DataError
from ..structures import Detections
from .pairing import UNMATCHED, Pair

MOST = 12
_SIDE = 480  # pixels of a panel


class Mistakes(NamedTuple):
    """In one image, by detections over the score of the highest F1. missed: objects that none of them found. wrong:
    detections that found none. found: all of these detections."""

    id: int | str
    missed: int
    wrong: int
    found: Detections

    def to_json(self) -> dict[str, int | str]:
        return {"id": self.id, "missed": self.missed, "wrong": self.wrong}


def worst_images(
    ids: Sequence[int | str], pairs: Sequence[Pair], matches: Sequence[np.ndarray], score: float
) -> tuple[Mistakes, ...]:
    """The MOST with most mistakes, the worst first, none without any. ids, matches: of each pair."""
    mistakes = []
    for id_, pair, taken in zip(ids, pairs, matches, strict=True):
        passing = pair.scores > score
        missed = int((~pair.crowd).sum() - (taken[passing] >= 0).sum())
        wrong = int((taken[passing] == UNMATCHED).sum())
        if missed + wrong:
            found = Detections(
                torch.from_numpy(pair.boxes[passing]).float(),
                torch.from_numpy(pair.scores[passing]).float(),
                torch.from_numpy(pair.labels[passing]),
            )
            mistakes.append(Mistakes(id_, missed, wrong, found))
    return tuple(sorted(mistakes, key=lambda one: -(one.missed + one.wrong))[:MOST])


def worst_picture(worst: Sequence[Mistakes], data: DetectionData) -> Image.Image | None:
    """A row for each image: its objects on the left, what was found on the right. None where none can be drawn."""
    records = {record.id: record for record in data.records}
    panels: list[Image.Image] = []
    for one in worst:
        try:
            image = read_image(records[one.id].path)
        except (DataError, KeyError):  # gone since, or another data set's
            continue
        panels.append(draw_detections(image, _objects(records[one.id]), data.labels))
        panels.append(draw_detections(image, one.found, data.labels))
    return draw_grid(panels, columns=2, cell=_SIDE) if panels else None


def _objects(record: Record) -> Detections:
    """As annotated, crowd regions left out; without scores."""
    labels = torch.from_numpy(np.asarray(record.labels))[~np.asarray(record.crowd)]
    boxes = torch.from_numpy(np.asarray(record.boxes, dtype=np.float32))[~np.asarray(record.crowd)]
    return Detections(boxes, torch.full(labels.shape, float("nan")), labels)
