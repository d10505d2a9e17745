"""Modules to ONNX: named axes, a free batch axis, the facts inside, and weights that graphs of one model share."""

import contextlib
import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx.external_data_helper import set_external_data
from torch import nn

from export.graphs import Signature
from serving.manifest import Tensor as GraphTensor

WEIGHTS = "weights.bin"
SHARED_FROM_BYTES = (
    20 * 1024 * 1024
)  # below this every graph holds its own weights and is one file to carry
_SHARED_TENSOR_BYTES = 1024  # smaller tensors stay in the graph
_ALIGNMENT = 4096  # onnxruntime maps external data into memory by pages


def to_onnx(graph: nn.Module, signature: Signature, facts: Mapping[str, Any]) -> onnx.ModelProto:
    """The ONNX model of a module, with a free batch axis. facts: what its metadata says, as JSON values.

    The arguments of the module's `forward` have the names of the inputs.
    """
    batch = torch.export.Dim("batch")
    names = [tensor.name for tensor in signature.inputs]
    with _quiet():
        program = torch.onnx.export(
            graph,
            tuple(_example(tensor) for tensor in signature.inputs),
            dynamo=True,
            dynamic_shapes={name: {0: batch} for name in names},
            input_names=names,
            output_names=[tensor.name for tensor in signature.outputs],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    model.producer_name = "viewfold"
    onnx.helper.set_model_props(model, {key: _text(value) for key, value in facts.items()})
    return model


def save(
    models: Mapping[str, onnx.ModelProto], folder: Path
) -> tuple[dict[str, Path], Path | None]:
    """Write the models into a folder. Returns ({mode: file}, the file of shared weights, or None if they are small).

    Tensors are shared by content: the graphs of one model hold the same weights, each once on disk.
    """
    shared = None
    if (
        max(sum(len(t.raw_data) for t in model.graph.initializer) for model in models.values())
        > SHARED_FROM_BYTES
    ):
        shared = folder / WEIGHTS
        _move_weights(models, shared)
    files = {}
    for mode, model in models.items():
        files[mode] = folder / f"{mode}.onnx"
        files[mode].write_bytes(model.SerializeToString())
    return files, shared


def _move_weights(models: Mapping[str, onnx.ModelProto], path: Path) -> None:
    places: dict[bytes, int] = {}
    with path.open("wb") as file:
        for model in models.values():
            for tensor in model.graph.initializer:
                content = tensor.raw_data
                if len(content) < _SHARED_TENSOR_BYTES:
                    continue
                digest = hashlib.sha256(content).digest()
                if digest not in places:
                    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                    places[digest] = file.tell()
                    file.write(content)
                set_external_data(tensor, path.name, offset=places[digest], length=len(content))
                tensor.ClearField("raw_data")


def _example(tensor: GraphTensor) -> torch.Tensor:
    """Zeros of that shape, two of them: 1 would be taken for a fixed size."""
    dtypes = {"uint8": torch.uint8, "float32": torch.float32}
    return torch.zeros([size or 2 for size in tensor.shape], dtype=dtypes[tensor.dtype])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks of its own future; what it says is of no use to the person who exports."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
