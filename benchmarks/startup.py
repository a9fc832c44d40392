"""CPU seconds to start: `import hsvdet`, `hsvdet --help`, and what PyTorch alone takes.

    python benchmarks/startup.py

Limits: `import hsvdet` 2 s and `hsvdet --help` 0.5 s beyond importing torch. Each is the least of five runs.
"""

from __future__ import annotations

import os
import subprocess
import sys

RUNS = 5
COMMANDS = {
    "python": ["-c", "pass"],
    "import hsvdet": ["-c", "import hsvdet"],
    "hsvdet --help": ["-m", "hsvdet", "--help"],
    "hsvdet models": ["-m", "hsvdet", "models"],
    "import torch": ["-c", "import torch"],
    "import hsvdet, and every public name": [
        "-c",
        "import hsvdet; [getattr(hsvdet, n) for n in hsvdet.__all__]",
    ],
}


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of one process."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"python {' '.join(arguments)} failed")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    for name, arguments in COMMANDS.items():
        print(f"{name:38} {min(cpu_seconds(arguments) for _ in range(RUNS)):6.2f} s")


if __name__ == "__main__":
    main()
