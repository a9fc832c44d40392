"""Where the objects of a scene stand: a plan of overlaps, positions that keep it, and the painting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from ...errors import ConfigError
from ..overlap import occlusion, overlaps
from .backdrops import Backdrop, paint_backdrop
from .sprites import KINDS, Light, Sprite, draw_sprite, shade
from .suites import LABELS, Suite, find_suite

# Of a box's largest IoU with another one, as in the evaluation. Beyond the last, boxes are hardly told apart.
OCCLUSION_BINS: tuple[tuple[float, float], ...] = ((0.0, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9))

MINIMUM_VISIBILITY = 0.1
SMALLEST_SIDE = 64  # pixels of an image
PIXELS_PER_OBJECT = 1200  # more crowded than one object per so many pixels cannot be drawn legibly

_FARTHEST = 0.62  # size at the far end of the ground over size at the near end
_POSITIONS = 160  # tried at once for each sprite
_TRIES = 6  # legal places tested for visibility
_SPRITES = 4  # drawn for each object before it is given up
_FAILURES = 10  # groups without a place before the scene is full
_ALIKE = (("car", "truck", "bicycle"), ("ball", "crate"), ("person",))  # their boxes can nearly coincide


class Scene(NamedTuple):
    """A picture and everything that is in it.

    image: [H, W, 3] uint8 RGB.
    boxes: [N, 4] float32 xyxy pixels, whole objects as if nothing hid them, cut at the image's edges.
    labels: [N] int64, indices of the suite's labels.
    visibility: [N] float32 in [0.1, 1], visible pixels over all of an object's, those beyond the edges too.
    depth: [N] int64, a permutation, 0 = nearest. Nearer objects hide farther ones.
    instances: [H, W] int16, the object seen at each pixel, -1 = backdrop.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    visibility: np.ndarray
    depth: np.ndarray
    instances: np.ndarray


def default_objects(size: tuple[int, int], suite: str = "crowd") -> tuple[int, int]:
    """(fewest, most) objects for an image of (height, width): 10 to 80 at 640 x 640, by area for others."""
    share, fewest = size[0] * size[1] / 640**2, max(4, find_suite(suite).fewest)
    return max(fewest, round(10 * share)), max(8, round(80 * share))


def check_request(seed: int, size: tuple[int, int], objects: tuple[int, int]) -> None:
    """Raises ConfigError when no scene can be made of these settings."""
    if seed < 0:
        raise ConfigError(f"seed expects a whole number of at least 0, got {seed}.")
    if len(size) != 2 or min(size) < SMALLEST_SIDE:
        raise ConfigError(f"size expects (height, width) of at least {SMALLEST_SIDE} pixels, got {size}.")
    room = max(8, size[0] * size[1] // PIXELS_PER_OBJECT)
    if len(objects) != 2 or not 1 <= objects[0] <= objects[1] <= room:
        raise ConfigError(
            f"objects expects (fewest, most) with 1 <= fewest <= most <= {room} at {size[0]}x{size[1]},"
            f" got {objects}. Larger images hold more."
        )


def generate_scene(
    seed: int,
    index: int,
    size: tuple[int, int] = (640, 640),
    objects: tuple[int, int] | None = None,
    suite: str = "crowd",
) -> Scene:
    """Scene number `index` of the series `seed` of a suite: always the same, whatever else is generated.

    size: (height, width) in pixels. objects: fewest and most, the number is drawn evenly between them; None
    means `default_objects(size, suite)`. A picture that has no legal place left gets fewer. suite: of SUITES.
    Over a few dozen scenes of "crowd" each of `OCCLUSION_BINS` holds at least 15 % of the boxes. Raises ConfigError.
    """
    kind, objects = find_suite(suite), objects or default_objects(size, suite)
    check_request(seed, size, objects)
    if index < 0:
        raise ConfigError(f"index expects a whole number of at least 0, got {index}.")
    rng = np.random.default_rng(np.random.SeedSequence((seed, index)))
    height, width = size
    backdrop = paint_backdrop(rng, height, width)
    count = int(rng.integers(objects[0], objects[1] + 1))
    crowd = _Crowd(rng, height, width, backdrop.horizon, count, kind)
    crowd.fill()
    return _paint(rng, backdrop, crowd)


@dataclass
class _Object:
    """One placed sprite.

    left, top: of the sprite, may lie outside the image. plan: the occlusion bin it is to be in.
    visible: [h, w] bool, its mask without what nearer objects hide and what lies outside the image.
    """

    label: str
    sprite: Sprite
    left: int
    top: int
    plan: int
    visible: np.ndarray

    @property
    def ground(self) -> int:
        """The row it stands on, which decides who is nearer; of two on the same row the later placed."""
        return self.top + self.sprite.mask.shape[0]

    def common(self, other: _Object) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
        """The rectangle two sprites share, as slices of this one's mask and of the other's, or None."""
        top, bottom = max(self.top, other.top), min(self.ground, other.ground)
        left = max(self.left, other.left)
        right = min(self.left + self.sprite.mask.shape[1], other.left + other.sprite.mask.shape[1])
        if top >= bottom or left >= right:
            return None
        mine, others = (
            (slice(top - one.top, bottom - one.top), slice(left - one.left, right - one.left))
            for one in (self, other)
        )
        return mine, others


class _Crowd:
    """The objects of one scene, placed one by one so that each stays in its planned occlusion bin.

    They come in groups: one alone for the first bin, else two or three whose boxes overlap by an IoU of that
    bin. A place is legal when it lifts nobody's largest IoU out of its bin and hides nobody.
    """

    def __init__(
        self, rng: np.random.Generator, height: int, width: int, horizon: float, count: int, suite: Suite
    ):
        self.rng, self.height, self.width, self.count, self.suite = rng, height, width, count, suite
        # The height of a person in the foreground, in pixels: less where many must fit.
        fitting = (3.6 * height * width / count) ** 0.5
        tallest = suite.person or min(0.34 * (height * width) ** 0.5, 0.6 * height, fitting)
        self.person = tallest * rng.uniform(0.88, 1.08)
        self.favourite = LABELS[rng.integers(len(LABELS))] if suite.favourite else None
        self.first_row = max(horizon + 0.12 * (height - horizon), 0.35 * self.person)
        self.objects: list[_Object] = []
        self.boxes = np.empty((0, 4))
        self.limits = np.empty(0)  # the upper end of each object's bin

    def nearness(self, row: float) -> float:
        """0 at the far end of the ground, 1 at the near end."""
        return float(np.clip((row - self.first_row) / (self.height - self.first_row), 0, 1))

    def fill(self) -> None:
        """Places groups, the bin that lacks most objects first, until `count` stand or no place is found."""
        failures = 0
        while len(self.objects) < self.count and failures < _FAILURES:
            free = self.count - len(self.objects)
            bins = self.suite.planned
            have = np.bincount([one.plan for one in self.objects], minlength=bins)[:bins]
            # Equal shares of the boxes are wanted: next comes the bin that lacks most, ties drawn by lot.
            lack = self.count / bins - have + self.rng.uniform(0, 1, bins)
            plan = int(lack.argmax()) if free > 1 else 0
            leader = self._place(plan, None)
            if leader is None:
                failures += 1
                continue
            trio = free > 2 and lack[plan] > 3 and self.rng.random() < 0.35
            for _ in range(0 if plan == 0 else 2 if trio else 1):
                if self._place(plan, leader) is None:
                    failures += 1
                    break
            self._settle(leader)

    def _settle(self, index: int) -> None:
        """Puts a leader whose followers found no place into the bin it is in now."""
        overlap = occlusion(self.boxes)[index]
        plan = next(number for number, (_, high) in enumerate(OCCLUSION_BINS) if overlap < high)
        self.objects[index].plan, self.limits[index] = plan, OCCLUSION_BINS[plan][1]

    def _place(self, plan: int, leader: int | None) -> int | None:
        """Draws an object and places it, beside the leader if there is one. Its index, or None: no place."""
        for _ in range(_SPRITES):
            label, width, height, row = self._choose(plan, leader)
            sprite = draw_sprite(label, width, height, self.rng)
            lefts, tops = self._candidates(sprite, row, leader)
            height, width = sprite.mask.shape
            boxes = np.stack([lefts, tops, lefts + width, tops + height], 1)
            overlap = overlaps(np.clip(boxes, 0, [self.width, self.height] * 2), self.boxes)
            for choice in np.flatnonzero(self._keeps_plan(overlap, plan, leader))[:_TRIES].tolist():
                left, top = int(lefts[choice]), int(tops[choice])
                if self._stand(_Object(label, sprite, left, top, plan, sprite.mask), leader):
                    return len(self.objects) - 1
        return None

    def _choose(self, plan: int, leader: int | None) -> tuple[str, int, int, float]:
        """What to try next: the class, its width and height in pixels, and the row to stand on."""
        rng = self.rng
        if leader is None:
            label, row = self._kind(LABELS), rng.uniform(self.first_row, 1.02 * self.height)
        else:
            chief = self.objects[leader]
            chief_height = len(chief.sprite.mask)
            row = max(chief.ground + rng.normal(0, 0.1) * chief_height, self.first_row)
            # Boxes can coincide only where shapes are alike.
            alike = next(group for group in _ALIKE if chief.label in group) if plan > 2 else LABELS
            label = chief.label if plan > 2 and rng.random() < 0.4 else self._kind(alike)
        kind = KINDS[label]
        aspect = rng.uniform(*kind.aspect)
        perspective = _FARTHEST + (1 - _FARTHEST) * self.nearness(row)
        size = kind.height * self.person * perspective * rng.uniform(0.88, 1.12)
        if leader is not None and plan > 2:
            size = (self.objects[leader].sprite.mask.size / aspect) ** 0.5 * rng.uniform(0.9, 1.12)
        return label, max(6, round(aspect * size)), max(6, round(size)), row

    def _kind(self, among: tuple[str, ...]) -> str:
        if self.favourite in among and self.rng.random() < self.suite.favourite:
            return self.favourite
        return among[self.rng.integers(len(among))]

    def _candidates(self, sprite: Sprite, row: float, leader: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Left columns and top rows to try, about `row`; one object in eight may reach beyond the edges."""
        rng, (height, width) = self.rng, sprite.mask.shape
        beyond = 0.35 if rng.random() < 0.125 else 0.0
        if leader is None:
            lefts = rng.uniform(-beyond * width, self.width - (1 - beyond) * width, _POSITIONS)
            rows = row + rng.uniform(-0.5, 0.5, _POSITIONS) * height
        else:
            chief = self.objects[leader]
            chief_height, chief_width = chief.sprite.mask.shape
            middle = chief.left + chief_width / 2
            lefts = middle - width / 2 + rng.uniform(-0.5, 0.5, _POSITIONS) * (width + chief_width)
            rows = row + rng.uniform(-0.25, 0.25, _POSITIONS) * chief_height
        rows = np.clip(rows, self.first_row, self.height + beyond * height)
        lefts = np.clip(lefts, -beyond * width, self.width - (1 - beyond) * width)
        return np.rint(lefts).astype(int), np.rint(rows).astype(int) - height

    def _keeps_plan(self, overlap: np.ndarray, plan: int, leader: int | None) -> np.ndarray:
        """[P] bool: for the overlap [P, N] of places with the objects, whether everybody stays in its bin."""
        low, high = OCCLUSION_BINS[plan]
        legal = np.all(overlap < np.minimum(self.limits, high), 1)
        return legal if leader is None else legal & (overlap[:, leader] >= low)

    def _stand(self, new: _Object, leader: int | None) -> bool:
        """Adds the object unless its exact box breaks the plan or somebody would be hidden."""
        mask = new.sprite.mask
        inside = np.zeros_like(mask)
        rows = slice(max(0, -new.top), self.height - new.top)
        columns = slice(max(0, -new.left), self.width - new.left)
        inside[rows, columns] = mask[rows, columns]
        columns, rows = np.flatnonzero(inside.any(0)), np.flatnonzero(inside.any(1))
        box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]) + [new.left, new.top] * 2
        if not self._keeps_plan(overlaps(box, self.boxes), new.plan, leader)[0]:
            return False
        new.visible = inside
        dimmed = []  # what farther objects keep
        for other in self.objects:
            if (shared := new.common(other)) is None:
                continue
            mine, others = shared
            if other.ground > new.ground:
                new.visible[mine] &= ~other.sprite.mask[others]
            else:
                left_over = other.visible.copy()
                left_over[others] &= ~mask[mine]
                if left_over.sum() < MINIMUM_VISIBILITY * other.sprite.mask.sum():
                    return False
                dimmed.append((other, left_over))
        if new.visible.sum() < MINIMUM_VISIBILITY * mask.sum():
            return False
        for other, left_over in dimmed:
            other.visible = left_over
        self.objects.append(new)
        self.boxes = np.concatenate([self.boxes, box])
        self.limits = np.append(self.limits, OCCLUSION_BINS[new.plan][1])
        return True


def _blot() -> Image.Image:
    """A soft dark spot, opaque in the middle: the shadow under an object."""
    y, x = np.ogrid[-1:1:48j, -1:1:48j]
    return Image.fromarray((150 * np.clip(1 - np.hypot(x, y), 0, 1)).astype(np.uint8))


_BLOT = _blot()
_HALF = [alpha * 0.5 for alpha in range(256)]


def _paint(rng: np.random.Generator, backdrop: Backdrop, crowd: _Crowd) -> Scene:
    picture = backdrop.picture
    objects = crowd.objects
    order = sorted(range(len(objects)), key=lambda index: (objects[index].ground, index))
    instances = np.full((crowd.height, crowd.width), -1, np.int16)
    for index in order:
        one = objects[index]
        _cast_shadow(picture, one, backdrop.light)
        shaded = shade(one.sprite, backdrop.light, 1 - crowd.nearness(one.ground), rng)
        picture.paste(shaded, (one.left, one.top), one.sprite.picture.getchannel("A"))
        rows, columns = np.nonzero(one.visible)
        instances[rows + one.top, columns + one.left] = index
    depth = np.empty(len(objects), np.int64)
    depth[order[::-1]] = np.arange(len(objects))
    seen = [one.visible.sum() / one.sprite.mask.sum() for one in objects]
    kinds = np.array([LABELS.index(one.label) for one in objects], np.int64)
    return Scene(
        image=np.array(picture),
        boxes=crowd.boxes.astype(np.float32),
        labels=crowd.suite.label(kinds, crowd.boxes),
        visibility=np.array(seen, np.float32),
        depth=depth,
        instances=instances,
    )


def _cast_shadow(picture: Image.Image, one: _Object, light: Light) -> None:
    """A spot on the ground, and a soft edge on what is behind: it tells nearer from farther."""
    height, width = one.sprite.mask.shape
    deep = max(3, round(0.16 * min(height, width)))
    spot = _BLOT.resize((round(1.16 * width), 2 * deep))
    lean = -light.side * round(0.06 * width)
    picture.paste((12, 14, 20), (one.left - round(0.08 * width) + lean, one.ground - round(1.2 * deep)), spot)
    reach = max(2, round(0.05 * min(height, width)))
    outline = Image.new("L", (width + 4 * reach, height + 4 * reach))
    outline.paste(one.sprite.picture.getchannel("A").point(_HALF), (2 * reach, 2 * reach))
    outline = outline.filter(ImageFilter.BoxBlur(reach))
    picture.paste((12, 14, 20), (one.left - 2 * reach - light.side * reach, one.top - 2 * reach), outline)
