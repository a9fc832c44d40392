"""The limits of the machine: what its errors mean."""

# pyright: strict

from __future__ import annotations

from contextlib import contextmanager

import torch

from ..errors import HsvdetError, Interrupted
from .interrupt import Interrupts


@contextmanager
def plain_errors(batch: int, accumulate: int, interrupts: Interrupts):
    """What PyTorch raises for the machine's limits, in words that help."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise HsvdetError(
            f"The GPU's memory does not hold a batch of {batch}. Try batch {max(1, batch // 2)} with accumulate"
            f" {accumulate * 2}, precision bf16, or a smaller size."
        ) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        if interrupts.received:  # sent to the whole process group: those that load images died of it at once
            raise Interrupted(
                "Stopped by a signal. Continue from the last saved step with resume.", interrupts.received
            ) from None
        raise HsvdetError(
            "A process that loads images was ended by the system, most often for lack of memory. Continue with"
            " resume and fewer workers."
        ) from error
