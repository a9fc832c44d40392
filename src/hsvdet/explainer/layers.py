"""Pictures of encoder and decoder layers: heat of dense attention, points of deformable attention."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image

from .attention import Heat, Samples, heat_of, real_cells, samples_of
from .capture import Call
from .panel import REFERENCE, Panel, close_up
from .scene import Drawing, Row, Scene, Subject, sheets
from .sheet import heat_legend, sample_legend
from .view import Cells


def draw_layers(scene: Scene, layer: int | None) -> list[Drawing]:
    """Of the encoder by subjects, of the decoder by objects. layer: from 1; the last one, also where there are
    fewer."""
    drawings = []
    for name, calls, subjects in (
        ("encoder", scene.seen.encoder, scene.subjects),
        ("decoder", scene.seen.decoder, scene.objects),
    ):
        if calls and subjects:
            number = min(layer or len(calls), len(calls))
            # Deformable attention says where it looks, dense attention how much at each cell.
            draw = _draw_samples if hasattr(calls[number - 1].module, "locate") else _draw_heat
            drawings += draw(scene, name, calls[number - 1], f"layer {number} of {len(calls)}", subjects)
    return drawings


def _draw_heat(scene: Scene, name: str, call: Call, which: str, subjects: Sequence[Subject]) -> list[Drawing]:
    cells = scene.seen.cells
    assert cells is not None  # dense attention is to the map of a backbone
    if name == "encoder":
        queries = _tokens(scene, call, cells, subjects)
        title = f"encoder self-attention, {which}"
        what = "Where the token under the disc looks"
    else:
        queries = [subject.prediction for subject in scene.objects]
        title = f"decoder attention to the image, {which}"
        what = "Where the query that found the object looks"
    heats = heat_of(call, queries, cells)
    notes = [f"{scene.model}. {what}: the mean of {len(heats[0].weights)} heads, {scene.map_of(cells)}."]
    maps = {len(call.inputs["sizes"]) for call in scene.seen.decoder if "sizes" in call.inputs}
    if maps:  # of a decoder with deformable attention
        notes[0] += f" Of its {maps.pop()} maps the encoder attends to the coarsest only."

    def draw(subject: Subject, panel: Panel, weights: np.ndarray) -> None:
        panel.dim()
        panel.heat(weights, float(weights.max()))
        if subject.box is not None:
            panel.box(subject.box, subject.colour, width=2.0)
        if name == "encoder":
            panel.disc(subject.point, subject.colour, str(subject.number))

    rows = [
        Row(subject, scene.heat_text(subject, heat), partial(draw, subject), heat.mean, heat.weights)
        for subject, heat in zip(subjects, heats, strict=True)
    ]
    facts = [scene.heat_facts(subject, heat) for subject, heat in zip(subjects, heats, strict=True)]
    first = scene.overview(subjects) if name == "encoder" else _all_in_one(scene, heats)
    return sheets(
        scene,
        name,
        title,
        notes,
        first,
        rows,
        [heat_legend("no attention", "most in this picture")],
        {"layer": which, "subjects": facts},
    )


def _all_in_one(scene: Scene, heats: Sequence[Heat]) -> tuple[Image.Image, str]:
    """As DETR's figure 6: the attention of all objects, each in its colour."""
    panel, subjects = scene.panel(), scene.objects
    panel.dim(0.6)
    for subject, heat in zip(subjects, heats, strict=True):
        panel.tint(heat.mean, float(heat.mean.max()), subject.colour)
    for subject in subjects:
        panel.box(subject.box, subject.colour)
    for subject in subjects:
        panel.disc(subject.point, subject.colour, str(subject.number))
    return panel.finished(), f"{scene.overview_text(subjects)}, the attention of each in its colour"


def _draw_samples(
    scene: Scene, name: str, call: Call, which: str, subjects: Sequence[Subject]
) -> list[Drawing]:
    view = scene.seen.view
    if name == "encoder":
        title = f"points that the encoder samples, {which}"
        queries = looking_tokens(scene, call, subjects)
        what = "The token at the cross, the nearest of those that look,"
        if queries is None:
            cells = tuple(call.inputs["sizes"][0])
            queries = _tokens(scene, call, cells, subjects)
            what = f"The token of the finest map at the cross ({scene.map_of(cells)})"
    else:
        queries = [subject.prediction for subject in scene.objects]
        title = f"points that the decoder samples, {which}"
        what = "The query that found the object"
    samples = samples_of(call, queries, view)
    heads, levels, points = samples[0].weights.shape
    peak = max(float(of_one.weights.max()) for of_one in samples)
    from_box = len(samples[0].reference) == 4
    notes = [
        f"{scene.model}. {what} reads {points} points on each of {levels} maps with each of {heads} heads,"
        f" placed around the reference {'box (dashed)' if from_box else 'point (cross)'}."
    ]

    def draw(subject: Subject, of_one: Samples, panel: Panel, part: slice) -> None:
        panel.dim(0.75)
        if subject.box is not None:
            panel.box(subject.box, subject.colour, width=2.0)
        if from_box:
            panel.box(of_one.reference, REFERENCE, width=1.5, dashed=True)
        panel.samples(of_one.points[part], of_one.weights[part], peak)
        if not from_box:
            panel.cross(of_one.reference, REFERENCE)

    rows, facts = [], []
    for subject, of_one in zip(subjects, samples, strict=True):
        outside = 1 - of_one.share(np.array([0, 0, *view.size[::-1]]))
        facts.append({"subject": subject.number, "outside": round(outside, 4)})
        text = f"{subject.number} · {subject.text}"
        if subject.box is not None:
            facts[-1]["in_box"] = round(of_one.share(subject.box), 4)
            text += f": {of_one.share(subject.box):.0%} of the weight in its box"
        if outside >= 0.005:
            text += f", {outside:.0%} outside the picture"
        places = [of_one.points.reshape(-1, 2), of_one.reference.reshape(-1, 2)]
        places += [] if subject.box is None else [subject.box.reshape(-1, 2)]
        window = close_up(np.concatenate(places), view.size)
        if window is not None:
            text += f". Shown {view.size[1] / (window[2] - window[0]):.1f} times as large"
        each = [slice(head, head + 1) for head in range(heads)]
        rows.append(Row(subject, text, partial(draw, subject, of_one), slice(None), each, window))
    legend = [sample_legend(samples[0].strides, "weight 0", f"{peak:.2g} (a head's sum to 1)")]
    return sheets(
        scene,
        name,
        title,
        notes,
        scene.overview(subjects),
        rows,
        legend,
        {"layer": which, "subjects": facts},
    )


def looking_tokens(scene: Scene, call: Call, subjects: Sequence[Subject]) -> list[int] | None:
    """Where only some tokens look, selected ones or those of coarse maps: of these the nearest to each subject's point.
    None where all do."""
    if call.inputs["query"].shape[1] == sum(height * width for height, width in call.inputs["sizes"]):
        return None
    reference = call.inputs["reference"][0, :, 0].double().cpu().numpy()  # on the finest map
    places = scene.seen.view.to_image(reference)
    return [int(np.square(places - subject.point).sum(1).argmin()) for subject in subjects]


def _tokens(scene: Scene, call: Call, cells: Cells, subjects: Sequence[Subject]) -> list[int]:
    """Of the first map, which is the finest: the token at each subject's point."""
    real = real_cells(call, cells)
    places = [scene.seen.view.nearest(subject.point, cells, real) for subject in subjects]
    return [row * cells[1] + column for row, column in places]
