"""One step of training: augment, ask the network, take the loss, move the weights. Knows no run, no epoch, no disk.

Precision and devices are Lightning Fabric's. Everything random is drawn from (seed, step), and the
learning rate is a function of the step.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from training import checkpoint, devices, mixing, optim
from training.augment import crop_and_flip, cut_out
from training.batches import step_seed
from training.checkpoint import Problem, Run
from training.config import AugmentConfig, TrainConfig
from training.device import pick_precision, quickest_kernels, quiet_fabric
from training.devices import ALONE, Team
from training.imbalance import Balance, balance
from training.network import COSINE_SCALE, Network
from training.objectives import Logits, Terms, objective, smoothed
from training.policies import vary
from training.pretrained import Start
from training.teacher import AVERAGE, Teacher, draw_copies, load_teacher


@dataclass(frozen=True)
class Learner:
    """What every step needs. module is the network as Fabric has set it up; average that of its weights over time."""

    config: TrainConfig
    problem: Problem
    fabric: Fabric
    network: Network
    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: Any = None
    teacher: Teacher | None = None
    balance: Balance = field(default_factory=Balance)
    team: Team = ALONE

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.fabric.device

    @property
    def shown(self) -> Network:
        """The network that is judged and kept: with averaged weights, where they are averaged."""
        network: Network = self.network if self.average is None else self.average.module
        return network


def set_up(run: Run, team: Team, start: Start | None = None) -> Learner:
    """A freshly initialised network, its optimiser and its teacher, on the team's device.

    start: the backbone's weights, if they are not to be random.

    Raises:
        CheckpointError: the copy of the teacher in the run is missing or altered.
    """
    config, problem = run.config, run.problem
    quiet_fabric()
    quickest_kernels(team.device)
    torch.manual_seed(config.seed)
    network = checkpoint.build_network(config, problem)
    if start is not None:
        network.backbone.load_state_dict(start.tensors)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    precision = pick_precision(config.precision, team.device)
    shape = (problem.image.height, problem.image.width)
    unused = team.size > 1 and leaves_unused(network, _sum_of_logits, shape)
    fabric = devices.fabric(team, precision, find_unused=unused)
    # evaluation asks the network itself: in fp32, and batches of other sizes
    trained: Any = torch.compile(network) if config.compile == "on" else network
    module, optimizer = fabric.setup(trained, optim.build_optimizer(network, config.optim))
    average = None if config.ema is None else averaged(network, config.ema)
    teacher: Teacher | None = None
    if config.teacher == AVERAGE and average is not None:
        teacher = Teacher(average.module, objective(config.objective).modes)
    elif config.teacher is not None:
        teacher = load_teacher(run).to(team.device)
        if config.channels_last:
            teacher = teacher.to(memory_format=torch.channels_last)
    balanced = balance(config.loss, problem.class_counts, scale=COSINE_SCALE, device=team.device)
    return Learner(
        config, problem, fabric, network, module, optimizer, average, teacher, balanced, team
    )


def leaves_unused(
    network: nn.Module, score: Callable[[Any], Tensor], shape: tuple[int, int]
) -> bool:
    """Whether some parameters never get a gradient, as in a few of timm's networks: DDP must be told.

    score: of the network's answer, a scalar that all of it goes into. shape: (H, W) pixels of its pictures.
    """
    network.eval()
    score(network(torch.zeros(2, *shape, 3, dtype=torch.uint8))).backward()
    found = any(p.grad is None for p in network.parameters() if p.requires_grad)
    network.zero_grad(set_to_none=True)
    network.train()
    return found


def _sum_of_logits(logits: Logits) -> Tensor:
    return torch.stack([answer.sum() for answer in logits if answer is not None]).sum()


def averaged(network: Network, decay: float) -> Any:
    """The running average of a network's weights and statistics; it begins as the network is."""
    from timm.utils.model_ema import ModelEmaV3

    # from 1 - (1 + step)^(-2/3) on, so that the first steps are soon forgotten
    return ModelEmaV3(network, decay=decay, use_warmup=True)


def train_step(
    learner: Learner, images: Tensor, labels: Tensor, step: int, total_steps: int
) -> Tensor:
    """One step of the optimiser. Returns its loss, detached, on the device.

    images: (B, H, W, 3) uint8, labels: (B,) int64, step in [0, total_steps). Both are the whole batch's: every
    process augments and mixes all of it, and goes on with its own rows.
    """
    config, team = learner.config, learner.team
    generator = torch.Generator().manual_seed(step_seed(config.seed, step, "augment"))
    # for dropout and stochastic depth, which must not drop the same in every process
    torch.manual_seed(
        step_seed(config.seed, step, "network" if team.first else f"network {team.rank}")
    )
    images, targets = augmented(learner, images, labels, generator)
    weights = learner.balance.weights_at(step, total_steps)
    mean_weight = None if weights is None else (targets @ weights).mean()  # of every process's rows
    images, targets = team.share(images), team.share(targets)
    logits = learner.module(images)
    if learner.teacher is not None:
        copies = None
        if config.teacher_copies is not None:
            passes = len(learner.teacher.network.transformations)
            drawn = draw_copies(len(labels), config.teacher_copies, passes, generator)
            copies = team.share(drawn.to(images.device, non_blocking=True))
        with learner.fabric.autocast():
            answer = learner.teacher(images, copies)
        logits = logits._replace(teacher=answer)
    terms = Terms(
        config.loss.beta,
        config.loss.temperature,
        config.loss.large_loss,
        weights=weights,
        margins=learner.balance.margins,
        mean_weight=mean_weight,
    )
    loss = objective(config.objective).loss(logits, targets, terms)
    optim.set_learning_rate(learner.optimizer, optim.learning_rate(step, total_steps, config.optim))
    learner.fabric.backward(loss)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    if learner.average is not None:
        learner.average.update(learner.network, step + 1)
    return loss.detach()


def augmented(
    learner: Learner, images: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The images as this step sees them, before their transformed copies are made, and their targets.

    images: (B, H, W, 3) uint8, labels: (B,) int64. Returns the same shape of images, and (B, N) float32.
    """
    augment, problem = learner.config.augment, learner.problem
    images, _ = crop_and_flip(images, generator, padding=problem.crop_padding_px, flip=problem.flip)
    images, _ = vary(images, generator, policy=augment.policy)
    hidden_px = round(augment.cutout * min(images.shape[1:3]))
    images, _ = cut_out(images, generator, size_px=hidden_px, fill=problem.mean)
    targets = F.one_hot(labels, len(problem.classes)).float()
    targets = smoothed(targets, learner.config.loss.label_smoothing)
    if not mixes(augment):
        return images, targets
    drawn = mixing.draw(
        len(images),
        (images.shape[1], images.shape[2]),
        generator,
        mixup=augment.mixup,
        cutmix=augment.cutmix,
        probability=augment.mix_probability,
    )
    return mixing.mix(images, targets, drawn)


def mixes(augment: AugmentConfig) -> bool:
    """Whether images are mixed with one another."""
    return augment.mixup > 0 or augment.cutmix > 0
