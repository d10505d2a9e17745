"""What an interrupted `viewfold predict` has done so far: FILE.part, one line of JSON a row, on disk after every batch.

Its first line says what the rows are of. The same command finds it and goes on behind the last whole batch, so that
every batch holds the images that it would have held without the interruption, and gets the same answers.

JournalError    the journal is of something else, or another process is writing it
"""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from serving.offline import OfflineError, Row


class JournalError(OfflineError):
    """The rows that are there already are not the beginning of those that were asked for."""


class Journal:
    """Rows on disk. done: how many there are."""

    def __init__(self, file: BinaryIO, heading: bytes, done: int) -> None:
        self._file = file
        self._heading = heading
        self.done = done

    def add(self, rows: Sequence[Row]) -> None:
        """Append the rows of a batch."""
        self._file.seek(0, 2)
        self._file.write(b"".join(_line(row) for row in rows))
        self._file.flush()
        self.done += len(rows)

    def rows(self) -> Iterator[Row]:
        """All rows, from the first on."""
        self._file.seek(len(self._heading))
        for line in self._file:
            yield json.loads(line)


@contextmanager
def opened(
    path: Path, heading: Mapping[str, Any], paths: Sequence[str], *, step: int, afresh: bool
) -> Iterator[Journal]:
    """The journal at a path, begun or gone on with; it stays there when the block ends.

    heading: what the rows depend on. paths: of all rows to come. step: rows in a batch. afresh: whether a journal of
    something else may be thrown away.

    Raises:
        JournalError: it is of something else, or another process is writing it.
    """
    first = _line(heading)
    with path.open("a+b") as file:
        _lock(file, path)
        file.seek(0)
        found = file.readline()
        if found != first:
            if not afresh and not first.startswith(found):
                raise JournalError(_mismatch(path, found, heading))
            file.truncate(0)
            file.write(first)
        done, end = _whole_batches(file, len(first), paths, step)
        file.truncate(end)
        yield Journal(file, first, done)


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"


def _whole_batches(file: BinaryIO, start: int, paths: Sequence[str], step: int) -> tuple[int, int]:
    """(how many rows of whole batches there are, where the last of them ends)."""
    file.seek(start)
    done, end, position = 0, start, start
    for count, (path, line) in enumerate(zip(paths, file, strict=False), 1):
        if not _is_row(line, path):
            break
        position += len(line)
        if count % step == 0 or count == len(paths):
            done, end = count, position
    return done, end


def _is_row(line: bytes, path: str) -> bool:
    """Whether a line is whole and of that image; a killed process or a full disk may leave a part of one."""
    try:
        return line.endswith(b"\n") and json.loads(line)["path"] == path
    except (ValueError, TypeError, KeyError):
        return False


def _mismatch(path: Path, found: bytes, heading: Mapping[str, Any]) -> str:
    try:
        other = json.loads(found)
        differing = [key for key, value in heading.items() if other[key] != value]
    except (ValueError, TypeError, KeyError):
        return f"{path} is in the way and no journal of this viewfold; move it, or give --overwrite"
    return (
        f"{path} holds what an interrupted run has done, but of another {' and another '.join(differing)}; "
        "give the command of that run to go on with it, or --overwrite to begin again"
    )


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise JournalError(
            f"{path}: another process is writing it; wait until it has ended"
        ) from None
