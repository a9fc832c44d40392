"""New hostile files for as long as you like: the properties of tests/test_properties.py on other examples each round.

    python benchmarks/fuzz.py --minutes 10
    python benchmarks/fuzz.py --minutes 60 --only coco

Ends with the first failure, its smallest example, and exit code 1.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

PROPERTIES = Path(__file__).resolve().parents[1] / "tests" / "test_properties.py"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="Rounds are begun for so long.")
    parser.add_argument("--examples", type=int, default=200, help="Of each property, in a round.")
    parser.add_argument("--only", default="", help="Properties whose names have this in them.")
    asked = parser.parse_args()
    end, rounds = time.monotonic() + 60 * asked.minutes, 0
    while not rounds or time.monotonic() < end:
        seed = secrets.randbelow(2**32)
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--show-capture=no", str(PROPERTIES)]
        command += [f"--hypothesis-seed={seed}", "-k", asked.only, "-p", "no:cacheprovider"]
        done = subprocess.run(
            command, env={**os.environ, "FUZZ_EXAMPLES": str(asked.examples)}, capture_output=True, text=True
        )
        if done.returncode:
            print(done.stdout[-6000:], done.stderr[-2000:], f"seed {seed}", sep="\n")
            return 1
        rounds += 1
        print(f"round {rounds}: {asked.examples} examples of each property, seed {seed}: sound", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
