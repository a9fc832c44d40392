"""DINO and Lite-DINO against their references, through the rename table."""

import dataclasses
import json

import pytest
import torch

from hsvdet.checkpoint import load_tensors
from hsvdet.conversion.foreign import SOURCES
from hsvdet.conversion.rename import rename
from hsvdet.layers.queries import top_tokens
from hsvdet.models import dino, find
from parity.golden import golden
from parity.lineage import lineage_image, lineage_noise, lineage_tensor, on_one_canvas
from parity.training import (
    DECODER,
    DENOISED,
    compare_gradients,
    compare_losses,
    compare_pairs,
    of_layers,
    targets_of,
    weighted,
)

# Files of numbers in tests/golden: the reference with 100 queries, which no two roundings rank in another order.
MODELS = {"dino": "dino-r50", "lite_dino": "lite-dino-r50-h3l1-2p1x3"}
# In ../shared: with all 900 queries.
SHARED = {
    "dino_4scale": "dino-r50",
    "lite_dino_h3l1_2p1x3": "lite-dino-r50-h3l1-2p1x3",
    "lite_dino_h3l1_6p1x1": "lite-dino-r50-h3l1-6p1x1",
    "lite_dino_h2l2_2p1x3": "lite-dino-r50-h2l2-2p1x3",
    "lite_dino_h3l1_2p1x3_nokda": "lite-dino-r50-h3l1-2p1x3-plain",
}


def made_of(theirs, settings):
    """The model that they are recognised as, its network with the reference's weights, and the rules that brought
    them: of the only source that knows their names. settings: what lies beside them."""
    ((source, name),) = [(source, name) for source in SOURCES if (name := source.recognise(theirs))]
    name = source.choose(name, settings)
    rules, row = source.rules(name, theirs), find(name)
    renamed = rename(theirs, rules, name)
    net = row.net(dataclasses.replace(row.config, **source.options(renamed.tensors, settings)), 91)
    load_tensors(net, renamed.tensors, name)
    return name, net, rules


@pytest.fixture(scope="module", params=MODELS)
def reference(request):
    """Its numbers, our network with its weights, and the rules between their names."""
    expected = golden(request.param)
    aliases = expected.spec["aliases"]
    theirs = {key: lineage_tensor(aliases.get(key, key), shape) for key, shape in expected.spec["keys"]}
    name, net, rules = made_of(theirs, {})
    assert name == MODELS[request.param]
    return expected, net, rules


def test_published_weights_answer_as_the_reference_does(reference):
    expected, net, _ = reference
    sizes = expected.spec["image_sizes"]
    expected.compare(net, [lineage_image(f"img{i}", *size) for i, size in enumerate(sizes)])


def test_a_step_is_that_of_the_reference(reference, monkeypatch):
    """Every loss and matching, and the norms of gradients, of all terms and of boxes alone: these tell where the
    gradient stops. The same random numbers in both."""
    expected, net, rules = reference
    train = expected.spec["train"]
    targets, criterion = targets_of(train), dino.criterion()
    names = iter([f"rand{i}" for i in range(len(train["draws"]))])
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda shape, device=None: lineage_noise(next(names), shape))
        patch.setattr(
            torch, "randint", lambda low, high, shape, device=None: lineage_noise(next(names), shape, high)
        )
        output = net.train()(*on_one_canvas(expected.spec["image_sizes"]), targets)
    assert next(names, None) is None
    losses = criterion(output, targets)
    denoised = {prefix: f"_dn{suffix}" for prefix, suffix in DENOISED.items()}
    assert len(losses) == len(train["losses"])
    compare_losses(
        losses, weighted(train["losses"]), of_layers({"proposals/": "_interm"} | DECODER | denoised), rel=2e-5
    )
    # In the order of the reference's criterion.
    predictions = output.layers[-1], *output.layers[:-1], output.proposals
    compare_pairs(predictions, train["matches"], targets, criterion)

    shapes = dict(expected.spec["keys"])

    def ours(key):
        return rename({key: torch.zeros(shapes[key])}, rules, key).tensors

    of_boxes = [value for name, value in losses.items() if not name.endswith("class")]
    compare_gradients(net, of_boxes, train["box_gradients"], ours, rel=5e-4)
    compare_gradients(net, losses.values(), train["gradients"], ours, rel=5e-4)


def choose(chosen, monkeypatch):
    """Let the network take these tokens. The list that comes back will hold those it would have taken."""
    own = []

    def instead(scores, count, unusable):
        own.append(top_tokens(scores, count, unusable))
        return chosen

    monkeypatch.setattr(dino, "top_tokens", instead)
    return own


@pytest.mark.parametrize("name", SHARED)
def test_all_queries_answer_as_the_reference_does(name, shared, monkeypatch):
    """With the tokens that the reference chose: of so many, some score the same but for rounding, and the rank of a
    token is what its query learned to be."""
    keys = json.loads((shared / "golden" / "lineage" / f"{name}_keys.json").read_text())
    theirs = {
        key: lineage_tensor(keys["aliases"].get(key, key), shape) for key, shape in keys["keys"].items()
    }
    model, net, _ = made_of(theirs, keys["args"])
    assert model == SHARED[name]
    net.eval()
    for case in ("single", "padded"):
        known = json.loads((shared / "golden" / "lineage" / f"{name}_{case}.json").read_text())
        chosen = torch.tensor(known["topk"][0]["indices"])
        own = choose(chosen, monkeypatch)
        with torch.inference_mode():
            answer = net(*on_one_canvas(known["image_sizes"])).answer
        same = [len(set(a) & set(b)) for a, b in zip(own[0].tolist(), chosen.tolist(), strict=True)]
        assert same[0] >= 895  # the second image has tokens of padding, which the reference chooses
        for sample in known["samples"]:
            at = sample["image"], sample["query"]
            torch.testing.assert_close(answer.logits[at], torch.tensor(sample["logits"]), atol=1e-4, rtol=0)
            torch.testing.assert_close(answer.boxes[at], torch.tensor(sample["box"]), atol=3e-5, rtol=0)
