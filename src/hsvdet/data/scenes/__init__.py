"""The built-in data set: crowded scenes of drawn objects, generated from a seed, nothing downloaded.

Six classes that differ in shape and texture, not in colour, stand on a ground in perspective; nearer ones
hide farther ones. How much boxes overlap is planned, so that detectors can be compared by occlusion. Other suites ask
whether a network sees the whole, where others are, and what is small.
"""

# pyright: strict

from typing import TypedDict

from .compose import OCCLUSION_BINS, Scene, default_objects, generate_scene
from .suites import LABELS, SUITES, Suite
from .write import write_scenes


class _Demo(TypedDict):
    train: int
    val: int
    test: int
    size: tuple[int, int]
    objects: tuple[int, int]


# A data set small enough to draw and train on in minutes on a CPU: `write_scenes(out, **DEMO)`.
DEMO: _Demo = {"train": 400, "val": 100, "test": 16, "size": (256, 256), "objects": (6, 14)}

__all__ = [
    "DEMO",
    "LABELS",
    "OCCLUSION_BINS",
    "SUITES",
    "Scene",
    "Suite",
    "default_objects",
    "generate_scene",
    "write_scenes",
]
