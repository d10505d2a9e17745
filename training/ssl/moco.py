"""MoCo v2: a view knows the key of its other half among a queue of older keys (He et al., arXiv 1911.05722).

Version 2 (Chen et al., arXiv 2003.04297) adds the projector of two layers. One direction: queries are of the first
view, keys of the second. Keys are of the momentum network, also those that are queued: the released code of AugSelf
queues the online network's. No batch is shuffled between processes to hide BatchNorm's statistics, as MoCo's code
does on several GPUs: AugSelf's does not, and within one process it would change nothing.
"""

import torch
from torch import Tensor, nn

from training.ssl.cosine import inner_products, paired_cosines, unit
from training.ssl.heads import mlp
from training.ssl.method import Gather, Method, Pair
from training.ssl.target import Target


def moco_loss(queries: Tensor, keys: Tensor, queue: Tensor, *, temperature: float) -> Tensor:
    """-log exp(q·k / T) / (exp(q·k / T) + Σ_i exp(q·n_i / T)), n the queue, mean over the batch (equation 1).

    queries, keys: (b, d), of any length. queue: (K, d), of length 1. Returns a scalar. Keys and queue carry no
    gradient.
    """
    positive = paired_cosines(queries, keys.detach()) / temperature  # (b,)
    # T on the smaller side: b x K numbers are many
    negative = inner_products(unit(queries) / temperature, queue.detach())  # (b, K)
    return (torch.logaddexp(positive, negative.logsumexp(1)) - positive).mean()


class MoCo(Method):
    """A projector of two layers without BatchNorm to 128, its target network, and the queue.

    The hidden layer is as wide as the features. AugSelf's released code puts BatchNorm after it; we follow MoCo.
    """

    of_both_views = False
    queue: Tensor
    pointer: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        *,
        hidden: int | None = None,
        projection: int = 128,
        temperature: float = 0.2,
        momentum: float = 0.999,
        queue: int = 65536,
    ) -> None:
        super().__init__()
        self.projector = mlp((num_features, hidden or num_features, projection), norm=False)
        self.target = Target(backbone, self.projector)
        self.temperature = temperature
        self.momentum = momentum
        # drawn as weights are: the processes of a run, which share a seed, begin with the same queue
        self.register_buffer("queue", unit(torch.randn(queue, projection)))  # (K, d)
        # where the oldest key is
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def forward(self, features: Pair, views: Pair, labels: Tensor, gather: Gather) -> Tensor:
        """As `Method.forward`, of the own rows. In train mode the keys of all processes then go into the queue."""
        queries = self.projector(features[0])
        keys = unit(self.target(views[1]))
        # the backward pass wants the queue as it was
        loss = moco_loss(queries, keys, self.queue.clone(), temperature=self.temperature)
        if self.training:
            self._enqueue(gather(keys))
        return loss

    def update(self, backbone: nn.Module, step: int, total_steps: int) -> None:
        """The target network follows (equation 2)."""
        self.target.follow(backbone, self.projector, momentum=self.momentum)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """The keys (B, d) take the places of the oldest. By index: a number of the GPU's is not waited for."""
        places = self.pointer + torch.arange(len(keys), device=keys.device)
        self.queue[places % len(self.queue)] = keys
        self.pointer.add_(len(keys)).remainder_(len(self.queue))
