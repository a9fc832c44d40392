"""The loss of a dense head: soft-target BCE on classes, CIoU and distribution focal loss on boxes; and of one that
learns a single cell for each object beside many."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..boxes import complete_iou, cxcywh_to_xyxy
from ..structures import DenseOutput, Target
from .criterion import Criterion, Part, StepCounts, Total, under, weighted
from .numbers import LossNumbers
from .salience import AnchorScores
from .selection import SelectionLoss
from .task_aligned import Assignment, task_aligned_assignment
from .unknown import ignored_boxes, ignored_points, unlabelled_classes


class DenseCriterion(Criterion):
    """(DenseOutput, targets) to weighted losses {"class", "box", "distribution" or "l1"[, "selector"]}.

    All are sums over the whole step divided by the sum of its target scores, at least 1. Gains and numbers of
    the assignment: the YOLOv8 settings. Where distances are no distributions but numbers, these are learned by
    their L1 distance in strides. assign: one of the functions of task_aligned.py. A network with learned token
    selectors also learns to find objects with them, by `selection`. What is not known of an image is not learned as
    nothing: see criteria/unknown.py.
    """

    def __init__(
        self,
        *,
        class_gain: float = 0.5,
        box_gain: float = 7.5,
        distribution_gain: float = 1.5,
        l1_gain: float = 6.0,
        assign: Callable[..., Assignment] = task_aligned_assignment,
        alpha: float = 0.5,
        beta: float = 6.0,
        smallest_side: float = LossNumbers.smallest_side,
        selection: SelectionLoss = SelectionLoss(),
    ):
        super().__init__()
        self.class_gain, self.box_gain = class_gain, box_gain
        self.distribution_gain, self.l1_gain, self.selection = distribution_gain, l1_gain, selection
        self.assign, self.alpha, self.beta, self.smallest_side = assign, alpha, beta, smallest_side

    def parts(self, output: DenseOutput, targets: list[Target], step: StepCounts) -> dict[str, Part]:
        logits = output.prediction.logits.float()
        labels, xyxy, real = _pad_targets(targets, output.extents)
        predicted = cxcywh_to_xyxy(
            output.prediction.boxes * output.extents[:, None, 2:].repeat(1, 1, 2)
            + F.pad(output.extents[:, None, :2], (0, 2))
        )
        assignment = self.assign(
            logits.detach().sigmoid(), predicted.detach(), output.anchors, labels, xyxy, real,
            alpha=self.alpha, beta=self.beta, smallest_side=self.smallest_side,
        )  # fmt: skip
        image, anchor = assignment.positive.nonzero(as_tuple=True)
        target = assignment.target[image, anchor]
        weight = assignment.score[image, anchor]

        wanted = torch.zeros_like(logits)
        if len(image):
            wanted[image, anchor, labels[image, target]] = weight
        total = Total("target scores", assignment.score.sum())

        box = xyxy[image, target] if len(image) else predicted[image, anchor].detach()
        overlap = complete_iou(predicted[image, anchor], box)
        reach = torch.cat([output.anchors[anchor] - box[:, :2], box[:, 2:] - output.anchors[anchor]], -1)
        reach = reach / output.strides[anchor, None]
        distances = output.distances[image, anchor].float().unflatten(-1, (4, -1))
        known = _known(output, wanted, targets)
        class_ = F.binary_cross_entropy_with_logits(logits, wanted, known, reduction="sum")
        parts = {
            "class": Part(self.class_gain * class_, total),
            "box": Part(self.box_gain * ((1 - overlap) * weight).sum(), total),
        }
        if distances.shape[-1] == 1:
            apart = (distances.squeeze(-1) - reach).abs().mean(-1)
            parts["l1"] = Part(self.l1_gain * (apart * weight).sum(), total)
        else:
            cross_entropy = distribution_focal_loss(distances, reach).mean(-1)
            parts["distribution"] = Part(self.distribution_gain * (cross_entropy * weight).sum(), total)
        if output.selections:
            assigned = AnchorScores(assignment.score, output.strides)
            found = self.selection(output.selections, targets, output.extents, assigned)
            parts["selector"] = Part(found / step.objects)
        return parts


class DualAssignmentCriterion(Criterion):
    """(DenseOutput of a one-to-one head, targets) to the losses of its answer, as `one` has them, and of its
    one-to-many twin, as `many` has them, under "twin/".

    Both choose cells by one metric (YOLOv10, arXiv 2405.14458, section 3.1: else what the twin teaches is not what
    the answer needs). The weight of the twin falls over the run and that of the answer rises, each on a line
    (YOLO26, arXiv 2606.03748: progressive loss).
    """

    def __init__(
        self,
        one: DenseCriterion,
        many: DenseCriterion,
        *,
        first: float = 0.2,
        last: float = 0.9,
    ):
        super().__init__()
        self.one, self.many, self.first, self.last = one, many, first, last
        self.at(0.0)

    def at(self, progress: float) -> None:
        """progress: the share of the run that is done, 0 to 1."""
        self.weight = self.first + (self.last - self.first) * progress

    def parts(self, output: DenseOutput, targets: list[Target], step: StepCounts) -> dict[str, Part]:
        one = self.one.parts(output, targets, step)
        # What a selector is to find belongs to neither head.
        parts = one | weighted(self.weight, {n: part for n, part in one.items() if n != "selector"})
        if output.twin is not None:
            twin = self.many.parts(output.twin, targets, step)
            parts |= under("twin/", weighted(1 - self.weight, twin))
        return parts


def _known(output: DenseOutput, wanted: Tensor, targets: list[Target]) -> Tensor | None:
    """[B, A, C] of zeros and ones, None for ones alone. Anchors in a region to ignore, or with a box mostly in one,
    and classes that were not annotated learn nothing but the objects they are wanted for."""
    inside = ignored_points(output.anchors, targets, output.extents)
    boxes = ignored_boxes(output.prediction.boxes, targets)
    unlabelled = unlabelled_classes(targets, wanted.shape[-1], wanted.device)
    if inside is None and unlabelled is None:
        return None
    unknown = torch.zeros_like(wanted, dtype=torch.bool)
    for ignored in (inside, boxes):
        if ignored is not None:
            unknown |= ignored[..., None]
    if unlabelled is not None:
        unknown |= unlabelled[:, None]
    return ((wanted > 0) | ~unknown).float()


def distribution_focal_loss(logits: Tensor, values: Tensor) -> Tensor:
    """Cross entropy towards the two bins around each value (GFL, equation 6).

    logits: [..., R]. values: [...] in bins, clamped to [0, R - 1). Returns [...].
    """
    values = values.clamp(0, logits.shape[-1] - 1 - 0.01)
    low = values.floor()
    log_probability = logits.log_softmax(-1)
    at_low = log_probability.gather(-1, low.long().unsqueeze(-1)).squeeze(-1)
    at_high = log_probability.gather(-1, low.long().unsqueeze(-1) + 1).squeeze(-1)
    return -(at_low * (low + 1 - values) + at_high * (values - low))


def _pad_targets(targets: list[Target], extents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Targets to labels [B, N], boxes [B, N, 4] xyxy in input pixels, and real [B, N] (False = filling)."""
    device = extents.device
    most = max((len(target.labels) for target in targets), default=0)
    labels = torch.zeros(len(targets), most, dtype=torch.int64, device=device)
    boxes = torch.zeros(len(targets), most, 4, device=device)
    real = torch.zeros(len(targets), most, dtype=torch.bool, device=device)
    for i, target in enumerate(targets):
        n = len(target.labels)
        labels[i, :n], boxes[i, :n], real[i, :n] = target.labels.to(device), target.boxes.to(device), True
    pixels = boxes * extents[:, None, 2:].repeat(1, 1, 2) + F.pad(extents[:, None, :2], (0, 2))
    return labels, cxcywh_to_xyxy(pixels), real
