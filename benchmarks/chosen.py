"""What of a benchmark is run, where its flags name some of it."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def among(what: str, given: Sequence[T] | None, there: Sequence[T]) -> Sequence[T]:
    """What is given, or all where nothing is. what: one of them in a word.

    Raises:
        SystemExit: one is given that is not there.
    """
    for one in given or ():
        if one not in there:
            raise SystemExit(f"there is no {what} {one!r}; choose from {list(there)}")
    return there if given is None else given
