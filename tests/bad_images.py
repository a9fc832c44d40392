"""Image files of every unusual kind, made on the spot."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

# Four quarters, so that every rotation and reflection can be told apart.
QUARTERS = np.zeros((16, 24, 3), dtype=np.uint8)
QUARTERS[:8, :12], QUARTERS[:8, 12:] = (250, 10, 10), (10, 250, 10)
QUARTERS[8:, :12], QUARTERS[8:, 12:] = (10, 10, 250), (250, 250, 10)

# What was done to the upright picture before it was stored, by EXIF orientation.
STORED = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, 1),
    7: lambda image: np.rot90(image.transpose(1, 0, 2), 2),
    8: lambda image: np.rot90(image, -1),
}


def rotated(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](QUARTERS)))
    if path.suffix == ".tif":
        stored.save(path, tiffinfo={0x0112: orientation})
    else:
        stored.save(path, exif=exif)
    return path


def truncated(path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def animation(path: Path) -> Path:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    return path


def bomb(path: Path, side: int = 14_000) -> Path:
    """A sound PNG of side x side grey pixels in under a megabyte: rows of zeros compress well."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    compressor = zlib.compressobj(1)
    rows = b"".join(compressor.compress(bytes(1 + side)) for _ in range(side)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    return path
