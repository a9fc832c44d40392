"""Deformable DETR in its three forms, DN-Deformable-DETR, Sparse DETR and RT-DETR in their tiny forms, and their
parts."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch

from hsvdet.boxes import cxcywh_to_xyxy, inverse_sigmoid
from hsvdet.errors import ConfigError
from hsvdet.layers import denoising
from hsvdet.layers.pyramid import flatten_maps
from hsvdet.layers.queries import on_maps, token_boxes, token_centres, top_tokens
from hsvdet.layers.tokens import sampled_padding
from hsvdet.models import find
from hsvdet.models.deformable_detr import RefiningDeformableDetr
from hsvdet.postprocess import TopPairs
from hsvdet.structures import Prediction, Target
from hsvdet.training.stability import instability

CLASSES = 5
TINY = (
    "deformable-detr-tiny",
    "deformable-detr-refine",
    "deformable-detr-two-stage-tiny",
    "dn-deformable-detr-tiny",
    "dino-tiny",
    "efficient-detr-tiny",
    "sparse-detr-tiny",
    "rt-detr-tiny",
)
DENOISING = ("dn-deformable-detr-tiny", "dino-tiny", "rt-detr-tiny")


def tiny(name: str, **options):
    torch.manual_seed(0)
    row = find("deformable-detr-tiny" if name == "deformable-detr-refine" else name)
    net_class = RefiningDeformableDetr if name == "deformable-detr-refine" else row.net
    net = net_class(dataclasses.replace(row.config, **options), CLASSES)
    with torch.no_grad():  # what starts at 0 would hide everything
        for key, parameter in net.named_parameters():
            if "boxes" in key or "sampling_offsets" in key:
                parameter.add_(torch.randn_like(parameter) * 0.1)
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
    return torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(2)), padding


def predictions(output) -> list[Prediction]:
    first = [output.proposals] if output.proposals else []
    return [*output.layers, *first, *(output.denoised.layers if output.denoised else ()), *output.encoder]


@pytest.mark.parametrize("name", TINY)
def test_what_stands_in_the_padding_does_not_change_the_answer(name):
    net, (images, padding) = tiny(name).eval(), padded()
    other = torch.where(padding[:, None], images * 100 + 7, images)
    with torch.inference_mode():
        first, second = net(images, padding), net(other, padding)
    for a, b in zip(predictions(first), predictions(second), strict=True):
        assert torch.equal(a.logits, b.logits) and torch.equal(a.boxes, b.boxes)


@pytest.mark.parametrize("name", TINY)
def test_padded_tokens_are_never_looked_at_nor_proposed(name):
    """Noise in the maps' padded cells: not the pixels but the tokens that come of them."""
    net, (images, padding) = tiny(name).eval(), padded()
    scale = 0.0

    def disturb(module, inputs, out):
        cells = sampled_padding(padding, out.shape[-2:])[:, None]
        return torch.where(cells, out + scale * torch.randn_like(out), out)

    for project in net.project if name == "rt-detr-tiny" else net.pyramid.project:
        project.register_forward_hook(disturb)
    with torch.inference_mode():
        first = net(images, padding)
        scale = 10.0
        second = net(images, padding)
    for a, b in zip(predictions(first), predictions(second), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_gets_a_gradient_also_without_objects(name):
    net, (images, padding) = tiny(name).train(), padded()
    criterion = find("deformable-detr-tiny" if "refine" in name else name).criterion()
    for counts in ((2, 3), (0, 4), (0, 0)):
        net.zero_grad()
        output, wanted = net(images, padding, targets(*counts)), targets(*counts)
        assert (output.denoised is not None) == (name in DENOISING and sum(counts) > 0)
        sum(criterion(output, wanted).values()).backward()
        missing = [key for key, p in net.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []
        assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("name", "number"), [("rt-detr-tiny", 0.0), ("dino-tiny", 0.5), ("dn-deformable-detr-tiny", 0.5)]
)
def test_noised_queries_that_stand_for_no_object_have_the_box_of_their_paper(name, number, monkeypatch):
    """In the image without objects all of them do, beside one with four; of two objects beside three, the last."""
    net, (images, padding) = tiny(name).train(), padded()
    decode, references = net.decode, []

    def watched(content, reference, *others):
        references.append(reference)
        return decode(content, reference, *others)

    monkeypatch.setattr(net, "decode", watched)
    for counts, most in (((0, 4), 4), ((3, 2), 3)):
        output = net(images, padding, targets(*counts))
        noised = output.denoised.layers[0].boxes.shape[1]
        blocks = references.pop()[:, :noised].unflatten(1, (-1, most))  # [B, copies, most, 4]
        for image, count in enumerate(counts):
            fillers = blocks[image, :, count:]
            torch.testing.assert_close(fillers, torch.full_like(fillers, number), atol=2e-3, rtol=0)
            assert not torch.isclose(blocks[image, :, :count], torch.tensor(number), atol=2e-3).all(-1).any()


@pytest.mark.parametrize("name", TINY)
def test_boxes_are_float32_fractions_also_under_autocast(name):
    net, (images, padding) = tiny(name).eval(), padded()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for _, boxes in predictions(net(images, padding)):
            assert boxes.dtype == torch.float32 and 0 <= boxes.min() and boxes.max() <= 1


def test_attention_within_rt_detrs_coarsest_map_does_not_look_at_padding():
    net, (_, padding) = tiny("rt-detr-tiny").eval(), padded()
    features = torch.randn(2, net.config.neck, 3, 4)
    mask = sampled_padding(padding, (3, 4))[:, None].expand_as(features)
    with torch.inference_mode():
        before = net.neck.attend(features, padding)
        after = net.neck.attend(features + 7 * torch.randn_like(features) * mask, padding)
    assert mask.any()
    torch.testing.assert_close(before[~mask], after[~mask])


@pytest.mark.parametrize("name", DENOISING)
def test_noised_queries_leave_the_others_as_they_are(name):
    net, (images, padding) = tiny(name).eval(), padded()
    with torch.inference_mode():
        without, with_noise = net(images, padding), net(images, padding, targets(2, 3))
    assert without.denoised is None and len(with_noise.denoised.layers) == len(without.layers)
    for a, b in zip(without.layers, with_noise.layers, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["deformable-detr-two-stage-tiny", "sparse-detr-tiny", "rt-detr-tiny"])
def test_a_picture_smaller_than_the_number_of_queries_gives_as_many_as_it_has_tokens(name):
    net = tiny(name).eval()
    with torch.inference_mode():
        assert net(torch.rand(1, 3, 32, 32)).answer.boxes.shape[1] == (21 if "rt" in name else 22)


class Answer(torch.nn.Module):
    """Images alone to tensors alone, as exporters want it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net(images).answer


@pytest.mark.parametrize("name", ["dn-deformable-detr-tiny", "rt-detr-tiny"])
def test_exported_programs_answer_alike(name):
    net, images = Answer(tiny(name, decoder_layers=2)).eval(), torch.rand(1, 3, 96, 128)
    exported = torch.export.export(net, (images,)).module()(images)
    torch.testing.assert_close(exported, net(images), atol=1e-5, rtol=0)


def test_onnx_runtime_answers_alike_and_needs_no_grid_sample(tmp_path):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    net = Answer(tiny("deformable-detr-two-stage-tiny", encoder_layers=1, decoder_layers=1)).eval()
    images, path = torch.rand(1, 3, 96, 128), tmp_path / "net.onnx"
    with torch.inference_mode():
        expected = net(images)
    torch.onnx.export(net, (images,), path, dynamo=True, opset_version=18, verbose=False)
    assert "GridSample" not in {node.op_type for node in onnx.load(path).graph.node}
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits, boxes = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.from_numpy(boxes), expected.boxes, atol=1e-5, rtol=0)


# Efficient DETR


def test_efficient_detr_takes_fewer_and_fewer_proposals():
    net, (images, _) = tiny("efficient-detr-tiny").train(), padded()
    untold = net(images).answer.boxes.shape[1]
    counts = []
    for progress in (0.0, 0.5, 1.0):
        net.at(progress)
        counts.append(net(images).answer.boxes.shape[1])
    assert counts == [100, 75, 50] and untold == 50


def test_efficient_detr_has_one_head_or_one_of_each_layer_and_of_the_tokens():
    images, _ = padded()
    for own, count in ((False, 1), (True, 3)):
        net = tiny("efficient-detr-tiny", decoder_layers=2, own_heads=own).train()
        output = net(images)
        assert len(net.classes) == len(net.boxes) == count
        output.layers[0].logits.sum().backward()
        learned = [head.weight.grad is not None for head in net.classes]
        assert learned == ([True] if count == 1 else [True, False, False])


def test_the_query_that_is_no_more_has_changed_its_object():
    before, now = torch.tensor([[0, -1, 1], [-1, -1, -1]]), torch.tensor([[0, -1], [1, -1]])
    assert instability(now, before) == instability(before, now) == 1.0


# Sparse DETR


def kept(output):
    """[B, S] bool."""
    return torch.cat([selection.kept.flatten(1) for selection in output.selections], 1)


def test_sparse_detr_changes_the_tokens_it_keeps_and_no_others():
    net, (images, padding) = tiny("sparse-detr-tiny").eval(), padded()
    before, after = [], []
    net.encoder.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    net.encoder.register_forward_hook(lambda _, inputs, out: after.append(out[0]))
    with torch.inference_mode():
        output = net(images, padding)
    changed = (before[0].features != after[0].features).any(-1)
    assert torch.equal(changed, kept(output))
    real = (~before[0].padding).sum(1)
    assert changed.sum(1).tolist() == [int(0.3 * count) + 1 for count in real.tolist()]
    assert [selection.stride for selection in output.selections] == [8, 16, 32, 64]


def test_sparse_detr_answers_for_an_image_alike_beside_a_larger_one():
    """Which has more tokens to keep."""
    net, (images, padding) = tiny("sparse-detr-tiny").eval(), padded()
    with torch.inference_mode():
        together, alone = net(images, padding), net(images[1:], padding[1:])
    torch.testing.assert_close(together.answer.boxes[1:], alone.answer.boxes, atol=1e-6, rtol=0)
    assert torch.equal(kept(together)[1:], kept(alone))


@pytest.mark.parametrize("name", ["efficient-detr-tiny", "sparse-detr-tiny"])
def test_queries_of_tokens_are_of_no_padding_where_there_are_more_queries_than_tokens(name):
    net, (images, padding) = tiny(name, queries=200).eval(), padded()  # the second image has 128 tokens
    scale, outside = 0.0, sampled_padding(padding, (12, 16))[:, None]
    net.pyramid.project[0].register_forward_hook(
        lambda _, inputs, out: torch.where(outside, out + scale * torch.randn_like(out), out)
    )
    with torch.inference_mode():
        first = net(images, padding).answer
        scale = 10.0
        second = net(images, padding).answer
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_sparse_detr_keeps_the_share_of_the_tokens_that_it_is_told():
    images, _ = padded()
    for rho, count in ((0.1, 26), (1.0, 256)):  # of 12 x 16 + 6 x 8 + 3 x 4 + 2 x 2 = 256 tokens
        with torch.inference_mode():
            assert kept(tiny("sparse-detr-tiny", rho=rho).eval()(images)).sum(1).tolist() == [count, count]
    for rho in (0.0, 1.1):
        with pytest.raises(ConfigError, match="rho expects a share"):
            tiny("sparse-detr-tiny", rho=rho)


def test_sparse_detrs_scores_learn_from_where_the_decoder_looks_and_from_nothing_else():
    net, (images, padding) = tiny("sparse-detr-tiny").train(), padded()
    criterion = find("sparse-detr-tiny").criterion()
    losses = criterion(net(images, padding), targets(2, 3))
    losses.pop("selector").backward(retain_graph=True)
    assert all(p.grad.abs().sum() > 0 for p in net.score.parameters())
    assert all(p.grad is None for p in net.decoder.parameters())
    net.zero_grad()
    sum(losses.values()).backward()
    assert all(p.grad is None for p in net.score.parameters())


# RT-DETR


def test_rt_detr_answers_with_any_of_its_decoder_layers():
    net, (images, _) = tiny("rt-detr-tiny").eval(), padded()
    with torch.inference_mode():
        every = net(images).layers
    for layer in (1, 2, 3):
        shorter = tiny("rt-detr-tiny", answer_layer=layer).eval()
        shorter.load_state_dict(net.state_dict())
        with torch.inference_mode():
            torch.testing.assert_close(shorter(images).answer, every[layer - 1])
        assert len(shorter.train()(images).layers) == 3  # in training all layers learn
    with pytest.raises(ConfigError, match="or 1 to 3, the decoder's layers; got 4"):
        tiny("rt-detr-tiny", answer_layer=4)


def test_boxes_of_rt_detr_pass_gradient_to_one_layer_back_and_content_to_all():
    net, (images, _) = tiny("rt-detr-tiny").train(), padded()
    output = net(images)
    output.layers[2].boxes.sum().backward()
    assert all(head.layers[-1].bias.grad is not None for head in net.boxes[1:])
    assert net.boxes[0].layers[-1].bias.grad is None  # two layers back
    assert (
        net.proposal_boxes.layers[-1].bias.grad is None
        and net.query_position.layers[0].weight.grad is not None
    )


def test_rt_detr_is_told_rows_from_columns_when_the_map_is_not_square():
    """The cells of one row share the first half of their position, those of one column the second."""
    net = tiny("rt-detr-tiny").neck
    seen = []
    net.attention.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    net.attend(torch.rand(1, 64, 3, 5), None)
    position = seen[0].view(3, 5, 64)
    assert torch.equal(position[1, 0, :32], position[1, 4, :32])
    assert torch.equal(position[0, 3, 32:], position[2, 3, 32:])
    assert position[2, 3, 0] == torch.tensor(2.0).sin() and position[2, 3, 32] == torch.tensor(3.0).sin()


# Where queries begin


def on_two_maps(padding=None):
    return flatten_maps([torch.zeros(2, 8, 6, 8), torch.zeros(2, 8, 3, 4)], padding)


def test_a_token_sees_its_own_cell_when_its_place_is_put_on_its_map():
    """Also with a picture in the middle of the canvas."""
    padding = torch.ones(2, 48, 64, dtype=torch.bool)
    padding[0] = False
    padding[1, 16:48, 16:56] = False
    tokens = on_two_maps(padding)
    places = on_maps(token_centres(tokens), tokens)  # [2, 60, 2, 2]
    start = 0
    for level, (height, width) in enumerate(tokens.sizes):
        for row, column in itertools.product(range(height), range(width)):
            expected = torch.tensor([(column + 0.5) / width, (row + 0.5) / height])
            torch.testing.assert_close(places[:, start, level], expected.expand(2, 2))
            start += 1
    # The whole picture is the whole of where it lies on each map.
    whole = on_maps(torch.tensor([[[0.5, 0.5, 1.0, 1.0]]] * 2), tokens)
    torch.testing.assert_close(whole[1, 0, 0], torch.tensor([4.5 / 8, 4 / 6, 5 / 8, 4 / 6]))


def test_first_boxes_stand_on_their_cells_and_never_in_padding():
    padding = torch.zeros(2, 48, 64, dtype=torch.bool)
    padding[1, 32:] = True
    boxes, unusable = token_boxes(on_two_maps(padding))
    assert not unusable[0].any()
    assert unusable[1].tolist() == [*[False] * 32, *[True] * 16, *[False] * 8, *[True] * 4]
    torch.testing.assert_close(boxes[0, 0], torch.tensor([0.5 / 8, 0.5 / 6, 0.05, 0.05]))
    torch.testing.assert_close(boxes[1, 8], torch.tensor([0.5 / 8, 1.5 / 4, 0.05, 0.05]))
    torch.testing.assert_close(boxes[0, -1], torch.tensor([3.5 / 4, 2.5 / 3, 0.1, 0.1]))
    _, unusable = token_boxes(flatten_maps([torch.zeros(1, 1, 1, 64)], None))
    assert unusable[0].nonzero().flatten().tolist() == [0, 63]  # 1/128 is nearer than 0.01 to the edge


def test_the_first_of_equal_tokens_is_chosen_and_unusable_ones_last():
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]])
    assert top_tokens(scores, 4).tolist() == [[1, 2, 4, 3]]
    unusable = torch.tensor([[False, True, False, True, True]])
    assert top_tokens(scores, 3, unusable).tolist() == [[2, 0, 1]]
    assert top_tokens(scores, 9).shape == (1, 5)


# Contrastive denoising


@pytest.mark.parametrize("case", ["one_empty", "lite_box_noise_1.0"])
def test_contrastive_groups_are_those_of_the_reference(case, monkeypatch):
    """Contents, anchors, and who may look at whom, for the reference's own random draws (DINO)."""
    numbers = json.loads((Path(__file__).parent / "golden" / "contrastive_groups.json").read_text())
    known = numbers[case]
    draws = iter(torch.tensor(draw["values"]).reshape(draw["shape"]) for draw in known["draws"])
    monkeypatch.setattr(torch, "rand", lambda shape, device=None: next(draws))
    monkeypatch.setattr(torch, "randint", lambda low, high, shape, device=None: next(draws).long())
    wanted = [
        Target(torch.tensor(t["labels"]).long(), torch.tensor(t["boxes"]).reshape(-1, 4))
        for t in known["targets"]
    ]
    noised = denoising.contrastive_queries(
        wanted,
        91,
        most=known["groups"] * max(len(t.labels) for t in wanted),
        label_noise=known["label_noise"],
        box_noise=known["box_noise"],
        filler=0.5,
    )
    count = known["pad"]
    assert noised.labels.shape[1] == count and noised.groups.groups == known["groups"]
    embedded = torch.tensor(numbers["label_embedding"])[noised.labels].masked_fill(noised.empty[..., None], 0)
    content = torch.tensor(known["content"]["values"]).reshape(known["content"]["shape"])
    torch.testing.assert_close(embedded, content)
    anchors = torch.tensor(known["anchors"]["values"]).reshape(known["anchors"]["shape"])
    torch.testing.assert_close(inverse_sigmoid(noised.boxes, 1e-3), anchors, atol=1e-4, rtol=1e-4)
    mask = []
    for repeat, runs in known["mask_rows"]:
        row = list(itertools.chain.from_iterable([i % 2 == 1] * length for i, length in enumerate(runs)))
        mask += [row] * repeat
    assert denoising.hide_groups(count, known["groups"], known["queries"]).tolist() == mask
    longest = count // (2 * known["groups"])
    assert torch.equal(noised.groups.positive, noised.groups.query // longest % 2 == 0)


def test_far_corners_move_by_one_to_two_times_the_reach_of_near_ones():
    torch.manual_seed(0)
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.1]]).repeat(4000, 1)
    far = torch.arange(4000) >= 2000
    moved = cxcywh_to_xyxy(denoising.move_corners(boxes, 1.0, far)) - cxcywh_to_xyxy(boxes)
    share = moved.abs() / torch.tensor([0.1, 0.05, 0.1, 0.05])
    assert share[~far].min() >= 0 and 0.99 < share[~far].max() <= 1.0001
    assert 0.9999 <= share[far].min() < 1.01 and 1.99 < share[far].max() <= 2.0001


# The answer


def test_the_best_pairs_of_query_and_class_are_the_answer():
    logits = torch.tensor([[[2.0, 1.0, -9.0], [0.5, 3.0, -9.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.25, 0.5, 0.5, 1.0]]])
    (found,) = TopPairs(max_detections=3).detections(Prediction(logits, boxes), [(100, 200)], score=0.5)
    assert found.labels.tolist() == [1, 0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid())
    expected = torch.tensor([[0.0, 0, 100, 100], [80, 40, 120, 60], [80, 40, 120, 60]])
    torch.testing.assert_close(found.boxes, expected)
    (found,) = TopPairs().detections(Prediction(logits, boxes), [(100, 200)], score=0.9)
    assert found.labels.tolist() == [1]
