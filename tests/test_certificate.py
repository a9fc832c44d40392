"""The certificate passes a right artifact, and catches faults that were put into real ones."""

import copy
import dataclasses
import json
import re

import numpy as np
import pytest
import torch

import hsvdet
from hsvdet.certificate.matching import Found
from hsvdet.certificate.tolerance import TOLERANCES
from hsvdet.data.scenes import generate_scene

LABELS = ("car", "person", "ball")

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


@pytest.fixture(scope="module")
def small(exported):
    """A detector of boxes that are small enough to lie within the images, and the model of its artifact."""
    detector, model = copy.deepcopy(exported[0]), copied(exported[1])
    towers, weights = (
        detector.net.head.box_towers,
        {weight.name: weight for weight in model.graph.initializer},
    )
    for i, tower in enumerate(towers):
        with torch.no_grad():
            tower[-1].weight.mul_(0.02)
            tower[-1].bias.copy_(-1.5 * torch.arange(len(tower[-1].bias) // 4).repeat(4))
        for name, parameter in tower[-1].named_parameters():
            weight = weights.get(f"net.head.box_towers.{i}.2.{name}")
            if weight is not None:  # the three have the same bias, and so one in the graph
                weight.CopyFrom(onnx.numpy_helper.from_array(parameter.detach().numpy(), weight.name))
    return detector, model


@pytest.fixture(scope="module")
def quantised(small):
    """The same with three layers of the head truly in INT8: random weights bear no more."""
    from hsvdet.deploy.quantise import quantise_onnx
    from hsvdet.runtime.artifact import ArtifactHeader, set_onnx_header

    detector, model = small
    images = [generate_scene(seed=5, index=i, size=(96, 128)).image for i in range(24)]
    convolutions = [
        name for name, m in detector.deploy().net.named_modules() if isinstance(m, torch.nn.Conv2d)
    ]
    kept = [
        f"net.{name}" for name in convolutions if not re.fullmatch(r"head\.box_towers\.\d\.1\.conv", name)
    ]
    assert len(kept) == len(convolutions) - 3
    quantised = quantise_onnx(model, images, kept)
    header = ArtifactHeader.from_json(header_of(model))
    set_onnx_header(quantised, dataclasses.replace(header, precision="int8"))
    return detector, quantised


@pytest.fixture
def certified(exported, tmp_path):
    """Certify a model, with another header if `header` changes it."""
    from hsvdet.certificate import certify
    from hsvdet.runtime.artifact import read_header, set_onnx_header

    detector, right = exported

    def run(model=None, /, detector=detector, **header):
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
    from hsvdet import runtime
    from hsvdet.runtime.artifact import read_artifact, read_header

    certificate = certified()
    assert certificate.passed, certificate
    assert sum(check.agree for check in certificate.images) > 100
    assert sum(check.objects for check in certificate.recall) == 2 * certificate.ap.objects, (
        "by size, and again"
    )
    sides = [check.size for check in certificate.images]
    assert any(h > w for h, w in sides) and any(h < w for h, w in sides)
    assert min(map(min, sides)) < 16 and max(map(max, sides)) > 2000
    path = tmp_path / "artifact.onnx"
    beside = json.loads((tmp_path / "artifact.onnx.certificate.json").read_text())
    assert read_header(path).certificate == beside == json.loads(json.dumps(certificate.to_json()))
    assert (tmp_path / "artifact.onnx.certificate.png").read_bytes()[:4] == b"\x89PNG"
    assert read_artifact(path).sha256 == certificate.artifact_sha256, "the certificate changes its own hash"
    assert runtime.load(path, require_certificate=True).certified


def test_what_is_detected_in_noise_is_a_difference_or_nothing(exported):
    """Neither of the detections that agree, nor of those that differences are a share of, nor what is shown."""
    from hsvdet.certificate import reasons
    from hsvdet.certificate.inspection import examine
    from hsvdet.certificate.reference import Reference
    from hsvdet.runtime.artifact import ArtifactHeader

    detector, model = exported
    header = ArtifactHeader.from_json(header_of(model))
    right = Reference(detector, iou=header.iou, max_detections=header.max_detections, minimal=header.dynamic)

    def examined(precision, in_noise=lambda found: found):
        def artifact(images, score):
            found = [right.detections(right.answer(image), score) for image in images]
            noise = [image.shape == (61, 83, 3) for image in images]
            return [in_noise(one) if blank else one for one, blank in zip(found, noise, strict=True)]

        options = {"images": 2, "evaluated": 1, "tolerance": TOLERANCES[precision], "precision": "fp32"}
        return examine(detector, header, artifact, None, **options)

    certificate, tried, shown, _ = examined("fp32")
    own = [check for check in certificate.images if check.kind == "image"]
    noise = certificate.images[-1]
    assert len(own) == 2 and noise.agree > max(check.agree for check in own), (
        "noise would be shown and counted"
    )
    assert f"2 images (drawn scenes), {sum(check.agree for check in own)} detections agree" in str(
        certificate
    )
    assert len(shown.agreement.reference.scores) == max(check.reference for check in own)
    assert shown.probe in tried[:2] and certificate.ap.images == len(tried) - 2
    much = [noise._replace(reference=10**6), *(check._replace(reference=0) for check in own)]
    assert reasons.of_too_little(much, 0.25, 0.0), "only noise was compared"

    def without_the_first(found):
        return Found(*(part[1:] for part in found))

    certificate, _, shown, _ = examined("fp32", without_the_first)
    assert not certificate.passed and shown.probe.name == "noise", "a difference, and the worst"
    assert "or of noise, where agreement does not count: 1 difference\n" in str(certificate)
    worst = dict(name="noise", worst=shown.agreement, tolerance=TOLERANCES["fp16"])
    few = [check._replace(differences=("missing",)) for check in own if check.reference < 50]
    assert few and reasons.of_differences([*few, noise._replace(reference=10**6)], **worst)
    certificate, _, shown, _ = examined("int8", without_the_first)
    assert certificate.passed and shown.probe.name != "noise", "single detections are not judged"


@pytest.mark.parametrize("by", ["size", "occlusion"])
def test_int8_is_refused_for_a_loss_among_objects_of_one_size_or_occlusion(small, tmp_path, by):
    """Of the detector's own detections, taken for annotations, the artifact loses a twentieth of one bin."""
    from PIL import Image

    from hsvdet.certificate.inspection import examine
    from hsvdet.certificate.reference import Reference
    from hsvdet.data.dataset import DetectionData, Record
    from hsvdet.data.overlap import occlusion
    from hsvdet.evaluate.recall import OCCLUSION_EDGES, SIZE_EDGES
    from hsvdet.runtime.artifact import ArtifactHeader

    detector, model = small
    header = ArtifactHeader.from_json(header_of(model))
    right = Reference(detector, iou=header.iou, max_detections=header.max_detections, minimal=header.dynamic)
    records, found = [], {}
    for i in range(24):
        image = generate_scene(seed=8, index=i, size=(96, 128)).image
        path = str(tmp_path / f"{i}.png")
        Image.fromarray(image).save(path)
        boxes, _, labels = found[image.tobytes()] = right.detections(right.answer(image), 0.3)
        area = np.where(
            np.arange(len(labels)) % 12, 5000.0, 500.0
        )  # as of objects that do not fill their boxes
        records.append(Record(i, path, (96, 128), boxes, labels, np.zeros(len(labels), bool), area))
    data = DetectionData(records, detector.labels, detector.category_ids, tmp_path, "val", "coco")
    occluded = np.concatenate([occlusion(record.boxes.astype(np.float64)) for record in records])
    bins = {
        "size": np.digitize(np.concatenate([record.area for record in records]), SIZE_EDGES),
        "occlusion": np.digitize(occluded, OCCLUSION_EDGES),
    }
    other = bins["occlusion" if by == "size" else "size"]
    counts = np.bincount(bins[by])
    aimed = next(i for i in np.argsort(counts) if counts[i] >= 50)
    within = np.flatnonzero((bins[by] == aimed) & (other == np.bincount(other).argmax()))

    def examined(share):
        lost = set(within[: int(share * counts[aimed]) + 1].tolist()) if share else set()
        first = np.cumsum([0, *(len(record.labels) for record in records)])
        gone = {
            key: [i - first[n] for i in lost if first[n] <= i < first[n + 1]] for n, key in enumerate(found)
        }

        def artifact(images, score):
            answers = [right.detections(right.answer(image), score) for image in images]
            return [
                Found(*(np.delete(part, gone.get(image.tobytes(), []), 0) for part in one))
                for image, one in zip(images, answers, strict=True)
            ]

        return examine(
            detector, header, artifact, data, images=2, evaluated=24, tolerance=TOLERANCES["int8"], precision="fp32"
        )[0]  # fmt: skip

    whole, lacking = examined(0), examined(0.05)
    assert whole.passed, whole
    assert len(lacking.reasons) == 1 and f"recall of objects by {by}" in lacking.reasons[0], lacking
    assert lacking.ap.drop < TOLERANCES["int8"].ap, "AP would not have seen it"
    assert [check.objects for check in lacking.recall] == [check.objects for check in whole.recall]
    assert sum(check.by == by and check.loss > 0.02 for check in lacking.recall) == 1
    assert f"recall at 1 FP/image by {by}, eager to artifact (objects): " in str(lacking)


def test_a_loss_of_two_points_is_borne_and_of_few_objects_not_judged():
    from hsvdet.certificate.certificate import RecallCheck
    from hsvdet.certificate.reasons import of_recall

    def refused(objects, one, other, truth="annotations"):
        return bool(
            of_recall([RecallCheck("size", 0, 1024, objects, *one, *other)], truth, TOLERANCES["int8"])
        )

    assert not refused(50, (0.8, 0.78), (1, 0.98)) and not refused(49, (0.8, 0.1), (1, 0.1))
    assert refused(50, (0.8, 0.779), (1, 1)) and refused(50, (0.8, 0.8), (1, 0.979))
    assert not refused(50, (1, 0.61), (1, 1), "detector") and refused(50, (1, 0.59), (1, 1), "detector")
    assert not refused(0, (np.nan, np.nan), (np.nan, np.nan))


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


def leaning(model, kind, factor, name=None):
    """What the first operator of a kind ranks, with every second value made smaller: by rounding, or by a fault."""
    node = next(node for node in model.graph.node if node.op_type == kind)
    ranked = node.input[1 if kind == "NonMaxSuppression" else 0]
    width = (
        next(v for v in model.graph.value_info if v.name == ranked).type.tensor_type.shape.dim[-1].dim_value
    )
    factors = np.where(np.arange(width) % 2, np.float32(factor), np.float32(1))
    weigh = [
        onnx.helper.make_node("Constant", [], ["factors"], value=onnx.numpy_helper.from_array(factors)),
        onnx.helper.make_node("Mul", [ranked, "factors"], ["leaning"]),
    ]
    place = list(model.graph.node).index(node)
    node.input[list(node.input).index(ranked)] = "leaning"
    for i, other in enumerate(weigh):
        model.graph.node.insert(place + i, other)
    return model


def test_another_order_within_the_rounding_is_certified_and_its_ties_are_counted(certified, exported):
    certificate = certified(leaning(copied(exported[1]), "NonMaxSuppression", 1 - 2e-7))
    assert certificate.passed, certificate
    ties = certificate.ties
    assert 0 < ties.places == sum(check.ties for check in certificate.images) and 0 < ties.share <= ties.most
    assert 1e-7 < ties.score < 1e-3 and ties.pixels < 0.1, "the rounding of float32"
    assert certificate.to_json()["ties"] == ties._asdict()
    assert f"{ties.places} ties, {ties.share:.2%} of the detections" in str(certificate)


@pytest.mark.parametrize("kind", ["NonMaxSuppression", "TopK"])  # the first TopK selects tokens
def test_another_order_beyond_the_rounding_is_caught(certified, exported, kind):
    """The neighbour of a box is kept, another token is selected, where margins are small and clear."""
    assert not certified(leaning(copied(exported[1]), kind, 0.996)).passed


def test_too_many_ties_are_no_ties():
    from hsvdet.certificate.certificate import TieCheck
    from hsvdet.certificate.reasons import of_ties

    most = TOLERANCES["fp32"].ties
    assert not of_ties(TieCheck(50, 0.05, most, 1e-5, 0.01))
    assert "5.1%" in of_ties(TieCheck(51, 0.051, most, 1e-5, 0.01))[0]


def test_one_box_moved_by_four_pixels_is_caught(certified, exported):
    model = copied(exported[1])
    rows = next(o for o in model.graph.output if o.name == "boxes").type.tensor_type.shape.dim[1].dim_value
    offset = np.zeros((1, rows, 4), np.float32)
    offset[0, 2] = 4, 0, 4, 0
    move = [
        onnx.helper.make_node("Constant", [], ["offset"], value=onnx.numpy_helper.from_array(offset)),
        onnx.helper.make_node("Add", ["before", "offset"], ["boxes"]),
    ]
    certificate = certified(rewired(model, "boxes", *move))
    assert not certificate.passed
    assert any("a side off by" in what for check in certificate.images for what in check.differences)
    assert certificate.diverges.layer == "post-processing"
    # In images where it is a pixel of the network's input: one fault, told as one or as a pair.
    checks = [check for check in certificate.images if check.reference > 2 and max(check.size) < 1000]
    assert len(checks) > 5 and {len(check.differences) for check in checks} <= {1, 2}


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
    silent = copy.deepcopy(exported[0])
    with torch.no_grad():
        for tower in silent.net.head.class_towers:
            tower[-1].bias.sub_(30)
    certificate = certified(detector=silent)
    assert not certificate.passed and "nothing was compared" in certificate.reasons[0]


def test_an_artifact_that_detects_otherwise_does_not_get_its_name(exported, tmp_path, monkeypatch):
    from hsvdet.deploy.export import export

    detector, right = exported
    model = copied(right)
    monkeypatch.setattr("hsvdet.deploy.export_onnx.quantised", lambda *_: model)
    path = tmp_path / "street.onnx"
    assert export(detector, "onnx", path).path == str(path)
    before = path.read_bytes()
    weight = next(w for w in model.graph.initializer if "stage3.0.conv.weight" in w.name)
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
    report = export(detector, "onnx", path)
    assert not report.passed and report.path == str(tmp_path / "street.rejected.onnx")
    assert path.read_bytes() == before and (tmp_path / "street.rejected.onnx.certificate.json").exists()


def test_a_token_selected_by_a_hairs_breadth_may_be_another(exported, monkeypatch):
    """A weight is bisected until one step of it changes what the detector selects in an image; both detectors are
    right, and what they find in that image is not the same."""
    from hsvdet.certificate import comparison
    from hsvdet.certificate.inspection import examine
    from hsvdet.certificate.probes import probes
    from hsvdet.certificate.reference import Reference
    from hsvdet.runtime.artifact import ArtifactHeader

    detector, model = exported
    header = ArtifactHeader.from_json(header_of(model))
    scene = probes(None, 2)[0].image

    def weighted(factor):
        changed = copy.deepcopy(detector)
        with torch.no_grad():
            changed.net.stage5[0].conv.weight[0] *= factor
        options = {"iou": header.iou, "max_detections": header.max_detections, "minimal": header.dynamic}
        return Reference(changed, **options)

    def selected(reference):
        block, seen = reference.detector.net.sparse_global["P5"], []
        hook = block.register_forward_pre_hook(lambda module, given: seen.append(given))
        reference.answer(scene)
        hook.remove()
        return set(block.weights(*seen[0])[0].flatten().tolist())

    low, high = np.float32(0.5), np.float32(1)
    first = selected(weighted(low))
    assert selected(weighted(high)) != first
    while np.nextafter(low, high) < high:
        middle = np.float32((low + high) / 2)
        if selected(weighted(middle)) == first:
            low = middle
        else:
            high = middle

    def examined(one, other):
        def artifact(images, score):
            return [other.detections(other.answer(image), score) for image in images]

        tolerance = TOLERANCES["fp32"]
        return examine(
            one.detector, header, artifact, None, images=2, evaluated=1, tolerance=tolerance, precision="fp32"
        )[0]

    certificate = examined(weighted(low), weighted(high))
    assert certificate.passed and certificate.ties.places, certificate
    monkeypatch.setattr(comparison, "_TRIES", 0)
    assert not examined(weighted(low), weighted(high)).passed, "the two do not differ"


def test_one_differing_detection_in_fifty_is_borne_in_fp16_and_none_in_fp32():
    from hsvdet.certificate.agreement import Agreement, Difference, failure
    from hsvdet.certificate.certificate import ImageCheck
    from hsvdet.certificate.reasons import of_differences

    none = Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    missing = Difference("missing", 0, None, 0.6, "missing: car 0.6")
    agreement = Agreement(none, none, np.zeros((0, 2), int), 0, (missing,), 0.0, 1.0, 0.0)

    def refused(differences, precision, worst=agreement):
        check = ImageCheck("a", "image", (9, 9), 100, 100, 98, 0, ("missing",) * differences, 0.0, 1.0, 0.0)
        return bool(of_differences([check], "a", worst, TOLERANCES[precision]))

    assert not refused(2, "fp16") and refused(3, "fp16")
    assert not refused(0, "fp32") and refused(1, "fp32")
    assert refused(1, "fp16", failure(none, "the runtime stops"))


def test_an_artifact_whose_answers_depend_on_the_batch_is_caught_also_where_boxes_are_not_judged(
    certified, quantised
):
    detector, model = quantised[0], copied(quantised[1])
    repeat_the_first = [
        onnx.helper.make_node("Constant", [], ["one"], value_ints=[1]),
        onnx.helper.make_node("Constant", [], ["begin"], value_ints=[0]),
        onnx.helper.make_node("Slice", ["before", "begin", "one"], ["first"]),
        onnx.helper.make_node("Shape", ["before"], ["whole"]),
        onnx.helper.make_node("Expand", ["first", "whole"], ["boxes"]),
    ]
    certificate = certified(rewired(model, "boxes", *repeat_the_first), detector=detector)
    assert not certificate.passed
    assert any("alone the artifact answers otherwise" in reason for reason in certificate.reasons)


def test_int8_leaves_selection_and_answers_in_float32_and_stays_near(exported):
    from hsvdet.deploy.quantise import float32_layers, quantise_onnx

    detector, right = exported
    kept = float32_layers(detector.deploy().net)
    towers = {f"net.head.{of}_towers.{i}.2" for of in ("box", "class") for i in range(3)}
    assert set(kept) == {*towers, "net.sparse_global.P5.scorer"}
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


@pytest.mark.parametrize(
    "name, apart, box, last",
    [
        ("yolov8-n-e2e", 0, r"head\.one_to_one\.box_towers\.", 2),
        ("hsv-det-n-e2e", 2, r"head\.one_to_one\.box_towers\.", 2),
        ("hsg-det-n+", 5, r"head\.one_to_one\.box_towers\.", 4),
        ("yolov8-n-dedup", 3, r"head\.box_towers\.\d\.2$", 2),
    ],
)
def test_int8_keeps_box_branch_last_class_convolution_and_ranking_in_float32(name, apart, box, last):
    """apart: token selectors, and convolutions of the suppressor or beside attention."""
    from hsvdet.deploy.quantise import float32_layers

    net = hsvdet.create(name, LABELS, size=(64, 64)).deploy().net
    convolutions = [f"net.{name}" for name, m in net.named_modules() if isinstance(m, torch.nn.Conv2d)]
    kept = set(float32_layers(net))
    head = {name for name in convolutions if re.search(rf"{box}|class_towers\.\d\.{last}$", name)}
    assert len(head) == (6 if "dedup" in name else 12) and head <= kept
    assert len(kept - head) == apart, kept - head
    assert all(re.search("scorer|project|whole", name) for name in kept - head)


@pytest.fixture(scope="module")
def one_to_one(tmp_path_factory):
    """A float32 artifact of a one-to-one head, what of it INT8 leaves alone, and images to calibrate on."""
    from hsvdet.deploy.export import export
    from hsvdet.deploy.quantise import float32_layers

    detector = hsvdet.create("yolov8-n-e2e", LABELS, size=(96, 128), options={"width": 0.0625})
    path = tmp_path_factory.mktemp("one-to-one") / "one.onnx"
    export(detector, "onnx", path, certify=False)
    images = [generate_scene(seed=5, index=i, size=(96, 128)).image for i in range(8)]
    return onnx.load(path), float32_layers(detector.deploy().net), images


def check_one_to_one(answers, before, kind, convolution):
    """From the answers back to the first of the one-to-one head: nothing but what INT8 leaves alone, up to the
    branches of classes; and behind these everything is rounded. before: of a node, those that it reads."""
    convolutions, seen, left = set(), set(), list(answers)
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        assert not re.search("Quantize|DequantizeLinear", kind(node)), (
            "rounded between the head and the answer"
        )
        name = convolution(node)
        if name:
            convolutions.add(name)
        if not name or re.search(r"box_towers\.\d\.[12]", name):
            left += before(node)
    expected = {
        f"net.head.one_to_one.box_towers.{i}.{end}" for i in range(3) for end in ("0.conv", "1.conv", "2")
    }
    return convolutions == expected | {f"net.head.one_to_one.class_towers.{i}.2" for i in range(3)}


def test_nothing_is_rounded_between_a_one_to_one_head_and_its_answer_in_onnx(one_to_one):
    from hsvdet.certificate.divergence import scopes
    from hsvdet.deploy.quantise import quantise_onnx

    model, kept, images = one_to_one
    model = quantise_onnx(model, images, kept)
    made_by = {output: node for node in model.graph.node for output in node.output}

    def before(node):
        return [made_by[name] for name in node.input if name in made_by]

    def convolution(node):
        return scopes(node)[-1] if node.op_type == "Conv" else ""

    answers = [made_by[output.name] for output in model.graph.output]
    assert check_one_to_one(answers, before, lambda node: node.op_type, convolution)
    for node in model.graph.node:
        rounded = [one.op_type == "DequantizeLinear" for one in before(node)]
        if convolution(node) in kept:
            assert not any(rounded), "what the branch reads was rounded for others"
        elif node.op_type == "Conv" and convolution(node):
            assert all(rounded) and len(rounded) > 1


def test_nothing_is_rounded_between_a_one_to_one_head_and_its_answer_in_openvino(one_to_one):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    from hsvdet.deploy.export_openvino import to_openvino
    from hsvdet.deploy.quantise import quantise_openvino

    model, kept, images = one_to_one
    model = quantise_openvino(to_openvino(model), images, kept)
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}

    def before(node):
        return [nodes[value.get_node().get_friendly_name()] for value in node.input_values()]

    def convolution(node):
        if node.get_type_name() != "Convolution":
            return ""
        weight = node.input_value(1).get_node()
        while weight.get_type_name() != "Constant" and weight.get_input_size():
            weight = weight.input_value(0).get_node()
        return weight.get_friendly_name().removesuffix(".weight")

    answers = [nodes[result.get_friendly_name()] for result in model.get_results()]
    assert check_one_to_one(answers, before, lambda node: node.get_type_name(), convolution)
    of_eight_bits = [node for node in nodes.values() if node.get_type_name() == "FakeQuantize"]
    assert len(of_eight_bits) > 30


def larger(share):
    """[4, 4] Boxes times this have sides larger by `share`, around the same centre."""
    half = share / 2
    return np.eye(4, dtype=np.float32) + np.array(
        [[half, 0, -half, 0], [0, half, 0, -half], [-half, 0, half, 0], [0, -half, 0, half]], np.float32
    )


@pytest.mark.parametrize(
    "output, operator, operand, words",
    [
        ("scores", "Mul", np.float32(0.5), "scores: the median over"),
        ("boxes", "MatMul", larger(0.01), "boxes' (width|height): the median over"),
        ("boxes", "MatMul", larger(0.0), None),
    ],
    ids=["halved scores", "boxes one per cent larger", "right"],
)
def test_int8_moves_detections_to_all_sides_and_a_fault_to_one(
    certified, quantised, output, operator, operand, words
):
    constant = onnx.numpy_helper.from_array(np.asarray(operand), "operand")
    nodes = [
        onnx.helper.make_node("Constant", [], ["operand"], value=constant),
        onnx.helper.make_node(operator, ["before", "operand"], [output]),
    ]
    certificate = certified(rewired(copied(quantised[1]), output, *nodes), detector=quantised[0])
    assert certificate.precision == "int8" and not certificate.tolerance.boxes
    assert not any("AP against" in reason for reason in certificate.reasons), "AP alone would have seen it"
    if words is None:
        assert certificate.passed, certificate
    else:
        assert re.match(words, certificate.reasons[0]), certificate


def test_certify_believes_nothing_that_a_header_says(certified, small):
    detector, model = small
    header = header_of(model)
    lies = {
        "licence": "MIT", "source": "elsewhere", "model": "yolov8-n", "config": {**header["config"], "k": 9},
        "precision": "int8", "score": 0.9, "floor": 0.2, "max_detections": 8, "iou": 0.05,
    }  # fmt: skip
    certificate = certified(copied(model), detector=detector, **lies)
    assert certificate.precision == "fp32" and certificate.tolerance == TOLERANCES["fp32"]
    words = [
        "its licence is 'MIT'", "its source is 'elsewhere'", "its model is 'yolov8-n'", "its config is",
        "its precision is int8, its graph is fp32", "rows are counted", "its floor is 0.2", "8 detections an image",
        "suppression is at IoU 0.05",
    ]  # fmt: skip
    for word in words:
        assert any(word in reason for reason in certificate.reasons), (word, certificate.reasons)
