"""Accuracy of an experiment's rows in every mode over several seeds: `python -m benchmarks.accuracy digits`.

Trains one (row, seed) at a time and writes benchmarks/results/NAME.json after each. What is in that file is
not trained again, here or on another machine, unless the row's settings have changed. Two processes may share
the work (`--seeds 0 2 4` and `--seeds 1 3`). All rows see the same split; the runs' seeds differ. Runs are kept
under runs/benchmarks/; a row's teacher that is not there any more is trained anew.
"""

import argparse
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from benchmarks.chosen import among
from benchmarks.experiments import EXPERIMENTS, Comparison, Experiment
from training.checkpoint import Run
from training.checksums import SUMS
from training.classify import train
from training.config import TrainConfig
from training.config_json import to_dict
from training.device import has_compiler
from training.json_files import write_json

Entry = dict[str, Any]  # the result of one (row, seed)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where results are written, where runs are kept, and where the images are, if not where the row says."""

    results: Path = Path(__file__).parent / "results"
    runs: Path = Path("runs") / "benchmarks"
    data: str | None = None


def main() -> None:
    """Train what is missing of an experiment."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=sorted(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, nargs="+", help="only these of the experiment's seeds")
    parser.add_argument("--rows", nargs="+", help="only these of the experiment's rows")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    add_place(parser)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    place = Place(settings.results, settings.runs, settings.data)
    experiment = EXPERIMENTS[settings.experiment]
    seeds = among("seed", settings.seeds, experiment.seeds)
    rows = among("row", settings.rows, tuple(experiment.rows))
    for seed in seeds:
        for row in rows:
            if not obtain(settings.experiment, row, seed, place):
                command = f"python -m benchmarks.accuracy {settings.experiment}"
                raise SystemExit(f"interrupted; `{command}` goes on")


def add_place(parser: argparse.ArgumentParser) -> None:
    """The flags that say where everything lies."""
    parser.add_argument("--data", help="where the images are, e.g. npz:cifar10.npz")
    parser.add_argument("--runs", type=Path, default=Place.runs, help="where runs are kept")
    parser.add_argument("--results", type=Path, default=Place.results, help="a folder")


def obtain(name: str, row: str, seed: int, place: Place) -> bool:
    """Have the result of a row and seed among the results. Returns False if training was interrupted."""
    if found(name, row, seed, name, place) is not None:
        return True
    for other in EXPERIMENTS:
        entry = found(name, row, seed, other, place)
        if entry is not None:  # the same settings under another name
            add(name, entry | {"row": row}, place)
            return True
    finished = run(name, row, seed, place)
    if finished is None:
        return False
    about = {"row": row, "seed": seed, "compile": finished.config.compile}
    add(name, about | finished.result(), place)
    return True


def found(name: str, row: str, seed: int, other: str, place: Place) -> Entry | None:
    """The result of this row's present settings and seed among those of an experiment."""
    content = read(other, place)
    wanted = settings_of(EXPERIMENTS[name], row)
    return next(
        (
            entry
            for entry in content["runs"]
            if entry["seed"] == seed and content["configs"][entry["row"]] == wanted
        ),
        None,
    )


def run(name: str, row: str, seed: int, place: Place) -> Run | None:
    """A run: made, continued, or taken as it is; its teacher's first. None if training was interrupted."""
    experiment = EXPERIMENTS[name]
    out = folder(name, row, seed, place)
    if begun(out):
        finished = train(placed(TrainConfig(resume=out), place))
        return finished if finished.complete else None
    config = placed(dataclasses.replace(experiment.rows[row], seed=seed, out=out), place)
    if row in experiment.teachers:
        teacher = run(name, experiment.teachers[row], seed, place)
        if teacher is None:
            return None
        config = dataclasses.replace(config, teacher=str(teacher.folder))
    finished = train(config)
    return finished if finished.complete else None


def begun(out: Path) -> bool:
    """Whether there is a run to go on with. A folder that was left before it was one is removed."""
    if (out / SUMS).exists():
        return True
    if out.exists():
        shutil.rmtree(out)
    return False


def placed(config: TrainConfig, place: Place) -> TrainConfig:
    """The same, with the images where they are, and compiled only where there is a compiler."""
    if config.compile == "on" and not has_compiler():
        config = dataclasses.replace(config, compile="off")
    if place.data is None:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, data=place.data))


def folder(name: str, row: str, seed: int, place: Place) -> Path:
    """Where a run is kept: by its settings, so that experiments share what they have in common."""
    settings = json.dumps(settings_of(EXPERIMENTS[name], row), sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:12]
    return place.runs / f"{EXPERIMENTS[name].rows[row].objective}-{digest}-seed{seed}"


def read(name: str, place: Place) -> dict[str, Any]:
    """The results so far."""
    path = place.results / f"{name}.json"
    if not path.is_file():
        return {"configs": {}, "runs": []}
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def add(name: str, entry: Entry, place: Place) -> None:
    """Write a result into the results, in the place of an older one; those of changed or former rows are dropped."""
    experiment, path = EXPERIMENTS[name], place.results / f"{name}.json"
    rows, seeds = list(experiment.rows), list(experiment.seeds)
    configs = {row: settings_of(experiment, row) for row in rows}
    with alone(path):
        before = read(name, place)
        runs = unchanged(before, configs)
        key = (entry["row"], entry["seed"])
        runs = [e for e in runs if (e["row"], e["seed"]) != key] + [entry]
        runs.sort(key=lambda e: (rows.index(e["row"]), seeds.index(e["seed"])))
        content = {
            "command": f"python -m benchmarks.accuracy {name}",
            "configs": configs,
            "table": table(runs, "test"),
            "validation": table(runs, "val"),
            "comparisons": compare(experiment.comparisons, runs),
            "runs": runs,
        }
        write_json(path, content)


def unchanged(content: dict[str, Any], configs: dict[str, Any]) -> list[Entry]:
    """The runs of results that were made with what are the settings of their rows now. configs: row -> settings."""
    before = content.get("configs", {})
    return [e for e in content["runs"] if before.get(e["row"]) == configs.get(e["row"], {})]


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Only one process at a time reads and writes the results."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def table(runs: list[Entry], split: str) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, a line a row and mode. split: test, or val."""
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in runs:
        for mode, values in entry[split].items():
            beside = {
                "seconds": entry["seconds"],
                "forward_passes": entry["test"][mode]["forward_passes"],
            }
            lines.setdefault((entry["row"], mode), []).append(values | beside)
    return [{"row": row, "mode": mode} | _summary(values) for (row, mode), values in lines.items()]


def compare(comparisons: tuple[Comparison, ...], runs: list[Entry]) -> list[dict[str, Any]]:
    """Differences in top-1, paired by seed: mean, and the half width of the 95 % interval (Student's t)."""
    top1 = {
        (e["row"], mode, e["seed"]): values["top1"]
        for e in runs
        for mode, values in e["test"].items()
    }
    seeds = sorted({e["seed"] for e in runs})
    found = []
    for comparison in comparisons:
        left = (comparison.row, comparison.mode)
        right = (comparison.against_row, comparison.against_mode)
        pairs = [s for s in seeds if (*left, s) in top1 and (*right, s) in top1]
        differences = [top1[*left, s] - top1[*right, s] for s in pairs]
        if differences:
            found.append(dataclasses.asdict(comparison) | {"top1": interval(differences)})
    return found


def interval(values: list[float]) -> dict[str, Any]:
    """The mean of values that are normally distributed, and the half width of its 95 % interval."""
    n = len(values)
    half = None
    if n > 1:
        half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5
    return {"mean": statistics.mean(values), "half_width_95": half, "n": n}


def _summary(values: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"seeds": len(values), "images": values[0]["n"]}
    summary["forward_passes"] = values[0]["forward_passes"]
    for key in ("top1", "nll", "ece", "seconds"):
        numbers = [float(value[key]) for value in values]
        spread = statistics.stdev(numbers) if len(numbers) > 1 else None
        summary[key] = {"mean": statistics.mean(numbers), "sd": spread}
    return summary


def settings_of(experiment: Experiment, row: str) -> dict[str, Any]:
    """What a row's settings are beside the defaults, its teacher's with them."""
    default, given = to_dict(TrainConfig()), to_dict(experiment.rows[row])
    found = {key: value for key, value in given.items() if value != default[key]}
    if row in experiment.teachers:
        found["teacher"] = settings_of(experiment, experiment.teachers[row])
    return found


if __name__ == "__main__":
    main()
