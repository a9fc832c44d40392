"""How far a long piece of work is, on stderr: a bar on a terminal, elsewhere (a pipe, a notebook, a log) a line now and
then."""

# pyright: strict

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from .errors import harmless

EVERY = 30.0  # seconds between lines

Advance = Callable[[int], None]


@contextmanager
def progress(
    what: str, total: int | None, unit: str = "images", *, shown: bool = True
) -> Generator[Advance, None, None]:
    """What is given moves it on by so many. what: is being done. total: None where it is not known."""
    if not shown or total == 0:
        yield lambda count: None
    elif sys.stderr.isatty():
        yield from _bar(what, total, unit)
    else:
        yield Lines(what, total, unit).advance


class Lines:
    """A line every EVERY seconds; none of work that takes less."""

    def __init__(self, what: str, total: int | None, unit: str, done: int = 0):
        self.what, self.total, self.unit = what, total, unit
        self.first = self.done = done
        self.started = self.last = time.monotonic()

    def advance(self, count: int, note: str = "") -> None:
        """note: what else a line is to say at its end."""
        self.done += count
        now = time.monotonic()
        if now - self.last < EVERY or self.done == self.total:
            return
        self.last = now
        of, left = "", ""
        if self.total is not None:
            rate = (self.done - self.first) / (now - self.started) if now > self.started else 0.0
            of = f" of {self.total:,}"
            left = f", {duration((self.total - self.done) / rate)} left" if rate else ""
        with suppress(OSError):  # a log that is full or closed ends no work
            print(
                harmless(f"{self.what}: {self.done:,}{of} {self.unit}{left}{note}"),
                file=sys.stderr,
                flush=True,
            )


def duration(seconds: float) -> str:
    """ "1:05", "2:00:00"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bar(what: str, total: int | None, unit: str) -> Generator[Advance, None, None]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(30),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(harmless(what), total=total)
        yield lambda count: bar.advance(task, count)
