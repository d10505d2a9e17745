"""An encoder: pixels to features. A backbone, with the normalisation that it was trained under."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """A backbone that takes pixels. mean, std: per channel, in units of the uint8 pixels (0 to 255)."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        num_features = backbone.num_features
        assert isinstance(num_features, int)
        self.num_features = num_features
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """The features of pictures. images: (B, H, W, 3) uint8. Returns (B, D)."""
        # permuting channels-last pixels gives channels-last memory, which is what convolutions like
        features: Tensor = self.backbone(self.normalised(images.permute(0, 3, 1, 2).float()))
        return features

    def normalised(self, pixels: Tensor) -> Tensor:
        """What the backbone takes. pixels: (B, 3, H, W) float in [0, 255]. Returns the same shape."""
        return (pixels - self.mean) / self.std
