"""Folders of small pictures for tests."""

import os
from pathlib import Path

from tests.pictures import plain

Colour = tuple[int, int, int]


def photos(folder: Path, colours: dict[str, Colour]) -> Path:
    """A picture of one colour for each name, in the format that the name says."""
    for name, colour in colours.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".jpg": "JPEG", ".webp": "WEBP"}.get(path.suffix, "PNG")
        path.write_bytes(plain(colour, kind))
    return folder


def many(folder: Path, count: int) -> Path:
    """That many plain pictures, each of another colour: its number, twice it, and 255 less it."""
    return photos(folder, {f"{n:03}.png": (n, 2 * n, 255 - n) for n in range(count)})


def spoil(folder: Path) -> None:
    """An empty file, one that is no picture, one that is cut off, and a link to nowhere."""
    whole = (folder / "000.png").read_bytes()
    (folder / "002-empty.png").write_bytes(b"")
    (folder / "002-text.png").write_text("text")
    (folder / "004-half.png").write_bytes(whole[: len(whole) // 2])
    os.symlink(folder / "nowhere", folder / "005-link.png")
