"""curves.png: what results.csv says, to look at."""

from __future__ import annotations

import io
import math
import time
from pathlib import Path

import numpy as np

from ...draw import class_colour
from .log import losses_of_the_answer
from .state import Row, write_file

_EVERY = 30.0  # seconds


class Curves:
    """curves.png, drawn anew every half minute at most."""

    def __init__(self, path: Path):
        self.path, self._drawn = path, -math.inf

    def draw(self, rows: list[Row], finished: bool = False) -> None:
        if rows and (finished or time.monotonic() - self._drawn > _EVERY):
            content = io.BytesIO()
            curves_figure(rows).savefig(content, format="png", dpi=120)
            write_file(self.path, content.getvalue())
            self._drawn = time.monotonic()


def curves_figure(rows: list[Row]):
    """Average precision, losses, learning rate and, where there are any, the instability of matching and what
    the sparse global blocks add."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in rows for name in row))
    blocks = [name.split("/")[1] for name in names if name.startswith("gate/")]
    matched = "instability" in names
    figure = Figure(figsize=(14 if matched else 11, 7 if blocks else 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2 if blocks else 1, 4 if matched else 3, squeeze=False)
    epochs = np.array([row["epoch"] for row in rows])
    dots = "o" if len(rows) < 3 else None

    def values(name: str) -> np.ndarray:
        return np.array([math.nan if row.get(name) is None else row[name] for row in rows], dtype=float)

    def plot(axes, series: dict[str, str], title: str) -> None:
        for rank, (name, label) in enumerate(series.items()):
            colour = np.array(class_colour((4, 5, 2, 6, 0)[rank % 5])) / 255
            axes.plot(epochs, values(name), color=colour, linewidth=1.8, marker=dots, label=label)
        axes.set_title(title, fontsize=11, loc="left")
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(epochs[0] - 0.02, max(epochs[-1], epochs[0] + 1))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=9)
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=9)

    precision, losses, rate = panels[0, :3]
    plot(precision, {"ap": "AP", "ap50": "AP50", "ap75": "AP75"}, "Average precision, validation")
    precision.set_ylim(0, 1)
    measured = values("ap")
    if np.isfinite(measured).any():
        best = int(np.nanargmax(measured))
        precision.plot(epochs[best], measured[best], "o", color="black", markersize=4, zorder=3)
        precision.annotate(
            f"{measured[best]:.3f}", (epochs[best], measured[best]), (0, 6), textcoords="offset points",
            ha="center", fontsize=9,
        )  # fmt: skip
    plot(losses, {f"loss/{name}": name for name in losses_of_the_answer(names)}, "Losses, training")
    losses.set_ylim(bottom=0)
    plot(rate, {"learning_rate": "learning rate"}, "Learning rate")
    rate.set_yscale("log")
    if matched:
        plot(panels[0, 3], {"instability": "instability"}, "Queries that changed their object")
        panels[0, 3].set_ylim(bottom=0)
    if blocks:
        for axes in panels[1, 3:]:
            axes.set_axis_off()
        for axes, what, title in zip(
            panels[1, :3],
            ("gate", "change", "entropy"),
            ("Gate |g|", "Added to the map |gΔ| / |x|", "Attention entropy, of uniform"),
            strict=True,
        ):
            plot(axes, {f"{what}/{block}": block for block in blocks}, title)
            axes.set_ylim(bottom=0)
    for axes in panels[-1]:
        axes.set_xlabel("epoch", fontsize=9)
    return figure
