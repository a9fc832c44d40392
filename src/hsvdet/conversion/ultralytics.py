"""Weights of the Ultralytics package: whole module objects in a .pt file, or their state dict.

Written from the names and shapes in such files; that package is neither imported nor copied. Its weights are
under AGPL-3.0.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..bounds import MOST_MODULES
from ..errors import CheckpointError
from ..models.yolov8 import VARIANTS
from .coco_classes import COCO_LABELS
from .pickles import Shell
from .published import Foreign, Source
from .rename import Rule

STEMS = {16: "n", 32: "s", 48: "m", 64: "l", 80: "x"}
EXPECTED = "expected a YOLOv8 detection model (yolov8n, s, m, l or x)"

LAYERS = frozenset(
    "DetectionModel Sequential ModuleList Conv Conv2d BatchNorm2d SiLU C2f Bottleneck SPPF MaxPool2d Upsample"
    " Concat Detect DFL".split()
)

# What stands at each place of the layer list. Up-sampling and joining, left out, have no tensors.
CONVOLUTIONS = {
    0: "stem",
    1: "stage2.0",
    3: "stage3.0",
    5: "stage4.0",
    7: "stage5.0",
    16: "down3",
    19: "down4",
}
C2FS = {
    2: "stage2.1", 4: "stage3.1", 6: "stage4.1", 8: "stage5.1",
    12: "top_down4", 15: "top_down3", 18: "bottom_up4", 21: "bottom_up5",
}  # fmt: skip


def _convolution(foreign: str, ours: str) -> list[Rule]:
    return [
        Rule(rf"{foreign}\.conv\.weight", rf"{ours}.conv.weight"),
        Rule(
            rf"{foreign}\.bn\.(?P<leaf>weight|bias|running_mean|running_var|num_batches_tracked)",
            rf"{ours}.norm.\g<leaf>",
        ),
    ]


def _bins(tensor: Tensor) -> None:
    if not torch.equal(tensor.flatten().float(), torch.arange(tensor.numel(), dtype=torch.float32)):
        raise ValueError("expected the fixed distances 0, 1, 2, ...; these are others, which no YOLOv8 has.")


RULES = [
    *(rule for i, ours in CONVOLUTIONS.items() for rule in _convolution(rf"model\.{i}", ours)),
    *(
        rule
        for i, ours in C2FS.items()
        for rule in (
            *_convolution(rf"model\.{i}\.cv1", f"{ours}.split"),
            *_convolution(rf"model\.{i}\.cv2", f"{ours}.join"),
            *_convolution(rf"model\.{i}\.m\.(\d+)\.cv1", rf"{ours}.blocks.\1.first"),
            *_convolution(rf"model\.{i}\.m\.(\d+)\.cv2", rf"{ours}.blocks.\1.second"),
        )
    ),
    *_convolution(r"model\.9\.cv1", "stage5.2.reduce"),
    *_convolution(r"model\.9\.cv2", "stage5.2.join"),
    *_convolution(r"model\.22\.cv2\.(\d)\.([01])", r"head.box_towers.\1.\2"),
    *_convolution(r"model\.22\.cv3\.(\d)\.([01])", r"head.class_towers.\1.\2"),
    Rule(r"model\.22\.cv2\.(\d)\.2\.(weight|bias)", r"head.box_towers.\1.2.\2"),
    Rule(r"model\.22\.cv3\.(\d)\.2\.(weight|bias)", r"head.class_towers.\1.2.\2"),
    Rule(r"model\.22\.dfl\.conv\.weight", None, _bins),
]


def recognise(tensors: Mapping[str, Tensor]) -> str | None:
    """`yolov8-n` and so on; None for names that are not of this package.

    Raises CheckpointError, saying what it is, for its other models.
    """
    places = [int(match[1]) for key in tensors if (match := re.match(r"model\.(\d{1,4})\.", key))]
    if not places or "model.0.conv.weight" not in tensors:
        return None
    head = f"model.{max(places)}."
    has = {key[len(head) :].split(".")[0] for key in tensors if key.startswith(head)}
    if max(places) != 22 or not {"cv2", "cv3"} <= has or has - {"cv2", "cv3", "dfl"}:
        kinds = {
            "proto": "a segmentation model",
            "linear": "a classification model",
            "cv4": "a pose or oriented-box model",
        }
        kind = next(
            (kind for part, kind in kinds.items() if part in has), f"a model of {max(places) + 1} layers"
        )
        raise CheckpointError(f"{EXPECTED}; came {kind} of the YOLO family.")
    width = tensors["model.0.conv.weight"].shape[0]
    if width not in STEMS:
        raise CheckpointError(
            f"{EXPECTED}, whose first convolution has {', '.join(map(str, STEMS))} channels; came one with {width}."
        )
    return f"yolov8-{STEMS[width]}"


def num_classes(tensors: Mapping[str, Tensor]) -> int:
    return tensors["model.22.cv3.0.2.bias"].shape[0]


def read_module(module: Shell, checkpoint: Mapping[str, Any]) -> Foreign:
    """A module object and the dict it was saved in. Raises CheckpointError for what is not YOLOv8 detection."""
    kind, yaml = type(module).__name__, module.attribute("yaml") or {}
    given_name = str(yaml.get("yaml_file", "")).removesuffix(".yaml") if isinstance(yaml, dict) else ""
    called = f"{given_name} ({kind})" if given_name else f"a {kind}"
    tensors: dict[str, Tensor] = {}
    kinds = _walk(module, "", tensors, itertools.count())
    if kind != "DetectionModel":
        raise CheckpointError(f"{EXPECTED}; came {called}.")
    other = sorted(kinds - LAYERS)
    if other:
        raise CheckpointError(f"{EXPECTED}; came {called} with {', '.join(other[:4])}.")
    recognise(tensors)
    arguments = checkpoint.get("train_args")
    side = arguments.get("imgsz") if isinstance(arguments, dict) else None
    if isinstance(side, int) and side >= 32:
        side = -(-side // 32) * 32  # the package itself rounds up to the stride
    else:
        side = None
    return Foreign(tensors, _names(module), None if side is None else (side, side))


def _walk(module: Shell, prefix: str, tensors: dict[str, Tensor], number: Iterator[int]) -> set[str]:
    """Collect the state dict of a module object into `tensors`. Returns the class names met.

    number: counts the modules. Each may contain the next one twice, so that sixty of them stand for 2^60.
    """
    if next(number) >= MOST_MODULES:
        raise CheckpointError(f"{EXPECTED}; came one of more than {MOST_MODULES:,} modules.")
    kinds = {type(module).__name__}
    if type(module).__name__ == "BatchNorm2d" and module.attribute("eps") != 1e-3:
        kinds.add("BatchNorm2d of another eps")
    left_out = module.attribute("_non_persistent_buffers_set") or ()
    for store in ("_parameters", "_buffers"):
        for name, tensor in (module.attribute(store) or {}).items():
            if isinstance(tensor, Tensor) and name not in left_out:
                tensors[prefix + name] = tensor.detach()
    for name, child in (module.attribute("_modules") or {}).items():
        if isinstance(child, Shell):
            kinds |= _walk(child, f"{prefix}{name}.", tensors, number)
    return kinds


def _names(module: Shell) -> tuple[str, ...] | None:
    """The class names, or None where the file only numbers them."""
    names = module.attribute("names")
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names)]
    if not isinstance(names, list | tuple) or [str(name) for name in names] == [
        str(i) for i in range(len(names))
    ]:
        return None
    return tuple(str(name) for name in names)


SOURCE = Source(
    name="Ultralytics",
    models=tuple(f"yolov8-{scale}" for scale in VARIANTS),
    recognise=recognise,
    rules=lambda model, tensors: RULES,
    num_classes=num_classes,
    labels={len(COCO_LABELS): COCO_LABELS},
    licence="AGPL-3.0",
    note="These weights are under AGPL-3.0, and what is trained from them as well; hsvdet's own code is not.",
)
