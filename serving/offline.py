"""Images of folders through a bundle without a server: found, decoded ahead, batched, answered, counted.

What `viewfold embed` (embed_files.py) and `viewfold predict` (predict_files.py) share. Images are decoded by threads, a
batch or two ahead of the network; of no more than that many is anything in memory.

OfflineError      what was asked for cannot be done, or some files could not be read; the message says which
  JournalError    an interrupted run's journal is of something else, or in use (journal.py)
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.images import EXTENSIONS, ImageError, ImageSpec, Pixels, decode, images_below
from serving.limits import available_cpus, images_at_once
from serving.predictor import Predictor

_AHEAD = 2  # batches that are being decoded while one is in the network
_MOST_NAMED = 10  # unreadable files in a message
Answer = (
    NDArray[np.float32] | str
)  # what a mode says of an image, (N,) or (D,); or why it says nothing
Row = dict[str, Any]  # of a table, by column; what JSON can say
Read = Callable[[str], bytes]  # the bytes of the file at a place


class OfflineError(Exception):
    """Images that cannot be answered as asked, or not all of them; the message says what to do."""


def images_in(folder: Path) -> list[Path]:
    """The images below a folder, in order.

    Raises:
        OfflineError: it is no folder, or has no images.
    """
    if not folder.is_dir():
        raise OfflineError(f"{folder} is no folder; give a folder of images")
    found = images_below(folder)
    if not found:
        raise OfflineError(
            f"{folder} has no images ({', '.join(sorted(EXTENSIONS))}); give a folder that has some"
        )
    return found


def images_of(
    paths: Sequence[str], *, addresses: Callable[[str], list[str]] | None = None
) -> list[str]:
    """The images that paths name, in order: files, whatever they are called, and folders, as `images_in`.

    addresses: finds what is at an address such as s3://…; None where these are not read.

    Raises:
        OfflineError: no paths, one that is not there, a folder without images, or an image that is named twice.
    """
    if not paths:
        raise OfflineError("no images are given; name files, or folders of images")
    found: list[str] = []
    for given in paths:
        path = Path(given)
        if is_address(given):
            found += _at_address(given, addresses)
        elif path.is_dir():
            found += map(str, images_in(path))
        elif path.is_file():
            found.append(str(path))
        else:
            raise OfflineError(f"{shown(given)} is neither a file nor a folder")
    _refuse_twice(found)
    return found


def is_address(path: str) -> bool:
    """Whether it is the address of a file somewhere else, such as s3://bucket/photos."""
    return "://" in path


def _at_address(given: str, find: Callable[[str], list[str]] | None) -> list[str]:
    if find is None:
        raise OfflineError(f"{given} is an address; --engine ray reads those, else give files")
    return find(given)


def _refuse_twice(places: Sequence[str]) -> None:
    known: dict[str, str] = {}
    for place in places:
        first = known.setdefault(place if is_address(place) else os.path.abspath(place), place)
        if first is not place:
            raise OfflineError(
                f"{shown(place)} is given twice (as {shown(first)} before); give every image once"
            )


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raise OfflineError where a file cannot be written: there is no folder for it, or something in its place."""
    if not out.absolute().parent.is_dir():
        raise OfflineError(f"{out}: there is no folder {out.parent}")
    if out.is_dir() or (out.exists() and not overwrite):
        raise OfflineError(f"{out} is there already; --overwrite replaces a file")


def check_workers(workers: int | None) -> None:
    """Raise OfflineError for fewer than one thread."""
    if workers is not None and workers < 1:
        raise OfflineError(f"--workers is {workers}; it must be at least 1")


def read_file(place: str) -> bytes:
    """The bytes of a file of this machine."""
    return Path(place).read_bytes()


def answered(
    places: Sequence[str],
    predictor: Predictor,
    mode: str,
    *,
    workers: int | None = None,
    read: Read = read_file,
) -> Iterator[list[Answer]]:
    """What a mode says of the images at those places, in their order, in batches of `images_at_once`.

    workers: threads that decode; None for one a processor.
    """
    for found in _decoded(places, read, predictor.spec, workers or available_cpus()):
        pixels = [p for p in found if not isinstance(p, str)]
        answers = iter(predictor.predict(np.stack(pixels), mode) if pixels else ())  # (b, N)
        yield [p if isinstance(p, str) else next(answers) for p in found]


def _decoded(
    places: Sequence[str], read: Read, spec: ImageSpec, workers: int
) -> Iterator[list[Pixels | str]]:
    """Batches of pixels, or of the reason why an image has none."""
    size = images_at_once(spec)
    ahead: deque[list[Future[Pixels | str]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for first in range(0, len(places), size):
                chunk = places[first : first + size]
                ahead.append([pool.submit(_pixels, place, read, spec) for place in chunk])
                if len(ahead) > _AHEAD:
                    yield [future.result() for future in ahead.popleft()]
            while ahead:
                yield [future.result() for future in ahead.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)


def _pixels(place: str, read: Read, spec: ImageSpec) -> Pixels | str:
    try:
        return decode(read(place), spec)
    except ImageError as error:
        return str(error)
    except OSError as error:
        return error.strerror or "it cannot be read"


def shown(path: str | os.PathLike[str]) -> str:
    r"""A path as text that every file and terminal takes: bytes of a name that are no UTF-8 become \xff."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Unreadable:
    """Images that could not be read: how many, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self._first: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """One more."""
        self.count += 1
        if len(self._first) < _MOST_NAMED:
            self._first[name] = reason

    def seen(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, of which those with an `error` are counted as they pass."""
        for row in rows:
            if row["error"] is not None:
                self.add(row["path"], row["error"])
            yield row

    @property
    def named(self) -> str:
        """A line for each, up to ten."""
        lines = [f"\n  {name}: {reason}" for name, reason in self._first.items()]
        more = self.count - len(lines)
        return "".join(lines) + (f"\n  and {more} more" if more else "")


def tell(count: str, names: str, *, skip: bool) -> None:
    """Say which files could not be read, or raise OfflineError if that was not allowed.

    count: how many, and what became of them.
    """
    if not skip:
        raise OfflineError(f"{count}; mend or remove them, or give --skip-unreadable:{names}")
    print(f"{count}:{names}")
