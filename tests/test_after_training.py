"""What of a trained model may still change: Sparse DETR's share of the tokens, RT-DETR's last decoder layer."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import hsvdet
from hsvdet import certificate, runtime
from hsvdet.certificate import inspection
from hsvdet.certificate.reasons import of_identity
from hsvdet.cli import main
from hsvdet.errors import ConfigError
from hsvdet.structures import DenseOutput

LABELS, SIZE = ("car", "person"), (64, 96)
FEW = {"rho": 0.1}


def made(name, **options):
    torch.manual_seed(0)
    detector = hsvdet.create(name, LABELS, size=SIZE, options=options)
    with torch.no_grad():  # what starts at 0 answers alike whatever it sees
        for key, parameter in detector.net.named_parameters():
            if "classes" in key or "boxes" in key or not parameter.any():
                parameter.copy_(torch.randn_like(parameter) * (1 if parameter.ndim == 1 else 0.2))
    return detector


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint, and a photograph with all that it sees in it when it keeps few tokens: its own truth."""
    folder = tmp_path_factory.mktemp("trained")
    path, picture = folder / "sparse.safetensors", folder / "street.png"
    detector = made("sparse-detr-tiny", queries=12, levels=2, encoder_layers=2, decoder_layers=1)
    detector.save(path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)).save(picture)
    found = detector.with_options(FEW)(picture, score=0.0, max_detections=6)
    truth = [
        {"id": i, "image_id": 1, "category_id": label + 1, "bbox": [x, y, right - x, bottom - y]}
        for i, ((x, y, right, bottom), label) in enumerate(
            zip(found.boxes.tolist(), found.labels.tolist(), strict=True), 1
        )
    ]
    image = {"id": 1, "file_name": picture.name, "height": SIZE[0], "width": SIZE[1]}
    categories = [{"id": i, "name": label} for i, label in enumerate(LABELS, 1)]
    (folder / "val.json").write_text(
        json.dumps({"images": [image], "annotations": truth, "categories": categories})
    )
    return path, picture


def test_a_detector_with_other_options_has_the_same_weights_and_leaves_the_first_as_it_was():
    detector = made("sparse-detr-tiny").to("cpu")
    few = detector.with_options(FEW)
    assert (detector.config.rho, few.config.rho, few.header()["config"]["rho"]) == (0.3, 0.1, 0.1)
    pairs = zip(detector.net.state_dict().values(), few.net.state_dict().values(), strict=True)
    assert all(ours.data_ptr() == theirs.data_ptr() for ours, theirs in pairs)
    images = torch.rand(1, 3, *SIZE)
    with torch.inference_mode():
        kept = [
            sum(int(one.kept.sum()) for one in of.net.eval()(images).selections) for of in (detector, few)
        ]
    tokens = 12 * 8 + 6 * 4 + 3 * 2 + 2 * 1
    assert kept == [int(tokens * 0.3) + 1, int(tokens * 0.1) + 1]
    edge = made("hsg-det-n", width=0.0625).with_options({"mode": "edge"})
    with torch.inference_mode():
        assert isinstance(edge.net.eval()(images), DenseOutput)
    shorter = made("rt-detr-tiny").with_options({"answer_layer": 1})
    with torch.inference_mode():
        assert len(shorter.net.eval()(images).layers) == 1


def test_val_judges_the_network_that_the_option_makes(trained, capfd):
    path, picture = trained
    command = ["val", str(path), "--data", str(picture.parent / "val.json"), "--device", "cpu", "--json"]
    assert main([*command, "--workers", "0", "--max-detections", "6", "--set", "rho=0.1"]) == 0
    few = json.loads(capfd.readouterr().out)
    assert main([*command, "--workers", "0", "--max-detections", "6"]) == 0
    assert few["ap"] > 0.99 > json.loads(capfd.readouterr().out)["ap"]
    options = dict(split="val", device="cpu", workers=0, max_detections=6, progress=False)
    found = hsvdet.val(path, picture.parent / "val.json", options=FEW, **options)
    assert found.to_json()["ap"] == few["ap"]


def test_predict_detects_with_it_and_does_not_go_on_without(trained, tmp_path, capfd):
    path, picture = trained
    truth = json.loads((picture.parent / "val.json").read_text())["annotations"]
    out = tmp_path / "seen"
    command = ["predict", str(path), str(picture), "--out", str(out), "--score", "0", "--precision", "fp32"]
    command += ["--max-detections", "6", "--device", "cpu", "--no-pictures"]
    assert main([*command, "--set", "rho=0.1"]) == 0, capfd.readouterr().err
    found = json.loads((out / "detections.json").read_text())
    np.testing.assert_allclose([o["bbox"] for o in found], [o["bbox"] for o in truth], atol=0.02)
    (_, detections), = hsvdet.stream(
        path, picture, options=FEW, score=0.0, max_detections=6, device="cpu", precision="fp32"
    )  # fmt: skip
    assert len(detections.scores) == len(found)
    assert main(command) == 0
    other = json.loads((out / "detections.json").read_text())
    assert not np.allclose([o["bbox"] for o in other], [o["bbox"] for o in truth], atol=0.5)


def test_a_run_that_was_cut_off_goes_on_with_the_same_share_alone(trained, tmp_path):
    from hsvdet.prediction import results

    path, picture = trained

    class Stopped(Exception):
        pass

    def stop(*_, **__):
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results.ResultFolder, "finish", stop)
        with pytest.raises(Stopped):
            hsvdet.predict(path, picture, tmp_path / "seen", options=FEW, device="cpu")
    with pytest.raises(ConfigError, match=r"begun with another options: \{'rho': 0.1\}"):
        hsvdet.predict(path, picture, tmp_path / "seen", device="cpu", resume=True)
    hsvdet.predict(path, picture, tmp_path / "seen", options=FEW, device="cpu", resume=True)


@pytest.fixture(scope="module")
def artifact(trained):
    """Exported by the command line, and what it was certified by. A network that has learned nothing detects too much
    that ties for a certificate, so it is only asked for here."""
    pytest.importorskip("onnxscript")
    path, _ = trained
    out, judges = path.with_suffix(".onnx"), []

    def certify(detector, *_):
        judges.append(detector)
        return SimpleNamespace(passed=True, to_json=dict)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificate, "certify", certify)
        assert main(["export", str(path), "--to", "onnx", "--out", str(out), "--set", "rho=0.1"]) == 0
    return out, judges


def test_an_artifact_is_exported_with_it_says_so_and_is_judged_by_it(trained, artifact, capfd, monkeypatch):
    (path, picture), (out, (judge,)) = trained, artifact
    assert judge.config.rho == 0.1
    judges = []

    def examine(detector, *_, **__):
        judges.append(detector)
        raise ConfigError("seen")

    monkeypatch.setattr(inspection, "examine", examine)
    assert main(["certify", str(out), str(path)]) == 2
    assert judges[0].config.rho == 0.1
    runner = runtime.load(out)
    assert runner.header.config["rho"] == 0.1
    assert of_identity(judge, runner.header) == []
    (said,) = of_identity(hsvdet.load(path, "cpu"), runner.header)
    assert said.startswith("header: its config is")
    (found,) = runner([np.asarray(Image.open(picture))], score=0.0, max_detections=6)
    wanted = judge(picture, score=0.0, max_detections=6)
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=0.02)
    for command in (["val", str(out), "--data", "x"], ["predict", str(out), str(picture), "--out", "y"]):
        assert main([*command, "--set", "rho=0.2"]) == 2
        error = capfd.readouterr().err
        assert "options is for checkpoints; an artifact runs as it was exported" in error
        assert "Traceback" not in error


def test_explain_draws_the_tokens_that_are_kept_with_it(trained, tmp_path, capfd):
    path, picture = trained
    out = tmp_path / "explained"
    command = ["explain", str(path), str(picture), "--out", str(out), "--device", "cpu", "--score", "0"]
    assert main([*command, "--set", "rho=0.1"]) == 0, capfd.readouterr().err
    (image,) = json.loads((out / "explanation.json").read_text())["images"]
    assert (out / image["pictures"]["kept"]).exists()
    maps = image["facts"]["kept"]["maps"]
    assert sum(one["kept"] for one in maps) == int(0.1 * sum(one["tokens"] for one in maps)) + 1


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("rho=0", "rho expects a share of the tokens above 0 and at most 1; got 0"),
        ("rho=half", "rho expects a number, got 'half'"),
        ("roh=0.1", "has no option 'roh'. Did you mean rho?"),
        ("heads=4", "is what it is by its training, heads included. Only rho may change after it."),
        ("rho", "NAME=VALUE such as rho=0.1 was expected; got 'rho'"),
    ],
)
def test_what_may_not_change_is_refused_in_one_line(trained, capfd, setting, said):
    assert main(["val", str(trained[0]), "--data", str(trained[1].parent), "--set", setting]) == 2
    error = capfd.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_model_without_such_options_and_a_deployed_one_have_none():
    with pytest.raises(ConfigError, match="detr-tiny is what it is by its training, queries included"):
        made("detr-tiny").with_options({"queries": 5})
    with pytest.raises(ConfigError, match="this one is deployed"):
        made("sparse-detr-tiny").deploy().with_options(FEW)
