"""Deformable attention's sampling beside the `grid_sample` formulation that libraries ship, forward and backward.

    python benchmarks/deformable.py [--size 800x1333] [--threads 2] [--runs 5]

One encoder layer's worth: every token of four levels (strides 8 to 64) is a query, 8 heads of 32 channels,
4 points a level. Runs alternate, so that a machine that slows down slows both; the ratio is of medians.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from hsvdet.layers.deformable import sample_points

HEADS, DIM, POINTS = 8, 32, 4


def with_grid_sample(value, sizes, locations, weights):
    batch, _, heads, dim = value.shape
    queries, reads, start = locations.shape[1], [], 0
    for level, (height, width) in enumerate(sizes):
        maps = value[:, start : start + height * width].permute(0, 2, 3, 1)
        maps = maps.reshape(batch * heads, dim, height, width)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        reads.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
        start += height * width
    share = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    total = (torch.stack(reads, -2).flatten(-2) * share).sum(-1)
    return total.view(batch, heads * dim, queries).transpose(1, 2)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="800x1333")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    height, width = map(int, arguments.size.split("x"))
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32, 64)]
    centres = torch.cat(
        [
            torch.stack(torch.meshgrid((torch.arange(w) + 0.5) / w, (torch.arange(h) + 0.5) / h, indexing="xy"), -1)
            .reshape(-1, 2)
            for h, w in sizes
        ]
    )  # fmt: skip
    scale = torch.tensor([(w, h) for h, w in sizes])
    offsets = 2 * torch.randn(1, len(centres), HEADS, len(sizes), POINTS, 2)
    locations = centres[None, :, None, None, None] + offsets / scale[:, None]
    weights = torch.rand(1, len(centres), HEADS, len(sizes), POINTS)
    value = torch.randn(1, len(centres), HEADS, DIM)
    forms = {"grid_sample": with_grid_sample, "hsvdet": sample_points}

    def forward(form):
        with torch.no_grad():
            return form(value, sizes, locations, weights)

    def train(form):
        leaves = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
        form(leaves[0], sizes, *leaves[1:]).square().sum().backward()

    difference = (forward(with_grid_sample) - forward(sample_points)).abs().max().item()
    print(f"{arguments.size}, {len(centres)} tokens, {arguments.threads} threads, torch {torch.__version__}")
    print(f"largest difference of the outputs: {difference:.1e}")
    for name, run in (("forward", forward), ("forward and backward", train)):
        times = {form: [] for form in forms}
        for _ in range(arguments.runs + 1):
            for form, function in forms.items():
                start = time.perf_counter()
                run(function)
                times[form].append(time.perf_counter() - start)
        medians = {form: statistics.median(values[1:]) for form, values in times.items()}
        ratio = medians["grid_sample"] / medians["hsvdet"]
        print(
            f"{name:21s} grid_sample {1e3 * medians['grid_sample']:7.0f} ms   hsvdet"
            f" {1e3 * medians['hsvdet']:7.0f} ms   {ratio:.2f} times faster"
        )


if __name__ == "__main__":
    main()
