"""A loaded bundle, and what it says about itself. Knows no HTTP."""

from dataclasses import dataclass
from typing import Any

from serving import bundle
from serving.bundle import Bundle
from serving.engine import Engine, Processors
from serving.errors import RequestError
from serving.manifest import AUTO, Manifest
from serving.predictor import ModeError, Predictor, mode_name
from serving.settings import Settings

ADDRESSES = {"classify": "/predict", "embed": "/embed"}  # where a bundle of each task answers


@dataclass(frozen=True)
class Model:
    """A bundle, ready to answer.

    name: what it is asked for by; the manifest's name, or its folder's where that lies among others.
    version: the folder's, "1" where it has none. digest: the manifest's.
    """

    predictor: Predictor
    processors: Processors
    engine: Engine
    default_mode: str
    name: str
    version: str = "1"
    digest: str = ""


def load(settings: Settings, processors: Processors) -> Model:
    """The bundle that the settings name, checked, loaded and warmed up.

    Raises:
        BundleError: the folder is not a bundle, or an altered, incomplete or newer one.
        ModeError: the bundle lacks a mode that was asked for, or its default mode is not to be loaded.
        DeviceError: the device that was asked for is not there.
    """
    found = bundle.read(settings.bundle)
    return make(found, settings, processors, name=found.manifest.name)


def make(
    found: Bundle,
    settings: Settings,
    processors: Processors,
    *,
    name: str,
    version: str = "1",
    digest: str = "",
) -> Model:
    """A checked bundle, loaded and warmed up.

    Raises:
        BundleError, ModeError, DeviceError: as load.
    """
    default = default_mode(found.manifest, settings)
    predictor = Predictor(
        found,
        device=settings.device,
        modes=settings.modes,
        threads=settings.threads,
        concurrent=True,
    )
    predictor.warm_up()
    engine = Engine(predictor, processors.batcher)
    return Model(predictor, processors, engine, default, name, version, digest)


def default_mode(manifest: Manifest, settings: Settings) -> str:
    """The mode that answers requests that name none.

    Raises:
        ModeError: the manifest lacks a mode that the settings name, or the default mode is not to be loaded.
    """
    default = mode_name(manifest, settings.mode)
    modes = None if settings.modes is None else [mode_name(manifest, m) for m in settings.modes]
    if modes is not None and default not in modes:
        raise ModeError(
            f"the default mode {default!r} is not among the modes to load, {modes}; "
            "name one of them with --mode"
        )
    return default


def describe(model: Model) -> dict[str, Any]:
    """What is loaded, in the fields of schemas.ModelInfo."""
    manifest, runs_on = model.predictor.manifest, model.predictor.provider
    return {
        "name": model.name,
        "version": model.version,
        "task": manifest.task,
        "classes": list(manifest.classes),
        "dimensions": manifest.dimensions,
        "image": manifest.image,
        "transformations": list(manifest.transformations),
        "modes": {name: _about(manifest, name) for name in model.predictor.modes},
        "default_mode": model.default_mode,
        "device": runs_on.removesuffix("ExecutionProvider").lower(),
        "provider": runs_on,
        "parity": manifest.parity,
    }


def _about(manifest: Manifest, name: str) -> dict[str, Any]:
    """A mode, in the fields of schemas.ModeInfo."""
    found = {"forward_passes": passes_of(manifest, name)}
    if name == AUTO and manifest.auto is not None:
        first = manifest.modes[manifest.auto.first]
        about = {"precision": first.precision, "metrics": manifest.auto.metrics}
        return found | about | {"temperature": None, "threshold": manifest.auto.threshold}
    mode = manifest.modes[name]
    about = {"precision": mode.precision, "metrics": mode.metrics}
    return found | about | {"temperature": mode.temperature, "threshold": None}


def passes_of(manifest: Manifest, mode: str) -> float:
    """How many images go through a network for one answer; of `auto` the mean that was found at export."""
    if mode == AUTO and manifest.auto is not None:
        return manifest.auto.forward_passes
    return manifest.modes[mode].forward_passes


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
    raise RequestError(404, "wrong_task", f"{model.name} {what}; ask POST {address}")


def mode_of(model: Model, mode: str | None) -> str:
    """The mode to answer in: the server's default where none is asked for.

    Raises:
        RequestError: there is no such mode, or it is not loaded.
    """
    name, loaded = mode or model.default_mode, model.predictor.modes
    if name not in loaded:
        message = f"unknown mode {name[:50]!r}; {model.name} has {sorted(loaded)}"
        raise RequestError(422, "unknown_mode", message)
    return name
