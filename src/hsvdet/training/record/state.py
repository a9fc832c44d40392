"""A run on disk that can be continued: tensors by name and one JSON header, no pickle (docs/training.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import (
    BaseModel,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from torch import Tensor

from ...checkpoint import read_checkpoint, write_checkpoint
from ...errors import CheckpointError, ConfigError, SaveError
from ...files import write_atomically

KIND = "resume"

Row = dict[str, Any]  # of results.csv: numbers by name, None for what is not defined


class Position(NamedTuple):
    """Where a run is: epoch and the batches done of it (all of them: its validation is next), counted from 0,
    and optimizer steps tried since the start."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclass
class RunState:
    """Where a run is and what it has noted; with the learner's tensors, all that a state on disk holds.

    history: a row of results.csv for each epoch done. losses: sums over the batches of the epoch under way,
    by name, float64; notes: of what was noted beside them. seconds: that its steps took. assignment: which object
    each query answered for at the end of the epoch before (stability.py), or None.
    """

    position: Position = Position()
    history: list[Row] = field(default_factory=list)
    losses: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    assignment: Tensor | None = None

    def add(self, losses: Mapping[str, Tensor], notes: Mapping[str, Tensor], batches: int) -> None:
        """Those of a step of so many batches."""
        for sums, values in ((self.losses, losses), (self.notes, notes)):
            for name, value in values.items():
                if name not in sums:
                    sums[name] = torch.zeros((), dtype=torch.float64, device=value.device)
                sums[name] += batches * value

    def turn(self, assignment: Tensor | None) -> None:
        """To the next epoch."""
        self.position = Position(self.position.epoch + 1, 0, self.position.step)
        self.losses, self.notes, self.seconds, self.assignment = {}, {}, 0.0, assignment

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        matching = {} if self.assignment is None else {"assignment": self.assignment}
        return {"losses": self.losses, "notes": self.notes, "matching": matching}

    def numbers(self) -> dict[str, Any]:
        return {"history": self.history, "seconds": self.seconds}

    @classmethod
    def restored(cls, state: SavedState, device: torch.device) -> RunState:
        losses, notes = (
            {name: value.to(device) for name, value in state.tensors[part].items()}
            for part in ("losses", "notes")
        )
        history, seconds = state.header["history"], state.header["seconds"]
        return cls(
            state.position, history, losses, notes, seconds, state.tensors["matching"].get("assignment")
        )


class SavedState(NamedTuple):
    """tensors: {"net" | "average" | "optimizer" | "losses" | "notes" | "matching": {name: tensor}}. settings: what
    must not change. header: everything else, as JSON."""

    tensors: dict[str, dict[str, Tensor]]
    position: Position
    settings: dict[str, Any]
    header: dict[str, Any]


def write_state(path: Path, state: SavedState) -> None:
    """Atomic. Raises SaveError."""
    tensors = {
        f"{part}:{name}": tensor for part, named in state.tensors.items() for name, tensor in named.items()
    }
    header = {
        "kind": KIND,
        "position": state.position._asdict(),
        "settings": state.settings,
        "state": state.header,
    }
    try:
        write_checkpoint(path, tensors, header)
    except OSError as error:
        raise SaveError(unwritten(path, error)) from error


class _Row(BaseModel, strict=True, extra="allow"):
    """Of the history, as the loop reads it: the best before, and the time an epoch takes."""

    __pydantic_extra__: dict[str, float | None]  # pyright: ignore[reportIncompatibleVariableOverride] as pydantic asks
    epoch: PositiveInt
    seconds: FiniteFloat = Field(ge=0)
    ap: FiniteFloat | None = None


class _Scaler(BaseModel, strict=True, extra="forbid", allow_inf_nan=False):
    """Of half precision, as PyTorch gives it."""

    scale: PositiveFloat
    growth_factor: PositiveFloat
    backoff_factor: PositiveFloat
    growth_interval: PositiveInt
    growth_tracker: int = Field(alias="_growth_tracker", ge=0)


class _Rest(BaseModel, strict=True, extra="forbid", allow_inf_nan=False):
    """What `Learner.numbers` and `RunState.numbers` gave."""

    history: list[_Row]
    seconds: NonNegativeFloat
    average_steps: int = Field(ge=0, lt=2**53)
    scaler: _Scaler | None


class _Place(BaseModel, strict=True, extra="forbid"):
    epoch: NonNegativeInt
    batch: NonNegativeInt
    step: NonNegativeInt


class _Header(BaseModel, strict=True):
    position: _Place
    settings: dict[str, Any]
    state: _Rest


def read_state(path: Path) -> SavedState:
    """Raises CheckpointError."""
    tensors, header = read_checkpoint(path)
    if header.get("kind") != KIND:
        raise CheckpointError(
            f"{path}: not the state of a training run. It is made by training as `resume.safetensors`."
        )
    parts: dict[str, dict[str, Tensor]] = {
        part: {} for part in ("net", "average", "optimizer", "losses", "notes", "matching")
    }
    try:
        for key, tensor in tensors.items():
            part, name = key.split(":", 1)
            parts[part][name] = tensor
        content = _Header.model_validate(header)
        sums = (*parts["losses"].values(), *parts["notes"].values())
        if not all(map(_is_sum, sums)) or not all(map(_is_assignment, parts["matching"].values())):
            raise ValueError("not what a run notes")
    except (LookupError, ValueError):
        raise CheckpointError(
            f"{path}: expected the state of a training run as it was written; it was changed. Copy it again, or train"
            " anew."
        ) from None
    return SavedState(parts, Position(**content.position.model_dump()), header["settings"], header["state"])


def _is_sum(total: Tensor) -> bool:
    return total.shape == () and total.dtype == torch.float64 and bool(total.isfinite())


def _is_assignment(objects: Tensor) -> bool:
    return objects.ndim == 2 and objects.dtype == torch.int32


def check_settings(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ConfigError naming every setting that is not what the saved run had."""
    before, after = _flatten(saved), _flatten(now)
    changed = [
        f"{name} (was {_brief(before.get(name))}, now {_brief(after.get(name))})"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]
    if changed:
        raise ConfigError(
            f"{path.parent} holds a run with other settings: {', '.join(changed)}."
            " Resume with the same ones, or train into another folder."
        )


def write_file(path: Path, content: bytes) -> None:
    """Atomic. Raises SaveError."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise SaveError(unwritten(path, error)) from error


def unwritten(path: Path, error: OSError) -> str:
    return (
        f"{path} cannot be written: {error.strerror or error}. What was there before is unharmed."
        " Make room, then continue with resume."
    )


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, as JSON would give them back."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.loads(json.dumps(value))
    return flat


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
