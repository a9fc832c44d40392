"""The tokens that a network chose to work on, map by map."""

from __future__ import annotations

from .scene import Drawing, Scene
from .sheet import sheet


def draw_selections(scene: Scene) -> list[Drawing]:
    """One sheet, if the network says which tokens it kept: the image, then each map with these in the light. Blocks of
    sparse global attention have sheets of their own."""
    selections = [one for one in scene.seen.output.selections if one.kept is not None]
    if not selections or scene.seen.blocks:
        return []
    panels, facts, of_all, all_kept = [scene.overview(scene.subjects)], [], 0, 0
    for selection in selections:
        assert selection.kept is not None
        kept = selection.kept[0].cpu().numpy()
        count, total = int(kept.sum()), kept.size
        of_all, all_kept = of_all + total, all_kept + count
        panel = scene.panel()
        panel.light(kept)
        for subject in scene.subjects:
            if subject.box is not None:
                panel.box(subject.box, subject.colour)
        size = f"{kept.shape[0]} x {kept.shape[1]} cells"
        panels.append(
            (panel.finished(), f"Stride {selection.stride}, {size}: {count:,} of {total:,} tokens kept")
        )
        facts.append({"stride": selection.stride, "kept": count, "tokens": total})
    if scene.seen.output.dense is None:
        use = "that the encoder works on", "stay as the backbone gave them"
    else:
        use = (
            "of every scale that see one another and that the queries read",
            "are seen by the dense head alone",
        )
    notes = [
        f"{scene.model}. In the light: the {all_kept:,} of {of_all:,} tokens {use[0]}, those of the largest learned"
        f" score. The others {use[1]}."
    ]
    picture = sheet(f"{scene.file}: the tokens that are kept", notes, panels, [])
    return [Drawing("kept", picture, {"maps": facts})]
