"""Published weights of RT-DETR, first and second version: from the authors' repository, and from transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..models.rt_detr import VARIANTS
from .coco_classes import COCO_LABELS
from .deformable_detr import deformable
from .published import Source
from .rename import Rule
from .shared_rules import attention, attention_transformers, linear, mlp

_LEAF = r"(?P<leaf>weight|bias|running_mean)"


def _counted(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """A running variance, and how many batches made it: never used, and not in every file."""
    return tensor, torch.zeros((), dtype=torch.int64)


def norm(foreign: str, ours: str) -> list[Rule]:
    """Batch normalisation."""
    variance = (f"{ours}.running_var", f"{ours}.num_batches_tracked")
    return [
        Rule(rf"{foreign}\.{_LEAF}", rf"{ours}.\g<leaf>"),
        Rule(rf"{foreign}\.running_var", variance, _counted),
        Rule(rf"{foreign}\.num_batches_tracked", None),
    ]


def convolution(
    foreign: str, ours: str, conv: str = "conv", norm_: str = "norm", frozen: bool = False
) -> list[Rule]:
    """Our ConvNorm, whose parts are called `conv` and `norm_` there. frozen: its normalisation counts nothing."""
    rules = norm(rf"{foreign}\.{norm_}", f"{ours}.norm")
    if frozen:
        rules[1] = Rule(rf"{foreign}\.{norm_}\.running_var", f"{ours}.norm.running_var")
    return [Rule(rf"{foreign}\.{conv}\.weight", f"{ours}.conv.weight"), *rules]


_BLOCK = r"backbone.stages.\g<stage>.\g<block>"


def backbone_original(frozen: bool) -> list[Rule]:
    block = r"backbone\.res_layers\.(?P<stage>\d)\.blocks\.(?P<block>\d+)"
    rules = []
    for number in range(3):
        rules += convolution(
            rf"backbone\.conv1\.conv1_{number + 1}", f"backbone.stem.{number}", frozen=frozen
        )
        rules += convolution(
            rf"{block}\.branch2{'abc'[number]}", f"{_BLOCK}.convolutions.{number}", frozen=frozen
        )
    # Where the shortcut shrinks, its convolution stands behind a pool.
    return rules + convolution(rf"{block}\.short(?:\.conv)?", f"{_BLOCK}.shortcut", frozen=frozen)


def backbone_transformers(frozen: bool) -> list[Rule]:
    body = r"model\.backbone\.(?:conv_encoder\.)?model"
    block = rf"{body}\.encoder\.stages\.(?P<stage>\d)\.layers\.(?P<block>\d+)"
    names = {"conv": "convolution", "norm_": "normalization", "frozen": frozen}
    stem = rf"{body}\.embedder\.embedder\.(?P<n>\d)"
    return [
        *convolution(stem, r"backbone.stem.\g<n>", **names),
        *convolution(rf"{block}\.layer\.(?P<n>\d)", rf"{_BLOCK}.convolutions.\g<n>", **names),
        *convolution(rf"{block}\.shortcut(?:\.1)?", f"{_BLOCK}.shortcut", **names),
    ]


def _fusion(prefix: str) -> list[Rule]:
    rules = []
    for theirs, ours in (("fpn_blocks", "top_down"), ("pan_blocks", "bottom_up")):
        block, name = rf"{prefix}{theirs}\.(?P<n>\d)", rf"neck.{ours}.\g<n>"
        inner = rf"{block}\.bottlenecks\.(?P<m>\d)"
        rules += convolution(rf"{block}\.conv1", f"{name}.first")
        rules += convolution(rf"{block}\.conv2", f"{name}.second")
        rules += convolution(rf"{block}\.conv3", f"{name}.join")
        rules += convolution(rf"{inner}\.conv1", rf"{name}.blocks.\g<m>.wide")
        rules += convolution(rf"{inner}\.conv2", rf"{name}.blocks.\g<m>.narrow")
    rules += convolution(rf"{prefix}lateral_convs\.(?P<n>\d)", r"neck.lateral.\g<n>")
    return rules + convolution(rf"{prefix}downsample_convs\.(?P<n>\d)", r"neck.shrink.\g<n>")


_LAYER = r"decoder\.decoder\.layers\.(?P<n>\d+)"
_OURS = r"decoder.\g<n>"


def original(frozen: bool) -> list[Rule]:
    """frozen: whether our backbone's normalisation is."""
    attention_layer = r"encoder\.encoder\.0\.layers\.0"
    return [
        *backbone_original(frozen),
        *convolution(
            r"encoder\.input_proj\.(?P<n>\d)", r"neck.project.\g<n>", conv="(?:0|conv)", norm_="(?:1|norm)"
        ),
        *attention(rf"{attention_layer}\.self_attn", "neck.attention.attention"),
        linear(rf"{attention_layer}\.norm1", "neck.attention.norm_attention"),
        linear(rf"{attention_layer}\.linear1", "neck.attention.feed_forward.expand"),
        linear(rf"{attention_layer}\.linear2", "neck.attention.feed_forward.contract"),
        linear(rf"{attention_layer}\.norm2", "neck.attention.norm_feed_forward"),
        *_fusion(r"encoder\."),
        *convolution(r"decoder\.input_proj\.(?P<n>\d)", r"project.\g<n>"),
        linear(r"decoder\.enc_output\.(?:0|proj)", "propose.0"),
        linear(r"decoder\.enc_output\.(?:1|norm)", "propose.1"),
        linear(r"decoder\.enc_score_head", "proposal_classes"),
        mlp(r"decoder\.enc_bbox_head", "proposal_boxes"),
        Rule(r"decoder\.denoising_class_embed\.weight", "labels.weight"),
        mlp(r"decoder\.query_pos_head", "query_position"),
        *attention(rf"{_LAYER}\.self_attn", f"{_OURS}.self_attention"),
        linear(rf"{_LAYER}\.norm1", f"{_OURS}.norm_self"),
        *deformable(rf"{_LAYER}\.cross_attn", f"{_OURS}.cross_attention"),
        Rule(rf"{_LAYER}\.cross_attn\.num_points_scale", None, _equal_points),
        linear(rf"{_LAYER}\.norm2", f"{_OURS}.norm_cross"),
        linear(rf"{_LAYER}\.linear1", f"{_OURS}.feed_forward.expand"),
        linear(rf"{_LAYER}\.linear2", f"{_OURS}.feed_forward.contract"),
        linear(rf"{_LAYER}\.norm3", f"{_OURS}.norm_feed_forward"),
        linear(r"decoder\.dec_score_head\.(?P<n>\d)", r"classes.\g<n>"),
        mlp(r"decoder\.dec_bbox_head\.(?P<n>\d)", r"boxes.\g<n>"),
        # Boxes of the tokens of one input size, which follow from it.
        Rule(r"decoder\.(?:anchors|valid_mask)", None),
    ]


_HF_LAYER = r"model\.decoder\.layers\.(?P<n>\d+)"


def transformers(frozen: bool) -> list[Rule]:
    """frozen: whether our backbone's normalisation is."""
    attention_layer = r"model\.encoder\.(?:encoder|aifi)\.0\.layers\.0"
    return [
        *backbone_transformers(frozen),
        *convolution(r"model\.encoder_input_proj\.(?P<n>\d)", r"neck.project.\g<n>", conv="0", norm_="1"),
        *attention_transformers(rf"{attention_layer}\.self_attn", "neck.attention.attention"),
        linear(rf"{attention_layer}\.self_attn_layer_norm", "neck.attention.norm_attention"),
        linear(rf"{attention_layer}\.(?:mlp\.)?fc1", "neck.attention.feed_forward.expand"),
        linear(rf"{attention_layer}\.(?:mlp\.)?fc2", "neck.attention.feed_forward.contract"),
        linear(rf"{attention_layer}\.final_layer_norm", "neck.attention.norm_feed_forward"),
        *_fusion(r"model\.encoder\."),
        *convolution(r"model\.decoder_input_proj\.(?P<n>\d)", r"project.\g<n>", conv="0", norm_="1"),
        linear(r"model\.enc_output\.(?P<part>[01])", r"propose.\g<part>"),
        linear(r"model\.enc_score_head", "proposal_classes"),
        mlp(r"model\.enc_bbox_head", "proposal_boxes"),
        Rule(r"model\.denoising_class_embed\.weight", "labels.weight"),
        mlp(r"model\.decoder\.query_pos_head", "query_position"),
        *attention_transformers(rf"{_HF_LAYER}\.self_attn", f"{_OURS}.self_attention"),
        linear(rf"{_HF_LAYER}\.self_attn_layer_norm", f"{_OURS}.norm_self"),
        *deformable(rf"{_HF_LAYER}\.encoder_attn", f"{_OURS}.cross_attention"),
        Rule(rf"{_HF_LAYER}\.encoder_attn\.n_points_scale", None, _equal_points),
        linear(rf"{_HF_LAYER}\.encoder_attn_layer_norm", f"{_OURS}.norm_cross"),
        linear(rf"{_HF_LAYER}\.(?:mlp\.)?fc1", f"{_OURS}.feed_forward.expand"),
        linear(rf"{_HF_LAYER}\.(?:mlp\.)?fc2", f"{_OURS}.feed_forward.contract"),
        linear(rf"{_HF_LAYER}\.final_layer_norm", f"{_OURS}.norm_feed_forward"),
        linear(r"(?:model\.decoder\.)?class_embed\.(?P<n>\d)", r"classes.\g<n>"),
        mlp(r"(?:model\.decoder\.)?bbox_embed\.(?P<n>\d)", r"boxes.\g<n>"),
    ]


def _equal_points(scale: Tensor) -> None:
    """RT-DETRv2 may read another number of points on each map; the published models read 4 on all of them."""
    if not torch.equal(scale, torch.full_like(scale, 1 / 4)):
        raise ValueError(f"4 points a map are expected, which makes all of it 0.25; came {scale.tolist()}")


# Blocks of the third stage, and whether they are bottlenecks, tell the backbone.
_MODELS = {
    (2, False): "rt-detr-r18",
    (6, False): "rt-detr-r34",
    (6, True): "rt-detr-r50",
    (23, True): "rt-detr-r101",
}


def _recognise(tensors: Mapping[str, Tensor], block: str, third: str, neck: str) -> str | None:
    """block: pattern of the third stage's blocks. third: what a block's third convolution has in its names.
    neck: what the encoder's tensors are under."""
    if f"{neck}fpn_blocks.0.conv1.conv.weight" not in tensors:
        return None
    inside = [match for key in tensors if (match := re.match(block, key))]
    deep = any(match.string[match.end() :].startswith(third) for match in inside)
    name = _MODELS.get((len({match[1] for match in inside}), deep))
    if name == "rt-detr-r50" and f"{neck}fpn_blocks.0.conv3.conv.weight" in tensors:
        return "rt-detr-r50-m"  # narrower inside the fusion blocks
    return name


def _recognise_original(tensors: Mapping[str, Tensor]) -> str | None:
    return _recognise(tensors, r"backbone\.res_layers\.2\.blocks\.(\d+)\.", "branch2c.", "encoder.")


def _recognise_transformers(tensors: Mapping[str, Tensor]) -> str | None:
    block = r"model\.backbone\.(?:conv_encoder\.)?model\.encoder\.stages\.2\.layers\.(\d+)\."
    return _recognise(tensors, block, "layer.2.", "model.encoder.")


def _options(renamed: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    layers = len({match[1] for key in renamed if (match := re.match(r"decoder\.(\d+)\.", key))})
    options: dict[str, Any] = {"decoder_layers": layers}
    if isinstance(settings.get("num_queries"), int):
        options["queries"] = settings["num_queries"]
    return options


def _frozen(model: str) -> bool:
    return VARIANTS[model].get("frozen", True)


SOURCES = tuple(
    Source(
        name=name,
        models=(*_MODELS.values(), "rt-detr-r50-m"),
        recognise=recognise,
        rules=rules,
        num_classes=lambda tensors, head=head: tensors[head].shape[0],
        labels={len(COCO_LABELS): COCO_LABELS},
        licence="Apache-2.0",
        note="Weights of RT-DETRv2 with 4 points a map are weights of the same network.",
        options=_options,
    )
    for name, recognise, rules, head in (
        (
            "RT-DETR",
            _recognise_original,
            lambda model, tensors: original(_frozen(model)),
            "decoder.enc_score_head.weight",
        ),
        (
            "RT-DETR of transformers",
            _recognise_transformers,
            lambda model, tensors: transformers(_frozen(model)),
            "model.enc_score_head.weight",
        ),
    )
)
