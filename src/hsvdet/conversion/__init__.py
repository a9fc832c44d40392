"""Published weights into checkpoints, and checkpoints into the start of a training."""

from .foreign import ConversionReport, convert
from .warm_start import WarmStart, warm_start

__all__ = ["ConversionReport", "WarmStart", "convert", "warm_start"]
