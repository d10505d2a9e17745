"""The programme for a GPU, in steps that end within a limit: `python -m benchmarks.gpu --data npz:cifar10.npz`.

Does what is missing, the most valuable first, one seed first, until --limit-s is over; the run in progress is
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

from benchmarks import accuracy
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
SPEED = "training_speed-gpu.json"


def main() -> None:
    """Go on with the programme until it is done or the time is over."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit-s", type=float, default=520.0, help="stop after this many seconds")
    parser.add_argument("--tiny", action="store_true", help="at a size for a CPU, to try the steps")
    accuracy.add_place(parser)
    settings = parser.parse_args()
    place = Place(settings.results, settings.runs, settings.data)
    if settings.tiny:
        for name in {name for name, _ in PROGRAMME}:
            EXPERIMENTS[name] = shrunk(EXPERIMENTS[name])
    # the loop saves and returns when it is asked to stop
    limit = threading.Timer(settings.limit_s, os.kill, (os.getpid(), signal.SIGTERM))
    limit.daemon = True
    limit.start()
    speed(place, tiny=settings.tiny)
    for seed in EXPERIMENTS["cifar10"].seeds:
        for name, row in PROGRAMME:
            print(f"== {name}: {row}, seed {seed}", flush=True)
            if not accuracy.obtain(name, row, seed, place):
                print("the time is over; the same command goes on")
                return
    limit.cancel()


def shrunk(experiment: Experiment) -> Experiment:
    """The same rows, each over in seconds."""
    rows = {name: tiny(config) for name, config in experiment.rows.items()}
    return dataclasses.replace(experiment, rows=rows, seeds=(0,))


def speed(place: Place, *, tiny: bool) -> None:
    """The training speed against the straightforward loops, if it is not known yet."""
    out = place.results / SPEED
    if out.is_file():
        return
    out.parent.mkdir(exist_ok=True, parents=True)
    size = ["--steps", "1", "--batch-size", "4"] if tiny else ["--steps", "60"]
    command = [sys.executable, "-m", "benchmarks.training_speed", *size, "--out", str(out)]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent)


if __name__ == "__main__":
    main()
