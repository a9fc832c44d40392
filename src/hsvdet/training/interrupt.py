"""Ctrl-C and SIGTERM as a question the loop asks between steps."""

from __future__ import annotations

import signal
import threading


class Interrupts:
    """Within `with`, the first Ctrl-C or SIGTERM is only noted in `received`; a second one acts at once.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    received: int = 0

    def __enter__(self) -> Interrupts:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        self.received = number
        for other, handler in self._before.items():
            signal.signal(other, handler)
