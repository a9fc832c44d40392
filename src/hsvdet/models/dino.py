"""DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object Detection. Zhang et al., 2023,
https://arxiv.org/abs/2203.03605

DN-Deformable-DETR with three changes (section 3.2). Contrastive denoising: beside each object to be repaired stands one
with so much noise that it is to be rejected, which teaches to choose between near anchors. Mixed query selection: the
best tokens of the image give the first anchors, but what a query is at first is learned, as tokens may hold parts of
objects or several. Look forward twice: the box of a layer also corrects the layer before, from whose box it started.

Deviation: tokens of padding, and those whose box would touch the edge of the picture, become queries only when there
are no others; the authors' code lets them compete, all with one and the same score.
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
from ..errors import ConfigError
from ..layers.deformable_transformer import DeformableDecoderLayer, DeformableEncoder
from ..layers.denoising import contrastive_queries, separate
from ..layers.initialise import init_class_prior, init_xavier, init_zero_last, xavier
from ..layers.position import sine_of_coordinates
from ..layers.pyramid import Pyramid, Tokens
from ..layers.queries import on_maps, pick, token_boxes, top_tokens
from ..layers.transformer import Mlp
from ..structures import Prediction, QueryOutput
from .tiny import TINY_PYRAMID


@dataclass(frozen=True, kw_only=True)
class DinoConfig:
    """The paper's numbers (section 4.1 and appendix). See DeformableDetrConfig for the names that are not here.

    levels: maps of the pyramid, 2 to 5; all but the coarsest are of the backbone, its last ones. temperature: of the
    sine position of tokens. eps: how near to 0 and 1 a box's numbers can come when they are refined.
    denoising: noised queries of a kind, to be repaired or to be rejected, that an image gets about. label_noise: share
    of labels replaced by any class (the authors' dn_label_noise_ratio is twice that). box_noise: how far corners move,
    in halves of the box's sides; twice as far where the query is to be rejected.
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
    queries: int = 900
    dropout: float = 0.0
    temperature: float = 20.0
    eps: float = 1e-3
    denoising: int = 100
    label_noise: float = 0.25
    box_noise: float = 0.4

    def __post_init__(self):
        if not 2 <= self.levels <= 5:
            raise ConfigError(
                f"levels expects 2 to 5, one more than maps of the backbone; got {self.levels}."
            )


VARIANTS: dict[str, dict[str, Any]] = {
    "dino-r50": dict(),
    "dino-r50-5scale": dict(levels=5),
    "dino-tiny": TINY_PYRAMID | dict(denoising=25),
}


class Dino(nn.Module):
    """images [B, 3, H, W] normalised, padding [B, H, W] bool, to QueryOutput. Class logits are for sigmoids.

    Its proposals are those of the chosen tokens, with classes of their own. With `targets`, the output has `denoised`
    too, and is otherwise the same.
    """

    BACKBONE = ("backbone",)
    HALF_PRECISION = False

    def __init__(self, config: DinoConfig, num_classes: int):
        super().__init__()
        dim = config.dim
        sizes = (dim, config.levels, config.heads, config.points, config.feed_forward, config.dropout)
        self.config = config
        self.backbone = backbones.build(
            config.backbone, (1, 2, 3, 4)[1 - config.levels :], frozen=1 if config.pretrained else None
        )
        self.pyramid = Pyramid(
            self.backbone.channels, dim, config.levels, temperature=config.temperature, offset=0.0
        )
        self.encoder = DeformableEncoder(config.encoder_layers, *sizes)
        self.propose = nn.Sequential(init_xavier(nn.Linear(dim, dim)), nn.LayerNorm(dim))
        self.proposal_classes = init_class_prior(nn.Linear(dim, num_classes))
        self.proposal_boxes = init_zero_last(Mlp(dim, dim, 4, depth=3))
        self.contents = nn.Parameter(nn.init.xavier_uniform_(torch.empty(config.queries, dim)))
        self.labels = nn.Embedding(num_classes + 1, dim)  # the last, of an unknown class, is not used
        self.query_position = xavier(Mlp(2 * dim, dim, dim, depth=2))
        self.decoder = nn.ModuleList(DeformableDecoderLayer(*sizes) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(dim)
        # One head for all layers.
        self.classes = init_class_prior(nn.Linear(dim, num_classes))
        self.boxes = init_zero_last(Mlp(dim, dim, 4, depth=3))

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> QueryOutput:
        """targets: list of Target on the device of the images; each object is given to the decoder with noise."""
        memory = self.encoder(*self.pyramid(self.backbone(images, padding), padding))
        proposals = self.select(memory)
        # Mixed query selection: anchors of the image, contents learned for each rank. Gradient reaches the proposals
        # through their own loss alone.
        anchors = proposals.boxes.detach()
        content = self.contents[: anchors.shape[1]].expand(images.shape[0], -1, -1)
        noised = contrastive_queries(
            targets,
            self.labels.num_embeddings - 1,
            most=self.config.denoising,
            label_noise=self.config.label_noise,
            box_noise=self.config.box_noise,
            filler=0.5,
        )
        if noised is None:
            if self.training:  # every parameter gets a gradient, as processes that train together need
                content = content + 0 * self.labels.weight.sum()
            return QueryOutput(self.decode(content, anchors, memory), proposals)
        known = self.labels(noised.labels).masked_fill(noised.empty[..., None], 0.0)
        content, anchors, query_mask = noised.before(known, content, anchors, self.config.eps)
        layers = self.decode(content, anchors, memory, query_mask)
        return separate(layers, noised)._replace(proposals=proposals)

    def select(self, memory: Tokens) -> Prediction:
        """What the tokens propose that most look like an object of any class, best first."""
        first, unusable = token_boxes(memory)  # [B, S, 4], [B, S]
        features = self.propose(memory.features.masked_fill(unusable.unsqueeze(-1), 0.0))
        logits = self.proposal_classes(features)
        chosen = top_tokens(logits.amax(-1), self.config.queries, unusable)
        boxes = refine(self.proposal_boxes(pick(features, chosen)), pick(first, chosen))
        # In the paper an unusable token starts at infinity before the sigmoid, and stays there.
        edge = unusable.gather(1, chosen).unsqueeze(-1)
        return Prediction(pick(logits, chosen), boxes.masked_fill(edge, 1.0))

    def decode(
        self, content: Tensor, anchors: Tensor, memory: Tokens, query_mask: Tensor | None = None
    ) -> tuple[Prediction, ...]:
        """content: [B, Q, D]. anchors: [B, Q, 4] boxes. query_mask: [Q, Q] bool, which queries may not look
        at which. The predictions of every layer."""
        start, predictions = anchors, []
        for layer in self.decoder:
            # Anchors are fractions of the picture; their sines are taken where they lie on the finest map.
            on_canvas = on_maps(anchors, memory)[:, :, 0]
            query_position = self.query_position(
                sine_of_coordinates(on_canvas[..., [1, 0, 2, 3]], self.config.dim // 2)
            )
            content = layer(content, query_position, anchors, memory, query_mask)
            found = self.norm(content)
            # Look forward twice: `start` is the box of the layer before, and passes gradient to it. What the next layer
            # looks from passes none.
            boxes = refine(self.boxes(found), start, self.config.eps)
            predictions.append(Prediction(self.classes(found), boxes))
            start = refine(self.boxes(content), anchors, self.config.eps)
            anchors = start.detach()
        return tuple(predictions)


def criterion(numbers: LossNumbers = LossNumbers()) -> SetCriterion:
    """Focal classes, 2 in the matching and 1 in the sum; noised queries that are to be rejected, and those that stand
    for no object, learn to find nothing."""
    return SetCriterion(FocalLoss(), weights=SetWeights(class_=1.0), denoised_rows="all")
