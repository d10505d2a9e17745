"""Joint labels (class, transformation) and what their logits say of the class. SLA, Lee et al. 2020, sections 2 and 3.

Axes: B images, M transformed copies of each, N classes, M transformations a copy may be under.
Joint logits are kept as (B, M, N, M): joint[b, m, i, j] is the logit of (class i, transformation j)
from copy m of image b.
"""

import torch
from torch import Tensor


def joint_targets(targets: Tensor, num_transformations: int) -> Tensor:
    """Targets of the joint problem: class y under transformation j is number y * M + j; copy j is under j.

    targets: (B, N) float, how probable each class is to be the true one. What is not certain of the class
    stays uncertain within the copy's own transformation: P(i, k | copy j) = targets[i] * [k = j].
    Returns (B, M, N * M).
    """
    own = torch.eye(num_transformations, dtype=targets.dtype, device=targets.device)[:, None, :]
    return (targets[:, None, :, None] * own).flatten(2)  # (B, 1, N, 1) * (M, 1, M) -> (B, M, N * M)


def conditional(joint: Tensor, transformation: int = 0) -> Tensor:
    """Class logits from one copy under its own transformation: P(i | x, j) is their softmax (SLA+SI for j = 0).

    joint: (B, M, N, M), or (B, 1, N, M) where only the identity's copy was run. Returns (B, N).
    """
    return joint[:, transformation, :, transformation]


def own_logits(joint: Tensor, first: int = 0) -> Tensor:
    """What every copy says of the class under its own transformation.

    joint: (B, C, N, M) of the C copies from transformation `first` on; all M of them at 0. Returns (B, C, N).
    """
    return joint.diagonal(offset=first, dim1=1, dim2=3).transpose(1, 2)  # (B, N, C) -> (B, C, N)


def logits_under(joint: Tensor, transformations: Tensor) -> Tensor:
    """What copies say of the class under the transformations that they were made by.

    joint: (B, C, N, M), transformations: (B, C) int64 in [0, M), copy by copy. Returns (B, C, N).
    """
    index = transformations[:, :, None, None].expand(*joint.shape[:3], 1)
    return joint.gather(3, index).squeeze(3)


def aggregate(joint: Tensor) -> Tensor:
    """The mean of the logits that each copy gives under its own transformation (SLA+AG, before the softmax).

    joint: (B, M, N, M). Returns (B, N).
    """
    return own_logits(joint).mean(1)
