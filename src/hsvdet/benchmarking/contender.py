"""One side of a race: a process that runs when it is told to and says how long that took.

Needs nothing but the standard library, so that other libraries can race from environments of their own
(benchmarks/peers/). All is JSON, a line each. The contender starts with an introduction,

    {"name", "how", "gflops": of one run or null}

answers each line "run" with {"ms": 12.3}, and the end of its input with {"memory_mb"}. Instead of any of these
it may say {"error": {"type", "message"}}.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


class Contender:
    """Made before anything else is imported: from then on, what libraries print goes to stderr."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, message: dict[str, Any]) -> None:
        print(json.dumps(message), file=self._out, flush=True)

    def serve(
        self,
        name: str,
        how: str,
        run: Callable[[], Any],
        *,
        gflops: float | None = None,
        peak_memory: Callable[[], int] | None = None,
    ) -> None:
        """Until the input ends. how: settings, in words. run: once, to its very end; what it returns, if it is a
        dictionary, joins the answer. peak_memory: bytes; of the process if not given."""
        _forget_peak()
        self.say({"name": name, "how": how, "gflops": gflops})
        for line in sys.stdin:
            if line.strip() != "run":
                self.say({"error": {"type": "ValueError", "message": f"expected the line run, got {line!r}"}})
                return
            start = time.perf_counter()
            result = run()
            took = 1e3 * (time.perf_counter() - start)
            self.say({"ms": took, **(result if isinstance(result, dict) else {})})
        self.say({"memory_mb": round((peak_memory or _peak_memory)() / 1e6, 1)})


def _forget_peak() -> None:
    """What loading took is given back and does not count (Linux)."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except (AttributeError, OSError):
        pass


def _peak_memory() -> int:
    """Bytes: the most memory that the process had, with all libraries in it."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
