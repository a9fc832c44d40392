"""What the sprites stand on: a ground plane in perspective, and sky, hills, a skyline or a wall behind it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .sprites import Colour, Light, any_colour, noise, tone


class Backdrop(NamedTuple):
    """picture: RGB. horizon: the row in pixels where the ground ends, negative when above the picture."""

    picture: Image.Image
    horizon: float
    light: Light


def paint_backdrop(rng: np.random.Generator, height: int, width: int) -> Backdrop:
    horizon = float(rng.choice([rng.uniform(0.12, 0.32), rng.uniform(-0.3, -0.05)], p=[0.65, 0.35])) * height
    haze = tone(_muted(rng), rng.uniform(1.55, 1.8))
    light = Light(-1 if rng.random() < 0.5 else 1, haze)
    rows = max(0, math.ceil(horizon))
    pixels = np.empty((height, width, 3), np.float32)
    if rows:
        pixels[:rows] = _behind(rng, rows, width, haze)
    pixels[rows:] = _ground(rng, horizon, rows, height, width, haze)
    pixels *= rng.uniform(0.9, 1.08)
    grain = rng.integers(-5, 6, (height, width, 1), np.int8)[..., 0]
    for channel in range(3):
        pixels[..., channel] += grain
    return Backdrop(Image.fromarray(pixels.clip(0, 255, out=pixels).astype(np.uint8)), horizon, light)


def _muted(rng: np.random.Generator) -> Colour:
    """Any hue, half grey: sprites stay the brightest things of the picture."""
    red, green, blue = any_colour(rng)
    grey = (red + green + blue) / 3
    return round((red + grey) / 2), round((green + grey) / 2), round((blue + grey) / 2)


def _mixed(
    first: Colour | np.ndarray, second: Colour | np.ndarray, share: np.ndarray | np.floating
) -> np.ndarray:
    """[..., 3] from `first` where share is 0 to `second` where it is 1."""
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    difference = second - first
    mixed = np.empty(np.broadcast_shapes(share.shape, difference.shape[:-1]) + (3,), np.float32)
    for channel in range(3):  # one by one: loops over the last axis of three would take three times as long
        np.multiply(difference[..., channel], share, out=mixed[..., channel])
        mixed[..., channel] += first[..., channel]
    return mixed


def _behind(rng: np.random.Generator, rows: int, width: int, haze: Colour) -> np.ndarray:
    if rng.random() < 0.3:
        return _wall(rng, rows, width)
    ramp = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    top = tone(((70, 130, 205), (110, 150, 190), (70, 84, 130), (190, 150, 150))[rng.integers(4)], 1.15)
    sky = _mixed(top, haze, ramp * np.ones((1, width), np.float32))
    cell = max(rows / 2, 6)
    clouds = np.clip(noise(rng, rows, width, 2.5 * cell, cell) + rng.uniform(-0.5, 0.1), 0, 1)
    sky = _mixed(sky, (250, 250, 250), clouds * (1 - 0.6 * ramp))
    return _hills(rng, sky, haze) if rng.random() < 0.5 else _skyline(rng, sky, haze)


def _wall(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    paint = np.asarray(tone(_muted(rng), rng.uniform(0.6, 1.4)), np.float32)
    y, x = np.mgrid[:rows, :width].astype(np.float32)
    cell = rng.uniform(0.05, 0.11) * width
    if rng.random() < 0.5:  # broad stripes
        pattern = np.where(x // cell % 2 == 0, 1.0, 0.82)
    else:  # bricks
        course = cell * 0.5
        row = y // course
        brick = (x + (row % 2) * cell / 2) / cell
        mortar = (y % course < max(1, course * 0.12)) | (brick % 1 < 0.07)
        pattern = np.where(mortar, 1.2, 0.82 + 0.14 * ((np.floor(brick) * 7 + row * 13) % 5) / 4)
    pattern[-max(2, rows // 14) :] = 0.5  # the skirting board
    return paint * (pattern * np.linspace(1.0, 0.84, rows, dtype=np.float32)[:, None])[..., None]


def _hills(rng: np.random.Generator, sky: np.ndarray, haze: Colour) -> np.ndarray:
    rows, width, _ = sky.shape
    earth = ((72, 112, 74), (96, 104, 84), (120, 98, 76), (70, 92, 112))[rng.integers(4)]
    x = np.arange(width, dtype=np.float32) / width * 2 * math.pi
    y = np.arange(rows, dtype=np.float32)[:, None]
    for nearness in (0.35, 0.7):
        phases = rng.uniform(0, 2 * math.pi, 3)
        ridge = sum(
            np.sin(x * wave + phase) / wave for wave, phase in zip((1.3, 3.1, 7.7), phases, strict=True)
        )
        top = rows * (1 - (0.6 - 0.4 * nearness) - 0.14 * ridge)
        cover = np.clip(y - top + 0.5, 0, 1)
        sky = _mixed(sky, _mixed(haze, earth, np.float32(nearness)), cover)
    return sky


def _skyline(rng: np.random.Generator, sky: np.ndarray, haze: Colour) -> np.ndarray:
    rows, width, _ = sky.shape
    picture = Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    pane = max(2, width // 110)
    x = -rng.uniform(0, 0.05) * width
    while x < width:
        wide, top = rng.uniform(0.06, 0.16) * width, rows * rng.uniform(0.15, 0.75)
        face = _mixed(_muted(rng), haze, np.float32(0.5)).astype(int)
        draw.rectangle([x, top, x + wide, rows], fill=tuple(face.tolist()))
        glass = tone(tuple(face.tolist()), rng.choice([0.72, 1.35]))
        for row in np.arange(top + 2 * pane, rows - pane, 3 * pane):
            for column in np.arange(x + 1.5 * pane, x + wide - 2 * pane, 2.5 * pane):
                draw.rectangle([column, row, column + pane - 1, row + 1.4 * pane - 1], fill=glass)
        x += wide * rng.uniform(0.9, 1.2)
    return np.asarray(picture, np.float32)


def _ground(
    rng: np.random.Generator, horizon: float, top: int, height: int, width: int, haze: Colour
) -> np.ndarray:
    """The ground in rows top..height. `u`, `v`: across and along it, in units of about a person's height.

    Patterns fade towards the horizon, where they would be finer than the pixels.
    """
    near = (np.arange(top, height, dtype=np.float32)[:, None] + 0.5 - horizon) / (height - horizon)
    depth = 1 / (near + 0.12)
    centre = rng.uniform(0.25, 0.75) * width
    u = (np.arange(width, dtype=np.float32) - centre) * (4.5 / width) * depth
    v = depth * rng.uniform(3.5, 5.0) + rng.uniform(0, 5)
    clear = np.clip((near - 0.03) / 0.3, 0, 1)
    style = (_road, _tiles, _meadow, _planks, _sand)[rng.choice(5, p=[0.28, 0.2, 0.22, 0.15, 0.15])]
    ground = style(rng, u, v, clear)
    rows = height - top
    mottled = 1 + 0.07 * noise(rng, rows, width, width / 6, max(rows / 9, 2))
    mottled += 0.09 * noise(rng, rows, width, 3, 2) * clear
    for channel in range(3):
        ground[..., channel] *= mottled
    return _mixed(ground, haze, 0.45 * (1 - np.clip(near / 0.5, 0, 1)))


def _road(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, clear: np.ndarray) -> np.ndarray:
    asphalt = tone((104, 106, 112), rng.uniform(0.7, 1.2))
    kerb, verge = (
        (176, 174, 168),
        tone(((104, 134, 84), (158, 152, 142))[rng.integers(2)], rng.uniform(0.8, 1.1)),
    )
    lane, lanes = rng.uniform(1.1, 1.6), int(rng.integers(2, 5))
    edge = lane * lanes / 2
    across = np.abs(u)
    painted = (
        (np.abs((u + edge) % lane - lane / 2) > lane / 2 - 0.045) & (v % 1.6 < 0.9) & (across < edge - 0.3)
    )
    painted |= np.abs(across - edge + 0.12) < 0.04
    zone = (across > edge).astype(np.intp) + (across > edge + 0.2)
    ground = np.asarray([asphalt, kerb, verge], np.float32)[zone]
    return _mixed(ground, (232, 228, 210), painted * (0.9 * clear))


def _tiles(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, clear: np.ndarray) -> np.ndarray:
    light = np.asarray(tone(_muted(rng), rng.uniform(1.1, 1.5)), np.float32)
    dark = np.float32(rng.uniform(0.68, 0.9))
    size = rng.uniform(0.5, 0.95)
    across, along = u / size, v / size
    odd = (np.floor(across) + np.floor(along)) % 2 == 1
    grout = (across % 1 < 0.05) | (along % 1 < 0.06)
    shade = np.where(grout, 0.75 * dark, np.where(odd, dark, np.float32(1)))
    return light * (1 + (shade - 1) * clear)[..., None]


def _meadow(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, clear: np.ndarray) -> np.ndarray:
    grass = tone(((96, 140, 64), (132, 150, 76), (78, 122, 88))[rng.integers(3)], rng.uniform(0.85, 1.15))
    mown = (v if rng.random() < 0.5 else u) * rng.uniform(0.7, 1.1) % 2 < 1
    height, width = u.shape
    blades = 0.14 * noise(rng, height, width, 1.6, 3) + np.where(mown, np.float32(0.12), np.float32(0))
    return np.asarray(grass, np.float32) * (1 + blades * clear)[..., None]


def _planks(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, clear: np.ndarray) -> np.ndarray:
    wood = tone(((170, 122, 76), (140, 104, 76), (188, 160, 126))[rng.integers(3)], rng.uniform(0.8, 1.15))
    across = u / rng.uniform(0.3, 0.5)
    board = np.floor(across)
    along = v / 2.2 + (board * 0.37) % 1
    shade = 0.86 + 0.22 * ((board * 5 + np.floor(along) * 3) % 7) / 6
    joint = (across % 1 < 0.05) | (along % 1 < 0.02)
    shade = np.where(joint, np.float32(0.6), shade)
    return np.asarray(wood, np.float32) * (1 + (shade - 1) * clear)[..., None]


def _sand(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, clear: np.ndarray) -> np.ndarray:
    sand = tone(((222, 198, 150), (196, 170, 132), (206, 206, 208))[rng.integers(3)], rng.uniform(0.85, 1.1))
    ripple = np.sin(6.5 * v + 1.4 * np.sin(1.3 * u + rng.uniform(0, 6)) + 0.5 * np.sin(3.1 * u))
    return np.asarray(sand, np.float32) * (1 + 0.06 * ripple * clear)[..., None]
