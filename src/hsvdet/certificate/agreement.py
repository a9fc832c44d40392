"""Whether two runs of one detector on one image agree: detections one to one, and every difference explained.

Rounding moves scores and boxes a little, and three decisions turn a little into a detection more or less: the
score threshold, suppression (which of two overlapping boxes is stronger; whether they overlap too much), and the
largest number of detections. A detection that is missing or too many is a *tie* only where one of these was decided by
less than the tolerance, as the reference's own candidates show; otherwise it is a difference.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..data.overlap import overlaps
from .tolerance import Tolerance

_SAME_OBJECT = 0.5  # IoU from which two boxes are about one object: what differs is said of the two together

Kind = Literal["missing", "extra", "class", "box", "score", "order", "not finite", "label", "failed"]


class Found(NamedTuple):
    """Detections of one image as numpy arrays. boxes: [N, 4] xyxy original pixels, scores: [N], labels: [N]."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Candidates(NamedTuple):
    """What the reference chose its detections from: every pair of a query and a class above the threshold, before
    suppression. As `Found`; query: [M], whose box it is."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    query: np.ndarray


class Rules(NamedTuple):
    """How candidates become detections. score: threshold. iou: above it the weaker of two boxes of a class is
    suppressed; None for no suppression. max_detections: of an image. one_class: a query answers with its best class
    only. scale: (y, x) pixels of the network's input per pixel of the image."""

    score: float
    iou: float | None
    max_detections: int
    one_class: bool
    scale: tuple[float, float]


class Difference(NamedTuple):
    """One detection that is not what it should be. reference, artifact: its index in either list, or None.
    size: how much, for sorting the worst first; a score, or 1 - IoU. what: in words."""

    kind: Kind
    reference: int | None
    artifact: int | None
    size: float
    what: str


class Agreement(NamedTuple):
    """One image. pairs: [P, 2] indices (reference, artifact) of detections that agree. ties: how many others were
    decided by less than the tolerance. Of all pairs of one object and class: score_error, the largest difference
    relative to the score; overlap, the smallest IoU, boxes under a pixel left out; displacement, the largest shift
    of a side, in pixels of the network's input."""

    reference: Found
    artifact: Found
    pairs: np.ndarray
    ties: int
    differences: tuple[Difference, ...]
    score_error: float
    overlap: float
    displacement: float

    @property
    def badness(self) -> tuple[float, float, float]:
        """For sorting: the largest difference, then the largest error."""
        worst = max((difference.size for difference in self.differences), default=0.0)
        return worst, self.score_error, 1 - self.overlap


def compare(
    reference: Found,
    artifact: Found,
    candidates: Candidates,
    rules: Rules,
    tolerance: Tolerance,
    labels: tuple[str, ...],
) -> Agreement:
    """Match the artifact's detections with the reference's, both run with `rules`."""
    problems = _malformed(artifact, len(labels))
    if problems:
        return _without_pairs(reference, artifact, problems)
    near = _Nearness(reference, artifact, rules, tolerance)
    pairs = near.agreeing()
    lost = sorted(set(range(len(reference.scores))) - set(pairs[:, 0].tolist()))
    new = sorted(set(range(len(artifact.scores))) - set(pairs[:, 1].tolist()))
    lost_ties, new_ties = _ties(reference, artifact, candidates, rules, tolerance, lost, new)
    ties = len(lost_ties) + len(new_ties)
    lost = [i for i in lost if i not in lost_ties]
    new = [i for i in new if i not in new_ties]
    same_object = near.same_object(lost, new)
    differences = [near.describe(i, j, labels) for i, j in same_object]
    taken = {i for i, _ in same_object}, {j for _, j in same_object}
    differences += [
        Difference("missing", i, None, float(reference.scores[i]), _text("missing", reference, i, labels))
        for i in lost
        if i not in taken[0]
    ]
    differences += [
        Difference("extra", None, j, float(artifact.scores[j]), _text("too many", artifact, j, labels))
        for j in new
        if j not in taken[1]
    ]
    measured = [*map(tuple, pairs), *((i, j) for i, j in same_object if near.same_class[i, j])]
    i, j = np.array(measured, int).reshape(-1, 2).T
    return Agreement(
        reference,
        artifact,
        pairs,
        ties,
        tuple(sorted(differences, key=lambda difference: -difference.size)),
        float(near.score_error[i, j].max(initial=0)),
        float(near.overlap[i, j][near.sizeable[i]].min(initial=1)),
        float(near.displacement[i, j].max(initial=0)),
    )


def failure(reference: Found, what: str) -> Agreement:
    """Of an image that the artifact could not be run on."""
    nothing = Found(*(part[:0] for part in reference))
    return _without_pairs(reference, nothing, (Difference("failed", None, None, np.inf, what),))


def _without_pairs(reference: Found, artifact: Found, problems: tuple[Difference, ...]) -> Agreement:
    return Agreement(reference, artifact, np.zeros((0, 2), int), 0, problems, np.inf, 0.0, np.inf)


def _malformed(found: Found, classes: int) -> tuple[Difference, ...]:
    """What no detector may answer, whatever the reference says."""
    finite = np.isfinite(found.boxes).all(1) & np.isfinite(found.scores)
    if not finite.all():
        i = int(np.flatnonzero(~finite)[0])
        return (
            Difference("not finite", None, i, np.inf, f"{(~finite).sum()} detections are not finite numbers"),
        )
    outside = (found.labels < 0) | (found.labels >= classes)
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        what = f"label {found.labels[i]} of {classes} classes"
        return (Difference("label", None, i, np.inf, what),)
    rising = np.flatnonzero(np.diff(found.scores) > 0)
    if len(rising):
        i = int(rising[0])
        what = f"score {found.scores[i + 1]:.4g} comes after {found.scores[i]:.4g}: not the strongest first"
        return (Difference("order", None, i + 1, np.inf, what),)
    return ()


class _Nearness:
    """All detections of the reference [N] against all of the artifact [M]: matrices [N, M]."""

    def __init__(self, reference: Found, artifact: Found, rules: Rules, tolerance: Tolerance):
        self.reference, self.artifact, self.tolerance = reference, artifact, tolerance
        a, b = reference.boxes.astype(np.float64), artifact.boxes.astype(np.float64)
        self.overlap = overlaps(a, b)
        y, x = rules.scale
        self.displacement = (np.abs(a[:, None] - b) * (x, y, x, y)).max(-1, initial=0)
        self.sizeable = ((a[:, 2:] - a[:, :2]) * (x, y) >= 1).all(1)
        self.score_error = relative_error(reference.scores[:, None], artifact.scores)
        self.same_class = reference.labels[:, None] == artifact.labels
        self.same_box = (self.overlap >= 1 - tolerance.box) | (self.displacement <= tolerance.pixels)

    def agreeing(self) -> np.ndarray:
        """The largest one to one matching within the tolerance, of these the closest."""
        allowed = self.same_class & self.same_box & (self.score_error <= self.tolerance.score)
        cost = (1 - self.overlap) + self.score_error
        return _assign(np.where(allowed, cost, np.inf))

    def same_object(self, lost: list[int], new: list[int]) -> list[tuple[int, int]]:
        """Those of `lost` and `new` that are about one object, of the same class before any other."""
        if not lost or not new:
            return []
        overlap = self.overlap[np.ix_(lost, new)]
        other_class = ~self.same_class[np.ix_(lost, new)]
        cost = np.where(overlap >= _SAME_OBJECT, 1 - overlap + other_class, np.inf)
        return [(lost[i], new[j]) for i, j in _assign(cost)]

    def describe(self, i: int, j: int, labels: tuple[str, ...]) -> Difference:
        reference, artifact = self.reference, self.artifact
        name = labels[int(reference.labels[i])]
        if not self.same_class[i, j]:
            kind, size = "class", float(max(reference.scores[i], artifact.scores[j]))
            what = f"{name} is called {labels[int(artifact.labels[j])]}"
        elif not self.same_box[i, j]:
            kind, size = "box", float(1 - self.overlap[i, j])
            what = (
                f"{name}: IoU {self.overlap[i, j]:.4f}, a side off by {self.displacement[i, j]:.3g} input px"
            )
        else:
            kind, size = "score", float(abs(reference.scores[i] - artifact.scores[j]))
            what = f"{name}: score {artifact.scores[j]:.4g} instead of {reference.scores[i]:.4g}"
        return Difference(kind, i, j, size, what)


def relative_error(expected: np.ndarray, came: np.ndarray) -> np.ndarray:
    """|difference| over the larger of two scores: an error e of the logit gives at most e, at any confidence."""
    return np.abs(expected - came) / np.maximum(np.maximum(expected, came), np.finfo(np.float32).tiny)


def _assign(cost: np.ndarray) -> np.ndarray:
    """[K, 2] rows and columns: as many finite pairs as possible, then the cheapest. cost: below 3, or inf."""
    if not np.isfinite(cost).any():
        return np.zeros((0, 2), int)
    forbidden = 4.0 * (min(cost.shape) + 1)
    rows, columns = linear_sum_assignment(np.where(np.isfinite(cost), cost, forbidden))
    kept = np.isfinite(cost[rows, columns])
    return np.stack([rows[kept], columns[kept]], 1)


def _ties(
    reference: Found,
    artifact: Found,
    candidates: Candidates,
    rules: Rules,
    tolerance: Tolerance,
    lost: list[int],
    new: list[int],
) -> tuple[set[int], set[int]]:
    """Which of the reference's detections `lost`, and of the artifact's `new`, another rounding explains."""
    slack = tolerance.score
    real = _origins(artifact, candidates, rules, tolerance, new)  # candidates of `new` that there really are

    def at_the_edge(score: float, other: Found) -> bool:
        cut = rules.score
        if len(other.scores) >= rules.max_detections:
            cut = max(cut, float(other.scores[-1]))
        return score * (1 - slack) <= cut

    lost_ties = {i for i in lost if at_the_edge(reference.scores[i], artifact)}
    new_ties = {j for j in real if at_the_edge(artifact.scores[j], reference)}
    if rules.one_class:
        best: dict[int, float] = {}
        second: dict[int, float] = {}
        for query, score in zip(candidates.query.tolist(), candidates.scores.tolist(), strict=True):
            if score > best.get(query, 0.0):
                best[query], second[query] = score, best.get(query, 0.0)
            elif score > second.get(query, 0.0):
                second[query] = score
        torn = {query for query in best if second.get(query, 0.0) >= best[query] * (1 - 2 * slack)}
        own = _origins(reference, candidates, rules, tolerance, lost)
        lost_ties |= {i for i, found in own.items() if candidates.query[found] in torn}
        new_ties |= {j for j, found in real.items() if candidates.query[found] in torn}
    if rules.iou is None:
        return lost_ties, new_ties

    margin = 2 * tolerance.box
    boxes, scores, labels = reference
    mutual = overlaps(boxes, artifact.boxes)
    same_class = labels[:, None] == artifact.labels
    while True:
        before = len(lost_ties) + len(new_ties)
        for j in set(real) - new_ties:
            score = artifact.scores[j]
            # All that keep this box from being a detection of the reference: each must have been a near thing.
            above = np.flatnonzero(
                same_class[:, j] & (mutual[:, j] > rules.iou - margin) & (scores >= score * (1 - slack))
            )
            if len(above) and all(
                mutual[i, j] <= rules.iou + margin
                or i in lost_ties
                or (i in lost and scores[i] <= score * (1 + 2 * slack))
                for i in above
            ):
                new_ties.add(j)
        for i in set(lost) - lost_ties:
            rivals = np.flatnonzero(
                same_class[i]
                & (mutual[i] > rules.iou - margin)
                & (artifact.scores >= scores[i] * (1 - 2 * slack))
            )
            # A rival both have did not suppress it in the reference: only an overlap at the edge explains it.
            if any(j in real if j in new else mutual[i, j] <= rules.iou + margin for j in rivals):
                lost_ties.add(i)
        if len(lost_ties) + len(new_ties) == before:
            return lost_ties, new_ties


def _origins(
    found: Found, candidates: Candidates, rules: Rules, tolerance: Tolerance, which: list[int]
) -> dict[int, int]:
    """For those of `which` that are a candidate of the reference, within the tolerance: the closest."""
    origins = {}
    y, x = rules.scale
    for i in which:
        near = np.flatnonzero(
            (candidates.labels == found.labels[i])
            & (relative_error(candidates.scores, found.scores[i]) <= tolerance.score)
        )
        if not len(near):
            continue
        box = found.boxes[i].astype(np.float64)
        boxes = candidates.boxes[near].astype(np.float64)
        overlap = overlaps(box[None], boxes)[0]
        shift = (np.abs(boxes - box) * (x, y, x, y)).max(1)
        same = (overlap >= 1 - tolerance.box) | (shift <= tolerance.pixels)
        if same.any():
            origins[i] = int(near[np.where(same, overlap, -1).argmax()])
    return origins


def _text(what: str, found: Found, i: int, labels: tuple[str, ...]) -> str:
    box = ", ".join(f"{side:.1f}" for side in found.boxes[i])
    return f"{what}: {labels[int(found.labels[i])]} {found.scores[i]:.4g} at {box}"
