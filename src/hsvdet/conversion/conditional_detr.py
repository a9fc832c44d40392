"""Published weights of Conditional DETR: from its authors' repository, and from Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .coco_classes import COCO_SLOTS
from .detr import (
    DECODER_LAYER,
    ENCODER_ORIGINAL,
    ENCODER_TRANSFORMERS,
    TRANSFORMERS_DECODER_LAYER,
)
from .published import Source
from .rename import Rule
from .shared_rules import (
    TRANSFORMERS_BACKBONE,
    dc5,
    dilated,
    linear,
    mlp,
    resnet,
    resnet_transformers,
    transformer_options,
)


def projections(layer: str) -> list[Rule]:
    """The projections of content and place, which both layouts keep beside the attentions they belong to."""
    own, cross = r"decoder.\g<n>.self_attention", r"decoder.\g<n>.cross_attention"
    return [
        linear(rf"{layer}\.sa_qcontent_proj", f"{own}.query_content"),
        linear(rf"{layer}\.sa_qpos_proj", f"{own}.query_position"),
        linear(rf"{layer}\.sa_kcontent_proj", f"{own}.key_content"),
        linear(rf"{layer}\.sa_kpos_proj", f"{own}.key_position"),
        linear(rf"{layer}\.sa_v_proj", f"{own}.value"),
        linear(rf"{layer}\.self_attn\.out_proj", f"{own}.output"),
        linear(rf"{layer}\.ca_qcontent_proj", f"{cross}.query_content"),
        linear(rf"{layer}\.ca_qpos_proj", f"{cross}.query_position"),
        linear(rf"{layer}\.ca_qpos_sine_proj", f"{cross}.query_sine"),
        linear(rf"{layer}\.ca_kcontent_proj", f"{cross}.key_content"),
        linear(rf"{layer}\.ca_kpos_proj", f"{cross}.key_position"),
        linear(rf"{layer}\.ca_v_proj", f"{cross}.value"),
        linear(rf"{layer}\.(?:cross_attn|encoder_attn)\.out_proj", f"{cross}.output"),
    ]


DECODER_ORIGINAL = [
    *projections(DECODER_LAYER),
    linear(rf"{DECODER_LAYER}\.norm1", r"decoder.\g<n>.norm_self"),
    linear(rf"{DECODER_LAYER}\.norm2", r"decoder.\g<n>.norm_cross"),
    linear(rf"{DECODER_LAYER}\.linear1", r"decoder.\g<n>.feed_forward.expand"),
    linear(rf"{DECODER_LAYER}\.linear2", r"decoder.\g<n>.feed_forward.contract"),
    linear(rf"{DECODER_LAYER}\.norm3", r"decoder.\g<n>.norm_feed_forward"),
    linear(r"transformer\.decoder\.norm", "norm"),
]

ORIGINAL = [
    *resnet(r"backbone\.0\.body\."),
    linear("input_proj", "project"),
    *ENCODER_ORIGINAL,
    Rule(r"query_embed\.weight", "queries"),
    mlp(r"transformer\.decoder\.ref_point_head", "reference"),
    mlp(r"transformer\.decoder\.query_scale", "scale"),
    *DECODER_ORIGINAL,
    linear("class_embed", "classes"),
    mlp("bbox_embed", "boxes"),
]

TRANSFORMERS = [
    *resnet_transformers(TRANSFORMERS_BACKBONE),
    linear(r"model\.input_projection", "project"),
    *ENCODER_TRANSFORMERS,
    Rule(r"model\.query_position_embeddings\.weight", "queries"),
    mlp(r"model\.decoder\.ref_point_head", "reference"),
    mlp(r"model\.decoder\.query_scale", "scale"),
    *projections(TRANSFORMERS_DECODER_LAYER),
    linear(rf"{TRANSFORMERS_DECODER_LAYER}\.self_attn_layer_norm", r"decoder.\g<n>.norm_self"),
    linear(rf"{TRANSFORMERS_DECODER_LAYER}\.encoder_attn_layer_norm", r"decoder.\g<n>.norm_cross"),
    linear(rf"{TRANSFORMERS_DECODER_LAYER}\.fc1", r"decoder.\g<n>.feed_forward.expand"),
    linear(rf"{TRANSFORMERS_DECODER_LAYER}\.fc2", r"decoder.\g<n>.feed_forward.contract"),
    linear(rf"{TRANSFORMERS_DECODER_LAYER}\.final_layer_norm", r"decoder.\g<n>.norm_feed_forward"),
    linear(r"model\.decoder\.layernorm", "norm"),
    linear("class_labels_classifier", "classes"),
    mlp("bbox_predictor", "boxes"),
]

_MODEL = "conditional-detr-r50"


def _recognise_original(tensors: Mapping[str, Tensor]) -> str | None:
    known = {"query_embed.weight", "transformer.decoder.layers.0.sa_qcontent_proj.weight"}
    return _MODEL if known <= tensors.keys() else None


def _recognise_transformers(tensors: Mapping[str, Tensor]) -> str | None:
    return _MODEL if "model.decoder.layers.0.sa_qcontent_proj.weight" in tensors else None


SOURCES = tuple(
    Source(
        name=name,
        models=(_MODEL, dc5(_MODEL)),
        recognise=recognise,
        rules=lambda model, tensors, rules=rules: rules,
        num_classes=lambda tensors, head=head: tensors[head].shape[0],
        labels={len(COCO_SLOTS): COCO_SLOTS},
        licence="Apache-2.0",
        note="The DC5 model has the same tensors: where nothing beside them says so, name the model.",
        options=transformer_options,
        alike={_MODEL: (dc5(_MODEL),)},
        choose=dilated,
    )
    for name, recognise, rules, head in (
        ("Conditional DETR", _recognise_original, ORIGINAL, "class_embed.weight"),
        (
            "Conditional DETR of transformers",
            _recognise_transformers,
            TRANSFORMERS,
            "class_labels_classifier.weight",
        ),
    )
)
