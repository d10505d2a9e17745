"""`viewfold evaluate`: the metrics of every mode, of a run by torch, or of a bundle by onnxruntime as it is served."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from export.bundle import serve
from export.config import EvaluateConfig
from export.errors import ExportError
from serving import bundle as contract
from serving.images import ImageSpec
from serving.predictor import Predictor
from training import checkpoint, data
from training.batches import Batches, prepare
from training.config import DataConfig, from_dict
from training.device import describe, pick_device
from training.evaluate import MODES, Metrics, evaluate, images_at_once, metrics
from training.objectives import objective
from training.progress import Progress, Stopwatch
from training.splits import Split

SPLITS = ("train", "val", "test")


def run(settings: EvaluateConfig) -> dict[str, Any]:
    """Print, and return, what a run or a bundle is worth on a split.

    Raises:
        ExportError: an unknown split, data of other classes, or no folder for --json.
        TrainingError, BundleError: the run, the bundle or the data cannot be read.
    """
    if settings.split not in SPLITS:
        raise ExportError(f"unknown split {settings.split!r}; choose from {list(SPLITS)}")
    if settings.json is not None and not settings.json.absolute().parent.is_dir():
        raise ExportError(f"--json {settings.json}: there is no folder {settings.json.parent}")
    progress, watch = Progress(), Stopwatch()
    is_bundle = (settings.path / contract.MANIFEST).is_file()
    result = (_of_bundle if is_bundle else _of_run)(settings, progress)
    progress.say(
        f"{settings.path}, {settings.split} split, {result['engine']} on {result['hardware']}:"
    )
    for mode, values in result["modes"].items():
        passes = f"{values['forward_passes']} pass{'es' if values['forward_passes'] > 1 else ''}"
        progress.say(
            f"  {mode:<11} top-1 {100 * values['top1']:6.2f} %  NLL {values['nll']:.4f}  "
            f"ECE {values['ece']:.4f}  {passes}  n = {values['n']}"
        )
    progress.say(f"in {watch.seconds:.1f} s")
    if settings.json is not None:
        checkpoint.write_json(settings.json, result)
    return result


def _of_run(settings: EvaluateConfig, progress: Progress) -> dict[str, Any]:
    found = checkpoint.open_run(settings.path)
    device = pick_device(settings.device)
    network = checkpoint.load_network(found).to(device)
    image, classes = found.problem.image, found.problem.classes
    _, batches = _split(settings, found.config.data, image, classes, device, progress)
    passes = len(network.transformations)
    at_once = images_at_once(image, len(network.transformations))
    modes = objective(found.config.objective).modes
    measured = evaluate(network, batches, modes, batch_size=at_once)
    return _result(
        settings,
        "torch",
        describe(device),
        {m: (v, MODES[m].forward_passes(passes)) for m, v in measured.items()},
    )


def _of_bundle(settings: EvaluateConfig, progress: Progress) -> dict[str, Any]:
    found = contract.read(settings.path)
    predictor = Predictor(found, device=settings.device)
    trained_on = from_dict(found.manifest.provenance["config"]).data
    if settings.data is None and ":" in trained_on.data:
        raise ExportError(
            f"a bundle does not say where its data lies ({trained_on.data}); give --data"
        )
    device = torch.device("cpu")
    split, batches = _split(
        settings, trained_on, predictor.spec, found.manifest.classes, device, progress
    )
    answers = serve(predictor, split, tuple(found.manifest.modes), progress)
    measured = {mode: metrics(answer, batches.labels.cpu()) for mode, answer in answers.items()}
    modes = {
        mode: (value, found.manifest.modes[mode].forward_passes) for mode, value in measured.items()
    }
    return _result(settings, "onnxruntime", predictor.provider, modes)


def _split(
    settings: EvaluateConfig,
    trained_on: DataConfig,
    image: ImageSpec,
    classes: tuple[str, ...],
    device: torch.device,
    progress: Progress,
) -> tuple[Split, Batches]:
    """The split that was asked for.

    Raises:
        ExportError: the data has other classes than the model.
    """
    chosen: dict[str, Any] = {}
    if settings.data is not None:
        # other data: what the run trained on was thinned out, this is not
        chosen |= {"data": settings.data, "train_images": None, "imbalance": 1.0}
    if settings.data_dir is not None:
        chosen["data_dir"] = settings.data_dir
    config = dataclasses.replace(trained_on, **chosen)
    dataset = data.load(config)
    if dataset.classes != classes:
        raise ExportError(
            f"{config.data} has the classes {list(dataset.classes)}, the model has {list(classes)}"
        )
    split: Split = {"train": dataset.train, "val": dataset.val, "test": dataset.test}[
        settings.split
    ]
    return prepare(split, settings.split, image, config, device, progress)


def _result(
    settings: EvaluateConfig, engine: str, hardware: str, modes: dict[str, tuple[Metrics, int]]
) -> dict[str, Any]:
    return {
        "path": str(Path(settings.path)),
        "split": settings.split,
        "engine": engine,
        "hardware": hardware,
        "modes": {
            mode: dataclasses.asdict(m) | {"forward_passes": passes}
            for mode, (m, passes) in modes.items()
        },
    }
