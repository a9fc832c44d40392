"""Pictures of a dense head: which cell of which map answered for an object, and what all cells say."""

from __future__ import annotations

from .. import models
from ..draw import class_colour
from ..structures import DenseOutput
from .scene import Drawing, Scene, rounded
from .sheet import heat_legend, key_legend, sheet

_COLOURS = (1, 0, 6)  # of class_colour's: blue, orange, pink


def draw_cells(scene: Scene, output: DenseOutput) -> Drawing:
    view = scene.seen.view
    anchors, strides = output.anchors.cpu().numpy(), output.strides.cpu().numpy()
    scores = models.find(scene.model).reading.best(output.answer.logits[0])[0].cpu().numpy()
    levels = [int(stride) for stride in dict.fromkeys(strides.tolist())]
    colours = {stride: class_colour(_COLOURS[number % 3]) for number, stride in enumerate(levels)}
    cells = {stride: (view.canvas[0] // stride, view.canvas[1] // stride) for stride in levels}

    panel, facts = scene.panel(), []
    for subject in scene.objects:
        panel.box(subject.box, colours[int(strides[subject.prediction])])
    for subject in scene.objects:
        stride, anchor = int(strides[subject.prediction]), anchors[subject.prediction]
        column, row = (int(side // stride) for side in anchor)
        place = view.to_image(anchor / view.canvas[::-1])
        panel.cell(row, column, cells[stride], colours[stride])
        panel.disc(place, colours[stride], str(subject.number))
        facts.append(
            {"subject": subject.number, "stride": stride, "cell": [column, row], "anchor": rounded(place)}
        )
    panels = [(panel.finished(), "Disc: the anchor point of the cell that answered for the box")]
    for stride in levels:
        of_level = scores[strides == stride]
        panel = scene.panel()
        panel.dim()
        panel.heat(of_level.reshape(cells[stride]), 1.0, smooth=False)
        answered = sum(fact["stride"] == stride for fact in facts)
        high, wide = cells[stride]
        text = f"Stride {stride}, {high} x {wide} cells: answered for {answered} of {len(facts)}, the surest says"
        panels.append((panel.finished(), f"{text} {of_level.max():.2f}"))

    attention = "" if scene.seen.blocks else " There is no attention in this network."
    notes = [
        f"{scene.model}. Every cell of {len(levels)} maps gives a box and its class scores; of boxes that overlap,"
        f" the surest stays. The maps show each cell's best class score.{attention}"
    ]
    legend = [
        heat_legend("score 0", "1"),
        key_legend([(colours[stride], f"stride {stride}") for stride in levels]),
    ]
    picture = sheet(f"{scene.file}: the cells that answered", notes, panels, legend)
    return Drawing("cells", picture, {"subjects": facts})
