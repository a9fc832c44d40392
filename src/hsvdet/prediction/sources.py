"""What `predict` looks at: files, folders, patterns, cameras and URLs, to frames in order."""

# pyright: strict

from __future__ import annotations

import glob
import logging
import os
import re
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatch
from os import PathLike
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from torch import Tensor

from ..bounds import LARGEST_IMAGE_DOWNLOAD, LARGEST_VIDEO_DOWNLOAD
from ..data.files import walk
from ..data.images import read_image
from ..data.pixels import IMAGE_SUFFIXES, image_size
from ..errors import DataError
from .transfer import download, opened
from .video import VIDEO_SUFFIXES, read_video, without_password

SourceLike = str | int | PathLike[str]

_STREAMED = ("multipart/x-mixed-replace", "application/vnd.apple.mpegurl", "application/x-mpegurl")
_AT_ONCE = 4  # images that are decoded while the network works
_PIXELS_AT_ONCE = 64_000_000  # of these, however few they are


class Source(NamedTuple):
    """One image, video, camera or stream, not opened yet.

    location: a path or URL. name: for the results: the path inside the folder it was found in, or the last
    part of the location. kind: "url" is known as image or video only when it is fetched; "live" never ends.
    """

    location: str
    name: str
    kind: Literal["image", "video", "url", "live"]

    def __str__(self) -> str:
        return without_password(self.location)


class Frame(NamedTuple):
    """image: [3, H, W] uint8 RGB, upright. number (from 0) and seconds (from the first frame on): of videos
    and cameras, None for images."""

    image: Tensor
    source: Source
    number: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        return str(self.source) if self.number is None else f"{self.source}, frame {self.number}"


class Failure(NamedTuple):
    """A source that could not be read, or not to its end."""

    source: Source
    error: DataError


def find_sources(sources: SourceLike | Sequence[SourceLike]) -> list[Source]:
    """Images and videos in the order they are given, those of a folder or a pattern sorted as people count.

    sources: one or several of: an image or video file of any name; a folder, searched with all below it
    (hidden names left out, link loops entered once); a pattern with *, ? or ** that names files; the number
    of a camera; a URL (http and https: image, video or stream; rtsp, rtmp, udp, srt: stream). In folders and
    patterns, files with the suffix of an image or a video count. With several sources, names of a folder's
    files begin with the folder's name.

    Raises DataError when a source does not exist or has no image and no video in it.
    """
    if isinstance(sources, str | int | PathLike):
        sources = [sources]
    if not sources:
        raise DataError(
            "A source is expected: an image, video, folder, pattern, camera number or URL; got none."
        )
    texts = [str(source) if isinstance(source, int) else os.fspath(source) for source in sources]
    if not all(map(str.strip, texts)):
        raise DataError(f"A source is empty text, as an unset variable gives it. {_EXPECTED}")
    return [found for text in texts for found in _expand(text, len(texts) > 1)]


def read_frames(sources: Iterable[Source]) -> Generator[Frame | Failure, None, None]:
    """The frames of all sources in order; a Failure in the place of what cannot be read. Images are decoded
    a few ahead, in threads."""
    upcoming = iter(sources)
    waiting: deque[tuple[Source, int, Future[Tensor] | None]] = deque()
    ahead = 0  # pixels
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while True:
            while (
                len(waiting) < _AT_ONCE
                and ahead < _PIXELS_AT_ONCE
                and (source := next(upcoming, None)) is not None
            ):
                reading = pool.submit(read_image, source.location) if source.kind == "image" else None
                waiting.append((source, _pixels(source), reading))
                ahead += waiting[-1][1]
            if not waiting:
                return
            source, pixels, reading = waiting.popleft()
            ahead -= pixels
            try:
                if reading is not None:
                    yield Frame(reading.result(), source)
                else:
                    yield from _open(source)
            except DataError as error:
                yield Failure(source, error)
            except Exception as error:
                # Of a library that has met a file it does not expect: the other sources still count.
                what = f"{type(error).__name__}: {error}".rstrip(".: ")
                yield Failure(source, DataError(f"{source} cannot be read: unexpected {what}."))


def _pixels(source: Source) -> int:
    """Of an image, from its header; 0 of what is not known before it is opened."""
    try:
        height, width = image_size(source.location) if source.kind == "image" else (0, 0)
    except Exception:  # said when it is read
        return 0
    return height * width


def _open(source: Source) -> Iterator[Frame]:
    if source.kind == "url":
        yield from _fetch(source)
    else:
        yield from _video(source, source.location, live=source.kind == "live")


def _video(source: Source, location: str, live: bool = False) -> Iterator[Frame]:
    for number, (image, seconds) in enumerate(read_video(location, str(source), live=live)):
        yield Frame(image, source, number, seconds)


def _expand(text: str, several: bool) -> list[Source]:
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme:
        try:
            urlsplit(text)
        except ValueError as error:
            raise DataError(f"{text} is not a URL: {error}.") from None
    if scheme in ("http", "https"):
        return [Source(text, _name_of_url(text), "url")]
    if scheme in ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "tcp", "srt", "rtp"):
        return [Source(text, _name_of_url(text), "live")]
    if scheme:
        raise DataError(f"{text}: URLs expect http, https, rtsp, rtmp, udp, tcp, srt or rtp; got {scheme}.")
    path = Path(text).expanduser()
    exists = os.path.exists(path)  # False also for what cannot be a path
    if text.isdecimal() and len(text) < 10 and not exists:
        return [_camera(int(text))]
    if os.path.isdir(path):
        inside = path.name or path.resolve().name if several else ""
        return _in_folder(path, inside)
    if exists:
        if re.fullmatch(r"/dev/video\d+", str(path)):
            return [_camera(int(path.name.removeprefix("video")))]
        return [Source(str(path), path.name, _kind(path))]
    if glob.has_magic(text):
        return _by_pattern(str(path))
    raise DataError(f"{text} does not exist. {_EXPECTED}")


_EXPECTED = "An image, video, folder, pattern, camera number or URL was expected."


def _camera(number: int) -> Source:
    device = f"/dev/video{number}"
    if not os.path.exists(device):
        there = sorted(glob.glob("/dev/video*"), key=_as_counted)
        raise DataError(
            f"camera {number} expects the device {device}, which does not exist;"
            f" cameras here: {', '.join(there) or 'none'}."
        )
    return Source(device, f"camera-{number}", "live")


def _kind(path: Path) -> Literal["image", "video"]:
    """By the suffix; of other files by their content."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return "video"
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        try:
            image_size(path)
        except DataError:
            return "video"
    return "image"


def _in_folder(folder: Path, inside: str) -> list[Source]:
    paths = sorted(walk(folder, IMAGE_SUFFIXES | VIDEO_SUFFIXES, [], _skip), key=_as_counted)
    if not paths:
        raise DataError(
            f"{folder} has no image and no video in it or below. Looked for"
            f" {', '.join(sorted(IMAGE_SUFFIXES))}; {', '.join(sorted(VIDEO_SUFFIXES))}."
        )
    return [
        Source(
            path,
            (PurePosixPath(inside) / Path(path).relative_to(folder).as_posix()).as_posix(),
            _kind(Path(path)),
        )
        for path in paths
    ]


def _skip(error: OSError) -> None:
    logging.getLogger("hsvdet").warning("skipped: %s cannot be read: %s.", error.filename, error.strerror)


def _by_pattern(pattern: str) -> list[Source]:
    parts = Path(pattern).parts
    spelled_out = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    folder = Path(*parts[:spelled_out])
    if "**" in parts and ".." not in parts:
        # By `walk`: glob enters links that lead back again and again.
        below = (Path(path) for path in walk(folder, IMAGE_SUFFIXES | VIDEO_SUFFIXES, [], _skip))
        found = [path for path in below if _fits(path.relative_to(folder).parts, parts[spelled_out:])]
    else:
        found = [Path(path) for path in glob.glob(pattern)]
    paths = [
        path for path in found if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and path.is_file()
    ]
    if not paths:
        what = f"names {len(found)} files or folders, but no image and no video" if found else "names no file"
        raise DataError(f"The pattern {pattern} {what}.")
    # Names begin below the last folder that is spelled out.
    paths.sort(key=lambda path: _as_counted(str(path)))
    return [Source(str(path), _inner(path.relative_to(folder)), _kind(path)) for path in paths]


def _fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path is one of a pattern's, part by part; ** stands for any number of folders."""
    if not pattern:
        return not names
    first, *rest = pattern
    if first == "**":
        return _fits(names, rest) or (bool(names) and _fits(names[1:], pattern))
    return bool(names) and fnmatch(names[0], first) and _fits(names[1:], rest)


def _inner(path: Path) -> str:
    """Without '..', as patterns may have it: names are of places inside the results."""
    parts = [part for part in Path(os.path.normpath(path)).parts if part != ".."]
    return PurePosixPath(*parts).as_posix()


def _as_counted(path: str) -> list[Any]:
    """A sorting key by which frame2 comes before frame10, and folders stay together."""
    return [
        [
            (0, int(part), "") if part.isdecimal() else (1, 0, part)
            for part in re.split(r"(\d+)", name)
            if part
        ]
        for name in path.split(os.sep)
    ]


def _name_of_url(url: str) -> str:
    parts = urlsplit(url)
    name = unquote(PurePosixPath(parts.path).name) or parts.hostname or "stream"
    return re.sub(r"[\x00-\x1f/\\:]", "_", name).lstrip(".") or "stream"


def _fetch(source: Source) -> Iterator[Frame]:
    """An image or a video behind a URL, through a temporary file; what never ends is read as a stream."""
    name = str(source)
    with NamedTemporaryFile(prefix="hsvdet-") as file:
        with opened(source.location, name) as response:
            kind = response.headers.get_content_type()
            suffix = PurePosixPath(urlsplit(str(response.url)).path).suffix.lower()
            if kind == "text/html":
                raise DataError(f"{name} is a web page; the URL of an image or a video was expected.")
            streamed = kind in _STREAMED or suffix == ".m3u8"
            image = kind.startswith("image/") or suffix in IMAGE_SUFFIXES
            if not streamed:
                download(response, file, name, LARGEST_IMAGE_DOWNLOAD if image else LARGEST_VIDEO_DOWNLOAD)
        if streamed:
            yield from _video(source, source.location, live=True)
        elif image or _kind(Path(file.name)) == "image":
            yield Frame(_read_named(file.name, source), source)
        else:
            yield from _video(source, file.name)


def _read_named(path: str, source: Source) -> Tensor:
    """Errors name the URL instead of the temporary file."""
    try:
        return read_image(path)
    except DataError as error:
        raise DataError(str(error).replace(path, str(source))) from error
