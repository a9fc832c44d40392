"""DETR, SMCA, Conditional, DAB and DN-DETR in their tiny forms, and the layers that they are made of."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from hsvdet import backbones
from hsvdet.backbones.resnet import ResNet
from hsvdet.boxes import inverse_sigmoid, refine
from hsvdet.errors import CheckpointError, ConfigError
from hsvdet.layers import denoising
from hsvdet.layers.attention import MultiHeadAttention, attend, attention_weights
from hsvdet.layers.conditional import ConditionalCrossAttention
from hsvdet.layers.position import cell_positions, sine_of_coordinates, sine_of_map
from hsvdet.layers.tokens import sampled_padding
from hsvdet.models import conditional_detr, dab_detr, detr, dn_detr, smca_detr
from hsvdet.models.conditional_detr import ConditionalDetr, ConditionalDetrConfig
from hsvdet.models.dab_detr import DabDetr, DabDetrConfig
from hsvdet.models.detr import Detr, DetrConfig
from hsvdet.models.dn_detr import DnDetr, DnDetrConfig
from hsvdet.models.smca_detr import ModulatedAttention, SmcaDetr, SmcaDetrConfig
from hsvdet.structures import Target
from hsvdet.training.backbone_weights import load_backbone

CLASSES = 5
TINY = {
    "detr-tiny": (Detr, DetrConfig, detr),
    "smca-detr-tiny": (SmcaDetr, SmcaDetrConfig, smca_detr),
    "conditional-detr-tiny": (ConditionalDetr, ConditionalDetrConfig, conditional_detr),
    "dab-detr-tiny": (DabDetr, DabDetrConfig, dab_detr),
    "dn-detr-tiny": (DnDetr, DnDetrConfig, dn_detr),
}


def tiny(name: str, **options) -> nn.Module:
    net_class, config_class, module = TINY[name]
    torch.manual_seed(0)
    net = net_class(config_class(**{**module.VARIANTS[name], **options}), CLASSES)
    with torch.no_grad():
        net.boxes.layers[-1].weight.normal_(std=0.1)  # starts at 0 in some, and would hide everything
    return net


def targets(*counts: int) -> list[Target]:
    generator = torch.Generator().manual_seed(1)
    return [
        Target(
            torch.randint(0, CLASSES, (count,), generator=generator),
            torch.rand(count, 4, generator=generator) * 0.4 + 0.1,
        )
        for count in counts
    ]


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images, the second with padding on the right and below."""
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, 64:] = padding[1, :, 96:] = True
    return torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(2)), padding


@pytest.mark.parametrize("name", TINY)
def test_what_stands_in_the_padding_does_not_change_the_answer(name):
    net, (images, padding) = tiny(name).eval(), padded()
    other = torch.where(padding[:, None], images * 100 + 7, images)
    with torch.inference_mode():
        first, second = net(images, padding), net(other, padding)
    for a, b in zip(first.layers, second.layers, strict=True):
        assert torch.equal(a.logits, b.logits) and torch.equal(a.boxes, b.boxes)


@pytest.mark.parametrize("name", TINY)
def test_padded_tokens_are_never_looked_at(name):
    """Noise in the map's padded cells: not the pixels but the tokens that come of them."""
    net, (images, padding) = tiny(name).eval(), padded()
    cells = sampled_padding(padding, (3, 4))[:, None]
    assert cells[1].any() and not cells[0].any()
    noise = torch.zeros(())
    net.project.register_forward_hook(lambda module, inputs, out: torch.where(cells, out + noise, out))
    with torch.inference_mode():
        first = net(images, padding).answer
        noise = torch.randn(2, net.project.out_channels, 3, 4) * 10
        second = net(images, padding).answer
    torch.testing.assert_close(first.logits, second.logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(first.boxes, second.boxes, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_no_padding_and_padding_nowhere_are_the_same(name):
    net, (images, _) = tiny(name).eval(), padded()
    with torch.inference_mode():
        first, second = net(images).answer, net(images, torch.zeros(2, 96, 128, dtype=torch.bool)).answer
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_every_layer_predicts_and_every_parameter_learns(name):
    net, (images, padding) = tiny(name).train(), padded()
    output = net(images, padding, targets(2, 3))
    assert len(output.layers) == 3 and output.proposals is None
    assert (output.denoised is not None) == (name == "dn-detr-tiny")
    classes = CLASSES + (name == "detr-tiny")  # "no object" has a logit of its own there
    for logits, boxes in output.layers:
        assert logits.shape == (2, 50, classes) and boxes.shape == (2, 50, 4)
        assert boxes.dtype == torch.float32 and boxes.min() >= 0 and boxes.max() <= 1
    everything = [*output.layers, *(output.denoised.layers if output.denoised else ())]
    sum(part.square().sum() for layer in everything for part in layer).backward()
    assert [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None] == []


def test_boxes_are_float32_also_under_autocast():
    for name in TINY:
        net, (images, padding) = tiny(name).eval(), padded()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert net(images, padding).answer.boxes.dtype == torch.float32


def test_refined_anchors_pass_gradient_to_one_layer_back_only():
    """DAB-DETR, section 4.3: layer 2's box teaches layers 1 and 2 directly, but not through the place they look."""
    net, (images, _) = tiny("dab-detr-tiny").train(), padded()
    seen = []
    net.query_position.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].requires_grad))
    net(images)
    assert seen == [True, False, False]


def test_three_patterns_try_every_anchor_three_times():
    for name in ("dab-detr-tiny", "dn-detr-tiny"):
        net, (images, _) = tiny(name, patterns=3, decoder_layers=1, queries=7).eval(), padded()
        with torch.no_grad():
            answer = net(images).answer
            assert answer.boxes.shape == (2, 21, 4)
            net.patterns[1] = net.patterns[0]  # two equal patterns answer alike, query p * 7 + n for anchor n
            boxes = net(images).answer.boxes.unflatten(1, (3, 7))
        torch.testing.assert_close(boxes[:, 0], boxes[:, 1], atol=1e-6, rtol=0)
        assert not torch.allclose(boxes[:, 0], boxes[:, 2], atol=1e-4)


@torch.no_grad()
def test_a_head_looks_near_a_place_of_its_own():
    """SMCA, section 3.2, cell by cell: attention times a Gaussian, as wide as the query has it along each axis."""
    attention, size = ModulatedAttention(16, 2, 0.0, smooth=8.0), (3, 5)
    query, key = torch.randn(1, 4, 16), torch.randn(1, 15, 16)
    place, scale = torch.rand(1, 4, 2, 2) * 5 - 1, torch.rand(1, 4, 2, 2) * 3
    mask = torch.zeros(1, 1, 15, dtype=torch.bool)
    mask[..., 10:] = True  # the last row
    plain = attention_weights(attention.query(query), attention.key(key), 2)[0].view(2, 4, 3, 5)
    expected = torch.zeros(2, 4, 3, 5)
    for head, n, y, x in itertools.product(range(2), range(4), range(2), range(5)):
        (place_x, place_y), (scale_x, scale_y) = place[0, n, head].tolist(), scale[0, n, head].tolist()
        far = scale_x * (place_x - x) ** 2 + scale_y * (place_y - y) ** 2
        expected[head, n, y, x] = plain[head, n, y, x] * math.exp(-far / 8)
    expected /= expected.sum((2, 3), keepdim=True)
    found = attention.weights(query, place, scale, key, key, size, mask)
    torch.testing.assert_close(found[0].view(2, 4, 3, 5), expected)
    values = attention.value(key)[0].unflatten(-1, (2, 8))
    seen = torch.einsum("hqs,shd->qhd", expected.flatten(2), values).flatten(1)
    given = attention(query, place, scale, key, key, size, mask)
    torch.testing.assert_close(given[0], attention.output(seen))


@torch.no_grad()
def test_a_guess_is_a_place_in_the_picture_wherever_it_lies_on_the_map():
    net, (images, padding) = tiny("smca-detr-tiny").eval(), padded()
    padding[1] = True
    padding[1, 32:64, 48:112] = False  # a picture of 2 x 1 cells, from 1.5 cells on the right and 1 below
    layer, asked = net.decoder[0], []
    nn.init.zeros_(layer.offset.weight), nn.init.zeros_(layer.offset.bias)
    nn.init.zeros_(layer.guess.last.weight), nn.init.zeros_(layer.guess.last.bias)  # the middle
    layer.cross_attention.register_forward_hook(lambda module, inputs, out: asked.append(inputs[1]))
    net(images, padding)
    assert torch.equal(asked[0][0], torch.tensor([2.0, 1.5]).expand(50, 4, 2))
    assert torch.equal(asked[0][1], torch.tensor([2.5, 1.5]).expand(50, 4, 2))


# Denoising


def test_noised_queries_leave_the_others_as_they_are():
    net, (images, padding) = tiny("dn-detr-tiny").eval(), padded()
    with torch.inference_mode():
        without, with_noise = net(images, padding), net(images, padding, targets(2, 3))
    assert without.denoised is None
    for a, b in zip(without.layers, with_noise.layers, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_images_without_objects_have_no_noised_queries():
    net, (images, padding) = tiny("dn-detr-tiny").train(), padded()
    assert net(images, padding, targets(0, 0)).denoised is None
    denoised = net(images, padding, targets(0, 2)).denoised
    assert denoised.layers[0].boxes.shape == (2, 10, 4)
    assert denoised.groups.image.tolist() == [1] * 10
    assert denoised.groups.target.tolist() == [0, 1] * 5
    assert denoised.groups.query.tolist() == list(range(10))


@pytest.mark.parametrize("case", ["two_images", "one_empty", "patterns3"])
def test_groups_are_those_of_the_reference(case, monkeypatch):
    """Contents, anchors, and who may look at whom, for the reference's own random draws."""
    numbers = json.loads((Path(__file__).parent / "golden" / "dn_groups.json").read_text())
    known, draws = numbers[case], iter(numbers[case]["draws"])

    def replay(shape):
        draw = next(draws)
        assert list(shape) == draw["shape"]
        return torch.tensor(draw["values"]).reshape(draw["shape"])

    monkeypatch.setattr(torch, "rand", lambda shape, device=None: replay(shape))
    monkeypatch.setattr(torch, "randint", lambda low, high, shape, device=None: replay(shape).long())
    noised = denoising.noised_queries(
        [
            Target(torch.tensor(t["labels"]).long(), torch.tensor(t["boxes"]).reshape(-1, 4))
            for t in known["targets"]
        ],
        91,
        groups=known["groups"],
        label_noise=known["label_noise"],
        box_noise=known["box_noise"],
    )
    count, matching = known["pad"], known["queries"] * max(1, known["patterns"])
    content = torch.tensor(known["content"]["values"]).reshape(known["content"]["shape"])[:, :count]
    embedded = nn.functional.pad(torch.tensor(numbers["label_embedding"])[noised.labels], (0, 1), value=1.0)
    torch.testing.assert_close(embedded.masked_fill(noised.empty[..., None], 0.0), content)
    anchors = torch.tensor(known["anchors"]["values"]).reshape(known["anchors"]["shape"])[:, :count]
    torch.testing.assert_close(inverse_sigmoid(noised.boxes, 1e-3), anchors, atol=1e-5, rtol=1e-5)
    mask = []
    for repeat, runs in known["mask_rows"]:
        row = list(itertools.chain.from_iterable([i % 2 == 1] * length for i, length in enumerate(runs)))
        mask += [row] * repeat
    assert denoising.hide_groups(count, known["groups"], matching).tolist() == mask


def test_noise_stays_within_its_bounds():
    torch.manual_seed(0)
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.1]]).repeat(4000, 1)
    moved = denoising.noise_boxes(boxes, 0.4)
    reach = (moved - boxes).abs().amax(0)
    assert torch.all(reach <= torch.tensor([0.04, 0.02, 0.08, 0.04]) + 1e-6)
    assert torch.all(reach >= 0.95 * torch.tensor([0.04, 0.02, 0.08, 0.04]))
    assert (
        denoising.noise_boxes(torch.tensor([[0.0, 1.0, 0.9, 0.9]]).repeat(99, 1), 1.0).clamp(0, 1).max() <= 1
    )
    labels = torch.zeros(20000, dtype=torch.int64)
    changed = (denoising.noise_labels(labels, 0.2, 10) != 0).float().mean().item()
    assert abs(changed - 0.2 * 0.9) < 0.01  # one in ten draws its own class again


# Layers


def test_attention_is_a_softmax_of_scaled_products():
    query, key, value = torch.randn(2, 3, 12), torch.randn(2, 5, 12), torch.randn(2, 5, 6)
    mask = torch.zeros(2, 1, 5, dtype=torch.bool)
    mask[1, 0, 3:] = True
    expected = torch.zeros(2, 3, 6)
    for image, head, row in itertools.product(range(2), range(3), range(3)):
        products = [
            -math.inf if mask[image, 0, column] else float(
                query[image, row, 4 * head : 4 * head + 4] @ key[image, column, 4 * head : 4 * head + 4] / 2
            )
            for column in range(5)
        ]  # fmt: skip
        weights = torch.tensor(products).softmax(0)
        expected[image, row, 2 * head : 2 * head + 2] = weights @ value[image, :, 2 * head : 2 * head + 2]
    torch.testing.assert_close(attend(query, key, value, 3, mask), expected)
    weights = attention_weights(query, key, 3, mask)
    assert weights[1, :, :, 3:].abs().max() == 0
    mixed = weights @ value.unflatten(-1, (3, 2)).transpose(1, 2)
    torch.testing.assert_close(mixed.transpose(1, 2).flatten(2), expected)


def test_the_weights_to_look_at_are_those_that_forward_uses():
    layer, x = MultiHeadAttention(8, 2), torch.randn(1, 4, 8)
    mixed = layer.weights(x, x, x) @ layer.value(x).unflatten(-1, (2, 4)).transpose(1, 2)
    torch.testing.assert_close(layer.output(mixed.transpose(1, 2).flatten(2)), layer(x, x, x))


def test_content_and_place_stand_side_by_side_in_every_head():
    """Conditional DETR, section 3.3: a logit is the sum of a product of contents and one of places."""
    layer = ConditionalCrossAttention(8, 2)
    content, sine = torch.randn(1, 3, 8), torch.randn(1, 3, 8)
    memory, position = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    logits = 0.0
    for query, key in (
        (layer.query_content(content), layer.key_content(memory)),
        (layer.query_sine(sine), layer.key_position(position)),
    ):
        logits = logits + torch.einsum(
            "bqhd,bkhd->bhqk", query.unflatten(-1, (2, 4)), key.unflatten(-1, (2, 4))
        )
    weights = layer.weights(content, content, sine, memory, position)
    torch.testing.assert_close(weights, (logits / math.sqrt(8)).softmax(-1))


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_a_cell_knows_its_row_and_column_among_those_of_its_picture(offset):
    padding = torch.zeros(2, 4, 6, dtype=torch.bool)
    padding[1, 3:] = padding[1, :, 4:] = True
    position = sine_of_map(padding, 8, temperature=20.0, offset=offset)
    assert position.shape == (2, 8, 4, 6) and position.isfinite().all()
    for image, (height, width) in enumerate(((4, 6), (3, 4))):
        for row, column in itertools.product(range(height), range(width)):
            y, x = (row + 1 - offset) / height, (column + 1 - offset) / width
            expected = [
                function(2 * math.pi * c / 20.0 ** (2 * i / 4))
                for c in (y, x)
                for i in range(2)
                for function in (math.sin, math.cos)
            ]
            torch.testing.assert_close(
                position[image, :, row, column], torch.tensor(expected), atol=1e-5, rtol=0
            )


def test_coordinates_are_embedded_in_the_order_given():
    boxes = torch.rand(2, 3, 4)
    embedded = sine_of_coordinates(boxes, 6)
    assert embedded.shape == (2, 3, 24)
    torch.testing.assert_close(embedded[..., 6:12], sine_of_coordinates(boxes[..., 1:2], 6))


def test_a_cell_is_padding_when_its_first_pixel_is():
    padding = torch.rand(2, 45, 67, generator=torch.Generator().manual_seed(0)) < 0.5
    rows, columns = torch.arange(7) * 45 // 7, torch.arange(9) * 67 // 9
    assert torch.equal(sampled_padding(padding, (7, 9)), padding[:, rows][:, :, columns])
    position, mask = cell_positions(torch.zeros(2, 16, 7, 9), padding)
    assert position.shape == (2, 63, 16) and torch.equal(
        mask[:, 0], padding[:, rows][:, :, columns].flatten(1)
    )


def test_inverse_sigmoid_undoes_the_sigmoid_and_is_finite_at_the_ends():
    x = torch.linspace(0.01, 0.99, 50)
    torch.testing.assert_close(inverse_sigmoid(x).sigmoid(), x)
    ends = inverse_sigmoid(torch.tensor([0.0, 1.0, -1.0, 2.0]), 1e-3)
    torch.testing.assert_close(ends, math.log(1e3) * torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    torch.testing.assert_close(refine(torch.zeros(50), x), x)


# The backbone


def test_a_pretrained_backbone_keeps_its_stem_first_stage_and_normalisation():
    net = ResNet("resnet18", (2, 3, 4), frozen=1).train()
    assert net.channels == (128, 256, 512) and net.strides == (8, 16, 32)
    trained = {name.split(".")[0] for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    maps = net(torch.randn(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    scratch = ResNet("resnet-tiny", (4,))
    assert all(parameter.requires_grad for parameter in scratch.parameters())


def test_backbones_are_those_of_torchvision():
    """The same tensors under the same names, and the same map; dilated, one of twice the resolution."""
    import torchvision

    theirs = torchvision.models.resnet50(
        weights=None, replace_stride_with_dilation=[False, False, True]
    ).eval()
    net = ResNet("resnet50", (4,), frozen=1, dilated=True).eval()
    tensors = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    net.load_state_dict({k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")})
    body = torchvision.models._utils.IntermediateLayerGetter(theirs, {"layer4": "map"})
    with torch.inference_mode():
        image = torch.randn(1, 3, 64, 64)
        (ours,) = net(image)
        torch.testing.assert_close(ours, body(image)["map"], atol=1e-3, rtol=1e-4)
    assert ours.shape == (1, 2048, 4, 4) and net.strides == (16,)


@pytest.mark.parametrize("frozen", [1, None])
def test_imagenet_weights_come_from_a_classifier_of_the_same_depth(tmp_path, frozen):
    import torchvision

    classifier = torchvision.models.resnet18(weights=None)
    classifier.bn1.running_mean.normal_()
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    net = ResNet("resnet18", (4,), frozen=frozen)
    assert load_backbone(net, tmp_path / "resnet18.pth") == 100
    assert torch.equal(net.layer4[1].conv2.weight, classifier.layer4[1].conv2.weight)
    assert torch.equal(net.bn1.running_mean, classifier.bn1.running_mean)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_backbone(ResNet("resnet34", (4,), frozen=1), tmp_path / "resnet18.pth")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="conv.weight"):
        load_backbone(net, tmp_path / "other.pth")


def test_unknown_backbones_and_forms_are_named():
    with pytest.raises(ConfigError, match="Did you mean resnet50"):
        backbones.build("resnet5O")
    with pytest.raises(ConfigError, match="cannot be dilated"):
        backbones.build("resnet18", dilated=True)
    with pytest.raises(ConfigError, match="no dilated form"):
        backbones.build("resnet50vd", dilated=True)
