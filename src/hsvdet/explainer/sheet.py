"""Panels on a white sheet, with a title, what is said under each, and a legend."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..draw import printable
from .panel import BLACK, bold_font, heat_colours, mark, point_colour

_MARGIN, _GAP = 28, 22
_INK, _QUIET = (25, 25, 25), (95, 95, 95)
_MOST_PIXELS_WIDE = 2400
_NARROWEST = 130  # so that words have room under the panels of a thin image


def sheet(
    title: str,
    notes: Sequence[str],
    panels: Sequence[tuple[Image.Image, str]],
    legend: Sequence[Image.Image],
    *,
    columns: int | None = None,
) -> Image.Image:
    """panels: pictures of one size and what is written under each, in rows of `columns`. notes: under the title.
    legend: strips, side by side below all."""
    wide, high = max(panels[0][0].width, _NARROWEST), panels[0][0].height
    columns = columns or _columns(len(panels), wide, high)
    room = max(columns * wide + (columns - 1) * _GAP, 620)
    title_lines = _wrapped(title, 21, room, bold=True)
    note_lines = [line for note in notes for line in _wrapped(note, 14, room)]
    captions = [_wrapped(caption, 14, wide) for _, caption in panels]
    rows = [range(start, min(start + columns, len(panels))) for start in range(0, len(panels), columns)]
    under = [max(len(captions[i]) for i in row) * 20 + 6 for row in rows]
    head = _MARGIN + 29 * len(title_lines) + 21 * len(note_lines) + 12
    strips = _packed(legend, room)
    foot = sum(max(strip.height for strip in row) + 8 for row in strips)
    height = head + sum(high + lines for lines in under) + _GAP * (len(rows) - 1) + foot + _MARGIN + 10
    page = Image.new("RGB", (room + 2 * _MARGIN, height), (255, 255, 255))
    canvas = ImageDraw.Draw(page)
    y = _MARGIN - 6
    for line in title_lines:
        _write(canvas, (_MARGIN, y), line, 21, _INK, bold=True)
        y += 29
    for line in note_lines:
        _write(canvas, (_MARGIN, y), line, 14, _QUIET)
        y += 21
    y += 12
    for row, lines in zip(rows, under, strict=True):
        for place, number in enumerate(row):
            x = _MARGIN + place * (wide + _GAP)
            page.paste(panels[number][0], (x, y))
            for step, line in enumerate(captions[number]):
                _write(canvas, (x, y + high + 5 + 20 * step), line, 14, _INK)
        y += high + lines + _GAP
    y += 10 - _GAP
    for strips_of_row in strips:
        x = _MARGIN
        for strip in strips_of_row:
            page.paste(strip, (x, y))
            x += strip.width + _GAP
        y += max(strip.height for strip in strips_of_row) + 8
    return page


def heat_legend(low: str, high: str) -> Image.Image:
    """A bar of the colours, from no attention to the most."""
    bar = np.repeat(heat_colours()[None], 14, 0)
    opacity = 0.9 * (np.linspace(0, 1, 256) ** 0.6)[None, :, None]
    bar = Image.fromarray((bar * opacity + 60 * (1 - opacity)).astype(np.uint8)).resize((200, 14))
    return _strip([low, bar, high])


def sample_legend(strides: Sequence[int], low: str, high: str) -> Image.Image:
    """A bar of the colours of points, and the shape of each level."""
    colours = np.array([point_colour(strength) for strength in np.linspace(0, 1, 200)], dtype=np.uint8)
    parts: list[str | Image.Image] = [low, Image.fromarray(np.repeat(colours[None], 14, 0)), high, "    "]
    for level, stride in enumerate(strides):
        shape = Image.new("RGB", (60, 60), (255, 255, 255))
        mark(ImageDraw.Draw(shape), np.array([30.0, 30.0]), level, 18, point_colour(0.6))
        parts += [shape.resize((20, 20), Image.Resampling.LANCZOS), f"stride {stride}"]
    return _strip(parts)


def key_legend(keys: Sequence[tuple[tuple[int, int, int], str]]) -> Image.Image:
    """Small fields of a colour and what each means."""
    parts: list[str | Image.Image] = []
    for colour, text in keys:
        field = Image.new("RGB", (18, 14), BLACK)
        ImageDraw.Draw(field).rectangle((1, 1, 16, 12), fill=colour)
        parts += [field, f"{text}   "]
    return _strip(parts)


def jpeg(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=92, subsampling=0)
    return content.getvalue()


def _columns(count: int, wide: int, high: int) -> int:
    """That make the sheet nearest to 3 : 2, but no wider than screens are, and with few empty places."""
    most = max(1, _MOST_PIXELS_WIDE // (wide + _GAP))

    def fit(columns: int) -> float:
        rows = -(-count // columns)
        shape = (columns * wide) / (rows * (high + 50))
        return abs(np.log(shape / 1.5)) + 0.25 * (rows * columns - count)

    return min(range(1, min(count, most) + 1), key=fit)


def _strip(parts: Sequence[str | Image.Image]) -> Image.Image:
    font = _font("", 13)
    widths = [round(font.getlength(part)) if isinstance(part, str) else part.width for part in parts]
    strip = Image.new("RGB", (sum(widths) + 8 * len(parts), 26), (255, 255, 255))
    canvas, x = ImageDraw.Draw(strip), 0
    for part, width in zip(parts, widths, strict=True):
        if isinstance(part, str):
            _write(canvas, (x, 13), part, 13, _INK, anchor="lm")
        else:
            strip.paste(part, (x, (26 - part.height) // 2))
        x += width + 8
    return strip


def _packed(strips: Sequence[Image.Image], room: int) -> list[list[Image.Image]]:
    rows: list[list[Image.Image]] = []
    for strip in strips:
        if rows and sum(other.width + _GAP for other in rows[-1]) + strip.width <= room:
            rows[-1].append(strip)
        else:
            rows.append([strip])
    return rows


def _wrapped(text: str, size: int, room: int, bold: bool = False) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}".strip()
            if line and _font(longer, size, bold).getlength(longer) > room:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _font(text: str, size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    _, path = printable(text, 0)
    return ImageFont.truetype(bold_font() if bold and path.endswith("DejaVuSans.ttf") else path, size)


def _write(canvas, at, text: str, size: int, colour, *, bold: bool = False, anchor: str = "la") -> None:
    shown, _ = printable(text, 0) if text.strip() else (text, "")
    canvas.text(at, shown, font=_font(text, size, bold), fill=colour, anchor=anchor)
