"""SMCA-DETR against numbers of its reference, through the rename table."""

import json

import pytest
import torch

from hsvdet.checkpoint import load_tensors
from hsvdet.conversion import foreign
from hsvdet.conversion.rename import rename
from hsvdet.conversion.smca_detr import RULES, SOURCES
from hsvdet.criteria.matching import match
from hsvdet.models import find
from hsvdet.models.smca_detr import SmcaDetr, SmcaDetrConfig
from hsvdet.structures import Target
from parity.golden import golden
from parity.lineage import lineage_image, lineage_tensor

(SOURCE,) = SOURCES


@pytest.fixture(scope="module")
def weights():
    """The reference's, under its names."""
    spec = golden("smca_detr").spec
    return {key: lineage_tensor(key, shape) for key, shape in spec["keys"]}


def network(weights):
    """With the row of "no object" that conversion leaves out, and dropout off, as in the reference's run."""
    net = SmcaDetr(SmcaDetrConfig(dropout=0.0), 92)
    ours = rename(weights, RULES, "smca_detr").tensors
    ours |= {f"classes.{leaf}": weights[f"class_embed.{leaf}"] for leaf in ("weight", "bias")}
    load_tensors(net, ours, "smca_detr")
    return net


def test_weights_answer_as_the_reference_does(weights):
    expected = golden("smca_detr")
    images = [lineage_image(f"img{i}", *size) for i, size in enumerate(expected.spec["image_sizes"])]
    expected.compare(network(weights), images)


def test_every_published_name_is_consumed():
    tensors = {key: torch.zeros(()).expand(shape) for key, shape in golden("smca_detr").spec["keys"]}
    assert [source for source in foreign.SOURCES if source.recognise(tensors)] == [SOURCE]
    assert SOURCE.recognise(tensors) == "smca-detr-r50" and SOURCE.num_classes(tensors) == 91
    renamed = rename(tensors, RULES, "weights")
    row = find("smca-detr-r50")
    with torch.device("meta"):
        wanted = row.net(row.config, 91).state_dict()
    assert not renamed.dropped
    assert {key: tensor.shape for key, tensor in renamed.tensors.items()} == {
        key: tensor.shape for key, tensor in wanted.items()
    }
    options = SOURCE.options(renamed.tensors, {"nheads": 8})
    assert len(options) == 7 and options.items() <= vars(row.config).items()


def test_it_trains_as_the_reference_does(weights, shared):
    """Matched pairs and every loss of every layer, and all gradients' norms."""
    train = json.loads((shared / "golden" / "lineage" / "smca_detr_train.json").read_text())
    net, sizes = network(weights).train(), train["image_sizes"]
    images, padding = torch.zeros(2, 3, *sizes[0]), torch.ones(2, *sizes[0], dtype=torch.bool)
    for i, (height, width) in enumerate(sizes):
        images[i, :, :height, :width] = lineage_image(f"img{i}", height, width)
        padding[i, :height, :width] = False
    targets = [Target(torch.tensor(t["labels"]), torch.tensor(t["boxes"])) for t in train["targets"]]
    output = net(images, padding, targets)

    criterion = find("smca-detr-r50").criterion()
    last, *others = train["matcher_calls"]
    for layer, pairs in zip(output.layers, [*others, last], strict=True):
        found = match(layer, targets, criterion.class_loss, criterion.costs)
        for i, (queries, objects) in enumerate(pairs):
            assert found.query[found.image == i].tolist() == queries
            assert found.target[found.image == i].tolist() == objects
    losses = criterion(output, targets)
    for layer in range(6):
        suffix, prefix = ("", "") if layer == 5 else (f"_{layer}", f"layer{layer}/")
        for ours, key in (("class", "loss_ce"), ("l1", "loss_bbox"), ("giou", "loss_giou")):
            wanted = train["losses_unweighted"][f"{key}{suffix}"] * train["weights"][f"{key}{suffix}"]
            assert losses[f"{prefix}{ours}"].item() == pytest.approx(wanted, rel=5e-5), f"{key}{suffix}"
    sum(losses.values()).backward()
    parameters = dict(net.named_parameters())
    for key, norm in train["grad_l2_of_total"].items():
        ours = rename({key: weights[key]}, RULES, key).tensors
        got = torch.stack([parameters[part].grad.norm() for part in ours]).norm().item()
        # Biases of keys have none but for rounding: attention does not see them.
        assert got == pytest.approx(norm, rel=1e-3, abs=1e-3), key
