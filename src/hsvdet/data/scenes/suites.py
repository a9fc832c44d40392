"""Series of scenes, each made for one question; they share sprites, backdrops and placement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...errors import ConfigError, did_you_mean
from .sprites import KINDS

LABELS: tuple[str, ...] = tuple(KINDS)


def _own(kinds: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return kinds


def _common(kinds: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """1 for objects of a kind that no other kind of the scene outnumbers."""
    counts = np.bincount(kinds, minlength=len(LABELS))
    return (counts[kinds] == counts.max(initial=0)).astype(np.int64)


def _companion_left(kinds: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """1 for objects whose nearest other one of their kind is further left; by the middles of the boxes."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    apart = np.square(middle[:, None] - middle).sum(-1)
    apart[(kinds[:, None] != kinds) | np.eye(len(kinds), dtype=bool)] = np.inf
    nearest = apart.argmin(1) if len(kinds) else kinds
    found = np.isfinite(apart.min(1, initial=np.inf))
    return (found & (middle[nearest, 0] < middle[:, 0])).astype(np.int64)


@dataclass(frozen=True)
class Suite:
    """labels: class names. label: kinds [N] (indices of LABELS) and boxes [N, 4] of a scene to labels [N].

    planned: how many of OCCLUSION_BINS, from the first, share the boxes. person: the height of a person in the
    foreground in pixels, None for one that the number of objects leaves room for. favourite: the chance that an
    object is of the scene's one favourite kind, over an even choice. fewest: objects of a scene, at least.
    """

    labels: tuple[str, ...] = LABELS
    label: Callable[[np.ndarray, np.ndarray], np.ndarray] = _own
    planned: int = 5
    person: float | None = None
    favourite: float = 0.0
    fewest: int = 1


SUITES: dict[str, Suite] = {
    # Does occlusion cost? Appearance tells the class.
    "crowd": Suite(),
    # Does the network see the whole? Appearance tells nothing of the class: it says whether the object's kind is the
    # most common of the scene.
    "majority": Suite(("rare", "common"), _common, planned=2, favourite=0.4, fewest=8),
    # Does it see others, and where they are? Whether the nearest other object of the kind is further left.
    "companion": Suite(("other", "companion left"), _companion_left, planned=2, fewest=8),
    # Six in ten objects are under 16 pixels (the root of their box's area).
    "small": Suite(person=28.0),
}


def find_suite(name: str) -> Suite:
    """Raises ConfigError for a name that is none."""
    if name not in SUITES:
        raise ConfigError(
            f"suite expects one of {', '.join(SUITES)}; got {name!r}.{did_you_mean(name, SUITES)}"
        )
    return SUITES[name]
