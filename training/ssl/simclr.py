"""SimCLR: a view knows its other half among all views of the batch (Chen et al., arXiv 2002.05709)."""

import torch
from torch import Tensor

from training.ssl.cosine import inner_products, unit
from training.ssl.heads import mlp
from training.ssl.method import Gather, Method, Pair


def nt_xent(projection: Pair, *, temperature: float) -> Tensor:
    """-log exp(s_ij / T) / Σ_{k≠i} exp(s_ik / T), s the cosines, j the other view of i, mean over 2B (equation 1).

    projection: (B, d) each. Returns a scalar: log(2B - 1) where all projections are the same.
    """
    rows = unit(torch.cat(projection))  # (2B, d)
    scores = inner_products(rows, rows) / temperature  # (2B, 2B)
    own = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    # the other view of i is i ± B: the diagonals of the two blocks off the main one
    positive = scores.diagonal(len(rows) // 2)  # (B,), and the same from the other side
    others = scores.masked_fill(own, -torch.inf).logsumexp(1)  # (2B, 2B) -> (2B,)
    return others.mean() - positive.mean()


class SimCLR(Method):
    """A projector of two layers to 128, compared at T 0.2.

    As in AugSelf's released code: the hidden layer as wide as the features, BatchNorm after it and none at the end.
    """

    def __init__(
        self,
        num_features: int,
        *,
        hidden: int | None = None,
        projection: int = 128,
        temperature: float = 0.2,
    ) -> None:
        super().__init__()
        self.projector = mlp((num_features, hidden or num_features, projection))
        self.temperature = temperature

    def forward(self, features: Pair, views: Pair, labels: Tensor, gather: Gather) -> Tensor:
        """As `Method.forward`, of the rows of all processes in each of them: every view is compared with all."""
        projection = gather(self.projector(features[0])), gather(self.projector(features[1]))
        return nt_xent(projection, temperature=self.temperature)
