"""DETR, Conditional, DAB and DN-DETR against numbers of their references, through the rename tables."""

import json

import pytest
import torch

from hsvdet.checkpoint import load_tensors
from hsvdet.conversion import conditional_detr as conditional_rules
from hsvdet.conversion import dab_detr as dab_rules
from hsvdet.conversion import detr as detr_rules
from hsvdet.conversion.rename import rename
from hsvdet.models import find
from hsvdet.models.conditional_detr import ConditionalDetr, ConditionalDetrConfig
from hsvdet.models.dab_detr import DabDetr, DabDetrConfig
from hsvdet.models.detr import Detr, DetrConfig
from hsvdet.models.dn_detr import DnDetr, DnDetrConfig
from parity.filler import fill, picture
from parity.golden import golden
from parity.lineage import lineage_image, lineage_tensor, on_one_canvas
from parity.training import (
    DECODER,
    DENOISED,
    compare_gradients,
    compare_losses,
    compare_pairs,
    of_layers,
    targets_of,
    weighted,
)

PUBLISHED = {
    "detr_r50": (Detr, DetrConfig, detr_rules),
    "conditional_detr_r50": (ConditionalDetr, ConditionalDetrConfig, conditional_rules),
    "dab_detr_r50": (DabDetr, DabDetrConfig, dab_rules),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_answer_as_the_reference_does(name):
    expected, (net_class, config_class, rules) = golden(name), PUBLISHED[name]
    spec = expected.spec
    transformers = {key: fill(key, shape, gains=spec["gains"]) for key, shape, _ in spec["keys"]}
    ours = rename(transformers, rules.TRANSFORMERS, name).tensors

    # The same weights under the names of the original repository become the same tensors.
    original, thirds = {}, {}
    for key, _, theirs in spec["keys"]:
        if isinstance(theirs, str):
            original[theirs] = transformers[key]
        else:
            thirds.setdefault(theirs[0], {})[theirs[1]] = transformers[key]
    original |= {key: torch.cat([parts[part] for part in "qkv"]) for key, parts in thirds.items()}
    original |= {alias: original[key] for alias, key in spec["alias_original"].items()}
    again = rename(original, rules.ORIGINAL, name).tensors
    assert again.keys() == ours.keys() and all(torch.equal(again[key], ours[key]) for key in ours)

    net = net_class(config_class(), 91)
    load_tensors(net, ours, name)
    mean, std = (
        torch.tensor([0.485, 0.456, 0.406])[:, None, None],
        torch.tensor([0.229, 0.224, 0.225])[:, None, None],
    )
    images = [(picture(image["h"], image["w"], image["seed"]) - mean) / std for image in spec["images"]]
    expected.compare(net, images)


def dn_detr(keys, aliases, patterns=0):
    """With the reference's weights. keys: its names and shapes."""
    theirs = {key: lineage_tensor(aliases.get(key, key), shape) for key, shape in keys.items()}
    net = DnDetr(DnDetrConfig(patterns=patterns), 91)
    load_tensors(net, rename(theirs, dab_rules.ORIGINAL, "dn_dab_detr").tensors, "dn_dab_detr")
    return net


def dn_losses(net, sizes, train, monkeypatch):
    """Of a step with the reference's random draws; pairs and losses of every layer are the reference's."""
    targets, criterion = targets_of(train), find("dn-detr-r50").criterion()
    draws = iter(torch.tensor(draw["values"]).reshape(draw["shape"]) for draw in train["draws"])
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda shape, device=None: next(draws))
        patch.setattr(torch, "randint", lambda low, high, shape, device=None: next(draws).long())
        output = net.train()(*on_one_canvas(sizes), targets)
    last, *others = train["matcher_calls"]
    compare_pairs(output.layers, [*others, last], targets, criterion)
    losses = criterion(output, targets)
    names = of_layers(DECODER) | of_layers(DENOISED, "tgt_")
    compare_losses(losses, weighted(train["losses"], train["weights"]), names)
    return losses


def test_dn_detr_weights_answer_as_the_reference_does():
    expected = golden("dn_dab_detr")
    spec = expected.spec
    images = [lineage_image(f"img{i}", *size) for i, size in enumerate(spec["image_sizes"])]
    expected.compare(dn_detr(dict(spec["keys"]), spec["aliases"]), images)


def test_dn_detr_trains_as_the_reference_does(monkeypatch):
    """Matched pairs and every loss of every layer, and all gradients' norms."""
    spec = golden("dn_dab_detr").spec
    shapes, train = dict(spec["keys"]), spec["train"]
    net = dn_detr(shapes, spec["aliases"])
    losses = dn_losses(net, spec["image_sizes"], train, monkeypatch)

    def ours(key):
        return rename({key: torch.zeros(shapes[key])}, dab_rules.ORIGINAL, key).tensors

    # Biases of keys have no gradient but for rounding: attention does not see them.
    compare_gradients(net, losses.values(), train["gradients"], ours, abs=1e-3)


@torch.no_grad()
def test_dn_detr_with_patterns_trains_as_the_reference_does(shared, monkeypatch):
    """Matched pairs and every loss; gradients take the same way as without."""
    keys, train = (
        json.loads((shared / "golden" / "lineage" / f"dn_dab_detr_pat3_{part}.json").read_text())
        for part in ("keys", "train")
    )
    train |= {"losses": train["losses_unweighted"], "draws": train["random_draws"]}
    net = dn_detr(keys["keys"], keys["aliases"], patterns=3)
    dn_losses(net, train["image_sizes"], train, monkeypatch)


TOY = dict(
    d_model=64,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    num_queries=7,
    num_labels=5,
    use_pretrained_backbone=False,
)
OURS = dict(
    backbone="resnet18", dim=64, heads=4, feed_forward=48, encoder_layers=2, decoder_layers=3, queries=7
)


@pytest.mark.parametrize("name", ["Detr", "ConditionalDetr", "DabDetr"])
@pytest.mark.parametrize("timm", [True, False], ids=["timm", "own-resnet"])
def test_transformers_models_convert_and_answer_alike(name, timm, tmp_path):
    """Live, at toy size, from the file that `save_pretrained` writes."""
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file

    options = {**TOY, "hidden_size": 64} if name == "DabDetr" else dict(TOY)
    if timm:
        options |= dict(use_timm_backbone=True, backbone="resnet18")
    else:
        resnet = transformers.ResNetConfig(
            layer_type="basic",
            depths=[2, 2, 2, 2],
            hidden_sizes=[64, 128, 256, 512],
            embedding_size=64,
            out_features=["stage4"],
        )
        options |= dict(use_timm_backbone=False, backbone=None, backbone_config=resnet)
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**options)
    reference = getattr(transformers, f"{name}ForObjectDetection")(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():  # heads start at 0, which would hide their mistakes
            parameter.add_(torch.randn_like(parameter) * 0.02)
    reference.save_pretrained(tmp_path)

    net_class, config_class, rules = next(row for row in PUBLISHED.values() if row[0].__name__ == name)
    net = net_class(config_class(**OURS, **({"eps": 1e-5} if name == "DabDetr" else {})), 5).eval()
    load_tensors(
        net, rename(load_file(tmp_path / "model.safetensors"), rules.TRANSFORMERS, name).tensors, name
    )
    images, padding = torch.randn(2, 3, 96, 128), torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, 64:] = padding[1, :, 100:] = True
    images = images.masked_fill(padding[:, None], 0.0)
    with torch.inference_mode():
        expected = reference(pixel_values=images, pixel_mask=(~padding).long())
        answer = net(images, padding).answer
    torch.testing.assert_close(answer.logits, expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(answer.boxes, expected.pred_boxes, atol=1e-5, rtol=0)
