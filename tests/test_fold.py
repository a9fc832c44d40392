"""The deployed form: the same answers, for the operations that the tables say."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import hsvdet
from hsvdet.backbones.resnet import ResNet
from hsvdet.backbones.resnet_vd import ResNetVd
from hsvdet.errors import ConfigError, SaveError
from hsvdet.inference.fold import fold
from hsvdet.inference.folded_sparse_global import WORST_CONDITION, FoldedSparseGlobal, fold_block
from hsvdet.layers.sparse_global import SparseGlobal, SparseGlobalConfig
from hsvdet.models.hsv_det import PLUS, HsvDet
from hsvdet.profiler import profile

TINY = dict(depth=0.33, width=0.0625, insert=("P3", "P4", "P5"))
OPTIONS = {
    "faithful": dict(k=5),
    "k as a ratio": dict(k=0.3),
    "k auto": dict(k="auto"),
    "k beyond P5 and P4": dict(k=60),
    "all tokens": dict(selector="all"),
    "l1": dict(k=5, selector="l1"),
    "mean": dict(k=5, selector="mean"),
    "random": dict(k=5, selector="random"),
    "learned": dict(k=5, selector="learned"),
    "learned, all": dict(k=9999, selector="learned"),
    "learned, heads": dict(k=5, selector="learned", heads=2),
    "no gate": dict(k=5, gate="none"),
    "fixed gate": dict(k=5, gate="fixed", gate_value=-0.7),
    "channel gate": dict(k=5, gate="channel"),
    "channel gate, heads": dict(k=5, gate="channel", heads=4),
    "zero output": dict(k=5, gate="outproj_zero"),
    "identity path": dict(k=5, dense_path="identity"),
    "identity path, heads": dict(k=5, dense_path="identity", gate="channel", heads=2),
    "identity path, all": dict(k=9999, dense_path="identity", selector="learned"),
    "linear control": dict(k=5, dense_path="linear_control"),
    "linear control, channels": dict(k=5, dense_path="linear_control", gate="channel"),
    "heads": dict(k=5, heads=2),
    "sincos": dict(k=5, position="sincos"),
    "rope": dict(k=5, heads=2, position="rope"),
    "context": dict(k=5, context=2),
    "context and registers, heads": dict(k=5, context=2, registers=3, heads=2, position="sincos"),
    "registers, all": dict(k=9999, registers=2, position="rope"),
    "native precision": dict(k=5, attention_dtype="native"),
    "recommended": dict(PLUS, heads=2),
}


@torch.no_grad()
def shaken(net: nn.Module, seed: int = 0) -> nn.Module:
    """`net` as if trained: no statistic, gate or bias is what it was initialised to, and no output vanishes."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    for module in net.modules():
        if hasattr(module, "running_var"):
            uniform(module.running_mean, -0.3, 0.3)
            uniform(module.running_var, 0.5, 1.5)
            uniform(module.weight, 0.5, 1.5)
            uniform(module.bias, -0.3, 0.3)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
            module.weight.mul_((2 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                uniform(module.bias, -0.3, 0.3)
        elif isinstance(module, nn.LayerNorm):
            uniform(module.weight, 0.5, 1.5)
            uniform(module.bias, -0.3, 0.3)
    for module in net.modules():
        if isinstance(module, SparseGlobal):
            for matrix in (module.value.weight, module.output.weight):
                matrix.mul_(0.5)  # so that M can be folded
            if isinstance(module.gate, nn.Parameter):
                uniform(module.gate, -1.5, 1.5)
    return net.eval()


def detector_of(name="hsv-det-n", **options) -> hsvdet.Detector:
    detector = hsvdet.create(name, list("abc"), size=(96, 160), options=options)
    shaken(detector.net)
    return detector


def pictures(padded: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 96, 160, generator=generator)
    padding = torch.zeros(2, 96, 160, dtype=torch.bool)
    padding[0, :, 100:] = True
    padding[1, 32:] = True
    padding[1, :, :130] = True  # one real token at P5, two at P4: fewer than k
    return images, padding if padded else None


@torch.inference_mode()
def answer(net, images, padding=None):
    torch.manual_seed(2)  # for the random selector
    prediction = net(images, padding).answer
    return prediction.logits.float(), prediction.boxes.float()


def distance(a, b) -> float:
    return ((a - b).norm() / b.norm()).item()


def strongest(logits: torch.Tensor) -> list[set[int]]:
    return [set(image.flatten().topk(100).indices.tolist()) for image in logits]


def flops(net, *inputs) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(*inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "options", [*OPTIONS.values(), dict(k=5, selector="oracle")], ids=[*OPTIONS, "oracle"]
)
@torch.no_grad()
def test_the_matrix_times_the_folded_map_is_the_map(options, padded):
    """In float64, to round-off: M z = y for every token, selected or not."""
    config = SparseGlobalConfig(**{**options, "attention_dtype": "native"})
    block = shaken(SparseGlobal(16, 16, config)).double()
    x = torch.randn(2, 16, 6, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    padding = torch.zeros(2, 6, 10, dtype=torch.bool)
    padding[0, :, 7:] = True
    padding[1, 1:] = True
    padding[1, 0, 3:] = True  # three real tokens
    inputs = (x, padding if padded else None, x.float().mean(1).sigmoid())
    torch.manual_seed(2)
    y = block(*inputs)
    folded = fold_block(copy.deepcopy(block))
    torch.manual_seed(2)
    z = folded.block(*inputs) if folded.block else y._replace(map=x)
    back = z.map if folded.matrix is None else torch.einsum("oc,bchw->bohw", folded.matrix, z.map)
    assert distance(back, y.map) < 1e-14 * folded.condition
    assert distance(z.map, y.map) > 1e-2 or folded.matrix is None
    assert (z.scores is None) == (y.scores is None)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_deployed_detector_answers_the_same(options, padded):
    detector = detector_of(**TINY, **options)
    inputs = pictures(padded)
    logits, boxes = answer(detector.net, *inputs)
    deployed = detector.deploy()
    for name, block in deployed.net.sparse_global.items():
        assert isinstance(block, FoldedSparseGlobal) and isinstance(block.dense, nn.Identity), name
    logits_deployed, boxes_deployed = answer(deployed.net, *inputs)
    assert distance(logits_deployed, logits) < 1e-6
    assert distance(boxes_deployed, boxes) < 1e-6
    assert strongest(logits_deployed) == strongest(logits)
    # In float16 it rounds as the network does that it was made of; how much is the processor's: some sum in float16.
    half = inputs[0].half(), inputs[1]
    own, folded = answer(detector.net.half(), *half), answer(deployed.net.half(), *half)
    for exact, before, after in zip((logits, boxes), own, folded, strict=True):
        assert distance(after, exact) < 2 * distance(before, exact) + 2e-3


@pytest.mark.parametrize("insert", [("P3",), ("P3", "P4", "P5")], ids=",".join)
@torch.no_grad()
def test_folding_rounds_a_whole_network_no_more_than_the_network_rounds_itself(insert):
    """At full width float32 is over 1e-6 from float64, folded or not. In float64 the fold is an identity."""
    options = {"insert": insert, "attention_dtype": "native"}
    net = shaken(hsvdet.create("hsv-det-n", list("abc"), options=options).net)
    images = torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(1))
    exact = copy.deepcopy(net).double()
    truth = exact(images.double()).answer
    assert distance(fold(exact)[0](images.double()).answer.logits, truth.logits) < 1e-13
    own, folded = net(images).answer, fold(net)[0](images).answer
    for found, plain, expected in zip(folded, own, truth, strict=True):
        assert distance(found.double(), expected) < 1.5 * distance(plain.double(), expected)


@pytest.mark.parametrize(
    "options", [dict(k=5), dict(k=5, heads=2, gate="channel")], ids=["one head", "heads"]
)
@pytest.mark.parametrize("singular", [False, True])
def test_a_badly_conditioned_block_keeps_a_convolution_says_so_and_stays_exact(options, singular, caplog):
    detector = detector_of(**TINY, **options)
    block = detector.net.sparse_global["P4"]
    with torch.no_grad():
        if singular:  # M = 0: the block forgets the map, which no inverse brings back
            nn.init.eye_(block.value.weight)
            nn.init.eye_(block.output.weight)
            block.gate.fill_(-1.0)
        else:
            block.output.weight.copy_(-torch.linalg.inv(block.value.weight) * torch.linspace(0.001, 0.9, 32))
            block.gate.fill_(1.0)
    with caplog.at_level(logging.WARNING, "hsvdet"):
        deployed = detector.deploy()
    [warning] = caplog.messages
    assert warning.startswith("P4 keeps a 1x1 convolution") and warning in str(deployed.folded)
    report = {each.name: each for each in deployed.folded.blocks}
    assert report["P4"].condition > WORST_CONDITION and report["P4"].into == ()
    assert report["P5"].into == ("top_down4.split", "bottom_up5.split")
    for padded in (False, True):
        logits, boxes = answer(detector.net, *pictures(padded))
        logits_deployed, boxes_deployed = answer(deployed.net, *pictures(padded))
        assert distance(logits_deployed, logits) < 1e-6
        assert distance(boxes_deployed, boxes) < 1e-6
        assert strongest(logits_deployed) == strongest(logits)
    map = torch.empty(1, 32, 6, 10, device="meta")
    cheap = fold_block(SparseGlobal(32, 16, block.config).double()).block
    dear = copy.deepcopy(deployed.net.sparse_global["P4"])
    assert flops(dear.to("meta"), map) - flops(cheap.float().to("meta"), map) == 2 * 60 * 32**2


def test_the_linear_control_leaves_no_block_whatever_its_condition():
    detector = detector_of(**TINY, dense_path="linear_control", gate="channel")
    with torch.no_grad():
        detector.net.sparse_global["P4"].output.weight.mul_(1000)
        detector.net.sparse_global["P3"].gate.zero_()
    deployed = detector.deploy()
    assert not deployed.net.sparse_global
    assert max(block.condition for block in deployed.folded.blocks) > WORST_CONDITION
    assert distance(answer(deployed.net, *pictures(True))[0], answer(detector.net, *pictures(True))[0]) < 1e-6


def test_detections_in_pixels_are_the_same():
    detector = detector_of(**TINY, k=5, heads=2)
    image = (torch.rand(3, 70, 150, generator=torch.Generator().manual_seed(4)) * 255).to(torch.uint8)
    expected = detector(image, score=0.0, iou=1.0, max_detections=100)
    got = detector.deploy()(image, score=0.0, iou=1.0, max_detections=100)
    assert len(got.labels) == 100 and torch.equal(got.labels, expected.labels)
    assert torch.allclose(got.boxes, expected.boxes, atol=1e-3)
    assert torch.allclose(got.scores, expected.scores, atol=1e-6)


@pytest.mark.parametrize(
    "net",
    [
        ResNet("resnet-tiny", (2, 3, 4), frozen=1),
        ResNet("resnet-tiny", (4,)),
        ResNetVd("resnetvd-tiny"),
        ResNetVd("resnetvd-tiny", frozen=0),
    ],
    ids=["resnet", "resnet trained", "resnet-vd", "resnet-vd frozen"],
)
@torch.no_grad()
def test_no_normalisation_is_left_behind_a_convolution(net):
    shaken(net)
    folded, report = fold(net)
    norms = [module for module in net.modules() if hasattr(module, "running_var")]
    assert report.normalisations == len(norms) > 10 and not report.blocks
    assert not any(hasattr(module, "running_var") for module in folded.modules())
    images = torch.rand(2, 3, 64, 96)
    for got, expected in zip(folded(images), net(images), strict=True):
        assert distance(got, expected) < 1e-6


def test_yolov8_is_deployed_too():
    detector = detector_of("yolov8-n", depth=0.33, width=0.0625)
    deployed = detector.deploy()
    assert deployed.folded.normalisations == 57 and not deployed.folded.blocks
    assert distance(answer(deployed.net, *pictures(True))[0], answer(detector.net, *pictures(True))[0]) < 1e-6


def test_the_original_is_untouched_and_still_trains():
    detector = detector_of(**TINY, k=5)
    detector.net.train()
    before = copy.deepcopy(detector.net.state_dict())
    deployed = detector.deploy()
    after = detector.net.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert detector.net.training and all(p.requires_grad for p in detector.net.parameters())
    assert not deployed.net.training and not any(p.requires_grad for p in deployed.net.parameters())
    shared = {p.data_ptr() for p in detector.net.parameters()} & {
        p.data_ptr() for p in deployed.net.parameters()
    }
    assert not shared


def test_a_deployed_detector_is_not_saved_or_trained_and_deploying_it_again_changes_nothing(tmp_path):
    deployed = detector_of(**TINY, k=5).deploy()
    with pytest.raises(SaveError, match=r"this one is deployed.*Save the one it was made of"):
        deployed.save(tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="this one is deployed. Train the one it was made of"):
        hsvdet.train(deployed, tmp_path, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    again = deployed.deploy()
    assert again.folded == deployed.folded
    assert all(map(torch.equal, answer(again.net, *pictures(True)), answer(deployed.net, *pictures(True))))


@pytest.mark.parametrize("k", [5, 9999])
def test_the_memory_format_of_the_map_is_kept(k):
    block = fold_block(SparseGlobal(16, 16, SparseGlobalConfig(k=k)).double()).block.float()
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 16, 6, 10).to(memory_format=memory_format)
        assert block(x).map.is_contiguous(memory_format=memory_format)


# Parameters in millions, and GFLOPs at 640 x 640 and at 1088 x 1920, 80 classes: the design's table.
COSTS = {
    "n": (3.40, 9.2, 45.3),
    "s": (12.15, 30.0, 147.7),
    "m": (27.34, 80.9, 405.1),
    "l": (45.27, 167.4, 845.0),
    "x": (70.69, 261.1, 1318.7),
}


@pytest.mark.parametrize("scale", COSTS)
def test_the_deployed_detector_costs_what_the_table_says(scale):
    name, (millions, small, large) = f"hsv-det-{scale}", COSTS[scale]
    entry = hsvdet.models.find(name)
    with torch.device("meta"):
        net = HsvDet(entry.config, 80)
    net = net.to_empty(device="cpu")
    for tensor in net.state_dict().values():
        tensor.zero_()
    deployed, report = fold(net)
    assert all(block.form == "folded" for block in report.blocks)
    # The table counts two numbers a channel for normalisation, of which one, the bias, is left.
    scales = sum(module.num_features for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    parameters = sum(parameter.numel() for parameter in deployed.parameters())
    assert (parameters + scales) / 1e6 == pytest.approx(millions, abs=0.005)
    deployed = deployed.to("meta")
    for size, gflops in (((640, 640), small), ((1088, 1920), large)):
        assert flops(deployed, torch.empty(1, 3, *size, device="meta")) / 1e9 == pytest.approx(
            gflops, abs=0.1
        )
    if scale == "n":
        cost = profile(name, size=(640, 640))
        assert flops(deployed, torch.empty(1, 3, 640, 640, device="meta")) / 1e9 == cost.gflops_folded
        assert parameters + scales == cost.parameters_folded


@pytest.mark.parametrize(
    "options", [dict(heads=2), dict(heads=2, context=2, registers=3, selector="learned")]
)
def test_the_folded_block_executes_what_the_profiler_says(options):
    config = SparseGlobalConfig(k=7, **options)
    block = SparseGlobal(16, 16, config)
    map = torch.empty(1, 16, 6, 10, device="meta")
    folded = fold_block(copy.deepcopy(block).double()).block.float().to("meta")
    k, extra, scorer = 7, 7 if "context" in options else 0, 60 * (16 * 4 + 4) if "selector" in options else 0
    assert flops(folded, map) == 2 * (4 * k * 16**2 + 2 * extra * 16**2 + 2 * k * (k + extra) * 16 + scorer)


def test_in_training_too_only_selected_tokens_become_queries_keys_and_values():
    n, c, k = 6 * 10, 16, 7
    block = SparseGlobal(c, 16, SparseGlobalConfig(k=k)).train()
    x = torch.randn(1, c, 6, 10, requires_grad=True)
    dense, core = n * c * c + c**3, 2 * k * k * c
    with FlopCounterMode(display=False) as counter:
        y = block(x).map
    assert counter.get_total_flops() == 2 * (dense + 4 * k * c * c + core)
    with FlopCounterMode(display=False) as counter:
        y.square().sum().backward()
    # Twice the forward pass; fused attention computes its weights once more.
    assert counter.get_total_flops() <= 2 * (2 * dense + 8 * k * c * c + 3 * core)
