"""What is minimised: pure functions of logits and targets. SLA, Lee et al. 2020, sections 2 and 3.

Nothing here knows of networks, devices or logging. `OBJECTIVES` says which heads each objective trains.
Targets are (B, N) float: how probable each class is to be the true one. They are one-hot unless images were
mixed or labels smoothed. Every loss is a mean over the batch and, unless sum_copies is set, over the M copies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

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
    teacher: (B, N), what another network says of the batch.
    """

    single: Tensor | None
    joint: Tensor | None
    copies: Tensor | None = None
    transformation: Tensor | None = None
    teacher: Tensor | None = None


@dataclass(frozen=True)
class Terms:
    """How an objective's terms are weighted and formed.

    beta, temperature: of sla-sd and distill (the paper's β and T).
    sum_copies: sum the M copies' losses instead of averaging them.
    weights: (N,) float, of the classes in every cross-entropy; None: all the same.
    margins: (N,) float, taken off the true class's logit in every cross-entropy (LDAM); None: none.
    mean_weight: scalar, the mean of Σ_i w_i t_bi over a batch of which these may be a part: what the cross-entropies
        of all parts are divided by, so that their mean is that of the batch. None: these are all of it.
    """

    beta: float = 1.0
    temperature: float = 1.0
    sum_copies: bool = False
    weights: Tensor | None = None
    margins: Tensor | None = None
    mean_weight: Tensor | None = None


PLAIN = Terms()


def cross_entropy(logits: Tensor, targets: Tensor, *, terms: Terms = PLAIN) -> Tensor:
    """-Σ_bi w_i t_bi log σ(s_b - Δ ∘ t_b)_i / Σ_bi w_i t_bi, weights w, margins Δ. Returns a scalar.

    logits, targets: (B, ..., N), or joint ones: (B, M, N * M), whose labels take their class's weight and margin. The
    divisor is the batch's where terms.mean_weight tells it.
    """
    if terms.margins is not None:
        logits = logits - _per_label(terms.margins, logits) * targets
    if terms.weights is not None:
        targets = _per_label(terms.weights, logits) * targets
    divisor = targets.sum()
    if terms.mean_weight is not None:
        divisor = terms.mean_weight * (targets.numel() // targets.shape[-1])
    return -(targets * logits.log_softmax(-1)).sum() / divisor


def smoothed(targets: Tensor, share: float) -> Tensor:
    """Targets of which a share in [0, 1) is spread evenly over the classes (Szegedy et al. 2016, section 7).

    targets: (B, N). Returns (B, N). Of a joint label only the class is smoothed: the transformation is certain.
    """
    return targets.lerp(torch.full_like(targets, 1 / targets.shape[1]), share)


def baseline_loss(single: Tensor, targets: Tensor, *, terms: Terms = PLAIN) -> Tensor:
    """Cross-entropy of the class head. single, targets: (B, N). Returns a scalar."""
    return cross_entropy(single, targets, terms=terms)


def da_loss(copies: Tensor, targets: Tensor, *, terms: Terms = PLAIN) -> Tensor:
    """Data augmentation: (1/M) Σ_j CE(σ(z_j; u), y), every copy under its image's own label.

    copies: (B, M, N), targets: (B, N). Returns a scalar.
    """
    loss = cross_entropy(copies, targets[:, None].expand_as(copies), terms=terms)
    return loss * copies.shape[1] if terms.sum_copies else loss


def mt_loss(
    copies: Tensor, transformation: Tensor, targets: Tensor, *, terms: Terms = PLAIN
) -> Tensor:
    """Multi-task learning: (1/M) Σ_j [CE(σ(z_j; u), y) + CE(σ(z_j; v), j)].

    copies: (B, M, N), transformation: (B, M, M), targets: (B, N). Returns a scalar.
    """
    num_copies = transformation.shape[1]
    # the logarithm of P(j | copy j), of every copy
    own = transformation.log_softmax(2).diagonal(dim1=1, dim2=2)  # (B, M, M) -> (B, M)
    which = -own.mean() * (num_copies if terms.sum_copies else 1)
    return da_loss(copies, targets, terms=terms) + which


def sla_loss(joint: Tensor, targets: Tensor, *, terms: Terms = PLAIN) -> Tensor:
    """Cross-entropy over the N * M joint labels: (1/M) Σ_j CE(ρ(z_j; w), (y, j)).

    joint: (B, M, N, M), targets: (B, N). Returns a scalar. The released code sums the copies on its large data
    sets (ImageNet, iNaturalist) and averages them elsewhere.
    """
    num_copies = joint.shape[1]
    loss = cross_entropy(joint.flatten(2), joint_targets(targets, num_copies), terms=terms)
    return loss * num_copies if terms.sum_copies else loss


def distillation_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(σ(teacher) || σ(student)), mean over the batch, times T² so that gradients keep their size.

    student, teacher: (B, N) logits. The teacher carries no gradient. Returns a scalar.
    """
    target = (teacher / temperature).softmax(1).detach()
    answer = (student / temperature).log_softmax(1)
    return F.kl_div(answer, target, reduction="batchmean") * temperature**2


def distill_loss(
    single: Tensor, teacher: Tensor, targets: Tensor, *, terms: Terms = PLAIN
) -> Tensor:
    """KL(teacher || single) + β CE(single, y). single, teacher, targets: (B, N). Returns a scalar."""
    distillation = distillation_loss(single, teacher, temperature=terms.temperature)
    return distillation + terms.beta * cross_entropy(single, targets, terms=terms)


def sla_sd_loss(
    single: Tensor,
    joint: Tensor,
    targets: Tensor,
    *,
    terms: Terms = PLAIN,
    teacher: Tensor | None = None,
) -> Tensor:
    """L_SLA + KL(teacher || single) + β CE(single, y); the teacher is the aggregated answer itself, if not given.

    single, targets, teacher: (B, N), joint: (B, M, N, M). Returns a scalar.
    """
    folded = aggregate(joint) if teacher is None else teacher
    return sla_loss(joint, targets, terms=terms) + distill_loss(
        single, folded, targets, terms=terms
    )


@dataclass(frozen=True)
class Objective:
    """An objective by name: the modes it can answer in (the first is the default), its loss, the heads it trains.

    class_on_copies: the class head is asked about every copy, not only about the image as it is.
    teacher: whether it can learn from another network's answer (`Logits.teacher`), or has to.
    """

    modes: tuple[str, ...]
    loss: Callable[[Logits, Tensor, Terms], Tensor]  # (logits, targets, terms) -> scalar
    class_head: bool = True
    class_on_copies: bool = False
    joint_head: bool = False
    transformation_head: bool = False
    teacher: Literal["none", "optional", "required"] = "none"

    @property
    def transforms(self) -> bool:
        """Whether training runs all M copies; if not, the transformations are not looked at."""
        return self.class_on_copies or self.joint_head


def _baseline(logits: Logits, targets: Tensor, terms: Terms) -> Tensor:
    assert logits.single is not None
    return baseline_loss(logits.single, targets, terms=terms)


def _da(logits: Logits, targets: Tensor, terms: Terms) -> Tensor:
    assert logits.copies is not None
    return da_loss(logits.copies, targets, terms=terms)


def _mt(logits: Logits, targets: Tensor, terms: Terms) -> Tensor:
    assert logits.copies is not None
    assert logits.transformation is not None
    return mt_loss(logits.copies, logits.transformation, targets, terms=terms)


def _sla(logits: Logits, targets: Tensor, terms: Terms) -> Tensor:
    assert logits.joint is not None
    return sla_loss(logits.joint, targets, terms=terms)


def _sla_sd(logits: Logits, targets: Tensor, terms: Terms) -> Tensor:
    assert logits.single is not None
    assert logits.joint is not None
    return sla_sd_loss(logits.single, logits.joint, targets, terms=terms, teacher=logits.teacher)


def _distill(logits: Logits, targets: Tensor, terms: Terms) -> Tensor:
    assert logits.single is not None
    assert logits.teacher is not None
    return distill_loss(logits.single, logits.teacher, targets, terms=terms)


def _per_label(values: Tensor, logits: Tensor) -> Tensor:
    """(N,) values of the classes as those of the last axis of logits: class y's own at y, or at every y * M + j."""
    return values.repeat_interleave(logits.shape[-1] // len(values))


PROBE = (
    "probe"  # a linear classifier on a frozen encoder: `viewfold probe` fits it, nothing trains it
)

OBJECTIVES = {
    "baseline": Objective(("plain",), _baseline),
    "da": Objective(("plain",), _da, class_on_copies=True),
    "mt": Objective(("plain",), _mt, class_on_copies=True, transformation_head=True),
    # a single pass chooses the checkpoint, as in the released code, also where the aggregated one is reported
    "sla": Objective(("single", "aggregated"), _sla, class_head=False, joint_head=True),
    "sla-sd": Objective(
        ("distilled", "single", "aggregated"), _sla_sd, joint_head=True, teacher="optional"
    ),
    "distill": Objective(("distilled",), _distill, teacher="required"),
    PROBE: Objective(("plain",), _baseline),
}


def objective(name: str) -> Objective:
    """The objective of that name.

    Raises:
        ConfigError: no objective has that name.
    """
    try:
        return OBJECTIVES[name]
    except KeyError:
        trained = sorted(OBJECTIVES.keys() - {PROBE})
        raise ConfigError(f"unknown objective {name!r}; choose from {trained}") from None
