"""What a kind of published weights is: how it is recognised, renamed and licensed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from .rename import Rule


class Foreign(NamedTuple):
    """A file as read: tensors under their published names; class names and input size if it says them."""

    tensors: dict[str, Tensor]
    labels: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None


class Source(NamedTuple):
    """One kind of published state dict.

    models: those of ours that it can become. recognise: tensors to one of them, or None when the names are
    not of this kind; raises CheckpointError for a relative that is known but not ours. rules: of that model.
    num_classes: told from the shapes. labels: the usual class names for a number of classes, where the file
    has none. licence: of the weights. note: what the user should know of it, one sentence.
    """

    name: str
    models: tuple[str, ...]
    recognise: Callable[[Mapping[str, Tensor]], str | None]
    rules: Callable[[str], Sequence[Rule]]
    num_classes: Callable[[Mapping[str, Tensor]], int]
    labels: Mapping[int, tuple[str, ...]]
    licence: str
    note: str
