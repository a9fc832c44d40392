from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hsvdet.draw import class_colour, draw_detections, draw_grid, printable
from hsvdet.errors import ConfigError
from hsvdet.structures import Detections


def one_box(*xyxy: float, label: int = 0) -> Detections:
    return Detections(torch.tensor([xyxy]), torch.tensor([0.9]), torch.tensor([label]))


def test_a_box_lies_on_its_first_and_last_pixel_in_the_colour_of_its_class():
    image = np.full((100, 120, 3), 50, dtype=np.uint8)
    picture = np.asarray(draw_detections(image, one_box(30, 40, 70, 90, label=2), ["a", "b", "c"]))
    assert picture.shape == image.shape and picture.dtype == np.uint8
    colour = np.array(class_colour(2))
    for y, x in ((60, 30), (60, 69), (89, 50)):
        np.testing.assert_array_equal(picture[y, x], colour)
    for y, x in ((60, 29), (60, 70), (90, 50), (60, 50)):
        np.testing.assert_array_equal(picture[y, x], 50)
    assert (image == 50).all()


def test_arrays_tensors_and_pillow_images_give_the_same_picture():
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    found = one_box(5, 20, 50, 50)
    reference = np.asarray(draw_detections(image, found, ["a"]))
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    np.testing.assert_array_equal(np.asarray(draw_detections(tensor, found, ["a"])), reference)
    np.testing.assert_array_equal(
        np.asarray(draw_detections(Image.fromarray(image), found, ["a"])), reference
    )


def test_an_image_is_copied_once_to_be_drawn_on_and_stays_what_it_was(monkeypatch):
    """Of the largest that is read, each copy takes 700 MB."""
    found, copies, copied = one_box(5, 20, 50, 50), [], Image.Image.copy
    monkeypatch.setattr(Image.Image, "copy", lambda image: copies.append(image) or copied(image))
    for image, extra in (
        (torch.full((3, 60, 80), 50, dtype=torch.uint8), 0),  # what it is copied from is no Pillow image
        (np.full((60, 80), 50, np.uint8), 0),
        (Image.new("RGB", (80, 60), (50, 50, 50)), 1),
    ):
        copies.clear()
        assert np.asarray(draw_detections(image, found, ["a"])).max() > 50
        draw_grid([image])
        assert len(copies) == 2 * extra and (np.asarray(image) == 50).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5000, 10), (10, 5000)])
def test_tiny_and_thin_images_with_boxes_beyond_them_do_not_crash(size):
    rows = [[-50, -50, 9000, 9000], [0, 0, 0, 0], [7, 7, 2, 2], [float("nan"), 0, 1, 1], [0.2, 0.2, 0.8, 0.8]]
    found = Detections(torch.tensor(rows), torch.rand(5), torch.zeros(5, dtype=torch.int64))
    picture = draw_detections(Image.new("L", size), found, ["a name"], truth=found)
    assert picture.size == size and picture.mode == "RGB"


def test_names_never_hide_one_another():
    image = np.full((200, 300, 3), 90, dtype=np.uint8)
    box = torch.tensor([[50.0, 80, 250, 150]])
    colours = [np.array(class_colour(i)) for i in (0, 1)]

    def filled(found: Detections) -> list[int]:
        picture = np.asarray(draw_detections(image, found, ["first", "second"]))
        return [int((picture == colour).all(-1).sum()) for colour in colours]

    alone = [filled(Detections(box, torch.tensor([0.9]), torch.tensor([i])))[i] for i in (0, 1)]
    both = filled(Detections(box.repeat(2, 1), torch.tensor([0.9, 0.8]), torch.tensor([0, 1])))
    # The weaker box lies under the stronger one, and its name over a few pixels of that one's line.
    outline, name = 2 * (200 + 70), 100
    assert both[0] > alone[0] - name and both[1] >= alone[1] - outline


def test_names_are_drawn_in_a_font_that_has_their_letters_or_by_number():
    assert printable("поезд  ö", 3)[0] == "поезд ö"
    # A private-use letter that no font defines.
    assert printable("car \U0010fffd", 3)[0] == "car #3"
    assert printable("\U0010fffd", 4)[0] == "#4"
    assert printable("", 5)[0] == "#5"


def test_colours_of_eighty_classes_differ():
    colours = np.array([class_colour(i) for i in range(80)], dtype=int)
    distance = np.abs(colours[:, None] - colours).sum(-1) + np.eye(80, dtype=int) * 999
    assert distance.min() > 25 and distance[range(79), range(1, 80)].min() > 150


def test_what_cannot_be_drawn_is_refused():
    found = one_box(0, 0, 5, 5, label=1)
    with pytest.raises(ConfigError, match="names"):
        draw_detections(np.zeros((9, 9, 3), dtype=np.uint8), found, ["one"])
    with pytest.raises(ConfigError, match="uint8"):
        draw_detections(torch.zeros(3, 9, 9), found, ["one", "two"])
    with pytest.raises(ConfigError, match="at least one"):
        draw_grid([])


def test_contact_sheet_holds_every_image_whole():
    images = [torch.full((3, 40 * i, 60), 20 * i, dtype=torch.uint8) for i in range(1, 6)]
    sheet = np.asarray(draw_grid(images, 3, cell=50))
    assert sheet.shape[1] < 3 * 60 and sheet.shape[0] < 2 * 60
    for i in range(1, 6):
        assert (sheet == 20 * i).all(-1).sum() > 300


def test_drawing_imports_no_plotting():
    code = (
        "import sys, hsvdet.draw, hsvdet.evaluate\n"
        "print({'matplotlib', 'faster_coco_eval'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
