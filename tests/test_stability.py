import itertools
import signal

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from hsvdet.boxes import cxcywh_to_xyxy, generalised_iou
from hsvdet.data.loader import EvaluationLoader, EvaluationSet
from hsvdet.errors import NonFiniteError
from hsvdet.training import stability, train
from hsvdet.training.objective import Objective
from hsvdet.training.record.state import read_state
from hsvdet.training.stability import Stability, instability
from tiny_runs import digest, in_process, kill_at_step, metrics, squares, tiny, tiny_query

PLAIN = dict(batch=4, workers=0, device="cpu", progress=False)


def test_the_score_counts_the_queries_whose_object_changed():
    before = torch.tensor([[0, 1, -1, -1], [-1, 0, 2, 1], [-1, -1, -1, -1]])
    now = torch.tensor([[0, -1, 1, -1], [-1, 0, 1, 2], [-1, -1, -1, 0]])
    # Image by image: object 1 passes to another query (2), objects change places (2), a new one is found (1).
    assert instability(now, before) == pytest.approx((2 + 2 + 1) / 3)
    assert instability(now, now) == 0.0
    both = [
        (a, b) for rows in zip(now.tolist(), before.tolist(), strict=True) for a, b in zip(*rows, strict=True)
    ]
    assert instability(now, before) == pytest.approx(sum(a != b for a, b in both) / 3)


def test_each_epochs_score_is_that_of_its_own_weights_on_the_same_images(tmp_path, monkeypatch):
    data = squares(tmp_path, count=9, empty={2})
    monkeypatch.setattr(stability, "PROBE", 7)
    seen, original = [], Stability.__call__

    def watched(self, net, before):
        measure = original(self, net, before)
        seen.append((brute_force(self, net), measure))
        return measure

    monkeypatch.setattr(Stability, "__call__", watched)
    train(tiny_query(), (data, data), tmp_path / "run", epochs=3, **PLAIN)
    rows = metrics(tmp_path / "run")
    logged = [row[rows[0].index("instability")] for row in rows[1:]]
    expected = [v for v, _ in seen]
    assert logged[0] == "" and len(seen) == 3
    for t in range(1, 3):
        changed = [
            sum(a != b for a, b in zip(expected[t][i], expected[t - 1][i], strict=True)) for i in range(7)
        ]
        assert float(logged[t]) == pytest.approx(sum(changed) / 7, rel=1e-5)
    for v, measure in seen:
        assert measure.assignment.tolist() == v
    assert any(float(value) > 0 for value in logged[1:])


def brute_force(probe, net):
    """V of every image, one at a time, from the definition of DETR's cost."""
    detector = probe.plan.detector
    found = []
    for batch in EvaluationLoader(EvaluationSet(probe.data, detector.preprocess), 1):
        with torch.inference_mode():
            logits, boxes = net(batch.images, batch.padding).answer
        labels, wanted = batch.targets[0][:2]
        row = [-1] * boxes.shape[1]
        if len(labels):
            overlap = generalised_iou(cxcywh_to_xyxy(boxes[0])[:, None], cxcywh_to_xyxy(wanted))
            l1 = (boxes[0][:, None] - wanted).abs().sum(-1)
            cost = -logits[0].softmax(-1)[:, labels] + 5 * l1 - 2 * overlap
            for query, target in zip(*linear_sum_assignment(cost.numpy()), strict=True):
                row[query] = int(target)
        found.append(row)
    return found


def test_without_a_validation_split_training_images_are_the_probe_and_dense_models_have_none(tmp_path):
    data = squares(tmp_path, count=4)
    train(tiny_query(), (data, None), tmp_path / "query", epochs=2, **PLAIN)
    train(tiny(), (data, data), tmp_path / "dense", epochs=1, **PLAIN)
    assert "instability" in metrics(tmp_path / "query")[0]
    assert "instability" not in metrics(tmp_path / "dense")[0]
    assert read_state(tmp_path / "dense/resume.safetensors").tensors["matching"] == {}


def run(data, out, resume=False, kill=None):
    if kill is not None:
        kill_at_step(kill)
    detector = tiny_query(seed=1 if resume else 0)
    train(detector, (data, data), out, epochs=2, resume=resume, save_every=0.0, **PLAIN)


def test_a_resumed_run_knows_the_matching_of_the_epoch_before(tmp_path):
    data = squares(tmp_path, count=8)
    processes = [
        in_process(run, data, tmp_path / "whole"),
        in_process(run, data, tmp_path / "killed", False, 3),
    ]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, -signal.SIGKILL]
    again = in_process(run, data, tmp_path / "killed", True)
    again.join()
    assert again.exitcode == 0
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    for name in ("resume", "last", "best"):
        assert digest(tmp_path / f"killed/{name}.safetensors") == digest(
            tmp_path / f"whole/{name}.safetensors"
        )


def test_what_cannot_be_matched_is_named_with_step_and_images_and_the_state_before_it_is_saved(
    tmp_path, monkeypatch
):
    data = squares(tmp_path, count=8)
    original = Objective.__call__

    steps = itertools.count()

    def poisoned(self, batch, step):
        if next(steps) == 3:
            with torch.no_grad():
                self.net.boxes.layers[-1].bias[0] = float("nan")
        return original(self, batch, step)

    monkeypatch.setattr(Objective, "__call__", poisoned)
    with pytest.raises(NonFiniteError) as caught:
        train(tiny_query(), (data, None), tmp_path / "run", epochs=3, **PLAIN)
    message = str(caught.value)
    assert (
        message.startswith("Epoch 2, step 4: decoder layer 0.boxes holds NaN") and message.count(".png") == 4
    )
    assert read_state(tmp_path / "run/nonfinite.safetensors").position == (1, 1, 3)
