"""Files of annotation tools that are not read: known by their content, so that the error says what to do."""

# pyright: strict

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any, cast

from ...errors import DataError
from ...files import parse_json
from ..files import read_bytes

_CVAT = "a CVAT export. Export it from CVAT again, as COCO 1.0, with its images"
_LABELME = (
    "LabelMe's. Convert them all to COCO or VOC: LabelMe's examples have labelme2coco.py and labelme2voc.py"
)
_LABEL_STUDIO = "a Label Studio export. Export it from Label Studio again, as COCO or YOLO, with its images"
_SUPERVISELY = "Supervisely's. Export the project from Supervisely again, as COCO, YOLO or Pascal VOC"
_CREATE_ML = "a Create ML export. Export it again as COCO, YOLO or Pascal VOC from the tool that made it"

_HEAD = 65_536  # bytes of an XML file: its root comes first
_SMALL = 64 * 2**20  # bytes: a file of one image, also with the image in it
_LOOKED_AT = 3  # files of each place


def tool_of(content: object) -> str | None:
    """Whose JSON this is and what to do about it, to follow "... is "; None for what is not known."""
    if isinstance(content, list):
        first = cast(Any, content)[0] if content else None
        if not isinstance(first, dict):
            return None
        keys = {str(key) for key in cast(Any, first)}
        named = keys & {"image", "imagefilename"}
        if named and keys & {"annotation", "annotations"} and "annotator" not in keys:
            return _CREATE_ML
        min_form = "annotator" in keys or "annotation_id" in keys  # Label Studio's JSON-MIN
        is_task = "data" in keys and keys & {"annotations", "completions"}
        return _LABEL_STUDIO if is_task or (named and min_form) else None
    if not isinstance(content, dict):
        return None
    keys = {str(key) for key in cast(Any, content)}
    if {"shapes", "imagePath"} <= keys:
        return _LABELME
    if {"objects", "size"} <= keys or ({"classes", "tags"} <= keys and "images" not in keys):
        return _SUPERVISELY
    if "data" in keys and keys & {"annotations", "completions"} and "images" not in keys:
        return _LABEL_STUDIO
    return None


def is_cvat(file: Path) -> bool:
    """Whether an XML file is CVAT's, for images or videos. VOC's root is <annotation>."""
    try:
        if not file.is_file():  # a pipe would be waited for
            return False
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
    except OSError:
        return False
    inside = head.partition(b"<annotations>")[2]
    return re.search(rb"<(?:version|meta|image|track)\b", inside) is not None


def refuse_export(path: Path) -> None:
    """Raise DataError if the file, or what lies in the folder or one or two below, is of a tool that is known."""
    places = [path] if path.is_file() else _places(path)
    for file in places:
        tool = _CVAT if file.suffix.lower() == ".xml" and is_cvat(file) else None
        if file.suffix.lower() == ".json":
            tool = _tool_of_file(file)
        if tool is not None:
            raise DataError(f"{file} is {tool}.")


def _places(folder: Path) -> list[Path]:
    """A few files of each kind: of thousands, all are alike."""
    patterns = ("*.xml", "*.json", "*/*.json", "*/*.xml", "*/ann/*.json")
    return [
        file for pattern in patterns for file in islice(folder.glob(pattern), _LOOKED_AT) if file.is_file()
    ]


def _tool_of_file(file: Path) -> str | None:
    try:
        return tool_of(parse_json(read_bytes(file))) if file.stat().st_size <= _SMALL else None
    except (OSError, DataError, ValueError):
        return None
