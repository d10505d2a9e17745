"""One step of training: augment, ask the network, take the loss, move the weights. Knows no run, no epoch, no disk.

Precision and devices are Lightning Fabric's. Everything random is drawn from (seed, step), and the
learning rate is a function of the step.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from training import checkpoint, optim
from training.augment import crop_and_flip, cut_out
from training.batches import step_seed
from training.checkpoint import Problem
from training.config import TrainConfig
from training.device import pick_precision
from training.network import Network
from training.objectives import Terms, objective
from training.policies import vary


@dataclass(frozen=True)
class Learner:
    """What every step needs. module is the network as Fabric has set it up."""

    config: TrainConfig
    problem: Problem
    fabric: Fabric
    network: Network
    module: Any
    optimizer: Any

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.fabric.device


def set_up(config: TrainConfig, problem: Problem, device: torch.device) -> Learner:
    """A freshly initialised network and its optimiser, on the device."""
    # Lightning says on stderr in which precision it computes; the loop says it beside the device
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(f"{name}.utilities.rank_zero").setLevel(logging.WARNING)
    precision = pick_precision(config.precision, device)
    fabric = Fabric(accelerator=device.type, devices=1, precision=precision)
    torch.manual_seed(config.seed)
    network = checkpoint.build_network(config, problem)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    module, optimizer = fabric.setup(network, optim.build_optimizer(network, config.optim))
    return Learner(config, problem, fabric, network, module, optimizer)


def train_step(
    learner: Learner, images: Tensor, labels: Tensor, step: int, total_steps: int
) -> Tensor:
    """One step of the optimiser. Returns its loss, detached, on the device.

    images: (B, H, W, 3) uint8, labels: (B,) int64, step in [0, total_steps).
    """
    config, problem = learner.config, learner.problem
    generator = torch.Generator().manual_seed(step_seed(config.seed, step, "augment"))
    torch.manual_seed(step_seed(config.seed, step, "network"))  # for dropout and stochastic depth
    images, _ = crop_and_flip(images, generator, padding=problem.crop_padding_px, flip=problem.flip)
    images, _ = vary(images, generator, policy=config.augment.policy)
    hidden_px = round(config.augment.cutout * min(images.shape[1:3]))
    images, _ = cut_out(images, generator, size_px=hidden_px, fill=problem.mean)
    targets = F.one_hot(labels, len(problem.classes)).float()
    logits = learner.module(images)
    terms = Terms(config.loss.beta, config.loss.temperature, config.loss.large_loss)
    loss = objective(config.objective).loss(logits, targets, terms)
    optim.set_learning_rate(learner.optimizer, optim.learning_rate(step, total_steps, config.optim))
    learner.fabric.backward(loss)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    return loss.detach()
