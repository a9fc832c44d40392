"""The built-in scenes: what is promised of every picture, of a data set of them, and of the files written."""

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from hsvdet.data import scenes
from hsvdet.data.overlap import occlusion
from hsvdet.data.scenes import DEMO, LABELS, OCCLUSION_BINS, SUITES, generate_scene, write_scenes
from hsvdet.data.scenes.sprites import KINDS, draw_sprite
from hsvdet.errors import ConfigError, DataError

TINY = {"train": 2, "val": 1, "test": 0, "size": (64, 96), "objects": (2, 4)}


@pytest.fixture(scope="module")
def series():
    """The demonstration's first sixty scenes."""
    return [generate_scene(0, index, DEMO["size"], DEMO["objects"]) for index in range(60)]


def test_every_occlusion_bin_holds_its_share_of_the_boxes(series):
    overlaps = np.concatenate([occlusion(scene.boxes) for scene in series])
    shares = [np.mean((overlaps >= low) & (overlaps < high)) for low, high in OCCLUSION_BINS]
    assert min(shares) >= 0.15
    assert sum(shares) == pytest.approx(1)


def test_every_class_is_common(series):
    counts = np.bincount(np.concatenate([scene.labels for scene in series]), minlength=len(LABELS))
    assert counts.min() >= 0.5 * counts.mean()


def test_the_number_of_objects_is_the_one_asked_for(series):
    counts = [len(scene.boxes) for scene in series]
    assert (min(counts), max(counts)) == DEMO["objects"]


def test_boxes_are_tight_and_inside_the_image(series):
    whole = 0
    for scene in series:
        height, width, _ = scene.image.shape
        assert (scene.boxes[:, :2] >= 0).all() and (scene.boxes[:, 2:] <= [width, height]).all()
        for number, (box, visibility) in enumerate(zip(scene.boxes, scene.visibility, strict=True)):
            rows, columns = np.nonzero(scene.instances == number)
            seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            # What is seen lies in the box; all of it seen, it fills the box.
            assert seen[0] >= box[0] and seen[1] >= box[1] and seen[2] <= box[2] and seen[3] <= box[3]
            if visibility == 1:
                assert seen == box.tolist()
                whole += 1
    assert whole > 50


def test_nearer_objects_hide_farther_ones_and_nobody_entirely(series):
    crossings = 0
    for scene in series:
        assert (scene.visibility >= 0.1).all() and (scene.visibility <= 1).all()
        assert sorted(scene.depth) == list(range(len(scene.depth)))
        nearest = scene.depth.argmin()
        x0, y0, x1, y1 = scene.boxes[nearest]
        if x0 > 0 and y0 > 0 and x1 < scene.image.shape[1] and y1 < scene.image.shape[0]:
            assert scene.visibility[nearest] == 1
        # The higher of two feet is farther: objects stand on the ground.
        order = scene.boxes[np.argsort(scene.depth), 3]
        crossings += (np.diff(order) > 0).sum()
    assert crossings == 0


def test_objects_are_in_the_picture_where_the_instances_say():
    scene = generate_scene(3, 0, (128, 128), (4, 4))
    edges = np.abs(np.diff(scene.image.astype(int), axis=1)).sum(2)
    borders = np.diff(scene.instances, axis=1) != 0
    assert edges[borders].mean() > 3 * edges[~borders].mean()


def test_a_scene_depends_on_its_seed_and_index_alone():
    one = generate_scene(5, 7, (96, 160), (3, 6))
    generate_scene(5, 8, (96, 160), (3, 6))
    again = generate_scene(5, 7, (96, 160), (3, 6))
    for first, second in zip(one, again, strict=True):
        assert np.array_equal(first, second)
    for other in (generate_scene(6, 7, (96, 160), (3, 6)), generate_scene(5, 8, (96, 160), (3, 6))):
        assert not np.array_equal(one.image, other.image)


def test_scenes_stay_what_they_are():
    """Boxes and labels, not pixels, which the drawing library may change. A new hash needs a new
    GENERATOR_VERSION: else folders of old scenes pass for new ones."""
    scene = generate_scene(0, 0, (128, 192), (6, 6))
    rows = np.column_stack([np.rint(scene.boxes / 4).astype(int), scene.labels])
    assert hashlib.sha256(str(rows.tolist()).encode()).hexdigest()[:16] == "c8fdbaa2182c0a27"


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("height", [9, 24, 150])
def test_sprites_fill_their_size(label, height):
    for seed in range(4):
        width = max(6, round(height * KINDS[label].aspect[0]))
        sprite = draw_sprite(label, width, height, np.random.default_rng(seed))
        assert sprite.picture.size == sprite.mask.shape[::-1]
        assert sprite.mask[[0, -1]].any(1).all() and sprite.mask[:, [0, -1]].any(0).all()
        assert width - sprite.mask.shape[1] <= 2 + width // 20
        assert height - sprite.mask.shape[0] <= 2 + height // 20


def test_written_scenes_are_a_coco_data_set(tmp_path):
    out = write_scenes(tmp_path / "scenes", **TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scenes"]
    assert not (out / "annotations" / "instances_test.json").exists()
    coco = COCO(str(out / "annotations" / "instances_train.json"))
    assert [one["name"] for one in coco.loadCats([1, 2, 3, 4, 5, 6])] == list(LABELS)
    assert 0 not in coco.getAnnIds()
    for index in coco.getImgIds():
        scene = generate_scene(0, index, TINY["size"], TINY["objects"])
        (entry,) = coco.loadImgs(index)
        with Image.open(out / "images" / "train" / entry["file_name"]) as picture:
            assert picture.size == (entry["width"], entry["height"]) == (96, 64)
            assert np.abs(np.asarray(picture, int) - scene.image).mean() < 8
        found = coco.loadAnns(coco.getAnnIds(index))
        assert [one["category_id"] - 1 for one in found] == scene.labels.tolist()
        assert [one["visibility"] for one in found] == pytest.approx(scene.visibility, abs=1e-4)
        corners = np.array([one["bbox"] for one in found])
        corners[:, 2:] += corners[:, :2]
        assert np.array_equal(corners, scene.boxes)


def test_neither_workers_nor_lengths_change_a_scene(tmp_path):
    small = write_scenes(tmp_path / "small", **TINY, image_format="png")
    large = write_scenes(tmp_path / "large", **TINY | {"train": 3, "val": 2}, image_format="png", workers=2)
    for picture in small.glob("images/*/*.png"):
        assert picture.read_bytes() == (large / picture.relative_to(small)).read_bytes()
    val = [json.loads((folder / "annotations/instances_val.json").read_text()) for folder in (small, large)]
    assert val[0]["annotations"] == val[1]["annotations"][: len(val[0]["annotations"])]


@pytest.fixture(scope="module")
def suites():
    """Thirty scenes of each suite that is not the demonstration's."""
    names = [name for name in SUITES if name != "crowd"]
    return {name: [generate_scene(0, i, (160, 160), (8, 12), name) for i in range(30)] for name in names}


def kinds_of(name: str, index: int) -> list[int]:
    """What each object of a scene looks like: the same scene, labelled by its kind."""
    suite = SUITES[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SUITES, name, replace(suite, label=lambda kinds, boxes: kinds))
        return generate_scene(0, index, (160, 160), (8, 12), name).labels.tolist()


def test_the_majority_is_of_the_kind_that_none_outnumbers(suites):
    for index, scene in enumerate(suites["majority"]):
        kinds = kinds_of("majority", index)
        most = max(kinds.count(kind) for kind in kinds)
        assert scene.labels.tolist() == [int(kinds.count(kind) == most) for kind in kinds]
    assert 0.4 < np.concatenate([scene.labels for scene in suites["majority"]]).mean() < 0.6


def test_a_companion_is_the_nearest_of_the_kind(suites):
    for index, scene in enumerate(suites["companion"]):
        kinds, middles = kinds_of("companion", index), [(x + r, y + b) for x, y, r, b in scene.boxes.tolist()]
        for n, label in enumerate(scene.labels.tolist()):
            own = [m for m in range(len(kinds)) if m != n and kinds[m] == kinds[n]]
            nearest = min(own, key=lambda m: math.dist(middles[m], middles[n]), default=None)
            assert label == int(nearest is not None and middles[nearest][0] < middles[n][0])
    assert 0.35 < np.concatenate([scene.labels for scene in suites["companion"]]).mean() < 0.6


def test_six_in_ten_objects_of_the_small_suite_are_under_sixteen_pixels(suites):
    sides = np.concatenate([np.sqrt((s.boxes[:, 2:] - s.boxes[:, :2]).prod(1)) for s in suites["small"]])
    assert 0.5 < (sides < 16).mean() < 0.75
    assert suites["small"][0].labels.max() > 1  # kinds, as in crowds


def test_a_suite_on_disk_says_its_classes_and_old_folders_are_crowds(tmp_path):
    out = write_scenes(tmp_path / "majority", **TINY, suite="majority")
    coco = COCO(str(out / "annotations" / "instances_train.json"))
    assert [one["name"] for one in coco.loadCats([1, 2])] == list(SUITES["majority"].labels)
    labels = [one["category_id"] - 1 for one in coco.loadAnns(coco.getAnnIds(0))]
    assert labels == generate_scene(0, 0, TINY["size"], TINY["objects"], "majority").labels.tolist()
    with pytest.raises(DataError, match="other settings"):
        write_scenes(out, **TINY)
    with pytest.raises(ConfigError, match="suite expects one of crowd, majority"):
        write_scenes(tmp_path / "no", **TINY, suite="minority")
    crowd = write_scenes(tmp_path / "crowd", **TINY)
    spec = json.loads((crowd / "spec.json").read_text())
    assert spec.pop("suite") == "crowd"
    (crowd / "spec.json").write_text(json.dumps(spec))
    assert write_scenes(crowd, **TINY) == crowd


def test_the_same_specification_is_not_drawn_again(tmp_path, monkeypatch):
    out = write_scenes(tmp_path / "scenes", **TINY)
    monkeypatch.setattr(scenes.write, "generate_scene", None)
    assert write_scenes(out, **TINY) == out


def test_a_folder_of_anything_else_is_refused_and_kept(tmp_path):
    out = write_scenes(tmp_path / "scenes", **TINY)
    before = (out / "spec.json").read_bytes()
    with pytest.raises(DataError, match="other settings"):
        write_scenes(out, **TINY | {"seed": 1})
    assert (out / "spec.json").read_bytes() == before
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(DataError, match="other files"):
        write_scenes(tmp_path, **TINY)
    with pytest.raises(DataError, match="is a file"):
        write_scenes(tmp_path / "holiday.jpg", **TINY)


def test_an_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "scenes").mkdir()
    monkeypatch.setattr(scenes.write, "generate_scene", full_disk)
    with pytest.raises(DataError, match="No space left"):
        write_scenes(tmp_path / "scenes", **TINY)
    assert list(tmp_path.iterdir()) == [tmp_path / "scenes"] and not any((tmp_path / "scenes").iterdir())


@pytest.mark.parametrize(
    "settings",
    [{"size": (32, 640)}, {"objects": (5, 3)}, {"objects": (1, 500)}, {"seed": -1}, {"workers": 0}]
    + [{"image_format": "gif"}, {"train": -1}, {"train": 0, "val": 0}],
)
def test_impossible_settings_are_named(tmp_path, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        write_scenes(tmp_path / "scenes", **TINY | settings)
    assert not (tmp_path / "scenes").exists()
