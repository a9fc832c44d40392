"""ResNet (He et al. 2015, arXiv 1512.03385), in the form whose bottlenecks stride in the 3x3 convolution.

Parameters are named as in torchvision and timm, so that their ImageNet weights load as they are.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from ..errors import ConfigError
from .backbone import Backbone, blank

# Blocks in each stage, and channels inside the blocks of the first stage (they double from stage to stage).
VARIANTS: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...], int]] = {
    "resnet-tiny": (BasicBlock, (1, 1, 1, 1), 16),
    "resnet18": (BasicBlock, (2, 2, 2, 2), 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 64),
}


class ResNet(Backbone):
    """name: a key of VARIANTS. Other arguments: as `build` says; only bottlenecks have a dilated form."""

    def __init__(
        self, name: str, stages: tuple[int, ...], *, frozen: int | None = None, dilated: bool = False
    ):
        super().__init__()
        block, counts, width = VARIANTS[name]
        if dilated and block is BasicBlock:
            raise ConfigError(
                f"{name} cannot be dilated: its blocks have no such form. Choose resnet50 or more."
            )
        norm = nn.BatchNorm2d if frozen is None else FrozenBatchNorm2d
        self.stages = tuple(stages)
        self.channels = tuple(width * 2 ** (stage - 1) * block.expansion for stage in self.stages)
        self.strides = tuple(16 if dilated and stage == 4 else 2 ** (stage + 1) for stage in self.stages)
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        for stage, count in enumerate(counts[: max(stages)], 1):
            inner = width * 2 ** (stage - 1)
            dilate = dilated and stage == 4
            stride = 1 if stage == 1 or dilate else 2
            blocks = []
            for number in range(count):
                shortcut = None
                if number == 0 and (stride > 1 or channels != inner * block.expansion):
                    shortcut = nn.Sequential(
                        nn.Conv2d(channels, inner * block.expansion, 1, stride, bias=False),
                        norm(inner * block.expansion),
                    )
                blocks.append(
                    block(
                        channels,
                        inner,
                        stride if number == 0 else 1,
                        shortcut,
                        dilation=2
                        if dilate and number
                        else 1,  # the first block still sees the undilated map
                        norm_layer=norm,
                    )
                )
                channels = inner * block.expansion
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if frozen is not None:
            for part in [self.conv1] + [getattr(self, f"layer{stage}") for stage in range(1, frozen + 1)]:
                part.requires_grad_(False)

    def forward(self, images: Tensor, padding: Tensor | None = None) -> list[Tensor]:
        images = blank(images, padding)
        x = self.maxpool(self.bn1(self.conv1(images)).relu())
        maps = []
        for stage in range(1, max(self.stages) + 1):
            x = getattr(self, f"layer{stage}")(x)
            if stage in self.stages:
                maps.append(x)
        return maps
