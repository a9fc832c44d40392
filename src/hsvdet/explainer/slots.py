"""What each query slot has learned to look for: its box centres over a data set (DETR, figure 7)."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .. import models
from ..data.dataset import DetectionData
from ..data.loader import EvaluationLoader, EvaluationSet
from ..data.read import as_data
from ..detector import Detector
from ..devices import default_workers, move
from ..draw import printable
from ..errors import ConfigError, counted

SMALL = 96**2 / (640 * 480)  # of the picture: where COCO's large objects begin, on its usual picture
_BATCH = 8


@dataclass(frozen=True)
class SlotMaps:
    """The boxes that every query slot gave for every image, whatever its score.

    boxes: [I, Q, 4] float32 cxcywh fractions. aspects: [I] width / height of each image. answers: [Q], the share of
    images in which the slot's best class reached the score. source: the data set, in words. ranks: True in a
    two-stage detector, whose queries are proposals in the order of their score.
    """

    boxes: np.ndarray
    aspects: np.ndarray
    answers: np.ndarray
    source: str
    ranks: bool

    def kinds(self) -> np.ndarray:
        """[I, Q]: 0 small, 1 large and horizontal (as wide as high, or wider, in pixels), 2 large and vertical."""
        width, height = self.boxes[..., 2], self.boxes[..., 3]
        upright = width * self.aspects[:, None] < height
        return np.where(width * height < SMALL, 0, 1 + upright)

    def busiest(self, count: int) -> list[int]:
        """The slots that answer most often, at most `count`."""
        return np.argsort(-self.answers, kind="stable")[:count].tolist()


@torch.inference_mode()
def slot_maps(
    detector: Detector, data: DetectionData | str | os.PathLike[str], split: str, score: float
) -> SlotMaps:
    """Raises ConfigError for a detector without queries, and DataError."""
    data = as_data(data, split)
    loader = EvaluationLoader(
        EvaluationSet(data, detector.preprocess), _BATCH, workers=default_workers(detector.device)
    )
    net, boxes, answers, aspects = detector.net.eval(), [], [], []
    ranks, reading = False, models.find(detector.name).reading
    for batch in loader:
        batch = move(batch, detector.device, detector.preprocess)
        output = net(batch.images, batch.padding)
        if output.dense is not None:
            raise ConfigError(
                f"{detector.name} has a dense head; --data maps the query slots of detectors without one. Leave it out."
            )
        answer = output.answer
        scores = reading.scores(answer.logits)
        ranks = output.proposals is not None
        boxes.append(answer.boxes.float().cpu().numpy())
        answers.append((scores.amax(-1) > score).float().cpu().numpy())
        aspects += [info.size[1] / info.size[0] for info in batch.infos]
    return SlotMaps(
        np.concatenate(boxes),
        np.array(aspects),
        np.concatenate(answers).mean(0),
        f"{counted(len(data), 'image')} of {data.root.name} ({data.split})",
        ranks,
    )


def slots_picture(maps: SlotMaps, model: str, count: int, score: float) -> bytes:
    """A PNG with a square for each of the `count` busiest slots."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    chosen = maps.busiest(count)
    columns = min(5, len(chosen))
    rows = -(-len(chosen) // columns)
    side, gap, above, below, margin = 1.9, 0.35, 1.25, 0.55, 0.3  # inches
    wide = max(columns * (side + gap), 8.0) + 2 * margin - gap
    high = rows * (side + gap) - gap + above + below
    figure = Figure(figsize=(wide, high))
    FigureCanvasAgg(figure)
    images, kinds = len(maps.boxes), maps.kinds()
    colours = np.array(["#1a9641", "#d7191c", "#2b5fd9"])
    size, opacity = (16, 0.7) if images <= 150 else (6, 0.5) if images <= 1500 else (1.5, 0.35)
    for number, slot in enumerate(chosen):
        row, column = divmod(number, columns)
        left, bottom = margin + column * (side + gap), high - above - row * (side + gap) - side
        axes = figure.add_axes((left / wide, bottom / high, side / wide, side / high))
        x, y = maps.boxes[:, slot, 0], maps.boxes[:, slot, 1]
        axes.scatter(x, y, s=size, c=colours[kinds[:, slot]], alpha=opacity, linewidths=0)
        axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
        axes.spines[:].set_color("0.7")
        axes.set_title(f"slot {slot} · answers in {maps.answers[slot]:.0%}", fontsize=8.5, pad=4)

    lines = [
        f"{maps.source}. A dot is the centre of the slot's box in an image, whatever its score; it answers where its"
        f" score is over {score:g}."
    ]
    if maps.ranks:
        lines.append(
            "A two-stage detector: slot n is the n-th best proposal of an image, not a learned query."
        )
    title = f"{model}: box centres by query slot, the {len(chosen)} of {maps.boxes.shape[1]} that answer most often"
    start = margin / wide
    figure.text(start, 1 - 0.42 / high, title, fontsize=12, weight="bold")
    for number, line in enumerate(lines):
        place = 1 - (0.64 + 0.18 * number) / high
        font = Path(printable(line, 0)[1])
        figure.text(start, place, line, fontproperties=font, fontsize=8, color="0.35", parse_math=False)
    names = (f"small: under {SMALL:.0%} of the picture", "large horizontal", "large vertical")
    dots = [
        Line2D([], [], linestyle="none", marker="o", markersize=6, color=colour, label=name)
        for colour, name in zip(colours, names, strict=True)
    ]
    place = (start - 0.1 / wide, 0.1 / high)
    figure.legend(handles=dots, loc="lower left", bbox_to_anchor=place, ncols=3, frameon=False, fontsize=8.5)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    return content.getvalue()
