"""What the workers of a server agree on, in a folder of its own: processes that have no other channel.

wanted.json      which models are to be served; replaced whole, under a lock, with a generation that only grows
PID.json         what a worker serves, and which generation it has reached
PID.lock         held by that worker for as long as it lives: a worker is dead when its lock is free
server.lock      held in the same way by the process that started the workers

The folder lies within BentoML's home, never in the repository, which may be read-only.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from serving.settings import bentoml_home

STATE = "VIEWFOLD_STATE"  # the folder, for workers; set by the process that starts them
READY, UNAVAILABLE, LOADING = "READY", "UNAVAILABLE", "LOADING"

_WANTED = "wanted.json"


@dataclass(frozen=True)
class Wanted:
    """What is to be served.

    models: name -> the generation in which it was last asked for, so that asking again means to load it again.
    unloaded: names that a client has unloaded; a watched folder does not bring them back.
    single: the name of the bundle that the repository is, if it is one.
    """

    generation: int
    models: Mapping[str, int]
    unloaded: tuple[str, ...] = ()
    single: str | None = None


@dataclass(frozen=True)
class Entry:
    """What a worker has of a version of a model: READY, LOADING, or UNAVAILABLE for a reason."""

    name: str
    version: str
    state: str
    reason: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Report:
    """What a worker serves. generation: the newest that it has carried out."""

    pid: int
    generation: int
    entries: tuple[Entry, ...] = field(default=())


class State:
    """The folder, as every process of a server sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._wanted = folder / _WANTED

    @property
    def begun(self) -> bool:
        """Whether anything has been wanted yet."""
        return self._wanted.is_file()

    def begin(self, names: Iterable[str], single: str | None) -> None:
        """Want these models, unless something is wanted already."""
        with self._lock("change.lock"):
            if not self.begun:
                _write(self._wanted, asdict(Wanted(1, dict.fromkeys(names, 1), single=single)))

    def wanted(self) -> Wanted:
        """What is to be served."""
        content = json.loads(self._wanted.read_text(encoding="utf-8"))
        return Wanted(**{**content, "unloaded": tuple(content["unloaded"])})

    def stamp(self) -> tuple[int, int]:
        """What changes whenever something else is wanted."""
        about = self._wanted.stat()
        return about.st_ino, about.st_mtime_ns

    def load(self, names: Iterable[str]) -> int:
        """Want models to be loaded, or loaded again. Returns the generation."""
        return self._change(load=names)

    def unload(self, names: Iterable[str], *, for_good: bool) -> int:
        """Want models no more. for_good: also if they lie in a watched folder. Returns the generation."""
        return self._change(unload=names, for_good=for_good)

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Be counted among the workers for as long as the block lasts, or the process lives."""
        with self._lock(f"{os.getpid()}.lock"):
            self.report(0, ())
            yield

    def report(self, generation: int, entries: Iterable[Entry]) -> None:
        """Say what this worker serves."""
        said = Report(os.getpid(), generation, tuple(entries))
        _write(self.folder / f"{said.pid}.json", asdict(said))

    def reports(self) -> list[Report]:
        """What every living worker says, in order of their numbers."""
        found = []
        for path in self.folder.glob("*.json"):
            if path != self._wanted and _held(path.with_suffix(".lock")):
                content = json.loads(path.read_text(encoding="utf-8"))
                entries = tuple(Entry(**entry) for entry in content["entries"])
                found.append(Report(content["pid"], content["generation"], entries))
        return sorted(found, key=lambda report: report.pid)

    def try_lead(self) -> TextIOWrapper | None:
        """The right to do what one worker does for all, until the file is closed; None if another has it."""
        return _try_lock(self.folder / "lead.lock", fcntl.LOCK_EX)

    def _change(
        self, *, load: Iterable[str] = (), unload: Iterable[str] = (), for_good: bool = False
    ) -> int:
        with self._lock("change.lock"):
            before, loaded, gone = self.wanted(), tuple(load), set(unload)
            generation = before.generation + 1
            models = {name: asked for name, asked in before.models.items() if name not in gone}
            unloaded = set(before.unloaded).difference(loaded) | (gone if for_good else set())
            after = Wanted(
                generation,
                {**models, **dict.fromkeys(loaded, generation)},
                tuple(sorted(unloaded)),
                before.single,
            )
            _write(self._wanted, asdict(after))
            return generation

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with (self.folder / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def make_folder(environment: MutableMapping[str, str] = os.environ) -> Path:
    """A new folder for this server, named in the environment for its workers; those of dead servers are removed.

    A server is dead when every lock in its folder is free. Process ids would not tell: servers in several containers
    may share BentoML's home, and each is process 1.
    """
    parent = bentoml_home(environment) / "viewfold-state"
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / "change.lock").open("w") as changing:
        fcntl.flock(
            changing, fcntl.LOCK_EX
        )  # a folder is not removed between being made and being locked
        for old in parent.iterdir():
            if old.is_dir() and not any(map(_held, old.glob("*.lock"))):
                shutil.rmtree(old, ignore_errors=True)
        folder = Path(mkdtemp(prefix="server-", dir=parent))
        # never closed: held for as long as this process lives
        fcntl.flock(os.open(folder / "server.lock", os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)
    environment[STATE] = str(folder)
    return folder


@contextmanager
def worker_folder(environment: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """The folder that the starting process made; one for this process alone, for a while, where nothing started it."""
    if given := environment.get(STATE):
        yield Path(given)
        return
    with TemporaryDirectory(prefix="viewfold-state-") as made:
        yield Path(made)


def _held(path: Path) -> bool:
    """Whether a living process holds a lock."""
    if not path.is_file():
        return False
    free = _try_lock(path, fcntl.LOCK_SH)  # several may look at a time
    if free is not None:
        free.close()
    return free is None


def _try_lock(path: Path, kind: int) -> TextIOWrapper | None:
    file = path.open("a+")  # NFS shares a lock only of what may be read
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all; it has another inode than before."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(path)
