"""Sparse DETR, and Efficient DETR as the same repository has it, against its networks, through the rename tables."""

import dataclasses
import json

import pytest
import torch

from hsvdet.checkpoint import load_tensors
from hsvdet.conversion.foreign import SOURCES
from hsvdet.conversion.rename import rename
from hsvdet.models import find
from hsvdet.models.sparse_detr import SparseDetr
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

# Our prefix of the losses of proposals and encoder layers, to the suffix of the reference.
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
    net = row.net(dataclasses.replace(row.config, dropout=0.0, **options), 91)
    load_tensors(net, ours.tensors, name)

    def names(key):
        return rename({key: torch.zeros(dict(keys)[key])}, source.rules(name, theirs), key).tensors

    return name, net, names


def kept(output):
    """[B, S] bool."""
    return torch.cat([selection.kept.flatten(1) for selection in output.selections], 1)


@pytest.fixture(scope="module")
def sparse():
    expected = golden("sparse_detr")
    spec = expected.spec
    name, net, names = made(spec["keys"], spec["aliases"], spec["settings"])
    assert name == "sparse-detr-r50-rho10"
    assert net.config == dataclasses.replace(find(name).config, dropout=0.0)
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
    expected, net, names = sparse
    output, losses = trained(
        expected, net, names, find("sparse-detr-r50-rho10").criterion(), DECODER | ENCODER
    )
    assert len(losses) == 37 and len(output.encoder) == 5
    wanted = expected.spec["train"]["losses"]["loss_mask_prediction"]
    assert losses["selector"].item() == pytest.approx(wanted, rel=1e-5)


def trained(expected, net, names, criterion, layers):
    """The output and losses of a step, compared with the reference's: every pair of every matching, every loss, and the
    norms of gradients of the sum. layers: our prefix of each matched layer's losses to the reference's suffix."""
    train = expected.spec["train"]
    targets = targets_of(train)
    output = net.train()(*on_one_canvas(expected.spec["image_sizes"]), targets)
    *inner, last = output.layers
    # In the order in which the reference matches.
    compare_pairs([last, *inner, output.proposals, *output.encoder], train["pairs"], targets, criterion)
    losses = criterion(output, targets)
    compare_losses(losses, weighted(train["losses"], train["weights"]), of_layers(layers))
    # Those of boxes alone tell where references pass none.
    of_boxes = [value for name, value in losses.items() if name.endswith(("l1", "giou"))]
    compare_gradients(net, of_boxes, train["box_gradients"], names)
    compare_gradients(net, losses.values(), train["gradients"], names)
    return output, losses


@pytest.mark.parametrize("rho", [0.1, 0.3, 0.5])
def test_every_published_name_of_sparse_detr_is_consumed(rho, shared):
    name = f"sparse_detr_rho{rho}"
    spec = json.loads((shared / "golden" / "lineage" / f"{name}_keys.json").read_text())
    tensors = {key: torch.zeros(()).expand(shape) for key, shape in spec["keys"].items()}
    ((source, found),) = [(s, found) for s in SOURCES if (found := s.recognise(tensors))]
    assert source.choose(found, spec["args"]) == f"sparse-detr-r50-rho{round(100 * rho)}"
    ours = rename(tensors, source.rules(found, tensors), name).tensors
    assert "rho" not in source.options(ours, spec["args"])  # the model's name says it
    assert source.options(ours, {"rho": 0.25})["rho"] == 0.25
    with torch.device("meta"):
        wanted = find(found).net(find(found).config, 91).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {
        key: tensor.shape for key, tensor in wanted.items()
    }


@pytest.mark.parametrize("rho", [0.3, 0.5])
def test_sparse_detr_answers_as_the_reference_also_where_it_keeps_more(rho, sparse, shared):
    """The same weights, with another share of the tokens."""
    _, trained, _ = sparse
    with torch.device("meta"):
        net = SparseDetr(dataclasses.replace(trained.config, rho=rho), 91)
    net.load_state_dict(trained.state_dict(), assign=True)
    known = json.loads((shared / "golden" / "lineage" / f"sparse_detr_rho{rho}_padded.json").read_text())
    with torch.inference_mode():
        output = net.eval()(*on_one_canvas(known["image_sizes"]))
    for row, indices, count in zip(
        kept(output), known["topk"][0]["indices"], known["sparse_token_nums"], strict=True
    ):
        assert set(row.nonzero()[:, 0].tolist()) == set(indices[:count])
    compare_samples(output.answer, known)


def compare_samples(answer, known):
    for sample in known["samples"]:
        at, noise = (sample["image"], sample["query"]), known["fp64_check"]
        for got, wanted, allowed in (
            (answer.logits[at], sample["logits"], max(1e-4, 10 * noise["max_abs_logits"])),
            (answer.boxes[at], sample["box"], max(1e-5, 10 * noise["max_abs_boxes"])),
        ):
            torch.testing.assert_close(got, torch.tensor(wanted), atol=allowed, rtol=0)


@pytest.fixture(scope="module")
def efficient():
    expected = golden("efficient_detr")
    spec = expected.spec
    name, net, names = made(spec["keys"], spec["aliases"], spec["settings"])
    assert name == "efficient-detr-r50" and net.config.own_heads  # of the paper's, all share one
    return expected, net, names


def test_efficient_detr_answers_as_the_reference_does(efficient):
    expected, net, _ = efficient
    sizes = expected.spec["image_sizes"]
    expected.compare(net, [lineage_image(f"img{i}", *size) for i, size in enumerate(sizes)])


def test_efficient_detr_trains_as_the_reference_does(efficient):
    layers = {"": "", "proposals/": "_enc"}
    _, losses = trained(*efficient, find("efficient-detr-r50").criterion(), layers)
    assert len(losses) == 6


def test_efficient_detr_of_six_layers_answers_as_the_reference_does(shared):
    """Every published name is consumed; and the table's own row is that network."""
    keys, known = (
        json.loads((shared / "golden" / "lineage" / f"efficient_detr_e6d6_{part}.json").read_text())
        for part in ("keys", "padded")
    )
    name, net, _ = made(list(keys["keys"].items()), keys["aliases"], keys["args"])
    assert name == "efficient-detr-r50-e6d6"
    assert net.config == dataclasses.replace(find(name).config, dropout=0.0)
    with torch.inference_mode():
        compare_samples(net.eval()(*on_one_canvas(known["image_sizes"])).answer, known)
