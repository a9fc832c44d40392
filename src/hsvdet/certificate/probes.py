"""The images an artifact is tried on: of the user's data, or drawn scenes, and what users send by mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch

from ..data.dataset import DetectionData, Record
from ..data.pixels import read_pixels
from ..data.scenes import generate_scene
from ..preprocess import resize

_SCENE_SIZES = (
    (320, 480),
    (480, 320),
    (256, 256),
    (271, 403),
    (640, 360),
    (360, 640),
    (199, 301),
    (512, 512),
)


Kind = Literal["image", "changed", "no image"]


class Probe(NamedTuple):
    """name: where the image comes from, without a path of this machine. image: [H, W, 3] uint8 RGB. kind: an image as
    it is, one that was made of such, or none (grey, noise): what is detected in the last is agreement on nothing."""

    name: str
    image: np.ndarray
    kind: Kind


def probes(data: DetectionData | None, count: int) -> list[Probe]:
    """`count` images of `data`, or scenes, and ten more made of them: of odd sides, wide, tall, tiny, very
    small, large, mirrored both ways (so that images of one size share a batch), grey, and noise. The same every
    time."""
    if data is None:
        sizes = [_SCENE_SIZES[i % len(_SCENE_SIZES)] for i in range(count)]
        real = [
            Probe(f"scene {i}", generate_scene(seed=0, index=i, size=size).image, "image")
            for i, size in enumerate(sizes)
        ]
    else:
        real = [
            Probe(str(record.id), read_pixels(record.path), "image")
            for record in _various(data.records, count)
        ]
    return real + _made_of(real)


def spread(records: Sequence[Record], count: int) -> list[Record]:
    """At most `count` of them, evenly spaced."""
    if len(records) <= count:
        return list(records)
    return [records[i * len(records) // count] for i in range(count)]


def _various(records: Sequence[Record], count: int) -> list[Record]:
    """The widest, the tallest, one without objects, and others evenly spaced."""
    sized = [record for record in records if record.size]
    chosen = []
    if sized:
        aspects = [record.size[1] / record.size[0] for record in sized]
        chosen = [sized[int(np.argmax(aspects))], sized[int(np.argmin(aspects))]]
    chosen += [record for record in records if not len(record.labels)][:1]
    kept = {record.id: record for record in [*chosen, *spread(records, count)]}
    return list(kept.values())[:count]


def _made_of(real: Sequence[Probe]) -> list[Probe]:
    def source(i: int) -> Probe:
        return real[i % len(real)]

    def changed(name: str, image: np.ndarray) -> Probe:
        return Probe(name, np.ascontiguousarray(image), "changed")

    def cut(i: int, height: float, width: float) -> Probe:
        name, image, _ = source(i)
        sides = [
            max(1, round(side * share)) | 1 for side, share in zip(image.shape, (height, width), strict=False)
        ]
        top, left = ((side - part) // 2 for side, part in zip(image.shape, sides, strict=False))
        piece = image[max(0, top) :, max(0, left) :][: sides[0], : sides[1]]
        return changed(f"{name}, cut to {piece.shape[0]}x{piece.shape[1]}", piece)

    def scaled(i: int, longer: int) -> Probe:
        name, image, _ = source(i)
        ratio = longer / max(image.shape[:2])
        size = [max(1, round(side * ratio)) for side in image.shape[:2]]
        pixels = resize(torch.from_numpy(image).permute(2, 0, 1), size, antialias=True)
        return changed(f"{name}, resized to {size[0]}x{size[1]}", pixels.permute(1, 2, 0).numpy())

    def mirrored(i: int, axis: int) -> Probe:
        name, image, _ = source(i)
        return changed(f"{name}, {('upside down', 'mirrored')[axis]}", np.flip(image, axis))

    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    return [
        cut(0, 0.8, 0.9),
        cut(1, 0.35, 1.0),
        cut(2, 1.0, 0.35),
        scaled(3, 37),
        scaled(4, 9),
        scaled(5, 2011),
        mirrored(0, 0),
        mirrored(0, 1),
        Probe("grey", np.full((97, 64, 3), 128, np.uint8), "no image"),
        Probe("noise", noise, "no image"),
    ]
