"""Ultralytics' networks, random weights, fused as the package fuses them to predict. Environment of its own:
pip install -r benchmarks/peers/ultralytics.txt. AGPL-3.0, used as a program; nothing of it is part of hsvdet.

    hsvdet benchmark yolov8-l --peer 'PYTHON benchmarks/peers/ultralytics_forward.py yolov8l'
"""

from forward import race


def network(name: str, height: int, width: int):
    from ultralytics import RTDETR, YOLO

    kind = RTDETR if name.startswith("rtdetr") else YOLO
    return kind(f"{name}.yaml").model.eval().requires_grad_(False).fuse(verbose=False)


if __name__ == "__main__":
    race(__doc__, network)
