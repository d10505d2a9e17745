"""What AugSelf adds to a step of pretraining: `python -m benchmarks.augself_speed`.

The rows of benchmarks.augself, with and without AugSelf, one step of each in turn on the same images; of every turn the
seconds with AugSelf are divided by those without. `augself-small` is the recipe for a CPU, `augself` that for a GPU.
Writes benchmarks/results/augself_speed.json, a section a recipe and device.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.augself import EXPERIMENTS, PAIRS
from benchmarks.training_speed import PROBLEM, RESULTS, Step, places, timed
from serving.images import ImageSpec
from training.checkpoint import Run
from training.device import describe, pick_device
from training.devices import Team
from training.json_files import write_json
from training.pretrain_config import PretrainConfig
from training.pretrain_step import pretrain_step, set_up
from training.provenance import versions

WARM_UP = 3  # turns that do not count
STEPS = 100_000  # of a run: where the learning rate is, does not matter here


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", choices=sorted(EXPERIMENTS), nargs="?", default="augself-small")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--batch-size", type=int, help="default: the recipe's")
    parser.add_argument("--out", type=Path, default=RESULTS / "augself_speed.json")
    settings = parser.parse_args()
    device = pick_device(settings.device)
    rows = EXPERIMENTS[settings.recipe].rows
    if settings.batch_size is not None:
        rows = {
            row: dataclasses.replace(config, batch_size=settings.batch_size)
            for row, config in rows.items()
        }
    found = measure(rows, device, settings.turns)
    content = json.loads(settings.out.read_text()) if settings.out.is_file() else {}
    content[f"{settings.recipe}, {device.type}"] = {
        "command": f"python -m benchmarks.augself_speed {settings.recipe}",
        **found,
    }
    write_json(settings.out, content)
    for method, row in found["methods"].items():
        low, high = row["ratio"]["quartiles"]
        print(f"{method}: {row['ratio']['median']:.3f} x the plain step ({low:.3f} to {high:.3f})")


def measure(rows: dict[str, PretrainConfig], device: torch.device, turns: int) -> dict[str, Any]:
    """The seconds a step of every row, and the ratios of each turn."""
    steps = {row: step_of(config, device) for row, config in rows.items()}
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for number in range(turns + WARM_UP):
        for row, step in steps.items():
            seconds[row].append(timed(step, number, device))
    counted = {row: values[WARM_UP:] for row, values in seconds.items()}
    config = next(iter(rows.values()))
    return {
        "what": f"{config.backbone}, {config.data.image_size} x {config.data.image_size}, batch {config.batch_size}",
        "turns": turns,
        "hardware": describe(device),
        "versions": versions(),
        "methods": {
            plain: {
                "plain_s": statistics.median(counted[plain]),
                "augself_s": statistics.median(counted[aware]),
                "ratio": ratios(counted[aware], counted[plain]),
            }
            for aware, plain in PAIRS
        },
    }


def ratios(aware: list[float], plain: list[float]) -> dict[str, Any]:
    """The median of the ratios of the turns, and their quartiles."""
    found = [a / b for a, b in zip(aware, plain, strict=True)]
    low, median, high = statistics.quantiles(found, n=4)
    return {"median": median, "quartiles": [low, high]}


def step_of(config: PretrainConfig, device: torch.device) -> Step:
    """A step of `viewfold pretrain`, on noise: what it takes does not depend on the pictures."""
    side = config.data.image_size
    assert side is not None
    problem = dataclasses.replace(PROBLEM, image=ImageSpec(side, side))
    generator = torch.Generator().manual_seed(0)
    count = 2 * config.batch_size
    images = torch.randint(0, 256, (count, side, side, 3), generator=generator).to(torch.uint8)
    images, labels = images.to(device), torch.zeros(count, dtype=torch.int64, device=device)
    learner = set_up(Run(Path(), config, problem), Team(device))
    learner.module.train()

    def step(number: int) -> Tensor:
        chosen = places(number, count, config.batch_size).to(device)
        return pretrain_step(learner, images[chosen], labels[chosen], number, STEPS)

    return step


if __name__ == "__main__":
    main()
