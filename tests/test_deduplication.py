"""The learned suppressor: against loops, what it may see, and what it is trained and exported as."""

import math

import numpy as np
import onnxruntime
import pytest
import torch

from hsvdet.layers.deduplication import Deduplication
from hsvdet.layers.position import sine_of_coordinates
from hsvdet.layers.relative_boxes import RelativeBoxBias, relative_boxes, touching

DIM, HEADS, QUERIES = 32, 4, 7


@pytest.fixture
def layer():
    """With nothing left at 0, where it starts."""
    torch.manual_seed(0)
    layer = Deduplication(DIM, 3, HEADS, feed_forward=48, null_tokens=2, relation=16).eval()
    for values in layer.parameters():
        torch.nn.init.normal_(values, std=0.3)
    return layer


def candidates():
    torch.manual_seed(1)
    boxes = torch.rand(2, QUERIES, 4) * 0.4 + 0.1
    scores = torch.rand(2, QUERIES)
    scores[0, 4] = scores[0, 1]  # a tie: 1 comes before 4
    return torch.randn(2, QUERIES, DIM), boxes, scores


def order_of(scores):
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def test_it_is_one_layer_of_attention_to_the_stronger_ones_written_as_loops(layer):
    features, boxes, scores = candidates()
    answer = layer(features, boxes, scores)
    for image in range(2):
        order = order_of(scores[image].tolist())
        normed = layer.norm_attention(features[image])
        seen = torch.cat([normed, layer.null_tokens])
        query, key, value = (
            getattr(layer.attention, part)(rows).unflatten(-1, (HEADS, -1))
            for part, rows in (("query", normed), ("key", seen), ("value", seen))
        )
        for place, i in enumerate(order):
            visible = [*order[:place], QUERIES, QUERIES + 1]
            attended = []
            for head in range(HEADS):
                logits = []
                for j in visible:
                    bias = layer.null_bias[head, 0]
                    if j < QUERIES:
                        bias = (pair_bias(layer, boxes[image], i, j) + pair_bias(layer, boxes[image], j, i))[
                            head
                        ] / 2
                    logits.append(query[i, head] @ key[j, head] / math.sqrt(DIM / HEADS) + bias)
                weights = torch.stack(logits).softmax(0)
                attended.append(sum(w * value[j, head] for w, j in zip(weights, visible, strict=True)))
            row = features[image, i] + layer.attention.output(torch.cat(attended))
            row = row + layer.feed_forward(layer.norm_feed_forward(row))
            assert torch.allclose(answer[image, i], layer.classes(layer.norm(row)), atol=1e-4)


def pair_bias(layer, boxes, i, j):
    (xi, yi, wi, hi), (xj, yj, wj, hj) = boxes[i].tolist(), boxes[j].tolist()
    if abs(xi - xj) > (wi + wj) / 2 or abs(yi - yj) > (hi + hj) / 2:
        return torch.zeros(HEADS)
    relation = [
        math.log(abs(xi - xj) / wi + 1),
        math.log(abs(yi - yj) / hi + 1),
        math.log(wi / wj),
        math.log(hi / hj),
    ]
    return layer.relation.mlp(sine_of_coordinates(torch.tensor(relation), layer.relation.width // 4))


def test_relations_of_boxes_are_the_same_in_any_unit():
    boxes = candidates()[1]
    pixels = boxes * torch.tensor([640, 480] * 2)
    assert torch.allclose(
        relative_boxes(boxes, boxes[:, :1]), relative_boxes(pixels, pixels[:, :1]), atol=1e-5
    )
    assert relative_boxes(torch.zeros(1, 2, 4), torch.zeros(1, 4)).isfinite().all()


def test_the_order_of_candidates_does_not_matter(layer):
    features, boxes, scores = candidates()
    scores[0, 4] += 0.01  # no tie: it is by number that ties are decided
    order = torch.tensor([3, 0, 6, 4, 1, 2, 5])
    moved = layer(features[:, order], boxes[:, order], scores[:, order])
    assert torch.allclose(moved, layer(features, boxes, scores)[:, order], atol=1e-5)


def test_a_candidate_hears_of_stronger_ones_only(layer):
    features, boxes, scores = candidates()
    before = layer(features, boxes, scores)
    for image in range(2):
        order = order_of(scores[image].tolist())
        for place, changed in enumerate(order):
            other, elsewhere = features.clone(), boxes.clone()
            other[image, changed] *= -1
            elsewhere[image, changed] += 0.2
            difference = (layer(other, elsewhere, scores) - before).abs().amax(-1)
            assert (difference[image, order[:place]] == 0).all()
            assert (difference[image, order[place:]] > 1e-4).all()
            assert (difference[1 - image] == 0).all()


def test_of_equal_scores_the_first_comes_first(layer):
    """Scores that quantisation made one: ranked by number, none sees itself, none is left out."""
    features, boxes, _ = candidates()
    equal = layer(features, boxes, torch.full((2, QUERIES), 0.5))
    falling = layer(features, boxes, torch.arange(QUERIES, 0, -1.0).expand(2, -1))
    assert torch.equal(equal, falling)


def test_rows_that_are_no_candidates_are_seen_by_nobody(layer):
    features, boxes, scores = candidates()
    padding = torch.zeros(2, QUERIES, dtype=torch.bool)
    padding[:, 5:] = True
    scores[:, 5:] = 2.0  # the strongest of all, were they there
    padded = layer(features, boxes, scores, padding)[:, :5]
    assert torch.allclose(padded, layer(features[:, :5], boxes[:, :5], scores[:, :5]), atol=1e-5)


def test_it_starts_without_a_bias_and_without_preference():
    torch.manual_seed(0)
    layer = Deduplication(DIM, 1, HEADS, relation=16)
    features, boxes, scores = candidates()
    assert not layer.relation(boxes).any() and not layer.null_bias.any()
    keep = layer(features, boxes, scores)
    assert keep.shape == (2, QUERIES, 1) and keep.sigmoid().mean() < 0.05


def test_every_parameter_learns_and_boxes_and_scores_do_not(layer):
    features, boxes, scores = (values.requires_grad_() for values in candidates())
    layer.train()(features, boxes, scores).square().sum().backward()
    assert all(values.grad.abs().sum() > 0 for values in layer.parameters())
    assert features.grad.abs().sum() > 0 and boxes.grad is None and scores.grad is None


def test_the_bias_is_the_same_in_both_directions_and_in_training():
    torch.manual_seed(0)
    bias = RelativeBoxBias(HEADS, 16)
    torch.nn.init.normal_(bias.mlp.layers[-1].weight)
    boxes = candidates()[1]
    near = touching(boxes)
    assert near.any() and not near.all()
    values = bias.eval()(boxes)
    assert torch.equal(values, values.transpose(2, 3)) and values.std() > 0
    assert torch.allclose(bias.train()(boxes), values, atol=1e-5)
    alone = torch.tensor([[[0.1, 0.1, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1]]])
    assert not bias(alone)[0, :, 0, 1].any() and bias(alone)[0, :, 0, 0].any()


def test_boxes_touch_that_overlap_or_share_an_edge():
    boxes = torch.tensor(
        [[2.0, 2.0, 2.0, 2.0], [4.0, 3.0, 2.0, 2.0], [4.5, 7.0, 5.0, 2.0], [2.0, 2.0, 1.0, 1.0]]
    )
    expected = [[1, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]]
    assert torch.equal(touching(boxes[None])[0], torch.tensor(expected).bool())


def test_half_precision_hides_the_same_pairs(layer):
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(*candidates())
    full = layer(*candidates())
    assert (half - full).abs().max() < 0.05 * full.abs().max()


def test_onnx_runtime_gives_the_same_scores_with_ties_and_for_any_batch(layer, tmp_path):
    example = candidates()
    batch = {0: torch.export.Dim("batch")}
    with torch.no_grad():
        program = torch.export.export(layer, example, dynamic_shapes=(batch, batch, batch))
        torch.onnx.export(program, dynamo=True, verbose=False).save(tmp_path / "layer.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx", providers=["CPUExecutionProvider"])
    inputs = [torch.cat([values, values.flip(0), values]) for values in example]
    names = [node.name for node in session.get_inputs()]
    (answer,) = session.run(None, {n: v.numpy() for n, v in zip(names, inputs, strict=True)})
    assert np.allclose(answer, layer(*inputs).detach().numpy(), atol=1e-4)
