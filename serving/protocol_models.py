"""What the Open Inference Protocol calls a model: each mode of a loaded one has a name, NAME-MODE; NAME is its default.

A loaded model's own name goes before one that is made so.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.errors import RequestError
from serving.manifest import ANSWERS, COPIES, VOTES, Tensor
from serving.model import Model, mode_of
from serving.models import Models
from serving.protocol_inputs import DATATYPES, shapes
from serving.protocol_response import DATATYPES as OUTPUT_DATATYPES

PLATFORM = "onnxruntime_onnx"  # Triton's name for such graphs


@dataclass(frozen=True)
class Named:
    """A model under one of its names. mode: the one in the name, if there is one."""

    name: str
    model: Model
    mode: str | None


def find(models: Models, name: str, version: str | None) -> Named:
    """The model, and the mode, that a name means. version: None for the one that there is.

    Raises:
        RequestError: there is none of that name, or not in that version.
    """
    found = next((named for named in _readings(models, name) if _answers(named)), None)
    if found is None:
        found = Named(name, models.get(name), None)  # raises, and says which there are
    known = found.model.version
    if version not in (None, known):
        message = f"{name!r} has no version {version!r}; it has {known!r}"
        raise RequestError(404, "unknown_version", message)
    return found


def mode_for(named: Named, asked: str | None) -> str:
    """The mode to answer in. asked: by a parameter of the request.

    Raises:
        RequestError: no such mode, or another one in the name.
    """
    if asked is not None and named.mode not in (None, asked):
        message = f"the parameter mode is {asked[:50]!r}, and {named.name!r} is {named.mode!r}; leave one out"
        raise RequestError(400, "contradictory_fields", message)
    return mode_of(named.model, asked or named.mode)


def outputs(model: Model) -> dict[str, Tensor]:
    """What may be asked of a model, in any of its modes, the answer itself first."""
    manifest = model.predictor.manifest
    known = {tensor.name: tensor for mode in manifest.modes.values() for tensor in mode.outputs}
    answer = ANSWERS[manifest.task]
    names = (answer, VOTES, COPIES) if model.engine.explains else (answer,)
    return {name: known[name] for name in names}


def metadata(named: Named) -> dict[str, Any]:
    """What GET /v2/models/NAME answers."""
    inputs = shapes(named.model.predictor.spec)
    return {
        "name": named.name,
        "versions": [named.model.version],
        "platform": PLATFORM,
        "inputs": [
            {"name": name, "datatype": DATATYPES[name], "shape": [*shape]}
            for name, shape in inputs.items()
        ],
        "outputs": [
            {
                "name": tensor.name,
                "datatype": OUTPUT_DATATYPES[np.dtype(tensor.dtype)],
                "shape": [-1 if size is None else size for size in tensor.shape],
            }
            for tensor in outputs(named.model).values()
        ],
    }


def _readings(models: Models, name: str) -> Iterator[Named]:
    """What a name may mean: a model's own, then a model's and a mode's, the longest model's name first."""
    loaded = models.all
    if name in loaded:
        yield Named(name, loaded[name], None)
    end = name.rfind("-")
    while end > 0:
        own, mode = name[:end], name[end + 1 :]
        if mode and own in loaded:
            yield Named(name, loaded[own], mode)
        end = name.rfind("-", 0, end)


def _answers(named: Named) -> bool:
    try:
        mode_of(named.model, named.mode)
    except RequestError:
        return False
    return True
