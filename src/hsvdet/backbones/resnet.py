"""ResNet (He et al. 2015, arXiv 1512.03385), in the form whose bottlenecks stride in the 3x3 convolution.

Parameters are named as in torchvision and timm, so that their ImageNet weights load as they are.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from ..errors import ConfigError, did_you_mean

# Blocks in each stage, and channels inside the blocks of the first stage (they double from stage to stage).
VARIANTS = {
    "resnet-tiny": (BasicBlock, (1, 1, 1, 1), 16),
    "resnet18": (BasicBlock, (2, 2, 2, 2), 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 64),
}


class ResNet(nn.Module):
    """images [B, 3, H, W] to the maps of the stages asked for, finest first.

    name: a key of VARIANTS. stages: of 1, 2, 3, 4, whose strides are 4, 8, 16, 32. dilated: the last stage
    keeps stride 16 and looks twice as far instead (DC5); bottlenecks only.
    pretrained: the weights will come from ImageNet, and are treated as the DETR family treats them: batch
    normalisation is fixed, the stem and the first stage are not trained. Otherwise everything is trained.
    channels, strides: of the maps.
    """

    def __init__(
        self,
        name: str,
        stages: tuple[int, ...] = (4,),
        *,
        dilated: bool = False,
        pretrained: bool = True,
    ):
        super().__init__()
        if name not in VARIANTS:
            raise ConfigError(
                f"No backbone is called {name!r}.{did_you_mean(name, VARIANTS)} There are {', '.join(VARIANTS)}."
            )
        block, counts, width = VARIANTS[name]
        if dilated and block is BasicBlock:
            raise ConfigError(
                f"{name} cannot be dilated: its blocks have no such form. Choose resnet50 or more."
            )
        norm = FrozenBatchNorm2d if pretrained else nn.BatchNorm2d
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
        if pretrained:
            for part in (self.conv1, self.layer1):
                part.requires_grad_(False)

    def forward(self, images: Tensor, padding: Tensor | None = None) -> list[Tensor]:
        """padding: [B, H, W] bool. What stands there is read as 0, the mean colour, whatever it is."""
        if padding is not None:
            images = images.masked_fill(padding[:, None], 0.0)
        x = self.maxpool(self.bn1(self.conv1(images)).relu())
        maps = []
        for stage in range(1, max(self.stages) + 1):
            x = getattr(self, f"layer{stage}")(x)
            if stage in self.stages:
                maps.append(x)
        return maps
