"""A comparison as files: comparison.json, the table in comparison.txt, one picture."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..draw import class_colour
from ..files import write_atomically
from .bootstrap import FEWEST
from .judged import Measure
from .mistakes import KINDS
from .outcome import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (4, 5, 2, 6, 0, 1)  # of class_colour, dark ones first
_NAME_LETTERS = 28
_BY_OCCLUSION, _BY_COUNT = "recall_at_fppi1_occlusion", "recall_at_fppi1_objects"


def write_comparison(comparison: Comparison, out: str | os.PathLike[str]) -> dict[str, Path]:
    """Into the folder `out`, made if absent. Their paths by file name."""
    out = Path(out)
    content = io.BytesIO()
    comparison_figure(comparison).savefig(content, format="png", dpi=120)
    numbers = json.dumps(comparison.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    files = {
        "comparison.json": f"{numbers}\n".encode(),
        "comparison.txt": f"{comparison.table()}\n".encode(),
        "comparison.png": content.getvalue(),
    }
    for name, written in files.items():
        write_atomically(out / name, written)
    return {name: out / name for name in files}


def comparison_figure(comparison: Comparison) -> Figure:
    """Left: differences of all rates with their intervals. Right: recall by occlusion and by the number of objects,
    reliability, errors by kind. Below: the conclusion."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rates = [
        number
        for number, measure in enumerate(comparison.measures)
        if measure.rate and comparison.sample.having(measure) >= FEWEST
    ]
    figure = Figure(figsize=(14, max(8.5, 0.24 * len(rates) + 2)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.15)).flat
    _differences(left.subplots(), comparison, rates)
    by_occlusion, by_count, reliability, errors = right.subplots(2, 2).flat
    _lines(by_occlusion, comparison, _BY_OCCLUSION, "largest IoU with another object")
    by_occlusion.set_title("Recall at 1 FP/image by occlusion", fontsize=10)
    _lines(by_count, comparison, _BY_COUNT, "objects in the image")
    by_count.set_title("by objects in the image", fontsize=10)
    _reliability(reliability, comparison)
    _errors(errors, comparison)
    for axes in (by_occlusion, by_count, reliability, errors):
        axes.spines[["top", "right"]].set_visible(False)
    handles, _ = by_occlusion.get_legend_handles_labels()
    legend = right.legend(handles, ["x"] * len(handles), loc="outside upper center", ncols=3, frameon=False)
    for number, text in enumerate(legend.get_texts()):
        _plain(text, _name(comparison, number))
    _plain(figure.suptitle(" ", fontsize=11, wrap=True), comparison.conclusion)
    return figure


def _differences(axes: Axes, comparison: Comparison, rates: list[int]) -> None:
    others = list(enumerate(comparison.arms))[1:]
    for rank, (number, arm) in enumerate(others):
        assert arm.differences is not None
        shift = 0.6 * ((rank + 0.5) / len(others) - 0.5)
        for row, measure in enumerate(rates):
            one = arm.differences[measure]
            if np.isnan(one.low):
                continue
            ends = [100 * one.low, 100 * one.high]
            axes.plot(ends, [row + shift] * 2, color=_colour(number), linewidth=1.4, alpha=0.8)
            face = _colour(number) if one.shown else "white"
            axes.plot(
                100 * one.value, row + shift, "o", color=_colour(number), markerfacecolor=face, markersize=5
            )
    axes.axvline(0, color="0.4", linewidth=1)
    axes.set_yticks(range(len(rates)), [_title(comparison.measures[i]) for i in rates], fontsize=8)
    axes.set_ylim(len(rates) - 0.4, -0.6)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    _plain(
        axes.set_xlabel(" "),
        f"points more than {_name(comparison, 0)}; 95 %, filled where shown",
    )


def _title(measure: Measure) -> str:
    return measure.title if measure.higher_is_better else f"{measure.title} (lower is better)"


def _lines(axes: Axes, comparison: Comparison, key: str, label: str) -> None:
    """Values of each arm over the bins of one kind; thin: each seed."""
    bins = [i for i, measure in enumerate(comparison.measures) if measure.key.startswith(f"{key}_")]
    bins = bins[1:] if key == _BY_OCCLUSION else bins  # the first takes two of the others together
    bins = [i for i in bins if comparison.sample.having(comparison.measures[i])]
    for number, arm in enumerate(comparison.arms):
        if len(arm.values) > 1:
            for run in arm.values:
                axes.plot([run[i] for i in bins], color=_colour(number), linewidth=0.6, alpha=0.5)
        values = [arm.means[i] for i in bins]
        axes.plot(values, "o-", color=_colour(number), linewidth=2, markersize=4, label=f"arm {number}")
    names = [
        comparison.measures[i].title.split(", ")[1].rsplit(" ", 1)[0].replace(" and more", "+") for i in bins
    ]
    counts = [comparison.sample.having(comparison.measures[i]) for i in bins]
    ticks = [f"{name.replace(' to ', '-')}\n{count}" for name, count in zip(names, counts, strict=True)]
    axes.set_xticks(range(len(bins)), ticks, fontsize=8)
    axes.set(ylim=(0, 1.03), xlabel=f"{label}; {comparison.sample.unit} that have any")
    axes.grid(axis="y", color="0.92")


def _reliability(axes: Axes, comparison: Comparison) -> None:
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    for number, arm in enumerate(comparison.arms):
        known = [row for row in arm.reliability if row.detections]
        scores, precision = [row.score for row in known], [row.precision for row in known]
        axes.plot(scores, precision, "o-", color=_colour(number), markersize=4, linewidth=1.5)
    axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="mean score of detections", ylabel="share that is right")
    axes.set_title("Reliability", fontsize=10)
    axes.grid(color="0.92")


def _errors(axes: Axes, comparison: Comparison) -> None:
    keys = [measure.key for measure in comparison.measures]
    width = 0.8 / len(comparison.arms)
    for number, arm in enumerate(comparison.arms):
        heights = [arm.means[keys.index(f"errors_{kind}")] for kind in KINDS]
        places = np.arange(len(KINDS)) + (number - (len(comparison.arms) - 1) / 2) * width
        axes.bar(places, heights, width * 0.92, color=_colour(number))
    axes.set_xticks(range(len(KINDS)), KINDS, fontsize=8, rotation=20)
    axes.set_title("Errors an image, at the best F1", fontsize=10)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)


def _colour(number: int) -> tuple[float, float, float]:
    red, green, blue = class_colour(_COLOURS[number] if number < len(_COLOURS) else number + 1)
    return red / 255, green / 255, blue / 255


def _name(comparison: Comparison, number: int) -> str:
    name = comparison.arms[number].name
    return name if len(name) <= _NAME_LETTERS else f"…{name[1 - _NAME_LETTERS :]}"


def _plain(text, words: str) -> None:
    """Names are data: no mathematics between dollar signs."""
    text.set_parse_math(False)
    text.set_text(words)
