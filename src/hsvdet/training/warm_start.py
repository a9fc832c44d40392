"""Start a detector from other weights: of the same model, or of the one it extends."""

# pyright: strict

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from .. import models
from ..checkpoint import is_checkpoint
from ..conversion.foreign import read_foreign
from ..detector import Detector
from ..errors import CheckpointError, counted
from ..hub import is_address
from ..loading import load


@dataclass(frozen=True)
class WarmStart:
    """What `warm_start` did. transferred: tensors, of `available` in the file. classes: whose weights came
    along, by name. fresh_classes: those the file does not know. fresh: tensors that keep their random start,
    whole, because the file has none of that name or shape."""

    model: str
    source_model: str
    source: str
    licence: str
    available: int
    transferred: int
    classes: tuple[str, ...]
    fresh_classes: tuple[str, ...]
    fresh: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        parts = sorted({".".join(name.split(".")[:2]) for name in self.fresh})
        return (
            f"{self.model} starts from {self.source_model}, {self.source}: {self.transferred} of {self.available}"
            f" tensors, {len(self.classes)} of {counted(len(self.classes) + len(self.fresh_classes), 'class')} by name"
            + (f"; fresh: {', '.join(parts)}" if parts else "")
            + f". Licence of these weights: {self.licence}."
        )


def warm_start(detector: Detector, weights: str | Path) -> WarmStart:
    """Copy into `detector` what `weights`, a checkpoint, a foreign file or hf://owner/name, have for it.

    The file's model is `detector`'s own, or one whose tensors are all among its own (YOLOv8 for HSV-DET), perhaps
    in another place, as the network's class says in `EXTENDS`.
    What has a row for each class is copied by class name, letter case aside; a class that the file does not
    know keeps its random start. Layers whose width depends on the number of classes are copied where the
    widths agree. The detector's licence becomes that of the weights.
    Raises CheckpointError naming both models where the tensors do not fit, and as `load` and `convert` do.
    """
    origin = trained(weights)
    own, given = detector.net.state_dict(), origin.net.state_dict()
    entry = models.find(detector.name)
    if not given.keys() <= own.keys():
        given = {_renamed(name, getattr(detector.net, "EXTENDS", {})): value for name, value in given.items()}

    def shapes(number: int) -> dict[str, torch.Size]:
        with torch.device("meta"):
            net = entry.net(detector.config, number)
        return {name: tensor.shape for name, tensor in net.state_dict().items()}

    fitting = shapes(len(origin.labels))
    unfit = [name for name in given if given[name].shape != fitting.get(name)]
    if unfit:
        raise CheckpointError(
            f"{weights}: these are weights of {origin.name}, which do not fit {detector.name}: {unfit[0]} is"
            f" {_describe(given[unfit[0]].shape)} there and {_describe(fitting.get(unfit[0]))} here."
            " Take weights of the same scale and options."
        )
    # Beyond 100 classes no width follows their number any more: what still grows has a row for each class.
    some, more = shapes(1000), shapes(1001)
    per_class = {name for name in own if more[name] != some[name]}
    pairs = _same_names(detector.labels, origin.labels)
    # A layer comes along whole or not at all: a bias without its weights would be worse than a fresh start.
    blocked = {
        name.rpartition(".")[0]
        for name in given
        if own[name].shape[name in per_class :] != given[name].shape[name in per_class :]
    }
    transferred = [name for name in given if name.rpartition(".")[0] not in blocked]
    for name in transferred:
        if name in per_class:
            # Rows behind those of the classes ("no object") are copied as they are.
            behind = zip(
                range(len(detector.labels), len(own[name])),
                range(len(origin.labels), len(given[name])),
                strict=True,
            )
            for row, other in [*pairs, *behind]:
                own[name][row] = given[name][other]
        else:
            own[name].copy_(given[name])
    known = {row for row, _ in pairs} if per_class.intersection(transferred) else set[int]()
    detector.licence, detector.source = origin.licence, f"warm start from {origin.source}"
    detector.start = "trained"
    return WarmStart(
        detector.name,
        origin.name,
        Path(weights).name,
        origin.licence,
        len(given),
        len(transferred),
        tuple(label for row, label in enumerate(detector.labels) if row in known),
        tuple(label for row, label in enumerate(detector.labels) if row not in known),
        tuple(name for name in own if name not in set(transferred)),
    )


def trained(weights: str | PathLike[str]) -> Detector:
    """What a checkpoint, a foreign file or hf://owner/name holds. Raises as `load` and `convert` do."""
    weights = str(weights)
    ready = is_address(weights) or weights in models.MODELS or is_checkpoint(weights)
    return load(weights, "cpu") if ready else read_foreign(weights).detector


def _renamed(name: str, places: Mapping[str, str]) -> str:
    """places: the start of a name in the network that is extended, to where that part stands in this one."""
    start = next((start for start in places if name.startswith(start)), "")
    return places.get(start, "") + name.removeprefix(start)


def _same_names(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """(our row, their row) of each class that both have: the very name, else the name in another letter case."""
    exact = {label: row for row, label in enumerate(theirs)}
    folded = {label.casefold(): row for row, label in enumerate(theirs)}
    found = [(row, exact.get(label, folded.get(label.casefold()))) for row, label in enumerate(ours)]
    return [(row, other) for row, other in found if other is not None]


def _describe(shape: torch.Size | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a number"
