"""Optimisers, and the learning rate as a function of the step, so that a schedule has no state to save."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.config import OptimConfig
from training.errors import ConfigError

DEFAULT_LR = {"sgd": 0.1, "adamw": 1e-3}


def build_optimizer(
    network: nn.Module,
    config: OptimConfig,
    *,
    steady: Sequence[nn.Parameter] = (),
    late: Sequence[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """The optimiser of all parameters that have gradients.

    Those of network.backbone are in a group of their own if its rate is another.
    steady: parameters whose rate stays at its peak. late: those that get no gradient in the first steps. Neither
    goes with a rate of the backbone's own.

    Raises:
        ConfigError: no optimiser has that name.
    """
    lr = peak_lr(config)
    factor = 1.0 if config.backbone_lr_factor is None else config.backbone_lr_factor
    groups = _groups(network, factor)
    if steady or late:
        groups = _apart(network, steady, late)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=config.weight_decay, fused=True)
    return torch.optim.SGD(
        groups,
        lr=lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov and config.momentum > 0,
        fused=True,
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: "<parameter>.<key>"."""
    return {
        f"{i}.{key}": value
        for i, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that `optimizer_tensors` took from another of the same kind."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        like = parameters[int(index)]
        # fused optimisers walk through memory: a momentum must be laid out as its parameter is
        laid_out = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
        state.setdefault(int(index), {})[key] = laid_out
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def peak_lr(config: OptimConfig) -> float:
    """The highest learning rate of the schedule.

    Raises:
        ConfigError: no optimiser has that name.
    """
    if config.name not in DEFAULT_LR:
        raise ConfigError(f"unknown optimiser {config.name!r}; choose from {sorted(DEFAULT_LR)}")
    return DEFAULT_LR[config.name] if config.lr is None else config.lr


def learning_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """The learning rate of a step in [0, total_steps): a linear warm-up, then the schedule.

    Raises:
        ConfigError: no schedule has that name.
    """
    if config.schedule not in SCHEDULES:
        raise ConfigError(f"unknown schedule {config.schedule!r}; choose from {sorted(SCHEDULES)}")
    warmup_steps = round(config.warmup * total_steps)
    if step < warmup_steps:
        return peak_lr(config) * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak_lr(config) * SCHEDULES[config.schedule](progress)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate, times the group's own factor; the steady ones keep theirs."""
    for group in optimizer.param_groups:
        if not group.get("steady", False):
            group["lr"] = lr * group.get("lr_factor", 1.0)


def current_lr(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate that was set last: that of the heads, whose group is the last."""
    return float(optimizer.param_groups[-1]["lr"])


def _groups(network: nn.Module, backbone_lr_factor: float) -> list[dict[str, Any]]:
    """The parameters in the network's own order, so that a checkpoint's state fits however they are grouped."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if backbone_lr_factor == 1:
        return [{"params": learning}]
    known = set(network.get_submodule("backbone").parameters())
    backbone = [parameter for parameter in learning if parameter in known]
    heads = [parameter for parameter in learning if parameter not in known]
    return [{"params": backbone, "lr_factor": backbone_lr_factor}, {"params": heads}]


def _apart(
    network: nn.Module, steady: Sequence[nn.Parameter], late: Sequence[nn.Parameter]
) -> list[dict[str, Any]]:
    """The steady parameters, the late ones, then all others: the rate of the last group is the one that is shown.

    A fused optimiser goes through a group at once, and takes either all of its momenta to be new or none.
    """
    known = {*steady, *late}
    others = [p for p in network.parameters() if p.requires_grad and p not in known]
    found: list[dict[str, Any]] = [
        {"params": list(steady), "steady": True},
        {"params": list(late)},
        {"params": others},
    ]
    return [group for group in found if group["params"]]


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _step(progress: float) -> float:
    """A tenth at 1/2 and again at 3/4 (the SLA paper's released code)."""
    return 0.1 ** (int(progress >= 0.5) + int(progress >= 0.75))


def _constant(progress: float) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": _cosine,
    "step": _step,
    "constant": _constant,
}
