import socket

import numpy as np
import pytest
import torch

from hsvdet.data.loader import TrainingBatches
from hsvdet.detector import load
from hsvdet.training import train
from tiny_runs import in_process, metrics, squares, tiny, tiny_query

# The statistics of batch normalisation are those of each process's own images. A warm network with batches
# below `frozen_norm_batch` keeps its statistics, so here one process and two compute the same.
OPTIONS = {"mosaic": 0.0, "clip": 1e9}


def run(data, out, name):
    detector = tiny_query(name) if name == "detr-tiny" else tiny(name, selector="all")
    detector.source = "somewhere"
    train(detector, data, out, epochs=2, batch=4, workers=0, device="cpu", options=OPTIONS, progress=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rank 1's images of the first global batch, and of others by chance, are without objects."""
    root = tmp_path_factory.mktemp("data")
    keys = next(iter(TrainingBatches(10, 4, (64, 64), rank=1, world=2)))
    empty = {key.index for key in keys}
    data = squares(root, count=10, empty=empty)
    return data, squares(root, count=10, empty=empty)


@pytest.mark.parametrize("name", ["hsv-det-n", "detr-tiny"])
def test_two_processes_train_as_one_even_when_one_has_no_objects(data, tmp_path, name):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    several = [
        in_process(
            run, data, tmp_path / "two", name, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2", GROUP_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            TORCHELASTIC_RUN_ID="test",
        )
        for rank in range(2)
    ]  # fmt: skip
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
