"""SHA256SUMS: a folder's files and their checksums, so that what was altered or cut short is seen."""

import hashlib
from pathlib import Path

from training.errors import CheckpointError

SUMS = "SHA256SUMS"


def write_sums(folder: Path) -> None:
    """Write down the checksums of the files that are in a folder."""
    sums = [f"{_sha256(path)}  {path.name}" for path in sorted(folder.iterdir()) if path.is_file()]
    (folder / SUMS).write_text("\n".join(sums) + "\n")


def check_sums(folder: Path, *needed: str) -> None:
    """Refuse a folder whose files are not what they were, or that lacks a needed one.

    Raises:
        CheckpointError: a file is missing or altered, or there are no checksums.
    """
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{folder} holds nothing whole to read ({error}); train again"
        ) from None
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in {*needed, *listed}:
        path = folder / name
        if not path.is_file() or _sha256(path) != listed.get(name):
            raise CheckpointError(
                f"{path} does not match its checksum: it was altered or cut short; train again"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
