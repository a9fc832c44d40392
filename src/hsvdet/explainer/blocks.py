"""Pictures of sparse global attention: which tokens take part, and what they look at."""

from __future__ import annotations

from functools import partial

import numpy as np

from .attention import Heat, Selected, selection_of
from .capture import Call
from .panel import REFERENCE, Panel
from .scene import Drawing, Row, Scene, Subject, sheets
from .sheet import heat_legend, key_legend

_PLACES = {
    "P5": "after the backbone",
    "P4": "after the neck's first merge",
    "P3": "after the neck's second merge",
}


def draw_blocks(scene: Scene) -> list[Drawing]:
    """One sheet a block that attends, and one by its heads."""
    return [
        drawing
        for name, call in scene.seen.blocks.items()
        if call.module.config.dense_path != "linear_control"
        for drawing in _draw_block(scene, name, call)
    ]


def _draw_block(scene: Scene, name: str, call: Call) -> list[Drawing]:
    view, subjects = scene.seen.view, scene.subjects
    selected = selection_of(call)
    cells, full = selected.chosen.shape, selected.cells is None
    k = call.module.tokens_selected(*cells)

    def draw(subject: Subject, token: tuple[int, int], panel: Panel, weights: np.ndarray) -> None:
        panel.dim(0.7)
        if not full:
            panel.light(selected.chosen, 0.45)
        panel.heat(weights, float(weights.max()), smooth=False)
        if subject.box is not None:
            panel.box(subject.box, subject.colour, width=2.0)
        panel.cell(*token, cells, REFERENCE)

    rows, facts = [], []
    # Where nothing but padding was selected there is nobody to look.
    for subject in subjects if selected.chosen.any() else ():
        token = view.nearest(subject.point, cells, selected.chosen)
        own = view.nearest(subject.point, cells)
        away = max(abs(own[0] - token[0]), abs(own[1] - token[1]))
        heat = selected.heat(*token)
        text = scene.heat_text(subject, heat) + _extra(selected, heat)
        if away:
            text += f". Its own token was not selected; this one is {away} cell{'s' * (away > 1)} away"
        rows.append(Row(subject, text, partial(draw, subject, token), heat.mean, heat.weights))
        facts.append(scene.heat_facts(subject, heat) | {"selected": not away})

    panel = scene.panel()
    if not full:
        panel.light(selected.chosen)
    for subject in subjects:
        if subject.box is not None:
            panel.box(subject.box, subject.colour, width=2.0)
    for subject in subjects:
        panel.disc(subject.point, subject.colour, str(subject.number))
    numbers = {field: round(value, 6) for field, value in selected.diagnosis._asdict().items()}
    return sheets(
        scene,
        name,
        f"sparse global attention at {name}, {_PLACES[name]}",
        _notes(scene, selected, k),
        (panel.finished(), "All tokens take part" if full else "In the light: the selected tokens"),
        rows,
        [
            heat_legend("no attention", "most in this picture"),
            key_legend([(REFERENCE, "the token that looks")]),
        ],
        numbers | {"k": k, "tokens": selected.chosen.size, "full": full, "subjects": facts},
    )


def _notes(scene: Scene, selected: Selected, k: int) -> list[str]:
    config, diagnosis = selected.config, selected.diagnosis
    total, chosen, heads = selected.chosen.size, int(selected.chosen.sum()), len(selected.weights)
    if selected.cells is not None:
        how = f"{k:,} of {total:,} tokens are selected, {selected.selector.ranking}."
    elif selected.selector.takes_all:
        how = f"Full attention among all {total:,} tokens: the selector is all."
    else:
        how = (
            f"Full attention: the map has {total:,} tokens, no more than k = {config.k}, so none is left out."
        )
    if chosen < k:
        how += f" Only {chosen:,} of them are picture, the others padding, which is not looked at."
    effect = (
        f"Gate {diagnosis.gate:.3g}. The block changes the map by {diagnosis.change:.2%} of its norm; on selected"
        f" tokens, attention's part of it is {diagnosis.attention_change:.2%}. Entropy {diagnosis.entropy:.2f}"
        " of an even look's."
    )
    if not diagnosis.change:
        effect += " So far the block is the identity."
    return [
        f"{scene.model}. {how} {heads} head{'s' * (heads > 1)}; {scene.map_of(selected.chosen.shape)}.",
        effect,
    ]


def _extra(selected: Selected, heat: Heat) -> str:
    """What goes to tokens without a place."""
    shares = (
        (selected.config.context, heat.pooled, "pooled tokens"),
        (selected.config.registers, heat.learned, "registers"),
    )
    return "".join(f", {what} {float(np.mean(share)):.0%}" for there, share, what in shares if there)
