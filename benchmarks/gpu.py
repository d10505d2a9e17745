"""The programmes for a GPU, in steps that can be left and gone on with: `python -m benchmarks.gpu sla --data npz:FILE`.

`sla`, or `augself` (--data DIR, of benchmarks.augself). Does what is missing, one seed first, the most valuable and the
cheap before the dear, until --limit-s is over; the run in progress is then saved and the next call goes on with it, on
this machine or on another that has --runs and --results. --list says what there is and what of it is done, --only and
--seeds choose. --tiny does all of it at a size for a CPU, with results that mean nothing, to see that every step works.
"""

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import accuracy
from benchmarks.accuracy import Place
from benchmarks.chosen import among
from benchmarks.experiments import EXPERIMENTS, Experiment, tiny

# (experiment, row): every one with the first seed, then every one with the second. A teacher before who learns from it,
# so that its result is kept as well; the last takes more steps than all the others together
PROGRAMME = (
    ("cifar10-strong", "sla"),
    ("cifar10-strong", "fold"),
    ("cifar10", "sla-sd"),
    ("cifar10", "baseline"),
    ("cifar10", "sla"),
    ("cifar10", "fold"),
    ("cifar10", "da"),
    ("cifar10", "mt"),
    ("cifar10", "baseline, cutmix, passes of fold"),
)
SPEED, AUGSELF_SPEED = "training_speed-gpu.json", "augself_speed-gpu.json"
VIEWS_SPEED = "views_speed-gpu.json"
TINY = "tiny"  # the folder of results that mean nothing


@dataclasses.dataclass(frozen=True)
class Step:
    """A part of a programme. done: whether its result is there. do: has it there, or returns False if interrupted."""

    name: str
    what: str
    done: Callable[[], bool]
    do: Callable[[], bool]
    seed: int | None = None

    def __str__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.name}{seed} ({self.what})"


def main() -> None:
    """Go on with the programme until it is done or the time is over."""
    settings = arguments().parse_args()
    place = Place(settings.results, settings.runs, settings.data)
    if settings.tiny:  # apart from what means something
        place = Place(place.results / TINY, place.runs / TINY, place.data)
    with limited(settings.limit_s):
        steps = PROGRAMMES[settings.programme](place, settings.tiny)
        steps = chosen(steps, settings.only, settings.seeds)
        if settings.list:
            show(steps)
        else:
            do(steps)


def arguments() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit-s", type=float, default=520.0, help="stop after this many seconds")
    parser.add_argument("--list", action="store_true", help="name the steps, and do nothing")
    parser.add_argument(
        "--only", nargs="+", metavar="STEP", help="only these, as --list names them"
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="only these seeds")
    parser.add_argument("--tiny", action="store_true", help="at a size for a CPU, to try the steps")
    parser.add_argument("programme", choices=sorted(PROGRAMMES))
    accuracy.add_place(parser)
    return parser


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Leave the block by SIGTERM after so long: the training loop saves and returns, and what is not training ends."""
    before = signal.signal(signal.SIGTERM, over)
    limit = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    limit.daemon = True
    limit.start()
    try:
        yield
    finally:
        limit.cancel()
        signal.signal(signal.SIGTERM, before)


def chosen(steps: list[Step], only: list[str] | None, seeds: list[int] | None) -> list[Step]:
    """The steps of these names and seeds, in the programme's order; what has no seed is not left out by one.

    Raises:
        SystemExit: there is no step of a name, or none with a seed.
    """
    names = list(dict.fromkeys(step.name for step in steps))
    among("step", only, names)
    among("seed", seeds, sorted({step.seed for step in steps if step.seed is not None}))
    return [
        step
        for step in steps
        if (only is None or step.name in only)
        and (seeds is None or step.seed is None or step.seed in seeds)
    ]


def show(steps: list[Step]) -> None:
    """Print what there is to do, in its order, and what is done."""
    for step in steps:
        print(f"{'done' if step.done() else '-':<5} {step}")


def do(steps: list[Step]) -> None:
    """Do what is not done; leave when a step was interrupted."""
    for step in steps:
        if step.done():
            continue
        print(f"== {step}", flush=True)
        if not step.do():
            over()


def over(*_: object) -> None:
    """Leave, with what is done on disk."""
    print("the time is over; the same command goes on")
    sys.exit(0)


def sla(place: Place, small: bool) -> list[Step]:
    """Training speed, then the classifiers. small: at a size for a CPU."""
    if small:
        for name in {name for name, _ in PROGRAMME}:
            EXPERIMENTS[name] = shrunk(EXPERIMENTS[name])
    size = ["--steps", "1", "--batch-size", "4", "--compile", "off"]
    full = ["--steps", "60", "--device", "cuda"]
    steps = [timed(place.results / SPEED, "training_speed", size if small else full)]
    for seed in EXPERIMENTS["cifar10"].seeds:
        steps += [_classifier(name, row, seed, place) for name, row in PROGRAMME]
    return steps


def _classifier(name: str, row: str, seed: int, place: Place) -> Step:
    config = EXPERIMENTS[name].rows[row]
    return Step(
        f"{name}: {row}",
        f"{config.backbone}, {config.epochs} epochs, batch {config.batch_size}",
        lambda: accuracy.found(name, row, seed, name, place) is not None,
        partial(accuracy.obtain, name, row, seed, place),
        seed,
    )


def shrunk(experiment: Experiment) -> Experiment:
    """The same rows, each over in seconds."""
    rows = {name: tiny(config) for name, config in experiment.rows.items()}
    return dataclasses.replace(experiment, rows=rows, seeds=(0,))


def encoders(place: Place, small: bool) -> list[Step]:
    """AugSelf: every row with the first seed, then every row with the second. small: at a size for a CPU.

    Raises:
        SystemExit: there is no --data.
    """
    from benchmarks import augself  # with kornia, which classifiers do without

    if place.data is None:
        raise SystemExit(
            "--data DIR is needed: the folder of tiny-imagenet-50, flowers17 and dtd10"
        )
    if small:
        augself.EXPERIMENTS["augself"] = augself.tiny(augself.EXPERIMENTS["augself"])
    size = ["--turns", "2", "--batch-size", "4"]
    full = ["--turns", "100", "--device", "cuda"]
    recipe = ["augself-small", *size] if small else ["augself", *full]
    steps = [
        timed(place.results / AUGSELF_SPEED, "augself_speed", recipe),
        timed(place.results / VIEWS_SPEED, "views_speed", size if small else full),
    ]
    there = augself.Place(Path(place.data), place.results, place.runs)
    for seed in augself.EXPERIMENTS["augself"].seeds:
        for row, config in augself.EXPERIMENTS["augself"].rows.items():
            what = f"{config.backbone}, {config.epochs} epochs, batch {config.batch_size}"
            asked = ("augself", row, seed, there)
            steps.append(
                Step(
                    f"augself: {row}",
                    what,
                    partial(augself.there, *asked),
                    partial(augself.obtain, *asked),
                    seed,
                )
            )
    return steps


def timed(out: Path, module: str, arguments: list[str]) -> Step:
    """A benchmark of speed that writes one file, in a process of its own."""

    def run() -> bool:
        out.parent.mkdir(exist_ok=True, parents=True)
        command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--out", str(out)]
        subprocess.run(command, check=True, cwd=Path(__file__).parent.parent)
        return True

    return Step(out.stem, " ".join(arguments), out.is_file, run)


PROGRAMMES = {"sla": sla, "augself": encoders}

if __name__ == "__main__":
    main()
