"""What a run leaves to look at: results.csv, curves.png, TensorBoard, run.json, pictures, lines on stderr."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..draw import class_colour, draw_detections, draw_grid
from ..errors import SaveError
from ..layers.sparse_global import SparseGlobal
from ..preprocess import Preprocess
from ..structures import Batch, Detections
from .state import write_file

Row = dict[str, float | int | None]

_CURVES_EVERY = 30.0  # seconds
_PICTURES = 16


def write_results(path: Path, rows: list[Row]) -> None:
    """One row an epoch; the whole file each time, so that a resumed run neither repeats nor loses one."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({name: _short(value) for name, value in row.items()} for row in rows)
    write_file(path, text.getvalue().encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_file(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in ("hsvdet", "torch", "torchvision", "lightning", "numpy", "pillow", "faster-coco-eval"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def write_training_pictures(
    path: Path, batch: Batch, labels: tuple[str, ...], preprocess: Preprocess
) -> None:
    """A contact sheet of the first images of a batch, as the network sees them, with their boxes."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    pictures = []
    padding = batch.padding if batch.padding is not None else [None] * len(batch.images)
    for image, target, hidden in list(zip(batch.images, batch.targets, padding, strict=True))[:_PICTURES]:
        pixels = ((image.cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        left = top = 0
        height, width = pixels.shape[-2:]
        if hidden is not None:
            rows, columns = (
                (~hidden).any(1).nonzero()[:, 0].tolist(),
                (~hidden).any(0).nonzero()[:, 0].tolist(),
            )
            top, height, left, width = rows[0], len(rows), columns[0], len(columns)
        cx, cy, w, h = (target.boxes * torch.tensor([width, height, width, height])).unbind(-1)
        xyxy = torch.stack([cx - w / 2 + left, cy - h / 2 + top, cx + w / 2 + left, cy + h / 2 + top], -1)
        boxes = Detections(xyxy, torch.full((len(xyxy),), torch.nan), target.labels)
        pictures.append(draw_detections(pixels, boxes, labels))
    content = io.BytesIO()
    draw_grid(pictures).save(content, format="JPEG", quality=90)
    write_file(path, content.getvalue())


@torch.no_grad()
def diagnose_blocks(net: nn.Module, batch: Batch) -> dict[str, float]:
    """What each sparse global block does to a batch: "gate/P5", "change/P5", "attention_change/P5",
    "entropy/P5" (layers/sparse_global.py, Diagnosis). `net` is left in evaluation mode."""
    blocks = {
        name.rsplit(".", 1)[-1]: module
        for name, module in net.named_modules()
        if isinstance(module, SparseGlobal)
    }
    if not blocks:
        return {}
    inputs: dict[str, tuple] = {}

    def keep(name: str):
        return lambda module, arguments: inputs.update({name: arguments})

    hooks = [module.register_forward_pre_hook(keep(name)) for name, module in blocks.items()]
    try:
        net.eval()(batch.images, batch.padding, batch.targets)
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: module.diagnose(*inputs[name]) for name, module in blocks.items()}
    return {
        f"{what}/{name}": float(getattr(diagnosis, what))
        for what in ("gate", "change", "attention_change", "entropy")
        for name, diagnosis in found.items()
    }


class Board:
    """The TensorBoard log. Rows of a resumed run replace those of the same epochs."""

    def __init__(self, folder: Path, first_epoch: int):
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        try:
            self.writer = SummaryWriter(str(folder), purge_step=first_epoch or None)
        except OSError as error:
            raise self._unwritten(error) from error

    def add(self, row: Row) -> None:
        try:
            for name, value in row.items():
                if name != "epoch" and isinstance(value, int | float) and math.isfinite(value):
                    self.writer.add_scalar(name, value, int(row["epoch"]))
            self.writer.flush()
        except OSError as error:
            raise self._unwritten(error) from error

    def close(self) -> None:
        """Never fails: it is called on the way out of a failed run, too."""
        try:
            self.writer.close()
        except OSError:
            pass

    def _unwritten(self, error: OSError) -> SaveError:
        return SaveError(
            f"{self.folder} cannot be written: {error.strerror or error}. Make room, then continue with resume."
        )


class Curves:
    """curves.png, drawn anew every half minute at most."""

    def __init__(self, path: Path):
        self.path, self._drawn = path, -math.inf

    def draw(self, rows: list[Row], finished: bool = False) -> None:
        if rows and (finished or time.monotonic() - self._drawn > _CURVES_EVERY):
            content = io.BytesIO()
            curves_figure(rows).savefig(content, format="png", dpi=120)
            write_file(self.path, content.getvalue())
            self._drawn = time.monotonic()


def _losses_of_the_answer(names: Iterable[str]) -> list[str]:
    """Without those of inner decoder layers, proposals and noised queries; the files have all of them."""
    parts = [name.removeprefix("loss/") for name in names if name.startswith("loss/")]
    return [part for part in parts if "/" not in part]


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
    plot(losses, {f"loss/{name}": name for name in _losses_of_the_answer(names)}, "Losses, training")
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


class Progress:
    """On stderr: a bar while an epoch runs (on a terminal), and one line for each epoch that is done."""

    def __init__(self, epochs: int, batches: int, shown: bool):
        self.epochs, self.batches, self.shown = epochs, batches, shown
        self._bar = None

    def start(self, epoch: int, done: int) -> None:
        if not (self.shown and sys.stderr.isatty()):
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
        """losses: of the last batch, by name; only looked at when a bar shows their sum."""
        if self._bar is not None:
            self._bar.update(self._task, advance=batches, note=f"loss {sum(losses.values()).item():.3f}")

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
        losses = "  ".join(f"{name} {row[f'loss/{name}']:.3f}" for name in _losses_of_the_answer(row))
        parts = [f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}", losses]
        if row.get("ap") is not None:
            parts.append(f"AP {row['ap']:.3f}  AP50 {row['ap50']:.3f}{'  best' if best else ''}")
        parts.append(f"{row['images_per_second']:.1f} images/s")
        if row["epoch"] < self.epochs:
            parts.append(f"{_duration(seconds_left)} left")
        print(" | ".join(parts), file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        if self.shown:
            print(text, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _short(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
