"""Whether two runs of one detector on one image agree: detections one to one, and every difference explained.

A detection that one run has and the other has not is a *tie* where the reference's own answer turns over within the
rounding (ties.py); otherwise it is a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from .matching import Found, Nearness, assign, relative_error
from .ties import Candidates, Rounding, Rules, faults
from .tolerance import Tolerance

_SAME_OBJECT = 0.5  # IoU from which two boxes are about one object: what differs is said of the two together

Kind = Literal["missing", "extra", "class", "box", "score", "order", "not finite", "label", "failed"]


class Difference(NamedTuple):
    """One detection that is not what it should be. reference, artifact: its index in either list, or None.
    size: how much, for sorting the worst first; a score, or 1 - IoU. what: in words."""

    kind: Kind
    reference: int | None
    artifact: int | None
    size: float
    what: str


class Agreement(NamedTuple):
    """One image. pairs: [P, 2] indices (reference, artifact) of detections that agree. ties: how many others, of
    either run, rounding explains. Of all pairs of one object and class: score_error, the largest difference relative
    to the score; overlap, the smallest IoU, boxes under a pixel left out; displacement, the largest shift of a side,
    in pixels of the network's input."""

    reference: Found
    artifact: Found
    pairs: np.ndarray
    ties: int
    differences: tuple[Difference, ...]
    score_error: float
    overlap: float
    displacement: float

    @property
    def severity(self) -> tuple[float, float, float]:
        """For sorting: the largest difference, then the largest error."""
        worst = max((difference.size for difference in self.differences), default=0.0)
        return worst, self.score_error, 1 - self.overlap


def measured(images: Sequence[Sequence[Nearness]], tolerance: Tolerance) -> Rounding:
    """By how much detections differ that are the same within the tolerance, at most; so it is never above it.
    images: the runs of each.

    The image that moves most is left out, if the others have half of the detections: what the network selects inside
    may have turned over there, and what follows from that is more than rounding.
    """
    pairs = np.array([sum(len(near.pairs) for near in runs) for runs in images])
    score = [max(near.largest(near.score_error) for near in runs) for runs in images]
    pixels = [max(near.largest(near.displacement) for near in runs) for runs in images]
    last_bit = float(np.finfo(np.float32).eps)  # is unknown at least
    return Rounding(
        max(_without_the_worst(score, pairs), last_bit),
        min(_without_the_worst(pixels, pairs), tolerance.pixels),
    )


def _without_the_worst(errors: list[float], pairs: np.ndarray) -> float:
    order = np.argsort(errors)
    rest = order[:-1] if 2 * pairs[order[:-1]].sum() >= pairs.sum() else order
    return max((errors[i] for i in rest), default=0.0)


def compare(
    near: Nearness, candidates: Candidates, rules: Rules, rounding: Rounding, labels: tuple[str, ...]
) -> Agreement:
    """Of a reference and a well-formed artifact. candidates, rules: what the reference's detections were made of, and
    how."""
    reference, artifact, pairs = near.reference, near.artifact, near.pairs
    lost = np.setdiff1d(np.arange(len(reference.scores)), pairs[:, 0]).tolist()
    new = np.setdiff1d(np.arange(len(artifact.scores)), pairs[:, 1]).tolist()
    wrong = _Wrong([], [], [])
    if lost or new:
        wrong = _unexplained(near, candidates, rules, rounding, lost)
    same_object = _same_object(near, lost, new, wrong)
    seen = [{pair[side] for pair in same_object} for side in (0, 1)]
    of_candidates = _as_answered(candidates, rules)
    differences = [
        *(_between(near, i, j, labels) for i, j in same_object),
        *(_missing(reference, i, i, labels) for i in wrong.lost if i not in seen[0]),
        *(_missing(of_candidates, candidate, None, labels) for candidate in wrong.left_out),
        *(_extra(artifact, j, labels) for j in wrong.extra if j not in seen[1]),
    ]
    ties = len(set(lost) - seen[0] - set(wrong.lost)) + len(set(new) - seen[1] - set(wrong.extra))
    alike = [*map(tuple, pairs), *((i, j) for i, j in same_object if near.same_class[i, j])]
    return _agreement(near, alike, ties, differences)


def all_ties(near: Nearness) -> Agreement:
    """Where every detection that has no partner is a tie."""
    alone = len(near.reference.scores) + len(near.artifact.scores) - 2 * len(near.pairs)
    return _agreement(near, near.pairs.tolist(), alone, [])


def _agreement(near: Nearness, alike: list, ties: int, differences: list[Difference]) -> Agreement:
    """alike: pairs that errors are measured on."""
    i, j = np.array(alike, int).reshape(-1, 2).T
    return Agreement(
        near.reference,
        near.artifact,
        near.pairs,
        ties,
        tuple(sorted(differences, key=lambda difference: -difference.size)),
        float(near.score_error[i, j].max(initial=0)),
        float(near.overlap[i, j][near.sizeable[i]].min(initial=1)),
        float(near.displacement[i, j].max(initial=0)),
    )


def failure(reference: Found, what: str) -> Agreement:
    """Of an image that the artifact could not be run on."""
    nothing = Found(*(part[:0] for part in reference))
    return without_pairs(reference, nothing, Difference("failed", None, None, np.inf, what))


def without_pairs(reference: Found, artifact: Found, problem: Difference) -> Agreement:
    return Agreement(reference, artifact, np.zeros((0, 2), int), 0, (problem,), np.inf, 0.0, np.inf)


def malformed(found: Found, classes: int) -> Difference | None:
    """What no detector may answer, whatever the reference says."""
    finite = np.isfinite(found.boxes).all(1) & np.isfinite(found.scores)
    if not finite.all():
        i = int(np.flatnonzero(~finite)[0])
        return Difference(
            "not finite", None, i, np.inf, f"{(~finite).sum()} detections are not finite numbers"
        )
    outside = (found.labels < 0) | (found.labels >= classes)
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        return Difference("label", None, i, np.inf, f"label {found.labels[i]} of {classes} classes")
    rising = np.flatnonzero(np.diff(found.scores) > 0)
    if len(rising):
        i = int(rising[0])
        what = f"score {found.scores[i + 1]:.4g} comes after {found.scores[i]:.4g}: not the strongest first"
        return Difference("order", None, i + 1, np.inf, what)
    return None


class _Wrong(NamedTuple):
    """What rounding does not explain. lost: detections of the reference that the artifact should have. extra: those of
    the artifact that it should not. left_out: candidates that the reference did not choose, but would have chosen
    beside what the artifact has."""

    lost: list[int]
    extra: list[int]
    left_out: list[int]


def _unexplained(
    near: Nearness, candidates: Candidates, rules: Rules, rounding: Rounding, lost: list[int]
) -> _Wrong:
    pool = _as_answered(candidates, rules)
    expected, came = (_origins(found, pool, near) for found in (near.reference, near.artifact))
    # What is odd about the reference itself is no fault of the artifact's.
    odd, wrong = (faults(chosen, candidates, rules, rounding) for chosen in (expected, came))
    missing = [candidate for candidate in wrong.missing if candidate not in odd.missing]
    detection = {candidate: i for i, candidate in enumerate(expected.tolist())}
    return _Wrong(
        [i for candidate in missing if (i := detection.get(candidate)) in lost],
        [j for j in wrong.extra if came[j] < 0 or came[j] not in expected[odd.extra]],
        [candidate for candidate in missing if candidate not in detection],
    )


def _as_answered(candidates: Candidates, rules: Rules) -> Found:
    return Found(rules.clip(candidates.boxes), candidates.scores, candidates.labels)


def _origins(found: Found, pool: Found, near: Nearness) -> np.ndarray:
    """[M] which candidate each detection is, within the tolerance and one to one; -1 for one that is none."""
    costs = np.full((len(found.scores), len(pool.scores)), np.inf)
    for i, row in enumerate(costs):
        one = Found(*(part[i : i + 1] for part in found))
        close = relative_error(pool.scores, one.scores) <= near.tolerance.score
        some = np.flatnonzero(close & (pool.labels == one.labels))
        row[some] = Nearness(one, Found(*(part[some] for part in pool)), near.scale, near.tolerance).cost[0]
    some = np.flatnonzero(np.isfinite(costs).any(0))
    origins = np.full(len(costs), -1)
    rows, columns = assign(costs[:, some]).T
    origins[rows] = some[columns]
    return origins


def _same_object(near: Nearness, lost: list[int], new: list[int], wrong: _Wrong) -> list[tuple[int, int]]:
    """Those of `lost` and `new` that are about one object: first where both are wrong, then where one is."""
    unpaired = np.zeros(near.overlap.shape, bool)
    unpaired[np.ix_(lost, new)] = True
    missing = np.isin(np.arange(len(near.reference.scores)), wrong.lost)[:, None]
    extra = np.isin(np.arange(len(near.artifact.scores)), wrong.extra)
    found: list[tuple[int, int]] = []
    for alike in (
        missing & extra & near.same_class,
        missing & extra,
        (missing | extra) & near.same_class,
    ):
        cost = np.where(unpaired & alike & (near.overlap >= _SAME_OBJECT), 1 - near.overlap, np.inf)
        for i, j in assign(cost):
            found.append((int(i), int(j)))
            unpaired[i], unpaired[:, j] = False, False
    return found


def _between(near: Nearness, i: int, j: int, labels: tuple[str, ...]) -> Difference:
    reference, artifact = near.reference, near.artifact
    name = labels[int(reference.labels[i])]
    if not near.same_class[i, j]:
        kind, size = "class", float(max(reference.scores[i], artifact.scores[j]))
        what = f"{name} is called {labels[int(artifact.labels[j])]}"
    elif not near.same_box[i, j]:
        kind, size = "box", float(1 - near.overlap[i, j])
        what = f"{name}: IoU {near.overlap[i, j]:.4f}, a side off by {near.displacement[i, j]:.3g} input px"
    else:
        kind, size = "score", float(abs(reference.scores[i] - artifact.scores[j]))
        what = f"{name}: score {artifact.scores[j]:.4g} instead of {reference.scores[i]:.4g}"
    return Difference(kind, i, j, size, what)


def _missing(of: Found, at: int, reference: int | None, labels: tuple[str, ...]) -> Difference:
    return Difference("missing", reference, None, float(of.scores[at]), _text("missing", of, at, labels))


def _extra(artifact: Found, j: int, labels: tuple[str, ...]) -> Difference:
    return Difference("extra", None, j, float(artifact.scores[j]), _text("too many", artifact, j, labels))


def _text(what: str, found: Found, i: int, labels: tuple[str, ...]) -> str:
    box = ", ".join(f"{side:.1f}" for side in found.boxes[i])
    return f"{what}: {labels[int(found.labels[i])]} {found.scores[i]:.4g} at {box}"
