"""A learned suppressor behind a dense head, instead of non-maximum suppression: what to keep of its best cells."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..structures import DenseOutput, Prediction
from .attention import MultiHeadAttention
from .deduplication import Deduplication
from .queries import pick, top_tokens
from .relative_boxes import RelativeBoxBias
from .transformer import FeedForward


@dataclass(frozen=True, kw_only=True)
class SuppressorConfig:
    """queries: candidates, the best cells of an image by their best class. query_dim, query_heads: of attention
    between them. relation_layers: in which all see all, before the one in which each sees the stronger ones.
    frozen_detector: whether the detector before it stays as it is, with its statistics, and only the suppressor
    learns."""

    queries: int = 300
    query_dim: int = 128
    query_heads: int = 8
    relation_layers: int = 1
    frozen_detector: bool = True


class Suppressor(nn.Module):
    """Maps [B, D_l, H_l, W_l] and what a dense head found on them, to a Prediction of the best Q cells [B, Q, ...]
    and their numbers [B, Q].

    A candidate keeps its boxes, and its class logits but for one number that is added to all of them, "keep this".
    It starts at 0: as the detector is, without any suppression. Nothing flows back into maps and head.
    """

    def __init__(self, channels: tuple[int, ...], num_classes: int, config: SuppressorConfig):
        super().__init__()
        dim, heads = config.query_dim, config.query_heads
        self.queries = config.queries
        self.project = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in channels)
        self.classes = nn.Linear(num_classes, dim)
        self.relations = nn.ModuleList(RelationLayer(dim, heads) for _ in range(config.relation_layers))
        self.deduplication = Deduplication(dim, 1, heads, feed_forward=2 * dim)
        nn.init.zeros_(self.deduplication.classes.weight)
        nn.init.zeros_(self.deduplication.classes.bias)

    def forward(self, maps: list[Tensor], dense: DenseOutput) -> tuple[Prediction, Tensor]:
        logits = dense.answer.logits.detach().float()
        best = logits.amax(-1)
        cells = top_tokens(best, self.queries)
        boxes, logits = pick(dense.answer.boxes.detach(), cells), pick(logits, cells)
        features = [project(level.detach()) for project, level in zip(self.project, maps, strict=True)]
        features = pick(torch.cat([level.flatten(2) for level in features], 2).transpose(1, 2), cells)
        features = features + self.classes(logits.sigmoid())
        for layer in self.relations:
            features = layer(features, boxes)
        keep = self.deduplication(features, boxes, best.gather(1, cells))  # [B, Q, 1]
        return Prediction(logits + keep.float(), boxes), cells


class RelationLayer(nn.Module):
    """Self-attention with a bias from relative boxes, then feed-forward, each x <- x + f(LayerNorm(x))."""

    EXPLAINED = {"attention": None}

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.relation = RelativeBoxBias(heads)
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, heads)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, 2 * dim)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """features: [B, Q, D]. boxes: [B, Q, 4] cxcywh of any unit."""
        normed = self.norm_attention(features)
        features = features + self.attention(normed, normed, normed, bias=self.relation(boxes))
        return features + self.feed_forward(self.norm_feed_forward(features))
