"""Published weights of DINO, from its authors' repository."""

from __future__ import annotations

from collections.abc import Mapping

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

_BY_LEVELS = {4: "dino-r50", 5: "dino-r50-5scale"}


def _recognise(tensors: Mapping[str, Tensor]) -> str | None:
    known = {"label_enc.weight", "transformer.tgt_embed.weight", "transformer.enc_out_class_embed.weight"}
    if not known <= tensors.keys() or "transformer.level_embed" not in tensors:
        return None
    return _BY_LEVELS.get(tensors["transformer.level_embed"].shape[0])


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
)
