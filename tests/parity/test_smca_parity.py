"""SMCA-DETR against numbers of its reference, through the rename table."""

import pytest
import torch

from hsvdet.checkpoint import load_tensors
from hsvdet.conversion import foreign
from hsvdet.conversion.rename import rename
from hsvdet.conversion.smca_detr import RULES, SOURCES
from hsvdet.models import find
from hsvdet.models.smca_detr import SmcaDetr, SmcaDetrConfig
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


def test_it_trains_as_the_reference_does(weights):
    """Matched pairs and every loss of every layer, and all gradients' norms."""
    spec = golden("smca_detr").spec
    train = spec["train"]
    net, targets = network(weights).train(), targets_of(train)
    output, criterion = net(*on_one_canvas(spec["image_sizes"]), targets), find("smca-detr-r50").criterion()
    last, *others = train["matcher_calls"]
    compare_pairs(output.layers, [*others, last], targets, criterion)
    losses = criterion(output, targets)
    compare_losses(losses, weighted(train["losses"], train["weights"]), of_layers(DECODER))
    # Biases of keys have no gradient but for rounding: attention does not see them.
    compare_gradients(
        net, losses.values(), train["gradients"], lambda key: rename({key: weights[key]}, RULES, key).tensors,
        abs=1e-3,
    )  # fmt: skip
