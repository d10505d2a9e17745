"""Settings as JSON values and back: the only way into a run's config.json and out of it."""

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from training.errors import CheckpointError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """The settings, a dataclass of dataclasses, as JSON values."""
    return {key: _plain(value) for key, value in dataclasses.asdict(config).items()}


def from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """The settings of that kind that `to_dict` wrote; one that an older run did not have yet takes its default.

    Raises:
        CheckpointError: a setting is unknown or malformed.
    """
    try:
        if "data" not in values:
            raise ValueError("it has no 'data'")
        return _build(kind, values)
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the run's config.json is malformed ({error}); train again"
        ) from None


def _build(kind: type[T], values: Mapping[str, Any]) -> T:
    hints = typing.get_type_hints(kind)
    given = {name: _value(hints.get(name), value) for name, value in values.items()}
    return kind(**given)


def _value(hint: Any, value: Any) -> Any:
    """A JSON value as the field of that type takes it."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _build(hint, value)
    if value is None:
        return None
    if hint is Path or Path in typing.get_args(hint):
        return Path(value)
    return tuple(value) if typing.get_origin(hint) is tuple else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, Path) else value
