"""Maps of several sizes, one after another, row by row, as tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .initialise import init_xavier
from .position import cell_positions
from .tokens import cell_padding, content_extents, sampled_padding


class Tokens(NamedTuple):
    """The cells of L maps. features: [B, S, D]. sizes: (h, w) of each map. padding: [B, S] bool or None.

    extents: [B, L, 4] float32, where the picture lies on each map: (left, top, width, height) in cells.
    """

    features: Tensor
    sizes: tuple[tuple[int, int], ...]
    padding: Tensor | None
    extents: Tensor


def flatten_maps(maps: list[Tensor], padding: Tensor | None) -> Tokens:
    """maps: [B, D, h, w] each, finest first. padding: [B, H, W] bool over pixels, or None."""
    sizes = tuple((features.shape[-2], features.shape[-1]) for features in maps)
    cells = [None if padding is None else sampled_padding(padding, size) for size in sizes]
    extents = [content_extents(features, mask) for features, mask in zip(maps, cells, strict=True)]
    return Tokens(
        torch.cat([features.flatten(2).transpose(1, 2) for features in maps], 1),
        sizes,
        None if padding is None else torch.cat([mask.flatten(1) for mask in cells if mask is not None], 1),
        torch.stack(extents, 1),
    )


def tile_maps(
    maps: list[Tensor], padding: Tensor | None, extents: Tensor, strides: tuple[int, ...]
) -> Tokens:
    """As `flatten_maps`, for maps that tile the input: places hold to the fraction of a cell.

    extents: [B, 4] as `content_extents` gives them. A cell is padding when every pixel of it is.
    """
    sizes = tuple((level.shape[-2], level.shape[-1]) for level in maps)
    return Tokens(
        torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1),
        sizes,
        None if padding is None else torch.cat([cell_padding(padding, size).flatten(1) for size in sizes], 1),
        torch.stack([extents / stride for stride in strides], 1),
    )


class _Projection(nn.Sequential):
    """A convolution, group-normalised."""

    HALF_PRECISION = True


class Pyramid(nn.Module):
    """A backbone's maps to `levels` maps of `dim` channels, and these to tokens and their position.

    Each map through a 1x1 convolution; further levels through 3x3 ones of stride 2, the first of them from the
    backbone's last map as it is; all group-normalised (Deformable DETR, arXiv 2010.04159, section 4.1 and
    appendix A.2). The position is the sine of a cell's place in the picture plus what its level has learned.
    temperature, offset: as in `sine_of_map`.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        dim: int,
        levels: int,
        *,
        temperature: float = 10000.0,
        offset: float = 0.5,
    ):
        super().__init__()
        self.temperature, self.offset = temperature, offset
        self.project = nn.ModuleList()
        for level in range(levels):
            if level < len(channels):
                convolution = nn.Conv2d(channels[level], dim, 1)
            else:
                convolution = nn.Conv2d(channels[-1] if level == len(channels) else dim, dim, 3, 2, 1)
            init_xavier(convolution)
            self.project.append(_Projection(convolution, nn.GroupNorm(32, dim)))
        self.levels = nn.Parameter(torch.randn(levels, dim))

    def forward(self, maps: list[Tensor], padding: Tensor | None) -> tuple[Tokens, Tensor]:
        """maps: of the backbone, finest first. padding: [B, H, W] bool over pixels, or None.
        Returns the tokens, and their position [B or 1, S, D]."""
        projected = [project(features) for project, features in zip(self.project, maps, strict=False)]
        coarse = maps[-1]
        for project in self.project[len(maps) :]:
            coarse = project(coarse)
            projected.append(coarse)
        positions = [
            cell_positions(features, padding, self.temperature, self.offset)[0] + level
            for features, level in zip(projected, self.levels, strict=True)
        ]
        return flatten_maps(projected, padding), torch.cat(positions, 1)
