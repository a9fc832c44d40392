"""Artifacts: the same detections as the detector, in runtimes that know nothing of it."""

import dataclasses
import json
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.ops import batched_nms, box_convert, clip_boxes_to_image

import hsvdet
from hsvdet.data.dataset import DetectionData, Record
from hsvdet.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from hsvdet.models import find
from hsvdet.preprocess import Preprocess
from hsvdet.structures import Detections

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnx_ir as ir  # noqa: E402

from hsvdet import runtime  # noqa: E402
from hsvdet.cli import main  # noqa: E402
from hsvdet.deploy.export import _smaller_canvases  # noqa: E402
from hsvdet.deploy.export_onnx import suppress_onnx, to_onnx  # noqa: E402
from hsvdet.deploy.graph import ExportGraph  # noqa: E402
from hsvdet.deploy.graph_canvas import canvas_graph  # noqa: E402
from hsvdet.deploy.graph_half import layers_near_overflow, to_half  # noqa: E402
from hsvdet.deploy.on_canvas import OnCanvas  # noqa: E402
from hsvdet.deploy.suppression import suppress  # noqa: E402
from hsvdet.layers.precision import may_be_half  # noqa: E402
from hsvdet.runtime import artifact  # noqa: E402
from hsvdet.targets import TARGETS  # noqa: E402
from tiny_data import coco  # noqa: E402

LABELS = ["car", "person", "tree"]
SIZE = (64, 96)
THIN = {"width": 0.0625}
HYBRID = {
    "width": 0.0625,
    "dim": 32,
    "heads": 4,
    "fusion_layers": 1,
    "decoder_layers": 1,
    "tokens": 12,
    "context": 2,
}
SHORT = {"encoder_layers": 1, "decoder_layers": 1}
FAMILIES = {
    "yolov8-n": THIN,
    "hsv-det-n+": THIN | {"context": 2},
    "yolov8-n-e2e": THIN,
    "yolov8-n-dedup": THIN | {"queries": 40, "frozen_detector": False},
    "hsg-det-n": HYBRID | {"queries": 20},
    "detr-tiny": SHORT,
    "conditional-detr-tiny": SHORT,
    "efficient-detr-tiny": SHORT | {"levels": 2},
    # Its graph has all that those of DINO and DN-Deformable DETR have; test_every_model exports these, too.
    "lite-dino-tiny": {"decoder_layers": 1, "levels": 2, "high_levels": 1},
    "sparse-detr-tiny": {"encoder_layers": 2, "decoder_layers": 1, "levels": 2},
    "rt-detr-tiny": {"decoder_layers": 1},
    # As many queries as tokens: of these none is chosen before another by a rounding.
    "mamba-detr-tiny": {"decoder_layers": 1, "directions": 4, "scan_maps": 2, "queries": 130},
}


def lively(name: str, options=None, **preprocess) -> hsvdet.Detector:
    """With statistics, biases and heads such that scores, classes and boxes differ, and depend on the image."""
    torch.manual_seed(0)
    detector = hsvdet.create(name, LABELS, category_ids=[3, 7, 11], options=options)
    detector.preprocess = dataclasses.replace(detector.preprocess, **{"size": SIZE, **preprocess})
    net, (height, width) = detector.net, detector.preprocess.size
    with torch.no_grad():
        for path, parameter in net.named_parameters():
            last = path.endswith(("2.weight", "4.weight")) and "towers" in path
            if path.endswith(("2.bias", "4.bias")) and "class_towers" in path:
                parameter.fill_(-1.0)
            elif path.endswith("2.bias") and "box_towers" in path:  # short distances, so that boxes differ
                parameter.copy_(-0.7 * torch.arange(len(parameter) // 4).repeat(4))
            elif parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif last or "classes" in path or not parameter.any():
                parameter.copy_(
                    torch.randn_like(parameter) * ((0.3 if last else 3) / parameter.shape[1]) ** 0.5
                )
        # Running statistics as after training: with those of a new network the image fades away with depth.
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None
            norm.reset_running_stats()
        shapes = [(height, width), (height // 2, width), (height, width // 3)]
        if detector.preprocess.resize == "shortest":  # each would have a canvas of its own
            shapes = [(height, width)] * 3
        images = [photograph(*shape, seed) // (1 + seed) for seed, shape in enumerate(shapes)]
        inputs, paddings = zip(*(on_canvas(detector, image) for image in images), strict=True)
        net.train()
        net(torch.cat(inputs), torch.cat(paddings))
    net.eval()
    return detector


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def on_canvas(detector, image, minimal=False):
    canvas, at = detector.preprocess.to_canvas(torch.from_numpy(image).permute(2, 0, 1), minimal)
    padding = torch.ones(1, *canvas.shape[1:], dtype=torch.bool)
    padding[:, at.top : at.top + at.height, at.left : at.left + at.width] = False
    return detector.preprocess.normalise(canvas)[None], padding


@torch.inference_mode()
def eager(detector, image, minimal, **options):
    """The detector as it was trained, on the canvas that the artifact has."""
    answer = detector.net(*on_canvas(detector, image, minimal)).answer
    return find(detector.name).reading.detections(answer, [image.shape[:2]], **options)[0]


def assert_same(found, expected):
    """The same detections; those of one score in any order."""
    assert len(found.scores) == len(expected.scores)
    boxes, scores, labels = (np.asarray(part) for part in expected)
    np.testing.assert_allclose(found.scores, scores, atol=3e-4)
    for box, score, label in zip(*found, strict=True):
        same = (np.abs(scores - score) < 6e-4) & (labels == label)
        assert np.abs(boxes[same] - box).max(1).min(initial=np.inf) < 0.02, (box, score, label)


def header_of(detector, **changes):
    values = dict(
        target="onnx", precision="fp32", size=detector.preprocess.size, dynamic=False, score=0.25, floor=0.001,
        iou=0.7, max_detections=120, versions={"hsvdet": "1"},
    )  # fmt: skip
    return artifact.ArtifactHeader(**detector.header(), **values | changes)


def written(detector, path, dynamic=False):
    # Below 1e-6 sigmoids are each runtime's own.
    floor = 0.001 if find(detector.name).reading.suppresses else 1e-6
    graph = ExportGraph(detector, score=0.25, floor=floor, iou=0.7, max_detections=120)
    model = to_onnx(graph, detector.preprocess, dynamic=dynamic)
    artifact.set_onnx_header(model, header_of(detector, floor=floor, dynamic=dynamic))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def detector():
    return lively("yolov8-n", THIN)


@pytest.fixture(scope="module")
def path(detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifact")
    report = hsvdet.export(detector, "onnx", folder / "yolo.onnx", max_detections=120, certify=False)
    assert report.bytes == (folder / "yolo.onnx").stat().st_size and report.passed
    return folder / "yolo.onnx"


@pytest.mark.parametrize("name", FAMILIES)
def test_an_artifact_of_any_family_detects_what_the_detector_detects(name, tmp_path):
    padded = {} if name in ("yolov8-n", "rt-detr-tiny", "mamba-detr-tiny") else {"resize": "fit"}
    detector = lively(name, FAMILIES[name], **padded)
    run = runtime.load(written(detector, tmp_path / "a.onnx"), threads=1)
    for size in ((64, 96), (50, 40), (30, 111)):
        images = [photograph(*size, seed) for seed in range(3)]
        for image, found in zip(images, run(images, score=run.header.floor), strict=True):
            expected = eager(detector, image, False, score=run.header.floor, max_detections=120)
            assert_same(found, expected)
            assert len(found.scores) > 2


def test_an_artifact_answers_in_the_mode_it_was_exported_in(tmp_path):
    """With temperatures that were fitted. Mode "full" of this model is exported below."""
    detector = lively("hsg-det-n+", HYBRID | {"queries": 40, "balanced_queries": 10}, resize="fit")
    detector.net.temperatures.copy_(torch.tensor([2.0, 0.6]))
    image, found = photograph(50, 90), [eager(detector, photograph(50, 90), False, score=0.01)]
    for mode in ("edge", "balanced"):
        answering = detector.with_options({"mode": mode})
        run = runtime.load(written(answering, tmp_path / f"{mode}.onnx"), threads=1)
        assert run.header.config["mode"] == mode
        found.append(run(image, score=0.01))
        assert_same(found[-1], eager(answering, image, False, score=0.01, max_detections=120))
    assert len({tuple(np.asarray(one.scores)[:20].round(3)) for one in found}) == 3


@pytest.mark.parametrize(
    "name, options, resize",
    [
        ("hsv-det-n", THIN | {"k": 6, "insert": ("P5",)}, "letterbox"),
        ("hsg-det-n+", HYBRID | {"queries": 20, "feedback": True, "token_mass": 0.8}, "letterbox"),
        ("detr-tiny", SHORT, "shortest"),
        ("anchor-detr-tiny", SHORT, "shortest"),
        ("deformable-detr-two-stage-tiny", SHORT | {"levels": 2}, "shortest"),
        ("sparse-detr-tiny", {"encoder_layers": 2, "decoder_layers": 1, "levels": 2}, "fit"),
    ],
)
def test_a_dynamic_artifact_has_the_canvas_of_the_detector_itself(name, options, resize, tmp_path):
    detector = lively(name, options, size=(128, 160), resize=resize)
    run = runtime.load(written(detector, tmp_path / "a.onnx", dynamic=True), threads=1)
    for size in ((128, 160), (50, 90), (90, 50), (200, 40)):
        image = photograph(*size)
        options = dict(score=run.header.floor, max_detections=120)
        assert_same(run(image, **options), detector(image, **options).detections)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("resize", ["letterbox", "fit", "stretch", "shortest"])
def test_preprocessing_in_the_graph_is_that_of_the_detector_bit_for_bit(resize, antialias):
    preprocess = Preprocess(size=(64, 96), resize=resize, antialias=antialias, mean=(0.4, 0.5, 0.6))
    for minimal in {False, True} if resize != "shortest" else {True}:
        model = ir.to_proto(canvas_graph(preprocess, minimal=minimal and resize != "stretch"))
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for height, width in [(64, 96), (97, 61), (33, 210), (200, 300), (1, 7), (480, 64)]:
            image = photograph(height, width)
            canvas, content, size = session.run(None, {"images": image[None]})
            expected, place = preprocess.to_canvas(torch.from_numpy(image).permute(2, 0, 1), minimal)
            assert tuple(content) == tuple(place) and tuple(size) == (height, width)
            np.testing.assert_allclose(canvas[0], preprocess.normalise(expected), atol=1e-6)


def test_suppression_in_the_graph_is_that_of_the_detector():
    class Suppress(torch.nn.Module):
        def forward(self, boxes, scores, labels):
            return suppress(boxes, scores, labels, 4, 0.5, 0.1)

    corner, side = torch.rand(2, 90, 2) * 60, torch.rand(2, 90, 2) * 40 + 5
    boxes, scores = torch.cat([corner, corner + side], -1), torch.rand(2, 90)
    labels = torch.randint(4, (2, 90))
    program = torch.onnx.export(
        Suppress().eval(),
        (boxes, scores, labels),
        dynamo=True,
        verbose=False,
        custom_translation_table={torch.ops.hsvdet.suppress.default: suppress_onnx},
    )
    session = ort.InferenceSession(program.model_proto.SerializeToString())
    inputs = [item.name for item in session.get_inputs()]
    arrays = (boxes.numpy(), scores.numpy(), labels.numpy())
    (kept,) = session.run(None, dict(zip(inputs, arrays, strict=True)))
    for image in range(2):
        strong = (scores[image] > 0.1).nonzero().squeeze(1)
        own = strong[batched_nms(boxes[image, strong], scores[image, strong], labels[image, strong], 0.5)]
        assert set(kept[image].nonzero()[0]) == set(own.tolist())
        assert 0 < len(own) < len(strong)


def test_an_artifact_suppresses_whole_boxes_and_cuts_them_off_after(path, detector):
    run = runtime.load(path, threads=1)
    turned = 0
    for seed in range(4):
        image = photograph(64, 96, seed)
        with torch.inference_mode():
            answer = detector.net(*on_canvas(detector, image)).answer
        scores, labels = answer.logits[0].sigmoid().max(-1)
        scale = torch.tensor([96.0, 64, 96, 64])
        boxes = box_convert(answer.boxes[0], "cxcywh", "xyxy") * scale
        cut = clip_boxes_to_image(boxes, (64, 96))
        keep = batched_nms(boxes, scores, labels, 0.7)
        kept = scores[keep] > 0.001
        assert_same(
            run(image, score=0.001), Detections(*(part[keep][kept][:120] for part in (cut, scores, labels)))
        )
        turned += set(keep.tolist()) != set(batched_nms(cut, scores, labels, 0.7).tolist())
    assert turned  # it would have mattered


@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize("poisoned", ["net.stem.conv.weight", "net.head.box_towers.0.2.bias"])
def test_an_artifact_tells_of_an_answer_that_is_not_finite(path, tmp_path, capsys, target, poisoned):
    model = onnx.load(path)
    (weight,) = (value for value in model.graph.initializer if value.name == poisoned)
    array = onnx.numpy_helper.to_array(weight).copy()
    if "stem" in poisoned:
        array[:] = 3e38  # overflows where there is light
    else:
        array[3] = np.nan  # one side of the boxes of one level, in every image
    weight.CopyFrom(onnx.numpy_helper.from_array(array, poisoned))
    file = tmp_path / ("a.onnx" if target == "onnx" else "a.xml")
    if target == "onnx":
        onnx.save(model, file)
    else:
        write_openvino = pytest.importorskip("hsvdet.deploy.export_openvino")
        header = dataclasses.replace(artifact.read_header(path), target="openvino")
        write_openvino.write_openvino(file, write_openvino.to_openvino(model), header)
    detect, dark, light = runtime.load(file, threads=1), np.zeros((*SIZE, 3), np.uint8), photograph(*SIZE)
    boxes, scores, labels, count = detect.run(np.stack([dark, light]))
    bad = [False, True] if "stem" in poisoned else [True, True]
    assert (count < 0).tolist() == bad and np.isnan(scores).all(1).tolist() == bad
    with pytest.raises(
        NonFiniteError, match=f"^image {bad.index(True) + 1} of the list: the artifact's answer"
    ):
        detect([dark, light])
    assert bad[0] or len(detect([dark])) == 1

    Image.fromarray(light).save(tmp_path / "light.png")
    assert main(["predict", str(file), str(tmp_path / "light.png"), "--out", str(tmp_path / "seen")]) == 2
    assert f"{tmp_path}/light.png: the artifact's answer is not finite" in capsys.readouterr().err
    nothing = np.zeros(0, np.int64)
    record = Record(
        1, str(tmp_path / "light.png"), SIZE, np.zeros((0, 4)), nothing, nothing.astype(bool), nothing
    )
    with pytest.raises(NonFiniteError, match=r"light\.png: the artifact"):
        hsvdet.val(file, DetectionData([record], tuple(LABELS), (3, 7, 11), tmp_path, "val", "coco"))


def test_what_is_counted_passes_the_score_and_weaker_rows_follow(path):
    session = ort.InferenceSession(path)
    boxes, scores, labels, count = session.run(None, {"images": photograph(8, 96)[None]})
    assert boxes.shape == (1, 120, 4) and boxes.dtype == scores.dtype == np.float32
    assert (np.diff(scores[0]) <= 0).all() and (scores[0] > 0.25).sum() == count[0]
    empty = scores[0] == 0  # most boxes of so flat an image are suppressed
    assert empty.any() and (labels[0][empty] == -1).all() and not boxes[0][empty].any()
    assert (labels[0][~empty] >= 0).all() and scores[0][~empty].min() > 0.001


def test_openvino_answers_as_onnx_runtime(path, detector, tmp_path, monkeypatch):
    openvino = pytest.importorskip("openvino")
    hsvdet.export(detector, "openvino", tmp_path / "a.xml", max_detections=120, certify=False)
    header = artifact.read_header(tmp_path / "a.xml")
    assert artifact.read_header(tmp_path / "a.xml").labels == tuple(LABELS)
    run, other = runtime.load(path, threads=1), runtime.load(tmp_path / "a.xml", threads=1)
    for size in ((64, 96), (50, 40)):
        images = [photograph(*size, seed) for seed in range(9)]
        other(images[0], score=0.001)  # what a runtime remembers of one image must not answer for two
        for found, expected in zip(other(images, score=0.001), run(images, score=0.001), strict=True):
            assert_same(found, expected)
    artifact.write_header(tmp_path / "a.xml", dataclasses.replace(header, certificate={"passed": True}))
    assert artifact.read_header(tmp_path / "a.xml").certificate == {"passed": True}
    assert len(runtime.load(tmp_path / "a.xml", threads=1)(photograph(20, 20), score=0.001).scores)

    hints = []
    compile_model = openvino.Core.compile_model
    monkeypatch.setattr(
        openvino.Core, "compile_model",
        lambda core, model, device, settings: hints.append(settings["INFERENCE_PRECISION_HINT"])
        or compile_model(core, model, device, settings),
    )  # fmt: skip
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "BF16"])
    for precision in ("fp32", "fp16", "int8", "bf16"):
        artifact.write_header(tmp_path / "a.xml", dataclasses.replace(header, precision=precision))
        again = runtime.load(tmp_path / "a.xml", threads=1)
        again(photograph(20, 20))
    # In bfloat16 the canvas is made in float32: OpenVINO else writes into the weights of what follows.
    assert hints == ["f32", "f32", "f32", "f32", "bf16"]
    mixed = [photograph(*size) for size in ((385, 577), (169, 640), (480, 225))]
    for image in mixed:
        after_others = again(image, score=0.001)
    alone = runtime.load(tmp_path / "a.xml", threads=1)(mixed[-1], score=0.001)
    assert_same(after_others, alone)


def test_float16_keeps_scores_and_boxes_in_float32(path, detector, tmp_path):
    model = ir.from_proto(onnx.load(path))
    to_half(model, may_be_half(detector.deploy().net, "net"), ("net.stem.conv",))
    types = {node.op_type: set() for node in model.graph}
    for node in model.graph:
        types[node.op_type].add(node.outputs[0].dtype)
    assert types["Conv"] == {ir.DataType.FLOAT, ir.DataType.FLOAT16}  # float32: the stem and the heads' last
    assert ir.DataType.FLOAT16 not in types["Softmax"] | types["TopK"] | types["Div"] | types["Sub"]
    onnx.save(ir.to_proto(model), tmp_path / "half.onnx")
    assert (tmp_path / "half.onnx").stat().st_size < 0.75 * path.stat().st_size
    whole, half = runtime.load(path, threads=1), runtime.load(tmp_path / "half.onnx", threads=1)
    image = photograph(64, 96)
    expected, found = whole(image, score=0.001), half(image, score=0.001)
    np.testing.assert_allclose(found.scores[:5], expected.scores[:5], rtol=0.05)
    assert np.abs(found.boxes[0] - expected.boxes[0]).max() < 1.5


def test_layers_whose_values_would_overflow_float16_are_found():
    detector = lively("yolov8-n", THIN)
    with torch.no_grad():
        detector.net.stage2[0].norm.weight.mul_(1e6)
    graph = ExportGraph(detector, score=0.25, floor=0.001, iou=0.7, max_detections=120)
    inputs = torch.rand(1, 3, *SIZE), torch.tensor([0, 0, 96, 64]), torch.tensor([64, 96])
    found = layers_near_overflow(graph, [inputs])
    assert {"net.stage2.0.conv", "net.stage2.1.split.conv"} <= set(found) and "net.stem.conv" not in found


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_an_executorch_program_reads_the_canvas_row_by_row(resize, tmp_path, monkeypatch):
    """Whatever strides a tensor has; a resized image that fills its canvas keeps those of an image file."""
    detector = lively("yolov8-n", THIN, resize=resize)
    graph = ExportGraph(detector, score=0.25, floor=0.001, iou=0.7, max_detections=120, portable=True)
    program = OnCanvas(graph, detector.preprocess).eval()

    class Program:  # as executorch.runtime has it, which is not installed here
        def load_program(self, path):
            return self

        def load_method(self, name):
            return self

        @torch.inference_mode()
        def execute(self, inputs):
            return program(*(x.as_strided(x.shape, torch.empty(x.shape).stride()) for x in inputs))

    package, module = ModuleType("executorch"), ModuleType("executorch.runtime")
    module.Runtime = SimpleNamespace(get=Program)
    monkeypatch.setitem(sys.modules, "executorch", package)
    monkeypatch.setitem(sys.modules, "executorch.runtime", module)
    (tmp_path / "a.pte").write_bytes(b"")
    artifact.write_header(tmp_path / "a.pte", header_of(detector, target="executorch"))
    for image in (photograph(64, 96), photograph(50, 40)):
        found = runtime.load(tmp_path / "a.pte")(image, score=0.001)
        assert_same(found, eager(detector, image, False, score=0.001, max_detections=120))


def test_the_header_survives_and_says_where_the_weights_come_from(path, detector):
    header = artifact.read_header(path)
    assert (header.model, header.labels, header.category_ids) == ("yolov8-n", tuple(LABELS), (3, 7, 11))
    assert (header.licence, header.source) == (detector.licence, detector.source)
    assert Preprocess(**header.preprocess) == detector.preprocess
    again = artifact.ArtifactHeader.from_json(json.loads(json.dumps(header.to_json())))
    assert again == header
    before = runtime.load(path, threads=1)(photograph(30, 30), score=0.001)
    artifact.write_header(path, dataclasses.replace(header, certificate={"passed": False}))
    run = runtime.load(path, threads=1)
    assert run.header.certificate == {"passed": False} and run.labels == tuple(LABELS)
    assert np.array_equal(run(photograph(30, 30), score=0.001).boxes, before.boxes)


def test_predict_and_val_take_an_artifact_as_they_take_a_checkpoint(path, detector, tmp_path, capsys):
    Image.fromarray(photograph(64, 96)).save(tmp_path / "a.png")
    options = dict(score=0.001, max_detections=120, pictures=False)
    hsvdet.predict(detector, [tmp_path / "a.png"], tmp_path / "ours", precision="fp32", **options)
    hsvdet.predict(path, [tmp_path / "a.png"], tmp_path / "artifact", **options)
    ours, artifact = (
        json.loads((tmp_path / name / "detections.json").read_text()) for name in ("ours", "artifact")
    )
    assert [row["category_id"] for row in ours] == [row["category_id"] for row in artifact] and len(ours) > 2
    np.testing.assert_allclose([row["bbox"] for row in ours], [row["bbox"] for row in artifact], atol=0.05)
    sizes = ["--out", str(tmp_path / "other"), "--size", "64"]
    assert main(["predict", str(path), str(tmp_path / "a.png"), *sizes]) == 2
    assert "size is for checkpoints" in capsys.readouterr().err
    left, top, width, height = ours[9]["bbox"]
    box, area = np.array([[left, top, left + width, top + height]], np.float32), np.array([900], np.float32)
    label = np.array([(3, 7, 11).index(ours[9]["category_id"])])
    record = Record("a", tmp_path / "a.png", (64, 96), box, label, np.array([False]), area)
    data = DetectionData([record], tuple(LABELS), (3, 7, 11), tmp_path, "val", "coco")
    found = hsvdet.val(path, data, max_detections=120)
    assert found.objects == 1 and found.detections == len(ours)
    assert (found.suppressed_at, found.max_detections) == (0.7, 120) and found.duplicates_before is None
    as_checkpoint = hsvdet.val(detector, data, max_detections=120, device="cpu", workers=0, diagnose=True)
    assert as_checkpoint.suppressed_at == 0.7 and as_checkpoint.to_json().keys() == found.to_json().keys()
    assert as_checkpoint.ap == found.ap > 0 and as_checkpoint.detections == found.detections
    assert "one class a box" in found.table() and "one class a box" in as_checkpoint.table()
    one, every = (hsvdet.val(detector, data, device="cpu", workers=0, multi_label=m) for m in (False, True))
    assert every.detections > one.detections and every.multi_label and "every class" in every.table()
    for option in ("diagnose", "multi-label"):
        assert main(["val", str(path), "--data", str(tmp_path), f"--{option}"]) == 2
        assert f"{option} is for checkpoints" in capsys.readouterr().err


def test_a_rejected_artifact_takes_no_other_formats_weights_along(tmp_path):
    from hsvdet.runtime.artifact import accept

    for name in ("a.rejected.onnx", "a.rejected.xml", "a.rejected.bin", "a.bin"):
        (tmp_path / name).write_text(name)
    accept(tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_text() == "a.rejected.onnx" and (
        tmp_path / "a.bin"
    ).read_text() == "a.bin"
    accept(tmp_path / "a.xml")
    assert (tmp_path / "a.bin").read_text() == "a.rejected.bin"


def test_the_runtime_needs_no_pytorch(path, tmp_path):
    Image.fromarray(photograph(50, 70)).save(tmp_path / "a.png")
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'scipy', 'onnx', 'onnxscript', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from hsvdet import runtime\n"
        f"detect = runtime.load({str(path)!r}, threads=1)\n"
        f"boxes, scores, labels = detect({str(tmp_path / 'a.png')!r}, score=0.001)\n"
        "print(len(boxes), [detect.labels[i] for i in labels][0], type(boxes).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, label, kind = done.stdout.split()
    assert int(count) > 2 and label in LABELS and kind == "ndarray"


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(score=0.0001), "0.001 to 1"),
        (dict(max_detections=121), "1 to 120"),
        (dict(iou=0.5), "--iou 0.5"),
    ],
)
def test_the_runtime_refuses_what_the_artifact_does_not_have(path, options, words):
    with pytest.raises(ConfigError, match=words):
        runtime.load(path, threads=1)(photograph(20, 20), **options)


def test_files_that_are_no_artifacts_are_named(path, tmp_path):
    bare = onnx.load(path)
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    (tmp_path / "broken.onnx").write_bytes(path.read_bytes()[:1000])
    for name in ("bare.onnx", "broken.onnx", "none.onnx"):
        for reader in (runtime.load, artifact.read_header):
            with pytest.raises(CheckpointError, match=name):
                reader(tmp_path / name)
    with pytest.raises(CheckpointError, match="format 3.*newer"):
        artifact.ArtifactHeader.from_json({"format": 3})
    with pytest.raises(CheckpointError, match="format 1.*reads format 2. Export it again"):
        artifact.ArtifactHeader.from_json({"format": 1})


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(to="tflite"), "one of onnx"),
        (dict(to="onnx", precision="int8"), "--calibrate"),
        (dict(to="onnx", precision="fp64"), "fp32, bf16, fp16, int8"),
        (dict(to="onnx", precision="bf16"), "got bf16, which OpenVINO can have"),
        (dict(to="openvino", out="a.onnx"), "NAME.xml"),
        (dict(to="onnx", score=2), "from 0 to 1"),
        (dict(to="onnx", size=(60, 96)), "multiples of 32"),
    ],
)
def test_export_says_what_it_cannot_do(detector, arguments, words):
    with pytest.raises(ConfigError, match=words):
        hsvdet.export(detector, **arguments)


def test_a_selector_by_chance_is_not_exported():
    with pytest.raises(ConfigError, match=r"selects its tokens by chance.*Train with another option"):
        hsvdet.export(lively("hsv-det-n", THIN | {"selector": "random"}), "onnx")


def test_a_missing_package_is_named(detector, monkeypatch):
    monkeypatch.setattr("hsvdet.deploy.export.find_spec", lambda name: None if name == "openvino" else 1)
    with pytest.raises(ConfigError, match="pip install openvino"):
        hsvdet.export(detector, "openvino")


def test_data_without_a_validation_split_are_refused_before_anything_is_written(detector, tmp_path):
    data, out = coco(tmp_path, [(1, 3, [10, 10, 30, 30])]), tmp_path / "a.onnx"
    with pytest.raises(DataError, match="has no split 'val', it has train"):
        hsvdet.export(detector, "onnx", out, data=data.parent)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".onnx"]


def test_an_export_says_where_the_checkpoint_has_smaller_canvases(detector, tmp_path):
    data = coco(tmp_path, [(1, 3, [10, 10, 30, 30])], split="val").parent

    def notes(**asked) -> str:
        return str(hsvdet.export(detector, "onnx", tmp_path / "a.onnx", data=data, certify=False, **asked))

    # 100x80 pixels are 160x128 on 160x160, and 80x64, rounded up to 96x64, on 64x96.
    assert "A smaller canvas, such as 128x160, is enough for 1 of 1 image" in notes(size=(160, 160))
    assert "A smaller canvas" not in notes(size=(160, 160), dynamic=True) + notes()
    # Where there are no canvases by image, none is advised.
    preprocess = detector.preprocess.resized((160, 160))
    records = hsvdet.read_data(data, "val", labels=LABELS)
    ((advised,), (bare,)) = (
        _smaller_canvases(preprocess, records, TARGETS[name]) for name in ("onnx", "executorch")
    )
    assert advised == bare + " With --dynamic it is as the checkpoint."


def test_the_command_reports_errors_in_one_line(tiny_checkpoint, capsys):
    assert main(["export", str(tiny_checkpoint), "--to", "onnx", "--precision", "int8"]) == 2
    assert "--calibrate DATA" in capsys.readouterr().err


def test_every_target_has_its_builder_and_what_runs_has_its_runner():
    from importlib.util import find_spec

    from hsvdet.targets import RUNNABLE, TARGETS, target_of

    for name, target in TARGETS.items():
        assert find_spec(f"hsvdet.deploy.export_{name}"), name
        assert bool(find_spec(f"hsvdet.runtime.run_{name}")) == (target in RUNNABLE), name
        assert target_of(f"a/best{target.suffix}") is target
        assert "fp32" in target.precisions and target.packages


@pytest.mark.parametrize("to, precision", [("onnx", "bf16"), ("executorch", "int8"), ("coreml", "fp16")])
def test_a_precision_that_a_target_does_not_have_is_refused_by_name(to, precision, tiny_checkpoint):
    with pytest.raises(ConfigError, match=f"got {precision}, which .*OpenVINO.* can have"):
        hsvdet.export(tiny_checkpoint, to, precision=precision, calibrate="nowhere")
