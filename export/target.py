"""Where a bundle is put: written beside its place, renamed if all goes well, removed if not."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.config import ExportConfig
from export.errors import TargetError
from serving import bundle as contract


@contextmanager
def target(settings: ExportConfig) -> Iterator[Path]:
    """A folder to write into, renamed to the bundle's place if all goes well and removed if not.

    Raises:
        TargetError: the place is taken, or nothing can be written there.
    """
    out = settings.out.absolute()
    replaceable = settings.overwrite and (out / contract.MANIFEST).is_file()
    if out.exists() and not replaceable and (not out.is_dir() or any(out.iterdir())):
        raise TargetError(
            f"{settings.out} is there already; --overwrite replaces a bundle, and nothing else"
        )
    part, old = (out.with_name(f".{out.name}.{suffix}") for suffix in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise TargetError(f"cannot write to {out.parent}: {error.strerror}") from None
    try:
        yield part
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)  # of an export that was killed at its very end
            out.rename(old)
        part.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
