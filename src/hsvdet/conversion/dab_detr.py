"""Published weights of DAB-DETR and DN-DETR: from their authors' repositories, and from transformers (DAB)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .coco_classes import COCO_SLOTS
from .conditional_detr import DECODER_ORIGINAL
from .detr import (
    DECODER_LAYER,
    ENCODER_LAYER,
    ENCODER_ORIGINAL,
    ENCODER_TRANSFORMERS,
    TRANSFORMERS_DECODER_LAYER,
    TRANSFORMERS_ENCODER_LAYER,
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

# DN-DETR's class embedding has a rule here, so that one table serves both: DAB-DETR's files do not have it.
ORIGINAL = [
    *resnet(r"backbone\.0\.body\."),
    linear("input_proj", "project"),
    *ENCODER_ORIGINAL,
    Rule(rf"{ENCODER_LAYER}\.activation\.weight", r"encoder.\g<n>.feed_forward.activation.weight"),
    mlp(r"transformer\.encoder\.query_scale", "encoder_scale"),
    Rule(r"refpoint_embed\.weight", "anchors"),
    Rule(r"transformer\.patterns\.weight", "patterns"),
    Rule(r"label_enc\.weight", "labels.weight"),
    mlp(r"transformer\.decoder\.ref_point_head", "query_position"),
    mlp(r"transformer\.decoder\.query_scale", "scale"),
    mlp(r"transformer\.decoder\.ref_anchor_head", "size"),
    *DECODER_ORIGINAL,
    Rule(rf"{DECODER_LAYER}\.activation\.weight", r"decoder.\g<n>.feed_forward.activation.weight"),
    linear("class_embed", "classes"),
    mlp(r"(?:transformer\.decoder\.)?bbox_embed", "boxes"),
]

# An early revision of the port numbered the three blocks of a layer instead of naming them.
_SELF = rf"{TRANSFORMERS_DECODER_LAYER}\.(?:self_attn|layer\.0)"
_CROSS = rf"{TRANSFORMERS_DECODER_LAYER}\.(?:cross_attn|layer\.1)"
_FEED_FORWARD = rf"{TRANSFORMERS_DECODER_LAYER}\.(?:mlp|layer\.2)"
_OURS_SELF, _OURS_CROSS = r"decoder.\g<n>.self_attention", r"decoder.\g<n>.cross_attention"

TRANSFORMERS = [
    *resnet_transformers(TRANSFORMERS_BACKBONE),
    linear(r"model\.input_projection", "project"),
    *ENCODER_TRANSFORMERS,
    Rule(
        rf"{TRANSFORMERS_ENCODER_LAYER}\.activation_fn\.weight",
        r"encoder.\g<n>.feed_forward.activation.weight",
    ),
    mlp(r"model\.encoder\.query_scale", "encoder_scale"),
    Rule(r"model\.query_refpoint_embeddings\.weight", "anchors"),
    Rule(r"model\.patterns\.weight", "patterns"),
    mlp(r"model\.decoder\.ref_point_head", "query_position"),
    mlp(r"model\.decoder\.query_scale", "scale"),
    mlp(r"model\.decoder\.ref_anchor_head", "size"),
    linear(rf"{_SELF}\.self_attn_query_content_proj", f"{_OURS_SELF}.query_content"),
    linear(rf"{_SELF}\.self_attn_query_pos_proj", f"{_OURS_SELF}.query_position"),
    linear(rf"{_SELF}\.self_attn_key_content_proj", f"{_OURS_SELF}.key_content"),
    linear(rf"{_SELF}\.self_attn_key_pos_proj", f"{_OURS_SELF}.key_position"),
    linear(rf"{_SELF}\.self_attn_value_proj", f"{_OURS_SELF}.value"),
    linear(rf"{_SELF}\.self_attn\.output_proj", f"{_OURS_SELF}.output"),
    linear(rf"{_SELF}\.self_attn_layer_norm", r"decoder.\g<n>.norm_self"),
    linear(rf"{_CROSS}\.cross_attn_query_content_proj", f"{_OURS_CROSS}.query_content"),
    linear(rf"{_CROSS}\.cross_attn_query_pos_proj", f"{_OURS_CROSS}.query_position"),
    linear(rf"{_CROSS}\.cross_attn_query_pos_sine_proj", f"{_OURS_CROSS}.query_sine"),
    linear(rf"{_CROSS}\.cross_attn_key_content_proj", f"{_OURS_CROSS}.key_content"),
    linear(rf"{_CROSS}\.cross_attn_key_pos_proj", f"{_OURS_CROSS}.key_position"),
    linear(rf"{_CROSS}\.cross_attn_value_proj", f"{_OURS_CROSS}.value"),
    linear(rf"{_CROSS}\.cross_attn\.output_proj", f"{_OURS_CROSS}.output"),
    linear(rf"{_CROSS}\.cross_attn_layer_norm", r"decoder.\g<n>.norm_cross"),
    linear(rf"{_FEED_FORWARD}\.fc1", r"decoder.\g<n>.feed_forward.expand"),
    linear(rf"{_FEED_FORWARD}\.fc2", r"decoder.\g<n>.feed_forward.contract"),
    Rule(
        rf"{_FEED_FORWARD}\.activation_fn\.weight",
        r"decoder.\g<n>.feed_forward.activation.weight",
    ),
    linear(rf"{_FEED_FORWARD}\.final_layer_norm", r"decoder.\g<n>.norm_feed_forward"),
    linear(r"model\.decoder\.layernorm", "norm"),
    linear("class_embed", "classes"),
    mlp(r"(?:bbox_predictor|model\.decoder\.bbox_embed)", "boxes"),
]

_DAB, _DN = ("dab-detr-r50", "dab-detr-r50-3pat"), ("dn-detr-r50", "dn-detr-r50-3pat")


def _recognise_original(tensors: Mapping[str, Tensor]) -> str | None:
    if (
        not {"refpoint_embed.weight", "transformer.decoder.layers.0.sa_qcontent_proj.weight"}
        <= tensors.keys()
    ):
        return None
    models = _DN if "label_enc.weight" in tensors else _DAB
    return models["transformer.patterns.weight" in tensors]


def _recognise_transformers(tensors: Mapping[str, Tensor]) -> str | None:
    if "model.query_refpoint_embeddings.weight" not in tensors:
        return None
    return _DAB["model.patterns.weight" in tensors]


def _options(renamed: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    options = transformer_options(renamed, settings)
    if "patterns" in renamed:
        options["patterns"] = renamed["patterns"].shape[0]
    temperature = settings.get("temperature_height", settings.get("pe_temperatureH"))
    if isinstance(temperature, int | float):
        options["temperature"] = float(temperature)
    return options


def _options_transformers(renamed: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    # The port keeps boxes 1e-5 from the ends where the authors' code keeps them 1e-3.
    return {**_options(renamed, settings), "eps": 1e-5}


SOURCES = tuple(
    Source(
        name=name,
        models=(*models, *map(dc5, models)),
        recognise=recognise,
        rules=lambda model, tensors, rules=rules: rules,
        num_classes=lambda tensors: tensors["class_embed.weight"].shape[0],
        labels={len(COCO_SLOTS): COCO_SLOTS},
        licence="Apache-2.0",
        note="The DC5 models have the same tensors: where nothing beside them says so, name the model.",
        options=options,
        alike={model: (dc5(model),) for model in models},
        choose=dilated,
    )
    for name, models, recognise, rules, options in (
        ("DAB-DETR and DN-DETR", (*_DAB, *_DN), _recognise_original, ORIGINAL, _options),
        ("DAB-DETR of transformers", _DAB, _recognise_transformers, TRANSFORMERS, _options_transformers),
    )
)
