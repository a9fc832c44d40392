"""An evaluation on disk: numbers, and pictures made to be read. Every file appears whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..draw import class_colour, printable
from ..files import write_atomically
from .average_precision import RECALL_STEPS
from .evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_COLOURED_CLASSES = 10
_ON_WHITE = (4, 0, 2, 6, 1, 5)  # class_colour's first seven without the yellow, dark and light in turn
_NUMBERED_CLASSES = 15
_NAME_LETTERS = 24


def write_report(evaluation: Evaluation, out: str | os.PathLike) -> dict[str, Path]:
    """Write metrics.json, per_class.csv, confusion.png, pr.png and occlusion.png into the folder `out`, made
    if absent; their paths by file name."""
    out = Path(out)
    metrics = json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False) + "\n"
    files = {
        "metrics.json": metrics.encode(),
        "per_class.csv": _per_class_csv(evaluation).encode(),
        "confusion.png": _png(confusion_figure(evaluation)),
        "pr.png": _png(precision_recall_figure(evaluation)),
        "occlusion.png": _png(occlusion_figure(evaluation)),
    }
    for name, content in files.items():
        write_atomically(out / name, content)
    return {name: out / name for name in files}


def _per_class_csv(evaluation: Evaluation) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "objects", "ap", "ap50", "ar100"])
    for scores in evaluation.classes:
        rates = ("" if np.isnan(rate) else f"{rate:.6f}" for rate in scores[2:])
        writer.writerow([scores.name, scores.objects, *rates])
    return text.getvalue()


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    return content.getvalue()


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of its own, outside pyplot's global state; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _shown(name: str, index: int) -> str:
    """A class name as it can be drawn, long ones cut."""
    name, _ = printable(name, index)
    return name if len(name) <= _NAME_LETTERS else name[: _NAME_LETTERS - 1] + "…"


def _as_name(text: Text, name: str, index: int) -> None:
    """Class names are data: no mathematics between dollar signs, and the font that has their letters."""
    size = text.get_fontsize()
    text.set_parse_math(False)
    text.set_fontproperties(Path(printable(name, index)[1]))
    text.set_fontsize(size)


def confusion_figure(evaluation: Evaluation) -> Figure:
    """Rows are true classes and sum to 1; the last column is what was missed, the last row false alarms.
    Counts are written into the cells up to 15 classes; names are thinned where they would touch."""
    matrix = evaluation.confusion
    count = len(matrix)
    side = float(np.clip(0.32 * count + 3, 5.5, 16))
    figure, axes = _figure(side + 1.2, side)
    total = matrix.sum(1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    share[-1, -1] = np.nan  # nobody counts the background that was rightly left alone
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label="share of the row", shrink=0.7)
    axes.spines[:].set_visible(False)
    axes.axhline(count - 1.5, color="0.6", linewidth=0.8)
    axes.axvline(count - 1.5, color="0.6", linewidth=0.8)
    if count <= _NUMBERED_CLASSES + 1:
        for row, column in np.argwhere(matrix > 0):
            colour = "white" if share[row, column] > 0.6 else "0.15"
            axes.text(
                column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=colour
            )
    step = int(np.ceil((count - 1) / (side * 72 * 0.8 / 10)))
    ticks = [*range(0, count - 1, step), count - 1]
    names = [_shown(evaluation.classes[tick].name, tick) for tick in ticks[:-1]]
    for axis, background, rotation in ((axes.xaxis, "missed", 90), (axes.yaxis, "background", 0)):
        axis.set_ticks(ticks, [*names, background], fontsize=8, rotation=rotation)
        for text, tick in zip(axis.get_ticklabels()[:-1], ticks, strict=False):
            _as_name(text, evaluation.classes[tick].name, tick)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title("Confusion at IoU 0.5, score 0.25", fontsize=11)
    return figure


def precision_recall_figure(evaluation: Evaluation) -> Figure:
    """Precision over recall at IoU 0.5. Up to ten classes in colour; of more, the five lowest, the others in
    grey. The mean over classes in black."""
    figure, axes = _figure(8, 5)
    known = [i for i, scores in enumerate(evaluation.classes) if not np.isnan(scores.ap50)]
    coloured = known
    if len(known) > _COLOURED_CLASSES:
        coloured = sorted(known, key=lambda i: evaluation.classes[i].ap50)[:5]
        for i in set(known) - set(coloured):
            axes.plot(RECALL_STEPS, evaluation.precision[i], color="0.75", linewidth=0.7, alpha=0.7)
    handles = []
    for rank, i in enumerate(coloured):
        colour = np.array(class_colour(_ON_WHITE[rank % len(_ON_WHITE)])) / 255
        style = ("-", "--")[rank // len(_ON_WHITE)]
        handles += axes.plot(
            RECALL_STEPS, evaluation.precision[i], color=colour, linestyle=style, linewidth=1.4
        )
    if known:
        mean = evaluation.precision[known].mean(0)
        handles += axes.plot(RECALL_STEPS, mean, color="black", linewidth=2.4)
        legend = axes.legend(
            handles,
            ["name"] * len(handles),
            title="AP50" if len(coloured) == len(known) else "AP50, five lowest",
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            frameon=False,
            fontsize=9,
        )
        for i, text in zip(coloured, legend.get_texts(), strict=False):
            scores = evaluation.classes[i]
            _as_name(text, scores.name, i)
            text.set_text(f"{_shown(scores.name, i)}  {scores.ap50:.3f}")
        legend.get_texts()[-1].set_text(f"mean of {len(known)}  {evaluation.ap50:.3f}")
    else:
        axes.text(0.5, 0.5, "no objects in this split", ha="center", color="0.4")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.grid(color="0.92")
    axes.set_title("Precision and recall at IoU 0.5", fontsize=11)
    return figure


def occlusion_figure(evaluation: Evaluation) -> Figure:
    """AP, AP50 and the two recalls for each occlusion bin, with its number of objects."""
    figure, axes = _figure(8, 4.4)
    bins = evaluation.occlusion
    series: Sequence[tuple[str, str]] = (
        ("ap", "AP"),
        ("ap50", "AP50"),
        ("recall", "recall at IoU 0.5"),
        ("recall_at_fppi1", "recall at 1 false positive per image"),
    )
    width = 0.8 / len(series)
    for rank, (field, label) in enumerate(series):
        places = np.arange(len(bins)) + (rank - (len(series) - 1) / 2) * width
        heights = np.array([getattr(scores, field) for scores in bins])
        colour = np.array(class_colour((4, 1, 2, 0)[rank])) / 255
        axes.bar(places, np.nan_to_num(heights), width * 0.92, color=colour, label=label)
        for place, height in zip(places, heights, strict=True):
            text = "–" if np.isnan(height) else f"{height:.2f}".removeprefix("0")
            axes.text(
                place, np.nan_to_num(height) + 0.01, text, ha="center", va="bottom", fontsize=7, color="0.25"
            )
    names = [f"{scores.low:g}–{scores.high:g}\n{scores.objects} objects" for scores in bins]
    axes.set_xticks(range(len(bins)), names, fontsize=9)
    axes.set(ylim=(0, 1.08), xlabel="largest IoU with another object")
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=4, frameon=False, fontsize=8.5)
    axes.set_title("By occlusion", fontsize=11)
    return figure
