from pathlib import Path

import numpy as np
import pytest
import torch

from export import verify
from export.graphs import Signature, build_graph, signature
from serving.bundle import read
from serving.images import Pixels
from serving.manifest import Tensor
from training import checkpoint
from training.checkpoint import Run
from training.network import Network

pytestmark = pytest.mark.slow


@pytest.fixture
def network(trained: Run) -> Network:
    return checkpoint.load_network(trained)


@pytest.fixture
def images(trained: Run) -> Pixels:
    return checkpoint.read_validation_images(trained)[0].numpy()


def check(
    exported: Path, network: Network, images: Pixels, shape: Signature | None = None
) -> verify.Findings:
    findings = verify.Findings()
    graph = build_graph(network, "aggregated")
    shape = shape or signature(network, "aggregated", height=12, width=12)
    verify.check_graph(exported / "aggregated.onnx", graph, shape, [images], findings)
    return findings


def test_a_faithful_graph_has_no_failures(exported: Path, network: Network, images: Pixels):
    findings = check(exported, network, images)
    assert findings.failures == []
    assert 0 < findings.max_abs_diff <= verify.TOLERANCE


def test_other_weights_are_found_at_every_batch_size(
    exported: Path, network: Network, images: Pixels
):
    assert network.joint_head is not None
    torch.nn.init.normal_(network.joint_head.weight)
    failures = check(exported, network, images).failures
    for batch in verify.BATCHES:
        assert any(
            "probabilities differs from torch by up to" in f and f"batch {batch}" in f
            for f in failures
        )


def test_other_transformations_are_found(exported: Path, network: Network, images: Pixels):
    network.transformations = network.transformations[::-1]
    assert any("copies differs" in failure for failure in check(exported, network, images).failures)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"inputs": (Tensor("pixels", "uint8", (None, 12, 12, 3)),)}, "inputs are ['images']"),
        ({"inputs": (Tensor("images", "float32", (None, 12, 12, 3)),)}, "expected float32"),
        ({"inputs": (Tensor("images", "uint8", (2, 12, 12, 3)),)}, "expected uint8 (2, 12, 12, 3)"),
        ({"outputs": (Tensor("probabilities", "float32", (None, 3)),)}, "outputs are"),
    ],
)
def test_names_axes_and_types_are_compared(
    exported: Path,
    network: Network,
    images: Pixels,
    changed: dict[str, tuple[Tensor, ...]],
    said: str,
):
    right = signature(network, "aggregated", height=12, width=12)
    wrong = Signature(**({"inputs": right.inputs, "outputs": right.outputs} | changed))
    (failure,) = check(exported, network, images, wrong).failures
    assert said in failure


def test_a_file_that_is_no_graph_is_a_failure(tmp_path: Path, network: Network, images: Pixels):
    (tmp_path / "aggregated.onnx").write_bytes(b"no graph")
    (failure,) = check(tmp_path, network, images).failures
    assert "onnxruntime cannot load it" in failure


def test_agreement_counts_top_1_and_the_largest_difference():
    expected = torch.eye(4)[torch.arange(1000) % 4]
    served = expected.numpy().copy()
    served[:3] = np.roll(served[:3], 1, axis=1)
    findings = verify.Findings()
    verify.check_agreement("distilled", served, expected, findings, what="1000 images")
    assert findings.agreement == pytest.approx(0.997)
    assert findings.max_abs_diff == 1.0
    assert len(findings.failures) == 2


def test_agreement_of_equal_answers_is_no_failure():
    expected = torch.eye(4)
    findings = verify.Findings()
    verify.check_agreement("distilled", expected.numpy(), expected, findings, what="4 images")
    assert (findings.failures, findings.agreement, findings.max_abs_diff) == ([], 1.0, 0.0)


def test_answers_that_are_not_numbers_are_failures():
    broken = np.full((4, 4), np.nan, dtype=np.float32)
    findings = verify.Findings()
    verify.check_agreement("distilled", broken, torch.eye(4), findings, what="4 images")
    assert findings.failures


def test_served_split_goes_through_the_bytes(exported: Path, trained: Run):
    from serving.predictor import Predictor
    from training import data

    split = data.load(trained.config.data).test
    predictor = Predictor(read(exported), device="cpu")
    chunks = list(verify.serve_split(predictor, split, ("distilled",), 8))
    assert [len(chunk["distilled"]) for chunk in chunks] == [8, 8, 5]
    answers = {"distilled": np.concatenate([chunk["distilled"] for chunk in chunks])}
    pixels = np.stack([split.pixels(place, predictor.spec) for place in range(len(split))])
    np.testing.assert_allclose(
        answers["distilled"], predictor.predict(pixels, "distilled"), atol=1e-6
    )
