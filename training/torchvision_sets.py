"""torchvision's classification data sets by name. Their constructors, labels and classes differ; this is the table.

EMNIST is left out because its images lie on their side: an upright picture sent to the server would
look wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torchvision import datasets as tv

from training.errors import DataError


def _targets(dataset: Any) -> Any:
    return dataset.targets


def _private_labels(dataset: Any) -> Any:
    return dataset._labels


def _labels(dataset: Any) -> Any:
    return dataset.labels


def _sample_labels(dataset: Any) -> Any:
    return [label for _, label in dataset._samples]


def _y(dataset: Any) -> Any:
    return dataset.y


@dataclass(frozen=True)
class Entry:
    """How one data set is opened and read.

    splits: our split -> the arguments that open it. size: (H, W) where all images share it.
    mirrored_is_same: whether a mirrored image keeps its class.
    """

    open: Callable[..., Any]
    splits: dict[str, dict[str, Any]]
    labels: Callable[[Any], Any]
    size: tuple[int, int] | None = None
    mirrored_is_same: bool = True
    downloads: bool = True


class Part(NamedTuple):
    """One opened split."""

    dataset: Any
    labels: Sequence[int]
    classes: Sequence[str]


_BY_FLAG = {"train": {"train": True}, "test": {"train": False}}
_TWO = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
_TRAINVAL = {"train": {"split": "trainval"}, "test": {"split": "test"}}
_VALID = {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}}
_ONE: dict[str, dict[str, Any]] = {"train": {}}

SETS = {
    "caltech101": Entry(tv.Caltech101, _ONE, _y),
    "cifar10": Entry(tv.CIFAR10, _BY_FLAG, _targets, (32, 32)),
    "cifar100": Entry(tv.CIFAR100, _BY_FLAG, _targets, (32, 32)),
    "country211": Entry(tv.Country211, _VALID, _targets),
    "dtd": Entry(tv.DTD, _THREE, _private_labels),
    "eurosat": Entry(tv.EuroSAT, _ONE, _targets, (64, 64)),
    "fashion-mnist": Entry(tv.FashionMNIST, _BY_FLAG, _targets, (28, 28)),
    "fgvc-aircraft": Entry(tv.FGVCAircraft, _THREE, _private_labels),
    "flowers102": Entry(tv.Flowers102, _THREE, _private_labels),
    "food101": Entry(tv.Food101, _TWO, _private_labels),
    "gtsrb": Entry(tv.GTSRB, _TWO, _sample_labels, mirrored_is_same=False),
    # its "val" split is the only one beside train that is published: it is the test split here
    "imagenette": Entry(
        tv.Imagenette, {"train": {"split": "train"}, "test": {"split": "val"}}, _sample_labels
    ),
    "kmnist": Entry(tv.KMNIST, _BY_FLAG, _targets, (28, 28), mirrored_is_same=False),
    "mnist": Entry(tv.MNIST, _BY_FLAG, _targets, (28, 28), mirrored_is_same=False),
    "oxford-pets": Entry(tv.OxfordIIITPet, _TRAINVAL, _private_labels),
    "rendered-sst2": Entry(tv.RenderedSST2, _THREE, _sample_labels, mirrored_is_same=False),
    "stanford-cars": Entry(tv.StanfordCars, _TWO, _sample_labels, downloads=False),
    "stl10": Entry(tv.STL10, _TWO, _labels, (96, 96)),
    "sun397": Entry(tv.SUN397, _ONE, _private_labels),
    "svhn": Entry(tv.SVHN, _TWO, _labels, (32, 32), mirrored_is_same=False),
    "usps": Entry(tv.USPS, _BY_FLAG, _targets, (16, 16), mirrored_is_same=False),
}


def load(name: str, folder: Path, *, download: bool) -> dict[str, Part]:
    """The published splits of a data set: "train", and "val" and "test" where there are such.

    Raises:
        DataError: it is not there, cannot be downloaded, or is damaged.
    """
    entry = SETS[name]
    return {
        split: _open(name, entry, folder, arguments, download)
        for split, arguments in entry.splits.items()
    }


def _open(name: str, entry: Entry, folder: Path, arguments: dict[str, Any], download: bool) -> Part:
    if download and not entry.downloads:
        raise DataError(
            f"{name} can no longer be downloaded by torchvision; lay it into {folder} by hand"
        )
    wanted = {"download": True} if download else {}
    try:
        dataset = entry.open(folder, **arguments, **wanted)
        labels = np.asarray(entry.labels(dataset), dtype=np.int64)
    except (
        Exception
    ) as error:  # the sets' own parsers raise many types where files are missing or damaged
        other = "--download" if entry.downloads else "lay it there by hand"
        advice = (
            "" if download else f"; give --data-dir if it lies elsewhere than {folder}, or {other}"
        )
        raise DataError(f"{name}: {_first_line(error)}{advice}") from error
    return Part(dataset, labels.tolist(), _class_names(dataset, labels))


def _class_names(dataset: Any, labels: Any) -> list[str]:
    for attribute in ("classes", "categories"):
        if hasattr(dataset, attribute):
            return [_one_name(value) for value in getattr(dataset, attribute)]
    return [str(n) for n in range(1 + int(labels.max()))]


def _one_name(value: Any) -> str:
    return (
        str(value[0]) if isinstance(value, tuple) else str(value)
    )  # Imagenette gives tuples of synonyms


def _first_line(error: BaseException) -> str:
    """What went wrong, without torchvision's advice to Python programmers."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.partition(" You can use download=True")[0].rstrip(".")
