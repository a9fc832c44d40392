"""From the names of a published state dict to ours: an ordered table of rules, and nothing left over.

A rule matches a whole foreign key. The first that matches takes the tensor; a key without a rule is an error,
so is a tensor that a table promises and the file does not have. The strict load that follows catches the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError


class Rule(NamedTuple):
    r"""What becomes of the keys that match `pattern`, a regular expression for the whole key.

    key: our name as a template of `re.Match.expand` (`\1`, `\g<name>`), or a function of the match.
      None: knowingly dropped. Several: `value` cuts the tensor into as many.
    value: changes the tensor; for several keys it returns one tensor each; for None its answer is not used,
      it only looks (and raises ValueError, in words, if the tensor is not what may be dropped).
    part: (number, of how many): this tensor is that part of ours, joined along the first dimension, e.g. the
      queries, keys and values that make one in-projection.
    """

    pattern: str
    key: str | Callable[[re.Match[str]], str] | tuple[str, ...] | None
    value: Callable[[Tensor], Tensor | Sequence[Tensor] | None] | None = None
    part: tuple[int, int] | None = None


class Renamed(NamedTuple):
    """tensors under our names, and the foreign keys that were knowingly dropped."""

    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]


def thirds(tensor: Tensor) -> tuple[Tensor, ...]:
    """A joint in-projection [3 D, ...] to queries, keys and values [D, ...]."""
    return tensor.chunk(3)


def rename(tensors: Mapping[str, Tensor], rules: Iterable[Rule], path: str) -> Renamed:
    """Apply `rules` to every tensor. path: the file, for messages.

    Two foreign keys may become one of ours only with equal values (a tensor that is shared there).
    Raises CheckpointError naming the key that has no rule, or the tensor that has too few or two parts.
    """
    table = [(re.compile(rule.pattern), rule) for rule in rules]
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    lengths: dict[str, int] = {}
    dropped = []

    def put(store: dict, slot: str | int, tensor: Tensor, key: str) -> None:
        if slot in store and not torch.equal(store[slot], tensor):
            raise CheckpointError(
                f"{path}: {key} and another tensor of it both stand for one of ours, and differ."
            )
        store[slot] = tensor

    for key, tensor in tensors.items():
        match, rule = next(
            ((match, rule) for pattern, rule in table if (match := pattern.fullmatch(key))), (None, None)
        )
        if rule is None or match is None:
            raise CheckpointError(
                f"{path}: nothing is known of its tensor {key}, so this is another model, or another version"
                f" of it. If it is of your own making, take out what is not part of the network."
            )
        try:
            value = tensor if rule.value is None else rule.value(tensor)
        except ValueError as error:
            raise CheckpointError(f"{path}: {key}: {error}") from None
        if rule.key is None:
            dropped.append(key)
        elif isinstance(rule.key, tuple):
            assert value is not None
            for template, piece in zip(rule.key, value, strict=True):
                put(renamed, match.expand(template), piece, key)
        else:
            assert isinstance(value, Tensor)
            name = rule.key(match) if callable(rule.key) else match.expand(rule.key)
            if rule.part is None:
                put(renamed, name, value, key)
            else:
                number, lengths[name] = rule.part
                put(parts.setdefault(name, {}), number, value, key)
    for name, found in parts.items():
        if len(found) < lengths[name]:
            raise CheckpointError(
                f"{path}: only {len(found)} of the {lengths[name]} parts of {name} are in it."
            )
        renamed[name] = torch.cat([found[number] for number in sorted(found)])
    return Renamed(renamed, tuple(dropped))
