"""What every row of the table must do. Large rows differ from their family's small one in numbers only."""

import dataclasses

import pytest
import torch

import hsvdet
from hsvdet.layers.tokens import sampled_padding
from hsvdet.models import MODELS, find
from hsvdet.models.costs import COSTS
from hsvdet.structures import DenseOutput, QueryOutput, Target

THIN = {"width": 0.0625}  # of YOLOv8 and HSV-DET
SMALL = {name: {} for name in MODELS if name.endswith("-tiny")} | {
    "yolov8-n": THIN,
    "hsv-det-n": THIN | {"k": 8},
    "hsv-det-n+": THIN | {"k": 8},
}
LABELS = ["car", "person", "tree"]
SIZE = (96, 128)


@pytest.fixture(params=SMALL)
def detector(request):
    torch.manual_seed(0)
    name = request.param
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
    assert isinstance(output, DenseOutput | QueryOutput)
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


def test_noise_in_padded_tokens_does_not_change_the_answer(detector):
    """Query detectors, at the maps their tokens are made from; HSV-DET's block has a test of its own. A dense
    head sees everything near a cell, and RT-DETR stretches its images and knows no padding."""
    net = detector.net.eval()
    if not hasattr(net, "backbone") or detector.preprocess.resize == "stretch":
        return
    images, padding = batch()

    def noisy(level):
        hidden = sampled_padding(padding, level.shape[-2:])[:, None]
        return torch.where(hidden, level + 7 * torch.randn_like(level), level)

    def add_noise(module, arguments, out):
        return noisy(out) if isinstance(out, torch.Tensor) else [noisy(level) for level in out]

    with torch.inference_mode():
        before = net(images, padding).answer
        # Several levels are normalised over their cells, padding too, so noise comes after that.
        for module in net.pyramid.project if hasattr(net, "pyramid") else [net.backbone]:
            module.register_forward_hook(add_noise)
        after = net(images, padding).answer
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
    ours, theirs = (d(image, score=0.0, limit=20) for d in (detector, loaded))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_exported_program_equals_eager(detector):
    detector.net.eval()
    images, _ = batch()
    with torch.no_grad():
        program = torch.export.export(detector.net, (images,))
        exported, eager = program.module()(images), detector.net(images)
    assert torch.allclose(exported.answer.logits, eager.answer.logits, atol=1e-5)
    assert torch.allclose(exported.answer.boxes, eager.answer.boxes, atol=1e-5)


def test_every_row_of_the_table_is_built_and_counted():
    """On the meta device: no weights are made."""
    for name, row in MODELS.items():
        with torch.device("meta"):
            net = row.net(row.config, 80)
        parameters = sum(p.numel() for p in net.parameters())
        assert parameters == COSTS[name].parameters, f"{name}: run python benchmarks/zoo.py"
        assert row.preprocess and callable(row.postprocess) and row.criterion(), name
