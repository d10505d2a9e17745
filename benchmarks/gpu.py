"""The programmes for a GPU, in steps that end within a limit: `python -m benchmarks.gpu sla --data npz:cifar10.npz`.

`sla`, or `augself` (--data DIR, of benchmarks.augself). Does what is missing, the most valuable first, one seed
first, until --limit-s is over; the run in progress is
then saved and the next call goes on with it, on this machine or on another that has --runs and --results.
--tiny does all of it at a size for a CPU, with results that mean nothing, to see that every step works.
"""

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from benchmarks import accuracy, augself
from benchmarks.accuracy import Place
from benchmarks.experiments import EXPERIMENTS, Experiment, tiny

# (experiment, row) in the order of their worth; every one with the first seed, then every one with the second
PROGRAMME = (
    ("cifar10", "sla-sd"),
    ("cifar10", "fold"),
    ("cifar10-strong", "fold"),
    ("cifar10", "baseline"),
    ("cifar10", "sla"),
    ("cifar10", "baseline, cutmix, passes of fold"),
    ("cifar10", "da"),
    ("cifar10", "mt"),
)
SPEED, AUGSELF_SPEED = "training_speed-gpu.json", "augself_speed-gpu.json"
VIEWS_SPEED = "views_speed-gpu.json"
TINY = "tiny"  # the folder of results that mean nothing


def main() -> None:
    """Go on with the programme until it is done or the time is over."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit-s", type=float, default=520.0, help="stop after this many seconds")
    parser.add_argument("--tiny", action="store_true", help="at a size for a CPU, to try the steps")
    parser.add_argument("programme", choices=sorted(PROGRAMMES))
    accuracy.add_place(parser)
    settings = parser.parse_args()
    place = Place(settings.results, settings.runs, settings.data)
    if settings.tiny:  # apart from what means something
        place = Place(place.results / TINY, place.runs / TINY, place.data)
    # asked to stop, the training loop saves and returns; between two runs there is nothing to save
    signal.signal(signal.SIGTERM, over)
    limit = threading.Timer(settings.limit_s, os.kill, (os.getpid(), signal.SIGTERM))
    limit.daemon = True
    limit.start()
    PROGRAMMES[settings.programme](place, settings.tiny)
    limit.cancel()


def sla(place: Place, tiny: bool) -> None:
    """Training speed, then the classifiers."""
    if tiny:
        for name in {name for name, _ in PROGRAMME}:
            EXPERIMENTS[name] = shrunk(EXPERIMENTS[name])
    speed(place, tiny=tiny)
    for seed in EXPERIMENTS["cifar10"].seeds:
        for name, row in PROGRAMME:
            print(f"== {name}: {row}, seed {seed}", flush=True)
            if not accuracy.obtain(name, row, seed, place):
                over()


def encoders(place: Place, tiny: bool) -> None:
    """AugSelf: every row with the first seed, then every row with the second.

    Raises:
        SystemExit: there is no --data.
    """
    if place.data is None:
        raise SystemExit(
            "--data DIR is needed: the folder of tiny-imagenet-50, flowers17 and dtd10"
        )
    if tiny:
        augself.EXPERIMENTS["augself"] = augself.tiny(augself.EXPERIMENTS["augself"])
    augself_speed(place, tiny=tiny)
    views_speed(place, tiny=tiny)
    there = augself.Place(Path(place.data), place.results, place.runs)
    experiment = augself.EXPERIMENTS["augself"]
    for seed in experiment.seeds:
        for row in experiment.rows:
            print(f"== augself: {row}, seed {seed}", flush=True)
            if not augself.obtain("augself", row, seed, there):
                over()


def over(*_: object) -> None:
    """Leave, with what is done on disk."""
    print("the time is over; the same command goes on")
    sys.exit(0)


def shrunk(experiment: Experiment) -> Experiment:
    """The same rows, each over in seconds."""
    rows = {name: tiny(config) for name, config in experiment.rows.items()}
    return dataclasses.replace(experiment, rows=rows, seeds=(0,))


def speed(place: Place, *, tiny: bool) -> None:
    """The training speed against the straightforward loops, if it is not known yet."""
    size = ["--steps", "1", "--batch-size", "4"] if tiny else ["--steps", "60"]
    timed(place.results / SPEED, ["benchmarks.training_speed", *size])


def augself_speed(place: Place, *, tiny: bool) -> None:
    """What AugSelf adds to a step, if it is not known yet."""
    size = ["augself-small", "--turns", "2"] if tiny else ["augself", "--turns", "100"]
    timed(place.results / AUGSELF_SPEED, ["benchmarks.augself_speed", *size])


def views_speed(place: Place, *, tiny: bool) -> None:
    """What a view costs beside the forward pass, if it is not known yet."""
    size = ["--turns", "2", "--batch-size", "4"] if tiny else ["--turns", "100"]
    timed(place.results / VIEWS_SPEED, ["benchmarks.views_speed", *size])


def timed(out: Path, module: list[str]) -> None:
    """Run a benchmark of speed that writes one file, if the file is not there."""
    if out.is_file():
        return
    out.parent.mkdir(exist_ok=True, parents=True)
    command = [sys.executable, "-m", *module, "--out", str(out)]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent)


PROGRAMMES = {"sla": sla, "augself": encoders}

if __name__ == "__main__":
    main()
