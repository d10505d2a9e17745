"""One step of pretraining: two views of every image, a method's loss and AugSelf's, the optimiser, target networks.

Everything random is drawn from (seed, step). Knows no run folder and no epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from training import devices, optim
from training.augself import AugSelf, parse_weights
from training.backbones import build_backbone
from training.batches import step_seed
from training.checkpoint import Problem, Run
from training.device import pick_precision, quiet_fabric
from training.devices import Team
from training.encoder import Encoder
from training.pretrain_config import PretrainConfig
from training.ssl.method import Gather, Method, Pair
from training.ssl.methods import build_method
from training.step import leaves_unused
from training.views import apply_views, draw_views, rows

Targets = Mapping[str, Tensor]


class Pretraining(nn.Module):
    """All that has weights: the encoder, which stays, and what is dropped after pretraining."""

    def __init__(self, encoder: Encoder, method: Method, augself: AugSelf | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.method = method
        self.augself = augself

    def forward(self, pixels: Pair, targets: Targets, labels: Tensor, gather: Gather) -> Tensor:
        """The losses: (L,), that which is minimised, the method's, and AugSelf's by augmentation, unweighted.

        pixels: two (b, 3, H, W) float in [0, 255], targets: as `AugSelf.targets`, labels: (b,) int64.
        """
        views = self.encoder.normalised(pixels[0]), self.encoder.normalised(pixels[1])
        first = self.encoder.backbone(views[0])
        both = self.augself is not None or self.method.of_both_views
        features = first, self.encoder.backbone(views[1]) if both else first
        loss = self.method(features, views, labels, gather)
        if self.augself is None:
            return torch.stack([loss, loss.detach()])
        aware = self.augself(features, targets)
        return torch.stack([loss + aware.total, loss.detach(), *aware.parts.values()])


@dataclass(frozen=True)
class Pretrainer:
    """What every step needs. module is the network as Fabric has set it up."""

    config: PretrainConfig
    fabric: Fabric
    network: Pretraining
    module: nn.Module
    optimizer: torch.optim.Optimizer
    team: Team

    @property
    def losses(self) -> tuple[str, ...]:
        """What the losses of a step are called."""
        aware = () if self.network.augself is None else tuple(self.network.augself.weights)
        return ("train_loss", self.config.method, *(f"augself_{name}" for name in aware))


def build_pretraining(config: PretrainConfig, problem: Problem) -> Pretraining:
    """All that has weights, freshly initialised from torch's global generator."""
    backbone = build_backbone(config.backbone, (problem.image.height, problem.image.width))
    encoder = Encoder(backbone, problem.mean, problem.std)
    method = build_method(
        config.method,
        backbone,
        config.settings,
        num_features=encoder.num_features,
        num_classes=len(problem.classes),
        batch_size=config.batch_size,
    )
    weights = parse_weights(config.augself, config.views)
    augself = AugSelf(encoder.num_features, weights, config.views) if weights else None
    return Pretraining(encoder, method, augself)


def set_up(run: Run[PretrainConfig], team: Team) -> Pretrainer:
    """A freshly initialised network and its optimiser, on the team's device."""
    config, problem = run.config, run.problem
    torch.manual_seed(config.seed)
    network = build_pretraining(config, problem)
    shape = (problem.image.height, problem.image.width)
    unused = team.size > 1 and leaves_unused(network.encoder, torch.sum, shape)
    if team.size > 1 and team.device.type == "cuda":
        network = synchronised(network)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    quiet_fabric()
    precision = pick_precision(config.precision, team.device)
    fabric = devices.fabric(team, precision, find_unused=unused)
    method = network.method
    optimizer = optim.build_optimizer(
        network, config.optim, steady=method.steady(), late=method.frozen(0)
    )
    module, optimizer = fabric.setup(network, optimizer)
    return Pretrainer(config, fabric, network, module, optimizer, team)


def synchronised(network: Pretraining) -> Pretraining:
    """The same network, whose BatchNorm takes its statistics from the rows of all processes. For GPUs alone."""
    from timm.layers.norm_act import convert_sync_batchnorm

    # torch's own would leave the activations out that timm's BatchNorms carry
    converted: Pretraining = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted


def pretrain_step(
    learner: Pretrainer, images: Tensor, labels: Tensor, step: int, total_steps: int
) -> Tensor:
    """One step of the optimiser. Returns its losses, (L,), detached, on the device.

    images: (B, H, W, 3) uint8, labels: (B,) int64, step in [0, total_steps). Both are the whole batch's: every
    process draws the views of all of it, and makes those of its own rows.
    """
    config, team, method = learner.config, learner.team, learner.network.method
    generator = torch.Generator().manual_seed(step_seed(config.seed, step, "views"))
    torch.manual_seed(
        step_seed(config.seed, step, "network" if team.first else f"network {team.rank}")
    )
    source = (images.shape[1], images.shape[2])
    share = team.rows_of(len(images))
    drawn = (
        rows(draw_views(len(images), source, config.views, generator), share),
        rows(draw_views(len(images), source, config.views, generator), share),
    )
    mine = images[share]
    first, second = (255 * apply_views(mine, params, size=source) for params in drawn)
    augself = learner.network.augself
    targets = {} if augself is None else augself.targets(drawn, learner.fabric.device)
    losses: Tensor = learner.module((first, second), targets, labels[share], team.gather)
    optim.set_learning_rate(learner.optimizer, optim.learning_rate(step, total_steps, config.optim))
    learner.fabric.backward(losses[0])
    for parameter in method.frozen(step):
        parameter.grad = None
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    method.update(learner.network.encoder.backbone, step, total_steps)
    return losses.detach()
