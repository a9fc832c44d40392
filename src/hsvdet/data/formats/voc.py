"""Pascal VOC (Everingham et al. 2010, IJCV 88(2)) and IDD Detection (Varma et al. 2019, arXiv 1811.10200).

One XML file per image. VOC: Annotations/, JPEGImages/, the splits in ImageSets/Main/*.txt. IDD: the same with
nested folders, the splits in *.txt at the root. Corners are pixel numbers that begin at 1 and include the
last pixel (VOC development kit), so a box reaches from xmin - 1 to xmax.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from ...errors import DataError
from ..dataset import DetectionData
from ..files import (
    FileIndex,
    display,
    folder_at,
    identity,
    image_sizes,
    in_threads,
    read_text,
    read_yaml,
    walk,
    without_path,
)
from ..pixels import IMAGE_SUFFIXES
from .exports import is_cvat
from .repair import (
    CROWD,
    MALFORMED,
    UNKNOWN_CLASS,
    Classes,
    Columns,
    Entry,
    Findings,
    Kind,
    annotated_size,
    classes_of,
    labelled_mask,
    refuse_unasked,
    to_records,
)
from .splits import ALL, finish, name_splits, split_name

_LISTING = "labels.yaml"
_LABEL_FILES = ("labels.txt", "classes.txt")
# The usual ones first; then all, also in capitals.
_SUFFIXES = tuple(
    dict.fromkeys(
        [".jpg", ".png", ".jpeg", ".JPG", *sorted(IMAGE_SUFFIXES), *sorted(s.upper() for s in IMAGE_SUFFIXES)]
    )
)
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocSource:
    """splits: name to list file, or to a folder whose every annotation belongs to it.
    annotations, images: the two folders, which may be one."""

    root: Path
    splits: dict[str, Path]
    annotations: Path
    images: Path
    format: str = "voc"
    classes: list[str] = field(default_factory=list, repr=False)  # filled when they are first looked for

    def read(self, split: str, asked: Sequence[str] | None) -> DetectionData:
        return _Reader(self, split, asked).read()


def find_voc(path: Path) -> VocSource | None:
    """A folder with Annotations/ and JPEGImages/ (or images/); VOCdevkit with one year in it; or a folder,
    or train/ and val/ in it, where each XML file lies beside its image."""
    if path.is_file():
        return None
    annotations = path / "Annotations"
    if not annotations.is_dir():
        years = [folder for folder in sorted(path.glob("VOC*")) if (folder / "Annotations").is_dir()]
        if len(years) > 1:
            raise DataError(f"{path} holds {', '.join(folder.name for folder in years)}: name one of them.")
        return find_voc(years[0]) if years else _beside(path)
    if next(walk(annotations, (".xml",), []), None) is None:
        return None
    images = folder_at(path / "JPEGImages") or folder_at(path / "images")
    if images is None:
        raise DataError(f"{path} has Annotations but no images: the folder JPEGImages was expected.")
    main = path / "ImageSets" / "Main"
    if main.is_dir():
        lists = {file.stem: file for file in sorted(main.glob("*.txt"))}
        # VOC has a list for every class and split too: aeroplane_train.txt beside train.txt.
        lists = {
            stem: file
            for stem, file in lists.items()
            if not ("_" in stem and stem.rpartition("_")[2] in lists)
        }
        form = "voc"
    else:
        lists = {file.stem: file for file in sorted(path.glob("*.txt")) if split_name(file.stem)}
        form = "idd" if lists else "voc"
    splits = {name: lists[stem] for name, stem in name_splits(lists).items()}
    return VocSource(path, splits or {ALL: annotations}, annotations, images, form)


def _beside(path: Path) -> VocSource | None:
    if _holds_annotations(path):
        return VocSource(path, {ALL: path}, path, path)
    splits = {
        name: folder
        for folder in sorted(path.iterdir())
        if (name := split_name(folder.name)) and folder.is_dir() and _holds_annotations(folder)
    }
    return VocSource(path, splits, path, path) if splits else None


def _holds_annotations(folder: Path) -> bool:
    return any(not is_cvat(file) for file in folder.glob("*.xml"))


class _Object(NamedTuple):
    """corners: xmin, ymin, xmax, ymax as written. number: its place in the file, from 1."""

    name: str
    corners: list[float]
    crowd: bool
    number: int


class _Annotation(NamedTuple):
    """What one XML file says. size: (height, width) or None. defects: of objects, and which. labelled: names of
    classes, or None."""

    size: tuple[int, int] | None
    file_name: str
    objects: list[_Object]
    defects: list[tuple[Kind, str]]
    labelled: list[str] | None = None


class _Reader:
    """One split on its way to records."""

    def __init__(self, source: VocSource, split: str, asked: Sequence[str] | None):
        self.source, self.split, self.asked = source, split, asked
        self.findings = Findings()
        self.index = FileIndex()
        self.parsed: dict[str | None, _Annotation | DataError | None] = {}

    def read(self) -> DetectionData:
        names = self._names()
        files = [self._find_annotation(name) for name in names]
        listed = _listed_classes(self.source.root)
        own = listed
        if own is None and self.asked is None:
            own = self._discover()
        classes = classes_of(
            own or enumerate(self.asked or (), 1), self.asked, "the class list", self.findings
        )
        entries, objects = self._entries(names, files, classes)
        columns = self._boxes(entries, objects, classes, listed is not None)
        records = to_records(entries, columns, "object", self.findings)
        return finish(self.source, self.split, records, classes, self.findings)

    def _names(self) -> list[str]:
        """The split's images as paths without suffix, relative to the two folders, each once."""
        place = self.source.splits[self.split]
        links: list[str] = []
        if place.is_dir():
            # Images without XML file belong to it too. The list of a split decides where there is one.
            folders = [(place, self.source.annotations)]
            if self.source.images != self.source.annotations:
                folders.append((self.source.images, self.source.images))
            found = {
                os.path.relpath(os.path.splitext(file)[0], base)
                for folder, base in folders
                for file in walk(folder, {".xml", *IMAGE_SUFFIXES}, links)
            }
            names = sorted(found)
        else:
            names = [
                self._listed_name(line.strip()) for line in read_text(place).splitlines() if line.strip()
            ]
        for link in dict.fromkeys(links):
            what = "A link to a folder that was read already: not followed."
            self.findings.add("warning", display(link, self.source.root), what)
        for name, times in Counter(names).items():
            if times > 1:
                self.findings.add("warning", name, f"Listed {times} times: used once.")
        return list(dict.fromkeys(names))

    def _listed_name(self, line: str) -> str:
        name = line.replace("\\", "/")
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in (".xml", *IMAGE_SUFFIXES) and not self._find_annotation(name):
            name = stem  # and not a file called a.png.jpg, whose name is a.png
        before, _, last = name.rpartition(" ")
        # The lists of a class end with 1, 0 or -1: is it in the image? But names may have blanks, too.
        if last in ("1", "0", "-1") and not self._find_annotation(name) and not self._find_image(name, ""):
            return before.strip()
        return name

    def _find_annotation(self, name: str) -> str | None:
        """The XML file, or what has its name and is none."""
        return self.index.entry(os.path.join(self.source.annotations, name + ".xml"))

    def _find_image(self, name: str, file_name: str) -> str | None:
        """The image named like the XML file, else the one that the XML file names."""
        stem = os.path.join(self.source.images, name)
        for suffix in _SUFFIXES:
            if found := self.index.find(stem + suffix):
                return found
        file_name = os.path.basename(file_name.replace("\\", "/"))
        return self.index.find(os.path.join(os.path.dirname(stem), file_name)) if file_name else None

    def _parse(self, files: Sequence[str | None]) -> list[_Annotation | DataError | None]:
        """Each file once, also when the classes were looked for before."""
        missing = [file for file in files if file not in self.parsed]
        found = in_threads(_parse_or_error, missing, "reading annotations", "files")
        self.parsed |= zip(missing, found, strict=True)
        return [self.parsed[file] for file in files]

    def _discover(self) -> list[tuple[int, str]]:
        """The classes of all splits, so that every split numbers them alike: sorted, from 1."""
        known = self.source.classes
        if known:
            return list(enumerate(known, 1))
        files = list(walk(self.source.annotations, (".xml",), []))
        annotations = self._parse(files)
        known += sorted(
            {
                item.name
                for annotation in annotations
                if isinstance(annotation, _Annotation)
                for item in annotation.objects
            }
        )
        if not known:
            reason = next((f" {error}" for error in annotations if isinstance(error, DataError)), "")
            raise DataError(
                f"{self.source.annotations}: no object in {len(files)} XML files, so no class is known."
                f" Add labels.txt with one name per line to {self.source.root}.{reason}"
            )
        return list(enumerate(known, 1))

    def _entries(
        self, names: list[str], files: list[str | None], classes: Classes
    ) -> tuple[list[Entry], list[list[_Object]]]:
        root, findings = self.source.root, self.findings
        everywhere = _labelled_everywhere(root)
        annotations = self._parse(files)
        entries, objects, without_size = [], [], []
        for name, file, annotation in zip(names, files, annotations, strict=True):
            image = self._find_image(
                name, annotation.file_name if isinstance(annotation, _Annotation) else ""
            )
            shown = display(file or image or name, root)
            if isinstance(annotation, DataError):
                findings.add("error", shown, f"Its image is left out: {without_path(annotation, file or '')}")
                continue
            if image is None:
                findings.add(
                    "error", shown, f"There is no image {display(self.source.images, root)}/{name}.*"
                )
                continue
            if annotation is None:
                what = "No annotation file: taken as an image without objects."
                findings.add("warning", shown, what)
                annotation = _Annotation(None, "", [], [])
            for kind, where in annotation.defects:
                findings.count(kind, shown, where)
            if annotation.size is None:
                without_size.append(len(entries))
            path = os.path.abspath(image)
            labelled = everywhere if annotation.labelled is None else annotation.labelled
            mask = labelled_mask(labelled, classes, shown)
            size = annotation.size or (0, 0)
            entries.append(Entry(identity(path, root), path, size, shown, labelled=mask))
            objects.append(annotation.objects)
        broken = set()
        sizes = image_sizes([entries[i].path for i in without_size])
        for i, size in zip(without_size, sizes, strict=True):
            if isinstance(size, DataError):
                findings.add(
                    "error",
                    display(entries[i].path, root),
                    f"Left out: {without_path(size, entries[i].path)}",
                )
                broken.add(i)
            else:
                entries[i] = entries[i]._replace(size=size)
        kept = [i for i in range(len(entries)) if i not in broken]
        return [entries[i] for i in kept], [objects[i] for i in kept]

    def _boxes(
        self, entries: list[Entry], objects: list[list[_Object]], classes: Classes, is_listed: bool
    ) -> Columns:
        """is_listed: a file lists the classes, so others are mistakes."""
        position = {name: i for i, name in enumerate(classes.labels)}
        own_names = set(classes.names.values())
        rows: list[tuple[int, _Object]] = []
        unasked = []
        for i, (entry, items) in enumerate(zip(entries, objects, strict=True)):
            for item in items:
                if item.name in position:
                    rows.append((i, item))
                elif is_listed and item.name not in own_names:
                    self.findings.count(UNKNOWN_CLASS, entry.file, f"object {item.number}: {item.name!r}")
                else:
                    unasked.append(item.name)
        refuse_unasked(unasked, classes.labels, f"{self.source.root}, split {self.split},")
        corners = np.array([item.corners for _, item in rows], dtype=np.float64).reshape(-1, 4)
        return Columns(
            image=np.array([i for i, _ in rows], dtype=np.int64),
            xyxy=_to_xyxy(corners),
            label=np.array([position[item.name] for _, item in rows], dtype=np.int64),
            crowd=np.array([item.crowd for _, item in rows], dtype=bool),
            area=np.full(len(rows), np.nan),
            number=np.array([item.number for _, item in rows], dtype=np.int64),
        )


def _to_xyxy(corners: np.ndarray) -> np.ndarray:
    """[N, 4] of xmin, ymin, xmax, ymax, first and last pixel from 1, to where the box begins and ends.

    Corners in the wrong order stay so, for `to_records` to report. Equal corners, a box of one pixel by the
    letter, are in truth a click without a drag: they become a box without area.
    """
    first, last = corners[:, :2], corners[:, 2:]
    is_swapped = first - last >= 1
    begin = np.where(is_swapped | (first == last), first, first - 1)
    end = np.where(is_swapped, last - 1, last)
    return np.concatenate([begin, end], 1)


def _listed_classes(root: Path) -> list[tuple[int, str]] | None:
    """(id, name) from labels.yaml, as `convert_data` writes it (names: {id: name}), or labels.txt."""
    names = _listing(root).get("names")
    if names is not None:
        try:
            return [(int(category_id), str.strip(label)) for category_id, label in names.items()]
        except (TypeError, ValueError, AttributeError) as error:
            raise _no_listing(root) from error
    for file in (root / name for name in _LABEL_FILES):
        if file.is_file():
            lines = enumerate(read_text(file).splitlines(), 1)
            return [(i, line.strip()) for i, line in lines if line.strip()]
    return None


def _labelled_everywhere(root: Path) -> Any:
    """`labelled_classes` of labels.yaml: names of the classes that are labelled in images whose XML file does not say
    it itself; None for all."""
    return _listing(root).get("labelled_classes")


def _listing(root: Path) -> dict[str, Any]:
    """What labels.yaml says; nothing where there is none."""
    if not (root / _LISTING).is_file():
        return {}
    content = read_yaml(root / _LISTING)
    if not isinstance(content, dict) or "names" not in content:
        raise _no_listing(root)
    return content


def _no_listing(root: Path) -> DataError:
    return DataError(f"{root / _LISTING} expects 'names' with a line 'id: name' for each class.")


def _parse_or_error(file: str | None) -> _Annotation | DataError | None:
    if file is None:
        return None
    try:
        return _parse(file)
    except DataError as error:
        return error


def _parse(file: str) -> _Annotation:
    text = read_text(file)
    # Entities can grow to gigabytes or name other files; annotations have no use for them.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{file} declares a document type or entities, which are refused. Remove them.")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        reason = "it is empty" if not text.strip() else error
        raise DataError(f"{file} is not XML that can be read: {reason}.") from error
    if root.tag != "annotation":
        raise DataError(f"{file} is not a VOC annotation: <annotation> was expected, found <{root.tag}>.")
    objects, defects = [], []
    for number, element in enumerate(root.findall("object"), 1):
        name = (element.findtext("name") or "").strip()
        written = [element.findtext(f"bndbox/{corner}", "None") for corner in _CORNERS]
        try:
            corners = [float(value) for value in written]
        except ValueError:
            defects.append((MALFORMED, f"object {number}: corners {', '.join(written)}"))
            continue
        if not name:
            defects.append((MALFORMED, f"object {number}: no name"))
            continue
        crowd = (element.findtext("iscrowd") or "0").strip()
        if crowd not in ("0", "1"):
            defects.append((CROWD, f"object {number}: {crowd[:60]}"))
        objects.append(_Object(name, corners, crowd == "1", number))
    element = root.find("labelled_classes")
    labelled = None if element is None else [(name.text or "").strip() for name in element.findall("name")]
    return _Annotation(_size(root), root.findtext("filename") or "", objects, defects, labelled)


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    try:
        height, width = (float(root.findtext(f"size/{side}", "")) for side in ("height", "width"))
    except ValueError:
        return None
    return annotated_size(height, width)
