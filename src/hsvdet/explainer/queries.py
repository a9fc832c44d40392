"""Pictures of queries that begin at cells of a dense head: which cells, and what of their boxes deduplication keeps."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..boxes import iou
from ..draw import class_colour
from ..postprocess import clip, scale_of, to_pixels
from ..structures import Output
from .cells import LEVEL_COLOURS
from .panel import WHITE, Panel, close_up
from .scene import Drawing, Found, Row, Scene, sheets
from .sheet import key_legend, sheet

_SAME = 0.5  # IoU from which on two boxes may be of one object
_SURE = 0.3  # of the best score: a duplicate that matters, as in evaluate/duplicates.py
_NAMED = 4  # scores written under a panel


class Candidates(NamedTuple):
    """The queries of an image. cells: [Q] the anchor each stands on. boxes: [Q, 4] xyxy pixels of the image. before,
    after: [Q, C] scores, as the layer before deduplication has them and as deduplication does."""

    cells: np.ndarray
    boxes: Tensor
    before: Tensor
    after: Tensor


class Group(NamedTuple):
    """Of a detection, rows of candidates of its class that overlap it: itself; those as sure as it before and not
    after; those still as sure."""

    own: int
    suppressed: np.ndarray
    left: np.ndarray


def candidates_of(output: Output, size: tuple[int, int]) -> Candidates | None:
    """None of a network whose queries begin at no cells."""
    if output.parents is None or output.query is None or output.dense is None:
        return None
    query, parents = output.query, output.parents[0]
    before = query.layers[-2].logits[0] if len(query.layers) > 1 else output.dense.answer.logits[0][parents]
    boxes = clip(to_pixels(query.answer.boxes[0], size), scale_of(size, query.answer.boxes))
    scores = (logits.float().sigmoid().cpu() for logits in (before, query.answer.logits[0]))
    return Candidates(parents.cpu().numpy(), boxes.cpu(), *scores)


def draw_queries(scene: Scene) -> list[Drawing]:
    """One sheet of where queries begin, if they are not all of the answer; one of what was suppressed."""
    output = scene.seen.output
    found = candidates_of(output, scene.seen.view.size)
    if found is None:
        return []
    drawings = [_draw_suppressed(scene, found)]
    if output.answer.logits.shape[1] > len(found.cells):
        drawings.insert(0, _draw_parents(scene, found))
    return drawings


def groups_of(scene: Scene, found: Candidates) -> dict[int, Group]:
    """By the number of each detection that a query answered."""
    assert scene.seen.output.cells is not None  # there are queries at cells
    answering, labels = scene.seen.output.cells[0].cpu().numpy(), scene.seen.detections.labels
    groups = {}
    for subject in scene.objects:
        rows = np.flatnonzero(found.cells == answering[subject.prediction])
        if not len(rows):
            continue
        own, label = int(rows[0]), int(labels[subject.number - 1])
        near = iou(found.boxes, found.boxes[own]) >= _SAME
        before, after = found.before[:, label], found.after[:, label]
        sure = near & (before >= _SURE * before[own])
        still = near & (after >= _SURE * after[own])
        sure[own] = still[own] = False
        groups[subject.number] = Group(own, *(_strongest(part, before) for part in (sure & ~still, still)))
    return groups


def _strongest(members: Tensor, scores: Tensor) -> np.ndarray:
    order = scores.argsort(descending=True, stable=True)
    return order[members[order]].numpy()


def _draw_parents(scene: Scene, found: Candidates) -> Drawing:
    """The cells that queries begin at, map by map; and of each detection how its query moved the cell's box."""
    view, dense = scene.seen.view, scene.seen.output.dense
    assert dense is not None and scene.seen.output.cells is not None
    anchors, strides = dense.anchors.cpu().numpy(), dense.strides.cpu().numpy()
    own_boxes = to_pixels(dense.answer.boxes[0], view.size).cpu().numpy()
    levels = [int(stride) for stride in dict.fromkeys(strides.tolist())]
    colours = {stride: class_colour(LEVEL_COLOURS[number % 3]) for number, stride in enumerate(levels)}
    parents = set(found.cells.tolist())
    answering = scene.seen.output.cells[0].cpu().numpy()

    panel, facts = scene.panel(), []
    asked = [(one, int(answering[one.prediction])) for one in scene.objects]
    for _, cell in asked:
        if cell in parents:
            panel.box(own_boxes[cell], WHITE, width=1.5, dashed=True)
    for subject, cell in asked:
        panel.box(subject.box, colours[int(strides[cell])])
    for subject, cell in asked:
        stride = int(strides[cell])
        grid = view.canvas[0] // stride, view.canvas[1] // stride
        column, row = (int(side // stride) for side in anchors[cell])
        panel.cell(row, column, grid, colours[stride])
        panel.disc(view.to_image(anchors[cell] / view.canvas[::-1]), colours[stride], str(subject.number))
        facts.append({"subject": subject.number, "cell": cell, "by_query": cell in parents})
    by_query = sum(fact["by_query"] for fact in facts)
    panels = [
        (
            panel.finished(),
            f"{by_query} of {len(facts)} answered by queries: dashed the box of the cell, solid the query's. Disc: the"
            " query's cell",
        )
    ]
    for stride in levels:
        grid = view.canvas[0] // stride, view.canvas[1] // stride
        (of_level,) = np.nonzero(strides == stride)
        chosen = np.isin(of_level, found.cells).reshape(grid)
        panel = scene.panel()
        panel.light(chosen)
        for subject, cell in asked:
            if strides[cell] == stride:
                panel.box(subject.box, colours[stride])
        panels.append(
            (panel.finished(), f"Stride {stride}: {chosen.sum()} of {chosen.size:,} cells have a query")
        )
    notes = [
        f"{scene.model}. Its {len(found.cells)} queries begin at the cells of which the dense head is surest (in the"
        " light), and answer in their place; other cells answer themselves."
    ]
    legend = [key_legend([(colours[stride], f"stride {stride}") for stride in levels])]
    picture = sheet(f"{scene.file}: the cells that queries begin at", notes, panels, legend)
    return Drawing("queries", picture, {"subjects": facts})


def _draw_suppressed(scene: Scene, found: Candidates) -> Drawing:
    """Of each detection the boxes that competed with it."""
    groups = groups_of(scene, found)
    boxes = found.boxes.double().numpy()

    def draw(subject: Found, panel: Panel, group: Group) -> None:
        panel.dim(0.75)
        for other in scene.objects:
            if other.number != subject.number:
                panel.box(other.box, other.colour, width=1.0)
        for row in group.suppressed[::-1]:
            panel.box(boxes[row], WHITE, width=1.2, dashed=True)
        for row in group.left:
            panel.box(boxes[row], subject.colour, width=1.2)
        panel.box(boxes[group.own], subject.colour, width=3.0)

    overview = scene.panel()
    for group in groups.values():
        for row in group.suppressed:
            overview.box(boxes[row], WHITE, width=1.0, dashed=True)
    for subject in scene.objects:
        overview.box(subject.box, subject.colour)
    rows, facts = [], []
    for subject in scene.objects:
        group = groups.get(subject.number)
        facts.append({"subject": subject.number, "by_query": group is not None})
        if group is None:
            continue
        label = int(scene.seen.detections.labels[subject.number - 1])
        fell = [(float(found.before[row, label]), float(found.after[row, label])) for row in group.suppressed]
        facts[-1] |= {
            "suppressed": [[round(score, 4) for score in pair] for pair in fell],
            "left": len(group.left),
        }
        around = np.concatenate([boxes[[group.own, *group.suppressed, *group.left]].reshape(-1, 2)])
        window = close_up(around, scene.seen.view.size)
        rows.append(Row(subject, _text(subject, group, fell), partial(draw, subject), group, [], window))
    suppressed = sum(len(group.suppressed) for group in groups.values())
    first = (
        overview.finished(),
        f"{scene.overview_text(scene.objects)}; dashed: the {suppressed} boxes suppressed for them",
    )
    notes = [
        f"{scene.model}. Of the boxes that overlap a detection by an IoU of {_SAME:g} or more, those that scored its"
        f" class at least {_SURE:g} times as high as it did before deduplication: dashed where they no longer do.",
        "Thin: other detections, which stay. Scores are those of the queries, before and after.",
    ]
    (drawing,) = sheets(
        scene._replace(heads=False), "suppressed", "what deduplication suppressed", notes, first, rows,
        [key_legend([(WHITE, "dashed: suppressed")])], {"subjects": facts},
    )  # fmt: skip
    return drawing


def _text(subject: Found, group: Group, fell: list[tuple[float, float]]) -> str:
    text = f"{subject.number} · {subject.text}: "
    if not fell and not len(group.left):
        return text + "no other box was as sure"
    some = ", ".join(f"{before:.2f} to {after:.2f}" for before, after in fell[:_NAMED])
    text += f"{len(fell)} suppressed"
    if fell:
        text += f" ({some}{', ...' if len(fell) > _NAMED else ''})"
    return text + (f", {len(group.left)} as sure stay" if len(group.left) else "")
