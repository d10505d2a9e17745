"""BYOL: a target network's projection of one view predicted from the other view (Grill et al., arXiv 2006.07733)."""

import math

from torch import Tensor, nn

from training.ssl.cosine import paired_cosines
from training.ssl.heads import mlp
from training.ssl.method import Gather, Method, Pair
from training.ssl.target import Target


def byol_loss(prediction: Pair, target: Pair) -> Tensor:
    """‖p̄_1 - z̄_2‖² + ‖p̄_2 - z̄_1‖², the bar for length 1, mean over the batch: 2 - 2 cos of both orders (equation 2).

    prediction, target: (b, d) each; target_1 is the target network's projection of view 1. Returns a scalar in
    [0, 8]. The targets carry no gradient. AugSelf's released code leaves the constant 4 out; gradients are the same.
    """
    (p_1, p_2), (z_1, z_2) = prediction, target
    cosines = paired_cosines(p_1, z_2.detach()) + paired_cosines(p_2, z_1.detach())
    return (4 - 2 * cosines).mean()


def byol_momentum(base: float, step: int, total_steps: int) -> float:
    """From base at the first step to 1 after the last along a cosine: 1 - (1 - base)(cos(πk/K) + 1)/2 (section 3.2).

    By the step as in the paper; AugSelf's released code goes by the epoch.
    """
    return 1 - (1 - base) * (math.cos(math.pi * step / total_steps) + 1) / 2


class BYOL(Method):
    """Projector and predictor of two layers, 4096 wide to 256, and the target network."""

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        *,
        hidden: int = 4096,
        projection: int = 256,
        momentum: float = 0.996,
    ) -> None:
        super().__init__()
        self.projector = mlp((num_features, hidden, projection))
        self.predictor = mlp((projection, hidden, projection))
        self.target = Target(backbone, self.projector)
        self.momentum = momentum

    def forward(self, features: Pair, views: Pair, labels: Tensor, gather: Gather) -> Tensor:
        """As `Method.forward`, of the own rows."""
        prediction = (
            self.predictor(self.projector(features[0])),
            self.predictor(self.projector(features[1])),
        )
        return byol_loss(prediction, (self.target(views[0]), self.target(views[1])))

    def update(self, backbone: nn.Module, step: int, total_steps: int) -> None:
        """The target network follows, ever more slowly (equation 1)."""
        momentum = byol_momentum(self.momentum, step, total_steps)
        self.target.follow(backbone, self.projector, momentum=momentum)
