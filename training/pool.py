"""The images that an encoder is pretrained on: a known data set's training images, or any folder's, with no labels.

Some are held out, to see how the encoder does on images that it has not seen. A test split is not touched: that of a
data set, or what lies beside a folder's train/. In any other folder without labels nobody says which images are a test.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from serving.images import EXTENSIONS, images_below, is_image
from training import data
from training.config import DataConfig
from training.errors import ConfigError, DataError
from training.splits import FilePictures, Split, split_of
from training.subsets import thin


@dataclass(frozen=True)
class Pool:
    """Images to learn from, and some that are held out.

    classes: names of the labels; none where there are no labels, and then every label is 0. size: (H, W) where
    all pictures share one size, else None. loose: how many images lie beside the folders of classes, and are left out.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    size: tuple[int, int] | None
    loose: int = 0


def load_pool(config: DataConfig, *, unlabelled: bool) -> Pool:
    """The pool that the settings name. unlabelled: take a folder's images whatever folders they lie in.

    A folder with no folders of images in it is unlabelled as well.

    Raises:
        DataError: the data is not there, or holds too few images.
        ConfigError: what is asked of its classes, where it has none.
    """
    kind, _, location = config.data.partition(":")
    if kind != "folder":
        if unlabelled:
            raise DataError(f"--unlabelled is for folder:DIR; {config.data} is what it is")
        return _known(config)
    root = Path(location).expanduser()
    if unlabelled or (root.is_dir() and not _has_class_folders(root)):
        return _any_images(root, config)
    try:
        return replace(_known(config), loose=_loose(_training_folder(root)))
    except DataError as error:
        raise DataError(
            f"{error}; to learn from all images below, without classes, give --unlabelled"
        ) from None


def _known(config: DataConfig) -> Pool:
    dataset = data.load(config)
    return Pool(dataset.name, dataset.classes, dataset.train, dataset.val, dataset.size)


def _has_class_folders(root: Path) -> bool:
    return any(path.is_dir() and not path.name.startswith(".") for path in root.iterdir())


def _training_folder(root: Path) -> Path:
    """Where a folder's training images lie: its train/, where it has one."""
    return next((root / name for name in data.SPLITS["train"] if (root / name).is_dir()), root)


def _loose(folder: Path) -> int:
    """How many images lie in a folder itself, and in none of the folders in it."""
    return sum(is_image(Path(path.name)) and path.is_file() for path in folder.iterdir())


def _any_images(root: Path, config: DataConfig) -> Pool:
    if not root.is_dir():
        raise DataError(f"{root} is no folder; folder: takes a folder of images")
    root = _training_folder(root)
    found = images_below(root)
    if len(found) < 2:
        raise DataError(
            f"{root}: {len(found)} images ({', '.join(sorted(EXTENSIONS))}); "
            "an encoder learns from at least 2"
        )
    whole = split_of(FilePictures(found), [0] * len(found))
    order = np.random.default_rng(config.split_seed).permutation(len(found))
    held = min(len(found) - 1, max(1, round(config.val_fraction * len(found))))
    train, val = whole.take(np.sort(order[held:])), whole.take(np.sort(order[:held]))
    if config.imbalance != 1:
        raise ConfigError("--imbalance is for classes, and these images have none; leave it out")
    return Pool(config.data, (), thin(train, 1, config), val, None)
