"""What both found in one image: eager left, the artifact right. Where they differ, it is the image with the worst
difference; where all is well, the photograph with most to see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..draw import draw_detections, printable
from ..structures import Detections
from .agreement import Agreement
from .matching import Found
from .probes import Probe
from .tolerance import Tolerance

_MARK = (230, 0, 60)
_SIDE = 720  # pixels of each half's longer side
_LARGEST_ZOOM = 16


class Tried(NamedTuple):
    """An image, and what both found in it."""

    probe: Probe
    agreement: Agreement


def worst_of(tried: Sequence[Tried]) -> Tried:
    return max(tried, key=lambda one: one.agreement.severity)


def worth_showing(tried: Sequence[Tried], passed: bool, tolerance: Tolerance) -> Tried:
    """The worst difference, if there is one that counts. Otherwise, of images as they are, the one with the most
    detections; or the worst of them where the artifact failed, but is not judged by single detections."""
    worst = worst_of(tried)
    if worst.agreement.differences and (tolerance.boxes or math.isinf(worst.agreement.severity[0])):
        return worst
    own = [one for one in tried if one.probe.kind == "image"]
    return max(own, key=lambda one: len(one.agreement.reference.scores)) if passed else worst_of(own)


def draw_both(probe: Probe, agreement: Agreement, labels: tuple[str, ...]) -> Image.Image:
    """Boxes in the colours of their classes; what differs is framed in red, the worst is named below."""
    halves = [
        _half(probe.image, agreement.reference, {d.reference for d in agreement.differences}, labels),
        _half(probe.image, agreement.artifact, {d.artifact for d in agreement.differences}, labels),
    ]
    width, height = halves[0].size
    gap, line = 12, 26
    path = printable("eager", 0)[1]
    font = ImageFont.truetype(path, 16)
    lines = [f"{probe.name}: {len(agreement.pairs)} agree, {agreement.ties} ties,"
             f" {len(agreement.differences)} differ"]  # fmt: skip
    lines += [difference.what for difference in agreement.differences[:4]]
    sheet = Image.new(
        "RGB", (2 * width + 3 * gap, height + line * (len(lines) + 1) + 2 * gap), (255, 255, 255)
    )
    canvas = ImageDraw.Draw(sheet)
    for i, (half, title) in enumerate(zip(halves, ("eager", "artifact"), strict=True)):
        left = gap + i * (width + gap)
        canvas.text((left, 4), title, font=font, fill=(0, 0, 0))
        sheet.paste(half, (left, line))
    for i, text in enumerate(lines):
        colour = _MARK if i else (0, 0, 0)
        text = _shortened(printable(text, 0)[0], font, sheet.width - 2 * gap)
        canvas.text((gap, height + line * (i + 1) + gap // 2), text, font=font, fill=colour)
    return sheet


def _half(
    image: np.ndarray, found: Found, differing: set[int | None], labels: tuple[str, ...]
) -> Image.Image:
    height, width = image.shape[:2]
    ratio = min(_SIDE / max(height, width), _LARGEST_ZOOM)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    finite = np.isfinite(found.boxes).all(1) & np.isfinite(found.scores)
    named = finite & (found.labels >= 0) & (found.labels < len(labels))
    boxes = found.boxes * np.array([size[0] / width, size[1] / height] * 2)
    shown = (torch.from_numpy(part[named]) for part in (boxes, found.scores, found.labels))
    picture = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    picture = draw_detections(picture, Detections(*shown), labels)
    canvas = ImageDraw.Draw(picture)
    for i in differing:
        if i is not None and finite[i]:
            left, top, right, bottom = boxes[i].tolist()
            frame = (left - 3, top - 3, max(left, right) + 3, max(top, bottom) + 3)
            canvas.rectangle(frame, outline=_MARK, width=3)
    return picture


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
