"""What is written of an image that was classified: one row, the same for every kind of file.

path         as the image was given; of a folder, its path below the folder as that was given
label        the most probable class                     null where the image cannot be read
index        its place among the bundle's classes        null
confidence   its probability                             null
then, where more classes are asked for, label_2, confidence_2, …; in .jsonl, `top` as POST /predict has it
then, where all probabilities are asked for, p_CLASS for each class; in .jsonl, the list `probabilities`
error        why the image cannot be read                null where it can
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serving.modes import best as most_probable
from serving.offline import Answer, OfflineError, Row

Kind = Literal["text", "place", "share", "shares", "top"]


@dataclass(frozen=True)
class Layout:
    """Which columns there are.

    top_k: how many classes are named, at least 1. nested: lists are lists, and not one column an entry.

    Raises:
        OfflineError: top_k is out of range, or classes that share a name would share a column.
    """

    classes: tuple[str, ...]
    top_k: int = 1
    probabilities: bool = False
    nested: bool = False

    def __post_init__(self) -> None:
        count = len(self.classes)
        if not 1 <= self.top_k <= count:
            raise OfflineError(f"--top-k is {self.top_k}; this bundle has 1 to {count} classes")
        if self.probabilities and not self.nested and len(set(self.classes)) < count:
            raise OfflineError(
                "some of the bundle's classes have the same name and cannot be columns; write a .jsonl"
            )

    @cached_property
    def columns(self) -> dict[str, Kind]:
        """The columns in order, and what is in each."""
        named: dict[str, Kind] = {"path": "text", "label": "text", "index": "place"}
        named["confidence"] = "share"
        if self.nested:
            named |= {"top": "top"} if self.top_k > 1 else {}
            named |= {"probabilities": "shares"} if self.probabilities else {}
        else:
            for k in range(2, self.top_k + 1):
                named |= {f"label_{k}": "text", f"confidence_{k}": "share"}
            named |= {f"p_{name}": "share" for name in self.classes if self.probabilities}
        return {**named, "error": "text"}

    def row(self, path: str, answer: Answer) -> Row:
        """The row of an image. answer: its probabilities (N,), or why there are none."""
        if isinstance(answer, str):
            return dict.fromkeys(self.columns) | {"path": path, "error": answer}
        return dict(zip(self.columns, self._values(path, answer), strict=True))

    def _values(self, path: str, answer: NDArray[np.float32]) -> Iterator[Any]:
        order = most_probable(answer, self.top_k).tolist()
        shares = _short(answer) if self.probabilities else None
        best = dict(zip(order, _short(answer[order]), strict=True))
        yield from (path, self.classes[order[0]], order[0], best[order[0]])
        if self.nested and self.top_k > 1:
            yield [{"label": self.classes[k], "probability": share} for k, share in best.items()]
        elif not self.nested:
            for k in order[1:]:
                yield from (self.classes[k], best[k])
        if shares is not None:
            yield from [shares] if self.nested else shares
        yield None  # no error


def _short(values: NDArray[np.float32]) -> list[float]:
    """The numbers with as few digits as tell float32 apart: 0.1, where a float64 of it is 0.10000000149."""
    return [float(str(value)) for value in values]
