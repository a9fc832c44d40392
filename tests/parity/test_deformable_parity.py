"""Deformable DETR, DN-Deformable-DETR and RT-DETR against their references, through the rename tables."""

import json

import pytest
import torch

from hsvdet import load
from hsvdet.checkpoint import load_tensors
from hsvdet.conversion import deformable_detr, rt_detr
from hsvdet.conversion.foreign import convert
from hsvdet.conversion.rename import rename
from hsvdet.models import find
from hsvdet.structures import Target
from parity.filler import fill, picture
from parity.golden import golden
from parity.lineage import lineage_image, lineage_tensor, on_one_canvas
from parity.training import (
    DECODER,
    DENOISED,
    compare_gradients,
    compare_losses,
    of_layers,
    targets_of,
    weighted,
)

MEAN, STD = (
    torch.tensor([0.485, 0.456, 0.406])[:, None, None],
    torch.tensor([0.229, 0.224, 0.225])[:, None, None],
)
PUBLISHED = {
    "deformable_detr_r50": "deformable-detr-r50",
    "deformable_detr_r50_refine": "deformable-detr-r50-refine",
    "deformable_detr_r50_two_stage": "deformable-detr-r50-two-stage",
    "rtdetr_r18": "rt-detr-r18",
    "rtdetr_r34": "rt-detr-r34",
    "rtdetr_r50": "rt-detr-r50",
    "rtdetr_r101": "rt-detr-r101",
    "rtdetrv2_r18": "rt-detr-r18",
}


def source_of(tensors):
    """The only source that knows these names, and the model it takes them for."""
    found = [
        (source, name)
        for source in (*deformable_detr.SOURCES, *rt_detr.SOURCES)
        if (name := source.recognise(tensors))
    ]
    assert len(found) == 1
    return found[0]


def original_names(keys, transformers, aliases):
    """The tensors under the names of the original repository; queries, keys and values are one there."""
    original, thirds = {}, {}
    for key, _, theirs in keys:
        if isinstance(theirs, str):
            original[theirs] = transformers[key]
        else:
            thirds.setdefault(theirs[0], {})[theirs[1]] = transformers[key]
    original |= {key: torch.cat([parts[part] for part in "qkv"]) for key, parts in thirds.items()}
    return original | {alias: original[key] for alias, key in aliases.items()}


@pytest.mark.parametrize("name", ["deformable_detr_r50_two_stage", "rtdetr_r18"])
def test_published_weights_answer_as_the_reference_does(name):
    """Both have the tokens chosen as the reference chose them: another order would be other queries."""
    expected = golden(name)
    spec = expected.spec
    transformers = {key: fill(key, shape, gains=spec["gains"]) for key, shape, _ in spec["keys"]}
    source, model = source_of(transformers)
    assert model == PUBLISHED[name]
    ours = rename(transformers, source.rules(model, transformers), name).tensors
    original = original_names(spec["keys"], transformers, spec["alias_original"])
    source, model = source_of(original)
    again = rename(original, source.rules(model, original), name).tensors
    assert again.keys() == ours.keys() and all(torch.equal(again[key], ours[key]) for key in ours)

    row, classes = find(model), 80 if model.startswith("rt") else 91
    net = row.net(row.config, classes)
    load_tensors(net, ours, name)
    images = [picture(image["h"], image["w"], image["seed"]) for image in spec["images"]]
    if classes == 91:
        images = [(image - MEAN) / STD for image in images]
    expected.compare(net, images)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_name_is_consumed(name, shared):
    """Key lists of the published files, both layouts, shared tensors under all their names; no numbers."""
    spec = json.loads((shared / "golden" / "published" / "keys" / f"{name}.json").read_text())

    def stand_in(key: str, shape) -> torch.Tensor:
        value = 0.25 if key.endswith("points_scale") else 0.0
        return torch.full((), value).expand(shape)

    transformers = {key: stand_in(key, shape) for key, shape, _ in spec["keys"]}
    model = PUBLISHED[name]
    with torch.device("meta"):
        wanted = find(model).net(find(model).config, 80 if "rt" in name else 91).state_dict()
    for tensors in (
        transformers | {alias: transformers[key] for alias, key in spec["alias_hf"].items()},
        original_names(spec["keys"], transformers, spec["alias_original"]),
    ):
        source, recognised = source_of(tensors)
        assert recognised == model and model in source.models
        assert source.num_classes(tensors) == (80 if "rt" in name else 91)
        ours = rename(tensors, source.rules(model, tensors), name).tensors
        assert {key: tensor.shape for key, tensor in ours.items()} == {
            key: tensor.shape for key, tensor in wanted.items()
        }
        assert source.options(ours, {}).items() <= vars(find(model).config).items()


@pytest.fixture(scope="module")
def dn():
    """The expected numbers and the network with the reference's weights."""
    expected = golden("dn_deformable_detr")
    spec = expected.spec
    theirs = {key: lineage_tensor(spec["aliases"].get(key, key), shape) for key, shape in spec["keys"]}
    source, name = source_of(theirs)
    net = find(name).net(find(name).config, 91)
    load_tensors(net, rename(theirs, source.rules(name, theirs), name).tensors, name)
    return expected, net


def test_dn_deformable_detr_weights_answer_as_the_reference_does(dn):
    expected, net = dn
    sizes = expected.spec["image_sizes"]
    expected.compare(net, [lineage_image(f"img{i}", *size) for i, size in enumerate(sizes)])


def test_dn_deformable_detr_trains_as_the_reference_does(dn, monkeypatch):
    """Every loss of every layer, and the norms of gradients, for the reference's own random draws."""
    expected, net = dn
    train = expected.spec["train"]
    targets, criterion = targets_of(train), find("dn-deformable-detr-r50").criterion()
    draws = iter(torch.tensor(draw["values"]).reshape(draw["shape"]) for draw in train["draws"])
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda shape, device=None: next(draws))
        patch.setattr(torch, "randint", lambda low, high, shape, device=None: next(draws).long())
        output = net.train()(*on_one_canvas(expected.spec["image_sizes"]), targets)
    losses = criterion(output, targets)
    compare_losses(
        losses, weighted(train["losses"]), of_layers(DECODER) | of_layers(DENOISED, "tgt_"), rel=2e-5
    )
    shapes = dict(expected.spec["keys"])

    def ours(key):
        return rename({key: torch.zeros(shapes[key])}, deformable_detr.DN_ORIGINAL, key).tensors

    compare_gradients(net, losses.values(), train["gradients"], ours, rel=2e-4)


@pytest.mark.parametrize("form", ["", "-single-scale", "-refine", "-two-stage"])
def test_deformable_detr_of_transformers_converts_and_answers_alike(form, tmp_path):
    """Live, at toy size, from the folder that `save_pretrained` writes."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.DeformableDetrConfig(
        d_model=64,
        encoder_layers=2,
        decoder_layers=6,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=7,
        two_stage_num_proposals=7,
        num_labels=5,
        num_feature_levels=1 if form == "-single-scale" else 4,
        with_box_refine=form in ("-refine", "-two-stage"),
        two_stage=form == "-two-stage",
        use_timm_backbone=True,
        backbone="resnet18",
        use_pretrained_backbone=False,
    )
    reference = transformers.DeformableDetrForObjectDetection(config).eval()
    _fill(reference)
    reference.save_pretrained(tmp_path / "theirs")
    report = convert(tmp_path / "theirs", tmp_path / "ours.safetensors")
    assert report.model == f"deformable-detr-r50{form}"
    net = load(tmp_path / "ours.safetensors").net.eval()
    images, padding = torch.randn(2, 3, 96, 128), torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, 64:] = padding[1, :, 100:] = True
    images = images.masked_fill(padding[:, None], 0.0)
    with torch.inference_mode():
        expected = reference(pixel_values=images, pixel_mask=(~padding).long())
        answer = net(images, padding).answer
    torch.testing.assert_close(answer.logits, expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(answer.boxes, expected.pred_boxes, atol=1e-5, rtol=0)


def rt_detr_of_transformers(tmp_path, **options):
    """A small one and ours with its weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[128, 256, 512],
        hidden_expansion=0.5,
        decoder_layers=3,
        num_queries=20,
        num_labels=5,
        anchor_image_size=None,
        **options,
    )
    reference = transformers.RTDetrForObjectDetection(config).eval()
    _fill(reference)
    reference.save_pretrained(tmp_path / "theirs")
    report = convert(tmp_path / "theirs", tmp_path / "ours.safetensors")
    assert report.model == "rt-detr-r18"
    return reference, load(tmp_path / "ours.safetensors").net.eval()


def test_rt_detr_of_transformers_converts_and_answers_alike(tmp_path):
    reference, net = rt_detr_of_transformers(tmp_path)
    images = torch.rand(2, 3, 96, 160)
    with torch.inference_mode():
        expected, output = reference(pixel_values=images), net(images)
    torch.testing.assert_close(output.answer.logits, expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.answer.boxes, expected.pred_boxes, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.proposals.logits, expected.enc_topk_logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.proposals.boxes, expected.enc_topk_bboxes, atol=1e-5, rtol=0)


def _all_alike(value):
    """A random function that draws `value` everywhere."""

    def draw(*arguments, **_):
        shape = next(part for part in arguments if not isinstance(part, int))
        like = shape if isinstance(shape, torch.Tensor) else torch.empty(shape)
        return torch.full(like.shape, value)

    return draw


def test_rt_detr_trains_as_transformers_does_on_images_with_unequal_numbers_of_objects(tmp_path, monkeypatch):
    """Every term, that of the noised queries that stand for no object above all. The same noise in both: corners
    move by 0.3 or 1.3 half sides to the right and down, labels stay. Versions before 5.24 counted denoising
    queries in the main loss."""
    transformers = pytest.importorskip("transformers", minversion="5.24")
    reference, net = rt_detr_of_transformers(tmp_path, num_denoising=100, freeze_backbone_batch_norms=False)
    assert isinstance(reference, transformers.RTDetrForObjectDetection)
    monkeypatch.setattr(torch, "rand", _all_alike(0.3))
    monkeypatch.setattr(torch, "rand_like", _all_alike(0.3))
    monkeypatch.setattr(torch, "randint", _all_alike(1))
    monkeypatch.setattr(torch, "randint_like", _all_alike(1))
    generator = torch.Generator().manual_seed(0)
    images = torch.empty(2, 3, 96, 160).uniform_(generator=generator)
    net.train(), reference.train()
    for counts in ((0, 4), (3, 2), (2, 2)):
        targets = [
            Target(
                torch.empty(count, dtype=torch.int64).random_(5, generator=generator),
                torch.empty(count, 4).uniform_(0.1, 0.5, generator=generator),
            )
            for count in counts
        ]
        labels = [{"class_labels": target.labels, "boxes": target.boxes} for target in targets]
        with torch.no_grad():
            losses = find("rt-detr-r18").criterion()(net(images, None, targets), targets)
            expected = reference(pixel_values=images, labels=labels).loss_dict
        names = {"": "", "proposals/": "_aux_2"}
        names |= {f"layer{i}/": f"_aux_{i}" for i in range(2)} | {
            f"denoised{i}/": f"_dn_{i}" for i in range(3)
        }
        for prefix, suffix in names.items():
            for ours, theirs in (("class", "vfl"), ("l1", "bbox"), ("giou", "giou")):
                wanted = expected.pop(f"loss_{theirs}{suffix}").item()
                got = losses.pop(f"{prefix}{ours}").item()
                assert got == pytest.approx(wanted, rel=3e-5), (counts, prefix, ours)
        assert not losses and not expected


def _fill(reference) -> None:
    """Weights under which tokens differ: as transformers starts, all score alike, and any order is right."""
    tensors = {
        name: fill(name, tensor.shape)
        for name, tensor in reference.state_dict().items()
        if tensor.is_floating_point()
    }
    reference.load_state_dict(tensors, strict=False)
