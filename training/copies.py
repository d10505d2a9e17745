"""What a network says of transformed copies: their class, and which transformation each of them is under.

Axes: n or B images, M transformed copies of each, N classes, M transformations a copy may be under.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from training.evaluate import Reading
from training.joint import own_logits
from training.network import Network
from training.objectives import Logits

VOTED, TOLD = "copies: class", "copies: transformation"  # no mode's names


def votes(logits: Logits) -> Tensor | None:
    """What every copy says of the class, logits (B, M, N); None where no head is asked about the copies.

    It is the joint head's P(class | copy, its own transformation), its own column block alone (SLA, section 2.2);
    where there is no joint head, the class head's, if that was trained on copies.
    """
    return logits.copies if logits.joint is None else own_logits(logits.joint)


def transformation_logits(logits: Logits) -> Tensor | None:
    """What every copy says of the transformation that it is under, logits (B, M, M); None where no head is asked.

    P(j | copy) is the joint head's, summed over the classes, or the transformation head's.
    """
    return logits.transformation if logits.joint is None else logits.joint.logsumexp(2)


def readings(network: Network) -> dict[str, Reading]:
    """What `copy_accuracy` is made from, (B, M) int64 each; nothing where no head tells transformations."""
    if network.joint_head is None and network.transformation_head is None:
        return {}
    return {VOTED: (network, _most(votes)), TOLD: (network, _most(transformation_logits))}


@dataclass(frozen=True)
class CopyAccuracy:
    """How many copies were told right, by class (N rows) and by the transformation that they are under (M columns).

    images: (N,) int64, how many there are of each class. transformation: (N, M) int64, whose transformation was
    told. label: (N, M) int64, whose class was.
    """

    images: Tensor
    transformation: Tensor
    label: Tensor


def copy_accuracy(read: Mapping[str, Tensor], labels: Tensor, num_classes: int) -> CopyAccuracy:
    """Counts of what was told right. read: what `readings` name, (n, M) int64 each; labels: (n,) int64."""

    def counted(right: Tensor) -> Tensor:
        empty = torch.zeros(num_classes, right.shape[1], dtype=torch.int64)
        return empty.index_add(0, labels, right.long())

    under = torch.arange(read[TOLD].shape[1])  # copy j is under transformation j
    return CopyAccuracy(
        torch.bincount(labels, minlength=num_classes),
        counted(read[TOLD] == under),
        counted(read[VOTED] == labels[:, None]),
    )


def _most(of: Callable[[Logits], Tensor | None]) -> Callable[[Logits], Tensor]:
    """The most probable of the last axis of what `of` gives."""

    def most(logits: Logits) -> Tensor:
        found = of(logits)
        assert found is not None
        return found.argmax(-1)

    return most
