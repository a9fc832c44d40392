"""How stable the matching of queries and objects is from epoch to epoch: DN-DETR's instability score.

Li et al. 2022, DN-DETR, arXiv 2203.01305, section 3.2. In epoch t query n of N either answers for object m of
an image, V^t_n = m, or for none, V^t_n = -1. An image's instability is the number of queries that changed:
IS^t = sum over n = 0..N-1 of 1(V^t_n != V^(t-1)_n); the score is the mean over images. An object that passes
from one query to another counts twice, so the most there can be is twice the mean number of objects.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..criteria.criterion import Criterion
from ..data.dataset import DetectionData
from ..data.loader import EvaluationLoader, EvaluationSet
from ..devices import autocast, move
from ..errors import NonFiniteError
from .plan import Plan
from .processes import gather, same_as_first

if TYPE_CHECKING:
    from lightning.fabric import Fabric

PROBE = 200  # images: validation's, or training's without augmentation, always the same ones


class Measure(NamedTuple):
    """score: the instability since the assignment before; None without one. assignment: [images, N] int32, V."""

    score: float | None
    assignment: Tensor | None


class Stability:
    """Of the weights under training, not of their average, which would change more slowly than matching does."""

    def __init__(self, fabric: Fabric, plan: Plan, criterion: Criterion):
        self.plan, self.criterion, self.device = plan, criterion, fabric.device
        self.rank = fabric.global_rank
        self.data = _evenly(plan.validation_data or plan.training_data, PROBE)
        self.loader = EvaluationLoader(
            EvaluationSet(self.data, plan.detector.preprocess),
            min(16, max(1, plan.batch // fabric.world_size)),
            rank=fabric.global_rank,
            world=fabric.world_size,
            normalise=False,
        )

    def __call__(self, net: nn.Module, before: Tensor | None) -> Measure:
        """before: the assignment of the epoch before. `net` is left in evaluation mode.

        On rank 0; nothing on the others. Raises NonFiniteError, in every process.
        """
        same_as_first(list(net.buffers()))
        try:
            found = self._match_all(net.eval())
        except NonFiniteError as error:
            found = error
        everything = gather(found)
        for part in everything:
            if isinstance(part, NonFiniteError):
                raise part
        if self.rank:
            return Measure(None, None)
        rows = {id_: row for part in everything for id_, row in part.items()}
        # A small image may have fewer queries, if they are made from its tokens: those missing find nothing.
        now = nn.utils.rnn.pad_sequence(
            [rows[record.id] for record in self.data.records], batch_first=True, padding_value=-1
        )
        return Measure(instability(now, before) if before is not None else None, now)

    @torch.inference_mode()
    def _match_all(self, net: nn.Module) -> dict[int | str, Tensor]:
        """By image: [N] int32, the object of each query, or -1."""
        precision = "fp32" if self.plan.precision == "fp32" else "bf16"
        found = {}
        for batch in self.loader:
            batch = move(batch, self.device, self.plan.detector.preprocess)
            with autocast(self.device, precision):
                answer = net(batch.images, batch.padding).answer
            pairs = self.criterion.pairs(answer, batch.targets)
            assignment = torch.full(answer.boxes.shape[:2], -1, dtype=torch.int32, device=answer.boxes.device)
            assignment[pairs.image, pairs.query] = pairs.target.int()
            for info, row in zip(batch.infos, assignment.cpu(), strict=True):
                found[info.id] = row
        return found


def instability(now: Tensor, before: Tensor) -> float:
    """now, before: [images, N], the object of each query, or -1. The mean over images of queries that changed. N may
    have changed, too: queries that there are not find nothing."""
    most = max(now.shape[1], before.shape[1])
    now, before = (nn.functional.pad(of, (0, most - of.shape[1]), value=-1) for of in (now, before))
    return (now != before).sum(1).double().mean().item()


def _evenly(data: DetectionData, most: int) -> DetectionData:
    """At most that many images, spread over all."""
    if len(data) <= most:
        return data
    chosen = np.linspace(0, len(data) - 1, most).round().astype(int)
    return replace(data, records=[data.records[i] for i in chosen])
