"""A step that made NaN or infinity, told in words that all its processes agree on."""

# pyright: strict

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from ..structures import Batch
from .processes import gather


class NotFinite(Exception):
    """A prediction, loss or gradient of a step, in any process; the network is what it was before.

    losses: of each batch of the window by itself, by name, up to the one that failed. complaint: what was said of this
    process's predictions for the next one, where these were the reason.
    """

    def __init__(
        self, losses: list[dict[str, Tensor]], gradient_norm: float = math.nan, complaint: str | None = None
    ):
        super().__init__(losses, gradient_norm, complaint)
        self.losses, self.gradient_norm, self.complaint = losses, gradient_norm, complaint

    def explain(self, window: list[Batch]) -> tuple[str, list[str]]:
        """In a sentence, and the paths of the images in question. Every process must come, with its window."""
        reports = gather(self._report(window))
        suspects = [path for report in reports for path in report.suspects]
        paths = suspects or [path for report in reports for path in report.images]
        for report in reports:
            if report.complaint is not None:
                return report.complaint, paths
        chosen = next((report for report in reports if report.suspects), reports[0])
        losses = ", ".join(f"{name} {value:.4g}" for name, value in chosen.losses.items())
        return (
            f"the loss or its gradient is not finite (losses: {losses}; gradient norm {self.gradient_norm:.4g})."
            " A lower learning_rate, or precision fp32, often helps.",
            paths,
        )

    def _report(self, window: list[Batch]) -> _Report:
        losses = [{name: value.item() for name, value in batch.items()} for batch in self.losses]
        paths = [[info.path for info in batch.infos] for batch in window]
        bad = [number for number, of in enumerate(losses) if not all(map(math.isfinite, of.values()))]
        shown = losses[bad[0] if bad else 0] if losses else {}
        if self.complaint is not None:
            bad.append(len(losses))
        return _Report(
            self.complaint,
            shown,
            [path for n in bad for path in paths[n]],
            [path for of in paths for path in of],
        )


class _Report(NamedTuple):
    """What a process knows of a failed step. losses: of a batch where one is not finite, if there is one.
    suspects: the images of such batches. images: of all."""

    complaint: str | None
    losses: dict[str, float]
    suspects: list[str]
    images: list[str]
