"""The folder that `predict` writes: pictures, videos, detections.json and images.json."""

# pyright: strict, reportUnknownMemberType=false
# PyTorch's own types leave some of its functions untyped.

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torch import Tensor

from ..detector import Detector
from ..draw import draw_detections
from ..errors import ConfigError, SaveError
from ..files import PartFile, remove_earlier_results, write_atomically
from ..runtime.detector import ArtifactDetector
from ..structures import Detections
from .sources import Frame, Source
from .video import VideoWriter

_MADE_BY = "hsvdet predict"
_SAVED_AT_ONCE = 4  # pictures that are drawn and encoded while the network works
_KEEP_SUFFIX = (".jpg", ".jpeg", ".png")


class ResultFolder:
    """Within `with`: `add` each frame, then `finish`. Without `finish` no JSON file is left behind.

    The JSON files grow under another name in the same folder, so memory does not grow with a video.
    """

    def __init__(
        self, folder: Path, detector: Detector | ArtifactDetector, sources: Sequence[Source], pictures: bool
    ):
        """Raises ConfigError where `folder` holds files that are not results of an earlier `predict`."""
        self.folder, self.labels, self.category_ids = folder, detector.labels, detector.category_ids
        self.counts: Counter[int] = Counter()
        remove_earlier_results(folder, "images.json", _MADE_BY, _files_of)
        self._names = _output_names(sources) if pictures else {}
        taken = next((name for name in self._names.values() if os.path.lexists(folder / name)), None)
        if taken is not None:
            raise ConfigError(
                f"{folder / taken} is there already and would be replaced. Choose another folder."
            )
        self._ids = _numbers_in_names(sources)
        self._images = 0
        header = {
            "info": {
                "description": _MADE_BY,
                "version": version("hsvdet"),
                "date_created": datetime.now(UTC).isoformat(timespec="seconds"),
                "model": detector.name,
                "licence": detector.licence,
            },
            "categories": [
                {"id": number, "name": label}
                for number, label in zip(detector.category_ids, detector.labels, strict=True)
            ],
        }
        self._table = _JsonList(folder / "images.json", _opened(header, "images"))
        self._list = _JsonList(folder / "detections.json", "[")
        self._pool = ThreadPoolExecutor(_SAVED_AT_ONCE)
        self._saving: deque[Future[None]] = deque()
        self._video: tuple[Source, VideoWriter] | None = None

    def __enter__(self) -> ResultFolder:
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._video is not None:
            self._video[1].discard()
        self._table.discard()
        self._list.discard()

    def add(self, frame: Frame, detections: Detections) -> None:
        """Raises SaveError when a file cannot be written."""
        source, (height, width) = frame.source, frame.image.shape[-2:]
        self._images += 1
        number = self._ids.get(source, self._images)
        name = self._names.get(source)
        if name is not None:
            name = self._draw(frame, detections, name)
        row = {
            "id": number,
            "file_name": source.name,
            "width": width,
            "height": height,
            "source": str(source),
        }
        if frame.number is not None:
            row |= {"frame": frame.number, "seconds": round(frame.seconds or 0.0, 4)}
        self._table.add(row | {"picture": name})
        parts: list[list[Any]] = [part.tolist() for part in detections]
        for box, score, label in zip(*parts, strict=True):
            left, top, right, bottom = box
            self._list.add(
                {
                    "image_id": number,
                    "category_id": self.category_ids[label],
                    "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
                    "score": round(score, 5),
                }
            )
            self.counts[label] += 1

    def finish(self, failures: Sequence[Mapping[str, str]], complete: bool) -> None:
        """Write what is pending. complete: False when the run was interrupted. Raises SaveError."""
        self._close_video()
        while self._saving:
            self._saving.popleft().result()
        self._list.close("]")
        rest = json.dumps({"failures": list(failures), "complete": complete}, ensure_ascii=False)
        self._table.close(f"],\n{rest[1:]}")

    def _draw(self, frame: Frame, detections: Detections, name: str) -> str:
        """Into a video, or a picture by another thread. The name it really has."""
        if frame.number is None:
            self._close_video()
            if frame.source.kind == "url" and not name.lower().endswith(_KEEP_SUFFIX):
                name += ".png"
            if len(self._saving) == _SAVED_AT_ONCE:
                self._saving.popleft().result()
            path = self.folder / name
            self._saving.append(self._pool.submit(_save_picture, path, frame.image, detections, self.labels))
            return name
        name = name if name.endswith(".mp4") else f"{name}.mp4"
        if self._video is None or self._video[0] != frame.source:
            self._close_video()
            self._video = frame.source, VideoWriter(self.folder / name)
        drawn = draw_detections(frame.image, detections, self.labels)
        self._video[1].write(np.asarray(drawn), frame.seconds or 0.0)
        return name

    def _close_video(self) -> None:
        if self._video is not None:
            (_, writer), self._video = self._video, None
            writer.close()


class _JsonList:
    """A JSON list that is written item by item, and appears under its name when it is closed."""

    def __init__(self, path: Path, start: str):
        self._path = path
        try:
            self._written = PartFile(path)
            # A file name that is not UTF-8 becomes a JSON escape, from which Python makes the name again.
            self._file = self._written.part.open("w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise SaveError(f"{path} cannot be written: {error.strerror}.") from error
        self._write(start)
        self._between = "\n"

    def add(self, item: Mapping[str, Any]) -> None:
        self._write(self._between + json.dumps(item, ensure_ascii=False))
        self._between = ",\n"

    def close(self, end: str) -> None:
        self._write(f"\n{end}\n")
        try:
            self._file.close()
            self._written.keep()
        except OSError as error:
            raise SaveError(f"{self._path} cannot be written: {error.strerror}.") from error

    def discard(self) -> None:
        with suppress(OSError):  # what is still in memory has no room on the disk, and is not wanted
            self._file.close()
        self._written.discard()

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
        except OSError as error:
            raise SaveError(f"{self._path} cannot be written: {error.strerror}.") from error


def _opened(header: Mapping[str, Any], name: str) -> str:
    """The JSON object `header`, left open inside a last list called `name`."""
    return f'{json.dumps(header, ensure_ascii=False)[:-1]}, "{name}": ['


def _save_picture(path: Path, image: Tensor, detections: Detections, labels: Sequence[str]) -> None:
    drawn, content = draw_detections(image, detections, labels), BytesIO()
    try:
        if path.suffix.lower() == ".png":
            drawn.save(content, format="PNG", compress_level=3)
        else:
            drawn.save(content, format="JPEG", quality=92)
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise SaveError(f"{path} cannot be written: {error.strerror or error}.") from error


def _output_names(sources: Sequence[Source]) -> dict[Source, str]:
    """Where each source's picture or video goes, no two the same, also where letter case does not count."""
    names: dict[Source, str] = {}
    taken: set[str] = set()
    for source in sources:
        name = PurePosixPath(source.name)
        if source.kind in ("video", "live") and name.suffix.lower() != ".mp4":
            name = name.with_name(f"{name.name}.mp4")
        elif source.kind == "image" and name.suffix.lower() not in _KEEP_SUFFIX:
            name = name.with_name(f"{name.name}.png")
        wanted, count = name, 1
        while str(name).lower() in taken:
            count += 1
            name = wanted.with_name(f"{wanted.stem}-{count}{wanted.suffix}")
        taken.add(str(name).lower())
        names[source] = str(name)
    return names


def _numbers_in_names(sources: Sequence[Source]) -> dict[Source, int]:
    """The number each image file is named by, if all are images named by different numbers, else nothing."""
    stems = [PurePosixPath(source.name).stem for source in sources]
    if not all(s.kind == "image" and stem.isdecimal() for s, stem in zip(sources, stems, strict=True)):
        return {}
    numbers = [int(stem) for stem in stems]
    return dict(zip(sources, numbers, strict=True)) if len(set(numbers)) == len(numbers) else {}


def _files_of(table: Any) -> set[str]:
    return {row["picture"] for row in table["images"] if row["picture"]} | {"detections.json"}
