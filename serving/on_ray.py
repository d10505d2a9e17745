"""`viewfold predict --engine ray`: the same rows as a Ray Data job, for images that outgrow one machine.

places ─▶ actors, each with the bundle: read, decode, answer (offline.answered) ─▶ a folder of parts, in order

Images are files that every node sees, or addresses that pyarrow reads (s3://, gs://, hdfs://, file://). So is the
folder of parts. A failed task is done again by Ray; a job that was killed begins again.

Raises what serving/offline.py raises.
"""

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

from serving import bundle, remote_files
from serving.offline import (
    OfflineError,
    Unreadable,
    answered,
    images_of,
    is_address,
    read_file,
    shown,
)
from serving.predictor import Device, Predictor
from serving.rows import Layout
from serving.tables import arrow

_TASK_IMAGES = 256  # some batches of the network, so that decoding ahead pays
_WRITING = 0.1  # processors that a part takes to write; actors leave twice as much, or all would wait for all
_PARTS = (".parquet", ".csv", ".json")  # what Ray calls its parts


@dataclass(frozen=True)
class Job:
    """What is asked of every image. workers: processors of an actor; None for one."""

    bundle: Path
    mode: str
    device: Device
    layout: Layout
    workers: int | None = None


def classify(
    job: Job, paths: Sequence[str], out: str, *, overwrite: bool
) -> tuple[int, Unreadable]:
    """Write a folder of parts. Returns how many images there are, and what could not be read.

    Raises:
        OfflineError: Ray is not installed, the paths or the folder will not do.
        BundleError, ModeError, DeviceError: as Predictor; from an actor as the cause of an error of Ray's.
    """
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise OfflineError("--engine ray needs Ray: pip install 'viewfold[ray]'")
    _check_out(out, overwrite)
    places = images_of(paths, addresses=remote_files.images_at)
    parts = math.ceil(len(places) / _TASK_IMAGES)
    with _ray() as ray:
        cluster, tally = ray.cluster_resources(), ray.remote(num_cpus=0)(Tally).remote()
        items = [{"place": _for_others(place), "name": shown(place)} for place in places]
        rows = ray.data.from_items(items, override_num_blocks=parts)
        rows = rows.map_batches(
            Answering,
            fn_constructor_args=(job, tally),
            batch_size=_TASK_IMAGES,
            **_resources(job, cluster),
        )
        with _in_place(out) as target:
            _write(rows, target, Path(out).suffix, at_once=min(parts, _cpus(cluster)))
        return len(places), ray.get(tally.all.remote())


class Answering:
    """What an actor holds, and what it makes of a batch of {"place": bytes, "name": str}: an Arrow table of rows."""

    def __init__(self, job: Job, tally: Any) -> None:
        self._job = job
        self._tally = tally
        self._predictor = Predictor(
            bundle.read(job.bundle), device=job.device, modes=[job.mode], threads=job.workers or 1
        )

    def __call__(self, batch: dict[str, Any]) -> Any:
        """The rows of a batch, in its order."""
        import ray

        job, places = self._job, [os.fsdecode(place) for place in batch["place"]]
        found = answered(places, self._predictor, job.mode, workers=job.workers or 1, read=read)
        answers = [answer for part in found for answer in part]
        names = [str(name) for name in batch["name"]]
        failed = {n: a for n, a in zip(names, answers, strict=True) if isinstance(a, str)}
        if failed:
            ray.get(self._tally.add.remote(failed))
        rows = [job.layout.row(n, a) for n, a in zip(names, answers, strict=True)]
        return arrow(rows, job.layout.columns)


class Tally:
    """An actor that the others tell what they cannot read; by name, for Ray may do a task twice."""

    def __init__(self) -> None:
        self._failed: dict[str, str] = {}

    def add(self, failed: dict[str, str]) -> None:
        """These cannot be read: {name: reason}."""
        self._failed |= failed

    def all(self) -> Unreadable:
        """All of them, in the order of their names."""
        found = Unreadable()
        for name, reason in sorted(self._failed.items()):
            found.add(name, reason)
        return found


def read(place: str) -> bytes:
    """The bytes of a file that this machine sees, or of one at an address."""
    return remote_files.read(place) if is_address(place) else read_file(place)


def _for_others(place: str) -> bytes:
    """A place as actors find it, which work in another folder; as bytes, for a file's name need not be text."""
    return os.fsencode(place if is_address(place) else os.path.abspath(place))


@contextmanager
def _ray() -> Iterator[Any]:
    """Ray, connected to the cluster that RAY_ADDRESS names or started here; a started one ends with the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    ours = not ray.is_initialized()
    if ours:
        ray.init(logging_level="warning")
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _resources(job: Job, cluster: dict[str, float]) -> dict[str, Any]:
    """How many actors there may be, and what each takes of the cluster: a GPU where there are any."""
    from ray.data import ActorPoolStrategy

    gpus, each = int(cluster.get("GPU", 0)), job.workers or 1
    on_gpus = job.device == "cuda" or (job.device == "auto" and gpus > 0)
    most = gpus if on_gpus else _cpus(cluster) // each
    pool = ActorPoolStrategy(min_size=1, max_size=max(1, most))
    return {"compute": pool, "num_cpus": each - 2 * _WRITING, "num_gpus": int(on_gpus)}


def _cpus(cluster: dict[str, float]) -> int:
    return max(1, int(cluster.get("CPU", 1)))


def _write(rows: Any, target: str, suffix: str, *, at_once: int) -> None:
    """Write the parts. at_once: no more processes than that are started for it."""
    less = {"concurrency": at_once, "ray_remote_args": {"num_cpus": _WRITING}}
    if suffix == ".parquet":
        rows.write_parquet(target, **less)
    elif suffix == ".csv":
        rows.write_csv(target, **less)
    else:
        rows.write_json(target, double_precision=15, force_ascii=False, **less)


@contextmanager
def _in_place(out: str) -> Iterator[str]:
    """Where to write: beside the folder, which is put into its place when the block has ended well.

    Raises:
        OfflineError: the parts are all there, and cannot be put into their place; they stay where they are.
    """
    beside = _beside(out)
    _clear(beside)
    try:
        yield beside
    except BaseException:
        _clear(beside)
        raise
    try:
        if is_address(out):
            remote_files.replace_folder(beside, out)
        else:
            _replace_folder(Path(beside), Path(out).resolve())
    except (OSError, OfflineError, NotImplementedError) as error:  # the last is pyarrow's
        raise OfflineError(
            f"the parts are written, and {out} cannot be replaced by them ({error}); "
            f"what is not there yet is in {beside}: move it"
        ) from error


def _beside(out: str) -> str:
    return f"{out.rstrip('/') if is_address(out) else Path(out).resolve()}.ray-part"


def _clear(beside: str) -> None:
    """Delete the parts of a job that did not end."""
    if is_address(beside):
        if remote_files.exists(beside):
            remote_files.delete_folder(beside)
    else:
        shutil.rmtree(beside, ignore_errors=True)


def _replace_folder(parts: Path, place: Path) -> None:
    """Rename a folder to its place; the old one is deleted last, and is back where that cannot be done."""
    old = parts.with_suffix(".ray-old")
    shutil.rmtree(old, ignore_errors=True)
    there = place.exists()
    if there:
        place.replace(old)
    try:
        parts.replace(place)
    except OSError:
        if there:
            old.replace(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_out(out: str, overwrite: bool) -> None:
    """Raise OfflineError where something is in the way that may not be replaced, or no folder of parts."""
    if is_address(out):
        there, is_file = remote_files.exists(out), remote_files.is_file(out)
        names = remote_files.names(out) if there and not is_file else []
    else:
        place = Path(out).resolve()
        there, is_file = place.exists(), place.exists() and not place.is_dir()
        if not place.parent.is_dir():
            raise OfflineError(f"{out}: there is no folder {Path(out).parent}")
        names = [path.name for path in place.iterdir()] if place.is_dir() else []
    if is_file:
        raise OfflineError(
            f"{out} is a file, and --engine ray writes a folder of parts; give another name"
        )
    if any(PurePath(name).suffix not in _PARTS for name in names):
        raise OfflineError(f"{out} is a folder that holds more than parts; give another name")
    if there and not overwrite:
        raise OfflineError(f"{out} is there already; --overwrite replaces it")
