"""What is shipped, as modules: uint8 pictures in, probabilities or embeddings out, one module a mode.

Normalisation, temperature, the transformations and the aggregation are inside, so that nobody can
leave one out or put it in the wrong order. The names that serving relies on are its own
(serving/bundle.py); `signature` says all of what goes in and out. An encoder (training/encoder.py)
is shipped as it is.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from serving.bundle import COPIES, EMBEDDINGS, INPUT, PROBABILITIES, VOTES
from serving.bundle import Tensor as GraphTensor
from training.encoder import Encoder
from training.evaluate import MODES, Mode
from training.joint import own_logits
from training.network import Network
from training.objectives import Logits
from training.transformations import transformed_copies


@dataclass(frozen=True)
class Signature:
    """What goes in and what comes out of a graph, in order.

    relative: whether its outputs have no scale of their own, so that a difference counts as a share of the largest
    value: features do not, probabilities do.
    """

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    relative: bool = False


class OnePass(nn.Module):
    """A mode that runs the backbone once: the class head, or the joint head on the identity."""

    def __init__(self, network: Network, mode: Mode, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.mode = mode
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, H, W, 3) uint8. Returns the classes' probabilities (B, N)."""
        features = self.network.features(images)  # (B, D)
        single = None if self.network.class_head is None else self.network.class_logits(features)
        joint = (
            None
            if self.network.joint_head is None
            else self.network.joint_logits(features[:, None])
        )  # (B, 1, N, M)
        return (self.mode.logits(Logits(single, joint)) / self.temperature).softmax(1)


class AllCopies(nn.Module):
    """A mode that runs the backbone on all M transformed copies."""

    def __init__(self, network: Network, mode: Mode, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.mode = mode
        self.temperature = temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """images: (B, H, W, 3) uint8.

        Returns the classes' probabilities (B, N), what every copy says by itself (B, M, N), and the
        copies (B, M, H, W, 3) uint8. A caller that does not ask for an output does not pay for it.
        """
        network = self.network
        copies = transformed_copies(images, network.transformations)  # (B, M, H, W, 3)
        features = network.features(copies.flatten(0, 1)).unflatten(
            0, (-1, copies.shape[1])
        )  # (B, M, D)
        joint = network.joint_logits(features)  # (B, M, N, M)
        probabilities = (self.mode.logits(Logits(None, joint)) / self.temperature).softmax(1)
        return probabilities, (own_logits(joint) / self.temperature).softmax(2), copies


def build_graph(network: Network, mode: str, *, temperature: float = 1.0) -> OnePass | AllCopies:
    """The module of a mode. The network must be in evaluation mode and on the CPU."""
    kind = AllCopies if MODES[mode].all_copies else OnePass
    return kind(network, MODES[mode], temperature).eval()


def signature(network: Network, mode: str, *, height: int, width: int) -> Signature:
    """What goes in and out of a mode's graph."""
    outputs = [GraphTensor(PROBABILITIES, "float32", (None, network.num_classes))]
    if MODES[mode].all_copies:
        copies = len(network.transformations)
        outputs.append(GraphTensor(VOTES, "float32", (None, copies, network.num_classes)))
        outputs.append(GraphTensor(COPIES, "uint8", (None, copies, height, width, 3)))
    return Signature((GraphTensor(INPUT, "uint8", (None, height, width, 3)),), tuple(outputs))


def embedding_signature(encoder: Encoder, *, height: int, width: int) -> Signature:
    """What goes in and out of an encoder's graph."""
    return Signature(
        (GraphTensor(INPUT, "uint8", (None, height, width, 3)),),
        (GraphTensor(EMBEDDINGS, "float32", (None, encoder.num_features)),),
        relative=True,
    )
