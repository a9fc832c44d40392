"""Nothing leaves this machine unasked: libraries that report their use to their makers are told not to.

ONNX Runtime writes an id of the machine into the home folder and sends events from the first session on, OpenVINO
when it is imported and when it converts, NNCF when it quantises.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_REPORTER = "openvino_telemetry"


def switch_off() -> None:
    """What is read from the environment, when the library is imported. What the user has set there stays."""
    for name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "1")


@contextmanager
def unreported() -> Iterator[None]:
    """Around the import and the use of OpenVINO and NNCF: they find no package to report with, and take the stub that
    they have for this case."""
    modules, ci = sys.modules.get(_REPORTER), os.environ.get("CI")
    sys.modules[_REPORTER] = None  # pyright: ignore[reportArgumentType] - so an import of it is an ImportError
    os.environ["CI"] = "true"  # for those that were imported before, and report except from CI jobs
    try:
        yield
    finally:
        if modules is None:
            del sys.modules[_REPORTER]
        else:
            sys.modules[_REPORTER] = modules
        if ci is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = ci
