"""A file of embeddings, OUT.npz: `embeddings` (n, D) float32 and `paths` (n,), which np.load reads.

It is written beside its place and renamed, so that it is there whole or not at all. The vectors go to disk as
they come, for how many there will be is known at the end; never are all of them in memory.
"""

import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from serving.predictor import Answers

_COPIED_BYTES = 2**20  # at a time


class Vectors:
    """Takes embeddings and the paths that they are of. dimensions: of every embedding (D)."""

    def __init__(self, file: BinaryIO, dimensions: int) -> None:
        self._file = file
        self._dimensions = dimensions
        self.paths: list[str] = []

    def add(self, paths: Sequence[str], embeddings: Answers) -> None:
        """Append embeddings (b, D) of b paths."""
        assert embeddings.shape == (len(paths), self._dimensions)
        self._file.write(embeddings.astype("<f4").tobytes())
        self.paths += paths

    @property
    def header(self) -> dict[str, object]:
        """What a .npy file says first."""
        shape = (len(self.paths), self._dimensions)
        return {"descr": "<f4", "fortran_order": False, "shape": shape}


@contextmanager
def writing(out: Path, dimensions: int) -> Iterator[Vectors]:
    """A file that is in its place when the block has ended, and is not there if the block raises.

    Raises:
        OSError: it cannot be written there, or the disk is full.
    """
    rows, part = (out.with_name(f".{out.name}.{suffix}") for suffix in ("rows", "part"))
    try:
        with rows.open("wb") as file:
            vectors = Vectors(file, dimensions)
            yield vectors
        _assemble(part, rows, vectors)
        part.replace(out)
    finally:
        rows.unlink(missing_ok=True)
        part.unlink(missing_ok=True)


def _assemble(part: Path, rows: Path, vectors: Vectors) -> None:
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("embeddings.npy", "w", force_zip64=True) as member, rows.open("rb") as f:
            np.lib.format.write_array_header_1_0(member, vectors.header)
            shutil.copyfileobj(f, member, _COPIED_BYTES)
        with archive.open("paths.npy", "w", force_zip64=True) as member:
            names = np.array(vectors.paths, dtype=np.str_)
            np.lib.format.write_array(member, names, allow_pickle=False)
