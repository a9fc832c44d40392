"""The loss of a detector with a dense and a query head, and of queries that are deduplicated."""

from __future__ import annotations

import torch

from ..structures import DualOutput, QueryOutput, Target
from .class_losses import MatchabilityLoss, VarifocalLoss
from .criterion import Criterion, Part, StepCounts, Total, under
from .matching import match, match_by, match_many, overlap_cost
from .set import SetCriterion, SetWeights


class DualCriterion(Criterion):
    """(DualOutput, targets) to the losses of the queries, and of the dense head under "dense/": with them those of
    the network's token selectors, which may be asked to find what the dense head does.

    dense, query: criteria of DenseOutput and of QueryOutput.
    """

    def __init__(self, dense: Criterion, query: Criterion):
        super().__init__()
        self.dense, self.query = dense, query

    def at(self, progress: float) -> None:
        """progress: the share of the run that is done, 0 to 1."""
        for part in (self.dense, self.query):
            part.at(progress)

    def parts(self, output: DualOutput, targets: list[Target], step: StepCounts) -> dict[str, Part]:
        dense = self.dense.parts(output.dense._replace(selections=output.selections), targets, step)
        return self.query.parts(output.query, targets, step) | under("dense/", dense)


class DeduplicatedCriterion(Criterion):
    """(QueryOutput whose last layer is a deduplication, targets) to {"class"} of that layer, and {"class", "l1",
    "giou"} of the others under "layer<i>/".

    Layers before the last learn several queries for each object (`match_many`), which is how they learn fast and
    find much; the last learns which one is to stay: matched one to one, its classes alone, for boxes that are
    fixed (MDS-DETR, arXiv 2605.23507). Sums are divided by the number of positive queries of the whole step.
    late: the share of the run from which the last layer is matched by `overlap_cost`.
    """

    def __init__(self, *, late: float = 0.78):
        super().__init__()
        self.many = SetCriterion(MatchabilityLoss(), weights=SetWeights(class_=1.0))
        self.one = SetCriterion(VarifocalLoss(), weights=SetWeights(class_=1.0))
        self.late = late
        self.at(0.0)

    def at(self, progress: float) -> None:
        """progress: the share of the run that is done, 0 to 1."""
        self.is_late = progress >= self.late

    def parts(self, output: QueryOutput, targets: list[Target], step: StepCounts) -> dict[str, Part]:
        *layers, last = output.layers
        device = last.boxes.device
        targets = [target.to(device) for target in targets]
        parts = {}
        for i, layer in enumerate(layers):
            pairs = match_many(layer, targets, name=f"decoder layer {i}")
            positives = Total(f"positives of layer {i}", torch.tensor(float(len(pairs.query)), device=device))
            sums = self.many.sums(layer, targets, pairs)
            parts |= {f"layer{i}/{what}": Part(value, positives) for what, value in sums.items()}
        name = f"decoder layer {len(layers)}"
        if self.is_late:
            pairs = match_by(overlap_cost, last, targets, name)
        else:
            pairs = match(last, targets, self.one.class_loss, self.one.costs, name)
        return parts | {"class": Part(self.one.sums(last, targets, pairs)["class"] / step.objects)}
