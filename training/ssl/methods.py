"""Which methods there are, and which of the settings each has."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from training.errors import ConfigError
from training.pretrain_config import MethodConfig
from training.ssl.byol import BYOL
from training.ssl.method import Method
from training.ssl.moco import MoCo
from training.ssl.simclr import SimCLR
from training.ssl.simsiam import SimSiam
from training.ssl.supervised import Supervised
from training.ssl.swav import SwAV


class Parts(NamedTuple):
    """What a method may be built from, besides its settings: D and N are the numbers of features and of classes."""

    backbone: nn.Module
    num_features: int
    num_classes: int


@dataclasses.dataclass(frozen=True)
class Entry:
    """How a method is built of parts and settings by name; and the settings that it has, fields of MethodConfig."""

    build: Callable[[Parts, dict[str, Any]], Method]
    settings: tuple[str, ...] = ()


METHODS = {
    "simsiam": Entry(
        lambda parts, given: SimSiam(parts.num_features, **given), ("hidden", "projection")
    ),
    "simclr": Entry(
        lambda parts, given: SimCLR(parts.num_features, **given),
        ("hidden", "projection", "temperature"),
    ),
    "moco": Entry(
        lambda parts, given: MoCo(parts.backbone, parts.num_features, **given),
        ("hidden", "projection", "temperature", "momentum", "queue"),
    ),
    "byol": Entry(
        lambda parts, given: BYOL(parts.backbone, parts.num_features, **given),
        ("hidden", "projection", "momentum"),
    ),
    "swav": Entry(
        lambda parts, given: SwAV(parts.num_features, **given),
        (
            "hidden",
            "projection",
            "temperature",
            "prototypes",
            "epsilon",
            "sinkhorn_steps",
            "freeze_steps",
        ),
    ),
    "supervised": Entry(lambda parts, given: Supervised(parts.num_features, parts.num_classes)),
}


def find_method(name: str) -> Entry:
    """The method of that name.

    Raises:
        ConfigError: no method has that name.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise ConfigError(f"unknown --method {name!r}; choose from {sorted(METHODS)}") from None


def build_method(
    name: str,
    backbone: nn.Module,
    config: MethodConfig,
    *,
    num_features: int,
    num_classes: int,
    batch_size: int,
) -> Method:
    """A freshly initialised method around a backbone as it is at the beginning: target networks are copies of it.

    num_features: of the backbone. num_classes: for supervised alone. batch_size: of all processes together.

    Raises:
        ConfigError: as `check_method`.
    """
    check_method(name, config, batch_size)
    entry = find_method(name)
    given = {
        setting: value
        for setting, value in dataclasses.asdict(config).items()
        if setting in entry.settings and value is not None
    }
    return entry.build(Parts(backbone, num_features, num_classes), given)


def check_method(name: str, config: MethodConfig, batch_size: int) -> None:
    """Refuse settings of a method that cannot work, or that it does not have. batch_size: of all processes together.

    Raises:
        ConfigError: an unknown method, a number out of its range, or a flag of another method.
    """
    entry = find_method(name)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in entry.settings:
            if value is not None:
                _check_range(field.name, value)
        elif value != field.default:
            having = [other for other in METHODS if field.name in METHODS[other].settings]
            raise ConfigError(
                f"{_flag(field.name)} is a setting of --method {', '.join(having)}; {name} has none; leave it out"
            )
    if "queue" in entry.settings:
        _check_queue(config.queue, batch_size)


def _check_range(setting: str, value: float) -> None:
    if setting in ("temperature", "epsilon"):
        if not 0 < value < math.inf:
            raise ConfigError(f"{_flag(setting)} is {value}; it must be a number above 0")
    elif setting == "momentum":
        if not 0 <= value < 1:
            raise ConfigError(f"{_flag(setting)} is {value}; it must be at least 0 and below 1")
    elif value < LEAST[setting]:
        raise ConfigError(f"{_flag(setting)} is {value}; it must be at least {LEAST[setting]}")


def _check_queue(queue: int, batch_size: int) -> None:
    if queue < batch_size or queue % batch_size:
        nearest = batch_size * max(1, round(queue / batch_size))
        raise ConfigError(
            f"--queue is {queue}; it must be a multiple of the --batch-size, {batch_size}, such as {nearest}"
        )


def _flag(setting: str) -> str:
    return "--" + setting.replace("_", "-")


LEAST = {
    "hidden": 1,
    "projection": 1,
    "queue": 1,
    "prototypes": 2,
    "sinkhorn_steps": 1,
    "freeze_steps": 0,
}
