"""Rectangles are painted on black; wherever a transform takes the paint, the box must go too."""

import numpy as np
import pytest
import torch

from hsvdet.data.augmentation import Augmentation
from hsvdet.data.mosaic import CopyPasteBoxes, MixUp, Mosaic
from hsvdet.data.transforms import ColourJitter, HorizontalFlip, Letterbox, RandomAffine, keep_visible
from hsvdet.errors import ConfigError
from hsvdet.preprocess import Preprocess
from hsvdet.structures import ImageInfo, Rectangle, Sample


def painted(height, width, objects):
    """objects: (label, left, top, right, bottom), painted into the label's own colour channel."""
    image = torch.zeros(height, width, 3, dtype=torch.uint8)  # laid out as a decoder does
    for label, left, top, right, bottom in objects:
        image[top:bottom, left:right, label] = 255
    return Sample(
        image.permute(2, 0, 1),
        torch.tensor([box[1:] for box in objects], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([box[0] for box in objects], dtype=torch.int64),
        ImageInfo(7, "painted.png", (height, width)),
    )


def extent(image, label):
    """xyxy of what shows of a colour, or None."""
    rows, columns = torch.nonzero(image[label] > 80, as_tuple=True)
    if not len(rows):
        return None
    return torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=torch.float32)


CANVAS = Preprocess(size=(96, 160), fill=0)
RED, GREEN, BLUE = 0, 1, 2
WIDE = painted(90, 200, [(RED, 20, 10, 70, 50), (GREEN, 120, 30, 190, 80), (BLUE, 80, 55, 110, 85)])
TALL = painted(130, 80, [(GREEN, 10, 20, 60, 110)])
SMALL = painted(50, 50, [(BLUE, 15, 5, 40, 45)])
EMPTY = painted(60, 90, [])
EMPTY_CANVAS = painted(96, 160, [])
AFFINE = RandomAffine(preprocess=CANVAS, scale=0.5, translate=0.1)
TURNING = RandomAffine(preprocess=CANVAS, scale=0.5, translate=0.1, rotate=25, shear=10)


def others(*samples):
    supply = iter(samples)
    return lambda: next(supply)


TRANSFORMS = {
    "letterbox": lambda sample, rng: Letterbox(CANVAS)(sample),
    "minimal letterbox": lambda sample, rng: Letterbox(CANVAS, minimal=True)(sample),
    "fit": lambda sample, rng: Letterbox(Preprocess(size=(96, 160), resize="fit", fill=0))(sample),
    "stretch": lambda sample, rng: Letterbox(Preprocess(size=(96, 160), resize="stretch"))(sample),
    "flip": lambda sample, rng: HorizontalFlip(1.0)(Letterbox(CANVAS)(sample), rng),
    "affine": AFFINE,
    "affine of a stretched image": RandomAffine(
        preprocess=Preprocess(size=(96, 160), resize="stretch", fill=0), scale=0.5, translate=0.1
    ),
    "turning": TURNING,
    "everything": lambda sample, rng: Augmentation(mosaic=1, scale=0.5, translate=0.1, flip=0.5)(
        sample, others(EMPTY, EMPTY, EMPTY), CANVAS, rng
    ),
}


def assert_boxes_hug_the_paint(sample, original, turned=False):
    assert len(sample.boxes) == len(sample.labels)
    rim = torch.tensor(sample.image.shape[:0:-1]).repeat(2) - 1
    for label in (RED, GREEN, BLUE):
        shown = extent(sample.image, label)
        kept = sample.boxes[sample.labels == label]
        if len(kept):
            if turned and (kept[0] != torch.minimum(kept[0].clamp(min=1), rim)).any():
                continue  # cut by the rim: the hull of the whole is looser than the hull of the rest
            assert (kept[0] - shown).abs().max() <= 1, (label, kept, shown)
        elif shown is not None and label in original.labels and not turned:
            sides = shown[2:] - shown[:2]  # dropped: a tenth of the largest, 55 x 100 px, is 550
            assert sides.min() < 4 or sides.prod() < 600


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
@pytest.mark.parametrize("sample", [WIDE, TALL], ids=["wide", "tall"])
def test_boxes_follow_the_pixels(transform, sample):
    for seed in range(12):
        moved = transform(sample, np.random.default_rng(seed))
        assert_boxes_hug_the_paint(moved, sample, turned=transform is TURNING)


@pytest.mark.parametrize("affine", [AFFINE, TURNING], ids=["straight", "turning"])
def test_boxes_follow_the_pixels_of_all_four_images_of_a_mosaic(affine):
    red = painted(90, 200, [(RED, 20, 10, 70, 50)])
    seen = 0
    for seed in range(30):
        mosaic = Mosaic(affine)(red, others(TALL, SMALL, EMPTY), np.random.default_rng(seed))
        assert mosaic.image.shape == (3, 96, 160)
        assert_boxes_hug_the_paint(mosaic, WIDE, turned=affine is TURNING)
        seen += len(mosaic.boxes)
    assert seen > 30


def with_region(sample, label):
    """The object of that label is a region to ignore instead."""
    region = sample.labels == label
    return sample._replace(
        boxes=sample.boxes[~region], labels=sample.labels[~region], ignored=sample.boxes[region]
    )


def assert_the_region_covers_the_paint(sample, label, turned=False):
    """It may reach further where it was turned, and be gone where next to nothing is seen."""
    shown = extent(sample.image, label)
    if shown is None:
        return 0
    assert len(sample.ignored) == 1
    gap = sample.ignored[0] - shown
    assert (gap[:2] <= 1).all() and (gap[2:] >= -1).all()
    assert turned or gap.abs().max() <= 1
    rim = torch.tensor(sample.image.shape[:0:-1]).repeat(2)
    assert ((sample.ignored >= 0) & (sample.ignored <= rim)).all()
    return 1


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_regions_to_ignore_follow_the_pixels(transform):
    seen = 0
    for seed in range(12):
        moved = transform(with_region(WIDE, GREEN), np.random.default_rng(seed))
        assert GREEN not in moved.labels
        seen += assert_the_region_covers_the_paint(moved, GREEN, transform is TURNING)
    assert seen >= 8


@pytest.mark.parametrize("affine", [AFFINE, TURNING], ids=["straight", "turning"])
def test_every_image_of_a_mosaic_brings_its_regions(affine):
    red = painted(90, 200, [(RED, 20, 10, 70, 50)])
    tiles, seen = [with_region(TALL, GREEN), with_region(SMALL, BLUE), EMPTY], 0
    for seed in range(30):
        mosaic = Mosaic(affine)(red, others(*tiles), np.random.default_rng(seed))
        for label in (GREEN, BLUE):
            shown = extent(mosaic.image, label)
            if shown is not None:
                middle = ((shown[:2] + shown[2:]) / 2).repeat(2)
                inside = (mosaic.ignored[:, :2] <= middle[:2]) & (mosaic.ignored[:, 2:] >= middle[2:])
                assert inside.all(1).any()
                seen += 1
    assert seen > 20


def test_mixed_and_pasted_images_bring_their_regions_and_know_the_classes_that_both_know():
    first, second = (Letterbox(CANVAS)(with_region(sample, GREEN)) for sample in (WIDE, TALL))
    first = first._replace(labelled=torch.tensor([True, True, False]))
    second = second._replace(labelled=torch.tensor([True, False, True]))
    mixed = MixUp()(first, second, np.random.default_rng(0))
    assert mixed.ignored.tolist() == first.ignored.tolist() + second.ignored.tolist()
    assert mixed.labelled.tolist() == [True, False, False]
    assert MixUp()(first, EMPTY_CANVAS, np.random.default_rng(0)).labelled.tolist() == [True, True, False]
    donor = painted(96, 160, [(BLUE, 30, 20, 55, 50), (GREEN, 40, 10, 52, 40)])
    donor = with_region(donor, GREEN)._replace(labelled=torch.tensor([False, True, True]))
    pasted = 0
    for seed in range(10):
        sample = CopyPasteBoxes(share=1.0)(first, donor, np.random.default_rng(seed))
        if len(sample.labels) == len(first.labels):
            assert torch.equal(sample.labelled, first.labelled)
            continue
        box, region = sample.boxes[-1], sample.ignored[-1]
        assert (
            region.tolist() == (box + torch.tensor([10.0, 0, -3, -10])).tolist()
        )  # cut off with the rectangle
        assert sample.labelled.tolist() == [False, True, False]
        pasted += 1
    assert pasted > 3


def test_a_mosaic_asks_only_for_images_that_will_be_seen():
    counts = set()
    for seed in range(40):
        asked = []
        white = Sample(torch.full((3, 90, 160), 255, dtype=torch.uint8), *SMALL[1:])

        def another(asked=asked):
            asked.append(1)
            return Sample(torch.full((3, 96, 160), 100, dtype=torch.uint8), *EMPTY[1:])

        mosaic = Mosaic(AFFINE)(white, another, np.random.default_rng(seed))
        assert (mosaic.image == 255).any()  # the image asked for is always in it
        assert (mosaic.image == 100).any() == bool(asked)
        counts.add(len(asked))
    assert counts >= {1, 3}


def test_mixed_images_bring_the_objects_of_both():
    first, second = Letterbox(CANVAS)(WIDE), Letterbox(CANVAS)(TALL)
    mixed = MixUp()(first, second, np.random.default_rng(0))
    assert mixed.boxes.tolist() == first.boxes.tolist() + second.boxes.tolist()
    assert mixed.labels.tolist() == [RED, GREEN, BLUE, GREEN]
    assert mixed.image[RED].max() in range(90, 165)  # about half of 255
    assert mixed.content is None


def test_pasted_objects_have_their_boxes_and_hide_little_of_what_was_there():
    there, donor = Letterbox(CANVAS)(WIDE), painted(96, 160, [(BLUE, 30, 20, 55, 50)])
    there = Sample(there.image, there.boxes[:2], there.labels[:2], there.info, there.content)
    there.image[BLUE] = 0  # so that blue is only what was pasted
    pasted = 0
    for seed in range(20):
        sample = CopyPasteBoxes(share=1.0)(there, donor, np.random.default_rng(seed))
        for box, label in zip(sample.boxes[2:], sample.labels[2:], strict=True):
            assert label == BLUE and (box - extent(sample.image, BLUE)).abs().max() <= 1
            pasted += 1
        for box, label in zip(there.boxes, there.labels, strict=True):
            left, top, right, bottom = box.round().int().tolist()
            before = (there.image[label, top:bottom, left:right] > 80).sum()
            assert (sample.image[label, top:bottom, left:right] > 80).sum() > 0.65 * before
    assert pasted > 5


def test_an_object_inside_a_pasted_rectangle_comes_along():
    nested = Letterbox(CANVAS)(painted(96, 160, [(RED, 10, 10, 60, 60), (GREEN, 20, 20, 40, 40)]))
    canvas = Letterbox(CANVAS)(painted(96, 160, []))
    for seed in range(10):
        sample = CopyPasteBoxes(share=0.5)(canvas, nested, np.random.default_rng(seed))
        if RED in sample.labels:
            assert sample.labels.tolist().count(GREEN) >= 1
            if len(sample.labels) == 2:
                assert_boxes_hug_the_paint(sample, nested)


def test_images_without_objects_pass_through_everything():
    augmentation = Augmentation(
        mosaic=0.5, mixup=0.5, copy_paste=0.5, scale=0.5, rotate=10, hue=0.1, contrast=0.2, flip=0.5
    )
    for seed in range(12):
        rng = np.random.default_rng(seed)
        sample = augmentation(EMPTY, others(*[EMPTY] * 12), CANVAS, rng)
        assert sample.boxes.shape == (0, 4) and sample.boxes.dtype == torch.float32
        assert sample.labels.shape == (0,) and sample.labels.dtype == torch.int64
        assert sample.image.shape == (3, 96, 160) and sample.image.dtype == torch.uint8
    for transform in TRANSFORMS.values():
        assert len(transform(EMPTY, np.random.default_rng(0)).boxes) == 0


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000)])
def test_extreme_images_survive(size):
    image = torch.full((3, *size), 200, dtype=torch.uint8)
    sample = Sample(image, torch.tensor([[0.0, 0.0, size[1], size[0]]]), torch.tensor([1]), WIDE.info)
    for seed in range(5):
        augmentation = Augmentation(mosaic=0.5, mixup=0.5, copy_paste=0.5, scale=0.9, translate=0.5)
        moved = augmentation(sample, others(*[sample] * 12), CANVAS, np.random.default_rng(seed))
        assert moved.boxes.isfinite().all() and moved.image.shape == (3, 96, 160)


def test_without_numbers_an_augmented_image_is_the_evaluated_one():
    augmented = Augmentation()(WIDE, others(), CANVAS, np.random.default_rng(0))
    evaluated = Letterbox(CANVAS)(WIDE)
    assert torch.equal(augmented.image, evaluated.image)
    assert torch.allclose(augmented.boxes, evaluated.boxes, atol=1e-4)
    assert augmented.content == evaluated.content == Rectangle(0, 12, 160, 72)


def test_no_transform_changes_the_image_it_was_given():
    sample = painted(96, 160, [(RED, 20, 10, 70, 50), (GREEN, 90, 30, 150, 80)])  # of the canvas' own size
    before = sample.image.clone()
    augmentation = Augmentation(mosaic=0.3, mixup=0.5, copy_paste=0.9, hue=0.1, brightness=0.4, flip=0.5)
    for seed in range(10):
        augmentation(sample, others(*[sample] * 12), CANVAS, np.random.default_rng(seed))
    ColourJitter(0.1, 0.5, 0.5, 0.5)(sample, np.random.default_rng(0))
    assert torch.equal(sample.image, before)


def test_the_same_generator_gives_the_same_sample():
    augmentation = Augmentation(mosaic=1, mixup=0.5, scale=0.5, hue=0.1, flip=0.5)
    runs = [
        augmentation(WIDE, others(*[TALL] * 9), CANVAS, np.random.default_rng(seed)) for seed in (3, 3, 4)
    ]
    assert torch.equal(runs[0].image, runs[1].image) and torch.equal(runs[0].boxes, runs[1].boxes)
    assert not torch.equal(runs[0].image, runs[2].image)


def test_boxes_that_hardly_show_are_dropped_with_their_labels():
    xyxy = torch.tensor(
        [
            [-50.0, 10, 50, 60],  # half inside: kept, clipped
            [-95.0, 10, 5, 60],  # a twentieth inside
            [20.0, 20, 21.5, 60],  # thinner than 2 px
            [0.0, 0, 99, 99],  # kept as it is
            [150.0, 150, 200, 200],  # outside
        ]
    )
    clipped, keep = keep_visible(xyxy, Rectangle(0, 0, 100, 100))
    assert keep.tolist() == [True, False, False, True, False]
    assert clipped[keep].tolist() == [[0, 10, 50, 60], [0, 0, 99, 99]]


def test_hue_and_saturation_leave_grey_alone_and_brightness_scales_it():
    grey = Sample(torch.full((3, 4, 4), 100, dtype=torch.uint8), *EMPTY[1:])
    for seed in range(5):
        coloured = ColourJitter(hue=0.5, saturation=1.0)(grey, np.random.default_rng(seed))
        assert (coloured.image.int() - 100).abs().max() <= 1
        brighter = ColourJitter(brightness=0.4)(grey, np.random.default_rng(seed)).image.int()
        assert 59 <= brighter.min() == brighter.max() <= 141
    factors = [ColourJitter(brightness=0.4)(grey, np.random.default_rng(s)).image.max() for s in range(9)]
    assert len(set(map(int, factors))) > 3


def test_half_a_turn_of_hue_makes_red_cyan():
    class Extreme:  # draws the upper end of every range
        def uniform(self, low, high, count):
            return np.full(count, high, float)

    red = Sample(torch.tensor([200, 0, 0], dtype=torch.uint8).view(3, 1, 1), *EMPTY[1:])
    turned = ColourJitter(hue=0.5)(red, Extreme()).image.flatten().tolist()
    assert turned[0] == 0 and turned[1] > 100 and turned[2] > 100


@pytest.mark.parametrize(
    "numbers", [{"mosaic": 2}, {"scale": 1.0}, {"hue": -0.1}, {"flip": float("nan")}, {"mixup": "yes"}]
)
def test_numbers_out_of_range_are_refused_by_name(numbers):
    with pytest.raises(ConfigError, match=f"{next(iter(numbers))} expects a number from"):
        Augmentation(**numbers)


def test_a_mosaic_of_images_without_a_common_canvas_is_refused():
    with pytest.raises(ConfigError, match="shortest"):
        Augmentation(mosaic=0.5).check(Preprocess(size=(800, 1333), resize="shortest"))


@pytest.mark.parametrize("training", [True, False])
def test_images_are_resized_to_the_same_bits_on_a_processor_without_wide_vectors(training, monkeypatch):
    """There torchvision resizes in float32, a grey level off in one pixel of a few hundred."""
    image = torch.randint(0, 256, (3, 60, 101), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sample = Sample(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), WIDE.info)
    preprocess = Preprocess(size=(64, 128), antialias=True)

    def resized():
        if training:
            return RandomAffine(preprocess=preprocess, scale=0.5)(sample, np.random.default_rng(0)).image
        return Letterbox(preprocess)(sample).image

    expected = resized()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr("platform.machine", lambda: "unknown")
    assert torch.equal(resized(), expected)
