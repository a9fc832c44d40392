"""Deformable attention's sampling beside the `grid_sample` formulation that libraries ship, forward and backward; and
key-aware attention (Lite DETR) beside the formulation that stores what it samples, with the memory of both.

    python benchmarks/deformable.py [--size 800x1333] [--threads 2] [--runs 5]

One encoder layer's worth: every token of four levels (strides 8 to 64) is a query, 8 heads of 32 channels,
4 points a level. Runs alternate, so that a machine that slows down slows both; the ratio is of medians.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from hsvdet.layers.deformable import sample_by_key, sample_points
from hsvdet.profiler import peak_memory

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


def with_stored_samples(value, sizes, locations, query):
    """Every sample as a key and a value, [B M Q, L P, d], as the formula reads and the authors' code does it."""
    batch, _, heads, dim = value.shape
    queries, reads, start = locations.shape[1], [], 0
    for level, (height, width) in enumerate(sizes):
        maps = value[:, start : start + height * width].permute(0, 2, 3, 1)
        maps = maps.reshape(batch * heads, dim, height, width)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        reads.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
        start += height * width
    samples = torch.stack(reads, -2).flatten(-2).permute(0, 2, 3, 1).flatten(0, 1)  # [B M Q, L P, d]
    asked = query.transpose(1, 2).flatten(0, 2).unsqueeze(1)  # [B M Q, 1, d]
    weights = (asked @ samples.transpose(1, 2) / dim**0.5).softmax(-1)
    total = (weights @ samples).view(batch, heads, queries, dim)
    return total.transpose(1, 2).flatten(2)


def by_key(value, sizes, locations, query):
    return sample_by_key(query, value, sizes, locations)


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
    query = torch.randn_like(value)

    print(f"{arguments.size}, {len(centres)} tokens, {arguments.threads} threads, torch {torch.__version__}")
    compare(
        {"grid_sample": with_grid_sample, "hsvdet": sample_points},
        (value, sizes, locations, weights),
        arguments.runs,
    )
    print("\nkey-aware")
    compare(
        {"stored": with_stored_samples, "hsvdet": by_key}, (value, sizes, locations, query), arguments.runs
    )


def compare(forms, inputs, runs):
    """forms: the peer's by its name, then ours."""
    value, sizes, *others = inputs
    (peer, theirs), (ours, _) = forms.items()

    def forward(form):
        with torch.no_grad():
            return form(*inputs)

    def train(form):
        leaves = [tensor.clone().requires_grad_() for tensor in (value, *others)]
        form(leaves[0], sizes, *leaves[1:]).square().sum().backward()

    difference = (forward(theirs) - forward(forms[ours])).abs().max().item()
    print(f"largest difference of the outputs: {difference:.1e}")
    for name, run in (("forward", forward), ("forward and backward", train)):
        times = {form: [] for form in forms}
        for _ in range(runs + 1):
            for form, function in forms.items():
                start = time.perf_counter()
                run(function)
                times[form].append(time.perf_counter() - start)
        medians = {form: statistics.median(values[1:]) for form, values in times.items()}
        print(
            f"{name:21s} {peer} {1e3 * medians[peer]:7.0f} ms   {ours} {1e3 * medians[ours]:7.0f} ms"
            f"   {medians[peer] / medians[ours]:.2f} times faster"
        )
    peaks = {form: inference_memory(function, inputs) for form, function in forms.items()}
    kept = {form: kept_memory(function, inputs) for form, function in forms.items()}
    for name, memory in (("peak of a forward", peaks), ("kept for a backward", kept)):
        print(
            f"{name:21s} {peer} {memory[peer] / 1e6:7.0f} MB   {ours} {memory[ours] / 1e6:7.0f} MB"
            f"   {memory[peer] / memory[ours]:.2f} times less"
        )


def inference_memory(form, inputs):
    """Bytes of the tensors that live together at the worst moment, the maps included."""

    class Layer(torch.nn.Module):
        def forward(self, value):
            return form(value, *inputs[1:])

    return peak_memory(Layer(), inputs[0])


def kept_memory(form, inputs):
    """Bytes that autograd keeps for the backward pass, each storage once, the inputs' own not."""
    leaves = [tensor.clone().requires_grad_() for tensor in (inputs[0], *inputs[2:])]
    own = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = form(leaves[0], inputs[1], *leaves[1:])
    assert answer.requires_grad  # and with it all that is kept
    return sum(kept.values())


if __name__ == "__main__":
    main()
