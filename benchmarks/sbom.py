"""What an environment with hsvdet consists of, as a CycloneDX 1.6 document (ECMA-424) on stdout.

    python benchmarks/sbom.py > sbom.json

From what is installed: name, version, licence and dependencies of hsvdet, of what it needs, and of what that needs.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

ROOT = "hsvdet"


def main() -> int:
    found: dict[str, Distribution] = {}
    needs: dict[str, list[str]] = {}
    waiting = [ROOT]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        needs[name] = sorted({normal(one.name) for one in requirements(found[name])} - {ROOT})
        waiting += needs[name]
    needs = {name: [other for other in others if other in found] for name, others in needs.items()}
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component(ROOT, found[ROOT]) | {"type": "application"}},
        "components": [component(name, one) for name, one in sorted(found.items()) if name != ROOT],
        "dependencies": [
            {
                "ref": reference(name, found[name]),
                "dependsOn": [reference(other, found[other]) for other in others],
            }
            for name, others in sorted(needs.items())
        ],
    }
    json.dump(document, sys.stdout, indent=1)
    print()
    return 0


def normal(name: str) -> str:
    """As PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(one: Distribution) -> list[Requirement]:
    """Those of this platform; of hsvdet with the extras, as far as they are installed."""
    found = []
    for text in one.requires or []:
        requirement = Requirement(text)
        extras = [*(one.metadata.get_all("Provides-Extra") or [] if one.name == ROOT else []), ""]
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras
        ):
            found.append(requirement)
    return found


def reference(name: str, one: Distribution) -> str:
    """A package URL."""
    return f"pkg:pypi/{name}@{one.version}"


def component(name: str, one: Distribution) -> dict[str, object]:
    licence = one.metadata.get("License-Expression") or one.metadata.get("License") or ""
    described = {
        "type": "library",
        "bom-ref": reference(name, one),
        "name": name,
        "version": one.version,
        "purl": reference(name, one),
    }
    # Some packages put the whole text there.
    return described | ({"licenses": [{"license": {"name": licence}}]} if 0 < len(licence) < 100 else {})


if __name__ == "__main__":
    sys.exit(main())
