"""Published weights of Anchor DETR, from its authors' repository."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .coco_classes import COCO_SLOTS
from .published import Source
from .rename import Rule
from .shared_rules import attention, dc5, dilated, has_resnet101, linear, mlp, resnet, resnet_name

_ENCODER, _DECODER = (rf"transformer\.{part}_layers\.(?P<n>\d+)" for part in ("encoder", "decoder"))
_FIFTHS = ("query_x", "query_y", "key_x", "key_y", "value")


def _row_column_attention(foreign: str, ours: str) -> list[Rule]:
    """Queries along x and along y, keys of columns and of rows, and values come from one matrix."""
    projections = tuple(rf"{ours}.{name}.\g<leaf>" for name in _FIFTHS)
    return [
        Rule(rf"{foreign}\.in_proj_(?P<leaf>weight|bias)", projections, lambda tensor: tensor.chunk(5)),
        linear(rf"{foreign}\.out_proj", f"{ours}.output"),
    ]


def _feed_forward(foreign: str, ours: str) -> list[Rule]:
    return [
        linear(rf"{foreign}\.ffn\.linear1", f"{ours}.feed_forward.expand"),
        linear(rf"{foreign}\.ffn\.linear2", f"{ours}.feed_forward.contract"),
        linear(rf"{foreign}\.ffn\.norm2", f"{ours}.norm_feed_forward"),
    ]


def _two_layers(foreign: str, ours: str) -> list[Rule]:
    """A perceptron that stands as linear, ReLU, linear."""
    return [linear(rf"{foreign}\.{2 * depth}", f"{ours}.layers.{depth}") for depth in range(2)]


RULES = [
    # Written by a counter of operations.
    Rule(r"(?:.+\.)?total_(?:params|ops)", None),
    *resnet(r"backbone\.body\."),
    linear(r"input_proj\.0\.(?P<part>[01])", r"project.\g<part>"),
    *_two_layers(r"transformer\.adapt_pos1d", "coordinate"),
    *_two_layers(r"transformer\.adapt_pos2d", "point"),
    *_row_column_attention(rf"{_ENCODER}\.self_attn", r"encoder.\g<n>.attention"),
    linear(rf"{_ENCODER}\.norm1", r"encoder.\g<n>.norm_attention"),
    *_feed_forward(_ENCODER, r"encoder.\g<n>"),
    Rule(r"transformer\.position\.weight", "points"),
    Rule(r"transformer\.pattern\.weight", "patterns"),
    # Numbered by the order in which they were written, not by that in which they are used.
    *attention(rf"{_DECODER}\.self_attn", r"decoder.\g<n>.self_attention"),
    linear(rf"{_DECODER}\.norm2", r"decoder.\g<n>.norm_self"),
    *_row_column_attention(rf"{_DECODER}\.cross_attn", r"decoder.\g<n>.cross_attention"),
    linear(rf"{_DECODER}\.norm1", r"decoder.\g<n>.norm_cross"),
    *_feed_forward(_DECODER, r"decoder.\g<n>"),
    # One head for all layers, which the files repeat for each.
    linear(r"transformer\.class_embed\.\d+", "classes"),
    mlp(r"transformer\.bbox_embed\.\d+", "boxes"),
]

_MODELS = ("anchor-detr-r50", "anchor-detr-r101")


def _recognise(tensors: Mapping[str, Tensor]) -> str | None:
    attended = tensors.get("transformer.decoder_layers.0.cross_attn.in_proj_weight")
    if attended is None or "transformer.pattern.weight" not in tensors:
        return None
    if attended.shape[0] != len(_FIFTHS) * attended.shape[1]:
        raise CheckpointError(
            "expected an Anchor DETR with row-column decoupled attention; its attention to the image is ordinary."
        )
    return _MODELS[has_resnet101(tensors)]


def _options(renamed: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes told from the tensors, and what of them only the settings tell."""

    def layers(part: str) -> int:
        return len({key.split(".")[1] for key in renamed if key.startswith(f"{part}.")})

    options: dict[str, Any] = {"encoder_layers": layers("encoder"), "decoder_layers": layers("decoder")}
    if {"points", "patterns", "decoder.0.feed_forward.expand.weight"} <= renamed.keys():
        options |= {
            "queries": renamed["points"].shape[0],
            "patterns": renamed["patterns"].shape[0],
            "dim": renamed["patterns"].shape[1],
            "feed_forward": renamed["decoder.0.feed_forward.expand.weight"].shape[0],
        }
    if isinstance(settings.get("nheads"), int):
        options["heads"] = settings["nheads"]
    backbone = resnet_name(renamed)
    return options if backbone is None else {**options, "backbone": backbone}


SOURCES = (
    Source(
        name="Anchor DETR",
        models=(*_MODELS, *map(dc5, _MODELS)),
        recognise=_recognise,
        rules=lambda model, tensors: RULES,
        num_classes=lambda tensors: tensors["transformer.class_embed.0.weight"].shape[0],
        labels={len(COCO_SLOTS): COCO_SLOTS},
        licence="Apache-2.0",
        note="The DC5 models have the same tensors: where nothing beside them says so, name the model.",
        options=_options,
        alike={model: (dc5(model),) for model in _MODELS},
        choose=dilated,
    ),
)
