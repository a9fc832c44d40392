"""Pictures of a dense head: which cell of which map answered for an object, and what all cells say."""

from __future__ import annotations

from torch import Tensor

from .. import models
from ..draw import class_colour
from ..structures import DenseOutput
from .scene import Drawing, Scene, rounded
from .sheet import heat_legend, key_legend, sheet

LEVEL_COLOURS = (1, 0, 6)  # of class_colour's: blue, orange, pink


def draw_cells(scene: Scene, dense: DenseOutput, cells: Tensor) -> Drawing:
    """cells: [Q], the anchor of each prediction of the answer, -1 for those of learned queries."""
    view = scene.seen.view
    anchors, strides = dense.anchors.cpu().numpy(), dense.strides.cpu().numpy()
    # A sigmoid for every class, in all dense heads.
    scores = dense.answer.logits[0].sigmoid().amax(-1).cpu().numpy()
    answering = cells.cpu().numpy()
    levels = [int(stride) for stride in dict.fromkeys(strides.tolist())]
    colours = {stride: class_colour(LEVEL_COLOURS[number % 3]) for number, stride in enumerate(levels)}
    grids = {stride: (view.canvas[0] // stride, view.canvas[1] // stride) for stride in levels}

    panel, facts = scene.panel(), []
    standing = [(subject, int(answering[subject.prediction])) for subject in scene.objects]
    standing = [(subject, cell) for subject, cell in standing if cell >= 0]  # learned queries stand nowhere
    for subject, cell in standing:
        panel.box(subject.box, colours[int(strides[cell])])
    for subject, cell in standing:
        stride, anchor = int(strides[cell]), anchors[cell]
        column, row = (int(side // stride) for side in anchor)
        place = view.to_image(anchor / view.canvas[::-1])
        panel.cell(row, column, grids[stride], colours[stride])
        panel.disc(place, colours[stride], str(subject.number))
        facts.append(
            {"subject": subject.number, "stride": stride, "cell": [column, row], "anchor": rounded(place)}
        )
    panels = [(panel.finished(), "Disc: the anchor point of the cell that answered for the box")]
    for stride in levels:
        of_level = scores[strides == stride]
        panel = scene.panel()
        panel.dim()
        panel.heat(of_level.reshape(grids[stride]), 1.0, smooth=False)
        answered = sum(fact["stride"] == stride for fact in facts)
        high, wide = grids[stride]
        text = f"Stride {stride}, {high} x {wide} cells: answered for {answered} of {len(scene.objects)}"
        panels.append((panel.finished(), f"{text}, the surest says {of_level.max():.2f}"))

    notes = [
        f"{scene.model}. Every cell of {len(levels)} maps gives a box and its class scores{_reading(scene)}."
        " The maps show each cell's best class score, as the dense head gives it."
    ]
    legend = [
        heat_legend("score 0", "1"),
        key_legend([(colours[stride], f"stride {stride}") for stride in levels]),
    ]
    picture = sheet(f"{scene.file}: the cells that answered", notes, panels, legend)
    return Drawing("cells", picture, {"subjects": facts})


def _reading(scene: Scene) -> str:
    """What becomes of the cells' boxes."""
    learned = "" if scene.seen.output.query is None else "; queries look at the best of them again"
    if models.find(scene.model).reading.suppresses:
        return f"{learned}; of boxes that overlap, the surest stays"
    return f"{learned}; which of an object's boxes stays is learned, none is deleted for its overlap"
