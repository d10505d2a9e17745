"""A folder of models, laid out as Triton's: MODELS/NAME/manifest.json, or MODELS/NAME/VERSION/manifest.json.

A model is called as its folder is, whatever the manifest says. Versions are whole numbers without leading zeros; the
highest one that can be loaded is served. Hidden folders do not count: an export writes into one before it renames it.
A bundle by itself is a repository of one model, called as its manifest says. Knows no HTTP and no processes.

RepositoryError   a folder that is neither a bundle nor holds any; or, with --strict, one that cannot be served
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving import bundle
from serving.bundle import MANIFEST, Bundle, BundleError
from serving.model import Model, default_mode
from serving.predictor import DeviceError, ModeError, provider
from serving.settings import Settings

UNVERSIONED = "1"  # what a bundle is called that has no folder for its version
Signature = tuple[tuple[str, int, int, int], ...]
Make = Callable[[Bundle, str, str, str], Model]  # of a checked bundle, its name, version and digest

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_FAULTS = (BundleError, ModeError, DeviceError, OSError)


class RepositoryError(Exception):
    """A folder that cannot be served; the message says why and what to do."""


@dataclass(frozen=True)
class Fault:
    """A version of a model that cannot be served, and why, without a path."""

    version: str
    reason: str


@dataclass(frozen=True)
class Seen:
    """A model of a repository: its highest version that verifies, and what is wrong with those above it."""

    name: str
    bundle: Bundle | None
    faults: list[Fault]


@dataclass(frozen=True)
class Repository:
    """A folder of bundles; or a bundle, of which `single` is the name."""

    root: Path
    single: str | None = None

    def names(self) -> list[str]:
        """The models that there are, whether or not they can be loaded; in order.

        Raises:
            OSError: the folder cannot be read.
        """
        return self.look()[0]

    def look(self) -> tuple[list[str], list[str]]:
        """The models as `names` gives them, and the folders of models that nobody could ask for.

        Those have names that are not UTF-8; they are given as text that can be shown.

        Raises:
            OSError: the folder cannot be read.
        """
        if self.single is not None:
            return ([self.single] if versions(self.root) else []), []
        folders = (path for path in self.root.iterdir() if not path.name.startswith("."))
        names = sorted(path.name for path in folders if path.is_dir() and versions(path))
        return [name for name in names if _is_text(name)], [
            os.fsencode(name).decode("utf-8", "backslashreplace")
            for name in names
            if not _is_text(name)
        ]

    def folder(self, name: str) -> Path:
        """Where the bundle of that name lies, or its versions."""
        return self.root if self.single is not None else self.root / name


def open_repository(settings: Settings) -> Repository:
    """The repository that the settings name.

    Raises:
        RepositoryError: the folder holds no bundle and, where nothing could bring one later, never will.
        BundleError: its manifest is not one.
    """
    root = settings.bundle
    if (root / MANIFEST).is_file():
        return Repository(root, bundle.parse((root / MANIFEST).read_bytes()).name)
    found = Repository(root)
    if not root.is_dir():
        raise RepositoryError(f"{root} is not a bundle: there is no such folder")
    if not found.names() and not settings.watch and not settings.allow_load:
        raise RepositoryError(
            f"{root} is not a bundle: it has no {MANIFEST}, and no folder in it has one; "
            "make one with `viewfold export RUN OUT`"
        )
    return found


def check(repository: Repository, settings: Settings) -> list[Seen]:
    """What can be served of each model and what cannot, as far as that shows without loading a graph.

    Raises:
        RepositoryError: nothing can be served, or not everything and the settings ask for that.
        BundleError, ModeError, DeviceError: what is wrong with a bundle that is alone.
    """
    provider(settings.device)
    if repository.single is not None:
        found = bundle.read(repository.root)
        default_mode(found.manifest, settings)
        return [Seen(repository.single, found, [])]
    names, misnamed = repository.look()
    models = [_see(name, repository.folder(name), settings) for name in names]
    models += [Seen(name, None, [Fault("", "the folder's name is not UTF-8")]) for name in misnamed]
    said = [f"{model.name}: {fault.reason}" for model in models for fault in model.faults]
    if said and (settings.strict or not any(model.bundle for model in models)):
        raise RepositoryError(f"{repository.root}: {'; '.join(said)}")
    return models


def versions(folder: Path) -> list[tuple[str, Path]]:
    """The versions of a model, the highest first: those with a manifest, looked into no further."""
    if (folder / MANIFEST).is_file():
        return [(UNVERSIONED, folder)]
    try:
        found = [path for path in folder.iterdir() if _VERSION.fullmatch(path.name)]
    except OSError:
        return []
    whole = [path for path in found if (path / MANIFEST).is_file()]
    return [(path.name, path) for path in sorted(whole, key=lambda path: -int(path.name))]


def signature(folder: Path) -> Signature:
    """What tells whether any version in a folder has changed: every file's name, inode, size and time."""
    found = []
    for path in sorted(path for _, place in versions(folder) for path in place.rglob("*")):
        try:
            about = path.stat()
        except OSError:  # gone meanwhile
            continue
        found.append((str(path), about.st_ino, about.st_size, about.st_mtime_ns))
    return tuple(found)


def digest(folder: Path) -> str:
    """The digest that a manifest gives of itself; it is true of what `bundle.read` lets pass."""
    return str(json.loads((folder / MANIFEST).read_bytes())["digest"])


def head(folder: Path) -> tuple[str, str]:
    """Version and digest of the highest version, by its own word; empty where there is none that says."""
    for version, place in versions(folder):
        try:
            return version, digest(place)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return version, ""
    return "", ""


def load(
    folder: Path, name: str, make: Make, current: Model | None
) -> tuple[Model | None, list[Fault]]:
    """The highest version of a model that can be loaded, and what is wrong with those above it.

    current: what is served now: it is given back where it is the very same, or where its own folder no longer holds
        what can be loaded. None stands for nothing that can be loaded at all.
    """
    faults: list[Fault] = []
    for version, place in versions(folder):
        try:
            return _load(place, name, version, make, current), faults
        except _FAULTS as error:
            faults.append(Fault(version, _reason(error, place)))
        if current is not None and current.version == version:
            return current, faults
    return None, faults


def _load(place: Path, name: str, version: str, make: Make, current: Model | None) -> Model:
    before = signature(place)
    found = bundle.read(place)
    identity = digest(place)
    if current is not None and (current.version, current.digest) == (version, identity):
        return current
    made = make(found, name, version, identity)
    if signature(place) != before:  # the graphs may be another bundle's than the manifest
        raise BundleError(f"{name} was changed while it was being loaded; load it again")
    return made


def _is_text(name: str) -> bool:
    """Whether a file's name is UTF-8: Python keeps other bytes as half characters, which cannot be written."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _see(name: str, folder: Path, settings: Settings) -> Seen:
    faults: list[Fault] = []
    for version, place in versions(folder):
        try:
            found = bundle.read(place)
            default_mode(found.manifest, settings)
            return Seen(name, found, faults)
        except _FAULTS as error:
            faults.append(Fault(version, _reason(error, place)))
    return Seen(name, None, faults)


def _reason(error: Exception, place: Path) -> str:
    """What is wrong, without a path of this machine."""
    said = error.strerror or "it cannot be read" if isinstance(error, OSError) else str(error)
    return said.replace(str(place), place.name)
