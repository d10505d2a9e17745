import dataclasses
import math
from typing import Literal

import pytest
import torch
from torch import nn

from training.config import OptimConfig
from training.errors import ConfigError
from training.optim import build_optimizer, current_lr, learning_rate, peak_lr, set_learning_rate

PLAIN = OptimConfig(lr=0.8, warmup=0.0)


def rates(config: OptimConfig, total: int) -> list[float]:
    return [learning_rate(step, total, config) for step in range(total)]


def test_cosine_falls_from_the_peak_to_almost_zero():
    found = rates(PLAIN, 100)
    assert found[0] == 0.8
    assert found[50] == pytest.approx(0.4, abs=1e-12)
    assert found[25] == pytest.approx(0.4 * (1 + math.sqrt(0.5)), abs=1e-12)
    assert 0 < found[99] < 0.001
    assert found == sorted(found, reverse=True)


def test_step_schedule_is_a_tenth_at_a_half_and_again_at_three_quarters():
    found = rates(dataclasses.replace(PLAIN, schedule="step"), 8)
    expected = [0.8] * 4 + [0.08] * 2 + [0.008] * 2
    assert found == pytest.approx(expected, abs=1e-12)


def test_constant_schedule_stays():
    assert rates(dataclasses.replace(PLAIN, schedule="constant"), 5) == [0.8] * 5


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_warm_up_rises_linearly_to_the_peak_and_the_schedule_follows(schedule: str):
    config = OptimConfig(lr=0.8, warmup=0.25, schedule=schedule)
    found = rates(config, 16)
    assert found[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8], abs=1e-12)
    assert found[4] == pytest.approx(0.8, abs=1e-12)
    assert found[4:] == pytest.approx(rates(dataclasses.replace(config, warmup=0.0), 12), abs=1e-12)


def test_run_of_one_step_has_a_learning_rate():
    assert learning_rate(0, 1, OptimConfig(lr=0.5)) == 0.5
    assert learning_rate(0, 1, OptimConfig(lr=0.5, warmup=1.0)) == 0.5


def test_peak_defaults_to_the_optimisers_own():
    assert peak_lr(OptimConfig()) == 0.1
    assert peak_lr(OptimConfig(name="adamw")) == 1e-3
    assert peak_lr(OptimConfig(name="adamw", lr=0.02)) == 0.02


def test_unknown_schedule_and_optimiser_list_the_valid_ones():
    with pytest.raises(ConfigError, match=r"'linear'.*'constant', 'cosine', 'step'"):
        learning_rate(0, 1, OptimConfig(schedule="linear"))
    with pytest.raises(ConfigError, match=r"'adam'.*'adamw', 'sgd'"):
        build_optimizer(nn.Linear(1, 1), OptimConfig(name="adam"))


def quadratic(config: OptimConfig, steps: int) -> list[float]:
    """The ways of one weight down L(w) = w², from w = 1."""
    module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(module.weight)
    optimizer = build_optimizer(module, config)
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        module.weight.square().sum().backward()
        optimizer.step()
        values.append(module.weight.item())
    return values


def test_sgd_is_nesterovs_momentum_with_weight_decay():
    config = OptimConfig(lr=0.1, momentum=0.9, weight_decay=0.01)
    weight, velocity, expected = 1.0, 0.0, []
    for _ in range(5):  # Sutskever et al. 2013, as torch writes it: the look-ahead is in the update
        gradient = 2 * weight + 0.01 * weight
        velocity = 0.9 * velocity + gradient
        weight -= 0.1 * (gradient + 0.9 * velocity)
        expected.append(weight)
    assert quadratic(config, 5) == pytest.approx(expected, abs=1e-12)


def test_sgd_without_momentum_is_gradient_descent():
    found = quadratic(OptimConfig(lr=0.25, momentum=0.0, weight_decay=0.0), 3)
    assert found == pytest.approx([0.5, 0.25, 0.125], abs=1e-12)


def test_adamw_decays_weights_apart_from_the_gradient():
    (found,) = quadratic(OptimConfig(name="adamw", lr=0.01, weight_decay=0.5), 1)
    # the first step of Adam is lr in size; the decay takes lr * 0.5 of the weight
    assert found == pytest.approx(1 * (1 - 0.01 * 0.5) - 0.01, abs=1e-8)


def test_set_learning_rate_moves_the_next_step():
    module = nn.Linear(1, 1, bias=False)
    optimizer = build_optimizer(module, OptimConfig(momentum=0.0, weight_decay=0.0))
    set_learning_rate(optimizer, 0.5)
    before = module.weight.item()
    module.weight.sum().backward()
    optimizer.step()
    assert module.weight.item() == pytest.approx(before - 0.5, abs=1e-6)


class Split(nn.Module):
    """One weight for a backbone, one for a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(1, 1, bias=False)
        self.head = nn.Linear(1, 1, bias=False)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("factor", [None, 1.0, 0.25, 2.0])
def test_backbone_factor_is_kept_by_every_learning_rate(
    name: Literal["sgd", "adamw"], factor: float | None
):
    config = OptimConfig(name=name, lr=0.8, backbone_lr_factor=factor, weight_decay=0.5)
    network = Split()
    optimizer = build_optimizer(network, config)
    for lr in (0.1, 0.7, 0.0):
        set_learning_rate(optimizer, lr)
        rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert rates[network.head.weight] == lr == current_lr(optimizer)
        assert rates[network.backbone.weight] == lr * (1 if factor is None else factor)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5] * len(
        optimizer.param_groups
    )


def test_a_factor_moves_the_backbone_that_much_less():
    network = Split()
    config = OptimConfig(momentum=0.0, weight_decay=0.0, backbone_lr_factor=0.1)
    optimizer = build_optimizer(network, config)
    set_learning_rate(optimizer, 0.5)
    before = [network.backbone.weight.item(), network.head.weight.item()]
    (network.backbone.weight + network.head.weight).sum().backward()
    optimizer.step()
    assert network.backbone.weight.item() == pytest.approx(before[0] - 0.05, abs=1e-6)
    assert network.head.weight.item() == pytest.approx(before[1] - 0.5, abs=1e-6)
