"""What token selectors are to find, and the loss by which they learn it."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch

import hsvdet
from hsvdet.criteria.criterion import count_objects
from hsvdet.criteria.numbers import LossNumbers
from hsvdet.criteria.salience import AnchorScores, AssignedSalience, BorderSalience
from hsvdet.criteria.selection import SelectionLoss, attended_loss, attended_share
from hsvdet.errors import ConfigError
from hsvdet.layers.deformable import attention_received
from hsvdet.models import find
from hsvdet.models.sparse_detr import ScoringNetwork
from hsvdet.structures import Prediction, QueryOutput, Selection, Target
from hsvdet.training.recipe import find_recipe
from tiny_runs import squares, tiny_query

# Pictures of 96 x 64 pixels in a canvas of 128 x 96, at (16, 8).
EXTENTS = torch.tensor([[16.0, 8.0, 96.0, 64.0]] * 2)


def selections(*strides):
    return [Selection(torch.randn(2, 96 // stride, 128 // stride), stride) for stride in strides]


def objects():
    torch.manual_seed(0)
    return [
        Target(torch.tensor([0, 1, 0]), torch.rand(3, 4) * torch.tensor([0.4, 0.4, 0.5, 0.5]) + 0.2),
        Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)),
    ]


@pytest.mark.parametrize("by_level", [False, True])
def test_border_salience_is_what_the_paper_says_cell_by_cell(by_level):
    strides, targets = (4, 8, 16), objects()
    ranges = {4: (0, 32), 8: (32, 64), 16: (64, math.inf)} if by_level else dict.fromkeys(strides, (0, 1e9))
    maps = BorderSalience(by_level)(selections(*strides), targets, EXTENTS, None)
    found = 0
    for stride, got in zip(strides, maps, strict=True):
        least, most = ranges[stride]
        for image, target in enumerate(targets):
            for row in range(96 // stride):
                for column in range(128 // stride):
                    x, y = (column + 0.5) * stride, (row + 0.5) * stride
                    best = 0.0
                    for cx, cy, w, h in target.boxes.tolist():
                        left, top = 16 + 96 * (cx - w / 2), 8 + 64 * (cy - h / 2)
                        right, bottom = left + 96 * w, top + 64 * h
                        reach = x - left, y - top, right - x, bottom - y
                        if min(reach) > 0 and least < max(reach) <= most:
                            dx = (reach[0] - reach[2]) / (reach[0] + reach[2])
                            dy = (reach[1] - reach[3]) / (reach[1] + reach[3])
                            best = max(best, 1 - math.hypot(dx, dy) / 2)
                    found += best > 0
                    assert got[image, row, column].item() == pytest.approx(best, abs=1e-5)
    assert found > 20


def test_assigned_salience_is_the_best_score_of_the_anchors_of_a_cell():
    torch.manual_seed(1)
    levels = [torch.rand(2, 96 // stride, 128 // stride) for stride in (8, 16, 32)]
    strides = torch.cat([torch.full((level[0].numel(),), 8.0 * 2**i) for i, level in enumerate(levels)])
    assigned = AnchorScores(torch.cat([level.flatten(1) for level in levels], 1), strides)
    (own,) = AssignedSalience(by_level=True)(selections(16), objects(), EXTENTS, assigned)
    assert torch.equal(own, levels[1])
    (every,) = AssignedSalience()(selections(16), objects(), EXTENTS, assigned)
    for row, column in ((0, 0), (3, 5), (5, 7)):
        fine = levels[0][:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].amax((1, 2))
        coarse = levels[2][:, row // 2, column // 2]
        expected = torch.stack([fine, levels[1][:, row, column], coarse]).amax(0)
        assert torch.equal(every[:, row, column], expected)
    with pytest.raises(ConfigError, match="gaussian or border"):
        AssignedSalience()(selections(16), objects(), EXTENTS, None)


@pytest.mark.parametrize("name", ["gaussian", "border", "assigned"])
def test_a_recipe_names_what_selectors_learn(name):
    torch.manual_seed(0)
    detector = hsvdet.create("hsv-det-n+", ["a", "b"], options={"width": 0.0625, "k": 8})
    recipe = find_recipe("three-stage", {"salience": name, "selector_gain": 2.0})
    criterion = find("hsv-det-n+").criterion(recipe)
    assert isinstance(recipe, LossNumbers) and criterion.selection == recipe.selection()
    losses = criterion(detector.net.train()(torch.rand(2, 3, 96, 128)), objects())
    losses["selector"].backward()
    for block in detector.net.sparse_global.values():
        assert block.scorer.score.bias.grad.abs() > 0


def test_the_gain_is_a_factor_and_unknown_names_are_refused():
    given = selections(16), objects(), EXTENTS
    once, twice = (SelectionLoss(gain=gain)(*given) for gain in (1.0, 2.0))
    assert torch.allclose(2 * once, twice)
    with pytest.raises(ConfigError, match="salience expects one of gaussian, border, .*; got 'round'"):
        find_recipe("plain", {"salience": "round"})
    with pytest.raises(ConfigError, match="salience expects a word, got 3"):
        find_recipe("plain", {"salience": 3})


@pytest.fixture(scope="module")
def sparse_detr():
    """Numbers of Sparse DETR's reference, single operations; and a function that reads a tensor of them."""
    numbers = json.loads((Path(__file__).parent / "golden" / "sparse_selection.json").read_text())
    return numbers, lambda tensor: torch.tensor(tensor["values"]).reshape(tensor["shape"])


def test_the_attention_that_tokens_receive_is_the_references_head_by_head(sparse_detr):
    numbers, read = sparse_detr
    locations, weights, wanted = (read(numbers[key]) for key in ("locations", "weights", "received_by_head"))
    for head in range(2):
        one = slice(head, head + 1)
        received = attention_received(locations[:, :, one], weights[:, :, one], numbers["sizes"])
        torch.testing.assert_close(received, wanted[:, head], atol=1e-6, rtol=1e-5)
    both = attention_received(locations, weights, numbers["sizes"])
    torch.testing.assert_close(both, wanted.sum(1), atol=1e-6, rtol=1e-5)


def on_two_maps(sizes, logits, kept, attended):
    """[2, 30] each, to selections of the maps."""
    counts = [height * width for height, width in sizes]
    parts = zip(sizes, *(part.split(counts, 1) for part in (logits, kept, attended)), strict=True)
    return [Selection(*(p.unflatten(1, size) for p in part[:1]), 8, *(p.unflatten(1, size) for p in part[1:]))
            for size, *part in parts]  # fmt: skip


def test_selectors_learn_what_is_attended_most_as_in_the_reference(sparse_detr):
    """The loss, and the share of attention that falls on what was kept."""
    numbers, read = sparse_detr
    logits, attended = read(numbers["logits"]), read(numbers["received_by_head"]).sum(1)
    kept = torch.zeros(2, 30, dtype=torch.bool).scatter(1, torch.tensor(numbers["kept"]), True)
    selections = on_two_maps(numbers["sizes"], logits, kept, attended)
    torch.testing.assert_close(attended_share(selections), torch.tensor(numbers["share"]))
    assert attended.topk(6).indices.tolist() == numbers["wanted"]
    six = torch.arange(30) < 6  # how many are kept counts, not which
    selections = on_two_maps(numbers["sizes"], logits, six.expand(2, 30), attended)
    assert attended_loss(selections).mean().item() == pytest.approx(numbers["loss"], rel=1e-6)


def test_sparse_detrs_scoring_network_is_the_references(sparse_detr):
    numbers, read = sparse_detr
    tensors = {key: read(tensor) for key, tensor in numbers["scoring"]["tensors"].items()}
    names = {
        "layer1.0": "norm",
        "layer1.1": "embed",
        "layer2.0": "first",
        "layer2.2": "second",
        "layer2.4": "last",
    }
    network = ScoringNetwork(16)
    network.load_state_dict(
        {f"{names[key.rpartition('.')[0]]}.{key.split('.')[-1]}": tensor for key, tensor in tensors.items()}
    )
    scores = network(read(numbers["scoring"]["in"]))
    torch.testing.assert_close(scores, read(numbers["scoring"]["out"]), atol=1e-5, rtol=1e-5)


def test_two_batches_of_a_step_teach_a_selector_as_one_does(sparse_detr):
    """And note as much of its agreement, which is no loss."""
    numbers, read = sparse_detr
    logits, attended = read(numbers["logits"]), read(numbers["received_by_head"]).sum(1)
    kept = torch.zeros(2, 30, dtype=torch.bool).scatter(1, torch.tensor(numbers["kept"]), True)
    criterion, wanted = find("sparse-detr-tiny").criterion(), objects()
    step = count_objects(wanted, torch.device("cpu"))

    def output(images):
        layers = (Prediction(torch.zeros(2, 4, 2)[images], torch.full((2, 4, 4), 0.5)[images]),)
        of_images = [part[images] for part in (logits, kept, attended)]
        return QueryOutput(layers, selections=tuple(on_two_maps(numbers["sizes"], *of_images)))

    whole = criterion.parts(output(slice(None)), wanted, step)
    halves = [criterion.parts(output(slice(i, i + 1)), wanted[i : i + 1], step) for i in range(2)]
    for name in ("selector", "kept_attention"):
        torch.testing.assert_close(sum(half[name].value for half in halves), whole[name].value)
    assert whole["kept_attention"].value.item() == pytest.approx(sum(numbers["share"]) / 2)
    assert "kept_attention" not in criterion(output(slice(None)), wanted)


def test_a_run_notes_how_much_attention_falls_on_kept_tokens(tmp_path, no_pictures):
    detector = tiny_query("sparse-detr-tiny", dim=32, encoder_layers=2, decoder_layers=1)
    images = squares(tmp_path, count=4)
    hsvdet.train(
        detector, (images, None), tmp_path / "run", epochs=1, batch=2, workers=0, device="cpu", progress=False
    )
    with (tmp_path / "run" / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert 0 < float(row["kept_attention"]) < 1 and float(row["loss/selector"]) > 0
    assert "loss/kept_attention" not in row
