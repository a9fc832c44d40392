"""A detector on images, videos and cameras: frame by frame (`stream`), or into a folder of pictures and JSON
(`predict`)."""

# pyright: strict

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ..certificate.hashes import weights_sha256
from ..detector import Detector
from ..devices import find_device
from ..errors import DataError, HsvdetError, SaveError, counted
from ..loading import as_detector
from ..options import check_reading
from ..preprocess import Preprocess, Size
from ..progress import progress as shown_progress
from ..runtime.detector import ArtifactDetector, is_artifact, refuse, require_artifact
from ..structures import Detections
from .results import ResultFolder
from .sources import Failure, Frame, Source, SourceLike, find_sources, read_frames
from .video import frame_count

_PIXELS_AT_ONCE = 64_000_000  # of frames that wait for the network, however large `batch` is


@dataclass(frozen=True)
class PredictionReport:
    """What `predict` did. images: with frames of videos. objects: per class. failures: {"source", "reason"} of
    what could not be read. seconds: from the first file opened to the last written. settings: how the network was
    run, in words. complete: False where Ctrl-C ended it. resumed: how many images an earlier run had done."""

    out: str
    images: int
    objects: dict[str, int]
    failures: list[dict[str, str]]
    seconds: float
    settings: str
    complete: bool
    resumed: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "images_per_second": self.images_per_second}

    @property
    def images_per_second(self) -> float:
        return round((self.images - self.resumed) / max(self.seconds, 1e-3), 2)

    def __repr__(self) -> str:  # what a notebook shows
        return str(self)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.objects.items() if count)
        skipped = f", {counted(len(self.failures), 'source')} not read" if self.failures else ""
        return (
            f"{counted(self.images, 'image')}, {counted(sum(self.objects.values()), 'object')}"
            f"{f' ({counts})' if counts else ''}{skipped},"
            f" {self.images_per_second} images/s\nPictures, detections.json and images.json: {self.out}"
        )


def stream(
    detector: Detector | str | PathLike[str],
    sources: SourceLike | Sequence[SourceLike],
    *,
    score: float = 0.25,
    iou: float = 0.7,
    max_detections: int | None = None,
    batch: int = 16,
    size: Size | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    require_certificate: bool = False,
    trusted_key: str | PathLike[str] | None = None,
    failed: Callable[[Failure], None] | None = None,
) -> Iterator[tuple[Frame, Detections]]:
    """Detections frame by frame, for videos of any length: only a batch of frames is in memory.

    detector: or the path of a checkpoint, or of an artifact of `hsvdet export`, for which size, options, device,
    precision and compile are settled. sources: see `find_sources`. score: weaker detections are left out.
    iou: of the suppression. max_detections: of an image, the model's own number if not given. batch: images at a
    time; one from a camera. size: (height, width) of the network's input, instead of the detector's own.
    options: as of `Detector.with_options`. precision, compile: as of `Detector.accelerate`, which every detector goes
    through; what it chose is logged in one line. require_certificate, trusted_key: of an artifact, as of
    `runtime.load`. failed: called with each source that cannot be read; by default it is logged as a warning.
    Raises CheckpointError, ConfigError, DataError for a source that does not exist, and NonFiniteError naming an image
    of which the network made NaN or infinity.
    """
    found = find_sources(sources)
    ready = _ready(detector, size, options, device, precision, compile, require_certificate, trusted_key)
    detect = _detecting(ready, score, iou, max_detections, batch)
    return _in_batches(found, detect, batch, failed or _warn)


def predict(
    detector: Detector | str | PathLike[str],
    sources: SourceLike | Sequence[SourceLike],
    out: str | PathLike[str],
    *,
    score: float = 0.25,
    iou: float = 0.7,
    max_detections: int | None = None,
    batch: int = 16,
    size: Size | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    require_certificate: bool = False,
    trusted_key: str | PathLike[str] | None = None,
    pictures: bool = True,
    resume: bool = False,
    progress: bool = False,
) -> PredictionReport:
    """Detections of all sources into the folder `out`. Parameters as of `stream`.

    detections.json is COCO's results format, a list of {"image_id", "category_id", "bbox": [left, top, width,
    height], "score"}, with the category ids of the data set the detector was trained on, and boxes in pixels
    of the upright image. images.json is COCO's image table: for each image id the file, its size, its picture,
    and frame number and seconds in a video; the categories; and "failures". An image id is the number in the
    file's name where all sources are images named by different numbers (as COCO's own are), else 1, 2, 3, ...

    pictures: also draw. Pictures keep their path inside the folder they come from; where two have the same,
    one gets "-2". JPEG and PNG stay what they are, other images become PNG, videos MP4 (without sound). `out`
    must be new, empty, or made by an earlier `predict`, whose files are then replaced; other files are never.
    resume: continue a run of the same command that was cut off, at the first source that is not done: what was found
    is in unfinished.jsonl frame by frame, so that neither a kill nor an error loses it. A video is read again from its
    start. progress: show a bar on stderr.

    What cannot be read is skipped with a warning and counted. Ctrl-C is the way to end a camera's video; in
    other runs it stops them. In both, and where the network or the disk fails, what was found until then is written
    first. A source that is given twice is looked at once. Raises DataError if no source could be read, SaveError if
    `out` cannot be written, ConfigError where there is nothing to resume, and as `stream`.
    """
    folder = Path(out)
    found = list(dict.fromkeys(s for s in find_sources(sources) if not _is_inside(s, folder)))
    if not found:
        raise DataError(
            f"All sources are in {folder}, where the results go. Choose another folder for the results."
        )
    ready = _ready(detector, size, options, device, precision, compile, require_certificate, trusted_key)
    detect = _detecting(ready, score, iou, max_detections, batch)
    settings = {
        "detector": weights_sha256(ready) if isinstance(ready, Detector) else ready.runner.sha256,
        "score": score,
        "iou": iou,
        "max_detections": max_detections,
        "size": list(ready.preprocess.size) if isinstance(ready, Detector) else None,
        "options": ready.changeable() or None if isinstance(ready, Detector) else None,
        "precision": ready.settings.precision if isinstance(ready, Detector) else None,
        "pictures": pictures,
    }
    first: list[DataError] = []
    asked = ready.preprocess if isinstance(ready, Detector) and size is not None else None
    start = time.perf_counter()
    stopped: KeyboardInterrupt | None = None
    with ResultFolder(folder, ready, found, pictures, settings, resume) as results:
        kept = results.images

        def failed(failure: Failure) -> None:
            first.append(failure.error)
            results.failed(failure)
            _warn(failure)

        left = found[results.done :]
        # Closed before the folder is: threads that decode ahead end with it.
        with (
            shown_progress("predict", _count(left), shown=progress) as advance,
            closing(_in_batches(left, detect, batch, failed)) as answers,
        ):
            try:
                for frame, detections in answers:
                    if asked is not None:
                        _warn_across(asked, frame)
                        asked = None
                    results.add(frame, detections)
                    advance(1)
            except KeyboardInterrupt as interrupt:
                stopped = interrupt
            except SaveError:
                raise
            except HsvdetError:
                results.finish(complete=False)
                raise
        results.finish(complete=stopped is None)
        images, failures = results.images, results.failures
    if stopped is not None and not any(source.kind == "live" for source in found):
        raise stopped
    if not images and first:
        raise (
            first[0]
            if len(first) == 1
            else DataError(f"None of {len(first)} sources can be read. {first[0]}")
        )
    return PredictionReport(
        out=str(folder),
        images=images,
        objects={label: results.counts[i] for i, label in enumerate(ready.labels)},
        failures=failures,
        seconds=round(time.perf_counter() - start, 3),
        settings=ready.describe(),
        complete=stopped is None,
        resumed=kept,
    )


Detect = Callable[[list[Frame]], list[Detections]]


def _ready(
    detector: Detector | str | PathLike[str],
    size: Size | None,
    options: Mapping[str, Any] | None,
    device: str,
    precision: str,
    compile: bool,
    require_certificate: bool,
    trusted_key: str | PathLike[str] | None,
) -> Detector | ArtifactDetector:
    if is_artifact(detector):
        refuse(
            detector, size=size is not None, options=bool(options), device=device not in ("auto", "cpu"),
            precision=precision != "auto", compile=compile,
        )  # fmt: skip
        artifact = ArtifactDetector(
            detector, require_certificate=require_certificate, trusted_key=trusted_key
        )
        logging.getLogger("hsvdet").info("predicting by %s", artifact.describe())
        return artifact
    require_artifact(require_certificate, trusted_key)
    detector = as_detector(detector, size, options).to(find_device(device))
    detector = detector.accelerate(precision, compile=compile)
    logging.getLogger("hsvdet").info("predicting on %s", detector.describe())
    return detector


def _detecting(
    detector: Detector | ArtifactDetector, score: float, iou: float, max_detections: int | None, batch: int
) -> Detect:
    check_reading(score=score, iou=iou, max_detections=max_detections, batch=batch)

    def detect(frames: list[Frame]) -> list[Detections]:
        images, names = [frame.image for frame in frames], [str(frame) for frame in frames]
        return detector.detect(
            images, score=score, iou=iou, max_detections=max_detections, batch=batch, names=names
        )

    return detect


def _in_batches(
    sources: Sequence[Source], detect: Detect, batch: int, failed: Callable[[Failure], None]
) -> Generator[tuple[Frame, Detections], None, None]:
    waiting: list[Frame] = []
    pixels = 0
    with closing(read_frames(sources)) as frames:
        for frame in frames:
            if isinstance(frame, Failure):
                if any(other.source == frame.source for other in waiting):  # a video that breaks off
                    yield from zip(waiting, detect(waiting), strict=True)
                    waiting, pixels = [], 0
                failed(frame)
                continue
            waiting.append(frame)
            pixels += frame.image[0].numel()
            if len(waiting) >= batch or pixels >= _PIXELS_AT_ONCE or frame.source.kind == "live":
                yield from zip(waiting, detect(waiting), strict=True)
                waiting, pixels = [], 0
    if waiting:
        yield from zip(waiting, detect(waiting), strict=True)


def _warn_across(preprocess: Preprocess, frame: Frame) -> None:
    """Of the first one: the others are not known yet."""
    height, width = frame.image.shape[-2:]
    across = preprocess.across([(height, width)])
    if across is not None:
        logging.getLogger("hsvdet").warning("%s: %s", frame, across)


def _warn(failure: Failure) -> None:
    logging.getLogger("hsvdet").warning("skipped: %s", failure.error)


def _is_inside(source: Source, folder: Path) -> bool:
    """Whether it could be a picture of an earlier run."""
    return source.kind in ("image", "video") and Path(source.location).absolute().is_relative_to(
        folder.absolute()
    )


def _count(sources: Sequence[Source]) -> int | None:
    """How many frames there will be; None where that cannot be known."""
    counts = [1 if source.kind == "image" else _frames_of(source) for source in sources]
    return None if None in counts else sum(filter(None, counts))


def _frames_of(source: Source) -> int | None:
    try:
        return frame_count(source.location) if source.kind == "video" else None
    except DataError:  # without PyAV; said when the video is opened
        return None
