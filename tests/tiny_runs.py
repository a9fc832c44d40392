"""Trainings small enough for tests: twelve pictures of squares, a network of a sixteenth of the width."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from multiprocessing import get_context

import numpy as np
import torch
from PIL import Image

from hsvdet.data.dataset import DetectionData, Record
from hsvdet.detector import create

LABELS = ("dark", "light")


def squares(root, count=12, side=64, empty=()):
    """Pictures with one to three squares each, none in those of `empty`."""
    records = []
    for i in range(count):
        rng = np.random.default_rng(i)
        pixels = np.full((side, side, 3), 120, np.uint8)
        objects = 0 if i in empty else 1 + i % 3
        corner = rng.integers(2, side // 2, (objects, 2))
        extent = rng.integers(side // 6, side // 3, (objects, 2))
        boxes = np.concatenate([corner, corner + extent], 1).astype(np.float32)
        labels = rng.integers(0, 2, objects)
        for (left, top, right, bottom), label in zip(boxes.astype(int), labels, strict=True):
            pixels[top:bottom, left:right] = (40, 230)[label]
        path = root / f"squares {i}.png"
        Image.fromarray(pixels).save(path)
        area = (extent[:, 0] * extent[:, 1]).astype(np.float32)
        crowd = np.zeros(objects, bool)
        records.append(Record(i, str(path), (side, side), boxes, labels.astype(np.int64), crowd, area))
    return DetectionData(records, LABELS, (1, 2), root, "train", "coco")


def tiny(name="hsv-det-n", side=64, seed=0, **options):
    torch.manual_seed(seed)
    return create(name, LABELS, size=(side, side), options={"width": 0.0625, **options})


def tiny_query(name="detr-tiny", seed=0, **options):
    torch.manual_seed(seed)
    sizes = dict(dim=16, feed_forward=16, encoder_layers=1, queries=6) | options
    return create(name, LABELS, size=(64, 64), options=sizes)


def digest(path):
    """Of every tensor in a safetensors file, by name; its header, with times in it, left out."""
    from safetensors import safe_open

    total = hashlib.sha256()
    with safe_open(path, framework="pt") as file:
        for name in sorted(file.keys()):
            total.update(
                name.encode()
                + file.get_tensor(name).contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            )
    return total.hexdigest()


def metrics(folder):
    """results.csv without the columns that tell time."""
    lines = [line.split(",") for line in (folder / "results.csv").read_text().splitlines()]
    kept = [i for i, name in enumerate(lines[0]) if name not in ("seconds", "images_per_second")]
    return [[line[i] for i in kept] for line in lines]


def in_process(work, *arguments, **environment):
    """Start `work`, a function of a module, in a process of its own. Its exit code tells how it ended.

    Forked from a server that has imported everything once and computed nothing: a process in which gradients
    were computed cannot be forked.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["lightning.fabric", "hsvdet.training", "hsvdet.evaluate.report"])
    process = context.Process(target=_start, args=(work, arguments, environment))
    process.start()
    return process


def two_processes(work, *arguments):
    """`work` in two processes of one run, as torchrun starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        in_process(
            work, *arguments, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
            GROUP_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test",
        )
        for rank in range(2)
    ]  # fmt: skip


def _start(work, arguments, environment):
    os.environ.update(environment)
    torch.set_num_threads(1)
    work(*arguments)


def kill_at_step(step):
    """kill -9 of this process in the middle of an optimizer step: weights stepped, average not."""
    from hsvdet.training.ema import AveragedNet

    original = AveragedNet.update

    def update(self):
        if self.steps + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self)

    AveragedNet.update = update
