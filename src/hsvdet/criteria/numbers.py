"""The numbers of a loss that a training recipe may change."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from .salience import SALIENCES
from .selection import SelectionLoss


@dataclass(frozen=True, kw_only=True)
class LossNumbers:
    """smallest_side: dense heads look for the anchors of an object as if its sides were at least this many
    pixels of the network's input (criteria/task_aligned.py); 0: as they are. salience: what learned token
    selectors are to find, a name in `SALIENCES` (criteria/salience.py); selector_gain: the weight of that loss."""

    smallest_side: float = 16.0
    salience: str = "gaussian"
    selector_gain: float = 0.25

    def __post_init__(self):
        if self.salience not in SALIENCES:
            raise ConfigError(f"salience expects one of {', '.join(SALIENCES)}; got {self.salience!r}.")

    def selection(self) -> SelectionLoss:
        return SelectionLoss(SALIENCES[self.salience], self.selector_gain)
