"""What makes DINO: contrastive denoising, mixed query selection, look forward twice; in its tiny form."""

import json
from dataclasses import replace

import pytest
import torch

import hsvdet
from hsvdet.catalogue import ROWS
from hsvdet.conversion.foreign import SOURCES
from hsvdet.conversion.rename import rename
from hsvdet.errors import ConfigError
from hsvdet.models import find
from hsvdet.structures import Target

CLASSES = 5


@pytest.fixture
def net():
    return made()


def made(**options):
    row = find("dino-tiny")
    net = row.net(replace(row.config, **options), CLASSES)
    with torch.no_grad():  # what starts at 0 would hide everything
        for key, parameter in net.named_parameters():
            if "boxes" in key or "sampling_offsets" in key:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return net


def test_a_box_also_corrects_the_layer_before_it_and_no_other(net):
    contents = []

    def alone(module, inputs, content):
        """The content a layer gives, as if no layer had made it."""
        contents.append(content.detach().requires_grad_())
        return contents[-1]

    for layer in net.decoder:
        layer.register_forward_hook(alone)
    output = net.train()(torch.rand(1, 3, 96, 128))
    gradients = torch.autograd.grad(output.layers[2].boxes.sum(), contents, allow_unused=True)
    assert [gradient is not None for gradient in gradients] == [False, True, True]


def test_a_query_is_what_its_rank_learned_and_begins_where_its_token_proposes(net):
    seen = []
    net.decoder[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    with torch.inference_mode():
        proposals = net.eval()(torch.rand(2, 3, 96, 128)).proposals
    content, _, anchors, *_ = seen[0]
    assert torch.equal(content, net.contents.expand(2, -1, -1)) and torch.equal(anchors, proposals.boxes)
    best = proposals.logits.amax(-1)
    assert torch.equal(best, best.sort(1, descending=True).values)


def test_queries_with_too_much_noise_learn_to_find_nothing(net):
    targets = [Target(torch.tensor([1, 3]), torch.tensor([[0.3, 0.4, 0.2, 0.2], [0.6, 0.6, 0.3, 0.3]]))]
    output = net.train()(torch.rand(1, 3, 96, 128), None, targets)
    groups, (first, *_) = output.denoised.groups, output.denoised.layers
    first.logits.retain_grad(), first.boxes.retain_grad()
    losses = find("dino-tiny").criterion()(output, targets)
    sum(value for name, value in losses.items() if name.startswith("denoised0/")).backward()
    repaired, rejected = groups.query[groups.positive], groups.query[~groups.positive]
    assert len(repaired) == len(rejected) == 2 * groups.groups > 2
    assert (first.logits.grad[0, rejected] > 0).all()  # every class is to become less likely
    assert (first.logits.grad[0, repaired] < 0).sum(-1).tolist() == [1] * len(repaired)
    assert first.boxes.grad[0, repaired].any(-1).all() and not first.boxes.grad[0, rejected].any()


def test_a_picture_smaller_than_the_number_of_queries_gives_as_many_as_it_has_tokens(net):
    targets = [Target(torch.tensor([1]), torch.tensor([[0.3, 0.4, 0.2, 0.2]]))] * 2
    assert net(torch.rand(2, 3, 32, 32), None, targets).answer.boxes.shape[1] == 16 + 4 + 1 + 1


@pytest.mark.parametrize("levels", [2, 5])
def test_five_scales_are_four_maps_of_the_backbone_and_one_more(levels):
    net = hsvdet.create("dino-tiny", ["a"], options={"levels": levels}).net
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        tokens, _ = net.pyramid(net.backbone(images), None)
        assert net.eval()(images).answer.logits.isfinite().all()
    assert tokens.sizes == ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2))[-levels:]


def test_all_of_five_scales_learns():
    net = made(levels=5).train()
    targets = [Target(torch.tensor([0]), torch.tensor([[0.3, 0.4, 0.2, 0.2]]))]
    sum(
        find("dino-tiny").criterion()(net(torch.rand(1, 3, 64, 96), None, targets), targets).values()
    ).backward()
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)
    finest = net.pyramid.project[0][0].weight.grad, net.pyramid.levels.grad
    assert all(gradient.abs().sum() > 0 for gradient in finest)


def test_the_published_model_of_five_scales_costs_what_its_paper_says():
    """47 M parameters and 860 G multiply-adds (table 1). To the number, it is the four scales' and what the fifth adds
    to the projections, the embeddings of maps, and where and how much twelve layers look."""
    four, five = ROWS["dino-r50"], ROWS["dino-r50-5scale"]
    project, level, look = 256 * 256 + 256 + 2 * 256, 256, (256 + 1) * 8 * 4 * (2 + 1)
    assert five.parameters - four.parameters == project + level + 12 * look
    assert round(five.parameters / 1e6) == 47
    assert five.operations / 2 / 1e9 == pytest.approx(860, rel=0.02)


def test_names_of_its_authors_convert_into_the_model_of_five_scales(shared):
    """No list of its names is at hand: those of the four scales, with one map more, are what their code makes."""
    file = shared / "golden" / "lineage" / "dino_4scale_keys.json"
    shapes = {key: list(shape) for key, shape in json.loads(file.read_text())["keys"].items()}
    for key, shape in shapes.items():
        if ".sampling_offsets." in key or ".attention_weights." in key:
            shape[0] = shape[0] // 4 * 5
    shapes["transformer.level_embed"] = [5, 256]
    for level, channels in enumerate((256, 512, 1024, 2048, 2048)):
        side = 3 if level == 4 else 1
        shapes[f"input_proj.{level}.0.weight"] = [256, channels, side, side]
        for leaf in ("0.bias", "1.weight", "1.bias"):
            shapes[f"input_proj.{level}.{leaf}"] = [256]
    theirs = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    ((source, name),) = [(source, name) for source in SOURCES if (name := source.recognise(theirs))]
    renamed = rename(theirs, source.rules(name, theirs), name)
    with torch.device("meta"):
        wanted = find(name).net(find(name).config, 91).state_dict()
    assert name == "dino-r50-5scale" and not renamed.dropped
    assert {key: tensor.shape for key, tensor in renamed.tensors.items()} == {
        key: tensor.shape for key, tensor in wanted.items()
    }


@pytest.mark.parametrize("levels", [1, 6])
def test_a_number_of_scales_without_such_maps_is_refused(levels):
    with pytest.raises(ConfigError, match=f"levels expects 2 to 5.*got {levels}"):
        hsvdet.create("dino-tiny", ["a"], options={"levels": levels})
