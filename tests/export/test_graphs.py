import pytest
import torch

from export.graphs import build_graph, signature
from serving.bundle import Tensor
from training import checkpoint
from training.checkpoint import Run
from training.joint import aggregate, conditional
from training.network import Network


@pytest.fixture(scope="module")
def network(trained: Run) -> Network:
    return checkpoint.load_network(trained)


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 12, 12, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("mode", ["distilled", "single", "aggregated"])
@torch.inference_mode()
def test_graph_gives_the_mode_of_the_training_network(
    network: Network, images: torch.Tensor, mode: str
):
    logits = network(images)
    assert logits.single is not None
    assert logits.joint is not None
    expected = {
        "distilled": logits.single,
        "single": conditional(logits.joint),
        "aggregated": aggregate(logits.joint),
    }[mode].softmax(1)
    found = build_graph(network, mode)(images)
    found = found[0] if isinstance(found, tuple) else found
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_aggregated_graph_gives_the_copies_and_what_each_says(
    network: Network, images: torch.Tensor
):
    _, each, copies = build_graph(network, "aggregated")(images)
    joint = network(images).joint
    assert joint is not None
    for m in range(4):
        torch.testing.assert_close(copies[:, m], torch.rot90(images, m, dims=(1, 2)))
        torch.testing.assert_close(each[:, m], conditional(joint, m).softmax(1), atol=1e-6, rtol=0)


@torch.inference_mode()
def test_temperature_divides_the_logits(network: Network, images: torch.Tensor):
    logits = network(images).single
    found = build_graph(network, "distilled", temperature=2.5)(images)
    torch.testing.assert_close(found, (logits / 2.5).softmax(1), atol=1e-6, rtol=0)


def test_signature_names_every_axis(network: Network):
    shape = signature(network, "aggregated", height=12, width=12)
    assert shape.inputs == (Tensor("images", "uint8", (None, 12, 12, 3)),)
    assert shape.outputs == (
        Tensor("probabilities", "float32", (None, 3)),
        Tensor("per_transformation", "float32", (None, 4, 3)),
        Tensor("copies", "uint8", (None, 4, 12, 12, 3)),
    )
    assert len(signature(network, "distilled", height=12, width=12).outputs) == 1
