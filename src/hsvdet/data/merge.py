"""Several data sets to one, in which every image says which classes are labelled in it."""

# pyright: strict

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np

from ..errors import ConfigError
from .convert import atomic_folder, class_table, free_folder, inner_path, read_alike, unique_path, write_coco
from .dataset import DetectionData, Record
from .files import digests
from .formats.splits import ALL
from .read import open_source, split_names


class _Image(NamedTuple):
    """record: with labels of the new table. path: inside its split's folder of the new data set."""

    record: Record
    path: PurePosixPath


def merge_data(
    sources: Sequence[str | PathLike[str]],
    dst: str | PathLike[str],
    copy: Literal["copy", "link"] = "copy",
) -> dict[str, Any]:
    """Write one data set, in COCO form, from several of any form (see `read_data`).

    Classes with one name are one class; names are compared letter by letter. They come in the order in which they are
    met, with their own ids where these rise, else numbered from 1. Each image is marked with the classes
    that are labelled in its source (`labelled_classes`), so that an object of a class which only another source
    knows is not trained as background, nor counted against a detector. Splits of one name are put together; a source
    without splits goes to train where others have some. The same picture, byte for byte, in several sources becomes
    one image with the labelled classes of all; of a class that several of them label, the boxes of the first stay.
    copy: copy the images, or make symbolic links to them.

    Returns {"out", "labels", "splits": {name: {"images", "boxes", "joined"}}, "sources": [{"path", "labels",
    "images", "problems"}], "remarks": [...]}; joined: images that were in several sources. Raises DataError when a
    source cannot be read or the target not written, ConfigError on wrong options.
    """
    if isinstance(sources, str | PathLike) or len(sources) < 2:
        raise ConfigError("merging expects two data sets or more.")
    out = free_folder(dst, copy)
    read: list[list[DetectionData]] = []
    for path in sources:
        source = open_source(path)
        read.append(read_alike(source, split_names(source)))
    ids = class_table([data for splits in read for data in splits])
    labels = tuple(ids)
    category_ids = tuple(ids.values())
    if category_ids != tuple(sorted(category_ids)):  # readers take classes by rising id
        category_ids = tuple(range(1, len(labels) + 1))
    parts, remarks = _by_split(sources, read)
    remarks += _alike_names(labels)
    folders = _folder_names([splits[0].root for splits in read])
    merged: list[DetectionData] = []
    names: list[list[PurePosixPath]] = []
    joined: dict[str, int] = {}
    for split, datas in parts.items():
        images = _images(datas, folders, labels)
        single = _joined(images)
        joined[split] = len(images) - len(single)
        records = [image.record._replace(id=number) for number, image in enumerate(single, 1)]
        merged.append(DetectionData(records, labels, category_ids, out, split, "coco"))
        names.append([image.path for image in single])
    remarks += _shared(merged)
    with atomic_folder(out) as folder:
        write_coco(merged, folder, names, copy)
    return {
        "out": str(out),
        "labels": list(labels),
        "splits": {
            data.split: {
                "images": len(data),
                "boxes": sum(int((~record.crowd).sum()) for record in data.records),
                "joined": joined[data.split],
            }
            for data in merged
        },
        "sources": [
            {
                "path": str(path),
                "labels": list(splits[0].labels),
                "images": sum(len(data) for data in splits),
                "problems": sum(len(data.problems) for data in splits),
            }
            for path, splits in zip(sources, read, strict=True)
        ],
        "remarks": remarks,
    }


def _by_split(
    sources: Sequence[str | PathLike[str]], read: list[list[DetectionData]]
) -> tuple[dict[str, list[tuple[int, DetectionData]]], list[str]]:
    """Split to the data of it, with the number of their source; and what must be said of it."""
    divided = any(data.split != ALL for splits in read for data in splits)
    parts: dict[str, list[tuple[int, DetectionData]]] = {}
    remarks: list[str] = []
    for number, (path, splits) in enumerate(zip(sources, read, strict=True)):
        for data in splits:
            split = data.split
            if divided and split == ALL:
                split = "train"
                remarks.append(f"{path} is not divided into splits: all of it is in train.")
            parts.setdefault(split, []).append((number, data))
    return parts, remarks


def _alike_names(labels: tuple[str, ...]) -> list[str]:
    """A remark for classes whose names differ by no more than capitals and blanks."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        groups["".join(label.split()).casefold()].append(label)
    return [
        f"{' and '.join(map(repr, group))} are different classes: names are compared letter by letter."
        for group in groups.values()
        if len(group) > 1
    ]


def _folder_names(roots: list[Path]) -> list[PurePosixPath]:
    """A folder for the images of each source, called after it."""
    names: list[str] = []
    for root in roots:
        name, number = root.name or "data", 1
        while name.lower() in (other.lower() for other in names):
            number += 1
            name = f"{root.name or 'data'}_{number}"
        names.append(name)
    return [PurePosixPath(name) for name in names]


def _images(
    datas: list[tuple[int, DetectionData]], folders: list[PurePosixPath], labels: tuple[str, ...]
) -> list[_Image]:
    taken: dict[str, str] = {}
    images: list[_Image] = []
    for number, data in datas:
        position = np.array([labels.index(label) for label in data.labels], dtype=np.int64)
        for record in data.records:
            labelled = np.zeros(len(labels), dtype=bool)
            labelled[position if record.labelled is None else position[record.labelled]] = True
            moved = record._replace(labels=position[record.labels], labelled=_or_all(labelled))
            path = unique_path(folders[number] / inner_path(record, data, "coco"), record.path, taken)
            images.append(_Image(moved, path))
    return images


def _or_all(labelled: np.ndarray) -> np.ndarray | None:
    return None if labelled.all() else labelled


def _joined(images: list[_Image]) -> list[_Image]:
    """Each picture once, where it came first."""
    contents = digests([image.record.path for image in images])
    first: dict[bytes | int, int] = {}
    single: list[_Image] = []
    for number, image in enumerate(images):
        key = contents.get(image.record.path, number)
        if key in first:
            place = first[key]
            single[place] = single[place]._replace(record=_both(single[place].record, image.record))
        else:
            first[key] = len(single)
            single.append(image)
    return single


def _both(first: Record, second: Record) -> Record:
    """One image, annotated twice."""
    if first.labelled is None:
        return first
    keep = ~first.labelled[second.labels]
    return first._replace(
        boxes=np.concatenate([first.boxes, second.boxes[keep]]),
        labels=np.concatenate([first.labels, second.labels[keep]]),
        crowd=np.concatenate([first.crowd, second.crowd[keep]]),
        area=np.concatenate([first.area, second.area[keep]]),
        visibility=None,
        labelled=None if second.labelled is None else _or_all(first.labelled | second.labelled),
    )


def _shared(merged: list[DetectionData]) -> list[str]:
    """A remark if a picture is in two splits: what is learned would be asked."""
    contents = digests([record.path for data in merged for record in data.records])
    first: dict[bytes | str, str] = {}
    remarks: dict[tuple[str, str], int] = defaultdict(int)
    for data in merged:
        for record in data.records:
            split = first.setdefault(contents.get(record.path, record.path), data.split)
            if split != data.split:
                remarks[split, data.split] += 1
    return [
        f"{count} pictures of {split} are in {before} as well: results on it will look too good."
        for (before, split), count in remarks.items()
    ]
