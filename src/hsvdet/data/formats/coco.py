"""COCO annotation files (Lin et al. 2014, arXiv 1405.0312; https://cocodataset.org/#format-data).

One JSON file per split: "images", "annotations" with xywh boxes in pixels, "categories". Reading opens no
image, unless the file leaves out its size.
"""

from __future__ import annotations

import gc
import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from ...bounds import LARGEST_IMAGE_SIDE
from ...errors import DataError, counted
from ...files import parse_json
from ..dataset import DetectionData
from ..division import is_division
from ..files import FileIndex, display, image_sizes, read_bytes, without_path
from .exports import refuse_export, tool_of
from .repair import (
    AREA,
    CROWD,
    MALFORMED,
    UNKNOWN_CLASS,
    Classes,
    Columns,
    Entry,
    Findings,
    annotated_size,
    classes_of,
    labelled_mask,
    refuse_unasked,
    to_records,
)
from .splits import ALL, finish, name_splits, split_name

_MOST_SPLITS = 8
_LARGE = 30_000_000  # bytes: a second and more


@dataclass(frozen=True)
class CocoSource:
    """splits: name to annotation file."""

    root: Path
    splits: dict[str, Path]
    format: str = "coco"

    def read(self, split: str, asked: Sequence[str] | None) -> DetectionData:
        # The collector would walk through millions of new objects, none of them garbage, again and again.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return _Reader(self, split, self.splits[split], asked).read()
        finally:
            if collecting:
                gc.enable()


def find_coco(path: Path) -> CocoSource | None:
    """A .json file; or a folder with annotations/instances_*.json (or any *.json there), with *.json files
    named after splits, or with a _annotations.coco.json in each split's folder."""
    if path.is_file():
        if path.suffix.lower() != ".json":
            return None
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        stem = path.parent.name if path.stem == "_annotations.coco" else path.stem
        return CocoSource(root, {split_name(stem) or ALL: path})
    for pattern in ("annotations/instances_*.json", "annotations/*.json"):
        files = _annotation_files(path, pattern)
        if files:
            return CocoSource(path, _named({file.stem.removeprefix("instances_"): file for file in files}))
    files = {file.parent.name: file for file in sorted(path.glob("*/_annotations.coco.json"))}
    if not files:
        files = {file.stem: file for file in _annotation_files(path, "*.json")}
        if len(files) > _MOST_SPLITS:  # one for each image, more likely
            refuse_export(path)
        if len(files) > 1:
            files = {stem: file for stem, file in files.items() if split_name(stem)}
        elif files and not split_name(next(iter(files))):
            files = {ALL: next(iter(files.values()))}
    return CocoSource(path, _named(files)) if files else None


def _annotation_files(path: Path, pattern: str) -> list[Path]:
    """Without divisions of the data set (`data split`), which may lie beside its annotations."""
    return [file for file in sorted(path.glob(pattern)) if not _is_division(file)]


def _is_division(file: Path) -> bool:
    try:
        return is_division(file)
    except OSError:
        return False  # reading will say what is wrong with it


def _named(files: dict[str, Path]) -> dict[str, Path]:
    return {name: files[stem] for name, stem in name_splits(files).items()}


class _Reader:
    """One annotation file on its way to records."""

    def __init__(self, source: CocoSource, split: str, file: Path, asked: Sequence[str] | None):
        self.source, self.split, self.file, self.asked = source, split, file, asked
        self.file_name = display(file, source.root)
        self.findings = Findings()
        self.masks: dict[str, np.ndarray | None] = {}

    def read(self) -> DetectionData:
        content = _load(self.file)
        classes = self._classes(content["categories"])
        info = content.get("info")
        of_all = info.get("labelled_classes") if isinstance(info, dict) else None
        entries, position = self._images(content["images"], classes, of_all)
        columns = self._boxes(content["annotations"], classes, position, entries)
        self._super_categories(content["categories"], classes, columns)
        kept = [i for i, entry in enumerate(entries) if entry is not None]
        present = [entry for entry in entries if entry is not None]
        # Boxes of images that were left out have gone; close the gaps in the positions.
        new_position = np.full(len(entries), -1, dtype=np.int64)
        new_position[kept] = np.arange(len(kept))
        columns = columns._replace(image=new_position[columns.image])
        records = to_records(present, columns, "annotation", self.findings)
        return finish(self.source, self.split, records, classes, self.findings)

    def _classes(self, categories: list) -> Classes:
        own = []
        for category in categories:
            category_id = _integer(category.get("id")) if isinstance(category, dict) else None
            if category_id is None:
                raise DataError(f"{self.file}: every category needs an integer id, got {_brief(category)}.")
            name = category.get("name", category_id)
            own.append((category_id, str(name) if type(name) in (int, float) else name))
        if not own:
            raise DataError(f"{self.file}: 'categories' is empty. List each class with its id and name.")
        return classes_of(sorted(own, key=lambda item: item[0]), self.asked, self.file_name, self.findings)

    def _super_categories(self, categories: list, classes: Classes, columns: Columns) -> None:
        """A warning for classes that are no more than the name of others', which some tools list among them."""
        used = {classes.labels[label] for label in np.unique(columns.label)}
        below: dict[str, list[str]] = {}
        for category in categories:
            parent, name = category.get("supercategory"), category.get("name")
            if isinstance(parent, str) and parent != name and name in used:
                below.setdefault(parent, []).append(name)
        for name in below.keys() & {*classes.labels} - used:
            what = (
                f"The class {name!r} is the super-category of others ({_shown(below[name])}) and has no box."
                " Delete it from 'categories', or it stays a class that nothing teaches."
            )
            self.findings.add("warning", self.file_name, what)

    def _images(
        self, images: list, classes: Classes, labelled: Any
    ) -> tuple[list[Entry | None], dict[Any, int]]:
        """Entries, None where an image is left out; and image id to position. labelled: classes that are labelled
        in images that do not say it themselves."""
        finder = _ImageFinder(self.source.root, self.file, self.split)
        entries: list[Entry | None] = []
        position: dict[Any, int] = {}
        by_path: dict[str, int] = {}
        for image in images:
            name = image.get("file_name") if isinstance(image, dict) else None
            image_id = image.get("id") if isinstance(image, dict) else None
            if not isinstance(name, str) or not name or not _is_id(image_id):
                what = f"An image without id or file_name: left out ({_brief(image)})."
                self.findings.add("error", self.file_name, what)
                continue
            if isinstance(image_id, float):
                image_id = int(image_id) if image_id.is_integer() else str(image_id)
            path = finder.find(name)
            if image_id in position:
                self._same_id(image_id, name, path, entries[position[image_id]])
                continue
            position[image_id] = len(entries)
            if path is None:
                self.findings.add("error", name, "The image file does not exist: left out.")
                entries.append(None)
                continue
            if path in by_path:
                what = "Listed twice: used once, with the boxes of both."
                self.findings.add("warning", name, what)
                first = position[image_id] = by_path[path]
                mask = self._labelled(image.get("labelled_classes", labelled), classes)
                if (entry := entries[first]) is not None:
                    entries[first] = entry._replace(labelled=_either(entry.labelled, mask))
                continue
            by_path[path] = len(entries)
            size = annotated_size(_integer(image.get("height")), _integer(image.get("width"))) or (0, 0)
            video = image.get("video_id")
            group = None if video is None else f"video {video}"
            mask = self._labelled(image.get("labelled_classes", labelled), classes)
            entries.append(Entry(image_id, path, size, name, group, mask))
        if images and not by_path:
            raise DataError(
                f"{self.file}: none of its {counted(len(images), 'image')} was found, the first being"
                f" {_brief(images[0])}."
                f" Looked in {', '.join(finder.folders)}."
            )
        without_size = [(i, entry) for i, entry in enumerate(entries) if entry and min(entry.size) <= 0]
        found = image_sizes([entry.path for _, entry in without_size])
        for (i, entry), size in zip(without_size, found, strict=True):
            if isinstance(size, DataError):
                self.findings.add("error", entry.file, f"Left out: {without_path(size, entry.path)}")
                entries[i] = None
            else:
                entries[i] = entry._replace(size=size)
        return entries, position

    def _labelled(self, names: Any, classes: Classes) -> np.ndarray | None:
        """`labelled_mask`, worked out once for each list of names."""
        key = repr(names)
        if key not in self.masks:
            self.masks[key] = labelled_mask(names, classes, self.file_name)
        return self.masks[key]

    def _same_id(self, image_id: int | str, name: str, path: str | None, first: Entry | None) -> None:
        if first is not None and path == first.path:
            self.findings.add("warning", name, "Listed twice with the same id: used once.")
        else:
            other = f", already that of {first.file}" if first else ""
            self.findings.add("error", name, f"Its image id {image_id} is not its own{other}: left out.")

    def _boxes(
        self,
        annotations: list,
        classes: Classes,
        position: dict[Any, int],
        entries: list[Entry | None],
    ) -> Columns:
        def file_of(image_id: Any) -> str:
            at = position.get(image_id) if isinstance(image_id, (int, str, float)) else None
            entry = None if at is None else entries[at]
            return self.file_name if entry is None else entry.file

        try:
            fields = _fields(annotations)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            # Something in the file is not as it should be: look at every annotation by itself.
            valid = []
            for i, annotation in enumerate(annotations):
                reason = _defect(annotation)
                if reason is None:
                    valid.append(annotation)
                else:
                    where = f"annotation {_name(annotation, i)}: {reason}"
                    image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
                    self.findings.count(MALFORMED, file_of(image_id), where)
            annotations = valid
            fields = _fields(valid)
        image_ids, category_ids, xywh, crowd, area = fields

        number = np.array([_name(annotation, i) for i, annotation in enumerate(annotations)], dtype=np.int64)
        image = _look_up(image_ids, position)
        exists = np.array([entry is not None for entry in entries] + [False])  # position -1 is the last
        strangers = np.flatnonzero(image < 0)
        if len(strangers):
            ids = Counter(str(image_ids[row]) for row in strangers)
            self.findings.add(
                "error",
                self.file_name,
                f"{len(strangers)} annotations of images that are not listed: left out"
                f" (image ids {', '.join(list(ids)[:5])}{' ...' if len(ids) > 5 else ''}).",
            )
        own_ids = list(classes.names)
        own = _look_up(category_ids, {category_id: i for i, category_id in enumerate(own_ids)})
        for row in np.flatnonzero((own < 0) & exists[image]):
            where = f"annotation {number[row]}: category_id {category_ids[row]}"
            self.findings.count(UNKNOWN_CLASS, entries[image[row]].file, where)
        usable = np.flatnonzero((own >= 0) & exists[image])
        odd_area = ~((0 <= area) & (area <= LARGEST_IMAGE_SIDE**2))
        odd_crowd = np.array([mark not in (0, 1, "0", "1") for mark in crowd], dtype=bool)
        for kind, odd, key in ((AREA, odd_area, "area"), (CROWD, odd_crowd, "iscrowd")):
            for row in usable[odd[usable]]:
                where = f"annotation {number[row]}: {key} {_brief(annotations[row].get(key))}"
                entry = entries[image[row]]
                assert entry is not None  # it is usable
                self.findings.count(kind, entry.file, where)
        label = np.array([classes.contiguous[category_id] for category_id in own_ids], dtype=np.int64)[own]
        unasked = usable[label[usable] < 0]
        refuse_unasked((classes.names[own_ids[i]] for i in own[unasked]), classes.labels, str(self.file))
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
        is_crowd = np.array([mark in (1, "1") for mark in crowd], dtype=bool)
        return Columns(image, xyxy, label, is_crowd, np.where(odd_area, np.nan, area), number).rows(usable)


def _either(labelled: np.ndarray | None, others: np.ndarray | None) -> np.ndarray | None:
    """What is labelled in one annotation of an image or in the other; None is all."""
    return None if labelled is None or others is None or (labelled | others).all() else labelled | others


class _ImageFinder:
    """Where a COCO file's images are: its file names do not say."""

    def __init__(self, root: Path, file: Path, split: str):
        stem = file.stem.removeprefix("instances_")
        here = [file.parent, file.parent / "images"]
        names = (stem, split)
        at_root = [root, root / "images", *(root / name for name in names)]
        at_root += [folder for name in names for folder in (root / "images" / name, root / name / "images")]
        self.folders = list(dict.fromkeys(str(folder.absolute()) for folder in here + at_root))
        self._index = FileIndex()
        self._order = list(self.folders)

    def find(self, name: str) -> str | None:
        if "\0" in name:
            return None
        for folder in self._order:
            path = self._index.find(f"{folder}/{name}" if not name.startswith("/") else name)
            if path:
                if folder != self._order[0]:  # the next image is most likely in the same folder
                    self._order.remove(folder)
                    self._order.insert(0, folder)
                return path
        return None


def _load(file: Path) -> dict:
    text = read_bytes(file)
    if len(text) > _LARGE:
        logging.getLogger("hsvdet").info("Reading %s, %d MB ...", file, len(text) // 10**6)
    try:
        # Finds UTF-8, -16 and -32 by itself.
        content = parse_json(text, _without_masks)
    except ValueError as error:
        reason = "it is empty" if not text else f"{type(error).__name__}: {error}"
        raise DataError(f"{file} is not a JSON file that can be read: {reason}.") from error
    if (tool := tool_of(content)) is not None:
        raise DataError(f"{file} is {tool}.")
    if isinstance(content, list):
        raise DataError(f"{file} holds a list, as COCO results do; a COCO annotation file was expected.")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            found = ", ".join(list(content)[:8]) if isinstance(content, dict) else type(content).__name__
            raise DataError(
                f"{file} is not a COCO annotation file: the list {key!r} is missing (found: {found})."
            )
    return content


def _without_masks(item: dict) -> dict:
    """Forgets polygons while parsing: they are most of a large file, and gigabytes as Python objects."""
    item.pop("segmentation", None)
    return item


class _Fields(NamedTuple):
    """Of annotations: xywh [N, 4] float64; crowd as written; area [N] float64, 0 where not given, NaN where it is no
    number."""

    image_ids: list[int | str | float]
    category_ids: list[int | str | float]
    xywh: np.ndarray
    crowd: list[Any]
    area: np.ndarray


def _fields(annotations: list[dict]) -> _Fields:
    """Raises what Python raises if any annotation is not valid."""
    number = len(annotations)
    image_ids = [annotation["image_id"] for annotation in annotations]
    category_ids = [annotation["category_id"] for annotation in annotations]
    boxes = [annotation["bbox"] for annotation in annotations]
    if not all(map(_is_id, image_ids)) or not all(map(_is_id, category_ids)):
        raise TypeError("id")
    if any(type(value) is bool for box in boxes for value in box):  # NumPy takes true for 1
        raise TypeError("bbox")
    xywh = np.array(boxes, dtype=np.float64)
    if xywh.shape != (number, 4) and number:
        raise ValueError("bbox")
    area = np.array([_number(annotation.get("area", 0)) for annotation in annotations], dtype=np.float64)
    crowd = [annotation.get("iscrowd", 0) for annotation in annotations]
    return _Fields(image_ids, category_ids, xywh.reshape(-1, 4), crowd, area)


def _is_id(value: Any) -> TypeGuard[int | str | float]:
    return type(value) in (int, str) or (type(value) is float and math.isfinite(value))


def _number(value: Any) -> float:
    """NaN for anything else."""
    try:
        return math.nan if type(value) is bool else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _defect(annotation: Any) -> str | None:
    """Why an annotation cannot be used, or None."""
    if not isinstance(annotation, dict):
        return f"not an object but {_brief(annotation)}"
    for key in ("image_id", "category_id", "bbox"):
        if key not in annotation:
            return f"no {key!r}"
    for key in ("image_id", "category_id"):
        if not _is_id(annotation[key]):
            return f"{key} is {_brief(annotation[key])}"
    bbox = annotation["bbox"]
    if not isinstance(bbox, list) or len(bbox) != 4:
        return f"bbox expects 4 numbers, got {_brief(bbox)}"
    try:
        np.array(bbox, dtype=np.float64).reshape(4)
        is_sound = not any(type(value) is bool for value in bbox)
    except (TypeError, ValueError, OverflowError):
        is_sound = False
    return None if is_sound else f"bbox expects 4 numbers, got {_brief(bbox)}"


def _look_up(ids: list, position: dict[Any, int]) -> np.ndarray:
    """[N] int64: the position of each id, -1 = unknown. "7" and 7 are the same id where no other is meant."""
    found = np.fromiter((position.get(i, -1) for i in ids), dtype=np.int64, count=len(ids))
    unknown = np.flatnonzero(found < 0)
    if len(unknown):
        loose = {str(key).strip(): value for key, value in position.items()}
        for row in unknown:
            found[row] = loose.get(str(ids[row]).strip(), -1)
    return found


def _name(annotation: Any, place: int) -> int:
    """The annotation's id for messages, or its place in the list."""
    value = annotation.get("id", place) if isinstance(annotation, dict) else place
    return value if type(value) is int and abs(value) < 2**63 else place


def _shown(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _integer(value: Any) -> int | None:
    """The integer that a JSON number or numeric string stands for, or None. One above 2^53 is none."""
    number = _number(value)
    return int(number) if number.is_integer() and abs(number) < 2**53 else None


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
