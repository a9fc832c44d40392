"""Mamba-DETR: RT-DETR in which a state space takes the place of attention. After Transformers are SSMs (Mamba-2). Dao &
Gu, 2024, https://arxiv.org/abs/2405.21060, and VMamba: Visual State Space Model. Liu et al., 2024,
https://arxiv.org/abs/2401.10166. Of no paper: what is asked is whether a detector can do with it.

RT-DETR (`rt_detr.py`) plus another mixer of the tokens of the coarsest map, or of finer ones too: instead of every cell
looking at every other, each is read in turn, forwards and backwards, into a state of fixed size, from which the cells
after it read. That takes time and memory in proportion to the number of cells, not to its square. All the rest is
RT-DETR's, and so are the losses and the training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..layers.hybrid_encoder import HybridEncoder
from ..layers.mamba import from_directions, in_directions, ssd, wide
from ..layers.precision import without_autocast
from ..layers.tokens import sampled_padding
from ..layers.transformer import FeedForward
from . import rt_detr
from .rt_detr import RtDetr, RtDetrConfig


@dataclass(frozen=True, kw_only=True)
class MambaDetrConfig(RtDetrConfig):
    """RT-DETR's numbers, and those of the state space.

    scan_heads: heads of each direction, of which each remembers for a time of its own. states: N, numbers a channel
    has to remember with. directions: 2, by rows and that from the end; or 4, by columns too. scan_maps: the coarsest
    maps that are read so, each by a layer of its own: 1, that of stride 32, as attention is in RT-DETR, to 3.
    """

    scan_heads: int = 4
    states: int = 64
    directions: int = 2
    scan_maps: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.directions not in (2, 4):
            raise ConfigError(f"directions expects 2, by rows, or 4, by columns too; got {self.directions}.")
        if self.scan_heads < 1 or self.neck % self.scan_heads:
            raise ConfigError(
                f"scan_heads expects a divisor of neck, the {self.neck} channels; got {self.scan_heads}."
            )
        if not 1 <= self.scan_maps <= 3:
            raise ConfigError(f"scan_maps expects 1 to 3, the maps that there are; got {self.scan_maps}.")
        if self.states < 1:
            raise ConfigError(f"states expects a number from 1 on; got {self.states}.")


VARIANTS: dict[str, dict[str, Any]] = {
    "mamba-detr-r18": rt_detr.VARIANTS["rt-detr-r18"],
    "mamba-detr-r50": rt_detr.VARIANTS["rt-detr-r50"],
    "mamba-detr-tiny": rt_detr.VARIANTS["rt-detr-tiny"] | dict(scan_heads=2, states=16),
}


class MambaDetr(RtDetr):
    """As `RtDetr`."""

    def __init__(self, config: MambaDetrConfig, num_classes: int):
        super().__init__(config, num_classes)
        self.neck = MambaEncoder(self.backbone.channels, config)


class MambaEncoder(HybridEncoder):
    """RT-DETR's, with a state space within the coarsest map, or within several, each for itself."""

    def __init__(self, channels: tuple[int, ...], config: MambaDetrConfig):
        super().__init__(channels, config.neck, config.heads, config.encoder_feed_forward, config.expansion)
        del self.attention
        self.mamba = nn.ModuleList(MambaLayer(config) for _ in range(config.scan_maps))

    def mix(self, maps: list[Tensor], padding: Tensor | None) -> list[Tensor]:
        """No position is added: the order in which cells are read tells it, and the convolution."""
        mixed = maps[:]
        for number, layer in enumerate(self.mamba, len(maps) - len(self.mamba)):
            height, width = maps[number].shape[-2:]
            cells = None if padding is None else sampled_padding(padding, (height, width))
            mixed[number] = layer(maps[number], cells)
        return mixed


class MambaLayer(nn.Module):
    """Mixing, then a feed-forward network, each x <- LayerNorm(x + f(x)), as RT-DETR's layer with attention."""

    def __init__(self, config: MambaDetrConfig):
        super().__init__()
        self.mixer = StateSpaceMixer(config.neck, config.scan_heads, config.states, config.directions)
        self.norm_mixer = nn.LayerNorm(config.neck)
        self.feed_forward = FeedForward(config.neck, config.encoder_feed_forward, activation=nn.GELU)
        self.norm_feed_forward = nn.LayerNorm(config.neck)

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """features: [B, D, h, w]. padding: [B, h, w] bool, cells that nothing may read, or None."""
        tokens = features.flatten(2).transpose(1, 2)
        tokens = self.norm_mixer(tokens + self.mixer(features, padding))
        tokens = self.norm_feed_forward(tokens + self.feed_forward(tokens))
        return tokens.transpose(1, 2).unflatten(-1, features.shape[-2:])


class StateSpaceMixer(nn.Module):
    """A map [B, D, h, w] to what its cells read of each other: tokens [B, S, D], row by row, 0 in padding.

    A 3x3 convolution per channel, so that a cell knows its neighbours of the row above too; then one scan a
    direction, added up, normalised and gated. Each cell chooses what it writes, what it reads and its step.
    """

    HALF_PRECISION = True

    def __init__(self, dim: int, heads: int, states: int, directions: int):
        super().__init__()
        self.states, self.directions = states, directions
        self.expand = nn.Linear(dim, 2 * dim, bias=False)
        self.near = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.select = nn.Linear(dim, directions * (2 * states + heads), bias=False)
        self.scan = StateSpace(directions, heads)
        self.norm = nn.LayerNorm(dim)
        self.contract = nn.Linear(dim, dim, bias=False)

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:
        height, width = features.shape[-2:]
        size, directions = (height, width), self.directions
        x, gate = self.expand(features.flatten(2).transpose(1, 2)).chunk(2, -1)
        x = x.transpose(1, 2).unflatten(-1, size)
        if padding is not None:
            x = x.masked_fill(padding.unsqueeze(1), 0.0)  # as beyond the border of a picture alone
        x = F.silu(self.near(x))  # [B, D, h, w]
        selected = self.select(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(-1, size)
        # From here on [B, S, directions, ...], each direction in its order.
        outside = None
        if padding is not None:
            outside = in_directions(padding[:, None, None].expand(-1, directions, -1, -1, -1))
        sequence = in_directions(x.unsqueeze(1).expand(-1, directions, -1, -1, -1))
        selected = in_directions(selected.unflatten(1, (directions, -1)))
        write, read, step = selected.split([self.states, self.states, self.scan.heads], -1)
        y = self.scan(sequence, step, write, read, outside)
        y = from_directions(y, size).sum(1).flatten(2).transpose(1, 2)
        y = self.contract(self.norm(y) * F.silu(gate))
        return y if padding is None else y.masked_fill(padding.flatten(1).unsqueeze(-1), 0.0)


class StateSpace(nn.Module):
    """The scan with what it learns of each head: how fast it forgets, its usual step, and what passes the state by.

    Starts as Mamba-2 does: rates of -1 to -16, steps of 0.001 to 0.1.
    """

    HALF_PRECISION = False

    def __init__(self, directions: int, heads: int):
        super().__init__()
        self.heads = heads
        steps = torch.empty(directions, heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.rate_log = nn.Parameter(torch.empty(directions, heads).uniform_(1, 16).log())
        self.step_bias = nn.Parameter(steps + (-(-steps).expm1()).log())  # the inverse of softplus
        self.skip = nn.Parameter(torch.ones(directions, heads))

    def forward(self, x: Tensor, step: Tensor, write: Tensor, read: Tensor, padding: Tensor | None) -> Tensor:
        """x: [B, S, G, D] in G directions. step: [B, S, G, heads], before its bias and softplus. write, read: [B, S, G,
        N]. padding: [B, S, G, 1] bool, tokens that are not there. Returns [B, S, G, D]."""
        with without_autocast(x):
            x, step = x.unflatten(-1, (self.heads, -1)), F.softplus(wide(step) + wide(self.step_bias))
            if padding is not None:
                step = step.masked_fill(padding, 0.0)
            y = ssd(x, step, -wide(self.rate_log).exp(), write, read)
            return (y + self.skip.unsqueeze(-1).to(y.dtype) * x).flatten(-2)
