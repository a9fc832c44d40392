"""An artifact beside its reference on every image tried, with what rounding may do measured on these same images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .agreement import Agreement, all_ties, compare, failure, malformed, measured, without_pairs
from .matching import Found, Nearness
from .reference import Answer, Artifact, Reference, as_found, attempt
from .ties import Rounding
from .tolerance import TOLERANCES, Tolerance

# What rounding to 8 bits may do to a detection. Of half of them: the rest may lie nearer to a threshold.
_ALIKE = TOLERANCES["fp16"]._replace(score=0.2, box=0.2, pixels=1.0)
# A token that is selected by a hair's breadth is another one in about every second run.
_TRIES = 8


class Comparison(NamedTuple):
    """agreements: of each image, the worse of two runs, alone and among all others. rounding: what was measured."""

    agreements: list[Agreement]
    rounding: Rounding


def compare_all(
    reference: Reference,
    images: Sequence[np.ndarray],
    answers: Sequence[Answer],
    artifact: Artifact,
    score: float,
    tolerance: Tolerance,
) -> Comparison:
    """answers: the reference's to the images. Where boxes are not judged, the two runs must still be alike."""
    alone = [attempt(artifact, [image], score)[0] for image in images]
    together = attempt(artifact, images, score)
    bench = _Bench(reference, score, tolerance)
    runs = [bench.beside(*both) for both in zip(answers, alone, together, strict=True)]
    rounding = measured([run for run in runs if not isinstance(run, Agreement)], tolerance)
    agreements = [
        run if isinstance(run, Agreement) else bench.worse(answer, run, rounding)
        for answer, run in zip(answers, runs, strict=True)
    ]
    for i, run in enumerate(runs):
        if not tolerance.boxes or not agreements[i].differences:
            continue
        if isinstance(run, Agreement) or not bench.turns_over(images[i], answers[i], run, rounding):
            break  # one image that nothing explains is enough, and looking costs time
        agreements[i] = _worst(all_ties(near) for near in run)
    return Comparison(agreements, rounding)


def _worst(agreements: Iterable[Agreement]) -> Agreement:
    return max(agreements, key=lambda agreement: agreement.severity)


class _Bench(NamedTuple):
    """What is the same for all images."""

    reference: Reference
    score: float
    tolerance: Tolerance

    def beside(self, answer: Answer, alone: Any, together: Any) -> tuple[Nearness, ...] | Agreement:
        """Both runs beside the reference, or why they cannot be compared with it."""
        expected, labels = self.reference.detections(answer, self.score), self.reference.detector.labels
        found = []
        for came in (alone, together):
            if isinstance(came, str):
                return failure(expected, came)
            found.append(as_found(came))
            if problem := malformed(found[-1], len(labels)):
                return without_pairs(expected, found[-1], problem)
        if not self.tolerance.boxes and not _alike(found, answer.scale):
            return failure(expected, "alone the artifact answers otherwise than among other images")
        return tuple(Nearness(expected, came, answer.scale, self.tolerance) for came in found)

    def worse(self, answer: Answer, run: tuple[Nearness, ...], rounding: Rounding) -> Agreement:
        return _worst(self.judged(answer, near, rounding) for near in run)

    def judged(self, answer: Answer, near: Nearness, rounding: Rounding) -> Agreement:
        candidates = self.reference.candidates(answer, self.score * (1 - self.tolerance.score))
        rules = self.reference.rules(answer, self.score)
        return compare(near, candidates, rules, rounding, self.reference.detector.labels)

    def turns_over(
        self, image: np.ndarray, answer: Answer, run: tuple[Nearness, ...], rounding: Rounding
    ) -> bool:
        """Whether the detector itself gives the artifact's answers, when its input is moved by so little that its
        detections move by the rounding: a token or a proposal selected by a hair's breadth is then another one, and
        all that follows from it with it."""
        left = list(run)
        for other in self._moved(image, answer, rounding):
            expected = self.reference.detections(other, self.score)
            beside = (Nearness(expected, near.artifact, near.scale, self.tolerance) for near in left)
            judged = [self.judged(other, near, rounding) for near in beside]
            left = [near for near, agreement in zip(left, judged, strict=True) if agreement.differences]
            if not left:
                return True
        return False

    def _moved(self, image: np.ndarray, answer: Answer, rounding: Rounding) -> Iterator[Answer]:
        expected = self.reference.detections(answer, self.score)
        noise, gain = rounding.score, np.inf
        for seed in range(_TRIES):
            other = self.reference.answer(image, noise=noise, seed=seed)
            yield other
            came = self.reference.detections(other, self.score)
            near = Nearness(expected, came, answer.scale, self.tolerance)
            most = near.largest(near.score_error) if 2 * len(near.pairs) > len(came.scores) else 1.0
            gain = min(gain, most / noise)  # the least: what turns over moves more
            noise = rounding.score / max(gain, 1.0)


def _alike(found: Sequence[Found], scale: tuple[float, float]) -> bool:
    """Whether most detections are the same. Where rounding is coarse, not all need be: a batch may sum in another
    order, and a sum then fall to the next level."""
    alone, together = found
    same = len(Nearness(alone, together, scale, _ALIKE).pairs)
    return 2 * same >= max(len(alone.scores), len(together.scores))
