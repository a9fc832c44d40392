"""What is drawn must be what the network did, where it did it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hsvdet
from hsvdet.cli import main
from hsvdet.data.images import read_image
from hsvdet.errors import ConfigError, DataError
from hsvdet.explainer.attention import Heat, heat_of, real_cells, samples_of, selection_of
from hsvdet.explainer.capture import Call, run, the_same_chance, watch
from hsvdet.explainer.layers import looking_tokens
from hsvdet.explainer.panel import Panel, close_up
from hsvdet.explainer.scene import Scene, chosen_subjects
from hsvdet.explainer.slots import SlotMaps, slot_maps
from hsvdet.explainer.view import View
from hsvdet.layers.attention import MultiHeadAttention
from hsvdet.layers.conditional import ConditionalCrossAttention
from hsvdet.layers.deformable import DeformableAttention, sample_points
from hsvdet.layers.row_column import RowColumnAttention
from hsvdet.layers.sparse_global import SparseGlobal, SparseGlobalConfig, SparseGlobalOutput
from hsvdet.models.lite_dino import KeyAwareAttention
from hsvdet.models.smca_detr import ModulatedAttention
from hsvdet.structures import Rectangle

THIN = {"width": 0.0625, "k": 8}
HYBRID = {"width": 0.0625, "dim": 16, "heads": 2, "tokens": 16, "queries": 40}
RESIZES = ["letterbox", "fit", "stretch", "shortest"]
LABELS = ["car", "person"]


def tiny(name: str, resize: str | None = None, size=(96, 128), **options):
    torch.manual_seed(0)
    detector = hsvdet.create(name, LABELS, options=options or (THIN if name.startswith("hsv") else {}))
    preprocess = dataclasses.replace(detector.preprocess, size=size)
    detector.preprocess = dataclasses.replace(preprocess, resize=resize) if resize else preprocess
    return detector


def noise(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, height, width), dtype=np.uint8))


def photograph(path: Path, height: int = 60, width: int = 100, **options) -> Path:
    Image.fromarray(noise(height, width).permute(1, 2, 0).numpy()).save(path, **options)
    return path


@pytest.mark.parametrize("resize", RESIZES)
def test_a_pixel_of_the_image_is_found_again_on_the_canvas(resize):
    detector = tiny("detr-tiny", resize)
    image = torch.zeros(3, 150, 350, dtype=torch.uint8)
    image[:, 90:100, 200:210] = 255
    canvas, content = detector.preprocess.to_canvas(image, minimal=True)
    view = View((150, 350), tuple(canvas.shape[-2:]), content)
    light = canvas[0].double() * (canvas[0] != detector.preprocess.fill)
    rows, columns = torch.meshgrid(*(torch.arange(n) + 0.5 for n in light.shape), indexing="ij")
    seen = np.array([float((light * at).sum() / light.sum()) for at in (columns, rows)])
    expected = view.to_canvas(np.array([205.0, 95.0])) * (view.canvas[1], view.canvas[0])
    np.testing.assert_allclose(seen, expected, atol=0.3)
    np.testing.assert_allclose(view.to_image(expected / view.canvas[::-1]), [205, 95], atol=1e-9)


def test_the_nearest_cell_is_the_one_around_the_point_where_that_is_allowed():
    view = View((60, 100), (96, 128), Rectangle(14, 18, 100, 60))  # one pixel is one pixel
    assert view.nearest(np.array([0.0, 0.0]), (3, 4)) == (0, 0)
    assert view.nearest(np.array([18.5, 14.5]), (3, 4)) == (1, 1)
    allowed = np.zeros((3, 4), dtype=bool)
    allowed[2, 3] = allowed[0, 2] = True
    assert view.nearest(np.array([18.5, 14.5]), (3, 4), allowed) == (0, 2)


def test_the_share_of_a_box_counts_parts_of_cells():
    view = View((60, 100), (96, 128), Rectangle(14, 18, 100, 60))
    weights = np.zeros((2, 3, 4))
    weights[:, 1, 1] = 0.5, 0.7  # x 18 to 50, y 14 to 46 in the image
    weights[:, 2, 3] = 0.5, 0.3
    heat = Heat(weights)
    assert heat.share(view, np.array([18.0, 14, 50, 46])) == pytest.approx(0.6)
    assert heat.share(view, np.array([18.0, 14, 26, 30])) == pytest.approx(0.6 / 8)
    assert heat.share(view, np.array([0.0, 0, 18, 60])) == 0


@pytest.mark.parametrize("resize", RESIZES)
def test_attention_set_by_hand_is_hot_where_it_should_be(resize, tmp_path):
    detector = tiny("detr-tiny", resize, size=(160, 224))
    path = photograph(tmp_path / "street.jpg", 225, 300)
    image = noise(225, 300)
    view, _, calls = run(detector, image)
    attention = detector.net.decoder[-1].cross_attention
    (call,) = [call for call in calls if call.module is attention]
    cells = tuple(calls[0].output[-1].shape[-2:])
    target = (3, 5)
    with torch.no_grad():  # keys are nothing but places; the query asks for one of them
        last = detector.net.encoder[-1].norm_feed_forward
        last.weight.zero_(), last.bias.zero_()
        finest = torch.eye(64)[[*range(8), *range(32, 40)]]  # of row and column, the same for four heads
        attention.key.weight.copy_(finest.repeat(4, 1)), attention.key.bias.zero_()
        attention.query.weight.zero_()
        place = (call.inputs["key"] - call.inputs["value"])[0, target[0] * cells[1] + target[1]]
        attention.query.bias.copy_(100 * attention.key.weight @ place)
    hsvdet.explain(detector, path, tmp_path / "out", top=2)
    facts = json.loads((tmp_path / "out/explanation.json").read_text())["images"][0]["facts"]["decoder"]
    assert [fact["peak_share"] > 0.9 for fact in facts["subjects"]] == [True, True]
    # The centre of the cell, by hand: on the canvas, less the border, by the scale.
    height, width = view.canvas
    x = ((target[1] + 0.5) * width / cells[1] - view.content.left) * 300 / view.content.width
    y = ((target[0] + 0.5) * height / cells[0] - view.content.top) * 225 / view.content.height
    np.testing.assert_allclose(facts["subjects"][0]["peak"], [x, y], atol=0.01)

    heat = heat_of(run(detector, image)[2][-1], [0], cells)[0].mean
    panel = Panel(torch.zeros(3, 225, 300, dtype=torch.uint8), view, 300)
    panel.heat(heat, 1.0)
    light = np.asarray(panel.finished(), dtype=float).sum(-1)
    rows, columns = np.mgrid[:225, :300] + 0.5
    centre = (light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()
    np.testing.assert_allclose(centre, [x, y], atol=4)


def dense_output(call: Call, weights: torch.Tensor) -> torch.Tensor:
    value = call.module.value(call.inputs["value" if "value" in call.inputs else "memory"])
    value = value.flatten(1, -2)  # of a map, or of tokens already
    value = value.unflatten(-1, (call.module.heads, -1)).transpose(1, 2)
    return call.module.output((weights @ value).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    "name",
    [
        "detr-tiny",
        "dab-detr-tiny",
        "conditional-detr-tiny",
        "anchor-detr-tiny",
        "smca-detr-tiny",
        "deformable-detr-two-stage-tiny",
        "sparse-detr-tiny",
        "rt-detr-tiny",
        "lite-dino-tiny",
    ],
)
@torch.no_grad()
def test_what_is_drawn_reproduces_what_the_layer_gave(name):
    detector = tiny(name, "fit")
    seen = watch(detector, noise(70, 128), score=0.0, iou=0.7)  # padded below
    kinds = set()
    for call in seen.encoder + seen.decoder:
        module, kind = call.module, type(call.module)
        kinds.add(kind)
        if kind in (DeformableAttention, KeyAwareAttention):
            samples = samples_of(call, range(call.output.shape[1]), seen.view)
            locations = seen.view.to_canvas(np.stack([one.points for one in samples]))
            weights = np.stack([one.weights for one in samples])
            np.testing.assert_allclose(weights.sum((-1, -2)), 1, atol=1e-6)
            value = module.value(call.inputs["memory"])
            value = value.masked_fill(call.inputs["padding"].unsqueeze(-1), 0.0)
            value = value.unflatten(-1, (module.heads, -1))
            locations, weights = (torch.from_numpy(part)[None].float() for part in (locations, weights))
            found = module.output(sample_points(value, call.inputs["sizes"], locations, weights))
        else:
            heats = heat_of(call, range(call.output.shape[1]), seen.cells)
            weights = np.stack([heat.weights for heat in heats])
            np.testing.assert_allclose(weights.sum((-1, -2)), 1, atol=1e-6)
            assert not weights[..., ~real_cells(call, seen.cells)].any()
            found = dense_output(call, torch.from_numpy(weights).flatten(2).transpose(0, 1)[None])
        torch.testing.assert_close(found, call.output, atol=2e-5, rtol=1e-4)
    expected = {
        "detr-tiny": {MultiHeadAttention},
        "anchor-detr-tiny": {RowColumnAttention},
        "smca-detr-tiny": {MultiHeadAttention, ModulatedAttention},
        "rt-detr-tiny": {MultiHeadAttention, DeformableAttention},
        "lite-dino-tiny": {KeyAwareAttention},
        "deformable-detr-two-stage-tiny": {DeformableAttention},
        "sparse-detr-tiny": {DeformableAttention},
    }
    assert kinds == expected.get(name, {MultiHeadAttention, ConditionalCrossAttention})


@pytest.mark.parametrize("resize", RESIZES)
def test_points_without_an_offset_lie_on_their_reference_in_the_image(resize):
    detector = tiny("rt-detr-tiny", resize, size=(128, 128))
    offsets = detector.net.decoder[0].cross_attention.sampling_offsets
    torch.nn.init.zeros_(offsets.weight), torch.nn.init.zeros_(offsets.bias)
    seen = watch(detector, noise(60, 160), score=0.0, iou=0.7)
    boxes = seen.output.proposals.boxes[0, :5].numpy()
    for samples, box in zip(samples_of(seen.decoder[0], range(5), seen.view), boxes, strict=True):
        found = samples.points[:, 0]  # on the finest map: in the others padding ends within a cell
        np.testing.assert_allclose(found, np.broadcast_to(box[:2] * (160, 60), found.shape), atol=0.01)
        left, top, right, bottom = samples.reference
        np.testing.assert_allclose([right - left, bottom - top], box[2:] * (160, 60), atol=0.01)
        assert samples.strides == (8, 16, 32)


def block(**options) -> SparseGlobal:
    torch.manual_seed(0)
    block = SparseGlobal(16, 32, SparseGlobalConfig(**options))
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return block


def recorded(block: SparseGlobal, x: torch.Tensor, padding: torch.Tensor | None = None) -> Call:
    the_same_chance()
    output: SparseGlobalOutput = block(x, padding)
    return Call(block, {"x": x, "padding": padding, "salience": None}, output)


@torch.no_grad()
def test_the_selected_tokens_are_those_of_most_energy_and_never_padding():
    x = torch.randn(1, 16, 4, 5)
    padding = torch.zeros(1, 4, 5, dtype=torch.bool)
    padding[..., 4] = True
    x[..., 1, 2] *= 9
    x[..., 3, 0] *= 9
    x[..., 2, 4] *= 99
    selected = selection_of(recorded(block(k=2), x, padding))
    assert np.argwhere(selected.chosen).tolist() == [[1, 2], [3, 0]]
    few = selection_of(recorded(block(k=19), x, padding))
    assert few.chosen.sum() == 16 and few.cells is not None and not few.chosen[:, 4].any()
    full = selection_of(recorded(block(k=20), x, padding))
    assert full.cells is None and full.chosen.sum() == 16
    assert full.heat(1, 2).weights[:, :, 4].max() == 0


@pytest.mark.parametrize("selector", ["energy", "random", "learned"])
@torch.no_grad()
def test_the_attention_of_selected_tokens_reproduces_the_block(selector):
    module = block(
        k=6, heads=2, context=2, registers=3, dense_path="identity", gate="none", selector=selector
    )
    call = recorded(module, torch.randn(1, 16, 4, 5))
    selected = selection_of(call)
    changed = (call.output.map - call.inputs["x"])[0]
    assert np.array_equal((changed.abs().amax(0) > 1e-6).numpy(), selected.chosen)
    for row, column in np.argwhere(selected.chosen):
        heat = selected.heat(row, column)
        np.testing.assert_allclose(heat.weights.sum((1, 2)) + heat.pooled + heat.learned, 1, atol=1e-6)
        assert not heat.weights[:, ~selected.chosen].any()
    index = torch.from_numpy(selected.cells)[None]
    values = module._attention_input(call.inputs["x"], index, None).values
    attended = (torch.from_numpy(selected.weights).float() @ values[0]).transpose(0, 1).flatten(1)
    expected = module.output(attended)
    if call.output.scores is not None:
        expected = expected * 2 * call.output.scores.flatten(1)[0, index[0]].sigmoid()[:, None]
    torch.testing.assert_close(changed.flatten(1).T[index[0]], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["detr-tiny", "rt-detr-tiny", "yolov8-n", "hsv-det-n"])
def test_detections_are_traced_to_the_predictions_they_came_from(name):
    detector = tiny(name, **({"width": 0.0625} if name == "yolov8-n" else {}))
    image = noise(70, 110)
    seen = watch(detector, image, score=0.0, iou=0.7)
    assert len(set(seen.predictions.tolist())) == len(seen.predictions) > 1
    boxes = seen.output.answer.boxes[0, seen.predictions]
    centres = (seen.detections.boxes[:, :2] + seen.detections.boxes[:, 2:]) / 2
    inside = ((boxes[:, :2] - boxes[:, 2:] / 2 >= 0) & (boxes[:, :2] + boxes[:, 2:] / 2 <= 1)).all(1)
    torch.testing.assert_close(
        centres[inside], boxes[inside, :2] * torch.tensor([110, 70]), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(seen.detections.scores[0], detector(image, score=0.0).scores[0])


def test_a_close_up_holds_its_points_and_has_the_shape_of_the_image():
    points = np.array([[300.0, 10], [340, 40]])
    left, top, right, bottom = close_up(points, (480, 640))
    assert 0 <= left <= 300 and 0 <= top <= 10 and 340 <= right <= 640 and 40 <= bottom <= 480
    assert (right - left) / (bottom - top) == pytest.approx(640 / 480)
    assert close_up(np.array([[0.0, 0], [500, 20]]), (480, 640)) is None


KINDS = {
    "detr-tiny": ({"encoder", "encoder-heads", "decoder", "decoder-heads"}, {}),
    "deformable-detr-tiny": ({"encoder", "encoder-heads", "decoder", "decoder-heads"}, {}),
    "sparse-detr-tiny": ({"encoder", "encoder-heads", "decoder", "decoder-heads", "kept"}, {}),
    "hsv-det-n+": ({"P5", "P4", "P3", "cells"}, THIN | {"insert": ("P5", "P4", "P3")}),
    "yolov8-n": ({"cells"}, {"width": 0.0625}),
    "yolov8-n-dedup": ({"suppressed", "cells"}, {"width": 0.0625}),
    "hsg-det-n": ({"kept", "cells"}, HYBRID),
    "hsg-det-n+": ({"kept", "queries", "suppressed", "cells"}, HYBRID),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_detector_has_its_pictures_and_stays_as_it_is(name, tmp_path):
    kinds, options = KINDS[name]
    detector = tiny(name, **options)
    before = {key: value.clone() for key, value in detector.net.state_dict().items()}
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned: 60 x 100 becomes 100 high, 60 wide
    photograph(tmp_path / "street.jpg", exif=exif)
    photograph(tmp_path / "thin.png", 200, 2)
    state = torch.get_rng_state()
    report = hsvdet.explain(
        detector, [tmp_path / "street.jpg", tmp_path / "thin.png"], tmp_path / "out", top=2, heads=True
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert (report.images[0]["width"], report.images[0]["height"]) == (60, 100)
    assert set(report.images[0]["pictures"]) == kinds
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == set(report.pictures) | {"explanation.json"}
    assert {f"street-{kind}.jpg" for kind in kinds} <= files
    for name in report.pictures:
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.format == "JPEG" and min(picture.size) > 80
    json.dumps(report.to_json(), allow_nan=False)
    assert all(torch.equal(before[key], value) for key, value in detector.net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in detector.net.modules())


@pytest.mark.parametrize("name", ["yolov8-n", "yolov8-n-dedup", "hsg-det-n+"])
def test_the_answering_cell_is_that_of_the_anchor(name, tmp_path):
    detector = tiny(name, **KINDS[name][1])
    image = photograph(tmp_path / "a.png", 96, 128)
    report = hsvdet.explain(detector, image, tmp_path / "out", top=20, score=0.0)
    detections = {row["subject"]: row for row in report.images[0]["detections"]}
    counts = {8: 12 * 16, 16: 6 * 8, 32: 3 * 4}
    starts = {8: 0, 16: counts[8], 32: counts[8] + counts[16]}
    dense = detector.net(read_image(image)[None] / 255).dense.prediction
    facts = report.images[0]["facts"]["cells"]["subjects"]
    assert len(facts) == len(detections) > 5
    for fact in facts:
        column, row = fact["cell"]
        stride = fact["stride"]
        assert fact["anchor"] == [(column + 0.5) * stride, (row + 0.5) * stride]  # the input is the image
        number = starts[stride] + row * (128 // stride) + column
        if name == "yolov8-n":
            assert detections[fact["subject"]]["prediction"] == number
        if "dedup" in name:  # which leaves the boxes of the cells as they are
            x, y, width, height = dense.boxes[0, number].tolist()
            inside = np.clip([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 0, 1)
            np.testing.assert_allclose(
                detections[fact["subject"]]["box"], inside * [128, 96, 128, 96], atol=0.02
            )


def test_the_kept_token_that_is_nearest_looks_for_the_others(tmp_path):
    detector = tiny("sparse-detr-tiny", "stretch")
    seen = watch(detector, noise(96, 128), score=0.0, iou=0.7)
    scene = Scene(
        "a", "sparse-detr-tiny", noise(96, 128), seen, chosen_subjects([(3, 90), (70, 20)]), [], False
    )
    call = seen.encoder[0]
    for subject, query in zip(scene.subjects, looking_tokens(scene, call, scene.subjects), strict=True):
        distances = []
        for selection in seen.output.selections:
            for row, column in selection.kept[0].nonzero().tolist():
                place = (np.array([column, row]) + 0.5) / selection.kept.shape[:0:-1] * (128, 96)
                distances.append(np.hypot(*(place - subject.point)))
        place = call.inputs["reference"][0, query, 0].numpy() * (128, 96)
        assert np.hypot(*(place - subject.point)) == pytest.approx(min(distances), abs=1e-3)
    report = hsvdet.explain(detector, photograph(tmp_path / "a.png", 96, 128), tmp_path / "out")
    maps = report.images[0]["facts"]["kept"]["maps"]
    assert [fact["tokens"] for fact in maps] == [192, 48, 12, 4]
    assert sum(fact["kept"] for fact in maps) == int(0.3 * 256) + 1


def test_where_only_coarse_maps_look_the_nearest_of_their_tokens_does(tmp_path):
    detector = tiny("lite-dino-tiny", "stretch")
    points = [(3, 90), (70, 20)]
    seen = watch(detector, noise(96, 128), score=0.0, iou=0.7)
    scene = Scene("a", "lite-dino-tiny", noise(96, 128), seen, chosen_subjects(points), [], False)
    high, full = seen.encoder
    # Of maps with 6 x 8, 3 x 4 and 2 x 2 cells, after one of 12 x 16.
    assert looking_tokens(scene, high, scene.subjects) == [5 * 8 + 0, 1 * 8 + 4]
    assert looking_tokens(scene, full, scene.subjects) is None
    path = photograph(tmp_path / "a.png", 96, 128)
    report = hsvdet.explain(detector, path, tmp_path / "out", points=points, layer=1)
    assert report.images[0]["facts"]["encoder"]["layer"] == "layer 1 of 2"


def test_points_and_layers_can_be_chosen(tmp_path):
    detector = tiny("detr-tiny")
    path = photograph(tmp_path / "a.png")
    report = hsvdet.explain(detector, path, tmp_path / "out", points=[(5, 6), (99, 59)], layer=1)
    row = report.images[0]
    assert row["points"] == [[5, 6], [99, 59]] and len(row["facts"]["encoder"]["subjects"]) == 2
    assert row["facts"]["decoder"]["layer"] == "layer 1 of 3"
    assert len(row["facts"]["decoder"]["subjects"]) == len(row["detections"])
    with pytest.raises(DataError, match="100,59 is not in .*100 x 60"):
        hsvdet.explain(detector, path, tmp_path / "out", points=[(100, 59)])


def test_slots_are_coloured_by_size_and_direction():
    boxes = np.array(
        [[[0.5, 0.5, 0.1, 0.2], [0.5, 0.5, 0.4, 0.5]], [[0.1, 0.1, 0.5, 0.3], [0.5, 0.5, 0.3, 0.9]]]
    )
    maps = SlotMaps(boxes, np.array([2.0, 1.0]), np.array([0.1, 0.7]), "two images", False)
    # The second box of the first image is 0.8 wide where the image is 1 high.
    assert maps.kinds().tolist() == [[0, 1], [1, 2]]
    assert maps.busiest(5) == [1, 0]


def test_slot_maps_hold_every_box_of_a_data_set(tmp_path):
    (tmp_path / "images").mkdir()
    images = []
    for i in range(3):
        photograph(tmp_path / f"images/{i}.png", 60, 60 + 20 * i)
        images.append({"id": i, "file_name": f"{i}.png", "height": 60, "width": 60 + 20 * i})
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "tree"}]}
    (tmp_path / "val.json").write_text(json.dumps(content))
    detector = tiny("rt-detr-tiny")
    report = hsvdet.explain(detector, [], tmp_path / "out", data=tmp_path / "val.json", slots=7)
    assert len(report.slots["drawn"]) == 7 and len(report.slots["answers"]) == 100
    assert (tmp_path / "out/slots.png").is_file()
    maps = slot_maps(detector, tmp_path / "val.json", "val", 0.25)
    assert maps.boxes.shape == (3, 100, 4) and maps.ranks
    np.testing.assert_allclose(sorted(maps.aspects), [1, 80 / 60, 100 / 60])
    seen = watch(detector, noise(60, 60), score=0.0, iou=0.7)
    one = int(np.argmin(maps.aspects))
    np.testing.assert_allclose(maps.boxes[one], seen.output.answer.boxes[0].numpy(), atol=1e-4)
    for name in ("hsv-det-n", "hsv-det-n-dedup"):
        with pytest.raises(ConfigError, match="detectors without one"):
            hsvdet.explain(tiny(name), [], tmp_path / "out2", data=tmp_path / "val.json")


def test_only_results_of_an_earlier_run_are_replaced(tmp_path):
    detector = tiny("yolov8-n", width=0.0625)
    (tmp_path / "in/b").mkdir(parents=True)
    for name in ("street.png", "Street.jpg", "b/street.png"):
        photograph(tmp_path / "in" / name)
    first = hsvdet.explain(detector, tmp_path / "in", tmp_path / "out")
    assert sorted(first.pictures) == ["Street-cells.jpg", "b/street-cells.jpg", "street-2-cells.jpg"]
    second = hsvdet.explain(detector, tmp_path / "in/b", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*.jpg")] == second.pictures
    (tmp_path / "out/notes.txt").write_text("mine")
    (tmp_path / "out/explanation.json").unlink()
    with pytest.raises(ConfigError, match="other files than results of `explain`"):
        hsvdet.explain(detector, tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out/notes.txt").read_text() == "mine"


def test_what_cannot_be_explained_is_said_in_one_line(tmp_path, tiny_checkpoint, capfd):
    detector = tiny("hsv-det-n")
    path = photograph(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="deployed"):
        hsvdet.explain(detector.deploy(), path, tmp_path / "out")
    with pytest.raises(ConfigError, match="got neither"):
        hsvdet.explain(detector, [], tmp_path / "out")
    with pytest.raises(ConfigError, match="room for 1 to 50"):
        hsvdet.explain(detector, path, tmp_path / "out", points=[(1, 1)] * 51)
    (tmp_path / "video.mp4").write_bytes(b"x")
    with pytest.raises(DataError, match="explain expects images"):
        hsvdet.explain(detector, tmp_path / "video.mp4", tmp_path / "out")
    assert main(["explain", str(tiny_checkpoint), str(path), "--points", "5", "--out", "x"]) == 2
    assert main(["explain", str(tiny_checkpoint), str(path), "--out", str(tmp_path / "o"), "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["images"][0]["pictures"] == {"cells": "a-cells.jpg"}
    assert "x,y" in err.splitlines()[0]
