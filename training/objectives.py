"""What is minimised: pure functions of logits and labels. SLA, Lee et al. 2020, equations 1, 3 and 5.

Nothing here knows of networks, devices or logging. `OBJECTIVES` says which heads each objective
trains.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from training.errors import ConfigError
from training.joint import aggregate, joint_targets


class Logits(NamedTuple):
    """What a network says of a batch; None where it has no such head.

    single: (B, N), the class head on the untransformed image. joint: (B, M, N, M), the joint head
    on every copy.
    """

    single: Tensor | None
    joint: Tensor | None


def baseline_loss(single: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the class head. single: (B, N), labels: (B,). Returns a scalar."""
    return F.cross_entropy(single, labels)


def sla_loss(joint: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the N * M joint labels, mean over the batch and its M copies (equation 3).

    joint: (B, M, N, M), labels: (B,). Returns a scalar.
    """
    targets = joint_targets(labels, joint.shape[1])  # (B, M)
    return F.cross_entropy(joint.flatten(2).flatten(0, 1), targets.flatten())  # (B * M, N * M)


def self_distillation_loss(single: Tensor, joint: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(aggregated || single), mean over the batch, times T² so that gradients keep their size (equation 5).

    single: (B, N), joint: (B, M, N, M). The teacher carries no gradient. Returns a scalar.
    """
    teacher = (aggregate(joint) / temperature).softmax(1).detach()
    student = (single / temperature).log_softmax(1)
    return F.kl_div(student, teacher, reduction="batchmean") * temperature**2


def sla_sd_loss(
    single: Tensor, joint: Tensor, labels: Tensor, *, beta: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """L_SLA + KL(aggregated || single) + β CE(single, y) (equation 5). Shapes as in its terms. Returns a scalar."""
    distillation = self_distillation_loss(single, joint, temperature=temperature)
    return sla_loss(joint, labels) + distillation + beta * F.cross_entropy(single, labels)


@dataclass(frozen=True)
class Objective:
    """An objective by name: the heads it trains, the modes it can answer in (the first is the default), its loss."""

    class_head: bool
    joint_head: bool
    modes: tuple[str, ...]
    loss: Callable[..., Tensor]  # (logits, labels, *, beta, temperature) -> scalar


def _baseline(logits: Logits, labels: Tensor, *, beta: float, temperature: float) -> Tensor:
    assert logits.single is not None
    return baseline_loss(logits.single, labels)


def _sla_sd(logits: Logits, labels: Tensor, *, beta: float, temperature: float) -> Tensor:
    assert logits.single is not None
    assert logits.joint is not None
    return sla_sd_loss(logits.single, logits.joint, labels, beta=beta, temperature=temperature)


OBJECTIVES = {
    "baseline": Objective(class_head=True, joint_head=False, modes=("plain",), loss=_baseline),
    "sla-sd": Objective(
        class_head=True, joint_head=True, modes=("distilled", "single", "aggregated"), loss=_sla_sd
    ),
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
