import dataclasses

import pytest
import torch
from torch import nn

from export.graphs import build_graph, build_rest, identity_head, rest_signature, shipped, signature
from serving.manifest import Tensor
from training import checkpoint
from training.checkpoint import Run
from training.config import LossConfig
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


class Counting(nn.Module):
    """A backbone that counts the images that go through it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_features = backbone.num_features
        self.images = 0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.images += len(pixels)
        features: torch.Tensor = self.backbone(pixels)
        return features


@pytest.mark.parametrize("mode", ["distilled", "single"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@torch.inference_mode()
def test_first_pass_and_rest_together_are_aggregated(
    network: Network, images: torch.Tensor, mode: str, temperature: float
):
    first = build_graph(network, mode, temperature=1.7, for_rest=True)
    probabilities, identity = first(images)
    torch.testing.assert_close(probabilities, build_graph(network, mode, temperature=1.7)(images))
    found = build_rest(network, temperature=temperature)(images, identity)
    expected = build_graph(network, "aggregated", temperature=temperature)(images)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_identity_goes_through_the_backbone_once(trained: Run, images: torch.Tensor):
    network = checkpoint.load_network(trained)
    network.backbone = counting = Counting(network.backbone)
    first, rest = build_graph(network, "distilled", for_rest=True), build_rest(network)
    _, identity = first(images)
    assert counting.images == 5
    rest(images, identity)
    assert counting.images == 5 + 5 * 3
    build_graph(network, "aggregated")(images)
    assert counting.images == 5 + 5 * 3 + 5 * 4


@pytest.mark.parametrize("ldam", [0.0, 0.5])
@torch.inference_mode()
def test_identity_head_is_the_joint_heads_own_part(trained: Run, ldam: float):
    config = dataclasses.replace(trained.config, loss=LossConfig(ldam=ldam))
    network = checkpoint.build_network(config, trained.problem).eval()
    features = torch.randn(5, network.backbone.num_features)  # type: ignore[arg-type]
    expected = conditional(network.joint_logits(features[:, None]))
    torch.testing.assert_close(identity_head(network)(features), expected)


def test_signature_of_the_rest_takes_what_the_first_pass_gives(network: Network):
    first = signature(network, "distilled", height=12, width=12, for_rest=True)
    rest = rest_signature(network, height=12, width=12)
    assert [tensor.name for tensor in first.outputs] == ["probabilities", "identity_logits"]
    assert rest.inputs == (*first.inputs, first.outputs[1])
    assert rest.outputs == signature(network, "aggregated", height=12, width=12).outputs


def test_only_the_default_mode_serves_auto(network: Network):
    networks = dict.fromkeys(("distilled", "single", "aggregated"), network)
    graphs = shipped(networks, dict.fromkeys(networks, 2.0), height=12, width=12)
    outputs = {name: len(graph.signature.outputs) for name, graph in graphs.items()}
    assert outputs == {"distilled": 2, "single": 1, "aggregated": 3, "auto_rest": 3}
    passes = {name: graph.forward_passes for name, graph in graphs.items()}
    assert passes == {"distilled": 1, "single": 1, "aggregated": 4, "auto_rest": 3}
    assert {graph.temperature for graph in graphs.values()} == {2.0}


def test_a_pass_of_another_network_has_no_rest(network: Network, trained: Run):
    networks = {"distilled": checkpoint.load_network(trained), "aggregated": network}
    graphs = shipped(networks, dict.fromkeys(networks, 1.0), height=12, width=12)
    assert list(graphs) == ["distilled", "aggregated"]
    assert len(graphs["distilled"].signature.outputs) == 1
