import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto

from export import convert, quantize
from export.errors import ExportError
from export.quantize import Feeds, kept_in_fp32, lower

GRAPHS = ("distilled", "aggregated", "auto_rest")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(exported: Path) -> dict[str, ModelProto]:
    """Graphs in fp32. Not to be changed."""
    return {name: onnx.load(exported / f"{name}.onnx") for name in GRAPHS}


def inputs(name: str, count: int = 16) -> Feeds:
    """Pictures of one colour each with noise, and logits where the graph takes some."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 120, (count, 12, 12, 3))
    images[np.arange(count), :, :, np.arange(count) % 3] += 100
    feeds: dict[str, np.ndarray] = {"images": images.astype(np.uint8)}
    if name == "auto_rest":
        feeds["identity_logits"] = generator.normal(size=(count, 3)).astype(np.float32)
    return feeds


def run(model: ModelProto, feeds: Feeds) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


@pytest.mark.parametrize("name", GRAPHS)
def test_normalisation_and_what_follows_the_features_stay_in_fp32(
    models: dict[str, ModelProto], name: str
):
    graph = models[name].graph
    kept = set(kept_in_fp32(models[name]))
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 5
    assert not kept & set(convolutions)
    decisive = [n.name for n in graph.node if n.op_type in ("Sub", "Softmax", "Gemm", "MatMul")]
    assert len(decisive) >= 3
    assert kept >= set(decisive)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize(("precision", "atol"), [("fp16", 0.005), ("int8", 0.15)])
def test_lowered_graph_takes_and_says_the_same(
    models: dict[str, ModelProto], name: str, precision: str, atol: float
):
    before = models[name].SerializeToString()
    lowered = lower(models[name], precision, [inputs(name)])
    assert models[name].SerializeToString() == before  # and is left alone
    onnx.checker.check_model(lowered)
    for ours, theirs in zip(
        run(lowered, inputs(name, 7)), run(models[name], inputs(name, 7)), strict=True
    ):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if ours.shape[-1] == 3 and abs(theirs).max() <= 1:  # probabilities, and no pixels
            np.testing.assert_allclose(ours, theirs, atol=atol)
            assert abs(ours - theirs).max() > 0
    facts = {prop.key: prop.value for prop in lowered.metadata_props}
    assert facts.pop("precision") == precision
    assert facts.items() <= {prop.key: prop.value for prop in models[name].metadata_props}.items()
    assert json.loads(facts["classes"]) == ["red", "green", "blue"]


def test_int8_has_weights_per_channel_and_activations_from_0_to_255(models: dict[str, ModelProto]):
    lowered = lower(models["distilled"], "int8", [inputs("distilled")])
    convolutions = sum(node.op_type == "Conv" for node in lowered.graph.node)
    weights = [t for t in lowered.graph.initializer if t.data_type == TensorProto.INT8 and t.dims]
    kernels = [tensor for tensor in weights if len(tensor.dims) == 4]
    assert len(kernels) == convolutions
    tensors = {tensor.name: tensor for tensor in lowered.graph.initializer}
    for node in lowered.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in {k.name for k in kernels}:
            assert tensors[node.input[1]].dims == tensors[node.input[0]].dims[:1]  # a scale each
        if node.op_type == "QuantizeLinear":
            assert tensors[node.input[2]].data_type == TensorProto.UINT8


def test_fp16_halves_the_weights(models: dict[str, ModelProto]):
    def weights(model: ModelProto) -> int:
        return sum(len(tensor.raw_data) for tensor in model.graph.initializer)

    lowered = lower(models["distilled"], "fp16", [])
    assert weights(lowered) < 0.55 * weights(models["distilled"])


def test_fp16_decides_in_fp32(models: dict[str, ModelProto]):
    graph = onnx.shape_inference.infer_shapes(lower(models["aggregated"], "fp16", [])).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    decisive = [node for node in graph.node if node.op_type in ("Sub", "Softmax", "MatMul")]
    assert len(decisive) >= 3
    found = {types[node.input[0]] for node in decisive} - {TensorProto.INT64}  # sizes
    assert found == {TensorProto.FLOAT}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert {types[node.input[0]] for node in convolutions} == {TensorProto.FLOAT16}


def test_fp16_takes_no_round_trip_where_all_is_in_fp32(models: dict[str, ModelProto]):
    graph = lower(models["aggregated"], "fp16", []).graph
    casts = {node.output[0] for node in graph.node if node.op_type == "Cast" and to_half(node)}
    back = [node for node in graph.node if node.op_type == "Cast" and not to_half(node)]
    assert casts
    assert back
    assert not casts & {name for node in back for name in node.input}


def to_half(node: onnx.NodeProto) -> bool:
    return any(a.name == "to" and a.i == TensorProto.FLOAT16 for a in node.attribute)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lowered_graphs_share_their_weights(
    models: dict[str, ModelProto], precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lowered = {name: lower(model, precision, [inputs(name)]) for name, model in models.items()}
    alone = max(sum(len(t.raw_data) for t in m.graph.initializer) for m in lowered.values())
    expected = {name: run(model, inputs(name, 3))[0] for name, model in lowered.items()}
    monkeypatch.setattr(convert, "SHARED_FROM_BYTES", 0)
    files, shared = convert.save(lowered, tmp_path)
    assert shared is not None
    assert shared.stat().st_size < 1.5 * alone
    for name, file in files.items():
        session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        found = session.run(None, inputs(name, 3))[0]
        np.testing.assert_allclose(found, expected[name], atol=1e-5)


def test_unknown_precision_lists_the_known_ones(models: dict[str, ModelProto]):
    with pytest.raises(ExportError, match=r"'int4'; choose from \['fp32', 'fp16', 'int8'\]"):
        quantize.lower(models["distilled"], "int4", [])
