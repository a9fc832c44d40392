"""What folding costs in precision: the tables of docs/fold.md. Relative errors (Frobenius norm) against float64.

    python benchmarks/fold_precision.py [--blocks 80] [--seeds 2]

First random blocks, each with a random 1x1 convolution that reads it, unfolded and folded at any condition, in float32
and float16. Then whole detectors in float32 at 640x640, with random weights and gates.
"""

import argparse
import copy
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

import hsvdet
from hsvdet.inference import folded_sparse_global as sparse_global
from hsvdet.inference.fold import fold
from hsvdet.layers.sparse_global import SparseGlobal, SparseGlobalConfig

LIMITS = (10, 100, 400, 1000, 12000)
# With a block at every level where the name is not enough.
EVERY_LEVEL = {"insert": ("P3", "P4", "P5")}
DETECTORS = (
    ("yolov8-n", {}),
    ("hsv-det-n", {}),
    ("hsv-det-n", EVERY_LEVEL),
    ("yolov8-l", {}),
    ("hsv-det-l", {}),
    ("hsv-det-l", EVERY_LEVEL),
)


def error(block: nn.Module, reader: torch.Tensor, x: torch.Tensor, dtype: torch.dtype, truth: torch.Tensor):
    y = copy.deepcopy(block).to(dtype)(x.to(dtype)).map
    answer = torch.einsum("oi,bihw->bohw", reader.to(dtype), y).double()
    return ((answer - truth).norm() / truth.norm()).item()


def measure(seed: int) -> tuple[float, list[float]]:
    """Condition, and errors in the table's order."""
    torch.manual_seed(seed)
    channels = (64, 256)[seed % 2]
    block = SparseGlobal(
        channels, 32, SparseGlobalConfig(k=100, gate="channel", heads=1 + 3 * (seed // 2 % 2))
    )
    nn.init.normal_(block.gate, std=0.8)
    size = 0.3 + 6 * torch.rand(1).item()
    for matrix in (block.value.weight, block.output.weight):
        matrix.mul_(size**0.5)
    reader = torch.randn(channels, channels, dtype=torch.float64) / channels**0.5
    x = F.silu(1.5 * torch.randn(1, channels, 20, 24)).half().double()  # the same input in every precision
    block = block.double()
    truth = torch.einsum("oi,bihw->bohw", reader, block(x).map)
    folded = sparse_global.fold_block(copy.deepcopy(block))
    errors = []
    for dtype in (torch.float32, torch.float16):
        errors.append(error(folded.block, reader @ folded.matrix, x, dtype, truth))
        errors.append(error(block, reader, x, dtype, truth))
    return folded.condition, errors


class Errors(NamedTuple):
    """Relative errors in float32, of logits and of boxes: the network's own and those of its folded form."""

    logits: float
    logits_folded: float
    boxes: float
    boxes_folded: float


def measure_detector(name: str, options: dict, seed: int) -> Errors:
    torch.manual_seed(seed)
    net = hsvdet.create(name, list("abc"), options=options).net
    for block in getattr(net, "sparse_global", {}).values():
        nn.init.normal_(block.gate)
    # Statistics of what arrives: with those of a new network the image fades away with depth.
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    net.train()(torch.rand(2, 3, 320, 320))
    images = torch.rand(1, 3, 640, 640)
    exact = copy.deepcopy(net).double().eval()(images.double()).answer
    answers = [form(images).answer for form in (net.eval(), fold(net)[0])]
    return Errors(
        *(
            ((answer[part].double() - exact[part]).norm() / exact[part].norm()).item()
            for part in (0, 1)
            for answer in answers
        )
    )


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=2, help="of whole detectors; the worst is printed")
    arguments = parser.parse_args()
    usual = sparse_global.WORST_CONDITION
    sparse_global.WORST_CONDITION = math.inf
    measured = [measure(seed) for seed in range(arguments.blocks)]
    print("| condition | float32 folded | unfolded | float16 folded | unfolded |\n|---|---|---|---|---|")
    for limit in LIMITS:
        if rows := [errors for condition, errors in measured if condition <= limit]:
            worst = " | ".join(f"{max(column):.1e}" for column in zip(*rows, strict=True))
            print(f"| {limit} | {worst} |")
    sparse_global.WORST_CONDITION = usual
    print("\n| detector | logits | folded | boxes | folded |\n|---|---|---|---|---|")
    for name, options in DETECTORS:
        found = [measure_detector(name, options, seed) for seed in range(arguments.seeds)]
        worst = " | ".join(f"{max(column):.1e}" for column in zip(*found, strict=True))
        title = f"{name}, blocks at P3, P4, P5" if options else name
        print(f"| {title} | {worst} |", flush=True)


if __name__ == "__main__":
    main()
