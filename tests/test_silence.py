"""Nothing leaves the machine and nothing is left in the home folder, unless asked."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from offline import available
from test_seal import constant_model

pytestmark = pytest.mark.skipif(
    not available(), reason="a filter of system calls is of Linux on x86-64 or ARM"
)


def run_offline(code: str, home: Path) -> subprocess.CompletedProcess:
    """In a home folder of its own, without what switches reporting off."""
    off = ("CI", "ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    env = {name: value for name, value in os.environ.items() if name not in off} | {"HOME": str(home)}
    offline = Path(__file__).with_name("offline.py")
    return subprocess.run([sys.executable, offline, code], env=env, capture_output=True, text=True)


def test_who_asks_for_the_internet_is_killed(tmp_path):
    code = "import socket, threading\n"
    assert run_offline(f"{code}socket.socket(socket.AF_UNIX)", tmp_path).returncode == 0
    for family in ("AF_INET", "AF_INET6"):
        asked = f"{code}threading.Thread(target=socket.socket, args=[socket.{family}]).start()"
        assert run_offline(asked, tmp_path).returncode == -signal.SIGSYS


def test_artifacts_are_made_and_run_in_silence(tmp_path):
    """In ONNX Runtime and OpenVINO, which report from their first use."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    onnx.save(constant_model(), tmp_path / "plain.onnx")
    home = tmp_path / "home"
    home.mkdir()
    code = f"""
import dataclasses, os, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np, onnx
from hsvdet import runtime
from hsvdet.deploy.export_openvino import to_openvino, write_openvino
from hsvdet.runtime.artifact import set_onnx_header
from pathlib import Path
from test_seal import HEADER

folder = Path({str(tmp_path)!r})
model = onnx.load(folder / "plain.onnx")
write_openvino(folder / "a.xml", to_openvino(model), dataclasses.replace(HEADER, target="openvino"))
set_onnx_header(model, HEADER)
onnx.save(model, folder / "a.onnx")
for name in ("a.xml", "a.onnx"):
    assert len(runtime.load(folder / name, threads=1)(np.zeros((9, 9, 3), np.uint8)).scores) == 1
assert "CI" not in os.environ and "openvino_telemetry" not in sys.modules
time.sleep(1)  # reports are sent by threads
"""
    done = run_offline(code, home)
    assert done.returncode == 0, done.stderr
    # matplotlib and pytest may keep a cache; none may leave an id.
    left = [path for path in home.rglob("*") if path.is_file() and "matplotlib" not in path.parts]
    assert not left, left
