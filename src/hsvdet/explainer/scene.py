"""What all pictures of one image have in common, and how a set of them becomes a sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from ..draw import Colour, class_colour, printable
from .attention import Heat
from .capture import Seen
from .panel import Panel
from .sheet import sheet
from .view import Cells

_SMALL = 250  # pixels of a panel where each head has its own


class Place(NamedTuple):
    """A place in the image that was asked for. point: [2] pixels."""

    number: int
    point: np.ndarray
    colour: Colour
    text: str
    box: None = None


class Found(NamedTuple):
    """A detection. point: [2] pixels, its centre. box: [4] xyxy pixels. prediction: which of the network's it is."""

    number: int
    point: np.ndarray
    colour: Colour
    text: str
    box: np.ndarray
    prediction: int


Subject = Place | Found  # what a panel is about


class Drawing(NamedTuple):
    """A finished sheet. name: what it shows, for the file. facts: its numbers, for JSON."""

    name: str
    picture: Image.Image
    facts: dict[str, Any]


class Scene(NamedTuple):
    """An image and what was made of it. file, model: their names. objects: the best detections; subjects: these, or
    the points that were asked for. heads: whether each head is drawn too."""

    file: str
    model: str
    image: Tensor
    seen: Seen
    subjects: Sequence[Subject]
    objects: Sequence[Found]
    heads: bool

    def panel(self, longest: int | None = None, window: np.ndarray | None = None) -> Panel:
        return Panel(self.image, self.seen.view, longest, window)

    def overview(self, subjects: Sequence[Subject]) -> tuple[Image.Image, str]:
        """The image with the subjects on it, and what is written under it."""
        panel = self.panel()
        for subject in subjects:
            if subject.box is not None:
                panel.box(subject.box, subject.colour)
        for subject in subjects:
            panel.disc(subject.point, subject.colour, str(subject.number))
        return panel.finished(), self.overview_text(subjects)

    def overview_text(self, subjects: Sequence[Subject]) -> str:
        if subjects[0].box is None:
            return "The points that were asked for"
        count = len(self.seen.detections.scores)
        return (
            f"The {len(subjects)} surest of {count} detections" if count > len(subjects) else "The detections"
        )

    def map_of(self, cells: Cells) -> str:
        height, width = self.seen.view.canvas
        return f"a map of {cells[0]} x {cells[1]} cells over the {height} x {width} input"

    def heat_text(self, subject: Subject, heat: Heat) -> str:
        text = f"{subject.number} · {subject.text}: the brightest cell gets {heat.mean.max():.1%}"
        if subject.box is not None:
            text += f", its box {heat.share(self.seen.view, subject.box):.0%}"
        return text

    def heat_facts(self, subject: Subject, heat: Heat) -> dict[str, Any]:
        view = self.seen.view
        facts = {
            "subject": subject.number,
            "peak": rounded(heat.peak(view)),
            "peak_share": round(float(heat.mean.max()), 4),
        }
        if subject.box is not None:
            facts["in_box"] = round(heat.share(view, subject.box), 4)
        return facts


class Row(NamedTuple):
    """One subject on a sheet. draw: lays what is given over a panel: `whole`, or the part of one of the `heads`.
    window: the part of the image to show, or None for all of it."""

    subject: Subject
    text: str
    draw: Callable[[Panel, Any], None]
    whole: Any
    heads: Sequence[Any] | np.ndarray
    window: np.ndarray | None = None


def sheets(
    scene: Scene,
    name: str,
    title: str,
    notes: Sequence[str],
    first: tuple[Image.Image, str],
    rows: Sequence[Row],
    legend: Sequence[Image.Image],
    facts: dict[str, Any],
) -> list[Drawing]:
    """The sheet called `name`: `first`, then a panel a row. Another with a panel a head, if the scene asks for it and
    there is more than one."""
    panels = [first]
    for row in rows:
        panel = scene.panel(window=row.window)
        row.draw(panel, row.whole)
        panels.append((panel.finished(), row.text))
    title = f"{scene.file}: {title}"
    drawings = [Drawing(name, sheet(title, notes, panels, legend), facts)]
    count = max((len(row.heads) for row in rows), default=0)
    if scene.heads and count > 1:
        panels = []
        for row in rows:
            for number, part in enumerate(row.heads, 1):
                panel = scene.panel(_SMALL, row.window)
                row.draw(panel, part)
                panels.append((panel.finished(), f"{row.subject.number} · head {number}"))
        notes = [f"{scene.model}. Each of its {count} heads for itself."]
        by_head = sheet(f"{title}, head by head", notes, panels, legend, columns=count)
        drawings.append(Drawing(f"{name}-heads", by_head, {}))
    return drawings


def found_subjects(seen: Seen, labels: Sequence[str], top: int) -> list[Found]:
    """The best detections, at most `top`, by their centres."""
    subjects = []
    rows = zip(*(part.numpy()[:top] for part in seen.detections), seen.predictions[:top], strict=True)
    for number, (box, score, label, prediction) in enumerate(rows, 1):
        name, _ = printable(labels[label], int(label))
        box = box.astype(np.float64)
        centre = (box[:2] + box[2:]) / 2
        subjects.append(
            Found(number, centre, class_colour(number - 1), f"{name} {score:.2f}", box, int(prediction))
        )
    return subjects


def chosen_subjects(points: Sequence[tuple[float, float]]) -> list[Place]:
    return [
        Place(number, np.array([x, y], dtype=np.float64), class_colour(number - 1), f"({x:g}, {y:g})")
        for number, (x, y) in enumerate(points, 1)
    ]


def rounded(point: np.ndarray) -> list[float]:
    return [round(float(value), 2) for value in point]
