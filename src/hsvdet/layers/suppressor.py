"""A learned suppressor behind a dense head, instead of non-maximum suppression: what to keep of its best cells."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..structures import DenseOutput, Prediction
from .deduplication import Deduplication
from .queries import pick, top_tokens

_LOGIT = 4.0  # scales logits to about 1


@dataclass(frozen=True, kw_only=True)
class SuppressorConfig:
    """queries: candidates, the best cells of an image by their best class. query_dim: width of their features. rounds,
    neighbours: of messages between those that overlap (`Deduplication`). frozen_detector: whether the detector before
    it stays as it is, with its statistics, and only the suppressor learns."""

    queries: int = 300
    query_dim: int = 128
    rounds: int = 3
    neighbours: int = 24
    frozen_detector: bool = True


class Suppressor(nn.Module):
    """Maps [B, D_l, H_l, W_l] and what a dense head found on them, to a Prediction of the best Q cells [B, Q, ...]
    and their numbers [B, Q].

    A candidate keeps its boxes, and its class logits but for one number that is added to all of them, "keep this".
    It starts at 0: as the detector is, without any suppression. Nothing flows back into maps and head.
    """

    def __init__(self, channels: tuple[int, ...], num_classes: int, config: SuppressorConfig):
        super().__init__()
        dim = config.query_dim
        self.queries = config.queries
        self.project = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in channels)
        self.classes = nn.Linear(num_classes, dim)
        self.strength = nn.Linear(1, dim)
        self.deduplication = Deduplication(dim, config.rounds, config.neighbours)
        self.keep = nn.Linear(dim, 1)
        nn.init.zeros_(self.keep.weight)
        nn.init.zeros_(self.keep.bias)

    def forward(self, maps: list[Tensor], dense: DenseOutput) -> tuple[Prediction, Tensor]:
        logits = dense.answer.logits.detach().float()
        best = logits.amax(-1)
        cells = top_tokens(best, self.queries)
        boxes, logits = pick(dense.answer.boxes.detach(), cells), pick(logits, cells)
        features = [project(level.detach()) for project, level in zip(self.project, maps, strict=True)]
        features = pick(torch.cat([level.flatten(2) for level in features], 2).transpose(1, 2), cells)
        strength = self.strength(best.gather(1, cells).unsqueeze(-1) / _LOGIT)
        features = features + self.classes(logits.sigmoid()) + strength
        keep = self.keep(self.deduplication(features, boxes, logits))  # [B, Q, 1]
        return Prediction(logits + keep.float(), boxes), cells
