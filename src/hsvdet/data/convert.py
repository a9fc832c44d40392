"""From one data set format to another, all splits, images included."""

# pyright: strict

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from xml.sax.saxutils import escape

import numpy as np
import yaml

from ..errors import UNPRINTED, ConfigError, DataError
from ..files import part_beside, sweep
from .dataset import DetectionData, Record
from .files import in_threads
from .formats.splits import Source, split_name
from .read import open_source, require_split, split_names

Format = Literal["coco", "yolo", "voc"]


def convert_data(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    to: Format,
    split: str | None = None,
    copy: Literal["copy", "link"] = "copy",
) -> dict[str, Any]:
    """Write a data set (formats: see `read_data`) anew in COCO, YOLO or Pascal VOC form.

    dst: a new or empty folder; nothing is left there if the conversion fails. split: one split, or None for
    all. copy: copy the images, or make symbolic links to them. Images keep their names and sub-folders; a
    number is added where two would collide. Coordinates keep 0.001 pixels. YOLO has no crowd regions: they
    are left out. Masks and other fields of COCO files are not taken along.

    Returns {"format", "out", "labels", "splits": {name: {"images", "boxes", "crowd_left_out", "problems"}}}.
    Raises DataError when the source cannot be read or the target not written, ConfigError on wrong options.
    """
    if to not in _WRITERS:
        raise ConfigError(f"to expects coco, yolo or voc, got {to!r}.")
    out = free_folder(dst, copy)
    source = open_source(src)
    names = split_names(source) if split is None else [require_split(source, split)]
    splits = read_alike(source, names)
    with atomic_folder(out) as folder:
        _WRITERS[to](splits, folder, _names(splits, to), copy)
    return {
        "format": to,
        "out": str(out),
        "labels": list(splits[0].labels),
        "splits": {
            data.split: {
                "images": len(data),
                "boxes": sum(int((~record.crowd).sum()) for record in data.records),
                "crowd_left_out": sum(int(r.crowd.sum()) for r in data.records) if to == "yolo" else 0,
                "problems": len(data.problems),
            }
            for data in splits
        },
    }


def free_folder(dst: str | PathLike[str], copy: str) -> Path:
    """Where a data set can be written. Raises ConfigError and DataError for options and places that will not do."""
    if copy not in ("copy", "link"):
        raise ConfigError(f"copy expects copy or link, got {copy!r}.")
    out = Path(dst).expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{dst} exists and is not an empty folder. Name a new one.")
    return out


def read_alike(source: Source, names: list[str]) -> list[DetectionData]:
    """The splits with one list of classes for all, in case some lack a class."""
    splits = [source.read(name, None) for name in names]
    ids = class_table(splits)
    union = tuple(ids)
    if any(data.labels != union for data in splits):
        splits = [source.read(name, union) for name in names]
    return [_with_ids(data, tuple(ids.values())) for data in splits]


def class_table(parts: list[DetectionData]) -> dict[str, int]:
    """Every class of the parts, once, with its own id, or a new one where that is taken."""
    ids: dict[str, int] = {}
    for data in parts:
        for label, category_id in zip(data.labels, data.category_ids, strict=True):
            if label not in ids:
                ids[label] = max(ids.values()) + 1 if category_id in ids.values() else category_id
    return ids


def _with_ids(data: DetectionData, category_ids: tuple[int, ...]) -> DetectionData:
    return DetectionData(
        data.records, data.labels, category_ids, data.root, data.split, data.format, data.problems
    )


@contextmanager
def atomic_folder(out: Path) -> Generator[Path, None, None]:
    """A folder beside `out` that takes its place in the end, or disappears."""
    sweep(out.parent, below=False)
    folder = part_beside(out)
    try:
        folder.mkdir(parents=True)
        yield folder
        if out.exists():
            out.rmdir()
        folder.rename(out)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _names(splits: list[DetectionData], to: Format) -> list[list[PurePosixPath]]:
    """The path of every image of every split inside its folder of the new data set.

    Label files are called after images, so no two may differ in nothing but the suffix, or in capitals, which
    not every file system tells apart. VOC has one folder for all splits, where an image may be in several.
    """
    names: list[list[PurePosixPath]] = []
    taken: dict[str, str] = {}
    for data in splits:
        if to != "voc":
            taken = {}
        names.append(
            [unique_path(inner_path(record, data, to), record.path, taken) for record in data.records]
        )
    return names


def inner_path(record: Record, data: DetectionData, to: Format) -> PurePosixPath:
    """The image's path without the folders that stand for images and split, and without letters that XML and lists of
    file names cannot have."""
    parts = PurePosixPath(Path(os.path.relpath(record.path, data.root)).as_posix()).parts
    parts = [part for part in parts if part != ".."]
    while len(parts) > 1 and (parts[0] in ("images", "JPEGImages") or split_name(parts[0]) == data.split):
        parts.pop(0)
    if to == "yolo":  # the last folder called images is the one that labels replace
        parts[:-1] = ["images_" if part == "images" else part for part in parts[:-1]]
    stem, suffix = os.path.splitext(parts[-1])
    return PurePosixPath(*map(_portable, parts[:-1]), _portable(stem) + UNPRINTED.sub("_", suffix))


def _portable(name: str) -> str:
    """Without control characters, line separators, bytes that are no text, backslashes (which stand for folders in the
    lists of others), blanks around it, and a dot before it, which would hide it."""
    name = UNPRINTED.sub("_", name).replace("\\", "_").strip()
    return f"_{name}" if name.startswith(".") or not name else name


def unique_path(path: PurePosixPath, image: str, taken: dict[str, str]) -> PurePosixPath:
    """taken: lower-case path without suffix to the image that has it."""
    candidate, number = path, 1
    while taken.setdefault(str(candidate.with_suffix("")).lower(), image) != image:
        number += 1
        candidate = path.with_stem(f"{path.stem}_{number}")
    return candidate


def _place_images(records: list[Record], targets: list[Path], copy: str) -> None:
    for folder in {target.parent for target in targets}:
        folder.mkdir(parents=True, exist_ok=True)

    def place(pair: tuple[str, Path]) -> None:
        image, target = pair
        if copy == "link":
            if not target.is_symlink():
                target.symlink_to(image)
        elif not target.exists():
            shutil.copyfile(image, target)

    pairs = list(zip((record.path for record in records), targets, strict=True))
    in_threads(place, pairs, "copying" if copy == "copy" else "linking")


def write_coco(
    splits: list[DetectionData], folder: Path, names: list[list[PurePosixPath]], copy: str
) -> None:
    (folder / "annotations").mkdir()
    for data, paths in zip(splits, names, strict=True):
        _place_images(data.records, [folder / data.split / path for path in paths], copy)
        keep_ids = all(isinstance(record.id, int) for record in data.records)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for place, (record, path) in enumerate(zip(data.records, paths, strict=True), 1):
            image_id = record.id if keep_ids else place
            height, width = record.size
            image: dict[str, Any] = {"id": image_id, "file_name": str(path), "width": width, "height": height}
            if record.labelled is not None:
                image["labelled_classes"] = _names_of(record.labelled, data.labels)
            images.append(image)
            boxes = record.boxes.astype(np.float64)
            xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).round(3).tolist()
            areas = record.area.astype(np.float64).round(3).tolist()
            for i, label in enumerate(record.labels.tolist()):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": data.category_ids[label],
                        "bbox": xywh[i],
                        "area": areas[i],
                        "iscrowd": int(record.crowd[i]),
                    }
                )
        categories = [
            {"id": category_id, "name": label}
            for category_id, label in zip(data.category_ids, data.labels, strict=True)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = folder / "annotations" / f"instances_{data.split}.json"
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _write_yolo(
    splits: list[DetectionData], folder: Path, names: list[list[PurePosixPath]], copy: str
) -> None:
    labelled = _labelled_everywhere(splits)
    for data, paths in zip(splits, names, strict=True):
        _place_images(data.records, [folder / "images" / data.split / path for path in paths], copy)
        for record, path in zip(data.records, paths, strict=True):
            height, width = record.size
            boxes = record.boxes[~record.crowd].astype(np.float64) / (width, height, width, height)
            centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
            rows = np.concatenate([centre, size], 1).tolist()
            lines = [
                f"{label} {cx:.8f} {cy:.8f} {w:.8f} {h:.8f}\n"
                for label, (cx, cy, w, h) in zip(record.labels[~record.crowd].tolist(), rows, strict=True)
            ]
            file = (folder / "labels" / data.split / path).with_suffix(".txt")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(lines), encoding="utf-8")
    content: dict[str, Any] = {data.split: f"images/{data.split}" for data in splits}
    content["names"] = dict(enumerate(splits[0].labels))
    if labelled is not None:
        content["labelled_classes"] = labelled
    # Not part of the format: for the way back to COCO, and the names of unusual splits.
    content["category_ids"] = list(splits[0].category_ids)
    content["splits"] = [data.split for data in splits]
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")


def _labelled_everywhere(splits: list[DetectionData]) -> list[str] | None:
    """Names of the classes that are labelled in every image, None for all. Raises DataError where images differ."""
    found = {
        None if record.labelled is None else _names_of(record.labelled, data.labels)
        for data in splits
        for record in data.records
    }
    if len(found) > 1:
        raise DataError(
            f"{splits[0].root}: not the same classes are labelled in all images, and YOLO has one list for all."
            " Convert to coco or voc, which have one for each image."
        )
    (names,) = found
    return None if names is None else list(names)


def _names_of(labelled: np.ndarray, labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(label for label, known in zip(labels, labelled, strict=True) if known)


def _write_voc(
    splits: list[DetectionData], folder: Path, names: list[list[PurePosixPath]], copy: str
) -> None:
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (folder / "Annotations").mkdir()
    for data, paths in zip(splits, names, strict=True):
        _place_images(data.records, [folder / "JPEGImages" / path for path in paths], copy)
        for record, path in zip(data.records, paths, strict=True):
            file = (folder / "Annotations" / path).with_suffix(".xml")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_voc_annotation(record, path, data.labels), encoding="utf-8")
        stems = "".join(f"{path.with_suffix('')}\n" for path in paths)
        (lists / f"{data.split}.txt").write_text(stems, encoding="utf-8")
    content = {"names": dict(zip(splits[0].category_ids, splits[0].labels, strict=True))}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / "labels.yaml").write_text(text, encoding="utf-8")


def _voc_annotation(record: Record, path: PurePosixPath, labels: tuple[str, ...]) -> str:
    height, width = record.size
    lines = [
        "<annotation>",
        f"  <folder>{escape(str(path.parent))}</folder>",
        f"  <filename>{escape(path.name)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    if record.labelled is not None:
        names = "".join(f"<name>{escape(name)}</name>" for name in _names_of(record.labelled, labels))
        lines.append(f"  <labelled_classes>{names}</labelled_classes>")
    # Pixel numbers begin at 1 and include the last one. Equal corners mean a box without area to readers: one
    # that is exactly a pixel wide is written a thousandth wider.
    corners = record.boxes.astype(np.float64).round(3) + (1, 1, 0, 0)
    corners[:, 2:] += np.where(corners[:, :2] == corners[:, 2:], 0.001, 0)
    for label, crowd, box in zip(record.labels, record.crowd, corners.tolist(), strict=True):
        xmin, ymin, xmax, ymax = (f"{value:.3f}".rstrip("0").rstrip(".") for value in box)
        lines.append(
            f"  <object><name>{escape(labels[int(label)])}</name>{'<iscrowd>1</iscrowd>' if crowd else ''}<bndbox>"
            f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>"
        )
    return "\n".join([*lines, "</annotation>\n"])


_WRITERS = {"coco": write_coco, "yolo": _write_yolo, "voc": _write_voc}
