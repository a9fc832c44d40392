"""What a kind of published weights is: how it is recognised, renamed and licensed."""

# pyright: strict

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from .rename import Rule


class Foreign(NamedTuple):
    """A file as read: tensors under their published names; class names and input size if it says them.

    settings: what lies beside the weights, as it is: config.json of a Hugging Face folder, `args` of a paper's
    own checkpoint.
    """

    tensors: dict[str, Tensor]
    labels: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    settings: Mapping[str, Any] = MappingProxyType({})


class Source(NamedTuple):
    """One kind of published state dict.

    models: those of ours that it can become. recognise: tensors to one of them, or None when the names are
    not of this kind; raises CheckpointError for a relative that is known but not ours. rules: of that model, for
    these tensors.
    num_classes: told from the shapes. labels: the usual class names for a number of classes, where the file
    has none. licence: of the weights. note: what the user should know of it, one sentence.
    options: config values of the model that the tensors, under our names, and the settings tell.
    alike: models whose tensors are the same as those of a recognised one, so that a user may ask for them.
    choose: which of them the settings tell it is.
    """

    name: str
    models: tuple[str, ...]
    recognise: Callable[[Mapping[str, Tensor]], str | None]
    rules: Callable[[str, Mapping[str, Tensor]], Sequence[Rule]]
    num_classes: Callable[[Mapping[str, Tensor]], int]
    labels: Mapping[int, tuple[str, ...]]
    licence: str
    note: str
    options: Callable[[Mapping[str, Tensor], Mapping[str, Any]], Mapping[str, Any]] = (
        lambda tensors, settings: {}
    )
    alike: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    choose: Callable[[str, Mapping[str, Any]], str] = lambda name, settings: name
