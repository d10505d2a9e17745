"""The contract between export and serving: a folder with manifest.json and the ONNX graphs it names.

Reading checks everything before anything is used: the format, the manifest's own digest, the
presence and the SHA-256 of every file. Standard library only. Writing is export's work
(export/bundle.py); the text of the manifest is made and read here alone.

    BundleError    the folder is no bundle, is incomplete, was altered, or is newer than this program
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_origin

from serving.manifest import Auto, Manifest, Mode, Tensor, check

FORMAT = 2
_SINCE = {"auto": 2, "calibration": 2, "precision": 2}  # fields that older formats lack
MANIFEST = "manifest.json"


class BundleError(Exception):
    """A folder that cannot be served; the message says what is wrong with it and what to do."""


@dataclass(frozen=True)
class Bundle:
    """A folder whose every file has been checked against its manifest."""

    folder: Path
    manifest: Manifest

    def graph(self, name: str) -> Path:
        """The path of a graph: of a mode, or of the rest of `auto`."""
        return self.folder / self.manifest.graphs[name].file


def read(folder: Path) -> Bundle:
    """The bundle in a folder, with every file checked.

    Raises:
        BundleError: no manifest, one of a newer format, an altered or incomplete one, a missing or
            altered file.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST}; make one with `viewfold export RUN OUT`"
        )
    manifest = parse(path.read_bytes())
    expected = (
        {graph.file: graph.sha256 for graph in manifest.graphs.values()}
        | manifest.weights
        | manifest.samples
    )
    for name, digest in expected.items():
        _check_file(folder, name, digest)
    return Bundle(folder, manifest)


def encode(manifest: Manifest) -> str:
    """The text of manifest.json: the fields, the format, and a digest over both."""
    content = {"format": FORMAT, **dataclasses.asdict(manifest)}
    return json.dumps({**content, "digest": _digest(content)}, indent=1, ensure_ascii=False) + "\n"


def parse(text: bytes | str) -> Manifest:
    """The manifest in the text of manifest.json.

    Raises:
        BundleError: not JSON, a newer format, a digest that does not match, a missing or malformed
            field.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is not JSON ({error}); export the bundle again") from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise BundleError(f"{MANIFEST} has no number under 'format'; export the bundle again")
    if content["format"] > FORMAT:
        raise BundleError(
            f"{MANIFEST} is of format {content['format']}, this viewfold reads up to {FORMAT}; "
            "install a newer viewfold, or export the bundle with this one"
        )
    if content.pop("digest", None) != _digest(content):
        raise BundleError(
            f"{MANIFEST} does not match its own digest: it was altered; export the bundle again"
        )
    try:
        return _manifest(content)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{MANIFEST} is malformed ({error!r}); export the bundle again") from None


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _manifest(content: dict[str, Any]) -> Manifest:
    known = [f for f in dataclasses.fields(Manifest) if _SINCE.get(f.name, 1) <= content["format"]]
    fields = {field.name: content[field.name] for field in known}
    auto = fields.pop("auto", None)
    _check_types(Manifest, fields, "")
    fields |= {name: _texts(name, fields[name]) for name in ("classes", "transformations")}
    fields["modes"] = {
        name: _mode(value, f"modes.{name}.") for name, value in fields["modes"].items()
    }
    manifest = Manifest(**fields, auto=None if auto is None else _auto(auto))
    check(manifest)
    return manifest


def _check_types(of: type, values: Mapping[str, Any], where: str) -> None:
    """Raise TypeError where a value is not what JSON makes of the field of that name. where: before the names."""
    if not isinstance(values, dict):
        raise TypeError(f"{where.removesuffix('.')} is not an object")
    for field in (field for field in dataclasses.fields(of) if field.name in values):
        found, kinds = values[field.name], _json_types(field)
        if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
            name, expected = f"{where}{field.name}", " or ".join(kind.__name__ for kind in kinds)
            raise TypeError(f"{name} is {type(found).__name__}, not {expected}")


def _json_types(field: dataclasses.Field[Any]) -> tuple[type, ...]:
    """What JSON makes of a field: a list of a tuple, any number of a float, and else what the field holds."""
    kind = get_origin(field.type) or field.type
    if kind is UnionType:  # an object, or null
        return dict, NoneType
    assert isinstance(kind, type)
    return {tuple: (list,), float: (float, int)}.get(kind, (kind,))


def _texts(name: str, values: list[Any]) -> tuple[str, ...]:
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{name} has {value!r}, which is no text")
    return tuple(values)


def _mode(value: dict[str, Any], where: str) -> Mode:
    _check_types(Mode, value, where)
    tensors = {
        side: tuple(_tensor(t, where) for t in value[side]) for side in ("inputs", "outputs")
    }
    return Mode(**{**value, **tensors})


def _tensor(value: dict[str, Any], where: str) -> Tensor:
    _check_types(Tensor, value, f"{where}tensor.")
    return Tensor(value["name"], value["dtype"], tuple(value["shape"]))


def _auto(value: dict[str, Any]) -> Auto:
    _check_types(Auto, value, "auto.")
    rest = None if value["rest"] is None else _mode(value["rest"], "auto.rest.")
    return Auto(**{**value, "rest": rest})


def _check_file(folder: Path, name: str, digest: str) -> None:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise BundleError(
            f"{MANIFEST} names the file {name!r} outside the bundle; export the bundle again"
        )
    if not path.is_file():
        raise BundleError(f"{name} is missing from {folder}; export the bundle again")
    if file_sha256(path) != digest:
        raise BundleError(f"{name}: sha256 does not match the manifest; export the bundle again")
