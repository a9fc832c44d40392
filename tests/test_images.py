import logging
import os
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from bad_images import QUARTERS, animation, bomb, rotated, truncated
from hsvdet.data.images import read_image
from hsvdet.data.pixels import image_size
from hsvdet.errors import DataError


def pixels(source) -> np.ndarray:
    image = read_image(source)
    assert image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3
    return image.permute(1, 2, 0).numpy()


def saved(path, array_or_image, **options):
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    image.save(path, **options)
    assert image_size(path) == (image.height, image.width)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_is_read_upright_and_its_size_agrees(tmp_path, suffix, orientation):
    path = rotated(tmp_path / f"photo{suffix}", orientation)
    image = pixels(path)
    assert image.shape == QUARTERS.shape
    assert np.abs(image[4::8, 6::12].astype(int) - QUARTERS[4::8, 6::12]).max() < 40
    assert image_size(path) == (16, 24)


def test_broken_exif_data_leave_the_picture_usable(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(QUARTERS).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert pixels(path).shape == QUARTERS.shape and image_size(path) == (16, 24)


def test_an_image_is_known_by_its_content_not_its_name(tmp_path):
    path = tmp_path / "picture.jpg"
    Image.fromarray(QUARTERS).save(path, format="PNG")
    assert (pixels(path) == QUARTERS).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_and_do_not_saturate(tmp_path, suffix):
    path = saved(tmp_path / f"deep{suffix}", np.array([[0, 256, 257 * 100, 65535]], dtype=np.uint16))
    assert pixels(path)[0, :, 0].tolist() == [0, 1, 100, 255]


def test_wide_integers_and_floats_are_used_only_where_white_is_known(tmp_path):
    deep = saved(tmp_path / "i.tif", np.array([[0, 65535]], dtype=np.int32))
    assert pixels(deep)[0, :, 2].tolist() == [0, 255]
    unit = saved(tmp_path / "f.tif", np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert pixels(unit)[0, :, 1].tolist() == [0, 128, 255]
    for name, values in (("i2.tif", np.int32([[0, 70000]])), ("f2.tif", np.float32([[0, 200]]))):
        with pytest.raises(DataError, match="Convert it to 8 or 16 bits"):
            read_image(saved(tmp_path / name, values))


def test_grey_bilevel_palette_and_cmyk_become_rgb(tmp_path):
    assert pixels(saved(tmp_path / "l.png", np.uint8([[7, 200]])))[0].tolist() == [[7] * 3, [200] * 3]
    assert pixels(saved(tmp_path / "1.png", Image.new("1", (2, 1), 1)))[0, 0].tolist() == [255] * 3
    palette = Image.fromarray(QUARTERS).quantize(4)
    assert np.abs(pixels(saved(tmp_path / "p.png", palette)).astype(int) - QUARTERS).max() < 8
    ink = pixels(saved(tmp_path / "cmyk.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0))))
    assert ink[0, 0, 0] > 200 and ink[0, 0, 1:].max() < 60


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_lie_over_white(tmp_path, mode):
    if mode == "P":
        image = Image.new("P", (2, 1), 0)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.putpixel((1, 0), 1)
        path = saved(tmp_path / "p.png", image, transparency=0)
    else:
        image = Image.new(mode, (2, 1), (0,) * (len(mode) - 1) + (0,))
        image.putpixel((1, 0), (0,) * (len(mode) - 1) + (255,))
        path = saved(tmp_path / "a.png", image)
    assert pixels(path)[0].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize("shape", [(1, 1), (10, 20000), (20000, 10)])
def test_extreme_shapes_are_read(tmp_path, shape):
    path = saved(tmp_path / "extreme.png", np.full((*shape, 3), 9, dtype=np.uint8))
    assert pixels(path).shape == (*shape, 3)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_of_an_animation_the_first_frame_is_used_with_one_warning(tmp_path, caplog, suffix):
    path = animation(tmp_path / f"moving{suffix}")
    with caplog.at_level(logging.WARNING, "hsvdet"):
        for _ in range(3):
            assert pixels(path)[0, 0].tolist() == [255, 0, 0]
    assert [path.name in record.getMessage() for record in caplog.records] == [True]


def test_a_decompression_bomb_is_refused_before_memory_is_spent(tmp_path, monkeypatch):
    path = bomb(tmp_path / "bomb.png")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="bomb.png has more than 178,956,970 pixels"):
            read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    small = saved(tmp_path / "small.png", QUARTERS)
    monkeypatch.setenv("HSVDET_MAX_PIXELS", "100")
    with pytest.raises(DataError, match="HSVDET_MAX_PIXELS"):
        read_image(small)
    for setting in ("many", "9" * 5000):
        monkeypatch.setenv("HSVDET_MAX_PIXELS", setting)
        with pytest.raises(DataError, match="HSVDET_MAX_PIXELS expects"):
            read_image(small)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".bmp", ".tif", ".webp"])
def test_a_truncated_image_is_refused_by_name(tmp_path, suffix):
    path = truncated(tmp_path / f"cut{suffix}")
    with pytest.raises(DataError, match=f"cut{suffix}"):
        read_image(path)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"<svg/>", b"%!PS"]
)
def test_a_corrupt_or_empty_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "an ímage.jpg"
    path.write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(DataError, match="an ímage.jpg") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_what_is_no_file_is_refused_in_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "absent.jpg", tmp_path / "pipe", tmp_path / "loop", "a\0b.jpg"):
        with pytest.raises(DataError):
            read_image(path)


def test_names_may_have_blanks_and_any_letters(tmp_path):
    path = saved(tmp_path / "Straße 東京 №1.png", QUARTERS)
    assert (pixels(str(path)) == QUARTERS).all()


def test_bytes_pillow_images_arrays_and_tensors_give_the_same(tmp_path):
    path = saved(tmp_path / "a.png", QUARTERS)
    tensor = torch.from_numpy(QUARTERS).permute(2, 0, 1)
    for source in (path.read_bytes(), Image.open(path), QUARTERS, QUARTERS[::-1][::-1], tensor):
        assert (pixels(source) == QUARTERS).all()
    assert (pixels(QUARTERS[..., 0]) == QUARTERS[..., :1]).all()
    assert (pixels(np.dstack([QUARTERS, np.zeros((16, 24), np.uint8)])) == 255).all()


def test_an_array_is_copied_so_that_it_stays_the_callers():
    array = QUARTERS.copy()
    read_image(array).zero_()
    assert (array == QUARTERS).all()


@pytest.mark.parametrize(
    "source, todo",
    [
        (QUARTERS / np.float32(255), "multiply by 255"),
        (QUARTERS.transpose(2, 0, 1), "channels first"),
        (torch.from_numpy(QUARTERS.copy()), "channels last"),
        (torch.zeros(3, 4, 4), "multiply by 255"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
    ],
)
def test_an_array_of_another_kind_is_refused_with_what_to_do(source, todo):
    with pytest.raises(DataError, match=todo):
        read_image(source)
