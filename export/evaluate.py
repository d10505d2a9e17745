"""`viewfold evaluate`: the metrics of every mode, of runs by torch, and of bundles by onnxruntime as they are served.

One path is measured in detail, which describe.py prints; several are also summarised by compare.py.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export import compare, describe, lineage, threshold, verify
from export.config import EvaluateConfig
from export.errors import ExportError
from serving import bundle as contract
from serving import escalation
from serving.bundle import Bundle
from serving.images import ImageSpec
from serving.manifest import AGGREGATED, AUTO, Manifest
from serving.predictor import Predictor
from training import checkpoint, confusion, data
from training import device as devices
from training.answering import at_once, load_answering, passes
from training.batches import Batches, prepare
from training.checkpoint import Run
from training.checks import check_file
from training.config import DataConfig, TrainConfig
from training.config_json import from_dict
from training.evaluate import Metrics, metrics, probabilities
from training.json_files import write_json
from training.progress import Progress, Stopwatch
from training.splits import Split

SPLITS = ("train", "val", "test")
MOST_NAMED = 5  # classes in a message
CURVE_POINTS = 101  # of auto's curve, in the file

Read = Callable[["Subject", DataConfig, torch.device], tuple[Split, Batches]]


@dataclass(frozen=True)
class Subject:
    """A run or a bundle that is to be measured. config: the settings of its training."""

    path: Path
    found: Run | Bundle
    config: TrainConfig
    classes: tuple[str, ...]
    image: ImageSpec


@dataclass(frozen=True)
class Answers:
    """What a subject says of a split.

    by_mode: (n, N) float32; labels: (n,); passes: forward passes of each mode, of `auto` the mean. curve: what other
    thresholds of `auto` would have given.
    """

    by_mode: dict[str, Tensor]
    labels: Tensor
    passes: Mapping[str, float]
    engine: str
    hardware: str
    curve: threshold.Curve | None = None


def run(settings: EvaluateConfig) -> dict[str, Any]:
    """Print, and return, what a run or a bundle is worth on a split, or what several are.

    Raises:
        ExportError: an unknown split, a path given twice, or other classes.
        TrainingError, BundleError: a run, a bundle or the data cannot be read, or --json not be written.
    """
    _check(settings)
    progress, watch = Progress(), Stopwatch()
    subjects = [_open(path) for path in settings.paths]
    _check_classes(subjects)
    if settings.curve and AUTO not in _modes(subjects[0]):
        raise ExportError(f"--curve is of bundles with the mode auto; {settings.paths[0]} has none")
    read = _reader(settings.split, progress)  # runs that differ in their seed share their data
    measured = [_measure(subject, settings, read, progress) for subject in subjects]
    if len(measured) == 1:
        result = measured[0]
        if settings.curve and "curve" not in result:
            raise ExportError(
                f"--curve is of bundles with the mode auto; {settings.paths[0]} has none"
            )
        config, per_class = subjects[0].config, settings.per_class
        lines = describe.lines(result, config, per_class=per_class, curve=settings.curve)
    else:
        entries = [_entry(s, values) for s, values in zip(subjects, measured, strict=True)]
        result, lines = compare.comparison(entries), compare.lines(entries)
    for line in lines:
        progress.say(line)
    progress.say(f"in {watch.seconds:.1f} s")
    if settings.json is not None:
        write_json(settings.json, result)
    return result


def _check(settings: EvaluateConfig) -> None:
    if not settings.paths:
        raise ExportError("viewfold evaluate takes a run folder or a bundle, or several of them")
    if settings.split not in SPLITS:
        raise ExportError(f"unknown split {settings.split!r}; choose from {list(SPLITS)}")
    check_file("--json", settings.json)
    asked = {"--per-class": settings.per_class, "--curve": settings.curve}
    for flag in (flag for flag, value in asked.items() if value and len(settings.paths) > 1):
        raise ExportError(f"{flag} prints one run or bundle; for several, read --json FILE")
    seen = set()
    for path in settings.paths:
        if path.resolve() in seen:
            raise ExportError(f"{path} is given twice; every run counts once")
        seen.add(path.resolve())


def _open(path: Path) -> Subject:
    if not path.exists():
        raise ExportError(f"{path} does not exist; give a run folder or a bundle")
    if (path / contract.MANIFEST).is_file():
        bundle = contract.read(path)
        if bundle.manifest.task == "embed":
            raise ExportError(
                f"{path} answers with embeddings, which are neither right nor wrong; `viewfold probe` says what "
                "the encoder is worth for classes"
            )
        if "config" not in bundle.manifest.provenance:
            raise ExportError(f"{path} does not say how it was trained; export the bundle again")
        config = from_dict(TrainConfig, bundle.manifest.provenance["config"])
        image = ImageSpec(**bundle.manifest.image)
        return Subject(path, bundle, config, bundle.manifest.classes, image)
    found = checkpoint.open_run(path)
    return Subject(path, found, found.config, found.problem.classes, found.problem.image)


def _modes(subject: Subject) -> tuple[str, ...]:
    """The modes of a bundle; none of a run, which has no threshold."""
    return subject.found.manifest.mode_names if isinstance(subject.found, Bundle) else ()


def _check_classes(subjects: Sequence[Subject]) -> None:
    first = subjects[0]
    for other in subjects[1:]:
        if other.classes != first.classes:
            raise ExportError(
                f"{other.path} has the classes {_some(other.classes)}, {first.path} has {_some(first.classes)}; "
                "only runs of the same classes can be compared"
            )


def _measure(
    subject: Subject, settings: EvaluateConfig, read: Read, progress: Progress
) -> dict[str, Any]:
    """The numbers of one run or bundle, as they go into a file."""
    answer = _of_run if isinstance(subject.found, Run) else _of_bundle
    given = answer(subject, settings, read, progress)
    result: dict[str, Any] = {
        "path": str(subject.path),
        "split": settings.split,
        "engine": given.engine,
        "hardware": given.hardware,
        "classes": list(subject.classes),
        "modes": {
            mode: _mode(probabilities, given.labels, given.passes[mode], subject.classes)
            for mode, probabilities in given.by_mode.items()
        },
    }
    if given.curve is not None:
        result["curve"] = [dataclasses.asdict(point) for point in given.curve.shown(CURVE_POINTS)]
    return result


def _entry(subject: Subject, measured: dict[str, Any]) -> compare.Entry:
    """What was measured of one, as it goes into the table of several."""
    config, found = subject.config, subject.found
    if isinstance(found, Run):
        return compare.Entry(config, lineage.of_run(found), measured)
    told = found.manifest.provenance
    own = lineage.of_config(config, told.get("pretrained_weights"))
    # a bundle from before they were told has their names alone, which `own` has
    return compare.Entry(config, own | told.get("learnt_from", {}), measured)


def _mode(answer: Tensor, labels: Tensor, passes: float, classes: Sequence[str]) -> dict[str, Any]:
    found: Metrics = metrics(answer, labels)
    details = confusion.as_json(confusion.confusion_matrix(answer, labels), classes)
    interval = list(found.top1_interval)
    return (
        dataclasses.asdict(found) | {"top1_interval": interval, "forward_passes": passes} | details
    )


def _of_run(subject: Subject, settings: EvaluateConfig, read: Read, progress: Progress) -> Answers:
    assert isinstance(subject.found, Run)
    device = devices.pick_device(settings.device)
    networks = load_answering(subject.found, device)
    _, batches = read(
        subject, data.instead_of(subject.config.data, settings.data, settings.data_dir), device
    )
    answers, labels = probabilities(networks, batches, batch_size=at_once(networks, subject.image))
    return Answers(answers, labels, passes(networks), "torch", devices.describe(device))


def _of_bundle(
    subject: Subject, settings: EvaluateConfig, read: Read, progress: Progress
) -> Answers:
    assert isinstance(subject.found, Bundle)
    predictor = Predictor(subject.found, device=settings.device)
    manifest, trained_on = subject.found.manifest, subject.config.data.data
    if settings.data is None and ":" in trained_on:
        raise ExportError(f"a bundle does not say where its data lies ({trained_on}); give --data")
    split, batches = read(
        subject,
        data.instead_of(subject.config.data, settings.data, settings.data_dir),
        torch.device("cpu"),
    )
    answers = verify.serve(predictor, split, manifest.mode_names, progress)
    labels, passes = batches.labels.cpu(), _mean_passes(manifest, answers)
    curve = _curve(manifest, answers, labels)
    return Answers(answers, labels, passes, "onnxruntime", predictor.provider, curve)


def _mean_passes(manifest: Manifest, answers: Mapping[str, Tensor]) -> dict[str, float]:
    counts: dict[str, float] = {n: mode.forward_passes for n, mode in manifest.modes.items()}
    if manifest.auto is not None:
        first = answers[manifest.auto.first].numpy()
        doubt = escalation.in_doubt(first, manifest.auto.threshold)
        counts[AUTO] = float(escalation.passes(manifest, doubt).mean())
    return counts


def _curve(
    manifest: Manifest, answers: Mapping[str, Tensor], labels: Tensor
) -> threshold.Curve | None:
    if manifest.auto is None:
        return None
    return threshold.escalation_curve(
        answers[manifest.auto.first],
        answers[AGGREGATED],
        labels,
        rest_passes=escalation.rest_passes(manifest),
    )


def _reader(name: str, progress: Progress) -> Read:
    """A function that reads the split of that name, and keeps the last one that it read."""

    @functools.lru_cache(maxsize=1)
    def read(
        config: DataConfig, image: ImageSpec, classes: tuple[str, ...], device: torch.device
    ) -> tuple[Split, Batches]:
        dataset = data.load(config)
        if dataset.classes != classes:
            raise ExportError(
                f"{config.data} has the classes {_some(dataset.classes)}, the model has {_some(classes)}"
            )
        split = {"train": dataset.train, "val": dataset.val, "test": dataset.test}[name]
        return prepare(split, name, image, config, device, progress)

    return lambda subject, config, device: read(config, subject.image, subject.classes, device)


def _some(classes: Sequence[str]) -> str:
    """The classes, or the first of many, for a message."""
    named = ", ".join(repr(name) for name in classes[:MOST_NAMED])
    return f"[{named}]" if len(classes) <= MOST_NAMED else f"[{named}, …] ({len(classes)})"
