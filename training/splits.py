"""A classification problem as three splits of pictures with labels; and how a split is held out.

A picture is known by its index and is read lazily; bringing it to the network's size is
serving.images' work. Where the data comes without a validation or a test split, one is held out by
class, by a seed of its own, so that runs with different seeds are judged on the same images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving import images
from training.config import DataConfig
from training.errors import DataError

Indices = NDArray[np.int64]


class Pictures(Protocol):
    """Pictures by index."""

    def pixels(self, index: int, spec: images.ImageSpec) -> images.Pixels:
        """The picture as a network takes it: (H, W, 3) uint8."""

    def encoded(self, index: int) -> bytes:
        """The picture as a file, as a client would send it."""

    def name(self, index: int) -> str:
        """What an error message calls it."""


@dataclass(frozen=True)
class ArrayPictures:
    """Pictures in an array: (n, H, W), (n, H, W, 1) or (n, H, W, 3) uint8."""

    array: NDArray[np.uint8]

    def pixels(self, index: int, spec: images.ImageSpec) -> images.Pixels:
        """The picture at that index, as a network takes it."""
        return images.fit(images.from_array(self.array[index]), spec)

    def encoded(self, index: int) -> bytes:
        """The picture as a PNG file, which loses nothing."""
        return images.encode_png(images.from_array(self.array[index]))

    def name(self, index: int) -> str:
        """Its index."""
        return f"image {index}"


@dataclass(frozen=True)
class FilePictures:
    """Pictures in files."""

    paths: Sequence[Path]

    def pixels(self, index: int, spec: images.ImageSpec) -> images.Pixels:
        """The picture in that file, as it is served; ImageError where it cannot be read."""
        return images.decode(self.encoded(index), spec)

    def encoded(self, index: int) -> bytes:
        """The file as it is."""
        return self.paths[index].read_bytes()

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self.paths[index])


@dataclass(frozen=True)
class DatasetPictures:
    """Pictures of a torchvision data set, whose items are (Pillow image, label)."""

    dataset: Any

    def pixels(self, index: int, spec: images.ImageSpec) -> images.Pixels:
        """The picture that the data set gives, as a network takes it."""
        return images.fit(self.dataset[index][0], spec)

    def encoded(self, index: int) -> bytes:
        """The picture as a PNG file, which loses nothing."""
        return images.encode_png(images.to_rgb(self.dataset[index][0]))

    def name(self, index: int) -> str:
        """Its index."""
        return f"image {index}"


@dataclass(frozen=True)
class Split:
    """Some of the pictures, with their labels. index[k] is the place of the k-th among all of them."""

    pictures: Pictures
    labels: Indices
    index: Indices

    def __len__(self) -> int:
        return len(self.index)

    def pixels(self, k: int, spec: images.ImageSpec) -> images.Pixels:
        """The k-th picture as the network takes it: (H, W, 3) uint8."""
        return self.pictures.pixels(int(self.index[k]), spec)

    def encoded(self, k: int) -> bytes:
        """The k-th picture as a file, as a client would send it."""
        return self.pictures.encoded(int(self.index[k]))

    def name(self, k: int) -> str:
        """What an error message calls the k-th picture."""
        return self.pictures.name(int(self.index[k]))

    def take(self, chosen: Indices) -> "Split":
        """The pictures at those places of this split, in that order."""
        return Split(self.pictures, self.labels[chosen], self.index[chosen])


@dataclass(frozen=True)
class Dataset:
    """Three splits of one classification problem.

    size: (H, W) where all pictures share one size, else None. mirrored_is_same: whether a mirrored
    picture keeps its class (not so for digits and letters). own: the splits that it came with; the others were held
    out of train.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    size: tuple[int, int] | None
    mirrored_is_same: bool = True
    own: frozenset[str] = frozenset()


def split_of(pictures: Pictures, labels: Sequence[int] | NDArray[Any]) -> Split:
    """All the pictures as one split."""
    return Split(
        pictures, np.asarray(labels, dtype=np.int64), np.arange(len(labels), dtype=np.int64)
    )


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """(the rest, the held-out share), at least one picture of every class on either side.

    split: with at least two pictures of every class in it.
    """
    generator = np.random.default_rng(seed)
    held: list[Indices] = []
    for label in np.unique(split.labels):
        members = generator.permutation(np.flatnonzero(split.labels == label))
        held.append(members[: min(len(members) - 1, max(1, round(fraction * len(members))))])
    chosen = np.sort(np.concatenate(held))
    rest = np.setdiff1d(np.arange(len(split)), chosen)
    return split.take(rest), split.take(chosen)


def assemble(
    config: DataConfig,
    classes: Sequence[str],
    splits: dict[str, Split],
    *,
    size: tuple[int, int] | None,
    mirrored_is_same: bool = True,
) -> Dataset:
    """The data set of the splits that are there; what is missing of val and test is held out of train.

    Raises:
        DataError: fewer than two classes, a name that is no text, a class or a split without pictures, or a class
            with too few of them to hold one out.
    """
    if len(classes) < 2:
        raise DataError(
            f"{config.data}: {len(classes)} class ({', '.join(classes)}); a classifier needs at least 2"
        )
    unwritable = [name for name in classes if name.encode(errors="ignore").decode() != name]
    if unwritable:
        raise DataError(
            f"{config.data}: class names that are not UTF-8: {unwritable[:5]}; rename them"
        )
    for name, split in splits.items():
        if len(split) == 0:
            raise DataError(f"{config.data}: the {name} split has no images")
    unseen = sorted(set(range(len(classes))) - set(splits["train"].labels.tolist()))
    if unseen:
        named = ", ".join(classes[label] for label in unseen[:5])
        raise DataError(
            f"{config.data}: no training images for {len(unseen)} of {len(classes)} classes ({named}); "
            "labels must count from 0 without gaps"
        )
    parts = _completed(config, classes, splits)
    train, val, test = parts["train"], parts["val"], parts["test"]
    own = frozenset(splits)
    return Dataset(config.data, tuple(classes), train, val, test, size, mirrored_is_same, own)


def _completed(
    config: DataConfig, classes: Sequence[str], splits: dict[str, Split]
) -> dict[str, Split]:
    """The splits with test, and then val, held out of train where they are not there.

    Raises:
        DataError: a class has too few pictures, at first or after the test split was taken.
    """
    parts = dict(splits)
    for missing, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
        if missing in splits:
            continue
        counts = np.bincount(parts["train"].labels, minlength=len(classes))
        single = [name for name, count in zip(classes, counts, strict=True) if count == 1]
        if single:
            left = " left after the test split was taken" if parts.keys() != splits.keys() else ""
            raise DataError(
                f"{config.data}: {_have_one(single)}{left}, too few to hold one out for the {missing} split; "
                f"add images, or a {missing} split"
            )
        parts["train"], parts[missing] = hold_out(parts["train"], fraction, config.split_seed)
    return parts


def _have_one(classes: Sequence[str]) -> str:
    if len(classes) == 1:
        return f"class {classes[0]} has 1 image"
    return f"{len(classes)} classes ({', '.join(classes[:5])}) have 1 image each"


def without(split: Split, unreadable: Sequence[int]) -> Split:
    """The split less the pictures at those places."""
    return split.take(np.setdiff1d(np.arange(len(split)), np.asarray(unreadable, dtype=np.int64)))
