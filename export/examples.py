"""The pictures of a run that its bundle is calibrated and verified on, and those that travel with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from export import verify
from serving.bundle import file_sha256
from serving.images import Pixels, encode_png
from training import checkpoint, data
from training.batches import ResidentBatches, prepare
from training.checkpoint import Run
from training.config import DataConfig
from training.errors import ConfigError, DataError
from training.pool import load_pool
from training.progress import Progress
from training.resume import load_again
from training.splits import ArrayPictures, Split, split_of
from training.statistics import evenly_spaced

SAMPLES = 10  # example images in a bundle, one a class as far as they go

PLACES = {"validation": 1, "test": 2}  # in `problem.counts`, of splits that must be whole

# splits by name, of the data that those settings name
Read = Callable[[DataConfig], dict[str, Split]]


@dataclass(frozen=True)
class Examples:
    """Labelled pictures. what: in words, for the manifest."""

    split: Split
    batches: Any
    what: str


def of_classifier(
    run: Run, data_dir: Path | None, progress: Progress, *, training: int = 0
) -> dict[str, Examples]:
    """The "test" split that a classifier was judged on, and the "validation" split that chose its weights.

    training: how many images of the "training" split to read as well. Where the data is not at hand as it was, the
    images that the run keeps stand for all.
    """

    def read(settings: DataConfig) -> dict[str, Split]:
        dataset = load_again(run, settings)
        splits = {"validation": dataset.val, "test": dataset.test}
        return splits | _some(dataset.train, training)

    return _examples(run, data_dir, progress, ("training", "validation", "test"), read)


def of_encoder(
    run: Run[Any], data_dir: Path | None, progress: Progress, *, training: int = 0
) -> dict[str, Examples]:
    """The "validation" images that an encoder did not learn from; where they are not at hand, those that the run keeps.

    training: how many of the "training" images to read as well.
    """

    def read(settings: DataConfig) -> dict[str, Split]:
        pool = load_pool(settings, unlabelled=getattr(run.config, "unlabelled", False))
        if pool.classes != run.problem.classes:
            raise DataError(f"{pool.name} has other classes than when {run.folder} began")
        return {"validation": pool.val} | _some(pool.train, training)

    return _examples(run, data_dir, progress, ("training", "validation"), read)


def _examples(
    run: Run[Any], data_dir: Path | None, progress: Progress, names: Sequence[str], read: Read
) -> dict[str, Examples]:
    """What `read` gives, where all of it is as it was; else the images that the run keeps, for each of the names."""
    settings = data.instead_of(run.config.data, None, data_dir)
    bare = data.bare_name(settings.data)
    try:
        return {
            name: _prepared(run, name, split, settings, progress)
            for name, split in read(settings).items()
        }
    except (DataError, ConfigError) as error:
        if data_dir is not None:
            raise
        progress.say(f"the data is not at hand as it was ({error})")
    images, labels = checkpoint.read_validation_images(run)
    kept = split_of(ArrayPictures(images.numpy()), labels.numpy())
    what = f"{len(labels)} validation images of {bare}"
    return dict.fromkeys(names, Examples(kept, ResidentBatches(images, labels), what))


def _some(train: Split, count: int) -> dict[str, Split]:
    """So many of the training images, as the split "training"; nothing for none."""
    return {"training": train.take(evenly_spaced(len(train), count).numpy())} if count else {}


def _prepared(
    run: Run[Any], name: str, split: Split, settings: DataConfig, progress: Progress
) -> Examples:
    readable, batches = prepare(
        split, name, run.problem.image, settings, torch.device("cpu"), progress
    )
    before = run.problem.counts[PLACES[name]] if name in PLACES else len(readable)
    if len(readable) != before:
        raise DataError(
            f"{settings.data} has {len(readable)} {name} images, but {before} when {run.folder} began"
        )
    what = f"{len(readable)} {name} images of {data.bare_name(settings.data)}"
    return Examples(readable, batches, what)


def real_images(run: Run[Any]) -> Pixels:
    """Kept validation images, repeated if there are fewer than the largest batch to verify."""
    images, _ = checkpoint.read_validation_images(run)
    return np.resize(images.numpy(), (max(len(images), *verify.BATCHES), *images.shape[1:]))


def write_samples(run: Run[Any], folder: Path) -> dict[str, str]:
    """A few validation images as PNG files, one a class, where the data may be passed on: {file: sha256}."""
    if not data.may_be_passed_on(run.config.data.data):
        return {}
    images, labels = checkpoint.read_validation_images(run)
    (folder / "samples").mkdir()
    written = {}
    for label in labels.unique().tolist()[:SAMPLES]:
        first = images[labels == label][0].numpy()
        path = folder / "samples" / f"{run.problem.classes[label]}.png"
        path.write_bytes(encode_png(Image.fromarray(first)))
        written[f"samples/{path.name}"] = file_sha256(path)
    return written
