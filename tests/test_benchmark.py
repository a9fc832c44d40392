import json
import math
import sys

import pytest
import torch
from torchvision.ops import batched_nms, box_iou

import hsvdet
import tiny_data
from hsvdet import models
from hsvdet.benchmarking import worker
from hsvdet.benchmarking.race import benchmark
from hsvdet.benchmarking.soft_nms import gaussian, linear, soft_nms
from hsvdet.cli import main
from hsvdet.errors import CheckpointError, ConfigError
from hsvdet.postprocess import Candidates

# A contender of another library, as docs/benchmark.md says how to write it: needs nothing of hsvdet.
PEER = """
import sys
print('{"name": "peer", "how": "by hand", "gflops": 8.0}', flush=True)
for number, line in enumerate(sys.stdin):
    print('{"ms": %d}' % (10 if number < 2 else 40 if number == 2 else 20), flush=True)
print('{"memory_mb": 12.5}', flush=True)
"""


@pytest.fixture
def peer(tmp_path):
    """Makes a script and returns the command that starts it."""

    def write(text: str = PEER) -> str:
        path = tmp_path / "peer with blanks.py"
        path.write_text(text)
        return f"{sys.executable} '{path}'"

    return write


def test_a_checkpoint_races_with_a_peer(tiny_checkpoint, peer):
    found = benchmark(
        [tiny_checkpoint], peers=[peer()], size=(64, 96), threads=1, precision="fp32", runs=4, warmup=2
    )
    own, other = found.rows
    assert own.name.startswith("yolov8-n (") and own.how == "cpu (1 thread), fp32, channels last, folded"
    assert own.ratio == 1 and own.memory_mb > 10 and 0 < own.share_of_peak and own.gflops > 0
    # Two rounds to warm up do not count: 40, 20, 20, 20 ms are left.
    assert (other.median_ms, other.p95_ms, other.images_per_second) == (20, 40, 50)
    assert (other.gflops_per_second, other.memory_mb) == (400, 12.5)
    assert other.ratio == pytest.approx(20 / own.median_ms, rel=0.9)
    assert len(json.dumps(found.to_json())) > 100
    assert (
        "| peer | by hand | 20.0 | 40.0 | 50.00 |" in found.markdown() and "64x96, batch 1" in found.table()
    )


@pytest.mark.parametrize(
    "text, reason",
    [
        ("import sys; print('too old', file=sys.stderr); sys.exit(3)", "failed: too old"),
        ('print(\'{"error": {"type": "X", "message": "no such net"}}\')', "failed: no such net"),
        ('print(\'{"name": "x", "how": "", "gflops": null}\')', "failed: no message"),
    ],
)
def test_a_peer_that_fails_is_named_with_its_last_words(peer, text, reason):
    with pytest.raises(ConfigError, match=reason):
        benchmark([], peers=[peer(text)], size=(64, 64), threads=1, runs=1, warmup=0)


def test_what_cannot_race_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean yolov8-n"):
        benchmark(["yolov9-n"], runs=1)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        benchmark([tmp_path / "gone.safetensors"], runs=1)
    with pytest.raises(ConfigError, match="expects a model"):
        benchmark([])
    with pytest.raises(ConfigError, match="network alone"):
        benchmark(["yolov8-n"], cuda_graph=True, from_pixels=True)
    with pytest.raises(CheckpointError, match="no such artifact"):
        benchmark([tmp_path / "gone.onnx"])
    with pytest.raises(ConfigError, match="1 or more"):
        benchmark(["yolov8-n"], runs=0)


@pytest.fixture
def crowded(tmp_path, tiny_checkpoint):
    """A data set of two images, and a detector that finds all classes in all cells, at 0.5, two cells wide."""
    tiny_data.coco(tmp_path / "data", [(1, 3, [10, 10, 40, 30])], images=["a.png", "b.png"], split="val")
    detector = hsvdet.load(tiny_checkpoint)
    for tower in (*detector.net.head.class_towers, *detector.net.head.box_towers):
        torch.nn.init.zeros_(tower[-1].weight)
        torch.nn.init.zeros_(tower[-1].bias)
    for tower in detector.net.head.box_towers:
        tower[-1].bias.data[1::16] = 20.0
    return detector, tmp_path / "data"


def test_fewer_boxes_are_left_the_higher_the_thresholds_of_suppression(crowded):
    detector, data = crowded
    found = hsvdet.benchmark_nms(detector, data, scores=(0.25, 0.6), ious=(0.3, 0.9), precision="fp32")
    low, high, *none = found.cells
    anchors = 8 * 8 + 4 * 4 + 2 * 2  # on 64 x 64
    assert found.images == 2 and low.candidates == high.candidates == anchors
    assert 0 < low.kept < high.kept <= anchors
    assert [(cell.candidates, cell.kept, cell.quality.ap) for cell in none] == [(0, 0, 0)] * 2
    assert low.median_ms > 0 and "best of NMS: 0.000 with NMS 0.3 at score 0.25" in found.table()
    assert [(cell.decay, cell.number) for cell in found.soft[:3]] == [
        ("linear", 0.3),
        ("linear", 0.9),
        ("gaussian", 0.3),
    ]
    json.dumps(found.to_json(), allow_nan=False)  # bins without objects are null
    (every,) = hsvdet.benchmark_nms(detector, scores=(0.25,), ious=(0.3,), multi_label=True).cells
    assert every.candidates == 2 * anchors  # each with two classes


def test_the_suppression_benchmark_measures_what_val_measures(crowded):
    detector, data = crowded
    (cell,) = hsvdet.benchmark_nms(detector, data, scores=(0.001,), ious=(0.4,), precision="fp32").cells
    evaluation = hsvdet.val(detector, data, iou=0.4, workers=0, device="cpu")
    assert cell.quality.ap == evaluation.ap and cell.quality.recall_at_fppi1 == evaluation.recall_at_fppi1
    assert cell.quality.by_occlusion[0] == evaluation.occlusion[0].recall_at_fppi1


def soft_nms_by_loops(boxes, scores, labels, factor, floor, most):
    """The paper's algorithm 1, class by class."""
    found = []
    for label in set(labels):
        left = {n: scores[n] for n in range(len(boxes)) if labels[n] == label}
        while left:
            best = max(left, key=left.__getitem__)
            found.append((left.pop(best), best))
            for n in left:
                left[n] *= factor(box_iou(boxes[best][None], boxes[n][None]).item())
    return sorted(((score, n) for score, n in found if score > floor), reverse=True)[:most]


@pytest.mark.parametrize(
    ("decay", "factor"),
    [
        (linear(0.4), lambda iou: 1 - iou if iou >= 0.4 else 1),
        (gaussian(0.5), lambda iou: math.exp(-iou * iou / 0.5)),
        (lambda overlap: (overlap <= 0.4).double(), None),
    ],
)
def test_soft_nms_is_the_papers_algorithm_and_with_a_hard_step_torchvisions_nms(decay, factor):
    random = torch.Generator().manual_seed(0)
    corner = 20 * torch.rand(60, 2, generator=random)
    boxes = torch.cat([corner, corner + 8 + 12 * torch.rand(60, 2, generator=random)], 1)
    scores, labels = torch.rand(60, generator=random).double(), torch.randint(0, 2, (60,), generator=random)
    found = soft_nms(Candidates(boxes, scores, labels, torch.arange(60)), decay, score=0.05, most=50)
    if factor is None:
        kept = batched_nms(boxes.double(), scores, labels, 0.4)
        assert found.rows.tolist() == kept[scores[kept] > 0.05].tolist()
        return
    expected = soft_nms_by_loops(boxes, scores.tolist(), labels.tolist(), factor, 0.05, 50)
    assert found.rows.tolist() == [n for _, n in expected] and len(expected) > 20
    torch.testing.assert_close(
        found.scores, torch.tensor([score for score, _ in expected], dtype=torch.float64)
    )
    assert torch.equal(found.boxes, boxes[found.rows])


def test_suppression_is_timed_on_drawn_scenes_without_data(tiny_checkpoint):
    found = hsvdet.benchmark_nms(tiny_checkpoint, scores=[0.25], ious=[0.7])
    assert found.images == 16 and found.cells[0].quality is None and found.soft == ()


def test_models_without_suppression_and_without_weights_are_refused():
    with pytest.raises(ConfigError, match="without suppression"):
        hsvdet.benchmark_nms(hsvdet.create("rt-detr-tiny", ["car"]))
    with pytest.raises(CheckpointError, match="not weights"):
        hsvdet.benchmark_nms("yolov8-n")


def test_the_command_line_tells_the_two_benchmarks_apart(capfd, monkeypatch, tiny_checkpoint):
    from hsvdet.benchmarking import race

    monkeypatch.setattr(race, "benchmark", lambda *given, **options: race.Benchmark(
        options["size"], 1, 1, 0, False, str(given), "fp32", 1.0, ()
    ))  # fmt: skip
    assert main(["benchmark", "--size", "64x96", "yolov8-n", "a.onnx", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["size"] == [64, 96] and answer["machine"] == "(['yolov8-n', 'a.onnx'],)"
    assert main(["benchmark", "nms", str(tiny_checkpoint), "--score", "0.9", "--iou", "0.5"]) == 0
    assert "16 images" in capfd.readouterr().out


def test_a_run_from_pixels_is_all_of_it(tiny_checkpoint, monkeypatch):
    from argparse import Namespace

    given = Namespace(
        model=str(tiny_checkpoint), size=(64, 64), batch=2, threads=1, device="cpu", precision="fp32",
        compile=False, cuda_graph=False, from_pixels=True,
    )  # fmt: skip
    try:
        contender = worker._detector(given)
        row, read = models.MODELS["yolov8-n"], []
        monkeypatch.setattr(models, "find", lambda name: read.append(name) or row)
        contender["run"]()
    finally:
        torch.set_grad_enabled(True)
    assert read == ["yolov8-n"] and contender["gflops"] > 0
