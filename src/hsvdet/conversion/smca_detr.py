"""Published weights of SMCA-DETR, single scale, from its authors' repository."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .coco_classes import COCO_SLOTS
from .detr import DECODER_LAYER, ENCODER_ORIGINAL
from .published import Source
from .rename import Rule
from .shared_rules import attention, linear, mlp, resnet, transformer_options


def _objects(tensor: Tensor) -> Tensor:
    """The head is DETR's, with a last row for "no object"; trained with sigmoids, nothing is ever of that class."""
    return tensor[:-1]


RULES = [
    *resnet(r"backbone\.0\.body\."),
    linear("input_proj", "project"),
    *ENCODER_ORIGINAL,
    Rule(r"query_embed\.weight", "queries"),
    linear(rf"{DECODER_LAYER}\.norm4", r"decoder.\g<n>.norm_place"),
    mlp(rf"{DECODER_LAYER}\.point1", r"decoder.\g<n>.guess"),
    linear(rf"{DECODER_LAYER}\.point2", r"decoder.\g<n>.offset"),
    linear(rf"{DECODER_LAYER}\.point3", r"decoder.\g<n>.scale"),
    *attention(rf"{DECODER_LAYER}\.self_attn", r"decoder.\g<n>.self_attention"),
    linear(rf"{DECODER_LAYER}\.norm1", r"decoder.\g<n>.norm_self"),
    *attention(rf"{DECODER_LAYER}\.multihead_attn", r"decoder.\g<n>.cross_attention"),
    linear(rf"{DECODER_LAYER}\.norm2", r"decoder.\g<n>.norm_cross"),
    linear(rf"{DECODER_LAYER}\.linear1", r"decoder.\g<n>.feed_forward.expand"),
    linear(rf"{DECODER_LAYER}\.linear2", r"decoder.\g<n>.feed_forward.contract"),
    linear(rf"{DECODER_LAYER}\.norm3", r"decoder.\g<n>.norm_feed_forward"),
    linear(r"transformer\.decoder\.norm", "norm"),
    Rule(r"class_embed\.(?P<leaf>weight|bias)", r"classes.\g<leaf>", _objects),
    mlp("bbox_embed", "boxes"),
]

_MODEL = "smca-detr-r50"


def _recognise(tensors: Mapping[str, Tensor]) -> str | None:
    known = {"query_embed.weight", "transformer.decoder.layers.0.point3.weight"}
    return _MODEL if known <= tensors.keys() else None


SOURCES = (
    Source(
        name="SMCA-DETR",
        models=(_MODEL,),
        recognise=_recognise,
        rules=lambda model, tensors: RULES,
        num_classes=lambda tensors: tensors["class_embed.weight"].shape[0] - 1,
        labels={len(COCO_SLOTS): COCO_SLOTS},
        licence="unknown (its repository names none)",
        note="Ask its authors before you pass it on: they have named no licence.",
        options=transformer_options,
    ),
)
