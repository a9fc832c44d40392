"""ImageNet weights for the backbone of a detector that is to be trained."""

# pyright: strict

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from ..backbones import Backbone
from ..backbones.resnet_vd import ResNetVd
from ..backbones.timm import TimmBackbone
from ..checkpoint import load_tensors
from ..conversion.foreign import read_weights
from ..conversion.rename import Rule, rename
from ..conversion.rt_detr import backbone_original
from ..conversion.shared_rules import resnet_transformers
from ..detector import Detector
from ..errors import CheckpointError, ConfigError

_CLASSIFIER = Rule(r"(?:fc|classifier(?:\.\d)?)\.(?:weight|bias)", None)
_STATISTICS = r"(?P<leaf>weight|bias|running_mean|running_var)"


def _vd(rest: str) -> Callable[[re.Match[str]], str]:
    """Our name for one of timm's in a stage; we count stages and convolutions from 0."""

    def name(match: re.Match[str]) -> str:
        number = int(match.groupdict().get("number") or 1) - 1
        inside = rest.format(number=number, leaf=match["leaf"])
        return f"stages.{int(match['stage']) - 1}.{match['block']}.{inside}"

    return name


_BLOCK = r"layer(?P<stage>\d)\.(?P<block>\d+)"
_VD_OF_TIMM = [
    Rule(r".+\.num_batches_tracked", None),
    *(Rule(rf"conv1\.{3 * n}\.weight", f"stem.{n}.conv.weight") for n in range(3)),
    *(Rule(rf"conv1\.{3 * n + 1}\.{_STATISTICS}", rf"stem.{n}.norm.\g<leaf>") for n in range(2)),
    Rule(rf"bn1\.{_STATISTICS}", r"stem.2.norm.\g<leaf>"),
    Rule(rf"{_BLOCK}\.conv(?P<number>\d)\.(?P<leaf>weight)", _vd("convolutions.{number}.conv.{leaf}")),
    Rule(rf"{_BLOCK}\.bn(?P<number>\d)\.{_STATISTICS}", _vd("convolutions.{number}.norm.{leaf}")),
    Rule(rf"{_BLOCK}\.downsample\.1\.(?P<leaf>weight)", _vd("shortcut.conv.{leaf}")),
    Rule(rf"{_BLOCK}\.downsample\.2\.{_STATISTICS}", _vd("shortcut.norm.{leaf}")),
]


# A classifier's weights from timm's own cache, or from where it downloads them.
TIMM = "timm"


def start_backbone(detector: Detector, weights: str | Path) -> int:
    """Copy a classifier's weights into the backbone of a new detector, whose `start` then says so: training
    gives the backbone a rate of its own. Returns how many tensors.

    weights: a file, as `load_backbone`; or "timm" for what timm has published of a backbone of its, from its cache
    or the hub, under the licence that the detector then says. ConfigError where the model has no backbone.
    """
    backbone = getattr(detector.net, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise ConfigError(
            f"{detector.name} has no backbone to start from ImageNet; models of the DETR lineage have. Start it from"
            " weights of the whole model."
        )
    if str(weights) != TIMM:
        count = load_backbone(backbone, weights)
        _say(detector, Path(weights).name)
        return count
    if not isinstance(backbone, TimmBackbone):
        raise ConfigError(
            f"timm's weights are for timm's networks; the backbone of this {detector.name} is"
            f" {detector.config.backbone}. Give a file, or choose a backbone called timm/NAME."
        )
    count = _load(backbone, backbone.own(backbone.published(), backbone.name), backbone.name)
    _say(detector, backbone.name)
    if backbone.licence.lower() != detector.licence.lower():
        detector.licence = backbone.licence
    return count


def _say(detector: Detector, weights: str) -> None:
    detector.source, detector.start = f"random initialisation, backbone from {weights}", "backbone"


def load_backbone(backbone: Backbone, path: str | Path) -> int:
    """Copy a classifier's weights into `backbone`, all of them but its last layer. Returns how many tensors.

    path: for a ResNet one of the same depth from torchvision or timm (a state dict in .pth or .safetensors), or
    a folder of Hugging Face; for a ResNet-vd the authors' file, or timm's resnet50d or resnet101d (its smaller
    ones have no projection in the first stage); for a network of timm its file. Nothing in it is executed. Raises
    CheckpointError for a file that is damaged or unsafe, or a network of another kind or depth.
    """
    path = Path(path)
    given = read_weights(path).tensors
    if isinstance(backbone, TimmBackbone):
        return _load(backbone, backbone.own(given, str(path)), str(path))
    return _load(backbone, _of_resnet(given, isinstance(backbone, ResNetVd), path), str(path))


def _load(backbone: Backbone, tensors: Mapping[str, Tensor], source: str) -> int:
    # How many batches a normalisation has seen says nothing to a new training.
    fresh = {k: v for k, v in backbone.state_dict().items() if k.endswith(".num_batches_tracked")}
    load_tensors(backbone, {**tensors, **fresh}, source)
    return len(tensors)


def _of_resnet(given: Mapping[str, Tensor], vd: bool, path: Path) -> dict[str, Tensor]:
    rules = _VD_OF_TIMM if vd else resnet_transformers(r"(?:resnet\.)?")
    if vd and any("res_layers." in name for name in given):
        given = {f"backbone.{name}": tensor for name, tensor in given.items()}
        rules = backbone_original(frozen=True)
    tensors = rename(given, [_CLASSIFIER, *rules], str(path)).tensors
    if not tensors:
        raise CheckpointError(f"{path}: expected the weights of a ResNet; there is nothing of one in it.")
    return {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
