"""What is fitted to frozen features, and for how long: `python -m benchmarks.logistic RUN`, minutes on a CPU.

A probe's choice between 45 weights with its last fit (10,000 images to fit, 2,000 to choose on, 512 features, 17
classes), and 2,000 episodes of 5 ways, of 1 and of 5 shots. RUN is of `viewfold pretrain`, of 512 features, on a folder
of 17 classes or more: the committed one learnt from tiny-imagenet-50 with `--image-size 32 --train-images 5000
--backbone timm/resnet18 --epochs 3 --batch-size 128`. The choice is timed on what that encoder says of images of 17
classes and of their mirror images, which count as images of their own. The other features are drawn: classes that
overlap, correlated, after a ReLU. None of it says anything of accuracy. The redundant ones are of fewer directions,
most of them weak, and mostly on the side where a ReLU changes nothing. Fits with weak weights then take many times the
steps. Seconds are the processor's over all threads, in which other programs count little, and the clock's. Writes
benchmarks/results/logistic.json.
"""

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.batches import ResidentBatches, prepare
from training.checkpoint import Run
from training.device import cpu_name
from training.episodes import episodes
from training.features import features_of
from training.flags import flags
from training.frozen import load_encoder
from training.json_files import write_json
from training.logistic import GRID, TOLERANCE, choose
from training.pool import load_pool
from training.progress import Progress
from training.provenance import versions

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is fitted. fit, choose: images; episodes: of each number of shots."""

    fit: int = 10_000
    choose: int = 2_000
    features: int = 512
    classes: int = 17
    few: int = 128  # directions of the redundant features
    weights: tuple[float, ...] = GRID
    episodes: int = 2_000


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="of a ResNet-18, by `viewfold pretrain`")
    parser.add_argument("--turns", type=int, default=2, help="of each")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument("--out", type=Path, default=RESULTS / "logistic.json")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    result = measure(Size(), settings.turns, settings.run)
    settings.out.parent.mkdir(exist_ok=True, parents=True)
    write_json(settings.out, result)
    for name, row in result["rows"].items():
        print(f"{name}: {row['processor_s']['median']:.1f} s of the processor")


def measure(size: Size, turns: int, run: Path) -> dict[str, Any]:
    """Seconds of every task, in turns."""
    features, labels = drawn(size)
    encoded, encoder = features_of_images(size, run)
    known, held = (slice(0, size.fit), slice(size.fit, None))
    unconverged: set[float] = set()

    def probe(features: Tensor, labels: Tensor) -> None:
        choice = choose(
            (features[known], labels[known]),
            (features[held], labels[held]),
            num_classes=size.classes,
            grid=size.weights,
        )
        unconverged.update(choice.unconverged)

    def few(shots: int) -> Callable[[], object]:
        return lambda: episodes(features, labels, shots=shots, count=size.episodes)

    fits = f"{len(size.weights)} fits and the last"
    redundant = drawn(size, redundant=True)
    tasks: dict[str, Callable[[], object]] = {
        f"{fits}, an encoder's features": lambda: probe(*encoded),
        f"{fits}, drawn features": lambda: probe(features, labels),
        f"{fits}, redundant features": lambda: probe(*redundant),
        f"{size.episodes:,} episodes, 5-way 1-shot": few(1),
        f"{size.episodes:,} episodes, 5-way 5-shot": few(5),
    }
    return {
        "command": "python -m benchmarks.logistic RUN",
        "encoder": flags(encoder.config),
        "learnt_from": encoder.problem.counts[0],
        "side": encoder.problem.image.height,
        "size": dataclasses.asdict(size) | {"weights": len(size.weights)},
        "tolerance": TOLERANCE,
        "threads": torch.get_num_threads(),
        "turns": turns,
        "hardware": f"{cpu_name()} ({torch.backends.cpu.get_cpu_capability()})",
        "versions": versions(),
        "rows": take_turns(tasks, turns),
        "unconverged": sorted(unconverged),
    }


def features_of_images(size: Size, folder: Path) -> tuple[tuple[Tensor, Tensor], Run[Any]]:
    """What a run's encoder says of images of its data's first classes, and of their mirror images; and the run.

    Features (n, d) float32 and labels (n,) int64, in an order that is drawn.

    Raises:
        SystemExit: it has another number of features, or there are too few images.
    """
    encoder, run = load_encoder(folder)
    if encoder.num_features != size.features:
        raise SystemExit(f"{folder} has {encoder.num_features} features, not {size.features}")
    settings = dataclasses.replace(run.config.data, train_images=None)
    images, labels = [], []
    pool = load_pool(settings, unlabelled=False)
    for name, split in (("training", pool.train), ("validation", pool.val)):
        device, said = torch.device("cpu"), Progress()
        _, batches = prepare(split, name, run.problem.image, settings, device, said)
        for some, their in batches.iterate(list(torch.arange(len(batches)).split(1000))):
            images.append(some[their < size.classes])
            labels.append(their[their < size.classes])
    both = torch.cat([view for some in images for view in (some, some.flip(2))])  # (n, H, W, 3)
    known = torch.cat([their.repeat(2) for their in labels])
    count = size.fit + size.choose
    if len(both) < count:
        raise SystemExit(f"{count} images and mirror images are needed, and there are {len(both)}")
    order = torch.randperm(len(both), generator=torch.Generator().manual_seed(0))[:count]
    shown = ResidentBatches(both[order], known[order])
    return features_of(encoder, shown, batch_size=500), run


def drawn(size: Size, *, redundant: bool = False) -> tuple[Tensor, Tensor]:
    """Features (n, d) float32, at least 0, of deviation 1, and labels (n,) int64 of the images to fit and to choose on.

    Larger features are harder: the same w is weaker beside them.
    """
    generator = torch.Generator().manual_seed(0)
    count, width = size.fit + size.choose, size.features
    directions = size.few if redundant else width
    labels = torch.randint(0, size.classes, (count,), generator=generator)
    centres = torch.randn(size.classes, directions, generator=generator)
    mixed = torch.randn(directions, width, generator=generator) / directions**0.5
    # the k-th direction has a share of 1 / k, or of 1 / k²: an encoder's features lie in few directions as well
    places = torch.arange(1, directions + 1).float()
    shares = places.reciprocal() if redundant else places.rsqrt()
    hidden = (0.2 * centres[labels] + torch.randn(count, directions, generator=generator)) * shares
    shift = hidden.std() * torch.randn(width, generator=generator) if redundant else 0
    features = (hidden @ mixed + shift).relu()
    return features / features.std(), labels


def take_turns(tasks: dict[str, Callable[[], object]], turns: int) -> dict[str, Any]:
    """Every task once a turn; the seconds of all turns, by task."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    for _ in range(turns):
        for name, task in tasks.items():
            processor, clock = time.process_time(), time.perf_counter()
            task()
            taken = (time.process_time() - processor, time.perf_counter() - clock)
            seconds[name].append(taken)
    return {
        name: {"processor_s": spread([p for p, _ in both]), "clock_s": spread([c for _, c in both])}
        for name, both in seconds.items()
    }


def spread(values: list[float]) -> dict[str, float]:
    """Their median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


if __name__ == "__main__":
    main()
