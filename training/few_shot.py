"""`viewfold fewshot`: how well a frozen encoder's features tell classes apart from a few images of each."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from training import data
from training.checks import check_common, check_file, refuse_outside
from training.config import OptimConfig
from training.device import describe, pick_device
from training.episodes import FewShot, episodes
from training.errors import ConfigError
from training.evaluate import images_at_once
from training.features import features_of
from training.frozen import open_frozen
from training.json_files import write_json
from training.probe_config import FewShotConfig
from training.progress import Progress, Stopwatch
from training.provenance import versions
from training.setup import read_splits
from training.unseen import holds, learnt_labels, same_place


def fewshot(config: FewShotConfig) -> dict[str, Any]:
    """Print, and return, the mean accuracy over many episodes, for each number of shots.

    The episodes are drawn from all images of the data; an encoder that has learnt their labels is refused.

    Raises:
        TrainingError: the encoder, the settings or the data will not do.
    """
    progress, watch = Progress(), Stopwatch()
    _check(config)
    features, labels, hardware = _features(config, progress)
    found = {
        shots: episodes(
            features,
            labels,
            ways=config.ways,
            shots=shots,
            queries=config.queries,
            count=config.episodes,
            seed=config.seed,
        )
        for shots in config.shots
    }
    for shots, result in found.items():
        progress.say(_line(config, shots, result))
    progress.say(f"{len(labels):,} images, in {watch.seconds:.0f} s")
    values = {
        "encoder": str(config.encoder),
        "data": config.data.data,
        "seed": config.seed,
        "ways": config.ways,
        "queries": config.queries,
        "shots": {shots: dataclasses.asdict(result) for shots, result in found.items()},
        "hardware": hardware,
        "versions": versions(),
    }
    if config.json is not None:
        write_json(config.json, values)
    return values


def _check(config: FewShotConfig) -> None:
    refuse_outside(
        {
            "--ways": (config.ways, 2, float("inf")),
            "--queries": (config.queries, 1, float("inf")),
            "--episodes": (config.episodes, 2, float("inf")),
            "--shots": (min(config.shots, default=0), 1, float("inf")),
            "--seed": (config.seed, 0, 2**63 - 1),
        }
    )
    check_common(config.data, OptimConfig())
    check_file("--json", config.json)


def _features(config: FewShotConfig, progress: Progress) -> tuple[Tensor, Tensor, str]:
    """Features and labels of all images of the data, and the hardware that they were computed on."""
    device = pick_device(config.device)
    encoder, run = open_frozen(config.encoder.expanduser(), config.data)
    image = run.problem.image
    refused = ConfigError(
        f"{config.encoder} has learnt the labels of {config.data.data}: its classes are not new to it; "
        "give other --data"
    )
    if learnt_labels(run) and same_place(run, config.data):
        raise refused
    dataset = data.load(config.data)
    splits = read_splits(dataset, image, config.data, device, progress)
    if learnt_labels(run) and holds(run, dataset.classes, splits.held_out_first):
        raise refused
    encoder, size = encoder.to(device), images_at_once(image, 1)
    parts = [
        features_of(encoder, batches, batch_size=size)
        for batches in (splits.train, splits.val, splits.test)
    ]
    features, labels = (torch.cat(list(both)) for both in zip(*parts, strict=True))
    return features, labels, describe(device)


def _line(config: FewShotConfig, shots: int, result: FewShot) -> str:
    line = (
        f"  {config.ways}-way {shots}-shot  {100 * result.mean:.2f} ± {100 * result.interval95:.2f} % "
        f"({result.n:,} episodes, 95 % interval)"
    )
    if result.left_out:
        line += f"; {len(result.left_out)} classes have too few images and are left out"
    return line if result.converged else f"{line}; some fits did not converge"
