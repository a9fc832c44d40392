"""What differs between detectors, and how sure that is: paired over images and seeds. docs/compare.md."""

# pyright: strict

from .outcome import Comparison
from .procedure import compare

__all__ = ["Comparison", "compare"]
