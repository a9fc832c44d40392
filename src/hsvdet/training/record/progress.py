"""What a run says on stderr: a bar, and a line for each epoch; with how long all of it still takes."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import harmless
from ...progress import Lines, duration
from .log import losses_of_the_answer
from .state import Row

_RECENT = 5  # epochs that the next ones are expected to be like


class Pace(NamedTuple):
    """How long a run takes. images: of an epoch, to learn from; validated: after it."""

    epochs: int
    images: int
    validated: int

    def left(self, history: list[Row], image: float, images: float) -> float:
        """Seconds to the end of the run. history: of the epochs done. image: seconds of a step, for each of its images,
        in this epoch, of which so many `images` are left."""
        recent = history[-_RECENT:]
        if recent:
            steps = mean(self.images / row["images_per_second"] for row in recent)
            between = mean(row["seconds"] for row in recent) - steps
        else:  # validating is the forward pass, about a third of a step
            steps, between = self.images * image, self.validated * image / 3
        after = self.epochs - len(history) - 1
        # At the end the best weights are validated once more.
        return images * image + after * steps + (after + 2) * max(0.0, between)

    def left_after(self, history: list[Row]) -> float:
        """The same when an epoch has just ended."""
        image = 1 / mean(row["images_per_second"] for row in history[-_RECENT:])
        return self.left(history, image, self.images)


class Progress:
    """On stderr: a bar while an epoch runs, or without a terminal a line now and then; a line when it is done."""

    def __init__(self, pace: Pace, batches: int, shown: bool):
        self.pace, self.batches, self.shown = pace, batches, shown
        self._bar = None
        self._lines: Lines | None = None

    def start(self, history: list[Row], done: int) -> None:
        """The epoch after those of `history`, of which so many batches are done."""
        self._history, self._first, self._done, self._since = history, done, done, time.monotonic()
        self._lines = None
        name = self._name(len(history) + 1)
        if not (self.shown and sys.stderr.isatty()):
            self._lines = Lines(name, self.batches, "batches", done) if self.shown else None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn(name),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", total=self.batches, completed=done, note="")
        self._bar.start()

    def advance(self, losses: dict[str, Tensor], batches: int) -> None:
        """losses: of the last step, by name; only looked at when a bar shows their sum."""
        if self._lines is None and self._bar is None:
            return
        self._done += batches
        batch = (time.monotonic() - self._since) / (self._done - self._first)
        left = self.batches - self._done
        images = self.pace.images / self.batches  # of a batch
        run = self.pace.left(self._history, batch / images, left * images)
        if self._lines is not None:
            self._lines.advance(batches, f" ({duration(run)} of the run)")
        if self._bar is not None:
            total = torch.stack(list(losses.values())).sum().item()
            note = f"{duration(left * batch)} left ({duration(run)} of the run), loss {total:.3f}"
            self._bar.update(self._task, advance=batches, note=note)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def line(self, history: list[Row], best: bool) -> None:
        """Of the epoch that has just ended."""
        self.stop()
        if not self.shown:
            return
        row = history[-1]
        losses = "  ".join(f"{name} {row[f'loss/{name}']:.3f}" for name in losses_of_the_answer(row))
        parts = [self._name(row["epoch"]), losses]
        if row.get("ap") is not None:
            parts.append(f"AP {row['ap']:.3f}  AP50 {row['ap50']:.3f}{'  best' if best else ''}")
        parts.append(f"{row['images_per_second']:.1f} images/s")
        if row["epoch"] < self.pace.epochs:
            parts.append(f"{duration(self.pace.left_after(history))} left")
        self.say(" | ".join(parts))

    def say(self, text: str) -> None:
        if self.shown:
            with suppress(OSError):  # a log that is full or closed ends no training
                print(harmless(text), file=sys.stderr, flush=True)

    def _name(self, epoch: int) -> str:
        epochs = self.pace.epochs
        return f"epoch {epoch:>{len(str(epochs))}}/{epochs}"
