"""Annotations as read, of a whole split in columns, to records: repaired, checked, grouped by image.

Every reader ends here, so every format treats a bad box alike. Columns, because COCO has 860,000 boxes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ...bounds import LARGEST_IMAGE_SIDE, LONGEST_NAME, MOST_CLASSES, MOST_OBJECTS
from ...errors import DataError, counted, did_you_mean
from ...structures import is_class_name
from ..dataset import Problem, Record


class Kind(NamedTuple):
    """A defect of boxes. phrase: completes "3 boxes ...", and says what was done with them."""

    severity: str
    phrase: str


CLIPPED = Kind("warning", "partly outside the image: clipped to it")
SWAPPED = Kind("warning", "with corners in the wrong order or a negative size: corners put in order")
REPEATED = Kind("warning", "annotated twice, exactly alike: kept once")
OUTSIDE = Kind("error", "wholly outside the image: left out")
THIN = Kind("error", "thinner than a hundredth of a pixel inside the image: left out")
EMPTY = Kind("error", "without area: left out")
NOT_FINITE = Kind("error", "with NaN or infinite numbers: left out")
MALFORMED = Kind("error", "that cannot be read: left out")
UNKNOWN_CLASS = Kind("error", "of an unknown class: left out")
AREA = Kind("warning", "with an area that is no number of square pixels: the box's own was taken")
CROWD = Kind("warning", "with an iscrowd other than 0 and 1: taken as an object")
UNLABELLED = Kind(
    "warning", "of a class that is not among the labelled_classes of its image: used all the same"
)

# Rounding, and conventions that differ by a pixel, put sound boxes this far outside. Clipped without a word.
_TOLERANCE = 1.0
# Pixels. No object is so thin; what is, is a rounding error or a fraction taken for a pixel.
_THINNEST = 0.01


class Findings:
    """Problems while they are gathered: defects of boxes are counted per file, never listed one by one."""

    def __init__(self):
        self._single: list[Problem] = []
        self._counts: dict[tuple[str, Kind], list] = {}

    def add(self, severity: str, file: str, what: str) -> None:
        self._single.append(Problem(severity, file, what))

    def count(self, kind: Kind, file: str, where: str) -> None:
        """One more box with this defect in this file. where: which one, used for the first."""
        entry = self._counts.setdefault((file, kind), [0, where])
        entry[0] += 1

    def problems(self) -> tuple[Problem, ...]:
        """Errors first, then by file."""
        counted = [
            Problem(
                kind.severity,
                file,
                f"1 box {kind.phrase} ({where})."
                if number == 1
                else f"{number} boxes {kind.phrase} (the first: {where}).",
            )
            for (file, kind), (number, where) in self._counts.items()
        ]
        return tuple(sorted(self._single + counted, key=lambda p: (p.severity != "error", p.file)))


class Entry(NamedTuple):
    """An image of the split. size: (height, width). file: what problems with its boxes are filed under. group,
    labelled: as in Record."""

    id: int | str
    path: str
    size: tuple[int, int]
    file: str
    group: str | None = None
    labelled: np.ndarray | None = None


class Columns(NamedTuple):
    """The boxes of a split, one row each.

    image: [N] int64, position in the list of entries. xyxy: [N, 4] float64 pixels as annotated. label: [N]
    int64 in 0..C-1 of the classes asked for. crowd: [N] bool. area: [N] float64, NaN = that of the box.
    number: [N] int64, what the file calls the box: the annotation's id, the line, the place in the file.
    """

    image: np.ndarray
    xyxy: np.ndarray
    label: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    number: np.ndarray

    def rows(self, index: np.ndarray) -> Columns:
        return Columns(*(column[index] for column in self))


def to_records(entries: Sequence[Entry], columns: Columns, unit: str, findings: Findings) -> list[Record]:
    """Repair the boxes and group them by image. unit: what `columns.number` counts, for the messages."""
    columns = columns.rows(np.argsort(columns.image, kind="stable"))

    def report(kind: Kind, rows: np.ndarray) -> None:
        for row in np.flatnonzero(rows):
            entry = entries[columns.image[row]]
            corners = ", ".join(f"{value:g}" for value in columns.xyxy[row])
            where = f"{unit} {columns.number[row]}: corners {corners} in {entry.size[1]}x{entry.size[0]}"
            findings.count(kind, entry.file, where)

    def leave_out(kind: Kind, rows: np.ndarray) -> None:
        nonlocal columns
        if rows.any():
            report(kind, rows)
            columns = columns.rows(~rows)

    leave_out(NOT_FINITE, ~np.all(np.isfinite(columns.xyxy), 1))
    leave_out(REPEATED, _repeated(columns))

    report(SWAPPED, np.any(columns.xyxy[:, 2:] < columns.xyxy[:, :2], 1))
    columns = columns._replace(
        xyxy=np.concatenate(
            [
                np.minimum(columns.xyxy[:, :2], columns.xyxy[:, 2:]),
                np.maximum(columns.xyxy[:, :2], columns.xyxy[:, 2:]),
            ],
            1,
        )
    )
    leave_out(EMPTY, np.any(columns.xyxy[:, 2:] == columns.xyxy[:, :2], 1))

    sizes = np.array([entry.size[::-1] for entry in entries], dtype=np.float64).reshape(-1, 2)

    def limits() -> np.ndarray:
        return np.tile(sizes[columns.image], 2)

    outside = (columns.xyxy[:, 2:] <= 0) | (columns.xyxy[:, :2] >= limits()[:, :2])
    leave_out(OUTSIDE, np.any(outside, 1))
    inside = columns.xyxy.clip(0, limits())
    report(CLIPPED, np.any(np.abs(inside - columns.xyxy) > _TOLERANCE, 1))
    boxes = inside.astype(np.float32)
    # Also what vanishes in float32, or when the pixel it leans over the edge by is clipped.
    thin = np.any(boxes[:, 2:] - boxes[:, :2] < _THINNEST, 1)
    leave_out(THIN, thin)
    boxes = boxes[~thin]

    own_area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    area = np.where(columns.area > 0, columns.area, own_area).astype(np.float32)  # NaN > 0 is False
    counts = np.bincount(columns.image, minlength=len(entries))[: len(entries)]
    few = counts <= MOST_OBJECTS
    for place in np.flatnonzero(~few).tolist():
        what = (
            f"{counts[place]:,} boxes, more than {MOST_OBJECTS:,}: the image is left out. Cut it into parts."
        )
        findings.add("error", entries[place].file, what)
    ends = np.cumsum(counts)
    starts = ends - counts
    records = [
        Record(
            entry.id,
            entry.path,
            entry.size,
            boxes[start:end],
            columns.label[start:end],
            columns.crowd[start:end],
            area[start:end],
            group=entry.group,
            labelled=entry.labelled,
        )
        for entry, start, end, kept in zip(entries, starts.tolist(), ends.tolist(), few, strict=True)
        if kept
    ]
    _count_unlabelled(records, [entry for entry, kept in zip(entries, few, strict=True) if kept], findings)
    return records


def _count_unlabelled(records: Sequence[Record], entries: Sequence[Entry], findings: Findings) -> None:
    for record, entry in zip(records, entries, strict=True):
        if record.labelled is not None:
            for place in np.flatnonzero(~record.labelled[record.labels]):
                corners = ", ".join(f"{value:g}" for value in record.boxes[place])
                findings.count(UNLABELLED, entry.file, f"corners {corners}")


def _repeated(columns: Columns) -> np.ndarray:
    """[N] bool: equal to an earlier box of the same image, class and kind."""
    keys = np.column_stack([columns.image, columns.label, columns.crowd, columns.xyxy])
    order = np.lexsort(keys.T)  # stable: of equals, the first stays first
    equal = (keys[order][1:] == keys[order][:-1]).all(1)
    repeated = np.zeros(len(keys), dtype=bool)
    repeated[order[1:][equal]] = True
    return repeated


def labelled_mask(names: object, classes: Classes, where: str) -> np.ndarray | None:
    """[C] bool of a list of class names, None where it says nothing or every class.

    names: `labelled_classes` as found in a file, None where it has none. Raises DataError for anything but a list of
    names of classes: an unknown name would make of a class a background.
    """
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where}: labelled_classes expects a list of class names, got {str(names)[:60]}.")
    known = {*classes.names.values(), *classes.labels}
    wanted = {name.strip() for name in names}
    for name in sorted(wanted - known):
        raise DataError(
            f"{where}: labelled_classes has {name!r}, which is no class of the data set.{did_you_mean(name, known)}"
        )
    mask = np.array([label in wanted for label in classes.labels], dtype=bool)
    return None if mask.all() else mask


class Classes(NamedTuple):
    """The classes of a data set and how its own ids lead to the contiguous ones.

    labels, category_ids: as in DetectionData. contiguous: own id to 0..C-1; -1 = a class of the data set
    that was not asked for. names: own id to name.
    """

    labels: tuple[str, ...]
    category_ids: tuple[int, ...]
    contiguous: dict[int, int]
    names: dict[int, str]


def annotated_size(height: float | None, width: float | None) -> tuple[int, int] | None:
    """(height, width) in pixels as an annotation gives them; None where no image is so large, or they are none."""
    if (
        height is None
        or width is None
        or not (1 <= height <= LARGEST_IMAGE_SIDE and 1 <= width <= LARGEST_IMAGE_SIDE)
    ):
        return None
    return int(height), int(width)


def classes_of(
    own: Iterable[tuple[int, object]],
    asked: Sequence[str] | None,
    file: str,
    findings: Findings,
) -> Classes:
    """own: (id, name) of the data set's classes, in the order wanted. asked: the names to have instead, in
    their order; names are the key. Two ids with one name are one class, with the first id on output. Raises DataError
    for a name that is none (`is_class_name`).
    """
    names: dict[int, str] = {}
    first: dict[str, int] = {}
    for category_id, found in own:
        name = found.strip() if isinstance(found, str) else found
        if not isinstance(name, str) or not is_class_name(name):
            raise DataError(
                f"{file}: the class {category_id} is called {ascii(found)[:60]}; text of at most"
                f" {LONGEST_NAME:,} characters, without line breaks and control characters, is expected. Rename it."
            )
        if category_id in names and names[category_id] != name:
            raise DataError(
                f"{file}: the class id {category_id} is used for {names[category_id]!r} and {name!r}."
                " Give every class its own id."
            )
        names[category_id] = name
        if first.setdefault(name, category_id) != category_id:
            findings.add(
                "warning",
                file,
                f"The class ids {first[name]} and {category_id} have one name, {name!r}: taken as one class.",
            )
    if len(names) > MOST_CLASSES:
        raise DataError(
            f"{file}: {len(names):,} classes; at most {MOST_CLASSES:,} are read. Are they ids of images?"
        )
    numbers = [name for name in first if name.isdecimal()]
    if numbers:
        what = f"Classes are called {_shorten(numbers)}: numbers do not say what is meant. Name them."
        findings.add("warning", file, what)
    labels = tuple(first) if asked is None else tuple(asked)
    if len(set(labels)) != len(labels):
        raise DataError(f"labels expects every class name once, got {', '.join(labels)}.")
    position = {name: i for i, name in enumerate(labels)}
    free = max(names, default=0)
    category_ids = []
    for name in labels:
        if name not in first:
            free += 1
        category_ids.append(first.get(name, free))
    contiguous = {category_id: position.get(name, -1) for category_id, name in names.items()}
    return Classes(labels, tuple(category_ids), contiguous, names)


def refuse_unasked(names: Iterable[str], labels: Sequence[str], where: str) -> None:
    """Raise DataError if there are boxes (names: their classes) of a class that was not asked for."""
    counts = Counter(names)
    if not counts:
        return
    name, number = counts.most_common(1)[0]
    others = f" and {len(counts) - 1} more classes" if len(counts) > 1 else ""
    raise DataError(
        f"{where} has {counted(number, 'box')} of {name!r}{others}, not among the classes asked for"
        f" ({_shorten(labels)}).{did_you_mean(name, labels)}"
        " Class names must be equal; remove those boxes or add the class."
    )


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" ... {len(names)} in all" if len(names) > 5 else "")
