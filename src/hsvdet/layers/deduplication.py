"""A learned suppressor of duplicates, instead of non-maximum suppression.

Candidates that overlap exchange messages, in a few rounds, as in GossipNet (Learning Non-Maximum Suppression, Hosang,
Benenson and Schiele, 2017, https://arxiv.org/abs/1705.02950), which knows boxes and scores; here the features of the
candidates are used as well. That a classification-only layer after the last decoder layer learns it, with a one-to-one
matching of its own, is of MDS-DETR (Lee, Koh, Jeon and Kim, 2026, https://arxiv.org/abs/2605.23507). Its attention from
weaker to stronger candidates was tried: it cost three times as much and was not seen to find more (docs/log.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .neighbours import RELATION, Neighbours, find_neighbours, gathered
from .transformer import FeedForward

# Sums over neighbours are divided by this, a usual number of them.
_USUAL = 8


class Deduplication(nn.Module):
    """Features of Q candidates to features that also know the candidates that overlap each.

    rounds: of messages. neighbours: how many, at most, a candidate gets messages from. message: their width. The
    candidates may be a decoder's queries or the best cells of any dense head; boxes and logits get no gradient.
    """

    def __init__(self, dim: int, rounds: int = 3, neighbours: int = 24, message: int = 64):
        super().__init__()
        self.neighbours = neighbours
        self.relation = nn.Linear(RELATION, message // 2)
        self.rounds = nn.ModuleList(MessageLayer(dim, message // 2, message) for _ in range(rounds))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, features: Tensor, boxes: Tensor, logits: Tensor, padding: Tensor | None = None
    ) -> Tensor:
        """features: [B, Q, D]. boxes: [B, Q, 4] cxcywh of any unit. logits: [B, Q, C] of classes. padding: [B, Q]
        bool, True for rows that are no candidates: they send nothing, and their answers mean nothing."""
        around = find_neighbours(boxes, logits, self.neighbours, padding)
        relation = self.relation(around.relation.to(features.dtype)).relu()
        for layer in self.rounds:
            features = layer(features, around, relation)
        return self.norm(features)


class MessageLayer(nn.Module):
    """A message to each candidate from each of its neighbours, from the features of both and their relation; their
    maximum and their sum; then feed-forward. Each x <- x + f(LayerNorm(x))."""

    def __init__(self, dim: int, relation: int, message: int):
        super().__init__()
        self.norm_message = nn.LayerNorm(dim)
        self.receiver = nn.Linear(dim, message)
        self.sender = nn.Linear(dim, message, bias=False)
        self.relation = nn.Linear(relation, message, bias=False)
        self.message = nn.Linear(message, message)
        self.output = nn.Linear(2 * message, dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, 2 * dim)

    def forward(self, features: Tensor, around: Neighbours, relation: Tensor) -> Tensor:
        """features: [B, Q, D]. relation: [B, Q, K, R], from the neighbours'."""
        normed = self.norm_message(features)
        pairs = self.receiver(normed).unsqueeze(2) + gathered(self.sender(normed), around.rows)
        messages = self.message((pairs + self.relation(relation)).relu()).relu()
        messages = messages.where(around.real.unsqueeze(-1), 0.0)
        pooled = torch.cat([messages.amax(2), messages.sum(2) / _USUAL], -1)
        features = features + self.output(pooled)
        return features + self.feed_forward(self.norm_feed_forward(features))
