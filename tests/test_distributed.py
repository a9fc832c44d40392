import itertools
import os

import numpy as np
import pytest
import torch

from hsvdet.data.loader import TrainingBatches
from hsvdet.errors import NonFiniteError
from hsvdet.loading import load
from hsvdet.training import train
from hsvdet.training.objective import Objective
from tiny_runs import in_process, metrics, squares, tiny, tiny_query, two_processes

# The statistics of batch normalisation are those of each process's own images. A warm network with batches
# below `frozen_norm_batch` keeps its statistics, so here one process and two compute the same.
OPTIONS = {"mosaic": 0.0, "clip": 1e6}


def run(data, out, name):
    detector = tiny_query(name) if name == "detr-tiny" else tiny(name, selector="all")
    detector.start = "trained"
    train(detector, data, out, epochs=2, batch=4, workers=0, device="cpu", options=OPTIONS, progress=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rank 1's images of the first global batch, and of others by chance, are without objects."""
    root = tmp_path_factory.mktemp("data")
    keys = next(iter(TrainingBatches(10, 4, (64, 64), rank=1, world=2)))
    empty = {key.number for key in keys}
    data = squares(root, count=10, empty=empty)
    return data, squares(root, count=10, empty=empty)


@pytest.mark.parametrize("name", ["hsv-det-n", "detr-tiny"])
def test_two_processes_train_as_one_even_when_one_has_no_objects(data, tmp_path, name):
    several = two_processes(run, data, tmp_path / "two", name)
    alone = in_process(run, data, tmp_path / "one", name)
    for process in (*several, alone):
        process.join()
        assert process.exitcode == 0

    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert one[0] == two[0] and len(one) == len(two) == 3
    for mine, theirs in zip(one[1:], two[1:], strict=True):
        np.testing.assert_allclose(
            [float(x or "nan") for x in mine], [float(x or "nan") for x in theirs], rtol=2e-3, atol=1e-6
        )
    if name == "detr-tiny":
        # Attention has gradients that are rounding alone, and Adam makes whole steps of them: no equal weights.
        assert float(one[2][one[0].index("instability")]) > 0
        return
    nets = [load(tmp_path / folder / "last.safetensors").net.state_dict() for folder in ("one", "two")]
    for key, tensor in nets[0].items():
        torch.testing.assert_close(tensor, nets[1][key], rtol=1e-3, atol=1e-5, msg=key)


def fail(data, out):
    """Rank 1 predicts NaN from its third step on; both ranks write down what they raise."""
    original, rank, steps = Objective.__call__, os.environ["RANK"], itertools.count()

    def poisoned(self, batch, step):
        if next(steps) == 2 and rank == "1":
            self.net.boxes.register_forward_hook(lambda module, inputs, output: output * float("nan"))
        return original(self, batch, step)

    Objective.__call__ = poisoned
    try:
        train(tiny_query(), data, out, epochs=2, batch=4, workers=0, device="cpu", progress=False)
    except NonFiniteError as error:
        (out / f"rank{rank}.txt").write_text(str(error))


def test_what_one_process_cannot_match_stops_both_and_is_named(data, tmp_path):
    processes = two_processes(fail, data, tmp_path / "run")
    for process in processes:
        process.join()
    messages = [(tmp_path / f"run/rank{rank}.txt").read_text() for rank in range(2)]
    assert messages[0] == messages[1]
    assert messages[0].startswith("Epoch 1, step 3: decoder layer 0.boxes holds NaN")
    assert messages[0].count(".png") == 1  # the last batch has two images, one for each process
