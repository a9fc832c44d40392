"""RT-DETR: DETRs Beat YOLOs on Real-time Object Detection. Zhao, Lv et al., 2024, https://arxiv.org/abs/2304.08069

A query detector at the speed of a dense one. Its encoder is hybrid: attention only within the coarsest map, where it
is cheap and means most, and convolutions between maps; the best tokens by their class score become the first
queries; and since every decoder layer refines the boxes of the one before, layers can be left out at inference
without new training. RT-DETRv2's network (arXiv 2407.17140) is the same.

Deviations: the position of the coarsest map's cells is their row and column also where the map is not square (the
authors' code transposes it there); tokens whose box would touch the picture's edge are proposed only when there are
no others. The paper stretches pictures to the input; padding is heeded all the same, and boxes are then fractions of
the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .. import backbones
from ..boxes import refine
from ..criteria.class_losses import VarifocalLoss
from ..criteria.numbers import LossNumbers
from ..criteria.set import SetCriterion, SetWeights
from ..errors import ConfigError
from ..layers.conv import ConvNorm
from ..layers.deformable_transformer import DeformableDecoderLayer
from ..layers.denoising import contrastive_queries, separate
from ..layers.hybrid_encoder import HybridEncoder
from ..layers.initialise import init_class_prior, init_xavier, init_zero_last
from ..layers.pyramid import Tokens, flatten_maps
from ..layers.queries import pick, token_boxes, top_tokens
from ..layers.transformer import Mlp
from ..structures import Prediction, QueryOutput


@dataclass(frozen=True, kw_only=True)
class RtDetrConfig:
    """The paper's numbers (table 2 and appendix).

    backbone: see `backbones.build`. frozen: its normalisation and stem are not trained.
    neck: channels of the encoder's maps; dim: D of queries and memory. expansion: channels inside the fusion
    blocks, of `neck`. feed_forward: of the decoder; encoder_feed_forward: of the encoder's attention.
    answer_layer: the decoder layer that gives the answer in evaluation, from 1; 0 for the last. A trained network
    works with any: fewer layers are faster (table 5).
    denoising: noised queries of a kind an image gets about. label_noise: share of labels replaced by any class.
    box_noise: how far corners move, in halves of the box's sides.
    """

    AFTER_TRAINING = ("answer_layer",)

    backbone: str = "resnet50vd"
    frozen: bool = True
    neck: int = 256
    dim: int = 256
    heads: int = 8
    points: int = 4
    expansion: float = 1.0
    encoder_feed_forward: int = 1024
    feed_forward: int = 1024
    decoder_layers: int = 6
    answer_layer: int = 0
    queries: int = 300
    denoising: int = 100
    label_noise: float = 0.25
    box_noise: float = 1.0

    def __post_init__(self):
        if self.answer_layer > self.decoder_layers:
            raise ConfigError(
                f"answer_layer expects 0 for the last, or 1 to {self.decoder_layers}, the decoder's layers; got"
                f" {self.answer_layer}."
            )


VARIANTS: dict[str, dict[str, Any]] = {
    "rt-detr-r18": dict(backbone="resnet18vd", frozen=False, expansion=0.5, decoder_layers=3),
    "rt-detr-r34": dict(backbone="resnet34vd", frozen=False, expansion=0.5, decoder_layers=4),
    "rt-detr-r50-m": dict(expansion=0.5, answer_layer=3),
    "rt-detr-r50": dict(),
    "rt-detr-r101": dict(backbone="resnet101vd", neck=384, encoder_feed_forward=2048),
    "rt-detr-tiny": dict(
        backbone="resnetvd-tiny",
        frozen=False,
        neck=64,
        dim=64,
        heads=4,
        expansion=0.5,
        encoder_feed_forward=128,
        feed_forward=128,
        decoder_layers=3,
        queries=100,
        denoising=25,
    ),
}


class RtDetr(nn.Module):
    """images [B, 3, H, W] in 0..1, padding [B, H, W] bool or None, to QueryOutput. Logits are for sigmoids.

    Its proposals are those of the chosen tokens, with classes of their own. With `targets`, the output has
    `denoised` too, and is otherwise the same.
    """

    BACKBONE = ("backbone",)
    HALF_PRECISION = False

    def __init__(self, config: RtDetrConfig, num_classes: int):
        super().__init__()
        dim, layers, levels = config.dim, config.decoder_layers, 3
        self.config = config
        self.backbone = backbones.build(config.backbone, frozen=0 if config.frozen else None)
        self.neck = HybridEncoder(
            self.backbone.channels,
            config.neck,
            config.heads,
            config.encoder_feed_forward,
            config.expansion,
        )
        self.project = nn.ModuleList(ConvNorm(config.neck, dim) for _ in range(levels))
        self.propose = nn.Sequential(init_xavier(nn.Linear(dim, dim)), nn.LayerNorm(dim))
        self.proposal_classes = init_class_prior(nn.Linear(dim, num_classes))
        self.proposal_boxes = init_zero_last(Mlp(dim, dim, 4, depth=3))
        self.query_position = Mlp(4, 2 * dim, dim, depth=2)
        self.decoder = nn.ModuleList(
            DeformableDecoderLayer(dim, levels, config.heads, config.points, config.feed_forward, dropout=0.0)
            for _ in range(layers)
        )
        self.classes = nn.ModuleList(init_class_prior(nn.Linear(dim, num_classes)) for _ in range(layers))
        self.boxes = nn.ModuleList(init_zero_last(Mlp(dim, dim, 4, depth=3)) for _ in range(layers))
        self.labels = nn.Embedding(num_classes + 1, dim, padding_idx=num_classes)  # the last: no object
        for layer in self.query_position.layers.children():
            if isinstance(layer, nn.Linear):
                init_xavier(layer)

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> QueryOutput:
        """targets: list of Target on the device of the images; each object is given to the decoder with noise."""
        maps = self.neck(self.backbone(images, padding), padding)
        maps = [project(features) for project, features in zip(self.project, maps, strict=True)]
        memory = flatten_maps(maps, padding)
        first, unusable = token_boxes(memory)  # [B, S, 4], [B, S]
        features = self.propose(memory.features.masked_fill(unusable.unsqueeze(-1), 0.0))
        logits = self.proposal_classes(features)
        chosen = top_tokens(logits.amax(-1), self.config.queries, unusable)

        features, edge = pick(features, chosen), unusable.gather(1, chosen)
        boxes = refine(self.proposal_boxes(features), pick(first, chosen))
        proposals = Prediction(pick(logits, chosen), boxes.masked_fill(edge.unsqueeze(-1), 1.0))
        # Gradient reaches the proposals through their own loss alone.
        content, reference = features.detach(), proposals.boxes.detach()
        no_object = self.labels.num_embeddings - 1
        noised = contrastive_queries(
            targets,
            no_object,
            most=self.config.denoising,
            label_noise=self.config.label_noise,
            box_noise=self.config.box_noise,
            filler=0.0,  # a point in the corner, as in the authors' code
        )
        if noised is None:
            if self.training:  # every parameter gets a gradient, as processes that train together need
                content = content + 0 * self.labels.weight.sum()
            return QueryOutput(self.decode(content, reference, memory), proposals)
        known = self.labels(noised.labels.masked_fill(noised.empty, no_object))
        content, reference, query_mask = noised.before(known, content, reference)
        layers = self.decode(content, reference, memory, query_mask)
        return separate(layers, noised)._replace(proposals=proposals)

    def decode(
        self, content: Tensor, reference: Tensor, memory: Tokens, query_mask: Tensor | None = None
    ) -> tuple[Prediction, ...]:
        """content: [B, Q, D]. reference: [B, Q, 4] boxes. query_mask: [Q, Q] bool, which queries may not
        look at which. The predictions of every layer up to the answer; in training, of all."""
        layers = len(self.decoder) if self.training else self.config.answer_layer or len(self.decoder)
        start, predictions = reference, []
        for number in range(layers):
            content = self.decoder[number](
                content, self.query_position(reference), reference, memory, query_mask
            )
            change = self.boxes[number](content)
            # Each prediction also passes gradient to the layer before, from whose box it starts ("look forward
            # twice", Zhang et al. 2022, arXiv 2203.03605); what layers look from passes none.
            predictions.append(Prediction(self.classes[number](content), refine(change, start)))
            start = refine(change, reference)
            reference = start.detach()
        return tuple(predictions)


def criterion(numbers: LossNumbers = LossNumbers()) -> SetCriterion:
    """The paper's loss: class scores are to be the IoU of the box; focal in the matching, with 2."""
    return SetCriterion(VarifocalLoss(), weights=SetWeights(class_=1.0))
