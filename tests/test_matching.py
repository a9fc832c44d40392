"""Matching and set losses: against brute force, and against numbers of reference implementations."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from hsvdet.criteria.class_losses import FocalLoss, SoftmaxLoss, VarifocalLoss
from hsvdet.criteria.matching import MatchingCosts, match
from hsvdet.criteria.set import SetCriterion
from hsvdet.errors import NonFiniteError
from hsvdet.structures import Denoised, DenoisingGroups, Prediction, QueryOutput, Target

GOLDEN = json.loads((Path(__file__).parent / "golden" / "matching.json").read_text())


def golden(name):
    return torch.tensor(GOLDEN[name]["values"]).view(GOLDEN[name]["shape"])


def random_prediction(batch, queries, classes):
    return Prediction(torch.randn(batch, queries, classes), torch.rand(batch, queries, 4) * 0.4 + 0.3)


def random_targets(counts, classes):
    return [Target(torch.randint(classes, (n,)), torch.rand(n, 4) * 0.4 + 0.3) for n in counts]


def pairs_of(match_, image):
    here = match_.image == image
    return [match_.query[here].tolist(), match_.target[here].tolist()]


def test_matching_and_costs_equal_the_reference():
    logits, boxes, wanted = golden("logits"), golden("boxes"), golden("target_boxes")
    labels = torch.tensor(GOLDEN["target_labels"])
    assert torch.allclose(FocalLoss().cost(logits, labels), golden("cost_class"), atol=1e-5)
    prediction = Prediction(logits.view(2, 6, -1), boxes.view(2, 6, 4))
    targets = [Target(labels[:2], wanted[:2]), Target(labels[2:], wanted[2:])]
    found = match(prediction, targets, FocalLoss(), MatchingCosts())
    assert [pairs_of(found, i) for i in range(2)] == GOLDEN[
        "hungarian_two_images (queries 6 each, gts 2 and 3)"
    ]


def test_more_objects_than_queries_leaves_the_costliest_unmatched():
    labels, wanted = torch.tensor(GOLDEN["target_labels"]), golden("target_boxes")
    prediction = Prediction(golden("logits")[None, :2], golden("boxes")[None, :2])
    found = match(prediction, [Target(labels, wanted)], FocalLoss(), MatchingCosts())
    assert pairs_of(found, 0) == GOLDEN["hungarian_more_gts_than_queries (2 queries, 5 gts)"][0]
    losses = SetCriterion(FocalLoss())(QueryOutput((prediction,)), [Target(labels, wanted)])
    assert all(value.isfinite() for value in losses.values())


def test_focal_loss_equals_the_reference_with_its_gradient():
    logits = golden("logits").view(2, 6, 7).requires_grad_()
    labels = torch.full((2, 6), -1)
    for image, query, label in ((0, 1, 3), (1, 4, 0), (1, 5, 6)):
        labels[image, query] = label
    value = FocalLoss().loss(logits, labels, torch.zeros(2, 6)) / 3
    focal = GOLDEN["focal"]
    assert value.item() == pytest.approx(next(v for k, v in focal.items() if k.startswith("value")), rel=1e-5)
    value.backward()
    reference = torch.tensor(focal["grad"]["values"]).view(focal["grad"]["shape"])
    assert torch.allclose(logits.grad, reference, atol=1e-6)


def test_matching_is_the_cheapest_of_all_assignments():
    torch.manual_seed(0)
    prediction, (target,) = random_prediction(1, 5, 4), random_targets([3], 4)
    found = match(prediction, [target], SoftmaxLoss(), MatchingCosts(1, 5, 2))

    def cost(queries):
        single = [Prediction(prediction.logits[:, [q]], prediction.boxes[:, [q]]) for q in queries]
        total = 0.0
        for j, one in enumerate(single):
            only = [Target(target.labels[[j]], target.boxes[[j]])]
            losses = SetCriterion(SoftmaxLoss()).sums(
                one, only, match(one, only, SoftmaxLoss(), MatchingCosts())
            )
            class_cost = -one.logits[0, 0].softmax(-1)[target.labels[j]]
            total += class_cost + losses["l1"] + losses["giou"] - 2
        return float(total)

    best = min(itertools.permutations(range(5), 3), key=cost)
    chosen = dict(zip(found.target.tolist(), found.query.tolist(), strict=True))
    assert [chosen[j] for j in range(3)] == list(best)


def test_a_prediction_that_is_not_finite_is_named():
    prediction = random_prediction(2, 4, 3)
    prediction.boxes[1, 2] = torch.nan
    with pytest.raises(
        NonFiniteError, match=r"decoder layer 0.boxes holds NaN or infinity in 1 of 8 queries"
    ):
        SetCriterion(FocalLoss())(QueryOutput((prediction,)), random_targets([2, 1], 3))


@pytest.mark.parametrize("class_loss", [SoftmaxLoss(), FocalLoss(), VarifocalLoss()])
def test_the_order_of_objects_does_not_change_the_loss_and_no_objects_are_ordinary(class_loss):
    torch.manual_seed(1)
    output = QueryOutput((random_prediction(2, 6, 5), random_prediction(2, 6, 5)), random_prediction(2, 9, 5))
    (first, second) = random_targets([4, 0], 4)
    criterion = SetCriterion(class_loss)
    losses = criterion(output, [first, second])
    order = torch.randperm(4)
    again = criterion(output, [Target(first.labels[order], first.boxes[order]), second])
    assert losses.keys() == again.keys() and len(losses) == 9
    for name in losses:
        assert torch.allclose(losses[name], again[name], rtol=1e-5), name
    nothing = criterion(output, random_targets([0, 0], 4))
    assert nothing["l1"] == 0 and nothing["class"] > 0


def test_denoised_queries_answer_for_the_object_they_were_made_from():
    """Right answers cost nothing in boxes, whatever the matcher would say; negatives learn only classes."""
    (target,) = random_targets([2], 3)
    boxes = torch.cat([target.boxes.flip(0), torch.rand(2, 4)])[None]
    groups = DenoisingGroups(
        torch.zeros(4, dtype=torch.long), torch.tensor([1, 0, 1, 0]), torch.arange(4),
        torch.tensor([True, True, False, False]), 1,
    )  # fmt: skip
    output = QueryOutput(
        (random_prediction(1, 5, 3),), denoised=Denoised((Prediction(torch.zeros(1, 4, 3), boxes),), groups)
    )
    for rows, expected_rows in (("all", 4), ("real", 2)):
        losses = SetCriterion(FocalLoss(), denoised_rows=rows)(output, [target])
        assert losses["denoised0/l1"] == 0 and losses["denoised0/giou"] < 1e-5
        # logits 0: each class of a row costs alpha-weighted log 2 / 4; one hit a positive row.
        hit, miss = 0.25 * 0.25 * 0.6931472, 0.75 * 0.25 * 0.6931472
        expected = 2 * (2 * hit + (expected_rows * 3 - 2) * miss) / 2
        assert losses["denoised0/class"].item() == pytest.approx(expected, rel=1e-5)
