"""What a certificate says, and how it is written down."""

# pyright: strict

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from ..errors import counted
from ..runtime.seal import seal_of
from .bias import BiasCheck
from .tolerance import Tolerance

if TYPE_CHECKING:
    from .divergence import Divergence
    from .probes import Kind


class ImageCheck(NamedTuple):
    """One image, the worse of two runs: alone, and with all the others. kind: see `Probe`. size: (height, width).
    reference, artifact: how many detections each has; agree: how many of them are one to one within the tolerance;
    ties: how many others rounding explains; differences: what is left, the worst first, in words. score_error,
    overlap, displacement: see `Agreement`."""

    image: str
    kind: Kind
    size: tuple[int, int]
    reference: int
    artifact: int
    agree: int
    ties: int
    differences: tuple[str, ...]
    score_error: float
    overlap: float
    displacement: float


class TieCheck(NamedTuple):
    """Where the detector's own answer turns over within the rounding, so that either answer is right.

    places: detections of either that the other has not for this reason. share: of all detections of both; most: the
    share that is tolerated. score, pixels: the rounding, measured on detections that agree: the largest relative error
    of a score, and the largest shift of a side, in pixels of the network's input."""

    places: int
    share: float
    most: float
    score: float
    pixels: float


class PrecisionCheck(NamedTuple):
    """Average precision of both on the same annotated images. truth: "annotations", or "detector" where there are
    none: then the detector's own detections are what is to be found, and its AP is 1."""

    truth: str
    images: int
    objects: int
    reference: float
    artifact: float

    @property
    def drop(self) -> float:
        return self.reference - self.artifact


class RecallCheck(NamedTuple):
    """How many of the objects of one size or occlusion both find, at one false positive an image and at any score
    (`evaluate.recall.Recalls`), on the images of `PrecisionCheck`.

    by: "size", the area in pixels of the image, or "occlusion", the largest IoU with another object. low, high: the
    area or IoU is in [low, high)."""

    by: Literal["size", "occlusion"]
    low: float
    high: float
    objects: int
    reference: float
    artifact: float
    reference_at_any_score: float
    artifact_at_any_score: float

    @property
    def loss(self) -> float:
        """The larger of the two; NaN where there are no objects."""
        return max(self.reference - self.artifact, self.reference_at_any_score - self.artifact_at_any_score)

    @property
    def which(self) -> str:
        if self.by == "occlusion":
            return f"{self.low:g} to {self.high:g}"
        low, high = math.isqrt(int(self.low)), self.high
        if math.isinf(high):
            return f"{low}² px and more"
        return f"{low}² to {math.isqrt(int(high))}² px" if low else f"under {math.isqrt(int(high))}² px"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """passed: whether the artifact may be used. reasons: why not, in words; empty where it may.

    score: the threshold both were run at; lowered until there was enough to compare. precision: fp32, bf16, fp16
    or int8, as found in the artifact's graph, and the tolerance that belongs to it. recall: of every size and
    occlusion, the smallest first. bias: what is off in one
    direction. diverges: the first layer that leaves eager's path, found only
    where the artifact failed, in formats that can be looked into. largest_float16: the largest value that fp16
    has to hold (65504 is the most it can), and the layer. artifact_sha256: of the artifact without its
    certificate. weights_sha256: of the detector's tensors. signature: of the seal, None where nobody signed
    (runtime/seal.py). Nothing in it depends on the machine but rounding.
    """

    passed: bool
    reasons: tuple[str, ...]
    model: str
    target: str
    precision: str
    tolerance: Tolerance
    score: float
    images_from: str
    images: tuple[ImageCheck, ...]
    ties: TieCheck
    ap: PrecisionCheck
    recall: tuple[RecallCheck, ...]
    bias: BiasCheck
    largest_float16: tuple[str, float] | None
    diverges: Divergence | None
    artifact_sha256: str
    weights_sha256: str
    versions: dict[str, str]
    signature: str | None = None

    @property
    def seal(self) -> str:
        return seal_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Plain values, its seal last; what is not a number is None."""
        content = dataclasses.asdict(self)
        content["tolerance"] = self.tolerance._asdict()
        content["images"] = [check._asdict() for check in self.images]
        content["ties"] = self.ties._asdict()
        content["recall"] = [check._asdict() for check in self.recall]
        content["bias"] = self.bias._asdict()
        content["ap"] = {**self.ap._asdict(), "drop": self.ap.drop}
        content["diverges"] = self.diverges and self.diverges._asdict()
        plain = _plain(content)
        return {**plain, "seal": seal_of(plain)}

    def __str__(self) -> str:
        own = [check for check in self.images if check.kind == "image"]
        others = [check for check in self.images if check.kind != "image"]
        agree = sum(check.agree for check in own)
        against = "annotations" if self.ap.truth == "annotations" else "the detector's own detections"
        lines = [
            f"{self.model} as {self.target} {self.precision}: {'certified' if self.passed else 'NOT certified'}",
            f"{counted(len(own), 'image')} ({self.images_from}), {counted(agree, 'detection')} agree at score"
            f" {self.score:.3g}, {counted(_differences(own), 'difference')}",
            f"{len(others)} more, made of them or of noise, where agreement does not count:"
            f" {counted(_differences(others), 'difference')}",
            f"{self.ties.places} ties, {self.ties.share:.2%} of the detections (at most {self.ties.most:.0%}): either"
            f" answer is right within the rounding, {self.ties.score:.2g} of a score and {self.ties.pixels:.2g} px",
        ]
        if self.images:
            lines.append(
                f"largest score error {max(check.score_error for check in self.images):.2g} of the score,"
                f" smallest IoU {min(check.overlap for check in self.images):.4f}"
            )
        lines.append(
            f"AP on {counted(self.ap.images, 'image')} against {against}: {self.ap.reference:.4f} eager,"
            f" {self.ap.artifact:.4f} artifact"
        )
        for by in ("size", "occlusion"):
            found = [
                f"{check.which} {check.reference:.3f} to {check.artifact:.3f} ({check.objects})"
                for check in self.recall
                if check.by == by and check.objects
            ]
            if found:
                lines.append(f"recall at 1 FP/image by {by}, eager to artifact (objects): {', '.join(found)}")
        lines.append(
            f"in one direction: scores {self.bias.score - 1:+.2%}, boxes {self.bias.box - 1:+.2%}"
            f" ({self.bias.quantity}), medians over {counted(self.bias.objects, 'object')}"
        )
        if self.largest_float16:
            layer, value = self.largest_float16
            lines.append(f"largest float16 value {value:.4g} in {layer} (65504 is the limit)")
        lines += [f"- {reason}" for reason in self.reasons]
        return "\n".join(lines)


def _differences(checks: Sequence[ImageCheck]) -> int:
    return sum(len(check.differences) for check in checks)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
