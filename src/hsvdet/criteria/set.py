"""The loss of a set of queries: each decoder layer matched one to one, then classes, L1 and GIoU."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..boxes import cxcywh_to_xyxy, generalised_iou, iou
from ..structures import Denoised, Prediction, QueryOutput, Target
from .class_losses import ClassLoss
from .matching import Match, MatchingCosts, match
from .normaliser import mean_over_processes


class SetWeights(NamedTuple):
    """Weights of the three losses."""

    class_: float = 2.0
    l1: float = 5.0
    giou: float = 2.0


class SetCriterion(nn.Module):
    """(QueryOutput, targets) to weighted losses: {"class", "l1", "giou"} of the last decoder layer, the same
    under "layer<i>/" for the others, "proposals/" for the first stage and "denoised<i>/" for noised queries.

    Sums are over the global batch, divided by its number of objects, at least 1.
    proposals: whether the first stage learns the classes ("class") or only that something is there, as class
    0 ("foreground"; Deformable DETR, arXiv 2010.04159, appendix A.4). denoised_rows: whether noised queries
    that stand for no object, made as filling or as negatives, learn to find nothing ("all") or nothing at all
    ("real").
    """

    def __init__(
        self,
        class_loss: ClassLoss,
        *,
        costs: MatchingCosts = MatchingCosts(),
        weights: SetWeights = SetWeights(),
        proposals: Literal["class", "foreground"] = "class",
        denoised_rows: Literal["real", "all"] = "all",
    ):
        super().__init__()
        self.class_loss, self.costs, self.weights = class_loss, costs, weights
        self.proposals, self.denoised_rows = proposals, denoised_rows

    def forward(self, output: QueryOutput, targets: list[Target]) -> dict[str, Tensor]:
        device = output.answer.boxes.device
        targets = [target.to(device) for target in targets]
        total = self.total(targets, device)
        losses = {}
        for i, layer in enumerate(output.layers):
            last = i == len(output.layers) - 1
            name = "" if last else f"layer{i}/"
            pairs = match(layer, targets, self.class_loss, self.costs, f"decoder layer {i}")
            losses |= self.losses_of(layer, targets, pairs, total, name)
        if output.proposals is not None:
            wanted = targets
            if self.proposals == "foreground":
                wanted = [target._replace(labels=torch.zeros_like(target.labels)) for target in targets]
            pairs = match(output.proposals, wanted, self.class_loss, self.costs, "proposals")
            losses |= self.losses_of(output.proposals, wanted, pairs, total, "proposals/")
        if output.denoised is not None:
            losses |= self._denoised(output.denoised, targets, total)
        return losses

    def total(self, targets: list[Target], device: torch.device) -> Tensor:
        """Objects of the global batch, at least 1, for `mean_over_processes`' way of dividing."""
        count = torch.tensor(float(sum(len(target.labels) for target in targets)), device=device)
        return mean_over_processes(count, least=1)

    def losses_of(
        self, prediction: Prediction, targets: list[Target], pairs: Match, total: Tensor, name: str = ""
    ) -> dict[str, Tensor]:
        """{"class", "l1", "giou"}, after `name`, of queries that learn the objects of their pairs, and of the others,
        which learn to find nothing; sums divided by `total`."""
        wanted = _objects(targets, pairs)
        labels = torch.full(prediction.logits.shape[:2], -1, device=prediction.logits.device)
        labels[pairs.image, pairs.query] = wanted.labels
        boxes = prediction.boxes[pairs.image, pairs.query].float()
        xyxy, wanted_xyxy = cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted.boxes)
        quality = torch.zeros(labels.shape, device=labels.device)
        quality[pairs.image, pairs.query] = iou(xyxy.detach(), wanted_xyxy)
        class_ = self.class_loss.loss(prediction.logits, labels, quality, total)
        return {
            f"{name}class": self.weights.class_ * class_,
            f"{name}l1": self.weights.l1 * (boxes - wanted.boxes).abs().sum() / total,
            f"{name}giou": self.weights.giou * (1 - generalised_iou(xyxy, wanted_xyxy)).sum() / total,
        }

    def _denoised(self, denoised: Denoised, targets: list[Target], total: Tensor) -> dict[str, Tensor]:
        """No matching: a noised query answers for the object it was made from."""
        groups = denoised.groups
        real = groups.positive
        pairs = Match(groups.image[real], groups.query[real], groups.target[real])
        losses = {}
        for i, layer in enumerate(denoised.layers):
            learning = layer, targets, pairs
            if self.denoised_rows == "real":
                learning = _only(layer, targets, pairs)
            losses |= self.losses_of(*learning, total * groups.groups, f"denoised{i}/")
        return losses


def _objects(targets: list[Target], pairs: Match) -> Target:
    """The object of each pair."""
    counts = [len(target.labels) for target in targets]
    starts = torch.tensor([0, *counts[:-1]], device=pairs.image.device).cumsum(0)
    index = starts[pairs.image] + pairs.target
    labels = torch.cat([target.labels for target in targets])
    boxes = torch.cat([target.boxes for target in targets]).float()
    return Target(labels[index], boxes[index])


def _only(
    prediction: Prediction, targets: list[Target], pairs: Match
) -> tuple[Prediction, list[Target], Match]:
    """The matched queries and nothing else, laid out as one image in which query m answers for object m."""
    rows = Prediction(*(part[pairs.image, pairs.query].unsqueeze(0) for part in prediction))
    order = torch.arange(len(pairs.query), device=pairs.query.device)
    return rows, [_objects(targets, pairs)], Match(torch.zeros_like(order), order, order)
