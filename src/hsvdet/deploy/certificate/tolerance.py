"""How far an artifact may be from the detector it was made of, by precision, and why. docs/certificate.md has
the measurements behind the numbers."""

from __future__ import annotations

from typing import NamedTuple


class Tolerance(NamedTuple):
    """score: relative error of a score. box: 1 - IoU of a box, or instead pixels: shift of any of its sides, in
    pixels of the network's input (for boxes of few pixels). matched: the share of detections that must have a
    partner; the others must be ties. ap: how much AP may fall. boxes: whether single detections are judged at
    all, or only AP. reason: of the numbers."""

    score: float
    box: float
    pixels: float
    matched: float
    ap: float
    boxes: bool
    reason: str


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(
        0.02, 0.01, 0.25, 0.9, 0.002, True,
        "the same arithmetic in another order; resized pixels may differ by one grey level of 255",
    ),
    "fp16": Tolerance(
        0.1, 0.05, 1.0, 0.8, 0.005, True,
        "11 bits of mantissa through a hundred layers, and tokens selected by nearly equal scores",
    ),
    "int8": Tolerance(
        0.5, 0.5, 8.0, 0.0, 0.02, False,
        "weights and activations of 256 levels move every box a little: what counts is AP",
    ),
}  # fmt: skip
