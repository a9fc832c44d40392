"""`hsvdet train`: what is to be trained, from what weights, with what numbers."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .answer import Answer
from .options import DataPath, Device, Json, Precision, Size, Workers
from .values import parse_settings

if TYPE_CHECKING:
    from ..data.dataset import DetectionData
    from ..detector import Detector


def train(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL|CKPT", help="A name of `hsvdet models`, or a checkpoint to train on."),
    ] = None,
    *,
    data: DataPath,
    out: Annotated[str, typer.Option(help="A new folder for the run; with --resume, the run's.")],
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
        bool, typer.Option("--resume", help="Continue the run in --out: same command, and this.")
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
    from functools import partial

    from ..errors import ConfigError
    from ..training import train

    if suppressor:
        if backbone is not None or backbone_weights is not None or size is not None:
            raise ConfigError(
                "--suppressor leaves the detector as it is: leave --backbone, --backbone-weights, --size out."
            )
        detector, options = _with_suppressor(model, weights, recipe, settings or [], seed)
    else:
        plan = _plan(model, weights, backbone, backbone_weights, size, recipe, settings or [])
        detector, options = partial(plan.create, seed=seed), plan.recipe_options
    result = train(
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
    ap = (
        f"AP {result.metrics['ap']:.3f}, AP50 {result.metrics['ap50']:.3f}"
        if result.metrics
        else "not validated"
    )
    lines = [f"{result.epochs} epochs in {result.seconds:.0f} s: {ap}", f"Best: {result.best}"]
    if val_fraction:
        divided = result.out / "split.json"
        lines.append(f"The images set aside: {divided} (hsvdet val {result.best} --data {divided})")
    return Answer(result.to_json(), "\n".join(lines))


class _Plan(NamedTuple):
    """A detector to be made when the classes are known, and the numbers of the recipe that differ."""

    model: str
    options: dict[str, Any]
    size: tuple[int, int] | None
    weights: str | None
    backbone_weights: str | None
    recipe_options: dict[str, Any]

    def create(self, data: DetectionData, seed: int) -> Detector:
        """With the data's classes; begun with the weights, if there are any, of all of it or of its backbone."""
        import torch

        from ..detector import create
        from ..training.backbone_weights import start_backbone
        from ..training.warm_start import warm_start

        torch.manual_seed(seed)
        detector = create(
            self.model, data.labels, size=self.size, category_ids=data.category_ids, options=self.options
        )
        if self.weights is not None:
            logging.getLogger("hsvdet").info("%s", warm_start(detector, self.weights))
        if self.backbone_weights is not None:
            start_backbone(detector, self.backbone_weights)
        return detector


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


def _plan(
    model: str | None,
    weights: str | None,
    backbone: str | None,
    backbone_weights: str | None,
    size: tuple[int, int] | None,
    recipe: str | None,
    settings: list[str],
) -> _Plan:
    """Everything that can be refused before the data are read. A checkpoint given as the model says which
    model it is, with what configuration and size, and is the weights to start from."""
    import torch

    from .. import models
    from ..checkpoint import check_description, read_header
    from ..detector import build
    from ..errors import CheckpointError, ConfigError
    from ..options import override
    from ..preprocess import Preprocess
    from ..training import find_recipe

    if model is None:
        raise ConfigError("train expects MODEL|CKPT: a name of `hsvdet models`, or a checkpoint to train on.")
    changes: dict[str, Any] = {}
    if model not in models.MODELS and (os.path.exists(model) or model.endswith((".safetensors", ".pt"))):
        if weights is not None:
            raise ConfigError(f"{model} is a checkpoint and brings its weights: leave --weights out.")
        header, weights = read_header(model), model
        check_description(header, weights)
        try:
            model, changes = str(header["model"]), header["config"]
            size = size or Preprocess(**header["preprocess"]).size
        except TypeError as error:  # a name that preprocessing does not have
            raise CheckpointError(f"{weights}: its header does not describe a model: {error}") from None
    if weights is not None and backbone_weights is not None:
        raise ConfigError(f"{weights} brings a backbone of its own: leave --backbone-weights out.")
    entry = models.find(model)
    config = override(entry.config, changes)
    options, recipe_options = parse_settings(settings, config, find_recipe(recipe or entry.recipe))
    if backbone is not None:
        options["backbone"] = backbone
    config = override(config, options)
    if "backbone" in options:
        with torch.device("meta"):  # an unknown one is found out before the data are read
            build(entry, config, 1)
    if size is not None:
        entry.preprocess.resized(size)
    return _Plan(model, {**changes, **options}, size, weights, backbone_weights, recipe_options)
