"""Published weights of Deformable DETR in its three forms and of DN-Deformable-DETR: from their authors'
repositories, and (Deformable DETR) from Hugging Face transformers."""

from __future__ import annotations

from torch import Tensor

from .parts import (
    TRANSFORMERS_BACKBONE,
    attention,
    attention_transformers,
    linear,
    mlp,
    resnet,
    resnet_transformers,
)
from .rename import Rule

_ENCODER, _DECODER = r"encoder.layers.\g<n>", r"decoder.\g<n>"


def deformable(foreign: str, ours: str) -> list[Rule]:
    """Deformable attention, which has the same names everywhere."""
    return [
        linear(rf"{foreign}\.sampling_offsets", f"{ours}.sampling_offsets"),
        linear(rf"{foreign}\.attention_weights", f"{ours}.attention_weights"),
        linear(rf"{foreign}\.value_proj", f"{ours}.value"),
        linear(rf"{foreign}\.output_proj", f"{ours}.output"),
    ]


def pyramid(prefix: str, level_embedding: str) -> list[Rule]:
    return [
        linear(rf"{prefix}input_proj\.(?P<level>\d+)\.(?P<part>[01])", r"pyramid.project.\g<level>.\g<part>"),
        Rule(level_embedding, "pyramid.levels"),
    ]


def _halves(tensor: Tensor) -> tuple[Tensor, ...]:
    """Queries' places and contents stand side by side: [Q, 2 D]."""
    return tensor.chunk(2, 1)


def _layers(layer: str, norms: dict[str, str], feed_forward: str, ours: str) -> list[Rule]:
    return [
        *(linear(rf"{layer}\.{theirs}", f"{ours}.{name}") for theirs, name in norms.items()),
        linear(rf"{layer}\.{feed_forward}1", f"{ours}.feed_forward.expand"),
        linear(rf"{layer}\.{feed_forward}2", f"{ours}.feed_forward.contract"),
    ]


_ENCODER_LAYER = r"transformer\.encoder\.layers\.(?P<n>\d+)"
_DECODER_LAYER = r"transformer\.decoder\.layers\.(?P<n>\d+)"
TRANSFORMER_ORIGINAL = [
    *resnet(r"backbone\.0\.body\."),
    *pyramid("", r"transformer\.level_embed"),
    *deformable(rf"{_ENCODER_LAYER}\.self_attn", f"{_ENCODER}.attention"),
    *_layers(_ENCODER_LAYER, {"norm1": "norm_attention", "norm2": "norm_feed_forward"}, "linear", _ENCODER),
    *attention(rf"{_DECODER_LAYER}\.self_attn", f"{_DECODER}.self_attention"),
    *deformable(rf"{_DECODER_LAYER}\.cross_attn", f"{_DECODER}.cross_attention"),
    # Numbered by the order in which they were written, not by that in which they are used.
    *_layers(
        _DECODER_LAYER,
        {"norm2": "norm_self", "norm1": "norm_cross", "norm3": "norm_feed_forward"},
        "linear",
        _DECODER,
    ),
]

ORIGINAL = [
    *TRANSFORMER_ORIGINAL,
    Rule(r"query_embed\.weight", ("places", "contents"), _halves),
    linear(r"transformer\.reference_points", "reference"),
    linear(r"transformer\.enc_output", "propose.0"),
    linear(r"transformer\.enc_output_norm", "propose.1"),
    linear(r"transformer\.pos_trans", "query.0"),
    linear(r"transformer\.pos_trans_norm", "query.1"),
]

_ENCODER_LAYER = r"model\.encoder\.layers\.(?P<n>\d+)"
_DECODER_LAYER = r"model\.decoder\.layers\.(?P<n>\d+)"
TRANSFORMERS = [
    *resnet_transformers(TRANSFORMERS_BACKBONE),
    *pyramid(r"model\.", r"model\.level_embed"),
    *deformable(rf"{_ENCODER_LAYER}\.self_attn", f"{_ENCODER}.attention"),
    *_layers(
        _ENCODER_LAYER,
        {"self_attn_layer_norm": "norm_attention", "final_layer_norm": "norm_feed_forward"},
        r"(?:mlp\.)?fc",
        _ENCODER,
    ),
    *attention_transformers(rf"{_DECODER_LAYER}\.self_attn", f"{_DECODER}.self_attention"),
    *deformable(rf"{_DECODER_LAYER}\.encoder_attn", f"{_DECODER}.cross_attention"),
    *_layers(
        _DECODER_LAYER,
        {
            "self_attn_layer_norm": "norm_self",
            "encoder_attn_layer_norm": "norm_cross",
            "final_layer_norm": "norm_feed_forward",
        },
        r"(?:mlp\.)?fc",
        _DECODER,
    ),
    Rule(r"model\.query_position_embeddings\.weight", ("places", "contents"), _halves),
    linear(r"model\.reference_points", "reference"),
    linear(r"model\.enc_output", "propose.0"),
    linear(r"model\.enc_output_norm", "propose.1"),
    linear(r"model\.pos_trans", "query.0"),
    linear(r"model\.pos_trans_norm", "query.1"),
]

# Both layouts can name a head twice.
_CLASSES, _BOXES = (rf"(?:(?:transformer|model)\.decoder\.)?{kind}_embed" for kind in ("class", "bbox"))

# One head for all layers, which the files repeat for each.
SHARED_HEADS = [linear(rf"{_CLASSES}\.\d+", "classes"), mlp(rf"{_BOXES}\.\d+", "boxes")]
OWN_HEADS = [
    linear(rf"{_CLASSES}\.(?P<n>\d+)", r"classes.\g<n>"),
    mlp(rf"{_BOXES}\.(?P<n>\d+)", r"boxes.\g<n>"),
]


def two_stage_heads(decoder_layers: int) -> list[Rule]:
    """The heads of proposals are numbered after those of the decoder's layers."""
    return [
        linear(rf"{_CLASSES}\.{decoder_layers}", "proposal_classes"),
        mlp(rf"{_BOXES}\.{decoder_layers}", "proposal_boxes"),
        *OWN_HEADS,
    ]


DN_ORIGINAL = [
    *TRANSFORMER_ORIGINAL,
    *OWN_HEADS,
    Rule(r"refpoint_embed\.weight", "anchors"),
    Rule(r"tgt_embed\.weight", "contents"),
    Rule(r"label_enc\.weight", "labels.weight"),
    mlp(r"transformer\.decoder\.ref_point_head", "place"),
    mlp(r"transformer\.decoder\.query_scale", "scale"),
]
