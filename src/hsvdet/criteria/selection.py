"""The losses of learned token selectors: they are to find objects, whatever the network makes of the tokens; or the
tokens at which the network's own decoder looks."""

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
        for (logits, stride, *_), wanted in zip(selections, maps, strict=True):
            logits = logits.float()
            cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
            cross_entropy = (wanted - logits.sigmoid()).square() * cross_entropy
            unknown = _unknown_cells((logits.shape[-2], logits.shape[-1]), stride, targets, extents)
            losses.append(
                (cross_entropy if unknown is None else cross_entropy.masked_fill(unknown, 0.0)).sum()
            )
        return self.gain * sum(losses[1:], losses[0])


def attended_loss(selections: Sequence[Selection]) -> Tensor:
    """[B]: the cross-entropy between the logits of all maps and whether a token is among the n that the decoder looks
    at most, with n as many as were kept in the image; the mean over its tokens (Sparse DETR, Roh et al. 2022, arXiv
    2111.14330, section 3.2). Every selection has to have `kept` and `attended`."""
    logits, kept, attended = _of_all_maps(selections)
    most = attended.sort(dim=1, descending=True, stable=True).indices
    rank = torch.arange(logits.shape[1], device=logits.device)
    wanted = torch.zeros_like(logits).scatter(1, most, (rank < kept.sum(1, keepdim=True)).float())
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)


def attended_share(selections: Sequence[Selection]) -> Tensor:
    """[B] in 0..1: of the decoder's looks at the picture, how much falls on tokens that were kept. As of
    `attended_loss`. (Sparse DETR's authors count looks at padding as missed, too.)"""
    _, kept, attended = _of_all_maps(selections)
    looks = attended.clamp(min=0)  # -1 is padding
    return (looks * kept).sum(1) / looks.sum(1).clamp(min=1e-6)


def _of_all_maps(selections: Sequence[Selection]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, kept and attended, [B, S] each, one map after another."""
    logits = torch.cat([one.logits.float().flatten(1) for one in selections], 1)
    kept = torch.cat([one.kept.flatten(1) for one in selections if one.kept is not None], 1)
    attended = torch.cat([one.attended.flatten(1) for one in selections if one.attended is not None], 1)
    return logits, kept, attended


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
