"""How boxes lie to one another, as a bias of attention between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .initialise import start_still
from .position import sine_of_coordinates
from .transformer import Mlp

_SMALLEST = 1e-6  # a side that is 0 has no logarithm


def relative_boxes(boxes: Tensor) -> Tensor:
    """boxes: [B, Q, 4] cxcywh of any unit to [B, Q, Q, 4] float32: how box j lies as box i sees it.

    Logarithms of the distances of the centres in sides of i, plus 1, and of the ratios of the sides
    (Relation-DETR, Hou et al. 2024, arXiv 2407.11699, equation 3).
    """
    centre, side = boxes.float().split(2, -1)
    side = side.clamp(min=_SMALLEST)
    distance = (centre[:, :, None] - centre[:, None]).abs() / side[:, :, None]
    ratio = side[:, :, None].log() - side[:, None].log()
    return torch.cat([distance.log1p(), ratio], -1)


class RelativeBoxBias(nn.Module):
    """boxes [B, Q, 4] to a bias [B, heads, Q, Q], the same for (i, j) and (j, i); it starts at 0.

    width: values of a pair, before and between two linear layers; a multiple of 8. The boxes get no gradient.
    """

    def __init__(self, heads: int, width: int = 128):
        super().__init__()
        self.width = width
        self.mlp = start_still(Mlp(width, width, heads, depth=2))

    def forward(self, boxes: Tensor) -> Tensor:
        relations = sine_of_coordinates(relative_boxes(boxes.detach()), self.width // 4)
        bias = self.mlp(relations).permute(0, 3, 1, 2)
        return (bias + bias.transpose(-1, -2)) / 2
