"""Names that are meant to be one class: misspelt, or written in two ways."""

# pyright: strict

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from .dataset import DetectionData

_SHORTEST = 4  # letters. Of shorter names too many pairs are words: car and cat, cup and cap.
_LONGEST = 60  # letters. Nobody calls a class so, and all spellings of a long text are many.


class Stranger(NamedTuple):
    """A class that boxes of a split have and a detector trained on another split cannot know.

    path: the first image with such a box. near: a class of the training split that may be meant, or None.
    """

    name: str
    boxes: int
    path: str
    near: str | None
    training: str

    def __str__(self) -> str:
        boxes = "1 box" if self.boxes == 1 else f"{self.boxes:,} boxes"
        meant = f" Did you mean {self.near}?" if self.near else ""
        return (
            f"{boxes} of {self.name!r}, of which {self.training} has none.{meant} Class names must be equal in all"
            " splits: rename it."
        )


def strangers(training: DetectionData, other: DetectionData) -> Iterator[Stranger]:
    """Classes that boxes of `other` have and that are none of `training`'s, or have no box there but are written
    like one that has."""
    learned = boxes_per_class(training)
    for name, number in boxes_per_class(other).items():
        if name in learned:
            continue
        near = next((known for known in learned if written_alike(name, known)), None)
        if near is not None or name not in training.labels:
            label = other.labels.index(name)
            path = next(record.path for record in other.records if label in record.labels)
            yield Stranger(name, number, path, near, training.split)


def boxes_per_class(data: DetectionData) -> dict[str, int]:
    """Of the classes that have any, crowd regions among them."""
    counts = np.zeros(len(data.labels), dtype=np.int64)
    for record in data.records:
        counts += np.bincount(record.labels, minlength=len(data.labels))
    return {name: number for name, number in zip(data.labels, counts.tolist(), strict=True) if number}


def written_alike(first: str, second: str) -> bool:
    """Whether two names differ in capitals, accents, blanks and punctuation alone; by an s at the end; or, where the
    longer has five letters or more, by one letter that is missing or another, or by two that changed places. Numbers
    tell classes apart: `lane 1` and `lane 2` are not alike."""
    a, b = sorted((_plain(first), _plain(second)), key=len)
    if a == b:
        return bool(a)
    if b == f"{a}s":
        return len(a) > 2
    if len(a) < _SHORTEST or len(b) <= _SHORTEST or len(b) > len(a) + 1:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    rest, longer = a[start:], b[start:]
    if any(character.isdecimal() for character in rest[:1] + longer[:1]):
        return False
    if len(a) < len(b):
        return rest == longer[1:]
    return rest[1:] == longer[1:] or (rest[:2] == longer[1::-1] and rest[2:] == longer[2:])


def alike_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs of different names that are `written_alike`, in their order."""
    names = list(dict.fromkeys(names))
    # Names one letter apart become equal when the right letter is left out of each: no need to compare all with all.
    sharing: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        plain = _plain(name)
        # Not without a digit: names that differ in one are not alike, and numbered ones are thousands.
        places = [i for i, letter in enumerate(plain) if not letter.isdecimal()]
        cut = {plain[:i] + plain[i + 1 :] for i in places} if len(plain) <= _LONGEST else set[str]()
        for key in {plain, *cut}:
            sharing[key].append(number)
    pairs = {(i, j) for group in sharing.values() for i in group for j in group if i < j}
    return [(names[i], names[j]) for i, j in sorted(pairs) if written_alike(names[i], names[j])]


def _plain(name: str) -> str:
    """Letters and digits alone, without capitals and accents."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", name.casefold()) if letter.isalnum())
