"""What a query's class logits are compared with: a loss, and the matching cost that goes with it.

Each has `cost(logits [Q, C], labels [N]) -> [Q, N]`, lower is better, and
`loss(logits [B, Q, C], labels [B, Q], quality [B, Q], unknown) -> scalar`, where label -1 means no object, quality is
the IoU of a matched query's box with its object's, and unknown [B, Q, C] bool, or None, is True for logits that may
not be taught to be low (criteria/unknown.py): a sum over queries, to be divided by `total(counts) -> scalar`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .normaliser import mean_over_processes


class Counts(NamedTuple):
    """Of a whole step. objects: in the mean process, a scalar; over all processes at least 1. queries: in this
    process; matched: those of them that answer for an object."""

    objects: Tensor
    queries: int
    matched: int


class ClassLoss(Protocol):
    def cost(self, logits: Tensor, labels: Tensor) -> Tensor: ...

    def loss(
        self, logits: Tensor, labels: Tensor, quality: Tensor, unknown: Tensor | None = None
    ) -> Tensor: ...

    def total(self, counts: Counts) -> Tensor: ...


@dataclass(frozen=True)
class SoftmaxLoss:
    """Cross entropy over C classes and, last, "no object" (DETR, arXiv 2005.12872, section 3.1).

    no_object: the weight of queries that match nothing, in the weighted mean over queries.

    A query that matches nothing where some classes are unknown is no object *or one of them*: the loss is that of the
    sum of their probabilities, so it moves none of them against another, and classes that are known away from all.
    Where all is unknown the sum is 1, and the query learns nothing. A matched query is of its class and of no other,
    whatever is unknown.
    """

    no_object: float = 0.1

    def cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        return -logits.float().softmax(-1)[:, labels]

    def loss(self, logits: Tensor, labels: Tensor, quality: Tensor, unknown: Tensor | None = None) -> Tensor:
        logits, last = logits.float(), logits.shape[-1] - 1
        wanted = torch.where(labels < 0, last, labels)
        weight = torch.where(labels < 0, self.no_object, 1.0)
        cross_entropy = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view(
            labels.shape
        )
        if unknown is not None:
            possible = unknown.index_fill(-1, unknown.new_tensor([last], dtype=torch.int64), True)
            either = logits.logsumexp(-1) - logits.masked_fill(~possible, -torch.inf).logsumexp(-1)
            cross_entropy = torch.where(labels < 0, either, cross_entropy)
        return (cross_entropy * weight).sum()

    def total(self, counts: Counts) -> Tensor:
        weights = counts.matched + self.no_object * (counts.queries - counts.matched)
        return mean_over_processes(counts.objects.new_tensor(weights))


@dataclass(frozen=True)
class FocalLoss:
    """Sigmoid focal loss (Lin et al. 2017, arXiv 1708.02002), and the cost Deformable DETR derived from it."""

    alpha: float = 0.25
    gamma: float = 2.0

    def cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        p = logits.float().sigmoid()[:, labels]
        object_ = self.alpha * (1 - p) ** self.gamma * -(p + 1e-8).log()
        nothing = (1 - self.alpha) * p**self.gamma * -(1 - p + 1e-8).log()
        return object_ - nothing

    def loss(self, logits: Tensor, labels: Tensor, quality: Tensor, unknown: Tensor | None = None) -> Tensor:
        wanted = one_hot(labels, logits)
        p = logits.float().sigmoid()
        right = torch.where(wanted > 0, p, 1 - p)
        weight = torch.where(wanted > 0, self.alpha, 1 - self.alpha) * (1 - right) ** self.gamma
        cross_entropy = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
        return _known(weight * cross_entropy, wanted, unknown).sum()

    def total(self, counts: Counts) -> Tensor:
        return counts.objects


@dataclass(frozen=True)
class VarifocalLoss:
    """The class score of a matched query is to be its box's IoU (Zhang et al. 2021, arXiv 2008.13367).

    Negatives are weighted by alpha p^gamma, positives by their IoU. The matching cost is the focal one.
    """

    alpha: float = 0.75
    gamma: float = 2.0

    def cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        return FocalLoss().cost(logits, labels)

    def loss(self, logits: Tensor, labels: Tensor, quality: Tensor, unknown: Tensor | None = None) -> Tensor:
        hot = one_hot(labels, logits)
        wanted = hot * quality.detach().unsqueeze(-1)
        p = logits.detach().float().sigmoid()
        weight = torch.where(hot > 0, wanted, self.alpha * p**self.gamma)
        cross_entropy = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
        return _known(weight * cross_entropy, hot, unknown).sum()

    def total(self, counts: Counts) -> Tensor:
        return counts.objects


@dataclass(frozen=True)
class MatchabilityLoss:
    """The class score of a matched query is to be IoU^gamma of its box (MAL: DEIM, Huang et al. 2025, arXiv
    2412.04234, equation 4). Against `VarifocalLoss`, positives of a poor box count as much as those of a good one.

    Negatives are weighted by p^gamma. The matching cost is the focal one.
    """

    gamma: float = 1.5

    def cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        return FocalLoss().cost(logits, labels)

    def loss(self, logits: Tensor, labels: Tensor, quality: Tensor, unknown: Tensor | None = None) -> Tensor:
        hot = one_hot(labels, logits)
        wanted = hot * quality.detach().unsqueeze(-1) ** self.gamma
        p = logits.detach().float().sigmoid()
        weight = torch.where(hot > 0, 1.0, p**self.gamma)
        cross_entropy = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
        return _known(weight * cross_entropy, hot, unknown).sum()

    def total(self, counts: Counts) -> Tensor:
        return counts.objects


def _known(values: Tensor, hot: Tensor, unknown: Tensor | None) -> Tensor:
    """values [B, Q, C] with 0 for what is unknown and no query's class."""
    return values if unknown is None else values.masked_fill(unknown & (hot == 0), 0.0)


def one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """labels [B, Q], -1 for none, to float32 [B, Q, C] of zeros and ones."""
    hot = torch.zeros(logits.shape, device=logits.device)
    return hot.scatter(-1, labels.clamp(min=0).unsqueeze(-1), (labels >= 0).float().unsqueeze(-1))
