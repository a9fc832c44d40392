import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import hsvdet
import tiny_data
from hsvdet.cli import commands, main
from hsvdet.cli.values import parse_settings, parse_size
from hsvdet.errors import ConfigError, DataError, Interrupted

COMMANDS = [
    "models",
    "profile",
    "data check",
    "data convert",
    "data merge",
    "data split",
    "train",
    "val",
    "compare",
    "predict",
    "convert",
    "demo",
    "explain",
    "benchmark",
    "benchmark nms",
]


@pytest.fixture
def run(capfd):
    """(exit code, stdout, stderr) of a command line, in this process."""

    def run(*arguments) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return run


@pytest.mark.parametrize(
    "arguments",
    ["", "--version", "train --help", "models", "models --json", "trian", "data", "train --epochs x", "TAB"],
)
def test_what_needs_no_network_does_not_wait_for_torch(arguments):
    completing = {"_HSVDET_COMPLETE": "complete_bash", "COMP_WORDS": "hsvdet tr", "COMP_CWORD": "1"}
    check = (
        "import atexit, os, sys, hsvdet\nfrom hsvdet.cli import main\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'matplotlib', 'lightning'}\n"
        "atexit.register(lambda: heavy.isdisjoint(sys.modules) or os._exit(9))\n"
        f"dir(hsvdet); main({arguments.split()})"
    )
    environment = {**os.environ, **(completing if arguments == "TAB" else {})}
    ended = subprocess.run([sys.executable, "-c", check], env=environment, stdout=subprocess.DEVNULL)
    assert ended.returncode == 0


def test_the_public_names_are_there_also_after_their_modules_were_imported():
    import hsvdet.conversion
    import hsvdet.training
    import hsvdet.validation  # noqa: F401

    for name in hsvdet.__all__:
        assert callable(getattr(hsvdet, name)), name
    assert set(hsvdet.__all__) == set(hsvdet._HOME) and set(hsvdet.__all__) <= set(dir(hsvdet))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        hsvdet.trian  # noqa: B018


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_and_json(run, command):
    code, out, _ = run(*command.split(), "--help")
    assert code == 0 and f"  hsvdet {command}" in out.split("Example:")[1] and "--json" in out


def test_help_without_arguments_and_the_version(run):
    assert run()[1].startswith("Usage: hsvdet")
    assert run("--version")[:2] == (0, f"{hsvdet.__version__}\n")


def test_json_is_the_only_thing_on_stdout(run, monkeypatch):
    def chatty(*_, **__):
        print("from python")
        os.write(1, b"from C\n")
        subprocess.run(["echo", "from a process"], check=True)
        raise DataError("x: broken.\nReplace it.")

    monkeypatch.setattr("hsvdet.profiler.profile", chatty)
    code, out, err = run("profile", "yolov8-n", "--json")
    assert code == 2
    assert json.loads(out) == {"error": {"type": "DataError", "message": "x: broken. Replace it."}}
    assert all(
        text in err
        for text in ("from python", "from C", "from a process", "hsvdet: x: broken. Replace it.\n")
    )


def test_profile_gives_json_and_a_table(run):
    code, out, _ = run("profile", "yolov8-n", "--size", "64x96", "--classes", 3, "--json")
    assert code == 0 and json.loads(out)["size"] == [64, 96] and json.loads(out)["classes"] == 3
    assert "64x96" in run("profile", "yolov8-n", "--size", "64x96")[1]


def test_mistakes_are_one_line_on_stderr_with_exit_code_2(run, tmp_path):
    for arguments, message in {
        ("trian",): "Did you mean 'train'?",
        ("data",): "Missing command",
        ("profile", "yolo8-n"): "Did you mean yolov8-n?",
        ("profile", "yolov8-n", "--size", "64 x"): "one number, was expected; got '64 x'",
        ("profile", "yolov8-n", "--size", "100"): "Nearest: 96x96",
        ("profile", "yolov8-n", "--siez", "64"): "--size",
        ("profile", tmp_path / "no.safetensors"): "no such checkpoint",
        ("val", tmp_path / "no.safetensors"): "--data",
        ("data", "check", tmp_path / "no"): "does not exist",
        ("data", "convert", tmp_path, tmp_path, "--to", "kitti"): "kitti",
        ("predict", tmp_path / "no.safetensors", "no.jpg", "--out", tmp_path / "o"): "no.jpg does not exist",
        ("train", "yolo8-n", "--data", "x", "--out", tmp_path / "o"): "Did you mean yolov8-n?",
        (
            "train",
            "yolov8-n",
            "--data",
            "x",
            "--out",
            tmp_path / "o",
            "--set",
            "mosaik=1",
        ): "Did you mean mosaic?",
        ("train", "a.pt", "--data", "x", "--out", tmp_path / "o"): "a.pt",
    }.items():
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1) and message in err, err
        assert err.startswith("hsvdet: ")


@pytest.mark.parametrize("empty", [["--out", ""], ["--out", "  "], ["--out="], ["--weights", ""]])
def test_an_unset_variable_is_not_the_folder_one_is_in(run, tmp_path, monkeypatch, empty):
    monkeypatch.chdir(tmp_path)
    code, _, errors = run("train", "yolov8-n", "--data", "set", *empty)
    assert code == 2 and "an argument is empty text" in errors and not list(tmp_path.iterdir())


def test_a_fault_of_hsvdet_is_one_line_and_shows_more_when_asked(run, monkeypatch):
    monkeypatch.setattr("hsvdet.profiler.profile", lambda *_, **__: 1 / 0)
    code, out, err = run("profile", "yolov8-n")
    assert code == 1 and err.count("\n") == 1 and "ZeroDivisionError" in err and "HSVDET_DEBUG=1" in err
    monkeypatch.setenv("HSVDET_DEBUG", "1")
    assert "Traceback" in run("profile", "yolov8-n")[2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_with_their_code(run, monkeypatch, request, number, code):
    # Tests that a shell starts with `&` are born ignoring Ctrl-C, and so would be what they test.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    monkeypatch.setattr("hsvdet.profiler.profile", lambda *_, **__: os.kill(os.getpid(), number))
    found, _, err = run("profile", "yolov8-n")
    assert found == code and err.count("\n") == 1

    def stopped(*_, **__):
        raise Interrupted("Stopped; the run is saved.", number)

    monkeypatch.setattr("hsvdet.profiler.profile", stopped)
    assert run("profile", "yolov8-n")[0] == code


def test_a_reader_that_closes_the_pipe_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "hsvdet", "--version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141


def test_other_processes_of_a_run_say_nothing_on_stdout(run, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    code, out, _ = run("profile", "yolov8-n", "--size", 64, "--json")
    assert (code, out) == (0, "")


def test_sizes():
    assert parse_size("640") == (640, 640) and parse_size("1088x1920") == (1088, 1920)


def test_settings_go_to_the_model_or_to_the_recipe_with_their_types():
    from hsvdet.models import MODELS
    from hsvdet.training import RECIPES

    config, recipe = MODELS["hsv-det-n"].config, RECIPES["three-stage"]
    texts = ["k=0.25", "heads=auto", "insert=P3,P5", "mosaic=1", "epochs=3", "sync_norm=true"]
    model, numbers = parse_settings(texts, config, recipe)
    assert model == {"k": 0.25, "heads": "auto", "insert": ("P3", "P5")}
    assert numbers == {"mosaic": 1.0, "epochs": 3, "sync_norm": True}
    for text, message in {
        "k": "NAME=VALUE",
        "epochs=1.5": "expects a whole number",
        "k=many": "'auto'",
        "mosaic=true": "expects a number",
        "gate_value=": "expects a number",
    }.items():
        with pytest.raises(ConfigError, match=message):
            parse_settings([text], config, recipe)


def test_no_name_is_a_setting_of_a_model_and_of_a_recipe():
    import dataclasses

    from hsvdet.models import MODELS
    from hsvdet.training import Recipe

    recipe = {field.name for field in dataclasses.fields(Recipe)}
    for name, entry in MODELS.items():
        assert not recipe & {field.name for field in dataclasses.fields(entry.config)}, name


def test_data_check_says_by_exit_code_what_must_be_repaired(run, tmp_path):
    tiny_data.coco(tmp_path / "good", [(1, 3, [1, 1, 20, 20])])
    code, out, _ = run("data", "check", tmp_path / "good", "--json")
    assert code == 0 and json.loads(out)["ok"] is True
    tiny_data.coco(tmp_path / "bad", [(1, 99, [1, 1, 20, 20])])
    code, out, _ = run("data", "check", tmp_path / "bad", "--json")
    assert code == 1 and json.loads(out)["ok"] is False
    code, out, _ = run("data", "convert", tmp_path / "good", tmp_path / "yolo", "--to", "yolo")
    assert code == 0 and "train" in out and (tmp_path / "yolo/data.yaml").is_file()


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """A YOLO data set of two classes, one image of noise per split."""
    folder = tmp_path_factory.mktemp("squares")
    for split in ("train", "val"):
        for name in ("a", "b"):
            tiny_data.text(folder / f"labels/{split}/{name}.txt", "0 0.5 0.5 0.4 0.4\n1 0.2 0.2 0.2 0.3\n")
            path = folder / f"images/{split}/{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(len(name)).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    tiny_data.text(folder / "data.yaml", "train: images/train\nval: images/val\nnames: [person, bus]\n")
    return folder


def test_train_val_predict_and_train_on(run, squares, tmp_path):
    few = [
        "--size",
        64,
        "--epochs",
        1,
        "--batch",
        2,
        "--workers",
        0,
        "--set",
        "width=0.0625",
        "--set",
        "smallest_side=0",
        "--device",
        "cpu",
    ]
    code, out, err = run("train", "hsv-det-n", "--data", squares, "--out", tmp_path / "a", *few, "--json")
    assert code == 0, err
    best = json.loads(out)["best"]
    assert hsvdet.load(best).labels == ("person", "bus") and hsvdet.load(best).config.width == 0.0625
    described = json.loads((tmp_path / "a/run.json").read_text())
    assert described["settings"]["recipe"]["smallest_side"] == 0

    code, out, err = run("train", "hsv-det-n", "--data", squares, "--out", tmp_path / "a", *few)
    assert code == 2 and "already holds a run" in err
    code, out, err = run(
        "val", best, "--data", squares, "--workers", 0, "--diagnose", "--out", tmp_path / "report", "--json"
    )
    answer = json.loads(out)
    assert code == 0 and answer["images"] == 2 and answer["suppressed_at"] == 0.7
    assert 0 <= answer["deduplicated"]["recall_at_fppi1"] <= 1
    assert json.loads((tmp_path / "report/metrics.json").read_text()) == answer
    code, out, err = run("predict", best, squares / "images/val", "--out", tmp_path / "seen", "--json")
    assert code == 0 and json.loads(out)["images"] == 2 and (tmp_path / "seen/a.png").is_file()

    # A checkpoint as the model: its configuration, size and weights, and the new data's classes.
    (squares / "data2.yaml").write_text((squares / "data.yaml").read_text().replace("bus", "tram"))
    code, out, err = run(
        "train",
        best,
        "--data",
        squares / "data2.yaml",
        "--out",
        tmp_path / "b",
        "--epochs",
        1,
        "--workers",
        0,
    )
    assert code == 0 and "hsv-det-n starts from hsv-det-n" in err, err
    tuned = hsvdet.load(tmp_path / "b/best.safetensors")
    assert (tuned.labels, tuned.config.width, tuned.preprocess.size) == (("person", "tram"), 0.0625, (64, 64))

    # A suppressor behind it, by either way to name the detector; the detector stays as it is.
    few = ["--data", squares, "--epochs", 1, "--workers", 0, "--device", "cpu"]
    for given in ([best], ["--weights", best]):
        code, out, err = run(
            "train", "--suppressor", *given, "--out", tmp_path / f"c{len(given)}", *few, "--json"
        )
        assert code == 0, err
        learned = hsvdet.load(json.loads(out)["best"])
        assert (learned.name, learned.labels) == ("hsv-det-n-dedup", ("person", "bus"))
        kept, trained = learned.net.state_dict(), hsvdet.load(best).net.state_dict()
        assert all(torch.equal(kept[name], value) for name, value in trained.items())
    for wrong, message in (
        ([], "expects one trained detector"),
        (["yolov8-n"], "a model's name"),
        ([best, "--size", 64], "leave --backbone"),
        ([tmp_path / "c1/best.safetensors"], "got hsv-det-n-dedup"),
    ):
        code, out, err = run("train", "--suppressor", *wrong, "--out", tmp_path / "d", *few)
        assert code == 2 and err.count("\n") == 1 and message in err, err
    code, out, err = run("train", "yolov8-n-dedup", "--out", tmp_path / "e", *few)
    assert code == 2 and "this one is random" in err and "--suppressor" in err


def test_the_commands_have_the_parameters_of_the_functions():
    import inspect

    functions = {
        "val": hsvdet.val,
        "predict": hsvdet.predict,
        "convert": hsvdet.convert,
        "profile": hsvdet.profile,
    }
    for name, function in functions.items():
        ours = set(inspect.signature(getattr(commands, name)).parameters) - {"json", "checkpoint"}
        theirs = set(inspect.signature(function).parameters) - {"detector", "progress"}
        assert ours == theirs, name
    missing = set(inspect.signature(hsvdet.train).parameters) - set(
        inspect.signature(commands.train).parameters
    )
    assert missing <= {"detector", "options", "progress", "save_every"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    "redirection, code",
    [
        (">/dev/full", 2),
        (">&-", 0),
        (">&- 2>&-", 0),
        ("--json >/dev/full", 2),
        ("--json >&-", 0),
        ("2>&-", 0),
    ],
)
def test_a_stdout_that_cannot_be_written_is_no_traceback(redirection, code):
    done = subprocess.run(
        f"exec {sys.executable} -m hsvdet models {redirection}", shell=True, capture_output=True, text=True
    )
    assert done.returncode == code and "Traceback" not in done.stderr
    said = "hsvdet: stdout cannot be written: No space left on device.\n" if code else ""
    assert done.stderr == said


def test_what_cannot_be_said_changes_no_exit_code():
    done = subprocess.run(f"exec {sys.executable} -m hsvdet nosuch 2>/dev/full", shell=True)
    assert done.returncode == 2


def test_escape_sequences_are_shown_and_not_obeyed(run, tmp_path):
    folder = tmp_path / "images" / "train"
    folder.mkdir(parents=True)
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("car")
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    (folder / "b\x1b[2J\u202egnp.png").write_bytes(b"nothing")
    for arguments in ((), ("--json",)):
        code, out, err = run("data", "check", tmp_path, *arguments)
        assert code == 1 and not {"\x1b", "\u202e"} & {*out, *err}
        assert r"b\u001b[2J\u202egnp.png" in out
    (problem,) = json.loads(out)["splits"]["train"]["problems"]
    assert problem["file"] == "images/train/b\x1b[2J\u202egnp.png", "the same JSON"


@pytest.mark.parametrize(
    "command, told",
    [
        ("train yolov8-n --data x --out y --imgsz 640", "--imgsz is --size here."),
        ("predict a.pt b.jpg --out z --conf=0.5", "--conf is --score here."),
        ("train yolov8-n data=coco.yaml imgsz=640", "Options are written --data VALUE."),
        ("train yolov8-n --data x --out y --lr0 0.01", "--lr0 is --set learning_rate=NUMBER here."),
        ("train yolov8-n --data x --out y --set lr0=0.01", "lr0 is learning_rate here."),
        ("detect b.jpg", "detect is predict here."),
    ],
)
def test_names_of_other_tools_are_answered_with_ours(command, told, capfd):
    assert main(command.split()) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and told in lines[0]


def test_what_other_names_lead_to_is_there():
    """An option, a setting or a command that was renamed since must not be recommended."""
    from typer.main import get_command

    from hsvdet.cli.commands import app
    from hsvdet.cli.other_names import COMMANDS, OPTIONS, SETTINGS
    from hsvdet.models import MODELS
    from hsvdet.training import Recipe

    commands = get_command(app).commands
    assert set(COMMANDS.values()) <= set(commands) and not set(COMMANDS) & set(commands)
    options = {
        option for command in commands.values() for parameter in command.params for option in parameter.opts
    }
    assert {word for text in OPTIONS.values() for word in text.split() if word.startswith("--")} <= options
    fields = {
        field.name
        for config in [Recipe(), *(m.config for m in MODELS.values())]
        for field in dataclasses.fields(config)
    }
    assert {text.partition(",")[0] for text in SETTINGS.values()} <= fields
    assert not fields & set(SETTINGS)


@pytest.mark.parametrize("command", [[], ["data"]])
def test_the_list_of_commands_is_not_cut(command, capfd):
    assert main([*command, "--help"]) == 0
    _, _, listed = capfd.readouterr().out.partition("Commands:")
    assert "\n  c" in listed and "..." not in listed


@pytest.mark.parametrize(
    "typed, told", [("hsvdet tr", ["train"]), ("hsvdet train --val", ["--val-split", "--val-fraction"])]
)
def test_a_shell_completes_commands_and_options(typed, told):
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    asked = subprocess.run(
        [sys.executable, "-m", "hsvdet"],
        env={**os.environ, **words, "_HSVDET_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
    )
    assert asked.stdout.split() == told and asked.returncode == 0
