"""What a token selector is to find: maps of where objects are, [B, h, w] float32 in [0, 1] for each selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..boxes import cxcywh_to_xyxy
from ..errors import ConfigError
from ..structures import Selection, Target


class AnchorScores(NamedTuple):
    """scores: [B, A] float32 in [0, 1], what the assignment of a dense head gave each anchor. strides: [A] pixels;
    levels one after another, row by row."""

    scores: Tensor
    strides: Tensor


class Salience(Protocol):
    def __call__(
        self,
        selections: Sequence[Selection],
        targets: Sequence[Target],
        extents: Tensor,
        assigned: AnchorScores | None,
    ) -> list[Tensor]:
        """A map for each selection. extents: [B, 4], left, top, width and height of each picture in pixels of the
        input. assigned: None for a network without a dense head."""
        ...


def gaussian_salience(
    targets: Sequence[Target], extents: Tensor, size: tuple[int, int], stride: int
) -> Tensor:
    """[B, h, w]: per object a Gaussian of 0.35 of its width and height, the largest over objects, and 1 at the cell
    of its centre, so that small and large objects count the same. stride: pixels per cell."""
    x, y = cell_centres(size, stride, extents.device)
    maps = []
    for target, extent in zip(targets, extents, strict=True):
        boxes = target.boxes.to(extents.device) * extent[2:].repeat(2)
        cx, cy = (boxes[:, :2] + extent[:2]).unbind(1)
        w, h = boxes[:, 2:].clamp(min=1.0).unbind(1)
        dx = (x - cx[:, None, None]) / (0.35 * w)[:, None, None]
        dy = (y - cy[:, None, None]) / (0.35 * h)[:, None, None]
        bumps = torch.exp(-0.5 * (dx.square() + dy.square()))  # [N, h, w]
        row, column = (cy / stride).long().clamp(0, size[0] - 1), (cx / stride).long().clamp(0, size[1] - 1)
        bumps[torch.arange(len(boxes), device=extents.device), row, column] = 1.0
        maps.append(bumps.amax(0) if len(boxes) else extents.new_zeros(size))
    return torch.stack(maps)


@dataclass(frozen=True)
class GaussianSalience:
    """`gaussian_salience`, on every map."""

    def __call__(
        self,
        selections: Sequence[Selection],
        targets: Sequence[Target],
        extents: Tensor,
        assigned: AnchorScores | None,
    ) -> list[Tensor]:
        return [
            gaussian_salience(targets, extents, (logits.shape[-2], logits.shape[-1]), stride)
            for logits, stride, *_ in selections
        ]


@dataclass(frozen=True)
class BorderSalience:
    """1 - sqrt(dx^2 + dy^2) / 2 at cells inside a box, with dx = (l - r) / (l + r) and dy alike of the distances to
    its sides; the largest over boxes, 0 outside (Salience-DETR, Hou et al. 2024, arXiv 2403.16131).

    by_level: for selectors of all levels, each of which learns what FCOS (Tian et al. 2019, arXiv 1904.01355) would
    give its level: cells whose largest distance to a side is from 4 to 8 strides, from 0 on the finest map, without
    an end on the coarsest. Without, every object counts on every map: selectors of coarser maps alone would never
    be told of small objects.
    """

    by_level: bool = False

    def __call__(
        self,
        selections: Sequence[Selection],
        targets: Sequence[Target],
        extents: Tensor,
        assigned: AnchorScores | None,
    ) -> list[Tensor]:
        strides = sorted(selection.stride for selection in selections)
        maps = []
        for logits, stride, *_ in selections:
            least = 4.0 * stride if self.by_level and stride > strides[0] else 0.0
            most = 8.0 * stride if self.by_level and stride < strides[-1] else torch.inf
            x, y = cell_centres((logits.shape[-2], logits.shape[-1]), stride, extents.device)
            maps.append(
                torch.stack(
                    [self._of_image(*pair, x, y, least, most) for pair in zip(targets, extents, strict=True)]
                )
            )
        return maps

    @staticmethod
    def _of_image(target: Target, extent: Tensor, x: Tensor, y: Tensor, least: float, most: float) -> Tensor:
        boxes = target.boxes.to(extent.device) * extent[2:].repeat(2) + F.pad(extent[:2], (0, 2))
        first_x, first_y, last_x, last_y = cxcywh_to_xyxy(boxes)[..., None, None].unbind(1)  # [N, 1, 1]
        distances = torch.stack(torch.broadcast_tensors(x - first_x, y - first_y, last_x - x, last_y - y))
        dx = (distances[0] - distances[2]) / (last_x - first_x).clamp(min=1e-6)
        dy = (distances[1] - distances[3]) / (last_y - first_y).clamp(min=1e-6)
        farthest = distances.amax(0)
        inside = (distances.amin(0) > 0) & (farthest > least) & (farthest <= most)  # [N, h, w]
        height = torch.where(inside, 1 - (dx.square() + dy.square()).sqrt() / 2, 0.0)
        return F.pad(height, (0, 0, 0, 0, 1, 0)).amax(0)  # 0 where there is no object


@dataclass(frozen=True)
class AssignedSalience:
    """The highest score that the dense head's assignment gave an anchor of the cell: what the detector itself
    learns to find there.

    by_level: for selectors of all levels; anchors of the map's own level count. Without, those of all levels do:
    of finer ones the highest inside a cell, of a coarser one the score in all the cells that it covers.
    """

    by_level: bool = False

    def __call__(
        self,
        selections: Sequence[Selection],
        targets: Sequence[Target],
        extents: Tensor,
        assigned: AnchorScores | None,
    ) -> list[Tensor]:
        if assigned is None:
            raise ConfigError(
                "salience assigned is what a dense head learns to find, and the network has none."
                " Choose gaussian or border."
            )
        maps = []
        for logits, stride, *_ in selections:
            height, width = logits.shape[-2:]
            found = [torch.zeros_like(logits, dtype=torch.float32)]
            for step in [stride] if self.by_level else assigned.strides.unique().int().tolist():
                size = (height * stride // step, width * stride // step)
                level = assigned.scores[:, assigned.strides == step].unflatten(1, size)[:, None]
                same = F.adaptive_max_pool2d if step < stride else F.interpolate
                found.append(same(level, (height, width))[:, 0])
            maps.append(torch.stack(found).amax(0))
        return maps


# By the name in a recipe.
SALIENCES: dict[str, Salience] = {
    "gaussian": GaussianSalience(),
    "border": BorderSalience(),
    "border-by-level": BorderSalience(by_level=True),
    "assigned": AssignedSalience(),
    "assigned-by-level": AssignedSalience(by_level=True),
}


def cell_centres(size: tuple[int, int], stride: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x [1, 1, w] and y [1, h, 1] in pixels of the input."""
    y, x = ((torch.arange(side, device=device) + 0.5) * stride for side in size)
    return x[None, None], y[None, :, None]
