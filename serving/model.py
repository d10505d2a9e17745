"""A loaded bundle, and what it says about itself. Knows no HTTP."""

from dataclasses import dataclass
from typing import Any

from serving import bundle
from serving.engine import Engine, Processors
from serving.errors import RequestError
from serving.predictor import ModeError, Predictor, mode_name, provider
from serving.settings import Settings

ADDRESSES = {"classify": "/predict", "embed": "/embed"}  # where a bundle of each task answers


@dataclass(frozen=True)
class Model:
    """A bundle, ready to answer."""

    predictor: Predictor
    processors: Processors
    engine: Engine
    default_mode: str


def load(settings: Settings, processors: Processors) -> Model:
    """The bundle that the settings name, checked, loaded and warmed up.

    Raises:
        BundleError: the folder is not a bundle, or an altered, incomplete or newer one.
        ModeError: the bundle lacks the default mode that was asked for.
        DeviceError: the device that was asked for is not there.
    """
    found = bundle.read(settings.bundle)
    predictor = Predictor(found, device=settings.device, threads=settings.threads, concurrent=True)
    predictor.warm_up()
    engine = Engine(predictor, processors.batcher)
    return Model(predictor, processors, engine, predictor.mode_name(settings.mode))


def check(settings: Settings) -> None:
    """Raise what `load` would, as far as that shows without loading a graph: cheap, and done before workers start.

    Raises:
        BundleError, ModeError, DeviceError: as load.
    """
    manifest = bundle.read(settings.bundle).manifest
    mode_name(manifest, settings.mode)
    provider(settings.device)


def describe(model: Model) -> dict[str, Any]:
    """What is loaded, in the fields of schemas.ModelInfo."""
    manifest, runs_on = model.predictor.manifest, model.predictor.provider
    return {
        "name": manifest.name,
        "task": manifest.task,
        "classes": list(manifest.classes),
        "dimensions": manifest.dimensions,
        "image": manifest.image,
        "transformations": list(manifest.transformations),
        "modes": {
            name: {
                "forward_passes": mode.forward_passes,
                "precision": mode.precision,
                "temperature": mode.temperature,
                "metrics": mode.metrics,
            }
            for name, mode in manifest.modes.items()
        },
        "default_mode": model.default_mode,
        "device": runs_on.removesuffix("ExecutionProvider").lower(),
        "provider": runs_on,
        "parity": manifest.parity,
    }


def require(model: Model, task: str) -> Model:
    """The model, if it is of that task.

    Raises:
        RequestError: the bundle is of another task.
    """
    manifest = model.predictor.manifest
    if manifest.task == task:
        return model
    what = {
        "classify": "is a classifier and gives no embeddings",
        "embed": "is an encoder and knows no classes",
    }[manifest.task]
    address = ADDRESSES[manifest.task]
    raise RequestError(404, "wrong_task", f"{manifest.name} {what}; ask POST {address}")


def mode_of(model: Model, mode: str | None) -> str:
    """The mode to answer in: the server's default where none is asked for.

    Raises:
        RequestError: the bundle has no such mode.
    """
    try:
        return model.predictor.mode_name(mode or model.default_mode)
    except ModeError as error:
        raise RequestError(422, "unknown_mode", str(error)) from None
