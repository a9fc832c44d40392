"""The command line as one table: each command is a public function of hsvdet with the same parameters.

PyTorch is imported inside the functions, so that `hsvdet --help` does not wait for it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from .about import models, profile
from .benchmark import WithDefault, benchmark, nms
from .certify import certify
from .compare import compare
from .data import check_data, convert_data, merge_data, split_data
from .explain import explain
from .export import export
from .options import example, new_app
from .train import train
from .use import convert, demo, predict, val

app = new_app(
    "Object detection whose results people can check: HSV-DET, YOLOv8 and the DETR lineage in PyTorch.",
    completion=True,
    epilog=example("hsvdet demo", "hsvdet train --help"),
    invoke_without_command=True,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("hsvdet"))
        raise typer.Exit


@app.callback()
def _hsvdet(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


app.command(epilog=example("hsvdet models"))(models)
app.command(epilog=example("hsvdet profile hsv-det-m --size 1088x1920 --classes 12"))(profile)
app.command(
    epilog=example(
        "hsvdet train hsv-det-n --data street/ --out runs/street --size 640 --epochs 100",
        "hsvdet train hsv-det-n --data street/ --out runs/warm --weights yolov8n.pt --set mosaic=0.5",
        "hsvdet train --resume runs/street",
    )
)(train)
app.command(epilog=example("hsvdet val runs/street/best.safetensors --data street/ --out runs/street/val"))(
    val
)
app.command(
    epilog=example(
        "hsvdet compare runs/a/best.safetensors runs/b/best.onnx --data street/ --out runs/a-b",
        "hsvdet compare runs/yolov8 runs/hsv-det --data street/ --split test   (folders of seeds)",
    )
)(compare)
app.command(
    epilog=example(
        "hsvdet predict best.safetensors street.jpg videos/ --out runs/street-seen",
        "hsvdet predict best.safetensors 'night/**/*.png' https://example.org/a.jpg --out runs/night",
        "hsvdet predict best.safetensors 0 --out runs/camera      (Ctrl-C ends a camera)",
    )
)(predict)
app.command(
    epilog=example(
        "hsvdet convert yolov8n.pt yolov8n.safetensors",
        "hsvdet convert tensors.safetensors yolov8n.safetensors --model yolov8-n --labels car,person",
    )
)(convert)
app.command(
    epilog=example(
        "hsvdet explain best.safetensors street.jpg --out runs/street-explained",
        "hsvdet explain best.safetensors street.jpg --points '120,80 300,200' --heads --out runs/street-explained",
        "hsvdet explain rt-detr.safetensors --data street/ --slots 20 --out runs/street-slots",
    )
)(explain)
app.command(
    epilog=example(
        "hsvdet export best.safetensors --to onnx --size 640 --data street/",
        "hsvdet export best.safetensors --to openvino --dynamic --precision int8 --calibrate street/",
    )
)(export)
app.command(
    epilog=example(
        "hsvdet certify best.onnx best.safetensors --data street/",
        "hsvdet certify best.xml best.safetensors                (drawn scenes)",
    )
)(certify)
app.command(epilog=example("hsvdet demo"))(demo)

speed = new_app("How fast detectors are here.", cls=WithDefault)
speed.command(
    epilog=example(
        "hsvdet benchmark yolov8-l hsv-det-l --size 1088x1920 --threads 2",
        "hsvdet benchmark best.safetensors best.onnx best.xml",
        "hsvdet benchmark yolov8-n --peer 'peer/bin/python benchmarks/peers/ultralytics_forward.py yolov8n'",
        "hsvdet benchmark nms --help                             (what suppression costs)",
    ),
)(benchmark)
speed.command("nms", epilog=example("hsvdet benchmark nms best.safetensors --data street/"))(nms)
app.add_typer(speed, name="benchmark", short_help=speed.info.help)

data = new_app("Look into data sets (COCO, YOLO, Pascal VOC, IDD), convert, merge and split them.")
data.command(
    "check", epilog=example("hsvdet data check street/", "hsvdet data check street/data.yaml --json")
)(check_data)
data.command("convert", epilog=example("hsvdet data convert street/ street-coco/ --to coco"))(convert_data)
data.command("merge", epilog=example("hsvdet data merge cars/ people/ --out street/"))(merge_data)
data.command(
    "split", epilog=example("hsvdet data split street.json --out split.json --val-fraction 0.2 --seed 0")
)(split_data)
app.add_typer(data, name="data", short_help=data.info.help)

# In the list of commands a text that does not say it is short is cut.
for group in (app, speed, data):
    for command in group.registered_commands:
        command.short_help = (command.callback.__doc__ or "").partition("\n")[0]
