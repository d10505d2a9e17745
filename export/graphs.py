"""What is shipped, as modules: uint8 pictures in, probabilities or embeddings out, one module a mode.

The mode `auto` (serving/escalation.py) runs the module of its first pass and, for images in doubt, one of the rest.

Normalisation, temperature, the transformations and the aggregation are inside, so that nobody can
leave one out or put it in the wrong order. The names that serving relies on are its own
(serving/bundle.py); `signature` says all of what goes in and out. An encoder (training/encoder.py)
is shipped as it is.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from serving.manifest import (
    AGGREGATED,
    AUTO_REST,
    COPIES,
    EMBEDDINGS,
    IDENTITY_LOGITS,
    INPUT,
    PROBABILITIES,
    VOTES,
)
from serving.manifest import Tensor as GraphTensor
from training.encoder import Encoder
from training.evaluate import MODES, Answering, Mode
from training.joint import own_logits
from training.network import Network
from training.objectives import Logits
from training.transformations import transformed_copies


@dataclass(frozen=True)
class Signature:
    """What goes in and what comes out of a graph, in order."""

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]


@dataclass(frozen=True)
class Shipped:
    """A graph that is to be shipped: the module, what goes in and out, images through the backbone for one answer."""

    module: nn.Module
    signature: Signature
    forward_passes: int
    temperature: float


class OnePass(nn.Module):
    """A mode that runs the backbone once: the class head, or what the joint head says of the image as it is.

    For `auto` it also gives the latter as logits. That costs a head of N outputs, and has to: onnxruntime runs every
    node of a graph, whether its output is asked for or not (onnxruntime#16483).
    """

    def __init__(self, network: Network, mode: Mode, temperature: float, *, for_rest: bool) -> None:
        super().__init__()
        self.network = network
        self.mode = mode
        self.temperature = temperature
        self.identity = None if network.joint_head is None else identity_head(network)
        self.for_rest = for_rest

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """images: (B, H, W, 3) uint8.

        Returns the classes' probabilities (B, N), and for `auto` the identity's own logits (B, N).
        """
        features = self.network.features(images)  # (B, D)
        single = None if self.network.class_head is None else self.network.class_logits(features)
        identity = None if self.identity is None else self.identity(features)  # (B, N)
        joint = None if identity is None else identity[:, None, :, None]  # (B, 1, N, 1)
        probabilities = (self.mode.logits(Logits(single, joint)) / self.temperature).softmax(1)
        if not self.for_rest:
            return probabilities
        assert identity is not None
        return probabilities, identity


class AllCopies(nn.Module):
    """A mode that runs the backbone on all M transformed copies; or, in `auto`, on all but the image as it is.

    rest: whether the first copy is left out, and what it says is an input.
    """

    def __init__(self, network: Network, temperature: float, *, rest: bool) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.rest = rest

    def forward(
        self, images: Tensor, identity_logits: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """images: (B, H, W, 3) uint8. identity_logits: (B, N), where they are known.

        Returns the classes' probabilities (B, N), what every copy says by itself (B, M, N), and the
        copies (B, M, H, W, 3) uint8.
        """
        network, first = self.network, int(self.rest)
        copies = transformed_copies(images, network.transformations)  # (B, M, H, W, 3)
        run = copies[:, first:]  # (B, C, H, W, 3), C = M or M - 1
        features = network.features(run.flatten(0, 1)).unflatten(0, (-1, run.shape[1]))  # (B, C, D)
        own = own_logits(network.joint_logits(features), first)  # (B, C, N)
        if identity_logits is not None:
            own = torch.cat([identity_logits[:, None], own], 1)  # (B, M, N)
        probabilities = (own.mean(1) / self.temperature).softmax(1)
        return probabilities, (own / self.temperature).softmax(2), copies


def identity_head(network: Network) -> nn.Module:
    """The joint head's part that speaks of the image as it is: features (..., D) to class logits (..., N).

    Output i * M + j of the whole head is (class i, transformation j), and the identity is j = 0.
    """
    head = copy.deepcopy(network.joint_head)
    assert head is not None
    step = len(network.transformations)
    for name, parameter in list(head.named_parameters()):
        setattr(head, name, nn.Parameter(parameter[::step].detach().clone()))
    return head


def build_graph(
    network: Network, mode: str, *, temperature: float = 1.0, for_rest: bool = False
) -> OnePass | AllCopies:
    """The module of a mode. The network must be in evaluation mode and on the CPU.

    for_rest: of a mode of one pass, whether it gives `build_rest` what it needs.
    """
    if MODES[mode].all_copies:
        return AllCopies(network, temperature, rest=False).eval()
    return OnePass(network, MODES[mode], temperature, for_rest=for_rest).eval()


def build_rest(network: Network, *, temperature: float = 1.0) -> AllCopies:
    """The module of `auto` for images in doubt: the M - 1 other copies. The network as for `build_graph`."""
    return AllCopies(network, temperature, rest=True).eval()


def signature(
    network: Network, mode: str, *, height: int, width: int, for_rest: bool = False
) -> Signature:
    """What goes in and out of a mode's graph."""
    outputs = [GraphTensor(PROBABILITIES, "float32", (None, network.num_classes))]
    if for_rest:
        outputs.append(GraphTensor(IDENTITY_LOGITS, "float32", (None, network.num_classes)))
    if MODES[mode].all_copies:
        copies = len(network.transformations)
        outputs.append(GraphTensor(VOTES, "float32", (None, copies, network.num_classes)))
        outputs.append(GraphTensor(COPIES, "uint8", (None, copies, height, width, 3)))
    return Signature((GraphTensor(INPUT, "uint8", (None, height, width, 3)),), tuple(outputs))


def rest_signature(network: Network, *, height: int, width: int) -> Signature:
    """What goes in and out of the rest of `auto`: as `aggregated`, and the identity's logits in."""
    whole = signature(network, AGGREGATED, height=height, width=width)
    identity = GraphTensor(IDENTITY_LOGITS, "float32", (None, network.num_classes))
    return Signature((*whole.inputs, identity), whole.outputs)


def embedding_signature(encoder: Encoder, *, height: int, width: int) -> Signature:
    """What goes in and out of an encoder's graph."""
    return Signature(
        (GraphTensor(INPUT, "uint8", (None, height, width, 3)),),
        (GraphTensor(EMBEDDINGS, "float32", (None, encoder.num_features)),),
    )


def first_pass(networks: Answering) -> str | None:
    """The mode that `auto` begins with: the default one, where there is also one of all copies; else None."""
    mode = next(iter(networks))
    looks = AGGREGATED in networks and len(networks[AGGREGATED].transformations) > 1
    return mode if looks and not MODES[mode].all_copies else None


def shares_first_pass(networks: Answering) -> bool:
    """Whether the first pass of `auto` is one of those that `aggregated` makes: by the same network."""
    first = first_pass(networks)
    return first is not None and networks[first] is networks[AGGREGATED]


def shipped(
    networks: Answering, temperatures: Mapping[str, float], *, height: int, width: int
) -> dict[str, Shipped]:
    """Every graph of a bundle by name: one a mode, and the rest of `auto` where that has a graph of its own.

    temperatures: of every mode.
    """
    first, shares = first_pass(networks), shares_first_pass(networks)
    graphs = {}
    for mode, network in networks.items():
        for_rest = shares and mode == first
        module = build_graph(network, mode, temperature=temperatures[mode], for_rest=for_rest)
        shape = signature(network, mode, height=height, width=width, for_rest=for_rest)
        count = MODES[mode].forward_passes(len(network.transformations))
        graphs[mode] = Shipped(module, shape, count, temperatures[mode])
    if shares:
        network, temperature = networks[AGGREGATED], temperatures[AGGREGATED]
        rest = build_rest(network, temperature=temperature)
        shape = rest_signature(network, height=height, width=width)
        graphs[AUTO_REST] = Shipped(rest, shape, len(network.transformations) - 1, temperature)
    return graphs
