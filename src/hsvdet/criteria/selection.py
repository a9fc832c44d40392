"""The loss of learned token selectors: they are to find objects, whatever the network makes of the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..structures import Selection, Target
from .salience import AnchorScores, GaussianSalience, Salience, cell_centres
from .unknown import ignored_points, object_points


@dataclass(frozen=True)
class SelectionLoss:
    """The quality focal loss (Li et al. 2020, arXiv 2006.04388, equation 2) of all selections of an output against
    their salience, summed over cells; times `gain`. To be divided by the number of objects.

    Where nothing is known (a region to ignore, a picture in which not all classes are labelled) only the cells inside
    annotated objects learn: what else is there may be an object, too.
    """

    salience: Salience = GaussianSalience()
    gain: float = 0.25

    def __call__(
        self,
        selections: Sequence[Selection],
        targets: Sequence[Target],
        extents: Tensor,
        assigned: AnchorScores | None = None,
    ) -> Tensor:
        """extents: [B, 4], left, top, width and height of each picture in pixels of the input. assigned: of the
        network's dense head, if it has one. At least one selection."""
        maps = self.salience(selections, targets, extents, assigned)
        losses = []
        for (logits, stride), wanted in zip(selections, maps, strict=True):
            logits = logits.float()
            cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
            cross_entropy = (wanted - logits.sigmoid()).square() * cross_entropy
            unknown = _unknown_cells((logits.shape[-2], logits.shape[-1]), stride, targets, extents)
            losses.append(
                (cross_entropy if unknown is None else cross_entropy.masked_fill(unknown, 0.0)).sum()
            )
        return self.gain * sum(losses[1:], losses[0])


def _unknown_cells(
    size: tuple[int, int], stride: int, targets: Sequence[Target], extents: Tensor
) -> Tensor | None:
    """[B, h, w] bool; None where all is known."""
    partly = [target.labelled is not None and not bool(target.labelled.all()) for target in targets]
    x, y = cell_centres(size, stride, extents.device)
    points = torch.stack(torch.broadcast_tensors(x[0], y[0]), -1).flatten(0, 1)
    ignored = ignored_points(points, targets, extents)
    if ignored is None and not any(partly):
        return None
    unknown = torch.tensor(partly, device=extents.device)[:, None]
    unknown = unknown if ignored is None else unknown | ignored
    return (unknown & ~object_points(points, targets, extents)).unflatten(1, size)
