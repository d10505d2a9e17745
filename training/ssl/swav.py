"""SwAV: one view's assignment to prototypes predicted from the other view (Caron et al., arXiv 2006.09882).

Two views, no multi-crop and no queue of older scores, as in AugSelf.
"""

import torch
from torch import Tensor, nn

from training.ssl.cosine import inner_products, unit
from training.ssl.heads import mlp
from training.ssl.method import Gather, Method, Pair


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float, steps: int) -> Tensor:
    """Codes: Diag(u) exp(scores / ε) Diag(v), as evenly spread over the prototypes as the steps achieve (equation 5).

    scores: (B, K), cosines. Returns (B, K) in [0, 1], without gradient; rows sum to 1, and columns to about B / K.
    Sums are taken as logarithms, the largest subtracted, so that no ε makes them overflow, or a prototype that no
    image is near divide zero by zero.
    """
    codes = scores / epsilon
    for _ in range(steps):
        # the same for every prototype; how much does not matter, because every image's code is then scaled to one
        codes = codes - codes.logsumexp(0, keepdim=True)
        codes = codes - codes.logsumexp(1, keepdim=True)
    return codes.exp()


def swav_loss(scores: Pair, *, temperature: float, epsilon: float, sinkhorn_steps: int) -> Tensor:
    """ℓ(z_1, q_2) + ℓ(z_2, q_1), ℓ(z, q) = -Σ_k q_k log softmax(scores / T)_k, mean over the batch (equations 1 and 2).

    scores: (B, K) each, cosines of projections and prototypes. Returns a scalar. The codes q carry no gradient. The
    sum of both as in the paper and in AugSelf; SwAV's released code takes their mean.
    """
    code_1, code_2 = (sinkhorn(s, epsilon=epsilon, steps=sinkhorn_steps) for s in scores)
    log_1, log_2 = ((s / temperature).log_softmax(1) for s in scores)
    return -((code_2 * log_1).sum(1) + (code_1 * log_2).sum(1)).mean()


class SwAV(Method):
    """A projector of two layers, 2048 wide to 128, and the prototypes, of length 1.

    100 prototypes as in AugSelf's released code (the paper on ImageNet: 3000). Few images a batch, fewer than there
    are prototypes, cannot be spread evenly: the codes are then less meaningful. freeze_steps: 410 as in AugSelf's
    code, where it is one epoch of STL-10 (105,000 images) at a batch of 256.
    """

    def __init__(
        self,
        num_features: int,
        *,
        hidden: int = 2048,
        projection: int = 128,
        temperature: float = 0.1,
        prototypes: int = 100,
        epsilon: float = 0.05,
        sinkhorn_steps: int = 3,
        freeze_steps: int = 410,
    ) -> None:
        super().__init__()
        self.projector = mlp((num_features, hidden, projection))
        # as a linear layer of this size begins, at length 1
        first = nn.Linear(projection, prototypes, bias=False).weight.detach()
        self.prototypes = nn.Parameter(unit(first))  # (K, d)
        self.temperature = temperature
        self.epsilon = epsilon
        self.sinkhorn_steps = sinkhorn_steps
        self.freeze_steps = freeze_steps

    def forward(self, features: Pair, views: Pair, labels: Tensor, gather: Gather) -> Tensor:
        """As `Method.forward`, of the rows of all processes in each of them: codes are spread over the whole batch."""
        first, second = (
            gather(inner_products(unit(self.projector(f)), self.prototypes)) for f in features
        )
        return swav_loss(
            (first, second),
            temperature=self.temperature,
            epsilon=self.epsilon,
            sinkhorn_steps=self.sinkhorn_steps,
        )

    @torch.no_grad()
    def update(self, backbone: nn.Module, step: int, total_steps: int) -> None:
        """The prototypes go back to length 1; the released code does it before the next step, which is the same."""
        self.prototypes.copy_(unit(self.prototypes))

    def frozen(self, step: int) -> list[nn.Parameter]:
        """The prototypes in the first steps."""
        return [self.prototypes] if step < self.freeze_steps else []
