"""What options, settings and commands of other detection tools are called here, for the error that meets them; and what
the parameters of our functions are called on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

OPTIONS = {
    "imgsz": "--size",
    "img": "--size",
    "img_size": "--size",
    "image_size": "--size",
    "resolution": "--size",
    "conf": "--score",
    "conf_thres": "--score",
    "confidence": "--score",
    "threshold": "--score",
    "iou_thres": "--iou",
    "max_det": "--max-detections",
    "batch_size": "--batch",
    "grad_accum_steps": "--accumulate",
    "project": "--out",
    "name": "--out",
    "output_dir": "--out",
    "save_dir": "--out",
    "dataset_dir": "--data",
    "cfg": "the first argument, a name of `hsvdet models`",
    "model": "the first argument",
    "source": "the arguments after the checkpoint",
    "pretrained": "--weights",
    "half": "--precision fp16",
    "amp": "--precision bf16",
    "int8": "--precision int8",
    "format": "--to",
    "dynamic_axes": "--dynamic",
    "lr": "--set learning_rate=NUMBER",
    "exist_ok": "not needed: --out names the folder",
}
SETTINGS = {
    "lr0": "learning_rate",
    "lr": "learning_rate",
    "lrf": "final_rate",
    "backbone_lr": "backbone_rate, a factor of learning_rate",
    "lr_backbone": "backbone_rate, a factor of learning_rate",
    "fliplr": "flip",
    "hsv_h": "hue",
    "hsv_s": "saturation",
    "hsv_v": "brightness",
    "degrees": "rotate",
    "nbs": "nominal_batch",
    "clip_max_norm": "clip",
    "clip_grad_norm": "clip",
    "lr_drop": "drop, a share of the run",
    "ema": "ema_decay",
    "num_queries": "queries",
    "hidden_dim": "dim",
    "nheads": "heads",
    "enc_layers": "encoder_layers",
    "dec_layers": "decoder_layers",
}
COMMANDS = {
    "detect": "predict",
    "valid": "val",
    "test": "val",
    "evaluate": "val",
    "eval": "val",
    "fit": "train",
    "finetune": "train",
    "list": "models",
    "info": "profile",
}


# Parameters whose name is no word, as messages of functions have them.
PARAMETERS = (
    "backbone_weights",
    "max_detections",
    "multi_label",
    "require_certificate",
    "trusted_key",
    "val_fraction",
    "val_split",
)


def as_options(message: str) -> str:
    """A message of a function, for the command line: `val_fraction` is --val-fraction there."""
    name = rf"(?<![\w./-])({'|'.join(PARAMETERS)})(?![\w-])(?![./]\w)"
    return re.sub(name, lambda found: f"--{found[0].replace('_', '-')}", message)


def hint(message: str, arguments: Sequence[str]) -> str:
    """A sentence about the first word of the command that another tool knows and `message` complains of, or ''."""
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        plain = name.lstrip("-").replace("-", "_")
        if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", message):
            continue
        if plain in COMMANDS and "command" in message:
            return f" {name} is {COMMANDS[plain]} here."
        if plain in OPTIONS and (equals or name.startswith("-")):
            return f" {name} is {OPTIONS[plain]} here."
        if plain in SETTINGS and (equals or name.startswith("-")):
            return f" {name} is --set {SETTINGS[plain].partition(',')[0]}=NUMBER here."
        if equals and not name.startswith("-"):
            return f" Options are written --{name.replace('_', '-')} VALUE."
    return ""
