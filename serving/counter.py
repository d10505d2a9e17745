"""How far something has come, as one line that a terminal rewrites; nothing where nobody watches."""

import sys
import time
from typing import Self, TextIO

_WIDTH = 30  # characters of the bar
_PAUSE_S = 0.1  # between two looks at it


class Counter:
    """A bar, a count, a speed and the time that is left; gone when the block ends.

    total: of what is counted; before: of these, how many were done earlier, which say nothing about the speed.
    """

    def __init__(
        self, title: str, total: int, stream: TextIO | None = None, *, before: int = 0
    ) -> None:
        self._stream = stream or sys.stderr
        self._shown = self._stream.isatty()
        self._title = title
        self._total = total
        self._before = before
        self._done = before
        self._start = time.perf_counter()
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self.clear()

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        now = time.perf_counter()
        if self._shown and (now - self._drawn >= _PAUSE_S or self._done >= self._total):
            self._drawn = now
            self._stream.write(f"\r\x1b[K{self.line(now - self._start)}")
            self._stream.flush()

    def clear(self) -> None:
        """Leave no trace on the terminal."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def line(self, seconds: float) -> str:
        """What is shown after so many seconds."""
        filled = _WIDTH * self._done // max(1, self._total)
        speed = (self._done - self._before) / seconds if seconds > 0 else 0.0
        left = f"{(self._total - self._done) / speed:,.0f} s left" if speed > 0 else ""
        return (
            f"{self._title} [{'#' * filled}{'.' * (_WIDTH - filled)}] "
            f"{self._done:,}/{self._total:,}  {speed:,.0f}/s  {left}"
        )
