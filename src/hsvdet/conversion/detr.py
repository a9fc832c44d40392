"""Published weights of DETR: from its authors' repository, and from Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .coco_classes import COCO_SLOTS
from .published import Source
from .rename import Rule
from .shared_rules import (
    TRANSFORMERS_BACKBONE,
    attention,
    attention_transformers,
    dc5,
    dilated,
    has_resnet101,
    linear,
    mlp,
    resnet,
    resnet_transformers,
    transformer_options,
)

ENCODER_LAYER, DECODER_LAYER = (
    r"transformer\.encoder\.layers\.(?P<n>\d+)",
    r"transformer\.decoder\.layers\.(?P<n>\d+)",
)

ENCODER_ORIGINAL = [
    *attention(rf"{ENCODER_LAYER}\.self_attn", r"encoder.\g<n>.attention"),
    linear(rf"{ENCODER_LAYER}\.norm1", r"encoder.\g<n>.norm_attention"),
    linear(rf"{ENCODER_LAYER}\.linear1", r"encoder.\g<n>.feed_forward.expand"),
    linear(rf"{ENCODER_LAYER}\.linear2", r"encoder.\g<n>.feed_forward.contract"),
    linear(rf"{ENCODER_LAYER}\.norm2", r"encoder.\g<n>.norm_feed_forward"),
]

ORIGINAL = [
    *resnet(r"backbone\.0\.body\."),
    linear("input_proj", "project"),
    *ENCODER_ORIGINAL,
    Rule(r"query_embed\.weight", "queries"),
    *attention(rf"{DECODER_LAYER}\.self_attn", r"decoder.\g<n>.self_attention"),
    linear(rf"{DECODER_LAYER}\.norm1", r"decoder.\g<n>.norm_self"),
    *attention(rf"{DECODER_LAYER}\.multihead_attn", r"decoder.\g<n>.cross_attention"),
    linear(rf"{DECODER_LAYER}\.norm2", r"decoder.\g<n>.norm_cross"),
    linear(rf"{DECODER_LAYER}\.linear1", r"decoder.\g<n>.feed_forward.expand"),
    linear(rf"{DECODER_LAYER}\.linear2", r"decoder.\g<n>.feed_forward.contract"),
    linear(rf"{DECODER_LAYER}\.norm3", r"decoder.\g<n>.norm_feed_forward"),
    linear(r"transformer\.decoder\.norm", "norm"),
    linear("class_embed", "classes"),
    mlp("bbox_embed", "boxes"),
]

TRANSFORMERS_ENCODER_LAYER, TRANSFORMERS_DECODER_LAYER = (
    r"model\.encoder\.layers\.(?P<n>\d+)",
    r"model\.decoder\.layers\.(?P<n>\d+)",
)

ENCODER_TRANSFORMERS = [
    *attention_transformers(rf"{TRANSFORMERS_ENCODER_LAYER}\.self_attn", r"encoder.\g<n>.attention"),
    linear(rf"{TRANSFORMERS_ENCODER_LAYER}\.self_attn_layer_norm", r"encoder.\g<n>.norm_attention"),
    linear(rf"{TRANSFORMERS_ENCODER_LAYER}\.(?:mlp\.)?fc1", r"encoder.\g<n>.feed_forward.expand"),
    linear(rf"{TRANSFORMERS_ENCODER_LAYER}\.(?:mlp\.)?fc2", r"encoder.\g<n>.feed_forward.contract"),
    linear(rf"{TRANSFORMERS_ENCODER_LAYER}\.final_layer_norm", r"encoder.\g<n>.norm_feed_forward"),
]

TRANSFORMERS = [
    *resnet_transformers(TRANSFORMERS_BACKBONE),
    linear(r"model\.input_projection", "project"),
    *ENCODER_TRANSFORMERS,
    Rule(r"model\.query_position_embeddings\.weight", "queries"),
    *attention_transformers(rf"{TRANSFORMERS_DECODER_LAYER}\.self_attn", r"decoder.\g<n>.self_attention"),
    linear(rf"{TRANSFORMERS_DECODER_LAYER}\.self_attn_layer_norm", r"decoder.\g<n>.norm_self"),
    *attention_transformers(rf"{TRANSFORMERS_DECODER_LAYER}\.encoder_attn", r"decoder.\g<n>.cross_attention"),
    linear(rf"{TRANSFORMERS_DECODER_LAYER}\.encoder_attn_layer_norm", r"decoder.\g<n>.norm_cross"),
    linear(rf"{TRANSFORMERS_DECODER_LAYER}\.(?:mlp\.)?fc1", r"decoder.\g<n>.feed_forward.expand"),
    linear(rf"{TRANSFORMERS_DECODER_LAYER}\.(?:mlp\.)?fc2", r"decoder.\g<n>.feed_forward.contract"),
    linear(rf"{TRANSFORMERS_DECODER_LAYER}\.final_layer_norm", r"decoder.\g<n>.norm_feed_forward"),
    linear(r"model\.decoder\.layernorm", "norm"),
    linear("class_labels_classifier", "classes"),
    mlp("bbox_predictor", "boxes"),
]

_MODELS = ("detr-r50", "detr-r101")


def _recognise_original(tensors: Mapping[str, Tensor]) -> str | None:
    known = {"query_embed.weight", "transformer.decoder.layers.0.multihead_attn.in_proj_weight"}
    if not known <= tensors.keys() or "transformer.decoder.layers.0.norm4.weight" in tensors:  # SMCA's
        return None
    return _MODELS[has_resnet101(tensors)]


def _recognise_transformers(tensors: Mapping[str, Tensor]) -> str | None:
    known = {"class_labels_classifier.weight", "model.decoder.layers.0.encoder_attn.q_proj.weight"}
    return _MODELS[has_resnet101(tensors)] if known <= tensors.keys() else None


SOURCES = tuple(
    Source(
        name=name,
        models=(*_MODELS, *map(dc5, _MODELS)),
        recognise=recognise,
        rules=lambda model, tensors, rules=rules: rules,
        # The last row of the head is "no object".
        num_classes=lambda tensors, head=head: tensors[head].shape[0] - 1,
        labels={len(COCO_SLOTS): COCO_SLOTS},
        licence="Apache-2.0",
        note="The DC5 models have the same tensors: where nothing beside them says so, name the model.",
        options=transformer_options,
        alike={model: (dc5(model),) for model in _MODELS},
        choose=dilated,
    )
    for name, recognise, rules, head in (
        ("DETR", _recognise_original, ORIGINAL, "class_embed.weight"),
        ("DETR of transformers", _recognise_transformers, TRANSFORMERS, "class_labels_classifier.weight"),
    )
)
