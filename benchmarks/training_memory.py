"""Peak memory of a training step on a GPU by batch, and the largest batch that fits.

    python benchmarks/training_memory.py hsv-det-l yolov8-l [--size 1088x1920] [--fits 8] [--precision bf16]

A step as training makes it: forward under autocast, loss against 30 objects an image, backward, AdamW; channels last.
Of the allocator's own count (`max_memory_allocated`); the driver needs some hundred MB more. Not run here: no GPU.
"""

import argparse

import torch

import hsvdet
from hsvdet import models
from hsvdet.devices import autocast
from hsvdet.structures import Target


def peak_of_step(name: str, size: tuple[int, int], batch: int, precision: str) -> int:
    """Bytes, after a step that allocated the optimizer's state."""
    detector = hsvdet.create(name, [str(i) for i in range(80)], size=size)
    net = detector.net.train().to("cuda", memory_format=torch.channels_last)
    criterion = models.find(name).criterion().to("cuda")
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    images = torch.rand(batch, 3, *size, device="cuda").contiguous(memory_format=torch.channels_last)
    boxes = torch.rand(30, 4, device="cuda") * 0.1 + torch.tensor([0.4, 0.4, 0.05, 0.05], device="cuda")
    targets = [Target(torch.randint(0, 80, (30,), device="cuda"), boxes) for _ in range(batch)]
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        with autocast(torch.device("cuda"), precision):
            output = net(images, None, targets)
        sum(criterion(output, targets).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cuda.max_memory_allocated()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--size", default="1088x1920")
    parser.add_argument("--fits", type=float, default=8, metavar="GB", help="10^9 bytes")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="bf16")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "training_memory.py needs a CUDA GPU; none is here.\n")
    size = tuple(int(side) for side in arguments.size.split("x"))
    for name in arguments.models:
        fits, peak = 0, 0
        while True:
            try:
                peak = peak_of_step(name, size, fits + 1, arguments.precision)
            except torch.cuda.OutOfMemoryError:
                break
            print(f"{name} {arguments.size} batch {fits + 1}: {peak / 1e9:.2f} GB", flush=True)
            if peak > arguments.fits * 1e9:
                break
            fits += 1
        print(f"{name} {arguments.size}: {fits} images fit {arguments.fits:g} GB", flush=True)


if __name__ == "__main__":
    main()
