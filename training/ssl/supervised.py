"""Supervised pretraining: the labels, under the views of self-supervision (the AugSelf paper, arXiv 2111.09613).

AugSelf's released code lacks it.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from training.ssl.method import Gather, Method, Pair


def supervised_loss(logits: Pair, labels: Tensor) -> Tensor:
    """½ CE(s_1, y) + ½ CE(s_2, y), mean over the batch. logits: (b, N) each, labels: (b,) int64 in [0, N).

    Autocast itself takes cross-entropies in float32.
    """
    return (F.cross_entropy(logits[0], labels) + F.cross_entropy(logits[1], labels)) / 2


class Supervised(Method):
    """A linear layer from features to classes."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.classes = nn.Linear(num_features, num_classes)

    def forward(self, features: Pair, views: Pair, labels: Tensor, gather: Gather) -> Tensor:
        """As `Method.forward`, of the own rows."""
        return supervised_loss((self.classes(features[0]), self.classes(features[1])), labels)
