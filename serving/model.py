"""A loaded bundle and what it says: about itself, and about a picture. Knows no HTTP."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving import bundle, images
from serving.errors import RequestError, from_image_error
from serving.predictor import ModeError, Predictor, mode_name, provider
from serving.settings import Settings

DEFAULT_TOP_K = 5
ADDRESSES = {"classify": "/predict", "embed": "/embed"}  # where a bundle of each task answers


@dataclass(frozen=True)
class Model:
    """A bundle, ready to answer."""

    predictor: Predictor
    default_mode: str


def load(settings: Settings) -> Model:
    """The bundle that the settings name, checked, loaded and warmed up.

    Raises:
        BundleError: the folder is not a bundle, or an altered, incomplete or newer one.
        ModeError: the bundle lacks the default mode that was asked for.
        DeviceError: the device that was asked for is not there.
    """
    predictor = Predictor(
        bundle.read(settings.bundle), device=settings.device, threads=settings.threads
    )
    predictor.warm_up()
    return Model(predictor, predictor.mode_name(settings.mode))


def check(settings: Settings) -> None:
    """Raise what `load` would, as far as that shows without loading a graph: cheap, and done before workers start.

    Raises:
        BundleError, ModeError, DeviceError: as load.
    """
    manifest = bundle.read(settings.bundle).manifest
    mode_name(manifest, settings.mode)
    provider(settings.device)


def classify(model: Model, image: bytes, mode: str | None, top_k: int | None) -> dict[str, Any]:
    """What an encoded image shows, in the fields of schemas.Prediction.

    Raises:
        RequestError: the bundle does not classify, unusable image, unknown mode, or top_k out of range.
    """
    require(model, "classify")
    manifest = model.predictor.manifest
    name = mode_of(model, mode)
    count = _count(top_k, len(manifest.classes))
    start = time.perf_counter()
    try:
        pixels = images.decode(image, model.predictor.spec)
    except images.ImageError as error:
        raise from_image_error(error) from error
    answered = model.predictor.answer(pixels[None], name)
    probabilities = answered.answers[0]
    milliseconds = (time.perf_counter() - start) * 1000
    order = np.argsort(-probabilities, kind="stable")[:count].tolist()
    top = [{"label": manifest.classes[i], "probability": float(probabilities[i])} for i in order]
    return {
        "model": manifest.name,
        "mode": name,
        "label": top[0]["label"],
        "index": order[0],
        "confidence": top[0]["probability"],
        "top": top,
        "forward_passes": int(answered.passes[0]),
        "milliseconds": round(milliseconds, 3),
    }


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


def require(model: Model, task: str) -> None:
    """Refuse what a bundle of that task would answer and this one does not.

    Raises:
        RequestError: the bundle is of another task.
    """
    manifest = model.predictor.manifest
    if manifest.task == task:
        return
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


def _count(top_k: int | None, classes: int) -> int:
    if top_k is None:
        return min(DEFAULT_TOP_K, classes)
    if not 1 <= top_k <= classes:
        raise RequestError(422, "invalid_top_k", f"top_k is {top_k}; it may be 1 to {classes}")
    return top_k
