"""The encoder of RT-DETR (Zhao, Lv et al. 2024, arXiv 2304.08069, section 4.2 and figure 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv import ConvNorm
from .position import sincos_2d
from .tokens import sampled_padding
from .transformer import EncoderLayer


class HybridEncoder(nn.Module):
    """Maps, each half as large as the one before, to as many of `width` channels.

    Attention within the coarsest map (AIFI); then fusion of neighbouring maps from coarse to fine and back (CCFF).
    expansion: channels inside the fusion blocks, of `width`.
    """

    def __init__(
        self, channels: tuple[int, ...], width: int, heads: int, feed_forward: int, expansion: float
    ):
        super().__init__()
        steps, inner = len(channels) - 1, round(width * expansion)
        self.project = nn.ModuleList(ConvNorm(count, width) for count in channels)
        self.attention = EncoderLayer(width, heads, feed_forward, activation=nn.GELU)
        self.lateral = nn.ModuleList(ConvNorm(width, width, activation=nn.SiLU) for _ in range(steps))
        self.top_down = nn.ModuleList(FusionBlock(2 * width, width, inner) for _ in range(steps))
        self.shrink = nn.ModuleList(ConvNorm(width, width, 3, 2, nn.SiLU) for _ in range(steps))
        self.bottom_up = nn.ModuleList(FusionBlock(2 * width, width, inner) for _ in range(steps))

    def forward(self, maps: list[Tensor], padding: Tensor | None) -> list[Tensor]:
        maps = [project(features) for project, features in zip(self.project, maps, strict=True)]
        *finer, coarse = self.mix(maps, padding)
        down = [coarse]
        for lower, lateral, fuse in zip(finer[::-1], self.lateral, self.top_down, strict=True):
            down[-1] = lateral(down[-1])  # this is also what the way back meets
            raised = F.interpolate(down[-1], size=lower.shape[-2:], mode="nearest")
            down.append(fuse(torch.cat([raised, lower], 1)))
        up = [down.pop()]
        for shrink, fuse in zip(self.shrink, self.bottom_up, strict=True):
            up.append(fuse(torch.cat([shrink(up[-1]), down.pop()], 1)))
        return up

    def mix(self, maps: list[Tensor], padding: Tensor | None) -> list[Tensor]:
        """What cells of a map make of each other: in the coarsest alone."""
        return [*maps[:-1], self.attend(maps[-1], padding)]

    def attend(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """The coarsest map [B, D, h, w] in which cells have seen one another. padding: [B, H, W] bool, of pixels."""
        height, width = features.shape[-2:]
        rows, columns = (torch.arange(n, device=features.device) for n in (height, width))
        cells = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
        # Rows before columns: the order in which the published weights know them.
        position = sincos_2d(cells, features.shape[1]).unsqueeze(0)
        mask = None
        if padding is not None:
            mask = sampled_padding(padding, (height, width)).flatten(1).unsqueeze(1)
        tokens = self.attention(features.flatten(2).transpose(1, 2), position, mask)
        return tokens.transpose(1, 2).unflatten(-1, (height, width))


class FusionBlock(nn.Module):
    """Two 1x1 ways to `inner` channels, one of them on through three RepBlocks, added, and to `width` channels."""

    HALF_PRECISION = True

    def __init__(self, channels: int, width: int, inner: int):
        super().__init__()
        self.first = ConvNorm(channels, inner, activation=nn.SiLU)
        self.second = ConvNorm(channels, inner, activation=nn.SiLU)
        self.blocks = nn.Sequential(*(RepBlock(inner) for _ in range(3)))
        self.join = ConvNorm(inner, width, activation=nn.SiLU) if inner != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.blocks(self.first(x)) + self.second(x))


class RepBlock(nn.Module):
    """A 3x3 and a 1x1 convolution side by side (RepVGG, Ding et al. 2021, arXiv 2101.03697, without identity)."""

    HALF_PRECISION = True

    def __init__(self, channels: int):
        super().__init__()
        self.wide = ConvNorm(channels, channels, 3)
        self.narrow = ConvNorm(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.wide(x) + self.narrow(x))
