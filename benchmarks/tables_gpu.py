"""The tables of the programmes for a GPU: results in, Markdown out. That of encoders is in `tables_training`."""

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.markdown import grid
from benchmarks.tables_training import TRAINING, accuracy, spread


def _with_stages(results: dict[str, Any]) -> str:
    return accuracy(results, _stages(results), with_seconds=True)


def _stages(results: dict[str, Any]) -> list[str]:
    """The seconds of every row that learns from another one, together with those of that row of the same seed."""
    runs = {(run["row"], run["seed"]): run for run in results["runs"]}
    rows = []
    for row, teacher in _teachers(results["configs"]):
        seeds = [seed for name, seed in runs if name == row and (teacher, seed) in runs]
        both = [(runs[teacher, seed], runs[row, seed]) for seed in seeds]
        if both:
            seconds = _summary([first["seconds"] + second["seconds"] for first, second in both])
            compiled = sorted(
                {f"{first['compile']}, {second['compile']}" for first, second in both}
            )
            cells = (spread(seconds, ".0f"), "; ".join(compiled), str(len(seeds)))
            rows.append((f"{teacher}, then {row}", *cells))
    headings = ("both stages", "training, s", "compiled", "seeds")
    return ["", *grid(headings, rows)] if rows else []


def _teachers(configs: dict[str, Any]) -> list[tuple[str, str]]:
    """(row, teacher) of every row whose settings name those of another row."""
    return [
        (row, other)
        for row, settings in configs.items()
        for other, its in configs.items()
        if settings.get("teacher") == its
    ]


def _summary(values: list[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "sd": deviation}


GPU: dict[str, Callable[[dict[str, Any]], str]] = {
    "cifar10-strong": _with_stages,
    "cifar10": _with_stages,
    "training_speed-gpu": TRAINING["training_speed"],
    "augself_speed-gpu": TRAINING["augself_speed"],
    "views_speed-gpu": TRAINING["views_speed"],
}

_SLA = "`python -m benchmarks.gpu sla --data npz:cifar10.npz`, for a GPU"
_ENCODERS = "`python -m benchmarks.gpu augself --data DIR`, for a GPU"
GPU_NOT_RUN = {
    "cifar10-strong": _SLA,
    "cifar10": _SLA,
    "training_speed-gpu": _SLA,
    "augself_speed-gpu": _ENCODERS,
    "views_speed-gpu": _ENCODERS,
}
