"""Published weights into checkpoints, and checkpoints into the start of a training."""

from .backbone import start_backbone
from .foreign import ConversionReport, convert
from .warm_start import WarmStart, warm_start

__all__ = ["ConversionReport", "WarmStart", "convert", "start_backbone", "warm_start"]
