"""Every command, each in a process that is killed as soon as it asks for an internet socket, in a home folder of its
own: what comes back and what is left in that home.

    python benchmarks/silence.py

A few minutes on a CPU; Linux on x86-64 or ARM.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OFFLINE = Path(__file__).resolve().parents[1] / "tests" / "offline.py"
# What switches reports off, and must not be needed.
_OFF = ("CI", "ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE")
# Caches of fonts and compiled kernels: no id in them.
_CACHES = ("matplotlib", "fontconfig", "torch")


def commands(folder: Path) -> list[list[str]]:
    data, run = str(folder / "data"), folder / "run"
    last, picture = str(run / "last.safetensors"), str(folder / "data" / "images" / "val")
    tiny = ["--size", "64", "--epochs", "1", "--batch", "4", "--set", "width=0.0625", "--workers", "0"]
    return [
        ["models"],
        ["profile", "yolov8-n", "--size", "64"],
        ["data", "check", data],
        ["data", "convert", data, str(folder / "yolo"), "--to", "yolo"],
        ["data", "merge", data, data, "--out", str(folder / "merged")],
        ["train", "yolov8-n", "--data", data, "--out", str(run), *tiny],
        ["val", last, "--data", data, "--workers", "0", "--out", str(folder / "report")],
        ["predict", last, picture, "--out", str(folder / "seen"), "--score", "0"],
        ["explain", last, picture, "--out", str(folder / "explained"), "--score", "0", "--points", "9,9"],
        ["export", last, "--to", "onnx", "--data", data],
        ["export", last, "--to", "openvino", "--data", data],
        ["certify", str(run / "last.rejected.onnx"), last, "--images", "2"],
        ["benchmark", "yolov8-n", "--size", "64", "--runs", "2", "--warmup", "0"],
        ["benchmark", "nms", last, "--data", data],
    ]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="hsvdet-silence-") as name:
        folder = Path(name)
        home = folder / "home"
        home.mkdir()
        environment = {key: value for key, value in os.environ.items() if key not in _OFF}
        environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
        scenes = f"import hsvdet; hsvdet.write_scenes({str(folder / 'data')!r}, train=12, val=8, test=0, size=(96, 96))"
        lines = [("drawing scenes", scenes)]
        for arguments in commands(folder):
            lines.append(
                (
                    " ".join(arguments[:2]),
                    f"from hsvdet.cli import main; raise SystemExit(main({arguments!r}))",
                )
            )
        wrong = 0
        for title, code in lines:
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, OFFLINE, code], env=environment, capture_output=True, text=True
            )
            left = [path for path in home.rglob("*") if path.is_file() and not {*path.parts} & {*_CACHES}]
            killed = done.returncode < 0
            # 1: an untrained detector finds nothing that could be compared, so it is not certified.
            refused = done.returncode == 1 and "NOT certified" in done.stdout
            odd = killed or left or not (done.returncode == 0 or refused)
            wrong += bool(odd)
            verdict = "asked for the internet" if killed else f"exit code {done.returncode}"
            print(
                f"{title.split('/')[0]:32} {time.perf_counter() - start:6.1f} s  {verdict}  {left or 'nothing left'}"
            )
            if odd:
                print(done.stderr[-2000:])
    raise SystemExit(f"{wrong} commands were not silent or failed" if wrong else 0)


if __name__ == "__main__":
    main()
