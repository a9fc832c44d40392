"""What a detector found in an image, for people: names beside numbers, a picture, JSON."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# PyTorch's own types leave some of its functions untyped.

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .data.images import ImageSource, read_image
from .draw import draw_detections
from .errors import ConfigError, SaveError
from .files import write_atomically
from .structures import Detections

_SHOWN = 10  # detections that `print` lists
_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


class Detection(NamedTuple):
    """One object. box: xyxy pixels of the image, upright. score: 0 to 1. label: index of the class. name: its name."""

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What was found in one image: a sequence of `Detection`, the highest score first.

    detections: the numbers alone, a pytree of tensors. classes: the names of all classes, index = label.
    category_ids: the id of each class in the data set it was learned from. image: as it was given.
    """

    detections: Detections
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    image: ImageSource

    @property
    def boxes(self) -> Tensor:
        """[N, 4] float32 xyxy in pixels of the image, upright."""
        return self.detections.boxes

    @property
    def scores(self) -> Tensor:
        """[N] float32 in [0, 1], descending."""
        return self.detections.scores

    @property
    def labels(self) -> Tensor:
        """[N] int64, indices of `classes`."""
        return self.detections.labels

    @property
    def names(self) -> list[str]:
        """The class of each detection."""
        return [self.classes[label] for label in self.labels.tolist()]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self[number] for number in range(len(self)))

    @overload
    def __getitem__(self, which: int) -> Detection: ...

    @overload
    def __getitem__(self, which: slice | Sequence[int] | np.ndarray | Tensor) -> Result: ...

    def __getitem__(self, which: int | slice | Sequence[int] | np.ndarray | Tensor) -> Detection | Result:
        """A number gives one detection; a slice, numbers or a mask, such as `result.scores > 0.5`, those of them."""
        if isinstance(which, Tensor | np.ndarray) and not which.ndim:  # as `result.scores.argmax()` is
            which = int(which)
        if isinstance(which, int | np.integer):
            if not -len(self) <= which < len(self):
                raise IndexError(f"detection {which} of {len(self)}")
            left, top, right, bottom = self.boxes[which].tolist()
            label = int(self.labels[which])
            return Detection(
                (left, top, right, bottom), float(self.scores[which]), label, self.classes[label]
            )
        if not isinstance(which, slice):
            which = torch.as_tensor(which, device=self.boxes.device)
            which = which.long() if not len(which) else which
        return replace(self, detections=Detections(*(part[which] for part in self.detections)))

    def to(self, device: str | torch.device) -> Result:
        return replace(self, detections=Detections(*(part.to(device) for part in self.detections)))

    def plot(self) -> Image.Image:
        """The image with boxes, names and scores. Raises DataError where its file cannot be read any more."""
        return draw_detections(read_image(self.image), self.to("cpu").detections, self.classes)

    def save(self, path: str | PathLike[str]) -> Path:
        """Writes `plot` as NAME.png, .jpg or .webp. Raises ConfigError for another suffix, SaveError."""
        path = Path(path)
        kind = _SUFFIXES.get(path.suffix.lower())
        if kind is None:
            raise ConfigError(f"{path}: a picture expects a name that ends in {', '.join(_SUFFIXES)}.")
        try:
            write_atomically(path, _encoded(self.plot(), kind))
        except OSError as error:
            raise SaveError(f"{path} cannot be written: {error.strerror or error}.") from None
        return path

    def show(self) -> None:
        """Opens the picture in the system's viewer."""
        self.plot().show()

    def to_json(self) -> list[dict[str, Any]]:
        """As COCO has it: {"category_id", "name", "bbox": [left, top, width, height], "score"} of each."""
        return [
            {
                "category_id": self.category_ids[one.label],
                "name": one.name,
                "bbox": [
                    round(value, 2)
                    for value in (one.box[0], one.box[1], one.box[2] - one.box[0], one.box[3] - one.box[1])
                ],
                "score": round(one.score, 5),
            }
            for one in self
        ]

    def to_supervision(self) -> Any:
        """As `supervision.Detections`, class names in its `data`. Raises ConfigError where supervision is missing."""
        try:
            supervision = importlib.import_module("supervision")
        except ImportError as error:
            raise ConfigError(
                f"to_supervision needs supervision, not installed here ({error}): pip install supervision"
            ) from None
        found = self.to("cpu")
        return supervision.Detections(
            xyxy=found.boxes.numpy(),
            confidence=found.scores.numpy(),
            class_id=found.labels.numpy(),
            data={"class_name": np.array(found.names, dtype=str)},
        )

    def __repr__(self) -> str:
        source = f" in {self.image}" if isinstance(self.image, str | PathLike) else ""
        lines = [f"{len(self)} detection{'' if len(self) == 1 else 's'}{source}{':' if len(self) else ''}"]
        for one in self[:_SHOWN]:
            left, top, right, bottom = one.box
            lines.append(f"  {one.name} {one.score:.2f}  {left:.1f}, {top:.1f} to {right:.1f}, {bottom:.1f}")
        if len(self) > _SHOWN:
            lines.append(f"  and {len(self) - _SHOWN} weaker ones")
        return "\n".join(lines)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return _encoded(self.plot(), "PNG")


def _encoded(picture: Image.Image, kind: str) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **({"quality": 95} if kind != "PNG" else {}))
    return file.getvalue()
