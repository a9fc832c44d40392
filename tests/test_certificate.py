"""The certificate passes a right artifact, and catches faults that were put into real ones."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import hsvdet
from hsvdet.certificate.agreement import Candidates, Found, Rules, compare
from hsvdet.certificate.tolerance import TOLERANCES
from hsvdet.data.scenes import generate_scene

LABELS = ("car", "person", "ball")
FP32 = TOLERANCES["fp32"]


def found(*detections):
    """(left, score, label) each, 100 x 100 pixels."""
    lefts, scores, labels = zip(*detections, strict=True) if detections else ((), (), ())
    boxes = np.array([[left, 0, left + 100, 100] for left in lefts], np.float32).reshape(-1, 4)
    return Found(boxes, np.array(scores, np.float32), np.array(labels, np.int64))


def agreement(expected, came, *rivals, iou=0.7, max_detections=300, one_class=True, query=None):
    """rivals: candidates that the reference suppressed or did not choose."""
    everything = found(*expected, *rivals)
    query = np.arange(len(everything.scores)) if query is None else np.array(query)
    rules = Rules(0.25, iou, max_detections, one_class, (1.0, 1.0))
    return compare(found(*expected), found(*came), Candidates(*everything, query), rules, FP32, LABELS)


def kinds(result):
    return [difference.kind for difference in result.differences]


def test_detections_are_matched_one_to_one_in_any_order_of_equals():
    result = agreement([(0, 0.9, 0), (300, 0.9, 0)], [(300, 0.9, 0), (0, 0.9, 0)])
    assert sorted(map(tuple, result.pairs.tolist())) == [(0, 1), (1, 0)] and not result.differences
    assert kinds(agreement([(0, 0.9, 0)], [(0, 0.9, 0), (0, 0.9, 0)])) == ["extra"]


def test_a_detection_at_the_threshold_is_a_tie_and_one_above_it_is_missing():
    assert agreement([(0, 0.9, 0), (300, 0.252, 0)], [(0, 0.9, 0)]).ties == 1
    assert kinds(agreement([(0, 0.9, 0), (300, 0.3, 0)], [(0, 0.9, 0)])) == ["missing"]


def test_the_weakest_of_a_full_list_may_be_another():
    result = agreement(
        [(0, 0.9, 0), (300, 0.8, 0)], [(0, 0.9, 0), (600, 0.799, 0)], (600, 0.799, 0), max_detections=2
    )
    assert result.ties == 2 and not result.differences
    # But one that the reference does not know is no tie, however weak.
    result = agreement([(0, 0.9, 0), (300, 0.8, 0)], [(0, 0.9, 0), (600, 0.799, 0)], max_detections=2)
    assert kinds(result) == ["extra"]


def test_of_two_equally_strong_boxes_either_may_suppress_the_other():
    assert agreement([(0, 0.900, 0)], [(10, 0.899, 0)], (10, 0.899, 0)).ties == 2
    assert kinds(agreement([(0, 0.9, 0)], [(10, 0.6, 0)], (10, 0.6, 0))) == ["box"]
    assert kinds(agreement([(0, 0.9, 0)], [(10, 0.899, 0)])) == ["box"], "a box the reference never had"


def test_an_overlap_at_the_threshold_of_suppression_is_a_tie():
    at_the_edge = (17.6, 0.6, 0)  # IoU 0.7007 with the box at 0
    assert agreement([(0, 0.9, 0)], [(0, 0.9, 0), at_the_edge], at_the_edge).ties == 1
    inside = (10, 0.6, 0)
    assert kinds(agreement([(0, 0.9, 0)], [(0, 0.9, 0), inside], inside)) == ["extra"]


def test_a_query_torn_between_two_classes_may_answer_with_either():
    torn = dict(query=[0, 0])
    assert agreement([(0, 0.60, 0)], [(0, 0.599, 1)], (0, 0.599, 1), **torn).ties == 2
    assert kinds(agreement([(0, 0.60, 0)], [(0, 0.599, 1)])) == ["class"]
    assert kinds(agreement([(0, 0.60, 0)], [(0, 0.4, 1)], (0, 0.4, 1), **torn)) == ["class"]


def test_scores_boxes_and_order_are_judged():
    assert kinds(agreement([(0, 0.9, 0)], [(0, 0.8, 0)])) == ["score"]
    assert kinds(agreement([(0, 0.9, 0)], [(3, 0.9, 0)])) == ["box"]
    assert kinds(agreement([(0, 0.9, 0), (300, 0.5, 0)], [(300, 0.5, 0), (0, 0.9, 0)])) == ["order"]
    assert kinds(agreement([(0, 0.9, 0)], [(0, float("nan"), 0)])) == ["not finite"]
    assert kinds(agreement([(0, 0.9, 0)], [(0, 0.9, 3)])) == ["label"]


# From here on with artifacts.

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


def looking_detector():
    """A tiny HSV-DET with random weights whose answer depends on the image: normalised by what it sees, with scores
    spread so that one cell in twenty detects."""
    torch.manual_seed(0)
    size = (96, 128)
    options = {"width": 0.0625, "k": 8, "insert": ("P5",), "gate_value": 0.5, "gate": "fixed"}
    detector = hsvdet.create("hsv-det-n", LABELS, size=size, category_ids=[3, 7, 9], options=options)
    scenes = [generate_scene(seed=3, index=i, size=size).image for i in range(8)]
    images = detector.preprocess.normalise(torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2))
    head = detector.net.head
    with torch.no_grad():
        for module in detector.net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the mean over all that it sees
        detector.net.train()(images)
        detector.net.eval()
        for tower in head.box_towers:
            tower[-1].weight.mul_(4)
        spread = detector.net(images).answer.logits.std()
        for tower in head.class_towers:
            tower[-1].weight.mul_(1.5 / spread)
        cut = detector.net(images).answer.logits.amax(-1).quantile(0.95)
        for tower in head.class_towers:
            tower[-1].bias.sub_(cut)
    return detector


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A detector and the model of its artifact."""
    from hsvdet.deploy.export import export

    torch.set_num_threads(1)
    detector = looking_detector()
    path = tmp_path_factory.mktemp("artifact") / "right.onnx"
    export(detector, "onnx", path, certify=False)
    return detector, onnx.load(path)


@pytest.fixture
def certified(exported, tmp_path):
    """Certify a model, with another header if `header` changes it."""
    from hsvdet.certificate import certify
    from hsvdet.runtime.artifact import read_header, set_onnx_header

    detector, right = exported

    def run(model=None, detector=detector, **header):
        path = tmp_path / "artifact.onnx"
        model = copied(right) if model is None else model
        onnx.save(model, path)
        if header:
            set_onnx_header(model, dataclasses.replace(read_header(path), **header))
            onnx.save(model, path)
        return certify(detector, path, images=2)

    return run


def header_of(model):
    return json.loads(next(entry.value for entry in model.metadata_props if entry.key == "hsvdet"))


def copied(model):
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other


def rewired(model, name, *nodes):
    """`nodes` between the value `name`, which they read as "before", and all that read it."""
    for node in model.graph.node:
        for i, output in enumerate(node.output):
            if output == name:
                node.output[i] = "before"
                place = list(model.graph.node).index(node) + 1
    for i, node in enumerate(nodes):
        model.graph.node.insert(place + i, node)
    return model


def with_canvas(exported, **changes):
    """The artifact with another preprocessing in front of the same network."""
    import onnx_ir as ir

    from hsvdet.deploy.graph_canvas import canvas_graph

    detector, right = exported
    joints = ["canvas", "content", "size"]
    outputs = [output.name for output in right.graph.output]
    network = onnx.utils.Extractor(right).extract_model(joints, outputs)
    canvas = ir.to_proto(canvas_graph(dataclasses.replace(detector.preprocess, **changes), minimal=False))
    canvas.ir_version = network.ir_version
    model = onnx.compose.merge_models(canvas, network, io_map=[(name, name) for name in joints])
    model.metadata_props.extend(right.metadata_props)
    return model


def test_a_right_artifact_is_certified_in_its_own_file_beside_it_and_in_a_picture(certified, tmp_path):
    from hsvdet.certificate.hashes import artifact_sha256
    from hsvdet.runtime.artifact import read_header

    certificate = certified()
    assert certificate.passed, certificate
    assert sum(check.agree for check in certificate.images) > 100
    sides = [check.size for check in certificate.images]
    assert any(h > w for h, w in sides) and any(h < w for h, w in sides)
    assert min(map(min, sides)) < 16 and max(map(max, sides)) > 2000
    path = tmp_path / "artifact.onnx"
    beside = json.loads((tmp_path / "artifact.onnx.certificate.json").read_text())
    assert read_header(path).certificate == beside == json.loads(json.dumps(certificate.to_json()))
    assert (tmp_path / "artifact.onnx.certificate.png").read_bytes()[:4] == b"\x89PNG"
    assert artifact_sha256(path) == certificate.artifact_sha256, "the certificate changes its own hash"


def test_swapped_channels_are_caught_before_the_network(certified, exported):
    model = copied(exported[1])
    swap = [
        onnx.helper.make_node("Constant", [], ["bgr"], value_ints=[2, 1, 0]),
        onnx.helper.make_node("Gather", ["before", "bgr"], ["canvas"], axis=1),
    ]
    certificate = certified(rewired(model, "canvas", *swap))
    assert not certificate.passed and certificate.diverges.layer == "preprocessing"


@pytest.mark.parametrize("changes", [{"resize": "fit"}, {"fill": 0}], ids=str)
def test_another_letterbox_is_caught(certified, exported, changes):
    certificate = certified(with_canvas(exported, **changes))
    assert not certificate.passed and certificate.diverges.layer == "preprocessing"


def test_float16_overflow_is_caught_and_its_layer_named(certified, exported):
    model = copied(exported[1])
    conv = next(node for node in model.graph.node if "stage4.0.conv.weight" in "".join(node.input))
    whole = conv.output[0]
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    nodes = [
        onnx.helper.make_node("Constant", [], ["much"], value_float=3e5),
        onnx.helper.make_node("Mul", ["before", "much"], ["large"]),
        onnx.helper.make_node("Cast", ["large"], ["half"], to=half),
        onnx.helper.make_node("Cast", ["half"], ["single"], to=single),
        onnx.helper.make_node("Div", ["single", "much"], [whole]),
    ]
    for node in nodes:
        node.metadata_props.extend(conv.metadata_props)
    certificate = certified(rewired(model, whole, *nodes), precision="fp16")
    assert not certificate.passed
    assert certificate.diverges.layer == "stage4.0.conv" and not certificate.diverges.finite
    assert any("65504" in reason for reason in certificate.reasons)


def test_a_wrong_order_of_top_k_is_caught(certified, exported):
    last = [node.name for node in exported[1].graph.node if node.op_type == "TopK"][-1]
    model = copied(exported[1])
    node = next(node for node in model.graph.node if node.name == last)
    del node.attribute[:]
    node.attribute.extend([onnx.helper.make_attribute("axis", -1), onnx.helper.make_attribute("largest", 0)])
    certificate = certified(model)
    assert not certificate.passed and certificate.diverges.layer == "post-processing"


def test_a_stale_class_map_is_caught_in_the_header_and_in_the_graph(certified, exported):
    from hsvdet.certificate.reasons import of_class_map
    from hsvdet.runtime.artifact import ArtifactHeader

    detector = exported[0]
    header = ArtifactHeader.from_json(header_of(exported[1]))
    assert not of_class_map(detector, header)
    renumbered = dataclasses.replace(header, category_ids=(1, 2, 3))
    assert "'car' has category id 1, the detector's is 3" in of_class_map(detector, renumbered)[0]
    permuted = dataclasses.replace(header, labels=("person", "car", "ball"))
    assert "label 0 is 'person'" in of_class_map(detector, permuted)[0]
    model = copied(exported[1])
    swap = [
        onnx.helper.make_node("Constant", [], ["order"], value_ints=[1, 0, 2]),
        onnx.helper.make_node("Gather", ["order", "before"], ["labels"]),
    ]
    certificate = certified(rewired(model, "labels", *swap), category_ids=(1, 2, 3))
    assert not certificate.passed and "category id" in certificate.reasons[0]
    assert "is called" in certificate.reasons[1]


def test_a_changed_weight_is_found_in_its_layer(certified, exported):
    model = copied(exported[1])
    weight = next(w for w in model.graph.initializer if "stage3.0.conv.weight" in w.name)
    changed = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.1, weight.name)
    weight.CopyFrom(changed)
    assert certified(model).diverges.layer == "stage3.0.conv"


def test_comparing_nothing_is_a_failure(certified, exported):
    import copy

    silent = copy.deepcopy(exported[0])
    with torch.no_grad():
        for tower in silent.net.head.class_towers:
            tower[-1].bias.sub_(30)
    certificate = certified(detector=silent)
    assert not certificate.passed and "nothing was compared" in certificate.reasons[0]


def test_an_artifact_that_detects_otherwise_does_not_get_its_name(exported, tmp_path, monkeypatch):
    import hsvdet.deploy.export
    from hsvdet.deploy.export import export

    detector, right = exported
    model = copied(right)
    monkeypatch.setattr(hsvdet.deploy.export, "_onnx", lambda *_: model)
    path = tmp_path / "street.onnx"
    assert export(detector, "onnx", path).path == str(path)
    before = path.read_bytes()
    weight = next(w for w in model.graph.initializer if "stage3.0.conv.weight" in w.name)
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
    report = export(detector, "onnx", path)
    assert not report.passed and report.path == str(tmp_path / "street.rejected.onnx")
    assert path.read_bytes() == before and (tmp_path / "street.rejected.onnx.certificate.json").exists()


def test_one_differing_detection_in_fifty_is_borne_in_fp16_and_none_in_fp32():
    from hsvdet.certificate.agreement import Agreement, Difference, failure
    from hsvdet.certificate.certificate import ImageCheck
    from hsvdet.certificate.reasons import of_differences

    none = Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    missing = Difference("missing", 0, None, 0.6, "missing: car 0.6")
    agreement = Agreement(none, none, np.zeros((0, 2), int), 0, (missing,), 0.0, 1.0, 0.0)

    def refused(differences, precision, worst=agreement):
        check = ImageCheck("a", (9, 9), 100, 100, 98, 0, ("missing",) * differences, 0.0, 1.0, 0.0)
        return bool(of_differences([check], "a", worst, TOLERANCES[precision]))

    assert not refused(2, "fp16") and refused(3, "fp16")
    assert not refused(0, "fp32") and refused(1, "fp32")
    assert refused(1, "fp16", failure(none, "the runtime stops"))


def test_an_artifact_whose_answers_depend_on_the_batch_is_caught_also_where_boxes_are_not_judged(
    certified, exported
):
    model = copied(exported[1])
    repeat_the_first = [
        onnx.helper.make_node("Constant", [], ["one"], value_ints=[1]),
        onnx.helper.make_node("Constant", [], ["begin"], value_ints=[0]),
        onnx.helper.make_node("Slice", ["before", "begin", "one"], ["first"]),
        onnx.helper.make_node("Shape", ["before"], ["whole"]),
        onnx.helper.make_node("Expand", ["first", "whole"], ["boxes"]),
    ]
    certificate = certified(rewired(model, "boxes", *repeat_the_first), precision="int8")
    assert not certificate.passed
    assert any("alone the artifact answers otherwise" in reason for reason in certificate.reasons)


def test_int8_leaves_selection_and_answers_in_float32_and_stays_near(exported):
    from hsvdet.deploy.quantise import float32_layers, quantise_onnx

    detector, right = exported
    kept = float32_layers(detector.deploy().net)
    assert "net.sparse_global.P5" in kept and "net.head.class_towers.2.2" in kept
    images = [generate_scene(seed=5, index=i, size=(96, 128)).image for i in range(8)]
    model = quantise_onnx(right, images, kept)
    origin = {output: node.op_type for node in model.graph.node for output in node.output}
    convolutions = {
        node.name: origin.get(node.input[0]) == "DequantizeLinear"
        for node in model.graph.node
        if node.op_type == "Conv"
    }
    assert sum(not quantised for quantised in convolutions.values()) == 6
    assert sum(convolutions.values()) > 30
