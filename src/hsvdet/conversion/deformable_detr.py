"""Published weights of Deformable DETR in its three forms and of DN-Deformable-DETR: from their authors'
repositories, and (Deformable DETR) from Hugging Face transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .coco_classes import COCO_SLOTS
from .published import Source
from .rename import Rule
from .shared_rules import (
    TRANSFORMERS_BACKBONE,
    attention,
    attention_transformers,
    linear,
    mlp,
    resnet,
    resnet_name,
    resnet_transformers,
)

_PLAIN, _REFINED, _TWO_STAGE = (f"deformable-detr-r50{form}" for form in ("", "-refine", "-two-stage"))
_SINGLE, _DN = "deformable-detr-r50-single-scale", "dn-deformable-detr-r50"
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

OWN_HEADS = [
    linear(rf"{_CLASSES}\.(?P<n>\d+)", r"classes.\g<n>"),
    mlp(rf"{_BOXES}\.(?P<n>\d+)", r"boxes.\g<n>"),
]
# One head for all layers, which the files repeat for each.
SHARED_HEADS = [linear(rf"{_CLASSES}\.\d+", "classes"), mlp(rf"{_BOXES}\.\d+", "boxes")]


def heads(model: str, tensors: Mapping[str, Tensor]) -> list[Rule]:
    """tensors: the file's, which tell how many layers there are, and which heads it repeats."""
    layers = count_numbers(r"(?:transformer|model)\.decoder\.layers\.(\d+)\.", tensors)
    if model == _TWO_STAGE:  # the heads of proposals are numbered after those of the decoder's layers
        proposals = [
            linear(rf"{_CLASSES}\.{layers}", "proposal_classes"),
            mlp(rf"{_BOXES}\.{layers}", "proposal_boxes"),
        ]
        return [*proposals, *OWN_HEADS]
    if model != _REFINED:
        return SHARED_HEADS
    if count_numbers(rf"{_CLASSES}\.(\d+)\.", tensors) > 1:
        return OWN_HEADS
    # transformers 5 keeps one class head for all layers where they have always been the same.
    to_all = tuple(rf"classes.{layer}.\g<leaf>" for layer in range(layers))
    every = Rule(rf"{_CLASSES}\.0\.(?P<leaf>weight|bias)", to_all, lambda tensor: [tensor] * layers)
    return [every, *OWN_HEADS]


def count_numbers(pattern: str, tensors: Mapping[str, Tensor]) -> int:
    """How many numbers stand in the group of `pattern` at the beginning of keys."""
    return len({match[1] for key in tensors if (match := re.match(pattern, key))})


DN_ORIGINAL = [
    *TRANSFORMER_ORIGINAL,
    *OWN_HEADS,
    Rule(r"refpoint_embed\.weight", "anchors"),
    Rule(r"tgt_embed\.weight", "contents"),
    Rule(r"label_enc\.weight", "labels.weight"),
    mlp(r"transformer\.decoder\.ref_point_head", "query_position"),
    mlp(r"transformer\.decoder\.query_scale", "scale"),
]

_MODELS = (_PLAIN, _SINGLE, f"{_SINGLE}-dc5", _REFINED, _TWO_STAGE)


def _recognise(tensors: Mapping[str, Tensor], prefix: str) -> str | None:
    """prefix: what the transformer's tensors are under."""
    if f"{prefix}enc_output.weight" in tensors:
        return _TWO_STAGE
    if tensors[f"{prefix}level_embed"].shape[0] == 1:
        return _SINGLE
    # Only heads of a layer's own are also told to the decoder, and only they can differ from one another.
    own = any(key.startswith(f"{prefix}decoder.bbox_embed.") for key in tensors)
    first, second = (tensors.get(f"bbox_embed.{layer}.layers.2.weight") for layer in (0, 1))
    if own or (first is not None and second is not None and not torch.equal(first, second)):
        return _REFINED
    return _PLAIN


def _recognise_original(tensors: Mapping[str, Tensor]) -> str | None:
    known = {"transformer.encoder.layers.0.self_attn.sampling_offsets.weight", "transformer.level_embed"}
    relatives = ("label_enc.weight", "tgt_embed.weight", "refpoint_embed.weight")
    if not known <= tensors.keys() or any(key in tensors for key in relatives):
        return None
    query = tensors.get("transformer.pos_trans.weight")
    if query is not None and query.shape[0] < query.shape[1]:
        return None  # Sparse and Efficient DETR: only the places of queries are made from boxes
    return _recognise(tensors, "transformer.")


def _recognise_transformers(tensors: Mapping[str, Tensor]) -> str | None:
    known = {"model.encoder.layers.0.self_attn.sampling_offsets.weight", "model.level_embed"}
    return _recognise(tensors, "model.") if known <= tensors.keys() else None


def _recognise_dn(tensors: Mapping[str, Tensor]) -> str | None:
    known = {"tgt_embed.weight", "refpoint_embed.weight", "label_enc.weight", "transformer.level_embed"}
    return _DN if known <= tensors.keys() else None


def num_classes(tensors: Mapping[str, Tensor]) -> int:
    return next(
        tensor.shape[0] for key, tensor in tensors.items() if re.fullmatch(rf"{_CLASSES}\.0\.weight", key)
    )


def sizes(renamed: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes told from the tensors, and what of them only the settings tell."""
    options: dict[str, Any] = {}
    if "pyramid.levels" in renamed and "decoder.0.feed_forward.expand.weight" in renamed:
        options = {
            "dim": renamed["pyramid.levels"].shape[1],
            "levels": renamed["pyramid.levels"].shape[0],
            "feed_forward": renamed["decoder.0.feed_forward.expand.weight"].shape[0],
            "encoder_layers": count_numbers(r"encoder\.layers\.(\d+)\.", renamed),
            "decoder_layers": count_numbers(r"decoder\.(\d+)\.", renamed),
        }
    if "contents" in renamed:
        queries = renamed["contents"].shape[0]
    else:
        queries = settings.get("two_stage_num_proposals", settings.get("num_queries"))
    if isinstance(queries, int):
        options["queries"] = queries
    number = settings.get("encoder_attention_heads", settings.get("nheads"))
    if isinstance(number, int):
        options["heads"] = number
    backbone = resnet_name(renamed)
    return options if backbone is None else {**options, "backbone": backbone}


def _dilated(name: str, settings: Mapping[str, Any]) -> str:
    return f"{name}-dc5" if name == _SINGLE and settings.get("dilation") is True else name


SOURCES = tuple(
    Source(
        name=name,
        models=models,
        recognise=recognise,
        rules=rules,
        num_classes=num_classes,
        labels={len(COCO_SLOTS): COCO_SLOTS},
        licence="Apache-2.0",
        note=note,
        options=sizes,
        alike={_SINGLE: (f"{_SINGLE}-dc5",)},
        choose=_dilated,
    )
    for name, models, recognise, rules, note in (
        (
            "Deformable DETR",
            _MODELS,
            _recognise_original,
            lambda model, tensors: [*heads(model, tensors), *ORIGINAL],
            "The single-scale DC5 model has the tensors of the single-scale one: name it if it is meant.",
        ),
        (
            "Deformable DETR of transformers",
            _MODELS,
            _recognise_transformers,
            lambda model, tensors: [*heads(model, tensors), *TRANSFORMERS],
            "The single-scale DC5 model has the tensors of the single-scale one: name it if it is meant.",
        ),
        (
            "DN-Deformable-DETR",
            (_DN,),
            _recognise_dn,
            lambda model, tensors: DN_ORIGINAL,
            "It predicts raw COCO ids.",
        ),
    )
)
