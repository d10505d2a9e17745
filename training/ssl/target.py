"""A target network: a copy of backbone and projector that follows them slowly and takes no gradient.

BYOL (arXiv 2006.07733, equation 1) and MoCo (arXiv 1911.05722, equation 2) have the same one.
"""

import copy

import torch
from torch import Tensor, nn


class Target(nn.Module):
    """Backbone and projector as they are at the beginning; `follow` moves them.

    BatchNorm: it runs in train mode with the rest, as in the papers, and so normalises by the batch that it is given.
    Its running statistics are those of its own passes: `follow` leaves buffers alone, and nothing reads them.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.projector = copy.deepcopy(projector)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, view: Tensor) -> Tensor:
        """view: (b, 3, H, W). Returns its projection, (b, d), without gradient."""
        projected: Tensor = self.projector(self.backbone(view))
        return projected

    @torch.no_grad()
    def follow(self, backbone: nn.Module, projector: nn.Module, *, momentum: float) -> None:
        """ξ <- m ξ + (1 - m) θ of every parameter; θ are those of the online backbone and projector."""
        online = [*backbone.parameters(), *projector.parameters()]
        for own, other in zip(self.parameters(), online, strict=True):
            own.lerp_(other, 1 - momentum)
