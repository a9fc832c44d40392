"""The six sprites of the scenes: vector shapes drawn large, shrunk smoothly, then shaded as if round.

A class is told by shape and texture (wheels and windows, planks and braces, panels, limbs); its colours are
free. Sprite coordinates: y from 0 (top) to 1 (ground), x from 0 to the aspect (width over height).
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

RUBBER: Colour = (34, 34, 38)
STEEL: Colour = (186, 190, 196)
GLASS: Colour = (58, 76, 92)


class Sprite(NamedTuple):
    """One drawn object: tight, so the mask touches all four sides.

    picture: RGBA, unshaded. mask: [h, w] bool, pixels at least half covered. grain: strength and cell size
    (width, height in pixels) of its surface texture.
    """

    picture: Image.Image
    mask: np.ndarray
    grain: tuple[float, float, float]


class Light(NamedTuple):
    """Where a scene's light comes from (-1 left, 1 right) and the tint of its air."""

    side: int
    haze: Colour


class Pen:
    """Draws in sprite coordinates on a transparent sheet of `scale` pixels per sprite height.

    fine: one pixel of the finished sprite, in sprite coordinates: strokes are at least that wide.
    """

    def __init__(self, aspect: float, height: int):
        self.scale = height * (4 if height <= 72 else 3 if height <= 144 else 2)
        self.fine = 1 / height
        self.sheet = Image.new("RGBA", (math.ceil(aspect * self.scale) + 2, self.scale + 2))
        self._draw = ImageDraw.Draw(self.sheet)

    def _pixels(self, points: Points) -> list[tuple[float, float]]:
        return [(x * self.scale + 1, y * self.scale + 1) for x, y in points]

    def polygon(self, points: Points, colour: Colour) -> None:
        self._draw.polygon(self._pixels(points), fill=colour)

    def blob(self, points: Points, colour: Colour) -> None:
        """A polygon with its corners cut three times (Chaikin 1974): smooth, inside the given corners."""
        curve = np.asarray(points, np.float64)
        for _ in range(3):
            after = np.roll(curve, -1, 0)
            curve = np.stack([0.75 * curve + 0.25 * after, 0.25 * curve + 0.75 * after], 1).reshape(-1, 2)
        self.polygon([(x, y) for x, y in curve.tolist()], colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, radius: float = 0.0) -> None:
        corners = self._pixels([(x0, y0), (x1, y1)])
        self._draw.rounded_rectangle(corners, radius * self.scale, fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour, squeeze: float = 1.0) -> None:
        across = radius * squeeze
        self._draw.ellipse(self._pixels([(x - across, y - radius), (x + across, y + radius)]), fill=colour)

    def ring(self, x: float, y: float, radius: float, colour: Colour, width: float) -> None:
        stroke = round(max(width, 1.3 * self.fine) * self.scale)
        corners = self._pixels([(x - radius, y - radius), (x + radius, y + radius)])
        self._draw.ellipse(corners, outline=colour, width=stroke)

    def line(self, points: Points, colour: Colour, width: float) -> None:
        """A stroke with round joints and ends."""
        stroke = max(width, 1.2 * self.fine) * self.scale
        pixels = self._pixels(points)
        self._draw.line(pixels, fill=colour, width=round(stroke))
        for x, y in pixels:
            self._draw.ellipse([x - stroke / 2, y - stroke / 2, x + stroke / 2, y + stroke / 2], fill=colour)


def any_colour(rng: np.random.Generator) -> Colour:
    """Any hue; one in five is white, grey or black."""
    hue, saturation, value = rng.random(), rng.uniform(0.45, 0.95), rng.uniform(0.45, 0.95)
    if rng.random() < 0.2:
        saturation, value = 0.05, rng.uniform(0.2, 0.97)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def tone(colour: Colour, factor: float) -> Colour:
    """Darker below 1 (multiplied), lighter above (mixed with white: 2 is white)."""
    red, green, blue = colour
    if factor <= 1:
        return round(red * factor), round(green * factor), round(blue * factor)
    white = factor - 1
    return (
        round(red + (255 - red) * white),
        round(green + (255 - green) * white),
        round(blue + (255 - blue) * white),
    )


def _wheel(pen: Pen, x: float, y: float, radius: float, spokes: int) -> None:
    pen.disc(x, y, radius, RUBBER)
    pen.disc(x, y, 0.66 * radius, STEEL)
    pen.disc(x, y, 0.55 * radius, tone(STEEL, 0.62))
    for spoke in range(spokes):
        angle = 2 * math.pi * spoke / spokes + 0.3
        tip = (x + 0.58 * radius * math.cos(angle), y + 0.58 * radius * math.sin(angle))
        pen.line([(x, y), tip], STEEL, 0.18 * radius)
    pen.disc(x, y, 0.17 * radius, tone(STEEL, 0.8))


def _car(pen: Pen, aspect: float, rng: np.random.Generator) -> None:
    paint = any_colour(rng)
    a = aspect
    boot = rng.uniform(0.0, 0.16)  # 0: hatchback, more: saloon
    roof_back, roof_front = 0.14 + boot, rng.uniform(0.52, 0.6)
    screen = roof_front + rng.uniform(0.13, 0.19)
    waist = rng.uniform(0.40, 0.45)
    back, front = 0.19 * a, 0.8 * a
    roof = [(0.03 * a, 0.5), (roof_back * a - 0.06 * a, waist), (roof_back * a + 0.02 * a, -0.02)]
    roof += [(roof_front * a, -0.02), (screen * a + 0.03 * a, waist), (screen * a, 0.55)]
    pen.blob(roof, tone(paint, 0.93))
    body = [(-0.03 * a, 0.86), (-0.01 * a, 0.36), (0.3 * a, 0.37), (screen * a, 0.37), (0.97 * a, 0.44)]
    body += [(1.03 * a, 0.60), (1.01 * a, 0.87)]
    pen.blob(body, paint)
    pen.polygon([(0.02 * a, 0.68), (0.985 * a, 0.68), (0.975 * a, 0.84), (0.03 * a, 0.84)], tone(paint, 0.72))
    pen.box(0.01 * a, 0.755, 0.99 * a, 0.83, tone(RUBBER, 1.12), 0.03)
    # Windows: one dark band, a pillar in the body's colour, and a slanting reflection.
    low, high = waist + 0.005, 0.095
    rear_x, front_x = (roof_back + 0.015) * a, (roof_front - 0.01) * a
    pen.polygon(
        [(rear_x - 0.05 * a, low), (rear_x + 0.01 * a, high), (front_x, high), (screen * a, low)], GLASS
    )
    gleam = rear_x + 0.3 * (front_x - rear_x)
    streak = [(gleam, high), (gleam + 0.07 * a, high), (gleam + 0.03 * a, low), (gleam - 0.04 * a, low)]
    pen.polygon(streak, tone(GLASS, 1.35))
    pillar = rear_x + rng.uniform(0.48, 0.58) * (front_x - rear_x)
    pen.line([(pillar, high), (pillar + 0.012 * a, low)], tone(paint, 0.85), 0.035)
    for door in (pillar + 0.015 * a, screen * a - 0.015 * a):
        pen.line([(door, low + 0.02), (door - 0.012 * a, 0.72)], tone(paint, 0.66), 0.012)
    pen.line([(pillar + 0.045 * a, 0.53), (pillar + 0.085 * a, 0.53)], tone(paint, 0.55), 0.025)
    pen.line([(0.06 * a, 0.475), (0.9 * a, 0.475)], tone(paint, 1.4), 0.018)
    pen.blob([(0.9 * a, 0.49), (0.99 * a, 0.5), (0.995 * a, 0.62), (0.92 * a, 0.6)], (255, 246, 214))
    pen.box(0.004 * a, 0.45, 0.045 * a, 0.6, (206, 32, 34), 0.03)
    for x in (back, front):
        pen.disc(x, 0.79, 0.235, tone(RUBBER, 0.7))
    spokes = int(rng.integers(4, 8))
    for x in (back, front):
        _wheel(pen, x, 0.8, 0.2, spokes)


def _truck(pen: Pen, aspect: float, rng: np.random.Generator) -> None:
    cab_paint, load, band = any_colour(rng), any_colour(rng), any_colour(rng)
    a = aspect
    joint = rng.uniform(0.66, 0.72) * a
    cab_top = rng.uniform(0.2, 0.34)
    pen.box(0.01 * a, 0.74, 0.97 * a, 0.86, tone(RUBBER, 1.08), 0.02)
    # The load: a ribbed box, or a plain one with a band and a badge.
    pen.box(0.0, 0.0, joint - 0.025, 0.78, tone(load, 0.8), 0.02)
    pen.box(0.018, 0.022, joint - 0.043, 0.755, load, 0.01)
    style = rng.integers(3)
    if style == 0:
        ribs = int(rng.integers(6, 10))
        for rib in range(1, ribs):
            x = rib * (joint - 0.03) / ribs
            pen.line([(x, 0.06), (x, 0.72)], tone(load, 0.68), 0.022)
            pen.line([(x + 0.02, 0.06), (x + 0.02, 0.72)], tone(load, 1.3), 0.012)
    elif style == 1:
        y = rng.uniform(0.2, 0.5)
        pen.box(0.018, y, joint - 0.043, y + 0.16, band)
        pen.line([(0.02, y + 0.2), (joint - 0.05, y + 0.2)], tone(band, 0.7), 0.025)
    else:
        slant = rng.uniform(0.1, 0.3)
        for x in (0.25, 0.45):
            left, right = x * joint, (x + 0.12) * joint
            pen.polygon([(left, 0.025), (right, 0.025), (right - slant, 0.752), (left - slant, 0.752)], band)
    pen.line([(0.0, 0.765), (joint - 0.03, 0.765)], tone(load, 0.55), 0.02)
    # The cab, facing right.
    nose = a - 0.005
    cab = [(joint, 0.8), (joint, cab_top), (nose - 0.1 * a, cab_top), (nose - 0.02 * a, 0.46), (nose, 0.52)]
    pen.polygon([*cab, (nose, 0.8)], cab_paint)
    pen.polygon([(joint, 0.68), (nose, 0.68), (nose, 0.8), (joint, 0.8)], tone(cab_paint, 0.7))
    glass = [(joint + 0.05 * a, 0.47), (joint + 0.05 * a, cab_top + 0.05), (nose - 0.115 * a, cab_top + 0.05)]
    pen.polygon([*glass, (nose - 0.045 * a, 0.47)], GLASS)
    gleam = joint + 0.08 * a
    streak = [(gleam, cab_top + 0.05), (gleam + 0.04 * a, cab_top + 0.05), (gleam + 0.02 * a, 0.47)]
    pen.polygon([*streak, (gleam - 0.02 * a, 0.47)], tone(GLASS, 1.35))
    pen.line([(joint + 0.035 * a, cab_top + 0.04), (joint + 0.035 * a, 0.7)], tone(cab_paint, 0.6), 0.012)
    pen.line([(joint + 0.06 * a, 0.56), (joint + 0.1 * a, 0.56)], tone(cab_paint, 0.5), 0.022)
    pen.box(nose - 0.05 * a, 0.6, nose, 0.68, (255, 244, 206), 0.02)
    pen.box(nose - 0.08 * a, 0.79, nose + 0.003, 0.845, tone(RUBBER, 1.3), 0.02)
    axles = [0.14 * a, 0.84 * a] if rng.random() < 0.5 else [0.13 * a, 0.3 * a, 0.84 * a]
    for x in axles:
        pen.disc(x, 0.845, 0.165, tone(RUBBER, 0.7))
    for x in axles:
        _wheel(pen, x, 0.86, 0.138, 6)


def _person(pen: Pen, aspect: float, rng: np.random.Generator) -> None:
    shirt, trousers, shoes = any_colour(rng), tone(any_colour(rng), 0.75), tone(any_colour(rng), 0.5)
    skin = tone((236, 188, 150), rng.uniform(0.42, 1.12))
    hair = tone(((60, 42, 30), (28, 24, 26), (150, 104, 52), (196, 190, 184))[rng.integers(4)], 1.0)
    middle = aspect / 2
    reach = aspect / 2 - 0.045  # how far feet and hands go from the middle
    swing = reach * rng.uniform(0.75, 1.0)
    neck, shoulder, hip, knee = 0.155, 0.205, 0.51, 0.74
    wide = min(0.1, 0.55 * reach)
    far_hand, near_hand = (middle + swing, 0.47), (middle - swing, 0.49)
    far_foot, near_foot = (middle - 0.82 * swing, 0.945), (middle + 0.8 * swing, 0.955)

    def limb(start, bend, end, colour, width):
        pen.line([start, bend, end], colour, width)

    limb((middle + wide, shoulder + 0.02), (middle + 0.85 * swing, 0.37), far_hand, tone(shirt, 0.68), 0.062)
    pen.disc(*far_hand, 0.033, tone(skin, 0.8))
    knee_far = (middle - 0.25 * swing, knee)
    limb((middle - 0.02, hip), knee_far, far_foot, tone(trousers, 0.72), 0.088)
    pen.line([far_foot, (far_foot[0] + 0.055, 0.962)], tone(shoes, 0.8), 0.05)
    knee_near = (middle + 0.45 * swing, knee - 0.01)
    limb((middle + 0.02, hip), knee_near, near_foot, trousers, 0.094)
    pen.line([near_foot, (near_foot[0] + 0.05, 0.968)], shoes, 0.055)
    if rng.random() < 0.35:  # a rucksack, on the back
        pen.box(middle - wide - 0.075, 0.21, middle, 0.42, tone(any_colour(rng), 0.8), 0.05)
    torso = [(middle - wide - 0.03, 0.17), (middle + wide + 0.03, 0.17), (middle + wide, 0.38)]
    torso += [(middle + 0.8 * wide, 0.57), (middle - 0.8 * wide, 0.57), (middle - wide, 0.38)]
    pen.line([(middle, neck - 0.03), (middle, shoulder)], tone(skin, 0.85), 0.06)
    pen.blob(torso, shirt)
    style = rng.integers(3)
    if style == 0:
        for y in (0.25, 0.32, 0.39, 0.46):
            pen.line([(middle - 0.8 * wide, y), (middle + 0.8 * wide, y)], tone(any_colour(rng), 1.0), 0.022)
    elif style == 1:
        pen.line([(middle + 0.02, 0.2), (middle + 0.02, 0.53)], tone(shirt, 0.6), 0.016)
        pen.line([(middle - 0.015, 0.2), (middle + 0.02, 0.26), (middle + 0.05, 0.2)], tone(shirt, 1.6), 0.02)
    pen.line([(middle - 0.75 * wide, 0.525), (middle + 0.75 * wide, 0.525)], tone(trousers, 0.5), 0.03)
    limb((middle - wide, shoulder + 0.025), (middle - 0.8 * swing, 0.37), near_hand, tone(shirt, 0.86), 0.066)
    pen.disc(*near_hand, 0.035, skin)
    # The head, looking right: hair, then the face in front of it.
    head = 0.083
    long_hair = rng.random() < 0.4
    pen.disc(middle - 0.012, head - 0.002, head - 0.002, hair, 0.86)
    if long_hair:
        pen.blob([(middle - 0.1, 0.02), (middle, 0.02), (middle - 0.02, 0.21), (middle - 0.12, 0.24)], hair)
    pen.disc(middle + 0.018, head + 0.02, head - 0.024, skin, 0.84)
    if rng.random() < 0.25:  # a cap
        cap = any_colour(rng)
        pen.blob(
            [(middle - 0.1, 0.085), (middle - 0.085, -0.02), (middle + 0.06, -0.02), (middle + 0.08, 0.085)],
            cap,
        )
        pen.line([(middle, 0.066), (middle + 0.105, 0.068)], tone(cap, 0.75), 0.024)


def _bicycle(pen: Pen, aspect: float, rng: np.random.Generator) -> None:
    paint = any_colour(rng)
    tyre = tone(RUBBER, 1.0) if rng.random() < 0.7 else tone(any_colour(rng), 0.6)
    radius = min(0.31, aspect * 0.2)
    y = 1 - radius
    back, front = radius, aspect - radius
    for x in (back, front):
        for spoke in range(10):
            angle = math.pi * spoke / 5 + 0.2
            tip = (x + (radius - 0.03) * math.cos(angle), y + (radius - 0.03) * math.sin(angle))
            pen.line([(x, y), tip], tone(STEEL, 0.8), 0.009)
        pen.ring(x, y, radius, tyre, 0.062)
        pen.ring(x, y, radius - 0.06, STEEL, 0.018)
        pen.disc(x, y, 0.038, tone(STEEL, 0.7))
    span = front - back
    crank = (back + 0.44 * span, y + 0.03)
    seat, steer = (back + 0.28 * span, 0.27), (back + 0.8 * span, 0.2)
    joint = (steer[0] + 0.025, 0.32)
    stays = 0.042
    pen.line([(back, y), (seat[0] + 0.02, 0.36)], tone(paint, 0.8), stays)
    pen.line([(back, y), crank], tone(paint, 0.8), stays)
    pen.line([seat, crank], paint, 0.055)
    pen.line([crank, joint], paint, 0.06)
    low = 0.36 if rng.random() < 0.65 else 0.52  # a diamond frame, or a step-through one
    pen.line([(seat[0] + (low - 0.27) * 0.25, low), joint], paint, 0.055)
    pen.line([steer, joint, (front, y)], tone(paint, 0.9), 0.055)
    pen.line([(seat[0], 0.2), seat], STEEL, 0.035)
    pen.blob(
        [(seat[0] - 0.15, 0.1), (seat[0] + 0.06, 0.13), (seat[0] + 0.15, 0.15), (seat[0] - 0.1, 0.235)],
        RUBBER,
    )
    if rng.random() < 0.5:  # dropped bars, or raised ones
        bar = [
            (steer[0] - 0.03, 0.16),
            (steer[0] + 0.11, 0.15),
            (steer[0] + 0.14, 0.24),
            (steer[0] + 0.05, 0.29),
        ]
    else:
        bar = [(steer[0] - 0.12, 0.05), (steer[0] - 0.01, 0.04), steer]
    pen.line([steer, bar[0] if len(bar) == 4 else bar[1]], STEEL, 0.04)
    pen.line(bar, tone(RUBBER, 1.15), 0.048)
    angle = rng.uniform(0, math.pi)
    arm = (0.13 * math.cos(angle), 0.13 * math.sin(angle))
    tips = [(crank[0] - arm[0], crank[1] - arm[1]), (crank[0] + arm[0], crank[1] + arm[1])]
    pen.line(tips, tone(STEEL, 0.75), 0.03)
    for tip in tips:
        pen.line([(tip[0] - 0.04, tip[1]), (tip[0] + 0.04, tip[1])], RUBBER, 0.034)
    pen.ring(*crank, 0.075, tone(STEEL, 0.6), 0.035)


def _crate(pen: Pen, aspect: float, rng: np.random.Generator) -> None:
    wood = tone((176, 128, 78), rng.uniform(0.7, 1.25)) if rng.random() < 0.4 else any_colour(rng)
    a, lid, side = aspect, rng.uniform(0.14, 0.22), rng.uniform(0.1, 0.18)
    gap = tone(wood, 0.38)
    x1 = a - side
    # Two planes seen from the front corner: the lid above, the shaded side on the right.
    pen.polygon([(0, lid), (side, 0), (a, 0), (x1, lid)], tone(wood, 1.28))
    pen.polygon([(x1, lid), (a, 0), (a, 1 - lid), (x1, 1)], tone(wood, 0.58))
    for part in (1 / 3, 2 / 3):
        pen.line(
            [(part * side, lid * (1 - part)), (x1 + part * side, lid * (1 - part))], tone(wood, 0.8), 0.016
        )
        height = lid + part * (1 - lid)
        pen.line([(x1, height), (a, height - lid)], tone(wood, 0.36), 0.016)
    pen.polygon([(0, lid), (x1, lid), (x1, 1), (0, 1)], gap)
    planks = int(rng.integers(4, 6))
    upright = rng.random() < 0.5
    for plank in range(planks):
        shade = tone(wood, rng.uniform(0.78, 1.0))
        if upright:
            pen.box(plank * x1 / planks + 0.008, lid, (plank + 1) * x1 / planks - 0.008, 1, shade)
        else:
            deep = 1 - lid
            pen.box(
                0, lid + plank * deep / planks + 0.008, x1, lid + (plank + 1) * deep / planks - 0.008, shade
            )
    rail = 0.115
    corners = [(rail * 0.6, lid + rail * 0.6), (x1 - rail * 0.6, 1 - rail * 0.6)]
    braces = [corners, [(corners[1][0], corners[0][1]), (corners[0][0], corners[1][1])]]
    for brace in braces[: int(rng.integers(1, 3))]:
        pen.line(brace, gap, rail + 0.03)
        pen.line(brace, tone(wood, 1.02), rail)
    for x in (0.0, x1 - rail):
        pen.box(x, lid, x + rail, 1, tone(wood, 1.12))
        pen.line([(rail if x == 0 else x, lid + rail), (rail if x == 0 else x, 1 - rail)], gap, 0.014)
    for y in (lid, 1 - rail):
        pen.box(0, y, x1, y + rail, tone(wood, 1.18))
        pen.line([(0, y + rail if y == lid else y), (x1, y + rail if y == lid else y)], gap, 0.014)
    for x in (rail / 2, x1 - rail / 2):
        for y in (lid + rail / 2, 1 - rail / 2):
            pen.disc(x, y, 0.02, tone(STEEL, 0.45))


def _icosahedron() -> np.ndarray:
    golden = (1 + 5**0.5) / 2
    pairs = [(s, t * golden) for s in (-1, 1) for t in (-1, 1)]
    points = [(0, s, t) for s, t in pairs] + [(s, t, 0) for s, t in pairs] + [(t, 0, s) for s, t in pairs]
    return np.asarray(points, np.float32) / math.hypot(1, golden)


_SEAMS = _icosahedron()


def _ball(pen: Pen, aspect: float, rng: np.random.Generator) -> None:
    """A sphere of panels, turned freely: a pixel has the colour of the point of the sphere behind it."""
    first, second, third = any_colour(rng), any_colour(rng), any_colour(rng)
    height, width = pen.scale, max(2, round(aspect * pen.scale))
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    x, y = x.astype(np.float32), y.astype(np.float32)
    squared = x * x + y * y
    z = np.sqrt(np.clip(1 - squared, 0, 1))
    one, two = rng.uniform(0, 2 * math.pi), rng.uniform(-1.1, 1.1)
    px, pz = math.cos(one) * x + math.sin(one) * z, math.cos(one) * z - math.sin(one) * x
    py, pz = math.cos(two) * y + math.sin(two) * pz, math.cos(two) * pz - math.sin(two) * y
    style = rng.integers(3)
    if style == 0:  # a beach ball: six gores and two caps
        gore = np.floor((np.arctan2(px, pz) / (2 * math.pi) + 0.5) * 6).astype(np.int64) % 6
        white = (246, 244, 238)
        colours = np.asarray([first, white, second, white, third, white], np.uint8)[gore]
        colours[np.abs(py) > 0.94] = white
    elif style == 1:  # a football: twelve dark patches
        near = np.full(np.broadcast_shapes(px.shape, py.shape), -1, np.float32)
        for seam in _SEAMS.tolist():
            near = np.maximum(near, px * seam[0] + py * seam[1] + pz * seam[2])
        light, dark = tone(first, 1.75), tone(second, 0.3)
        colours = np.where((near > 0.915)[..., None], np.array(dark, np.uint8), np.array(light, np.uint8))
        colours[(near < 0.815)] = tone(light, 0.7)
    else:  # a basketball: four seams
        seam = np.minimum(np.minimum(np.abs(px), np.abs(py)), np.abs(np.abs(pz) - 0.62 - 0.25 * np.abs(px)))
        dark = np.array(tone(first, 0.25), np.uint8)
        colours = np.where((seam < 0.055)[..., None], dark, np.array(first, np.uint8))
    alpha = np.where(squared <= 1, 255, 0).astype(np.uint8)
    pen.sheet.paste(Image.fromarray(np.dstack([colours.astype(np.uint8), alpha])), (1, 1))


class _Kind(NamedTuple):
    """A class: its width over height, its height against a person's, its texture, and how it is drawn."""

    aspect: tuple[float, float]
    height: float
    grain: tuple[float, float, float]
    draw: Callable[[Pen, float, np.random.Generator], None]


KINDS: dict[str, _Kind] = {
    "car": _Kind((1.85, 2.25), 0.50, (0.03, 3, 3), _car),
    "truck": _Kind((1.35, 1.75), 0.74, (0.06, 4, 4), _truck),
    "person": _Kind((0.38, 0.50), 1.00, (0.08, 2, 2), _person),
    "bicycle": _Kind((1.50, 1.75), 0.56, (0.00, 1, 1), _bicycle),
    "ball": _Kind((0.98, 1.02), 0.42, (0.03, 3, 3), _ball),
    "crate": _Kind((1.00, 1.40), 0.46, (0.20, 12, 1.5), _crate),
}


_COVERED = [255 * (alpha >= 128) for alpha in range(256)]  # more than half


def draw_sprite(label: str, width: int, height: int, rng: np.random.Generator) -> Sprite:
    """A sprite of the class, facing either way, width x height pixels, a few less where an edge is faint."""
    kind = KINDS[label]
    pen = Pen(width / height, height)
    kind.draw(pen, width / height, rng)
    sheet = pen.sheet.crop(pen.sheet.getchannel("A").getbbox())
    picture = sheet.resize((width, height), Image.Resampling.BOX)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    covered = picture.getchannel("A").point(_COVERED)
    tight = covered.getbbox()
    return Sprite(picture.crop(tight), np.asarray(covered.crop(tight)) > 0, kind.grain)


def shade(sprite: Sprite, light: Light, distance: float, rng: np.random.Generator) -> Image.Image:
    """The sprite's RGB, lit from one side and from above, with its grain; `distance` in [0, 1] mixes in haze.

    The relief is the blurred outline seen as a height: edges towards the light are brighter than those
    away from it, so even flat shapes look round.
    """
    height, width = sprite.mask.shape
    reach = max(2, round(0.09 * min(height, width)))
    padded = Image.new("L", (width + 4 * reach, height + 4 * reach))
    padded.paste(sprite.picture.getchannel("A"), (2 * reach, 2 * reach))
    outline = np.asarray(padded.filter(ImageFilter.BoxBlur(reach)), np.float32) / 255

    def shifted(right: int, down: int) -> np.ndarray:
        top, left = 2 * reach + down, 2 * reach + right
        return outline[top : top + height, left : left + width]

    relief = shifted(-light.side * reach, reach) - shifted(light.side * reach, -reach)
    brightness = 0.74 + 0.3 * shifted(0, 0) + 0.24 * relief
    brightness *= np.linspace(1.08, 0.88, height, dtype=np.float32)[:, None]
    strength, cell_width, cell_height = sprite.grain
    if strength:
        brightness *= 1 + strength * noise(rng, height, width, cell_width, cell_height)
    drawn, haze = np.asarray(sprite.picture), np.float32(0.3 * distance)
    shaded = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        colour = drawn[..., channel] * brightness
        colour += (np.float32(light.haze[channel]) - colour) * haze
        shaded[..., channel] = colour.clip(0, 255, out=colour)
    return Image.fromarray(shaded)


def noise(
    rng: np.random.Generator, height: int, width: int, cell_width: float, cell_height: float
) -> np.ndarray:
    """[height, width] float32 in about -1..1, smooth over cells of the given size in pixels."""
    grid = rng.random((math.ceil(height / cell_height) + 1, math.ceil(width / cell_width) + 1), np.float32)
    smooth = Image.fromarray(2 * grid - 1).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth)
