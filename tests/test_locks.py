"""What CI and the demo install: locked with hashes, and up to date with pyproject.toml; and the list of it."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(extra: str) -> dict[str, list[Version]]:
    """By name; a package may have a version for each Python. Every one has a hash."""
    versions: dict[str, list[Version]] = {}
    entries = re.sub(r"\\\n\s*", "", (ROOT / "locks" / f"{extra}.txt").read_text()).splitlines()
    for entry in entries:
        if not entry.startswith("#"):
            name, version = re.match(r"([\w.-]+)==(\S+)", entry).groups()
            assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), name
            versions.setdefault(normal(name), []).append(Version(version))
    return versions


def needed(extra: str, project: dict) -> list[Requirement]:
    """Of hsvdet with an extra, which may name others."""
    found = []
    for text in [*project["dependencies"], *project["optional-dependencies"][extra]]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            for other in requirement.extras:
                found += needed(other, project)
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("extra", ["test", "video"])
def test_the_lock_has_what_the_project_needs(extra):
    """`make lock` makes it anew."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    build = (ROOT / "locks/build.in").read_text().split()
    versions = locked(extra)
    for requirement in [*needed(extra, project), *map(Requirement, build)]:
        found = versions.get(normal(requirement.name), [])
        assert found and all(version in requirement.specifier for version in found), requirement
    assert "://" not in (ROOT / "locks" / f"{extra}.txt").read_text(), "no index: the installer's own"


def test_the_makefile_installs_nothing_without_a_hash():
    for line in (ROOT / "Makefile").read_text().splitlines():
        for command in re.findall(r"(?:\$\$pip|pip install)[^;&]*", line):
            if "-r " in command or "-e " in command:
                assert "--require-hashes" in command or "--no-deps --no-build-isolation" in command, command


def test_the_bill_of_materials_lists_what_is_installed(capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import sbom

    assert sbom.main() == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["bomFormat"], content["specVersion"]) == ("CycloneDX", "1.6")
    names = {one["name"]: one["bom-ref"] for one in content["components"]}
    assert {"torch", "numpy", "pillow", "safetensors", "typer"} <= names.keys()
    assert "MIT" in json.dumps(content) and content["metadata"]["component"]["name"] == "hsvdet"
    links = {one["ref"]: one["dependsOn"] for one in content["dependencies"]}
    assert names["torch"] in links[content["metadata"]["component"]["bom-ref"]]
    assert {other for others in links.values() for other in others} <= {*names.values()}
