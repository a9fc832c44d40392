"""What a sound data set hardly ever has: pictures in two splits, boxes on boxes, names of classes that look alike."""

# pyright: strict

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import DataError
from .class_names import alike_pairs, boxes_per_class, strangers
from .dataset import DetectionData, Problem
from .files import digests, display
from .overlap import occlusion, overlaps

_SAME = 0.9  # IoU. A box that was pasted beside its original by mistake has 0.93, two cells on each other 0.83 at most.
_IMBALANCE = 50  # times as many boxes
_SHOWN = 5


def compare_splits(splits: Sequence[DetectionData], contents: bool) -> dict[str, list[Problem]]:
    """Problems by split: pictures that another one has too, and classes that the split `train` does not have.

    contents: compare the files byte for byte, not their paths alone.
    """
    # VOC's trainval is train and val by definition.
    splits = [data for data in splits if data.split != "trainval"]
    problems = _shared_pictures(splits, contents)
    training = next((data for data in splits if data.split == "train"), None)
    for data in splits:
        if training is not None and data is not training:
            problems[data.split] += [
                Problem("error", display(stranger.path, data.root), str(stranger))
                for stranger in strangers(training, data)
            ]
    return problems


def _shared_pictures(splits: Sequence[DetectionData], contents: bool) -> dict[str, list[Problem]]:
    problems: dict[str, list[Problem]] = {data.split: [] for data in splits}
    same: dict[str, bytes] = {}
    if contents and len(splits) > 1:
        try:
            same = digests([record.path for data in splits for record in data.records])
        except DataError as error:
            what = f"{error} Whether pictures are in two splits was seen by their paths alone."
            problems[splits[0].split].append(Problem("warning", str(splits[0].root), what))
    first: dict[bytes | str, tuple[str, str]] = {}
    for data in splits:
        before: dict[str, list[tuple[str, str]]] = {}
        for record in data.records:
            key = same.get(record.path, record.path)
            split, path = first.setdefault(key, (data.split, record.path))
            if split != data.split:
                before.setdefault(split, []).append((record.path, path))
        for split, pairs in before.items():
            path, there = (display(place, data.root) for place in pairs[0])
            name = "" if path == there else f" (there: {there})"
            images = "1 image" if len(pairs) == 1 else f"{len(pairs):,} images"
            what = f"In {split} as well{name}, as {images} of {data.split}: results on it will look too good."
            problems[data.split].append(Problem("warning", path, what))
    return problems


def boxes_twice(data: DetectionData) -> list[Problem]:
    """Boxes, whatever their classes, that lie on another of their image; by image."""
    problems: list[Problem] = []
    for record in data.records:
        boxes, labels = record.boxes[~record.crowd], record.labels[~record.crowd]
        close = np.flatnonzero(occlusion(boxes) > _SAME)
        if not len(close):
            continue
        pairs = close[np.argwhere(np.triu(overlaps(boxes[close], boxes[close]), 1) > _SAME)]
        lower, upper = (data.labels[labels[place]] for place in pairs[0])
        corners = ", ".join(f"{value:g}" for value in boxes[pairs[0, 1]])
        number = len({*pairs[:, 1].tolist()})
        boxes_lie = "1 box lies" if number == 1 else f"{number} boxes lie"
        first = f"the first: {upper} on {lower}, corners {corners}"
        what = f"{boxes_lie} almost exactly on another ({first}): annotated twice?"
        problems.append(Problem("warning", display(record.path, data.root), what))
    return problems


def alike_names(labels: Iterable[str], where: str) -> list[Problem]:
    pairs = [f"{a!r} and {b!r}" for a, b in alike_pairs(labels)]
    if not pairs:
        return []
    more = f" and {len(pairs) - _SHOWN} more pairs" if len(pairs) > _SHOWN else ""
    what = f"Classes are written almost alike: {', '.join(pairs[:_SHOWN])}{more}. Is one class meant?"
    return [Problem("warning", where, what)]


def imbalance(data: DetectionData, where: str) -> list[Problem]:
    """Of the classes that have boxes: far fewer than the most frequent one."""
    boxes = boxes_per_class(data)
    most = max(boxes, key=boxes.__getitem__, default="")
    rare = sorted((name for name in boxes if boxes[most] > _IMBALANCE * boxes[name]), key=boxes.__getitem__)
    if not rare:
        return []
    named = ", ".join(f"{name} {boxes[name]:,}" for name in rare[:_SHOWN])
    more = f" and {len(rare) - _SHOWN} more" if len(rare) > _SHOWN else ""
    what = (
        f"Imbalance: {most} has {boxes[most]:,} boxes, more than {_IMBALANCE} times as many as {named}{more}. Expect"
        " little of what is rare; more images of it help most."
    )
    return [Problem("warning", where, what)]
