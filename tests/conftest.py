import os
from pathlib import Path

# Before torch is imported, here and in the processes that tests start: each test worker has one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of photographs and golden numbers beside the checkout; the test is skipped without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is not here")
    return folder


@pytest.fixture(autouse=True)
def the_same_every_time(monkeypatch):
    """One thread, one seed, and none of the user's settings."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in [name for name in os.environ if name.startswith("HSVDET_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def no_pictures(monkeypatch):
    """Training runs in this process draw no curves and write no report: most of the time of a tiny run."""
    monkeypatch.setattr("hsvdet.training.record.curves.Curves.draw", lambda *_, **__: None)
    monkeypatch.setattr("hsvdet.training.record.folder.write_report", lambda *_: None)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of a very narrow yolov8-n at 64 x 64, random weights, with category ids 3 and 7."""
    import hsvdet

    torch.manual_seed(0)
    detector = hsvdet.create(
        "yolov8-n", ["car", "person"], size=(64, 64), category_ids=[3, 7], options={"width": 0.0625}
    )
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    detector.save(path)
    return path
