"""Whether detections are what the reference's candidates give under another rounding.

From candidates to detections there are decisions: which score is over the threshold, which class of a prediction is
its best, which of two overlapping boxes is stronger, whether they overlap too much, and which are the strongest of
too many. Where a margin is within the rounding, either outcome is right, and one that falls the other way can turn
over those after it. But no chain has to be followed, since the right outcome can be told by looking at it: greedy
suppression keeps the one set whose members do not overlap too much while a stronger member overlaps each candidate
outside. So a set is right under some rounding if that holds with its members' scores raised by the rounding, those
of all others lowered, and overlaps moved in the set's favour: one change of the scores that serves all of its
decisions at once. What cannot be had that way is a fault, however small.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Candidates(NamedTuple):
    """What the reference chose its detections from: every pair of a prediction and a class above the threshold,
    before suppression. boxes: [C, 4] xyxy original pixels, also beyond the image. scores: [C]. labels: [C]. query:
    [C], whose box it is."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    query: np.ndarray


class Rules(NamedTuple):
    """How candidates become detections. score: threshold. iou: above it the weaker of two boxes of a class is
    suppressed; None for no suppression. max_detections: of an image. one_class: a query answers with its best class
    only. size: (height, width) of the image; a box beyond it may suppress others, but is no detection. scale: (y, x)
    pixels of the network's input per pixel of the image."""

    score: float
    iou: float | None
    max_detections: int
    one_class: bool
    size: tuple[int, int]
    scale: tuple[float, float]

    def clip(self, boxes: np.ndarray) -> np.ndarray:
        """[C, 4] cut off at the edges of the image."""
        height, width = self.size
        return boxes.clip(0, np.array([width, height] * 2, boxes.dtype))


class Rounding(NamedTuple):
    """By how much two sound runs differ. score: relative to the larger of two scores. pixels: shift of a side of a
    box, in pixels of the network's input."""

    score: float
    pixels: float


class Faults(NamedTuple):
    """missing: candidates that should be among the detections, the strongest first. extra: numbers of detections
    that should not."""

    missing: list[int]
    extra: list[int]


def faults(chosen: np.ndarray, candidates: Candidates, rules: Rules, rounding: Rounding) -> Faults:
    """What is wrong with detections that no rounding explains.

    chosen: [M] the candidate that each detection is, -1 for one that is none.
    """
    decisions = _Decisions(candidates, rules, rounding)
    right = decisions.possible(decisions.alike(chosen[chosen >= 0]))
    unseen = decisions.unseen(right)
    right = [own for own in right if not decisions.suppressed(own, unseen.surely, surely=True).all()]
    missing = decisions.left_out(right, unseen.possibly, full=len(chosen) >= rules.max_detections)
    extra = ~np.isin(chosen, [own[0] for own in right])
    return Faults(missing, np.flatnonzero(extra).tolist())


class _Unseen(NamedTuple):
    """Candidates that suppress others, and are no detections because they lie beyond the image: under any rounding,
    and under some."""

    surely: np.ndarray
    possibly: np.ndarray


class _Decisions:
    """low, high: [C] between which each score lies. shift: the most by which a side is off. boxes: in pixels of the
    network's input; seen: what the edges of the image leave of them. inside: [C] how much of a box is in the image, the
    narrower way; negative for one beyond it. answer: [C] the same number for candidates of which only one can be
    answered. best: [C] bool, whether it may be that one."""

    def __init__(self, candidates: Candidates, rules: Rules, rounding: Rounding):
        self.labels, self.rules = candidates.labels, rules
        self.scores = candidates.scores.astype(np.float64)
        self.low, self.high = self.scores * (1 - rounding.score), self.scores * (1 + rounding.score)
        y, x = rules.scale
        self.boxes = candidates.boxes.astype(np.float64) * (x, y, x, y)
        last_bit = float(np.finfo(np.float32).eps) * float(np.abs(self.boxes).max(initial=0))
        self.shift = max(rounding.pixels, last_bit)
        self.seen = rules.clip(candidates.boxes).astype(np.float64) * (x, y, x, y)
        end = np.minimum(self.boxes[:, 2:], np.array(rules.size[::-1]) * (x, y))
        self.inside = (end - self.boxes[:, :2].clip(min=0)).min(1, initial=np.inf)
        self.answer = candidates.query if rules.one_class else np.arange(len(self.scores))
        strongest = np.zeros(self.answer.max(initial=-1) + 1)
        np.maximum.at(strongest, self.answer, self.low)
        self.best = self.high >= strongest[self.answer]

    def alike(self, chosen: np.ndarray) -> list[np.ndarray]:
        """What each detection may have been made of: the candidate chosen, and others that look the same because both
        were cut off at an edge of the image."""
        result = []
        for one in chosen:
            same = self.labels == self.labels[one]
            same &= (self.low <= self.high[one]) & (self.high >= self.low[one])
            same &= (np.abs(self.seen - self.seen[one]) <= 2 * self.shift).all(1)
            same &= (np.abs(self.boxes - self.boxes[one]) > 2 * self.shift).any(1)
            result.append(np.append(one, np.setdiff1d(np.flatnonzero(same), chosen)))
        return result

    def possible(self, chosen: list[np.ndarray]) -> list[np.ndarray]:
        """Without those that cannot be detections, or not beside a stronger one. chosen: what each may be."""
        chosen = sorted(chosen, key=lambda own: -self.scores[own[0]])
        first = np.array([own[0] for own in chosen], int)
        clash = self._either(first, first)
        visible = self.best & (self.high > self.rules.score) & (self.inside > -2 * self.shift)
        right: list[int] = []
        for i, own in enumerate(chosen):
            rivals = (chosen[j] for j in right if clash[i, j])
            if visible[own].any() and not any(self._either(own, rival).all() for rival in rivals):
                right.append(i)
        return [chosen[i] for i in right]

    def _either(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """[A, B] bool, whether only one of both can be a detection."""
        return (self.answer[a][:, None] == self.answer[b]) | self._overlap(a, b, surely=True)

    def unseen(self, chosen: list[np.ndarray]) -> _Unseen:
        """Beside these, strongest first."""
        every = _joined(chosen)
        known = _joined([own for own in chosen if len(own) == 1])
        surely = possibly = _joined([])
        if self.rules.iou is None:
            return _Unseen(surely, possibly)
        hidden = self.best & (self.high > self.rules.score) & (self.inside <= 2 * self.shift)
        hidden = np.setdiff1d(np.flatnonzero(hidden), every)
        certain = (self.low > self.rules.score) & (self.inside <= -2 * self.shift)
        certain &= np.bincount(self.answer[self.best], minlength=1)[self.answer] == 1
        for one in hidden[np.argsort(-self.scores[hidden], kind="stable")][:, None]:
            if self.suppressed(one, np.append(known, surely), surely=True)[0]:
                continue
            if certain[one[0]] and not self.suppressed(one, np.append(every, possibly))[0]:
                surely = np.append(surely, one)
            possibly = np.append(possibly, one)
        return _Unseen(surely, possibly)

    def left_out(self, chosen: list[np.ndarray], unseen: np.ndarray, full: bool) -> list[int]:
        """Candidates that should be there beside those chosen, the strongest first."""
        by = np.append(_joined(chosen), unseen)
        edge = self.rules.score
        if full:
            edge = max(edge, min((self.high[own].max() for own in chosen), default=0.0))
        # A prediction has answered also where it may have answered too weakly, or beyond the image.
        silent = np.flatnonzero(self.best & ((self.low <= edge) | (self.inside <= 2 * self.shift)))
        # Where something else may have suppressed what was chosen, it may have been one that looks alike.
        instead = _joined([own for own in chosen if self.suppressed(own[:1], by)[0]])
        others = np.flatnonzero(self.best)
        others = self._not_answered(others, _joined([*(own[:1] for own in chosen), silent, instead]))
        others = self._not_answered(others, others[self.suppressed(others, by)])
        others = others[np.argsort(-self.scores[others], kind="stable")]
        missing: list[int] = []
        while len(others) and len(missing) < self.rules.max_detections:
            # The strongest is missing, and what it would have suppressed is not.
            first, others = others[:1], others[1:]
            missing += first.tolist()
            others = self._not_answered(others, np.append(first, others[self.suppressed(others, first)]))
        return missing

    def _not_answered(self, others: np.ndarray, by: np.ndarray) -> np.ndarray:
        return others[~np.isin(self.answer[others], self.answer[by])]

    def suppressed(self, others: np.ndarray, by: np.ndarray, *, surely: bool = False) -> np.ndarray:
        """[O] bool, whether one of `by` suppresses it: surely, or possibly."""
        if surely:
            stronger = self.low[by] > self.high[others][:, None]
        else:
            stronger = self.high[by] >= self.low[others][:, None]
        another = others[:, None] != by
        return np.any(another & stronger & self._overlap(others, by, surely=surely), axis=1)

    def _overlap(self, a: np.ndarray, b: np.ndarray, *, surely: bool) -> np.ndarray:
        """[A, B] bool, whether two of a class overlap too much: surely, or possibly."""
        if self.rules.iou is None:
            return np.zeros((len(a), len(b)), bool)
        first, second = self.boxes[a][:, None], self.boxes[b]
        off = -2 * self.shift if surely else 2 * self.shift
        common = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
        intersection = (common + off).clip(min=0).prod(-1)
        area, other = ((box[..., 2:] - box[..., :2] - off).clip(min=0).prod(-1) for box in (first, second))
        too_much = intersection > self.rules.iou * (area + other - intersection)
        return too_much & (self.labels[a][:, None] == self.labels[b])


def _joined(indices: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, int), *indices])
