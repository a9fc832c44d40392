"""What a network of timm does with an image, found out by letting it: nothing of it is known by its name."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import ConfigError

# Sides of images: no multiples of a window, of a classifier's 224, or of one another.
_IMAGES = ((96, 160), (160, 352))


class Map(NamedTuple):
    """One of the network's maps. made_of: the names of the parameters on which it depends."""

    channels: int
    stride: int
    made_of: frozenset[str]


class Survey(NamedTuple):
    """maps: in their order. whole: the operation, if there is one, that mixes all cells of a map, whatever its size:
    the mean of squeeze-and-excitation, attention among all tokens."""

    maps: tuple[Map, ...]
    whole: str | None


def survey(net: Any, name: str) -> Survey:
    """net: on the meta device, where nothing is computed. Raises ConfigError if it does not take images of any
    size, or gives no maps."""
    reaches: list[set[tuple[str, int]]] = []
    maps: list[Tensor] = []
    for size in _IMAGES:
        images = torch.empty(1, 3, *size, device="meta")
        try:
            with _Reach() as reach:
                maps = net.eval().forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"{name} expects images of its own size, or gives no maps; a detector's have any size. Choose"
                f" another backbone. ({reason})"
            ) from None
        reaches.append(reach.lengths)
    parameters = dict(net.named_parameters())
    found = []
    for features in maps:
        gradients = torch.autograd.grad(
            features.sum(), list(parameters.values()), retain_graph=True, allow_unused=True
        )
        used = (key for key, gradient in zip(parameters, gradients, strict=True) if gradient is not None)
        found.append(Map(features.shape[1], _IMAGES[-1][0] // features.shape[2], frozenset(used)))
    # Windows and kernels are as long in every image; what spans the image is longer in the larger one.
    whole = sorted(operation for operation, _ in reaches[0] ^ reaches[1])
    return Survey(tuple(found), whole[0] if whole else None)


class _Reach(TorchDispatchMode):
    """Over how many numbers each operation sums that mixes places of a map, convolution and pooling apart."""

    def __init__(self):
        super().__init__()
        self.lengths: set[tuple[str, int]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        operation, aten = func.overloadpacket, torch.ops.aten
        length = 0
        if operation in (aten.mean, aten.sum, aten.amax, aten.max, aten.var, aten.var_mean, aten.std,
                         aten.linalg_vector_norm, aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d):  # fmt: skip
            first = result[0] if isinstance(result, tuple | list) else result
            length = args[0].numel() // first.numel()
        elif operation is aten._softmax:
            length = args[0].shape[args[1]]
        elif operation in (aten.bmm, aten.mm):
            length = args[0].shape[-1]
        elif operation is aten.native_group_norm:
            length = args[0].shape[2:].numel()
        if length:
            self.lengths.add((operation.__name__.removeprefix("_"), length))
        return result
