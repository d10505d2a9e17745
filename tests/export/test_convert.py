import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from export import convert
from export.graphs import build_graph, signature
from serving.bundle import read
from training import checkpoint
from training.checkpoint import Run
from training.config import LossConfig

pytestmark = pytest.mark.slow

MODES = ("distilled", "single", "aggregated")


@pytest.fixture(scope="module")
def models(trained: Run) -> dict[str, onnx.ModelProto]:
    network = checkpoint.load_network(trained)
    shapes = {mode: signature(network, mode, height=12, width=12) for mode in MODES}
    return {
        mode: convert.to_onnx(build_graph(network, mode), shapes[mode], {"mode": mode})
        for mode in MODES
    }


def copies(models: dict[str, onnx.ModelProto]) -> dict[str, onnx.ModelProto]:
    return {
        mode: onnx.ModelProto.FromString(model.SerializeToString())
        for mode, model in models.items()
    }


def answers(path: Path, batch: int) -> list[np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (batch, 12, 12, 3), dtype=np.uint8)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})


def test_batch_axis_is_free(models: dict[str, onnx.ModelProto], tmp_path: Path):
    files, _ = convert.save(copies(models), tmp_path)
    assert [answers(files["aggregated"], batch)[1].shape for batch in (1, 3, 64)] == [
        (1, 4, 3),
        (3, 4, 3),
        (64, 4, 3),
    ]


@pytest.mark.parametrize("mode", ["distilled", "single"])
def test_cosine_heads_say_in_onnx_what_they_say_in_torch(trained: Run, tmp_path: Path, mode: str):
    config = dataclasses.replace(trained.config, loss=LossConfig(ldam=0.5))
    network = checkpoint.build_network(config, trained.problem).eval()
    graph, shape = build_graph(network, mode), signature(network, mode, height=12, width=12)
    files, _ = convert.save({mode: convert.to_onnx(graph, shape, {})}, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = graph(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(answers(files[mode], 5)[0], expected, atol=1e-5)


def test_metadata_makes_a_graph_explain_itself(exported: Path):
    bundle = read(exported)
    session = ort.InferenceSession(bundle.graph("aggregated"), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["mode"] == "aggregated"
    assert json.loads(facts["classes"]) == list(bundle.manifest.classes)
    assert json.loads(facts["transformations"]) == list(bundle.manifest.transformations)
    assert json.loads(facts["image"]) == bundle.manifest.image
    assert json.loads(facts["forward_passes"]) == 4


def test_small_graphs_hold_their_own_weights(models: dict[str, onnx.ModelProto], tmp_path: Path):
    files, shared = convert.save(copies(models), tmp_path)
    assert shared is None
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in files.values()
    )


def test_large_graphs_share_their_weights(
    models: dict[str, onnx.ModelProto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "apart").mkdir()
    apart, _ = convert.save(copies(models), tmp_path / "apart")
    monkeypatch.setattr(convert, "SHARED_FROM_BYTES", 0)
    together, shared = convert.save(copies(models), tmp_path)
    assert shared is not None
    for mode in MODES:
        for own, common in zip(answers(apart[mode], 3), answers(together[mode], 3), strict=True):
            np.testing.assert_array_equal(own, common)
        assert together[mode].stat().st_size < 0.3 * apart[mode].stat().st_size
    assert shared.stat().st_size < 1.5 * max(path.stat().st_size for path in apart.values())
