"""DN-DETR: Accelerate DETR Training by Introducing Query DeNoising. Li et al., 2022,
https://arxiv.org/abs/2203.01305

DAB-DETR plus denoising: bipartite matching is unstable early in training, so true objects with noise are given as
extra queries, which must be repaired without matching. Inference is that of DAB-DETR, but for the queries' content:
an embedding of the class "unknown" instead of nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..criteria.class_losses import FocalLoss
from ..criteria.numbers import LossNumbers
from ..criteria.set import SetCriterion, SetWeights
from ..layers.denoising import indicated, noised_queries, separate
from ..structures import QueryOutput
from .dab_detr import DabDetr, DabDetrConfig
from .tiny import TINY


@dataclass(frozen=True, kw_only=True)
class DnDetrConfig(DabDetrConfig):
    """DAB-DETR's numbers, and those of the noise (section 5.1).

    groups: how many times each object is given. label_noise: share of labels replaced by any class.
    box_noise: centres move by up to half of it, sides scale by 1 +- it, in parts of the box's size.
    """

    groups: int = 5
    label_noise: float = 0.2
    box_noise: float = 0.4


VARIANTS: dict[str, dict[str, Any]] = {
    "dn-detr-r50": dict(),
    "dn-detr-r50-3pat": dict(patterns=3),
    "dn-detr-r50-dc5": dict(dilated=True),
    "dn-detr-r50-dc5-3pat": dict(dilated=True, patterns=3),
    "dn-detr-tiny": TINY,
}


class DnDetr(DabDetr):
    """As DabDetr; with `targets`, the output has `denoised` too, and is otherwise the same."""

    config: DnDetrConfig

    def __init__(self, config: DnDetrConfig, num_classes: int):
        super().__init__(config, num_classes)
        # One channel less than a token: the last one says whether the query is a noised object. One class
        # more than there are: the unknown one, of all matching queries.
        self.labels = nn.Embedding(num_classes + 1, config.dim - 1)

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> QueryOutput:
        """targets: list of Target on the device of the images; each object is given to the decoder with noise."""
        content, anchors = (x.expand(images.shape[0], -1, -1) for x in self.matching_queries())
        encoded = self.encode(images, padding)
        config = self.config
        noised = noised_queries(
            targets,
            self.labels.num_embeddings - 1,
            groups=config.groups,
            label_noise=config.label_noise,
            box_noise=config.box_noise,
        )
        if noised is None:
            return QueryOutput(self.decode(content, anchors, *encoded))
        known = indicated(self.labels, noised)
        content, anchors, query_mask = noised.before(known, content, anchors, config.eps)
        return separate(self.decode(content, anchors, *encoded, query_mask), noised)

    def matching_queries(self) -> tuple[Tensor, Tensor]:
        """Content [Q, D] and anchors [Q, 4] of the ordinary queries."""
        anchors = self.anchors.sigmoid().repeat(max(1, self.config.patterns), 1)
        content = nn.functional.pad(self.labels.weight[-1:], (0, 1)).expand(len(anchors), -1)
        if self.patterns is not None:
            content = content + self.patterns.repeat_interleave(self.config.queries, 0)
        return content, anchors


def criterion(numbers: LossNumbers = LossNumbers()) -> SetCriterion:
    """DAB-DETR's loss, of noised queries too; those that stand for no object learn nothing."""
    return SetCriterion(FocalLoss(), weights=SetWeights(class_=1.0), denoised_rows="real")
