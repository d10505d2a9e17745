"""What is minimised: pure functions of logits and labels. SLA, Lee et al. 2020, sections 2 and 3.

Nothing here knows of networks, devices or logging. `OBJECTIVES` says which heads each objective trains.
Every loss is a mean over the batch and, unless sum_copies is set, over the M transformed copies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.errors import ConfigError
from training.joint import aggregate, joint_targets


class Logits(NamedTuple):
    """What a network says of a batch; None where it has no such head, or was not asked.

    single: (B, N), the class head on the untransformed image.
    joint: (B, M, N, M), the joint head on every copy.
    copies: (B, M, N), the class head on every copy.
    transformation: (B, M, M), the transformation head on every copy.
    """

    single: Tensor | None
    joint: Tensor | None
    copies: Tensor | None = None
    transformation: Tensor | None = None


def baseline_loss(single: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the class head. single: (B, N), labels: (B,). Returns a scalar."""
    return F.cross_entropy(single, labels)


def da_loss(copies: Tensor, labels: Tensor, *, sum_copies: bool = False) -> Tensor:
    """Data augmentation: (1/M) Σ_j CE(σ(z_j; u), y), every copy under its image's own label.

    copies: (B, M, N), labels: (B,). Returns a scalar.
    """
    num_copies = copies.shape[1]
    targets = labels.repeat_interleave(num_copies)  # (B * M,)
    loss = F.cross_entropy(copies.flatten(0, 1), targets)  # (B * M, N)
    return loss * num_copies if sum_copies else loss


def mt_loss(
    copies: Tensor, transformation: Tensor, labels: Tensor, *, sum_copies: bool = False
) -> Tensor:
    """Multi-task learning: (1/M) Σ_j [CE(σ(z_j; u), y) + CE(σ(z_j; v), j)].

    copies: (B, M, N), transformation: (B, M, M), labels: (B,). Returns a scalar.
    """
    batch, num_copies = transformation.shape[:2]
    targets = torch.arange(num_copies, device=labels.device).repeat(batch)  # (B * M,)
    loss = F.cross_entropy(transformation.flatten(0, 1), targets)  # (B * M, M)
    which = loss * num_copies if sum_copies else loss
    return da_loss(copies, labels, sum_copies=sum_copies) + which


def sla_loss(joint: Tensor, labels: Tensor, *, sum_copies: bool = False) -> Tensor:
    """Cross-entropy over the N * M joint labels: (1/M) Σ_j CE(ρ(z_j; w), (y, j)).

    joint: (B, M, N, M), labels: (B,). Returns a scalar. The released code sums the copies on its large data
    sets (ImageNet, iNaturalist) and averages them elsewhere.
    """
    num_copies = joint.shape[1]
    targets = joint_targets(labels, num_copies)  # (B, M)
    loss = F.cross_entropy(joint.flatten(2).flatten(0, 1), targets.flatten())  # (B * M, N * M)
    return loss * num_copies if sum_copies else loss


def self_distillation_loss(single: Tensor, joint: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(aggregated || single), times T² so that gradients keep their size.

    single: (B, N), joint: (B, M, N, M). The teacher carries no gradient. Returns a scalar.
    """
    teacher = (aggregate(joint) / temperature).softmax(1).detach()
    student = (single / temperature).log_softmax(1)
    return F.kl_div(student, teacher, reduction="batchmean") * temperature**2


def sla_sd_loss(
    single: Tensor,
    joint: Tensor,
    labels: Tensor,
    *,
    beta: float = 1.0,
    temperature: float = 1.0,
    sum_copies: bool = False,
) -> Tensor:
    """L_SLA + KL(aggregated || single) + β CE(single, y). Shapes as in its terms. Returns a scalar."""
    joint_loss = sla_loss(joint, labels, sum_copies=sum_copies)
    distillation = self_distillation_loss(single, joint, temperature=temperature)
    return joint_loss + distillation + beta * F.cross_entropy(single, labels)


@dataclass(frozen=True)
class Terms:
    """The weights of an objective's terms. sum_copies: sum the M copies' losses instead of averaging them."""

    beta: float = 1.0
    temperature: float = 1.0
    sum_copies: bool = False


@dataclass(frozen=True)
class Objective:
    """An objective by name: the modes it can answer in (the first is the default), its loss, the heads it trains.

    class_on_copies: the class head is asked about every copy, not only about the image as it is.
    """

    modes: tuple[str, ...]
    loss: Callable[[Logits, Tensor, Terms], Tensor]  # (logits, labels, terms) -> scalar
    class_head: bool = True
    class_on_copies: bool = False
    joint_head: bool = False
    transformation_head: bool = False

    @property
    def transforms(self) -> bool:
        """Whether training runs all M copies; if not, the transformations are not looked at."""
        return self.class_on_copies or self.joint_head


def _baseline(logits: Logits, labels: Tensor, terms: Terms) -> Tensor:
    assert logits.single is not None
    return baseline_loss(logits.single, labels)


def _da(logits: Logits, labels: Tensor, terms: Terms) -> Tensor:
    assert logits.copies is not None
    return da_loss(logits.copies, labels, sum_copies=terms.sum_copies)


def _mt(logits: Logits, labels: Tensor, terms: Terms) -> Tensor:
    assert logits.copies is not None
    assert logits.transformation is not None
    return mt_loss(logits.copies, logits.transformation, labels, sum_copies=terms.sum_copies)


def _sla(logits: Logits, labels: Tensor, terms: Terms) -> Tensor:
    assert logits.joint is not None
    return sla_loss(logits.joint, labels, sum_copies=terms.sum_copies)


def _sla_sd(logits: Logits, labels: Tensor, terms: Terms) -> Tensor:
    assert logits.single is not None
    assert logits.joint is not None
    return sla_sd_loss(
        logits.single,
        logits.joint,
        labels,
        beta=terms.beta,
        temperature=terms.temperature,
        sum_copies=terms.sum_copies,
    )


OBJECTIVES = {
    "baseline": Objective(("plain",), _baseline),
    "da": Objective(("plain",), _da, class_on_copies=True),
    "mt": Objective(("plain",), _mt, class_on_copies=True, transformation_head=True),
    # a single pass chooses the checkpoint, as in the released code, also where the aggregated one is reported
    "sla": Objective(("single", "aggregated"), _sla, class_head=False, joint_head=True),
    "sla-sd": Objective(("distilled", "single", "aggregated"), _sla_sd, joint_head=True),
}


def objective(name: str) -> Objective:
    """The objective of that name.

    Raises:
        ConfigError: no objective has that name.
    """
    try:
        return OBJECTIVES[name]
    except KeyError:
        raise ConfigError(f"unknown objective {name!r}; choose from {sorted(OBJECTIVES)}") from None
