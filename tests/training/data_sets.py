"""Small data sets on disk and in memory, for tests."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.splits import ArrayPictures, Split, split_of


def pixels(count: int, size: int = 8, seed: int = 0) -> NDArray[np.uint8]:
    """Random pictures (count, size, size, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def striped(count: int, size: int = 8, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Two classes that can be learnt: bright on the left, or bright on the top, in noise."""
    images = pixels(count, size, seed) // 3
    labels = np.arange(count) % 2
    images[labels == 0, :, : size // 2] += 150
    images[labels == 1, : size // 2] += 150
    return images, labels


def write_npz(path: Path, **changes: Any) -> Path:
    """A valid file of 40 training and 20 test pictures of two classes; a change of None leaves a key out."""
    train, train_labels = striped(40)
    test, test_labels = striped(20, seed=1)
    arrays = {
        "train_images": train,
        "train_labels": train_labels,
        "test_images": test,
        "test_labels": test_labels,
        **changes,
    }
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def write_pictures(folder: Path, count: int, colour: int = 0, suffix: str = ".png") -> Path:
    """That many plain pictures of one grey in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = Image.new("RGB", (12, 10), (colour, number, 0))
        picture.save(folder / f"{number}{suffix}")
    return folder


def array_split(count: int = 10, size: int = 8) -> Split:
    """A split of random pictures of two classes."""
    return split_of(ArrayPictures(pixels(count, size)), np.arange(count) % 2)
