"""The numbers of a loss that a training recipe may change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LossNumbers:
    """smallest_side: dense heads look for the anchors of an object as if its sides were at least this many
    pixels of the network's input (criteria/task_aligned.py); 0: as they are."""

    smallest_side: float = 16.0
