"""Anchor DETR against numbers of its reference, through the rename table."""

import json

import pytest
import torch

from hsvdet.checkpoint import load_tensors
from hsvdet.conversion.anchor_detr import RULES, SOURCES
from hsvdet.conversion.rename import rename
from hsvdet.models import anchor_detr, find
from parity.golden import golden
from parity.lineage import lineage_image, lineage_tensor, on_one_canvas
from parity.training import (
    DECODER,
    compare_gradients,
    compare_losses,
    compare_pairs,
    of_layers,
    targets_of,
    weighted,
)

(SOURCE,) = SOURCES


@pytest.fixture(scope="module")
def weights():
    """The reference's, under its names; the dilated model has the same."""
    spec = golden("anchor_detr_c5").spec
    return {key: lineage_tensor(spec["aliases"].get(key, key), shape) for key, shape in spec["keys"]}


def network(name, weights):
    net = find(name).net(find(name).config, 91)
    load_tensors(net, rename(weights, RULES, name).tensors, name)
    return net


def test_weights_answer_as_the_reference_does(weights):
    expected = golden("anchor_detr_c5")
    images = [lineage_image(f"img{i}", *size) for i, size in enumerate(expected.spec["image_sizes"])]
    expected.compare(network("anchor-detr-r50", weights), images)


def test_every_published_name_is_consumed():
    """Names and shapes of the authors' files, with what a counter of operations left in them."""
    spec = golden("anchor_detr_c5").spec
    tensors = {key: torch.zeros(()).expand(shape) for key, shape in spec["keys"]}
    counted = {"total_ops": torch.zeros(1), "transformer.encoder_layers.0.total_params": torch.zeros(1)}
    assert SOURCE.recognise(tensors) == "anchor-detr-r50" and SOURCE.num_classes(tensors) == 91
    assert SOURCE.choose("anchor-detr-r50", {"dilation": True}) == "anchor-detr-r50-dc5"
    larger = tensors | {"backbone.body.layer3.22.conv1.weight": torch.zeros(())}
    assert SOURCE.recognise(larger) == "anchor-detr-r101"
    renamed = rename(tensors | counted, RULES, "weights")
    assert renamed.dropped == tuple(counted)
    row = find("anchor-detr-r50")
    with torch.device("meta"):
        wanted = row.net(row.config, 91).state_dict()
    assert {key: tensor.shape for key, tensor in renamed.tensors.items()} == {
        key: tensor.shape for key, tensor in wanted.items()
    }
    options = SOURCE.options(renamed.tensors, {"nheads": 8})
    assert len(options) == 8 and options.items() <= vars(row.config).items()


def test_it_trains_as_the_reference_does(weights):
    """Matched pairs and every loss of every layer, and all gradients' norms."""
    spec = golden("anchor_detr_c5").spec
    train = spec["train"]
    net = network("anchor-detr-r50", weights).train()
    targets, criterion = targets_of(train), find("anchor-detr-r50").criterion()
    output = net(*on_one_canvas(spec["image_sizes"]), targets)
    last, *others = train["matcher_calls"]
    compare_pairs(output.layers, [*others, last], targets, criterion)
    losses = criterion(output, targets)
    compare_losses(losses, weighted(train["losses"], train["weights"]), of_layers(DECODER))
    compare_gradients(
        net,
        losses.values(),
        train["gradients"],
        lambda key: rename({key: weights[key]}, RULES, key).tensors,
    )


@pytest.mark.parametrize("case", ["single", "padded"])
def test_the_dilated_model_answers_as_the_reference_does(case, weights, shared, monkeypatch):
    """On a map with padded cells if rows and columns are averaged over those too, as the reference does. Without,
    the image without padding still answers alike, the other does not."""
    known = json.loads((shared / "golden" / "lineage" / f"anchor_detr_dc5_{case}.json").read_text())
    net = network("anchor-detr-r50-dc5", weights).eval()
    sizes = known["image_sizes"]
    inputs = on_one_canvas(sizes) if len(sizes) == 2 else (lineage_image("img0", *sizes[0])[None],)

    def agrees(answer, image, logits=1e-4, boxes=1e-5):
        samples = [sample for sample in known["samples"] if sample["image"] == image]
        at = [sample["query"] for sample in samples]
        off = answer.logits[image, at] - torch.tensor([sample["logits"] for sample in samples])
        off_boxes = answer.boxes[image, at] - torch.tensor([sample["box"] for sample in samples])
        return bool(off.abs().max() < logits and off_boxes.abs().max() < boxes)

    with torch.inference_mode():
        answer = net(*inputs).answer
        assert agrees(answer, 0)
        if case == "padded":
            assert not agrees(answer, 1, logits=1e-3, boxes=1e-4)
            monkeypatch.setattr(anchor_detr, "means", lambda cells, _: (cells.mean(1), cells.mean(2)))
            answer = net(*inputs).answer
            assert agrees(answer, 0) and agrees(answer, 1)
