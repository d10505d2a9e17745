"""A tiny bundle whose answers can be told by eye, made without torch: red, green or blue?

The class is the softmax of the mean of each colour channel, scaled; `aggregated` turns the picture by quarters,
which leaves a mean as it is, so all modes agree and only their cost differs. Beside it one with the mode `auto`,
whose `aggregated` is less sure by a temperature of 2, so that the two answers can be told apart; and one that embeds:
a picture's embedding is the mean of each channel, in [0, 1].
"""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.bundle import MANIFEST, encode, parse
from serving.manifest import Auto, Manifest, Mode, Tensor
from tests.pictures import RED, plain
from training.config import TrainConfig
from training.config_json import to_dict

CLASSES = ("red", "green", "blue")
SIZE = 32
TURNS = 4

_PIXELS = Tensor("images", "uint8", (None, SIZE, SIZE, 3))
_PROBABILITIES = Tensor("probabilities", "float32", (None, len(CLASSES)))
_VOTES = Tensor("per_transformation", "float32", (None, TURNS, len(CLASSES)))
_COPIES = Tensor("copies", "uint8", (None, TURNS, SIZE, SIZE, 3))
_IDENTITY = Tensor("identity_logits", "float32", (None, len(CLASSES)))
_EMBEDDINGS = Tensor("embeddings", "float32", (None, len(CLASSES)))
_TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}


def write_bundle(folder: Path, **changes: object) -> Path:
    """Write the bundle into a folder, which is made; changes replace fields of its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    modes = {
        "distilled": _write(folder, "distilled", _single(), (_PROBABILITIES,), 1),
        "single": _write(folder, "single", _single(), (_PROBABILITIES,), 1),
        "aggregated": _write(
            folder, "aggregated", _aggregated(), (_PROBABILITIES, _VOTES, _COPIES), TURNS
        ),
    }
    write_manifest(folder, replace(_manifest(modes, _write_sample(folder)), **changes))  # type: ignore[arg-type]
    return folder


def write_auto(
    folder: Path, *, threshold: float = 0.9, shared: bool = True, **changes: object
) -> Path:
    """Write the bundle that has `auto`; changes replace fields of its manifest.

    shared: whether the rest of `auto` is a graph of its own, or all of `aggregated`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    both, votes = (_PROBABILITIES, _IDENTITY), (_PROBABILITIES, _VOTES, _COPIES)
    outputs = both if shared else (_PROBABILITIES,)
    modes = {
        "distilled": _write(folder, "distilled", _single(), outputs, 1),
        "aggregated": _write(folder, "aggregated", _aggregated("unsure"), votes, TURNS),
    }
    rest = None
    if shared:
        pair = (_PIXELS, _IDENTITY)
        rest = _write(folder, "auto_rest", _rest(), votes, TURNS - 1, inputs=pair)
    auto = Auto("distilled", rest, threshold, 0.5, 2.5, {"top1": 1.0, "forward_passes": 2.5}, {})
    manifest = replace(_manifest(modes, _write_sample(folder)), auto=auto)
    write_manifest(folder, replace(manifest, **changes))  # type: ignore[arg-type]
    return folder


def write_embedder(folder: Path, **changes: object) -> Path:
    """Write the bundle that embeds into a folder, which is made; changes replace fields of its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    modes = {"embed": _write(folder, "embed", _means(), (_EMBEDDINGS,), 1)}
    manifest = replace(
        _manifest(modes, _write_sample(folder)),
        name="means",
        task="embed",
        classes=(),
        transformations=(),
        default_mode="embed",
    )
    write_manifest(folder, replace(manifest, **changes))  # type: ignore[arg-type]
    return folder


def replace_bundle(folder: Path, **changes: object) -> None:
    """Write the bundle as `viewfold export --overwrite` does: beside its place, then two renames."""
    part, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("part", "old"))
    write_bundle(part, **changes)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_unloadable(folder: Path) -> Path:
    """Write a bundle whose files are all as its manifest says, and one of whose graphs is none."""
    manifest = parse((write_bundle(folder) / MANIFEST).read_bytes())
    (folder / "distilled.onnx").write_bytes(b"no graph")
    digest = hashlib.sha256(b"no graph").hexdigest()
    modes = {**manifest.modes, "distilled": replace(manifest.modes["distilled"], sha256=digest)}
    write_manifest(folder, replace(manifest, modes=modes))
    return folder


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest as the bundle's own."""
    (folder / MANIFEST).write_text(encode(manifest), encoding="utf-8")


def _manifest(modes: dict[str, Mode], samples: dict[str, str]) -> Manifest:
    return Manifest(
        name="colours",
        task="classify",
        classes=CLASSES,
        image={"height": SIZE, "width": SIZE, "resize": "crop", "interpolation": "bicubic"},
        transformations=("rotation0", "rotation90", "rotation180", "rotation270"),
        modes=modes,
        default_mode="distilled",
        parity={"max_abs_diff": 0.0, "tolerance": 1e-4},
        provenance={"data": "made up", "config": to_dict(TrainConfig())},
        samples=samples,
    )


def _write_sample(folder: Path) -> dict[str, str]:
    path = folder / "samples" / "red.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(plain(RED))
    return {"samples/red.png": hashlib.sha256(path.read_bytes()).hexdigest()}


def _write(
    folder: Path,
    name: str,
    nodes: list[onnx.NodeProto],
    outputs: tuple[Tensor, ...],
    passes: int,
    inputs: tuple[Tensor, ...] = (_PIXELS,),
) -> Mode:
    path = folder / f"{name}.onnx"
    given, said = ([_info(tensor) for tensor in tensors] for tensors in (inputs, outputs))
    graph = helper.make_graph(nodes, name, given, said, _constants())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Mode(path.name, digest, inputs, outputs, passes, "fp32", 1.0, {"top1": 1.0})


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    shape = ["batch" if size is None else size for size in tensor.shape]
    return helper.make_tensor_value_info(tensor.name, _TYPES[tensor.dtype], shape)


def _constants() -> list[onnx.TensorProto]:
    values = {
        "scale": np.array(16 / 255, dtype=np.float32),
        "unsure": np.array(8 / 255, dtype=np.float32),
        "half": np.array(0.5, dtype=np.float32),
        "to_unit": np.array(1 / 255, dtype=np.float32),
        "spatial": np.array([1, 2]),
        "copy_axis": np.array([1]),
        "turns": np.array([1, TURNS, 1]),
        "height": np.array([1]),
        "width": np.array([2]),
        "from_end": np.array([-1]),
        "to_start": np.array([-(2**31)]),
        "backwards": np.array([-1]),
    }
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def _single(scale: str = "scale") -> list[onnx.NodeProto]:
    """images (B, H, W, 3) -> identity_logits, probabilities (B, N): N is 3, a class for each channel."""
    return [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "spatial"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", scale], ["identity_logits"]),
        helper.make_node("Softmax", ["identity_logits"], ["probabilities"], axis=1),
    ]


def _means() -> list[onnx.NodeProto]:
    """images (B, H, W, 3) -> embeddings (B, D): D is 3, the mean of each channel."""
    return [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "spatial"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "to_unit"], ["embeddings"]),
    ]


def _flip(source: str, result: str, axis: str) -> onnx.NodeProto:
    return helper.make_node("Slice", [source, "from_end", "to_start", axis, "backwards"], [result])


def _rest() -> list[onnx.NodeProto]:
    """As `_aggregated("unsure")`, from the identity's logits: the means of turned pictures are no others."""
    return [
        helper.make_node("Mul", ["identity_logits", "half"], ["mean"]),
        helper.make_node("Softmax", ["mean"], ["probabilities"], axis=1),
        *_votes(),
    ]


def _aggregated(scale: str = "scale") -> list[onnx.NodeProto]:
    return [*_single(scale), *_votes()]


def _votes() -> list[onnx.NodeProto]:
    """images (B, H, W, 3) and probabilities (B, N) -> per_transformation and copies."""
    copies = ("images", "turned1", "turned2", "turned3")
    return [
        helper.make_node("Unsqueeze", ["probabilities", "copy_axis"], ["vote"]),
        helper.make_node("Tile", ["vote", "turns"], ["per_transformation"]),
        helper.make_node("Transpose", ["images"], ["transposed"], perm=[0, 2, 1, 3]),
        _flip("transposed", "turned1", "height"),
        _flip("images", "upside_down", "height"),
        _flip("upside_down", "turned2", "width"),
        _flip("transposed", "turned3", "width"),
        *(helper.make_node("Unsqueeze", [c, "copy_axis"], [f"{c}_5d"]) for c in copies),
        helper.make_node("Concat", [f"{c}_5d" for c in copies], ["copies"], axis=1),
    ]
