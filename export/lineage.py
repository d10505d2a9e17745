"""What a run is when it is compared with others: its settings, and those of the runs that it learnt from.

The seed, every path, and what decides only where and how fast it is computed are no part of it.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training import checkpoint
from training.checkpoint import Run
from training.config import TrainConfig
from training.errors import CheckpointError
from training.flags import Settings, flags
from training.pretrained import run_named_by
from training.teacher import has_teacher, open_kept

# --precision has a part in it: what is learnt in bf16 is rounded
OF_COMPUTING = ("device", "devices", "compile", "channels-last", "workers", "resident-gib")
NO_PART = ("seed", "download", *OF_COMPUTING)


def of_run(run: Run[Any], after: frozenset[Path] = frozenset()) -> dict[str, str]:
    """What a run is, by flag: `teacher` and `weights` are what those runs were trained for, `teacher.FLAG` their own.

    What can no longer be read counts by its name, as in `of_config`. after: the runs that learnt from this one.
    """
    return of_config(run.config, run.problem.pretrained_weights) | learnt_from(run, after)


def learnt_from(run: Run[Any], after: frozenset[Path] = frozenset()) -> dict[str, str]:
    """The part of `of_run` that says what the runs are that it learnt from; no path, so a bundle can tell it."""
    found: dict[str, str] = {}
    for flag, (origin, which) in _origins(run).items():
        if origin.folder.resolve() not in after:
            own = of_run(origin, after | {run.folder.resolve()}) | {"checkpoint": which}
            found[flag] = own.pop("objective" if "objective" in own else "method")
            found |= {f"{flag}.{key}": value for key, value in own.items()}
    return found


def of_config(config: Settings, pretrained_weights: Mapping[str, Any] | None) -> dict[str, str]:
    """The same where the settings are all there is: other runs by their names, a file of weights also by its content.

    pretrained_weights: what a run or a bundle says of the weights that it began with.
    """
    found = {flag: value for flag, value in flags(config).items() if flag not in NO_PART}
    if isinstance(config, TrainConfig) and config.weights is not None and pretrained_weights:
        found["weights"] = pretrained_weights.get("model", found["weights"])
        if "sha256" in pretrained_weights:
            found["weights.sha256"] = pretrained_weights["sha256"][:12]
    return found


def _origins(run: Run[Any]) -> dict[str, tuple[Run[Any], str]]:
    """The runs that a run learnt from, by flag, and which of their checkpoints; less those that cannot be read."""
    found: dict[str, tuple[Run[Any], str]] = {}
    if not isinstance(run.config, TrainConfig):
        return found
    if has_teacher(run):
        with contextlib.suppress(CheckpointError):
            found["teacher"] = open_kept(run), "best"
    named = None if run.config.weights is None else run_named_by(run.config.weights)
    if named is not None:
        with contextlib.suppress(CheckpointError):
            found["weights"] = checkpoint.open_any(named[0]), named[1]
    return found
