"""The learned suppressor: its messages against loops, who sends to whom, and what it is exported as."""

import math

import numpy as np
import onnxruntime
import pytest
import torch
from torchvision.ops import box_convert, box_iou

from hsvdet.layers.deduplication import Deduplication
from hsvdet.layers.neighbours import find_neighbours

DIM, CANDIDATES, CLASSES = 32, 9, 3


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = Deduplication(DIM, rounds=2, neighbours=4, message=16).eval()
    for values in layer.parameters():
        torch.nn.init.normal_(values, std=0.3)
    return layer


def candidates():
    """Two images; most candidates overlap some others, more than four of them in places."""
    torch.manual_seed(1)
    boxes = torch.rand(2, CANDIDATES, 4) * 0.3 + 0.2
    logits = torch.randn(2, CANDIDATES, CLASSES)
    logits[0, 4] = logits[0, 1]  # a tie: 1 comes before 4
    return torch.randn(2, CANDIDATES, DIM), boxes, logits


def overlaps_of(boxes):
    xyxy = box_convert(boxes, "cxcywh", "xyxy")
    return box_iou(xyxy, xyxy).fill_diagonal_(0)


def test_neighbours_are_those_that_overlap_most_described_as_the_candidate_sees_them():
    _, boxes, logits = candidates()
    around = find_neighbours(boxes, logits, 4)
    crowded = 0
    for image in range(2):
        overlaps = overlaps_of(boxes[image])
        for i in range(CANDIDATES):
            wanted = sorted(range(CANDIDATES), key=lambda j, row=overlaps[i]: -row[j])[:4]
            wanted = [j for j in wanted if overlaps[i, j] > 0.1]
            crowded += (overlaps[i] > 0.1).sum() > 4
            real = around.real[image, i]
            assert around.rows[image, i][real].tolist() == wanted
            (xi, yi, wi, hi), probabilities = boxes[image, i].tolist(), logits[image].sigmoid()
            for j, relation in zip(wanted, around.relation[image, i][real], strict=True):
                xj, yj, wj, hj = boxes[image, j].tolist()
                best, other = logits[image, i].max().item(), logits[image, j].max().item()
                expected = [
                    math.log(abs(xi - xj) / wi + 1),
                    math.log(abs(yi - yj) / hi + 1),
                    math.log(wi / wj),
                    math.log(hi / hj),
                    overlaps[i, j],
                    (other - best) / 3,
                    other > best or (other == best and j < i),
                    torch.cosine_similarity(probabilities[i], probabilities[j], 0),
                ]
                torch.testing.assert_close(relation, torch.tensor(expected).float(), atol=1e-4, rtol=0)
    assert crowded
    moved = find_neighbours(boxes * torch.tensor([640, 480] * 2), logits, 4)
    assert torch.equal(moved.rows[moved.real], around.rows[around.real])
    torch.testing.assert_close(moved.relation, around.relation, atol=1e-4, rtol=0)
    nothing = find_neighbours(torch.zeros(1, 3, 4), torch.zeros(1, 3, 2), 4)
    assert nothing.relation.isfinite().all() and not nothing.real.any()


def test_messages_are_what_loops_say(layer):
    features, boxes, logits = candidates()
    around = find_neighbours(boxes, logits, 4)
    expected = features
    for step in layer.rounds:
        after = expected.clone()
        for image in range(2):
            normed = step.norm_message(expected[image])
            for i in range(CANDIDATES):
                received = [torch.zeros(16)]
                for j, real, relation in zip(
                    around.rows[image, i], around.real[image, i], around.relation[image, i], strict=True
                ):
                    if real:
                        known = step.relation(layer.relation(relation).relu())
                        pair = (step.receiver(normed[i]) + step.sender(normed[j]) + known).relu()
                        received.append(step.message(pair).relu())
                received = torch.stack(received)
                row = expected[image, i] + step.output(torch.cat([received.amax(0), received.sum(0) / 8]))
                after[image, i] = row + step.feed_forward(step.norm_feed_forward(row))
        expected = after
    torch.testing.assert_close(layer(features, boxes, logits), layer.norm(expected), atol=1e-4, rtol=1e-4)


def test_the_order_of_candidates_does_not_matter(layer):
    features, boxes, logits = candidates()
    logits[0, 4] += 0.01  # no tie: it is by number that ties are decided
    order = torch.tensor([3, 0, 6, 4, 1, 8, 2, 5, 7])
    moved = layer(features[:, order], boxes[:, order], logits[:, order])
    torch.testing.assert_close(moved, layer(features, boxes, logits)[:, order], atol=1e-5, rtol=1e-5)


def test_what_does_not_overlap_sends_nothing(layer):
    features, boxes, logits = candidates()
    boxes[:, 0] = torch.tensor([0.9, 0.9, 0.1, 0.1])
    boxes[:, 1] = torch.tensor([0.97, 0.9, 0.1, 0.1])  # IoU 0.18 with the first
    boxes[:, 2] = torch.tensor([0.99, 0.9, 0.1, 0.1])  # IoU 0.05 with the first, 0.67 with the second
    before = layer(features, boxes, logits)
    for changed, receiving in ((0, {0, 1, 2}), (3, set(range(3, CANDIDATES)))):
        other = features.clone()
        other[0, changed] *= -1
        difference = (layer(other, boxes, logits) - before).abs().amax(-1)
        assert not difference[1].any()
        assert {i for i in range(CANDIDATES) if difference[0, i] > 1e-5} <= receiving
        assert difference[0, changed] > 1e-3


def test_rows_that_are_no_candidates_send_nothing(layer):
    features, boxes, logits = candidates()
    padding = torch.zeros(2, CANDIDATES, dtype=torch.bool)
    padding[:, 5:] = True
    logits[:, 5:] = 20.0  # the strongest of all, were they there
    padded = layer(features, boxes, logits, padding)[:, :5]
    torch.testing.assert_close(
        padded, layer(features[:, :5], boxes[:, :5], logits[:, :5]), atol=1e-5, rtol=1e-5
    )


def test_every_parameter_learns_and_boxes_and_logits_do_not(layer):
    features, boxes, logits = (values.requires_grad_() for values in candidates())
    layer.train()(features, boxes, logits).pow(3).sum().backward()
    assert all(values.grad.abs().sum() > 0 for values in layer.parameters())
    assert features.grad.abs().sum() > 0 and boxes.grad is None and logits.grad is None


def test_half_precision_finds_the_same_neighbours(layer):
    full = layer(*candidates())
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(*candidates())
    assert (half - full).abs().max() < 0.05 * full.abs().max()


@pytest.mark.parametrize("fixed", [True, False])
def test_onnx_runtime_gives_the_same_with_ties_and_for_any_number_of_candidates(layer, fixed, tmp_path):
    example = candidates()
    free = {0: torch.export.Dim("batch")} | ({} if fixed else {1: torch.export.Dim("candidates", min=2)})
    with torch.no_grad():
        program = torch.export.export(layer, example, dynamic_shapes=(free, free, free))
        torch.onnx.export(program, dynamo=True, verbose=False).save(tmp_path / "layer.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx", providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    for count in (CANDIDATES,) if fixed else (CANDIDATES, 3):
        inputs = [torch.cat([values, values.flip(0), values])[:, :count] for values in example]
        (answer,) = session.run(None, {n: v.numpy() for n, v in zip(names, inputs, strict=True)})
        assert np.allclose(answer, layer(*inputs).detach().numpy(), atol=1e-4)
