"""What every row of the table must do. Large rows differ from their family's small one in numbers only."""

import dataclasses
from typing import get_args

import pytest
import torch
from torch import nn

import hsvdet
from hsvdet.catalogue import ROWS
from hsvdet.deploy.graph import ExportGraph
from hsvdet.layers.precision import may_be_half
from hsvdet.layers.selection import TokenScorer
from hsvdet.layers.tokens import sampled_padding
from hsvdet.layers.training_only import without_training_parts
from hsvdet.models import MODELS, find
from hsvdet.models.hsg_det import HsgTrunk
from hsvdet.models.yolov8 import YoloV8
from hsvdet.structures import (
    Denoised,
    DenoisingGroups,
    DenseOutput,
    DualOutput,
    Output,
    Prediction,
    QueryOutput,
    Target,
)
from hsvdet.training.optimizer import Role, roles

THIN = {"width": 0.0625}  # of YOLOv8 and HSV-DET
HYBRID = {
    "width": 0.125,
    "dim": 32,
    "heads": 4,
    "fusion_layers": 1,
    "decoder_layers": 2,
    "tokens": 16,
    "context": 2,
}
SMALL = {name: {} for name in MODELS if name.endswith("-tiny")} | {
    "yolov8-n": THIN,
    "hsv-det-n": THIN | {"k": 8},
    "yolov8-n-e2e": THIN,
    "hsv-det-n-e2e": THIN | {"k": 8},
    "yolov8-n-dedup": THIN | {"frozen_detector": False},
    "hsv-det-n-dedup": THIN | {"k": 8},
    "hsv-det-n+": THIN | {"k": 8},
    "hsg-det-n": HYBRID | {"queries": 20},
    "hsg-det-n+": HYBRID | {"queries": 40},
}
LABELS = ["car", "person", "tree"]
SIZE = (96, 128)


# Whose tokens look at the whole picture. A dense head sees what is near a cell, padding too; HSV-DET's block has
# a test of its own, and HSG-Det's queries, which start there, one in test_hsg_det.py.
WITH_QUERIES = [name for name in SMALL if not issubclass(MODELS[name].net, (YoloV8, HsgTrunk))]


@pytest.fixture(params=SMALL)
def detector(request):
    return detector_called(request.param)


def detector_called(name):
    torch.manual_seed(0)
    made = hsvdet.create(name, LABELS, options=SMALL[name])
    made.preprocess = dataclasses.replace(made.preprocess, size=SIZE)
    return made


def batch():
    torch.manual_seed(1)
    padding = torch.zeros(2, *SIZE, dtype=torch.bool)
    padding[1, 64:], padding[1, :, 96:] = True, True
    return torch.rand(2, 3, *SIZE).masked_fill(padding[:, None], 0.0), padding


def objects(*counts):
    torch.manual_seed(2)
    return [Target(torch.randint(3, (n,)), torch.rand(n, 4) * 0.3 + 0.3) for n in counts]


def losses_of(detector, targets, net_targets=None):
    images, padding = batch()
    torch.manual_seed(3)
    output = detector.net(images, padding, net_targets)
    assert isinstance(output, Output)
    return find(detector.name).criterion()(output, targets)


def test_a_step_gives_finite_losses_and_a_gradient_to_every_parameter(detector):
    detector.net.train()
    targets = objects(3, 2)
    losses = losses_of(detector, targets, targets)
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    without = [name for name, p in detector.net.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert all(p.grad.isfinite().all() for p in detector.net.parameters() if p.grad is not None)


def test_every_prediction_of_an_output_has_a_name(detector):
    output = detector.net.train()(*batch(), objects(3, 2))
    inside = [id(part) for part in predictions_in(output)]
    names = [name for name, _ in output.predictions()]
    assert sorted(inside) == sorted(id(prediction) for _, prediction in output.predictions())
    assert len(set(names)) == len(names)


def predictions_in(part):
    if isinstance(part, Prediction):
        return [part]
    return [found for item in part for found in predictions_in(item)] if isinstance(part, tuple) else []


def test_a_dense_and_a_query_head_together_name_all_their_predictions():
    def made():
        return Prediction(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))

    def head(twin):
        return DenseOutput(
            made(), torch.zeros(1, 2, 4), torch.zeros(2, 2), torch.ones(2), torch.ones(1, 4), twin=twin
        )

    groups = DenoisingGroups(*[torch.zeros(0, dtype=torch.int64)] * 4, groups=1)
    query = QueryOutput((made(), made()), made(), Denoised((made(), made()), groups))
    output = DualOutput(made(), head(head(None)), query, torch.zeros(1, 2))
    inside = [id(part) for part in predictions_in(output)]
    assert sorted(inside) == sorted(id(prediction) for _, prediction in output.predictions())
    assert [name for name, _ in output.predictions()] == [
        "answer", "dense answer", "dense one-to-many", "decoder layer 0", "decoder layer 1",
        "proposals", "denoised layer 0", "denoised layer 1",
    ]  # fmt: skip


@pytest.mark.parametrize("counts", [(0, 0), (2, 0), (80, 1)], ids=["none", "some", "more than queries"])
def test_any_number_of_objects_trains(detector, counts):
    detector.net.train()
    targets = objects(*counts)
    losses = losses_of(detector, targets, targets)
    total = sum(losses.values())
    assert total.isfinite() and total > 0
    total.backward()


def test_the_order_of_objects_does_not_change_the_loss(detector):
    detector.net.eval()
    first, second = objects(5, 2)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        losses = losses_of(detector, [first, second])
        again = losses_of(detector, [Target(first.labels[order], first.boxes[order]), second])
    assert losses.keys() == again.keys()
    for name in losses:
        assert torch.allclose(losses[name], again[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("name", WITH_QUERIES)
def test_noise_in_padded_tokens_does_not_change_the_answer(name):
    """At the maps from which the tokens that queries look at are made."""
    net = detector_called(name).net.eval()
    images, padding = batch()
    if hasattr(net, "pyramid"):  # normalised over all cells of a map, padding too, so noise comes after that
        maps = list(net.pyramid.project)
    else:
        maps = list(net.project) if isinstance(net.project, torch.nn.ModuleList) else [net.project]
    recorded = 0

    def noisy(level):
        mask = sampled_padding(padding, level.shape[-2:])[:, None]
        return torch.where(mask, level + 7 * torch.randn_like(level), level)

    def add_noise(module, arguments, out):
        nonlocal recorded
        recorded += 1
        return noisy(out) if isinstance(out, torch.Tensor) else [noisy(level) for level in out]

    with torch.inference_mode():
        before = net(images, padding).answer
        for module in maps:
            module.register_forward_hook(add_noise)
        after = net(images, padding).answer
    assert recorded == len(maps)
    assert torch.allclose(before.logits, after.logits, atol=1e-5)
    assert torch.allclose(before.boxes, after.boxes, atol=1e-6)


def test_a_mask_without_padding_is_no_mask(detector):
    images, padding = batch()
    detector.net.eval()
    with torch.inference_mode():
        masked = detector.net(images, torch.zeros_like(padding)).answer
        unmasked = detector.net(images).answer
    assert torch.allclose(masked.logits, unmasked.logits, atol=1e-5)
    assert torch.allclose(masked.boxes, unmasked.boxes, atol=1e-6)


def test_a_checkpoint_gives_the_same_detector_back(detector, tmp_path):
    detector.save(tmp_path / "d.safetensors")
    loaded = hsvdet.load(tmp_path / "d.safetensors")
    assert (loaded.name, loaded.config, loaded.preprocess) == (
        detector.name,
        detector.config,
        detector.preprocess,
    )
    image = (torch.rand(3, 70, 110) * 255).to(torch.uint8)
    ours, theirs = (d(image, score=0.0, max_detections=20).detections for d in (detector, loaded))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def without_ties(net):
    """Where everything scores the same, which is first is not said; and so is an untrained deep network."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(0.1)
        if isinstance(module, TokenScorer):
            torch.nn.init.normal_(module.score.weight)


def test_the_exported_program_equals_eager(detector):
    detector.net.eval()
    without_ties(detector.net)
    images = torch.rand(2, 3, *SIZE)  # no blank part: of its cells, which is first is not said either
    with torch.no_grad():
        program = torch.export.export(detector.net, (images,))
        exported, eager = program.module()(images), detector.net(images)
    assert torch.allclose(exported.answer.logits, eager.answer.logits, atol=1e-5)
    assert torch.allclose(exported.answer.boxes, eager.answer.boxes, atol=1e-5)


def test_every_attention_says_whether_explain_draws_it(detector):
    """The layer that holds it does, in EXPLAINED (docs/adding-a-model.md)."""
    modules = dict(detector.net.named_modules())
    for name, module in modules.items():
        if hasattr(module, "weights") or hasattr(module, "locate"):
            owner, _, attribute = name.rpartition(".")
            while isinstance(modules[owner], nn.ModuleList | nn.ModuleDict | nn.Sequential):
                owner, _, attribute = owner.rpartition(".")
            declared = getattr(modules[owner], "EXPLAINED", {})
            assert declared.get(attribute, "nothing") in ("encoder", "decoder", "blocks", None), name


def test_what_learns_at_a_rate_of_its_own_is_declared(detector):
    """By the network and its layers, in BACKBONE and LEARNING_RATES (docs/adding-a-model.md)."""
    net = detector.net
    children, role_of = dict(net.named_children()), roles(net)
    assert net.BACKBONE and set(net.BACKBONE) <= set(children)
    for name, module in net.named_modules():
        for own, role in getattr(module, "LEARNING_RATES", {}).items():
            assert hasattr(module, own) and role in get_args(Role), (name, own)
    for name, parameter in net.named_parameters():
        path, expected = name.split("."), None
        if path[0] in net.BACKBONE:
            expected = "backbone"
        elif "sampling_offsets" in path or "reference" in path:
            expected = "sampling"
        elif path[-1] == "gate" and not parameter.any():  # else it stays shut for hundreds of steps
            expected = "gate"
        assert role_of[name] == expected, name


def test_what_may_be_computed_in_half_precision_is_declared(detector):
    """By the network and its layers, in HALF_PRECISION (docs/adding-a-model.md): all that is heavy may, and nothing of
    which a small error would choose another token or move a box."""
    net, may = detector.net, may_be_half(detector.net)
    modules = dict(net.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d | nn.Linear):
            around = [net, *(modules[name.rsplit(".", i)[0]] for i in range(name.count(".") + 1))]
            assert any(hasattr(each, "HALF_PRECISION") for each in around), name
    wide = {n for n, m in modules.items() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)}
    assert wide and wide <= may
    delicate = {"sampling_offsets", "reference", "scorer", "scorers", "classes", "boxes", "proposal_classes"}
    assert not [name for name in may if delicate & set(name.split("."))]
    assert not [
        name for name in may if name.startswith("head.") and getattr(modules[name], "bias", None) is not None
    ]


def test_the_graph_that_is_exported_reads_what_the_detector_reads(detector):
    """Where the picture has padding around it, of which a graph may be told in cells only."""
    without_ties(detector.net.eval())
    detector.preprocess = dataclasses.replace(detector.preprocess, resize="letterbox")
    reading, size = find(detector.name).reading, (53, 111)
    canvas, content = detector.preprocess.to_canvas((torch.rand(3, *size) * 255).to(torch.uint8))
    images, padding = detector.preprocess.normalise(canvas)[None], torch.ones(1, *SIZE, dtype=torch.bool)
    left, top, width, height = content
    padding[:, top : top + height, left : left + width] = False
    graph = ExportGraph(detector, score=0.0, floor=0.0, iou=0.7, max_detections=reading.max_detections)
    with torch.inference_mode():
        rows = graph(images, torch.tensor(content), torch.tensor(size))
        (expected,) = reading.detections(detector.net(images, padding).answer, [size], score=0.0)
    count = int(rows.count[0])
    assert padding.any() and count == len(expected.scores) > 5
    torch.testing.assert_close(rows.scores[0, :count], expected.scores, atol=2e-4, rtol=0)
    for box, score, label in zip(rows.boxes[0, :count], rows.scores[0, :count], rows.labels[0], strict=False):
        near = (expected.labels == label) & ((expected.scores - score).abs() < 2e-4)
        assert (expected.boxes[near] - box).abs().amax(1).min() < 0.01


def test_every_row_of_the_table_is_built_and_counted():
    """On the meta device: no weights are made."""
    for name, row in MODELS.items():
        with torch.device("meta"):
            net = without_training_parts(row.net(row.config, 80))
        parameters = sum(p.numel() for p in net.parameters())
        assert parameters == ROWS[name].parameters, f"{name}: run python benchmarks/zoo.py"
        assert row.preprocess and row.reading.max_detections and row.criterion(), name
