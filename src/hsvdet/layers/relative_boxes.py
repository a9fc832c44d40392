"""How boxes lie to one another, as a bias of attention between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..boxes import cxcywh_to_xyxy
from .initialise import init_zero_last
from .position import sine_of_coordinates
from .transformer import Mlp

_SMALLEST = 1e-6  # a side that is 0 has no logarithm


def relative_boxes(boxes: Tensor, others: Tensor) -> Tensor:
    """boxes, others: [..., 4] cxcywh of one unit, which broadcast, to [..., 4] float32: how each of `others` lies as
    the box sees it.

    Logarithms of the distances of the centres in sides of the box, plus 1, and of the ratios of the sides
    (Relation-DETR, Hou et al. 2024, arXiv 2407.11699, equation 3).
    """
    (centre, side), (other_centre, other_side) = boxes.float().split(2, -1), others.float().split(2, -1)
    side, other_side = side.clamp(min=_SMALLEST), other_side.clamp(min=_SMALLEST)
    distance = (centre - other_centre).abs() / side
    return torch.cat([distance.log1p(), side.log() - other_side.log()], -1)


def touching(boxes: Tensor) -> Tensor:
    """boxes: [B, Q, 4] cxcywh to [B, Q, Q] bool: which overlap, be it by an edge."""
    left, top, right, bottom = cxcywh_to_xyxy(boxes.float()).unsqueeze(2).unbind(-1)  # [B, Q, 1] each
    beside = torch.logical_and(left <= right.mT, top <= bottom.mT)  # i begins before j ends
    return torch.logical_and(beside, beside.mT)


class RelativeBoxBias(nn.Module):
    """boxes [B, Q, 4] to a bias [B, heads, Q, Q], the same for (i, j) and (j, i); it starts at 0.

    Pairs that do not overlap, which most are, have none: they cannot be duplicates, however they lie. So training
    computes the others alone, in a tenth of the time and memory.
    width: values of a pair, before and between two linear layers; a multiple of 8. The boxes get no gradient.
    """

    def __init__(self, heads: int, width: int = 128):
        super().__init__()
        self.width = width
        self.mlp = init_zero_last(Mlp(width, width, heads, depth=2))

    def forward(self, boxes: Tensor) -> Tensor:
        boxes = boxes.detach()
        near = touching(boxes)
        if self.training:
            image, one, other = near.nonzero(as_tuple=True)
            values = self._of(relative_boxes(boxes[image, one], boxes[image, other]))
            bias = values.new_zeros(*near.shape, values.shape[-1]).index_put((image, one, other), values)
        else:  # in fixed shapes, as a graph needs them
            bias = self._of(relative_boxes(boxes[:, :, None], boxes[:, None])).where(near.unsqueeze(-1), 0.0)
        bias = bias.permute(0, 3, 1, 2)
        return (bias + bias.transpose(-1, -2)) / 2

    def _of(self, relations: Tensor) -> Tensor:
        """[..., 4] to [..., heads]."""
        return self.mlp(sine_of_coordinates(relations, self.width // 4))
