"""Data without a validation split, divided in two: by chance, but images of one sequence together, and written down.

The file is a data set of its own kind: `read_data("run/split.json", "val")` are the images that were set aside.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import SeedSequence
from pydantic import BaseModel, Field, ValidationError, model_validator

from ..errors import ConfigError, DataError, counted
from ..files import write_atomically
from .dataset import DetectionData, Problem, Record
from .formats.splits import Source

_MARK = "hsvdet_division"
_STREAM = (3,)  # of the seed; loader.py has others
_PARTS = ("train", "val")

# What Roboflow adds to the name of an image, or of one of several augmented copies of it.
_COPY = re.compile(r"_(?:jpe?g|png|bmp|webp|tiff?)\.rf\.\w+$", re.IGNORECASE)
_NUMBER = re.compile(r"\d+\D*$")


class Division(NamedTuple):
    """by: "sequence" or "image", what was drawn. fraction, seed: as in `divide`."""

    training: DetectionData
    validation: DetectionData
    by: str
    fraction: float
    seed: int

    def __str__(self) -> str:
        return (
            f"{counted(len(self.training) + len(self.validation), 'image')} divided by {self.by}:"
            f" {len(self.training):,} to train on, {len(self.validation):,} to validate (seed {self.seed})"
        )


def divide(data: DetectionData, fraction: float, seed: int = 0) -> Division:
    """Set about `fraction` of the images aside for validation, the same for the same images and seed.

    What looks alike stays together. Copies of one image by Roboflow's names always do, and frames of one video by
    COCO's `video_id`. So do images whose names in one folder differ by their last number, if these make sequences
    enough to choose from: about `fraction` of the images, with half of each class's objects left to train on (names
    may be those of classes). No class loses all of its objects to validation.
    Raises ConfigError where that leaves nothing to validate on.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"val_fraction expects a share above 0 and below 1, got {fraction}.")
    wanted = max(1, round(fraction * len(data)))
    originals = [_original(record, data.root) for record in data.records]
    sequences = [
        record.group or _NUMBER.sub("", name) for record, name in zip(data.records, originals, strict=True)
    ]
    images = [record.group or name for record, name in zip(data.records, originals, strict=True)]
    chosen, by = _draw(data, sequences, wanted, seed, left=0.5), "sequence"
    if not 0.5 * wanted <= len(chosen) <= 1.5 * wanted or len(set(sequences)) == len(data):
        chosen, by = _draw(data, images, wanted, seed, left=0.0), "image"
    if not chosen or len(chosen) == len(data):
        raise ConfigError(
            f"{data.root} has too few images or groups of them to set val_fraction={fraction} aside. Give a split"
            " for validation, or none."
        )
    aside = set(chosen)
    parts = [[r for i, r in enumerate(data.records) if (i in aside) == held] for held in (False, True)]
    training, validation = (
        replace(data, records=records, split=name) for records, name in zip(parts, _PARTS, strict=True)
    )
    return Division(training, replace(validation, problems=()), by, fraction, seed)


def _draw(data: DetectionData, keys: Sequence[Hashable], wanted: int, seed: int, *, left: float) -> list[int]:
    """Images of whole groups, near the number wanted. left: the share of a class's objects that must not be drawn;
    in any case one object is left."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        groups[key].append(number)
    classes = len(data.labels)
    counts = np.stack([np.bincount(record.labels, minlength=classes) for record in data.records])
    total = counts.sum(0)
    most = np.minimum(np.maximum(total - 1, 0), (1 - left) * total)
    drawn, objects = [], np.zeros(classes)
    order = sorted(groups, key=str)
    for number in np.random.default_rng(SeedSequence(seed, spawn_key=_STREAM)).permutation(len(order)):
        group = groups[order[number]]
        more = objects + counts[group].sum(0)
        if len(drawn) + len(group) / 2 <= wanted and (more <= most).all():
            drawn, objects = drawn + group, more
    return drawn


def _original(record: Record, root: Path) -> str:
    """The path inside the data set without suffix, the same for all copies of an image."""
    path = Path(record.path)
    if path.is_relative_to(root):
        path = path.relative_to(root)
    return str(path.with_name(_COPY.sub("", path.stem)))


def write_division(path: Path, division: Division, data: str, split: str) -> None:
    """data: the data set's path. split: which of its splits was divided."""
    content = {
        _MARK: 1,
        "data": str(Path(data).expanduser().absolute()),
        "split": split,
        "by": division.by,
        "fraction": division.fraction,
        "seed": division.seed,
        "train": [record.id for record in division.training.records],
        "val": [record.id for record in division.validation.records],
    }
    write_atomically(path, (json.dumps(content, ensure_ascii=False) + "\n").encode())


class DividedFile(NamedTuple):
    """What `write_division` wrote. images: ids of each part."""

    path: Path
    data: str
    split: str
    images: dict[str, list[int | str]]


class _Content(BaseModel, strict=True):
    data: str
    split: str
    train: list[int | str] = Field(min_length=1)
    val: list[int | str] = Field(min_length=1)

    @model_validator(mode="after")
    def _apart(self) -> _Content:
        if len({*self.train, *self.val}) < len(self.train) + len(self.val):
            raise ValueError("an image is in it twice")
        return self


def is_division(path: Path) -> bool:
    """Without reading a large file. Raises OSError."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        return _MARK.encode() in file.read(64)


def read_division(path: Path) -> DividedFile | None:
    """None for a file of another kind. Raises DataError."""
    try:
        if not is_division(path):
            return None
        content = _Content.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}.") from None
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors()[:3])
        raise DataError(
            f"{path}: not a division that `data split` or `train` wrote ({what}). Make it again."
        ) from None
    return DividedFile(path, content.data, content.split, {"train": content.train, "val": content.val})


@dataclass(frozen=True)
class DividedSource:
    """The data set of the file, with the parts as its splits."""

    file: DividedFile
    whole: Source

    @property
    def format(self) -> str:
        return self.whole.format

    @property
    def root(self) -> Path:
        return self.whole.root

    @property
    def splits(self) -> dict[str, list[int | str]]:
        return self.file.images

    def read(self, split: str, asked: Sequence[str] | None) -> DetectionData:
        if self.file.split not in self.whole.splits:
            raise DataError(
                f"{self.file.path} divides the split {self.file.split!r} of {self.file.data}, which has"
                f" {', '.join(self.whole.splits)}. Divide the data set again."
            )
        data = self.whole.read(self.file.split, asked)
        records = {record.id: record for record in data.records}
        missing = [id_ for id_ in self.file.images[split] if id_ not in records]
        if missing:
            raise DataError(
                f"{self.file.path}: {self.file.data} has lost {counted(len(missing), 'image')} of {split}, the first"
                f" being {missing[0]}. Divide the data set again."
            )
        known = {id_ for ids in self.file.images.values() for id_ in ids}
        problems = list(data.problems)
        new = len(records.keys() - known)
        if new:
            what = f"{counted(new, 'image')} came to the data set after it was divided, and in neither part."
            problems.append(Problem("warning", self.file.path.name, what))
        return replace(
            data,
            records=[records[id_] for id_ in self.file.images[split]],
            split=split,
            problems=tuple(problems),
        )
