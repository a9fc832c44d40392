"""A learned suppressor behind a dense detector."""

import pytest
import torch

import hsvdet
from hsvdet.errors import ConfigError
from hsvdet.models import find
from hsvdet.structures import QueryOutput, Target

THIN = {"width": 0.0625}


@pytest.fixture(params=["yolov8-n", "hsv-det-n"])
def trained(request):
    torch.manual_seed(0)
    detector = hsvdet.create(request.param, ["car", "person"], size=(64, 96), options=THIN)
    for module in detector.net.modules():  # statistics as a trained network has them, not 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return detector


def test_it_starts_as_the_detector_without_suppression(trained):
    detector = hsvdet.with_suppressor(trained)
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        before, after = trained.net.eval()(images).answer, detector.net.eval()(images)
    strongest = before.logits.amax(-1).sort(dim=1, descending=True, stable=True)
    assert torch.equal(after.parents, strongest.indices)
    for image in range(2):
        cells = after.parents[image]
        assert torch.equal(after.answer.logits[image], before.logits[image, cells])
        assert torch.equal(after.answer.boxes[image], before.boxes[image, cells])


def test_only_the_suppressor_learns(trained):
    detector = hsvdet.with_suppressor(trained)
    before = {name: value.clone() for name, value in trained.net.state_dict().items()}
    net = detector.net.train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    criterion = find(detector.name).criterion()
    targets = [Target(torch.tensor([0, 1]), torch.tensor([[0.3, 0.4, 0.3, 0.5], [0.6, 0.6, 0.4, 0.4]]))] * 2
    for _ in range(3):  # the first step moves what starts at 0, and what stands before it follows
        optimizer.zero_grad()
        sum(criterion(net(torch.rand(2, 3, 64, 96)), targets).values()).backward()
        optimizer.step()
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    # A bias of keys moves all weights of a query alike, and so none.
    learning = {n for n, p in net.suppressor.named_parameters() if p.grad.abs().sum() > 0}
    assert {n for n, _ in net.suppressor.named_parameters() if not n.endswith("key.bias")} <= learning


def test_duplicates_are_learned_away():
    """Cells whose boxes are the same object: the strongest stays, the others fall below it, wherever they are."""
    torch.manual_seed(0)
    detector = hsvdet.with_suppressor(hsvdet.create("yolov8-n", ["car"], size=(32, 32), options=THIN))
    suppressor, criterion = detector.net.suppressor.train(), find(detector.name).criterion().query
    optimizer = torch.optim.AdamW(suppressor.parameters(), 3e-3)
    maps = [torch.zeros(8, tower[0].conv.in_channels, s, s) for tower, s in
            zip(detector.net.head.class_towers, (4, 2, 1), strict=True)]  # fmt: skip

    def crowd():
        """Three cells for each of four objects, the first of them the strongest; the other cells weak."""
        objects = torch.rand(8, 4, 4) * torch.tensor([0.6, 0.6, 0.1, 0.1]) + torch.tensor(
            [0.2, 0.2, 0.2, 0.2]
        )
        boxes = objects.repeat_interleave(3, 1) + 0.01 * torch.randn(8, 12, 4)
        scores = torch.tensor([2.0, 1.0, 0.5]).repeat(4) + 0.2 * torch.randn(8, 12)
        boxes = torch.cat([boxes, torch.rand(8, 9, 4) * 0.1 + 0.01], 1)
        logits = torch.cat([scores, torch.full((8, 9), -6.0)], 1)
        order = torch.randperm(21)
        output = detector.net.head(maps, torch.zeros(8, 3, 32, 32), None)
        answer = output.prediction._replace(logits=logits[:, order, None], boxes=boxes[:, order])
        return objects, output._replace(prediction=answer)

    def kept(steps):
        for _ in range(steps):
            objects, dense = crowd()
            answer, _ = suppressor(maps, dense)
            targets = [Target(torch.zeros(4, dtype=torch.int64), one) for one in objects]
            optimizer.zero_grad()
            sum(criterion(QueryOutput((answer,)), targets).values()).backward()
            optimizer.step()
        _, dense = crowd()
        with torch.no_grad():
            answer, _ = suppressor(maps, dense)
        return (answer.logits.sigmoid() > 0.5).sum((1, 2)).float().mean()

    assert kept(0) > 7  # of twelve, four of which are to stay
    assert 3 < kept(150) < 5.5


def test_other_detectors_are_refused():
    for name in ("yolov8-n-e2e", "detr-tiny"):
        with pytest.raises(ConfigError, match="dense head with suppression"):
            hsvdet.with_suppressor(hsvdet.create(name, ["car"]))


def test_it_is_saved_and_deployed(trained, tmp_path):
    detector = hsvdet.with_suppressor(trained, {"queries": 20})
    torch.nn.init.normal_(detector.net.suppressor.keep.weight, std=0.1)
    detector.save(tmp_path / "d.safetensors")
    image = (torch.rand(3, 60, 90) * 255).to(torch.uint8)
    expected = detector(image, score=0.0)
    assert len(expected.scores) == 40  # pairs of a candidate and a class
    loaded = hsvdet.load(tmp_path / "d.safetensors")
    assert all(
        torch.equal(a, b)
        for a, b in zip(expected.detections, loaded(image, score=0.0).detections, strict=True)
    )
    deployed = loaded.deploy()(image, score=0.0)
    assert torch.allclose(expected.scores, deployed.scores, atol=1e-5)
