"""Published weights of Sparse DETR, from its authors' repository."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .coco_classes import COCO_SLOTS
from .deformable_detr import count_numbers, num_classes, sizes
from .efficient_detr import QUERIES_FROM_TOKENS
from .published import Source
from .rename import Rule
from .shared_rules import linear, mlp

_MODELS = tuple(f"sparse-detr-r50-rho{percent}" for percent in (10, 20, 30, 40, 50))
_USUAL = "sparse-detr-r50-rho30"
_SCORING = r"transformer\.enc_mask_predictor"
# Heads are numbered decoder, proposals, encoder; the decoder's list of them is of all, the encoder's of its own.
_DECODER, _ENCODER = r"(?:transformer\.decoder\.)?", r"transformer\.encoder\."


def rules(encoder_layers: int, decoder_layers: int) -> list[Rule]:
    table = [
        *QUERIES_FROM_TOKENS,
        *(linear(rf"{_DECODER}class_embed\.{n}", f"classes.{n}") for n in range(decoder_layers)),
        *(mlp(rf"{_DECODER}bbox_embed\.{n}", f"boxes.{n}") for n in range(decoder_layers)),
        linear(rf"{_DECODER}class_embed\.{decoder_layers}", "proposal_classes"),
        mlp(rf"{_DECODER}bbox_embed\.{decoder_layers}", "proposal_boxes"),
        linear(rf"{_SCORING}\.layer1\.0", "score.norm"),
        linear(rf"{_SCORING}\.layer1\.1", "score.embed"),
        linear(rf"{_SCORING}\.layer2\.0", "score.first"),
        linear(rf"{_SCORING}\.layer2\.2", "score.second"),
        linear(rf"{_SCORING}\.layer2\.4", "score.last"),
    ]
    for n in range(encoder_layers - 1):
        for prefix, number in ((_DECODER, decoder_layers + 1 + n), (_ENCODER, n)):
            table.append(linear(rf"{prefix}class_embed\.{number}", f"encoder_classes.{n}"))
            table.append(mlp(rf"{prefix}bbox_embed\.{number}", f"encoder_boxes.{n}"))
    return table


def _rules(model: str, tensors: Mapping[str, Tensor]) -> list[Rule]:
    encoder, decoder = (
        count_numbers(rf"transformer\.{part}\.layers\.(\d+)\.", tensors) for part in ("encoder", "decoder")
    )
    return rules(encoder, decoder)


def _recognise(tensors: Mapping[str, Tensor]) -> str | None:
    return _USUAL if "transformer.enc_mask_predictor.layer1.0.weight" in tensors else None


def _named_after_share(settings: Mapping[str, Any]) -> str | None:
    """The model that keeps the share of the tokens that the settings say; the tensors are the same for all."""
    rho = settings.get("rho")
    name = f"sparse-detr-r50-rho{100 * rho:g}" if isinstance(rho, float) else None
    return name if name in _MODELS else None


def _options(renamed: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """With the share only if no model is named after it: else the name says it, which may be another that was asked
    for."""
    options, rho = sizes(renamed, settings), settings.get("rho")
    if isinstance(rho, float) and _named_after_share(settings) is None:
        options["rho"] = rho
    return options


SOURCES = (
    Source(
        name="Sparse DETR",
        models=_MODELS,
        recognise=_recognise,
        rules=_rules,
        num_classes=num_classes,
        labels={len(COCO_SLOTS): COCO_SLOTS},
        licence="Apache-2.0",
        note="The settings in the file say which share of the tokens it keeps; without them, name the model.",
        options=_options,
        alike={_USUAL: _MODELS},
        choose=lambda name, settings: _named_after_share(settings) or name,
    ),
)
