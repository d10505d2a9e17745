"""`viewfold predict`: images through a classifier's bundle, by onnxruntime, into one table.

Rows are kept in a journal until all are there (journal.py); only then is the file written, beside its place, and
renamed. So it is there whole or not at all, and a run that was killed goes on.

Raises what serving/offline.py raises.
"""

import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from serving import bundle
from serving.bundle import MANIFEST, Bundle, file_sha256
from serving.counter import Counter
from serving.journal import Journal, opened
from serving.limits import images_at_once
from serving.offline import (
    OfflineError,
    Unreadable,
    answered,
    check_out,
    check_workers,
    images_of,
    shown,
    tell,
)
from serving.predictor import Device, Predictor, mode_name
from serving.rows import Layout
from serving.tables import WRITERS, check_writer


@dataclass(frozen=True)
class PredictConfig:
    """Classify images, and every image of folders and of the folders in them.

    The file has a row for each image: path, label, index, confidence, error.
    """

    bundle: Positional[Path]
    """The folder that `viewfold export` wrote of a classifier."""
    paths: Positional[tuple[str, ...]]
    """Images, and folders of images, in whose order the rows are; hidden files of folders are left out."""
    out: str
    """The .csv, .jsonl or .parquet file to write. It is there whole, or not at all."""
    mode: str | None = None
    """The mode that answers; the bundle's default mode if not given."""
    top_k: int = 1
    """How many classes to name, the most probable first."""
    probabilities: bool = False
    """Write the probability of every class."""
    device: Device = "auto"
    """Where to run; cuda fails where there is no usable GPU, auto takes what there is."""
    workers: int | None = None
    """Threads that decode images. Default: one for each processor."""
    engine: Literal["local", "ray"] = "local"
    """ray: as a Ray Data job, with --out a folder of parts and addresses such as s3://… for paths as well."""
    skip_unreadable: bool = False
    """Be content with the images that can be read; without it their lack ends in exit code 2."""
    overwrite: bool = False
    """Replace the file that is there already, and forget an interrupted run of something else."""


def predict(config: PredictConfig) -> None:
    """Write what the bundle says of the images, and say what was done. An interrupted run is gone on with.

    Raises:
        OfflineError: the settings or the paths will not do; or, after the file has been written, some images could not
            be read and that was not allowed, or none could.
        BundleError, ModeError, DeviceError: as Predictor.
    """
    start, found = time.perf_counter(), bundle.read(config.bundle)
    mode, layout = _check(config, found)
    if config.engine == "ray":
        from serving import on_ray

        job = on_ray.Job(config.bundle.absolute(), mode, config.device, layout, config.workers)
        total, unreadable = on_ray.classify(
            job, config.paths, config.out, overwrite=config.overwrite
        )
    else:
        places = images_of(config.paths)
        total, unreadable = len(places), _locally(config, found, mode, layout, places)
    seconds = time.perf_counter() - start
    out = shown(config.out)
    print(f"{out}: {total:,} images by {found.manifest.name}, {mode}, in {seconds:,.1f} s")
    if unreadable.count == total:
        raise OfflineError(f"none of the {total} images can be read:{unreadable.named}")
    if unreadable.count:
        tell(
            f"{unreadable.count} of {total} images cannot be read and have no answer in {out}",
            unreadable.named,
            skip=config.skip_unreadable,
        )


def _check(config: PredictConfig, found: Bundle) -> tuple[str, Layout]:
    """The mode, and what the rows are, if the bundle classifies and what it says can be written."""
    manifest, suffix = found.manifest, Path(config.out).suffix
    if manifest.task != "classify":
        raise OfflineError(
            f"{config.bundle} is an encoder's bundle and knows no classes; `viewfold embed` writes its embeddings"
        )
    mode = mode_name(manifest, config.mode)
    if suffix not in WRITERS:
        raise OfflineError(f"{config.out} must be called something{' or something'.join(WRITERS)}")
    check_writer(suffix)
    check_workers(config.workers)
    nested = suffix == ".jsonl"
    return mode, Layout(manifest.classes, config.top_k, config.probabilities, nested)


def _locally(
    config: PredictConfig, found: Bundle, mode: str, layout: Layout, places: list[str]
) -> Unreadable:
    """Answer in this process, from where an interrupted run has come to. Returns what cannot be read."""
    out = Path(config.out)
    part = out.with_name(f"{out.name}.part")
    check_out(out, overwrite=config.overwrite or part.exists())
    predictor = Predictor(found, device=config.device, modes=[mode])
    names = [shown(place) for place in places]
    heading = _heading(config, mode, predictor.provider, names)
    size = images_at_once(predictor.spec)
    with opened(part, heading, names, step=size, afresh=config.overwrite) as journal:
        if out.exists() and not config.overwrite and journal.done < len(names):
            check_out(out, overwrite=False)
        _answer(places, names, predictor, mode, layout, config.workers, journal)
        unreadable = _finish(out, layout, journal)
        part.unlink()
    return unreadable


def _heading(config: PredictConfig, mode: str, device: str, names: Sequence[str]) -> dict[str, Any]:
    """All that the rows depend on, in the words in which a difference is told."""
    images = hashlib.sha256("\0".join(names).encode()).hexdigest()
    return {
        "version of viewfold": version("viewfold"),
        "bundle": file_sha256(config.bundle / MANIFEST),
        "mode": mode,
        "device": device,
        "--top-k": config.top_k,
        "--probabilities": config.probabilities,
        "list of images": images,
    }


def _answer(
    places: Sequence[str],
    names: Sequence[str],
    predictor: Predictor,
    mode: str,
    layout: Layout,
    workers: int | None,
    journal: Journal,
) -> None:
    """Write the rows that are missing into the journal."""
    rest = iter(names[journal.done :])
    try:
        with Counter("predict", len(names), before=journal.done) as counter:
            for answers in answered(places[journal.done :], predictor, mode, workers=workers):
                chunk = islice(rest, len(answers))
                journal.add([layout.row(n, a) for n, a in zip(chunk, answers, strict=True)])
                counter.advance(len(answers))
    except KeyboardInterrupt:
        done = f"{journal.done:,} of {len(names):,} images are done"
        print(f"{done}; the same command goes on with the rest", file=sys.stderr)
        raise


def _finish(out: Path, layout: Layout, journal: Journal) -> Unreadable:
    """Write the file from the journal and put it into its place. Returns what could not be read."""
    unreadable, new = Unreadable(), out.with_name(f"{out.name}.part.new")
    try:
        WRITERS[out.suffix](new, layout.columns, unreadable.seen(journal.rows()))
        new.replace(out)
    finally:
        new.unlink(missing_ok=True)
    return unreadable
