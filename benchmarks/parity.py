"""Every published model of the DETR family against its reference's numbers: a table of largest differences.

    python benchmarks/parity.py [--golden ../shared/golden] [NAME ...]

Weights are drawn under the names of the published checkpoint (tests/parity), converted, and run on one image and on
a padded batch of two sizes. `logits` and `boxes` are the largest differences from the reference in float32, over
the sampled queries; `allowed` is ten times the reference's own distance from itself in float64. An image of which the
reference makes something else on purpose is left out (OTHERWISE).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "parity"))

from filler import fill, picture  # noqa: E402
from lineage import lineage_image, lineage_tensor  # noqa: E402

from hsvdet.checkpoint import load_tensors  # noqa: E402
from hsvdet.conversion import anchor_detr as anchor_rules  # noqa: E402
from hsvdet.conversion import conditional_detr as conditional_rules  # noqa: E402
from hsvdet.conversion import dab_detr as dab_rules  # noqa: E402
from hsvdet.conversion import deformable_detr as deformable_rules  # noqa: E402
from hsvdet.conversion import detr as detr_rules  # noqa: E402
from hsvdet.conversion import dino as dino_rules  # noqa: E402
from hsvdet.conversion import efficient_detr as efficient_rules  # noqa: E402
from hsvdet.conversion import rt_detr as rt_detr_rules  # noqa: E402
from hsvdet.conversion import smca_detr as smca_rules  # noqa: E402
from hsvdet.conversion import sparse_detr as sparse_rules  # noqa: E402
from hsvdet.conversion.rename import rename  # noqa: E402
from hsvdet.models import find  # noqa: E402
from hsvdet.models.anchor_detr import AnchorDetr, AnchorDetrConfig  # noqa: E402
from hsvdet.models.conditional_detr import ConditionalDetr, ConditionalDetrConfig  # noqa: E402
from hsvdet.models.dab_detr import DabDetr, DabDetrConfig  # noqa: E402
from hsvdet.models.detr import Detr, DetrConfig  # noqa: E402
from hsvdet.models.dino import Dino, DinoConfig  # noqa: E402
from hsvdet.models.dn_deformable_detr import DnDeformableDetr, DnDeformableDetrConfig  # noqa: E402
from hsvdet.models.dn_detr import DnDetr, DnDetrConfig  # noqa: E402
from hsvdet.models.efficient_detr import EfficientDetr, EfficientDetrConfig  # noqa: E402
from hsvdet.models.lite_dino import LiteDino, LiteDinoConfig  # noqa: E402
from hsvdet.models.smca_detr import SmcaDetr, SmcaDetrConfig  # noqa: E402
from hsvdet.models.sparse_detr import SparseDetr, SparseDetrConfig  # noqa: E402

PUBLISHED = {
    "detr_r50": (Detr, DetrConfig(), detr_rules),
    "detr_r101": (Detr, DetrConfig(backbone="resnet101"), detr_rules),
    "detr_r50_dc5": (Detr, DetrConfig(dilated=True), detr_rules),
    "detr_r101_dc5": (Detr, DetrConfig(backbone="resnet101", dilated=True), detr_rules),
    "conditional_detr_r50": (ConditionalDetr, ConditionalDetrConfig(), conditional_rules),
    "dab_detr_r50": (DabDetr, DabDetrConfig(eps=1e-5), dab_rules),
}
# Whose rules depend on the tensors: rows of the table of models.
BY_SOURCE = {
    "deformable_detr_r50": "deformable-detr-r50",
    "deformable_detr_r50_refine": "deformable-detr-r50-refine",
    "deformable_detr_r50_two_stage": "deformable-detr-r50-two-stage",
    "rtdetr_r18": "rt-detr-r18",
    "rtdetr_r34": "rt-detr-r34",
    "rtdetr_r50": "rt-detr-r50",
    "rtdetr_r101": "rt-detr-r101",
    "rtdetrv2_r18": "rt-detr-r18",
}
LINEAGE = {
    "dn_dab_detr": (DnDetr, DnDetrConfig(), dab_rules.ORIGINAL),
    "dn_dab_detr_pat3": (DnDetr, DnDetrConfig(patterns=3), dab_rules.ORIGINAL),
    "dn_deformable_detr": (DnDeformableDetr, DnDeformableDetrConfig(), deformable_rules.DN_ORIGINAL),
    # Of 900 queries two have scores that differ by rounding alone, and would change places.
    "dino_4scale_q100": (Dino, DinoConfig(queries=100), dino_rules.ORIGINAL),
    "lite_dino_h3l1_2p1x3_q100": (LiteDino, LiteDinoConfig(queries=100), dino_rules.LITE_KEY_AWARE),
    "efficient_detr_e3d1": (EfficientDetr, EfficientDetrConfig(own_heads=True), efficient_rules.ORIGINAL),
    "efficient_detr_e6d6": (
        EfficientDetr,
        EfficientDetrConfig(encoder_layers=6, decoder_layers=6, queries=300, own_heads=True),
        efficient_rules.ORIGINAL,
    ),
    **{
        f"sparse_detr_rho{rho}": (SparseDetr, SparseDetrConfig(rho=rho), sparse_rules.rules(6, 6))
        for rho in (0.1, 0.3, 0.5)
    },
    "smca_detr": (SmcaDetr, SmcaDetrConfig(), smca_rules.RULES),
    "anchor_detr_c5": (AnchorDetr, AnchorDetrConfig(), anchor_rules.RULES),
    "anchor_detr_dc5": (AnchorDetr, AnchorDetrConfig(dilated=True), anchor_rules.RULES),
}
# The image of a case that we answer otherwise. Anchor DETR's authors average rows and columns over padded cells too.
OTHERWISE = {("anchor_detr_dc5", "padded"): 1}
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def published(folder: Path, name: str):
    """(case, images, positions, logits, boxes, allowed) of each case, and the network."""
    meta = json.loads((folder / "open" / f"{name}.json").read_text())
    numbers = np.load(folder / "open" / f"{name}.npz")
    keys = json.loads((folder / "keys" / f"{name}.json").read_text())
    drawing = meta["fill"]
    tensors = {key: fill(key, shape, drawing["salt"], drawing["gains"]) for key, shape, _ in keys["keys"]}
    tensors |= {key: torch.tensor(value) for key, value in keys.get("const", {}).items()}
    normalised = meta["input_norm"] == "imagenet"
    if name in PUBLISHED:
        network, config, module = PUBLISHED[name]
        rules = module.TRANSFORMERS
    else:
        row = find(BY_SOURCE[name])
        network, config = row.net, row.config
        sources = (*deformable_rules.SOURCES, *rt_detr_rules.SOURCES)
        source = next(source for source in sources if source.recognise(tensors) == BY_SOURCE[name])
        rules = source.rules(BY_SOURCE[name], tensors)
    net = network(config, 91 if normalised else 80)
    load_tensors(net, rename(tensors, rules, name).tensors, name)
    for case in meta["cases"]:
        if case["id"].endswith("_origpos"):  # positions as the authors' code transposes them
            continue
        images = [picture(i["h"], i["w"], i["seed"]) for i in case["images"]]
        if normalised:
            images = [(image - MEAN[:, None, None]) / STD[:, None, None] for image in images]
        allowed = case["suggested_atol_f32"]
        at = [(image, query) for image, q in enumerate(case["sample_query_positions"]) for query in q]
        logits, boxes = numbers[f"{case['id']}/logits"], numbers[f"{case['id']}/pred_boxes"]
        yield (
            net,
            case["id"],
            images,
            at,
            logits.reshape(len(at), -1),
            boxes.reshape(len(at), 4),
            allowed["logits"],
            allowed["pred_boxes"],
        )


def lineage(folder: Path, name: str):
    keys = json.loads((folder / f"{name}_keys.json").read_text())
    tensors = {
        key: lineage_tensor(keys["aliases"].get(key, key), shape) for key, shape in keys["keys"].items()
    }
    network, config, rules = LINEAGE[name]
    net = network(config, 91)
    load_tensors(net, rename(tensors, rules, name).tensors, name)
    for case in ("single", "padded"):
        known = json.loads((folder / f"{name}_{case}.json").read_text())
        images = [lineage_image(f"img{i}", *size) for i, size in enumerate(known["image_sizes"])]
        noise = known["fp64_check"]
        samples = [s for s in known["samples"] if s["image"] != OTHERWISE.get((name, case))]
        yield (
            net,
            case,
            images,
            [(sample["image"], sample["query"]) for sample in samples],
            # SMCA's head has one logit more, for "no object", which conversion leaves out.
            np.array([sample["logits"][:91] for sample in samples]),
            np.array([sample["box"] for sample in samples]),
            max(1e-4, 10 * noise["max_abs_logits"]),
            max(1e-5, 10 * noise["max_abs_boxes"]),
        )


def batch(images: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    stacked = torch.zeros(len(images), 3, height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool)
    for i, image in enumerate(images):
        stacked[i, :, : image.shape[1], : image.shape[2]] = image
        padding[i, : image.shape[1], : image.shape[2]] = False
    return stacked, padding if padding.any() else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="models; all if none is given")
    parser.add_argument("--golden", type=Path, default=ROOT.parent / "shared" / "golden")
    arguments = parser.parse_args()
    known = [*PUBLISHED, *BY_SOURCE, *LINEAGE]
    unknown = [name for name in arguments.names if name not in known]
    if unknown or not arguments.golden.is_dir():
        parser.error(
            f"no model {unknown[0]}; there are {', '.join(known)}" if unknown else "no golden folder"
        )
    print(f"{'model':30} {'case':7} {'logits':>8} {'allowed':>8} {'boxes':>8} {'allowed':>8} {'seconds':>8}")
    failed = 0
    for name in arguments.names or known:
        source = lineage if name in LINEAGE else published
        folder = arguments.golden / source.__name__
        for net, case, images, at, logits, boxes, most_logits, most_boxes in source(folder, name):
            inputs = batch(images)
            start = time.perf_counter()
            with torch.inference_mode():
                answer = net.eval()(*inputs).answer
            seconds = time.perf_counter() - start
            image, query = (list(index) for index in zip(*at, strict=True))
            off = np.abs(answer.logits[image, query].numpy() - logits).max()
            off_boxes = np.abs(answer.boxes[image, query].numpy() - boxes).max()
            good = off <= most_logits and off_boxes <= most_boxes
            failed += not good
            print(
                f"{name:30} {case:7} {off:8.1e} {most_logits:8.1e} {off_boxes:8.1e} {most_boxes:8.1e}"
                f" {seconds:8.2f}{'' if good else '  TOO FAR'}"
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
