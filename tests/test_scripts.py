"""Benchmarks and experiments can be imported: a printed figure keeps the command that made it."""

import ast
import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(
    path.relative_to(ROOT)
    for folder in ("benchmarks", "experiments")
    for path in ROOT.glob(f"{folder}/**/*.py")
)


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_a_script_imports_and_does_nothing_yet(script, monkeypatch, capfd):
    """As `python script` would begin, with its own folder first on the path."""
    if script.parent.name == "peers":
        pytest.importorskip(script.stem.partition("_")[0] if "_" in script.stem else "torch")
    monkeypatch.setattr(sys, "path", [str((ROOT / script).parent), *sys.path])
    spec = importlib.util.spec_from_file_location("script", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "script", module)
    spec.loader.exec_module(module)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_what_a_script_takes_from_hsvdet_is_there(script):
    """Also what it imports only when a function is called, and where a peer's own package is not installed."""
    for node in ast.walk(ast.parse((ROOT / script).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "hsvdet":
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
