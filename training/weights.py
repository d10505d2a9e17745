"""Weights in files, fitted to a backbone by name and shape.

A file is read as safetensors or by torch.load(weights_only=True): nothing in it is ever executed.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.backbones import TIMM, build_backbone, create_timm
from training.errors import WeightsError

WRAPPERS = ("state_dict", "model", "model_state_dict")  # under which checkpoints keep their weights
HEADS = ("fc", "head", "heads", "classifier")  # what classifiers are called; a backbone has none
COUNTERS = ".num_batches_tracked"  # of BatchNorm, missing from old files; no weight
NAMED = 4  # how many names a message lists


def read_file(path: Path) -> dict[str, Any]:
    """What a .safetensors or a torch file holds, taken out of the usual wrappers.

    Raises:
        WeightsError: it is neither, or holds more than tensors and plain values.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of whatever bytes fails in whatever way
        said = first_line(error)
        # torch's words of code in a file advise to execute it
        why = "" if "weights_only" in said else f" ({said})"
        raise WeightsError(
            f"{path} cannot be read as weights{why}; give .safetensors, or what torch.save made of a state dict: "
            "a file with code in it is not executed"
        ) from None
    while isinstance(content, Mapping):
        inner = next((content[k] for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not any(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path} holds no weights by name, but {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def fit(
    backbone: str, given: Mapping[str, Any], image_size: tuple[int, int], source: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """(the whole state of that backbone out of the given tensors, the names that were left out).

    Positions that were learnt at another image size are resampled by timm's own means.

    Raises:
        WeightsError: a weight is missing, has another shape, or there are more layers than the backbone has.
    """
    expected = build_backbone(backbone, image_size).state_dict()
    names = _names(given, expected)
    named = {name: given[key] for name, key in names.items()}
    missing = [name for name in expected if name not in named and not name.endswith(COUNTERS)]
    outside = {name.split(".")[0] for name in expected}
    extra = [
        name
        for name in named
        if name not in expected
        and name.split(".")[0] in outside
        and not set(name.split(".")) & set(HEADS)
    ]
    if missing or extra:
        what = f"{len(missing)} missing ({some(missing)})" if missing else f"more ({some(extra)})"
        raise WeightsError(f"{source} holds no weights of {backbone}: {what}")
    taken = {name: named[name] for name in expected if name in named}
    wrong = [name for name, value in taken.items() if value.shape != expected[name].shape]
    if wrong:
        taken = _resampled(backbone, named, expected, wrong, image_size, source)
    tensors = {
        name: taken.get(name, fresh).to(fresh.dtype).clone() for name, fresh in expected.items()
    }
    used = {names[name] for name in taken}
    return tensors, tuple(key for key in given if key not in used)


def _resampled(
    backbone: str,
    named: dict[str, Tensor],
    expected: Mapping[str, Tensor],
    wrong: list[str],
    image_size: tuple[int, int],
    source: str,
) -> dict[str, Tensor]:
    """The weights as timm brings them to another image size, if all but those of another shape come out unchanged."""
    same = [name for name in expected if name in named and name not in wrong]
    found: Mapping[str, Tensor] = {}
    if backbone.startswith(TIMM):  # others have no positions
        # every family of networks has its own way of refusing
        with contextlib.suppress(Exception):
            overlay = {"state_dict": named}
            found = create_timm(backbone, image_size, pretrained=True, overlay=overlay).state_dict()
    if not found or any(not torch.equal(found[n], named[n].to(found[n].dtype)) for n in same):
        shapes = [
            f"{n} {tuple(named[n].shape)}, not {tuple(expected[n].shape)}" for n in wrong[:NAMED]
        ]
        raise WeightsError(
            f"{source} holds no weights of {backbone} at {image_size[0]} x {image_size[1]} pixels: "
            f"{len(wrong)} of another shape ({'; '.join(shapes)})"
        )
    return {name: found[name] for name in expected if name in named}


def _names(given: Mapping[str, Any], expected: Mapping[str, Tensor]) -> dict[str, str]:
    """{the backbone's name: the given one}, of what lies under module. or backbone. if something does, else of all."""
    names = {key: key for key, value in given.items() if isinstance(value, Tensor)}
    for prefix in ("module.", "backbone."):
        under = {n.removeprefix(prefix): key for n, key in names.items() if n.startswith(prefix)}
        if under and not expected.keys() <= names.keys():
            names = under
    return names


def some(names: Sequence[str]) -> str:
    """The first of the names, for a message."""
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")


def first_line(error: Exception) -> str:
    """What an exception of somebody else's says, without its details."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
