"""Where rounding decides, either answer is right; where it does not, the smallest fault is one. Two lists of
detections beside the reference's candidates; tests/test_certificate.py does the same with artifacts."""

import itertools

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from hsvdet.certificate.agreement import compare, malformed, measured
from hsvdet.certificate.matching import Found, Nearness
from hsvdet.certificate.ties import Candidates, Rounding, Rules, faults
from hsvdet.certificate.tolerance import TOLERANCES

LABELS = ("car", "person", "ball")
FP32 = TOLERANCES["fp32"]
ROUNDING = Rounding(score=1e-4, pixels=0.01)


def found(*detections):
    """(left, score, label) each, 100 x 100 pixels."""
    lefts, scores, labels = zip(*detections, strict=True) if detections else ((), (), ())
    boxes = np.array([[left, 0, left + 100, 100] for left in lefts], np.float32).reshape(-1, 4)
    return Found(boxes, np.array(scores, np.float32), np.array(labels, np.int64))


SIZE = (2000, 2000)


def agreement(expected, came, *rivals, iou=0.7, limit=300, one_class=True, query=None, rounding=ROUNDING):
    """rivals: candidates that the reference suppressed or did not choose."""
    everything = found(*expected, *rivals)
    query = np.arange(len(everything.scores)) if query is None else np.array(query)
    rules = Rules(0.25, iou, limit, one_class, SIZE, (1.0, 1.0))
    near = Nearness(found(*expected), found(*came), rules.scale, FP32)
    return compare(near, Candidates(*everything, query), rules, rounding, LABELS)


def kinds(result):
    return [difference.kind for difference in result.differences]


def test_detections_are_matched_one_to_one_in_any_order_of_equals():
    result = agreement([(0, 0.9, 0), (300, 0.9, 0)], [(300, 0.9, 0), (0, 0.9, 0)])
    assert sorted(map(tuple, result.pairs.tolist())) == [(0, 1), (1, 0)] and not result.differences
    assert kinds(agreement([(0, 0.9, 0)], [(0, 0.9, 0), (0, 0.9, 0)])) == ["extra"]


def test_scores_boxes_and_order_are_judged():
    assert kinds(agreement([(0, 0.9, 0)], [(0, 0.8, 0)])) == ["score"]
    assert kinds(agreement([(0, 0.9, 0)], [(4, 0.9, 0)])) == ["box"]
    assert malformed(found((300, 0.5, 0), (0, 0.9, 0)), 3).kind == "order"
    assert malformed(found((0, float("nan"), 0)), 3).kind == "not finite"
    assert malformed(found((0, 0.9, 3)), 3).kind == "label"
    assert malformed(found((0, 0.9, 2)), 3) is None


def test_the_rounding_is_what_agreeing_detections_show_and_never_above_the_tolerance():
    def shown(came):
        near = Nearness(found((0, 0.9, 0), (300, 0.5, 0)), found(*came), (1.0, 1.0), FP32)
        return measured([[near]], FP32)

    assert shown([(0.02, 0.9, 0), (300, 0.5001, 0)]) == pytest.approx((2e-4, 0.02), rel=1e-3)
    assert shown([(0, 0.9, 0), (300, 0.4, 0)]).score < 1e-6, "another score is no rounding"
    assert shown([(0.2, 0.9, 0)]).pixels == FP32.pixels


def test_a_detection_at_the_threshold_is_a_tie_and_one_above_it_is_missing():
    assert agreement([(0, 0.9, 0), (300, 0.25002, 0)], [(0, 0.9, 0)]).ties == 1
    assert kinds(agreement([(0, 0.9, 0), (300, 0.2501, 0)], [(0, 0.9, 0)])) == ["missing"]
    assert agreement([(0, 0.9, 0)], [(0, 0.9, 0), (300, 0.25001, 0)], (300, 0.24999, 0)).ties == 1
    assert kinds(agreement([(0, 0.9, 0)], [(0, 0.9, 0), (300, 0.2499, 0)], (300, 0.2499, 0))) == ["extra"]


def test_the_weakest_of_a_full_list_may_be_another():
    expected, came = [(0, 0.9, 0), (300, 0.8, 0)], [(0, 0.9, 0), (600, 0.79995, 0)]
    for iou in (0.7, None):
        assert agreement(expected, came, (600, 0.79995, 0), limit=2, iou=iou).ties == 2
        weaker = [(0, 0.9, 0), (600, 0.799, 0)]
        assert "missing" in kinds(agreement(expected, weaker, (600, 0.799, 0), limit=2, iou=iou))
        # One that the reference does not know is no tie, however weak.
        assert kinds(agreement(expected, came, limit=2, iou=iou)) == ["extra"]
    assert kinds(agreement(expected, came[:1], limit=2)) == ["missing"], "there was room"


def test_of_two_equally_strong_boxes_either_may_suppress_the_other():
    rival = (10, 0.89995, 0)
    assert agreement([(0, 0.9, 0)], [rival], rival).ties == 2
    assert kinds(agreement([(0, 0.9, 0)], [rival])) == ["box"], "a box the reference never had"
    assert kinds(agreement([(0, 0.9, 0)], [(0, 0.9, 0), rival], rival)) == ["extra"], "but not both"
    assert kinds(agreement([(0, 0.9, 0)], [], rival)) == ["missing"], "nor neither"


def test_a_box_replaced_by_its_weaker_neighbour_is_a_difference_however_near():
    neighbour = (4, 0.8995, 0)
    assert kinds(agreement([(0, 0.9, 0)], [neighbour], neighbour)) == ["box"]
    assert not kinds(agreement([(0, 0.9, 0)], [neighbour], neighbour, rounding=Rounding(1e-3, 0.01)))


def test_an_overlap_at_the_threshold_of_suppression_is_a_tie():
    at_the_edge, inside = (17.645, 0.6, 0), (17.5, 0.6, 0)  # IoU 0.70003 and 0.7021 with the box at 0
    assert agreement([(0, 0.9, 0)], [(0, 0.9, 0), at_the_edge], at_the_edge).ties == 1
    assert kinds(agreement([(0, 0.9, 0)], [(0, 0.9, 0), inside], inside)) == ["extra"]
    outside = (17.8, 0.6, 0)
    assert kinds(agreement([(0, 0.9, 0), outside], [(0, 0.9, 0)])) == ["missing"]


def test_what_follows_from_a_tie_must_follow():
    """Of two equals the artifact keeps the other, which leaves room for a third that eager's had suppressed."""
    first, other, third = (100, 0.9, 0), (88, 0.89995, 0), (112, 0.6, 0)
    assert agreement([first], [other, third], other, third).ties == 3
    result = agreement([first], [other], other, third)
    assert kinds(result) == ["missing"] and "at 112.0" in result.differences[0].what


def test_one_fault_is_told_once():
    """Not once more for each candidate that the missing box had suppressed."""
    crowd = [(shift, 0.9 - shift / 50, 0) for shift in range(1, 9)]
    assert kinds(agreement([(0, 0.9, 0)], [], *crowd)) == ["missing"]
    assert kinds(agreement([(0, 0.9, 0)], [(9.5, 0.9, 0)], *crowd)) == ["box"]


def test_a_query_torn_between_two_classes_may_answer_with_either():
    torn = dict(query=[0, 0])
    rival = (0, 0.59995, 1)
    assert agreement([(0, 0.60, 0)], [rival], rival, **torn).ties == 2
    assert kinds(agreement([(0, 0.60, 0)], [rival])) == ["class"]
    assert kinds(agreement([(0, 0.60, 0)], [(0, 0.4, 1)], (0, 0.4, 1), **torn)) == ["class"]
    assert kinds(agreement([(0, 0.60, 0)], [(0, 0.60, 0), rival], rival, **torn)) == ["extra"], (
        "not with both"
    )
    assert kinds(agreement([(0, 0.60, 0)], [], rival, **torn)) == ["missing"], "nor with none"


@pytest.mark.parametrize("edge", [0, 500], ids=["some beyond the edge", "inside"])
def test_every_outcome_of_suppression_under_the_rounding_is_right_and_no_other_is(edge):
    """Against a count of all outcomes: crowded boxes, some of them equally strong, in every order of the equals."""
    random = np.random.default_rng(0)
    for _ in range(30):
        lefts = random.uniform(edge - 125, edge - 75, 6).round(1)
        scores = random.choice([0.5, 0.6, 0.7], 6) * (1 + random.uniform(-4e-5, 4e-5, 6))
        visible = lefts > -100
        scores[~visible] += np.arange(6)[~visible] / 100  # those beyond the edge have no equals
        everything = found(*((left, score, 0) for left, score in zip(lefts, scores, strict=True)))
        candidates = Candidates(*everything, np.arange(6))
        possible = set()
        for order in itertools.permutations(range(6)):
            level = everything.scores[list(order)].round(3)
            if (np.diff(level) > 0).any():
                continue
            boxes = torch.from_numpy(everything.boxes[list(order)]).double()
            kept = nms(boxes, -torch.arange(6.0, dtype=torch.float64), 0.7)
            possible.add(frozenset(order[i] for i in kept.tolist() if visible[order[i]]))
        rules = Rules(0.25, 0.7, 300, True, SIZE, (1.0, 1.0))
        for members in range(2**6):
            chosen = np.array([i for i in range(6) if members >> i & 1], int)
            right = not any(faults(chosen, candidates, rules, Rounding(1e-4, 1e-3)))
            assert right == (frozenset(chosen.tolist()) in possible), (lefts, scores, chosen)


def test_of_boxes_that_look_alike_at_the_edge_the_artifact_may_have_kept_either():
    """The first two are seen as the same 60 x 100 pixels, and equally strong; the third fits beside the second only."""
    everything = Found(
        np.array([[-40, 0, 60, 100], [-60, 0, 60, 100], [-24, 0, 76, 100]], np.float32),
        np.array([0.9, 0.89999, 0.8], np.float32),
        np.zeros(3, np.int64),
    )
    rules = Rules(0.25, 0.7, 300, True, SIZE, (1.0, 1.0))
    seen = everything._replace(boxes=rules.clip(everything.boxes))

    def judged(expected, came, boxes=everything.boxes):
        near = Nearness(
            *(Found(*(part[rows] for part in seen)) for rows in (expected, came)), (1.0, 1.0), FP32
        )
        candidates = Candidates(boxes, everything.scores, everything.labels, np.arange(3))
        return compare(near, candidates, rules, ROUNDING, LABELS)

    assert judged([0], [0, 2]).ties == 1 and not kinds(judged([0], [0, 2]))
    assert kinds(judged([0], [0, 1])) == ["extra"] and kinds(judged([0], [0, 1, 2])) == ["extra", "extra"]
    assert kinds(judged([0], [2])) == ["box"]
    far = np.array([[-40, 0, 60, 100], [-400, 0, 60, 100], [-24, 0, 76, 100]], np.float32)
    assert kinds(judged([0, 1], [0], far)) == ["missing"], "these two stay both"
