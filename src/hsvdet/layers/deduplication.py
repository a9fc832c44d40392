"""A learned suppressor of duplicates, instead of non-maximum suppression.

Candidates tell those that overlap them what they are, a few times over, as in GossipNet (Learning Non-Maximum
Suppression, Hosang, Benenson and Schiele, 2017, https://arxiv.org/abs/1705.02950), which has boxes and scores; here
what the candidates look like is beside. That a classification-only layer after the last decoder layer learns it, with
a one-to-one matching of its own, is of MDS-DETR (Lee, Koh, Jeon and Kim, 2026, https://arxiv.org/abs/2605.23507).
Its attention from weaker to stronger ones was tried: it costs three times as much and was not seen to find more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .neighbours import RELATION, Neighbours, find_neighbours, gathered
from .transformer import FeedForward

# Sums over neighbours are divided by this, about as many as a candidate has.
_USUAL = 8


class Deduplication(nn.Module):
    """Features of Q candidates, which overlap one another, to features that know of it.

    rounds: of messages. neighbours: at most as many does a candidate hear. message: width of what it is told. The
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
        bool, True for rows that are no candidates: nobody hears them, and their answers mean nothing."""
        around = find_neighbours(boxes, logits, self.neighbours, padding)
        relation = self.relation(around.relation.to(features.dtype)).relu()
        for layer in self.rounds:
            features = layer(features, around, relation)
        return self.norm(features)


class MessageLayer(nn.Module):
    """What each neighbour says to a candidate, by what both are and how they lie; then feed-forward; each
    x <- x + f(LayerNorm(x)). The strongest word counts, and how many say it."""

    def __init__(self, dim: int, relation: int, message: int):
        super().__init__()
        self.norm_message = nn.LayerNorm(dim)
        self.hears = nn.Linear(dim, message)
        self.says = nn.Linear(dim, message, bias=False)
        self.lies = nn.Linear(relation, message, bias=False)
        self.message = nn.Linear(message, message)
        self.output = nn.Linear(2 * message, dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, 2 * dim)

    def forward(self, features: Tensor, around: Neighbours, relation: Tensor) -> Tensor:
        """features: [B, Q, D]. relation: [B, Q, K, R], from the neighbours'."""
        normed = self.norm_message(features)
        words = self.hears(normed).unsqueeze(2) + gathered(self.says(normed), around.rows)
        words = self.message((words + self.lies(relation)).relu()).relu()
        words = words.where(around.real.unsqueeze(-1), 0.0)
        told = torch.cat([words.amax(2), words.sum(2) / _USUAL], -1)
        features = features + self.output(told)
        return features + self.feed_forward(self.norm_feed_forward(features))
