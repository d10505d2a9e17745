"""One step of pretraining, computed anew: every part of it reaches the weights.

Views, losses of the methods, heads and targets have tests of their own. This is where they are put together.
"""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from serving.images import ImageSpec
from tests.training.pretraining import NARROW, pretraining
from training.augself import AugSelf
from training.batches import step_seed
from training.checkpoint import Problem, Run
from training.config import OptimConfig
from training.devices import ALONE
from training.pretrain_config import MethodConfig, PretrainConfig, ViewsConfig
from training.pretrain_step import Pretrainer, Pretraining, pretrain_step, set_up
from training.views import apply_views, draw_views

METHODS = sorted(NARROW)
STEP, STEPS = 6, 10  # far enough along the schedule for its rate to be another than the peak
LR, DECAY = 0.05, 0.01
IMAGE = (8, 8)
PROBLEM = Problem(
    ("a", "b", "c"), ImageSpec(*IMAGE), (90.0, 110.0, 130.0), (60.0, 50.0, 70.0), 0, False, (36, 4, 0), {},
)  # fmt: skip
EVERY = "crop=1,flip=0.7,color=0.5,blur=0.3,rotation=2,solarize=0.2"
VARIED = ViewsConfig(rotation=0.5, solarize=0.3)


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Eight noisy pictures with labels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (8, *IMAGE, 3), dtype=torch.uint8, generator=generator)
    return pixels, torch.arange(8) % 3


def learner_of(folder: Path, method: str, **changes: Any) -> Pretrainer:
    optim = OptimConfig(lr=LR, weight_decay=DECAY, momentum=0.9, nesterov=False, warmup=0.0)
    config = pretraining(folder, method, **{"optim": optim, "views": VARIED} | changes)
    return set_up(Run(folder, config, PROBLEM), ALONE)


def losses_by_hand(
    network: Pretraining, config: PretrainConfig, images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """The losses of a step by their names: of the method, and of every augmentation."""
    generator = torch.Generator().manual_seed(step_seed(config.seed, STEP, "views"))
    drawn = [draw_views(len(images), IMAGE, config.views, generator) for _ in range(2)]
    mean = torch.tensor(PROBLEM.mean)[:, None, None]
    std = torch.tensor(PROBLEM.std)[:, None, None]
    views = [(255 * apply_views(images, one, size=IMAGE) - mean) / std for one in drawn]
    backbone = network.encoder.backbone
    features = backbone(views[0]), backbone(views[1])
    found = {"method": network.method(features, (views[0], views[1]), labels, lambda rows: rows)}
    if network.augself is None:
        return found
    for name, head in network.augself.heads.items():
        alone = AugSelf(network.encoder.num_features, {name: 1.0}, config.views)
        alone.heads[name] = head
        targets = alone.targets((drawn[0], drawn[1]), torch.device("cpu"))
        found[name] = alone(features, targets).total
    return found


def sgd_by_hand(network: Pretraining, frozen: list[nn.Parameter]) -> None:
    """The first step of SGD with weight decay, at the cosine's rate; SimSiam's predictor keeps the peak's."""
    rate = LR * 0.5 * (1 + math.cos(math.pi * STEP / STEPS))
    steady = set(network.method.steady())
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is None or any(parameter is one for one in frozen):
                continue
            step = parameter.grad + DECAY * parameter
            parameter.sub_((LR if parameter in steady else rate) * step)


@pytest.mark.parametrize("augself", [EVERY, "color=0.5", ""])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_the_methods_loss_and_the_weighted_heads(
    method: str, augself: str, tmp_path: Path
):
    learner = learner_of(tmp_path, method, augself=augself)
    images, labels = batch()
    expected = copy.deepcopy(learner.network)
    told = pretrain_step(learner, images, labels, STEP, STEPS)

    losses = losses_by_hand(expected, learner.config, images, labels)
    weights = dict(part.split("=") for part in augself.split(",")) if augself else {}
    total = losses["method"] + sum(float(w) * losses[name] for name, w in weights.items())
    torch.testing.assert_close(told, torch.stack([total, *losses.values()]).detach())
    total.backward()
    sgd_by_hand(expected, expected.method.frozen(STEP))
    targets = {name for name, _ in expected.named_parameters() if name.startswith("method.target")}
    unit = {"method.prototypes"}  # of length 1 again after the step
    for name, parameter in learner.network.named_parameters():
        if name not in targets | unit:
            wanted = expected.get_parameter(name)
            torch.testing.assert_close(parameter, wanted, msg=lambda said, n=name: f"{n}: {said}")


@pytest.mark.parametrize("method", METHODS)
def test_the_backbone_learns_from_augself_alone(method: str, tmp_path: Path):
    """With a method that says nothing, every weight of the backbone still moves, as it must for AugSelf to matter."""
    learner = learner_of(tmp_path, method, augself=EVERY)

    class Silent(nn.Module):
        def forward(self, *_: Any) -> Tensor:
            return torch.zeros((), requires_grad=True)

    learner.network.method.forward = Silent().forward  # type: ignore[method-assign]
    backbone = learner.network.encoder.backbone
    before = copy.deepcopy(backbone)
    images, labels = batch()
    optim = learner.optimizer
    for group in optim.param_groups:
        group["weight_decay"] = 0.0
    pretrain_step(learner, images, labels, STEP, STEPS)
    for (name, now), was in zip(backbone.named_parameters(), before.parameters(), strict=True):
        assert not torch.equal(now, was), name


@pytest.mark.parametrize("method", ["byol", "moco"])
def test_the_target_follows_the_weights_after_the_step(method: str, tmp_path: Path):
    momentum = 0.6
    narrow = NARROW[method]
    settings = (
        MethodConfig(
            hidden=narrow.hidden,
            projection=narrow.projection,
            queue=narrow.queue,
            momentum=momentum,
        )
        if method == "moco"
        else MethodConfig(hidden=16, projection=16, momentum=momentum)
    )
    learner = learner_of(tmp_path, method, settings=settings)
    network = learner.network
    target = network.method.get_submodule("target")
    before = copy.deepcopy(target)
    pretrain_step(learner, *batch(), STEP, STEPS)
    if method == "byol":  # rises to 1 along a cosine
        momentum = 1 - (1 - momentum) * (math.cos(math.pi * STEP / STEPS) + 1) / 2
    projector = network.method.get_submodule("projector")
    online = [*network.encoder.backbone.parameters(), *projector.parameters()]
    assert len(online) == len(list(target.parameters()))
    for own, was, other in zip(target.parameters(), before.parameters(), online, strict=True):
        torch.testing.assert_close(own, momentum * was + (1 - momentum) * other)
        assert torch.equal(own, was) == torch.equal(was, other)


def test_prototypes_stay_as_they_are_in_the_first_steps_and_of_length_1_ever_after(tmp_path: Path):
    learner = learner_of(tmp_path, "swav")  # freezes 3 steps
    prototypes = learner.network.method.get_parameter("prototypes")
    first = prototypes.detach().clone()
    for step in range(6):
        before = prototypes.detach().clone()
        pretrain_step(learner, *batch(step), step, STEPS)
        moved = not torch.allclose(prototypes, before, atol=1e-6)
        assert moved == (step >= 3), step
        torch.testing.assert_close(prototypes.detach().norm(dim=1), torch.ones(len(first)))


def test_every_step_has_views_of_its_own(tmp_path: Path):
    learner = learner_of(tmp_path, "simclr")
    images, labels = batch()
    start = copy.deepcopy(learner.network.state_dict())
    told = []
    for step in (1, 1, 2):
        learner.network.load_state_dict(start)
        told.append(pretrain_step(learner, images, labels, step, STEPS))
    assert torch.equal(told[0], told[1])
    assert not torch.isclose(told[0], told[2]).any()
