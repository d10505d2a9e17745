"""`viewfold embed`: every image of a folder through an encoder's bundle, by onnxruntime, into one file.

Images are decoded by threads, a batch or two ahead of the network; of no more than that many is anything in memory.

OfflineError    what was asked for cannot be done, or some files could not be read; the message says which
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from serving import bundle
from serving.bundle import Bundle
from serving.counter import Counter
from serving.images import EXTENSIONS, ImageError, ImageSpec, Pixels, decode, images_below
from serving.limits import available_cpus, images_at_once
from serving.predictor import Device, Predictor, unit
from serving.vectors import Vectors, writing

_AHEAD = 2  # batches that are being decoded while one is in the network
_MOST_NAMED = 10  # unreadable files in a message


class OfflineError(Exception):
    """A folder that cannot be embedded as asked, or not all of it; the message says what to do."""


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
    paths = images_below(config.folder)
    if not paths:
        raise OfflineError(
            f"{config.folder} has no images ({', '.join(sorted(EXTENSIONS))}); give a folder that has some"
        )
    predictor = Predictor(encoder, device=config.device)
    with writing(config.out, predictor.manifest.dimensions or 0) as vectors:
        unreadable = _embed(paths, config, predictor, vectors)
        if not vectors.paths:
            raise OfflineError(
                f"none of the {len(paths)} images of {config.folder} can be read:{_named(unreadable)}"
            )
    seconds = time.perf_counter() - start
    print(
        f"{config.out}: {len(vectors.paths):,} embeddings of {predictor.manifest.dimensions} numbers, by "
        f"{predictor.manifest.name}, in {seconds:,.1f} s ({len(paths) / seconds:,.0f} images/s)"
    )
    if unreadable:
        _tell(unreadable, len(paths), config)


def _check(config: EmbedConfig) -> Bundle:
    """The bundle, if it embeds and what it says can be written."""
    found = bundle.read(config.bundle)
    if found.manifest.task != "embed":
        raise OfflineError(
            f"{config.bundle} is a classifier's bundle and gives no embeddings; export an encoder with "
            "`viewfold export RUN OUT`, and with --embed if RUN is a classifier's"
        )
    if not config.folder.is_dir():
        raise OfflineError(f"{config.folder} is no folder; give a folder of images")
    if config.out.suffix != ".npz":
        raise OfflineError(f"{config.out} must be called something.npz")
    if not config.out.absolute().parent.is_dir():
        raise OfflineError(f"{config.out}: there is no folder {config.out.parent}")
    if config.out.is_dir() or (config.out.exists() and not config.overwrite):
        raise OfflineError(f"{config.out} is there already; --overwrite replaces a file")
    if config.workers is not None and config.workers < 1:
        raise OfflineError(f"--workers is {config.workers}; it must be at least 1")
    return found


def _embed(
    paths: list[Path], config: EmbedConfig, predictor: Predictor, vectors: Vectors
) -> dict[str, str]:
    """Embed what can be read. Returns what cannot: {path: reason}."""
    unreadable: dict[str, str] = {}
    counter = Counter("embed", len(paths))
    try:
        for chunk, found in _decoded(paths, predictor.spec, config.workers or available_cpus()):
            names = [path.relative_to(config.folder).as_posix() for path in chunk]
            read = [
                (name, p) for name, p in zip(names, found, strict=True) if isinstance(p, np.ndarray)
            ]
            unreadable |= {n: p for n, p in zip(names, found, strict=True) if isinstance(p, str)}
            if read:
                pixels = np.stack([pixels for _, pixels in read])  # (b, H, W, 3)
                answers = predictor.predict(pixels, predictor.manifest.default_mode)  # (b, D)
                vectors.add([n for n, _ in read], unit(answers) if config.normalize else answers)
            counter.advance(len(chunk))
    finally:
        counter.clear()
    return unreadable


def _decoded(
    paths: list[Path], spec: ImageSpec, workers: int
) -> Iterator[tuple[list[Path], list[Pixels | str]]]:
    """The files in batches, each with its pixels, or with the reason why it has none."""
    size = images_at_once(spec)
    ahead: deque[tuple[list[Path], list[Future[Pixels | str]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for first in range(0, len(paths), size):
                chunk = paths[first : first + size]
                ahead.append((chunk, [pool.submit(_read, path, spec) for path in chunk]))
                if len(ahead) > _AHEAD:
                    yield _finished(*ahead.popleft())
            while ahead:
                yield _finished(*ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _finished(
    chunk: list[Path], futures: list[Future[Pixels | str]]
) -> tuple[list[Path], list[Pixels | str]]:
    return chunk, [future.result() for future in futures]


def _read(path: Path, spec: ImageSpec) -> Pixels | str:
    try:
        return decode(path.read_bytes(), spec)
    except ImageError as error:
        return str(error)
    except OSError as error:
        return error.strerror or "it cannot be read"


def _tell(unreadable: dict[str, str], total: int, config: EmbedConfig) -> None:
    """Name the files that were left out; raise if that was not allowed."""
    count = f"{len(unreadable)} of {total} images cannot be read and are left out of {config.out}"
    if config.skip_unreadable:
        print(f"{count}:{_named(unreadable)}")
    else:
        raise OfflineError(
            f"{count}; mend or remove them, or give --skip-unreadable:{_named(unreadable)}"
        )


def _named(unreadable: dict[str, str]) -> str:
    lines = [f"\n  {name}: {reason}" for name, reason in list(unreadable.items())[:_MOST_NAMED]]
    more = len(unreadable) - len(lines)
    return "".join(lines) + (f"\n  and {more} more" if more else "")
