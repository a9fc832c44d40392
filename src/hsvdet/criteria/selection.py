"""The loss of learned token selectors: they are to find objects, whatever the network makes of the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..structures import Selection, Target
from .salience import AnchorScores, GaussianSalience, Salience


@dataclass(frozen=True)
class SelectionLoss:
    """The quality focal loss (Li et al. 2020, arXiv 2006.04388, equation 2) of all selections of an output against
    their salience, summed over cells; times `gain`. To be divided by the number of objects."""

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
        for (logits, _), wanted in zip(selections, maps, strict=True):
            logits = logits.float()
            surprise = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
            losses.append(((wanted - logits.sigmoid()).square() * surprise).sum())
        return self.gain * sum(losses[1:], losses[0])
