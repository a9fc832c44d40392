"""What is learned, and what moves over a run."""

import pytest

from hsvdet.criteria.dense import DenseCriterion
from hsvdet.models import MODELS, find
from hsvdet.models.yolov8 import YoloV8
from hsvdet.training import train, validator
from hsvdet.training.ema import AveragedNet
from tiny_runs import digest, squares, tiny

pytestmark = pytest.mark.usefixtures("no_pictures")


class Fading(DenseCriterion):
    """Its class loss fades over the run."""

    told: list[float] = []

    def at(self, progress):
        self.told.append(progress)
        self.class_gain = 1.0 - progress


@pytest.fixture
def told(monkeypatch):
    """What a criterion and a network that has `at` were told, by each network that is there."""
    monkeypatch.setattr(Fading, "told", [])
    row = find("yolov8-n")._replace(criterion=lambda numbers: Fading(smallest_side=numbers.smallest_side))
    monkeypatch.setitem(MODELS, "yolov8-n", row)
    monkeypatch.setattr(YoloV8, "at", lambda net, progress: setattr(net, "progress", progress), raising=False)
    return Fading.told


def run(data, out, resume=False):
    detector = tiny("yolov8-n", seed=1 if resume else 0)
    train(
        detector, (data, data), out, epochs=3, batch=4, accumulate=1, workers=0, device="cpu",
        save_every=0.0, progress=False, resume=resume,
    )  # fmt: skip
    return detector


class Killed(BaseException):
    pass


@pytest.mark.parametrize("stop", ["within an epoch", "before a validation"])
def test_criterion_and_network_know_how_far_the_run_is_also_after_resuming(tmp_path, monkeypatch, told, stop):
    data = squares(tmp_path, count=8)
    seen = []
    original = validator.find_all

    def find_all(detector, net, *others, **options):
        seen.append(net.progress)
        return original(detector, net, *others, **options)

    monkeypatch.setattr(validator, "find_all", find_all)
    run(data, tmp_path / "whole")
    whole = [step / 6 for step in range(6)]
    assert told == whole and seen == [1 / 6, 3 / 6, 5 / 6, 1.0]

    def killed(*_, **__):
        raise Killed

    told.clear(), seen.clear()
    with monkeypatch.context() as patch:
        if stop == "within an epoch":
            update = AveragedNet.update
            patch.setattr(AveragedNet, "update", lambda self: killed() if self.steps == 3 else update(self))
        else:
            patch.setattr(
                validator, "find_all", lambda *a, **k: killed() if len(told) == 4 else find_all(*a, **k)
            )
        with pytest.raises(Killed):
            run(data, tmp_path / "killed")
    assert told == whole[:4]
    told.clear()
    assert run(data, tmp_path / "killed", resume=True).net.progress == 1.0
    # As after the last step that is done, then before each that is left.
    assert told == (whole[2:3] + whole[3:] if stop == "within an epoch" else whole[3:4] + whole[4:])
    assert seen == [1 / 6, 3 / 6, 5 / 6, 1.0]
    for name in ("resume", "last", "best"):
        assert digest(tmp_path / f"killed/{name}.safetensors") == digest(
            tmp_path / f"whole/{name}.safetensors"
        )
