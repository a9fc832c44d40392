"""Weights of Efficient DETR as the repository of Sparse DETR trains it; none are published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .coco_classes import COCO_SLOTS
from .deformable_detr import OWN_HEADS, TRANSFORMER_ORIGINAL, num_classes, sizes
from .published import Source
from .rename import Rule
from .shared_rules import linear

_SHALLOW, _DEEP = "efficient-detr-r50", "efficient-detr-r50-e6d6"
# What makes queries from tokens, in Sparse DETR too.
QUERIES_FROM_TOKENS: list[Rule] = [
    *TRANSFORMER_ORIGINAL,
    linear(r"transformer\.enc_output", "propose.0"),
    linear(r"transformer\.enc_output_norm", "propose.1"),
    linear(r"transformer\.pos_trans", "query_position.0"),
    linear(r"transformer\.pos_trans_norm", "query_position.1"),
]
ORIGINAL = [*QUERIES_FROM_TOKENS, *OWN_HEADS]


def _recognise(tensors: Mapping[str, Tensor]) -> str | None:
    place = tensors.get("transformer.pos_trans.weight")
    if place is None or place.shape[0] == place.shape[1] or "transformer.level_embed" not in tensors:
        return None
    if any(key.startswith("transformer.enc_mask_predictor.") for key in tensors):
        return None  # Sparse DETR
    return _DEEP if "transformer.decoder.layers.1.norm1.weight" in tensors else _SHALLOW


def _options(renamed: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """With as many queries as at the end, if the settings say how many."""
    options = sizes(renamed, settings) | {"own_heads": "classes.1.weight" in renamed}
    return options | ({"first_queries": options["queries"]} if "queries" in options else {})


SOURCES = (
    Source(
        name="Efficient DETR",
        models=(_SHALLOW, _DEEP),
        recognise=_recognise,
        rules=lambda model, tensors: ORIGINAL,
        num_classes=num_classes,
        labels={len(COCO_SLOTS): COCO_SLOTS},
        licence="Apache-2.0",
        note="It predicts raw COCO ids.",
        options=_options,
    ),
)
