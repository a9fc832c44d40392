"""The folder that `predict` writes: pictures, videos, detections.json and images.json."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# PyTorch's own types leave some of its functions untyped.

from __future__ import annotations

import hashlib
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
from ..files import PartFile, remove_earlier_results, stamp, sweep, write_atomically
from ..runtime.detector import ArtifactDetector
from ..structures import Detections
from .journal import NAME, Journal, Line, Resumed, read
from .journal import resume as resume_from
from .sources import Failure, Frame, Source
from .video import VideoWriter

_MADE_BY = "hsvdet predict"
_SAVED_AT_ONCE = 4  # pictures that are drawn and encoded while the network works
_KEEP_SUFFIX = (".jpg", ".jpeg", ".png")
_LONGEST_NAME = 255 - len(".png")  # bytes; a URL's kind, and so its suffix, is known only when it is fetched


class ResultFolder:
    """Within `with`: `add` each frame and `failed` source, then `finish`.

    What was found is on the disk a frame at a time (journal.py), after its picture; the two JSON files are made of that
    by `finish`. Without `finish` the journal stays, if anything was found, and `resume` goes on from it.
    """

    def __init__(
        self,
        folder: Path,
        detector: Detector | ArtifactDetector,
        sources: Sequence[Source],
        pictures: bool,
        settings: Mapping[str, Any],
        resume: bool,
    ):
        """settings: what a run must have in common with the one it continues.

        Raises ConfigError where `folder` holds files that are not results of an earlier `predict`, and with `resume`
        where it holds no run that was cut off, or one of other settings.
        """
        self.folder, self.labels, self.category_ids = folder, detector.labels, detector.category_ids
        self.counts: Counter[int] = Counter()
        self.failures: list[dict[str, str]] = []
        self._names = _output_names(sources) if pictures else {}
        self._ids = _numbers_in_names(sources)
        before = Resumed(0, [])
        sweep(folder, below=False)
        if resume:
            before = resume_from(folder, settings, sources, self._ids, self.category_ids)
        else:
            _clear(folder)
            taken = next((name for name in self._names.values() if os.path.lexists(folder / name)), None)
            if taken is not None:
                raise ConfigError(
                    f"{folder / taken} is there already and would be replaced. Choose another folder."
                )
        sweep(folder)  # all below it is ours
        self.done = before.sources
        self._number = {source: number for number, source in enumerate(sources)}
        self._images = 0
        self._now: Source | None = None  # the source that frames come from
        self._info = {
            "description": _MADE_BY,
            "version": version("hsvdet"),
            "date_created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": detector.name,
            "licence": detector.licence,
        }
        self._journal = Journal(folder, settings, before.texts)
        for line in read(folder) if before.texts else ():
            self._take(line, sources[line.source])
        self._pool = ThreadPoolExecutor(_SAVED_AT_ONCE)
        self._waiting: deque[tuple[Future[None] | None, Line, Source]] = deque()
        self._video: tuple[Source, VideoWriter] | None = None

    @property
    def images(self) -> int:
        """Frames in it, those of the run that it continues among them."""
        return self._images

    def __enter__(self) -> ResultFolder:
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._video is not None:
            self._video[1].discard()
        with suppress(SaveError):  # said already
            while self._journal.whole and self._waiting and _is_saved(self._waiting[0][0]):
                self._journal.add(*self._waiting.popleft()[1:])
        self._journal.close()
        if not self._images:
            (self.folder / NAME).unlink(missing_ok=True)

    def add(self, frame: Frame, detections: Detections) -> None:
        """Raises SaveError when a file cannot be written."""
        source, (height, width) = frame.source, frame.image.shape[-2:]
        if self._now is not None and self._now != source:
            self._end()
        self._now = source
        name, saving = None, None
        if source in self._names:
            name, saving = self._draw(frame, detections, self._names[source])
        number = self._ids.get(source, self._images + 1)
        row = {
            "id": number,
            "file_name": source.name,
            "width": width,
            "height": height,
            "source": str(source),
        }
        if frame.number is not None:
            row |= {"frame": frame.number, "seconds": round(frame.seconds or 0.0, 4)}
        found: list[dict[str, Any]] = []
        boxes: list[list[float]] = _plain(detections.boxes)
        scores: list[float] = _plain(detections.scores)
        labels: list[int] = _plain(detections.labels)
        for (left, top, right, bottom), score, label in zip(boxes, scores, labels, strict=True):
            found.append(
                {
                    "image_id": number,
                    "category_id": self.category_ids[label],
                    "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
                    "score": round(score, 5),
                }
            )
        line = Line(self._number[source], row | {"picture": name}, found)
        self._take(line, source)
        self._waiting.append((saving, line, source))
        if frame.number is None:
            self._end()
            self._now = None
        self._settle(2 * _SAVED_AT_ONCE)  # two lines an image

    def failed(self, failure: Failure) -> None:
        """A source that cannot be read, or not to its end."""
        if self._now == failure.source:
            self._close_video()
            self._now = None
        line = Line(self._number[failure.source], reason=str(failure.error))
        self._take(line, failure.source)
        self._waiting.append((None, line, failure.source))

    def finish(self, complete: bool) -> None:
        """Write what is pending and the JSON files. complete: False when the run was interrupted; what it is continued
        from then stays. Raises SaveError."""
        if complete and self._now is not None:
            self._end()
        self._close_video()
        self._settle(0)
        if not self._images:
            return
        categories = [
            {"id": number, "name": label}
            for number, label in zip(self.category_ids, self.labels, strict=True)
        ]
        table = _JsonList(
            self.folder / "images.json", _opened({"info": self._info, "categories": categories}, "images")
        )
        found = _JsonList(self.folder / "detections.json", "[")
        written: dict[str, int] = {}
        try:
            for line in read(self.folder):
                if line.row is not None:
                    table.add(line.row)
                    name = line.row["picture"]
                    if name is not None and name not in written:
                        written[name] = stamp(self.folder / name)
                for detection in line.detections:
                    found.add(detection)
            found.close("]")
            written["detections.json"] = stamp(self.folder / "detections.json")
            rest = {"failures": self.failures, "complete": complete, "written": written}
            table.close(f"],\n{json.dumps(rest, ensure_ascii=False)[1:]}")
        except OSError as error:
            raise SaveError(f"{error.filename} is gone: {error.strerror}.") from error
        finally:
            table.discard()
            found.discard()
        if complete:
            (self.folder / NAME).unlink(missing_ok=True)

    def _take(self, line: Line, source: Source) -> None:
        """Into what the report counts."""
        if line.row is not None:
            self._images += 1
            labels = {number: label for label, number in enumerate(self.category_ids)}
            self.counts.update(labels[found["category_id"]] for found in line.detections)
        if line.reason is not None:
            self.failures.append({"source": str(source), "reason": line.reason})

    def _end(self) -> None:
        """Of the source that frames came from: its video is whole, and it need not be read again."""
        self._close_video()
        assert self._now is not None
        self._waiting.append((None, Line(self._number[self._now]), self._now))

    def _settle(self, at_most: int) -> None:
        """Lines into the journal whose pictures are on the disk, in order, until so many wait."""
        while self._waiting and (
            len(self._waiting) > at_most or self._waiting[0][0] is None or self._waiting[0][0].done()
        ):
            saving, line, source = self._waiting[0]
            if saving is not None:
                saving.result()  # where it fails, no later line says that the source is done
            self._waiting.popleft()
            self._journal.add(line, source)

    def _draw(self, frame: Frame, detections: Detections, name: str) -> tuple[str, Future[None] | None]:
        """Into a video, or a picture by another thread. The name it really has."""
        if frame.number is None:
            self._close_video()
            if frame.source.kind == "url" and not name.lower().endswith(_KEEP_SUFFIX):
                name += ".png"
            path = self.folder / name
            return name, self._pool.submit(_save_picture, path, frame.image, detections, self.labels)
        name = name if name.endswith(".mp4") else f"{name}.mp4"
        if self._video is None or self._video[0] != frame.source:
            self._close_video()
            self._video = frame.source, VideoWriter(self.folder / name)
        drawn = draw_detections(frame.image, detections, self.labels)
        self._video[1].write(np.asarray(drawn), frame.seconds or 0.0)
        return name, None

    def _close_video(self) -> None:
        if self._video is not None:
            (_, writer), self._video = self._video, None
            writer.close()


def _plain(part: Tensor) -> Any:
    """Lists of numbers."""
    return part.tolist()


def _is_saved(saving: Future[None] | None) -> bool:
    return saving is None or (saving.done() and not saving.cancelled() and saving.exception() is None)


def _clear(folder: Path) -> None:
    """Nothing but what an earlier run wrote there. Raises ConfigError where there is anything else."""
    if (folder / NAME).exists() and not (folder / "images.json").exists():
        raise ConfigError(
            f"{folder} holds a run of `predict` that was cut off. --resume continues it; or choose a new folder."
        )
    remove_earlier_results(folder, "images.json", _MADE_BY)
    (folder / NAME).unlink(missing_ok=True)


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
        self._write(self._between + json.dumps(item, ensure_ascii=False, allow_nan=False))
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


def fitting(name: PurePosixPath) -> PurePosixPath:
    """A name too long for a file, cut short; what was cut off lives on in a hash, so that two stay two."""
    whole = os.fsencode(name.name)
    if len(whole) <= _LONGEST_NAME:
        return name
    suffix = name.suffix if len(os.fsencode(name.suffix)) < 16 else ""
    end = f"~{hashlib.sha256(whole).hexdigest()[:8]}{suffix}"
    start = whole[: _LONGEST_NAME - len(os.fsencode(end))].decode("utf-8", "ignore")
    return name.with_name(start + end)


def _output_names(sources: Sequence[Source]) -> dict[Source, str]:
    """Where each source's picture or video goes, no two the same, also where letter case does not count, and none
    longer than file systems allow."""
    names: dict[Source, str] = {}
    taken: set[str] = set()
    for source in sources:
        name = PurePosixPath(source.name)
        if source.kind in ("video", "live") and name.suffix.lower() != ".mp4":
            name = name.with_name(f"{name.name}.mp4")
        elif source.kind == "image" and name.suffix.lower() not in _KEEP_SUFFIX:
            name = name.with_name(f"{name.name}.png")
        wanted, count = fitting(name), 1
        name = wanted
        while str(name).lower() in taken:
            count += 1
            name = fitting(wanted.with_name(f"{wanted.stem}-{count}{wanted.suffix}"))
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
