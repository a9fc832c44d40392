"""hsvdet beside other libraries on this machine; writes its tables into benchmarks/README.md.

    python benchmarks/compare.py same-640 --ultralytics PEER/bin/python
    python benchmarks/compare.py default-l --ultralytics PEER/bin/python --transformers PEER2/bin/python ...
    python benchmarks/compare.py large --transformers PEER2/bin/python
    python benchmarks/compare.py onnx --ultralytics PEER/bin/python

same-640: yolov8-n, -s, -l and Ultralytics' own in float32, channels last, both folded. default-n, -s, -l: 640x640,
what each library does by itself. large: 1088x1920, float32, channels last, HSV-DET beside RT-DETR. onnx, openvino:
artifacts of 640x640 in float32 (OpenVINO's also in bfloat16) beside Ultralytics' exports: the network alone; with
what comes before and after it; and as the package predicts with them. Each PYTHON has the packages of
benchmarks/peers/LIBRARY.txt. Peers of libraries for which none is given are left out.
"""

import argparse
import re
import shlex
import tempfile
from pathlib import Path

import hsvdet
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
    **{
        to: [
            (
                [f"yolov8-{scale}{suffix}" for suffix in suffixes],
                [
                    ("ultralytics", f"yolov8{scale} --to {to}{way}", "")
                    for way in ("", " --pixels", " --predict")
                ],
                dict(precision="fp32", runs=runs),
            )
            for scale, runs in (("n", 40), ("s", 30), ("l", 10))
        ]
        for to, suffixes in (("onnx", [".onnx"]), ("openvino", [".xml", "-bf16.xml"]))
    },
}


def artifact(name: str, to: str, folder: Path) -> Path:
    """Of a model with random weights, which no certificate can be made of."""
    model, half, _ = Path(name).stem.partition("-bf16")
    detector = hsvdet.create(model, [str(label) for label in range(80)], size=(640, 640))
    precision = "bf16" if half else "fp32"
    hsvdet.export(detector, to=to, out=folder / name, precision=precision, certify=False)
    return folder / name


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("group", choices=GROUPS)
    for library in ("ultralytics", "transformers", "torchvision"):
        parser.add_argument(f"--{library}", metavar="PYTHON")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    exported = arguments.group in ("onnx", "openvino")
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        for own, others, options in GROUPS[arguments.group]:
            if exported:
                own = [artifact(name, arguments.group, Path(folder)) for name in own]
            script, place = ("artifact", ["--folder", folder]) if exported else ("forward", [])
            peers = [
                shlex.join([python, str(HERE / "peers" / f"{library}_{script}.py"), *model.split(), *place])
                + f" {settings}"
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
