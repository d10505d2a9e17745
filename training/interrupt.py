"""Ctrl-C and SIGTERM as a flag, so that the step at hand is finished and saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Flag:
    """Raised by the first Ctrl-C or SIGTERM."""

    raised: bool = False


@contextmanager
def interruption(*, patient: bool = False) -> Iterator[Flag]:
    """The first SIGINT or SIGTERM raises the flag; a second one interrupts at once.

    patient: later ones change nothing. One of several processes may get the same Ctrl-C from the terminal and
    from its launcher, and it is the launcher that loses patience.
    """
    flag = Flag()

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.raised and not patient:
            raise KeyboardInterrupt
        flag.raised = True

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
