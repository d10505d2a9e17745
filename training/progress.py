"""What a run says while it works: lines, and a progress bar where it is long and somebody watches."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

T = TypeVar("T")


class Bar:
    """One progress bar; advances by one, with a few words beside it."""

    def __init__(self, rich: RichProgress, title: str, total: int, done: int) -> None:
        self._rich = rich
        self._task = rich.add_task(title, total=total, completed=done, words="")

    def advance(self, words: str = "") -> None:
        """One step further."""
        self._rich.update(self._task, advance=1, words=words)


class Progress:
    """Lines and bars on one console; bars only on a terminal, so that logs stay readable."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(highlight=False, soft_wrap=True, emoji=False, quiet=quiet)

    def say(self, line: str) -> None:
        """Print a line (above the bar, if one is shown)."""
        self._console.print(line, markup=False)

    def track(self, items: Iterable[T], title: str, total: int) -> Iterator[T]:
        """The items, with a bar that counts them."""
        with self.bar(title, total) as bar:
            for item in items:
                yield item
                bar.advance()

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A bar of `total` steps, `done` of them behind it."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with RichProgress(
            *columns,
            TextColumn("{task.fields[words]}"),
            console=self._console,
            transient=True,
            disable=self._console.quiet or not self._console.is_terminal,
        ) as rich:
            yield Bar(rich, title, total, done)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._start
