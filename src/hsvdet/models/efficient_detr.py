"""Efficient DETR: Improving End-to-End Object Detector with Dense Prior. Yao et al., 2021,
https://arxiv.org/abs/2104.01318

Queries that start from nothing need six decoder layers. Here a dense head predicts classes and a box at every token of
a deformable encoder; the best tokens, as they are, become the queries, and their boxes the references. Then three
encoder layers and one decoder layer are enough. Early in training, when the dense head ranks badly, more are taken.

Deviations: tokens of padding, and those whose box would touch the edge of the picture, are proposed only when there are
no others. A query's place is a linear layer of the sines of its box, as in the code of Sparse DETR (arXiv 2111.14330),
which has Efficient DETR in it; its authors have published none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..boxes import refine
from ..criteria.class_losses import FocalLoss
from ..criteria.numbers import LossNumbers
from ..criteria.set import SetCriterion
from ..layers.initialise import init_class_prior, init_xavier, init_zero_last
from ..layers.position import sine_of_coordinates
from ..layers.pyramid import Pyramid
from ..layers.queries import content_of, pick, token_boxes, top_tokens
from ..layers.transformer import Mlp
from ..structures import Prediction, QueryOutput
from .deformable_detr import DeformableDetrConfig, backbone_of, decoder_of, encoder_of
from .tiny import TINY_PYRAMID


@dataclass(frozen=True, kw_only=True)
class EfficientDetrConfig(DeformableDetrConfig):
    """The paper's numbers (section 5). queries: at the end of training, and ever after; first_queries: at its
    beginning; the number falls linearly. own_heads: whether the dense head and every decoder layer have heads of their
    own; in the paper all share one."""

    encoder_layers: int = 3
    decoder_layers: int = 1
    queries: int = 100
    first_queries: int = 300
    own_heads: bool = False


VARIANTS: dict[str, dict[str, Any]] = {
    "efficient-detr-r50": dict(),
    "efficient-detr-tiny": TINY_PYRAMID | dict(decoder_layers=1, queries=50, first_queries=100),
}
# As the code of Sparse DETR has it by default: the queries of Efficient DETR in a network of Deformable DETR's depth.
DEEP_VARIANTS: dict[str, dict[str, Any]] = {
    "efficient-detr-r50-e6d6": dict(
        encoder_layers=6, decoder_layers=6, queries=300, first_queries=300, own_heads=True
    ),
}


class EfficientDetr(nn.Module):
    """images [B, 3, H, W] normalised, padding [B, H, W] bool, to QueryOutput. Class logits are for sigmoids.

    Its proposals are those of all tokens.
    """

    BACKBONE = ("backbone",)
    HALF_PRECISION = False

    def __init__(self, config: EfficientDetrConfig, num_classes: int):
        super().__init__()
        dim = config.dim
        self.config = config
        self.backbone = backbone_of(config)
        self.pyramid = Pyramid(self.backbone.channels, dim, config.levels)
        self.encoder = encoder_of(config)
        self.propose = nn.Sequential(init_xavier(nn.Linear(dim, dim)), nn.LayerNorm(dim))
        self.query_position = nn.Sequential(init_xavier(nn.Linear(2 * dim, dim)), nn.LayerNorm(dim))
        self.decoder = decoder_of(config)
        # Of the decoder's layers, and last of the dense head; or one of all.
        heads = config.decoder_layers + 1 if config.own_heads else 1
        self.classes = nn.ModuleList(init_class_prior(nn.Linear(dim, num_classes)) for _ in range(heads))
        self.boxes = nn.ModuleList(init_zero_last(Mlp(dim, dim, 4, depth=3)) for _ in range(heads))
        self.at(1.0)

    def at(self, progress: float) -> None:
        """progress: the share of the run that is done, 0 to 1."""
        first, last = self.config.first_queries, self.config.queries
        self.queries = round(first + (last - first) * progress)

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> QueryOutput:
        memory = self.encoder(*self.pyramid(self.backbone(images, padding), padding))
        first, unusable = token_boxes(memory)  # [B, S, 4], [B, S]
        edge = unusable.unsqueeze(-1)
        features = self.propose(memory.features.masked_fill(edge, 0.0))
        boxes = refine(self.boxes[-1](features), first).masked_fill(edge, 1.0)
        proposals = Prediction(self.classes[-1](features), boxes)
        best = top_tokens(proposals.logits.amax(-1), self.queries, unusable)
        # Through their boxes no gradient reaches the proposals, but a query is its token.
        reference, content = pick(boxes, best).detach(), content_of(memory, best)
        query_position = self.query_position(sine_of_coordinates(reference, self.config.dim // 2))
        predictions = []
        for number, layer in enumerate(self.decoder):
            content = layer(content, query_position, reference, memory)
            head = number if self.config.own_heads else 0
            boxes = refine(self.boxes[head](content), reference)
            predictions.append(Prediction(self.classes[head](content), boxes))
            reference = boxes.detach()
        return QueryOutput(tuple(predictions), proposals)


def criterion(numbers: LossNumbers = LossNumbers()) -> SetCriterion:
    """The paper's loss (section 4): the dense head and the queries learn alike, matched one to one."""
    return SetCriterion(FocalLoss())
