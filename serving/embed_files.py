"""`viewfold embed`: every image of a folder through an encoder's bundle, by onnxruntime, into one file.

Raises what serving/offline.py raises.
"""

import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from serving import bundle
from serving.bundle import Bundle
from serving.counter import Counter
from serving.offline import (
    OfflineError,
    Unreadable,
    answered,
    check_out,
    check_workers,
    images_in,
    shown,
    tell,
)
from serving.predictor import Device, Predictor, unit
from serving.vectors import Vectors, writing


@dataclass(frozen=True)
class EmbedConfig:
    """Embed every image of a folder, and of the folders in it.

    The file holds `embeddings` (n, D) float32 and `paths` (n,), relative to the folder, in order.
    """

    bundle: Positional[Path]
    """The folder that `viewfold export` wrote of an encoder."""
    folder: Positional[Path]
    """The folder of images; hidden files are left out."""
    out: Positional[Path]
    """The .npz file to write. It is there whole, or not at all."""
    normalize: bool = False
    """Scale every embedding to length 1, so that dot products are cosines."""
    device: Device = "auto"
    """Where to run; cuda fails where there is no usable GPU, auto takes what there is."""
    workers: int | None = None
    """Threads that decode images. Default: one for each processor."""
    skip_unreadable: bool = False
    """Be content with the images that can be read; without it their lack ends in exit code 2."""
    overwrite: bool = False
    """Replace the file that is there already."""


def embed_folder(config: EmbedConfig) -> None:
    """Write the embeddings of a folder's images, and say what was done.

    Images that cannot be read are named and left out.

    Raises:
        OfflineError: the settings or the folder will not do, or no image can be read; or, after the file has been
            written, some images could not be read and that was not allowed.
        BundleError, DeviceError: as Predictor.
    """
    encoder, start = _check(config), time.perf_counter()
    paths = images_in(config.folder)
    predictor = Predictor(encoder, device=config.device)
    with writing(config.out, predictor.manifest.dimensions or 0) as vectors:
        unreadable = _embed(paths, config, predictor, vectors)
        if not vectors.paths:
            raise OfflineError(
                f"none of the {len(paths)} images of {config.folder} can be read:{unreadable.named}"
            )
    seconds = time.perf_counter() - start
    print(
        f"{config.out}: {len(vectors.paths):,} embeddings of {predictor.manifest.dimensions} numbers, by "
        f"{predictor.manifest.name}, in {seconds:,.1f} s ({len(paths) / seconds:,.0f} images/s)"
    )
    if unreadable.count:
        tell(
            f"{unreadable.count} of {len(paths)} images cannot be read and are left out of {config.out}",
            unreadable.named,
            skip=config.skip_unreadable,
        )


def _check(config: EmbedConfig) -> Bundle:
    """The bundle, if it embeds and what it says can be written."""
    found = bundle.read(config.bundle)
    if found.manifest.task != "embed":
        raise OfflineError(
            f"{config.bundle} is a classifier's bundle and gives no embeddings; export an encoder with "
            "`viewfold export RUN OUT`, and with --embed if RUN is a classifier's"
        )
    if config.out.suffix != ".npz":
        raise OfflineError(f"{config.out} must be called something.npz")
    check_out(config.out, overwrite=config.overwrite)
    check_workers(config.workers)
    return found


def _embed(
    paths: list[Path], config: EmbedConfig, predictor: Predictor, vectors: Vectors
) -> Unreadable:
    """Embed what can be read. Returns what cannot."""
    unreadable, places, rest = Unreadable(), [str(path) for path in paths], iter(paths)
    mode = predictor.manifest.default_mode
    with Counter("embed", len(paths)) as counter:
        for answers in answered(places, predictor, mode, workers=config.workers):
            chunk = [p.relative_to(config.folder).as_posix() for p in islice(rest, len(answers))]
            read = {}
            for name, answer in zip(chunk, answers, strict=True):
                if isinstance(answer, str):
                    unreadable.add(shown(name), answer)
                else:
                    read[name] = answer
            if read:
                found = np.stack(list(read.values()))  # (b, D)
                vectors.add(list(read), unit(found) if config.normalize else found)
            counter.advance(len(answers))
    return unreadable
