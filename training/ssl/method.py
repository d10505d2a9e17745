"""What a method of pretraining is to the loop: a loss of two views' features, and state of its own that moves.

The loop gives features of the online backbone and takes the loss; it knows no projector, queue or prototype.
A process sees its own b rows of a batch of B. Two ways lead to the gradient of one process, once DDP has averaged:
a mean over the own rows, or the same loss over the gathered rows of all P processes in every one of them. The
second: the backward pass of a gather adds what all P losses want of a row, P ∂L/∂x_p of process p's rows, so that
the average is (1/P) Σ_p P ∂L/∂x_p ∂x_p/∂θ = ∂L/∂θ, and a parameter behind the gather has ∂L/∂θ in each. What
differs from one process is BatchNorm alone, which on a CPU normalises by the rows of its own process.
"""

from collections.abc import Callable

from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]
"""One tensor a view."""

Gather = Callable[[Tensor], Tensor]
"""The rows of all processes in order of rank, (b, ...) -> (B, ...). Backward sums over them. Alone: the identity."""


class Method(nn.Module):
    """What is trained beside the backbone and dropped afterwards: heads, target networks, queues, prototypes.

    It holds no online backbone. All of its state is in its state dict.
    of_both_views: whether the features of view 2 go into the loss; if not, view 1's may stand in their place.
    """

    of_both_views = True

    def forward(self, features: Pair, views: Pair, labels: Tensor, gather: Gather) -> Tensor:
        """The loss, a scalar in float32 also under autocast.

        features: (b, D) each, of the online backbone, with gradients. views: (b, 3, H, W) each, as a backbone takes
        them, for target networks. labels: (b,) int64, for supervised pretraining alone.
        """
        raise NotImplementedError

    def update(self, backbone: nn.Module, step: int, total_steps: int) -> None:
        """Move what no gradient moves, after the optimiser's step in [0, total_steps). Default: there is nothing.

        backbone: the online one, as the optimiser left it.
        """

    def frozen(self, step: int) -> list[nn.Parameter]:
        """Parameters that are not to move at this step: the loop drops their gradients. Default: none."""
        return []

    def steady(self) -> list[nn.Parameter]:
        """Parameters whose learning rate stays at its peak while the schedule goes on. Default: none."""
        return []
