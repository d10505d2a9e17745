"""A data set by name: digits, npz:FILE, folder:DIR, or one of torchvision's (torchvision_sets.py)."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.images import EXTENSIONS, images_below
from training import torchvision_sets
from training.config import DataConfig
from training.errors import DataError
from training.splits import (
    ArrayPictures,
    Dataset,
    DatasetPictures,
    FilePictures,
    Split,
    assemble,
    split_of,
)
from training.subsets import thin

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
MAX_LABEL = (
    999_999  # beyond it a label is a number gone wrong, and a list of classes would fill the memory
)


def load(config: DataConfig) -> Dataset:
    """The data set that the settings name, its training images thinned out as they say.

    Raises:
        DataError: an unknown name, nothing there, or nothing that can be trained on.
        ConfigError: more training images are asked for than there are, or fewer than there are classes.
    """
    whole = _load(config)
    return dataclasses.replace(whole, train=thin(whole.train, len(whole.classes), config))


def check_there(config: DataConfig, advice: str = "") -> None:
    """Refuse a name that is unknown, and a file or folder that is not there. advice: how that message ends.

    Raises:
        DataError: it is.
    """
    path = _path(config)
    if path is None and config.data != "digits" and config.data not in torchvision_sets.SETS:
        raise DataError(f"unknown data {config.data!r}; choose from {known_names()}")
    if path is not None and not path.exists():
        raise DataError(f"{path} does not exist{advice}")


def _path(config: DataConfig) -> Path | None:
    """The file or folder that the settings name; None where they name a known data set, or nothing."""
    kind, _, location = config.data.partition(":")
    return Path(location).expanduser() if location and kind in FILE_SOURCES else None


def _load(config: DataConfig) -> Dataset:
    check_there(config)
    path = _path(config)
    if path is not None:
        return FILE_SOURCES[config.data.partition(":")[0]](path, config)
    return _digits(config) if config.data == "digits" else _torchvision(config)


def instead_of(trained_on: DataConfig, name: str | None, data_dir: Path | None) -> DataConfig:
    """The data that was trained on, or other data, or the same in another place, where they are given.

    Raises:
        DataError: --data-dir is given, of data that has its place elsewhere.
    """
    chosen: dict[str, Any] = {}
    if name is not None:
        # what was trained on may have been thinned out; this is not
        chosen |= {"data": name, "train_images": None, "imbalance": 1.0}
    if data_dir is not None:
        chosen["data_dir"] = data_dir
    taken = dataclasses.replace(trained_on, **chosen)
    if data_dir is not None:
        _refuse_place_of_others("--data-dir", taken)
    return taken


def check_place(config: DataConfig) -> None:
    """Refuse flags that say where torchvision's data sets lie, or to fetch them, beside other data.

    Raises:
        DataError: one is given.
    """
    # by absolute paths: those of a run are
    if config.data_dir.expanduser().resolve() != DataConfig().data_dir.resolve():
        _refuse_place_of_others("--data-dir", config)
    if config.download:
        _refuse_place_of_others("--download", config)


def _refuse_place_of_others(flag: str, config: DataConfig) -> None:
    """Refuse a flag of torchvision's data sets beside other data.

    Raises:
        DataError: the data is none of them.
    """
    if config.data not in torchvision_sets.SETS:
        raise DataError(
            f"{flag} is for torchvision's data sets, and {config.data} is none of them; leave it out"
        )


def may_be_passed_on(name: str) -> bool:
    """Whether images of that data may travel with a model: so far scikit-learn's digits (UCI, CC BY 4.0) alone."""
    return name == "digits"


def bare_name(name: str) -> str:
    """The data's name without the folders above it: what leaves this machine names no paths of it."""
    kind, _, location = name.partition(":")
    return f"{kind}:{Path(location).name}" if location else kind


def known_names() -> list[str]:
    """Everything that --data takes."""
    return ["digits", "npz:FILE", "folder:DIR", *sorted(torchvision_sets.SETS)]


def _digits(config: DataConfig) -> Dataset:
    """scikit-learn's digits: 1,797 scans of handwriting, 8 x 8 pixels of 17 greys, enlarged to 32 x 32."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    array = np.round(digits.images * (255 / 16)).astype(np.uint8)
    splits = {"train": split_of(ArrayPictures(array), digits.target)}
    return assemble(
        config, [str(n) for n in range(10)], splits, size=(32, 32), mirrored_is_same=False
    )


def _torchvision(config: DataConfig) -> Dataset:
    entry = torchvision_sets.SETS[config.data]
    parts = torchvision_sets.load(
        config.data, config.data_dir.expanduser(), download=config.download
    )
    splits = {
        name: split_of(DatasetPictures(part.dataset), part.labels) for name, part in parts.items()
    }
    classes = parts["train"].classes
    return assemble(
        config, classes, splits, size=entry.size, mirrored_is_same=entry.mirrored_is_same
    )


def _npz(path: Path, config: DataConfig) -> Dataset:
    """MedMNIST's layout: for each split SPLIT_images (n, H, W[, 1 or 3]) uint8 and SPLIT_labels (n,) or (n, 1)."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:  # zipfile, zlib and NumPy raise many types; each means the same here
        raise DataError(f"{path} is not an .npz file of plain arrays ({error})") from error
    splits = {
        name: _npz_split(path, arrays, name)
        for name in SPLITS
        if name == "train" or f"{name}_images" in arrays
    }
    shapes = {
        part.pictures.array.shape[1:3]
        for part in splits.values()
        if isinstance(part.pictures, ArrayPictures)
    }
    if len(shapes) > 1:
        raise DataError(f"{path}: the splits have images of different sizes: {sorted(shapes)}")
    (size,) = shapes
    if "classes" in arrays and arrays["classes"].ndim != 1:
        raise DataError(
            f"{path}: 'classes' is {arrays['classes'].shape}; it must be a list of names"
        )
    number = 1 + max(int(part.labels.max(initial=0)) for part in splits.values())
    classes = [str(name) for name in arrays.get("classes", np.arange(number))]
    if len(classes) < number:
        raise DataError(
            f"{path}: 'classes' names {len(classes)} classes, but the labels go up to {number - 1}"
        )
    return assemble(config, classes, splits, size=(int(size[0]), int(size[1])))


def _npz_split(path: Path, arrays: dict[str, NDArray[Any]], name: str) -> Split:
    for key in (f"{name}_images", f"{name}_labels"):
        if key not in arrays:
            raise DataError(f"{path} has no {key!r}; it has {sorted(arrays)}")
    pixels, labels = arrays[f"{name}_images"], arrays[f"{name}_labels"]
    if (
        pixels.dtype != np.uint8
        or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] in (1, 3)))
        or 0 in pixels.shape[1:]
    ):
        raise DataError(
            f"{path}: {name}_images is {pixels.dtype} {pixels.shape}; "
            "it must be uint8 (n, H, W), (n, H, W, 1) or (n, H, W, 3)"
        )
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.shape != (len(pixels),) or flat.dtype.kind not in "ui":
        raise DataError(
            f"{path}: {name}_labels is {labels.dtype} {labels.shape}; "
            f"it must be integers ({len(pixels)},) or ({len(pixels)}, 1)"
        )
    if flat.size and int(flat.min()) < 0:
        raise DataError(f"{path}: {name}_labels has negative labels")
    if flat.size and int(flat.max()) > MAX_LABEL:
        raise DataError(
            f"{path}: {name}_labels go up to {flat.max()}; labels must count from 0 without gaps"
        )
    return split_of(ArrayPictures(pixels), flat)


def _folder(root: Path, config: DataConfig) -> Dataset:
    """A folder a class; or train/, and perhaps val/ and test/, with a folder a class in each."""
    if not root.is_dir():
        raise DataError(
            f"{root} is a file; folder: takes a folder with a folder of images for each class"
        )
    found = {
        split: next((root / n for n in names if (root / n).is_dir()), None)
        for split, names in SPLITS.items()
    }
    folders = {split: path for split, path in found.items() if path is not None}
    if "train" not in folders:
        folders = {"train": root}
    classes = sorted(
        path.name
        for path in folders["train"].iterdir()
        if path.is_dir() and not path.name.startswith(".")
    )
    if not classes:
        raise DataError(
            f"{folders['train']} is empty of folders; it needs a folder of images for each class"
        )
    splits = {split: _folder_split(path, classes) for split, path in folders.items()}
    return assemble(config, classes, splits, size=None)


def _folder_split(folder: Path, classes: list[str]) -> Split:
    strange = sorted(
        {path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."}
        - set(classes)
    )
    if strange:
        raise DataError(
            f"{folder} has folders that are no class of the training images: {strange[:5]}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = images_below(folder / name)
        paths += files
        labels += [label] * len(files)
    empty = [name for label, name in enumerate(classes) if label not in set(labels)]
    if empty:
        raise DataError(
            f"{folder}: no images ({', '.join(sorted(EXTENSIONS))}) for the classes {empty[:5]}"
        )
    return split_of(FilePictures(paths), labels)


FILE_SOURCES: dict[str, Callable[[Path, DataConfig], Dataset]] = {"npz": _npz, "folder": _folder}
