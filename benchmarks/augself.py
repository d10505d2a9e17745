"""What AugSelf does to an encoder's transfer: `python -m benchmarks.augself augself-small --data DIR`.

DIR holds tiny-imagenet-50, flowers17 and dtd10 as folders. Pretrains on the first, with and without AugSelf; then
linear probes on the two others, and how well the views can be told from the features. `augself-small` is of a size
for a CPU, `augself` for a GPU. One (row, seed) at a time, into benchmarks/results/NAME.json: what is there is not
done again; runs go on where they were interrupted. Two processes may share the work, with --seeds of their own. No
test split chooses anything. Intervals are of the seeds: the test images and the held-out splits are the same for all.
"""

import argparse
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import alone, begun, interval, unchanged
from benchmarks.chosen import among
from training.awareness import measure
from training.checkpoint import Run
from training.config import DataConfig, OptimConfig
from training.config_json import to_dict
from training.device import pick_device
from training.frozen import load_encoder
from training.json_files import write_json
from training.pool import load_pool
from training.pretrain import pretrain
from training.pretrain_config import MethodConfig, PretrainConfig, ViewsConfig
from training.pretrain_setup import read
from training.probe import probe
from training.probe_config import ProbeConfig
from training.progress import Progress
from training.provenance import versions

PRETRAINED_ON = "tiny-imagenet-50"
DOWNSTREAM = ("flowers17", "dtd10")
AWARE = "crop=1.0,color=1.0"  # the paper's

SMALL = PretrainConfig(
    data=DataConfig(image_size=32, train_images=10_000),
    optim=OptimConfig(nesterov=False, weight_decay=5e-4, warmup=0.0),
    settings=MethodConfig(hidden=512, projection=512),
    method="simsiam",
    backbone="resnet8-half",
    epochs=60,
    batch_size=256,
)
# the paper's recipe for STL-10, on other images
LARGE = PretrainConfig(
    data=DataConfig(image_size=64),
    optim=OptimConfig(nesterov=False, weight_decay=5e-4, warmup=0.0),
    method="simsiam",
    backbone="timm/resnet18",
    epochs=200,
    batch_size=256,
)
PAIRS = (("simsiam + augself", "simsiam"), ("simclr + augself", "simclr"))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Rows of a table, seed and place of the data aside."""

    rows: dict[str, PretrainConfig]
    seeds: tuple[int, ...]


def with_and_without(simsiam: PretrainConfig, seeds: tuple[int, ...]) -> Experiment:
    """SimSiam and SimCLR, plain and with AugSelf."""
    simclr = dataclasses.replace(simsiam, method="simclr", settings=MethodConfig())
    rows = {
        "simsiam": simsiam,
        "simsiam + augself": dataclasses.replace(simsiam, augself=AWARE),
        "simclr": simclr,
        "simclr + augself": dataclasses.replace(simclr, augself=AWARE),
    }
    return Experiment(rows, seeds)


def tiny(experiment: Experiment) -> Experiment:
    """The same rows, each over in seconds; what they measure means nothing."""
    rows = {
        row: dataclasses.replace(
            config,
            data=DataConfig(image_size=16, train_images=100),
            backbone="resnet8",
            epochs=1,
            batch_size=32,
        )
        for row, config in experiment.rows.items()
    }
    return Experiment(rows, (0,))


EXPERIMENTS = {
    "augself-small": with_and_without(SMALL, (0, 1, 2, 3, 4)),
    "augself": with_and_without(LARGE, (0, 1, 2)),
}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the images are, where results are written, where runs are kept."""

    data: Path
    results: Path = Path(__file__).parent / "results"
    runs: Path = Path("runs") / "benchmarks"


def main() -> None:
    """Do what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=sorted(EXPERIMENTS))
    parser.add_argument("--data", type=Path, required=True, help="the folder of the three sets")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these of the experiment's seeds")
    parser.add_argument("--rows", nargs="+", help="only these of the experiment's rows")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument("--runs", type=Path, default=Place.runs, help="where runs are kept")
    parser.add_argument("--results", type=Path, default=Place.results, help="a folder")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    place = Place(settings.data, settings.results, settings.runs)
    experiment = EXPERIMENTS[settings.experiment]
    seeds = among("seed", settings.seeds, experiment.seeds)
    rows = among("row", settings.rows, tuple(experiment.rows))
    for seed in seeds:
        for row in rows:
            if not obtain(settings.experiment, row, seed, place):
                raise SystemExit("interrupted; the same command goes on")


def obtain(name: str, row: str, seed: int, place: Place) -> bool:
    """Have the result of a row and seed among the results. Returns False if pretraining was interrupted."""
    if there(name, row, seed, place):
        return True
    run = pretrained(name, row, seed, place)
    if not run.complete:
        return False
    probes = {other: probed(run, other, place) for other in DOWNSTREAM}
    add(
        name,
        {
            "row": row,
            "seed": seed,
            "pretraining": run.result(),
            "probes": {other: found.result() for other, found in probes.items()},
            "awareness": aware(run, place),
            "threads": torch.get_num_threads(),
            "hardware": run.result()["hardware"],
            "versions": versions(),
        },
        place,
    )
    return True


def there(name: str, row: str, seed: int, place: Place) -> bool:
    """Whether the result of a row and seed is among the results."""
    return any((e["row"], e["seed"]) == (row, seed) for e in read_results(name, place)["runs"])


def pretrained(name: str, row: str, seed: int, place: Place) -> Run[PretrainConfig]:
    """The encoder: made, or gone on with."""
    config = EXPERIMENTS[name].rows[row]
    settings = json.dumps(_plain(config), sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:12]
    out = place.runs / f"{config.method}-{digest}-seed{seed}"
    where = f"folder:{place.data / PRETRAINED_ON}"
    if begun(out):
        return pretrain(PretrainConfig(resume=out, data=DataConfig(data=where)))
    data = dataclasses.replace(config.data, data=where)
    return pretrain(dataclasses.replace(config, data=data, seed=seed, out=out))


def probed(run: Run[PretrainConfig], name: str, place: Place) -> Run:
    """A linear probe of the encoder on a set that it has never seen; made anew, for it takes seconds."""
    out = run.folder.with_name(f"{run.folder.name}-{name}")
    if out.exists():
        for path in sorted(out.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    data = DataConfig(data=f"folder:{place.data / name}")
    return probe(ProbeConfig(run.folder, data=data, out=out))


def aware(run: Run[PretrainConfig], place: Place) -> dict[str, Any]:
    """How well the views' differences can be told from the encoder's features."""
    encoder, _ = load_encoder(run.folder)
    device = pick_device("auto")
    data = dataclasses.replace(run.config.data, data=f"folder:{place.data / PRETRAINED_ON}")
    pool = load_pool(data, unlabelled=False)
    images = read(pool, run.problem.image, data, device, Progress())
    return measure(
        encoder.to(device), images.train, images.val, ViewsConfig(), seed=run.config.seed
    )


def read_results(name: str, place: Place) -> dict[str, Any]:
    """The results so far; those of rows whose settings have changed do not count."""
    path = place.results / f"{name}.json"
    if not path.is_file():
        return {"runs": []}
    content: dict[str, Any] = json.loads(path.read_text())
    configs = {row: _plain(config) for row, config in EXPERIMENTS[name].rows.items()}
    return content | {"runs": unchanged(content, configs)}


def add(name: str, entry: dict[str, Any], place: Place) -> None:
    """Write a result into the results, and the tables made of them."""
    path = place.results / f"{name}.json"
    with alone(path):
        runs = [
            e
            for e in read_results(name, place)["runs"]
            if (e["row"], e["seed"]) != (entry["row"], entry["seed"])
        ]
        runs.append(entry)
        rows = EXPERIMENTS[name].rows
        runs.sort(key=lambda e: (list(rows).index(e["row"]), e["seed"]))
        content = {
            "command": f"python -m benchmarks.augself {name} --data DIR",
            "configs": {row: _plain(config) for row, config in rows.items()},
            "table": table(runs),
            "comparisons": compare(runs),
            "runs": runs,
        }
        write_json(path, content)


def numbers(entry: dict[str, Any]) -> dict[str, float]:
    """What a run is judged by: top-1 of the probes, the share of ω that is told, the nearest neighbours' top-1.

    Results of before probes told of neighbours have no "kNN" of the downstream sets.
    """
    found = {name: entry["probes"][name]["test"]["plain"]["top1"] for name in DOWNSTREAM}
    found["mean of both"] = sum(found.values()) / len(found)
    found |= {f"ω {name}": entry["awareness"][name]["score"] for name in ("crop", "color")}
    near = {
        name: entry["probes"][name]["knn"] for name in DOWNSTREAM if "knn" in entry["probes"][name]
    }
    found |= {f"kNN {name}": values["top1"] for name, values in near.items()}
    return found | {"kNN": entry["pretraining"]["val"]["val_knn_top1"]}


def table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and 95 % interval over the seeds of every number, a line a row."""
    lines = []
    for row in dict.fromkeys(entry["row"] for entry in runs):
        found = [numbers(entry) for entry in runs if entry["row"] == row]
        if found:
            values = {key: interval([each[key] for each in found]) for key in _shared(found)}
            seconds = [entry["pretraining"]["seconds"] for entry in runs if entry["row"] == row]
            lines.append({"row": row, "numbers": values, "seconds": interval(seconds)})
    return lines


def compare(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What AugSelf adds to every number, paired by seed, with its 95 % interval."""
    by_run = {(entry["row"], entry["seed"]): numbers(entry) for entry in runs}
    lines = []
    for row, against in PAIRS:
        seeds = [seed for r, seed in by_run if r == row and (against, seed) in by_run]
        if seeds:
            keys = _shared([by_run[r, seed] for seed in seeds for r in (row, against)])
            gains = {
                key: interval([by_run[row, s][key] - by_run[against, s][key] for s in seeds])
                for key in keys
            }
            lines.append({"row": row, "against": against, "gains": gains})
    return lines


def _shared(found: list[dict[str, float]]) -> list[str]:
    """The numbers that all of them have."""
    return [key for key in found[0] if all(key in each for each in found)]


def _plain(config: PretrainConfig) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(json.dumps(to_dict(config)))
    return settings


if __name__ == "__main__":
    main()
