"""Published weights of DINO and Lite-DINO, from their authors' repositories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .coco_classes import COCO_SLOTS
from .deformable_detr import SHARED_HEADS, TRANSFORMER_ORIGINAL, num_classes, sizes
from .published import Source
from .rename import Rule
from .shared_rules import linear, mlp

ORIGINAL = [
    *TRANSFORMER_ORIGINAL,
    *SHARED_HEADS,
    linear(r"transformer\.enc_output", "propose.0"),
    linear(r"transformer\.enc_output_norm", "propose.1"),
    linear(r"transformer\.enc_out_class_embed", "proposal_classes"),
    mlp(r"transformer\.enc_out_bbox_embed", "proposal_boxes"),
    Rule(r"transformer\.tgt_embed\.weight", "contents"),
    Rule(r"label_enc\.weight", "labels.weight"),
    mlp(r"transformer\.decoder\.ref_point_head", "query_position"),
    linear(r"transformer\.decoder\.norm", "norm"),
]

_ENCODER_LAYER = r"transformer\.encoder\.layers\.(?P<n>\d+)"
_DECODER_LAYER = r"transformer\.decoder\.layers\.(?P<n>\d+)"
LITE = [
    *ORIGINAL,
    linear(rf"{_ENCODER_LAYER}\.linear12", r"encoder.layers.\g<n>.feed_forward_low.expand"),
    linear(rf"{_ENCODER_LAYER}\.linear22", r"encoder.layers.\g<n>.feed_forward_low.contract"),
    linear(rf"{_ENCODER_LAYER}\.norm22", r"encoder.layers.\g<n>.norm_low"),
]
LITE_KEY_AWARE = [
    *LITE,
    linear(rf"{_ENCODER_LAYER}\.self_attn\.query_proj", r"encoder.layers.\g<n>.attention.query"),
    linear(rf"{_DECODER_LAYER}\.cross_attn\.query_proj", r"decoder.\g<n>.cross_attention.query"),
]
# The layer is made in the plain form too, and not used.
LITE_PLAIN = [*LITE, Rule(r".*\.query_proj\.(?:weight|bias)", None)]

_BY_LEVELS = {4: "dino-r50", 5: "dino-r50-5scale"}


def _recognise(tensors: Mapping[str, Tensor]) -> str | None:
    known = {"label_enc.weight", "transformer.tgt_embed.weight", "transformer.enc_out_class_embed.weight"}
    if not known <= tensors.keys() or "transformer.level_embed" not in tensors or _LITE_KEY in tensors:
        return None
    return _BY_LEVELS.get(tensors["transformer.level_embed"].shape[0])


_LITE_KEY = "transformer.encoder.layers.0.self_attn.query_proj.weight"
_THREE_BLOCKS, _ONE_BLOCK, _TWO_HIGH = (
    f"lite-dino-r50-{form}" for form in ("h3l1-2p1x3", "h3l1-6p1x1", "h2l2-2p1x3")
)
_PLAIN = f"{_THREE_BLOCKS}-plain"


def _recognise_lite(tensors: Mapping[str, Tensor]) -> str | None:
    if _LITE_KEY not in tensors or "label_enc.weight" not in tensors:
        return None
    if "transformer.encoder.layers.0.self_attn.attention_weights.weight" in tensors:
        return _PLAIN
    return _ONE_BLOCK if _blocks(tensors, "norm22.weight") == 1 else _THREE_BLOCKS


def _blocks(tensors: Mapping[str, Tensor], norm: str) -> int:
    """How many layers of the encoder update the low levels too: those have a second norm."""
    return sum(key.endswith(f".{norm}") for key in tensors)


def _lite_sizes(renamed: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """With the number of high levels only if no model is named after it: else the name says it, which may be another
    that was asked for."""
    options = {**sizes(renamed, settings), "blocks": _blocks(renamed, "norm_low.weight")}
    high, key_aware = settings.get("enc_scale"), "decoder.0.cross_attention.query.weight" in renamed
    named = (2, 3) if options["blocks"] == 3 and key_aware else (3,)
    if isinstance(high, int) and high not in named:
        options["high_levels"] = high
    return options


def _two_high(name: str, settings: Mapping[str, Any]) -> str:
    return _TWO_HIGH if name == _THREE_BLOCKS and settings.get("enc_scale") == 2 else name


SOURCES = (
    Source(
        name="DINO",
        models=tuple(_BY_LEVELS.values()),
        recognise=_recognise,
        rules=lambda model, tensors: ORIGINAL,
        num_classes=num_classes,
        labels={len(COCO_SLOTS): COCO_SLOTS},
        licence="Apache-2.0",
        note="It predicts raw COCO ids.",
        options=sizes,
    ),
    Source(
        name="Lite-DINO",
        models=(_THREE_BLOCKS, _ONE_BLOCK, _TWO_HIGH, _PLAIN),
        recognise=_recognise_lite,
        rules=lambda model, tensors: LITE_PLAIN if model == _PLAIN else LITE_KEY_AWARE,
        num_classes=num_classes,
        labels={len(COCO_SLOTS): COCO_SLOTS},
        licence="Apache-2.0",
        note=f"{_TWO_HIGH} has the tensors of {_THREE_BLOCKS}: where nothing beside them says so, name it.",
        options=_lite_sizes,
        alike={_THREE_BLOCKS: (_TWO_HIGH,)},
        choose=_two_high,
    ),
)
