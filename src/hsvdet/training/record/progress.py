"""What a run says on stderr: a bar, and a line for each epoch."""

from __future__ import annotations

import sys
from contextlib import suppress

import torch
from torch import Tensor

from ...errors import harmless
from ...progress import Lines, duration
from .log import losses_of_the_answer
from .state import Row


class Progress:
    """On stderr: a bar while an epoch runs, or without a terminal a line now and then; a line when it is done."""

    def __init__(self, epochs: int, batches: int, shown: bool):
        self.epochs, self.batches, self.shown = epochs, batches, shown
        self._bar = None
        self._lines: Lines | None = None

    def start(self, epoch: int, done: int) -> None:
        self._lines = None
        if not (self.shown and sys.stderr.isatty()):
            name = f"epoch {epoch + 1:>{len(str(self.epochs))}}/{self.epochs}"
            self._lines = Lines(name, self.batches, "batches", done) if self.shown else None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn(f"epoch {epoch + 1:>{len(str(self.epochs))}}/{self.epochs}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", total=self.batches, completed=done, note="")
        self._bar.start()

    def advance(self, losses: dict[str, Tensor], batches: int) -> None:
        """losses: of the last step, by name; only looked at when a bar shows their sum."""
        if self._lines is not None:
            self._lines.advance(batches)
        if self._bar is not None:
            total = torch.stack(list(losses.values())).sum().item()
            self._bar.update(self._task, advance=batches, note=f"loss {total:.3f}")

    def note(self, text: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, note=text)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def line(self, row: Row, best: bool, seconds_left: float) -> None:
        self.stop()
        if not self.shown:
            return
        losses = "  ".join(f"{name} {row[f'loss/{name}']:.3f}" for name in losses_of_the_answer(row))
        parts = [f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}", losses]
        if row.get("ap") is not None:
            parts.append(f"AP {row['ap']:.3f}  AP50 {row['ap50']:.3f}{'  best' if best else ''}")
        parts.append(f"{row['images_per_second']:.1f} images/s")
        if row["epoch"] < self.epochs:
            parts.append(f"{duration(seconds_left)} left")
        self.say(" | ".join(parts))

    def say(self, text: str) -> None:
        if self.shown:
            with suppress(OSError):  # a log that is full or closed ends no training
                print(harmless(text), file=sys.stderr, flush=True)
