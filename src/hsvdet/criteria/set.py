"""The loss of a set of queries: each decoder layer matched one to one, then classes, L1 and GIoU."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..boxes import cxcywh_to_xyxy, generalised_iou, iou
from ..structures import Denoised, Prediction, QueryOutput, Target
from .class_losses import ClassLoss, Counts
from .criterion import Criterion, Part, StepCounts
from .matching import Match, MatchingCosts, match
from .unknown import unknown_classes


class SetWeights(NamedTuple):
    """Weights of the three losses."""

    class_: float = 2.0
    l1: float = 5.0
    giou: float = 2.0


class SetCriterion(Criterion):
    """(QueryOutput, targets) to weighted losses: {"class", "l1", "giou"} of the last decoder layer, the same
    under "layer<i>/" for the others, "proposals/" for the first stage, "encoder<i>/" for encoder layers that predict
    and "denoised<i>/" for noised queries.

    Sums are over the whole step, divided by its number of objects, at least 1.
    proposals: whether the first stage learns the classes ("class") or only that something is there, as class
    0 ("foreground"; Deformable DETR, arXiv 2010.04159, appendix A.4). denoised_rows: whether noised queries
    that stand for no object, made as filling or as negatives, learn to find nothing ("all") or nothing at all
    ("real"). What is not known of an image is not learned as nothing: see criteria/unknown.py.
    """

    matches = True

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

    def parts(self, output: QueryOutput, targets: list[Target], step: StepCounts) -> dict[str, Part]:
        device = output.answer.boxes.device
        targets = [target.to(device) for target in targets]
        parts = {}
        for i, layer in enumerate(output.layers):
            last = i == len(output.layers) - 1
            name = "" if last else f"layer{i}/"
            pairs = match(layer, targets, self.class_loss, self.costs, f"decoder layer {i}")
            parts |= self._parts(layer, targets, pairs, _matched(step, layer), name)
        if output.proposals is not None:
            wanted = targets
            if self.proposals == "foreground":
                wanted = [_foreground(target) for target in targets]
            pairs = match(output.proposals, wanted, self.class_loss, self.costs, "proposals")
            counts = _matched(step, output.proposals)
            parts |= self._parts(output.proposals, wanted, pairs, counts, "proposals/")
        for i, layer in enumerate(output.encoder):
            pairs = match(layer, targets, self.class_loss, self.costs, f"encoder layer {i}")
            parts |= self._parts(layer, targets, pairs, _matched(step, layer), f"encoder{i}/")
        if output.denoised is not None:
            parts |= self._denoised(output.denoised, targets, step)
        return parts

    def pairs(self, answer: Prediction, targets: list[Target]) -> Match:
        return match(answer, targets, self.class_loss, self.costs, "answer")

    def sums(
        self,
        prediction: Prediction,
        targets: list[Target],
        pairs: Match,
        *,
        matched_alone: bool = False,
    ) -> dict[str, Tensor]:
        """{"class", "l1", "giou"}, summed over the batch, of queries that learn the objects of their pairs, and of
        the others, which learn to find nothing (not if `matched_alone`, nor where it is unknown)."""
        wanted = _objects(targets, pairs)
        labels = torch.full(prediction.logits.shape[:2], -1, device=prediction.logits.device)
        labels[pairs.image, pairs.query] = wanted.labels
        boxes = prediction.boxes[pairs.image, pairs.query].float()
        xyxy, wanted_xyxy = cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted.boxes)
        quality = torch.zeros(labels.shape, device=labels.device)
        quality[pairs.image, pairs.query] = iou(xyxy.detach(), wanted_xyxy)
        unknown = unknown_classes(prediction, targets, labels >= 0, matched_alone=matched_alone)
        return {
            "class": self.weights.class_ * self.class_loss.loss(prediction.logits, labels, quality, unknown),
            "l1": self.weights.l1 * (boxes - wanted.boxes).abs().sum(),
            "giou": self.weights.giou * (1 - generalised_iou(xyxy, wanted_xyxy)).sum(),
        }

    def _parts(
        self,
        prediction: Prediction,
        targets: list[Target],
        pairs: Match,
        counts: Counts,
        name: str,
        *,
        matched_alone: bool = False,
    ) -> dict[str, Part]:
        sums = self.sums(prediction, targets, pairs, matched_alone=matched_alone)
        totals = {"class": self.class_loss.total(counts), "l1": counts.objects, "giou": counts.objects}
        return {f"{name}{what}": Part(value / totals[what]) for what, value in sums.items()}

    def _denoised(self, denoised: Denoised, targets: list[Target], step: StepCounts) -> dict[str, Part]:
        """No matching: a noised query answers for the object it was made from."""
        groups = denoised.groups
        real = groups.positive
        pairs = Match(groups.image[real], groups.query[real], groups.target[real])
        alone = self.denoised_rows == "real"
        matched = groups.groups * sum(step.images)
        parts = {}
        for i, layer in enumerate(denoised.layers):
            queries = matched if alone else layer.boxes.shape[1] * len(step.images)
            counts = Counts(step.objects * groups.groups, queries, matched)
            parts |= self._parts(layer, targets, pairs, counts, f"denoised{i}/", matched_alone=alone)
        return parts


def _matched(step: StepCounts, prediction: Prediction) -> Counts:
    """Of queries matched one to one, as many in each image of the step as in this prediction."""
    queries = prediction.boxes.shape[1]
    matched = sum(min(objects, queries) for objects in step.images)
    return Counts(step.objects, queries * len(step.images), matched)


def _objects(targets: list[Target], pairs: Match) -> Target:
    """The object of each pair."""
    counts = [len(target.labels) for target in targets]
    starts = torch.tensor([0, *counts[:-1]], device=pairs.image.device).cumsum(0)
    index = starts[pairs.image] + pairs.target
    labels = torch.cat([target.labels for target in targets])
    boxes = torch.cat([target.boxes for target in targets]).float()
    return Target(labels[index], boxes[index])


def _foreground(target: Target) -> Target:
    """All objects as class 0; where some classes are not labelled, any place may be foreground."""
    labels, labelled = torch.zeros_like(target.labels), None
    if target.labelled is not None:
        labelled = torch.ones_like(target.labelled)
        labelled[0] = target.labelled.all()
    return target._replace(labels=labels, labelled=labelled)
