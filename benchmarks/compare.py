"""hsvdet beside other libraries on this machine; writes its tables into benchmarks/README.md.

    python benchmarks/compare.py same-640 --ultralytics PEER/bin/python
    python benchmarks/compare.py default-l --ultralytics PEER/bin/python --transformers PEER2/bin/python ...
    python benchmarks/compare.py large --transformers PEER2/bin/python

same-640: yolov8-n, -s, -l and Ultralytics' own in float32, channels last, both folded. default-n, -s, -l: 640x640,
what each library does by itself. large: 1088x1920, float32, channels last, HSV-DET beside RT-DETR. Each PYTHON has
the packages of benchmarks/peers/LIBRARY.txt. Peers of libraries for which none is given are left out.
"""

import argparse
import re
import shlex
from pathlib import Path

from hsvdet import benchmark

HERE = Path(__file__).parent
SAME = "--channels-last --precision fp32"

# Races by group: own contenders, peers (library, model, options), what differs from benchmark()'s defaults.
GROUPS = {
    "same-640": [
        ([f"yolov8-{scale}"], [("ultralytics", f"yolov8{scale}", SAME)], dict(precision="fp32", runs=runs))
        for scale, runs in (("n", 40), ("s", 30), ("l", 16))
    ],
    "default-n": [
        (
            ["hsv-det-n", "yolov8-n"],
            [
                ("ultralytics", "yolov8n", ""),
                ("ultralytics", "yolo26n", ""),
                ("transformers", "rt-detr-r18", ""),
            ],
            dict(runs=20),
        )
    ],
    "default-s": [(["hsv-det-s", "yolov8-s"], [("ultralytics", "yolov8s", "")], dict(runs=15))],
    "default-l": [
        (
            ["hsv-det-l", "yolov8-l"],
            [
                ("ultralytics", "yolov8l", ""),
                ("ultralytics", "yolo26l", ""),
                ("ultralytics", "rtdetr-l", ""),
                ("transformers", "rt-detr-r50", ""),
                ("torchvision", "fasterrcnn_resnet50_fpn_v2", ""),
            ],
            dict(runs=6, warmup=1),
        )
    ],
    "large": [
        (
            ["hsv-det-l", "yolov8-l"],
            [("transformers", "rt-detr-r50", SAME), ("transformers", "rt-detr-r101", SAME)],
            dict(size=(1088, 1920), precision="fp32", runs=4, warmup=1),
        )
    ],
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("group", choices=GROUPS)
    for library in ("ultralytics", "transformers", "torchvision"):
        parser.add_argument(f"--{library}", metavar="PYTHON")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    tables = []
    for own, others, options in GROUPS[arguments.group]:
        peers = [
            f"{shlex.join([python, str(HERE / 'peers' / f'{library}_forward.py'), model])} {settings}"
            for library, model, settings in others
            if (python := getattr(arguments, library))
        ]
        found = benchmark(own, peers=peers, threads=arguments.threads, **options)
        print(f"{found.table()}\n", flush=True)
        tables.append(found.markdown())
    path = HERE / "README.md"
    start, end = (f"<!-- {word} {arguments.group} -->" for word in ("compare", "end"))
    pattern = re.compile(f"{re.escape(start)}.*{re.escape(end)}", re.DOTALL)
    text = path.read_text()
    if not pattern.search(text):
        parser.exit(1, f"{path} has no lines {start} and {end} to write between.\n")
    section = "\n\n".join([start, *tables, end])
    path.write_text(pattern.sub(lambda _: section, text))


if __name__ == "__main__":
    main()
