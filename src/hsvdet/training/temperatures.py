"""Temperatures of a network whose answer is put together from several heads, fitted once its training has ended.

Heads are trained by different losses, so the same score does not mean the same in both until each is divided by a
temperature of its own (Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599). Such a network has
a buffer `temperatures` [heads], `head_shares`, a number for each head, and `heads(images, padding)`: its answer at
temperatures of 1, and the logits of the heads that it is made of, [B, Q, C, heads], NaN where not all of them answer.
Where they do, its score is the product of sigmoid(logit / temperature) ^ share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize

from ..data.dataset import DetectionData
from ..detector import Detector
from ..devices import autocast, move
from ..evaluate.pairing import IGNORED, in_order, match_within_class, pair_up
from ..models import find
from ..postprocess import Thresholds, require_finite
from ..structures import Batch, Detections, Prediction

RANGE = 0.2, 5.0  # beyond it, there are too few answers to learn a temperature from


class Answers(NamedTuple):
    """Of an image, as `val` counts them, at temperatures of 1. logits: [N, heads], of the class answered with."""

    detections: Detections
    logits: np.ndarray


@torch.inference_mode()
def answers_of_heads(
    detector: Detector, net: Any, batches: Iterable[Batch], *, device: torch.device, precision: str
) -> dict[int | str, Answers]:
    """By image id. net: of the detector's kind. Raises NonFiniteError."""
    reading = find(detector.name).reading
    wanted = Thresholds(score=0.0, iou=1.0, max_detections=reading.max_detections, multi_label=False)
    found: dict[int | str, Answers] = {}
    net.eval()
    for batch in batches:
        batch = move(batch, device, detector.preprocess)
        with autocast(device, precision):
            answer, logits = net.heads(batch.images, batch.padding)
        require_finite(answer, [info.path or str(info.id) for info in batch.infos])
        for info, *of_image, heads in zip(batch.infos, *answer, logits, strict=True):
            chosen = reading.chosen(Prediction(*of_image), info.size, wanted)
            said = heads[chosen.rows, chosen.labels].double().cpu().numpy()
            found[info.id] = Answers(Detections(*(part.cpu() for part in chosen[:3])), said)
    return found


def fit_temperatures(
    data: DetectionData, answers: Mapping[int | str, Answers], shares: Sequence[float]
) -> list[float]:
    """Of each head, those that make the score of an answer of all heads the best estimate of whether it is right: of
    the least binary cross entropy. Right is what takes an object at IoU 0.5 in COCO's matching at temperatures of 1;
    regions to ignore are left out. 1 where all such answers are right, or none."""
    pairs = pair_up(data, {image: one.detections for image, one in answers.items()})
    logits: list[np.ndarray] = []
    for record in in_order(data.records):
        of_image = answers[record.id]
        known = (
            slice(None) if record.labelled is None else record.labelled[of_image.detections.labels.numpy()]
        )
        logits.append(of_image.logits[known])
    matches = np.concatenate([match_within_class(pair) for pair in pairs])
    every, right = np.concatenate(logits), matches >= 0
    counted = (matches != IGNORED) & ~np.isnan(every).any(1)
    every, right = every[counted], right[counted]
    if right.all() or not right.any():
        return [1.0] * len(shares)

    def cross_entropy(log_temperatures: np.ndarray) -> float:
        log_score = -(np.logaddexp(0, -every / np.exp(log_temperatures)) @ np.asarray(shares))
        log_wrong = np.log(-np.expm1(log_score.clip(max=-1e-9)))
        return -float(np.where(right, log_score, log_wrong).mean())

    least: Any = minimize(
        cross_entropy,
        np.zeros(len(shares)),
        method="Nelder-Mead",
        bounds=[tuple(np.log(RANGE))] * len(shares),
        options={"xatol": 1e-4, "fatol": 1e-9},
    )
    return np.exp(least.x).tolist()
