"""The network: pixels to logits. A backbone f, the class head u and the joint head w of the SLA paper."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.objectives import Logits, Objective
from training.transformations import Transformation, transformed_copies

COSINE_SCALE = 30.0  # s of LDAM's released code: what a cosine of 1 is as a logit


class CosineLinear(nn.Module):
    """A head without bias that compares directions: logit k is s cos(features, weight k). LDAM, Cao et al. 2019."""

    def __init__(self, num_features: int, width: int, scale: float = COSINE_SCALE) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, num_features))  # any direction is as likely
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """features: (..., D). Returns (..., width), in [-s, s]."""
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=1))


class Network(nn.Module):
    """A backbone with the heads of an objective. Everything a prediction needs is inside, normalisation included.

    mean, std: per channel, in units of the uint8 pixels (0 to 255).
    cosine_heads: the class head and the joint head compare directions, as LDAM's margins need it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        objective: Objective,
        *,
        num_classes: int,
        transformations: Sequence[Transformation],
        mean: Sequence[float] = (127.5, 127.5, 127.5),
        std: Sequence[float] = (127.5, 127.5, 127.5),
        cosine_heads: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.transformations = tuple(transformations)
        self.num_classes = num_classes
        num_features = backbone.num_features
        assert isinstance(num_features, int)
        passes = len(self.transformations)
        self.class_on_copies = objective.class_on_copies
        head = CosineLinear if cosine_heads else nn.Linear
        self.class_head = head(num_features, num_classes) if objective.class_head else None
        joint_width = num_classes * passes
        self.joint_head = head(num_features, joint_width) if objective.joint_head else None
        self.transformation_head = (
            nn.Linear(num_features, passes) if objective.transformation_head else None
        )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1))

    def forward(self, images: Tensor) -> Logits:
        """The logits of every head. images: (B, H, W, 3) uint8.

        Where a head is asked about the copies, all M of them go through the backbone, once, and the class
        head's answer to the image as it is reads the identity's features.
        """
        if self.joint_head is None and not self.class_on_copies:
            return Logits(single=self.class_logits(self.features(images)), joint=None)
        copies = transformed_copies(images, self.transformations)  # (B, M, H, W, 3)
        features = self.features(copies.flatten(0, 1)).unflatten(0, copies.shape[:2])  # (B, M, D)
        which = self.transformation_head
        return Logits(
            single=None if self.class_head is None else self.class_logits(features[:, 0]),
            joint=None if self.joint_head is None else self.joint_logits(features),
            copies=self.class_logits(features) if self.class_on_copies else None,
            transformation=None if which is None else which(features),
        )

    def features(self, images: Tensor) -> Tensor:
        """The backbone's features. images: (B, H, W, 3) uint8. Returns (B, D)."""
        # permuting channels-last pixels gives channels-last memory, which is what convolutions like
        pixels = images.permute(0, 3, 1, 2).float()  # (B, 3, H, W)
        features: Tensor = self.backbone((pixels - self.mean) / self.std)
        return features

    def class_logits(self, features: Tensor) -> Tensor:
        """The class head. features: (..., D). Returns (..., N)."""
        assert self.class_head is not None
        logits: Tensor = self.class_head(features)
        return logits

    def joint_logits(self, features: Tensor) -> Tensor:
        """The joint head. features: (B, M, D). Returns (B, M, N, M)."""
        assert self.joint_head is not None
        logits: Tensor = self.joint_head(features)  # (B, M, N * M)
        return logits.reshape(*logits.shape[:-1], self.num_classes, len(self.transformations))
