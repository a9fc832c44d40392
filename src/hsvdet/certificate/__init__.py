"""Whether an exported artifact detects what the detector does that it was made of: measured, written down, and
refused where it does not. docs/certificate.md."""

# pyright: strict

from .certificate import Certificate
from .inspection import certify

__all__ = ["Certificate", "certify"]
