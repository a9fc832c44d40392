"""Soft-NMS (Bodla et al. 2017, arXiv 1704.04503, algorithm 1), to compare with; no model is read with it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..boxes import iou
from ..postprocess import Candidates

Decay = Callable[[Tensor], Tensor]  # IoU with the box just chosen to what scores are multiplied with


def linear(threshold: float) -> Decay:
    return lambda overlap: torch.where(overlap >= threshold, 1 - overlap, 1.0)


def gaussian(sigma: float) -> Decay:
    return lambda overlap: (-overlap.square() / sigma).exp()


def soft_nms(found: Candidates, decay: Decay, *, score: float, most: int) -> Candidates:
    """At most `most` of the candidates, each with the score that those chosen before it, of its class, have left it;
    strongest first, none at or below `score`."""
    scores, chosen, left = found.scores.clone(), [], []
    while len(chosen) < min(most, len(scores)):
        best = int(scores.argmax())
        if scores[best] <= score:
            break
        chosen.append(best)
        left.append(scores[best].clone())
        factors = decay(iou(found.boxes[best], found.boxes))
        scores *= torch.where(found.labels == found.labels[best], factors, 1.0)
        scores[best] = -torch.inf
    kept = Candidates(*(part[chosen] for part in found))
    return kept._replace(scores=torch.stack(left) if left else scores[:0])
