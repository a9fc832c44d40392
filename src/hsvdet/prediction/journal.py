"""What `predict` has found so far, a line for each frame, on the disk as it is found: what a killed run leaves behind,
and `resume` goes on from."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, NonNegativeInt, field_validator

from ..errors import ConfigError, SaveError
from ..files import parse_json, regular
from .sources import Source

NAME = "unfinished.jsonl"
_FORMAT = 1


class Line(NamedTuple):
    """About the source of this number in the list. row: of images.json, with `detections`; reason: why it could not be
    read (further); neither: it is done, with its video."""

    source: int
    row: Mapping[str, Any] | None = None
    detections: Sequence[Mapping[str, Any]] = ()
    reason: str | None = None


class Journal:
    """Within the results' folder. whole: False after a line that may be there in part. Raises SaveError where it cannot
    be written."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], lines: Iterable[str] = ()):
        """settings: by which a run that continues this one is held to be the same. lines: of before, to keep."""
        self.path = folder / NAME
        new = self.path.with_name(f"{NAME}.part")
        self.whole = True
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # A file name that is not UTF-8 becomes a JSON escape, from which Python makes the name again.
            self._file = new.open("w", encoding="utf-8", errors="backslashreplace")
            self._file.write(json.dumps({"format": _FORMAT, "settings": settings}) + "\n")
            for line in lines:
                self._file.write(f"{line}\n")
            self._file.flush()
            new.replace(self.path)
        except OSError as error:
            raise SaveError(f"{self.path} cannot be written: {error.strerror}.") from error

    def add(self, line: Line, source: Source) -> None:
        content = {**line._asdict(), "is": identity(source)}
        try:
            self._file.write(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            self.whole = False
            raise SaveError(f"{self.path} cannot be written: {error.strerror}.") from error

    def close(self) -> None:
        with suppress(OSError):  # a full disk, said when it was met
            self._file.close()


def read(folder: Path) -> Iterator[Line]:
    """The lines of a journal, in order."""
    with (folder / NAME).open(encoding="utf-8") as file:
        next(file)
        for text in file:
            yield _line(text)


class Resumed(NamedTuple):
    """sources: how many, from the first on, are done. texts: their lines."""

    sources: int
    texts: list[str]


def resume(
    folder: Path,
    settings: Mapping[str, Any],
    sources: Sequence[Source],
    ids: Mapping[Source, int],
    category_ids: Collection[int],
) -> Resumed:
    """What of an earlier run in `folder` stays as it is: all up to the first source that is not done, was another, or
    has changed since, or whose picture is gone. ids: as numbers in names give them. category_ids: that there are.

    Raises ConfigError where there is no such run, or one of other settings.
    """
    path = folder / NAME
    try:
        content = (
            regular(path).read_text(encoding="utf-8").split("\n")[:-1]
        )  # a last line without its end was cut off
        header = parse_json(content[0])
        before = header["settings"]
        if header["format"] != _FORMAT or not isinstance(before, dict):
            raise ValueError
        lines = [(_line(text), parse_json(text)["is"], text) for text in content[1:]]
        if not {found["category_id"] for line, _, _ in lines for found in line.detections} <= set(
            category_ids
        ):
            raise ValueError("a class that there is not")
    except FileNotFoundError:
        raise ConfigError(f"{folder} has no run of `predict` that was cut off. Leave out --resume.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, LookupError, TypeError):
        raise ConfigError(f"{path} is not what `predict` writes. Choose a new folder.") from None
    other = [name for name in settings if before.get(name) != settings[name]]
    if other:
        raise ConfigError(
            f"{folder} was begun with another {other[0]}: {before.get(other[0])}; now it is {settings[other[0]]}."
            " Give the same, or choose a new folder."
        )
    done = {line.source for line, _, _ in lines if line.row is None}
    count = 0
    while count in done and count < len(sources):
        count += 1
    frames = 0
    for line, was, _ in lines:
        if line.source >= count:
            continue
        source = sources[line.source]
        sound = was == identity(source)
        if line.row is not None:
            frames += 1
            picture = line.row.get("picture")
            sound = sound and line.row.get("id") == ids.get(source, frames)
            sound = sound and (picture is None or (folder / picture).is_file())
        if not sound:
            count = min(count, line.source)
    return Resumed(count, [text for line, _, text in lines if line.source < count])


def identity(source: Source) -> list[Any]:
    """What a source is, and of a file its size and time: if they are the same, so is what was found in it."""
    try:
        status = os.stat(source.location) if source.kind in ("image", "video") else None
    except (OSError, ValueError):
        status = None
    return [source.name, source.kind, *((status.st_size, status.st_mtime_ns) if status else ())]


class _Detection(BaseModel, strict=True, extra="forbid", allow_inf_nan=False):
    image_id: int
    category_id: int
    bbox: list[float] = Field(min_length=4, max_length=4)
    score: float


class _Row(BaseModel, strict=True, allow_inf_nan=False):
    id: int
    picture: str | None

    @field_validator("picture")
    @classmethod
    def _inside(cls, picture: str | None) -> str | None:
        if picture is not None and (picture.startswith("/") or ".." in picture.split("/")):
            raise ValueError("outside the folder")
        return picture


class _Written(BaseModel, strict=True):
    source: NonNegativeInt
    row: _Row | None
    detections: list[_Detection]
    reason: str | None
    is_: list[Any] = Field(alias="is")


def _line(text: str) -> Line:
    """Raises ValueError for one that `Journal` did not write."""
    # A file name that is not UTF-8 is an escape that stands for no letter: pydantic's own parser refuses it.
    content = parse_json(text)
    _Written.model_validate(content)
    return Line(content["source"], content["row"], content["detections"], content["reason"])
