"""What the three format modules have in common: a data set that was found, its splits, and closing words."""

# pyright: strict

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...errors import DataError
from ..dataset import DetectionData, Record
from .repair import Classes, Findings

# The split of a data set that has no division: it answers to any name.
ALL = "all"

_SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test", "trainval": "trainval",
}  # fmt: skip


class Source(Protocol):
    """A data set on disk whose format is known. splits: name to whatever the format needs to read it."""

    @property
    def format(self) -> str: ...

    @property
    def root(self) -> Path: ...

    @property
    def splits(self) -> Mapping[str, Any]: ...

    def read(self, split: str, asked: Sequence[str] | None) -> DetectionData:
        """asked: class names in the order wanted, or None for the data set's own."""
        ...


def split_name(stem: str) -> str | None:
    """'train' of instances_train2017, 'val' of valid; None if the name tells of no split."""
    words = re.findall(r"[a-z]+", stem.lower())
    return next((_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES), None)


def name_splits(stems: Iterable[str]) -> dict[str, str]:
    """Split name to stem. Stems that would share a name (train2014, train2017) keep their own."""
    stems = list(stems)
    names = [split_name(stem) or stem for stem in stems]
    return {stem if names.count(name) > 1 else name: stem for name, stem in zip(names, stems, strict=True)}


def finish(
    source: Source, split: str, records: list[Record], classes: Classes, findings: Findings
) -> DetectionData:
    """The data set of the records. Raises DataError when no image is left."""
    problems = findings.problems()
    if not records:
        reason = f" The first problem: {problems[0].file}: {problems[0].what}" if problems else ""
        raise DataError(f"{source.root}: the split {split} has no image that can be used.{reason}")
    return DetectionData(
        records, classes.labels, classes.category_ids, source.root, split, source.format, problems
    )
