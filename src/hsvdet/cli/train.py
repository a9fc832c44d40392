"""`hsvdet train`: what is to be trained, from what weights, with what numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .answer import Answer
from .options import Device, Json, Precision, Size, Workers
from .values import parse_settings

if TYPE_CHECKING:
    from ..detector import Detector
    from ..training import TrainResult


def train(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL|CKPT|RUN",
            help="A model's name, a checkpoint to train on, or with --resume a run's folder.",
        ),
    ] = None,
    *,
    data: Annotated[
        str | None, typer.Option(help="A data set: its folder, COCO .json or YOLO data.yaml.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="A new folder for the run; with --resume, the run's.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Start from these: a checkpoint, or published weights (.pt).")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Another backbone, such as timm/resnet18.a1_in1k; the model's own if not given.",
        ),
    ] = None,
    backbone_weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|timm",
            help="Start the backbone of a new model from a classifier's weights (torchvision, timm); timm: what"
            " timm has published, from its cache or the hub.",
        ),
    ] = None,
    suppressor: Annotated[
        bool,
        typer.Option(
            "--suppressor",
            help="Learn what takes the place of non-maximum suppression behind a detector that stays as it is: the"
            " checkpoint, or --weights. Minutes on a CPU.",
        ),
    ] = False,
    size: Size = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="The recipe's if not given.")] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images per forward pass, over all devices; 16 or less, by the recipe, if not given."
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(min=1, help="Batches per step; by the recipe's nominal batch if not given."),
    ] = None,
    precision: Annotated[Precision, typer.Option(help="fp16 needs a GPU.")] = Precision.fp32,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Devices on each node.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines; torchrun tells by itself.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    fraction: Annotated[float, typer.Option(help="Share of the training images to use.")] = 1.0,
    workers: Workers = None,
    split: Annotated[str, typer.Option(help="What to train on.")] = "train",
    val_split: Annotated[str, typer.Option(help="What to validate on; none for no validation.")] = "val",
    val_fraction: Annotated[
        float,
        typer.Option(
            help="Set this share of the training split aside for validation, where there is no split for it: 0.2."
        ),
    ] = 0.0,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue a run: hsvdet train --resume FOLDER, longer with --epochs; or its command and this.",
        ),
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(help="plain, three-stage, small-data, detr, ...; the model's own if not given."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Change a number of the model (k=0.25) or recipe (mosaic=0)."
        ),
    ] = None,
    json: Json = False,
) -> Answer:
    """Train a detector on a data set, validating it after every epoch."""

    from .. import models
    from ..errors import ConfigError
    from ..training import find_recipe, train
    from ..training import resume as resume_run
    from ..training.beginning import begin

    if resume and model is not None and data is None and out is None:
        settled = {
            "--weights": weights, "--backbone": backbone, "--backbone-weights": backbone_weights, "--size": size,
            "--suppressor": suppressor, "--batch": batch, "--accumulate": accumulate,
            "--precision": precision is not Precision.fp32, "--device": device != "auto", "--devices": devices != 1,
            "--nodes": nodes != 1, "--seed": seed, "--fraction": fraction != 1, "--workers": workers is not None,
            "--split": split != "train", "--val-split": val_split != "val", "--val-fraction": val_fraction,
            "--recipe": recipe, "--set": settings,
        }  # fmt: skip
        for name, given in settled.items():
            if given:
                raise ConfigError(
                    f"train --resume {model} goes on as it began, but for --epochs: leave {name} out, or give the"
                    " whole command again."
                )
        return _answer(resume_run(model, epochs=epochs))
    if data is None or out is None:
        missing = "data PATH" if data is None else "out DIR"
        raise ConfigError(f"train expects --{missing}; to continue a run: hsvdet train --resume RUN.")
    if suppressor:
        if backbone is not None or backbone_weights is not None or size is not None:
            raise ConfigError(
                "--suppressor leaves the detector as it is: leave --backbone, --backbone-weights, --size out."
            )
        detector, options = _with_suppressor(model, weights, recipe, settings or [], seed)
    else:
        if model is None:
            raise ConfigError(
                "train expects MODEL|CKPT: a name of `hsvdet models`, or a checkpoint to train on."
            )
        begun = begin(model, weights=weights, backbone_weights=backbone_weights, size=size)
        numbers = find_recipe(recipe or models.find(begun.model).recipe)
        changes, options = parse_settings(settings or [], begun.config, numbers)
        if backbone is not None:
            changes["backbone"] = backbone
        detector = begun.changed(changes)
    return _answer(
        train(
            detector,
            data,
            out,
            epochs=epochs,
            batch=batch,
            accumulate=accumulate,
            precision=precision.value,
            device=device,
            devices=devices,
            nodes=nodes,
            seed=seed,
            fraction=fraction,
            workers=workers,
            split=split,
            val_split=None if val_split == "none" else val_split,
            val_fraction=val_fraction,
            resume=resume,
            recipe=recipe,
            options=options,
        )
    )


def _answer(result: TrainResult) -> Answer:
    return Answer(result.to_json(), str(result))


def _with_suppressor(
    model: str | None,
    weights: str | None,
    recipe: str | None,
    settings: list[str],
    seed: int,
) -> tuple[Detector, dict[str, Any]]:
    """The detector of a checkpoint or of published weights with a suppressor, and the numbers of the recipe that
    differ."""
    import torch

    from .. import models
    from ..errors import ConfigError
    from ..training import find_recipe
    from ..training.suppressor import with_suppressor
    from ..training.warm_start import trained

    given = model or weights
    if given is None or (model is not None and weights is not None):
        raise ConfigError(
            "--suppressor expects one trained detector: hsvdet train --suppressor --weights best.safetensors"
            " --data PATH --out DIR."
        )
    if given in models.MODELS:
        raise ConfigError(f"--suppressor expects a trained detector, a file; got {given}, a model's name.")
    base = trained(given)
    config = with_suppressor(base).config
    recipe = recipe or models.find(f"{base.name}-dedup").recipe
    options, recipe_options = parse_settings(settings, config, find_recipe(recipe))
    torch.manual_seed(seed)
    return with_suppressor(base, options), recipe_options
