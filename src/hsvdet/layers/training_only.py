"""Parts of a network that are there for training only. A module names its own in `train_only`."""

from __future__ import annotations

from torch import nn


def without_training_parts(net: nn.Module) -> nn.Module:
    """`net` itself, without what no answer in evaluation needs: what is deployed, and what a deployment costs."""
    for module in net.modules():
        for name in getattr(module, "train_only", ()):
            if name in module._modules:
                delattr(module, name)
    return net
