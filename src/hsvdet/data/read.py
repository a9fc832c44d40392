"""A data set of any known format, found out from its path, to records."""

# pyright: strict

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from ..errors import DataError, counted, did_you_mean
from .dataset import DetectionData
from .division import DividedSource, read_division
from .formats.coco import find_coco
from .formats.exports import refuse_export
from .formats.splits import ALL, Source
from .formats.voc import find_voc
from .formats.yolo import find_yolo

_ORDER = {"train": 0, "val": 1, "trainval": 2, "test": 3}


def read_data(
    path: str | PathLike[str], split: str | None = None, labels: Sequence[str] | None = None
) -> DetectionData:
    """Read one split of a data set in COCO, YOLO, Pascal VOC or IDD form.

    path: a COCO .json, a YOLO data.yaml, or the data set's folder. split: "train", "val", ... as
    `available_splits` lists them; None is right where there is only one. A data set without splits answers to
    any name. labels: the class names to use, in this order, such as those of a detector: names are the key,
    and `category_ids` lead back to the data set's own ids. By default the data set's own classes.

    Nothing is lost in silence: what was repaired or left out is in `problems`, by file. Raises DataError when
    the path, the split or the file as a whole cannot be used, or when boxes have a class outside `labels`.
    """
    source = open_source(path)
    data = source.read(require_split(source, split), labels)
    _log(data)
    return data


def as_data(
    data: DetectionData | str | PathLike[str], split: str | None = None, labels: Sequence[str] | None = None
) -> DetectionData:
    """data: itself, or where `read_data` finds it. Raises as `read_data`."""
    return data if isinstance(data, DetectionData) else read_data(data, split, labels=labels)


def available_splits(path: str | PathLike[str]) -> tuple[str, ...]:
    """The splits of a data set, train first; ("all",) where it is not divided. Reads no annotation."""
    return tuple(split_names(open_source(path)))


def split_names(source: Source) -> list[str]:
    """Train, val, trainval, test, then others by name."""
    return sorted(source.splits, key=lambda name: (_ORDER.get(name, len(_ORDER)), name))


def open_source(path: str | PathLike[str]) -> Source:
    """Find out a data set's format and splits. Raises DataError when it has no known form."""
    found = Path(path).expanduser()
    try:
        exists = found.exists()
    except (OSError, ValueError):  # a link to itself; a null character in the name
        exists = False
    if not exists:
        raise DataError(f"{path} does not exist. A data set's folder, .json or .yaml was expected.")
    if not (found.is_file() or found.is_dir()):
        raise DataError(f"{path} is no regular file; a data set's folder, .json or .yaml was expected.")
    found = found.absolute()
    divided = read_division(found) if found.is_file() else None
    if divided is not None:
        inner = Path(divided.data)
        if inner.is_file() and read_division(inner) is not None:
            raise DataError(f"{path} divides {inner}, which is a division itself. Divide a data set.")
        return DividedSource(divided, open_source(inner))
    if found.is_dir():
        # The plainest sign first: a data.yaml, then XML files, then any JSON file.
        finders = (find_yolo, find_voc, find_coco)
    else:
        finders = (find_coco, find_yolo)
    for find in finders:
        source = find(found)
        if source is not None:
            return source
    refuse_export(found)
    raise DataError(
        f"{path} is no data set of a known form. Looked for annotations/instances_*.json or train.json"
        " (COCO), data.yaml or images/ with labels/ (YOLO), Annotations/ with JPEGImages/ (VOC, IDD);"
        f" found {_contents(found)}."
    )


def _contents(path: Path) -> str:
    if path.is_file():
        return f"a file of type {path.suffix or 'unknown'}"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
    return (", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")) or "nothing"


def require_split(source: Source, split: str | None) -> str:
    """The name of the split to read, as `read_data` chooses it. Raises DataError when there is none."""
    splits = split_names(source)
    if split is not None and split in source.splits:
        return split
    if splits == [ALL] or (split is None and len(splits) == 1):
        return splits[0]
    if split is None:
        raise DataError(f"{source.root} has the splits {', '.join(splits)}: say which one to read.")
    raise DataError(
        f"{source.root} has no split {split!r}, it has {', '.join(splits)}.{did_you_mean(split, splits)}"
    )


def _log(data: DetectionData) -> None:
    boxes = sum(len(record.labels) for record in data.records)
    line = (
        f"{data.root} ({data.format}, {data.split}): {counted(len(data), 'image')}, {counted(boxes, 'box')},"
        f" {counted(len(data.labels), 'class')}"
    )
    logger = logging.getLogger("hsvdet")
    if not data.problems:
        logger.info("%s.", line)
        return
    errors = sum(problem.severity == "error" for problem in data.problems)
    first = data.problems[0]
    logger.warning(
        "%s; errors: %d, warnings: %d, the first: %s: %s `hsvdet data check` lists all.",
        line,
        errors,
        len(data.problems) - errors,
        first.file,
        first.what,
    )
