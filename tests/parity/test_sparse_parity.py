"""Sparse DETR against its authors' networks, through the rename table."""

import dataclasses
import json

import pytest
import torch

from hsvdet.checkpoint import load_tensors
from hsvdet.conversion.foreign import SOURCES
from hsvdet.conversion.rename import rename
from hsvdet.criteria.matching import match
from hsvdet.models import find
from hsvdet.structures import Target
from parity.golden import golden
from parity.lineage import lineage_image, lineage_tensor

# The losses in the order in which the reference matches: the answer, other decoder layers, proposals, encoder layers.
DECODER = {"": "", **{f"layer{n}/": f"_{n}" for n in range(5)}}
ENCODER = {"proposals/": "_enc", **{f"encoder{n}/": f"_enc_{n}" for n in range(5)}}


def made(keys, aliases, settings):
    """The network with the reference's weights, and a function from a foreign key to our names of it."""
    theirs = {key: lineage_tensor(aliases.get(key, key), shape) for key, shape in keys}
    (source, name), *others = [(s, name) for s in SOURCES if (name := s.recognise(theirs))]
    assert not others
    ours = rename(theirs, source.rules(name, theirs), name)
    assert ours.dropped == ()
    name = source.choose(name, settings)
    row = find(name)
    options = source.options(ours.tensors, settings)
    assert options.items() <= vars(row.config).items()
    net = row.net(dataclasses.replace(row.config, dropout=0.0), 91)
    load_tensors(net, ours.tensors, name)

    def names(key):
        return rename({key: torch.zeros(dict(keys)[key])}, source.rules(name, theirs), key).tensors

    return name, net, names


def on_one_canvas(sizes):
    images, padding = torch.zeros(len(sizes), 3, *sizes[0]), torch.ones(len(sizes), *sizes[0], dtype=bool)
    for i, (height, width) in enumerate(sizes):
        images[i, :, :height, :width] = lineage_image(f"img{i}", height, width)
        padding[i, :height, :width] = False
    return images, padding


def kept(output):
    """[B, S] bool."""
    return torch.cat([selection.kept.flatten(1) for selection in output.selections], 1)


@pytest.fixture(scope="module")
def sparse():
    expected = golden("sparse_detr")
    spec = expected.spec
    name, net, names = made(spec["keys"], spec["aliases"], spec["settings"])
    assert name == "sparse-detr-r50-rho10"
    return expected, net, names


def test_sparse_detr_keeps_the_tokens_and_answers_as_the_reference_does(sparse):
    expected, net, _ = sparse
    sizes = expected.spec["image_sizes"]
    expected.compare(net, [lineage_image(f"img{i}", *size) for i, size in enumerate(sizes)])
    with torch.inference_mode():
        output = net(*on_one_canvas(sizes))
    assert [row.nonzero()[:, 0].tolist() for row in kept(output)] == expected.spec["kept"]
    assert output.encoder == () and output.selections[0].attended is None


def test_sparse_detr_trains_as_the_reference_does(sparse):
    """Every pair of every matching, every loss, and the norms of gradients of the sum."""
    expected, net, names = sparse
    train = expected.spec["train"]
    targets = [Target(torch.tensor(t["labels"]), torch.tensor(t["boxes"])) for t in train["targets"]]
    output = net.train()(*on_one_canvas(expected.spec["image_sizes"]), targets)
    criterion = find("sparse-detr-r50-rho10").criterion()
    *layers, last = output.layers
    predictions = [last, *layers, output.proposals, *output.encoder]
    for prediction, pairs in zip(predictions, train["pairs"], strict=True):
        found = match(prediction, targets, criterion.class_loss, criterion.costs)
        for i, (queries, objects) in enumerate(pairs):
            assert found.query[found.image == i].tolist() == queries
            assert found.target[found.image == i].tolist() == objects
    losses = criterion(output, targets)
    assert len(losses) == 37
    for prefix, suffix in (DECODER | ENCODER).items():
        for ours, theirs in (("class", "ce"), ("l1", "bbox"), ("giou", "giou")):
            key = f"loss_{theirs}{suffix}"
            wanted = train["losses"][key] * train["weights"][key]
            assert losses[f"{prefix}{ours}"].item() == pytest.approx(wanted, rel=5e-5), key
    assert losses["selector"].item() == pytest.approx(train["losses"]["loss_mask_prediction"], rel=1e-5)
    sum(losses.values()).backward()
    parameters = dict(net.named_parameters())
    for key, norm in train["gradients"].items():
        got = torch.stack([parameters[part].grad.norm() for part in names(key)]).norm().item()
        assert got == pytest.approx(norm, rel=1e-3), key


@pytest.mark.parametrize("rho", [0.1, 0.3, 0.5])
def test_every_published_name_of_sparse_detr_is_consumed(rho, shared):
    name = f"sparse_detr_rho{rho}"
    spec = json.loads((shared / "golden" / "lineage" / f"{name}_keys.json").read_text())
    tensors = {key: torch.zeros(()).expand(shape) for key, shape in spec["keys"].items()}
    ((source, found),) = [(s, found) for s in SOURCES if (found := s.recognise(tensors))]
    assert source.choose(found, spec["args"]) == f"sparse-detr-r50-rho{round(100 * rho)}"
    ours = rename(tensors, source.rules(found, tensors), name).tensors
    with torch.device("meta"):
        wanted = find(found).net(find(found).config, 91).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {
        key: tensor.shape for key, tensor in wanted.items()
    }


@pytest.mark.parametrize("rho", [0.3, 0.5])
def test_sparse_detr_answers_as_the_reference_also_where_it_keeps_more(rho, sparse, shared):
    """The same weights: the share of kept tokens is changed in a network that is there."""
    _, net, _ = sparse
    known = json.loads((shared / "golden" / "lineage" / f"sparse_detr_rho{rho}_padded.json").read_text())
    net.eval().keep(rho)
    try:
        with torch.inference_mode():
            output = net(*on_one_canvas(known["image_sizes"]))
    finally:
        net.keep(net.config.rho)
    for row, indices, count in zip(
        kept(output), known["topk"][0]["indices"], known["sparse_token_nums"], strict=True
    ):
        assert set(row.nonzero()[:, 0].tolist()) == set(indices[:count])
    for sample in known["samples"]:
        at = sample["image"], sample["query"]
        torch.testing.assert_close(
            output.answer.logits[at], torch.tensor(sample["logits"]), atol=4e-4, rtol=0
        )
        torch.testing.assert_close(output.answer.boxes[at], torch.tensor(sample["box"]), atol=6e-5, rtol=0)
