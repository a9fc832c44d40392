"""What makes DINO: contrastive denoising, mixed query selection, look forward twice; in its tiny form."""

import pytest
import torch

import hsvdet
from hsvdet.errors import ConfigError
from hsvdet.models import find
from hsvdet.structures import Target

CLASSES = 5


@pytest.fixture
def net():
    row = find("dino-tiny")
    net = row.net(row.config, CLASSES)
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


@pytest.mark.parametrize("levels", [1, 6])
def test_a_number_of_scales_without_such_maps_is_refused(levels):
    with pytest.raises(ConfigError, match=f"levels expects 2 to 5.*got {levels}"):
        hsvdet.create("dino-tiny", ["a"], options={"levels": levels})
