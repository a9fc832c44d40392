"""`python -m hsvdet`, the same as `hsvdet`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
