"""What folding costs in precision, by the condition of the block's matrix: the table of docs/fold.md.

    python benchmarks/fold_precision.py [--blocks 80]

Random blocks, each with a random 1x1 convolution that reads it, unfolded and folded at any condition, in float32
and float16; relative errors (Frobenius norm) against the same in float64.
"""

import argparse
import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from hsvdet.inference import folded_sparse_global as sparse_global
from hsvdet.layers.sparse_global import SparseGlobal, SparseGlobalConfig

LIMITS = (10, 100, 400, 1000, 12000)


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


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=80)
    blocks = parser.parse_args().blocks
    sparse_global.WORST_CONDITION = math.inf
    measured = [measure(seed) for seed in range(blocks)]
    print("| condition | float32 folded | unfolded | float16 folded | unfolded |\n|---|---|---|---|---|")
    for limit in LIMITS:
        if rows := [errors for condition, errors in measured if condition <= limit]:
            worst = " | ".join(f"{max(column):.1e}" for column in zip(*rows, strict=True))
            print(f"| {limit} | {worst} |")


if __name__ == "__main__":
    main()
