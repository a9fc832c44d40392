"""Whatever a file says, reading it ends in an answer that is sound or in an error that is the user's.

Hypothesis makes the files. Here a few of each kind, the same ones every time; `benchmarks/fuzz.py` runs the same tests
on new ones for as long as it is told.
"""

import contextlib
import copy
import io
import json
import math
import os
import pickle
import string

import numpy as np
import pytest
import torch
from PIL import Image

import hsvdet
from hsvdet.checkpoint import read_checkpoint
from hsvdet.conversion.foreign import read_foreign
from hsvdet.data.convert import convert_data
from hsvdet.data.pixels import read_pixels
from hsvdet.data.read import read_data
from hsvdet.errors import CheckpointError, ConfigError, DataError, HsvdetError
from hsvdet.options import override
from hsvdet.runtime.artifact import ArtifactHeader, parse_header
from hsvdet.runtime.containers import close_onnx, open_onnx
from test_seal import HEADER
from tiny_data import CLASSES, coco, image, text, voc, voc_object, voc_xml, yolo

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, note  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

# Of each property. The fuzz command sets more, and other ones each time.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
few = hypothesis.settings(
    max_examples=EXAMPLES or 25,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    # The smallest example takes minutes to be found.
    phases=list(hypothesis.Phase) if EXAMPLES else [hypothesis.Phase.explicit, hypothesis.Phase.generate],
)

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**53, 2**63, 10**400, 1e308, math.nan, math.inf]),
)
words = st.text(st.characters(codec=None), max_size=8)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def changed(draw, content):
    """The JSON value with one to three values in it replaced, left out or doubled."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        holder, key = content, None
        while isinstance(holder, dict | list) and holder:
            key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
            if not isinstance(holder[key], dict | list) or not holder[key] or draw(st.booleans()):
                break
            holder = holder[key]
        if key is None or not holder:
            continue
        match draw(st.sampled_from(["replaced", "replaced", "left out", "doubled"])):
            case "replaced":
                holder[key] = draw(anything)
            case "left out":
                del holder[key]
            case "doubled" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
    return content


@st.composite
def damaged(draw, content):
    """The bytes with a few of them changed, put in or cut off."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(["changed", "put in", "cut out", "cut off"])):
            case "changed":
                content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "put in":
                content[at:at] = draw(st.binary(max_size=8))
            case "cut out":
                del content[at : at + draw(st.integers(1, 64))]
            case "cut off":
                del content[at:]
    return bytes(content)


def sound(data):
    """What every reader promises of a data set."""
    labels = len(data.labels)
    assert labels == len(data.category_ids) == len(set(data.category_ids)) == len(set(data.labels)) > 0
    for record in data.records:
        height, width = record.size
        assert 0 < height and 0 < width and os.path.isfile(record.path)
        boxes = record.boxes
        assert boxes.dtype == np.float32 and np.isfinite(boxes).all() and np.isfinite(record.area).all()
        assert (boxes >= 0).all() and (boxes <= np.float32([width, height, width, height])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all() and (record.area > 0).all()
        assert len(boxes) == len(record.labels) == len(record.crowd) == len(record.area)
        assert ((record.labels >= 0) & (record.labels < labels)).all()
    json.dumps([problem._asdict() for problem in data.problems])


def read(path):
    with contextlib.suppress(DataError):
        data = read_data(path, "train")
        sound(data)
        return data
    return None


WHOLE_COCO = {
    "info": {"labelled_classes": ["car", "person"]},
    "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in (1, 2)],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 7, "bbox": [5.5, 1, 20, 30], "area": 12.5, "iscrowd": 1},
    ],
    "categories": CLASSES,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of all examples: each writes its own file anew."""
    path = tmp_path_factory.mktemp("properties")
    for name in ("1.png", "2.png"):
        image(path / "coco/images" / name)
    yolo(path / "yolo", {"a": "0 0.5 0.5 0.2 0.2"})
    voc(path / "voc", {"a": voc_xml(voc_object("car", 1, 1, 50, 50))})
    return path


@few
@given(content=changed(WHOLE_COCO))
def test_coco_annotations(folder, content):
    read(text(folder / "coco/train.json", json.dumps(content)))


lines = st.lists(
    st.one_of(
        words, st.lists(st.one_of(numbers, words), max_size=9).map(lambda row: " ".join(map(str, row)))
    ),
    max_size=6,
).map("\n".join)


@few
@given(
    content=st.one_of(lines.map(lambda line: line.encode("utf-8", "surrogatepass")), st.binary(max_size=60))
)
def test_yolo_labels(folder, content):
    text(folder / "yolo/data.yaml", "train: images/train\nnames: [car, person]\n")
    text(folder / "yolo/labels/train/a.txt", content)
    read(folder / "yolo")


WHOLE_YAML = {
    "path": ".",
    "train": "images/train",
    "nc": 2,
    "names": {0: "car", 1: "person"},
    "category_ids": [3, 7],
    "labelled_classes": ["car"],
    "splits": ["train"],
}


@few
@given(
    content=st.one_of(
        # JSON is YAML, but for the letters it need not escape.
        changed(json.loads(json.dumps(WHOLE_YAML))).map(json.dumps),
        st.text(string.printable, max_size=60),
    )
)
def test_yolo_data_yaml(folder, content):
    text(folder / "yolo/labels/train/a.txt", "0 0.5 0.5 0.2 0.2\n")
    text(folder / "yolo/data.yaml", content)
    read(folder / "yolo")


@few
@given(content=damaged(voc_xml(voc_object("car", 1, 1, 50, 50), voc_object("person", 2, 2, 9, 9)).encode()))
def test_voc_annotations(folder, content):
    text(folder / "voc/Annotations/a.xml", content)
    read(folder / "voc")


names = st.text(st.characters(exclude_characters="/\0", codec=None), min_size=1, max_size=12).map(
    lambda name: name.encode("utf-8", "surrogateescape" if "\udc80" <= name[0] <= "\udcff" else "replace")[
        :60
    ]
)


@few
@given(
    stems=st.lists(names, min_size=1, max_size=3, unique=True),
    boxes=st.lists(
        st.tuples(*[st.floats(0, 70, width=32)] * 2, *[st.floats(0.5, 30, width=32)] * 2), max_size=3
    ),
    label=st.text(st.characters(categories=("L", "Nd", "Zs")), min_size=1, max_size=12).filter(str.strip),
)
def test_conversions_lose_nothing(tmp_path_factory, stems, boxes, label):
    root = tmp_path_factory.mktemp("converted")
    files = []
    for stem in stems:
        file = root / "coco/images" / (os.fsdecode(stem) + ".png")
        with contextlib.suppress(OSError):  # a name that the file system does not take
            files.append(image(file).name)
    hypothesis.assume(files)
    annotations = [(i, 1, list(map(float, box))) for i in range(1, len(files) + 1) for box in boxes]
    path = coco(root / "coco", annotations, files, [{"id": 1, "name": label}])
    first = read(path)
    assert first is not None and len(first.records) == len(files)
    for number, to in enumerate(("yolo", "voc", "coco")):
        convert_data(path, root / str(number), to)
        path = root / str(number)
        data = read(path)
        assert data is not None and data.labels == first.labels and len(data.records) == len(files)
        found = sorted(record.boxes.round(1).tolist() for record in data.records)
        expected = sorted(record.boxes.round(1).tolist() for record in first.records)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.reshape(one, (-1, 4)), np.reshape(other, (-1, 4)), atol=0.11)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return read_checkpoint(tiny_checkpoint)


@few
@given(data=st.data())
def test_headers_of_checkpoints(folder, checkpoint, data):
    from hsvdet.checkpoint import write_checkpoint

    tensors, header = checkpoint
    content = data.draw(changed(json.loads(json.dumps(header))))
    note(json.dumps(content))
    hypothesis.assume(isinstance(content, dict))
    try:
        write_checkpoint(folder / "a.safetensors", tensors, content)
    except (UnicodeEncodeError, ValueError):
        return  # no file at all
    with contextlib.suppress(CheckpointError):
        detector = hsvdet.load(folder / "a.safetensors")
        found = detector(np.zeros((9, 9, 3), np.uint8), score=0.0)
        assert torch.isfinite(found.boxes).all() and json.dumps(detector.header())


@few
@given(data=st.data())
def test_bytes_of_checkpoints_and_published_weights(folder, tiny_checkpoint, data):
    buffer = io.BytesIO()
    torch.save({"model": {"a.weight": torch.zeros(2), "b": torch.ones(())}, "epoch": 3}, buffer)
    for name, whole in (("a.safetensors", tiny_checkpoint.read_bytes()), ("a.pt", buffer.getvalue())):
        (folder / name).write_bytes(data.draw(damaged(whole)))
        with contextlib.suppress(CheckpointError):
            hsvdet.load(folder / name)
        with contextlib.suppress(CheckpointError, ConfigError):
            read_foreign(folder / name)


class Marked:
    """Its pickle asks for a call, which would leave a mark."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@few
@given(where=st.lists(st.sampled_from(["list", "tuple", "dict", "key"]), max_size=4), old=st.booleans())
def test_no_pickle_is_run(folder, where, old):
    content = Marked(folder / "mark")
    for holder in where:
        content = {
            "list": [content],
            "tuple": (content,),
            "dict": {"model": content},
            "key": {"a": torch.zeros(1), "b": content},
        }[holder]
    path = folder / "marked.pt"
    if old:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError):
        read_foreign(path)
    with pytest.raises(CheckpointError):
        hsvdet.load(path)
    assert not (folder / "mark").exists()


@few
@given(content=changed(HEADER.to_json()))
def test_headers_of_artifacts(content):
    with contextlib.suppress(CheckpointError):
        header = parse_header(json.dumps(content), "a.onnx")
        assert ArtifactHeader.from_json(json.loads(json.dumps(header.to_json()))) == header


@few
@given(content=st.binary(max_size=60), header=st.text(max_size=20))
def test_containers_keep_every_byte(content, header):
    with contextlib.suppress(ValueError):
        opened = open_onnx(content)
        again = open_onnx(close_onnx(opened, header))
        assert (again.before, again.header, again.after) == (opened.before, header, opened.after)


@few
@given(
    model=st.sampled_from(["yolov8-n", "hsv-det-n", "detr-tiny", "rt-detr-r18", "hsg-det-n"]),
    data=st.data(),
)
def test_options_of_models(model, data):
    from hsvdet import models

    config = models.find(model).config
    option = data.draw(st.sampled_from(sorted(vars(config))))
    with contextlib.suppress(ConfigError):
        value = getattr(override(config, {option: data.draw(anything)}), option)
        assert not isinstance(value, float) or math.isfinite(value)


def picture(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(12 * 9 * 3, dtype=np.uint8).reshape(12, 9, 3)).save(buffer, kind, **options)
    return buffer.getvalue()


PICTURES = [picture(kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")]


@few
@given(content=st.sampled_from(PICTURES).flatmap(damaged), shrink=st.sampled_from([1, 2, 8]))
def test_bytes_of_images(content, shrink, monkeypatch_module):
    with contextlib.suppress(DataError):
        pixels = read_pixels(content, shrink)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size > 0


@pytest.fixture(scope="module")
def monkeypatch_module():
    """No damaged header may ask for hundreds of megabytes in a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HSVDET_MAX_PIXELS", "100000")
        yield


@few
@given(content=anything, text_=words)
def test_what_is_shown_obeys_no_escape_and_stays_the_same_json(content, text_):
    from hsvdet.errors import harmless

    shown = harmless(json.dumps([content, text_], ensure_ascii=False))
    assert not any(letter in shown for letter in "\x1b\x9b\u202e")
    assert repr(json.loads(shown)) == repr(json.loads(json.dumps([content, text_])))


def test_the_errors_are_the_users():
    assert all(issubclass(kind, HsvdetError) for kind in (CheckpointError, ConfigError, DataError))
