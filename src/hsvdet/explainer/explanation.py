"""`explain`: from images and a checkpoint to a folder of pictures."""

# pyright: strict

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from ..data.dataset import DetectionData
from ..detector import Detector
from ..devices import find_device
from ..draw import printable
from ..errors import ConfigError, DataError, SaveError, counted
from ..files import remove_earlier_results, stamp, write_atomically
from ..loading import as_detector
from ..options import check_reading
from ..prediction.sources import Failure, Frame, Source, SourceLike, find_sources, read_frames
from .blocks import draw_blocks
from .capture import watch
from .cells import draw_cells
from .layers import draw_layers
from .queries import draw_queries
from .scene import Drawing, Scene, chosen_subjects, found_subjects, rounded
from .selection import draw_selections
from .sheet import jpeg
from .slots import slot_maps, slots_picture

_MADE_BY = "hsvdet explain"
_TABLE = "explanation.json"
MOST_SUBJECTS = 50  # more would make sheets that no viewer opens

Point = tuple[float, float]


@dataclass(frozen=True)
class Explanation:
    """What `explain` drew. images: of each its "source", "width", "height", "detections", "points", "pictures" (file
    names by what they show) and "facts" (the numbers in them). slots: of the data set, or None. failures: {"source",
    "reason"} of what could not be read."""

    out: str
    model: str
    images: list[dict[str, Any]]
    slots: dict[str, Any] | None
    failures: list[dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def pictures(self) -> list[str]:
        names = [name for image in self.images for name in image["pictures"].values()]
        return names + ([self.slots["picture"]] if self.slots else [])

    def __str__(self) -> str:
        skipped = f", {counted(len(self.failures), 'source')} not read" if self.failures else ""
        pictures, images = counted(len(self.pictures), "picture"), counted(len(self.images), "image")
        lines = [f"{pictures} of {images}{skipped}: {self.out}"]
        return "\n".join(lines + [f"  {name}" for name in self.pictures])


def explain(
    detector: Detector | str | os.PathLike[str],
    sources: SourceLike | Sequence[SourceLike],
    out: str | os.PathLike[str],
    *,
    points: Sequence[Point] = (),
    top: int = 5,
    layer: int | None = None,
    heads: bool = False,
    score: float = 0.25,
    iou: float = 0.7,
    options: Mapping[str, Any] | None = None,
    data: DetectionData | str | os.PathLike[str] | None = None,
    split: str = "val",
    slots: int = 20,
    device: str = "auto",
) -> Explanation:
    """Draw what a detector looked at, into the folder `out` (docs/explain.md shows what there is for each model).

    detector: or the path of a checkpoint, not deployed. sources: images, as `find_sources` takes them; none (an empty
    list) with `data`. points: (x, y) pixels of the upright image, whose attention is shown; by default the centres of
    the best detections, at most `top` (1 to 50) of those that reach `score`, or of all where none does. layer: of
    encoder and decoder, from 1; the last if not given, and where there are fewer. heads: also a picture for each head.
    iou: of the suppression. options: as of `Detector.with_options`. data, split: a data set over which the boxes of
    query slots are mapped, `slots` of them.

    `out` must be new, empty, or made by an earlier `explain`, whose files are then replaced; other files are never.
    What cannot be read is skipped with a warning. The detector is not changed.
    Raises CheckpointError, ConfigError, DataError if no source could be explained, and SaveError.
    """
    if not (1 <= top <= MOST_SUBJECTS and len(points) <= MOST_SUBJECTS):
        raise ConfigError(
            f"A sheet has room for 1 to {MOST_SUBJECTS} detections or points; got {max(top, len(points))}."
        )
    if slots < 1 or (layer is not None and layer < 1):
        raise ConfigError(f"slots and layer expect numbers from 1 on; got {slots} and {layer}.")
    check_reading(score=score, iou=iou)
    given = not isinstance(sources, list | tuple) or bool(sources)
    if not given and data is None:
        raise ConfigError("explain expects images, or a data set for the maps of query slots; got neither.")
    found = find_sources(sources) if given else []
    place = find_device(device)
    detector = as_detector(detector, options=options)
    if detector.folded is not None:
        raise ConfigError(
            "explain expects a detector as it was trained; this one is deployed, its layers are folded together."
            " Explain the one it was made of."
        )
    detector.to(place)
    maps = None if data is None else slot_maps(detector, data, split, score)
    with _Folder(Path(out), detector) as folder:
        names = _stems(found)
        for source in found:
            try:
                image = _read(source)
                scene = _scene(detector, source, image, points, top, heads, score, iou)
                folder.add(source, scene, names[source], _draw(scene, layer))
            except DataError as error:
                folder.failed(source, error)
        if maps is not None:
            facts = {
                "answers": [round(float(share), 4) for share in maps.answers],
                "drawn": maps.busiest(slots),
                "source": maps.source,
            }
            folder.add_slots(slots_picture(maps, detector.name, slots, score), facts)
        return folder.finish()


def _read(source: Source) -> Tensor:
    """Raises DataError."""
    if source.kind in ("video", "live"):
        raise DataError(f"{source} is a video or a camera; explain expects images. Save the frames you mean.")
    frames = read_frames([source])
    first: Frame | Failure = next(iter(frames))
    frames.close()
    if isinstance(first, Failure):
        raise first.error
    if first.number is not None:
        raise DataError(f"{source} is a video; explain expects images. Save the frames you mean.")
    return first.image


def _scene(
    detector: Detector,
    source: Source,
    image: Tensor,
    points: Sequence[Point],
    top: int,
    heads: bool,
    score: float,
    iou: float,
) -> Scene:
    height, width = image.shape[-2:]
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise DataError(
                f"The point {x:g},{y:g} is not in {source}, which is {width} x {height} pixels (width x height)."
            )
    seen = watch(detector, image, str(source), score=score, iou=iou)
    if not (seen.detections.scores > score).any():
        logging.getLogger("hsvdet").warning(
            "%s: no detection reaches the score %g; the surest below it are shown.", source, score
        )
    objects = found_subjects(seen, detector.labels, top)
    subjects = chosen_subjects(points) or objects
    # Of a name that no font can draw, what can be: the rest would be a class number, which it is not.
    shown, _ = printable(PurePosixPath(source.name).name, 0)
    return Scene(shown.removesuffix(" #0"), detector.name, image, seen, subjects, objects, heads)


def _draw(scene: Scene, layer: int | None) -> list[Drawing]:
    drawings = draw_layers(scene, layer) + draw_selections(scene) + draw_blocks(scene) + draw_queries(scene)
    output = scene.seen.output
    if output.dense is not None and output.cells is not None:
        drawings.append(draw_cells(scene, output.dense, output.cells[0]))
    return drawings


def _stems(sources: Iterable[Source]) -> dict[Source, str]:
    """What the pictures of each source begin with, no two the same, also where letter case does not count."""
    stems: dict[Source, str] = {}
    taken: set[str] = set()
    for source in sources:
        name = PurePosixPath(source.name)
        wanted, count = name.with_name(name.stem), 1
        stem = wanted
        while str(stem).lower() in taken:
            count += 1
            stem = wanted.with_name(f"{wanted.name}-{count}")
        taken.add(str(stem).lower())
        stems[source] = str(stem)
    return stems


class _Folder:
    """Within `with`: pictures as they are drawn, each whole or not at all; at the end, also an early one, the table."""

    def __init__(self, folder: Path, detector: Detector):
        self.folder, self.detector = folder, detector
        self.images: list[dict[str, Any]] = []
        self.failures: list[dict[str, str]] = []
        self.errors: list[DataError] = []
        self.slots: dict[str, Any] | None = None
        self.complete = False
        self.written: dict[str, int] = {}
        remove_earlier_results(folder, _TABLE, _MADE_BY)

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        if self.images or self.slots:
            info = {
                "description": _MADE_BY,
                "version": version("hsvdet"),
                "date_created": datetime.now(UTC).isoformat(timespec="seconds"),
                "model": self.detector.name,
            }
            table = {
                "info": info,
                "images": self.images,
                "slots": self.slots,
                "failures": self.failures,
                "complete": self.complete,
                "written": self.written,
            }
            text = json.dumps(table, indent=1, ensure_ascii=False) + "\n"
            self._write(_TABLE, text.encode(errors="backslashreplace"))

    def add(self, source: Source, scene: Scene, stem: str, drawings: Sequence[Drawing]) -> None:
        height, width = scene.seen.view.size
        names = {drawing.name: f"{stem}-{drawing.name}.jpg" for drawing in drawings}
        pictures: dict[str, str] = {}  # those that are written
        row: dict[str, Any] = {
            "source": str(source),
            "width": width,
            "height": height,
            "detections": [
                {
                    "subject": one.number,
                    "what": one.text,
                    "box": rounded(one.box),
                    "prediction": one.prediction,
                }
                for one in scene.objects
            ],
            "points": [rounded(one.point) for one in scene.subjects],
            "pictures": pictures,
            "facts": {drawing.name: drawing.facts for drawing in drawings if drawing.facts},
        }
        self.images.append(row)
        for drawing in drawings:
            self._new(names[drawing.name], jpeg(drawing.picture))
            pictures[drawing.name] = names[drawing.name]

    def add_slots(self, picture: bytes, facts: dict[str, Any]) -> None:
        self._new("slots.png", picture)
        self.slots = {"picture": "slots.png", **facts}

    def failed(self, source: Source, error: DataError) -> None:
        logging.getLogger("hsvdet").warning("skipped: %s", error)
        self.failures.append({"source": str(source), "reason": str(error)})
        self.errors.append(error)

    def finish(self) -> Explanation:
        """Raises DataError where nothing could be explained."""
        if self.errors and not self.images and not self.slots:
            first, count = self.errors[0], len(self.errors)
            raise first if count == 1 else DataError(f"None of {count} sources can be explained. {first}")
        self.complete = True
        return Explanation(str(self.folder), self.detector.name, self.images, self.slots, self.failures)

    def _new(self, name: str, content: bytes) -> None:
        if os.path.lexists(self.folder / name):
            raise ConfigError(
                f"{self.folder / name} is there already and would be replaced. Choose another folder."
            )
        self._write(name, content)

    def _write(self, name: str, content: bytes) -> None:
        try:
            write_atomically(self.folder / name, content)
            self.written[name] = stamp(self.folder / name)
        except OSError as error:
            raise SaveError(f"{self.folder / name} cannot be written: {error.strerror or error}.") from error
