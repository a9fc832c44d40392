"""A step of several batches, in one process or two, has the gradient of the same images as one batch."""

import pytest
import torch
from torch import nn

from hsvdet.detector import create
from hsvdet.structures import Denoised, DenoisingGroups, Prediction, QueryOutput
from hsvdet.training import train
from hsvdet.training.learner import Learner
from hsvdet.training.loop import Run
from tiny_runs import LABELS, squares, tiny, two_processes

# Divided by: target scores (dense), those of two heads, those and objects (with a selector or a suppressor), weights
# of queries (softmax), and objects with noised queries, the positive ones alone or all.
MODELS = [
    "yolov8-n",
    "yolov8-n-e2e",
    "hsv-det-n+",
    "yolov8-n-dedup",
    "detr-tiny",
    "dn-detr-tiny",
    "rt-detr-tiny",
]
GROUPS, MOST, QUERIES = 2, 3, 5


class EachImageAlone(nn.Module):
    """A set predictor in which no image looks at another, and noise is none: 0 to 3 objects, in two groups."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 8, 8)
        self.logits = nn.Linear(4 * 64, (QUERIES + GROUPS * MOST) * (len(LABELS) + 1))
        self.boxes = nn.Linear(4 * 64, (QUERIES + GROUPS * MOST) * 4)

    def forward(self, images, padding=None, targets=None):
        features = self.backbone(images).flatten(1)
        logits = self.logits(features).unflatten(1, (QUERIES + GROUPS * MOST, -1))
        boxes = self.boxes(features).unflatten(1, (QUERIES + GROUPS * MOST, 4)).sigmoid()
        answer = Prediction(logits[:, :QUERIES], boxes[:, :QUERIES])
        denoised = None
        if targets is not None:
            rows = [
                (image, target, group * MOST + target)
                for group in range(GROUPS)
                for image, objects in enumerate(targets)
                for target in range(len(objects.labels))
            ]
            image, target, query = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).unbind(1)
            groups = DenoisingGroups(image, target, query, torch.ones_like(image, dtype=torch.bool), GROUPS)
            denoised = Denoised((Prediction(logits[:, QUERIES:], boxes[:, QUERIES:]),), groups)
        return QueryOutput((answer, answer), proposals=answer, denoised=denoised)


def detector_of(name):
    if name.endswith("-tiny"):
        made = create(name, LABELS, size=(64, 64))
        torch.manual_seed(0)
        made.net = EachImageAlone()
    else:
        made = tiny(name, seed=3)
    made.start = "trained"  # so that a small batch keeps its statistics of normalisation
    return made


def steps_of(name, data, out, batch, accumulate):
    """(gradient as a vector, losses) of each step of an epoch."""
    found, original = [], Learner._gradient

    def watched(self, *arguments):
        gradient, norm = original(self, *arguments)
        learning = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        flat = torch.cat([parameter.grad.flatten() for parameter in learning])
        assert flat.norm() == pytest.approx(norm.item(), rel=1e-4)
        found.append((flat, gradient.losses()))
        return gradient, norm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "_gradient", watched)
        patch.setattr(Run, "_finish_epoch", lambda self: self.state.turn(None))
        patch.setattr(Run, "_finish", lambda self: {})
        still = dict.fromkeys(
            ("mosaic", "flip", "scale", "translate", "hue", "saturation", "brightness"), 0.0
        )
        train(
            detector_of(name), (data, None), out, epochs=1, batch=batch, accumulate=accumulate, workers=0,
            recipe="plain", options=still | {"clip": 1e6, "frozen_norm_batch": 100}, device="cpu",
            progress=False,
        )  # fmt: skip
    return found


def save_steps(data, out, batch, accumulate, place):
    torch.save([steps_of(name, data, out / name, batch, accumulate) for name in MODELS], place)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Fourteen images: steps of eight and six. Some have no object."""
    return squares(tmp_path_factory.mktemp("data"), count=14, empty={0, 5, 11})


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Steps of one batch each."""
    out = tmp_path_factory.mktemp("whole")
    return {name: steps_of(name, data, out / name, 8, 1) for name in MODELS}


def compare(steps, expected):
    assert len(steps) == len(expected) == 2
    for (gradient, losses), (other, others) in zip(steps, expected, strict=True):
        assert (gradient - other).norm() < 1e-5 * other.norm()
        assert losses.keys() == others.keys()
        for name in losses:
            torch.testing.assert_close(losses[name], others[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_several_batches_make_the_step_of_one(name, data, whole, tmp_path):
    compare(steps_of(name, data, tmp_path, 2, 4), whole[name])


def test_several_batches_in_two_processes_make_the_step_of_one(data, whole, tmp_path):
    places = [tmp_path / "0.pt", tmp_path / "1.pt"]
    processes = two_processes(save_steps_of_rank, data, tmp_path, places)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    found = [torch.load(place) for place in places]
    for name, first, second in zip(MODELS, *found, strict=True):
        steps = []
        for (gradient, losses), (same, others) in zip(first, second, strict=True):
            assert torch.equal(gradient, same)
            steps.append((gradient, {key: (losses[key] + others[key]) / 2 for key in losses}))
        compare(steps, whole[name])


def save_steps_of_rank(data, out, places):
    import os

    save_steps(data, out, 4, 2, places[int(os.environ["RANK"])])
