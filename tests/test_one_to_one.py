"""A dense head with one cell for each object, beside its one-to-many twin."""

import pytest
import torch

import hsvdet
from hsvdet.boxes import complete_iou
from hsvdet.criteria.dense import DenseCriterion, DualAssignmentCriterion
from hsvdet.criteria.task_aligned import one_to_one_assignment
from hsvdet.layers.dense_head import DenseHead, OneToOneConfig, OneToOneHead
from hsvdet.profiler import profile
from hsvdet.structures import Target
from hsvdet.training.warm_start import warm_start

THIN = {"width": 0.0625}


def crowd(seed):
    """Scores, boxes, anchors of an 8 x 8 grid, and objects that overlap so much that they claim the same cells."""
    torch.manual_seed(seed)
    anchors = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)) * 8 + 4
    boxes = torch.cat([anchors - 12, anchors + 12], 1) + 6 * torch.randn(64, 4)
    centres = 26 + 12 * torch.rand(5, 2)
    objects = torch.cat([centres - 12, centres + 12], 1)
    return torch.rand(64, 2), boxes, anchors, torch.randint(2, (5,)), objects


def by_hand(scores, boxes, anchors, labels, objects):
    """Object to anchor: the best pair of all first, then the best of what is left, and so on."""
    pairs = []
    for n, (label, (left, top, right, bottom)) in enumerate(zip(labels, objects, strict=True)):
        for a, (x, y) in enumerate(anchors):
            if left < x < right and top < y < bottom:
                overlap = complete_iou(objects[n][None], boxes[a][None]).clamp(min=0).item()
                pairs.append((scores[a, label].item() ** 0.5 * overlap**6, n, a))
    found, taken = {}, set()
    for worth, n, a in sorted(pairs, reverse=True):
        if worth > 0 and n not in found and a not in taken:
            found[n] = a
            taken.add(a)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_every_object_has_one_cell_also_where_all_claim_the_same(seed):
    scores, boxes, anchors, labels, objects = crowd(seed)
    assignment = one_to_one_assignment(
        scores[None], boxes[None], anchors, labels[None], objects[None], torch.ones(1, 5, dtype=torch.bool)
    )
    cells = assignment.positive[0].nonzero().flatten().tolist()
    assert {int(assignment.target[0, a]): a for a in cells} == by_hand(*crowd(seed))
    assert len(cells) == 5


def test_maps_learn_from_the_twin_alone_unless_asked():
    maps = [torch.rand(1, 16, s, s, requires_grad=True) for s in (8, 4, 2)]
    images = torch.zeros(1, 3, 64, 64)
    for detached in (True, False):
        torch.manual_seed(0)
        head = OneToOneHead((16, 16, 16), 2, OneToOneConfig(detached=detached))
        output = head.train()(maps, images, None)
        gradient = torch.autograd.grad(output.answer.logits.sum(), maps, allow_unused=True, retain_graph=True)
        assert all((part is None) == detached for part in gradient)
        gradient = torch.autograd.grad(output.twin.answer.logits.sum(), maps, allow_unused=True)
        assert all(part is not None for part in gradient)
        assert head.eval()(maps, images, None).twin is None


def test_plain_distances_are_learned_in_strides():
    """One cell, one object: the L1 term against a count by hand."""
    head = DenseHead((16, 16, 16), 1, bins=1)
    maps = [torch.rand(1, 16, s, s) for s in (8, 4, 2)]
    output = head(maps, torch.zeros(1, 3, 64, 64), None)
    target = Target(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.6, 0.4]]))
    losses = DenseCriterion(assign=one_to_one_assignment, l1_gain=6.0)(output, [target])
    xyxy = torch.tensor([12.8, 19.2, 51.2, 44.8])
    reaches = torch.cat([output.anchors - xyxy[:2], xyxy[2:] - output.anchors], 1) / output.strides[:, None]
    apart = 6.0 * (output.distances[0] - reaches).abs().mean(1)
    # The weight of the cell is its target score; their sum is under 1, by which the loss is divided then.
    assignment = one_to_one_assignment(
        output.answer.logits.sigmoid(),
        torch.cat([output.anchors - output.distances[0, :, :2].clamp(min=0) * output.strides[:, None],
                   output.anchors + output.distances[0, :, 2:].clamp(min=0) * output.strides[:, None]], 1)[None],
        output.anchors, torch.zeros(1, 1, dtype=torch.int64), xyxy[None, None], torch.ones(1, 1).bool(),
        smallest_side=16.0,
    )  # fmt: skip
    cell = assignment.positive[0].nonzero().item()
    assert torch.allclose(losses["l1"], apart[cell] * assignment.score[0, cell], rtol=1e-5)
    assert losses["l1"] > 0 and "distribution" not in losses


def test_weight_moves_from_the_twin_to_the_answer():
    head = OneToOneHead((16, 16, 16), 2, OneToOneConfig()).train()
    output = head([torch.rand(1, 16, s, s) for s in (8, 4, 2)], torch.zeros(1, 3, 64, 64), None)
    targets = [Target(torch.tensor([0, 1]), torch.tensor([[0.4, 0.4, 0.5, 0.5], [0.6, 0.6, 0.4, 0.4]]))]
    one, many = DenseCriterion(assign=one_to_one_assignment), DenseCriterion()
    criterion = DualAssignmentCriterion(one, many)
    for progress, own, twin in ((0.0, 0.2, 0.8), (0.5, 0.55, 0.45), (1.0, 0.9, 0.1)):
        criterion.at(progress)
        losses = criterion(output, targets)
        for name, loss in one(output, targets).items():
            assert torch.allclose(losses[name], own * loss), name
        for name, loss in many(output.twin, targets).items():
            assert torch.allclose(losses[f"twin/{name}"], twin * loss), name


@pytest.mark.parametrize("name", ["yolov8-n-e2e", "hsv-det-n-e2e"])
def test_it_starts_from_weights_of_yolov8_bit_for_bit(name, tmp_path):
    plain = hsvdet.create("yolov8-n", ["car", "person"], size=(64, 96), options=THIN)
    plain.save(tmp_path / "plain.safetensors")
    detector = hsvdet.create(name, ["car", "person"], size=(64, 96), options=THIN)
    report = warm_start(detector, tmp_path / "plain.safetensors")
    assert report.transferred == report.available
    images = torch.rand(2, 3, 64, 96)
    for module in detector.net.modules():  # training, for the twin; with the statistics of evaluation
        module.training = isinstance(module, OneToOneHead)
    with torch.no_grad():
        expected, found = plain.net.eval()(images), detector.net(images)
    assert torch.equal(found.twin.distances, expected.distances)
    assert torch.equal(found.twin.answer.logits, expected.answer.logits)


def test_the_twin_is_neither_deployed_nor_counted(tmp_path):
    detector = hsvdet.create("yolov8-n-e2e", ["car"], size=(64, 64), options=THIN)
    image = (torch.rand(3, 60, 64) * 255).to(torch.uint8)
    deployed = detector.deploy()
    assert not any("twin" in name for name, _ in deployed.net.named_parameters())
    before, after = detector(image, score=0.0), deployed(image, score=0.0)
    assert torch.allclose(before.scores, after.scores, atol=1e-5)
    detector.save(tmp_path / "d.safetensors")
    counted = profile(tmp_path / "d.safetensors").parameters
    whole = sum(p.numel() for p in detector.net.parameters())
    assert counted == whole - sum(p.numel() for p in detector.net.head.twin.parameters())
    assert any("twin" in name for name in hsvdet.load(tmp_path / "d.safetensors").net.state_dict())
