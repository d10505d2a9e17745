"""Several processes played in one: each method asked about its chunk of a batch, with a gather that knows the others'.

A row's gradient through the gather is that of all processes' losses, as of the real one. Nothing may depend on the
other rows of a batch but through the gather: networks without BatchNorm, or with frozen statistics.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.training.ssl.problems import alone
from training.ssl.method import Method, Pair


class Exchange:
    """Gathers by what was handed in by each process in a first round, in the order of the calls."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.handed: list[list[Tensor]] = [[] for _ in range(size)]

    def listen(self, rank: int) -> Callable[[Tensor], Tensor]:
        """The gather of the first round, which only takes notes."""

        def gather(own: Tensor) -> Tensor:
            self.handed[rank].append(own.detach().clone())
            return own

        return gather

    def answer(self, rank: int) -> Callable[[Tensor], Tensor]:
        """The gather of the second round. All processes have the same loss of the rows: their gradients add up."""
        calls = iter(range(len(self.handed[rank])))

        def gather(own: Tensor) -> Tensor:
            call = next(calls)
            parts = [handed[call] for handed in self.handed]
            torch.testing.assert_close(parts[rank], own.detach())
            parts[rank] = self.size * own - (self.size - 1) * own.detach()
            return torch.cat(parts)

        return gather


def gradients_of(
    method: Method, backbone: nn.Module, views: Pair, labels: Tensor, gather: Callable[..., Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The loss of one process and its gradients of the backbone's and of the method's parameters."""
    parameters = [p for p in (*backbone.parameters(), *method.parameters()) if p.requires_grad]
    loss = method((backbone(views[0]), backbone(views[1])), views, labels, gather)
    return loss.detach(), list(torch.autograd.grad(loss, parameters))


def one_and_two(
    method: Method, backbone: nn.Module, views: Pair, labels: Tensor
) -> tuple[tuple[Tensor, list[Tensor]], tuple[Tensor, list[Tensor]], list[Method]]:
    """Loss and gradients of one process, and the means of two with half of the rows each; and what the two became."""
    whole = gradients_of(copy.deepcopy(method), backbone, views, labels, alone)
    exchange, halves, after = Exchange(2), [], []
    for round_of in (exchange.listen, exchange.answer):
        halves, after = [], [copy.deepcopy(method) for _ in range(2)]
        for rank, replica in enumerate(after):
            own = views[0].chunk(2)[rank], views[1].chunk(2)[rank]
            halves.append(
                gradients_of(replica, backbone, own, labels.chunk(2)[rank], round_of(rank))
            )
    loss = torch.stack([half[0] for half in halves]).mean()
    gradients = [torch.stack(both).mean(0) for both in zip(*(h[1] for h in halves), strict=True)]
    return whole, (loss, gradients), after
