import logging
import os
import platform
import subprocess
import sys

import pytest
import torch

import hsvdet
from hsvdet.errors import ConfigError
from hsvdet.models import MODELS

# One of each family, small.
FAMILIES = {row.family: name for name, row in MODELS.items() if name.endswith(("-n", "-n+", "-tiny"))}


def photograph(height: int = 60, width: int = 90) -> torch.Tensor:
    return torch.randint(0, 255, (3, height, width), dtype=torch.uint8)


def tiny(name: str) -> hsvdet.Detector:
    options = {"width": 0.0625} if name.endswith(("-n", "-n+")) else None
    return hsvdet.create(name, ["car", "person"], size=(64, 96), options=options)


@pytest.fixture
def capabilities(monkeypatch):
    """Sets what the processor says it can do."""

    def set_(**able: bool | str) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)

    return set_


def test_bf16_is_picked_where_the_processor_multiplies_it_and_nowhere_else(capabilities):
    detector = tiny("yolov8-n")
    capabilities(avx512_f=True)
    assert detector.accelerate().describe() == "cpu (1 thread), fp32, channels last, folded"
    for able in ("avx512_bf16", "amx_bf16"):
        capabilities(**{able: True})
        assert detector.accelerate().settings.precision == "bf16"
    assert detector.accelerate("fp32").settings.precision == "fp32"
    assert detector.describe() == "cpu (1 thread), fp32"
    # Intel's AVX512-BF16 is slower than its float32; its AMX is not.
    capabilities(avx512_bf16=True, cpu_name="Intel Xeon")
    assert detector.accelerate().describe() == "cpu (1 thread), fp32, channels last, folded"
    capabilities(avx512_bf16=True, amx_bf16=True, cpu_name="Intel Xeon")
    assert "bf16" in detector.accelerate().describe()


@pytest.mark.parametrize("name", FAMILIES.values())
def test_every_family_runs_in_bf16_and_answers_nearly_the_same(name):
    detector = tiny(name)
    image = photograph()
    canvas, content = detector.preprocess.to_canvas(image, minimal=True)
    accelerated = detector.accelerate("bf16")
    detector.net.eval()
    expected, got = (one.answer([(canvas, content)]) for one in (detector, accelerated))
    assert got.boxes.dtype == torch.float32
    # Two-stage models order queries by score, and near equals change places: each is compared with its nearest.
    both = [torch.cat([one.boxes[0], one.logits[0].float().sigmoid()], -1) for one in (expected, got)]
    assert torch.cdist(*both, p=torch.inf).amin(1).median() < 0.02


@pytest.mark.parametrize("name", ["yolov8-n", "hsv-det-n+"])
def test_float32_answers_do_not_change(name):
    detector = tiny(name)
    image = photograph()
    expected = detector(image, score=0.0, iou=1.0, max_detections=50)
    got = detector.accelerate("fp32")(image, score=0.0, iou=1.0, max_detections=50)
    torch.testing.assert_close(got.scores, expected.scores, rtol=1e-4, atol=1e-6)
    assert detector.settings.precision == "fp32" and detector.folded is None


def test_a_detector_is_accelerated_once(capabilities):
    capabilities(avx512_bf16=True)
    accelerated = tiny("yolov8-n").accelerate("fp32")
    assert accelerated.accelerate() is accelerated
    with pytest.raises(ConfigError, match="fp32, channels last, folded already"):
        accelerated.accelerate("bf16")


@pytest.mark.parametrize("precision, reason", [("fp16", "needs a GPU"), ("int4", "auto, fp32, bf16, fp16")])
def test_a_precision_the_device_lacks_is_refused_in_one_line(precision, reason):
    with pytest.raises(ConfigError, match=reason):
        tiny("yolov8-n").accelerate(precision)


def test_predict_says_what_it_picked(tmp_path, tiny_checkpoint, caplog, capabilities):
    from PIL import Image

    capabilities()
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    with caplog.at_level(logging.INFO, logger="hsvdet"):
        report = hsvdet.predict(tiny_checkpoint, tmp_path / "a.png", tmp_path / "out")
    assert "cpu (1 thread), fp32, channels last, folded" in caplog.text
    assert report.to_json()["settings"] == "cpu (1 thread), fp32, channels last, folded"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
@pytest.mark.parametrize("environment", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072"}])
def test_freed_memory_is_used_again_unless_the_environment_decides(environment):
    """A block of 64 MB has 16384 pages, which fault when the system has to find them again."""
    script = """
import resource
from hsvdet.inference.allocator import keep_freed_memory
print(keep_freed_memory())
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(64 << 20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    command = [sys.executable, "-c", script]
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(command, env=ours | environment, capture_output=True, text=True, check=True)
    kept, _, faults = done.stdout.split()
    assert (kept, int(faults) < 1000) == (("False", False) if environment else ("True", True))
