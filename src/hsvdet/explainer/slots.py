"""What each query slot has learned to look for: its box centres over a data set (DETR, figure 7)."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import numpy as np
import torch

from .. import models
from ..data.dataset import DetectionData
from ..data.loader import EvaluationLoader, EvaluationSet
from ..data.read import read_data
from ..detector import Detector
from ..devices import default_workers, move
from ..errors import ConfigError

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
    if isinstance(detector.config, models.YoloV8Config):
        raise ConfigError(
            f"{detector.name} has a dense head and no query slots, so --data has nothing to map. Leave it out."
        )
    if not isinstance(data, DetectionData):
        data = read_data(data, split)
    loader = EvaluationLoader(
        EvaluationSet(data, detector.preprocess), _BATCH, workers=default_workers(detector.device)
    )
    net, boxes, answers, aspects = detector.net.eval(), [], [], []
    ranks = False
    for batch in loader:
        batch = move(batch, detector.device, detector.preprocess)
        output = net(batch.images, batch.padding)
        answer = output.answer
        logits = answer.logits.float()
        softmax = logits.shape[-1] > len(detector.labels)  # its last class is "no object"
        probabilities = logits.softmax(-1)[..., :-1] if softmax else logits.sigmoid()
        ranks = output.proposals is not None
        boxes.append(answer.boxes.float().cpu().numpy())
        answers.append((probabilities.amax(-1) > score).float().cpu().numpy())
        aspects += [info.size[1] / info.size[0] for info in batch.infos]
    return SlotMaps(
        np.concatenate(boxes),
        np.array(aspects),
        np.concatenate(answers).mean(0),
        f"{len(data):,} images of {data.root.name} ({data.split})",
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
    figure = Figure(figsize=(2.15 * columns + 0.4, 2.35 * rows + 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    images, kinds = len(maps.boxes), maps.kinds()
    colours = np.array(["#1a9641", "#d7191c", "#2b5fd9"])
    size, opacity = (14, 0.75) if images <= 150 else (5, 0.5) if images <= 1500 else (1.5, 0.35)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(chosen) :]:
        axes.set_axis_off()
    for axes, slot in zip(grid.flat, chosen, strict=False):
        axes.scatter(
            maps.boxes[:, slot, 0],
            maps.boxes[:, slot, 1],
            s=size,
            c=colours[kinds[:, slot]],
            alpha=opacity,
            linewidths=0,
        )
        axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set_color("0.7")
        axes.set_title(f"slot {slot} · answers in {maps.answers[slot]:.0%}", fontsize=8.5, pad=4)
    shown = f"the {len(chosen)} of {maps.boxes.shape[1]} slots that answer most often"
    figure.suptitle(f"{model}: box centres by query slot, {shown}\n", fontsize=11, ha="left", x=0.02)
    what = f"{maps.source}; a dot for the slot's box in every image, whatever its score; answers: score over {score:g}."
    if maps.ranks:
        what += "\nA two-stage detector: slot n is the n-th best proposal of an image, not a learned query."
    figure.text(0.02, 1, f"\n\n{what}", fontsize=8.5, color="0.35", va="top")
    dots = [
        Line2D([], [], linestyle="none", marker="o", markersize=6, color=colour, label=label)
        for colour, label in zip(
            colours,
            (f"small: under {SMALL:.0%} of the picture", "large horizontal", "large vertical"),
            strict=True,
        )
    ]
    figure.legend(handles=dots, loc="outside lower left", ncols=3, frameon=False, fontsize=8.5)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    return content.getvalue()
