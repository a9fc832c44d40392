"""Denoising training (DN-DETR, Li et al. 2022, arXiv 2203.01305, section 4): objects with noise as extra queries.

The true objects of a batch, disturbed, stand before the ordinary queries, several times over. Each must find its
way back to the object it was made from, without matching. No ordinary query may look at them: they know the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..boxes import cxcywh_to_xyxy, inverse_sigmoid, xyxy_to_cxcywh
from ..structures import Denoised, DenoisingGroups, Prediction, QueryOutput, Target


class NoisedQueries(NamedTuple):
    """P queries for each image, in groups one after another, each as long as the most objects of an image.

    labels: [B, P] int64. boxes: [B, P, 4] float32 fractions. empty: [B, P] bool, True where the image has no
    further object; label 0 and a box of the paper's choice stand there. groups: what was made from what.
    """

    labels: Tensor
    boxes: Tensor
    empty: Tensor
    groups: DenoisingGroups

    def before(
        self, known: Tensor, content: Tensor, boxes: Tensor, eps: float = 1e-5
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Content [B, P + Q, D] and boxes [B, P + Q, 4] of noised and matching queries together, and which query may
        not look at which, [P + Q, P + Q].

        known: [B, P, D], the content of the noised queries. content: [B, Q, D] and boxes: [B, Q, 4] of the matching
        ones. eps: how near to 0 and 1 the numbers of noised boxes can come.
        """
        noised = inverse_sigmoid(self.boxes, eps).sigmoid()
        mask = hide_groups(known.shape[1], self.groups.groups, content.shape[1], content.device)
        return torch.cat([known, content], 1), torch.cat([noised, boxes], 1), mask


def noise_labels(labels: Tensor, rate: float, num_classes: int) -> Tensor:
    """[M] int64 in which each label became any class (its own too) with probability `rate`."""
    flipped = torch.rand(labels.shape, device=labels.device) < rate
    index = flipped.nonzero()[:, 0]
    return labels.index_put((index,), torch.randint(0, num_classes, index.shape, device=labels.device))


def noise_boxes(boxes: Tensor, scale: float) -> Tensor:
    """[M, 4] fractions: centres moved by up to `scale` / 2 of a box's size, sides scaled by 1 +- `scale`.

    Each of the four numbers stays in [0, 1].
    """
    reach = torch.cat([boxes[:, 2:] / 2, boxes[:, 2:]], 1)
    noise = torch.rand(boxes.shape, device=boxes.device) * 2 - 1
    return (boxes + noise * reach * scale).clamp(0, 1)


def move_corners(boxes: Tensor, scale: float, far: Tensor) -> Tensor:
    """[M, 4] fractions: every corner coordinate moved, either way, by up to `scale` half sides of the box; by
    one to two times that where `far`, [M] bool (DINO, Zhang et al. 2022, arXiv 2203.03605, section 3.3).

    Corners stay in [0, 1], but may change places: a far box can have a negative side.
    """
    half = (boxes[:, 2:] / 2).repeat(1, 2)
    sign = torch.randint(0, 2, boxes.shape, device=boxes.device) * 2.0 - 1.0
    reach = torch.rand(boxes.shape, device=boxes.device) + far.unsqueeze(-1).float()
    corners = cxcywh_to_xyxy(boxes) + sign * reach * half * scale
    return xyxy_to_cxcywh(corners.clamp(0, 1))


def noised_queries(
    targets: Sequence[Target] | None, num_classes: int, *, groups: int, label_noise: float, box_noise: float
) -> NoisedQueries | None:
    """Every object of the batch `groups` times, with noise; None without targets and where no image has an object.

    Where an image has no further object, the box in the middle of the picture stands, as large as half of it.
    """
    if targets is None or groups == 0 or not any(len(target.labels) for target in targets):
        return None
    labels, boxes = _all_objects(targets)
    # Labels are drawn before boxes, group by group and image by image.
    labels = noise_labels(labels.repeat(groups), label_noise, num_classes)
    boxes = noise_boxes(boxes.repeat(groups, 1), box_noise)
    return _arrange(targets, labels, boxes, torch.ones_like(labels, dtype=torch.bool), groups, filler=0.5)


def contrastive_queries(
    targets: Sequence[Target] | None,
    num_classes: int,
    *,
    most: int,
    label_noise: float,
    box_noise: float,
    filler: float,
) -> NoisedQueries | None:
    """Every object in groups of two copies: one to be repaired, and one moved so far that it is to be rejected
    (DINO, arXiv 2203.03605, section 3.3); None without targets and where no image has an object.

    There are as many groups as `most` holds the largest number of objects in an image, and at least one.
    filler: the four numbers of the box that stands where an image has no further object. It matters: such a query
    is to find nothing, and others of its group see it.
    """
    longest = max((len(target.labels) for target in targets or ()), default=0)
    if targets is None or longest == 0 or most == 0:
        return None
    groups = max(1, most // longest)
    labels, boxes = _all_objects(targets)
    positive = torch.tensor([True, False], device=labels.device).repeat(groups).repeat_interleave(len(labels))
    labels = noise_labels(labels.repeat(2 * groups), label_noise, num_classes)
    boxes = move_corners(boxes.repeat(2 * groups, 1), box_noise, ~positive)
    return _arrange(targets, labels, boxes, positive, groups, filler)


def _all_objects(targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
    """labels [M] and boxes [M, 4] of the batch, image by image."""
    return torch.cat([target.labels for target in targets]), torch.cat([target.boxes for target in targets])


def _arrange(
    targets: Sequence[Target],
    labels: Tensor,
    boxes: Tensor,
    positive: Tensor,
    groups: int,
    filler: float,
) -> NoisedQueries:
    """labels [M], boxes [M, 4], positive [M]: of all objects of the batch, image by image, over and over.

    Each copy of the batch gets a block of as many queries as an image has objects at most.
    """
    counts, device = [len(target.labels) for target in targets], labels.device
    longest, copies = max(counts), len(labels) // sum(counts)
    image = torch.cat([torch.full((count,), i, device=device) for i, count in enumerate(counts)])
    target = torch.cat([torch.arange(count, device=device) for count in counts])
    start = torch.arange(copies, device=device).repeat_interleave(len(image)) * longest
    image, target = image.repeat(copies), target.repeat(copies)
    query = start + target
    size = (len(targets), copies * longest)
    placed_labels = torch.zeros(size, dtype=torch.int64, device=device)
    placed_boxes = torch.full((*size, 4), filler, device=device)
    empty = torch.ones(size, dtype=torch.bool, device=device)
    placed_labels[image, query], placed_boxes[image, query], empty[image, query] = labels, boxes, False
    made_from = DenoisingGroups(image, target, query, positive, groups)
    return NoisedQueries(placed_labels, placed_boxes, empty, made_from)


def indicated(labels: nn.Embedding, noised: NoisedQueries) -> Tensor:
    """[B, P, D] content of noised queries as DN-DETR makes it (section 4.3): the embedding of the label, [D - 1], and
    1, which says that it is a noised object; 0 where there is none."""
    known = nn.functional.pad(labels(noised.labels), (0, 1), value=1.0)
    return known.masked_fill(noised.empty[..., None], 0.0)


def hide_groups(noised: int, groups: int, matching: int, device: torch.device | None = None) -> Tensor:
    """Who may not look at whom: [P + N, P + N] bool, for P `noised` queries before N `matching` ones.

    Matching queries do not see noised ones, and groups do not see each other; noised queries see the matching
    ones. Empty places of a group are not hidden from it, as in the paper's own training.
    """
    number = torch.arange(noised + matching, device=device)
    group = torch.where(number < noised, number * groups // max(1, noised), groups)
    others = group[:, None] != group[None, :]
    return others & (number < noised)[None, :]


def separate(layers: Sequence[Prediction], noised: NoisedQueries) -> QueryOutput:
    """Predictions of noised and matching queries together, taken apart."""
    count = noised.labels.shape[1]
    found = tuple(Prediction(logits[:, :count], boxes[:, :count]) for logits, boxes in layers)
    answers = tuple(Prediction(logits[:, count:], boxes[:, count:]) for logits, boxes in layers)
    return QueryOutput(answers, denoised=Denoised(found, noised.groups))
