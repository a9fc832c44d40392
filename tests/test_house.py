"""The house by floor: what may import what. An import inside a function, or only for types, counts as any other."""

import ast
import inspect
import re
import sys
import warnings
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import hsvdet
from hsvdet import runtime

ROOT = Path(hsvdet.__file__).parent

# A room (a folder or a file of src/hsvdet) imports only rooms of the floors below its own. The root and __main__ are
# the roof: the root names the public functions, and nothing inside takes them from there.
FLOORS = [
    "hsvdet __main__",
    "cli",
    "demonstration benchmarking explainer",
    "training",
    "prediction",
    "deploy",
    "certificate comparison",
    "validation",
    "runtime",
    "loading",
    "conversion profiler",
    "detector hub",
    "inference checkpoint",
    "devices models evaluate result",
    "backbones criteria data draw",
    "layers postprocess preprocess files",
    "structures options progress catalogue",
    "boxes bounds errors targets telemetry weights",
]
FLOOR = {room: -number for number, row in enumerate(FLOORS) for room in row.split()}


class Import(NamedTuple):
    importer: str  # "models.detr" for hsvdet/models/detr.py, "hsvdet" for the root
    imported: str
    place: str  # file:line


def imports_of(root: Path) -> list[Import]:
    """Every import of one file of the package by another."""
    found = []
    files = {_name(path, root): path for path in sorted(root.rglob("*.py"))}
    for name, path in files.items():
        package = path.relative_to(root).parent.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [name.name.split(".") for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                start = [root.name, *package[: len(package) + 1 - node.level]] if node.level else []
                base = [*start, *(node.module or "").split(".")] if node.module else start
                # `from .layers import conv` imports a file where there is such a file, else a name of the folder's.
                modules = [[*base, name.name] for name in node.names]
                modules = [m if ".".join(m[1:]) in files else base for m in modules]
            for module in modules:
                if module[0] == root.name:
                    imported = ".".join(module[1:]) or root.name
                    found.append(Import(name, imported, f"{path.relative_to(root)}:{node.lineno}"))
    return found


def _name(path: Path, root: Path) -> str:
    return (
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        or root.name
    )


def upward(imports: list[Import], floor: dict[str, int]) -> list[str]:
    """Imports of a room that does not stand below the importer's, one line each."""
    lines = []
    for importer, imported, place in imports:
        upper, lower = importer.split(".")[0], imported.split(".")[0]
        if upper != lower and floor[lower] >= floor[upper]:
            lines.append(f"{place}: {upper} imports {lower}, which does not stand below it")
    return lines


def test_every_room_stands_on_a_floor():
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert rooms - {"__init__"} | {"hsvdet"} == set(FLOOR)


def test_the_readme_ends_with_a_line_for_every_room():
    *_, drawn = (ROOT.parents[1] / "README.md").read_text(encoding="utf-8").split("```")[:-1]
    lines = [line.split()[0].removesuffix(".py").strip("/") for line in drawn.strip().splitlines()]
    assert set(lines) - {"__init__"} | {"hsvdet", "__main__"} == set(FLOOR)
    order = [FLOOR[room] for room in lines if room in FLOOR]
    assert order == sorted(order, reverse=True)


def test_no_page_holds_the_marks_of_an_unsettled_merge():
    pages = [*(ROOT.parents[1] / "docs").rglob("*.md"), *ROOT.parents[1].glob("*.md")]
    assert len(pages) > 15
    marked = [page.name for page in pages if re.search(r"^(<{7}|={7}$|>{7})", page.read_text(), re.MULTILINE)]
    assert not marked


def test_no_module_stands_in_the_place_of_a_public_function():
    assert not {path.stem for path in ROOT.iterdir()} & set(hsvdet.__all__)


def test_the_types_of_public_names_are_checked_strictly():
    public = [getattr(hsvdet, name) for name in hsvdet.__all__] + [runtime.Runner, runtime.load]
    for module in {sys.modules[one.__module__] for one in public}:
        assert re.search(r"^# pyright: strict\b", inspect.getsource(module), re.M), module


@pytest.mark.parametrize(
    ("category", "module", "message"),
    [
        (UserWarning, "hsvdet.layers.conv", "anything"),
        (DeprecationWarning, "torch.functional", "anything"),
        (DeprecationWarning, "test_house", "anything"),
        (FutureWarning, "torchvision.ops", "anything"),
        (UserWarning, "torch.functional", "In the first line nothing.\nThis is Deprecated."),
        (UserWarning, "torch", "torch.meshgrid: in an upcoming release, it will be required"),
        (ResourceWarning, "anything", "unclosed file"),
    ],
)
def test_a_warning_that_concerns_us_fails_a_test(category, module, message):
    with pytest.raises(category):
        warnings.warn_explicit(message, category, "file.py", 1, module)


def test_no_import_runs_up_a_floor():
    assert upward(imports_of(ROOT), FLOOR) == []


def test_no_two_files_import_each_other():
    graph: dict[str, set[str]] = {}
    for importer, imported, _ in imports_of(ROOT):
        graph.setdefault(importer, set()).add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


@pytest.mark.parametrize(
    "line",
    [
        "from ..detector import Detector",
        "from .. import detector",
        "import hsvdet.detector",
        "from hsvdet import detector",
        "from .. import create",
        "def build():\n    from ..detector import Detector",
        "if TYPE_CHECKING:\n    from ..detector import Detector",
    ],
)
def test_an_import_that_runs_up_is_found(tmp_path, line):
    root = tmp_path / "hsvdet"
    (root / "layers").mkdir(parents=True)
    for file in ("__init__.py", "detector.py", "errors.py", "layers/__init__.py"):
        (root / file).touch()
    (root / "layers" / "conv.py").write_text(f"from ..errors import ConfigError\n{line}\n")
    (found,) = upward(imports_of(root), FLOOR)
    assert found.startswith("layers/conv.py:")
