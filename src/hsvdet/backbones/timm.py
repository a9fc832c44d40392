"""Any network of timm that gives maps of strides 4 to 32, as a backbone.

timm itself is imported when the first one is made: it takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CheckpointError, ConfigError, did_you_mean
from .backbone import Backbone, blank
from .survey import Survey, survey

PREFIX = "timm/"
_COARSEST = 32


class TimmBackbone(Backbone):
    """name: timm/ARCHITECTURE or timm/ARCHITECTURE.TAG, as `timm.list_pretrained()` has them; the tag says for which
    images (mean, standard deviation) it is. Other arguments: as `build` says. Frozen is what the map of that stage
    is made of; before stage 1, what a map of stride 2 is made of, if the network has one.

    Sides that are no multiples of 32 are padded to the next one, so that every network counts its cells alike.
    Raises ConfigError for a network that there is not, that takes images of one size only, or has no map of a
    stride that is asked for.
    """

    def __init__(
        self, name: str, stages: tuple[int, ...], *, frozen: int | None = None, dilated: bool = False
    ):
        super().__init__()
        self.name = name
        seen = _look(name)
        # The last map of a stride is what the stage makes.
        number_of = {found.stride: number for number, found in enumerate(seen.maps)}
        missing = [2 ** (stage + 1) for stage in stages if 2 ** (stage + 1) not in number_of]
        if missing:
            raise ConfigError(
                f"A map of stride {missing[0]} was expected; those of {name} have strides"
                f" {', '.join(map(str, sorted(number_of)))}. Choose another backbone."
            )
        self.indices = [number_of[2 ** (stage + 1)] for stage in stages]
        self.channels = tuple(seen.maps[number].channels for number in self.indices)
        self.strides = tuple(seen.maps[number].stride for number in self.indices)
        self.whole = seen.whole
        if dilated:
            self.strides = _strides_dilated(name, seen, self.indices)
        net = _make(name, output_stride=16) if dilated else _make(name)
        self.normalisation = (tuple(net.pretrained_cfg["mean"]), tuple(net.pretrained_cfg["std"]))
        # Of its published weights.
        self.licence: str = net.pretrained_cfg.get("license") or "unknown (see timm)"
        net.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        fixed = set(dict(net.named_parameters())).difference(*(seen.maps[i].made_of for i in self.indices))
        if frozen is not None:
            from timm.layers.norm_act import freeze_batch_norm_2d

            net = freeze_batch_norm_2d(net)
            start = number_of.get(2 ** (frozen + 1))
            fixed |= seen.maps[start].made_of if start is not None else set()
        for key, parameter in net.named_parameters():
            parameter.requires_grad_(key not in fixed)
        self.net: Any = net

    def check_padding(self) -> None:
        if self.whole:
            raise ConfigError(
                f"{self.name} mixes all of a picture's cells ({self.whole}), so that padding would change what it"
                " makes of the picture. Choose a backbone that looks at neighbours only (ResNet, ConvNeXt, Swin,"
                " EfficientNet-Lite), or a model that stretches images and so has no padding (rt-detr)."
            )

    def forward(self, images: Tensor, padding: Tensor | None = None) -> list[Tensor]:
        if padding is not None:
            self.check_padding()
        height, width = images.shape[-2:]
        images = F.pad(blank(images, padding), (0, -width % _COARSEST, 0, -height % _COARSEST))
        return self.net.forward_intermediates(
            images, indices=self.indices, stop_early=True, intermediates_only=True, output_fmt="NCHW"
        )

    def published(self) -> dict[str, Tensor]:
        """The classifier's weights that timm has published for this name, out of its cache or off the hub. Raises
        CheckpointError if there are none to be had."""
        from timm.models import load_state_dict_from_hf

        settings: dict[str, Any] = self.net.pretrained_cfg
        if not settings.get("hf_hub_id"):
            raise CheckpointError(
                f"timm has published no weights of {self.name}. Choose a name of timm.list_pretrained(), or give"
                " a file."
            )
        file = {"filename": settings["hf_hub_filename"]} if settings.get("hf_hub_filename") else {}
        try:
            return load_state_dict_from_hf(settings["hf_hub_id"], **file)
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{settings['hf_hub_id']} is neither in the cache nor to be had from the hub; give a file."
                f" ({' '.join(str(error).split())[:200]})"
            ) from None

    def own(self, tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """What this backbone has of a classifier's weights, by its own names.

        tensors: by timm's names, or by those of the authors' file where timm knows them. source: where they come
        from. Raises CheckpointError for tensors that the classifier does not have either.
        """
        with torch.device("meta"):
            whole = _make(self.name, num_classes=None)
        rename = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
        tensors = dict(tensors)
        try:
            tensors = rename(tensors, whole) if rename else tensors
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{source}: expected the weights of {self.name}, these cannot be read as such ({error!r})."
            ) from None
        unknown = sorted(tensors.keys() - whole.state_dict().keys())
        if unknown:
            raise CheckpointError(
                f"{source}: expected the weights of {self.name}, which has no {', '.join(unknown[:3])}"
                f"{', ...' if len(unknown) > 3 else ''}."
            )
        return {f"net.{name}": tensors[name] for name in self.net.state_dict() if name in tensors}


@cache
def _look(name: str) -> Survey:
    with torch.device("meta"):
        return survey(_make(name), name)


def _strides_dilated(name: str, seen: Survey, indices: list[int]) -> tuple[int, ...]:
    try:
        with torch.device("meta"):
            maps = survey(_make(name, output_stride=16), name).maps
    except (TypeError, NotImplementedError, AssertionError):
        maps = ()
    alike = [found.channels for found in maps] == [found.channels for found in seen.maps]
    if not maps or not alike or maps[-1].stride != 16:
        raise ConfigError(f"{name} has no dilated form. Choose another backbone, or dilated=false.")
    return tuple(maps[number].stride for number in indices)


def _make(name: str, **options: Any) -> Any:
    """The network without its classifier, for images of any size where it has such a form."""
    import timm
    from timm.models import get_arch_pretrained_cfgs

    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    if not timm.is_model(architecture):
        raise ConfigError(
            f"timm has no network {architecture!r}.{did_you_mean(architecture, timm.list_models())}"
            " timm.list_models() lists all."
        )
    known = get_arch_pretrained_cfgs(architecture)
    if tag and f"{architecture}.{tag}" not in known:
        raise ConfigError(
            f"timm has no weights {tag!r} of {architecture}.{did_you_mean(f'{architecture}.{tag}', known)}"
            f" It has {', '.join(known)}."
        )
    options = {"num_classes": 0, **options, "pretrained": False}
    for option, value in (("strict_img_size", False), ("dynamic_img_size", True)):
        try:
            return timm.create_model(name.removeprefix(PREFIX), **{option: value, **options})
        except TypeError:  # it has no such option
            continue
    return timm.create_model(name.removeprefix(PREFIX), **options)
