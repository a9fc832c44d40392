"""What a run leaves to look at: results.csv, run.json, TensorBoard, pictures, and what is in a row of it."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ...draw import draw_detections, draw_grid
from ...errors import SaveError
from ...files import parse_json, regular
from ...preprocess import Preprocess
from ...structures import Batch, Detections
from .state import Row, write_file

_PICTURES = 16


def write_results(path: Path, rows: list[Row]) -> None:
    """One row an epoch; the whole file each time, so that a resumed run neither repeats nor loses one."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({name: _short(value) for name, value in row.items()} for row in rows)
    write_file(path, text.getvalue().encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_file(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """What an earlier part of the run wrote; nothing where there is none, or it is damaged."""
    try:
        content = parse_json(regular(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in ("hsvdet", "torch", "torchvision", "lightning", "numpy", "pillow", "faster-coco-eval"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def write_training_pictures(
    path: Path, batch: Batch, labels: tuple[str, ...], preprocess: Preprocess
) -> None:
    """A contact sheet of the first images of a batch, as the network sees them, with their boxes."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    pictures = []
    padding = batch.padding if batch.padding is not None else [None] * len(batch.images)
    for image, target, padded in list(zip(batch.images, batch.targets, padding, strict=True))[:_PICTURES]:
        pixels = ((image.cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        left = top = 0
        height, width = pixels.shape[-2:]
        if padded is not None:
            rows, columns = (
                (~padded).any(1).nonzero()[:, 0].tolist(),
                (~padded).any(0).nonzero()[:, 0].tolist(),
            )
            top, height, left, width = rows[0], len(rows), columns[0], len(columns)
        cx, cy, w, h = (target.boxes * torch.tensor([width, height, width, height])).unbind(-1)
        xyxy = torch.stack([cx - w / 2 + left, cy - h / 2 + top, cx + w / 2 + left, cy + h / 2 + top], -1)
        boxes = Detections(xyxy, torch.full((len(xyxy),), torch.nan), target.labels)
        pictures.append(draw_detections(pixels, boxes, labels))
    content = io.BytesIO()
    draw_grid(pictures).save(content, format="JPEG", quality=90)
    write_file(path, content.getvalue())


class TensorBoardLog:
    """The TensorBoard log. Rows of a resumed run replace those of the same epochs.

    Written as it comes, by tensorboard's record writer alone: its usual writer has a thread, whose traceback nobody can
    catch when the disk is full.
    """

    def __init__(self, folder: Path, first_epoch: int):
        from tensorboard.compat.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue] made at import
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.folder = folder
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / name).open("ab")
        except OSError as error:
            raise self._unwritten(error) from error
        self._writer = RecordWriter(self._file)
        self._write([{"file_version": "brain.Event:2"}])
        if first_epoch:
            self._write([{"step": first_epoch, "session_log": SessionLog(status=SessionLog.START)}])

    def add(self, row: Row) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] made at import

        self._write(
            [
                {
                    "step": int(row["epoch"]),
                    "summary": Summary(value=[Summary.Value(tag=name, simple_value=value)]),
                }
                for name, value in row.items()
                if name != "epoch" and isinstance(value, int | float) and math.isfinite(value)
            ]
        )

    def close(self) -> None:
        """Never fails: it is called on the way out of a failed run, too."""
        with suppress(OSError):
            self._file.close()

    def _write(self, events: list[dict[str, Any]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] made at import

        try:
            for content in events:
                self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())
            self._file.flush()
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> SaveError:
        return SaveError(
            f"{self.folder} cannot be written: {error.strerror or error}. Make room, then continue with resume."
        )


def losses_of_the_answer(names: Iterable[str]) -> list[str]:
    """Without those of inner decoder layers, proposals and noised queries; the files have all of them."""
    parts = [name.removeprefix("loss/") for name in names if name.startswith("loss/")]
    return [part for part in parts if "/" not in part]


def _short(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
