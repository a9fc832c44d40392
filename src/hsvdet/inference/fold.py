"""Folding: the same function of the image with fewer operations. docs/fold.md has the derivation and its limits.

Batch normalisation goes into the convolution before it; the dense path of sparse global attention goes into
the convolutions after it. Solved in float64 and rounded once.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from ..backbones.resnet import ResNet
from ..layers.conv import ConvNorm, ConvNormAct
from ..layers.sparse_global import SparseGlobal
from ..layers.training_only import without_training_parts
from ..models.hsv_det import HsvDet
from .folded_sparse_global import WORST_CONDITION, fold_block

# Which normalisation follows which convolution, by attribute.
_PAIRS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    ConvNormAct: (("conv", "norm"),),
    ConvNorm: (("conv", "norm"),),
    ResNet: (("conv1", "bn1"),),
    BasicBlock: (("conv1", "bn1"), ("conv2", "bn2")),
    Bottleneck: (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
}
# These and none that are derived from them: timm's have an activation inside.
_NORMALISATIONS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)


class BlockFold(NamedTuple):
    """What became of a block of sparse global attention.

    form: folded into the convolutions named `into`; a 1x1 convolution of its own, where the matrix is too badly
    conditioned to fold; or only `sparse`, where the block has no dense path. condition: of the matrix.
    """

    name: str
    form: Literal["folded", "convolution", "sparse"]
    condition: float
    into: tuple[str, ...]

    def __str__(self) -> str:
        match self.form:
            case "folded":
                return f"{self.name} folded into {', '.join(self.into)} (condition {self.condition:.3g})"
            case "convolution":
                return (
                    f"{self.name} keeps a 1x1 convolution: its matrix has condition {self.condition:.3g},"
                    f" over {WORST_CONDITION:g}, and folding it would cost precision"
                )
            case _:
                return f"{self.name} has no dense path to fold"


@dataclass(frozen=True)
class FoldReport:
    """normalisations: how many went into their convolution. blocks: those of sparse global attention."""

    normalisations: int
    blocks: tuple[BlockFold, ...]

    def __str__(self) -> str:
        return "; ".join([f"{self.normalisations} normalisations folded", *map(str, self.blocks)])


@torch.no_grad()
def fold(net: nn.Module) -> tuple[nn.Module, FoldReport]:
    """A copy of `net` for inference, on its device and in its precision, and what was folded.

    Equal to `net` in evaluation mode but for rounding (docs/fold.md says how much). A warning is logged for a
    block that cannot be folded without losing precision.
    """
    first = next(net.parameters())
    folded = without_training_parts(copy.deepcopy(net)).to("cpu", torch.float64).eval().requires_grad_(False)
    normalisations = sum(_fold_norm(module, *pair) for module in folded.modules() for pair in _pairs(module))
    report = FoldReport(normalisations, tuple(_fold_blocks(folded)) if isinstance(folded, HsvDet) else ())
    for block in report.blocks:
        if block.form == "convolution":
            logging.getLogger("hsvdet").warning("%s", block)
    return folded.to(first.device, first.dtype).eval().requires_grad_(False), report


def _pairs(module: nn.Module) -> tuple[tuple[str, str], ...]:
    if type(module) is nn.Sequential:  # where every module follows the one before it
        names = list(module._modules)
        return tuple(zip(names, names[1:], strict=False))
    return _PAIRS.get(type(module), ())


def _fold_norm(module: nn.Module, conv_name: str, norm_name: str) -> bool:
    conv, norm = getattr(module, conv_name), getattr(module, norm_name)
    if not isinstance(conv, nn.Conv2d) or type(norm) not in _NORMALISATIONS:
        return False
    setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
    setattr(module, norm_name, nn.Identity())
    return True


def _fold_blocks(net: HsvDet) -> Iterator[BlockFold]:
    names = {module: name for name, module in net.named_modules()}
    for name, block in list(net.sparse_global.items()):
        if not isinstance(block, SparseGlobal):  # folded before
            continue
        readers = net.readers(name)
        replacement, matrix, condition = fold_block(block)
        if replacement is None:
            del net.sparse_global[name]
        else:
            net.sparse_global[name] = replacement
        if matrix is None:
            form = "sparse" if block.config.dense_path == "identity" else "convolution"
            yield BlockFold(name, form, condition, ())
            continue
        for conv, columns in readers:
            part = conv.weight[:, columns]
            conv.weight[:, columns] = torch.einsum("oihw,ij->ojhw", part, matrix)
        yield BlockFold(name, "folded", condition, tuple(names[c].removesuffix(".conv") for c, _ in readers))
