"""What is not known of an image is never trained as background: regions to ignore, and classes without labels."""

import pytest
import torch

import hsvdet
from hsvdet.boxes import cxcywh_to_xyxy
from hsvdet.criteria.class_losses import FocalLoss, MatchabilityLoss, SoftmaxLoss, VarifocalLoss
from hsvdet.criteria.dense import DenseCriterion
from hsvdet.criteria.dual import DeduplicatedCriterion
from hsvdet.criteria.salience import BorderSalience
from hsvdet.criteria.selection import SelectionLoss
from hsvdet.criteria.set import SetCriterion
from hsvdet.criteria.unknown import ignored_boxes, ignored_points
from hsvdet.layers.dense_head import anchor_points, pixels_to_fractions
from hsvdet.models import MODELS, find
from hsvdet.structures import (
    Denoised,
    DenoisingGroups,
    DenseOutput,
    Prediction,
    QueryOutput,
    Selection,
    Target,
)

CLASSES = 3
CROWD = torch.tensor([[0.75, 0.5, 0.5, 1.0]])  # the right half of the picture


def targets(ignored=None, labelled=None):
    """Two images: two objects on the left, and none."""
    labels, boxes = torch.tensor([0, 1]), torch.tensor([[0.2, 0.3, 0.2, 0.2], [0.3, 0.7, 0.3, 0.3]])
    return [
        Target(labels, boxes, ignored, labelled),
        Target(labels[:0], boxes[:0], ignored, labelled),
    ]


def queries(columns):
    """Predictions of 12 queries an image: two near the objects, the last six in the right half, the very last of them
    a bit less than half."""
    torch.manual_seed(0)
    boxes = torch.rand(2, 12, 4) * 0.1 + torch.tensor([0.2, 0.4, 0.1, 0.1])
    boxes[:, :2] = targets()[0].boxes + 0.01
    boxes[:, 6:, 0] += 0.55
    boxes[:, 11] = torch.tensor([0.49, 0.5, 0.2, 0.2])  # 45 % of it is in the crowd
    return Prediction(torch.randn(2, 12, columns).requires_grad_(), boxes.requires_grad_())


LOSSES = [SoftmaxLoss(), FocalLoss(), VarifocalLoss(), MatchabilityLoss()]
NAMES = [type(loss).__name__ for loss in LOSSES]


THIN = {"width": 0.0625}
HYBRID = THIN | dict(dim=16, heads=2, fusion_layers=1, decoder_layers=2, tokens=8, context=1)
WHOLE = {
    **dict.fromkeys(["yolov8-n", "hsv-det-n+", "yolov8-n-e2e", "hsv-det-n-e2e"], THIN),
    "yolov8-n-dedup": THIN | {"frozen_detector": False},
    "hsg-det-n": HYBRID | {"queries": 10},
    "hsg-det-n+": HYBRID | {"queries": 20},
    **{name: {} for name in MODELS if name.endswith("-tiny")},
}


def gradient(criterion, prediction, wanted):
    output = QueryOutput((prediction,))
    losses = criterion(output, wanted)
    return torch.autograd.grad(sum(losses.values()), [prediction.logits, prediction.boxes])


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_queries_in_a_crowd_learn_nothing_and_change_nothing(loss):
    prediction = queries(CLASSES + isinstance(loss, SoftmaxLoss))
    criterion = SetCriterion(loss)
    logits, boxes = gradient(criterion, prediction, targets(CROWD))
    assert not logits[:, 6:11].any() and not boxes[:, 6:].any()
    assert logits[:, :6].abs().sum(-1).all() and logits[:, 11].abs().sum(-1).all()
    with torch.no_grad():
        changed = prediction._replace(logits=prediction.logits.clone())
        changed.logits[:, 6:11] += torch.randn(2, 5, changed.logits.shape[-1])
    changed = Prediction(changed.logits.requires_grad_(), prediction.boxes)
    again, _ = gradient(criterion, changed, targets(CROWD))
    assert torch.equal(logits, again)
    assert gradient(criterion, prediction, targets())[0][:, 6:11].abs().sum(-1).all()


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_an_object_in_a_crowd_is_learned_all_the_same(loss):
    prediction = queries(CLASSES + isinstance(loss, SoftmaxLoss))
    inside = prediction.boxes[0, 8].detach()
    wanted = [Target(torch.tensor([2]), inside[None], CROWD), targets(CROWD)[1]]
    logits, _ = gradient(SetCriterion(loss), prediction, wanted)
    assert logits[0, 8, 2] < 0


@pytest.mark.parametrize("loss", LOSSES[1:], ids=NAMES[1:])
def test_logits_of_unlabelled_classes_learn_nothing(loss):
    prediction = queries(CLASSES)
    logits, _ = gradient(SetCriterion(loss), prediction, targets(labelled=torch.tensor([True, True, False])))
    usual, _ = gradient(SetCriterion(loss), prediction, targets())
    assert usual[..., 2].all() and not logits[..., 2].any() and torch.equal(logits[..., :2], usual[..., :2])


def test_no_object_or_one_of_the_unlabelled_classes_is_what_softmax_learns():
    prediction, labelled = queries(CLASSES + 1), torch.tensor([True, False, True])
    wanted = [targets()[0], targets(labelled=labelled)[1]]
    logits, _ = gradient(SetCriterion(SoftmaxLoss()), prediction, wanted)
    logits = logits[1]  # of the image without objects
    assert (logits[:, [0, 2]] > 0).all()  # labelled: known not to be there
    p = prediction.logits[1].softmax(-1)
    # Between the unknown class and "no object" nothing is learned: both move in proportion to themselves.
    assert torch.allclose(logits[:, 1] / p[:, 1], logits[:, 3] / p[:, 3], rtol=1e-4)
    assert (logits[:, [1, 3]] < 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_where_all_is_known_the_loss_is_the_usual_one(loss):
    prediction = queries(CLASSES + isinstance(loss, SoftmaxLoss))
    criterion, usual = SetCriterion(loss), targets()
    nothing = [t._replace(ignored=torch.zeros(0, 4), labelled=torch.ones(CLASSES).bool()) for t in usual]
    expected = criterion(QueryOutput((prediction,)), usual)
    got = criterion(QueryOutput((prediction,)), nothing)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name])


@pytest.mark.parametrize("rows", ["all", "real"])
def test_noised_queries_in_a_crowd_and_of_unlabelled_classes_learn_nothing(rows):
    """Negatives and fillers; a positive one learns its object wherever it is."""
    prediction, denoised = queries(CLASSES), queries(CLASSES)
    index = torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([6, 1]), torch.tensor([True, True])
    groups = DenoisingGroups(*index, groups=1)
    wanted = targets(CROWD, torch.tensor([True, True, False]))
    output = QueryOutput((prediction,), denoised=Denoised((denoised,), groups))
    losses = SetCriterion(FocalLoss(), denoised_rows=rows)(output, wanted)
    (logits,) = torch.autograd.grad(losses["denoised0/class"], denoised.logits)
    assert not logits[..., 2].any()
    assert not logits[0, 7:11].any() and not logits[1, 6:11].any()
    assert logits[0, 6, 0] < 0 < logits[0, 6, 1] and logits[0, 1, 1] < 0
    assert bool(logits[0, 2:6, :2].any()) == (rows == "all")


def test_proposals_that_learn_foreground_alone_learn_none_where_a_class_is_unlabelled():
    prediction, proposals = queries(CLASSES), queries(CLASSES)
    labelled = torch.tensor([True, True, False])
    criterion = SetCriterion(FocalLoss(), proposals="foreground")
    losses = criterion(QueryOutput((prediction,), proposals), targets(labelled=labelled))
    (logits,) = torch.autograd.grad(losses["proposals/class"], proposals.logits)
    assert (logits[..., 0] < 0).sum() == 2 and (logits[..., 0] != 0).sum() == 2  # one for each object
    losses = criterion(QueryOutput((prediction,), proposals), targets(CROWD))
    (logits,) = torch.autograd.grad(losses["proposals/class"], proposals.logits)
    assert not logits[:, 6:11].any() and logits[:, :6].all()


def test_a_deduplicating_layer_learns_nothing_in_a_crowd():
    first, last = queries(CLASSES), queries(CLASSES)
    wanted = targets(CROWD, torch.tensor([True, True, False]))
    losses = DeduplicatedCriterion()(QueryOutput((first, last)), wanted)
    for logits in torch.autograd.grad(sum(losses.values()), [first.logits, last.logits]):
        assert not logits[:, 6:11].any() and not logits[..., 2].any()
        assert logits[:, :6].abs().sum(-1).all()


EXTENTS = torch.tensor([[32.0, 0.0, 128.0, 64.0]] * 2)  # a picture of 128 x 64 in a canvas of 192 x 64


def dense():
    torch.manual_seed(0)
    anchors, strides = anchor_points([torch.zeros(1, 1, 64 // s, 192 // s) for s in (8, 16, 32)], (8, 16, 32))
    reach = strides[:, None].repeat(1, 2)
    xyxy = torch.cat([anchors - reach, anchors + reach], 1).expand(2, -1, 4)
    boxes = pixels_to_fractions(xyxy, EXTENTS).clone()
    distances = torch.randn(2, len(anchors), 64)
    logits = torch.randn(2, len(anchors), CLASSES).requires_grad_()
    return DenseOutput(Prediction(logits, boxes), distances, anchors, strides, EXTENTS)


def in_crowd(output):
    return (output.anchors[:, 0] > 96) & (output.anchors[:, 0] < 160)


def dense_gradient(output, wanted):
    losses = DenseCriterion()(output, wanted)
    return torch.autograd.grad(losses["class"], output.prediction.logits)[0]


def test_anchors_in_a_crowd_and_those_whose_box_is_mostly_in_it_learn_nothing_and_change_nothing():
    output, wanted = dense(), targets(CROWD)
    output.prediction.boxes[0, 0] = torch.tensor([0.8, 0.5, 0.2, 0.2])  # of an anchor on the left
    inside = in_crowd(output)
    logits = dense_gradient(output, wanted)
    assert inside.sum() > 40 and not logits[:, inside].any() and not logits[0, 0].any()
    left = (
        output.anchors[:, 0] < 96
    )  # boxes of those to the right reach into the crowd from beyond the picture
    assert logits[1, 0].all() and logits[1, left].abs().sum(-1).all()
    with torch.no_grad():
        output.prediction.logits[:, inside] += torch.randn(2, int(inside.sum()), CLASSES)
    assert torch.equal(dense_gradient(output, wanted), logits)
    assert dense_gradient(output, targets()).all()


def test_an_object_in_a_crowd_has_anchors_and_unlabelled_classes_have_no_negatives():
    output = dense()
    box = torch.tensor([[0.75, 0.5, 0.3, 0.5]])
    wanted = [Target(torch.tensor([2]), box, CROWD), Target(torch.zeros(0, dtype=torch.int64), box[:0])]
    wanted[1] = wanted[1]._replace(labelled=torch.tensor([True, False, True]))
    logits = dense_gradient(output, wanted)
    assert (logits[0, :, 2] < 0).any() and not logits[0, in_crowd(output), :2].any()
    assert not logits[1, :, 1].any() and (logits[1][:, [0, 2]] > 0).all()


@pytest.mark.parametrize("salience", [None, BorderSalience()])
def test_token_selectors_learn_nothing_in_a_crowd_nor_outside_objects_where_a_class_is_unlabelled(salience):
    loss = SelectionLoss() if salience is None else SelectionLoss(salience)
    logits = torch.randn(2, 8, 24).requires_grad_()

    def learned(wanted):
        value = loss([Selection(logits, 8)], wanted, EXTENTS)
        return torch.autograd.grad(value, logits)[0] != 0

    right = torch.arange(24) * 8 + 4 > 96
    right &= torch.arange(24) * 8 + 4 < 160
    everything = learned(targets())
    assert everything.all()
    crowd = learned(targets(CROWD))
    assert not crowd[..., right].any() and crowd[..., ~right].all()
    known = learned(targets(labelled=torch.tensor([True, True, False])))
    left, top, width, height = EXTENTS[0].tolist()
    for row in range(8):
        for column in range(24):
            x, y = (8 * column + 4 - left) / width, (8 * row + 4 - top) / height
            inside = any(
                box[0] < x < box[2] and box[1] < y < box[3]
                for box in cxcywh_to_xyxy(targets()[0].boxes).tolist()
            )
            assert known[0, row, column] == inside
    assert known[0].any() and not known[1].any()


def test_a_box_is_ignored_from_half_of_its_own_area_in_one_region_on():
    regions = torch.tensor([[0.2, 0.5, 0.2, 1.0], [0.4, 0.5, 0.2, 1.0]])  # side by side, from 0.1 to 0.5
    boxes = torch.tensor(
        [[[0.3, 0.5, 0.2, 0.2], [0.31, 0.5, 0.2, 0.2], [0.3, 0.5, 0.5, 0.2], [0.2, 0.5, 0.0, 0.0]]]
    )
    wanted = [Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), regions)]
    assert ignored_boxes(boxes, wanted).tolist() == [[True, True, False, False]]
    assert ignored_boxes(boxes, [wanted[0]._replace(ignored=None)]) is None
    edge = [wanted[0]._replace(ignored=torch.tensor([[0.2, 0.5, 0.4, 1.0]]))]  # from 0 to 0.4
    assert ignored_boxes(torch.tensor([[[0.0, 0.5, 0.8, 0.2], [0.3, 0.5, 1.2, 0.2]]]), edge).tolist() == [
        [True, False]
    ]
    points = torch.tensor([[31.0, 10.0], [60.0, 10.0], [97.0, 10.0]])
    assert ignored_points(points, wanted, EXTENTS[:1]).tolist() == [[False, True, False]]


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_network_learns_nothing_of_a_picture_that_is_all_crowd(name):
    """But that of its boxes, that is nothing: there are no objects. So nothing in the picture changes a gradient: dense
    and one-to-one heads, every layer of queries, proposals, encoder layers, noised queries, selectors."""
    torch.manual_seed(0)
    detector = hsvdet.create(name, ["a", "b", "c"], options=WHOLE[name])
    everything = torch.tensor([[0.5, 0.5, 2.0, 2.0]])
    wanted = [Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), everything)] * 2
    output = detector.net.train()(torch.rand(2, 3, 64, 96), None, wanted)
    losses = find(name).criterion()(output, wanted)
    if name.startswith("sparse"):
        del losses["selector"]  # it learns where the decoder looks, which needs no annotations
    sum(losses.values()).backward()
    learning = {n for n, p in detector.net.named_parameters() if p.grad is not None and p.grad.any()}
    assert not learning
