"""Accuracy of an experiment's rows in every mode over several seeds: `python -m benchmarks.accuracy digits`.

Runs one (row, seed) at a time and writes benchmarks/results/NAME.json after each, so it can be
stopped and called again. All rows see the same split; the runs' seeds differ. Runs are kept under
runs/benchmarks/.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from training.config import DataConfig, TrainConfig, to_dict
from training.loop import train

RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs") / "benchmarks"

DIGITS = TrainConfig(
    data=DataConfig(data="digits"),
    objective="sla-sd",
    transformations="rotation",
    backbone="resnet8",
    epochs=30,
    batch_size=32,
)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Rows of a table: their names and their settings, seed aside."""

    rows: dict[str, TrainConfig]
    seeds: tuple[int, ...]


EXPERIMENTS = {
    "digits": Experiment(
        rows={
            "sla-sd": DIGITS,
            "baseline": dataclasses.replace(DIGITS, objective="baseline"),
            # as many forward passes in training as sla-sd takes
            "baseline, 4 x epochs": dataclasses.replace(
                DIGITS, objective="baseline", epochs=4 * DIGITS.epochs
            ),
        },
        seeds=(0, 1, 2, 3, 4),
    ),
}


def main() -> None:
    """Run what is missing of an experiment."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=sorted(EXPERIMENTS))
    name = parser.parse_args().experiment
    experiment = EXPERIMENTS[name]
    runs: list[dict[str, Any]] = []
    for seed in experiment.seeds:
        for row, config in experiment.rows.items():
            runs.append({"row": row, "seed": seed} | run(name, row, config, seed))
            write(name, experiment, runs)


def run(name: str, row: str, config: TrainConfig, seed: int) -> dict[str, Any]:
    """The result of one run: made, continued, or taken as it is."""
    slug = "".join(c if c.isalnum() or c == "-" else "_" for c in row)
    folder = RUNS / name / f"{slug}-{seed}"
    begun = (folder / "SHA256SUMS").exists()
    finished = train(
        TrainConfig(resume=folder) if begun else dataclasses.replace(config, seed=seed, out=folder)
    )
    if not finished.complete:
        raise SystemExit(f"interrupted; `python -m benchmarks.accuracy {name}` goes on")
    return finished.result()


def write(name: str, experiment: Experiment, runs: list[dict[str, Any]]) -> None:
    """The results so far, with what they were obtained on."""
    content = {
        "command": f"python -m benchmarks.accuracy {name}",
        "hardware": runs[0]["hardware"],
        "versions": runs[0]["versions"],
        "configs": {row: _settings(config) for row, config in experiment.rows.items()},
        "table": table(runs),
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, a line a row and mode."""
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in runs:
        for mode, values in entry["test"].items():
            lines.setdefault((entry["row"], mode), []).append(
                values | {"seconds": entry["seconds"]}
            )
    return [{"row": row, "mode": mode} | _summary(values) for (row, mode), values in lines.items()]


def _summary(values: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"seeds": len(values), "test_images": values[0]["n"]}
    summary["forward_passes"] = values[0]["forward_passes"]
    for key in ("top1", "nll", "ece", "seconds"):
        numbers = [float(value[key]) for value in values]
        spread = statistics.stdev(numbers) if len(numbers) > 1 else None
        summary[key] = {"mean": statistics.mean(numbers), "sd": spread}
    return summary


def _settings(config: TrainConfig) -> dict[str, Any]:
    default, given = to_dict(TrainConfig()), to_dict(config)
    return {key: value for key, value in given.items() if value != default[key]}


if __name__ == "__main__":
    main()
