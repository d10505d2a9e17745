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
from typing import Any, get_origin

FORMAT = 1
MANIFEST = "manifest.json"
INPUT = "images"  # of every graph
PROBABILITIES, EMBEDDINGS = "probabilities", "embeddings"
VOTES, COPIES = "per_transformation", "copies"  # of graphs that look at all transformed copies
ANSWERS = {"classify": PROBABILITIES, "embed": EMBEDDINGS}  # task -> the output that answers


class BundleError(Exception):
    """A folder that cannot be served; the message says what is wrong with it and what to do."""


@dataclass(frozen=True)
class Tensor:
    """An input or an output of a graph; None in the shape is the batch axis, which is free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Mode:
    """One way of answering: a graph, what goes in and out of it, and what it was measured to be worth."""

    file: str
    sha256: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    forward_passes: int
    precision: str
    temperature: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself; docs/bundle.md describes every field."""

    name: str
    task: str
    classes: tuple[str, ...]
    image: dict[str, Any]
    transformations: tuple[str, ...]
    modes: dict[str, Mode]
    default_mode: str
    parity: dict[str, Any]
    provenance: dict[str, Any]
    weights: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # external data that the graphs share: file -> sha256
    samples: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # example images, samples/LABEL.png: file -> sha256

    @property
    def answer(self) -> Tensor:
        """What the default mode answers with: probabilities (B, N) or embeddings (B, D)."""
        outputs = {tensor.name: tensor for tensor in self.modes[self.default_mode].outputs}
        return outputs[ANSWERS[self.task]]

    @property
    def dimensions(self) -> int | None:
        """How many numbers an embedding has (D); None where the bundle answers with classes."""
        return self.answer.shape[1] if self.task == "embed" else None


@dataclass(frozen=True)
class Bundle:
    """A folder whose every file has been checked against its manifest."""

    folder: Path
    manifest: Manifest

    def graph(self, mode: str) -> Path:
        """The path of a mode's graph."""
        return self.folder / self.manifest.modes[mode].file


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
        {mode.file: mode.sha256 for mode in manifest.modes.values()}
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
    except ValueError as error:
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
    fields = {field.name: content[field.name] for field in dataclasses.fields(Manifest)}
    for field in dataclasses.fields(Manifest):
        found, kind = fields[field.name], _json_type(field)
        if not isinstance(found, kind):
            raise TypeError(f"{field.name} is {type(found).__name__}, not {kind.__name__}")
    modes = {name: _mode(value) for name, value in fields["modes"].items()}
    if not modes or fields["default_mode"] not in modes:
        raise ValueError(
            f"default_mode {fields['default_mode']!r} is not one of the modes {sorted(modes)}"
        )
    classes, transformations = tuple(fields["classes"]), tuple(fields["transformations"])
    manifest = Manifest(
        **fields | {"modes": modes, "classes": classes, "transformations": transformations}
    )
    _check_task(manifest)
    return manifest


def _check_task(manifest: Manifest) -> None:
    """Raise ValueError where the manifest mixes tasks: an encoder with classes, a classifier's graph that embeds."""
    task = manifest.task
    if task not in ANSWERS:
        raise ValueError(f"task {task!r} is not one of {list(ANSWERS)}")
    if task == "classify" and not manifest.classes:
        raise ValueError("there are no classes")
    if task == "embed" and (manifest.classes or manifest.transformations):
        raise ValueError("an encoder has neither classes nor transformations, and this one has")
    for name, mode in manifest.modes.items():
        found = [t for t in mode.outputs if t.name in ANSWERS.values()]
        if [t.name for t in found] != [ANSWERS[task]]:
            raise ValueError(
                f"mode {name!r} answers with {[t.name for t in found]}, not with {ANSWERS[task]!r}"
            )
        sizes = found[0].shape[1:]
        if len(sizes) != 1 or not isinstance(sizes[0], int) or sizes[0] < 1:
            raise ValueError(f"mode {name!r} answers with the shape {found[0].shape}")


def _json_type(field: dataclasses.Field[Any]) -> type:
    """What JSON makes of a field: a list of a tuple, and else what the field holds."""
    kind = get_origin(field.type) or field.type
    assert isinstance(kind, type)
    return list if kind is tuple else kind


def _mode(value: dict[str, Any]) -> Mode:
    tensors = {
        side: tuple(Tensor(t["name"], t["dtype"], tuple(t["shape"])) for t in value[side])
        for side in ("inputs", "outputs")
    }
    return Mode(**{**value, **tensors})


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
