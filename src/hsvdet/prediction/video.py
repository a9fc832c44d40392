"""Videos and cameras, by PyAV (the extra `video`): frames in, MP4 out, one frame in memory at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from ..data.pixels import max_pixels
from ..errors import DataError, SaveError
from ..files import PartFile, regular

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .m2ts .mts .wmv .flv .3gp .ogv .mjpeg".split()
)
# The first that the installed FFmpeg can write. H.264 plays everywhere; MPEG-4 part 2 nearly.
_ENCODERS = ("libx264", "libopenh264", "mpeg4")
_CLOCK = 90_000  # ticks per second of the videos we write: any frame rate fits, also a changing one
_PATIENCE = 15.0  # seconds without an answer from a camera on the network


class VideoFrame(NamedTuple):
    """image: [3, H, W] uint8, upright (a phone's rotation applied). seconds: since the first frame."""

    image: Tensor
    seconds: float


def read_video(location: str, name: str, *, live: bool = False) -> Iterator[VideoFrame]:
    """The frames of a file, or with `live` of a camera (/dev/videoN) or a stream (rtsp://, http://, ...).

    name: of the source, in messages. Raises DataError when it cannot be opened, and, after the frames that
    could be read, when it breaks off.
    """
    av = _import_av()
    try:
        if not live:
            regular(location)
        with av.open(location, metadata_errors="replace", **_how_to_open(location, live)) as container:
            if not container.streams.video:
                raise DataError(f"{name} has no video track.")
            track = container.streams.video[0]
            _check_pixels(track, name)
            track.thread_type = "AUTO"
            first: float | None = None
            for number, frame in enumerate(container.decode(track)):
                time = float(frame.time if frame.time is not None else number / (track.average_rate or 30))
                first = time if first is None else first
                _check_pixels(frame, name)  # of another size than the header's
                pixels = frame.to_ndarray(format="rgb24")
                turns = round(frame.rotation / 90) % 4  # counterclockwise, as np.rot90 counts
                if turns:
                    pixels = np.rot90(pixels, turns)
                yield VideoFrame(torch.from_numpy(pixels.copy()).permute(2, 0, 1), time - first)
            if first is None:
                raise DataError(f"{name} has no frame that can be read.")
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"{name} cannot be read as video: {_reason(error)}.") from error


def _check_pixels(picture: Any, name: str) -> None:
    """picture: a track or a frame. Raises DataError before its pixels become memory."""
    limit = max_pixels()
    if picture.width * picture.height > limit:
        raise DataError(
            f"{name} has frames of {picture.width}x{picture.height}, more than {limit:,} pixels."
            " If they are meant to be so large, set the environment variable HSVDET_MAX_PIXELS."
        )


def frame_count(location: str) -> int | None:
    """How many frames a file says it has, from its header; None if it does not say, or cannot be opened."""
    av = _import_av()
    try:
        regular(location)
        with av.open(location, metadata_errors="replace", **_how_to_open(location, live=False)) as container:
            return container.streams.video[0].frames or None if container.streams.video else None
    except (av.error.FFmpegError, OSError):
        return None


class VideoWriter:
    """An MP4 file, written under another name beside `path` and renamed when it is whole (`close`)."""

    def __init__(self, path: Path):
        self.path = path
        self._written: PartFile | None = None
        self._container: Any = None
        self._ticks = -1

    def write(self, pixels: np.ndarray, seconds: float) -> None:
        """pixels: [H, W, 3] uint8 RGB; later frames of another size are scaled to the first one's."""
        av = _import_av()
        try:
            container = self._container or self._open(av, pixels)
            frame = av.VideoFrame.from_ndarray(_even(pixels), format="rgb24")
            self._ticks = max(self._ticks + 1, round(seconds * _CLOCK))
            frame.pts, frame.time_base = self._ticks, Fraction(1, _CLOCK)
            container.mux(self._track.encode(frame))
        except (av.error.FFmpegError, OSError) as error:
            raise SaveError(f"{self.path} cannot be written: {_reason(error)}.") from error

    def close(self) -> None:
        """Finish the file; without a frame written there is none."""
        if self._container is None or self._written is None:
            return
        av = _import_av()
        try:
            self._container.mux(self._track.encode(None))
            self._container.close()
            self._written.keep()
        except (av.error.FFmpegError, OSError) as error:
            self._written.discard()
            raise SaveError(f"{self.path} cannot be written: {_reason(error)}.") from error

    def discard(self) -> None:
        with suppress(Exception):  # closing writes, and may fail as writing did
            self._container.close()
        if self._written is not None:
            self._written.discard()

    def _open(self, av: Any, pixels: np.ndarray) -> Any:
        self._written = PartFile(self.path)
        self._container = av.open(str(self._written.part), "w", format="mp4")
        encoder = next((name for name in _ENCODERS if name in av.codecs_available), None)
        if encoder is None:
            raise SaveError(f"{self.path}: this FFmpeg writes none of {', '.join(_ENCODERS)}.")
        self._track = self._container.add_stream(encoder, rate=30)
        self._track.time_base = self._track.codec_context.time_base = Fraction(1, _CLOCK)
        self._track.height, self._track.width = (side + side % 2 for side in pixels.shape[:2])
        self._track.pix_fmt = "yuv420p"
        if encoder == "libx264":
            self._track.options = {"crf": "20", "preset": "veryfast"}
        else:
            self._track.bit_rate = round(4 * pixels.shape[0] * pixels.shape[1])
        return self._container


def without_password(location: str) -> str:
    """A URL without its user and password."""
    try:
        parts = urlsplit(location)
    except ValueError:  # no URL, and so without a password
        return location
    if parts.scheme and "@" in parts.netloc:
        return parts._replace(netloc=parts.netloc.rsplit("@", 1)[1]).geturl()
    return location


def _even(pixels: np.ndarray) -> np.ndarray:
    """The colour of 4:2:0 video is stored for squares of 2 x 2 pixels: repeat a last odd row or column."""
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(pixels)


def _import_av() -> Any:
    try:
        import av
        import av.error
        import av.logging
    except ImportError as error:
        raise DataError('Video needs PyAV. Install it: pip install "hsvdet[video]"') from error
    av.logging.set_level(av.logging.PANIC)  # what goes wrong is said once, by the exception
    return av


def _how_to_open(location: str, live: bool) -> dict[str, Any]:
    if not live:
        # A playlist in disguise must not make FFmpeg fetch things.
        return {"options": {"protocol_whitelist": "file"}}
    if location.startswith("/dev/"):
        if not sys.platform.startswith("linux"):
            raise DataError(
                "Cameras by number are read on Linux (V4L2). Give a file or a stream's URL instead."
            )
        return {"format": "v4l2"}
    options = {"rtsp_transport": "tcp"} if location.startswith("rtsp") else {}
    return {"timeout": (_PATIENCE, _PATIENCE), "options": options}


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__).rstrip(".")
