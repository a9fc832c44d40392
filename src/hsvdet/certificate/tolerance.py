"""How far an artifact may be from the detector it was made of, by precision, and why. docs/certificate.md has
the measurements behind the numbers."""

from __future__ import annotations

from typing import NamedTuple


class Tolerance(NamedTuple):
    """boxes: whether single detections are judged, or only AP. score: relative error of a score. box: 1 - IoU of a
    box, or instead pixels: shift of any of its sides, in pixels of the network's input (for boxes of few pixels).
    ties: the share of detections that may differ because the detector's own answer turns over within the rounding.
    differing: the share that may differ for no reason known. ap: how much AP may fall on annotated images. own: how
    much it may fall where the detector's own detections stand for annotations. recall: how much recall may fall among
    objects of one size or occlusion, where there are annotations; elsewhere by `own` as well. found: the share of the
    detector's detections that must be there at all, whatever their score. score_bias, box_bias: how far the median
    score and the median side of a box may be off. reason: of the numbers."""

    boxes: bool
    score: float
    box: float
    pixels: float
    ties: float
    differing: float
    ap: float
    own: float
    recall: float
    found: float
    score_bias: float
    box_bias: float
    reason: str


TOLERANCES = {
    "fp32": Tolerance(
        boxes=True, score=0.01, box=0.005, pixels=0.1, ties=0.05, differing=0.0, ap=0.002, own=0.1, recall=0.02,
        found=0.95, score_bias=0.002, box_bias=0.001,
        reason="the same arithmetic in another order: rounding in the last of 24 bits",
    ),
    "bf16": Tolerance(
        boxes=False, score=0.5, box=0.5, pixels=8.0, ties=1.0, differing=0.0, ap=0.01, own=0.3, recall=0.02,
        found=0.6, score_bias=0.05, box_bias=0.005,
        reason="8 bits of mantissa move every score and box a little: what counts is AP",
    ),
    "fp16": Tolerance(
        boxes=True, score=0.05, box=0.02, pixels=0.5, ties=0.1, differing=0.02, ap=0.005, own=0.2, recall=0.02,
        found=0.9, score_bias=0.01, box_bias=0.002,
        reason="11 bits of mantissa through a hundred layers, and tokens selected by nearly equal scores",
    ),
    "int8": Tolerance(
        boxes=False, score=0.5, box=0.5, pixels=8.0, ties=1.0, differing=0.0, ap=0.02, own=0.4, recall=0.02,
        found=0.6, score_bias=0.05, box_bias=0.005,
        reason="256 levels move every score and box a little: what counts is AP",
    ),
}  # fmt: skip
