"""An evaluation on disk: numbers, and pictures made to be read. Every file appears whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..data.dataset import DetectionData
from ..draw import class_colour, printable
from ..files import write_atomically
from .average_precision import RECALL_STEPS
from .columns import span
from .evaluation import Evaluation
from .worst import worst_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_COLOURED_CLASSES = 10
_ON_WHITE = (4, 0, 2, 6, 1, 5)  # class_colour's first seven without the yellow, dark and light in turn
_NUMBERED_CLASSES = 15
_NAME_LETTERS = 24


class _Series(NamedTuple):
    field: str
    label: str
    rank: int

    @property
    def colour(self) -> np.ndarray:
        return np.array(class_colour(self.rank)) / 255


_SERIES = (
    _Series("ap", "AP", 4),
    _Series("ap50", "AP50", 1),
    _Series("recall", "recall at IoU 0.5", 2),
    _Series("recall_at_fppi1", "recall at 1 false positive per image", 0),
)
_IDEAL = "the same, perfectly deduplicated"
_NARROWEST = 4  # bins, so that few of them do not become walls


def write_report(
    evaluation: Evaluation, out: str | os.PathLike[str], data: DetectionData | None = None
) -> dict[str, Path]:
    """Write metrics.json, per_class.csv, confusion.png, pr.png, score.png and occlusion.png into the folder `out`, made
    if absent; with the data, worst.jpg too, where there are mistakes. Their paths by file name."""
    out = Path(out)
    metrics = json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False) + "\n"
    files = {
        "metrics.json": metrics.encode(),
        "per_class.csv": _per_class_csv(evaluation).encode(),
        "confusion.png": _png(confusion_figure(evaluation)),
        "pr.png": _png(precision_recall_figure(evaluation)),
        "score.png": _png(score_figure(evaluation)),
        "occlusion.png": _png(occlusion_figure(evaluation)),
    }
    worst = None if data is None else worst_picture(evaluation.worst, data)
    if worst is not None:
        picture = io.BytesIO()
        worst.save(picture, "JPEG", quality=90)
        files["worst.jpg"] = picture.getvalue()
    for name, content in files.items():
        write_atomically(out / name, content)
    return {name: out / name for name in files}


def _per_class_csv(evaluation: Evaluation) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "objects", "ap", "ap50", "ar100", "best_f1", "at_score"])
    for scores in evaluation.classes:
        rates = ("" if np.isnan(rate) else f"{rate:.6f}" for rate in scores[2:])
        writer.writerow([scores.name, scores.objects, *rates])
    return text.getvalue()


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    return content.getvalue()


def _figure(width: float, height: float, rows: int = 1) -> tuple[Figure, Axes]:
    """A figure of its own, outside pyplot's global state, and its first axes; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    for axes in figure.subplots(rows, squeeze=False).flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, figure.axes[0]


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


def score_figure(evaluation: Evaluation) -> Figure:
    """Precision, recall and F1 at IoU 0.5 over the score that a detection must pass, all classes pooled; the score at
    which F1 is highest."""
    figure, axes = _figure(8, 4.5)
    best, curve = evaluation.operating.best, np.array(evaluation.operating.curve)
    for column, name, rank in ((1, "precision", 4), (2, "recall", 2), (3, "F1", 5)):
        axes.plot(
            curve[:, 0], curve[:, column], label=name, color=np.array(class_colour(rank)) / 255, linewidth=1.8
        )
    if evaluation.objects:
        axes.axvline(best.score, color="0.4", linewidth=1, linestyle=":")
        axes.set_title(
            f"Best F1 {best.f1:.3f} at score {best.score:.3g}:"
            f" precision {best.precision:.3f}, recall {best.recall:.3f}",
            fontsize=11,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="a detection must score more than")
    axes.grid(color="0.92")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return figure


def occlusion_figure(evaluation: Evaluation) -> Figure:
    """AP, AP50 and the two recalls by occlusion, and the recalls by the number of objects in an image. Outlined:
    recall at one false positive an image of the same predictions, perfectly deduplicated."""
    bins, counts, ideal = evaluation.occlusion, evaluation.recalls.by_count, evaluation.deduplicated
    figure, by_occlusion = _figure(8, 7.2, rows=2)
    by_count = figure.axes[1]
    _bars(by_occlusion, bins, _SERIES, ideal and ideal.occlusion)
    names = [f"{span(bin.low, bin.high)}\n{bin.objects} objects" for bin in bins]
    by_occlusion.set_xticks(range(len(bins)), names, fontsize=9)
    title = "By occlusion: largest IoU with another object"
    deleted = next(row.class_wise for row in evaluation.nms_ceiling if row.iou == evaluation.nms_at)
    if evaluation.objects:
        deletes = "deletes" if evaluation.suppressed_at is not None else "would delete"
        title += f"; NMS at {evaluation.nms_at:g} {deletes} {deleted:.1%} of the true boxes"
    by_occlusion.set_title(title, fontsize=11)
    _bars(by_count, counts, _SERIES[2:], ideal and ideal.by_count)
    names = [f"{span(bin.fewest, bin.most)}\n{bin.images} images" for bin in counts]
    by_count.set_xticks(range(len(counts)), names, fontsize=9)
    by_count.set_title("By objects in the image", fontsize=11)
    handles, labels = by_occlusion.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return figure


def _bars(axes: Axes, bins: Sequence, series: Sequence[_Series], ideal: Sequence | None) -> None:
    """A bar of each series in each bin, its height over it; ideal: the bins whose last series is outlined."""
    width = 0.8 / len(series)
    for rank, one in enumerate(series):
        places = np.arange(len(bins)) + (rank - (len(series) - 1) / 2) * width
        heights = np.array([getattr(bin, one.field) for bin in bins], dtype=float)
        axes.bar(places, np.nan_to_num(heights), width * 0.92, color=one.colour, label=one.label)
        _numbers(axes, places, heights, over=not (ideal and one is series[-1]))
        if ideal and one is series[-1]:
            best = np.array([getattr(bin, one.field) for bin in ideal], dtype=float)
            axes.bar(places, np.nan_to_num(best), width * 0.92, fill=False, edgecolor="0.25", label=_IDEAL)
            _numbers(axes, places, best)
    middle, half = (len(bins) - 1) / 2, max(len(bins), _NARROWEST) / 2
    axes.set(xlim=(middle - half, middle + half), ylim=(0, 1.08))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)


def _numbers(axes: Axes, places: np.ndarray, heights: np.ndarray, over: bool = True) -> None:
    """Over the bars, or inside at their upper end."""
    for place, height in zip(places, heights, strict=True):
        label = "–" if np.isnan(height) else f"{height:.2f}".removeprefix("0")
        y, side = (0.01, "bottom") if over else (-0.012, "top")
        axes.text(place, np.nan_to_num(height) + y, label, ha="center", va=side, fontsize=7, color="0.25")
