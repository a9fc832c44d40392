"""Rules for parts that many published models have: ResNets, PyTorch's attention, linear layers.

Two layouts: that of the papers' own repositories ("original"), which follow torchvision and torch.nn, and that
of Hugging Face transformers. `foreign` is a regular expression and `ours` a template: groups of the one can be
used in the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..backbones.resnet import VARIANTS
from .rename import Rule, thirds

_STATISTICS = r"(?P<leaf>weight|bias|running_mean|running_var)"
TRANSFORMERS_BACKBONE = r"model\.backbone\.(?:conv_encoder\.)?model\.(?:_backbone\.)?"


def linear(foreign: str, ours: str) -> Rule:
    """Anything with a weight and a bias: a linear layer, a convolution, a normalisation."""
    return Rule(rf"{foreign}\.(?P<leaf>weight|bias)", rf"{ours}.\g<leaf>")


def mlp(foreign: str, ours: str) -> Rule:
    return Rule(
        rf"{foreign}\.layers\.(?P<depth>\d+)\.(?P<leaf>weight|bias)", rf"{ours}.layers.\g<depth>.\g<leaf>"
    )


def attention(foreign: str, ours: str) -> list[Rule]:
    """torch.nn.MultiheadAttention, whose queries, keys and values come from one matrix."""
    projections = tuple(rf"{ours}.{name}.\g<leaf>" for name in ("query", "key", "value"))
    return [
        Rule(rf"{foreign}\.in_proj_(?P<leaf>weight|bias)", projections, thirds),
        linear(rf"{foreign}\.out_proj", f"{ours}.output"),
    ]


def attention_transformers(foreign: str, ours: str) -> list[Rule]:
    return [
        linear(rf"{foreign}\.q_proj", f"{ours}.query"),
        linear(rf"{foreign}\.k_proj", f"{ours}.key"),
        linear(rf"{foreign}\.v_proj", f"{ours}.value"),
        linear(rf"{foreign}\.(?:out_proj|o_proj)", f"{ours}.output"),
    ]


def resnet(foreign: str) -> list[Rule]:
    """A ResNet with torchvision's names after `foreign`."""
    return [
        Rule(rf"{foreign}(?:.+\.)?num_batches_tracked", None),
        Rule(rf"{foreign}(?P<rest>(?:conv1|bn1|layer[1-4])\..+)", r"backbone.\g<rest>"),
    ]


def resnet_transformers(foreign: str) -> list[Rule]:
    """A ResNet of transformers after `foreign`: either timm's, or its own, which counts from 0."""
    block = rf"{foreign}encoder\.stages\.(?P<stage>\d)\.layers\.(?P<block>\d+)"

    def inner(kind: str):
        def name(match: re.Match) -> str:
            stage, number = int(match["stage"]) + 1, int(match["number"]) + 1
            return f"backbone.layer{stage}.{match['block']}.{kind}{number}.{match['leaf']}"

        return name

    def shortcut(number: int):
        def name(match: re.Match) -> str:
            return f"backbone.layer{int(match['stage']) + 1}.{match['block']}.downsample.{number}.{match['leaf']}"

        return name

    return [
        *resnet(foreign),
        Rule(rf"{foreign}embedder\.embedder\.convolution\.(?P<leaf>weight)", r"backbone.conv1.\g<leaf>"),
        Rule(rf"{foreign}embedder\.embedder\.normalization\.{_STATISTICS}", r"backbone.bn1.\g<leaf>"),
        Rule(rf"{block}\.layer\.(?P<number>\d)\.convolution\.(?P<leaf>weight)", inner("conv")),
        Rule(rf"{block}\.layer\.(?P<number>\d)\.normalization\.{_STATISTICS}", inner("bn")),
        Rule(rf"{block}\.shortcut\.convolution\.(?P<leaf>weight)", shortcut(0)),
        Rule(rf"{block}\.shortcut\.normalization\.{_STATISTICS}", shortcut(1)),
    ]


def resnet_name(renamed: Mapping[str, Tensor]) -> str | None:
    """Which of our backbones has these tensors, under our names; None for none of them."""
    blocks = {match.groups() for key in renamed if (match := re.match(r"backbone\.layer(\d)\.(\d+)\.", key))}
    counts = tuple(sum(stage == number for stage, _ in blocks) for number in "1234")
    deep = "backbone.layer1.0.conv3.weight" in renamed
    width = renamed["backbone.conv1.weight"].shape[0] if "backbone.conv1.weight" in renamed else 0
    for name, (block, ours, channels) in VARIANTS.items():
        if counts == ours and width == channels and deep == (block.expansion > 1):
            return name
    return None


def has_resnet101(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the backbone, under foreign names of either layout, has the 23 blocks of ResNet-101's stage 3."""
    return any(".layer3.22." in key or ".stages.2.layers.22." in key for key in tensors)


def transformer_options(renamed: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a dense encoder and decoder, told from tensors under our names, and heads if settings say.

    A backbone that none of ours is, is left to the strict load, which names the first tensor that is other.
    """

    def layers(part: str) -> int:
        return len({key.split(".")[1] for key in renamed if key.startswith(f"{part}.")})

    sizes: dict[str, Any] = {}
    if "project.weight" in renamed and "decoder.0.feed_forward.expand.weight" in renamed:
        sizes = {
            "dim": renamed["project.weight"].shape[0],
            "feed_forward": renamed["decoder.0.feed_forward.expand.weight"].shape[0],
            "encoder_layers": layers("encoder"),
            "decoder_layers": layers("decoder"),
        }
    for name in ("queries", "anchors"):
        if name in renamed:
            sizes["queries"] = renamed[name].shape[0]
    heads = settings.get("encoder_attention_heads", settings.get("nheads"))
    if isinstance(heads, int):
        sizes["heads"] = heads
    backbone = resnet_name(renamed)
    return sizes if backbone is None else {**sizes, "backbone": backbone}


def dilated(name: str, settings: Mapping[str, Any]) -> str:
    """The DC5 form of a model has the same tensors; the settings beside them say which it is."""
    return dc5(name) if settings.get("dilation") is True else name


def dc5(name: str) -> str:
    """`detr-r50` to `detr-r50-dc5`, `dab-detr-r50-3pat` to `dab-detr-r50-dc5-3pat`."""
    return re.sub(r"(-r\d+)", r"\1-dc5", name)
