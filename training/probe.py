"""`viewfold probe`: linear evaluation of a frozen encoder, which leaves a classifier's run.

The fit is logistic.py's; here are the images, their features and the run folder: the encoder with the fitted layer as
its class head, which `viewfold evaluate`, `report` and `export` take like any other run.
"""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training import checkpoint, data, logistic
from training.checkpoint import Problem, Run
from training.checks import check_common
from training.config import OptimConfig, TrainConfig, absolute_paths, stem
from training.device import describe, pick_device
from training.encoder import Encoder
from training.evaluate import images_at_once, metrics
from training.features import features_of
from training.frozen import as_the_encoder, open_frozen
from training.json_files import write_json
from training.knn import TEMPERATURE, VOTES, knn_accuracy
from training.logistic import Choice
from training.objectives import PROBE
from training.pretrained import provenance_of
from training.probe_config import ProbeConfig
from training.progress import Progress, Stopwatch
from training.provenance import versions
from training.setup import Prepared, kept_images, read_splits
from training.splits import Dataset
from training.subsets import class_counts
from training.unseen import check_pictures


@dataclass(frozen=True)
class Features:
    """Features (n, D) float32 and labels (n,) int64 of every split."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def probe(config: ProbeConfig) -> Run:
    """Fit, choose, test, and leave a run.

    Raises:
        TrainingError: the encoder, the settings or the data will not do.
    """
    progress, watch = Progress(), Stopwatch()
    measure = logistic.metric(config.metric)
    check_common(config.data, OptimConfig())
    out = (config.out or default_folder(config)).expanduser()
    checkpoint.check_new(out)
    encoder, source = open_frozen(config.encoder.expanduser(), config.data)
    device = pick_device(config.device)
    encoder = encoder.to(device)
    dataset, prepared = _read(config, source, device, progress)
    features = _features(encoder, prepared, source)
    progress.say(
        f"features of {sum(prepared.counts):,} images, {encoder.num_features} each, in {watch.seconds:.1f} s"
    )
    lap = Stopwatch()
    choice = logistic.choose(
        features.train, features.val, num_classes=len(dataset.classes), metric=measure
    )
    _tell(choice, config, lap.seconds, progress)
    run = _create(out, config, source, dataset, prepared)
    _write(run, encoder, choice, features, watch.seconds, progress)
    named = shlex.quote(str(out))
    progress.say(
        f"in {watch.seconds:,.0f} s; the classifier is in {out}; `viewfold export {named} BUNDLE` makes a bundle of it"
    )
    return run


def _read(
    config: ProbeConfig, source: Run[Any], device: torch.device, progress: Progress
) -> tuple[Dataset, Prepared]:
    """The data, at the size and by the resize rule that the encoder was trained with.

    Raises:
        ConfigError: the encoder has learnt labels of what is held out of it.
    """
    dataset = data.load(config.data)
    prepared = read_splits(dataset, source.problem.image, config.data, device, progress)
    named, splits = str(config.encoder), prepared.held_out_first
    check_pictures(source, config.data, dataset.classes, splits, named)
    return dataset, prepared


def _features(encoder: Encoder, prepared: Prepared, source: Run[Any]) -> Features:
    size = images_at_once(source.problem.image, 1)
    return Features(
        *(
            features_of(encoder, batches, batch_size=size)
            for batches in (prepared.train, prepared.val, prepared.test)
        )
    )


def _tell(choice: Choice, config: ProbeConfig, seconds: float, progress: Progress) -> None:
    best = max(trial.score for trial in choice.trials)
    progress.say(
        f"{len(choice.trials)} fits in {seconds:.1f} s; validation chose w = {choice.weight:.2e} "
        f"({config.metric} {100 * best:.2f} %)"
    )
    weights = [trial.weight for trial in choice.trials]
    if choice.weight in (weights[0], weights[-1]):
        progress.say("that is at the end of the grid: a better one may lie outside it")
    if choice.unconverged or not choice.fit.converged:
        named = ", ".join(f"{weight:.1e}" for weight in choice.unconverged) or "the last fit"
        progress.say(f"did not converge to a gap of {logistic.TOLERANCE:.0e}: {named}")


def _create(
    out: Path, config: ProbeConfig, source: Run[Any], dataset: Dataset, prepared: Prepared
) -> Run:
    """The run folder: settings that say where everything is from."""
    settings = TrainConfig(
        data=as_the_encoder(source, absolute_paths(config.data)),
        objective=PROBE,
        backbone=source.config.backbone,
        weights=config.encoder.expanduser().resolve(),
        batch_size=len(prepared.train),
        epochs=1,
        precision="fp32",
        compile="off",
        device=config.device,
    )
    problem = Problem(
        classes=dataset.classes,
        image=source.problem.image,
        mean=source.problem.mean,
        std=source.problem.std,
        crop_padding_px=0,
        flip=False,
        counts=prepared.counts,
        versions=versions(),
        pretrained_weights=provenance_of(source, "best"),
        class_counts=tuple(class_counts(prepared.train.labels.tolist(), len(dataset.classes))),
    )
    images, labels = kept_images(prepared.val)
    return checkpoint.create_run(out, settings, problem, images, labels, resumable=False)


def _write(
    run: Run,
    encoder: Encoder,
    choice: Choice,
    features: Features,
    seconds: float,
    progress: Progress,
) -> None:
    """The checkpoint, and what the test split says of it."""
    head = {
        "class_head.weight": choice.fit.weights.float(),
        "class_head.bias": choice.fit.bias.float(),
    }
    given, labels = features.test
    answers = choice.fit.scores(given).softmax(1).float()
    test = dataclasses.asdict(metrics(answers, labels)) | {
        "mean_per_class": logistic.mean_per_class(answers, labels),
        "forward_passes": 1,
    }
    fitted = {
        "weight": choice.weight,
        "converged": choice.fit.converged,
        "gap": choice.fit.gap,
        "validation": [trial._asdict() for trial in choice.trials],
    }
    nearest = _nearest(features, len(run.problem.classes))
    weights = encoder.state_dict() | head
    checkpoint.write(run.folder / "best", {"epoch": None}, weights=weights)
    result = {
        "test": {"plain": test},
        "probe": fitted,
        "knn": nearest,
        "best_epoch": None,
        "seconds": round(seconds, 1),
        "hardware": describe(encoder.mean.device),
        "precision": "32-true",
        "versions": run.problem.versions,
        "pretrained_weights": run.problem.pretrained_weights,
    }
    write_json(run.folder / "result.json", result)
    progress.say(
        f"test: top-1 {100 * test['top1']:.2f} %, mean per class {100 * test['mean_per_class']:.2f} % "
        f"({test['n']:,} images); of {VOTES} nearest neighbours top-1 {100 * nearest['top1']:.2f} %"
    )


def _nearest(features: Features, num_classes: int) -> dict[str, Any]:
    """What the test images' neighbours say among those that the classifier is fitted to."""
    known, labels = (torch.cat(both) for both in zip(features.train, features.val, strict=True))
    top1 = knn_accuracy(known, labels, *features.test, num_classes=num_classes, k=VOTES)
    return {"top1": top1, "k": VOTES, "temperature": TEMPERATURE}


def default_folder(config: ProbeConfig) -> Path:
    """runs/DATA-probe-ENCODER."""
    return Path("runs") / f"{stem(config.data)}-probe-{config.encoder.expanduser().resolve().name}"
