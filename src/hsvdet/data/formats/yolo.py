"""YOLO data sets: data.yaml, and a text file per image, one line "class cx cy w h" in fractions per object.

The format has no paper; its rules as they are found in the wild are written down in docs/data.md.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..dataset import DetectionData
from ..files import (
    FileIndex,
    display,
    identity,
    image_sizes,
    in_threads,
    read_text,
    read_yaml,
    walk,
    walk_images,
    without_path,
)
from ..pixels import IMAGE_SUFFIXES
from .repair import (
    MALFORMED,
    UNKNOWN_CLASS,
    Classes,
    Columns,
    Entry,
    Findings,
    Kind,
    classes_of,
    labelled_mask,
    refuse_unasked,
    to_records,
)
from .splits import ALL, finish, split_name

CONFIDENCE = Kind("warning", "with a sixth number, as predictions have (a confidence): it was ignored")
PIXELS = Kind("error", "with numbers far above 1 (fractions of the image are expected, not pixels): left out")

# No box reaches this far outside its image, in fractions of it, by mere imprecision.
_FAR = 4.0
_SPLIT_KEYS = ("train", "val", "valid", "validation", "test")
_NAME_FILES = ("classes.txt", "labels.txt", "obj.names", "classes.names")


@dataclass(frozen=True)
class YoloSource:
    """splits: name to the folders and list files that make it up. bases: what relative paths may be
    relative to, most likely first. names: (own id, name) of the classes, or None. category_ids: their ids in COCO.
    labelled: names of the classes that are labelled in every image, None for all."""

    root: Path
    splits: dict[str, list[str]]
    bases: tuple[Path, ...]
    names: list[tuple[int, str]] | None
    names_file: str
    category_ids: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    labelled: Any = None
    format: str = "yolo"

    def read(self, split: str, asked: Sequence[str] | None) -> DetectionData:
        return _Reader(self, split, asked).read()


def find_yolo(path: Path) -> YoloSource | None:
    """A data.yaml; a folder with one; or a bare folder with images/ and labels/ (each may hold train/ and
    val/), or with train/images and train/labels; class names in classes.txt."""
    if path.is_file():
        return _from_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else None
    files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")], key=lambda file: (file.stem != "data", file))
    for file in files:
        if file.stem == "data" or _looks_like_data(file):
            return _from_yaml(file)
    return _from_folders(path)


def _looks_like_data(file: Path) -> bool:
    try:
        content = read_yaml(file)
    except DataError:
        return False
    return isinstance(content, dict) and "names" in content and ("train" in content or "val" in content)


def _from_yaml(file: Path) -> YoloSource:
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise DataError(f"{file} is empty or no mapping; 'train', 'val' and 'names' were expected.")
    folder = file.parent.absolute()
    bases = [folder]
    declared = content.get("path")
    if isinstance(declared, str) and declared:
        declared = os.path.expanduser(declared)
        # Where the file says, seen from the file or from here; the file's own folder if the set was moved.
        bases = [folder / declared, Path.cwd() / declared, folder]
    splits: dict[str, list[str]] = {}
    extra = content.get("splits")
    for key, value in content.items():
        name = split_name(key) if key in _SPLIT_KEYS else None
        if isinstance(extra, list) and key in extra:  # written by `convert_data`
            name = key
        if name and name not in splits and value:
            splits[name] = [value] if isinstance(value, str) else value
            if not isinstance(value, str | list) or not all(isinstance(entry, str) for entry in splits[name]):
                raise DataError(f"{file}: {key} expects a path or a list of paths.")
    if not splits:
        raise DataError(f"{file} names no split; 'train' and 'val' were expected, found {_keys(content)}.")
    names, remarks = _names(content, file)
    root = next((base for base in bases if base.is_dir()), folder)
    return YoloSource(
        Path(os.path.abspath(root)),
        splits,
        tuple(bases),
        names,
        file.name,
        _category_ids(content, names, file),
        remarks,
        content.get("labelled_classes"),
    )


def _keys(content: dict) -> str:
    return ", ".join(str(key) for key in list(content)[:8]) or "nothing"


def _names(content: dict, file: Path) -> tuple[list[tuple[int, str]], tuple[str, ...]]:
    number, names = content.get("nc"), content.get("names")
    if isinstance(names, dict):
        try:
            own = [(int(key), name) for key, name in names.items()]
        except ValueError as error:
            raise DataError(f"{file}: the keys of 'names' are class ids, integers; {error}.") from error
    elif isinstance(names, list):
        own = list(enumerate(names))
    elif isinstance(number, str) and number.isdecimal():
        if len(number) > 6:
            raise DataError(f"{file}: nc: {number[:20]} classes without names. Give 'names'.")
        own = [(i, str(i)) for i in range(int(number))]
        return own, ()
    else:
        raise DataError(f"{file} has no class names; 'names' was expected, found {_keys(content)}.")
    if not own:
        raise DataError(f"{file}: 'names' is empty. List the class names.")
    if not all(isinstance(name, str) for _, name in own):
        raise DataError(f"{file}: 'names' expects a name for each class, got {str(names)[:80]}.")
    if isinstance(number, str) and number != str(len(own)):
        return own, (f"It says nc: {number} but names {len(own)} classes: the names are used.",)
    return own, ()


def _category_ids(content: dict, names: list[tuple[int, str]], file: Path) -> dict[str, int]:
    """Name to the id it had in COCO, which `convert_data` notes under the key category_ids."""
    ids = content.get("category_ids")
    if ids is None:
        return {}
    valid = isinstance(ids, list) and all(isinstance(i, str) and re.fullmatch(r"-?\d{1,18}", i) for i in ids)
    if not valid or len(ids) != len(names) or len(set(ids)) != len(ids):
        raise DataError(
            f"{file}: category_ids expects one integer for each of the {len(names)} classes, each once; got"
            f" {str(ids)[:80]}."
        )
    return {name: int(i) for (_, name), i in zip(names, ids, strict=True)}


def _from_folders(path: Path) -> YoloSource | None:
    splits: dict[str, list[str]] = {}
    if (path / "images").is_dir() and (path / "labels").is_dir():
        for folder in sorted((path / "images").iterdir()):
            if folder.is_dir() and (name := split_name(folder.name)):
                splits.setdefault(name, [str(folder)])
        splits = splits or {ALL: [str(path / "images")]}
    else:
        for folder in sorted(path.iterdir()):
            both = (folder / "images").is_dir() and (folder / "labels").is_dir()
            if both and (name := split_name(folder.name)):
                splits.setdefault(name, [str(folder / "images")])
    if not splits:
        return None
    for folder in (path, path / "labels"):
        for name in _NAME_FILES:
            if (folder / name).is_file():
                lines = [line.strip() for line in read_text(folder / name).splitlines()]
                names = [(i, line) for i, line in enumerate(lines) if line]
                if not names:
                    raise DataError(f"{folder / name} is empty. Write one class name per line.")
                return YoloSource(path, splits, (path,), names, display(folder / name, path))
    return YoloSource(path, splits, (path,), None, "classes.txt")


class _Reader:
    """One split on its way to records."""

    def __init__(self, source: YoloSource, split: str, asked: Sequence[str] | None):
        self.source, self.split, self.asked = source, split, asked
        self.findings = Findings()
        self.index = FileIndex()

    def read(self) -> DetectionData:
        source, findings = self.source, self.findings
        for remark in source.remarks:
            findings.add("warning", source.names_file, remark)
        names = source.names
        if names is None:
            if self.asked is None:
                raise DataError(
                    f"{source.root} has images and labels but no class names."
                    " Add classes.txt with one name per line, or a data.yaml."
                )
            names = list(enumerate(self.asked))
        classes = classes_of(names, self.asked, source.names_file, findings)
        if source.category_ids:
            free = max(source.category_ids.values())
            ids = []
            for name in classes.labels:
                free += name not in source.category_ids
                ids.append(source.category_ids.get(name, free))
            classes = classes._replace(category_ids=tuple(ids))

        paths = self._images()
        if not paths and not findings.problems():
            where = ", ".join(source.splits[self.split])
            raise DataError(f"{source.root}: no image for the split {self.split} in {where}.")
        label_files = [_label_file(path, self.index) for path in paths]
        sizes = image_sizes(paths)
        texts = in_threads(_text_or_error, label_files, "reading labels", "files")
        labelled = labelled_mask(source.labelled, classes, source.names_file)
        entries, kept_texts = [], []
        for path, label_file, size, text in zip(paths, label_files, sizes, texts, strict=True):
            image_id = identity(path, source.root)
            file = display(label_file or path, source.root)
            if isinstance(size, DataError):
                findings.add("error", display(path, source.root), f"Left out: {without_path(size, path)}")
            elif isinstance(text, DataError):
                findings.add("error", file, f"Its image is left out: {without_path(text, label_file or '')}")
            else:
                entries.append(Entry(image_id, path, size, file, labelled=labelled))
                kept_texts.append(text)
        columns = self._boxes(entries, kept_texts, classes)
        records = to_records(entries, columns, "line", findings)
        return finish(source, self.split, records, classes, findings)

    def _images(self) -> list[str]:
        """Absolute paths of the split's images that exist, each once."""
        paths: list[str] = []
        links: list[str] = []
        for entry in self.source.splits[self.split]:
            found = self._resolve(entry)
            if os.path.dirname(found) == found:
                raise DataError(
                    f"{self.source.names_file}: {self.split}: {entry} is the root of the file system. Name the folder"
                    " that the images are in."
                )
            if os.path.isdir(found):
                images = list(walk_images(found, links))
                paths += images
                self._labels_without_image(found, images, links)
            elif os.path.splitext(found)[1].lower() in IMAGE_SUFFIXES:
                paths.append(found)
            else:
                paths += self._listed(found)
        for link in dict.fromkeys(links):
            what = "A link to a folder that was read already: not followed."
            self.findings.add("warning", display(link, self.source.root), what)
        paths = [os.path.abspath(path) for path in paths]
        unique = list(dict.fromkeys(paths))
        if len(unique) < len(paths):
            for path, times in Counter(paths).items():
                if times > 1:
                    what = f"Listed {times} times: used once."
                    self.findings.add("warning", display(path, self.source.root), what)
        return unique

    def _resolve(self, entry: str) -> str:
        """The folder or list file that an entry of the split stands for."""
        tried = [str(base / entry) for base in self.source.bases]
        if entry.startswith("../"):  # exports that count from a folder which was never made
            tried += [str(base / entry.removeprefix("../")) for base in self.source.bases]
        tried.append(os.path.abspath(entry))
        for candidate in tried:
            if os.path.exists(candidate):
                return os.path.abspath(candidate)
        looked = ", ".join(dict.fromkeys(os.path.abspath(candidate) for candidate in tried))
        raise DataError(
            f"{self.source.names_file}: {self.split}: {entry} does not exist. Looked for {looked}."
        )

    def _listed(self, list_file: str) -> list[str]:
        """Images of a list file: absolute, or relative to the file, to the data set or to here."""
        paths = []
        folders = [os.path.dirname(list_file), *(str(base) for base in self.source.bases), os.getcwd()]
        name = display(list_file, self.source.root)
        for number, line in enumerate(read_text(list_file).splitlines(), 1):
            line = line.strip()
            if not line:
                continue
            candidates = [line] if os.path.isabs(line) else [os.path.join(folder, line) for folder in folders]
            found = next(filter(None, (self.index.find(os.path.normpath(c)) for c in candidates)), None)
            if found:
                paths.append(found)
            else:
                self.findings.add(
                    "error", line, f"The image does not exist: left out ({name}, line {number})."
                )
        return paths

    def _labels_without_image(self, folder: str, images: list[str], links: list[str]) -> None:
        label_folder = _labels_for(folder + os.sep)
        if label_folder is None or not os.path.isdir(label_folder):
            return
        stems = {os.path.relpath(os.path.splitext(image)[0], folder) for image in images}
        for file in walk(label_folder, (".txt",), links):
            stem = os.path.relpath(os.path.splitext(file)[0], label_folder)
            if stem not in stems and os.path.basename(file) not in _NAME_FILES:
                what = "A label file without image: not used."
                self.findings.add("error", display(file, self.source.root), what)

    def _boxes(self, entries: list[Entry], texts: list[str], classes: Classes) -> Columns:
        source, findings = self.source, self.findings
        images, lines, values = [], [], []
        for i, (entry, text) in enumerate(zip(entries, texts, strict=True)):
            for number, line in enumerate(text.splitlines(), 1):
                columns = line.split()
                if not columns:
                    continue
                row = self._row(columns, entry.file, number)
                if row:
                    values.append(row)
                    images.append(i)
                    lines.append(number)
        rows = np.array(values, dtype=np.float64).reshape(-1, 5)
        image = np.array(images, dtype=np.int64)
        number = np.array(lines, dtype=np.int64)

        own = np.where(np.isfinite(rows[:, 0]) & (np.abs(rows[:, 0]) < 2**31), rows[:, 0], -1)
        whole = own == np.floor(own)
        known = whole & np.isin(own, list(classes.names))
        for row in np.flatnonzero(~known):
            where = f"line {number[row]}: class {rows[row, 0]:g}"
            findings.count(UNKNOWN_CLASS, entries[image[row]].file, where)
        far = known & (np.abs(rows[:, 1:]) > _FAR).any(1) & np.isfinite(rows).all(1)
        for row in np.flatnonzero(far):
            where = f"line {number[row]}: {' '.join(f'{value:g}' for value in rows[row])}"
            findings.count(PIXELS, entries[image[row]].file, where)
        usable = np.flatnonzero(known & ~far)
        rows, image, number, own = rows[usable], image[usable], number[usable], own[usable].astype(np.int64)

        ids = sorted(classes.contiguous)
        label = np.array([classes.contiguous[i] for i in ids], dtype=np.int64)[np.searchsorted(ids, own)]
        unasked = (classes.names[i] for i in own[label < 0].tolist())
        refuse_unasked(unasked, classes.labels, f"{source.root}, split {self.split},")
        sizes = np.array([entry.size[::-1] for entry in entries], dtype=np.float64).reshape(-1, 2)[image]
        half = rows[:, 3:] / 2
        with np.errstate(invalid="ignore"):  # infinity less infinity: reported by `to_records`
            xyxy = np.concatenate([rows[:, 1:3] - half, rows[:, 1:3] + half], 1) * np.tile(sizes, 2)
        crowd = np.zeros(len(rows), dtype=bool)
        return Columns(image, xyxy, label, crowd, np.full(len(rows), np.nan), number)

    def _row(self, columns: list[str], file: str, number: int) -> list[float] | None:
        """class, cx, cy, w, h of a line, or None."""
        try:
            row = [float(column) for column in columns]
        except ValueError:
            self.findings.count(MALFORMED, file, f"line {number}: {' '.join(columns)[:60]}")
            return None
        if len(row) == 5:
            return row
        if len(row) == 6:
            self.findings.count(CONFIDENCE, file, f"line {number}")
            return row[:5]
        if len(row) >= 7 and len(row) % 2:  # the corners of a polygon or of a turned box
            x, y = row[1::2], row[2::2]
            left, top, right, bottom = min(x), min(y), max(x), max(y)
            return [row[0], (left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        what = f"line {number}: {len(row)} numbers, expected 5 (class cx cy w h) or class and a polygon"
        self.findings.count(MALFORMED, file, what)
        return None


def _labels_for(path: str) -> str | None:
    """The path with its last folder called images replaced by labels, or None."""
    before, found, after = path.rpartition(f"{os.sep}images{os.sep}")
    return f"{before}{os.sep}labels{os.sep}{after}" if found else None


def _label_file(image: str, index: FileIndex) -> str | None:
    """The image's label file, or what has its name and is none: under labels/, else beside it. None: an image without
    objects."""
    beside = os.path.splitext(image)[0] + ".txt"
    under_labels = _labels_for(beside)
    return (under_labels and index.entry(under_labels)) or index.entry(beside)


def _text_or_error(label_file: str | None) -> str | DataError:
    if label_file is None:
        return ""
    try:
        return read_text(label_file)
    except DataError as error:
        return error
