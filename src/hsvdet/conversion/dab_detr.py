"""Published weights of DAB-DETR and DN-DETR: from their authors' repositories, and from transformers (DAB)."""

from __future__ import annotations

from .conditional_detr import DECODER_ORIGINAL
from .detr import (
    DECODER_LAYER,
    ENCODER_LAYER,
    ENCODER_ORIGINAL,
    ENCODER_TRANSFORMERS,
    TRANSFORMERS_DECODER_LAYER,
    TRANSFORMERS_ENCODER_LAYER,
)
from .parts import TRANSFORMERS_BACKBONE, linear, mlp, resnet, resnet_transformers
from .rename import Rule

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
    mlp(r"transformer\.decoder\.ref_point_head", "place"),
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
    mlp(r"model\.decoder\.ref_point_head", "place"),
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
