"""HSG-Det: what its description counts, what its parts promise, and how its answer is put together."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import hsvdet
from hsvdet.boxes import cxcywh_to_xyxy
from hsvdet.cli import main
from hsvdet.errors import ConfigError
from hsvdet.layers.pyramid import tile_maps
from hsvdet.layers.tokens import content_extents
from hsvdet.models.hsg_det import VARIANTS, HsgDet, HsgDetConfig
from hsvdet.models.hsg_det_plus import HsgDetPlus, HsgDetPlusConfig, merge
from hsvdet.structures import DenseOutput, Prediction
from hsvdet.training.capacity import check_capacity
from tiny_data import coco
from tiny_runs import squares, tiny_query

SMALL = dict(width=0.125, depth=0.3, dim=32, heads=4, fusion_layers=1, decoder_layers=2, tokens=12, context=2)
SIZE = (96, 128)


def faithful(**numbers):
    torch.manual_seed(0)
    return awake(HsgDet(HsgDetConfig(**SMALL | dict(queries=10) | numbers), 3).eval())


def recommended(**numbers):
    torch.manual_seed(0)
    return awake(
        HsgDetPlus(HsgDetPlusConfig(**SMALL | dict(queries=20, balanced_queries=5) | numbers), 3).eval()
    )


def awake(net):
    """Untrained and without statistics of a batch, a deep network answers the same everywhere."""
    for norm in net.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_var.fill_(0.1)
    return net


def batch():
    torch.manual_seed(1)
    padding = torch.zeros(2, *SIZE, dtype=torch.bool)
    padding[1, 64:], padding[1, :, 96:] = True, True
    return torch.rand(2, 3, *SIZE).masked_fill(padding[:, None], 0.0), padding


def test_every_part_of_the_large_form_has_the_parameters_of_its_description():
    with torch.device("meta"):
        net = HsgDet(HsgDetConfig(**VARIANTS["l"]), 80)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    counts["head"] -= sum(p.numel() for p in net.head.twin.parameters())  # of training only
    own = sum(p.numel() for p in (net.content, net.anchors, net.temperature))
    assert counts["stem"] == 75_840
    assert counts["stage3"] == 2_676_480
    assert counts["stage4"] == 5_642_240
    assert counts["stage5"] == 9_985_024
    assert counts["whole"] == 3_216_961
    assert sum(counts[name] for name in net.NECK) == 5_057_024
    assert counts["extractor"] == 990_979
    assert counts["fusion"] == 3_159_040
    assert counts["head"] == 1_041_072
    assert (
        sum(counts[name] for name in ("query_position", "decoder", "norm", "classes", "boxes")) + own
        == 6_657_909
    )
    assert sum(counts.values()) + own == 38_502_569


@pytest.mark.parametrize("make", [faithful, recommended])
def test_what_lies_in_padding_reaches_no_query(make):
    """Noise in the cells that are padding, of every map that attention reads, and in the padded queries' own cells."""
    net = make(tokens=100, queries=250) if make is recommended else make(tokens=100)
    torch.nn.init.normal_(net.whole.widen.weight, std=0.1)
    images, padding = batch()
    maps = net.maps(images, padding)
    cells = tile_maps(maps, padding, content_extents(images, padding), (8, 16, 32))
    noise = [torch.randn_like(level) * 7 for level in maps]
    mask = [part.view(2, 1, *size) for part, size in zip(
        cells.padding.split([h * w for h, w in cells.sizes], 1), cells.sizes, strict=True
    )]  # fmt: skip
    noisy = [torch.where(out, level + n, level) for level, n, out in zip(maps, noise, mask, strict=True)]

    answers, heads = [], []
    for seen in (maps, noisy):
        net.maps = lambda images, padding, seen=seen: seen
        # The dense head's convolutions read padding next to real cells: here only who reads tokens is tried.
        net.head.register_forward_pre_hook(lambda module, arguments: (maps, *arguments[1:]))
        with torch.no_grad():
            output = net(images, padding)
        answers.append(output.query)
        heads.append(output)
    real = torch.ones(2, answers[0].answer.logits.shape[1], dtype=torch.bool)
    if heads[0].parents is not None:
        assert torch.equal(heads[0].parents, heads[1].parents)
        real = ~cells.padding.gather(1, heads[0].parents)
        assert not real.all()  # there are queries of padding
    for before, after in zip(answers[0].layers, answers[1].layers, strict=True):
        assert torch.allclose(before.logits[real], after.logits[real], atol=1e-5)
        assert torch.allclose(before.boxes[real], after.boxes[real], atol=1e-5)


def test_attention_of_the_coarsest_map_sees_no_padding():
    net = faithful()
    torch.nn.init.normal_(net.whole.widen.weight, std=0.1)
    images, padding = batch()
    coarse = torch.randn(2, 128, 3, 4)
    noisy = coarse.clone()
    noisy[1, :, 2:] += 5
    noisy[1, :, :, 3:] += 5
    with torch.no_grad():
        before, after = net.whole(coarse, padding), net.whole(noisy, padding)
    assert not torch.equal(before, coarse)
    assert torch.allclose(before[1, :, :2, :3], after[1, :, :2, :3], atol=1e-5)
    assert torch.equal(before[0], after[0])


def test_the_score_learns_from_what_tokens_are_used_for():
    for net in (faithful().train(), recommended().train()):
        images, padding = batch()
        output = net(images, padding)
        output.query.answer.logits.sum().backward()
        for scorer in net.extractor.scorers:
            assert scorer.score.weight.grad.abs().sum() > 0


def test_the_answer_is_the_dense_heads_with_queries_in_the_place_of_their_parents():
    net = recommended()
    net.temperatures.copy_(torch.tensor([2.0, 0.5]))
    images, padding = batch()
    with torch.no_grad():
        output = net(images, padding)
    answer, dense, query = output.answer, output.dense.prediction, output.query.answer
    for image in range(2):
        parents = output.parents[image].tolist()
        assert len(set(parents)) == len(parents) == 20
        others = [anchor for anchor in range(len(dense.boxes[image])) if anchor not in parents]
        assert torch.equal(answer.boxes[image, others], dense.boxes[image, others])
        assert torch.allclose(answer.logits[image, others], dense.logits[image, others])
        assert torch.equal(answer.boxes[image, parents], query.boxes[image])
        own = (dense.logits[image, parents] / 2).sigmoid()
        asked = (query.logits[image] / 0.5).sigmoid()
        assert torch.allclose(answer.logits[image, parents].sigmoid(), own**0.3 * asked**0.7, atol=1e-6)
    strongest = dense.logits.amax(-1).masked_fill(padded_cells(padding), -99).topk(20).indices
    assert torch.equal(output.parents.sort().values, strongest.sort().values)


def test_no_token_is_of_padding_while_there_are_others():
    net = recommended()
    images, padding = batch()
    with torch.no_grad():
        maps = net.maps(images, padding)
        cells = tile_maps(maps, padding, content_extents(images, padding), (8, 16, 32))
        cells = cells._replace(features=cells.features + 3 * cells.padding[..., None])
        for scorer in net.extractor.scorers:
            torch.nn.init.normal_(scorer.score.weight, std=1.0)
        tokens = net.extractor(maps, cells)
    assert not tokens.mask[1, 0, :24].any()  # of the coarsest map, only six cells are picture
    assert tokens.mask[1, 0, 24:36].sum() == 6


def padded_cells(padding):
    return torch.cat([padding[:, ::step, ::step].flatten(1) for step in (8, 16, 32)], 1)


@pytest.mark.parametrize("extreme", [-200.0, 0.0, 200.0])
def test_scores_at_the_ends_merge_to_numbers(extreme):
    one = Prediction(torch.full((1, 1, 2), extreme), torch.zeros(1, 1, 4))
    merged = merge(one, one, torch.zeros(1, 1, dtype=torch.int64), torch.ones(2), 0.7)
    assert merged.logits.isfinite().all()
    assert torch.allclose(merged.logits.sigmoid(), torch.tensor(extreme).sigmoid(), atol=1e-6)


def test_the_edge_mode_is_the_dense_head_alone():
    for net in (faithful(), recommended()):
        images, padding = batch()
        with torch.no_grad():
            full = net(images, padding)
            net.answer_by("edge")
            net.extractor.register_forward_hook(lambda *_: pytest.fail("tokens nobody reads"))
            edge = net(images, padding)
        assert isinstance(edge, DenseOutput)
        assert all(torch.equal(a, b) for a, b in zip(edge.answer, full.dense.prediction, strict=True))


def test_the_balanced_mode_asks_fewer_queries_and_training_all():
    net = recommended(mode="balanced")
    images, padding = batch()
    with torch.no_grad():
        few = net(images, padding).parents
        many = net.train()(images, padding).parents
    assert (few.shape, many.shape) == ((2, 5), (2, 20))
    with pytest.raises(ConfigError, match="mode expects one of edge, balanced, full; got 'fast'"):
        net.answer_by("fast")
    with pytest.raises(ConfigError, match="width expects .*; got 0"):
        faithful(width=0)
    with pytest.raises(ConfigError, match="mode expects one of edge, full"):
        faithful(mode="balanced")


def tiny_detector(name="hsg-det-n+"):
    torch.manual_seed(0)
    options = SMALL | (dict(queries=20, balanced_queries=5) if name.endswith("+") else dict(queries=10))
    detector = hsvdet.create(name, ["car", "person"], category_ids=[3, 7], size=(64, 64), options=options)
    awake(detector.net)
    if name.endswith("+"):
        detector.net.temperatures.copy_(torch.tensor([3.0, 0.5]))
    return detector


def random_pixels(path):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def test_modes_share_the_weights_and_the_cells_without_queries():
    detector = tiny_detector()
    images, padding = batch()
    modes = {mode: detector.with_options({"mode": mode}) for mode in ("edge", "balanced", "full")}
    assert {one.net.mode for one in modes.values()} == {"edge", "balanced", "full"}
    assert [one.config.mode for one in modes.values()] == list(modes) and detector.config.mode == "full"
    with torch.no_grad():
        detector.net.head.one_to_one.class_towers[0][-1].bias.add_(1)  # seen by all
        edge, balanced, full = (one.net.eval()(images, padding) for one in modes.values())
    for output in (balanced, full):
        for image in range(2):
            parents = output.parents[image].tolist()
            assert len(set(parents)) == len(parents)
            others = [cell for cell in range(edge.answer.logits.shape[1]) if cell not in parents]
            assert torch.equal(output.answer.logits[image, others], edge.answer.logits[image, others])
            assert torch.equal(output.answer.boxes[image, others], edge.answer.boxes[image, others])
    assert (balanced.parents.shape[1], full.parents.shape[1]) == (5, 20)
    assert not torch.equal(full.answer.logits, balanced.answer.logits)


def test_a_mode_is_chosen_on_the_command_line_and_in_python(tmp_path, capfd):
    detector = tiny_detector()
    detector.save(tmp_path / "hsg.safetensors")
    data = coco(tmp_path / "data", [(1, 3, [10, 10, 40, 40]), (1, 7, [50, 30, 30, 30])], split="val")
    photograph = str(tmp_path / "data" / "images" / "a.png")
    random_pixels(photograph)
    answers = {}
    for mode in ("edge", "full"):
        common = [str(tmp_path / "hsg.safetensors"), "--set", f"mode={mode}", "--json"]
        assert main(["val", *common, "--data", str(data)]) == 0
        told = json.loads(capfd.readouterr().out)
        assert told == hsvdet.val(detector.with_options({"mode": mode}), data, progress=False).to_json()
        assert main(["predict", *common, photograph, "--out", str(tmp_path / mode), "--score", "0", "--no-pictures",
                     "--precision", "fp32"]) == 0  # fmt: skip
        capfd.readouterr()
        found = json.loads((tmp_path / mode / "detections.json").read_text())
        answers[mode] = [row["score"] for row in found]
        expected = detector.with_options({"mode": mode})(photograph, score=0).scores
        assert answers[mode] == pytest.approx(expected.tolist(), abs=1e-4)
    assert answers["edge"] != answers["full"]


def test_more_objects_than_queries_leave_the_dense_heads_answers():
    """Thirty anchors that the dense head is sure of, twenty queries: all thirty are answers."""
    net = recommended()
    dense = Prediction(torch.full((1, 40, 1), -9.0), torch.rand(1, 40, 4))
    dense.logits[0, :30] = torch.linspace(4, 3, 30)[:, None]
    parents = torch.arange(20)[None]
    query = Prediction(torch.full((1, 20, 1), 4.0), torch.rand(1, 20, 4))
    merged = merge(dense, query, parents, net.temperatures, net.share)
    assert (merged.logits.sigmoid() > 0.9).sum() == 30


def test_val_says_how_many_objects_are_more_than_the_queries(tmp_path, capfd):
    """Seven objects in one image, two in another: of checkpoint and artifact, in text and JSON, mode by mode."""
    boxes = [(1, 3, [10 * i, 10, 8, 30]) for i in range(7)] + [
        (2, 7, [20, 20, 20, 20]),
        (2, 7, [50, 20, 20, 20]),
    ]
    data = coco(tmp_path / "data", boxes, images=["a.png", "b.png"], split="val")
    detector, path = tiny_detector(), str(tmp_path / "hsg.safetensors")
    detector.save(path)
    told = {}
    for mode in ("edge", "balanced", "full"):
        assert main(["val", path, "--data", str(data), "--set", f"mode={mode}"]) == 0
        text = capfd.readouterr().out
        found = hsvdet.val(path, data, options={"mode": mode}, progress=False)
        told[mode] = (found.queries, *found.beyond_queries)
        said = (
            "1 image has 2 (22.2% of all) objects more than the 5 queries: for these the dense head's own"
            in text
        )
        assert said is (mode == "balanced")
    assert told == {"edge": (None, 0, 0), "balanced": (5, 1, 2), "full": (20, 0, 0)}
    artifact = hsvdet.export(path, "onnx", options={"mode": "balanced"}, certify=False).path
    assert main(["val", artifact, "--data", str(data), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["queries"], told["beyond_queries"]) == (5, {"images": 1, "objects": 2})


def test_more_objects_than_queries_are_no_reason_not_to_train(tmp_path):
    data = squares(tmp_path, count=3)  # up to three in an image
    with pytest.raises(ConfigError, match="finds at most 1 object in"):
        check_capacity("some-model", tiny_query(queries=1).config, data)
    check_capacity("hsg-det-n+", HsgDetPlusConfig(queries=1), data)


def test_fed_back_tokens_start_without_effect_and_then_reach_the_dense_head():
    images, padding = batch()
    plain, net = recommended(), recommended(feedback=True)
    net.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        before = plain(images, padding).answer
        after = net(images, padding)
        assert torch.equal(before.logits, after.answer.logits)
        net.feedback.fill_(0.5)
        net.answer_by("edge")
        edge = net(images, padding)
    assert not torch.allclose(edge.answer.logits, after.dense.prediction.logits)
    maps = net.maps(images, padding)
    cells = tile_maps(maps, padding, content_extents(images, padding), (8, 16, 32))
    tokens = net.fuse(maps, cells)
    fed = net.feed_back(maps, tokens, net.feedback)
    for number, (level, changed, chosen) in enumerate(zip(maps, fed, tokens.chosen, strict=True)):
        moved = (changed - level).flatten(2).abs().sum(1) > 0
        mask = cells.padding.split([h * w for h, w in cells.sizes], 1)[number]
        expected = torch.zeros_like(moved).scatter(1, chosen, True) & ~mask
        assert torch.equal(moved, expected)


def test_fewer_tokens_do_not_make_an_answer_depend_on_the_images_beside_it():
    """Fed back, too: a token that is left out is added nowhere."""
    net = recommended(token_mass=0.6, feedback=True)
    torch.nn.init.normal_(net.feedback, std=0.1)
    for scorer in net.extractor.scorers:
        torch.nn.init.normal_(scorer.score.weight, std=0.5)
    images, padding = batch()
    with torch.no_grad():
        both = net(images, padding)
        alone = [net(images[i : i + 1], padding[i : i + 1]) for i in range(2)]
    counts = [[int(one.kept[i].sum()) for one in both.selections] for i in range(2)]
    assert counts == [[int(one.kept.sum()) for one in output.selections] for output in alone]
    assert min(sum(counts, [])) < 12
    for i, output in enumerate(alone):
        assert torch.allclose(
            output.dense.prediction.logits[0], both.dense.prediction.logits[i], rtol=1e-3, atol=1e-3
        )
        assert torch.allclose(output.answer.logits[0], both.answer.logits[i], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", [faithful, recommended])
def test_with_all_options_every_parameter_learns(make):
    net = make(token_mass=0.9, feedback=True).train()
    images, padding = batch()
    output = net(images, padding)
    parts = [part.sum() for _, one in output.predictions() for part in one]
    sum(parts).backward()
    without = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    assert not without
    assert net.feedback.grad.abs().sum(1).all()


def test_without_local_attention_queries_read_tokens_alone():
    net = recommended(points=0)
    assert not any("local" in name for name, _ in net.named_parameters())
    assert torch.isfinite(net(*batch()).answer.logits).all()


def test_the_dense_head_teaches_the_maps_through_its_twin_alone_unless_it_may():
    for detached in (True, False):
        net = recommended(detached=detached).train()
        net(*batch()).dense.prediction.logits.sum().backward()
        reached = net.stem[0].conv.weight.grad is not None
        assert reached is not detached


def test_queries_start_at_their_parents_boxes():
    net = recommended()
    with torch.no_grad():
        output = net(*batch())
    boxes = output.dense.prediction.boxes.gather(1, output.parents.unsqueeze(-1).expand(-1, -1, 4))
    assert torch.allclose(output.query.layers[0].boxes, boxes.clamp(1e-3, 1), atol=1e-4)  # no layer moves yet
    assert cxcywh_to_xyxy(output.query.answer.boxes).isfinite().all()
