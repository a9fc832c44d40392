"""One-to-one matching of queries and objects at the least total cost (DETR, arXiv 2005.12872, equation 1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..boxes import cxcywh_to_xyxy, generalised_iou
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
    device = prediction.boxes.device
    blocks = []
    for logits, boxes, target in zip(prediction.logits, prediction.boxes, targets, strict=True):
        wanted, boxes = target.boxes.to(device).float(), boxes.float()
        l1 = torch.cdist(boxes, wanted, p=1)
        giou = generalised_iou(cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(wanted))
        class_ = class_loss.cost(logits, target.labels.to(device))
        blocks.append((costs.class_ * class_ + costs.l1 * l1 - costs.giou * giou).flatten())
    flat = torch.cat(blocks).cpu()  # one copy from the device for the whole batch
    if not flat.isfinite().all():
        _raise_not_finite(prediction, name)
    queries, images, rows, columns = prediction.boxes.shape[1], [], [], []
    start = 0
    for image, target in enumerate(targets):
        n = len(target.labels)
        cost = flat[start : start + queries * n].view(queries, n).numpy()
        start += queries * n
        row, column = linear_sum_assignment(cost)
        images += [image] * len(row)
        rows.append(torch.from_numpy(row))
        columns.append(torch.from_numpy(column))
    parts = torch.tensor(images, dtype=torch.int64), torch.cat(rows).long(), torch.cat(columns).long()
    return Match(*(part.to(device) for part in parts))


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
