"""Several queries for an object, and one that stays: matching against a plain search, losses against formulas."""

import itertools

import pytest
import torch
from torch import nn

from hsvdet.boxes import cxcywh_to_xyxy, iou
from hsvdet.criteria.class_losses import MatchabilityLoss
from hsvdet.criteria.criterion import Part, Total
from hsvdet.criteria.dual import DeduplicatedCriterion, DualCriterion
from hsvdet.criteria.matching import match_by, match_many, overlap_cost
from hsvdet.structures import DenseOutput, DualOutput, Prediction, QueryOutput, Selection, Target


def scene(queries, objects, seed=0, classes=3):
    """Two images, the second with one object; boxes near objects, some of them in one place."""
    torch.manual_seed(seed)
    targets = [Target(torch.randint(classes, (n,)), torch.rand(n, 4) * 0.2 + 0.4) for n in (objects, 1)]
    boxes = torch.stack([t.boxes[torch.randint(len(t.boxes), (queries,))] for t in targets])
    boxes = (boxes + torch.randn(2, queries, 4) * 0.03).clamp(0.05, 0.95)
    return Prediction(torch.randn(2, queries, classes), boxes), targets


def quality_of(prediction, target, image):
    overlap = iou(cxcywh_to_xyxy(prediction.boxes[image])[:, None], cxcywh_to_xyxy(target.boxes))
    return 0.7 * overlap + 0.3 * prediction.logits[image].sigmoid()[:, target.labels]


def searched(quality, most):
    """By trying all assignments of one query to each object; k - 1 others then, object by object."""
    queries, objects = quality.shape
    sure = max(
        itertools.permutations(range(queries), objects),
        key=lambda chosen: sum(quality[q, n] for n, q in enumerate(chosen)),
    )
    k = max(1, min(most, int(0.6 * queries / objects)))
    others = [
        [q for q in quality[:, n].argsort(descending=True).tolist() if q != sure[n]] for n in range(objects)
    ]
    owners = {}
    for query in range(queries):
        wanting = [
            n for n in range(objects)
            if quality[query, n] >= 0.4 and query in others[n][: k - 1]
        ]  # fmt: skip
        if wanting:
            owners[query] = max(wanting, key=lambda n: quality[query, n])
    return owners | {query: n for n, query in enumerate(sure)}


@pytest.mark.parametrize("seed", range(4))
def test_an_object_gets_its_best_queries_and_one_for_sure(seed):
    prediction, targets = scene(9, 3, seed)
    found = match_many(prediction, targets)
    several = 0
    for image, target in enumerate(targets):
        here = found.image == image
        owners = dict(zip(found.query[here].tolist(), found.target[here].tolist(), strict=True))
        assert owners == searched(quality_of(prediction, target, image), most=6)
        assert set(owners.values()) == set(range(len(target.labels)))
        several += len(owners) > len(target.labels)
    assert several


def test_a_crowd_leaves_queries_for_nothing():
    """k = 0.6 Q / N: with 6 for each, 25 objects would take all 100 queries."""
    torch.manual_seed(0)
    target = Target(torch.zeros(25, dtype=torch.int64), torch.rand(25, 4) * 0.5 + 0.25)
    boxes = target.boxes.repeat(4, 1)[None]
    prediction = Prediction(torch.full((1, 100, 1), 3.0), boxes)
    assert len(match_many(prediction, [target]).query) <= 60


def test_two_objects_in_one_place_have_a_query_each_and_none_is_a_match_of_nothing():
    target = Target(torch.tensor([0, 0]), torch.tensor([[0.5, 0.5, 0.2, 0.2]] * 2))
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1], [0.8, 0.1, 0.1, 0.1]]])
    found = match_many(Prediction(torch.zeros(1, 3, 1), boxes), [target])
    assert sorted(found.target.tolist()) == [0, 1] and 0 in found.query.tolist()
    nothing = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    assert len(match_many(Prediction(torch.zeros(1, 3, 1), boxes), [nothing]).query) == 0
    crowd = Target(torch.zeros(5, dtype=torch.int64), torch.rand(5, 4) * 0.1 + 0.5)
    assert len(match_many(Prediction(torch.zeros(1, 3, 1), boxes), [crowd]).query) == 3


def test_matchability_loss_is_its_formula():
    torch.manual_seed(0)
    logits, quality = torch.randn(1, 3, 2), torch.tensor([[0.8, 0.0, 0.3]])
    labels = torch.tensor([[1, -1, 0]])
    expected = 0.0
    for query, class_ in itertools.product(range(3), range(2)):
        p = logits[0, query, class_].sigmoid()
        if labels[0, query] == class_:
            wanted = quality[0, query] ** 1.5
            expected -= wanted * p.log() + (1 - wanted) * (1 - p).log()
        else:
            expected -= p**1.5 * (1 - p).log()
    loss = MatchabilityLoss().loss(logits, labels, quality) / 2
    assert loss.item() == pytest.approx(expected.item() / 2, rel=1e-5)


def test_late_matching_counts_overlap_more_than_class():
    target = Target(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.16], [0.5, 0.5, 0.2, 0.2]]])  # IoU 0.8 and 1
    logits = torch.tensor([[[0.75], [0.4]]]).logit()
    cost = overlap_cost(logits[0], boxes[0], target)
    assert torch.allclose(cost, torch.tensor([[-0.75 * 0.8**4], [-0.4]]), atol=1e-5)
    assert match_by(overlap_cost, Prediction(logits, boxes), [target]).query.item() == 1
    found = []
    criterion = DeduplicatedCriterion()
    for progress in (0.0, 0.77, 0.78, 1.0):
        criterion.at(progress)
        given = Prediction(logits.clone().requires_grad_(), boxes)
        criterion(QueryOutput((Prediction(logits, boxes), given)), [target])["class"].backward()
        found.append(given.logits.grad[0, :, 0].argmin().item())  # whose score is to rise
    assert found == [0, 0, 1, 1]


def test_the_last_layer_learns_classes_alone_and_one_query_an_object():
    prediction, targets = scene(9, 3)
    first, last = (Prediction(*(part.clone().requires_grad_() for part in prediction)) for _ in range(2))
    losses = DeduplicatedCriterion()(QueryOutput((first, last)), targets)
    assert set(losses) == {"layer0/class", "layer0/l1", "layer0/giou", "class"}
    sum(losses.values()).backward()
    assert last.boxes.grad is None and first.boxes.grad.abs().sum() > 0
    assert (last.logits.grad < 0).sum() == 4  # one for each object
    assert (first.logits.grad < 0).sum() > 4


class _Weighing(nn.Module):
    def at(self, progress):
        self.progress = progress

    def parts(self, output, targets, step):
        found = {"class": Part(torch.tensor(6.0), Total("positives", torch.tensor(3.0)))}
        if output.selections:
            found["selector"] = Part(torch.tensor(1.0) / step.objects)
        return found


def test_both_heads_are_told_of_progress_and_their_losses_have_names():
    dense, query = _Weighing(), _Weighing()
    criterion = DualCriterion(dense, query)
    criterion.at(0.5)
    assert (dense.progress, query.progress) == (0.5, 0.5)
    answer, unused = Prediction(torch.zeros(1, 1, 1), torch.zeros(1, 1, 4)), torch.zeros(0)
    output = DualOutput(
        answer,
        DenseOutput(answer, unused, unused, unused, unused),
        QueryOutput((answer,)),
        unused,
        selections=(Selection(unused, 8),),
    )
    losses = criterion(output, [Target(torch.zeros(4).long(), torch.zeros(4, 4))])
    assert losses == {"class": 2, "dense/class": 2, "dense/selector": 0.25}
