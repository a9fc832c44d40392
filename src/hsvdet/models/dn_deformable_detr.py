"""DN-Deformable-DETR: denoising (Li et al., 2022, https://arxiv.org/abs/2203.01305) in Deformable DETR with the
dynamic anchor boxes of DAB-DETR (section 5 of the paper, "DN-Deformable-DETR").

The encoder and the attention are those of Deformable DETR; a query's place is a box, as in DAB-DETR, refined from
layer to layer by a head of each layer's own; and in training, true objects with noise are extra queries.

Deviation: the feed-forward networks have 2048 values, twice those of Deformable DETR, as in the published weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import backbones
from ..boxes import refine
from ..criteria.class_losses import FocalLoss
from ..criteria.numbers import LossNumbers
from ..criteria.set import SetCriterion, SetWeights
from ..layers.deformable_transformer import DeformableDecoderLayer, DeformableEncoder
from ..layers.denoising import indicated, noised_queries, separate
from ..layers.initialise import init_class_prior, init_small_boxes, init_zero_last
from ..layers.position import sine_of_coordinates
from ..layers.pyramid import Pyramid, Tokens
from ..layers.queries import on_maps
from ..layers.transformer import Mlp
from ..structures import Prediction, QueryOutput
from .tiny import TINY_PYRAMID


@dataclass(frozen=True, kw_only=True)
class DnDeformableDetrConfig:
    """The paper's numbers. See DeformableDetrConfig for the names that are not here.

    eps: how near to 0 and 1 a box's numbers can come when they are refined. groups: how many times each object
    is given with noise. label_noise: share of labels replaced by any class. box_noise: centres move by up to
    half of it, sides scale by 1 +- it, in parts of the box's size.
    """

    backbone: str = "resnet50"
    pretrained: bool = True
    dim: int = 256
    heads: int = 8
    levels: int = 4
    points: int = 4
    feed_forward: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 300
    dropout: float = 0.0
    eps: float = 1e-3
    groups: int = 5
    label_noise: float = 0.2
    box_noise: float = 0.4


VARIANTS: dict[str, dict[str, Any]] = {
    "dn-deformable-detr-r50": dict(),
    "dn-deformable-detr-tiny": TINY_PYRAMID,
}


class DnDeformableDetr(nn.Module):
    """images [B, 3, H, W] normalised, padding [B, H, W] bool, to QueryOutput. Class logits are for sigmoids.

    With `targets`, the output has `denoised` too, and is otherwise the same.
    """

    BACKBONE = ("backbone",)
    HALF_PRECISION = False

    def __init__(self, config: DnDeformableDetrConfig, num_classes: int):
        super().__init__()
        dim, layers = config.dim, config.decoder_layers
        sizes = (dim, config.levels, config.heads, config.points, config.feed_forward, config.dropout)
        self.config = config
        self.backbone = backbones.build(
            config.backbone, (2, 3, 4)[-min(config.levels, 3) :], frozen=1 if config.pretrained else None
        )
        self.pyramid = Pyramid(self.backbone.channels, dim, config.levels)
        self.encoder = DeformableEncoder(config.encoder_layers, *sizes)
        self.anchors = nn.Parameter(torch.randn(config.queries, 4))  # before the sigmoid
        # One channel less than a token: the last one says whether the query is a noised object.
        self.contents = nn.Parameter(torch.randn(config.queries, dim - 1))
        self.labels = nn.Embedding(num_classes + 1, dim - 1)  # the last, of an unknown class, is not used
        self.query_position = Mlp(2 * dim, dim, dim, depth=2)
        self.scale = Mlp(dim, dim, dim, depth=2)
        self.decoder = nn.ModuleList(DeformableDecoderLayer(*sizes) for _ in range(layers))
        self.classes = nn.ModuleList(init_class_prior(nn.Linear(dim, num_classes)) for _ in range(layers))
        boxes = [init_zero_last(Mlp(dim, dim, 4, depth=3)) for _ in range(layers)]
        init_small_boxes(boxes[0])  # anchors are too large at first
        self.boxes = nn.ModuleList(boxes)

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> QueryOutput:
        """targets: list of Target on the device of the images; each object is given to the decoder with noise."""
        memory = self.encoder(*self.pyramid(self.backbone(images, padding), padding))
        content = nn.functional.pad(self.contents, (0, 1)).expand(images.shape[0], -1, -1)
        anchors = self.anchors.sigmoid().expand(images.shape[0], -1, -1)
        config = self.config
        noised = noised_queries(
            targets,
            self.labels.num_embeddings - 1,
            groups=config.groups,
            label_noise=config.label_noise,
            box_noise=config.box_noise,
        )
        if noised is None:
            if self.training:  # every parameter gets a gradient, as processes that train together need
                content = content + 0 * self.labels.weight.sum()
            return QueryOutput(self.decode(content, anchors, memory))
        known = indicated(self.labels, noised)
        content, anchors, query_mask = noised.before(known, content, anchors, config.eps)
        return separate(self.decode(content, anchors, memory, query_mask), noised)

    def decode(
        self, content: Tensor, anchors: Tensor, memory: Tokens, query_mask: Tensor | None = None
    ) -> tuple[Prediction, ...]:
        """content: [B, Q, D]. anchors: [B, Q, 4] boxes. query_mask: [Q, Q] bool, which queries may not look
        at which. The predictions of every layer."""
        predictions = []
        for number, layer in enumerate(self.decoder):
            # Anchors are fractions of the picture; their sines are taken where they lie on the finest map.
            on_canvas = on_maps(anchors, memory)[:, :, 0]
            query_position = self.query_position(
                sine_of_coordinates(on_canvas[..., [1, 0, 2, 3]], self.config.dim // 2)
            )
            if number > 0:
                query_position = query_position * self.scale(content)
            content = layer(content, query_position, anchors, memory, query_mask)
            boxes = refine(self.boxes[number](content), anchors, self.config.eps)
            predictions.append(Prediction(self.classes[number](content), boxes))
            anchors = boxes.detach()
        return tuple(predictions)


def criterion(numbers: LossNumbers = LossNumbers()) -> SetCriterion:
    """As DN-DETR's: focal classes, 1 in the sum; noised queries that stand for no object learn nothing."""
    return SetCriterion(FocalLoss(), weights=SetWeights(class_=1.0), denoised_rows="real")
