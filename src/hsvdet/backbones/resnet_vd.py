"""ResNet-vd (He et al. 2018, "Bag of Tricks for Image Classification", arXiv 1812.01187, section 4, ResNet-D).

Three small convolutions begin it instead of one large one, and shortcuts shrink by averaging before their 1x1
convolution, so that no cell is passed over. The first block of every stage has a projection, also where the numbers
of channels agree.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from ..layers.conv import ConvNorm
from .backbone import Backbone, blank

# Blocks in each stage, channels of the first stage inside the blocks, and whether they are bottlenecks.
VARIANTS = {
    "resnetvd-tiny": ((1, 1, 1, 1), 16, False),
    "resnet18vd": ((2, 2, 2, 2), 64, False),
    "resnet34vd": ((3, 4, 6, 3), 64, False),
    "resnet50vd": ((3, 4, 6, 3), 64, True),
    "resnet101vd": ((3, 4, 23, 3), 64, True),
}


class ResNetVd(Backbone):
    """name: a key of VARIANTS. Other arguments: as `build` says."""

    def __init__(self, name: str, stages: tuple[int, ...] = (2, 3, 4), *, frozen: int | None = None):
        super().__init__()
        counts, width, deep = VARIANTS[name]
        norm = nn.BatchNorm2d if frozen is None else FrozenBatchNorm2d
        half = width // 2
        self.stem = nn.Sequential(
            ConvNorm(3, half, 3, 2, nn.ReLU, norm),
            ConvNorm(half, half, 3, 1, nn.ReLU, norm),
            ConvNorm(half, width, 3, 1, nn.ReLU, norm),
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        channels, outputs = width, []
        for stage, count in enumerate(counts[: max(stages)]):
            inner, blocks = width * 2**stage, []
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                block = Block(channels, inner, stride, deep=deep, project=number == 0, norm=norm)
                channels = block.channels
                blocks.append(block)
            self.stages.append(nn.Sequential(*blocks))
            outputs.append(channels)
        self.given = tuple(stage - 1 for stage in stages)
        self.channels = tuple(outputs[stage] for stage in self.given)
        self.strides = tuple(4 * 2**stage for stage in self.given)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if frozen is not None:
            for part in [self.stem, *self.stages[:frozen]]:
                part.requires_grad_(False)

    def forward(self, images: Tensor, padding: Tensor | None = None) -> list[Tensor]:
        images = blank(images, padding)
        x = self.pool(self.stem(images))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [maps[stage] for stage in self.given]


class Block(nn.Module):
    """Two 3x3 convolutions, or with `deep` a bottleneck of 1x1, 3x3 and 1x1, plus the shortcut, then ReLU."""

    def __init__(self, channels_in: int, inner: int, stride: int, *, deep: bool, project: bool, norm):
        super().__init__()
        self.channels, self.stride = inner * 4 if deep else inner, stride
        if deep:
            convolutions = [
                ConvNorm(channels_in, inner, 1, 1, nn.ReLU, norm),
                ConvNorm(inner, inner, 3, stride, nn.ReLU, norm),
                ConvNorm(inner, self.channels, 1, norm=norm),
            ]
        else:
            convolutions = [
                ConvNorm(channels_in, inner, 3, stride, nn.ReLU, norm),
                ConvNorm(inner, inner, 3, norm=norm),
            ]
        self.convolutions = nn.Sequential(*convolutions)
        self.shortcut = ConvNorm(channels_in, self.channels, norm=norm) if project else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride == 2:
            shortcut = F.avg_pool2d(shortcut, 2, 2, ceil_mode=True)
        if self.shortcut is not None:
            shortcut = self.shortcut(shortcut)
        return (self.convolutions(x) + shortcut).relu()
