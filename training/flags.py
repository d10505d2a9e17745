"""The settings of a run by the names of their flags, and as they leave its machine: without a path of it."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

from training.config import DataConfig, TrainConfig
from training.data import bare_name
from training.pretrain_config import PretrainConfig

Settings = TrainConfig | PretrainConfig
PLACES = ("data-dir", "out", "resume")  # they say where something lies, and nothing else


def without_paths(config: Settings) -> Settings:
    """The same settings, every path by its last name alone; where torchvision's data and the run lie, by none."""
    bare = dataclasses.replace(
        config.data, data=bare_name(config.data.data), data_dir=DataConfig().data_dir
    )
    config = dataclasses.replace(config, data=bare, out=None, resume=None)
    if not isinstance(config, TrainConfig):
        return config
    weights = None if config.weights is None else Path(config.weights.name)
    teacher = None if config.teacher is None else Path(config.teacher).name
    return dataclasses.replace(config, weights=weights, teacher=teacher)


def flags(config: Settings) -> dict[str, str]:
    """Every setting by its flag, without the dashes before it and without paths: {"optim.lr": "0.1", "cutmix": "1"}."""
    flat = by_flag(without_paths(config))
    return {flag: _text(value) for flag, value in flat.items() if flag not in PLACES}


def by_flag(config: Any) -> dict[str, Any]:
    """The fields of a dataclass of dataclasses, called as tyro calls their flags, less the dashes before it."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), field.name.replace("_", "-")
        if not dataclasses.is_dataclass(value):
            found[name] = value
            continue
        about = getattr(hints[field.name], "__metadata__", ())
        # by tyro.conf.arg(name="") the flags of what is inside stand for themselves
        prefix = "" if any(getattr(one, "name", None) == "" for one in about) else f"{name}."
        found |= {prefix + key: inner for key, inner in by_flag(value).items()}
    return found


def _text(value: Any) -> str:
    """A value as it is typed after its flag: 1.0 and 1 are the same."""
    if isinstance(value, tuple):
        return " ".join(_text(one) for one in value)
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)
