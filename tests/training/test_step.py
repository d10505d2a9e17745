"""One step of training: every setting reaches the loss, which is computed anew from what the networks were shown.

Pictures tell by themselves what was done to them: those of class k are bright in channel k alone, so that a mixed
picture's channels say how much of every class is in it.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from serving.images import ImageSpec
from tests import oracles
from tests.training.runs import settings
from training.backbones import build_backbone
from training.checkpoint import Problem, Run
from training.config import AugmentConfig, LossConfig
from training.devices import ALONE
from training.network import COSINE_SCALE, Network
from training.objectives import Logits, objective
from training.optim import learning_rate
from training.step import Learner, set_up, train_step
from training.teacher import Teacher
from training.transformations import transformation_set

BRIGHT = 252
CLASSES = 3
COUNTS = (40, 20, 5)
STEPS = 10
PROBLEM = Problem(
    ("red", "green", "blue"), ImageSpec(8, 8), (90.0,) * 3, (60.0,) * 3, 0, False, (65, 4, 20), {},
    class_counts=COUNTS,
)  # fmt: skip
MIXED = AugmentConfig(mixup=0.8, cutmix=1.0)
EXACT = 1e-4  # of the loss, relative
BLENDED = 0.03  # the same where pictures are blended: whole pixels tell a class's share to 1 / 504


def pictures(count: int = 12) -> tuple[Tensor, Tensor]:
    """(count, 8, 8, 3) uint8 and (count,) int64."""
    labels = torch.arange(count) % CLASSES
    images = torch.zeros(count, 8, 8, 3, dtype=torch.uint8)
    for place, label in enumerate(labels.tolist()):
        images[place, :, :, label] = BRIGHT
    return images, labels


def learner_of(folder: Path, **changes: Any) -> Learner:
    """A learner from fresh weights whose answers are far from even, so that targets matter."""
    learner = set_up(Run(folder, settings(folder, **changes), PROBLEM), ALONE)
    exaggerate(learner.network)
    return learner


def exaggerate(network: Network) -> None:
    heads = (network.class_head, network.joint_head, network.transformation_head)
    with torch.no_grad():
        for head in heads:
            if isinstance(head, nn.Linear):
                head.weight.mul_(20)


def taught_by(learner: Learner, seed: int = 5) -> Learner:
    """The learner with a teacher of joint labels."""
    torch.manual_seed(seed)
    kind, transformations = objective("sla"), transformation_set("rotation")
    network = Network(
        build_backbone("resnet8", (8, 8)),
        kind,
        num_classes=CLASSES,
        transformations=transformations,
    )
    exaggerate(network)
    return dataclasses.replace(learner, teacher=Teacher(network, kind.modes))


@dataclasses.dataclass
class Seen:
    """What a step showed to a network, and what that said."""

    shown: Tensor
    said: Any
    more: tuple[Any, ...] = ()


def observed(learner: Learner, step: int = 0) -> tuple[float, Seen, Seen | None]:
    """The loss of a step, and what the network and the teacher were asked."""
    found: dict[nn.Module, Seen] = {}

    def note(module: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
        found[module] = Seen(given[0].clone(), answer, given[1:])

    asked = [m for m in (learner.network, learner.teacher) if m is not None]
    hooks = [module.register_forward_hook(note) for module in asked]
    loss = train_step(learner, *pictures(), step, STEPS).item()
    for hook in hooks:
        hook.remove()
    teacher = None if learner.teacher is None else found[learner.teacher]
    return loss, found[learner.network], teacher


def targets_of(shown: Tensor, smoothing: float) -> Tensor:
    """How much of every class is in each picture, by its pixels. Returns (B, N) float64."""
    shares = shown.double().mean((1, 2)) / BRIGHT
    shares = shares / shares.sum(1, keepdim=True)
    return (1 - smoothing) * shares + smoothing / CLASSES


def expected(learner: Learner, step: int, seen: Seen, teacher: Tensor | None) -> float:
    """The loss of what was said, in float64, by the settings."""
    config, said = learner.config, Logits(*(x if x is None else x.double() for x in seen.said))
    targets = targets_of(seen.shown, config.loss.label_smoothing)
    copies = 1 if not config.loss.large_loss else len(learner.network.transformations)
    loss = 0.0
    if config.objective in ("baseline", "sla-sd", "distill"):
        own = config.loss.beta if config.objective != "baseline" else 1.0
        loss += own * class_loss(config.loss, step, said.single[:, None], targets)
    if config.objective in ("da", "mt"):
        loss += copies * class_loss(config.loss, step, said.copies, targets)
    if config.objective == "mt":
        loss += copies * transformation_loss(said.transformation)
    if config.objective in ("sla", "sla-sd"):
        loss += copies * joint_loss(config.loss, step, said.joint, targets)
    if config.objective in ("sla-sd", "distill"):
        folded = oracles.aggregated(said.joint) if teacher is None else teacher.double()
        loss += oracles.distillation(said.single, folded, config.loss.temperature)
    return loss


def weights_and_margins(config: LossConfig, step: int) -> tuple[list[float], list[float]]:
    weights, counts = [1.0] * CLASSES, list(COUNTS)
    if config.class_weights == "balanced":
        weights = oracles.inverse_weights(counts)
    if config.class_weights == "deferred" and step >= 0.8 * STEPS:
        weights = oracles.effective_weights(counts, 0.9999)
    if config.ldam is None:
        return weights, [0.0] * CLASSES
    return weights, [COSINE_SCALE * m for m in oracles.ldam_margins(counts, config.ldam)]


def class_loss(config: LossConfig, step: int, copies: Tensor, targets: Tensor) -> float:
    """copies: (B, K, N) logits of the class head, targets: (B, N)."""
    weights, margins = weights_and_margins(config, step)
    rows = targets[:, None].expand_as(copies).flatten(0, 1)
    return oracles.soft_cross_entropy(copies.flatten(0, 1), rows, weights, margins)


def joint_loss(config: LossConfig, step: int, joint: Tensor, targets: Tensor) -> float:
    """joint: (B, M, N, M), targets: (B, N)."""
    passes = joint.shape[1]
    tables = torch.zeros_like(joint)
    for j in range(passes):
        tables[:, j, :, j] = targets
    each = [
        [value for value in values for _ in range(passes)]
        for values in weights_and_margins(config, step)
    ]
    return oracles.soft_cross_entropy(
        joint.flatten(0, 1).flatten(1), tables.flatten(0, 1).flatten(1), *each
    )


def transformation_loss(which: Tensor) -> float:
    """which: (B, M, M)."""
    batch, passes = which.shape[:2]
    rows = torch.eye(passes).repeat(batch, 1)
    return oracles.soft_cross_entropy(which.flatten(0, 1), rows, [1.0] * passes, [0.0] * passes)


CASES: dict[str, dict[str, Any]] = {
    "plain": {"objective": "baseline"},
    "smoothed labels": {"objective": "baseline", "loss": LossConfig(label_smoothing=0.3)},
    "mixup": {"objective": "baseline", "augment": AugmentConfig(mixup=0.8)},
    "cutmix": {"objective": "baseline", "augment": AugmentConfig(cutmix=1.0)},
    "mixed now and then": {
        "objective": "sla",
        "augment": dataclasses.replace(MIXED, mix_probability=0.5),
    },
    "summed copies": {"objective": "da", "loss": LossConfig(large_loss=True)},
    "summed copies of two tasks": {"objective": "mt", "loss": LossConfig(large_loss=True)},
    "summed joint labels": {"objective": "sla", "loss": LossConfig(large_loss=True)},
    "weighted, smoothed and mixed": {
        "objective": "sla",
        "loss": LossConfig(class_weights="balanced", label_smoothing=0.2),
        "augment": MIXED,
    },
    "margins and deferred weights": {
        "objective": "sla-sd",
        "loss": LossConfig(ldam=0.5, class_weights="deferred"),
    },
    "beta, temperature and summed copies": {
        "objective": "sla-sd",
        "loss": LossConfig(beta=0.3, temperature=3.0, large_loss=True),
    },
}


@pytest.mark.parametrize("step", [0, 9])
@pytest.mark.parametrize("case", CASES)
def test_settings_reach_the_loss(tmp_path: Path, case: str, step: int):
    learner = learner_of(tmp_path, **CASES[case])
    loss, seen, _ = observed(learner, step)
    tolerance = BLENDED if learner.config.augment.mixup else EXACT
    assert loss == pytest.approx(expected(learner, step, seen, None), rel=tolerance)


def test_only_mixing_mixes(tmp_path: Path):
    images, _ = pictures()
    _, plain, _ = observed(learner_of(tmp_path, objective="baseline"))
    _, mixed, _ = observed(learner_of(tmp_path, objective="baseline", augment=MIXED))
    assert torch.equal(plain.shown, images)
    shares = targets_of(mixed.shown, 0.0)
    assert (shares.max(1).values < 0.95).sum() >= 4


@pytest.mark.parametrize("copies", [None, 1, 3])
@pytest.mark.parametrize("name", ["distill", "sla-sd"])
def test_teacher_sees_what_the_student_sees_and_its_answer_is_learnt(
    tmp_path: Path, name: str, copies: int | None
):
    loss = LossConfig(beta=0.5, temperature=2.0)
    changes = {"objective": name, "loss": loss, "augment": MIXED, "teacher_copies": copies}
    learner = taught_by(learner_of(tmp_path, **changes))
    found, seen, asked = observed(learner)
    assert asked is not None
    assert torch.equal(asked.shown, seen.shown)
    assert not torch.equal(seen.shown, pictures()[0])
    if copies is not None:
        (which,) = asked.more
        assert which.shape == (len(seen.shown), copies)
        assert which.unique().tolist() == [0, 1, 2, 3]  # another choice for every picture
    assert learner.teacher is not None
    again = learner.teacher(seen.shown, *asked.more)
    torch.testing.assert_close(asked.said, again)
    assert found == pytest.approx(expected(learner, 0, seen, again), rel=BLENDED)


def test_averaged_weights_teach_what_they_say_before_the_step(tmp_path: Path):
    learner = learner_of(tmp_path, ema=0.9, teacher="ema", loss=LossConfig(temperature=2.0))
    for step in range(3):
        observed(learner, step)
    assert learner.teacher is not None
    before = learner.teacher(pictures()[0])
    loss, seen, asked = observed(learner, 3)
    assert asked is not None
    torch.testing.assert_close(asked.said, before)
    assert learner.teacher.network is learner.shown
    own = oracles.aggregated(seen.said.joint.double())
    assert not torch.allclose(before.double(), own, atol=0.1)
    assert loss == pytest.approx(expected(learner, 3, seen, before), rel=EXACT)


def test_step_takes_its_own_learning_rate(tmp_path: Path):
    learner = learner_of(tmp_path, objective="baseline")
    for step in (0, 4, 9):
        train_step(learner, *pictures(), step, STEPS)
        (rate,) = {group["lr"] for group in learner.optimizer.param_groups}
        assert rate == pytest.approx(learning_rate(step, STEPS, learner.config.optim))
