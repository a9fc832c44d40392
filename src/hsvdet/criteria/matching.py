"""Which query learns which object: one-to-one at the least total cost (DETR, arXiv 2005.12872, equation 1), and
one-to-many by quality."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..boxes import cxcywh_to_xyxy, generalised_iou, iou
from ..errors import NonFiniteError
from ..structures import Prediction, Target
from .class_losses import ClassLoss


class MatchingCosts(NamedTuple):
    """Weights of the three costs: class, L1 distance of boxes in fractions, and negative GIoU."""

    class_: float = 2.0
    l1: float = 5.0
    giou: float = 2.0


class Match(NamedTuple):
    """Matched pairs over a batch. image, query, target: [M] int64; in each image by rising query number."""

    image: Tensor
    query: Tensor
    target: Tensor


@torch.no_grad()
def match(
    prediction: Prediction,
    targets: list[Target],
    class_loss: ClassLoss,
    costs: MatchingCosts,
    name: str = "prediction",
) -> Match:
    """The pairs of least cost in every image; min(Q, N) of them, so objects beyond Q queries stay unmatched.

    Raises NonFiniteError naming `name` and the tensor when a prediction is not finite.
    """

    def cost(logits: Tensor, boxes: Tensor, target: Target) -> Tensor:
        l1 = torch.cdist(boxes, target.boxes, p=1)
        giou = generalised_iou(cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(target.boxes))
        class_ = class_loss.cost(logits, target.labels)
        return costs.class_ * class_ + costs.l1 * l1 - costs.giou * giou

    return match_by(cost, prediction, targets, name)


@torch.no_grad()
def match_by(
    cost: Callable[[Tensor, Tensor, Target], Tensor],
    prediction: Prediction,
    targets: list[Target],
    name: str = "prediction",
) -> Match:
    """As `match`, with another cost: (logits [Q, C], boxes [Q, 4], target) of an image to [Q, N]."""
    device = prediction.boxes.device
    blocks = []
    for logits, boxes, target in zip(prediction.logits, prediction.boxes, targets, strict=True):
        wanted = target._replace(labels=target.labels.to(device), boxes=target.boxes.to(device).float())
        blocks.append(cost(logits, boxes.float(), wanted).flatten())
    flat = torch.cat(blocks).cpu()  # one copy from the device for the whole batch
    if not flat.isfinite().all():
        _raise_not_finite(prediction, name)
    queries, images, rows, columns = prediction.boxes.shape[1], [], [], []
    start = 0
    for image, target in enumerate(targets):
        n = len(target.labels)
        costs = flat[start : start + queries * n].view(queries, n).numpy()
        start += queries * n
        row, column = linear_sum_assignment(costs)
        images += [image] * len(row)
        rows.append(torch.from_numpy(row))
        columns.append(torch.from_numpy(column))
    parts = torch.tensor(images, dtype=torch.int64), torch.cat(rows).long(), torch.cat(columns).long()
    return Match(*(part.to(device) for part in parts))


def overlap_cost(logits: Tensor, boxes: Tensor, target: Target) -> Tensor:
    """-p IoU^4: for late in a run, when classes and boxes are near and what counts is which agree best (DEIMv2,
    Huang et al. 2025, arXiv 2509.20787)."""
    return -_probabilities(logits, target) * _overlaps(boxes, target) ** 4


@torch.no_grad()
def match_many(
    prediction: Prediction,
    targets: list[Target],
    *,
    most: int = 6,
    fill: float = 0.6,
    least: float = 0.4,
    name: str = "prediction",
) -> Match:
    """Several queries for each object, by a quality of 0.7 IoU + 0.3 p(class).

    An image with Q queries and N objects gives each object k = fill Q / N of them, one to `most`, so that a crowd
    leaves queries that learn to find nothing (MS-DETR, Zhao et al. 2024, arXiv 2401.03989, with a fixed k): its k
    best, but none of a quality under `least`, and each query to the best of the objects that want it. One of the k is
    sure, at the best total quality of a matching one to one: of two objects in one place neither goes without.
    """

    def quality(logits: Tensor, boxes: Tensor, target: Target) -> Tensor:
        return 0.7 * _overlaps(boxes, target) + 0.3 * _probabilities(logits, target)

    device, queries = prediction.boxes.device, prediction.boxes.shape[1]
    sure = match_by(lambda *of_image: -quality(*of_image), prediction, targets, name)
    object_of = torch.full(prediction.boxes.shape[:2], -1, device=device)
    for image, (logits, boxes, target) in enumerate(
        zip(prediction.logits, prediction.boxes, targets, strict=True)
    ):
        count = len(target.labels)
        if count == 0:
            continue
        wanted = target._replace(labels=target.labels.to(device), boxes=target.boxes.to(device).float())
        values = quality(logits, boxes.float(), wanted)  # [Q, N]
        here = sure.image == image
        values[sure.query[here], sure.target[here]] += 1  # above all others
        best = values.topk(min(queries, max(1, min(most, int(fill * queries / count)))), 0)
        values = torch.zeros_like(values).scatter(0, best.indices, best.values)
        value, row = values.max(1)
        object_of[image] = row.where(value >= least, -1)
    image, query = (object_of >= 0).nonzero(as_tuple=True)
    return Match(image, query, object_of[image, query])


def _probabilities(logits: Tensor, target: Target) -> Tensor:
    """[Q, N]: what each query gives to the class of each object."""
    return logits.float().sigmoid()[:, target.labels]


def _overlaps(boxes: Tensor, target: Target) -> Tensor:
    return iou(cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(target.boxes))


def _raise_not_finite(prediction: Prediction, name: str) -> None:
    for part in ("logits", "boxes"):
        bad = ~getattr(prediction, part).isfinite().all(-1)
        if bad.any():
            raise NonFiniteError(
                f"{name}.{part} holds NaN or infinity in {int(bad.sum())} of {bad.numel()} queries, so they cannot"
                " be matched with objects. Lower the learning rate, or train with --precision fp32."
            )
    raise NonFiniteError(
        f"The cost of matching {name} is not finite though the prediction is: look at targets."
    )
