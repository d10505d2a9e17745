"""A graph in lower precision: a model in fp32 in, the same in fp16 or int8 out, with the same inputs and outputs.

What is lowered is the body: from the first convolution or matrix product to the last but the heads; of an encoder,
which has none, to the last. Normalisation and the transformations before it, and the heads, the averaging over copies,
the temperature and the softmax after it stay in fp32: they cost next to nothing, and decide.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from export.errors import ExportError

Feeds = Mapping[str, NDArray[Any]]  # the inputs of a graph, by name

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# what lies between products and keeps int8 from being left and entered again at every residual sum
_INT8_OPS = ["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool"]


def to_fp16(model: ModelProto, feeds: Iterable[Feeds]) -> ModelProto:
    """The model with a body in half precision. feeds: not needed."""
    blocked = kept_in_fp32(model)
    lowered: ModelProto = convert_float_to_float16(
        _copied(model), keep_io_types=True, node_block_list=blocked
    )
    _skip_round_trips(lowered.graph)
    ONNXModel(lowered).topological_sort()
    return lowered


def to_int8(model: ModelProto, feeds: Iterable[Feeds]) -> ModelProto:
    """The model with a body in 8 bits (static QDQ): weights int8 per channel, activations uint8, as VNNI multiplies.

    feeds: real inputs, by which the ranges of the activations are chosen (least and largest value).
    """
    prepared = _copied(model)
    # torch's exporter has folded BatchNorm already; this keeps onnxruntime from asking for its own preparation
    onnx.helper.set_model_props(prepared, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            prepared,
            path,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_INT8_OPS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept_in_fp32(model),
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(path)


LOWER: dict[str, Callable[[ModelProto, Iterable[Feeds]], ModelProto]] = {
    "fp16": to_fp16,
    "int8": to_int8,
}


def lower(model: ModelProto, precision: str, feeds: Iterable[Feeds]) -> ModelProto:
    """The model in that precision, which it says of itself. feeds: some of its inputs, from real images.

    Raises:
        ExportError: a precision that is not known.
    """
    if precision not in LOWER:
        raise ExportError(f"unknown precision {precision!r}; choose from {['fp32', *LOWER]}")
    lowered = LOWER[precision](model, feeds)
    facts = {prop.key: prop.value for prop in model.metadata_props}
    del lowered.metadata_props[:]
    onnx.helper.set_model_props(lowered, facts | {"precision": precision})
    lowered.producer_name = model.producer_name
    return lowered


def kept_in_fp32(model: ModelProto) -> list[str]:
    """The nodes outside the body: those that no product comes before, and those that none comes after.

    The last product is a head, and outside, unless the model says that it embeds.
    """
    graph = model.graph
    heads = {prop.key: prop.value for prop in model.metadata_props}.get("task") != "embed"
    below = {o: node for node in graph.node for o in node.output}
    before, after = (
        set(),
        set(),
    )  # nodes of the body have a product at or before them, and one after them
    for node in graph.node:  # in topological order
        sources = [below[name].name for name in node.input if name in below]
        if node.op_type in _PRODUCTS or any(source in before for source in sources):
            before.add(node.name)
    for node in reversed(graph.node):
        if node.op_type in _PRODUCTS and not heads:
            after.add(node.name)
        if node.op_type in _PRODUCTS or node.name in after:
            after |= {below[name].name for name in node.input if name in below}
    return [node.name for node in graph.node if node.name not in before & after]


class _Reader:
    """The feeds one by one, as onnxruntime's calibration reads them."""

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        found = next(self._feeds, None)
        return None if found is None else dict(found)


def _skip_round_trips(graph: GraphProto) -> None:
    """Undo the casts to fp16 and back that the conversion puts between nodes which both stay in fp32.

    Where several such nodes read one tensor, the conversion casts it once for each, under one name: one stays.
    """
    casts = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Cast" and _target(node.attribute) == TensorProto.FLOAT16
    }
    for node in graph.node:
        if node.op_type == "Cast" and _target(node.attribute) == TensorProto.FLOAT:
            node.input[0] = casts.get(node.input[0], node.input[0])
    read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    kept = {node.output[0]: node for node in graph.node if read & set(node.output)}
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept.values()]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # the types of what lies between, which are no longer those


def _target(attributes: Sequence[onnx.AttributeProto]) -> int | None:
    return next((attribute.i for attribute in attributes if attribute.name == "to"), None)


def _copied(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy
