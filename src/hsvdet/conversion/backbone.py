"""ImageNet weights for the backbone of a detector that is to be trained."""

from __future__ import annotations

from pathlib import Path

from ..backbones.resnet import ResNet
from ..detector import load_tensors
from ..errors import CheckpointError
from .foreign import read_weights
from .parts import resnet_transformers
from .rename import Rule, rename

_RULES = [
    Rule(r"(?:fc|classifier(?:\.\d)?)\.(?:weight|bias)", None),
    *resnet_transformers(r"(?:resnet\.)?"),
]


def load_backbone(backbone: ResNet, path: str | Path) -> int:
    """Copy a classifier's weights into `backbone`, all of them but its last layer. Returns how many tensors.

    path: a ResNet of the same depth from torchvision or timm (a state dict in .pth or .safetensors), or a folder
    of Hugging Face. Nothing in it is executed. Raises CheckpointError for a file that is damaged or unsafe, or a
    network of another kind or depth.
    """
    path = Path(path)
    tensors = rename(read_weights(path).tensors, _RULES, str(path)).tensors
    tensors = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    if not tensors:
        raise CheckpointError(f"{path}: expected the weights of a ResNet; there is nothing of one in it.")
    # How many batches a normalisation has seen says nothing to a new training.
    fresh = {k: v for k, v in backbone.state_dict().items() if k.endswith(".num_batches_tracked")}
    load_tensors(backbone, {**fresh, **tensors}, str(path))
    return len(tensors)
