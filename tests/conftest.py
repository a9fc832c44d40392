import os
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Before torch is imported, here and in the processes that tests start: each test worker has one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402


def pytest_sessionstart():
    asked = os.environ.get("ATEN_CPU_CAPABILITY")  # as `make kernels` sets it
    if asked and (used := torch.backends.cpu.get_cpu_capability()).lower() != asked:
        raise pytest.UsageError(f"ATEN_CPU_CAPABILITY={asked}, but PyTorch runs with {used}.")


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


@pytest.fixture
def detector(tiny_checkpoint):
    import hsvdet

    return hsvdet.load(tiny_checkpoint)


@pytest.fixture
def predict(detector):
    """Everything the network says, however unsure: it has random weights."""
    import hsvdet

    return partial(hsvdet.predict, detector, score=0.0, iou=1.0, max_detections=3)


@pytest.fixture
def server(tmp_path):
    """Serves what a test puts into `answers`: path to (status, headers, body)."""
    answers = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answers[self.path]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield answers, f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
