"""Tables in plain text."""

# pyright: strict

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence


def labelled(header: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> str:
    """A table whose first column says what each row is."""
    return columns([header, *([text(value) for value in row] for row in rows)], first=str.ljust)


def columns(rows: Sequence[Sequence[str]], first: Callable[[str, int], str] = str.rjust) -> str:
    """Numbers to the right. first: where the first column goes."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [first, *[str.rjust] * (len(widths) - 1)]
    return "\n".join(
        "  ".join(side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)).rstrip()
        for row in rows
    )


def text(value: str | int | float) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3f}"
    return str(value)


def span(low: float, high: float | None) -> str:
    """high: None for no end."""
    return f"{low:g} and more" if high is None else f"{low:g} to {high:g}"
