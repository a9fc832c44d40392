"""Which candidates overlap which, and how: what a learned suppressor compares."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..boxes import cxcywh_to_xyxy, iou
from .precision import without_autocast
from .queries import pick

# IoU. Boxes that overlap less are neither duplicates nor compete for an object.
_LEAST_OVERLAP = 0.1
_SMALLEST = 1e-6  # a side that is 0 has no logarithm

RELATION = 8


class Neighbours(NamedTuple):
    """Of each of Q candidates the K that overlap it most. rows: [B, Q, K] int64. real: [B, Q, K] bool, False where
    fewer overlap. relation: [B, Q, K, RELATION] float32, of the neighbour to the candidate: log(1 + distance of the
    centres / the candidate's sides), and log of the ratios of the sides (Relation-DETR, Hou et al. 2024, arXiv
    2407.11699, equation 3); IoU; by how much its best logit is higher, within 6 and divided by 3; whether it comes
    before in the order of strength; the cosine similarity of their class probabilities."""

    rows: Tensor
    real: Tensor
    relation: Tensor


@torch.no_grad()
def find_neighbours(boxes: Tensor, logits: Tensor, most: int, padding: Tensor | None = None) -> Neighbours:
    """boxes: [B, Q, 4] cxcywh of any unit. logits: [B, Q, C] of classes. most: K. padding: [B, Q] bool, rows that are
    no candidates and nobody's neighbours."""
    with without_autocast(boxes):
        boxes, logits = boxes.float(), logits.float()
        xyxy, scores = cxcywh_to_xyxy(boxes), logits.amax(-1)
        number = torch.arange(boxes.shape[1], device=boxes.device)
        overlaps = iou(xyxy[:, :, None], xyxy[:, None]).masked_fill(number == number[:, None], 0.0)
        if padding is not None:
            overlaps = overlaps.masked_fill(padding[:, None], 0.0)
        # K of them however few candidates there are, so that a graph has no shapes to choose from.
        overlap, index = F.pad(overlaps, (0, most)).topk(most, 2)  # [B, Q, K]
        index = torch.minimum(index, number[-1])
        places = torch.cat([boxes[..., :2], boxes[..., 2:].clamp(min=_SMALLEST)], -1)
        centre, side = places.unsqueeze(2).split(2, -1)
        other_centre, other_side = gathered(places, index).split(2, -1)
        stronger = gathered(scores.unsqueeze(-1), index).squeeze(-1) - scores.unsqueeze(-1)
        # Comparisons instead of a sort: every runtime has them, and ties that quantisation makes stay in order.
        tie = torch.logical_and(stronger == 0, index < number[:, None])
        directions = F.normalize(logits.sigmoid(), dim=-1)
        relation = [
            ((centre - other_centre).abs() / side).log1p(),
            side.log() - other_side.log(),
            overlap.unsqueeze(-1),
            stronger.clamp(-6, 6).unsqueeze(-1) / 3,
            torch.logical_or(stronger > 0, tie).unsqueeze(-1).float(),
            (directions @ directions.mT).gather(2, index).unsqueeze(-1),
        ]
    return Neighbours(index, overlap > _LEAST_OVERLAP, torch.cat(relation, -1))


def gathered(values: Tensor, index: Tensor) -> Tensor:
    """Rows of values [B, Q, D] for each neighbour: index [B, Q, K] to [B, Q, K, D]."""
    return pick(values, index.flatten(1)).unflatten(1, index.shape[1:])
